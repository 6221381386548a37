//! Pausing and resuming, and taking datagrams from a paused port.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use strand_reactor::{OptionError, PortState};

use crate::support::{Event, Log, Recorder, everywhere, listening, plainly};

#[test]
fn datagrams_wait_while_reading_is_paused() {
    everywhere(|s| {
        let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
        let port = lab.open(Recorder::new(&log));
        let other = lab.open(Recorder::new(&log));
        port.pause_reading().unwrap();
        port.pause_reading().unwrap();
        for number in 0..5 {
            peer.send([number], s.reach(&port));
        }
        peer.send("sentinel", s.reach(&other));
        lab.until("the sentinel", || log.has_payload("sentinel"));
        lab.settle();
        assert_eq!(log.datagrams(), 1);
        port.resume_reading().unwrap();
        assert_eq!(log.datagrams(), 1, "never inside the call");
        lab.until("the rest", || log.datagrams() == 6);
        assert_eq!(log.payloads()[1..], [[0], [1], [2], [3], [4]]);
        port.resume_reading().unwrap();
        peer.send([9], s.reach(&port));
        lab.until("what comes later", || log.has_payload([9]));
        assert_eq!(log.datagrams(), 7);
    });
}

#[test]
fn pausing_in_mid_batch_loses_nothing_and_keeps_the_order() {
    everywhere(|s| {
        let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
        let port = lab.open(Recorder::new(&log).on_datagram(|transport, _| {
            transport.pause_reading()?;
            Ok(())
        }));
        for number in 0..20 {
            peer.send([number], s.reach(&port));
        }
        for number in 0..20_usize {
            lab.until("one more", || log.datagrams() == number + 1);
            lab.settle();
            assert_eq!(log.datagrams(), number + 1, "one datagram a resume");
            // What arrives meanwhile comes after what waits.
            if number < 5 {
                peer.send([20 + number as u8], s.reach(&port));
            }
            port.resume_reading().unwrap();
        }
        for number in 20..25_usize {
            lab.until("the later ones", || log.datagrams() == number + 1);
            port.resume_reading().unwrap();
        }
        assert_eq!(log.payloads().concat(), (0..25).collect::<Vec<u8>>());
    });
}

#[test]
fn pausing_at_the_end_of_a_batch_ends_the_delivery_as_well() {
    listening(|s| {
        for size in [1, 2, 16] {
            let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
            let count = Cell::new(0_usize);
            let pausing = Recorder::new(&log).on_datagram(move |transport, _| {
                count.set(count.get() + 1);
                if count.get().is_multiple_of(size) {
                    transport.pause_reading()?;
                }
                Ok(())
            });
            let port = lab.listen_udp(s.options().batch_size(size), pausing).unwrap();
            for number in 0..3 * size {
                peer.send([number as u8], s.reach(&port));
            }
            for round in 1..=3 {
                lab.until("a batch", || log.datagrams() >= round * size);
                lab.settle();
                assert_eq!(log.datagrams(), round * size);
                port.resume_reading().unwrap();
            }
            assert_eq!(log.payloads().concat(), (0..3 * size as u8).collect::<Vec<_>>());
        }
    });
}

#[test]
fn pausing_and_resuming_inside_a_delivery_changes_nothing() {
    everywhere(|s| {
        let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
        let port = lab.open(Recorder::new(&log).on_datagram(|transport, _| {
            transport.pause_reading()?;
            transport.resume_reading()?;
            Ok(())
        }));
        for number in 0..20 {
            peer.send([number], s.reach(&port));
        }
        lab.until("all", || log.datagrams() == 20);
        assert_eq!(log.payloads().concat(), (0..20).collect::<Vec<u8>>());
        assert_eq!(port.state(), PortState::Open);
    });
}

#[test]
fn a_port_may_start_paused() {
    listening(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let port = lab.listen_udp(s.options().start_paused(true), Recorder::new(&log)).unwrap();
        assert_eq!(port.state(), PortState::Paused);
        s.peer().send("early", s.reach(&port));
        lab.settle();
        assert_eq!(log.events(), [Event::Start]);
        port.resume_reading().unwrap();
        lab.until("the datagram", || log.has_payload("early"));
    });
}

#[test]
fn reading_may_begin_in_the_completion_of_a_send() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let port = lab.open(Recorder::new(&log));
        port.pause_reading().unwrap();
        let resumed = port.clone();
        port.write_then(b"to myself", s.reach(&port), move |result| {
            result?;
            resumed.resume_reading()?;
            anyhow::Ok(())
        })
        .unwrap();
        lab.until("the datagram", || log.has_payload("to myself"));
    });
}

#[test]
fn a_paused_port_still_writes_and_hears_of_refusals() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let deaf = s.deaf();
        let port = lab.open(Recorder::new(&log));
        port.connect(deaf.addr()).unwrap();
        port.pause_reading().unwrap();
        port.write(b"x").unwrap();
        lab.until("the refusal", || log.has(&Event::Refused));
        let peer = deaf.listen_to(s.reach(&port));
        port.write(b"y").unwrap();
        assert_eq!(lab.receive(&peer).0, b"y");
    });
}

