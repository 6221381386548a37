//! Turns of the loop: what runs in which order, and what a turn waits for.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Handle, PortState, Reactor, ReactorStats,
    RunError, StopReason, UdpOptions,
};

use crate::support::{ANY, Ending, Log, OnDatagram, Quiet, socket, turn_until, watchdog};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn iterate_tells_whether_anything_is_left() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    assert!(!reactor.iterate(None).unwrap());
    assert!(!reactor.iterate(None).unwrap(), "nothing could end a wait");

    let timer = reactor.call_later(HOUR, |_| {});
    assert!(reactor.iterate(Some(Duration::ZERO)).unwrap());
    timer.cancel().unwrap();
    assert!(!reactor.iterate(None).unwrap());

    let port = reactor.listen_udp(ANY, Quiet).unwrap();
    assert!(reactor.iterate(Some(Duration::ZERO)).unwrap());
    port.stop_listening();
    assert!(!reactor.iterate(None).unwrap());

    reactor.remote().call_from_thread(|_| {}).unwrap();
    reactor.call_when_running(|handle| handle.call_when_running(|_| {}));
    assert!(reactor.iterate(None).unwrap());
    assert!(!reactor.iterate(None).unwrap());
    assert_eq!(reactor.stats().calls, 3);
}

#[test]
fn iterate_with_no_time_does_not_wait() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let timer = reactor.call_later(HOUR, |_| -> () { panic!("an hour early") });
    reactor.listen_udp(ANY, Quiet).unwrap();
    for _ in 0..100 {
        assert!(reactor.iterate(Some(Duration::ZERO)).unwrap());
    }
    assert!(timer.active());
    assert_eq!(reactor.stats().turns, 100);
}

#[test]
fn iterate_does_not_wait_once_it_has_called_something() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    reactor.listen_udp(ANY, Quiet).unwrap();
    let count = Rc::new(Cell::new(0));
    let called = || {
        let count = Rc::clone(&count);
        move |_: &Handle| count.set(count.get() + 1)
    };
    // Whoever waits for the effect of a call must see it before the loop falls asleep.
    reactor.call_when_running(called());
    assert!(reactor.iterate(None).unwrap());
    assert_eq!(count.get(), 1);
    reactor.call_later(Duration::ZERO, called());
    assert!(reactor.iterate(None).unwrap());
    assert_eq!(count.get(), 2);
}

#[test]
fn iterate_waits_for_the_next_deadline_at_most() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let fired = Rc::new(Cell::new(false));
    let set = Rc::clone(&fired);
    let timer = reactor.call_later(Duration::from_millis(1), move |_| set.set(true));
    let deadline = timer.deadline().unwrap();
    reactor.listen_udp(ANY, Quiet).unwrap();
    // Timers come at the start of a turn and the poll at its end: the turn after the wait.
    reactor.iterate(None).unwrap();
    reactor.iterate(None).unwrap();
    assert!(fired.get());
    assert!(reactor.now() >= deadline);
}

#[test]
fn the_clock_goes_on_without_any_turn() {
    let reactor = Reactor::new().unwrap();
    let before = reactor.now();
    while reactor.now() == before {
        std::hint::spin_loop();
    }
    assert!(reactor.now() > before);
}

#[test]
fn iterate_honours_stop() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let order = Log::new();
    let port = reactor.listen_udp(ANY, Ending(order.clone())).unwrap();
    let log = order.clone();
    reactor.call_when_running(move |_| log.push("call".to_owned()));
    reactor.stop();
    // The call is left for later, and so something is left.
    assert!(reactor.iterate(None).unwrap());
    assert_eq!(port.state(), PortState::Closed);
    assert!(!reactor.iterate(None).unwrap());
    assert_eq!(order.entries(), ["the reactor shuts down", "call"]);
}

