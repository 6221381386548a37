//! What is learned with each datagram, on request.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::{
    DatagramInfo, DatagramTransport, Ecn, Family, Metadata, OptionError, SendOptions,
};

use crate::support::{Event, Lab, Log, Recorder, Setup, batched, everywhere, in_each, plainly};

type Infos = Rc<RefCell<Vec<(DatagramInfo, Option<u32>)>>>;

/// A port that keeps what it learns.
fn learning(lab: &Lab) -> (DatagramTransport, Infos) {
    learning_by(&lab.setup(), lab)
}

/// The same, opened in another way than the lab's own.
fn learning_by(s: &Setup, lab: &Lab) -> (DatagramTransport, Infos) {
    let infos = Infos::default();
    let sink = Rc::clone(&infos);
    let recorder = Recorder::quiet().on_datagram(move |_, datagram| {
        sink.borrow_mut().push((datagram.info().clone(), datagram.kernel_drops()));
        Ok(())
    });
    (s.open(lab, recorder), infos)
}

#[test]
fn nothing_is_learned_that_was_not_asked_for() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let (port, infos) = learning(&lab);
        assert_eq!(port.metadata().unwrap(), Metadata::NONE);
        peer.send("x", s.reach(&port));
        lab.until("the datagram", || infos.borrow().len() == 1);
        let (info, drops) = infos.borrow()[0].clone();
        assert_eq!(info.source(), s.shown(peer.addr()));
        assert_eq!((info.destination(), info.interface(), info.hop_limit()), (None, None, None));
        assert_eq!((info.ecn(), info.received_at(), drops), (None, None, None));
    });
}

#[test]
fn the_portable_path_says_that_it_learns_nothing() {
    in_each(Setup::all().filter(|s| s.portable), |s| {
        let (lab, peer) = (s.lab(), s.peer());
        let (port, infos) = learning(&lab);
        assert_eq!(port.set_metadata(Metadata::ALL).unwrap(), Metadata::NONE);
        assert_eq!(port.metadata().unwrap(), Metadata::NONE);
        assert_eq!(port.capabilities().unwrap().metadata, Metadata::NONE);
        peer.send("x", s.reach(&port));
        lab.until("the datagram", || infos.borrow().len() == 1);
        assert_eq!(infos.borrow()[0].0.destination(), None);
    });
}

#[test]
fn everything_asked_for_is_learned() {
    batched(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let (port, infos) = learning(&lab);
        assert_eq!(port.set_metadata(Metadata::ALL).unwrap(), Metadata::ALL);
        assert_eq!(port.capabilities().unwrap().metadata, Metadata::ALL);
        let before = lab.date() - Duration::from_secs(5);
        peer.send("", s.reach(&port));
        peer.send("x", s.reach(&port));
        lab.until("both", || infos.borrow().len() == 2);
        for (info, drops) in infos.borrow().iter() {
            assert_eq!(info.destination(), Some(s.shown(s.reach(&port))));
            assert!(info.interface().unwrap() > 0);
            assert_eq!(info.hop_limit(), Some(64), "the usual default of Linux");
            assert_eq!(info.ecn(), Some(Ecn::NotEct));
            let received = info.received_at().unwrap();
            assert!(before < received && received < before + Duration::from_secs(60));
            assert_eq!(*drops, Some(0));
        }
        // A pulled datagram tells the same.
        port.pause_reading().unwrap();
        peer.send("pulled", s.reach(&port));
        let datagram = port.read_datagram(&mut [0; 8]).unwrap().unwrap();
        assert_eq!(datagram.destination(), Some(s.shown(s.reach(&port))));
        assert_eq!((datagram.kernel_drops(), datagram.hop_limit()), (Some(0), Some(64)));
    });
}

#[test]
fn the_mask_can_be_changed_at_any_time() {
    batched(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let (port, infos) = learning(&lab);
        let masks = [
            Metadata::DESTINATION,
            Metadata::NONE,
            Metadata::HOP_LIMIT | Metadata::ECN,
            Metadata::ALL,
            Metadata::RECEIVE_TIME,
        ];
        for (count, mask) in masks.into_iter().enumerate() {
            assert_eq!(port.set_metadata(mask).unwrap(), mask);
            peer.send("x", s.reach(&port));
            lab.until("the datagram", || infos.borrow().len() == count + 1);
            let (info, drops) = infos.borrow()[count].clone();
            assert_eq!(info.destination().is_some(), mask.contains(Metadata::DESTINATION));
            assert_eq!(info.hop_limit().is_some(), mask.contains(Metadata::HOP_LIMIT));
            assert_eq!(info.ecn().is_some(), mask.contains(Metadata::ECN));
            assert_eq!(info.received_at().is_some(), mask.contains(Metadata::RECEIVE_TIME));
            assert_eq!(drops.is_some(), mask.contains(Metadata::DROPS));
        }
    });
}

