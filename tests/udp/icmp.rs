//! What the network reports: refusals, and the error queue.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::{DatagramTransport, Family, OptionError, PortState};

use crate::support::{Deaf, Event, Lab, Log, Recorder, Setup, batched, everywhere, in_each};

/// A port connected to an address where nobody listens.
fn refused_port(s: &Setup, lab: &Lab, log: &Log) -> (DatagramTransport, Deaf) {
    let deaf = s.deaf();
    let port = lab.open(Recorder::new(log));
    port.connect(deaf.addr()).unwrap();
    log.take();
    (port, deaf)
}

/// Somebody appears where nobody listened: traffic flows both ways.
fn assert_alive(s: &Setup, lab: &Lab, log: &Log, port: &DatagramTransport, deaf: Deaf) {
    assert_eq!(port.state(), PortState::Open);
    let peer = deaf.listen_to(s.reach(port));
    port.write(b"are you there?").unwrap();
    assert_eq!(lab.receive(&peer).0, b"are you there?");
    peer.send("I am", s.reach(port));
    lab.until("the answer", || log.has_payload("I am"));
}

#[test]
fn one_write_to_a_closed_port_is_told_once_and_the_port_lives() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let (port, deaf) = refused_port(s, &lab, &log);
        port.write(b"knock").unwrap();
        lab.until("the refusal", || log.has(&Event::Refused));
        lab.settle();
        assert_eq!(log.events(), [Event::Refused]);
        assert_alive(s, &lab, &log, &port, deaf);
        assert_eq!(log.count(&Event::Refused), 1);
        assert_eq!(port.stats().unwrap().refusals, 1);
    });
}

/// Every one of `count` writes leaves, and is refused by itself.
fn each_is_sent_and_refused(s: &Setup, count: usize, write: impl Fn(&DatagramTransport, usize)) {
    let (lab, log) = (s.lab(), Log::default());
    let (port, deaf) = refused_port(s, &lab, &log);
    for number in 0..count {
        write(&port, number);
    }
    assert!(log.events().is_empty(), "never inside a write");
    lab.until("all refusals", || log.count(&Event::Refused) == count);
    lab.settle();
    assert_eq!(log.events(), vec![Event::Refused; count], "and nothing failed");
    let stats = port.stats().unwrap();
    assert_eq!(stats.datagrams_out as usize, count, "each datagram was sent");
    assert_eq!((stats.refusals as usize, stats.write_failures), (count, 0));
    assert_alive(s, &lab, &log, &port, deaf);
    assert_eq!(log.count(&Event::Refused), count);
}

#[test]
fn ten_writes_to_a_closed_port_are_ten_sends_and_ten_refusals() {
    everywhere(|s| each_is_sent_and_refused(s, 10, |port, _| port.write(b"knock").unwrap()));
}

#[test]
fn ten_writes_of_different_sizes_are_ten_sends_and_ten_refusals() {
    everywhere(|s| {
        each_is_sent_and_refused(s, 10, |port, number| port.write(&vec![1; number]).unwrap());
    });
}

#[test]
fn ten_tries_on_a_closed_port_are_ten_sends_and_ten_refusals() {
    everywhere(|s| {
        each_is_sent_and_refused(s, 10, |port, _| assert_eq!(port.try_write(b"knock").unwrap(), 5));
    });
}

#[test]
fn ten_flushed_writes_to_a_closed_port_are_ten_sends_and_ten_refusals() {
    everywhere(|s| {
        each_is_sent_and_refused(s, 10, |port, _| {
            port.write(b"knock").unwrap();
            port.flush().unwrap();
        });
    });
}

#[test]
fn a_hundred_writes_to_a_closed_port_are_a_hundred_refusals() {
    everywhere(|s| each_is_sent_and_refused(s, 100, |port, _| port.write(b"knock").unwrap()));
}

#[test]
fn a_batch_to_a_closed_port_is_sent_whole() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let (port, deaf) = refused_port(s, &lab, &log);
        let batch: Vec<(&[u8], Option<SocketAddr>)> = vec![(b"knock", None); 45];
        let mut sent = 0;
        while sent < batch.len() {
            sent += port.try_write_batch(&batch[sent..]).unwrap();
        }
        lab.until("all refusals", || log.count(&Event::Refused) == 45);
        assert_eq!(port.stats().unwrap().datagrams_out, 45);
        assert_alive(s, &lab, &log, &port, deaf);
    });
}

