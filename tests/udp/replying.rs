//! Answering from the address that was asked.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use strand_reactor::{Family, Metadata, SendOptions, UdpOptions};

use crate::support::{Log, Recorder, Setup, has_ipv6, listening_over, plainly};

/// A port of every address that answers by `reply()`, and what it answered with.
fn answering(
    lab: &crate::support::Lab,
    options: UdpOptions,
) -> (u16, Rc<RefCell<Vec<SendOptions>>>) {
    let replies: Rc<RefCell<Vec<SendOptions>>> = Rc::default();
    let sink = Rc::clone(&replies);
    let port = lab
        .listen_udp(
            options,
            Recorder::quiet().on_datagram(move |transport, datagram| {
                let reply = datagram.reply();
                sink.borrow_mut().push(reply);
                transport.write_with(b"pong", &reply)?;
                Ok(())
            }),
        )
        .unwrap();
    (port.local_addr().unwrap().port(), replies)
}

fn wildcards(s: &Setup) -> Vec<UdpOptions> {
    let v4 = UdpOptions::parse("0.0.0.0:0").unwrap();
    let mut wildcards = vec![v4.metadata(Metadata::DESTINATION)];
    if s.simulated || has_ipv6() {
        let dual = UdpOptions::parse("[::]:0").unwrap();
        wildcards.push(dual.metadata(Metadata::DESTINATION));
    }
    wildcards
}

#[test]
fn a_wildcard_port_answers_from_the_address_it_was_asked_on() {
    plainly(|s| {
        for options in wildcards(s) {
            let lab = s.lab();
            let (number, replies) = answering(&lab, options);
            let peer = s.peer();
            for last in [2, 1, 77] {
                let asked = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), number));
                peer.send("ping", asked);
                assert_eq!(lab.receive(&peer), (b"pong".to_vec(), asked));
                let reply = replies.borrow_mut().pop().unwrap();
                assert_eq!(reply.source_address().map(|ip| ip.to_canonical()), Some(asked.ip()));
            }
        }
    });
}

#[test]
fn a_wildcard_port_answers_ipv6_from_the_address_it_was_asked_on() {
    plainly(|s| {
        let s = &Setup { family: Family::V6Only, ..*s };
        let lab = s.lab();
        for options in wildcards(s).into_iter().skip(1) {
            let (number, replies) = answering(&lab, options);
            let loopback: IpAddr = "::1".parse().unwrap();
            let peer = s.peer();
            peer.send("ping", (loopback, number).into());
            assert_eq!(lab.receive(&peer), (b"pong".to_vec(), (loopback, number).into()));
            assert_eq!(replies.borrow()[0].source_address(), Some(loopback));
        }
    });
}

#[test]
fn an_answer_never_comes_from_a_broadcast_address() {
    plainly(|s| {
        for options in wildcards(s) {
            let lab = s.lab();
            let (number, replies) = answering(&lab, options);
            let peer = s.peer();
            peer.set_broadcast(true);
            let broadcast = Ipv4Addr::new(127, 255, 255, 255);
            peer.send("who is there?", (broadcast, number).into());
            let (payload, from) = lab.receive(&peer);
            assert_eq!((&payload[..], from.port()), (&b"pong"[..], number));
            assert_ne!(from.ip(), broadcast);
            let source = replies.borrow()[0].source_address().map(|ip| ip.to_canonical());
            assert_ne!(source, Some(IpAddr::V4(broadcast)));
        }
    });
}

#[test]
fn without_the_destination_a_reply_is_addressed_and_no_more() {
    listening_over(Family::V4, |s| {
        let lab = s.lab();
        let (number, replies) = answering(&lab, UdpOptions::parse("0.0.0.0:0").unwrap());
        let peer = s.peer();
        peer.send("ping", (Ipv4Addr::LOCALHOST, number).into());
        assert_eq!(lab.receive(&peer).0, b"pong");
        let reply = replies.borrow()[0];
        assert_eq!(reply.destination(), Some(peer.addr()));
        assert_eq!((reply.source_address(), reply.interface_index()), (None, None));
    });
}

#[test]
fn the_source_address_can_be_chosen_per_datagram() {
    plainly(|s| {
        let lab = s.lab();
        let peer = s.peer();
        for options in wildcards(s) {
            let port = lab.listen_udp(options, Recorder::quiet()).unwrap();
            let number = port.local_addr().unwrap().port();
            let to = SendOptions::to(peer.addr());
            for last in [5, 6] {
                let source = IpAddr::from([127, 0, 0, last]);
                port.write_with(b"hello", &to.source(source)).unwrap();
                assert_eq!(lab.receive(&peer), (b"hello".to_vec(), (source, number).into()));
            }
        }
    });
}

#[test]
fn a_source_address_of_another_host_fails_that_datagram_alone() {
    plainly(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let peer = s.peer();
        let port = lab.listen_udp(0, Recorder::new(&log)).unwrap();
        let to = SendOptions::to(peer.addr());
        port.write_with(b"x", &to.source("192.0.2.1".parse().unwrap())).unwrap();
        port.write_with(b"y", &to.source("127.0.0.9".parse().unwrap())).unwrap();
        assert_eq!(lab.receive(&peer).0, b"y");
        lab.until("the failure", || log.has(&crate::support::Event::WriteFailed));
        assert_eq!(port.stats().unwrap().write_failures, 1);
    });
}

#[test]
fn the_interface_a_datagram_came_by_is_named_in_the_reply() {
    plainly(|s| {
        let lab = s.lab();
        let (number, replies) = answering(&lab, wildcards(s).remove(0));
        let peer = s.peer();
        peer.send("ping", (Ipv4Addr::LOCALHOST, number).into());
        lab.receive(&peer);
        let index = match s.simulated {
            // Loopback is the first interface of every host.
            true => Some(1),
            false => std::fs::read_to_string("/sys/class/net/lo/ifindex")
                .ok()
                .and_then(|text| text.trim().parse().ok()),
        };
        let Some(index) = index else {
            println!("skipped: no /sys to ask for the index of the loopback interface");
            return;
        };
        assert_eq!(replies.borrow()[0].interface_index(), Some(index));
    });
}
