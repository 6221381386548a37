//! Clients: connecting, failing, stopping, connecting again.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::{
    ClientFactory, ConnectError, ConnectOptions, ConnectionLost, Connector, ConnectorState,
    PeerAddr, Protocol,
};

use crate::support::*;

type Build = Box<dyn FnMut() -> Option<Recorder>>;

/// Notes what it is told, and connects again so many times.
struct Client {
    log: Log,
    build: Build,
    again: u32,
    start: bool,
}

impl Client {
    fn new(log: &Log, build: impl FnMut() -> Option<Recorder> + 'static) -> Self {
        Self { log: Rc::clone(log), build: Box::new(build), again: 0, start: true }
    }

    fn end(&mut self, connector: &Connector, what: String) -> anyhow::Result<()> {
        assert_eq!(connector.state(), ConnectorState::Disconnected);
        note(&self.log, what);
        if self.again > 0 {
            self.again -= 1;
            connector.connect()?;
        }
        Ok(())
    }
}

impl ClientFactory for Client {
    fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> {
        (self.build)().map(|protocol| Box::new(protocol) as Box<dyn Protocol>)
    }

    fn started_connecting(&mut self, connector: &Connector) -> anyhow::Result<()> {
        assert_eq!(connector.state(), ConnectorState::Connecting);
        note(&self.log, "started");
        anyhow::ensure!(self.start, "not today");
        Ok(())
    }

    fn client_connection_failed(
        &mut self,
        connector: &Connector,
        error: &ConnectError,
    ) -> anyhow::Result<()> {
        self.end(connector, format!("failed: {error:?}"))
    }

    fn client_connection_lost(
        &mut self,
        connector: &Connector,
        reason: &ConnectionLost,
    ) -> anyhow::Result<()> {
        self.end(connector, format!("client lost: {reason}"))
    }
}

fn held() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

#[test]
fn nothing_but_started_connecting_runs_inside_the_call() {
    let (reactor, log) = (reactor(), log());
    let (_listener, address) = held();
    let inner = Rc::clone(&log);
    let client = Client::new(&log, move || {
        Some(Recorder::new(&inner).made(|transport| {
            transport.abort_connection();
            Ok(())
        }))
    });
    let connector = reactor.connect_tcp(address, client).expect("an attempt");
    assert_eq!(*log.borrow(), ["started"]);
    assert_eq!(connector.state(), ConnectorState::Connecting);
    assert!(matches!(connector.connect(), Err(ConnectError::IsConnecting)));
    assert!(reactor.streams().is_empty());
    run(&reactor);
    assert_eq!(*log.borrow(), ["started", "made", "lost: Aborted", "client lost: aborted"]);
}

#[test]
fn a_refusal_is_told_with_the_systems_error() {
    let (reactor, log) = (reactor(), log());
    reactor.connect_tcp(nobody(), Client::new(&log, || None)).expect("an attempt");
    run(&reactor);
    assert_eq!(log.borrow().len(), 2, "{log:?}");
    assert!(log.borrow()[1].contains("Refused"), "{log:?}");
}

#[test]
fn a_factory_that_does_not_start_makes_no_attempt() {
    let (reactor, log) = (reactor(), log());
    let (listener, address) = held();
    let client = Client { start: false, ..Client::new(&log, || None) };
    let error = reactor.connect_tcp(address, client).expect_err("not started");
    assert!(matches!(error, ConnectError::Factory(_)), "{error:?}");
    run(&reactor);
    assert_eq!(*log.borrow(), ["started"]);
    listener.set_nonblocking(true).expect("an option");
    assert_eq!(listener.accept().map_err(|error| error.kind()).err(), Some(ErrorKind::WouldBlock));
}

#[test]
fn an_unanswered_attempt_times_out_once() {
    let (reactor, log) = (reactor(), log());
    let full =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("one");
    full.bind(&"127.0.0.1:0".parse::<SocketAddr>().expect("an address").into()).expect("bound");
    full.listen(0).expect("listening");
    let address = full.local_addr().expect("bound").as_socket().expect("of IP");
    let _fits = TcpStream::connect(address).expect("the one that fits");
    let options = ConnectOptions::new(address).timeout(Duration::from_millis(30));
    reactor.connect_tcp(options, Client::new(&log, || None)).expect("an attempt");
    run(&reactor);
    assert_eq!(*log.borrow(), ["started", "failed: TimedOut"]);
}

