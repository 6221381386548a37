//! Writing, on ports without a peer.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, IoSlice};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use strand_reactor::{Ecn, Family, QueuePolicy, SendOptions, UdpOptions, WriteError};

use crate::support::{
    Event, Log, Recorder, Setup, everywhere, in_each, listening, listening_over, never,
};

#[test]
fn try_write_hands_the_datagram_over_inside_the_call() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let port = lab.open(Recorder::quiet());
        assert_eq!(port.try_write_to(b"four", peer.addr()).unwrap(), 4);
        assert_eq!(port.queued_datagrams(), 0);
        assert_eq!(peer.receive(), (b"four".to_vec(), s.reach(&port)));
        assert_eq!(port.try_write_to(b"", peer.addr()).unwrap(), 0);
        assert_eq!(peer.receive().0, b"");
        let stats = port.stats().unwrap();
        assert_eq!((stats.datagrams_out, stats.bytes_out), (2, 4));
    });
}

#[test]
fn writes_before_the_loop_runs_all_arrive() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let port = lab.open(Recorder::quiet());
        port.write_to(b"one", peer.addr()).unwrap();
        port.write_to(b"two!", peer.addr()).unwrap();
        assert_eq!((port.queued_datagrams(), port.queued_bytes()), (2, 7));
        lab.turn();
        assert_eq!((port.queued_datagrams(), port.queued_bytes()), (0, 0));
        assert_eq!(peer.payloads(2), [&b"one"[..], b"two!"]);
    });
}

#[test]
fn flush_sends_what_was_written_inside_the_call() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let port = lab.open(Recorder::quiet());
        port.flush().unwrap();
        port.write_to(b"now", peer.addr()).unwrap();
        port.flush().unwrap();
        assert_eq!((port.queued_datagrams(), &peer.receive().0[..]), (0, &b"now"[..]));
    });
}

#[test]
fn order_is_kept_between_writes_of_every_kind() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let port = lab.open(Recorder::quiet());
        let to = peer.addr();
        port.write_to(b"0", to).unwrap();
        port.write_vectored_to(&[IoSlice::new(b"1"), IoSlice::new(b"!")], to).unwrap();
        port.write_then(b"2", to, |_| ()).unwrap();
        port.try_write_to(b"3", to).unwrap();
        port.write_to(b"", to).unwrap();
        port.try_write_batch(&[(b"5", Some(to)), (b"6", Some(to))]).unwrap();
        port.write_with(b"7", &SendOptions::to(to)).unwrap();
        lab.turn();
        assert_eq!(peer.payloads(8), [&b"0"[..], b"1!", b"2", b"3", b"", b"5", b"6", b"7"]);
    });
}

#[test]
fn pieces_make_one_datagram() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let port = lab.open(Recorder::quiet());
        let pieces = [&b"a"[..], b"", b"b\0c", b"d"].map(IoSlice::new);
        port.write_vectored_to(&pieces, peer.addr()).unwrap();
        port.write_vectored_then(&pieces[..1], peer.addr(), |sent| assert_eq!(sent.unwrap(), 1))
            .unwrap();
        port.write_vectored_to(&[IoSlice::new(b"")], peer.addr()).unwrap();
        lab.turn();
        assert_eq!(peer.payloads(3), [&b"ab\0cd"[..], b"a", b""]);
        // A great many pieces are one datagram as well.
        let many = vec![IoSlice::new(b"xy"); 5_000];
        port.write_vectored_to(&many, peer.addr()).unwrap();
        assert_eq!(lab.receive(&peer).0.len(), 10_000);
        assert_eq!(lab.stats().callback_panics, 0);
    });
}

#[test]
fn an_empty_list_of_pieces_is_an_error_and_sends_nothing() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let port = lab.open(Recorder::quiet());
        let to = peer.addr();
        for result in [
            port.write_vectored(&[]),
            port.write_vectored_to(&[], to),
            port.write_vectored_then(&[], to, never),
        ] {
            assert!(matches!(result, Err(WriteError::NoBuffers)));
        }
        port.write_to(b"sentinel", to).unwrap();
        assert_eq!(lab.receive(&peer).0, b"sentinel");
        assert_eq!(port.try_write_batch(&[]).unwrap(), 0);
    });
}