#[test]
fn writes_with_completions_to_a_closed_port_all_complete() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let (port, deaf) = refused_port(s, &lab, &log);
        for _ in 0..6 {
            let done = log.clone();
            port.write_then(b"knock", None, move |sent| {
                assert_eq!(sent.unwrap(), 5);
                done.note("done");
            })
            .unwrap();
        }
        lab.until("all", || log.events().len() == 12);
        assert_eq!(log.count(&Event::Note("done")), 6);
        assert_eq!(log.count(&Event::Refused), 6);
        assert_eq!((port.queued_datagrams(), lab.stats().callback_panics), (0, 0));
        assert_alive(s, &lab, &log, &port, deaf);
    });
}

#[test]
fn the_write_that_meets_a_refusal_is_sent_all_the_same() {
    // Write, be refused, write again: nobody may need a third attempt.
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let (port, deaf) = refused_port(s, &lab, &log);
        port.try_write(b"refused").unwrap();
        let peer = deaf.listen_to(s.reach(&port));
        assert_eq!(port.try_write(b"collects the refusal").unwrap(), 20);
        assert_eq!(peer.receive().0, b"collects the refusal");
        lab.until("the refusal", || log.has(&Event::Refused));
        lab.settle();
        assert_eq!(log.events(), [Event::Refused]);
        assert_eq!(port.stats().unwrap().write_failures, 0);
    });
}

#[test]
fn datagrams_around_a_refusal_are_delivered() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let deaf = s.deaf();
        let port = lab.open(Recorder::new(&log));
        log.take();
        let stranger = s.peer();
        stranger.send("before", s.reach(&port));
        port.connect(deaf.addr()).unwrap();
        port.try_write(b"knock").unwrap();
        let peer = deaf.listen_to(s.reach(&port));
        peer.send("after", s.reach(&port));
        lab.until("all three", || log.events().len() == 3);
        lab.settle();
        assert_eq!(log.payloads(), [&b"before"[..], b"after"]);
        assert_eq!(log.count(&Event::Refused), 1);
    });
}

#[test]
fn a_write_from_connection_refused_is_refused_in_turn_and_never_inside() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let deaf = s.deaf();
        let (depth, rounds) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let (inside, round) = (Rc::clone(&depth), Rc::clone(&rounds));
        let port = lab.open(Recorder::new(&log).on_refused(move |transport| {
            assert_eq!(inside.replace(1), 0, "re-entrant");
            if round.get() < 5 {
                round.set(round.get() + 1);
                transport.write(b"again")?;
                transport.try_write(b"and again")?;
            }
            inside.set(0);
            Ok(())
        }));
        port.connect(deaf.addr()).unwrap();
        port.write(b"knock").unwrap();
        lab.until("eleven refusals", || log.count(&Event::Refused) == 11);
        lab.settle();
        assert_eq!(log.count(&Event::Refused), 11);
        assert_eq!(port.stats().unwrap().callback_panics, 0);
    });
}

#[test]
fn a_port_may_stop_or_disconnect_in_connection_refused() {
    everywhere(|s| {
        for stop in [false, true] {
            let (lab, log) = (s.lab(), Log::default());
            let deaf = s.deaf();
            let port = lab.open(Recorder::new(&log).on_refused(move |transport| {
                match stop {
                    true => transport.stop_listening(),
                    false => transport.disconnect()?,
                }
                Ok(())
            }));
            port.connect(deaf.addr()).unwrap();
            for _ in 0..3 {
                port.try_write(b"knock").unwrap();
            }
            if stop {
                lab.run();
                assert_eq!(log.count(&Event::Refused), 1, "nothing after the stop");
                assert_eq!(port.state(), PortState::Closed);
            } else {
                lab.until("the refusal", || log.has(&Event::Refused));
                let peer = s.peer();
                peer.send("hello", s.reach(&port));
                lab.until("a datagram", || log.has_payload("hello"));
                port.write_to(b"well", peer.addr()).unwrap();
                assert_eq!(lab.receive(&peer).0, b"well");
            }
            assert_eq!(
                lab.stats().callback_errors,
                u64::from(!stop) * (log.count(&Event::Refused) as u64 - 1)
            );
        }
    });
}

