//! Callbacks that fail: what is kept from whom, and who is told.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use strand_reactor::testing::{Script, SendStep};
use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Handle, ListenError, NetworkError, PortState,
    Reactor, StopReason, UdpOptions, WriteFailure,
};

use crate::support::{
    ANY, Log, OnDatagram, Quiet, capture, errno, peer, socket, turn_until, watchdog,
};

const NOW: Option<Duration> = Some(Duration::ZERO);

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum How {
    Errors,
    Panics,
}

/// Fails in every callback but the first.
pub(crate) struct Failing(pub(crate) How, pub(crate) Log<&'static str>);

impl Failing {
    fn fail(&self, what: &'static str) -> anyhow::Result<()> {
        self.1.push(what);
        match self.0 {
            How::Errors => Err(anyhow!("the cause").context(what)),
            How::Panics => panic!("{what}"),
        }
    }
}

impl DatagramProtocol for Failing {
    fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>) -> anyhow::Result<()> {
        self.fail("datagram_received")
    }
    fn connection_refused(&mut self, _: &DatagramTransport) -> anyhow::Result<()> {
        self.fail("connection_refused")
    }
    fn network_error(&mut self, _: &DatagramTransport, _: &NetworkError) -> anyhow::Result<()> {
        self.fail("network_error")
    }
    fn write_failed(&mut self, _: &DatagramTransport, _: &WriteFailure) -> anyhow::Result<()> {
        self.fail("write_failed")
    }
    fn pause_writing(&mut self, _: &DatagramTransport) -> anyhow::Result<()> {
        self.fail("pause_writing")
    }
    fn resume_writing(&mut self, _: &DatagramTransport) -> anyhow::Result<()> {
        self.fail("resume_writing")
    }
    fn stop_protocol(&mut self, _: &DatagramTransport, _: StopReason) {
        if self.0 == How::Panics {
            let _ = self.fail("stop_protocol");
        }
    }
}

/// Makes every callback of a port fail, one after the other.
fn every_callback_fails(reactor: &Reactor, how: How) -> (Log<&'static str>, DatagramTransport) {
    let (order, script) = (Log::new(), Script::new());
    let options = UdpOptions::parse(ANY).unwrap().label("the failing one").queue_limit(4, 1 << 20);
    let port = script.listen(reactor, options, Failing(how, order.clone())).unwrap();
    port.connect(peer()).unwrap();
    let turn = || assert!(reactor.iterate(NOW).unwrap());

    script.receive(peer(), b"x");
    turn();
    script.report(errno(io::ErrorKind::ConnectionRefused), peer(), peer().ip(), (3, 3), 0);
    turn();
    script.report(errno(io::ErrorKind::HostUnreachable), peer(), peer().ip(), (3, 1), 0);
    turn();
    script.answer_send(SendStep::Fail(errno(io::ErrorKind::PermissionDenied)));
    port.write(b"x").unwrap();
    turn();
    script.answer_send(SendStep::Fail(errno(io::ErrorKind::WouldBlock)));
    port.write(b"x").unwrap();
    port.write(b"x").unwrap();
    turn();
    script.make_writable();
    turn();
    (order, port)
}

const CALLBACKS: [&str; 6] = [
    "datagram_received",
    "connection_refused",
    "network_error",
    "write_failed",
    "pause_writing",
    "resume_writing",
];

#[test]
fn an_error_in_any_callback_is_counted_and_logged_and_the_port_goes_on() {
    let _watchdog = watchdog();
    let captured = capture(|| {});
    let reactor = Reactor::new().unwrap();
    let (order, port) = every_callback_fails(&reactor, How::Errors);
    assert_eq!(order.entries(), CALLBACKS);
    assert_eq!(port.state(), PortState::Open);
    let stats = port.stats().unwrap();
    assert_eq!((stats.callback_errors, stats.callback_panics, stats.unlogged_errors), (6, 0, 0));
    assert_eq!((reactor.stats().callback_errors, reactor.stats().callback_panics), (6, 0));
    // The label of the port, the name of the callback, and the chain of the error.
    for (record, what) in captured.errors().iter().zip(CALLBACKS) {
        assert!(record.contains("port=the failing one;"), "{record}");
        assert!(record.contains(&format!("callback={what};")), "{record}");
        assert!(record.contains(&format!("{what}: the cause")), "{record}");
    }
    assert_eq!(captured.errors().len(), 6);
}