#[test]
fn every_size_up_to_the_limit_arrives_and_no_other() {
    everywhere(|s| {
        let (lab, peer, log) = (s.lab(), s.peer(), Log::default());
        let port = lab.open(Recorder::new(&log));
        let max = if s.family == Family::V6Only { 65_527 } else { 65_507 };
        for size in (0..64).map(|kib| kib * 1024).chain([65_506, 65_507]) {
            assert_eq!(port.try_write_to(&vec![3; size], peer.addr()).unwrap(), size);
            assert_eq!(peer.receive().0.len(), size);
        }
        // What any IPv6 datagram carries, a plain socket takes, too.
        if max == 65_527 {
            port.try_write_to(&vec![3; max], peer.addr()).unwrap();
            assert_eq!(peer.receive().0.len(), max);
        }
        for size in [max + 1, 65_536, 70_000] {
            let payload = vec![3; size];
            let errors = [
                port.write_to(&payload, peer.addr()),
                port.try_write_to(&payload, peer.addr()).map(drop),
                port.try_write_batch(&[(&payload, Some(peer.addr()))]).map(drop),
                port.write_then(&payload, peer.addr(), never),
                port.write_vectored_to(&[IoSlice::new(&payload)], peer.addr()),
            ];
            for error in errors {
                let Err(WriteError::TooLong { len, max: most }) = error else {
                    panic!("{error:?}")
                };
                assert_eq!((len, most), (size, max));
            }
        }
        port.write_to(b"works", peer.addr()).unwrap();
        assert_eq!(lab.receive(&peer).0, b"works");
        assert!(!log.has(&Event::WriteFailed));
    });
}

#[test]
fn a_destination_of_the_wrong_family_is_an_error_at_the_call() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let port = lab.open(Recorder::quiet());
        let v4: SocketAddr = (Ipv4Addr::LOCALHOST, 9).into();
        let mapped: SocketAddr = (Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 9).into();
        let broadcast: SocketAddr = (Ipv4Addr::BROADCAST, 9).into();
        let v6: SocketAddr = (Ipv6Addr::LOCALHOST, 9).into();
        let wrong: &[SocketAddr] = match s.family {
            Family::V4 => &[v6, mapped],
            Family::V6Only => &[v4, mapped, broadcast],
            Family::Dual => &[],
        };
        for to in wrong {
            for error in [
                port.write_to(b"x", *to),
                port.try_write_to(b"x", *to).map(drop),
                port.write_with(b"x", &SendOptions::to(*to)),
            ] {
                let Err(WriteError::WrongFamily { address, family }) = error else {
                    panic!("{error:?}")
                };
                assert_eq!((address, family), (*to, s.family));
            }
        }
        port.write_to(b"right", peer.addr()).unwrap();
        assert_eq!(lab.receive(&peer).0, b"right");
        if s.family == Family::Dual {
            // Either form of an IPv4 address does.
            port.write_to(b"mapped", s.shown(peer.addr())).unwrap();
            assert_eq!(lab.receive(&peer).0, b"mapped");
        }
    });
}

#[test]
fn a_write_without_a_destination_needs_a_peer() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let port = lab.open(Recorder::quiet());
        let errors = [
            port.write(b"x"),
            port.write_vectored(&[IoSlice::new(b"x")]),
            port.write_with(b"x", &SendOptions::new()),
            port.write_then(b"x", None, never),
            port.try_write(b"x").map(drop),
            port.try_write_batch(&[(b"x", None)]).map(drop),
        ];
        for error in errors {
            assert!(matches!(error, Err(WriteError::DestinationRequired)), "{error:?}");
        }
        port.write_to(b"sentinel", peer.addr()).unwrap();
        assert_eq!(lab.receive(&peer).0, b"sentinel");
    });
}

