//! Hosts that go down, and come back.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::sim::World;

use crate::support::{Event, Log, Recorder};

const SECOND: Duration = Duration::from_secs(1);

/// Tells when it is dropped.
struct Canary(Log);

impl Drop for Canary {
    fn drop(&mut self) {
        self.0.note("dropped");
    }
}

#[test]
fn a_crash_calls_nothing_and_drops_everything() {
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1").unwrap();
    let log = Log::default();
    let port = host.listen_udp(9, Recorder::new(&log)).unwrap();
    let canary = Canary(log.clone());
    host.call_later(SECOND, move |_| drop(canary));
    world.crash("a").unwrap();
    assert_eq!(log.events(), [Event::Start, Event::Note("dropped")]);
    assert!(host.is_closed() && port.write_to(b"x", "10.0.0.1:9".parse().unwrap()).is_err());
    world.run_for(2 * SECOND).unwrap();
    assert_eq!(log.events().len(), 2);
}

#[test]
fn peers_meet_silence_and_after_a_restart_refusals() {
    let world = World::new(1);
    world.host("a", "10.0.0.1").unwrap().listen_udp(9, Recorder::echo()).unwrap();
    let client = world.host("b", "10.0.0.2").unwrap();
    let log = Log::default();
    let port = client.connect_udp("10.0.0.1:9".parse().unwrap(), Recorder::new(&log)).unwrap();
    world.crash("a").unwrap();
    port.write(b"anybody?").unwrap();
    world.run_for(10 * SECOND).unwrap();
    assert_eq!(log.events(), [Event::Start]);
    let again = world.restart("a").unwrap();
    port.write(b"anybody?").unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(log.events()[1..], [Event::Refused]);
    again.listen_udp(9, Recorder::echo()).unwrap();
    port.write(b"anybody?").unwrap();
    world.run_for(SECOND).unwrap();
    assert!(log.has_payload("anybody?"));
}

#[test]
fn a_host_may_crash_itself_in_a_callback() {
    let world = Rc::new(World::new(1));
    let host = world.host("a", "10.0.0.1").unwrap();
    let log = Log::default();
    let (inner, told) = (Rc::clone(&world), log.clone());
    host.listen_udp(9, Recorder::new(&log)).unwrap();
    host.call_when_running(move |handle| {
        inner.crash("a").unwrap();
        assert!(!inner.is_up("a").unwrap());
        let told = told.clone();
        handle.call_when_running(move |_| told.note("called"));
    });
    world.run_for(SECOND).unwrap();
    assert!(host.is_closed());
    assert_eq!(log.events(), [Event::Start]);
}

#[test]
fn a_host_may_be_restarted_in_its_own_callback() {
    let world = Rc::new(World::new(1));
    let host = world.host("a", "10.0.0.1").unwrap();
    let log = Log::default();
    let (inner, told) = (Rc::clone(&world), log.clone());
    let lives = Rc::new(Cell::new(0));
    let count = Rc::clone(&lives);
    host.listen_udp(9, Recorder::new(&log)).unwrap();
    host.call_later(SECOND, move |_| {
        let new = inner.restart("a").unwrap();
        new.listen_udp(9, Recorder::new(&told)).unwrap();
        new.call_later(SECOND, move |_| count.set(count.get() + 1));
    });
    world.run_for(3 * SECOND).unwrap();
    assert_eq!(lives.get(), 1);
    assert_eq!(log.events(), [Event::Start, Event::Start]);
    assert_eq!(world.handle("a").unwrap().datagram_ports().len(), 1);
}
