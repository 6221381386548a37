//! Connecting to hosts by their names, with resolvers of the test's own.

use std::cell::RefCell;
use std::error::Error;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::{
    AddressFamily, Answer, ClientFactory, ConnectError, ConnectOptions, Connector, ConnectorState,
    Handle, ListenError, ListeningPort, PeerAddr, Protocol, Query, QueryId, Resolve, ResolveError,
    Transport,
};

mod ground;

use ground::{Ground, everywhere, over_loopback};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// The addresses of the server.
fn addresses(ground: &Ground) -> (IpAddr, IpAddr) {
    (ground.any_port().ip(), ground.v6().unwrap_or(V6))
}

/// What the test and its resolver share.
#[derive(Default)]
struct Asked {
    families: Vec<AddressFamily>,
    cancelled: Vec<QueryId>,
    ids: Vec<QueryId>,
    /// Answers that the resolver owes.
    owed: Vec<Answer>,
}

type Shared = Rc<RefCell<Asked>>;
type React = Box<dyn FnMut(&Handle, AddressFamily, Answer) -> Option<Answer>>;

/// Notes what it is asked; what `react` hands back, it owes.
struct Resolver {
    asked: Shared,
    react: React,
}

impl Resolve for Resolver {
    fn resolve(&mut self, handle: &Handle, query: Query, answer: Answer) {
        assert_eq!(query.name(), "host.test");
        self.asked.borrow_mut().families.push(query.family());
        self.asked.borrow_mut().ids.push(query.id());
        let owed = (self.react)(handle, query.family(), answer);
        self.asked.borrow_mut().owed.extend(owed);
    }

    fn cancel(&mut self, _: &Handle, query: QueryId) {
        self.asked.borrow_mut().cancelled.push(query);
    }
}

fn resolver(
    ground: &Ground,
    react: impl FnMut(&Handle, AddressFamily, Answer) -> Option<Answer> + 'static,
) -> Shared {
    let asked = Shared::default();
    ground.client().set_resolver(Resolver { asked: Rc::clone(&asked), react: Box::new(react) });
    asked
}

/// Both ends: closes as soon as it is connected.
struct Brief;

impl Protocol for Brief {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        transport.lose_connection();
        Ok(())
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }
}

type Log = Rc<RefCell<Vec<String>>>;

/// Notes how it went, and connects again so many times after a failure.
struct Client {
    log: Log,
    again: usize,
}

fn client(log: &Log) -> Client {
    Client { log: Rc::clone(log), again: 0 }
}

impl ClientFactory for Client {
    fn build_protocol(&mut self, peer: PeerAddr) -> Option<Box<dyn Protocol>> {
        let ip = peer.ip().expect("an address").ip();
        self.log.borrow_mut().push(format!("connected to {ip}"));
        Some(Box::new(Brief))
    }

    fn client_connection_failed(
        &mut self,
        connector: &Connector,
        error: &ConnectError,
    ) -> anyhow::Result<()> {
        assert_eq!(connector.state(), ConnectorState::Disconnected);
        self.log.borrow_mut().push(format!("{:?}: {error}", error.kind()));
        if self.again > 0 {
            self.again -= 1;
            connector.connect()?;
        }
        Ok(())
    }
}

#[track_caller]
fn run(ground: &Ground) {
    ground.run();
    for handle in [ground.server(), ground.client()] {
        let stats = handle.stats();
        assert_eq!((stats.callback_panics, stats.callback_errors), (0, 0));
    }
    assert!(ground.streams().is_empty());
}

/// A server over IPv4 that does not keep the loop going. Nobody has its port over IPv6.
fn server(ground: &Ground) -> (ListeningPort, u16) {
    let port = ground.server().listen_tcp(ground.any_port(), |_: PeerAddr| Some(Brief));
    let port = port.expect("a port");
    port.unref().expect("open");
    let number = port.local_addr().expect("bound").port();
    (port, number)
}

fn connected(ground: &Ground) -> String {
    format!("connected to {}", ground.any_port().ip())
}

#[test]
fn localhost_is_connected_to_without_a_resolver() {
    // The name is that of the own host, on which there is no server else.
    over_loopback(|ground| {
        let log = Log::default();
        let asked = resolver(ground, move |_, _, answer| Some(answer));
        let (_port, number) = server(ground);
        ground.client().connect_tcp(("localhost", number), client(&log)).expect("an attempt");
        run(ground);
        ground
            .client()
            .connect_tcp(format!("localhost:{number}"), client(&log))
            .expect("an attempt");
        run(ground);
        assert_eq!(*log.borrow(), [connected(ground), connected(ground)]);
        assert!(asked.borrow().families.is_empty());
    });
}