#[test]
fn an_unconnected_port_is_not_told_of_refusals_and_goes_on() {
    everywhere(|s| {
        let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
        let deaf = s.deaf();
        let port = lab.open(Recorder::new(&log));
        let done = Rc::new(Cell::new(0));
        for _ in 0..3 {
            port.write_to(b"nobody", deaf.addr()).unwrap();
            let count = Rc::clone(&done);
            port.write_then(b"nobody", deaf.addr(), move |sent| {
                assert_eq!(sent.unwrap(), 6);
                count.set(count.get() + 1);
            })
            .unwrap();
            assert_eq!(port.try_write_to(b"nobody", deaf.addr()).unwrap(), 6);
            port.write_to(b"somebody", peer.addr()).unwrap();
            assert_eq!(lab.receive(&peer).0, b"somebody");
        }
        peer.send("sentinel", s.reach(&port));
        lab.until("the sentinel", || log.has_payload("sentinel"));
        lab.settle();
        assert_eq!(log.events(), [Event::Start, Event::Datagram(b"sentinel".to_vec())]);
        let stats = port.stats().unwrap();
        assert_eq!((stats.datagrams_out, stats.write_failures), (12, 0));
        assert_eq!((stats.refusals, stats.network_errors, done.get()), (0, 0, 3));
    });
}

#[test]
fn completions_come_from_the_loop_once_and_in_order() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let port = lab.open(Recorder::quiet());
        let seen: Rc<RefCell<Vec<usize>>> = Rc::default();
        for size in 0..100_usize {
            let seen = Rc::clone(&seen);
            port.write_then(&vec![0; size], peer.addr(), move |sent| {
                let sent = sent?;
                seen.borrow_mut().push(sent);
                anyhow::Ok(())
            })
            .unwrap();
        }
        assert!(seen.borrow().is_empty(), "never inside a call");
        lab.until("all completions", || seen.borrow().len() == 100);
        lab.settle();
        assert_eq!(seen.take(), (0..100).collect::<Vec<_>>());
    });
}

#[test]
fn a_failing_completion_is_counted_and_hurts_nothing() {
    listening(|s| {
        let (lab, peer, log) = (s.lab(), s.peer(), Log::default());
        let port = lab.open(Recorder::quiet());
        port.write_then(b"a", peer.addr(), |_| anyhow::bail!("unhappy")).unwrap();
        port.write_then(b"b", peer.addr(), |_| -> () { panic!("more so") }).unwrap();
        let done = log.clone();
        port.write_then(b"c", peer.addr(), move |_| done.note("third")).unwrap();
        lab.until("the third", || log.has_note("third"));
        assert_eq!((lab.stats().callback_errors, lab.stats().callback_panics), (1, 1));
    });
}

#[test]
fn what_the_system_refuses_goes_to_the_completion_or_to_write_failed() {
    // The kernel refuses port 0 of any address.
    everywhere(|s| {
        let (lab, peer, log) = (s.lab(), s.peer(), Log::default());
        let nowhere = SocketAddr::new(s.peer_ip(), 0);
        let (shown, told) = (s.shown(nowhere), log.clone());
        let port = lab.open(Recorder::new(&log).on_write_failed(move |_, failure| {
            assert_eq!((failure.destination, failure.len), (Some(shown), 6));
            assert_eq!(failure.error.kind(), ErrorKind::InvalidInput);
            told.note("told");
            Ok(())
        }));
        port.write_to(b"before", peer.addr()).unwrap();
        port.write_to(b"failed", nowhere).unwrap();
        port.write_to(b"between", peer.addr()).unwrap();
        let done = log.clone();
        port.write_then(b"fails, too", nowhere, move |result| {
            assert!(matches!(result, Err(WriteError::Io(_))));
            done.note("completed");
        })
        .unwrap();
        port.write_to(b"after", peer.addr()).unwrap();
        assert_eq!(log.events(), [Event::Start], "nothing is told inside a call");
        lab.settle();
        assert_eq!(peer.payloads(3), [&b"before"[..], b"between", b"after"]);
        let expected =
            [Event::Start, Event::WriteFailed, Event::Note("told"), Event::Note("completed")];
        assert_eq!(log.events(), expected);
        assert!(matches!(port.try_write_to(b"x", nowhere), Err(WriteError::Io(_))));
        assert_eq!(port.stats().unwrap().write_failures, 3);
    });
}

