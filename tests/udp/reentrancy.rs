//! Any operation may be called from any callback.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::{DatagramTransport, PortState, RunError};

use crate::support::{Event, Log, Recorder, Setup, everywhere, plainly};

/// Does everything that an API offers, to `transport` and to ports of its own.
fn everything(s: &Setup, transport: &DatagramTransport, log: &Log) -> anyhow::Result<()> {
    let handle = transport.reactor();
    let peer = s.peer();
    // Another port: opened, used, stopped.
    let other = s.open(&handle, Recorder::new(log));
    other.write_to(b"x", peer.addr())?;
    other.connect(peer.addr())?;
    other.write(b"y")?;
    other.disconnect()?;
    other.pause_reading()?;
    other.resume_reading()?;
    other.set_ttl(9)?;
    if s.has_descriptors() {
        other.with_fd(|_| transport.local_addr().map(drop))??;
    }
    let noted = log.clone();
    other.stop_listening_then(move |_| noted.note("other closed"))?;
    // This one.
    transport.pause_reading()?;
    transport.resume_reading()?;
    transport.flush()?;
    if transport.peer_addr().is_err() {
        transport.connect(peer.addr())?;
        transport.disconnect()?;
        transport.write_to(b"z", peer.addr())?;
        transport.try_write_to(b"z", peer.addr())?;
        let done = log.clone();
        transport.write_then(b"z", peer.addr(), move |_| done.note("written"))?;
    }
    transport.set_metadata(strand_reactor::Metadata::NONE)?;
    anyhow::ensure!(transport.stats()?.callback_panics == 0);
    let called = log.clone();
    handle.call_when_running(move |_| called.note("called"));
    handle.call_later(Duration::ZERO, {
        let fired = log.clone();
        move |_| fired.note("fired")
    });
    handle.call_later(Duration::from_secs(60), |_| ()).cancel()?;
    anyhow::ensure!(handle.datagram(transport.key()?).is_some());
    anyhow::ensure!(handle.datagram_ports().len() >= 2);
    log.note("everything");
    Ok(())
}

#[track_caller]
fn assert_done(lab: &crate::support::Lab, log: &Log, times: usize) {
    lab.until("everything", || {
        ["everything", "other closed", "called", "fired"]
            .iter()
            .all(|note| log.count(&Event::Note(note)) == times)
    });
    let stats = lab.stats();
    assert_eq!((stats.callback_errors, stats.callback_panics), (0, 0));
}

#[test]
fn everything_may_be_done_in_start_protocol() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let (inside, setup) = (log.clone(), *s);
        lab.open(
            Recorder::quiet().on_start(move |transport| everything(&setup, transport, &inside)),
        );
        assert_done(&lab, &log, 1);
    });
}

#[test]
fn everything_may_be_done_in_datagram_received() {
    everywhere(|s| {
        let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
        let (inside, setup) = (log.clone(), *s);
        let delivered = Log::default();
        let port = lab.open(Recorder::new(&delivered).on_datagram(move |transport, datagram| {
            let before = datagram.payload().to_vec();
            everything(&setup, transport, &inside)?;
            anyhow::ensure!(datagram.payload() == before, "the payload is lent for the call");
            Ok(())
        }));
        for number in 0..4 {
            peer.send([number], s.reach(&port));
        }
        assert_done(&lab, &log, 4);
        assert_eq!(delivered.payloads(), [[0], [1], [2], [3]]);
    });
}

#[test]
fn everything_may_be_done_in_connection_refused() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let (inside, setup) = (log.clone(), *s);
        let deaf = s.deaf();
        let port = lab.open(
            Recorder::quiet().on_refused(move |transport| everything(&setup, transport, &inside)),
        );
        port.connect(deaf.addr()).unwrap();
        port.write(b"x").unwrap();
        assert_done(&lab, &log, 1);
    });
}

