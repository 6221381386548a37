//! Connecting, and connecting again.

use strand_reactor::{ClientFactory, ConnectError, Connector, ConnectorState};

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

#[test]
fn a_refused_client_is_told_from_the_loop_and_may_try_again() {
    everywhere(|ground| {
        let log = log();
        let factory = Client { log: Rc::clone(&log), protocol: Box::new(|| None), again: 1 };
        ground.client().connect_tcp(ground.nobody(), factory).expect("an attempt");
        assert_eq!(*log.borrow(), ["started"]);
        ground.run();
        let refused = "failed: ConnectionRefused";
        assert_eq!(*log.borrow(), ["started", refused, "started", refused]);
    });
}

#[test]
fn a_client_reconnects_from_its_lost_callback() {
    everywhere(|ground| {
        let log = log();
        let server = log.clone();
        let port = ground
            .server()
            .listen_tcp(ground.any_port(), move |_: PeerAddr| {
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
        ground
            .client()
            .connect_tcp(port.local_addr().expect("bound"), factory)
            .expect("an attempt");
        ground.run();
        let log: Vec<String> =
            log.borrow().iter().filter(|what| !what.starts_with("served")).cloned().collect();
        let round = ["started", "made", "read lost", "lost: Done", "client lost: Done"];
        assert_eq!(log, [round, round].concat());
        assert!(ground.streams().is_empty());
    });
}

#[test]
fn an_attempt_is_stopped_and_ends_once() {
    everywhere(|ground| {
        let log = log();
        let factory = Client { log: Rc::clone(&log), protocol: Box::new(|| None), again: 0 };
        let port = ground
            .server()
            .listen_tcp(ground.any_port(), |_: PeerAddr| None::<Recorder>)
            .expect("a port");
        port.unref().expect("open");
        let connector = ground
            .client()
            .connect_tcp(port.local_addr().expect("bound"), factory)
            .expect("an attempt");
        connector.stop_connecting().expect("connecting");
        connector.stop_connecting().expect("still connecting");
        ground.run();
        assert_eq!(*log.borrow(), ["started", "failed: Interrupted"]);
        assert!(matches!(connector.stop_connecting(), Err(ConnectError::NotConnecting)));
    });
}

#[test]
fn a_local_address_that_is_taken_is_told_through_the_factory() {
    everywhere(|ground| {
        let log = log();
        let taken = ground.held_at_client();
        let factory = Client { log: Rc::clone(&log), protocol: Box::new(|| None), again: 0 };
        let options = ConnectOptions::new(ground.nobody()).local_addr(taken.local_addr());
        ground.client().connect_tcp(options, factory).expect("an attempt");
        ground.run();
        assert_eq!(*log.borrow(), ["started", "failed: AddrInUse"]);
    });
}

#[test]
fn a_connect_that_meets_itself_is_an_error() {
    everywhere(|ground| {
        let log = log();
        let factory = Client { log: Rc::clone(&log), protocol: Box::new(|| None), again: 0 };
        let address = ground.free_at_client();
        let options = ConnectOptions::new(address).local_addr(address);
        let seen = ground.client().connect_tcp(options, factory).expect("an attempt");
        ground.run();
        assert_eq!(seen.state(), ConnectorState::Disconnected);
        assert_eq!(*log.borrow(), ["started", "failed: ConnectionRefused"]);
    });
}

#[test]
fn an_attempt_that_nobody_answers_times_out() {
    everywhere(|ground| {
        let log = log();
        // A backlog that is full answers no further attempt.
        let full = ground.held_with(0);
        let address = full.local_addr();
        let _first = ground.plain(address);
        let factory = Client { log: Rc::clone(&log), protocol: Box::new(|| None), again: 0 };
        let options = ConnectOptions::new(address).timeout(Duration::from_millis(50));
        ground.client().connect_tcp(options, factory).expect("an attempt");
        ground.run();
        assert_eq!(*log.borrow(), ["started", "failed: TimedOut"]);
    });
}

#[test]
fn the_first_of_several_addresses_to_answer_is_taken() {
    everywhere(|ground| {
        let log = log();
        let port = ground
            .server()
            .listen_tcp(ground.any_port(), |_: PeerAddr| Some(Recorder::new(&Log::default())))
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
        let options = ConnectOptions::any_of([ground.nobody(), answering, ground.nobody()]);
        let connector = ground.client().connect_tcp(options, factory).expect("an attempt");
        ground.turn_until(|| connector.state() != ConnectorState::Connecting);
        assert_eq!(connector.peer_addr(), Some(answering));
        ground.run();
        assert_eq!(*log.borrow(), ["started", "made", "lost: Done", "client lost: Done"]);
    });
}

#[test]
fn when_no_address_answers_the_first_error_is_told_once() {
    everywhere(|ground| {
        let log = log();
        let factory = Client { log: Rc::clone(&log), protocol: Box::new(|| None), again: 1 };
        let options = ConnectOptions::any_of([ground.nobody(), ground.nobody(), ground.nobody()]);
        ground.client().connect_tcp(options, factory).expect("an attempt");
        ground.run();
        let refused = "failed: ConnectionRefused";
        assert_eq!(*log.borrow(), ["started", refused, "started", refused]);
        assert!(ground.streams().is_empty());

        let none = ConnectOptions::any_of([]);
        let factory = |_: PeerAddr| None::<Recorder>;
        assert!(matches!(ground.client().connect_tcp(none, factory), Err(ConnectError::NoAddress)));
    });
}
