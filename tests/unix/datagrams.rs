//! Datagrams over UNIX sockets: delivery, failures, life.

use std::cell::RefCell;
use std::os::unix::net::UnixDatagram as Peer;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::{
    ConnectError, ListenError, OptionError, PortState, Reactor, StopReason, UnixAddr, UnixDatagram,
    UnixDatagramOptions, UnixDatagramProtocol, UnixDatagramTransport, UnixWriteFailure, WriteError,
};

use crate::support::{
    Folder, Log, count, has_abstract_names, log, name, note, reactor, run, turn_until,
};

type React = Box<dyn FnMut(&UnixDatagramTransport, UnixDatagram<'_>) -> anyhow::Result<()>>;

/// Notes every callback, and does with datagrams what the test says.
#[derive(Default)]
pub struct Port {
    log: Log,
    react: Option<React>,
    goodbye: Option<UnixAddr>,
    refuses: bool,
}

impl Port {
    pub fn new(log: &Log) -> Self {
        Self { log: Rc::clone(log), ..Self::default() }
    }

    pub fn on_datagram(
        mut self,
        react: impl FnMut(&UnixDatagramTransport, UnixDatagram<'_>) -> anyhow::Result<()> + 'static,
    ) -> Self {
        self.react = Some(Box::new(react));
        self
    }

    /// Sends everything back to who sent it.
    pub fn echo(self) -> Self {
        self.on_datagram(|transport, datagram| {
            Ok(transport.write_to(datagram.payload(), datagram.source())?)
        })
    }
}

impl UnixDatagramProtocol for Port {
    fn start_protocol(&mut self, _: &UnixDatagramTransport) -> anyhow::Result<()> {
        note(&self.log, "start");
        anyhow::ensure!(!self.refuses, "not today");
        Ok(())
    }

    fn datagram_received(
        &mut self,
        transport: &UnixDatagramTransport,
        datagram: UnixDatagram<'_>,
    ) -> anyhow::Result<()> {
        let text = String::from_utf8_lossy(&datagram.payload()[..datagram.payload().len().min(20)]);
        note(&self.log, text.into_owned());
        self.react.as_mut().map_or(Ok(()), |react| react(transport, datagram))
    }

    fn write_failed(
        &mut self,
        _: &UnixDatagramTransport,
        failure: &UnixWriteFailure,
    ) -> anyhow::Result<()> {
        note(&self.log, format!("failed: {:?}", failure.error.kind()));
        assert!(failure.destination.is_some() && failure.to_string().contains("was not sent"));
        Ok(())
    }

    fn pause_writing(&mut self, _: &UnixDatagramTransport) -> anyhow::Result<()> {
        note(&self.log, "pause");
        Ok(())
    }

    fn resume_writing(&mut self, _: &UnixDatagramTransport) -> anyhow::Result<()> {
        note(&self.log, "resume");
        Ok(())
    }

    fn stop_protocol(&mut self, transport: &UnixDatagramTransport, reason: StopReason) {
        if let Some(to) = &self.goodbye {
            transport.write_to(b"goodbye", to).expect("accepted");
        }
        note(&self.log, format!("stop: {reason:?}"));
    }
}

fn open(reactor: &Reactor, folder: &Folder, port: Port) -> UnixDatagramTransport {
    reactor.listen_unix_datagram(folder.socket(), port).expect("a port")
}

/// A socket of the system, bound beside the port.
fn peer(folder: &Folder, name: &str) -> Peer {
    let peer = Peer::bind(folder.join(name)).expect("a socket");
    peer.set_read_timeout(Some(crate::support::WATCHDOG)).expect("a timeout");
    peer
}

fn receive(peer: &Peer) -> Vec<u8> {
    let mut buffer = vec![0; 300_000];
    let len = peer.recv(&mut buffer).expect("a datagram");
    buffer.truncate(len);
    buffer
}

#[test]
fn datagrams_come_whole_with_their_sender_and_are_answered_by_address() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let port = open(&reactor, &folder, Port::new(&log).echo());
    let peer = peer(&folder, "peer");
    for payload in [&b"hello"[..], b"", &[7; 70_000]] {
        peer.send_to(payload, folder.socket()).unwrap();
        let before = port.stats().unwrap().datagrams_out;
        turn_until(&reactor, || port.stats().unwrap().datagrams_out > before);
        assert!(receive(&peer) == payload, "{} bytes differ", payload.len());
    }
    let stats = port.stats().unwrap();
    assert_eq!((stats.datagrams_in, stats.bytes_in), (3, 70_005));
    assert_eq!((stats.datagrams_out, stats.bytes_out), (3, 70_005));
    assert_eq!((stats.truncated, stats.write_failures), (0, 0));
}

#[test]
fn an_unnamed_sender_is_told_as_such_and_cannot_be_answered() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let port = Port::new(&log).on_datagram(|transport, datagram| {
        assert!(datagram.source().is_unnamed() && !datagram.is_truncated());
        let error = transport.write_to(b"answer", datagram.source()).unwrap_err();
        assert!(matches!(error, WriteError::DestinationRequired));
        transport.stop_listening();
        Ok(())
    });
    open(&reactor, &folder, port);
    Peer::unbound().unwrap().send_to(b"who am I", folder.socket()).unwrap();
    run(&reactor);
    assert_eq!(*log.borrow(), ["start", "who am I", "stop: Stopped"]);
}

