//! Taking over sockets made elsewhere.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use strand_reactor::{AdoptError, Family, OptionError, PortState};

use crate::support::{Event, Log, Recorder, Setup, Way, in_each, without_children};

/// Adoption alone, in all its combinations.
#[track_caller]
fn adopting(behaviour: impl Fn(&Setup)) {
    in_each(Setup::all().filter(|s| s.way != Way::Listen), behaviour);
}

/// Adopts in the way of `s`; a shared original is closed at once.
#[track_caller]
fn adopt(
    s: &Setup,
    lab: &crate::support::Lab,
    socket: impl Into<OwnedFd>,
    protocol: Recorder,
) -> Result<strand_reactor::DatagramTransport, AdoptError> {
    let socket = socket.into();
    match s.way {
        Way::Shared => lab.adopt_datagram_port_shared(&socket, protocol),
        Way::Listen | Way::Adopt => lab.adopt_datagram_port(socket, protocol),
    }
}

#[test]
fn the_caller_may_close_its_descriptor_at_once() {
    adopting(|s| {
        let (lab, peer, log) = (s.lab(), s.peer(), Log::default());
        let port = adopt(s, &lab, s.socket(), Recorder::new(&log)).unwrap();
        peer.send("in", s.reach(&port));
        lab.until("the datagram", || log.has_payload("in"));
        port.write_to(b"out", peer.addr()).unwrap();
        assert_eq!(lab.receive(&peer).0, b"out");
    });
}

#[test]
fn sockets_of_std_can_be_adopted() {
    let s = Setup::plain();
    let (lab, log) = (s.lab(), Log::default());
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let port = lab.adopt_datagram_port(socket, Recorder::new(&log)).unwrap();
    assert_eq!(port.local_addr().unwrap(), address);
    s.peer().send("hello", address);
    lab.until("the datagram", || log.has_payload("hello"));
}

#[test]
fn datagrams_queued_before_adoption_are_delivered() {
    adopting(|s| {
        let (lab, peer, log) = (s.lab(), s.peer(), Log::default());
        let socket = s.socket();
        let number = socket.local_addr().unwrap().as_socket().unwrap().port();
        for payload in ["first", "", "third"] {
            peer.send(payload, SocketAddr::new(s.peer_ip(), number));
        }
        let _port = adopt(s, &lab, socket, Recorder::new(&log)).unwrap();
        assert_eq!(log.datagrams(), 0, "not inside the call");
        lab.until("all", || log.datagrams() == 3);
        assert_eq!(log.payloads(), [&b"first"[..], b"", b"third"]);
    });
}

#[test]
fn family_and_address_are_asked_of_the_kernel() {
    adopting(|s| {
        let lab = s.lab();
        let socket = s.socket();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let port = adopt(s, &lab, socket, Recorder::quiet()).unwrap();
        assert_eq!((port.family().unwrap(), port.local_addr().unwrap()), (s.family, address));
        assert!(matches!(port.peer_addr(), Err(OptionError::NotConnected)));
        assert_eq!(port.state(), PortState::Open);
    });
}

#[test]
fn an_adopted_unbound_socket_can_be_bound_and_used() {
    adopting(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let port = adopt(s, &lab, s.unbound_socket(), Recorder::new(&log)).unwrap();
        assert!(matches!(port.local_addr(), Err(OptionError::NotBound)));
        if s.family == Family::V4 {
            let error = port.bind("192.0.2.1:0".parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
            assert!(error.to_string().contains("192.0.2.1"));
        }
        port.bind((s.bind_ip(), 0).into()).unwrap();
        port.write_to(b"self", s.reach(&port)).unwrap();
        lab.until("four bytes", || log.has_payload("self"));
    });
}

#[test]
fn an_adopted_connected_socket_knows_its_peer() {
    adopting(|s| {
        let (lab, peer, log) = (s.lab(), s.peer(), Log::default());
        let socket = s.socket();
        socket.connect(&s.shown(peer.addr()).into()).unwrap();
        let port = adopt(s, &lab, socket, Recorder::new(&log)).unwrap();
        assert_eq!(port.peer_addr().unwrap(), s.shown(peer.addr()));
        port.write(b"no address needed").unwrap();
        let (payload, from) = lab.receive(&peer);
        assert_eq!(payload, b"no address needed");
        peer.send("back", from);
        lab.until("the answer", || log.has_payload("back"));
        port.disconnect().unwrap();
        let other = s.peer();
        port.write_to(b"elsewhere", other.addr()).unwrap();
        assert_eq!(lab.receive(&other).1.port(), from.port(), "the number is kept");
    });
}

#[test]
fn a_blocking_socket_does_not_freeze_the_loop() {
    adopting(|s| {
        let (lab, peer, log) = (s.lab(), s.peer(), Log::default());
        let socket = s.socket();
        assert!(!socket.nonblocking().unwrap());
        let keep = socket.try_clone().unwrap();
        let port = adopt(s, &lab, socket, Recorder::new(&log)).unwrap();
        for round in 1..=3 {
            peer.send("x", s.reach(&port));
            lab.until("the datagram", || log.datagrams() == round);
            lab.settle();
        }
        // A shared one blocks its owner as before; an owned one belongs to the reactor.
        assert_eq!(keep.nonblocking().unwrap(), s.way == Way::Adopt);
    });
}