#[test]
fn an_attempt_can_be_stopped_from_started_connecting() {
    struct Stops(Log);
    impl ClientFactory for Stops {
        fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> {
            panic!("the attempt was stopped")
        }
        fn started_connecting(&mut self, connector: &Connector) -> anyhow::Result<()> {
            Ok(connector.stop_connecting()?)
        }
        fn client_connection_failed(
            &mut self,
            _: &Connector,
            error: &ConnectError,
        ) -> anyhow::Result<()> {
            note(&self.0, format!("{error:?}"));
            Ok(())
        }
    }
    let (reactor, log) = (reactor(), log());
    let (_listener, address) = held();
    reactor.connect_tcp(address, Stops(Rc::clone(&log))).expect("an attempt");
    run(&reactor);
    assert_eq!(*log.borrow(), ["Cancelled"]);
}

#[test]
fn an_attempt_that_is_stopped_fails_once_with_cancelled() {
    let (reactor, log) = (reactor(), log());
    let (_listener, address) = held();
    let client = Client::new(&log, || panic!("the attempt was stopped"));
    let connector = reactor.connect_tcp(address, client).expect("an attempt");
    connector.disconnect();
    let _ = connector.stop_connecting();
    run(&reactor);
    assert_eq!(*log.borrow(), ["started", "failed: Cancelled"]);
    assert!(matches!(connector.stop_connecting(), Err(ConnectError::NotConnecting)));
}

#[test]
fn disconnecting_closes_the_connection_in_order() {
    let (reactor, log) = (reactor(), log());
    let (listener, address) = held();
    let inner = Rc::clone(&log);
    let client = Client::new(&log, move || Some(Recorder::new(&inner)));
    let connector = reactor.connect_tcp(address, client).expect("an attempt");
    turn_until(&reactor, || connector.state() == ConnectorState::Connected);
    connector.disconnect();
    let (mut peer, _) = listener.accept().expect("connected");
    assert!(matches!(connector.stop_connecting(), Err(ConnectError::NotConnecting)));
    let peer = std::thread::spawn(move || read_all(&mut peer));
    run(&reactor);
    assert_eq!(peer.join().expect("content"), b"");
    assert_eq!(*log.borrow(), ["started", "made", "lost: Done", "client lost: closed in order"]);
}

#[test]
fn the_lost_callback_connects_again_and_again() {
    let (reactor, log) = (reactor(), log());
    let port = reactor
        .listen_tcp(loopback(), |_: PeerAddr| Some(Recorder::new(&Log::default())))
        .expect("a port");
    port.unref().expect("open");
    let inner = Rc::clone(&log);
    let mut client = Client::new(&log, move || {
        Some(Recorder::new(&inner).made(|transport| {
            transport.lose_connection();
            Ok(())
        }))
    });
    client.again = 3;
    reactor.connect_tcp(port.local_addr().expect("bound"), client).expect("an attempt");
    run(&reactor);
    let round = ["started", "made", "lost: Done", "client lost: closed in order"];
    assert_eq!(*log.borrow(), round.repeat(4));
}

#[test]
fn a_taken_local_address_is_told_from_the_loop() {
    let (reactor, log) = (reactor(), log());
    let ((_server, to), (_holder, from)) = (held(), held());
    let options = ConnectOptions::new(to).local_addr(from);
    reactor.connect_tcp(options, Client::new(&log, || None)).expect("an attempt");
    assert_eq!(*log.borrow(), ["started"]);
    run(&reactor);
    assert!(log.borrow()[1].starts_with("failed: Bind"), "{log:?}");
}

#[test]
fn a_chosen_local_address_is_used_and_both_ends_know_the_addresses() {
    let (served, told) = (log(), log());
    let reactor = reactor();
    let from = nobody();
    let server = Recorder::new(&served).made(move |transport| {
        assert_eq!(transport.peer_addr()?, from);
        transport.lose_connection();
        Ok(())
    });
    let to = once(&reactor, loopback(), server);
    let mut client = Some(Recorder::new(&told).made(move |transport| {
        assert_eq!((transport.local_addr()?, transport.peer_addr()?), (from, to));
        Ok(())
    }));
    let options = ConnectOptions::new(to).local_addr(from);
    reactor.connect_tcp(options, move |_: PeerAddr| client.take()).expect("an attempt");
    run(&reactor);
    assert_last(&served, "lost: Done");
    assert_last(&told, "lost: Done");
}

#[test]
fn meeting_itself_is_a_failure() {
    let (reactor, log) = (reactor(), log());
    let address = nobody();
    let options = ConnectOptions::new(address).local_addr(address);
    reactor.connect_tcp(options, Client::new(&log, || panic!("no peer"))).expect("an attempt");
    run(&reactor);
    assert!(log.borrow()[1].starts_with("failed: SelfConnect"), "{log:?}");
}