/// A loop with work left would turn again and again until the timer.
fn assert_idle(lab: &Lab) {
    lab.settle();
    let before = lab.stats().turns;
    lab.call_later(Duration::from_millis(30), |handle| handle.crash());
    lab.run();
    let turns = lab.stats().turns - before;
    assert!(turns <= 6, "{turns} turns with nothing to do");
}

#[test]
fn an_idle_loop_does_not_spin_after_a_refusal() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let (port, _deaf) = refused_port(s, &lab, &log);
        port.write(b"knock").unwrap();
        lab.until("the refusal", || log.has(&Event::Refused));
        assert_idle(&lab);
        // Nor does one with a report that nobody asked for.
        let quiet = lab.open(Recorder::quiet());
        quiet.try_write_to(b"knock", s.deaf().addr()).unwrap();
        assert_idle(&lab);
    });
}

#[test]
fn an_adopted_connected_socket_is_told_of_refusals() {
    in_each(Setup::all().filter(|s| s.way != crate::support::Way::Listen), |s| {
        let (lab, log) = (s.lab(), Log::default());
        let deaf = s.deaf();
        let socket = s.socket();
        socket.connect(&s.shown(deaf.addr()).into()).unwrap();
        let port = match s.way {
            crate::support::Way::Adopt => lab.adopt_datagram_port(socket, Recorder::new(&log)),
            _ => lab.adopt_datagram_port_shared(&socket, Recorder::new(&log)),
        }
        .unwrap();
        log.take();
        port.write(b"knock").unwrap();
        lab.until("the refusal", || log.has(&Event::Refused));
        lab.settle();
        assert_eq!(log.events(), [Event::Refused]);
        assert_alive(s, &lab, &log, &port, deaf);
    });
}

// ---- The error queue of unconnected ports, which only the batched path reads ----

#[test]
fn the_error_queue_is_refused_where_it_cannot_be_read() {
    in_each(Setup::all().filter(|s| s.portable), |s| {
        let lab = s.lab();
        let port = lab.open(Recorder::quiet());
        assert!(!port.capabilities().unwrap().error_queue);
        let refused = port.set_error_queue(true);
        assert!(matches!(refused, Err(OptionError::Unsupported { .. })), "{refused:?}");
        assert!(!port.error_queue().unwrap());
        if s.way == crate::support::Way::Listen {
            assert!(lab.listen_udp(s.options().error_queue(true), Recorder::quiet()).is_err());
        }
    });
}

#[derive(Clone, Debug, PartialEq)]
struct Report {
    kind: ErrorKind,
    destination: Option<SocketAddr>,
    offender: Option<std::net::IpAddr>,
    icmp: Option<(u8, u8)>,
}

/// A port that asked for reports, and what it was told.
fn reporting(s: &Setup, lab: &Lab, log: &Log) -> (DatagramTransport, Rc<RefCell<Vec<Report>>>) {
    let reports: Rc<RefCell<Vec<Report>>> = Rc::default();
    let sink = Rc::clone(&reports);
    let _ = s;
    let port = lab.open(Recorder::new(log).on_network_error(move |_, error| {
        sink.borrow_mut().push(Report {
            kind: error.error.kind(),
            destination: error.destination,
            offender: error.offender,
            icmp: error.icmp,
        });
        Ok(())
    }));
    port.set_error_queue(true).unwrap();
    assert!(port.error_queue().unwrap());
    log.take();
    (port, reports)
}

#[test]
fn on_request_an_unconnected_port_is_told_who_refused_what() {
    batched(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let (port, reports) = reporting(s, &lab, &log);
        let (one, two, peer) = (s.deaf(), s.deaf(), s.peer());
        port.write_to(b"a", one.addr()).unwrap();
        port.write_to(b"bb", two.addr()).unwrap();
        port.write_to(b"ccc", peer.addr()).unwrap();
        assert_eq!(lab.receive(&peer).0, b"ccc");
        lab.until("two reports", || reports.borrow().len() == 2);
        // Port unreachable: type 3 code 3 (RFC 792), or type 1 code 4 (RFC 4443).
        let icmp = if s.family == Family::V6Only { (1, 4) } else { (3, 3) };
        for (report, deaf) in reports.borrow().iter().zip([&one, &two]) {
            let shown =
                |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
            assert_eq!(report.destination.map(shown), Some(deaf.addr()));
            assert_eq!(report.offender.map(|ip| ip.to_canonical()), Some(s.peer_ip()));
            assert_eq!((report.kind, report.icmp), (ErrorKind::ConnectionRefused, Some(icmp)));
        }
        assert_idle(&lab);
        assert_eq!(log.events(), vec![Event::NetworkError; 2], "and nothing failed");
        let stats = port.stats().unwrap();
        assert_eq!((stats.datagrams_out, stats.write_failures, stats.refusals), (3, 0, 0));
        peer.send("alive", s.reach(&port));
        lab.until("the datagram", || log.has_payload("alive"));
    });
}