#[test]
fn a_batch_reports_exactly_the_prefix_that_was_sent() {
    everywhere(|s| {
        for small_buffer in [false, true] {
            let (lab, peer) = (s.lab(), s.peer());
            let port = lab.open(Recorder::quiet());
            if small_buffer {
                port.set_send_buffer_size(1).unwrap();
            }
            for count in [1_usize, 20, 21, 41, 45, 100] {
                let payloads: Vec<_> = (0..count).map(|number| [number as u8; 9]).collect();
                let batch: Vec<_> =
                    payloads.iter().map(|payload| (&payload[..], Some(peer.addr()))).collect();
                let mut sent = 0;
                let mut received = Vec::new();
                while sent < count {
                    let more = port.try_write_batch(&batch[sent..]).unwrap();
                    assert!(more > 0, "an empty prefix is an error");
                    // Exactly those, each once, in order; nothing else is on the way.
                    received.extend((0..more).map(|_| peer.receive().0[0]));
                    assert!(peer.try_receive().is_none());
                    sent += more;
                }
                assert_eq!(received, (0..count as u8).collect::<Vec<_>>());
            }
            assert_eq!(port.stats().unwrap().datagrams_out, 228);
        }
    });
}

#[test]
fn a_batch_ends_before_the_first_datagram_that_fails() {
    everywhere(|s| {
        let (lab, peer, log) = (s.lab(), s.peer(), Log::default());
        let port = lab.open(Recorder::new(&log));
        let to = Some(peer.addr());
        let long = vec![0; 70_000];
        let nowhere = Some(SocketAddr::new(s.peer_ip(), 0));
        type Item<'a> = (&'a [u8], Option<SocketAddr>);
        for bad in [(&long[..], to), (b"x", None), (b"x", nowhere)] as [Item<'_>; 3] {
            for place in [1, 5, 63, 64, 65] {
                let mut batch: Vec<Item<'_>> = vec![(b"good", to); 70];
                batch[place] = bad;
                assert_eq!(port.try_write_batch(&batch).unwrap(), place);
                assert_eq!(peer.payloads(place), vec![b"good"; place]);
                assert!(peer.try_receive().is_none());
            }
            assert!(port.try_write_batch(&[bad, (b"never", to)]).is_err());
            assert!(peer.try_receive().is_none());
        }
        lab.settle();
        assert_eq!(log.events(), [Event::Start], "the caller was told, nobody else is");
    });
}

#[test]
fn a_small_queue_is_no_limit_while_the_system_has_room() {
    everywhere(|s| {
        for policy in [QueuePolicy::Error, QueuePolicy::DropOldest, QueuePolicy::DropNewest] {
            let (lab, peer, log) = (s.lab(), s.peer(), Log::default());
            let port = lab.open(Recorder::new(&log));
            port.set_queue_limit(4, 100).unwrap();
            port.set_queue_policy(policy).unwrap();
            for number in 0..50_u8 {
                port.write_to(&[number; 30], peer.addr()).unwrap();
                assert!(port.queued_datagrams() <= 4 && port.queued_bytes() <= 120);
            }
            // Longer than the whole queue: it may wait alone.
            port.write_to(&[50; 500], peer.addr()).unwrap();
            lab.turn();
            let numbers: Vec<_> = peer.payloads(51).iter().map(|payload| payload[0]).collect();
            assert_eq!(numbers, (0..=50).collect::<Vec<_>>());
            assert_eq!(
                (port.stats().unwrap().queue_dropped, log.events()),
                (0, vec![Event::Start])
            );
        }
    });
}

