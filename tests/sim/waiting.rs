//! Waiting for something, with a limit of virtual time.

use std::cell::Cell;
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::RunError;
use strand_reactor::sim::{UntilError, World};

use crate::support::{Log, Recorder};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn waiting_ends_with_the_turn_that_brings_it_about() {
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1").unwrap();
    let log = Log::default();
    let told = log.clone();
    host.call_later(3 * SECOND, move |_| told.note("called"));
    host.call_later(4 * SECOND, |_| {});
    world.run_until_within(60 * SECOND, || log.has_note("called")).unwrap();
    assert_eq!(world.elapsed(), 3 * SECOND);
    // What holds already takes no time, also when there is none.
    world.run_until_within(Duration::ZERO, || log.has_note("called")).unwrap();
    assert_eq!(world.elapsed(), 3 * SECOND);
    // A turn at the limit is one within it.
    world.run_until_within(SECOND, || host.pending_timers().is_empty()).unwrap();
    assert_eq!(world.elapsed(), 4 * SECOND);
}

#[test]
fn the_condition_is_asked_when_the_time_is_over_though_nothing_happens() {
    let world = World::new(1);
    world.host("a", "10.0.0.1").unwrap();
    world.run_until_within(SECOND, || world.elapsed() == SECOND).unwrap();
}

#[test]
fn a_world_that_never_rests_is_left_at_the_limit_and_tells_what_is_open() {
    let world = World::new(1);
    let a = world.host("a", "10.0.0.1").unwrap();
    let b = world.host("b", "10.0.0.2").unwrap();
    world.run_for(SECOND).unwrap();
    let port = b.listen_udp(9, Recorder::quiet()).unwrap();
    let ticking = a.looping_call(2 * SECOND, move |_, _| {
        port.write_to(b"x", "10.0.0.1:9".parse().unwrap()).unwrap();
    });
    let asked = Cell::new(0);
    let never = || {
        asked.set(asked.get() + 1);
        false
    };
    let error = world.run_until_within(6 * SECOND, never).unwrap_err();
    assert!(asked.get() >= 5, "asked before the first turn, after each, and in the end");
    assert_eq!(world.elapsed(), 7 * SECOND);
    assert_eq!(
        error.to_string(),
        "what was waited for did not happen within 6s, until 7s: 1 packet is under way, and open \
         are\n  host a: 1 timer, the next in 2s\n  host b: a UDP port at 0.0.0.0:9"
    );
    let UntilError::TimeOver { is_at_rest, under_way, open, .. } = error else { panic!("{error}") };
    assert_eq!((is_at_rest, under_way, open.len()), (false, 1, 2));
    ticking.stop().unwrap();
    // A timer beyond the limit is still to come, too, though no packet is.
    world.run_for(SECOND).unwrap();
    a.call_later(9 * SECOND, |_| {});
    let told = world.run_until_within(SECOND, || false).unwrap_err().to_string();
    assert!(told.contains("until 9s: 0 packets are under way, and open are"), "{told}");
}

#[test]
fn a_world_at_rest_is_told_as_such_and_its_time_has_passed() {
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1").unwrap();
    // One that is put off, and one that a crash takes: neither is still to come.
    let first = host.call_later(90 * SECOND, |_| {});
    world.host("b", "10.0.0.2").unwrap().call_later(90 * SECOND, |_| {});
    world.run_for(Duration::ZERO).unwrap();
    first.cancel().unwrap();
    world.crash("b").unwrap();
    let error = world.run_until_within(60 * SECOND, || false).unwrap_err();
    assert_eq!(world.elapsed(), 60 * SECOND);
    let told = error.to_string();
    assert!(told.ends_with("until 60s: nothing is left that could happen"), "{told}");
}

#[test]
fn nobody_waits_from_inside_a_callback() {
    let world = Rc::new(World::new(1));
    let host = world.host("a", "10.0.0.1").unwrap();
    let log = Log::default();
    let (inside, told) = (Rc::downgrade(&world), log.clone());
    host.call_later(SECOND, move |_| {
        let error = inside.upgrade().unwrap().run_until_within(SECOND, || true).unwrap_err();
        assert!(matches!(error, UntilError::Run(RunError::AlreadyRunning)), "{error}");
        assert!(error.source().unwrap().to_string().contains("the reactor is running"));
        told.note("refused");
    });
    world.run_until_within(2 * SECOND, || log.has_note("refused")).unwrap();
}