#[test]
fn everything_may_be_done_in_write_failed_and_in_completions() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let (inside, setup) = (log.clone(), *s);
        let nowhere = std::net::SocketAddr::new(s.peer_ip(), 0);
        let port = lab.open(
            Recorder::quiet()
                .on_write_failed(move |transport, _| everything(&setup, transport, &inside)),
        );
        port.write_to(b"x", nowhere).unwrap();
        let (transport, inside) = (port.clone(), log.clone());
        port.write_then(b"x", nowhere, move |_| everything(&setup, &transport, &inside)).unwrap();
        assert_done(&lab, &log, 2);
    });
}

#[test]
fn everything_may_be_done_in_stop_protocol() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let (inside, setup) = (log.clone(), *s);
        let port = lab.open(Recorder::quiet().on_stop(move |transport, _| {
            everything(&setup, transport, &inside).unwrap();
            transport.stop_listening();
        }));
        port.stop_listening();
        assert_done(&lab, &log, 1);
        assert_eq!(port.state(), PortState::Closed);
    });
}

#[test]
fn everything_may_be_done_in_timers_and_posted_calls() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let (setup, port) = (*s, lab.open(Recorder::quiet()));
        for timer in [true, false] {
            let (transport, inside) = (port.clone(), log.clone());
            let work = move |_: &strand_reactor::Handle| everything(&setup, &transport, &inside);
            match timer {
                true => drop(lab.call_later(Duration::ZERO, work)),
                false => lab.call_when_running(work),
            }
        }
        assert_done(&lab, &log, 2);
    });
}

#[test]
fn running_inside_a_callback_is_an_error() {
    plainly(|s| {
        let lab = Rc::new(s.lab());
        let log = Log::default();
        let (inner, inside) = (Rc::downgrade(&lab), log.clone());
        let try_run = move || {
            let lab = inner.upgrade().unwrap();
            assert!(lab.is_running());
            let [run, turn] = lab.driven_twice();
            assert!(matches!(run, RunError::AlreadyRunning));
            assert!(matches!(turn, RunError::AlreadyRunning));
            inside.note("refused");
        };
        let (in_datagram, in_stop, in_timer) = (try_run.clone(), try_run.clone(), try_run);
        let port = lab.open(
            Recorder::quiet()
                .on_datagram(move |transport, _| {
                    in_datagram();
                    transport.stop_listening();
                    Ok(())
                })
                .on_stop(move |_, _| in_stop()),
        );
        s.peer().send("x", s.reach(&port));
        lab.call_later(Duration::ZERO, move |_| in_timer());
        lab.run();
        assert_eq!(log.count(&Event::Note("refused")), 3);
        assert_eq!(lab.stats().callback_panics, 0);
        assert!(!lab.is_running());
    });
}

#[test]
fn another_reactor_may_be_run_inside_a_callback() {
    plainly(|s| {
        let s = *s;
        let (outer, log, peer) = (s.lab(), Log::default(), s.peer());
        let inside = log.clone();
        let port = outer.open(Recorder::new(&log).on_datagram(move |_, _| {
            let inner = s.lab();
            let log = inside.clone();
            let port = inner.open(Recorder::new(&log).on_datagram(|transport, _| {
                transport.stop_listening();
                Ok(())
            }));
            port.write_to(b"inner", s.reach(&port))?;
            inner.run();
            Ok(())
        }));
        peer.send("outer", s.reach(&port));
        peer.send("next", s.reach(&port));
        outer.until("both", || log.has_payload("next") && log.payloads().len() == 4);
        assert_eq!(log.payloads(), [&b"outer"[..], b"inner", b"next", b"inner"]);
    });
}

#[test]
fn the_reactor_may_be_dropped_inside_a_callback() {
    // The last owner of the reactor lets go of it while its loop runs elsewhere on the stack.
    everywhere(|s| {
        let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
        let owner = Rc::new(RefCell::new(Some(s.lab())));
        let other = owner.borrow().as_ref().unwrap().open(Recorder::new(&log));
        let own = Rc::clone(&owner);
        let port = lab.open(Recorder::quiet().on_datagram(move |_, _| {
            drop(own.borrow_mut().take());
            Ok(())
        }));
        peer.send("x", s.reach(&port));
        lab.until("the drop", || owner.borrow().is_none());
        assert_eq!((other.state(), log.events()), (PortState::Closed, vec![Event::Start]));
    });
}