#[test]
fn running_inside_a_callback_is_an_error() {
    struct Nested(Rc<Reactor>, Log<&'static str>);
    impl Nested {
        fn check(&self, what: &'static str) {
            let reactor = &self.0;
            assert!(matches!(reactor.run(), Err(RunError::AlreadyRunning)), "run in {what}");
            let turn = reactor.iterate(Some(Duration::ZERO));
            assert!(matches!(turn, Err(RunError::AlreadyRunning)), "iterate in {what}");
            self.1.push(what);
        }
    }
    impl DatagramProtocol for Nested {
        fn datagram_received(
            &mut self,
            transport: &DatagramTransport,
            _: Datagram<'_>,
        ) -> anyhow::Result<()> {
            self.check("datagram_received");
            transport.stop_listening();
            Ok(())
        }
        fn stop_protocol(&mut self, _: &DatagramTransport, _: StopReason) {
            self.check("stop_protocol");
        }
    }
    let _watchdog = watchdog();
    let reactor = Rc::new(Reactor::new().unwrap());
    let order = Log::new();
    let nested = || Nested(Rc::clone(&reactor), order.clone());
    let port = reactor.listen_udp(ANY, nested()).unwrap();
    let timer = nested();
    reactor.call_later(Duration::ZERO, move |_| timer.check("timer"));
    let call = nested();
    reactor.call_when_running(move |_| {
        assert!(call.0.is_running());
        call.check("call");
    });
    let completion = nested();
    let to = port.local_addr().unwrap();
    port.write_then(b"x", to, move |_| completion.check("completion")).unwrap();
    assert!(!reactor.is_running());
    reactor.run().unwrap();
    assert!(!reactor.is_running());
    let mut seen = order.entries();
    seen.sort_unstable();
    assert_eq!(seen, ["call", "completion", "datagram_received", "stop_protocol", "timer"]);
    assert_eq!(reactor.stats().callback_panics, 0);
}

/// `start_protocol` is a callback also where no loop runs around it.
#[test]
fn running_inside_start_protocol_is_an_error() {
    struct Nested(Rc<Reactor>, Log<bool>);
    impl DatagramProtocol for Nested {
        fn start_protocol(&mut self, _: &DatagramTransport) -> anyhow::Result<()> {
            let turn = self.0.iterate(Some(Duration::ZERO));
            self.1.push(matches!(turn, Err(RunError::AlreadyRunning)));
            Ok(())
        }
        fn datagram_received(
            &mut self,
            _: &DatagramTransport,
            _: Datagram<'_>,
        ) -> anyhow::Result<()> {
            Ok(())
        }
    }
    let _watchdog = watchdog();
    let reactor = Rc::new(Reactor::new().unwrap());
    let refused = Log::new();
    reactor.listen_udp(ANY, Nested(Rc::clone(&reactor), refused.clone())).unwrap();
    assert_eq!(refused.entries(), [true]);
    // And it is none afterwards.
    reactor.iterate(Some(Duration::ZERO)).unwrap();
}

#[test]
fn posted_calls_are_first_in_first_out_and_never_inside_the_call() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let order = Log::new();
    for number in 0..100 {
        let log = order.clone();
        reactor.call_when_running(move |handle| {
            log.push(number);
            let later = log.clone();
            // Also on a running loop.
            handle.call_when_running(move |_| later.push(number + 100));
            assert!(!log.entries().contains(&(number + 100)));
        });
    }
    assert!(order.entries().is_empty());
    reactor.run().unwrap();
    assert_eq!(order.entries(), (0..200).collect::<Vec<_>>());
}

#[test]
fn a_posted_call_that_posts_itself_does_not_starve_ports_or_timers() {
    fn again(handle: &Handle, rounds: &Rc<Cell<u32>>, done: &Rc<dyn Fn() -> bool>) {
        rounds.set(rounds.get() + 1);
        if done() || rounds.get() == 1_000_000 {
            handle.stop();
            return;
        }
        let (rounds, done) = (Rc::clone(rounds), Rc::clone(done));
        handle.call_when_running(move |handle| again(handle, &rounds, &done));
    }
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let (heard, fired) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let count = Rc::clone(&heard);
    let port = reactor
        .listen_udp(
            ANY,
            OnDatagram(move |transport: &DatagramTransport, payload: &[u8]| {
                count.set(count.get() + 1);
                transport.write_to(payload, transport.local_addr()?)?;
                Ok(())
            }),
        )
        .unwrap();
    port.write_to(b"x", port.local_addr().unwrap()).unwrap();
    let set = Rc::clone(&fired);
    reactor.call_later(Duration::from_millis(1), move |_| set.set(true));
    let done: Rc<dyn Fn() -> bool> = Rc::new(move || heard.get() >= 10 && fired.get());
    let rounds = Rc::new(Cell::new(0));
    again(&reactor, &rounds, &done);
    reactor.run().unwrap();
    assert!(done(), "after {} rounds", rounds.get());
    // The first round was no posted call; each of the others had a turn of its own.
    assert_eq!(u64::from(rounds.get()), reactor.stats().calls + 1);
    assert!(reactor.stats().turns >= reactor.stats().calls);
}

