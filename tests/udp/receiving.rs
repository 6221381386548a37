//! What is delivered, and how.

use std::cell::Cell;
use std::rc::Rc;

use anyhow::bail;
use strand_reactor::PortState;

use crate::support::{Event, Lab, Log, Recorder, Way, everywhere, in_each, listening, plainly};

#[test]
fn an_empty_datagram_is_delivered_as_empty() {
    everywhere(|s| {
        let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
        let port = lab.open(Recorder::new(&log).on_datagram(|_, datagram| {
            assert!(!datagram.is_truncated());
            Ok(())
        }));
        // Alone, and between others.
        peer.send("", s.reach(&port));
        lab.until("the empty datagram", || log.datagrams() == 1);
        for payload in ["a", "", "", "b"] {
            peer.send(payload, s.reach(&port));
        }
        lab.until("the last", || log.has_payload("b"));
        assert_eq!(log.payloads(), [&b""[..], b"a", b"", b"", b"b"]);
        assert_eq!(port.stats().unwrap().datagrams_in, 5);
    });
}

#[test]
fn every_byte_survives_both_ways() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let port = lab.open(Recorder::echo());
        let every_byte: Vec<u8> = (0..=255).chain([0, 0, 10, 13, 0]).collect();
        peer.send(&every_byte, s.reach(&port));
        assert_eq!(lab.receive(&peer).0, every_byte);
    });
}

#[test]
fn the_largest_datagram_arrives_whole() {
    everywhere(|s| {
        let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
        let port = lab.open(Recorder::new(&log));
        let largest = vec![7; 65_507];
        peer.send(&largest, s.reach(&port));
        lab.until("the datagram", || log.datagrams() == 1);
        assert_eq!(log.payloads()[0], largest);
    });
}

#[test]
fn datagrams_sent_before_the_loop_runs_are_delivered_in_order() {
    everywhere(|s| {
        let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
        let port = lab.open(Recorder::new(&log));
        for number in 0..40_u32 {
            peer.send(number.to_le_bytes(), s.reach(&port));
        }
        // One turn is enough, and is not ended by the batch.
        lab.turn();
        let expected: Vec<_> = (0..40_u32).map(|number| number.to_le_bytes().to_vec()).collect();
        assert_eq!(log.payloads(), expected);
        let stats = port.stats().unwrap();
        assert_eq!((stats.datagrams_in, stats.bytes_in), (40, 160));
        assert!(stats.batches_in < 40, "several datagrams a batch");
    });
}

#[test]
fn each_datagram_is_delivered_once_however_often_the_loop_turns() {
    everywhere(|s| {
        let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
        let port = lab.open(Recorder::new(&log));
        for round in 1..=5_usize {
            peer.send([round as u8], s.reach(&port));
            lab.until("the datagram", || log.datagrams() == round);
            lab.settle();
            assert_eq!(log.datagrams(), round);
        }
        let stats = port.stats().unwrap();
        assert_eq!((stats.callback_errors, stats.network_errors, stats.batches_in), (0, 0, 5));
    });
}

#[test]
fn a_protocol_that_sends_to_itself_is_called_again() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let own = Rc::new(Cell::new(None));
        let to = Rc::clone(&own);
        let port = lab.open(Recorder::new(&log).on_datagram(move |transport, datagram| {
            let left = datagram.payload()[0];
            if left > 0 {
                transport.write_to(&[left - 1], to.get().unwrap())?;
            }
            Ok(())
        }));
        own.set(Some(s.reach(&port)));
        s.peer().send([20], s.reach(&port));
        lab.until("the last", || log.has_payload([0]));
        assert_eq!(log.datagrams(), 21);
    });
}

