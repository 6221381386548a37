//! Ports with a peer.

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use strand_reactor::{ConnectError, Family, OptionError, SendOptions, UdpOptions, WriteError};

use crate::support::{Log, Recorder, everywhere, listening, listening_over, never};

#[test]
fn a_connected_port_writes_without_a_destination() {
    everywhere(|s| {
        let (lab, peer, log) = (s.lab(), s.peer(), Log::default());
        let port = lab.open(Recorder::new(&log));
        assert!(matches!(port.peer_addr(), Err(OptionError::NotConnected)));
        port.connect(peer.addr()).unwrap();
        assert_eq!(port.peer_addr().unwrap(), s.shown(peer.addr()));
        port.write(b"one").unwrap();
        port.write_with(b"two", &SendOptions::new()).unwrap();
        assert_eq!(port.try_write(b"three").unwrap(), 5);
        assert_eq!(port.try_write_batch(&[(b"four", None), (b"five", None)]).unwrap(), 2);
        port.write_then(b"six", None, |sent| assert_eq!(sent.unwrap(), 3)).unwrap();
        lab.turn();
        let expected = [&b"one"[..], b"two", b"three", b"four", b"five", b"six"];
        assert_eq!(peer.payloads(6), expected);
        assert_eq!(lab.stats().callback_panics, 0);
        peer.send("back", s.reach(&port));
        lab.until("the answer", || log.has_payload("back"));
    });
}

#[test]
fn a_second_connect_is_an_error_and_keeps_the_peer() {
    everywhere(|s| {
        let (lab, peer, other) = (s.lab(), s.peer(), s.peer());
        let port = lab.open(Recorder::quiet());
        port.connect(peer.addr()).unwrap();
        for to in [other.addr(), peer.addr()] {
            let error = port.connect(to).unwrap_err();
            let ConnectError::IsConnected { peer: old } = error else { panic!("{error:?}") };
            assert_eq!(old, s.shown(peer.addr()));
        }
        assert_eq!(port.peer_addr().unwrap(), s.shown(peer.addr()));
        port.write(b"still").unwrap();
        assert_eq!(lab.receive(&peer).0, b"still");
    });
}

#[test]
fn any_destination_is_an_error_on_a_connected_port() {
    everywhere(|s| {
        let (lab, peer, other) = (s.lab(), s.peer(), s.peer());
        let port = lab.open(Recorder::quiet());
        port.connect(peer.addr()).unwrap();
        for to in [peer.addr(), other.addr()] {
            let errors = [
                port.write_to(b"x", to),
                port.try_write_to(b"x", to).map(drop),
                port.try_write_batch(&[(b"x", Some(to))]).map(drop),
                port.write_with(b"x", &SendOptions::to(to)),
                port.write_then(b"x", to, never),
            ];
            for error in errors {
                let Err(WriteError::IsConnected { peer: old }) = error else { panic!("{error:?}") };
                assert_eq!(old, s.shown(peer.addr()));
            }
        }
        port.write(b"without").unwrap();
        assert_eq!(lab.receive(&peer).0, b"without");
        assert!(other.try_receive().is_none() && peer.try_receive().is_none());
    });
}

#[test]
fn disconnecting_is_possible_once() {
    everywhere(|s| {
        let (lab, peer, other) = (s.lab(), s.peer(), s.peer());
        let port = lab.open(Recorder::quiet());
        assert!(matches!(port.disconnect(), Err(ConnectError::NotConnected)));
        port.connect(peer.addr()).unwrap();
        port.disconnect().unwrap();
        assert!(matches!(port.disconnect(), Err(ConnectError::NotConnected)));
        assert!(matches!(port.peer_addr(), Err(OptionError::NotConnected)));
        assert!(matches!(port.write(b"x"), Err(WriteError::DestinationRequired)));
        port.write_to(b"anywhere", other.addr()).unwrap();
        assert_eq!(lab.receive(&other).0, b"anywhere");
    });
}

#[test]
fn the_local_address_survives_connecting_and_disconnecting() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let port = lab.open(Recorder::new(&log));
        let number = || port.with_fd(|fd| fd.as_raw_fd()).unwrap();
        // A simulated host has none.
        let descriptor = s.has_descriptors().then(number);
        let before = port.local_addr().unwrap();
        for round in 0..3_u8 {
            let peer = s.peer();
            port.connect(peer.addr()).unwrap();
            assert_eq!(port.local_addr().unwrap().port(), before.port());
            port.write(b"connected").unwrap();
            assert_eq!(lab.receive(&peer), (b"connected".to_vec(), s.reach(&port)));
            port.disconnect().unwrap();
            assert_eq!(port.local_addr().unwrap().port(), before.port());
            let stranger = s.peer();
            stranger.send([round], s.reach(&port));
            lab.until("a stranger's datagram", || log.has_payload([round]));
            port.write_to(b"unconnected", stranger.addr()).unwrap();
            assert_eq!(lab.receive(&stranger).0, b"unconnected");
        }
        assert_eq!(s.has_descriptors().then(number), descriptor, "the same socket");
    });
}