#[test]
fn anything_but_a_datagram_socket_is_an_error_of_the_call() {
    for portable in [false, true] {
        let s = Setup { portable, ..Setup::plain() };
        let lab = s.lab();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (unix, _other) = UnixStream::pair().unwrap();
        let log = Log::default();
        let cases: [(OwnedFd, &str); 3] = [
            (listener.try_clone().unwrap().into(), "listening"),
            (stream.try_clone().unwrap().into(), "stream"),
            (unix.into(), "stream"),
        ];
        for (fd, name) in cases {
            for way in [Way::Shared, Way::Adopt] {
                let error = adopt(&s.by(way), &lab, fd.try_clone().unwrap(), Recorder::new(&log));
                let Err(AdoptError::NotDatagram { found }) = error else { panic!("{error:?}") };
                assert!(found.contains(name), "{found}");
            }
        }
        assert!(log.events().is_empty() && lab.datagram_ports().is_empty());
        // Those of the caller work as before.
        assert!(listener.accept().is_ok());
        assert!(stream.peer_addr().is_ok());
    }
}

#[test]
fn a_family_without_ip_is_an_error_of_the_call() {
    let lab = Setup::plain().lab();
    let unix = UnixDatagram::unbound().unwrap();
    let error = lab.adopt_datagram_port_shared(&unix, Recorder::quiet()).unwrap_err();
    assert!(matches!(error, AdoptError::Family { found: 1 }), "{error:?}");
    assert!(matches!(
        lab.adopt_datagram_port(unix, Recorder::quiet()),
        Err(AdoptError::Family { .. })
    ));
}

#[test]
fn a_descriptor_that_is_no_socket_is_an_error_of_the_call() {
    let lab = Setup::plain().lab();
    let file = std::fs::File::open("/dev/null").unwrap();
    let error = lab.adopt_datagram_port_shared(&file, Recorder::quiet()).unwrap_err();
    assert!(matches!(error, AdoptError::BadDescriptor(_)), "{error:?}");
    assert!(matches!(
        lab.adopt_datagram_port(file, Recorder::quiet()),
        Err(AdoptError::BadDescriptor(_))
    ));
}

#[test]
fn raw_sockets_of_ip_can_be_adopted() {
    // What arrives begins with the IP header. Protocol 253 is for experiments (RFC 3692).
    let raw = match Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(253))) {
        Ok(raw) => raw,
        Err(error) => {
            println!("skipped: no right to make a raw socket: {error}");
            return;
        }
    };
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    raw.bind(&loopback.into()).unwrap();
    for portable in [false, true] {
        let s = Setup { portable, ..Setup::plain() };
        let (lab, log) = (s.lab(), Log::default());
        let port = lab.adopt_datagram_port(raw.try_clone().unwrap(), Recorder::new(&log)).unwrap();
        assert_eq!(port.family().unwrap(), Family::V4);
        port.write_to(b"experiment", loopback).unwrap();
        lab.until("the packet", || log.datagrams() == 1);
        assert!(log.payloads()[0].ends_with(b"experiment"));
    }
}

#[test]
fn one_socket_may_be_shared_by_two_ports() {
    // Each datagram goes to one of them.
    let shared = Setup::all().filter(|s| s.way == Way::Shared);
    in_each(shared, |s| {
        let (lab, peer, log) = (s.lab(), s.peer(), Log::default());
        let socket = s.socket();
        let one = lab.adopt_datagram_port_shared(&socket, Recorder::new(&log)).unwrap();
        let two = lab.adopt_datagram_port_shared(&socket, Recorder::new(&log)).unwrap();
        assert_eq!(one.local_addr().unwrap(), two.local_addr().unwrap());
        for number in 0..10 {
            peer.send([number], s.reach(&one));
            lab.until("the datagram", || log.has_payload([number]));
        }
        assert_eq!(log.datagrams(), 10);
        one.stop_listening();
        lab.until("one closes", || one.state() == PortState::Closed);
        peer.send("two goes on", s.reach(&two));
        lab.until("the datagram", || log.has_payload("two goes on"));
    });
}

#[test]
fn a_shared_socket_survives_its_port() {
    let shared = Setup::all().filter(|s| s.way == Way::Shared);
    in_each(shared, |s| {
        let (lab, log) = (s.lab(), Log::default());
        let socket = s.socket();
        let address = socket.local_addr().unwrap();
        for end_by_drop in [false, true] {
            let lab = if end_by_drop { s.lab() } else { Setup::lab(s) };
            let port = lab.adopt_datagram_port_shared(&socket, Recorder::new(&log)).unwrap();
            if end_by_drop {
                drop(lab);
            } else {
                port.stop_listening();
                lab.run();
            }
            assert_eq!(socket.local_addr().unwrap(), address);
            assert!(!SockRef::from(&socket).nonblocking().unwrap());
        }
        assert_eq!(log.count(&Event::Start), 2);
        drop(lab);
        let peer = s.peer();
        let number = address.as_socket().unwrap().port();
        peer.send("again", SocketAddr::new(s.peer_ip(), number));
        let lab = s.lab();
        let _port = lab.adopt_datagram_port_shared(&socket, Recorder::new(&log)).unwrap();
        lab.until("what came meanwhile", || log.has_payload("again"));
    });
}

#[test]
fn an_owned_socket_is_closed_with_its_port() {
    in_each(Setup::all().filter(|s| s.way == Way::Adopt), |s| {
        let lab = s.lab();
        let (address, _closing) = (s.lasting_address(), without_children());
        let port = s.open_at(&lab, address, Recorder::quiet());
        port.stop_listening();
        lab.run();
        s.assert_free(address);
    });
}