#[test]
fn a_panic_in_any_callback_is_counted_and_logged_and_the_port_goes_on() {
    let _watchdog = watchdog();
    let captured = capture(|| {});
    let reactor = Reactor::new().unwrap();
    let (order, port) = every_callback_fails(&reactor, How::Panics);
    assert_eq!(order.entries(), CALLBACKS);
    let stats = port.stats().unwrap();
    assert_eq!((stats.callback_errors, stats.callback_panics), (0, 6));
    // The last callback cannot return an error, but it can panic: the port closes all the same.
    let closed = Rc::new(Cell::new(false));
    let set = Rc::clone(&closed);
    port.stop_listening_then(move |_| set.set(true)).unwrap();
    reactor.run().unwrap();
    assert!(closed.get() && port.state() == PortState::Closed);
    assert_eq!(reactor.stats().callback_panics, 7);
    for (record, what) in captured.errors().iter().zip(CALLBACKS.iter().chain(&["stop_protocol"])) {
        assert!(record.contains("port=the failing one;"), "{record}");
        assert!(record.contains(&format!("callback={what};")), "{record}");
        assert!(record.contains(&format!("callback panicked: {what}")), "{record}");
    }
    assert_eq!(captured.errors().len(), 7);
}

#[test]
fn a_panic_costs_one_datagram_and_not_its_batch() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let (heard, script) = (Log::new(), Script::new());
    let log = heard.clone();
    let protocol = OnDatagram(move |transport: &DatagramTransport, payload: &[u8]| {
        log.push(payload.to_vec());
        match payload {
            b"panic" => panic!("as asked"),
            b"error" => bail!("as asked"),
            _ => Ok(transport.write_to(payload, peer())?),
        }
    });
    let port = script.listen(&reactor, ANY, protocol).unwrap();
    let payloads: [&[u8]; 5] = [b"1", b"panic", b"2", b"error", b"3"];
    for payload in payloads {
        script.receive(peer(), payload);
    }
    reactor.iterate(NOW).unwrap();
    assert_eq!(heard.entries(), payloads);
    assert_eq!(port.stats().unwrap().batches_in, 1);
    // What was written before the failure is sent, and the transport works after it.
    let sent: Vec<_> = script.sent().into_iter().map(|sent| sent.payload).collect();
    assert_eq!(sent, [b"1", b"2", b"3"]);
}

#[test]
fn failures_of_one_port_hurt_no_other() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let bad = reactor.listen_udp(ANY, OnDatagram(|_: &_, _: &[u8]| panic!("always"))).unwrap();
    let heard = Rc::new(Cell::new(0));
    let count = Rc::clone(&heard);
    let good = OnDatagram(move |_: &_, _: &[u8]| {
        count.set(count.get() + 1);
        Ok(())
    });
    let good = reactor.listen_udp(ANY, good).unwrap();
    let sender = socket();
    for _ in 0..20 {
        sender.send_to(b"x", bad.local_addr().unwrap()).unwrap();
        sender.send_to(b"x", good.local_addr().unwrap()).unwrap();
    }
    turn_until(&reactor, || bad.stats().unwrap().callback_panics == 20 && heard.get() == 20);
    assert_eq!(good.stats().unwrap().callback_panics, 0);
}

#[test]
fn closures_that_fail_are_isolated_and_named() {
    let _watchdog = watchdog();
    let captured = capture(|| {});
    let reactor = Reactor::new().unwrap();
    let reached = Rc::new(Cell::new(0));
    let count = || {
        let reached = Rc::clone(&reached);
        move || reached.set(reached.get() + 1)
    };
    let fail = |what: &'static str| Err::<(), _>(anyhow!("the cause").context(what));
    let port = reactor.listen_udp(ANY, Quiet).unwrap();
    let to = port.local_addr().unwrap();
    let next = count();
    reactor.call_when_running(move |_| fail("the call"));
    reactor.call_when_running(move |_| next());
    let next = count();
    reactor.call_later(Duration::ZERO, move |_| fail("the timer"));
    reactor.call_later(Duration::ZERO, move |_| next());
    let next = count();
    port.write_then(b"x", to, move |_| fail("the completion")).unwrap();
    port.write_then(b"x", to, move |_| next()).unwrap();
    let next = count();
    reactor.iterate(NOW).unwrap();
    port.stop_listening_then(move |_| fail("the end")).unwrap();
    port.stop_listening_then(move |_| next()).unwrap();
    reactor.run().unwrap();
    assert_eq!(reached.get(), 4);
    assert_eq!(reactor.stats().callback_errors, 4);
    let whats = ["the call", "the timer", "the completion", "the end"];
    let names = ["posted call", "timer", "write completion", ""];
    for ((record, what), name) in captured.errors().iter().zip(whats).zip(names) {
        assert!(record.contains(&format!("{what}: the cause")), "{record}");
        assert!(record.contains(&format!("callback={name}")), "{record}");
    }
    assert_eq!(captured.errors().len(), 4);
}

