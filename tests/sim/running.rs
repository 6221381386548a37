//! How time passes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::RunError;
use strand_reactor::ShutdownPhase;
use strand_reactor::sim::{HostError, World};

use crate::support::{Event, Log, Recorder};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn two_hosts_exchange_datagrams_at_the_pace_of_the_link() {
    let world = World::new(1);
    let server = world.host("server", "10.0.0.1").unwrap();
    let client = world.host("client", "10.0.0.2").unwrap();
    server.listen_udp(7, Recorder::echo()).unwrap();
    let log = Log::default();
    let from = Rc::new(Cell::new(None));
    let seen = Rc::clone(&from);
    let recorder = Recorder::new(&log).on_datagram(move |_, datagram| {
        seen.set(Some(datagram.source()));
        Ok(())
    });
    let port = client.listen_udp(9, recorder).unwrap();
    port.write_to(b"hello", "10.0.0.1:7".parse().unwrap()).unwrap();
    assert!(world.run_until(|| log.has_payload("hello")).unwrap());
    assert_eq!(from.get(), Some("10.0.0.1:7".parse().unwrap()));
    assert_eq!(world.elapsed(), Duration::from_millis(2));
}

#[test]
fn time_jumps_from_timer_to_timer() {
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1").unwrap();
    let start = host.now();
    let calls = Rc::new(RefCell::new(Vec::new()));
    for seconds in [3_600, 1, 60] {
        let calls = Rc::clone(&calls);
        host.call_later(Duration::from_secs(seconds), move |handle| {
            calls.borrow_mut().push(handle.now() - start);
        });
    }
    world.run_for(Duration::from_secs(3_600)).unwrap();
    assert_eq!(*calls.borrow(), [1, 60, 3_600].map(Duration::from_secs));
    assert_eq!(host.now() - start, Duration::from_secs(3_600));
    // Three timers, and the turn that their setting asked for at the most.
    assert!(host.stats().turns <= 4, "{} turns", host.stats().turns);
}

#[test]
fn a_year_of_idle_hosts_takes_no_turns() {
    let world = World::new(1);
    let hosts: Vec<_> =
        (1..=100).map(|n| world.host(&format!("h{n}"), format!("10.0.0.{n}")).unwrap()).collect();
    for host in &hosts {
        host.listen_udp(9, Recorder::quiet()).unwrap();
    }
    world.run_for(Duration::from_secs(365 * 86_400)).unwrap();
    assert!(hosts.iter().all(|host| host.stats().turns <= 1));
    assert_eq!(world.elapsed(), Duration::from_secs(365 * 86_400));
}

#[test]
fn steps_are_turns_of_one_host() {
    let world = World::new(1);
    let log = Log::default();
    for (name, address) in [("a", "10.0.0.1"), ("b", "10.0.0.2")] {
        let log = log.clone();
        let host = world.host(name, address).unwrap();
        host.call_later(SECOND, move |_| log.note("called"));
    }
    while log.events().is_empty() {
        assert!(world.step().unwrap());
    }
    assert_eq!((log.events().len(), world.elapsed()), (1, SECOND));
    while world.step().unwrap() {}
    assert_eq!((log.events().len(), world.elapsed()), (2, SECOND));
    assert!(!world.run_until(|| false).unwrap(), "nothing is left");
}

#[test]
fn what_is_asked_of_another_host_in_a_callback_is_done() {
    let world = World::new(1);
    let (a, b) = (world.host("a", "10.0.0.1").unwrap(), world.host("b", "10.0.0.2").unwrap());
    let log = Log::default();
    let told = log.clone();
    let port = b.listen_udp(9, Recorder::new(&log)).unwrap();
    a.call_later(SECOND, move |_| {
        let later = told.clone();
        b.call_later(SECOND, move |_| later.note("timer"));
        b.call_when_running(move |_| told.note("call"));
        port.stop_listening();
    });
    world.run_for(3 * SECOND).unwrap();
    let told = [Event::Start, Event::Note("call"), Event::Stop("stopped".into())];
    assert_eq!(log.events()[..3], told);
    assert_eq!(log.events()[3..], [Event::Note("timer")]);
}

#[test]
fn a_program_that_always_has_work_does_not_stop_the_clock() {
    fn again(handle: &strand_reactor::Handle) {
        handle.call_when_running(again);
    }
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1").unwrap();
    host.call_when_running(again);
    let other = world.host("b", "10.0.0.2").unwrap();
    let log = Log::default();
    let told = log.clone();
    other.call_later(Duration::from_micros(50), move |_| told.note("called"));
    world.run_for(Duration::from_micros(100)).unwrap();
    assert!(log.has_note("called"));
}

/// Works in `turns` turns on end, and gives the time that this took.
fn time_of(turns: u32) -> Duration {
    fn again(handle: &strand_reactor::Handle, left: u32) {
        if left > 0 {
            handle.call_when_running(move |handle| again(handle, left - 1));
        }
    }
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1").unwrap();
    host.call_when_running(move |handle| again(handle, turns - 1));
    while world.step().unwrap() {}
    assert_eq!(host.stats().turns, u64::from(turns));
    world.elapsed()
}