#[test]
fn both_families_are_asked_and_a_refusal_falls_over_to_the_other() {
    everywhere(|ground| {
        let (v4, v6) = addresses(ground);
        let log = Log::default();
        let asked = resolver(ground, move |_, family, answer| {
            answer.found(if family == AddressFamily::V6 { [v6] } else { [v4] });
            None
        });
        let (_port, number) = server(ground);
        let connector =
            ground.client().connect_tcp(("host.test", number), client(&log)).expect("an attempt");
        assert_eq!(connector.peer_addr(), None);
        assert_eq!(connector.label(), format!("tcp host.test:{number}"));
        assert!(matches!(connector.connect(), Err(ConnectError::IsConnecting)));
        run(ground);
        assert_eq!(*log.borrow(), [connected(ground)]);
        assert_eq!(asked.borrow().families, [AddressFamily::V6, AddressFamily::V4]);
    });
}

#[test]
fn a_family_that_never_answers_does_not_hold_the_other_up_and_is_cancelled() {
    everywhere(|ground| {
        let (v4, _) = addresses(ground);
        let log = Log::default();
        let asked = resolver(ground, move |_, family, answer| match family {
            AddressFamily::V6 => Some(answer),
            _ => {
                answer.found([v4]);
                None
            }
        });
        let (_port, number) = server(ground);
        ground.client().connect_tcp(("host.test", number), client(&log)).expect("an attempt");
        run(ground);
        assert_eq!(*log.borrow(), [connected(ground)]);
        let asked = asked.borrow();
        assert_eq!(asked.cancelled, asked.ids[..1]);
        assert!(!asked.owed[0].is_wanted());
    });
}

#[test]
fn the_lookup_keeps_the_loop_going_until_its_answer_comes() {
    everywhere(|ground| {
        let (v4, _) = addresses(ground);
        let log = Log::default();
        resolver(ground, move |handle, family, answer| {
            let later = handle.call_later(Duration::from_millis(1), move |_| match family {
                AddressFamily::V6 => answer.not_found(),
                _ => answer.found([v4]),
            });
            later.unref();
            None
        });
        let (_port, number) = server(ground);
        ground
            .client()
            .connect_tcp(("host.test".to_owned(), number), client(&log))
            .expect("an attempt");
        run(ground);
        assert_eq!(*log.borrow(), [connected(ground)]);
    });
}

#[test]
fn stopping_during_the_lookup_cancels_it_and_a_late_answer_goes_nowhere() {
    everywhere(|ground| {
        let (v4, _) = addresses(ground);
        let log = Log::default();
        let asked = resolver(ground, move |_, _, answer| Some(answer));
        let (_port, number) = server(ground);
        let connector =
            ground.client().connect_tcp(("host.test", number), client(&log)).expect("an attempt");
        ground.turn_until(|| asked.borrow().owed.len() >= 2);
        connector.stop_connecting().expect("connecting");
        connector.stop_connecting().expect("still connecting");
        run(ground);
        let cancelled = "Interrupted: the attempt to connect was given up";
        assert_eq!(*log.borrow(), [cancelled]);
        assert_eq!(asked.borrow().cancelled, asked.borrow().ids);
        let owed = std::mem::take(&mut asked.borrow_mut().owed);
        for answer in owed {
            assert!(!answer.is_wanted());
            answer.found([v4]);
        }
        run(ground);
        assert_eq!(*log.borrow(), [cancelled]);
    });
}

#[test]
fn an_answer_that_comes_with_the_stop_does_not_reach_the_next_attempt() {
    everywhere(|ground| {
        let (v4, _) = addresses(ground);
        let log = Log::default();
        let asked = resolver(ground, move |_, _, answer| Some(answer));
        let (_port, number) = server(ground);
        let factory = Client { log: Rc::clone(&log), again: 1 };
        let connector =
            ground.client().connect_tcp(("host.test", number), factory).expect("an attempt");
        ground.turn_until(|| asked.borrow().owed.len() >= 2);
        connector.stop_connecting().expect("connecting");
        // After the stop is on its way, before it is told.
        for answer in std::mem::take(&mut asked.borrow_mut().owed) {
            answer.found([v4]);
        }
        ground.turn_until(|| asked.borrow().owed.len() >= 2);
        assert_eq!(connector.state(), ConnectorState::Connecting);
        assert_eq!(log.borrow().len(), 1);
        for answer in std::mem::take(&mut asked.borrow_mut().owed) {
            answer.found([v4]);
        }
        run(ground);
        assert_eq!(log.borrow().len(), 2);
        assert_eq!(log.borrow()[1], connected(ground));
    });
}

#[test]
fn a_reactor_that_stops_cancels_the_lookup_and_tells_the_factory() {
    everywhere(|ground| {
        let log = Log::default();
        let asked = resolver(ground, move |handle, family, answer| {
            if family == AddressFamily::V4 {
                handle.stop();
            }
            Some(answer)
        });
        ground.client().connect_tcp("host.test:80", client(&log)).expect("an attempt");
        run(ground);
        assert_eq!(*log.borrow(), ["Interrupted: the attempt to connect was given up"]);
        assert!(asked.borrow().owed.iter().all(|answer| !answer.is_wanted()));
    });
}

