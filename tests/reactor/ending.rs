//! What handles are good for while the reactor lives, and after it.

use std::cell::RefCell;
use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use strand_reactor::testing::Script;
use strand_reactor::{
    AdoptError, Closed, ConnectError, Datagram, DatagramProtocol, DatagramTransport, DelayedCall,
    Handle, ListenError, OptionError, PortState, Reactor, ReactorStats, StopReason, TimerError,
    WriteError,
};

use crate::support::{
    ANY, Ending, Log, OnDatagram, OnDrop, Quiet, drop_flag, socket, turn_until, watchdog,
};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn the_list_of_ports_is_those_that_are_open() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let ports: Vec<_> = (0..3).map(|_| reactor.listen_udp(ANY, Quiet).unwrap()).collect();
    let listed = |port: &DatagramTransport| {
        reactor.datagram_ports().iter().filter(|other| other.is_same_port(port)).count()
    };
    assert_eq!(ports.iter().map(listed).collect::<Vec<_>>(), [1, 1, 1]);
    ports[1].stop_listening();
    assert_eq!(ports[1].state(), PortState::Closing);
    turn_until(&reactor, || ports[1].state() == PortState::Closed);
    assert_eq!(ports.iter().map(listed).collect::<Vec<_>>(), [1, 0, 1]);
    assert!(reactor.datagram(ports[1].key().unwrap()).is_none());
    // Its slot is used again, and its key is not.
    let new = reactor.listen_udp(ANY, Quiet).unwrap();
    assert!(!new.is_same_port(&ports[1]));
    assert!(reactor.datagram(ports[1].key().unwrap()).is_none());
    assert_eq!(ports[1].state(), PortState::Closed);
}

#[test]
fn a_port_lives_on_when_every_handle_to_it_is_dropped() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let (heard, kept) = (Log::new(), Rc::new(RefCell::new(None)));
    let (log, take) = (heard.clone(), Rc::clone(&kept));
    let protocol = OnDatagram(move |_: &DatagramTransport, payload: &[u8]| {
        log.push(payload.to_vec());
        // The last handles that anybody holds.
        drop(take.take());
        Ok(())
    });
    let port = reactor.listen_udp(ANY, protocol).unwrap();
    let (timer, to) = (reactor.call_later(HOUR, |_| {}), port.local_addr().unwrap());
    *kept.borrow_mut() = Some((port, timer));
    let peer = socket();
    peer.send_to(b"1", to).unwrap();
    turn_until(&reactor, || heard.len() == 1);
    assert!(kept.borrow().is_none());
    peer.send_to(b"2", to).unwrap();
    turn_until(&reactor, || heard.len() == 2);
    assert_eq!(reactor.datagram_ports().len(), 1);
    assert_eq!(reactor.pending_timers().len(), 1);
}

#[test]
fn dropping_the_reactor_closes_everything_and_calls_nobody() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let called = Log::new();
    let [(protocol, protocol_gone), (timer, timer_gone), (ticks, ticks_gone)] =
        [(); 3].map(|()| drop_flag());
    let [(call, call_gone), (write, write_gone), (stop, stop_gone)] = [(); 3].map(|()| drop_flag());

    struct Kept<D>(Ending, #[allow(dead_code, reason = "only dropped")] D);
    impl<D> DatagramProtocol for Kept<D> {
        fn datagram_received(
            &mut self,
            transport: &DatagramTransport,
            datagram: Datagram<'_>,
        ) -> anyhow::Result<()> {
            self.0.datagram_received(transport, datagram)
        }
        fn stop_protocol(&mut self, transport: &DatagramTransport, reason: StopReason) {
            self.0.stop_protocol(transport, reason);
        }
    }
    let port = reactor.listen_udp(ANY, Kept(Ending(called.clone()), protocol)).unwrap();
    let address = port.local_addr().unwrap();
    let log = |what: &str| {
        let (log, what) = (called.clone(), what.to_owned());
        move || log.push(what.clone())
    };
    let (on_timer, on_tick, on_call) = (log("timer"), log("tick"), log("call"));
    let (on_write, on_stop) = (log("written"), log("stopped"));
    reactor.call_later(Duration::ZERO, move |_| {
        let _timer = &timer;
        on_timer();
    });
    reactor.looping_call_now(Duration::ZERO, move |_, _| {
        let _ticks = &ticks;
        on_tick();
    });
    reactor.call_when_running(move |_| {
        let _call = &call;
        on_call();
    });
    let done = move |_| {
        let _write = &write;
        on_write();
    };
    port.write_then(b"never sent", address, done).unwrap();
    let done = move |_: &Handle| {
        let _stop = &stop;
        on_stop();
    };
    port.stop_listening_then(done).unwrap();

    drop(reactor);
    assert!(called.entries().is_empty());
    for (what, gone) in [
        ("protocol", protocol_gone),
        ("timer", timer_gone),
        ("looping call", ticks_gone),
        ("posted call", call_gone),
        ("write completion", write_gone),
        ("stop completion", stop_gone),
    ] {
        assert!(gone.get(), "{what}");
    }
    // The number is free: the socket is closed although a handle to it lives.
    UdpSocket::bind(address).unwrap();
    assert_eq!(port.state(), PortState::Closed);
}

