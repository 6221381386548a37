//! Clients: connecting, failing, stopping, connecting again.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
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

#[test]
fn nothing_but_started_connecting_runs_inside_the_call() {
    everywhere(|ground| {
        let log = log();
        let listener = ground.held();
        let address = listener.local_addr();
        let inner = Rc::clone(&log);
        let client = Client::new(&log, move || {
            Some(Recorder::new(&inner).made(|transport| {
                transport.abort_connection();
                Ok(())
            }))
        });
        let connector = ground.client().connect_tcp(address, client).expect("an attempt");
        assert_eq!(*log.borrow(), ["started"]);
        assert_eq!(connector.state(), ConnectorState::Connecting);
        assert!(matches!(connector.connect(), Err(ConnectError::IsConnecting)));
        assert!(ground.streams().is_empty());
        ground.run();
        assert_eq!(*log.borrow(), ["started", "made", "lost: Aborted", "client lost: aborted"]);
    });
}

#[test]
fn a_refusal_is_told_with_the_systems_error() {
    everywhere(|ground| {
        let log = log();
        ground
            .client()
            .connect_tcp(ground.nobody(), Client::new(&log, || None))
            .expect("an attempt");
        ground.run();
        assert_eq!(log.borrow().len(), 2, "{log:?}");
        assert!(log.borrow()[1].contains("Refused"), "{log:?}");
    });
}

#[test]
fn a_factory_that_does_not_start_makes_no_attempt() {
    everywhere(|ground| {
        let log = log();
        let listener = ground.held();
        let address = listener.local_addr();
        let client = Client { start: false, ..Client::new(&log, || None) };
        let error = ground.client().connect_tcp(address, client).expect_err("not started");
        assert!(matches!(error, ConnectError::Factory(_)), "{error:?}");
        ground.run();
        assert_eq!(*log.borrow(), ["started"]);
        assert!(listener.is_empty());
    });
}

#[test]
fn an_unanswered_attempt_times_out_once() {
    everywhere(|ground| {
        let log = log();
        let full = ground.held_with(0);
        let address = full.local_addr();
        let _fits = ground.plain(address);
        let options = ConnectOptions::new(address).timeout(Duration::from_millis(30));
        ground.client().connect_tcp(options, Client::new(&log, || None)).expect("an attempt");
        ground.run();
        assert_eq!(*log.borrow(), ["started", "failed: TimedOut"]);
    });
}

#[test]
fn an_attempt_can_be_stopped_from_started_connecting() {
    everywhere(|ground| {
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
        let log = log();
        let listener = ground.held();
        let address = listener.local_addr();
        ground.client().connect_tcp(address, Stops(Rc::clone(&log))).expect("an attempt");
        ground.run();
        assert_eq!(*log.borrow(), ["Cancelled"]);
    });
}

#[test]
fn an_attempt_that_is_stopped_fails_once_with_cancelled() {
    everywhere(|ground| {
        let log = log();
        let listener = ground.held();
        let address = listener.local_addr();
        let client = Client::new(&log, || panic!("the attempt was stopped"));
        let connector = ground.client().connect_tcp(address, client).expect("an attempt");
        connector.disconnect();
        let _ = connector.stop_connecting();
        ground.run();
        assert_eq!(*log.borrow(), ["started", "failed: Cancelled"]);
        assert!(matches!(connector.stop_connecting(), Err(ConnectError::NotConnecting)));
    });
}

#[test]
fn disconnecting_closes_the_connection_in_order() {
    everywhere(|ground| {
        let log = log();
        let listener = ground.held();
        let address = listener.local_addr();
        let inner = Rc::clone(&log);
        let client = Client::new(&log, move || Some(Recorder::new(&inner)));
        let connector = ground.client().connect_tcp(address, client).expect("an attempt");
        ground.turn_until(|| connector.state() == ConnectorState::Connected);
        connector.disconnect();
        assert!(matches!(connector.stop_connecting(), Err(ConnectError::NotConnecting)));
        assert_eq!(ground.with_accepted(listener, |mut peer| read_all(&mut peer)), b"");
        ground.run();
        assert_eq!(
            *log.borrow(),
            ["started", "made", "lost: Done", "client lost: closed in order"]
        );
    });
}

#[test]
fn the_lost_callback_connects_again_and_again() {
    everywhere(|ground| {
        let log = log();
        let port = ground
            .server()
            .listen_tcp(ground.loopback(), |_: PeerAddr| Some(Recorder::new(&Log::default())))
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
        ground.client().connect_tcp(port.local_addr().expect("bound"), client).expect("an attempt");
        ground.run();
        let round = ["started", "made", "lost: Done", "client lost: closed in order"];
        assert_eq!(*log.borrow(), round.repeat(4));
    });
}

#[test]
fn a_taken_local_address_is_told_from_the_loop() {
    everywhere(|ground| {
        let log = log();
        let (server, holder) = (ground.held(), ground.held_at_client());
        let (to, from) = (server.local_addr(), holder.local_addr());
        let options = ConnectOptions::new(to).local_addr(from);
        ground.client().connect_tcp(options, Client::new(&log, || None)).expect("an attempt");
        assert_eq!(*log.borrow(), ["started"]);
        ground.run();
        assert!(log.borrow()[1].starts_with("failed: Bind"), "{log:?}");
    });
}