#[test]
fn datagrams_can_be_pulled_from_a_paused_port() {
    everywhere(|s| {
        let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
        let port = lab.open(Recorder::new(&log));
        port.pause_reading().unwrap();
        assert_eq!(port.pending_datagram_size().unwrap(), None);
        assert!(port.read_datagram(&mut [0; 8]).unwrap().is_none());
        for payload in ["first", "", "third"] {
            peer.send(payload, s.reach(&port));
        }
        let mut buffer = [0; 64];
        for (payload, size) in [("first", 5), ("", 0), ("third", 5)] {
            assert_eq!(port.pending_datagram_size().unwrap(), Some(size));
            assert_eq!(port.pending_datagram_size().unwrap(), Some(size), "asking takes nothing");
            let datagram = port.read_datagram(&mut buffer).unwrap().unwrap();
            assert_eq!((datagram.len(), datagram.size()), (size, size));
            assert_eq!(&buffer[..datagram.len()], payload.as_bytes());
            assert!(!datagram.is_truncated());
            assert_eq!(datagram.source(), s.shown(peer.addr()));
        }
        assert_eq!(port.pending_datagram_size().unwrap(), None);
        lab.settle();
        assert_eq!(log.events(), [Event::Start], "what was pulled is not delivered");
        // Pulled and pushed, from one stream.
        for number in 0..4 {
            peer.send([number], s.reach(&port));
        }
        assert_eq!(port.read_datagram(&mut buffer).unwrap().unwrap().len(), 1);
        assert_eq!(buffer[0], 0);
        port.resume_reading().unwrap();
        lab.until("the rest", || log.datagrams() == 3);
        assert_eq!(log.payloads(), [[1], [2], [3]]);
    });
}

#[test]
fn a_short_or_empty_buffer_discards_the_rest_and_says_so() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let port = lab.open(Recorder::quiet());
        port.pause_reading().unwrap();
        for payload in ["abcdef", "ghijkl", "mno"] {
            peer.send(payload, s.reach(&port));
        }
        let mut short = [0; 4];
        let cut = port.read_datagram(&mut short).unwrap().unwrap();
        assert_eq!((cut.len(), cut.size(), cut.is_truncated()), (4, 6, true));
        assert_eq!(&short, b"abcd");
        let discarded = port.read_datagram(&mut []).unwrap().unwrap();
        assert_eq!((discarded.len(), discarded.size(), discarded.is_truncated()), (0, 6, true));
        let whole = port.read_datagram(&mut short).unwrap().unwrap();
        assert_eq!((whole.len(), whole.is_truncated()), (3, false));
        assert_eq!(&short[..3], b"mno");
    });
}

#[test]
fn max_datagram_size_holds_for_pulled_datagrams() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let port = lab.open(Recorder::quiet());
        port.pause_reading().unwrap();
        port.set_max_datagram_size(3).unwrap();
        peer.send("abcdef", s.reach(&port));
        let mut buffer = [0; 16];
        let datagram = port.read_datagram(&mut buffer).unwrap().unwrap();
        assert_eq!((datagram.len(), datagram.is_truncated()), (3, true));
    });
}

#[test]
fn only_a_paused_port_can_be_pulled_from() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let refused = Rc::new(Cell::new(0));
        let seen = Rc::clone(&refused);
        let port = lab.open(Recorder::quiet().on_datagram(move |transport, _| {
            // Delivering by itself, or in the middle of a delivery.
            for _ in 0..2 {
                let pulled = transport.read_datagram(&mut [0; 8]);
                assert!(matches!(pulled, Err(OptionError::NotPaused)));
                assert!(matches!(transport.pending_datagram_size(), Err(OptionError::NotPaused)));
                transport.pause_reading()?;
                seen.set(seen.get() + 1);
            }
            Ok(())
        }));
        assert!(matches!(port.read_datagram(&mut []), Err(OptionError::NotPaused)));
        peer.send("a", s.reach(&port));
        peer.send("b", s.reach(&port));
        lab.until("the delivery", || refused.get() == 2);
        assert_eq!(port.stats().unwrap().callback_panics, 0);
        // After it, the remainder of the batch can be pulled.
        let mut buffer = [0; 8];
        assert_eq!(port.read_datagram(&mut buffer).unwrap().unwrap().len(), 1);
        assert_eq!(&buffer[..1], b"b");
    });
}

#[test]
fn one_port_can_be_pulled_from_while_another_delivers() {
    everywhere(|s| {
        let (lab, peer, log) = (s.lab(), s.peer(), Log::default());
        let pulled: Rc<RefCell<Vec<u8>>> = Rc::default();
        let paused = lab.open(Recorder::quiet());
        paused.pause_reading().unwrap();
        let (source, sink) = (paused.clone(), Rc::clone(&pulled));
        let port = lab.open(Recorder::new(&log).on_datagram(move |_, datagram| {
            let before = datagram.payload().to_vec();
            let mut buffer = [0; 8];
            if source.pending_datagram_size()?.is_some() {
                let got = source.read_datagram(&mut buffer)?.unwrap();
                sink.borrow_mut().extend_from_slice(&buffer[..got.len()]);
            }
            assert_eq!(datagram.payload(), before, "the payload lent is not disturbed");
            Ok(())
        }));
        for number in 0..6 {
            peer.send([number], s.reach(&paused));
            peer.send([100 + number], s.reach(&port));
        }
        lab.until("all", || log.datagrams() == 6);
        assert_eq!(pulled.take(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(log.payloads().concat(), [100, 101, 102, 103, 104, 105]);
        assert_eq!(port.stats().unwrap().callback_panics, 0);
    });
}

#[test]
fn a_port_that_is_closing_has_nothing_to_pull() {
    plainly(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let port = lab.open(Recorder::quiet());
        port.pause_reading().unwrap();
        peer.send("x", s.reach(&port));
        assert_eq!(port.pending_datagram_size().unwrap(), Some(1));
        port.stop_listening();
        assert!(port.read_datagram(&mut [0; 8]).unwrap().is_none());
    });
}
