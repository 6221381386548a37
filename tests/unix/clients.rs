//! Clients: success, failure, and trying again.

use std::cell::RefCell;
use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::{
    ClientFactory, ConnectError, ConnectionLost, Connector, ConnectorState, PeerAddr, Protocol,
    Reactor, UnixConnectOptions,
};

use crate::support::{Folder, Log, Recorder, has_abstract_names, log, name, note, reactor, run};

type Failures = Rc<RefCell<Vec<(ErrorKind, String)>>>;

/// Notes what becomes of its attempts, and makes as many as it is told.
struct Client {
    log: Log,
    failures: Failures,
    attempts: usize,
}

impl Client {
    fn new(log: &Log, failures: &Failures, attempts: usize) -> Self {
        Self { log: Rc::clone(log), failures: Rc::clone(failures), attempts }
    }

    fn again(&mut self, connector: &Connector) -> anyhow::Result<()> {
        self.attempts -= 1;
        if self.attempts > 0 {
            connector.connect()?;
        }
        Ok(())
    }
}

impl ClientFactory for Client {
    fn started_connecting(&mut self, connector: &Connector) -> anyhow::Result<()> {
        assert_eq!(connector.state(), ConnectorState::Connecting);
        note(&self.log, "started");
        Ok(())
    }

    fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> {
        note(&self.log, "connected");
        let log = Rc::clone(&self.log);
        Some(Box::new(Recorder::new(&log).made(|transport| {
            transport.lose_connection();
            Ok(())
        })))
    }

    fn client_connection_failed(
        &mut self,
        connector: &Connector,
        error: &ConnectError,
    ) -> anyhow::Result<()> {
        note(&self.log, "failed");
        self.failures.borrow_mut().push((error.kind(), error.to_string()));
        self.again(connector)
    }

    fn client_connection_lost(
        &mut self,
        connector: &Connector,
        reason: &ConnectionLost,
    ) -> anyhow::Result<()> {
        note(&self.log, format!("client lost: {reason:?}"));
        self.again(connector)
    }
}

/// What an attempt there ends in.
#[track_caller]
fn failure(path: &Path) -> (ErrorKind, String) {
    let (reactor, log, failures) = (reactor(), log(), Failures::default());
    reactor.connect_unix(path, Client::new(&log, &failures, 1)).unwrap();
    assert_eq!(*log.borrow(), ["started"], "nothing else is called inside the call");
    run(&reactor);
    assert_eq!(*log.borrow(), ["started", "failed"]);
    let failure = failures.borrow()[0].clone();
    assert!(failure.1.contains(&path.display().to_string()), "{}", failure.1);
    failure
}

#[test]
fn each_failure_is_told_by_its_kind_and_names_the_path() {
    let folder = Folder::new();
    let path = folder.socket();
    assert_eq!(failure(&path).0, ErrorKind::NotFound);
    drop(UnixListener::bind(&path).unwrap());
    assert_eq!(failure(&path).0, ErrorKind::ConnectionRefused);
    std::fs::remove_file(&path).unwrap();
    let _datagrams = UnixDatagram::bind(&path).unwrap();
    // EPROTOTYPE has no kind of its own.
    failure(&path);
}

#[test]
fn mode_bits_shut_a_client_out() {
    let folder = Folder::new();
    let path = folder.socket();
    let _listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
    if UnixStream::connect(&path).is_ok() {
        println!("skipped: this user may do anything");
        return;
    }
    let (kind, text) = failure(&path);
    assert_eq!(kind, ErrorKind::PermissionDenied);
    assert!(!text.contains("broadcast"), "{text}");
}

fn lines(log: &Log) -> Vec<String> {
    log.borrow().clone()
}

#[test]
fn a_connector_connects_as_often_as_it_is_told() {
    let (folder, log, failures) = (Folder::new(), log(), Failures::default());
    let reactor = reactor();
    let server_log = crate::support::log();
    let port = reactor
        .listen_unix(folder.socket(), move |_: PeerAddr| Some(Recorder::new(&server_log)))
        .unwrap();
    let client = Client::new(&log, &failures, 2);
    let connector = reactor.connect_unix(folder.socket(), client).unwrap();
    crate::support::turn_until(&reactor, || {
        log.borrow().iter().filter(|line| line.starts_with("client lost")).count() == 2
    });
    assert_eq!(connector.state(), ConnectorState::Disconnected);
    port.stop_listening();
    run(&reactor);
    let round = ["started", "connected", "made"];
    assert_eq!(lines(&log)[..3], round);
    assert_eq!(lines(&log).iter().filter(|line| *line == "started").count(), 2, "{log:?}");
    assert!(failures.borrow().is_empty());
}

/// A listener whose backlog is full.
fn full(path: &Path) -> (UnixListener, Vec<UnixStream>) {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let mut waiting = Vec::new();
    loop {
        let one = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        one.set_nonblocking(true).unwrap();
        match one.connect(&socket2::SockAddr::unix(path).unwrap()) {
            Ok(()) => waiting.push(UnixStream::from(std::os::fd::OwnedFd::from(one))),
            Err(_) => return (UnixListener::from(std::os::fd::OwnedFd::from(socket)), waiting),
        }
    }
}