#[test]
fn names_and_paths_reach_each_other() {
    if !has_abstract_names() {
        return;
    }
    let (folder, log, named) = (Folder::new(), log(), log());
    let reactor = reactor();
    let name = UnixAddr::from(name(&folder));
    let port = open(&reactor, &folder, Port::new(&log).echo());
    let (target, own) = (folder.socket(), name.clone());
    let by_name = Port::new(&named).on_datagram(move |transport, datagram| {
        assert_eq!(datagram.source().as_path(), Some(&*target));
        assert_eq!(transport.local_addr()?, own);
        transport.stop_listening();
        Ok(())
    });
    let other = reactor.listen_unix_datagram(&name, by_name).unwrap();
    other.write_to(b"by name", folder.socket()).unwrap();
    turn_until(&reactor, || other.state() == PortState::Closed);
    port.stop_listening();
    run(&reactor);
    assert_eq!(*named.borrow(), ["start", "by name", "stop: Stopped"]);
}

#[test]
fn a_write_to_nobody_is_told_and_the_port_goes_on() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let port = open(&reactor, &folder, Port::new(&log).echo());
    let dead = folder.join("dead");
    drop(Peer::bind(&dead).unwrap());
    port.write_to(b"x", folder.join("none")).unwrap();
    port.write_to(b"x", &dead).unwrap();
    assert_eq!(*log.borrow(), ["start"], "nothing is called inside the call");
    let told = Rc::new(RefCell::new(Vec::new()));
    let tell = Rc::clone(&told);
    port.write_then(b"x", Some(dead.into()), move |result| {
        tell.borrow_mut().push(result.unwrap_err().kind());
    })
    .unwrap();
    let peer = peer(&folder, "peer");
    peer.send_to(b"still here?", folder.socket()).unwrap();
    turn_until(&reactor, || count(&log, "still here?") == 1 && told.borrow().len() == 1);
    assert_eq!(receive(&peer), b"still here?");
    assert_eq!(*told.borrow(), [std::io::ErrorKind::ConnectionRefused]);
    assert_eq!(count(&log, "failed: NotFound"), 1);
    assert_eq!(count(&log, "failed: ConnectionRefused"), 1, "the completion was told instead");
    assert_eq!((port.stats().unwrap().write_failures, port.state()), (3, PortState::Open));
}

#[test]
fn a_completion_is_told_the_length_from_the_loop() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let port = open(&reactor, &folder, Port::new(&log));
    let peer = peer(&folder, "peer");
    let notes = Rc::clone(&log);
    let to = Some(folder.join("peer").into());
    port.write_then(b"12345", to, move |result| note(&notes, format!("sent {result:?}"))).unwrap();
    assert_eq!(count(&log, "sent Ok(5)"), 0);
    turn_until(&reactor, || count(&log, "sent Ok(5)") == 1);
    assert_eq!(receive(&peer), b"12345");
}

#[test]
fn a_datagram_that_is_too_long_for_the_system_fails_alone() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let port = open(&reactor, &folder, Port::new(&log));
    let peer = peer(&folder, "peer");
    port.write_to(&vec![0; 16 << 20], folder.join("peer")).unwrap();
    port.write_to(b"short", folder.join("peer")).unwrap();
    turn_until(&reactor, || port.stats().unwrap().write_failures == 1 && log.borrow().len() == 2);
    assert_eq!(receive(&peer), b"short");
}