#[test]
fn the_log_of_a_port_is_bounded_and_what_is_left_out_is_counted() {
    let _watchdog = watchdog();
    let captured = capture(|| {});
    let reactor = Reactor::new().unwrap();
    let script = Script::new();
    let failing = || OnDatagram(|_: &_, _: &[u8]| bail!("again"));
    let port = script.listen(&reactor, ANY, failing()).unwrap();
    for _ in 0..1000 {
        script.receive(peer(), b"x");
    }
    turn_until(&reactor, || port.stats().unwrap().callback_errors == 1000);
    assert_eq!(captured.errors().len(), 10);
    assert_eq!(port.stats().unwrap().unlogged_errors, 990);

    // The bound is each port's own.
    let (other, script) = (Script::new(), script);
    let options = UdpOptions::parse(ANY).unwrap().label("another");
    other.listen(&reactor, options, failing()).unwrap();
    script.receive(peer(), b"x");
    other.receive(peer(), b"x");
    turn_until(&reactor, || reactor.stats().callback_errors == 1002);
    assert_eq!(captured.errors().len(), 11);
    assert!(captured.errors()[10].contains("port=another;"));

    // And one for all that belongs to no port.
    for _ in 0..100 {
        reactor.call_when_running(|_| Err::<(), _>(fmt::Error));
    }
    reactor.iterate(NOW).unwrap();
    assert_eq!(captured.errors().len(), 21);
    assert_eq!(reactor.stats().callback_errors, 1102);
}

#[test]
fn a_port_has_a_label_that_can_be_changed() {
    let _watchdog = watchdog();
    let captured = capture(|| {});
    let reactor = Reactor::new().unwrap();
    let port = reactor.listen_udp(ANY, OnDatagram(|_: &_, _: &[u8]| bail!("no"))).unwrap();
    let address = port.local_addr().unwrap();
    assert_eq!(port.label(), format!("udp {address}"));
    port.set_label("dns").unwrap();
    assert_eq!(port.label(), "dns");
    socket().send_to(b"x", address).unwrap();
    turn_until(&reactor, || port.stats().unwrap().callback_errors == 1);
    assert!(captured.errors()[0].contains("port=dns;"), "{:?}", captured.errors());
}

#[test]
fn a_failing_start_closes_the_port_and_is_returned() {
    struct NotToday(How, Rc<Cell<Option<SocketAddr>>>);
    impl DatagramProtocol for NotToday {
        fn start_protocol(&mut self, transport: &DatagramTransport) -> anyhow::Result<()> {
            self.1.set(Some(transport.local_addr()?));
            match self.0 {
                How::Errors => Err(io::Error::from(io::ErrorKind::NotFound)).context("the table"),
                How::Panics => panic!("the roof is on fire"),
            }
        }
        fn datagram_received(
            &mut self,
            _: &DatagramTransport,
            _: Datagram<'_>,
        ) -> anyhow::Result<()> {
            Ok(())
        }
        fn stop_protocol(&mut self, _: &DatagramTransport, _: StopReason) {
            panic!("it never started");
        }
    }
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let address = Rc::new(Cell::new(None));
    for how in [How::Errors, How::Panics] {
        let error = reactor.listen_udp(ANY, NotToday(how, Rc::clone(&address))).unwrap_err();
        let ListenError::Protocol(reason) = &error else { panic!("{error:?}") };
        match how {
            How::Errors => {
                assert_eq!(
                    reason.downcast_ref::<io::Error>().unwrap().kind(),
                    io::ErrorKind::NotFound
                );
            }
            How::Panics => assert!(reason.to_string().contains("the roof is on fire")),
        }
        // Nothing is left behind: the number is free, and there is nothing to run for.
        UdpSocket::bind(address.take().unwrap()).unwrap();
        assert!(reactor.datagram_ports().is_empty());
        reactor.run().unwrap();
    }
    // It was returned, so it is nobody's surprise: neither counted nor logged.
    assert_eq!((reactor.stats().callback_errors, reactor.stats().callback_panics), (0, 0));
}

/// Expects a panic with this text to come out of `run`.
#[track_caller]
fn panics_out_of(run: impl FnOnce(), text: &str) {
    let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&text));
}

