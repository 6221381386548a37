//! User code that calls back from where one forgets that it runs: subscribers, errors being
//! written, `Drop`; and protocols that the program shares.

use std::cell::Cell;
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::bail;
use strand_reactor::testing::Script;
use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, ListenError, ProtocolBorrowed, Reactor,
    StopReason, UdpOptions, WriteError,
};

use crate::errors::{Failing, How};
use crate::support::{
    ANY, Log, OnDatagram, OnDrop, Quiet, capture, drop_flag, errno, peer, socket, turn_until,
    watchdog,
};

const NOW: Option<Duration> = Some(Duration::ZERO);

thread_local! {
    /// What a subscriber or an error of this thread calls back into.
    static PORT: RefCell<Option<DatagramTransport>> = const { RefCell::new(None) };
    static CALLS: Cell<u32> = const { Cell::new(0) };
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Uses whatever could be borrowed.
fn use_everything() {
    if BUSY.replace(true) {
        return;
    }
    if let Some(port) = PORT.with_borrow(Clone::clone) {
        let handle = port.reactor();
        CALLS.set(CALLS.get() + 1);
        let _ = (handle.stats(), handle.now(), handle.datagram_ports(), handle.pending_timers());
        let _ = (port.stats(), port.label(), port.state(), port.local_addr());
        let _ = port.write_to(b"from the log", peer());
        let _ = port.set_label("renamed by the log");
        handle.call_later(Duration::from_secs(1), |_| {}).cancel().unwrap();
        if CALLS.get() < 20 {
            // Its opening and its end are events, too.
            handle.listen_udp(ANY, Quiet).unwrap().stop_listening();
        }
    }
    BUSY.set(false);
}

#[test]
fn a_subscriber_may_call_back_into_the_reactor() {
    let _watchdog = watchdog();
    let captured = capture(use_everything);
    let reactor = Reactor::new().unwrap();
    let script = Script::new();
    let options = UdpOptions::parse(ANY).unwrap().error_queue(true);
    let port = script.listen(&reactor, options, Failing(How::Panics, Log::new())).unwrap();
    PORT.set(Some(port.clone()));
    script.receive(peer(), b"x");
    reactor.iterate(NOW).unwrap();
    script.report(errno(io::ErrorKind::HostUnreachable), peer(), peer().ip(), (3, 1), 0);
    reactor.iterate(NOW).unwrap();
    reactor.call_when_running(|_| bail!("a call"));
    reactor.call_later(Duration::ZERO, |_| bail!("a timer"));
    let other = reactor.listen_udp(ANY, Quiet).unwrap();
    other.stop_listening();
    port.stop_listening();
    reactor.run().unwrap();
    PORT.take();
    // Two callbacks, a call, a timer, an opening, a panic at the end and two closings at least.
    assert!(CALLS.get() >= 8, "{}", CALLS.get());
    assert_eq!(captured.errors().len(), 5, "{:?}", captured.errors());
    assert!(script.sent().iter().any(|sent| sent.payload == b"from the log"));
    assert!(reactor.datagram_ports().is_empty());
}

/// An error that reaches for the reactor when it is written and when it is dropped.
struct Nosy;

impl fmt::Debug for Nosy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Nosy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use_everything();
        f.write_str("nosy")
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        use_everything();
    }
}

impl std::error::Error for Nosy {}

#[test]
fn an_error_may_call_the_reactor_while_it_is_written_and_dropped() {
    thread_local! {
        static MADE: Cell<u32> = const { Cell::new(0) };
    }
    // anyhow asks for errors that could cross threads, so that it cannot hold a handle itself.
    let _watchdog = watchdog();
    let captured = capture(|| {});
    let reactor = Reactor::new().unwrap();
    let script = Script::new();
    let protocol = OnDatagram(|_: &_, _: &[u8]| {
        MADE.set(MADE.get() + 1);
        Err(Nosy.into())
    });
    let port = script.listen(&reactor, ANY, protocol).unwrap();
    PORT.set(Some(port.clone()));
    // Also those that are not logged any more are dropped with nothing borrowed.
    for _ in 0..20 {
        script.receive(peer(), b"x");
    }
    turn_until(&reactor, || MADE.get() == 20);
    reactor.call_when_running(|_| Err::<(), _>(Nosy));
    reactor.iterate(NOW).unwrap();
    PORT.take();
    assert_eq!(captured.errors().len(), 11);
    assert!(captured.errors().iter().all(|record| record.contains("nosy")));
    // Eleven were written, and all twenty-one dropped.
    assert_eq!(CALLS.get(), 11 + 21);
    assert_eq!(reactor.stats().callback_panics, 0);
}

#[test]
fn a_protocol_may_call_the_reactor_from_its_drop() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let own = Rc::new(RefCell::new(None::<(DatagramTransport, SocketAddr)>));
    let (hand, seen) = (Rc::clone(&own), Log::new());
    let log = seen.clone();
    let guard = OnDrop(move || {
        let (port, address) = hand.take().unwrap();
        log.push(matches!(port.write_to(b"x", address), Err(WriteError::Closed)));
        // The number is free already.
        let again = port.reactor().listen_udp(address, Quiet).unwrap();
        log.push(again.local_addr().unwrap() == address);
        again.stop_listening();
    });
    let protocol = OnDatagram(move |_: &_, _: &[u8]| {
        let _guard = &guard;
        Ok(())
    });
    let port = reactor.listen_udp(ANY, protocol).unwrap();
    *own.borrow_mut() = Some((port.clone(), port.local_addr().unwrap()));
    port.stop_listening();
    reactor.run().unwrap();
    assert_eq!(seen.entries(), [true, true]);
    assert_eq!(reactor.stats().callback_panics, 0);
}