#[test]
fn what_does_not_fit_the_buffer_is_cut_and_says_so() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let seen = Rc::new(RefCell::new(None));
    let tell = Rc::clone(&seen);
    let port = Port::new(&log).on_datagram(move |_, datagram| {
        *tell.borrow_mut() = Some((datagram.payload().len(), datagram.is_truncated()));
        Ok(())
    });
    let port = open(&reactor, &folder, port);
    let peer = Peer::unbound().unwrap();
    socket2::SockRef::from(&peer).set_send_buffer_size(1 << 20).unwrap();
    if let Err(error) = peer.send_to(&vec![1; 256 * 1024 + 1], folder.socket()) {
        println!("skipped: no datagram is that long here: {error}");
        return;
    }
    turn_until(&reactor, || seen.borrow().is_some());
    assert_eq!(*seen.borrow(), Some((256 * 1024, true)));
    assert_eq!(port.stats().unwrap().truncated, 1);
}

#[test]
fn a_connected_port_writes_to_its_peer_alone() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let port = open(&reactor, &folder, Port::new(&log));
    let (peer, path) = (peer(&folder, "peer"), folder.join("peer"));
    assert!(matches!(port.write(b"x"), Err(WriteError::DestinationRequired)));
    assert!(matches!(port.disconnect(), Err(ConnectError::NotConnected)));
    let missing = port.connect(folder.join("none")).unwrap_err();
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    assert!(missing.to_string().contains("none"), "{missing}");
    port.connect(&path).unwrap();
    assert_eq!(port.peer_addr().unwrap().as_path(), Some(&*path));
    let error = port.connect(&path).unwrap_err();
    assert!(matches!(&error, ConnectError::IsConnected { .. }), "{error:?}");
    let error = port.write_to(b"x", &path).unwrap_err();
    let WriteError::IsConnected { peer: known } = &error else { panic!("{error:?}") };
    assert_eq!(known.unix().and_then(UnixAddr::as_path), Some(&*path));
    if cfg!(any(target_os = "linux", target_os = "android")) {
        let stranger = Peer::unbound().unwrap();
        let refused = stranger.send_to(b"from another", folder.socket()).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    }
    port.write(b"to the peer").unwrap();
    assert_eq!(receive(&peer), b"to the peer");
    // A peer that goes is told by the next write, and another may be chosen.
    drop(peer);
    port.write(b"x").unwrap();
    turn_until(&reactor, || count(&log, "failed: ConnectionRefused") == 1);
    port.disconnect().unwrap();
    assert!(matches!(port.peer_addr(), Err(OptionError::NotConnected)));
    let other = Peer::bind(folder.join("other")).unwrap();
    port.write_to(b"to another", folder.join("other")).unwrap();
    assert_eq!(receive(&other), b"to another");
}

#[test]
fn a_paused_port_delivers_what_waited_when_it_resumes() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let port = Port::new(&log)
        .on_datagram(|transport, _| transport.pause_reading().map_err(anyhow::Error::from));
    let options = UnixDatagramOptions::new(folder.socket()).start_paused(true);
    let port = reactor.listen_unix_datagram(options, port).unwrap();
    assert_eq!(port.state(), PortState::Paused);
    let peer = Peer::unbound().unwrap();
    for payload in ["one", "two", "three"] {
        peer.send_to(payload.as_bytes(), folder.socket()).unwrap();
    }
    // An event of another socket proves that a turn went by.
    reactor.iterate(Some(Duration::ZERO)).unwrap();
    reactor.iterate(Some(Duration::ZERO)).unwrap();
    assert_eq!(*log.borrow(), ["start"]);
    for (nth, payload) in ["one", "two", "three"].into_iter().enumerate() {
        port.resume_reading().unwrap();
        turn_until(&reactor, || log.borrow().len() == nth + 2);
        reactor.iterate(Some(Duration::ZERO)).unwrap();
        assert_eq!(log.borrow().last().unwrap(), payload);
        assert_eq!(log.borrow().len(), nth + 2, "one pauses the next");
    }
}

#[test]
fn a_failing_callback_costs_one_datagram() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let port = Port::new(&log).on_datagram(|_, datagram| {
        assert_ne!(datagram.payload(), b"panic");
        anyhow::ensure!(datagram.payload() != b"error", "an error");
        Ok(())
    });
    let port = open(&reactor, &folder, port);
    let peer = Peer::unbound().unwrap();
    for payload in ["error", "panic", "fine"] {
        peer.send_to(payload.as_bytes(), folder.socket()).unwrap();
    }
    while count(&log, "fine") == 0 {
        reactor.iterate(Some(Duration::from_millis(20))).unwrap();
    }
    let stats = port.stats().unwrap();
    assert_eq!((stats.callback_errors, stats.callback_panics), (1, 1));
}