#[test]
fn panics_are_let_through_on_request_and_the_reactor_runs_again() {
    let _watchdog = watchdog();
    let reactor = Reactor::builder().catch_panics(false).build().unwrap();
    let (heard, script) = (Log::new(), Script::new());
    let log = heard.clone();
    let protocol = OnDatagram(move |transport: &DatagramTransport, payload: &[u8]| {
        log.push(payload.to_vec());
        match payload {
            b"panic" => panic!("a datagram"),
            b"stop" => transport.reactor().stop(),
            _ => {}
        }
        Ok(())
    });
    let port = script.listen(&reactor, ANY, protocol).unwrap();
    let payloads: [&[u8]; 4] = [b"1", b"panic", b"2", b"stop"];
    for payload in payloads {
        script.receive(peer(), payload);
    }
    reactor.call_later(Duration::from_secs(3600), |_| {});
    panics_out_of(|| reactor.run().unwrap(), "a datagram");
    assert_eq!(heard.entries(), [&b"1"[..], b"panic"]);
    assert!(!reactor.is_running());
    assert_eq!(port.state(), PortState::Open);
    // The protocol is attached still, and the rest of the batch was kept for it.
    reactor.run().unwrap();
    assert_eq!(heard.entries(), payloads);
    assert_eq!(reactor.stats().callback_panics, 1);
}

#[test]
fn a_panic_let_through_by_a_closure_leaves_the_rest_for_the_next_run() {
    let _watchdog = watchdog();
    let reactor = Reactor::builder().catch_panics(false).build().unwrap();
    let order = Log::new();
    let log = |what| {
        let order = order.clone();
        move |_: &Handle| order.push(what)
    };
    reactor.call_when_running(|_| -> () { panic!("a call") });
    reactor.call_when_running(log("call"));
    reactor.call_later(Duration::ZERO, |_| -> () { panic!("a timer") });
    reactor.call_later(Duration::ZERO, log("timer"));
    let port = reactor.listen_udp(ANY, Quiet).unwrap();
    let to = port.local_addr().unwrap();
    panics_out_of(|| reactor.run().unwrap(), "a call");
    assert!(order.entries().is_empty());
    panics_out_of(|| reactor.run().unwrap(), "a timer");
    assert_eq!(order.entries(), ["call"]);
    port.write_then(b"x", to, |_| -> () { panic!("a completion") }).unwrap();
    panics_out_of(|| while reactor.iterate(NOW).unwrap() {}, "a completion");
    assert_eq!(order.entries(), ["call", "timer"]);
    // Errors stay where they were: logged and counted.
    reactor.call_when_running(|_| bail!("an error"));
    reactor.iterate(NOW).unwrap();
    assert_eq!((reactor.stats().callback_errors, reactor.stats().callback_panics), (1, 3));
}

#[test]
fn a_panic_let_through_by_reports_and_ends_leaves_the_port_in_order() {
    let _watchdog = watchdog();
    let reactor = Reactor::builder().catch_panics(false).build().unwrap();
    let (order, script) = (Log::new(), Script::new());
    let port = script.listen(&reactor, ANY, Failing(How::Panics, order.clone())).unwrap();
    port.connect(peer()).unwrap();
    script.report(errno(io::ErrorKind::ConnectionRefused), peer(), peer().ip(), (3, 3), 0);
    let caught = catch_unwind(AssertUnwindSafe(|| reactor.run().unwrap())).unwrap_err();
    assert_eq!(caught.downcast_ref::<String>().unwrap(), "connection_refused");
    assert_eq!(port.state(), PortState::Open);

    let closed = Rc::new(Cell::new(false));
    let set = Rc::clone(&closed);
    port.stop_listening_then(move |_| set.set(true)).unwrap();
    let caught = catch_unwind(AssertUnwindSafe(|| reactor.run().unwrap())).unwrap_err();
    assert_eq!(caught.downcast_ref::<String>().unwrap(), "stop_protocol");
    assert!(script.is_closed() && port.state() == PortState::Closed);
    reactor.run().unwrap();
    assert!(closed.get());
}

#[test]
fn a_panic_let_through_by_start_protocol_leaves_nothing_behind() {
    struct Panics(Rc<Cell<Option<SocketAddr>>>);
    impl DatagramProtocol for Panics {
        fn start_protocol(&mut self, transport: &DatagramTransport) -> anyhow::Result<()> {
            self.0.set(Some(transport.local_addr()?));
            panic!("at the start");
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
    let reactor = Reactor::builder().catch_panics(false).build().unwrap();
    let address = Rc::new(Cell::new(None));
    panics_out_of(|| drop(reactor.listen_udp(ANY, Panics(Rc::clone(&address)))), "at the start");
    UdpSocket::bind(address.take().unwrap()).unwrap();
    assert!(reactor.datagram_ports().is_empty());
    // From a callback, it is that callback's panic.
    let taken = Rc::clone(&address);
    reactor.call_when_running(move |handle| drop(handle.listen_udp(ANY, Panics(taken))));
    panics_out_of(|| reactor.run().unwrap(), "at the start");
    UdpSocket::bind(address.take().unwrap()).unwrap();
    reactor.run().unwrap();
}
