//! Stream sockets of which others have a descriptor, too: shared ones, and duplicates of ours.

#[path = "common/watchdog.rs"]
mod watchdog;

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use strand_reactor::{
    AdoptError, ConnectionLost, Handle, PeerAddr, PortState, Protocol, Reactor, TcpOptions,
    Transport,
};

use watchdog::watchdog;

type Log = Rc<RefCell<Vec<String>>>;

/// Echoes, and notes what it is told.
struct Echo(Log);

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
        self.0.borrow_mut().push(String::from_utf8_lossy(data).into_owned());
        Ok(transport.write(data)?)
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        self.0.borrow_mut().push(format!("{reason:?}"));
    }
}

fn turn_until(reactor: &Reactor, mut done: impl FnMut() -> bool) {
    while !done() {
        reactor.iterate(Some(Duration::from_millis(20))).expect("a turn");
        assert_eq!(reactor.stats().callback_panics, 0);
    }
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
    (near, listener.accept().expect("the other end").0)
}

fn blocks(socket: &impl AsFd) -> bool {
    !SockRef::from(socket).nonblocking().expect("flags")
}

/// Whether the loop sleeps until its next timer, with nothing to do.
#[track_caller]
fn assert_sleeps(reactor: &Reactor) {
    let slept = Rc::new(Cell::new(false));
    let told = Rc::clone(&slept);
    reactor.call_later(Duration::from_millis(20), move |_: &Handle| told.set(true));
    let before = reactor.stats();
    while !slept.get() {
        reactor.iterate(None).expect("a turn");
    }
    let after = reactor.stats();
    assert!(after.turns - before.turns < 10, "the loop spins: {after:?}");
    assert_eq!(after.stale_events, before.stale_events, "events for what is closed");
}

#[test]
fn a_shared_connection_leaves_the_flags_of_the_original_and_never_waits() {
    let _watchdog = watchdog();
    let (reactor, log) = (Reactor::new().expect("a reactor"), Log::default());
    let (near, mut far) = pair();
    let transport =
        reactor.adopt_stream_connection_shared(&near, Echo(Rc::clone(&log))).expect("adopted");
    // Both ways would block: there is nothing to read, and then no room to write.
    turn_until(&reactor, || reactor.stats().turns > 3);
    assert!(blocks(&near), "the original waits as before");
    let much = vec![b'x'; 8 << 20];
    transport.write(&much).expect("open");
    turn_until(&reactor, || transport.stats().expect("open").would_block > 0);
    assert!(transport.queued_bytes() > 0 && blocks(&near));
    let reader = std::thread::spawn(move || {
        let mut back = vec![0; 8 << 20];
        far.read_exact(&mut back).expect("all of it");
        far.write_all(b"hello").expect("sent");
        (back, far)
    });
    turn_until(&reactor, || !log.borrow().is_empty());
    let (back, far) = reader.join().expect("the peer is content");
    assert!(back == much);
    assert_eq!(*log.borrow(), ["hello"]);
    drop(far);
}

#[test]
fn the_original_outlives_a_shared_connection_that_was_dropped() {
    let _watchdog = watchdog();
    let log = Log::default();
    let (mut near, mut far) = pair();
    let reactor = Reactor::new().expect("a reactor");
    reactor.adopt_stream_connection_shared(&near, Echo(Rc::clone(&log))).expect("adopted");
    far.write_all(b"one").expect("sent");
    turn_until(&reactor, || !log.borrow().is_empty());
    drop(reactor);
    let mut back = [0; 3];
    far.read_exact(&mut back).expect("the echo");
    far.write_all(b"two").expect("sent");
    near.read_exact(&mut back).expect("of the original");
    assert_eq!(&back, b"two");
    near.write_all(b"and").expect("sent");
    far.read_exact(&mut back).expect("of the original");
}