#[test]
fn a_stopped_port_hears_nothing_of_the_same_poll() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let heard = Log::new();
    for _ in 0..50 {
        let log = heard.clone();
        let protocol = OnDatagram(move |transport: &DatagramTransport, _: &[u8]| {
            log.push("datagram");
            for port in transport.reactor().datagram_ports() {
                port.stop_listening();
            }
            Ok(())
        });
        reactor.listen_udp(ANY, protocol).unwrap();
    }
    let peer = socket();
    for port in reactor.datagram_ports() {
        peer.send_to(b"x", port.local_addr().unwrap()).unwrap();
        peer.send_to(b"y", port.local_addr().unwrap()).unwrap();
    }
    reactor.run().unwrap();
    assert_eq!(heard.entries(), ["datagram"]);
    assert!(reactor.datagram_ports().is_empty());
}

#[test]
fn the_loop_sleeps_until_it_has_something_to_do() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    reactor.listen_udp(ANY, Quiet).unwrap();
    reactor.call_later(Duration::from_millis(100), |handle| handle.stop());
    reactor.run().unwrap();
    // One to fall asleep in and one to wake up in; a signal may add one.
    assert!(reactor.stats().turns <= 4, "{:?}", reactor.stats());
}

#[test]
fn counters_count() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    assert_eq!(reactor.stats(), ReactorStats::default());
    let port = reactor.listen_udp(ANY, Quiet).unwrap();
    let peer = socket();
    peer.send_to(b"x", port.local_addr().unwrap()).unwrap();
    turn_until(&reactor, || port.stats().unwrap().datagrams_in == 1);
    let stats = reactor.stats();
    assert_eq!((stats.wakeups, stats.events, stats.stale_events), (1, 1, 0));
    assert!(stats.turns >= 1);

    let due = Instant::now();
    let timer = reactor.call_later(Duration::ZERO, |_| {});
    reactor.call_later(HOUR, |_| {}).cancel().unwrap();
    while reactor.now() <= due + Duration::from_millis(2) {
        std::hint::spin_loop();
    }
    reactor.call_when_running(|_| anyhow::bail!("no"));
    reactor.remote().call_from_thread(|_| -> () { panic!("never") }).unwrap();
    turn_until(&reactor, || !timer.active());
    let stats = reactor.stats();
    assert_eq!((stats.timers_called, stats.calls), (1, 2));
    assert_eq!((stats.callback_errors, stats.callback_panics), (1, 1));
    assert!(stats.max_timer_lateness_ns >= 2_000_000 - 1, "{stats:?}");
}

/// What a handle is good for in a protocol: listing, opening, stopping, all from one callback.
#[test]
fn any_operation_works_in_any_callback() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let order = Log::new();
    let log = order.clone();
    let protocol = OnDatagram(move |transport: &DatagramTransport, _: &[u8]| {
        let handle = transport.reactor();
        let log = log.clone();
        let end = OnDatagram(move |transport: &DatagramTransport, payload: &[u8]| {
            log.push(payload.to_vec());
            transport.reactor().stop();
            Ok(())
        });
        let other = handle.listen_udp(UdpOptions::parse(ANY)?, end)?;
        handle.connect_udp(other.local_addr()?, Quiet)?.write(b"x")?;
        handle.call_later(Duration::ZERO, |_| {}).cancel()?;
        transport.connect(other.local_addr()?)?;
        transport.disconnect()?;
        other.pause_reading()?;
        other.resume_reading()?;
        transport.stop_listening();
        Ok(())
    });
    let port = reactor.listen_udp(ANY, protocol).unwrap();
    port.write_to(b"go", port.local_addr().unwrap()).unwrap();
    reactor.run().unwrap();
    assert_eq!(order.entries(), [b"x"]);
    assert_eq!(reactor.stats().callback_errors, 0);
}