#[test]
fn reports_are_bounded_per_turn_and_none_is_lost() {
    batched(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let (port, reports) = reporting(s, &lab, &log);
        let deaf = s.deaf();
        for number in 0..150 {
            port.try_write_to(&vec![0; number], deaf.addr()).unwrap();
        }
        lab.until("all reports", || reports.borrow().len() == 150);
        lab.settle();
        assert_eq!(reports.borrow().len(), 150);
    });
}

#[test]
fn a_port_that_asked_no_more_is_told_no_more() {
    batched(|s| {
        let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
        let (port, reports) = reporting(s, &lab, &log);
        port.set_error_queue(false).unwrap();
        assert!(!port.error_queue().unwrap());
        let deaf = s.deaf();
        port.write_to(b"x", deaf.addr()).unwrap();
        lab.turn();
        peer.send("sentinel", s.reach(&port));
        lab.until("the sentinel", || log.has_payload("sentinel"));
        assert!(reports.borrow().is_empty());
    });
}

#[test]
fn connecting_turns_the_queue_on_and_disconnecting_restores_it() {
    batched(|s| {
        for asked in [false, true] {
            let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
            let port = lab.open(Recorder::new(&log));
            port.set_error_queue(asked).unwrap();
            port.connect(peer.addr()).unwrap();
            assert!(port.error_queue().unwrap());
            port.disconnect().unwrap();
            assert_eq!(port.error_queue().unwrap(), asked);
        }
    });
}

#[test]
fn a_port_may_stop_in_network_error_with_more_reports_waiting() {
    batched(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let port = lab.open(Recorder::new(&log).on_network_error(|transport, _| {
            transport.stop_listening();
            Ok(())
        }));
        port.set_error_queue(true).unwrap();
        let deaf = s.deaf();
        for _ in 0..5 {
            port.try_write_to(b"x", deaf.addr()).unwrap();
        }
        lab.run();
        assert_eq!(log.count(&Event::NetworkError), 1);
        assert_eq!(log.events().last(), Some(&Event::Stop("stopped".into())));
    });
}

#[test]
fn a_paused_port_is_told_of_reports_and_may_stop_in_a_completion() {
    batched(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let (port, reports) = reporting(s, &lab, &log);
        port.pause_reading().unwrap();
        let deaf = s.deaf();
        port.try_write_to(b"x", deaf.addr()).unwrap();
        lab.until("the report", || reports.borrow().len() == 1);
        let stopped = port.clone();
        port.write_then(b"x", deaf.addr(), move |sent| {
            assert_eq!(sent.unwrap(), 1);
            stopped.stop_listening();
        })
        .unwrap();
        lab.run();
        assert_eq!((port.state(), lab.stats().callback_panics), (PortState::Closed, 0));
    });
}

#[test]
fn datagrams_too_long_for_the_path_are_reported_to_their_writer() {
    batched(|s| {
        let (lab, peer, log) = (s.lab(), s.peer(), Log::default());
        let port = lab.open(Recorder::new(&log));
        port.connect(peer.addr()).unwrap();
        port.set_path_mtu_mode(strand_reactor::PathMtu::DontFragment).unwrap();
        let mtu = port.path_mtu().unwrap() as usize;
        let (headers, max) = if s.family == Family::V6Only { (48, 65_527) } else { (28, 65_507) };
        if max + headers <= mtu {
            println!("skipped for {s}: every datagram fits the MTU of {mtu}");
            return;
        }
        let done = log.clone();
        port.write_then(&vec![0; mtu - headers + 1], None, move |result| {
            assert!(result.is_err());
            done.note("refused");
        })
        .unwrap();
        lab.until("the completion", || log.has_note("refused"));
        port.write(b"fits").unwrap();
        assert_eq!(lab.receive(&peer).0, b"fits");
    });
}