#[test]
fn closing_a_shared_connection_tells_the_peer_its_end_and_spins_nothing() {
    let _watchdog = watchdog();
    let (reactor, log) = (Reactor::new().expect("a reactor"), Log::default());
    let (near, mut far) = pair();
    let transport =
        reactor.adopt_stream_connection_shared(&near, Echo(Rc::clone(&log))).expect("adopted");
    transport.write(b"bye").expect("open");
    transport.lose_connection();
    let peer = std::thread::spawn(move || {
        let mut all = Vec::new();
        far.read_to_end(&mut all).expect("an orderly end");
        (all, far)
    });
    turn_until(&reactor, || peer.is_finished());
    let (all, far) = peer.join().expect("the peer is content");
    assert_eq!(all, b"bye");
    drop(far);
    turn_until(&reactor, || !log.borrow().is_empty());
    assert_eq!(*log.borrow(), ["Done"]);
    // The original reads as ended for ever.
    assert_sleeps(&reactor);
    assert!(blocks(&near));
}

/// What a peer sees of an abort although others hold the connection, too.
#[track_caller]
fn assert_reset(reactor: &Reactor, log: &Log, mut far: TcpStream) {
    turn_until(reactor, || !log.borrow().is_empty());
    assert_eq!(*log.borrow(), ["Aborted"]);
    let error = far.read(&mut [0; 8]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_sleeps(reactor);
}

#[test]
fn an_abort_resets_whoever_else_holds_the_connection() {
    if !cfg!(any(target_os = "linux", target_os = "android")) {
        println!("skipped: only Linux resets a connection that others hold");
        return;
    }
    let _watchdog = watchdog();
    let (reactor, log) = (Reactor::new().expect("a reactor"), Log::default());
    let (near, far) = pair();
    let transport =
        reactor.adopt_stream_connection_shared(&near, Echo(Rc::clone(&log))).expect("adopted");
    transport.abort_connection();
    assert_reset(&reactor, &log, far);

    // Of one that is ours, with a duplicate elsewhere.
    let (log, (near, far)) = (Log::default(), pair());
    let transport = reactor.adopt_stream_connection(near, Echo(Rc::clone(&log))).expect("adopted");
    let duplicate = duplicate(&transport);
    transport.abort_connection();
    assert_reset(&reactor, &log, far);
    drop(duplicate);
}

fn duplicate(transport: &Transport) -> OwnedFd {
    transport.with_fd(|fd| fd.try_clone_to_owned()).expect("open").expect("a duplicate")
}

#[test]
fn a_duplicate_kept_elsewhere_does_not_wake_the_loop_once_the_connection_is_closed() {
    let _watchdog = watchdog();
    let (reactor, log) = (Reactor::new().expect("a reactor"), Log::default());
    let protocol_log = Rc::clone(&log);
    // Closed at once, whatever the peer does.
    let options =
        TcpOptions::parse("127.0.0.1:0").expect("an address").close_timeout(Duration::ZERO);
    let port = reactor
        .listen_tcp(options, move |_: PeerAddr| Some(Echo(Rc::clone(&protocol_log))))
        .expect("a port");
    let address = port.local_addr().expect("bound");
    // Accepted; connected by a client; closed by either side, in order or not.
    let mut kept = Vec::new();
    let client_log = Log::default();
    let shared = Rc::clone(&client_log);
    reactor
        .connect_tcp(address, move |_: PeerAddr| Some(Echo(Rc::clone(&shared))))
        .expect("an attempt");
    turn_until(&reactor, || reactor.streams().len() == 2);
    for transport in reactor.streams() {
        kept.push(duplicate(&transport));
    }
    reactor.streams()[0].lose_connection();
    turn_until(&reactor, || reactor.streams().is_empty());
    assert_sleeps(&reactor);

    // The peer goes on sending to one that was closed for good.
    let mut far = TcpStream::connect(address).expect("a connection");
    turn_until(&reactor, || reactor.streams().len() == 1);
    kept.push(duplicate(&reactor.streams()[0]));
    reactor.streams()[0].lose_connection();
    turn_until(&reactor, || reactor.streams().is_empty());
    far.write_all(b"more").expect("sent");
    assert_sleeps(&reactor);
    drop(far);
    assert_sleeps(&reactor);

    // A port, with those who go on connecting to it.
    let listening = port.with_fd(|fd| fd.try_clone_to_owned()).expect("open").expect("one");
    port.stop_listening();
    turn_until(&reactor, || port.state() == PortState::Closed);
    let _waits = TcpStream::connect(address).expect("the duplicate listens");
    assert_sleeps(&reactor);
    drop((kept, listening));
}

#[test]
fn a_shared_listener_shares_connections_and_goes_on_without_its_port() {
    let _watchdog = watchdog();
    let (reactor, log) = (Reactor::new().expect("a reactor"), Log::default());
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let echo = |log: &Log| {
        let log = Rc::clone(log);
        move |_: PeerAddr| Some(Echo(Rc::clone(&log)))
    };
    // Two ports on one socket, beside the original.
    let ports =
        [(); 2].map(|()| reactor.adopt_stream_port_shared(&listener, echo(&log)).expect("adopted"));
    assert!(ports.iter().all(|port| port.local_addr().ok() == Some(address)));
    let accepted = || ports.iter().map(|port| port.stats().expect("open").accepted).sum::<u64>();
    let clients: Vec<_> =
        (0..10).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    turn_until(&reactor, || accepted() == 10);
    drop(clients);
    turn_until(&reactor, || reactor.streams().is_empty());
    // The one flag that cannot be left alone, for accept(2) has none of its own.
    assert!(!blocks(&listener));
    assert_eq!(listener.accept().expect_err("nobody waits").kind(), ErrorKind::WouldBlock);

    for port in &ports {
        port.stop_listening();
    }
    turn_until(&reactor, || ports.iter().all(|port| port.state() == PortState::Closed));
    let waits = TcpStream::connect(address).expect("the original listens");
    listener.set_nonblocking(false).expect("a flag");
    assert_eq!(listener.accept().expect("one").1, waits.local_addr().expect("bound"));
    assert_sleeps(&reactor);
}

#[test]
fn a_duplicate_in_a_child_changes_nothing() {
    let _watchdog = watchdog();
    let (reactor, log) = (Reactor::new().expect("a reactor"), Log::default());
    let (near, far) = pair();
    // A child holds the connection as its input until it is told to go.
    let (hold, held) = UnixStream::pair().expect("a pair");
    let child = std::process::Command::new("cat")
        .stdin(OwnedFd::from(held))
        .stdout(OwnedFd::from(near.try_clone().expect("a duplicate")))
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return println!("skipped: no cat to hold a descriptor: {error}"),
    };
    let transport = reactor.adopt_stream_connection(near, Echo(Rc::clone(&log))).expect("adopted");
    transport.lose_connection();
    let peer = std::thread::spawn(move || {
        let mut far: TcpStream = far;
        let mut all = Vec::new();
        far.read_to_end(&mut all).expect("an orderly end").to_string()
    });
    turn_until(&reactor, || !log.borrow().is_empty());
    assert_eq!(*log.borrow(), ["Done"]);
    assert_eq!(peer.join().expect("the peer is content"), "0");
    assert_sleeps(&reactor);
    drop(hold);
    child.wait().expect("it ends");
}

#[test]
fn what_cannot_be_shared_is_an_error_and_unharmed() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().expect("a reactor");
    let factory = |_: PeerAddr| None::<Echo>;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (near, _far) = pair();
    let error = reactor.adopt_stream_port_shared(&near, factory).unwrap_err();
    assert!(matches!(error, AdoptError::NotStream { .. }), "{error}");
    let echo = Echo(Log::default());
    let error = reactor.adopt_stream_connection_shared(&listener, echo).unwrap_err();
    assert!(matches!(error, AdoptError::NotStream { .. }), "{error}");
    assert!(blocks(&listener) && blocks(&near), "what is refused is left alone");
    let address: SocketAddr = listener.local_addr().expect("open still");
    assert_ne!(address.port(), 0);
}