#[test]
fn the_timeout_of_the_attempt_covers_the_lookup() {
    everywhere(|ground| {
        let log = Log::default();
        let asked = resolver(ground, move |_, _, answer| Some(answer));
        let options = ConnectOptions::host("host.test", 80).timeout(Duration::from_millis(10));
        ground.client().connect_tcp(options, client(&log)).expect("an attempt");
        run(ground);
        assert_eq!(*log.borrow(), ["TimedOut: the attempt to connect took too long"]);
        assert_eq!(asked.borrow().cancelled, asked.borrow().ids);
    });
}

#[test]
fn a_name_without_addresses_is_told_and_the_next_attempt_asks_anew() {
    everywhere(|ground| {
        let (v4, _) = addresses(ground);
        let log = Log::default();
        let mut queries = 0;
        let asked = resolver(ground, move |_, family, answer| {
            queries += 1;
            match family {
                AddressFamily::V4 if queries > 2 => answer.found([v4]),
                _ => answer.not_found(),
            }
            None
        });
        let (_port, number) = server(ground);
        let factory = Client { log: Rc::clone(&log), again: 1 };
        ground.client().connect_tcp(("host.test", number), factory).expect("an attempt");
        run(ground);
        assert_eq!(
            *log.borrow(),
            ["NotFound: cannot find the host \"host.test\"", &connected(ground)]
        );
        assert_eq!(asked.borrow().families.len(), 4);
    });
}

/// Keeps the error, which is the last that a factory is told.
struct Failing(Rc<RefCell<Option<(String, ErrorKind, String)>>>);

impl ClientFactory for Failing {
    fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> {
        None
    }

    fn client_connection_failed(
        &mut self,
        _: &Connector,
        error: &ConnectError,
    ) -> anyhow::Result<()> {
        let ConnectError::Resolve { name, source } = error else { panic!("{error:?}") };
        let cause = error.source().expect("a source");
        assert!(cause.is::<ResolveError>());
        assert!(!error.to_string().contains(&cause.to_string()), "the cause is told once");
        let told = (name.clone(), source.kind(), cause.to_string());
        assert!(self.0.replace(Some(told)).is_none(), "told once");
        Ok(())
    }
}

#[test]
fn the_error_is_that_of_the_lookup_that_says_most() {
    everywhere(|ground| {
        resolver(ground, move |_, family, answer| {
            match family {
                AddressFamily::V6 => answer.not_found(),
                _ => answer.fail("no server answers"),
            }
            None
        });
        let told = Rc::default();
        ground.client().connect_tcp("host.test:80", Failing(Rc::clone(&told))).expect("an attempt");
        run(ground);
        let (name, kind, cause) = told.take().expect("told");
        assert_eq!((name.as_str(), kind), ("host.test", ErrorKind::Other));
        assert!(cause.contains("no server answers"), "{cause}");

        // Nobody is asked for a name that cannot be one.
        ground
            .client()
            .connect_tcp(("no..name", 80), Failing(Rc::clone(&told)))
            .expect("an attempt");
        run(ground);
        assert_eq!(told.take().expect("told").1, ErrorKind::InvalidInput);
    });
}

#[test]
fn a_local_address_chooses_the_family_that_is_asked_for() {
    everywhere(|ground| {
        let (v4, v6) = addresses(ground);
        let log = Log::default();
        let asked = resolver(ground, move |_, _, answer| {
            answer.found([v6, v4]);
            None
        });
        let (_port, number) = server(ground);
        let options = ConnectOptions::host("host.test", number);
        let options = options.local_addr((ground.free_at_client().ip(), 0));
        ground.client().connect_tcp(options, client(&log)).expect("an attempt");
        run(ground);
        assert_eq!(*log.borrow(), [connected(ground)]);
        assert_eq!(asked.borrow().families, [AddressFamily::V4]);
    });
}

#[test]
fn literals_stay_literals_and_listening_looks_nothing_up() {
    everywhere(|ground| {
        let address = SocketAddr::from((V4, 80));
        assert_eq!(ConnectOptions::from(("127.0.0.1", 80)).addresses(), [address]);
        assert_eq!(ConnectOptions::from((Ipv4Addr::LOCALHOST, 80)).addresses(), [address]);
        assert_eq!(ConnectOptions::from(("::1".to_owned(), 80)).addresses(), [(V6, 80).into()]);
        for bad in ["1.2.3:80", "a b:80", "example.com", ":80", "::1:80"] {
            assert!(ConnectOptions::parse(bad).is_err(), "{bad}");
        }
        let refused = ground.server().listen_tcp("localhost:0", |_: PeerAddr| Some(Brief));
        assert!(matches!(refused, Err(ListenError::Address(_))));
    });
}