#[test]
fn a_handle_outlives_its_reactor_and_says_so() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let (timer, ticks) = (reactor.call_later(HOUR, |_| {}), reactor.looping_call(HOUR, |_, _| {}));
    let port = reactor.listen_udp(ANY, Quiet).unwrap();
    let key = port.key().unwrap();
    let handle = port.reactor();
    assert!(!handle.is_closed());
    drop(reactor);
    let peer: SocketAddr = "127.0.0.1:9".parse().unwrap();

    assert!(handle.is_closed() && !handle.is_running());
    handle.stop();
    handle.crash();
    let (captured, dropped) = drop_flag();
    handle.call_when_running(move |_| drop(captured));
    assert!(dropped.get());
    let (captured, dropped) = drop_flag();
    let late = handle.call_later(Duration::ZERO, move |_| drop(captured));
    assert!(dropped.get() && !late.active());
    assert_eq!(late.cancel(), Err(TimerError::Closed));
    let late = handle.looping_call(Duration::ZERO, |_, _| {});
    assert!(!late.running());
    assert_eq!(late.stop(), Err(TimerError::Closed));
    assert_eq!(late.reset(), Err(TimerError::Closed));
    assert!(!handle.looping_call_now(HOUR, |_, _| {}).running());
    assert!(handle.pending_timers().is_empty() && handle.datagram_ports().is_empty());
    assert!(handle.datagram(key).is_none());
    assert!(handle.now() <= Instant::now());
    assert_eq!(handle.stats(), ReactorStats::default());
    assert!(handle.remote().call_from_thread(|_| {}).is_err());
    assert!(matches!(handle.listen_udp(ANY, Quiet), Err(ListenError::Closed)));
    assert!(matches!(handle.connect_udp(peer, Quiet), Err(ListenError::Closed)));
    assert!(matches!(handle.connect_udp_from(ANY, peer, Quiet), Err(ListenError::Closed)));
    assert!(matches!(handle.adopt_datagram_port(socket(), Quiet), Err(AdoptError::Closed)));
    assert!(matches!(handle.adopt_datagram_port_shared(socket(), Quiet), Err(AdoptError::Closed)));
    assert!(matches!(Script::new().listen(&handle, ANY, Quiet), Err(ListenError::Closed)));

    assert!(!timer.active() && timer.deadline().is_none());
    assert_eq!(timer.cancel(), Err(TimerError::Closed));
    assert_eq!(timer.reset(HOUR), Err(TimerError::Closed));
    assert_eq!(timer.delay(HOUR), Err(TimerError::Closed));
    timer.unref();
    timer.reref();
    assert!(!ticks.running() && ticks.deadline().is_none());
    assert_eq!((ticks.stop(), ticks.interval()), (Err(TimerError::Closed), HOUR));

    assert_eq!(port.state(), PortState::Closed);
    let closed =
        |result: Result<(), WriteError>| assert!(matches!(result, Err(WriteError::Closed)));
    closed(port.write(b"x"));
    closed(port.write_to(b"x", peer));
    closed(port.write_then(b"x", peer, |_| {}));
    closed(port.try_write_to(b"x", peer).map(drop));
    closed(port.try_write_batch(&[(b"x", Some(peer))]).map(drop));
    closed(port.flush());
    assert_eq!((port.queued_datagrams(), port.queued_bytes()), (0, 0));
    assert!(matches!(port.connect(peer), Err(ConnectError::Closed)));
    assert!(matches!(port.disconnect(), Err(ConnectError::Closed)));
    assert!(matches!(port.bind(peer), Err(ListenError::Closed)));
    let closed =
        |result: Result<(), OptionError>| assert!(matches!(result, Err(OptionError::Closed)));
    closed(port.local_addr().map(drop));
    closed(port.peer_addr().map(drop));
    closed(port.set_ttl(1));
    closed(port.ttl().map(drop));
    closed(port.family().map(drop));
    closed(port.read_datagram(&mut []).map(drop));
    closed(port.with_fd(|_| ()));
    assert_eq!(port.pause_reading(), Err(Closed));
    assert_eq!(port.resume_reading(), Err(Closed));
    assert_eq!(port.unref(), Err(Closed));
    assert_eq!(port.key(), Err(Closed));
    assert_eq!(port.set_label("late"), Err(Closed));
    assert_eq!(port.stats(), Err(Closed));
    port.stop_listening();
    let (captured, dropped) = drop_flag();
    assert_eq!(port.stop_listening_then(move |_| drop(captured)), Err(Closed));
    assert!(dropped.get());
    assert!(port.reactor().is_closed());
    // Neither text asks the reactor for what it no longer has.
    assert!(format!("{handle:?} {port:?} {timer:?} {ticks:?}").contains("closed"));
}

