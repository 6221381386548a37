//! What goes wrong in a world while a program runs.

use std::rc::Rc;
use std::time::Duration;

use strand_reactor::sim::{Call, Latency, Link, Loss, Rule};

use crate::ledger::Life;
use crate::program::Program;
use crate::random::Random;

const CALLS: [Call; 8] = [
    Call::Open,
    Call::Bind,
    Call::Connect,
    Call::Accept,
    Call::Send,
    Call::Receive,
    Call::Read,
    Call::Write,
];

/// EPERM, EIO, EAGAIN, ENOMEM, EACCES, EINVAL, ENFILE, EMFILE, EPIPE, EMSGSIZE, EADDRINUSE,
/// ENETDOWN, ENETUNREACH, ECONNABORTED, ECONNRESET, ENOBUFS, ETIMEDOUT, ECONNREFUSED,
/// EHOSTUNREACH.
const ERRNOS: [i32; 19] =
    [1, 5, 11, 12, 13, 22, 23, 24, 32, 90, 98, 100, 101, 103, 104, 105, 110, 111, 113];

fn micros(random: &Random, most: u64) -> Duration {
    Duration::from_micros(random.below(most))
}

/// A link of some quality; tells whether it sends twice, and whether it changes what passes.
pub fn link(random: &Random) -> (Link, bool, bool) {
    let latency = match random.below(5) {
        0 => Latency::fixed(Duration::ZERO),
        1 => {
            let least = micros(random, 100);
            Latency::uniform(least, least + micros(random, 30_000))
        }
        2 => Latency::normal(micros(random, 10_000), micros(random, 3_000)),
        3 => Latency::pareto(micros(random, 3_000) + Duration::from_micros(1), 2.0),
        _ => Latency::fixed(micros(random, 50_000)),
    };
    let latency = match random.one_in(4) {
        // `uniform` wants them in order.
        true => Latency::uniform(Duration::ZERO, micros(random, 20_000)),
        false => latency,
    };
    let mut link = Link::new().latency(latency);
    if random.one_in(3) {
        link = link.loss(random.below(30) as f64 / 100.0);
    } else if random.one_in(4) {
        link = link.loss(Loss::bursts(0.1, 4.0));
    }
    let duplicates = random.one_in(4);
    if duplicates {
        link = link.duplication(0.2);
    }
    if random.one_in(4) {
        link = link.reordering(0.2, micros(random, 20_000));
    }
    let corrupts = random.one_in(10);
    if corrupts {
        link = link.corruption(0.1);
    }
    if random.one_in(6) {
        link = link.mtu(1_280 + random.below(200) as u32);
    }
    if random.one_in(6) {
        link = link.bandwidth(100_000 + random.below(10_000_000), 2_000 + random.index(60_000));
    }
    if random.one_in(6) {
        link = link.unordered();
    }
    (link, duplicates, corrupts)
}

/// Adds a fault, or lifts one.
pub fn change(program: &Rc<Program>) {
    let (random, Some(world)) = (&program.random, program.world()) else { return };
    let what = random.below(12);
    program.note("fault", 0, what);
    let name = || program.hosts[random.index(program.hosts.len())].name.as_str();
    let until = || {
        let now = world.elapsed();
        now..now + random.time() + Duration::from_micros(1)
    };
    let rule = match what {
        0 => Rule::drop().from(name()).probability(0.5),
        1 => Rule::partition_one_way(name(), name()),
        2 => Rule::partition(name(), name()),
        3 => {
            let (link, duplicates, corrupts) = link(random);
            program.duplicates.set(program.duplicates.get() || duplicates);
            program.corrupts.set(program.corrupts.get() || corrupts);
            Rule::through(link).to(name())
        }
        4 | 5 => Rule::fail(random.pick(&CALLS), random.pick(&ERRNOS)).from(name()).times(3),
        6 => Rule::fail(random.pick(&CALLS), random.pick(&ERRNOS)).from(name()).probability(0.3),
        7 => Rule::full_send_buffers().from(name()),
        8 => Rule::no_descriptors().from(name()),
        9 => Rule::delay(random.time() / 10).from(name()),
        _ => {
            // One less; dropped with nothing borrowed.
            let guard = program.kept.guards.borrow_mut().pop();
            return drop(guard);
        }
    };
    let rule = match random.below(3) {
        0 => {
            let span = until();
            rule.between(span.start, span.end)
        }
        1 => rule.every(Duration::from_millis(20), Duration::from_millis(5)),
        _ => rule,
    };
    let guard = world.rule(rule).expect("hosts that there are");
    program.kept.guards.borrow_mut().push(guard);
}

/// Crashes a host; soon or at once it may come back.
pub fn crash(program: &Rc<Program>, host: usize) {
    let Some(world) = program.world() else { return };
    let name = &program.hosts[host].name;
    let life = program.life(host);
    life.crashed.set(true);
    program.note("crash", host, 0);
    if program.random.flip() {
        restart(program, host);
    } else {
        world.crash(name).expect("a host that there is");
    }
}

pub fn restart(program: &Rc<Program>, host: usize) {
    let Some(world) = program.world() else { return };
    let last = program.life(host);
    last.crashed.set(true);
    program.note("restart", host, 0);
    let next = Life { host, number: last.number + 1, ..Life::default() };
    program.lives.borrow_mut()[host] = Rc::new(next);
    world.restart(&program.hosts[host].name).expect("a host that there is");
}
