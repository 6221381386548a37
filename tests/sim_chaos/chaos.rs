//! Programs that do anything from any callback, on worlds in which anything fails.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;

use strand_reactor::sim::World;

use crate::actions::act_outside;
use crate::ledger::Life;
use crate::program::{Host, Program};
use crate::random::Random;
use crate::{check, faults, seeds};

/// Seeds that found something: a host that crashed in a callback and was called on (6), a step
/// without end (75, 219), streams that ended in order though not all was sent (369, 1891), a reset
/// told as an end through a layer (376, 854, 3749, 4871).
const FOUND: &[u64] = &[6, 75, 219, 369, 376, 854, 1891, 3749, 4871];

/// What a run was.
pub struct Outcome {
    pub violations: Vec<String>,
    /// All that happened, in order, as one number, and how much it was.
    pub digest: u64,
    pub happened: u64,
    /// The record of packets, if one was asked for.
    pub trace: Vec<u8>,
}

fn hosts(random: &Random, world: &World) -> Vec<Host> {
    let host = |number: usize| {
        let name = format!("h{number}");
        let mut addresses = format!("10.0.0.{}", number + 1);
        if random.flip() {
            addresses += &format!(", fd00::{}", number + 1);
        }
        if random.one_in(3) {
            addresses += &format!(", 10.0.1.{}", number + 1);
        }
        world.host(&name, &addresses).expect("a new host");
        let addresses = addresses.split(", ").map(|text| text.parse::<IpAddr>());
        Host { name, addresses: addresses.collect::<Result<_, _>>().expect("addresses") }
    };
    (0..2 + random.index(3)).map(host).collect()
}

/// Runs a program of so many callbacks that do something.
pub fn run(world: World, budget: u32, record: bool, verbose: bool) -> Outcome {
    let random = Random::new(world.seed());
    let world = Rc::new(world);
    if record {
        world.trace_in_memory();
    }
    let (link, duplicates, corrupts) = faults::link(&random);
    world.default_link(link);
    let hosts = hosts(&random, &world);
    let lives = (0..hosts.len()).map(|host| Rc::new(Life { host, ..Life::default() })).collect();
    let program = Rc::new(Program {
        random,
        world: Rc::downgrade(&world),
        hosts,
        lives: RefCell::new(lives),
        budget: Cell::new(budget),
        kept: Default::default(),
        sent: Default::default(),
        ports: Default::default(),
        streams: Default::default(),
        promises: Default::default(),
        alive: Cell::default(),
        duplicates: Cell::new(duplicates),
        corrupts: Cell::new(corrupts),
        digest: Cell::new(0xCBF2_9CE4_8422_2325),
        happened: Cell::default(),
        violations: Default::default(),
        verbose,
    });
    drive(&program, &world);
    let trace = if record { world.end_trace().expect("in memory") } else { Vec::new() };
    check::end(&program, world);
    Outcome {
        violations: program.violations.take(),
        digest: program.digest.get(),
        happened: program.happened.get(),
        trace,
    }
}

/// Alternates between the program's own doing and the passing of time.
fn drive(program: &Rc<Program>, world: &World) {
    let random = &program.random;
    // Rounds in which nothing is done any more end it, too.
    for _ in 0..program.budget.get() {
        if program.budget.get() == 0 {
            break;
        }
        let host = random.index(program.hosts.len());
        for _ in 0..random.below(6) {
            act_outside(program, host);
        }
        let name = &program.hosts[host].name;
        match random.below(8) {
            0 => world.run_for(random.time()).expect("not from a callback"),
            1 if !world.is_up(name).expect("a host") => faults::restart(program, host),
            2 if world.has_stopped(name).expect("a host") => {
                world.run_again(name).expect("a host");
            }
            _ => {
                for _ in 0..random.below(20) {
                    world.step().expect("not from a callback");
                }
            }
        }
        if random.one_in(4) {
            check::check_now(program);
        }
        if !program.violations.borrow().is_empty() {
            break;
        }
    }
}

/// Callbacks that do something, in each program.
const BUDGET: u32 = 250;

#[test]
fn chaos_breaks_nothing() {
    seeds::as_many_as_fit("chaos", 1_000, |world, alone| {
        run(world, BUDGET, false, alone).violations
    });
}

#[test]
fn chaos_that_found_something_finds_nothing_more() {
    for &seed in FOUND {
        let violations = run(World::new(seed), BUDGET, false, false).violations;
        assert!(violations.is_empty(), "seed {seed}: {}", violations.join("\n"));
    }
}