#[test]
fn port_zero_fails_through_the_factory_and_the_unspecified_address_is_this_host() {
    let (reactor, log) = (reactor(), log());
    reactor.connect_tcp("127.0.0.1:0", Client::new(&log, || None)).expect("an attempt");
    run(&reactor);
    assert!(log.borrow()[1].starts_with("failed: Io"), "{log:?}");

    let (_listener, address) = held();
    let made = Rc::new(Cell::new(false));
    let inner = Rc::clone(&made);
    let mut client = Some(Recorder::new(&log).made(move |transport| {
        inner.set(true);
        transport.abort_connection();
        Ok(())
    }));
    let here = SocketAddr::from(([0, 0, 0, 0], address.port()));
    reactor.connect_tcp(here, move |_: PeerAddr| client.take()).expect("an attempt");
    run(&reactor);
    assert!(made.get());
}

#[test]
fn without_a_protocol_the_connection_is_closed_and_the_client_told() {
    let (reactor, log) = (reactor(), log());
    let (listener, address) = held();
    let peer = std::thread::spawn(move || read_all(&mut listener.accept().expect("one").0));
    reactor.connect_tcp(address, Client::new(&log, || None)).expect("an attempt");
    run(&reactor);
    assert_eq!(*log.borrow(), ["started", "failed: NoProtocol"]);
    assert_eq!(peer.join().expect("an orderly end"), b"");
}

#[test]
fn a_factory_that_ends_the_connection_it_refuses_is_told_one_failure() {
    let (reactor, log) = (reactor(), log());
    let (_listener, address) = held();
    let handle = strand_reactor::Handle::clone(&reactor);
    let mut client = Client::new(&log, move || {
        let streams = handle.streams();
        assert_eq!(streams.len(), 1);
        streams[0].abort_connection();
        None
    });
    client.again = 1;
    reactor.connect_tcp(address, client).expect("an attempt");
    run(&reactor);
    assert_eq!(*log.borrow(), ["started", "failed: NoProtocol", "started", "failed: NoProtocol"]);
}

#[test]
fn a_failing_connection_made_of_a_client_is_told_to_both() {
    let (reactor, log) = (reactor(), log());
    let (_listener, address) = held();
    let inner = Rc::clone(&log);
    let client = Client::new(&log, move || {
        Some(Recorder::new(&inner).made(|transport| {
            transport.abort_connection();
            anyhow::bail!("unprepared")
        }))
    });
    reactor.connect_tcp(address, client).expect("an attempt");
    run(&reactor);
    let log = log.borrow();
    assert_eq!(log[..2], ["started", "made"]);
    assert_eq!(log.len(), 4, "{log:?}");
    assert!(log[2].starts_with("lost: ") && log[3].starts_with("client lost: "), "{log:?}");
}

#[test]
fn pausing_in_connection_made_of_a_client_takes_effect() {
    let (served, told, got) = (log(), log(), Rc::<RefCell<Vec<u8>>>::default());
    let server = Recorder::new(&served).made(|transport| {
        transport.write(b"early")?;
        transport.lose_connection();
        Ok(())
    });
    let (inner, resumed) = (Rc::clone(&got), Rc::new(Cell::new(false)));
    let seen = Rc::clone(&resumed);
    let client = Recorder::new(&told)
        .made(move |transport| {
            transport.pause_reading()?;
            assert!(transport.is_reading_paused());
            let (own, resumed) = (transport.clone(), Rc::clone(&resumed));
            transport.reactor().call_later(
                Duration::from_millis(20),
                move |_: &strand_reactor::Handle| {
                    resumed.set(true);
                    own.resume_reading()
                },
            );
            Ok(())
        })
        .data(move |_, data| {
            assert!(seen.get(), "reading is paused");
            inner.borrow_mut().extend_from_slice(data);
            Ok(())
        });
    pair(server, client);
    assert_eq!(*got.borrow(), b"early");
}

#[test]
fn stopping_the_reactor_cancels_an_attempt() {
    let (reactor, log) = (reactor(), log());
    let (_listener, address) = held();
    let client = Client::new(&log, || panic!("the reactor stopped"));
    let connector = reactor.connect_tcp(address, client).expect("an attempt");
    reactor.stop();
    run(&reactor);
    assert_eq!(*log.borrow(), ["started", "failed: Cancelled"]);
    assert_ne!(connector.state(), ConnectorState::Connected);
}