#[test]
fn a_burst_of_one_size_is_answered_datagram_by_datagram() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let echo = lab.open(Recorder::echo());
        let asker = lab.open(Recorder::new(&log));
        for round in 0..20_u8 {
            for number in 0..64_u8 {
                let mut payload = [number; 500];
                payload[0] = round;
                asker.write_to(&payload, s.reach(&echo)).unwrap();
            }
            let all = 64 * (usize::from(round) + 1);
            lab.until("the answers", || log.datagrams() == all);
        }
        for (index, payload) in log.payloads().into_iter().enumerate() {
            assert_eq!(payload.len(), 500);
            assert_eq!((payload[0], payload[1]), ((index / 64) as u8, (index % 64) as u8));
        }
        assert_eq!(asker.stats().unwrap().datagrams_out, 20 * 64);
        assert_eq!(echo.stats().unwrap().datagrams_in, 20 * 64);
    });
}

#[test]
fn bursts_of_mixed_sizes_and_peers_keep_their_order_per_peer() {
    everywhere(|s| {
        let lab = s.lab();
        let peers = [s.peer(), s.peer()];
        let port = lab.open(Recorder::quiet());
        let sizes = [100, 100, 100, 40, 0, 100, 200, 200, 1, 1, 9_000, 9_000, 3];
        for (number, size) in sizes.iter().cycle().take(90).enumerate() {
            port.write_to(&vec![number as u8; *size], peers[number % 7 % 2].addr()).unwrap();
            if number % 30 == 29 {
                lab.turn();
                for number in number - 29..=number {
                    let (payload, _) = peers[number % 7 % 2].receive();
                    assert_eq!(payload, vec![number as u8; sizes[number % sizes.len()]]);
                }
            }
        }
        assert!(peers.iter().all(|peer| peer.try_receive().is_none()));
    });
}

#[test]
fn writes_of_a_callback_leave_in_the_same_turn() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let other = lab.open(Recorder::quiet());
        let (to, aside) = (peer.addr(), other.clone());
        let port = lab.open(Recorder::quiet().on_datagram(move |transport, _| {
            transport.write_to(b"mine", to)?;
            aside.write_to(b"another's", to)?;
            Ok(())
        }));
        peer.send("go", s.reach(&port));
        lab.turn();
        let mut got = peer.payloads(2);
        got.sort();
        assert_eq!(got, [&b"another's"[..], b"mine"]);
        assert_eq!((port.queued_datagrams(), other.queued_datagrams()), (0, 0));
    });
}

#[test]
fn an_answer_may_be_any_part_of_what_is_being_delivered() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let port = lab.open(Recorder::quiet().on_datagram(|transport, datagram| {
            let payload = datagram.payload();
            transport.write_to(payload, datagram.source())?;
            transport.write_to(&payload[1..3], datagram.source())?;
            transport.write_to(&payload[..0], datagram.source())?;
            let copy = payload.to_vec();
            transport.write_to(&copy, datagram.source())?;
            Ok(())
        }));
        for text in ["abcd", "wxyz"] {
            peer.send(text, s.reach(&port));
        }
        lab.receive(&peer);
        assert_eq!(peer.payloads(3), [&b"bc"[..], b"", b"abcd"]);
        assert_eq!(peer.payloads(4), [&b"wxyz"[..], b"xy", b"", b"wxyz"]);
    });
}

#[test]
fn options_per_datagram_are_granted_or_refused_at_the_call() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let port = lab.open(Recorder::quiet());
        let plain = SendOptions::to(peer.addr());
        port.write_with(b"plain", &plain).unwrap();
        let marked = port.write_with(b"marked", &plain.ecn(Ecn::Ect0).hop_limit(9));
        assert_eq!(port.capabilities().unwrap().send_options, !s.portable);
        match s.portable {
            false => marked.unwrap(),
            // One datagram at a time by send(2) cannot say more than where to.
            true => assert!(matches!(marked, Err(WriteError::Unsupported { .. }))),
        }
        port.write_with(b"plain", &plain).unwrap();
        lab.turn();
        assert_eq!(peer.receive().0, b"plain");
        if !s.portable {
            assert_eq!(peer.receive().0, b"marked");
        }
        assert_eq!(peer.receive().0, b"plain");
    });
}