/// Systems that refuse at once instead leave nothing to wait for.
fn waits_for_room() -> bool {
    let waits = cfg!(any(target_os = "linux", target_os = "android"));
    if !waits {
        println!("skipped: a full backlog is a refusal here");
    }
    waits
}

#[test]
fn a_server_without_room_is_waited_for() {
    if !waits_for_room() {
        return;
    }
    let (folder, log, failures) = (Folder::new(), log(), Failures::default());
    let reactor = reactor();
    let (listener, _waiting) = full(&folder.socket());
    reactor.connect_unix(folder.socket(), Client::new(&log, &failures, 1)).unwrap();
    reactor.iterate(Some(Duration::ZERO)).unwrap();
    assert_eq!(*log.borrow(), ["started"]);
    // From the thread that accepts, only after the loop has begun to wait.
    let accepting = std::thread::spawn(move || {
        let first = listener.accept().expect("one that waited");
        let second = listener.accept().expect("ours, or another that waited");
        (listener, first, second)
    });
    run(&reactor);
    let _open = accepting.join().unwrap();
    assert_eq!(lines(&log)[1], "connected", "{log:?}");
    assert!(failures.borrow().is_empty());
}

#[test]
fn an_attempt_at_a_full_server_ends_by_its_timeout_or_by_being_stopped() {
    if !waits_for_room() {
        return;
    }
    let (folder, log, failures) = (Folder::new(), log(), Failures::default());
    let (_listener, _waiting) = full(&folder.socket());
    let reactor = reactor();
    let options = UnixConnectOptions::new(folder.socket()).timeout(Duration::from_millis(30));
    reactor.connect_unix(options, Client::new(&log, &failures, 1)).unwrap();
    run(&reactor);
    assert_eq!(failures.borrow()[0].0, ErrorKind::TimedOut);
    let client = Client::new(&log, &failures, 1);
    let connector = reactor.connect_unix(folder.socket(), client).unwrap();
    connector.stop_connecting().unwrap();
    run(&reactor);
    assert_eq!(failures.borrow()[1].0, ErrorKind::Interrupted);
    assert!(reactor.streams().is_empty());
}

#[test]
fn an_attempt_that_is_stopped_at_once_leaves_nothing() {
    let (folder, log, failures) = (Folder::new(), log(), Failures::default());
    let listener = UnixListener::bind(folder.socket()).unwrap();
    let reactor: Reactor = reactor();
    let client = Client::new(&log, &failures, 1);
    let connector = reactor.connect_unix(folder.socket(), client).unwrap();
    assert!(connector.label().contains(&folder.socket().display().to_string()));
    assert!(matches!(connector.connect(), Err(ConnectError::IsConnecting)));
    connector.disconnect();
    run(&reactor);
    assert_eq!(*log.borrow(), ["started", "failed"]);
    // The socket was connected, and is closed.
    let (mut accepted, _) = listener.accept().unwrap();
    assert_eq!(std::io::Read::read(&mut accepted, &mut [0]).unwrap(), 0);
}

#[test]
fn a_shutdown_ends_an_attempt() {
    let (folder, log, failures) = (Folder::new(), log(), Failures::default());
    let _listener = UnixListener::bind(folder.socket()).unwrap();
    let reactor = reactor();
    reactor.connect_unix(folder.socket(), Client::new(&log, &failures, 1)).unwrap();
    reactor.stop();
    run(&reactor);
    assert_eq!(*log.borrow(), ["started", "failed"]);
    assert!(matches!(
        reactor.connect_unix(folder.join("none"), Client::new(&log, &failures, 1)),
        Ok(_) | Err(ConnectError::ShuttingDown)
    ));
}

#[test]
fn a_connected_connector_says_to_whom() {
    if !has_abstract_names() {
        return;
    }
    let (folder, log) = (Folder::new(), log());
    let name = name(&folder);
    let reactor = reactor();
    let port = {
        let log = Rc::clone(&log);
        reactor.listen_unix(name.as_str(), move |_: PeerAddr| Some(Recorder::new(&log))).unwrap()
    };
    let notes = Rc::clone(&log);
    let connector = reactor
        .connect_unix(name.as_str(), move |_: PeerAddr| Some(Recorder::new(&notes)))
        .unwrap();
    crate::support::turn_until(&reactor, || connector.state() == ConnectorState::Connected);
    let error = connector.connect().unwrap_err();
    let ConnectError::IsConnected { peer } = &error else { panic!("{error:?}") };
    assert_eq!(Some(peer), connector.peer().as_ref());
    assert!(peer.unix().is_some_and(|peer| peer.as_abstract_name().is_some()));
    connector.disconnect();
    port.stop_listening();
    run(&reactor);
}
