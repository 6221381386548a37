//! The end of a port.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::{ListenError, PortState, WriteError};

use crate::support::{Event, Log, Recorder, everywhere, without_children};

#[test]
fn stopping_inside_a_delivery_calls_stop_protocol_later() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let inside = log.clone();
        let port = lab.open(Recorder::new(&log).on_datagram(move |transport, _| {
            transport.stop_listening();
            inside.note("delivery returns");
            Ok(())
        }));
        s.peer().send("x", s.reach(&port));
        lab.run();
        let expected = [
            Event::Start,
            Event::Datagram(b"x".to_vec()),
            Event::Note("delivery returns"),
            Event::Stop("stopped".into()),
        ];
        assert_eq!(log.events(), expected);
    });
}

#[test]
fn stopping_tells_the_protocol_then_closes_then_completes() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let (address, _closing) = (s.lasting_address(), without_children());
        let port = s.open_at(&lab, address, Recorder::new(&log));
        let (done, twin_log, options) = (log.clone(), log.clone(), s.options_at(address));
        port.stop_listening_then(move |handle| {
            done.note("stopped");
            // The number is free by now.
            let twin = handle.listen_udp(options, Recorder::new(&twin_log)).unwrap();
            twin.stop_listening();
        })
        .unwrap();
        let waiting = s.peer();
        waiting.send("too late", s.reach(&port));
        assert_eq!(log.events(), [Event::Start], "nothing happens inside the call");
        lab.run();
        let expected = [
            Event::Start,
            Event::Stop("stopped".into()),
            Event::Note("stopped"),
            Event::Start,
            Event::Stop("stopped".into()),
        ];
        assert_eq!(log.events(), expected);
    });
}

#[test]
fn stopping_again_changes_nothing_and_every_completion_runs_once() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let port = lab.open(Recorder::new(&log));
        for note in ["first", "second"] {
            let log = log.clone();
            port.stop_listening_then(move |_| log.note(note)).unwrap();
            port.stop_listening();
        }
        lab.run();
        port.stop_listening();
        let late = log.clone();
        port.stop_listening_then(move |_| late.note("third")).unwrap();
        assert!(!log.has_note("third"), "never inside the call");
        lab.settle();
        let expected = [
            Event::Start,
            Event::Stop("stopped".into()),
            Event::Note("first"),
            Event::Note("second"),
            Event::Note("third"),
        ];
        assert_eq!(log.events(), expected);
    });
}

#[test]
fn nothing_is_delivered_after_stop_in_mid_batch() {
    everywhere(|s| {
        let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
        let port = lab.open(Recorder::new(&log).on_datagram(|transport, datagram| {
            if datagram.payload() == [2] {
                transport.stop_listening();
            }
            Ok(())
        }));
        for number in 0..10 {
            peer.send([number], s.reach(&port));
        }
        lab.run();
        assert_eq!(log.payloads(), [[0], [1], [2]]);
        assert_eq!(port.state(), PortState::Closed);
    });
}

#[test]
fn nothing_is_delivered_to_another_port_once_it_is_stopped() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let stopped_by: Rc<Cell<Option<&str>>> = Rc::default();
        let ports: Rc<Cell<Vec<strand_reactor::DatagramTransport>>> = Rc::default();
        let log = Log::default();
        let open = |name: &'static str| {
            let (stopped_by, ports) = (Rc::clone(&stopped_by), Rc::clone(&ports));
            lab.open(Recorder::new(&log).on_datagram(move |transport, _| {
                stopped_by.set(Some(name));
                for port in ports.take() {
                    if !port.is_same_port(transport) {
                        port.stop_listening();
                    }
                }
                Ok(())
            }))
        };
        let (one, two) = (open("one"), open("two"));
        ports.set(vec![one.clone(), two.clone()]);
        peer.send("a", s.reach(&one));
        peer.send("b", s.reach(&two));
        lab.until("a port closes", || {
            one.state() == PortState::Closed || two.state() == PortState::Closed
        });
        lab.settle();
        assert_eq!(log.datagrams(), 1);
        let survivor = if stopped_by.get() == Some("one") { &one } else { &two };
        assert_eq!(survivor.state(), PortState::Open);
    });
}