#[test]
fn the_source_of_each_datagram_is_its_own() {
    everywhere(|s| {
        let lab = s.lab();
        let sources: Rc<std::cell::RefCell<Vec<_>>> = Rc::default();
        let seen = Rc::clone(&sources);
        let port = lab.open(Recorder::quiet().on_datagram(move |_, datagram| {
            seen.borrow_mut().push((datagram.payload().to_vec(), datagram.source()));
            Ok(())
        }));
        // Short-lived senders, each gone before the loop runs.
        let expected: Vec<_> = [b"one", b"two", b"six"]
            .into_iter()
            .map(|payload| {
                let peer = s.peer();
                peer.send(payload, s.reach(&port));
                (payload.to_vec(), s.shown(peer.addr()))
            })
            .collect();
        lab.until("three datagrams", || sources.borrow().len() == 3);
        assert_eq!(sources.take(), expected);
    });
}

#[test]
fn an_error_in_a_callback_costs_one_datagram() {
    everywhere(|s| {
        let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
        let to = peer.addr();
        let port = lab.open(Recorder::new(&log).on_datagram(move |transport, datagram| {
            match datagram.payload() {
                b"error" => bail!("no good"),
                b"panic" => panic!("much worse"),
                _ => {
                    // The transport is attached and writable as before.
                    transport.write_to(datagram.payload(), to)?;
                    Ok(())
                }
            }
        }));
        for payload in ["a", "error", "b", "panic", "c", "error"] {
            peer.send(payload, s.reach(&port));
        }
        peer.send("d", s.reach(&port));
        lab.until("the last", || log.has_payload("d"));
        assert_eq!(log.datagrams(), 7);
        assert_eq!([0; 4].map(|_| lab.receive(&peer).0), [b"a", b"b", b"c", b"d"]);
        let stats = port.stats().unwrap();
        assert_eq!((stats.callback_errors, stats.callback_panics), (2, 1));
        assert_eq!(port.state(), PortState::Open);
    });
}

#[test]
fn errors_of_other_callbacks_hurt_nothing() {
    listening(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let deaf = s.deaf();
        let port = lab.open(
            Recorder::new(&log)
                .on_refused(|_| panic!("refused"))
                .on_stop(|_, _| panic!("in the end")),
        );
        port.connect(deaf.addr()).unwrap();
        for refusals in 1..=2 {
            port.write(b"x").unwrap();
            lab.until("a refusal", || log.count(&Event::Refused) == refusals);
        }
        assert_eq!(port.stats().unwrap().callback_panics, 2);
        let done = log.clone();
        port.stop_listening_then(move |_| done.note("closed")).unwrap();
        lab.run();
        assert!(log.has_note("closed"), "a panic in stop_protocol keeps nothing open");
    });
}

#[test]
fn a_longer_datagram_is_cut_and_flagged() {
    everywhere(|s| {
        let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
        let flags: Rc<std::cell::RefCell<Vec<bool>>> = Rc::default();
        let seen = Rc::clone(&flags);
        let port = lab.open(Recorder::new(&log).on_datagram(move |_, datagram| {
            seen.borrow_mut().push(datagram.is_truncated());
            Ok(())
        }));
        port.set_max_datagram_size(4).unwrap();
        assert_eq!(port.max_datagram_size().unwrap(), 4);
        for payload in ["abc", "abcd", "abcde", "", "abcdefgh"] {
            peer.send(payload, s.reach(&port));
        }
        lab.until("all", || log.datagrams() == 5);
        assert_eq!(log.payloads(), [&b"abc"[..], b"abcd", b"abcd", b"", b"abcd"]);
        assert_eq!(flags.take(), [false, false, true, false, true]);
        assert_eq!(port.stats().unwrap().truncated, 2);
    });
}