#[test]
fn the_receiver_sees_the_ttl_that_was_set() {
    batched(|s| {
        let lab = s.lab();
        let (port, infos) = learning(&lab);
        port.set_metadata(Metadata::HOP_LIMIT).unwrap();
        let sender = lab.open(Recorder::quiet());
        for (count, hops) in [1, 2, 128, 255, 64].into_iter().enumerate() {
            sender.set_ttl(hops).unwrap();
            sender.write_to(b"x", s.reach(&port)).unwrap();
            lab.until("the datagram", || infos.borrow().len() == count + 1);
            assert_eq!(infos.borrow()[count].0.hop_limit().map(u32::from), Some(hops));
        }
    });
}

#[test]
fn a_ttl_set_on_a_dual_port_holds_for_both_families() {
    in_each(Setup::all().filter(|s| s.family == Family::Dual && !s.portable), |s| {
        let lab = s.lab();
        let sender = lab.open(Recorder::quiet());
        sender.set_ttl(7).unwrap();
        sender.set_tos(0x2e << 2 | 1).unwrap();
        for family in [Family::V4, Family::V6Only] {
            let r = Setup { family, ..s.by(crate::support::Way::Listen) };
            let (port, infos) = learning_by(&r, &lab);
            port.set_metadata(Metadata::HOP_LIMIT | Metadata::ECN).unwrap();
            sender.try_write_to(b"x", r.reach(&port)).unwrap();
            lab.until("the datagram", || infos.borrow().len() == 1);
            let (info, _) = &infos.borrow()[0];
            assert_eq!((info.hop_limit(), info.ecn()), (Some(7), Some(Ecn::Ect1)), "{family:?}");
        }
    });
}

#[test]
fn hop_limit_and_ecn_can_be_chosen_per_datagram() {
    batched(|s| {
        let lab = s.lab();
        let (port, infos) = learning(&lab);
        port.set_metadata(Metadata::HOP_LIMIT | Metadata::ECN).unwrap();
        let sender = lab.open(Recorder::quiet());
        sender.set_ttl(33).unwrap();
        let plain = SendOptions::to(s.reach(&port));
        let choices = [
            (plain.ecn(Ecn::Ect0), 33, Ecn::Ect0),
            (plain.hop_limit(5), 5, Ecn::NotEct),
            (plain, 33, Ecn::NotEct),
            (plain.ecn(Ecn::Ce).hop_limit(255), 255, Ecn::Ce),
            (plain.ecn(Ecn::Ect1), 33, Ecn::Ect1),
        ];
        // Of one size and to one peer, yet different: none may take its neighbour's choice.
        for (options, ..) in &choices {
            sender.write_with(b"same", options).unwrap();
        }
        lab.until("all", || infos.borrow().len() == choices.len());
        for ((info, _), (_, hops, ecn)) in infos.borrow().iter().zip(choices) {
            assert_eq!((info.hop_limit(), info.ecn()), (Some(hops), Some(ecn)));
        }
        // Also to the peer of a connected port.
        sender.connect(s.reach(&port)).unwrap();
        sender.write_with(b"same", &SendOptions::new().hop_limit(9)).unwrap();
        lab.until("the last", || infos.borrow().len() == choices.len() + 1);
        assert_eq!(infos.borrow().last().unwrap().0.hop_limit(), Some(9));
    });
}

#[test]
fn metadata_of_a_burst_is_told_with_each_datagram() {
    batched(|s| {
        let lab = s.lab();
        let (port, infos) = learning(&lab);
        port.set_metadata(Metadata::ALL).unwrap();
        let sender = lab.open(Recorder::quiet());
        for round in 1..=20_usize {
            for _ in 0..32 {
                sender.write_to(&[0; 100], s.reach(&port)).unwrap();
            }
            lab.until("the burst", || infos.borrow().len() == round * 32);
        }
        for (info, drops) in infos.borrow().iter() {
            assert_eq!(info.source(), s.shown(s.reach(&sender)));
            assert_eq!(info.destination(), Some(s.shown(s.reach(&port))));
            assert_eq!((info.hop_limit(), *drops), (Some(64), Some(0)));
        }
    });
}

#[test]
fn datagrams_that_the_kernel_drops_are_counted() {
    batched(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let (port, infos) = learning(&lab);
        port.set_metadata(Metadata::DROPS).unwrap();
        port.set_recv_buffer_size(1).unwrap();
        let mut sent = 0;
        for _ in 0..2 {
            for _ in 0..500 {
                peer.send([0; 200], s.reach(&port));
                sent += 1;
            }
            // What fits was queued before anything was dropped: the next one brings the count.
            lab.settle();
            let so_far = infos.borrow().len();
            peer.send("after", s.reach(&port));
            sent += 1;
            lab.until("the next", || infos.borrow().len() > so_far);
        }
        lab.settle();
        let dropped: u64 = infos.borrow().iter().map(|(_, drops)| u64::from(drops.unwrap())).sum();
        let delivered = infos.borrow().len() as u64;
        assert!(dropped > 0 && delivered < sent);
        assert_eq!(dropped + delivered, sent);
        assert_eq!(port.stats().unwrap().kernel_drops, dropped);
    });
}