/// What user values do in their `Drop` finds the reactor closed, and never borrowed.
#[test]
fn values_dropped_with_the_reactor_may_still_call_it() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    // A panic in a `Drop` would end the process: what was seen there is judged afterwards.
    let seen = Log::new();
    let timers = Rc::new(RefCell::new(Vec::<DelayedCall>::new()));
    let port = reactor.listen_udp(ANY, Quiet).unwrap();
    let check = |what: &'static str| {
        let (handle, seen, timers) = (port.reactor(), seen.clone(), Rc::clone(&timers));
        let (port, remote) = (port.clone(), reactor.remote());
        OnDrop(move || {
            let mut findings = Vec::new();
            let mut expect = |holds: bool, what: &'static str| {
                if !holds {
                    findings.push(what);
                }
            };
            expect(handle.is_closed(), "is_closed");
            handle.call_when_running(|_| {});
            handle.stop();
            remote.stop();
            expect(remote.call_from_thread(|_| {}).is_err(), "call_from_thread");
            let opened = handle.listen_udp(ANY, Quiet);
            expect(matches!(opened, Err(ListenError::Closed)), "listen_udp");
            let late = handle.call_later(Duration::ZERO, |_| {});
            expect(late.cancel() == Err(TimerError::Closed), "call_later");
            let written = port.write_to(b"x", ([127, 0, 0, 1], 9).into());
            expect(matches!(written, Err(WriteError::Closed)), "write_to");
            expect(handle.datagram_ports().is_empty(), "datagram_ports");
            expect(handle.pending_timers().is_empty(), "pending_timers");
            for timer in timers.borrow().iter() {
                expect(timer.reset(HOUR) == Err(TimerError::Closed), "reset");
                expect(timer.delay(HOUR) == Err(TimerError::Closed), "delay");
                timer.unref();
                timer.reref();
                expect(timer.cancel() == Err(TimerError::Closed), "cancel");
            }
            seen.push((what, findings));
        })
    };
    for guard in [check("timer"), check("timer")] {
        let timer = reactor.call_later(HOUR, move |_| drop(guard));
        timers.borrow_mut().push(timer);
    }
    let guard = check("call");
    reactor.call_when_running(move |_| drop(guard));
    let (remote, asked) = (reactor.remote(), Arc::new(AtomicBool::new(false)));
    let (again, set) = (remote.clone(), Arc::clone(&asked));
    let guard = OnDrop(move || {
        again.stop();
        set.store(again.call_from_thread(|_| {}).is_err(), Ordering::Relaxed);
    });
    remote.call_from_thread(move |_| drop(guard)).unwrap();
    let guard = check("protocol");
    let protocol = OnDatagram(move |_: &DatagramTransport, _: &[u8]| {
        let _guard = &guard;
        Ok(())
    });
    reactor.listen_udp(ANY, protocol).unwrap();
    drop(reactor);
    let mut seen = seen.entries();
    seen.sort_unstable();
    let nothing = Vec::new;
    let all = ["call", "protocol", "timer", "timer"].map(|what| (what, nothing()));
    assert_eq!(seen, all);
    assert!(asked.load(Ordering::Relaxed));
}

#[test]
fn a_reactor_may_be_dropped_by_the_protocol_it_is_starting() {
    struct Last(Option<Reactor>, Log<bool>);
    impl DatagramProtocol for Last {
        fn start_protocol(&mut self, transport: &DatagramTransport) -> anyhow::Result<()> {
            drop(self.0.take());
            self.1.push(transport.write_to(b"x", ([127, 0, 0, 1], 9).into()).is_err());
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
    let reactor = Reactor::new().unwrap();
    let handle = reactor.listen_udp(ANY, Quiet).unwrap().reactor();
    let started = Log::new();
    let opened = handle.listen_udp(ANY, Last(Some(reactor), started.clone()));
    assert!(matches!(opened, Err(ListenError::Closed)));
    assert_eq!(started.entries(), [true]);
    assert!(handle.is_closed());
}