#[test]
fn a_port_bound_by_connecting_keeps_its_number() {
    listening(|s| {
        let lab = s.lab();
        let port = lab.listen_udp(UdpOptions::unbound(s.family), Recorder::quiet()).unwrap();
        let peer = s.peer();
        port.connect(peer.addr()).unwrap();
        let number = port.local_addr().unwrap().port();
        assert_ne!(number, 0);
        port.write(b"x").unwrap();
        assert_eq!(lab.receive(&peer).1.port(), number);
    });
}

#[test]
fn strangers_are_not_heard_after_connect_but_those_queued_before_are() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let (peer, stranger) = (s.peer(), s.peer());
        let port = lab.open(Recorder::new(&log));
        stranger.send("queued before", s.reach(&port));
        port.connect(peer.addr()).unwrap();
        stranger.send("too late", s.reach(&port));
        peer.send("sentinel", s.reach(&port));
        lab.until("the sentinel", || log.has_payload("sentinel"));
        assert_eq!(log.payloads(), [&b"queued before"[..], b"sentinel"]);
        port.disconnect().unwrap();
        stranger.send("again", s.reach(&port));
        lab.until("the stranger", || log.has_payload("again"));
    });
}

#[test]
fn what_was_written_before_goes_where_it_was_meant() {
    everywhere(|s| {
        let (lab, old, new) = (s.lab(), s.peer(), s.peer());
        let port = lab.open(Recorder::quiet());
        port.write_to(b"addressed", new.addr()).unwrap();
        port.connect(old.addr()).unwrap();
        port.write(b"to the old").unwrap();
        port.disconnect().unwrap();
        port.connect(new.addr()).unwrap();
        port.write(b"to the new").unwrap();
        lab.turn();
        assert_eq!(old.payloads(1), [b"to the old"]);
        assert_eq!(new.payloads(2), [&b"addressed"[..], b"to the new"]);
        assert!(old.try_receive().is_none());
    });
}

#[test]
fn a_completion_may_disconnect_and_write_on() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let port = lab.open(Recorder::quiet());
        let to = peer.addr();
        port.connect(to).unwrap();
        let (inner, done) = (port.clone(), Rc::new(Cell::new(false)));
        let finish = Rc::clone(&done);
        port.write_then(b"1", None, move |sent| {
            sent.unwrap();
            inner.disconnect().unwrap();
            assert!(matches!(inner.write(b"x"), Err(WriteError::DestinationRequired)));
            inner.write_to(b"2", to).unwrap();
            inner.connect(to).unwrap();
            inner.write(b"3").unwrap();
            finish.set(true);
        })
        .unwrap();
        lab.until("the completion", || done.get());
        lab.turn();
        assert_eq!(peer.payloads(3), [b"1", b"2", b"3"]);
        assert!(peer.try_receive().is_none());
    });
}

#[test]
fn connecting_to_the_unspecified_address_means_this_host() {
    everywhere(|s| {
        let lab = s.lab();
        let port = lab.open(Recorder::quiet());
        let any: SocketAddr = match s.family {
            Family::V4 => "0.0.0.0:0".parse().unwrap(),
            Family::V6Only | Family::Dual => "[::]:0".parse().unwrap(),
        };
        let peer = s.peer();
        let to = SocketAddr::new(any.ip(), peer.addr().port());
        port.connect(to).unwrap();
        assert!(port.peer_addr().unwrap().ip().to_canonical().is_loopback());
        if s.family != Family::Dual {
            port.write(b"home").unwrap();
            assert_eq!(lab.receive(&peer).0, b"home");
        }
        port.disconnect().unwrap();
    });
}

#[test]
fn a_peer_of_the_wrong_family_is_an_error_and_no_peer() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let port = lab.open(Recorder::quiet());
        let wrong: SocketAddr = match s.family {
            Family::V4 => "[::1]:9".parse().unwrap(),
            Family::V6Only => "127.0.0.1:9".parse().unwrap(),
            Family::Dual => return,
        };
        let error = port.connect(wrong).unwrap_err();
        assert!(matches!(error, ConnectError::WrongFamily { address, .. } if address == wrong));
        assert!(matches!(port.peer_addr(), Err(OptionError::NotConnected)));
        port.connect(peer.addr()).unwrap();
    });
}

#[test]
fn a_connect_that_the_system_refuses_leaves_the_port_as_it_was() {
    listening_over(Family::V4, |s| {
        // Broadcast addresses need the permission also as a peer.
        {
            let (lab, peer) = (s.lab(), s.peer());
            let port = lab.listen_udp(0, Recorder::quiet()).unwrap();
            let error = port.connect("127.255.255.255:9".parse().unwrap()).unwrap_err();
            let ConnectError::Io(source) = &error else { panic!("{error:?}") };
            assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
            assert!(matches!(port.peer_addr(), Err(OptionError::NotConnected)));
            port.write_to(b"fine", peer.addr()).unwrap();
            assert_eq!(lab.receive(&peer).0, b"fine");
        }
    });
}

#[test]
fn path_mtu_is_known_once_there_is_a_peer() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let port = lab.open(Recorder::quiet());
        assert!(matches!(port.path_mtu(), Err(OptionError::NotConnected)));
        port.connect(peer.addr()).unwrap();
        // The MTU of loopback is the administrator's, but no less than IPv4 or IPv6 asks for.
        assert!(port.path_mtu().unwrap() >= 576);
    });
}
