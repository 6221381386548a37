//! Sockets made elsewhere, and those of a service manager.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram as Peer, UnixListener, UnixStream};
use std::rc::Rc;

use strand_reactor::{AdoptError, PeerAddr, UnixAddr};

use crate::datagrams::Port;
use crate::support::{Folder, Recorder, assert_last, count, log, reactor, run, turn_until};

#[test]
fn an_adopted_port_accepts_who_waited_and_leaves_its_path() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let listener = UnixListener::bind(folder.socket()).unwrap();
    let mut early = UnixStream::connect(folder.socket()).unwrap();
    early.write_all(b"early").unwrap();
    let notes = Rc::clone(&log);
    let port = reactor
        .adopt_stream_port(listener, move |peer: PeerAddr| {
            assert_eq!(peer.unix(), Some(&UnixAddr::UNNAMED));
            let echo = Recorder::new(&notes).data(|transport, data| Ok(transport.write(data)?));
            Some(echo)
        })
        .unwrap();
    assert_eq!(port.unix_addr().unwrap(), UnixAddr::from(folder.socket()));
    assert!(port.label().starts_with("adopted unix"), "{}", port.label());
    turn_until(&reactor, || {
        reactor.streams().first().is_some_and(|stream| stream.stats().unwrap().bytes_out == 5)
    });
    let mut back = [0; 5];
    early.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"early");
    drop(early);
    port.stop_listening();
    run(&reactor);
    assert_eq!(folder.entries(), ["s"], "who made the path removes it");
}

#[test]
fn an_adopted_connection_gets_what_came_before() {
    let log = log();
    let reactor = reactor();
    let (near, mut far) = UnixStream::pair().unwrap();
    far.write_all(b"early").unwrap();
    far.shutdown(std::net::Shutdown::Write).unwrap();
    let into = Rc::new(RefCell::new(Vec::new()));
    let protocol = Recorder::new(&log).collect(&into);
    let transport = reactor.adopt_stream_connection(near, protocol).unwrap();
    assert_eq!(transport.peer().unwrap(), PeerAddr::Unix(UnixAddr::UNNAMED));
    assert!(transport.unix_local_addr().unwrap().is_unnamed());
    run(&reactor);
    assert_eq!(*into.borrow(), b"early");
    assert_last(&log, "lost: Done");
}

#[test]
fn an_adopted_datagram_socket_keeps_its_peer_and_its_path() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let socket = Peer::bind(folder.socket()).unwrap();
    Peer::unbound().unwrap().send_to(b"early", folder.socket()).unwrap();
    let port = reactor.adopt_unix_datagram_port(socket, Port::new(&log)).unwrap();
    assert_eq!(port.local_addr().unwrap(), UnixAddr::from(folder.socket()));
    turn_until(&reactor, || count(&log, "early") == 1);
    port.stop_listening();
    run(&reactor);
    assert_eq!(folder.entries(), ["s"], "who made the path removes it");
    let (near, far) = Peer::pair().unwrap();
    let port = reactor.adopt_unix_datagram_port(near, Port::new(&log)).unwrap();
    assert!(port.peer_addr().unwrap().is_unnamed());
    port.write(b"to the other").unwrap();
    let mut buffer = [0; 20];
    assert_eq!(far.recv(&mut buffer).unwrap(), 12);
    far.send(b"and back").unwrap();
    turn_until(&reactor, || count(&log, "and back") == 1);
}

#[test]
fn what_is_no_fitting_socket_is_refused_with_a_reason() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let (stream, _other) = UnixStream::pair().unwrap();
    let listener = UnixListener::bind(folder.socket()).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    for (fd, found) in [
        (OwnedFd::from(stream), "stream socket"),
        (listener.into(), "stream socket"),
        (udp.into(), "family"),
        (file.into(), "descriptor"),
    ] {
        let error = reactor.adopt_unix_datagram_port(fd, Port::new(&log)).unwrap_err();
        assert!(error.to_string().contains(found), "{error}");
    }
    let datagrams = Peer::unbound().unwrap();
    let error = reactor.adopt_stream_port(datagrams, |_: PeerAddr| None::<Recorder>).unwrap_err();
    assert!(matches!(error, AdoptError::NotStream { .. }), "{error:?}");
    let unbound = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let error = reactor.adopt_stream_connection(unbound, Recorder::new(&log)).unwrap_err();
    assert!(error.to_string().contains("without a peer"), "{error}");
    assert!(log.borrow().is_empty());
}