#[test]
fn stopping_says_goodbye_and_tells_who_waited() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let peer = peer(&folder, "peer");
    let goodbye = Some(folder.join("peer").into());
    let port = open(&reactor, &folder, Port { goodbye, ..Port::new(&log) });
    let (notes, path) = (Rc::clone(&log), folder.socket());
    port.stop_listening_then(move |_| {
        assert!(!path.exists());
        note(&notes, "free");
    })
    .unwrap();
    assert_eq!(port.state(), PortState::Closing);
    run(&reactor);
    assert_eq!(receive(&peer), b"goodbye");
    assert_eq!(*log.borrow(), ["start", "stop: Stopped", "free"]);
    assert_eq!(port.state(), PortState::Closed);
    assert!(matches!(port.write_to(b"x", folder.join("peer")), Err(WriteError::Closed)));
    assert!(port.stats().is_err() && port.local_addr().is_err());
}

#[test]
fn a_shutdown_stops_the_port_and_none_can_be_opened_by_then() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let port = open(&reactor, &folder, Port::new(&log));
    assert_eq!(reactor.unix_datagram_ports().len(), 1);
    reactor.stop();
    run(&reactor);
    assert_eq!(*log.borrow(), ["start", "stop: Shutdown"]);
    assert_eq!(port.state(), PortState::Closed);
    assert!(folder.entries().is_empty());
}

#[test]
fn a_port_keeps_the_loop_running_unless_it_is_told_not_to() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let port = open(&reactor, &folder, Port::new(&log));
    assert!(reactor.iterate(Some(Duration::ZERO)).unwrap());
    port.unref().unwrap();
    run(&reactor);
    assert_eq!(port.state(), PortState::Open);
    port.reref().unwrap();
    assert!(reactor.iterate(Some(Duration::ZERO)).unwrap());
}

#[test]
fn a_protocol_that_does_not_start_leaves_nothing() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let port = Port { refuses: true, ..Port::new(&log) };
    let error = reactor.listen_unix_datagram(folder.socket(), port).unwrap_err();
    assert!(matches!(&error, ListenError::Protocol(_)), "{error:?}");
    assert!(folder.entries().is_empty() && reactor.unix_datagram_ports().is_empty());
    run(&reactor);
}

#[test]
fn a_program_may_keep_a_hand_on_its_protocol() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let shared = Rc::new(RefCell::new(Port::new(&log)));
    let port = reactor.listen_unix_datagram(folder.socket(), Rc::clone(&shared)).unwrap();
    Peer::unbound().unwrap().send_to(b"hello", folder.socket()).unwrap();
    turn_until(&reactor, || count(&shared.borrow().log, "hello") == 1);
    assert!(port.is_same_port(&reactor.unix_datagram_ports()[0]));
    assert!(format!("{port:?}").contains("Open"));
    assert!(port.label().contains(&folder.socket().display().to_string()));
    port.set_label("logs").unwrap();
    assert_eq!(port.label(), "logs");
    let other = crate::support::reactor();
    let key = port.key().unwrap();
    assert!(reactor.unix_datagram(key).is_some_and(|found| found.is_same_port(&port)));
    assert!(other.unix_datagram(key).is_none());
    assert!(port.with_fd(|_| ()).is_ok());
    assert!(port.recv_buffer_size().unwrap() > 0 && port.send_buffer_size().unwrap() > 0);
}

#[test]
fn a_flood_does_not_keep_timers_waiting() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    // A port that writes to itself never runs dry.
    let (own, mut seen) = (folder.socket(), 0);
    let port = Port::new(&log).on_datagram(move |transport, _| {
        seen += 1;
        if seen == 100 {
            transport.reactor().call_later(Duration::ZERO, |handle| handle.stop());
        }
        Ok(transport.write_to(&[1; 1000], &own)?)
    });
    let port = open(&reactor, &folder, port);
    for _ in 0..4 {
        port.write_to(b"begin", folder.socket()).unwrap();
    }
    run(&reactor);
    assert!(log.borrow().len() > 100);
}