#[test]
fn a_write_between_stop_and_close_still_goes_out() {
    everywhere(|s| {
        let (lab, peer, log) = (s.lab(), s.peer(), Log::default());
        let to = peer.addr();
        let port = lab.open(Recorder::new(&log).on_stop(move |transport, _| {
            transport.write_to(b"goodbye", to).unwrap();
        }));
        port.write_to(b"before", to).unwrap();
        port.stop_listening();
        port.write_to(b"after stop", to).unwrap();
        let done = log.clone();
        port.write_then(b"completed", to, move |result| {
            assert_eq!(result.unwrap(), 9);
            done.note("written");
        })
        .unwrap();
        lab.run();
        assert_eq!(peer.payloads(4), [&b"before"[..], b"after stop", b"completed", b"goodbye"]);
        assert!(log.has_note("written"));
        assert!(matches!(port.write_to(b"x", to), Err(WriteError::Closed)));
    });
}

#[test]
fn a_stopped_port_hears_nothing_of_refusals() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let deaf = s.deaf();
        let port = lab.open(Recorder::new(&log));
        port.connect(deaf.addr()).unwrap();
        port.try_write(b"x").unwrap();
        port.stop_listening();
        lab.run();
        assert_eq!(log.events(), [Event::Start, Event::Stop("stopped".into())]);
    });
}

#[test]
fn shutdown_stops_every_open_port_exactly_once() {
    everywhere(|s| {
        let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
        let (asked, refused) = (log.clone(), log.clone());
        let ports: Vec<_> = (0..3)
            .map(|_| {
                let (asked, refused) = (asked.clone(), refused.clone());
                lab.open(Recorder::new(&log).on_stop(move |transport, _| {
                    transport.stop_listening();
                    let opened = transport.reactor().listen_udp(0, Recorder::quiet());
                    assert!(matches!(opened, Err(ListenError::ShuttingDown)));
                    refused.note("no port opens now");
                    let asked = asked.clone();
                    transport.stop_listening_then(move |_| asked.note("completed")).unwrap();
                }))
            })
            .collect();
        let reaches: Vec<_> = ports.iter().map(|port| s.reach(port)).collect();
        lab.call_when_running(move |handle| {
            handle.stop();
            for reach in &reaches {
                peer.send("too late", *reach);
            }
        });
        lab.run();
        let shutdown = Event::Stop("the reactor shuts down".into());
        assert_eq!(log.count(&shutdown), 3);
        assert_eq!(log.count(&Event::Note("completed")), 3);
        assert_eq!(log.datagrams(), 0);
        assert!(ports.iter().all(|port| port.state() == PortState::Closed));
        let before = log.events().len();
        lab.settle();
        assert_eq!(log.events().len(), before, "no callback afterwards");
        assert_eq!(log.count(&Event::Note("no port opens now")), 3);
    });
}

#[test]
fn stopping_the_reactor_in_mid_batch_ends_the_delivery() {
    everywhere(|s| {
        let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
        let port = lab.open(Recorder::new(&log).on_datagram(|transport, _| {
            transport.reactor().stop();
            Ok(())
        }));
        for _ in 0..5 {
            peer.send("x", s.reach(&port));
        }
        lab.run();
        assert_eq!(log.datagrams(), 1);
        assert_eq!(log.events().last(), Some(&Event::Stop("the reactor shuts down".into())));
        // The reactor can run again.
        let again = lab.open(Recorder::new(&log).on_datagram(|transport, _| {
            transport.stop_listening();
            Ok(())
        }));
        peer.send("again", s.reach(&again));
        lab.run();
        assert!(log.has_payload("again"));
    });
}

#[test]
fn a_crash_leaves_ports_open_and_loses_no_datagram() {
    everywhere(|s| {
        let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
        let port = lab.open(Recorder::new(&log).on_datagram(|transport, datagram| {
            if datagram.payload() == [1] {
                transport.reactor().crash();
            }
            if datagram.payload() == [5] {
                transport.stop_listening();
            }
            Ok(())
        }));
        for number in 0..6 {
            peer.send([number], s.reach(&port));
        }
        lab.run();
        assert_eq!(log.payloads(), [[0], [1]]);
        assert_eq!(port.state(), PortState::Open);
        lab.run();
        assert_eq!(log.payloads(), [[0], [1], [2], [3], [4], [5]]);
    });
}

#[test]
fn a_timer_may_stop_a_port_that_is_idle() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let port = lab.open(Recorder::new(&log));
        lab.call_later(Duration::ZERO, move |_| port.stop_listening());
        lab.run();
        assert_eq!(log.events(), [Event::Start, Event::Stop("stopped".into())]);
    });
}
