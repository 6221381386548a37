//! Connecting, and connecting again.

use super::*;

/// A factory that notes what it is told.
struct Client {
    log: Log,
    protocol: Box<dyn FnMut() -> Option<Recorder>>,
    again: u32,
}

impl ClientFactory for Client {
    fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> {
        (self.protocol)().map(|protocol| Box::new(protocol) as Box<dyn Protocol>)
    }

    fn started_connecting(&mut self, _: &Connector) -> anyhow::Result<()> {
        self.log.borrow_mut().push("started".into());
        Ok(())
    }

    fn client_connection_failed(
        &mut self,
        connector: &Connector,
        error: &ConnectError,
    ) -> anyhow::Result<()> {
        assert_eq!(connector.state(), ConnectorState::Disconnected);
        self.log.borrow_mut().push(format!("failed: {:?}", error.kind()));
        if self.again > 0 {
            self.again -= 1;
            connector.connect()?;
        }
        Ok(())
    }

    fn client_connection_lost(
        &mut self,
        connector: &Connector,
        reason: &ConnectionLost,
    ) -> anyhow::Result<()> {
        self.log.borrow_mut().push(format!("client lost: {reason:?}"));
        if self.again > 0 {
            self.again -= 1;
            connector.connect()?;
        }
        Ok(())
    }
}

pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

#[test]
fn a_refused_client_is_told_from_the_loop_and_may_try_again() {
    let (reactor, log) = (reactor(), log());
    let factory = Client { log: Rc::clone(&log), protocol: Box::new(|| None), again: 1 };
    reactor.connect_tcp(free_address(), factory).expect("an attempt");
    assert_eq!(*log.borrow(), ["started"]);
    run(&reactor);
    let refused = "failed: ConnectionRefused";
    assert_eq!(*log.borrow(), ["started", refused, "started", refused]);
}

#[test]
fn a_client_reconnects_from_its_lost_callback() {
    let (reactor, log) = (reactor(), log());
    let server = log.clone();
    let port = reactor
        .listen_tcp("127.0.0.1:0", move |_: PeerAddr| {
            Some(Recorder::new(&Log::default()).made({
                let server = server.clone();
                move |transport| {
                    server.borrow_mut().push("served".into());
                    transport.lose_connection();
                    Ok(())
                }
            }))
        })
        .expect("a port");
    port.unref().expect("open");
    let inner = log.clone();
    let factory = Client {
        log: Rc::clone(&log),
        protocol: Box::new(move || Some(Recorder::new(&inner))),
        again: 1,
    };
    reactor.connect_tcp(port.local_addr().expect("bound"), factory).expect("an attempt");
    run(&reactor);
    let log: Vec<String> =
        log.borrow().iter().filter(|what| !what.starts_with("served")).cloned().collect();
    let round = ["started", "made", "read lost", "lost: Done", "client lost: Done"];
    assert_eq!(log, [round, round].concat());
    assert!(reactor.streams().is_empty());
}

#[test]
fn an_attempt_is_stopped_and_ends_once() {
    let (reactor, log) = (reactor(), log());
    let factory = Client { log: Rc::clone(&log), protocol: Box::new(|| None), again: 0 };
    let port = reactor.listen_tcp("127.0.0.1:0", |_: PeerAddr| None::<Recorder>).expect("a port");
    port.unref().expect("open");
    let connector =
        reactor.connect_tcp(port.local_addr().expect("bound"), factory).expect("an attempt");
    connector.stop_connecting().expect("connecting");
    connector.stop_connecting().expect("still connecting");
    run(&reactor);
    assert_eq!(*log.borrow(), ["started", "failed: Interrupted"]);
    assert!(matches!(connector.stop_connecting(), Err(ConnectError::NotConnecting)));
}

#[test]
fn a_local_address_that_is_taken_is_told_through_the_factory() {
    let (reactor, log) = (reactor(), log());
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let factory = Client { log: Rc::clone(&log), protocol: Box::new(|| None), again: 0 };
    let options =
        ConnectOptions::new(free_address()).local_addr(taken.local_addr().expect("bound"));
    reactor.connect_tcp(options, factory).expect("an attempt");
    run(&reactor);
    assert_eq!(*log.borrow(), ["started", "failed: AddrInUse"]);
}

#[test]
fn a_connect_that_meets_itself_is_an_error() {
    let (reactor, log) = (reactor(), log());
    let factory = Client { log: Rc::clone(&log), protocol: Box::new(|| None), again: 0 };
    let address = free_address();
    let options = ConnectOptions::new(address).local_addr(address);
    let seen = reactor.connect_tcp(options, factory).expect("an attempt");
    run(&reactor);
    assert_eq!(seen.state(), ConnectorState::Disconnected);
    assert_eq!(*log.borrow(), ["started", "failed: ConnectionRefused"]);
}

#[test]
fn an_attempt_that_nobody_answers_times_out() {
    let (reactor, log) = (reactor(), log());
    // A backlog that is full answers no further attempt.
    let full =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("one");
    full.bind(&"127.0.0.1:0".parse::<SocketAddr>().expect("an address").into()).expect("bound");
    full.listen(0).expect("listening");
    let address = full.local_addr().expect("bound").as_socket().expect("of IP");
    let _first = TcpStream::connect(address).expect("the one that fits");
    let factory = Client { log: Rc::clone(&log), protocol: Box::new(|| None), again: 0 };
    let options = ConnectOptions::new(address).timeout(Duration::from_millis(50));
    reactor.connect_tcp(options, factory).expect("an attempt");
    run(&reactor);
    assert_eq!(*log.borrow(), ["started", "failed: TimedOut"]);
}

#[test]
fn the_first_of_several_addresses_to_answer_is_taken() {
    let (reactor, log) = (reactor(), log());
    let port = reactor
        .listen_tcp("127.0.0.1:0", |_: PeerAddr| Some(Recorder::new(&Log::default())))
        .expect("a port");
    port.unref().expect("open");
    let answering = port.local_addr().expect("bound");
    let inner = log.clone();
    let factory = Client {
        log: Rc::clone(&log),
        protocol: Box::new(move || {
            Some(Recorder::new(&inner).made(|transport| {
                transport.lose_connection();
                Ok(())
            }))
        }),
        again: 0,
    };
    let options = ConnectOptions::any_of([free_address(), answering, free_address()]);
    let connector = reactor.connect_tcp(options, factory).expect("an attempt");
    while connector.state() == ConnectorState::Connecting {
        reactor.iterate(None).expect("a turn");
    }
    assert_eq!(connector.peer_addr(), Some(answering));
    run(&reactor);
    assert_eq!(*log.borrow(), ["started", "made", "lost: Done", "client lost: Done"]);
}

#[test]
fn when_no_address_answers_the_first_error_is_told_once() {
    let (reactor, log) = (reactor(), log());
    let factory = Client { log: Rc::clone(&log), protocol: Box::new(|| None), again: 1 };
    let options = ConnectOptions::any_of([free_address(), free_address(), free_address()]);
    reactor.connect_tcp(options, factory).expect("an attempt");
    run(&reactor);
    let refused = "failed: ConnectionRefused";
    assert_eq!(*log.borrow(), ["started", refused, "started", refused]);
    assert!(reactor.streams().is_empty());

    let none = ConnectOptions::any_of([]);
    let factory = |_: PeerAddr| None::<Recorder>;
    assert!(matches!(reactor.connect_tcp(none, factory), Err(ConnectError::NoAddress)));
}