#[test]
fn a_thousand_turns_take_no_time_and_each_that_follows_a_microsecond() {
    assert_eq!(time_of(1_000), Duration::ZERO);
    assert_eq!(time_of(1_001), Duration::from_micros(1));
    assert_eq!(time_of(1_500), Duration::from_micros(500));
}

#[test]
fn a_stop_shuts_the_host_down_in_the_time_of_the_world() {
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1").unwrap();
    let log = Log::default();
    host.listen_udp(9, Recorder::new(&log)).unwrap();
    let hold = Rc::new(RefCell::new(None));
    let held = Rc::clone(&hold);
    let told = log.clone();
    host.on_shutdown(ShutdownPhase::Before, move |handle| {
        *held.borrow_mut() = Some(handle.hold_shutdown().unwrap());
        let release = Rc::clone(&held);
        handle.call_later(SECOND, move |_| drop(release.take()));
    })
    .unwrap();
    host.on_shutdown(ShutdownPhase::After, move |_| told.note("after")).unwrap();
    let late = log.clone();
    host.call_later(3 * SECOND, move |_| late.note("late"));
    host.call_later(SECOND, |handle| handle.stop());
    world.run_for(Duration::from_millis(1_999)).unwrap();
    assert_eq!(log.events(), [Event::Start], "held back");
    world.run_for(3 * SECOND).unwrap();
    assert!(world.has_stopped("a").unwrap());
    let end = [Event::Stop("the reactor shuts down".into()), Event::Note("after")];
    assert_eq!(log.events()[1..], end, "a program that has stopped is called no more");
    world.run_again("a").unwrap();
    world.run_for(Duration::ZERO).unwrap();
    assert!(log.has_note("late"));
}

#[test]
fn a_shutdown_that_is_held_for_ever_goes_on_at_its_limit() {
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1").unwrap();
    let _hold = host.hold_shutdown().unwrap();
    host.stop();
    world.run_for(Duration::from_secs(29)).unwrap();
    assert!(!world.has_stopped("a").unwrap());
    world.run_for(2 * SECOND).unwrap();
    assert!(world.has_stopped("a").unwrap());
}

#[test]
fn a_world_cannot_run_inside_its_own_callbacks() {
    let world = Rc::new(World::new(1));
    let host = world.host("a", "10.0.0.1").unwrap();
    let outcome = Rc::new(RefCell::new(None));
    let (inner, told) = (Rc::clone(&world), Rc::clone(&outcome));
    host.call_when_running(move |_| *told.borrow_mut() = Some(inner.run_for(SECOND)));
    world.run_for(SECOND).unwrap();
    assert!(matches!(outcome.take(), Some(Err(RunError::AlreadyRunning))));
}

#[test]
fn panics_are_counted_or_leave_the_world_as_it_was_told() {
    let world = World::new(1);
    let caught = world.host("a", "10.0.0.1").unwrap();
    caught.call_when_running(|_| -> () { panic!("caught") });
    world.run_for(SECOND).unwrap();
    assert_eq!(caught.stats().callback_panics, 1);
    world.catch_panics(false);
    let let_through = world.host("b", "10.0.0.2").unwrap();
    let log = Log::default();
    let told = log.clone();
    let_through.call_when_running(|_| -> () { panic!("let through") });
    let_through.call_later(SECOND, move |_| told.note("lives"));
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run_for(SECOND)));
    assert!(outcome.is_err());
    world.run_for(2 * SECOND).unwrap();
    assert!(log.has_note("lives"));
}

#[test]
fn calls_of_other_threads_arrive() {
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1").unwrap();
    let remote = host.remote();
    let called = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let told = std::sync::Arc::clone(&called);
    std::thread::spawn(move || {
        let tell = move |_: &strand_reactor::Handle| {
            told.store(true, std::sync::atomic::Ordering::Relaxed);
        };
        assert!(remote.call_from_thread(tell).is_ok());
    })
    .join()
    .unwrap();
    world.run_for(Duration::ZERO).unwrap();
    assert!(called.load(std::sync::atomic::Ordering::Relaxed));
}

#[test]
fn hosts_are_told_apart_by_name_and_address() {
    let world = World::new(1);
    world.host("a", ["10.0.0.1/16", "fd00::1"]).unwrap();
    let taken = world.host("a", "10.0.0.9").unwrap_err();
    assert_eq!(taken, HostError::NameTaken { name: "a".into() });
    let taken = world.host("b", "fd00::1").unwrap_err();
    assert!(matches!(taken, HostError::AddressTaken { by, .. } if by == "a"));
    for wrong in
        ["", "10.0.0", "10.0.0.1/33", "127.0.0.1", "0.0.0.0", "224.0.0.1", "::ffff:1.2.3.4"]
    {
        let refused = world.host("c", wrong).unwrap_err();
        assert!(matches!(refused, HostError::Address { .. }), "{wrong}: {refused}");
    }
    assert!(matches!(world.handle("c"), Err(HostError::Unknown { .. })));
}