#[test]
fn drops_from_before_they_were_asked_for_are_not_told() {
    batched(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let (port, infos) = learning(&lab);
        port.set_recv_buffer_size(1).unwrap();
        for _ in 0..200 {
            peer.send([0; 200], s.reach(&port));
        }
        lab.settle();
        port.set_metadata(Metadata::DROPS).unwrap();
        let before = infos.borrow().len();
        for count in 1..=2 {
            peer.send("x", s.reach(&port));
            lab.until("the datagram", || infos.borrow().len() == before + count);
        }
        assert!(infos.borrow()[before..].iter().all(|(_, drops)| *drops == Some(0)));
    });
}

#[test]
fn a_connected_port_learns_too() {
    batched(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let (port, infos) = learning(&lab);
        port.set_metadata(Metadata::DESTINATION | Metadata::HOP_LIMIT).unwrap();
        port.connect(peer.addr()).unwrap();
        peer.send("x", s.reach(&port));
        lab.until("the datagram", || infos.borrow().len() == 1);
        let (info, _) = &infos.borrow()[0];
        assert_eq!(info.destination(), Some(s.shown(s.reach(&port))));
        assert_eq!(info.hop_limit(), Some(64));
        port.write_with(b"answer", &info.reply()).unwrap();
        assert_eq!(lab.receive(&peer).0, b"answer");
    });
}

#[test]
fn metadata_can_be_asked_for_when_listening() {
    plainly(|s| {
        let (lab, peer, log) = (s.lab(), s.peer(), Log::default());
        let port = lab
            .listen_udp(
                s.options().metadata(Metadata::DESTINATION | Metadata::ECN),
                Recorder::new(&log).on_datagram(|_, datagram| {
                    anyhow::ensure!(datagram.destination().is_some() && datagram.ecn().is_some());
                    anyhow::ensure!(datagram.hop_limit().is_none());
                    Ok(())
                }),
            )
            .unwrap();
        peer.send("x", s.reach(&port));
        lab.until("the datagram", || log.has(&Event::Datagram(b"x".to_vec())));
        assert_eq!(port.stats().unwrap().callback_errors, 0);
    });
}

#[test]
fn an_adopted_socket_learns_only_what_the_port_was_asked() {
    // Options that the previous owner set are left alone, and not passed on.
    in_each(Setup::all().filter(|s| s.way == crate::support::Way::Adopt), |s| {
        let lab = s.lab();
        let socket = s.socket();
        if s.family == Family::V4 {
            socket.set_recv_tos_v4(true).unwrap();
        } else {
            socket.set_recv_tclass_v6(true).unwrap();
        }
        let infos = Infos::default();
        let sink = Rc::clone(&infos);
        let port = lab
            .adopt_datagram_port(
                socket,
                Recorder::quiet().on_datagram(move |_, datagram| {
                    sink.borrow_mut().push((datagram.info().clone(), None));
                    Ok(())
                }),
            )
            .unwrap();
        s.peer().send("x", s.reach(&port));
        lab.until("the datagram", || infos.borrow().len() == 1);
        assert_eq!(infos.borrow()[0].0.ecn(), None);
        let granted = port.set_metadata(Metadata::ECN);
        let expected = if s.portable { Metadata::NONE } else { Metadata::ECN };
        assert_eq!(granted.unwrap(), expected);
        assert!(!matches!(port.metadata(), Err(OptionError::Closed)));
        let to: SocketAddr = s.reach(&port);
        s.peer().send("y", to);
        lab.until("the second", || infos.borrow().len() == 2);
        assert_eq!(infos.borrow()[1].0.ecn().is_some(), !s.portable);
    });
}

#[test]
fn the_destination_of_a_broadcast_is_the_broadcast_address() {
    plainly(|s| {
        let lab = s.lab();
        let infos = Infos::default();
        let sink = Rc::clone(&infos);
        let port = lab
            .listen_udp(
                strand_reactor::UdpOptions::from(0).metadata(Metadata::DESTINATION),
                Recorder::quiet().on_datagram(move |_, datagram| {
                    sink.borrow_mut().push((datagram.info().clone(), None));
                    Ok(())
                }),
            )
            .unwrap();
        let peer = s.peer();
        peer.set_broadcast(true);
        let broadcast: SocketAddr =
            ([127, 255, 255, 255], port.local_addr().unwrap().port()).into();
        for payload in ["", "with bytes"] {
            peer.send(payload, broadcast);
        }
        lab.until("both", || infos.borrow().len() == 2);
        for (info, _) in infos.borrow().iter() {
            assert_eq!((info.destination(), info.source()), (Some(broadcast), peer.addr()));
        }
    });
}