#[test]
fn truncation_applies_to_each_datagram_of_a_burst() {
    // Equal datagrams to one peer leave as one message, and arrive as one once the receiver has
    // seen a streak of full batches.
    listening(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let flags: Rc<Cell<usize>> = Rc::default();
        let seen = Rc::clone(&flags);
        let receiver = lab.open(Recorder::new(&log).on_datagram(move |_, datagram| {
            seen.set(seen.get() + usize::from(datagram.is_truncated()));
            Ok(())
        }));
        let _ = receiver.set_recv_buffer_size(1 << 20);
        receiver.set_max_datagram_size(100).unwrap();
        let sender = lab.open(Recorder::quiet());
        let rounds = 40;
        for round in 0..rounds {
            for number in 0..32_u8 {
                let mut payload = vec![number; if number == 31 { 50 } else { 200 }];
                payload[0] = round;
                sender.write_to(&payload, s.reach(&receiver)).unwrap();
            }
            let all = 32 * (usize::from(round) + 1);
            lab.until("the burst", || log.datagrams() == all);
        }
        for (index, payload) in log.payloads().into_iter().enumerate() {
            let (round, number) = ((index / 32) as u8, (index % 32) as u8);
            assert_eq!(payload.len(), if number == 31 { 50 } else { 100 });
            assert_eq!((payload[0], payload[1]), (round, number));
        }
        assert_eq!(flags.get(), usize::from(rounds) * 31);
        assert_eq!(receiver.stats().unwrap().truncated, u64::from(rounds) * 31);
    });
}

#[test]
fn a_smaller_batch_size_delivers_the_same() {
    listening(|s| {
        for size in [1, 2, 15] {
            let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
            let port = lab.listen_udp(s.options().batch_size(size), Recorder::new(&log)).unwrap();
            assert_eq!(port.batch_size().unwrap(), size);
            for number in 0..33 {
                peer.send([number], s.reach(&port));
            }
            lab.turn();
            assert_eq!(log.payloads().concat(), (0..33).collect::<Vec<u8>>());
            let least = 33_u64.div_ceil(size as u64);
            assert!(port.stats().unwrap().batches_in >= least);
        }
        for size in [0, 17] {
            assert!(s.lab().listen_udp(s.options().batch_size(size), Recorder::quiet()).is_err());
        }
    });
}

#[test]
fn a_borrowed_shared_protocol_costs_the_callback_and_nothing_else() {
    listening(|s| {
        let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
        let shared = Rc::new(std::cell::RefCell::new(Recorder::new(&log)));
        let port = lab.open(Rc::clone(&shared));
        peer.send("while borrowed", s.reach(&port));
        let borrow = shared.borrow_mut();
        lab.until("the failure", || port.stats().unwrap().callback_errors == 1);
        drop(borrow);
        peer.send("after", s.reach(&port));
        lab.until("the datagram", || log.has_payload("after"));
        assert_eq!(log.datagrams(), 1);
    });
}

#[test]
fn a_panic_that_is_let_through_loses_nothing_but_its_datagram() {
    plainly(|s| {
        let log = Log::default();
        let lab = Lab::letting_panics_through(*s);
        let port = lab.open(Recorder::new(&log).on_datagram(|transport, datagram| {
            assert_ne!(datagram.payload(), b"bad");
            if datagram.payload() == b"end" {
                transport.stop_listening();
            }
            Ok(())
        }));
        let peer = s.peer();
        for payload in ["a", "bad", "b", "end"] {
            peer.send(payload, s.reach(&port));
        }
        let run = || std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lab.run()));
        assert!(run().is_err(), "the panic leaves `run`");
        assert_eq!(log.payloads(), [&b"a"[..], b"bad"]);
        assert!(run().is_ok());
        assert_eq!(log.payloads(), [&b"a"[..], b"bad", b"b", b"end"]);
    });
}

#[test]
fn a_shared_descriptor_and_its_port_share_what_arrives() {
    let shared = |s: &crate::support::Setup| s.way == Way::Shared;
    in_each(crate::support::Setup::all().filter(shared), |s| {
        let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
        let socket = s.socket();
        let port = lab.adopt_datagram_port_shared(&socket, Recorder::new(&log)).unwrap();
        let original = std::net::UdpSocket::from(socket);
        original.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
        peer.send("for the owner", s.reach(&port));
        let mut buffer = [0; 32];
        let (len, from) = original.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from), (&b"for the owner"[..], s.shown(peer.addr())));
        peer.send("for the port", s.reach(&port));
        lab.until("the second", || log.has_payload("for the port"));
        assert_eq!(log.datagrams(), 1);
        port.stop_listening();
        lab.run();
        original.send_to(b"still works", peer.addr()).unwrap();
        assert_eq!(peer.receive().0, b"still works");
    });
}
