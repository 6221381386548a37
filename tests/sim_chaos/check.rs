//! What holds at any time, and what holds in the end.

use std::rc::Rc;
use std::time::Duration;

use strand_reactor::sim::World;

use crate::actions::LOOKUP;
use crate::datagrams::Port;
use crate::faults;
use crate::ledger::Fate;
use crate::program::Program;
use crate::streams::Stream;

/// Turns after which a world that nobody does anything in should rest.
const MOST_TURNS: u32 = 200_000;

/// Gauges and accounts, between two turns.
pub fn check_now(program: &Program) {
    let ports = program.ports.borrow().clone();
    ports.iter().filter(|book| !book.life.crashed.get()).for_each(|book| {
        Port::check_account(program, book);
    });
    let streams = program.streams.borrow().clone();
    streams.iter().filter(|book| !book.life.crashed.get()).for_each(|book| {
        Stream::check_account(program, book);
    });
    for host in 0..program.hosts.len() {
        check_panics(program, host);
    }
}

/// Nothing panicked but what was to.
fn check_panics(program: &Program, host: usize) {
    let (life, Some(handle)) = (program.life(host), program.handle(host)) else { return };
    let counted = handle.stats().callback_panics;
    program.expect(counted == life.panics.get(), || {
        format!("{counted} panics on h{host}, of which {} were meant", life.panics.get())
    });
}

/// Lets time pass; what goes on for ever is found out.
fn pass(program: &Program, world: &World, time: Duration) {
    let until = world.elapsed() + time;
    let mut turns = 0;
    while world.elapsed() < until {
        // A turn may lie far ahead.
        if !world.step().expect("not from a callback") {
            return;
        }
        turns += 1;
        if turns > MOST_TURNS {
            return program.violated(format!("no rest:\n{}", world.dump()));
        }
    }
}

/// Lifts all faults, lets everything come to its end, and looks at what is left.
pub fn end(program: &Rc<Program>, world: Rc<World>) {
    program.note("the end begins", 0, 0);
    program.budget.set(0);
    let guards = program.kept.guards.take();
    drop(guards);
    for host in 0..program.hosts.len() {
        let name = &program.hosts[host].name;
        if !world.is_up(name).expect("a host") && program.random.flip() {
            faults::restart(program, host);
        }
    }
    // A crash of a reactor that was asked for already comes first.
    for time in [1, 60] {
        for host in &program.hosts {
            world.run_again(&host.name).expect("a host");
        }
        pass(program, &world, Duration::from_secs(time));
    }
    check_now(program);
    check_lookups(program);
    let holds = program.kept.holds.take();
    drop(holds);
    for host in 0..program.hosts.len() {
        program.life(host).stopped.set(true);
        if let Some(handle) = program.handle(host) {
            world.run_again(&program.hosts[host].name).expect("a host");
            handle.stop();
        }
    }
    pass(program, &world, Duration::from_secs(120));
    for host in 0..program.hosts.len() {
        check_stopped(program, &world, host);
    }
    // What the kernels of the hosts still have to say to each other.
    pass(program, &world, Duration::from_secs(1_200));
    let dump = world.dump();
    let left = |line: &str| line.starts_with("  udp") || line.starts_with("  tcp");
    let rests = !dump.lines().any(left) && dump.contains("under way: 0 packets");
    program.expect(rests, || format!("left behind:\n{dump}"));
    drop(world);
    check_gone(program);
}

/// Lookups wait for the next run of a host that has stopped; of all others they are over.
fn check_lookups(program: &Program) {
    for promise in program.promises.borrow().iter().filter(|promise| promise.kind == LOOKUP) {
        let excused = promise.life.stopped.get() || promise.life.crashed.get();
        program.expect(excused || promise.fate.get() == Fate::Called, || {
            format!("a lookup on h{} takes for ever", promise.life.host)
        });
    }
}

fn check_stopped(program: &Program, world: &World, host: usize) {
    let Some(handle) = program.handle(host) else { return };
    let name = &program.hosts[host].name;
    check_panics(program, host);
    program.expect(world.has_stopped(name).expect("a host"), || {
        format!("h{host} does not stop:\n{}", world.dump())
    });
    let open =
        (handle.datagram_ports().len(), handle.streams().len(), handle.listening_ports().len());
    program.expect(open == (0, 0, 0), || format!("{open:?} are open on h{host} after its end"));
}

/// The world is gone, and all with it.
fn check_gone(program: &Program) {
    program.expect(program.world().is_none(), || "the world is not gone".to_owned());
    program.expect(program.alive.get() == 0, || {
        format!("{} protocols and factories are left", program.alive.get())
    });
    for promise in program.promises.borrow().iter() {
        let excused = promise.kind == LOOKUP || promise.life.crashed.get();
        let kept = excused || promise.fate.get() == Fate::Called;
        program.expect(kept, || {
            format!("a {} on h{} is {:?}", promise.kind, promise.life.host, promise.fate.get())
        });
    }
}