#[test]
fn a_chosen_local_address_is_used_and_both_ends_know_the_addresses() {
    everywhere(|ground| {
        let (served, told) = (log(), log());
        let from = ground.free_at_client();
        let server = Recorder::new(&served).made(move |transport| {
            assert_eq!(transport.peer_addr()?, from);
            transport.lose_connection();
            Ok(())
        });
        let to = ground.once(ground.loopback(), server);
        let mut client = Some(Recorder::new(&told).made(move |transport| {
            assert_eq!((transport.local_addr()?, transport.peer_addr()?), (from, to));
            Ok(())
        }));
        let options = ConnectOptions::new(to).local_addr(from);
        ground.client().connect_tcp(options, move |_: PeerAddr| client.take()).expect("an attempt");
        ground.run();
        assert_last(&served, "lost: Done");
        assert_last(&told, "lost: Done");
    });
}

#[test]
fn meeting_itself_is_a_failure() {
    everywhere(|ground| {
        let log = log();
        let address = ground.free_at_client();
        let options = ConnectOptions::new(address).local_addr(address);
        ground
            .client()
            .connect_tcp(options, Client::new(&log, || panic!("no peer")))
            .expect("an attempt");
        ground.run();
        assert!(log.borrow()[1].starts_with("failed: SelfConnect"), "{log:?}");
    });
}

#[test]
fn port_zero_fails_through_the_factory_and_the_unspecified_address_is_this_host() {
    everywhere(|ground| {
        let log = log();
        ground.client().connect_tcp("127.0.0.1:0", Client::new(&log, || None)).expect("an attempt");
        ground.run();
        assert!(log.borrow()[1].starts_with("failed: Io"), "{log:?}");

        let listener = ground.held_at_client_on(([127, 0, 0, 1], 0).into());
        let address = listener.local_addr();
        let made = Rc::new(Cell::new(false));
        let inner = Rc::clone(&made);
        let mut client = Some(Recorder::new(&log).made(move |transport| {
            inner.set(true);
            transport.abort_connection();
            Ok(())
        }));
        let here = SocketAddr::from(([0, 0, 0, 0], address.port()));
        ground.client().connect_tcp(here, move |_: PeerAddr| client.take()).expect("an attempt");
        ground.run();
        assert!(made.get());
    });
}

// Only Linux has all of 127.0.0.0/8.
#[cfg(target_os = "linux")]
#[test]
fn the_unspecified_address_is_the_one_that_the_socket_is_bound_to() {
    everywhere(|ground| {
        let log = log();
        let bound = [127, 0, 0, 2];
        let listener = ground.held_at_client_on((bound, 0).into());
        let address = listener.local_addr();
        let mut client = Some(Recorder::new(&log).made(move |transport| {
            assert_eq!(transport.local_addr()?.ip(), address.ip());
            assert_eq!(transport.peer_addr()?, address);
            transport.abort_connection();
            Ok(())
        }));
        let options = ConnectOptions::new(([0, 0, 0, 0], address.port()));
        let options = options.local_addr((bound, 0));
        ground.client().connect_tcp(options, move |_: PeerAddr| client.take()).expect("an attempt");
        ground.run();
        assert_eq!(*log.borrow(), ["made", "lost: Aborted"]);
    });
}

#[test]
fn without_a_protocol_the_connection_is_closed_and_the_client_told() {
    everywhere(|ground| {
        let log = log();
        let listener = ground.held();
        let address = listener.local_addr();
        ground.client().connect_tcp(address, Client::new(&log, || None)).expect("an attempt");
        let got = ground.with_accepted(listener, |mut peer| read_all(&mut peer));
        ground.run();
        assert_eq!(*log.borrow(), ["started", "failed: NoProtocol"]);
        assert_eq!(got, b"");
    });
}

#[test]
fn a_factory_that_ends_the_connection_it_refuses_is_told_one_failure() {
    everywhere(|ground| {
        let log = log();
        let listener = ground.held();
        let address = listener.local_addr();
        let handle = ground.client();
        let mut client = Client::new(&log, move || {
            let streams = handle.streams();
            assert_eq!(streams.len(), 1);
            streams[0].abort_connection();
            None
        });
        client.again = 1;
        ground.client().connect_tcp(address, client).expect("an attempt");
        ground.run();
        assert_eq!(
            *log.borrow(),
            ["started", "failed: NoProtocol", "started", "failed: NoProtocol"]
        );
    });
}

#[test]
fn a_failing_connection_made_of_a_client_is_told_to_both() {
    everywhere(|ground| {
        let log = log();
        let listener = ground.held();
        let address = listener.local_addr();
        let inner = Rc::clone(&log);
        let client = Client::new(&log, move || {
            Some(Recorder::new(&inner).made(|transport| {
                transport.abort_connection();
                anyhow::bail!("unprepared")
            }))
        });
        ground.client().connect_tcp(address, client).expect("an attempt");
        ground.run();
        let log = log.borrow();
        assert_eq!(log[..2], ["started", "made"]);
        assert_eq!(log.len(), 4, "{log:?}");
        assert!(log[2].starts_with("lost: ") && log[3].starts_with("client lost: "), "{log:?}");
    });
}

#[test]
fn pausing_in_connection_made_of_a_client_takes_effect() {
    everywhere(|ground| {
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
        ground.pair(server, client);
        assert_eq!(*got.borrow(), b"early");
    });
}

#[test]
fn stopping_the_reactor_cancels_an_attempt() {
    everywhere(|ground| {
        let log = log();
        let listener = ground.held();
        let address = listener.local_addr();
        let client = Client::new(&log, || panic!("the reactor stopped"));
        let connector = ground.client().connect_tcp(address, client).expect("an attempt");
        ground.client().stop();
        ground.run();
        assert_eq!(*log.borrow(), ["started", "failed: Cancelled"]);
        assert_ne!(connector.state(), ConnectorState::Connected);
    });
}