#[test]
fn limited_broadcast_is_refused_at_the_call_while_it_is_off() {
    everywhere(|s| {
        if s.family == Family::V6Only {
            return; // A wrong family there.
        }
        let (lab, peer, log) = (s.lab(), s.peer(), Log::default());
        let port = lab.open(Recorder::new(&log));
        assert!(!port.broadcast_allowed().unwrap());
        for text in ["255.255.255.255:9", "<broadcast>:9", "[::ffff:255.255.255.255]:9"] {
            let to = strand_reactor::parse_address(text).unwrap();
            if to.is_ipv6() && s.family == Family::V4 {
                continue;
            }
            for error in [port.write_to(b"x", to), port.try_write_to(b"x", to).map(drop)] {
                assert!(matches!(error, Err(WriteError::BroadcastNotAllowed)), "{text}: {error:?}");
                assert_eq!(error.unwrap_err().kind(), ErrorKind::PermissionDenied);
            }
        }
        port.write_to(b"unharmed", peer.addr()).unwrap();
        assert_eq!(lab.receive(&peer).0, b"unharmed");
        assert_eq!(log.events(), [Event::Start]);
    });
}

#[test]
fn broadcasts_of_a_network_need_the_permission() {
    in_each(Setup::all().filter(|s| s.family == Family::V4), |s| {
        // 127.255.255.255 is the broadcast address of the loopback network.
        let network: SocketAddr = "127.255.255.255:0".parse().unwrap();
        {
            let (lab, log) = (s.lab(), Log::default());
            let listener = lab.listen_udp(0, Recorder::new(&log)).unwrap();
            let to = SocketAddr::new(network.ip(), listener.local_addr().unwrap().port());
            let told = Rc::new(Cell::new(false));
            let tell = Rc::clone(&told);
            let port = lab.open(Recorder::quiet().on_write_failed(move |_, failure| {
                assert_eq!(failure.error.kind(), ErrorKind::PermissionDenied);
                tell.set(true);
                Ok(())
            }));
            port.write_to(b"forbidden", to).unwrap();
            lab.until("the failure", || told.get());
            assert_eq!(
                port.try_write_to(b"x", to).unwrap_err().kind(),
                ErrorKind::PermissionDenied
            );

            port.set_broadcast_allowed(true).unwrap();
            assert!(port.broadcast_allowed().unwrap());
            for payload in [&b"to all"[..], b""] {
                port.write_to(payload, to).unwrap();
                lab.until("the broadcast", || log.has_payload(payload));
            }
            port.set_broadcast_allowed(false).unwrap();
            assert_eq!(
                port.try_write_to(b"x", to).unwrap_err().kind(),
                ErrorKind::PermissionDenied
            );
            assert_eq!(log.datagrams(), 2, "{s}");
        }
    });
}

#[test]
fn limited_broadcasts_leave_once_they_are_allowed() {
    listening_over(Family::V4, |s| {
        // Confined to the loopback interface: no other host may hear of it.
        {
            let (lab, log) = (s.lab(), Log::default());
            let confined =
                match lab.listen_udp(UdpOptions::from(0).device("lo"), Recorder::new(&log)) {
                    Ok(port) => port,
                    Err(error) => {
                        println!("skipped: no right to confine a socket: {error}");
                        return;
                    }
                };
            let number = confined.local_addr().unwrap().port();
            let to = strand_reactor::parse_address(&format!("<broadcast>:{number}")).unwrap();
            let sender = lab.listen_udp(s.options().device("lo"), Recorder::quiet()).unwrap();
            assert_eq!(sender.device().unwrap().as_deref(), Some("lo"));
            assert!(sender.write_to(b"too early", to).is_err());
            sender.set_broadcast_allowed(true).unwrap();
            sender.write_to(b"to all", to).unwrap();
            lab.until("the broadcast", || log.has_payload("to all"));
            assert_eq!(log.datagrams(), 1);
        }
    });
}