#[test]
fn a_completion_that_was_refused_is_dropped_with_nothing_borrowed() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let port = reactor.listen_udp(ANY, Quiet).unwrap();
    let to = port.local_addr().unwrap();
    let (hand, dropped) = (port.clone(), Rc::new(Cell::new(0)));
    let count = Rc::clone(&dropped);
    let done = OnDrop(move || {
        hand.write_to(b"x", to).unwrap();
        hand.reactor().call_later(Duration::ZERO, |_| {}).cancel().unwrap();
        count.set(count.get() + 1);
    });
    let long = vec![0; 70_000];
    let refused = port.write_then(&long, to, move |_| drop(done));
    assert!(matches!(refused, Err(WriteError::TooLong { .. })));
    assert_eq!(dropped.get(), 1);

    // The same for a port that is closed.
    port.stop_listening();
    reactor.run().unwrap();
    let (captured, flag) = drop_flag();
    let refused = port.write_then(b"x", to, move |_| drop(captured));
    assert!(matches!(refused, Err(WriteError::Closed)));
    assert!(flag.get());
}

/// Counts what it hears; the program keeps a hand on it.
#[derive(Default)]
struct Shared {
    heard: u32,
    ended: bool,
}

impl DatagramProtocol for Shared {
    fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>) -> anyhow::Result<()> {
        self.heard += 1;
        Ok(())
    }
    fn stop_protocol(&mut self, _: &DatagramTransport, _: StopReason) {
        self.ended = true;
    }
}

#[test]
fn a_shared_protocol_is_called_and_can_be_looked_at() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let shared = Rc::new(RefCell::new(Shared::default()));
    let port = reactor.listen_udp(ANY, Rc::clone(&shared)).unwrap();
    socket().send_to(b"x", port.local_addr().unwrap()).unwrap();
    turn_until(&reactor, || shared.borrow().heard == 1);
    port.stop_listening();
    reactor.run().unwrap();
    assert!(shared.borrow().ended);
    // The reactor let go of it.
    assert_eq!(Rc::strong_count(&shared), 1);
}

#[test]
fn a_shared_protocol_that_is_borrowed_is_an_error_of_its_own() {
    let _watchdog = watchdog();
    let captured = capture(|| {});
    let reactor = Reactor::new().unwrap();
    let shared = Rc::new(RefCell::new(Shared::default()));
    {
        let _borrowed = shared.borrow();
        let refused = reactor.listen_udp(ANY, Rc::clone(&shared)).unwrap_err();
        let ListenError::Protocol(reason) = refused else { panic!("{refused}") };
        assert_eq!(reason.downcast_ref::<ProtocolBorrowed>(), Some(&ProtocolBorrowed));
    }
    let script = Script::new();
    let port = script.listen(&reactor, ANY, Rc::clone(&shared)).unwrap();
    {
        let _borrowed = shared.borrow();
        script.receive(peer(), b"x");
        reactor.iterate(NOW).unwrap();
    }
    assert_eq!(port.stats().unwrap().callback_errors, 1);
    assert!(captured.errors()[0].contains("RefCell is borrowed"), "{:?}", captured.errors());
    // Nothing is lost but that datagram.
    script.receive(peer(), b"x");
    reactor.iterate(NOW).unwrap();
    assert_eq!(shared.borrow().heard, 1);
    {
        let _borrowed = shared.borrow_mut();
        port.stop_listening();
        reactor.run().unwrap();
    }
    assert!(script.is_closed() && !shared.borrow().ended);
    assert!(captured.errors()[1].contains("stop_protocol"), "{:?}", captured.errors());
}

#[test]
fn a_boxed_protocol_hears_every_callback() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let (order, script) = (Log::new(), Script::new());
    let boxed: Box<dyn DatagramProtocol> = Box::new(Failing(How::Panics, order.clone()));
    let port = script.listen(&reactor, UdpOptions::parse(ANY).unwrap(), boxed).unwrap();
    port.connect(peer()).unwrap();
    script.receive(peer(), b"x");
    script.report(errno(io::ErrorKind::ConnectionRefused), peer(), peer().ip(), (3, 3), 0);
    reactor.iterate(NOW).unwrap();
    port.stop_listening();
    reactor.run().unwrap();
    assert_eq!(order.entries(), ["datagram_received", "connection_refused", "stop_protocol"]);
}

/// What a panic may carry at worst.
struct Spiteful;

impl Drop for Spiteful {
    fn drop(&mut self) {
        panic!("dropped, on purpose");
    }
}

#[test]
fn a_caught_panic_whose_value_panics_when_dropped_ends_no_turn() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let called = Rc::new(Cell::new(false));
    let calling = Rc::clone(&called);
    reactor.call_when_running(|_| -> () { std::panic::panic_any(Spiteful) });
    reactor.call_when_running(move |_| calling.set(true));
    reactor.run().unwrap();
    assert!(called.get());
    assert_eq!(reactor.stats().callback_panics, 1);
}
