//! The end of a connection, in every way it can come.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::{ConnectionState, Handle, OptionError, Transport};

use crate::support::*;

#[test]
fn losing_a_connection_is_clean_on_both_sides() {
    everywhere(|ground| {
        let (served, told, got) = (log(), log(), Rc::default());
        let server = Recorder::new(&served).made(|transport| {
            transport.write(b"all of it")?;
            transport.lose_connection();
            transport.lose_connection();
            Ok(())
        });
        ground.pair(server, Recorder::new(&told).collect(&got));
        assert_eq!(*got.borrow(), b"all of it");
        assert_eq!(*served.borrow(), ["made", "lost: Done"]);
        assert_eq!(*told.borrow(), ["made", "read lost", "lost: Done"]);
    });
}

#[test]
fn nothing_is_delivered_after_lose_connection() {
    everywhere(|ground| {
        let (served, told, calls) = (log(), log(), Rc::new(Cell::new(0)));
        let inner = Rc::clone(&calls);
        let server = Recorder::new(&served).data(move |transport, _| {
            inner.set(inner.get() + 1);
            transport.lose_connection();
            Ok(())
        });
        let client = Recorder::new(&told).made(|transport| Ok(transport.write(&[0; 8 << 20])?));
        ground.pair(server, client);
        assert_eq!(calls.get(), 1);
        assert_eq!(count(&served, "lost: Done"), 1);
    });
}

#[test]
fn an_abort_reaches_the_peer_as_a_reset_and_sends_nothing_written_after() {
    everywhere(|ground| {
        let (served, told, got) = (log(), log(), Rc::<RefCell<Vec<u8>>>::default());
        let server = Recorder::new(&served).data(|transport, _| {
            transport.abort_connection();
            assert!(transport.write(b"too late").is_err());
            transport.abort_connection();
            transport.lose_connection();
            Ok(())
        });
        let client =
            Recorder::new(&told).collect(&got).made(|transport| Ok(transport.write(b"x")?));
        ground.pair(server, client);
        assert!(got.borrow().is_empty());
        assert_eq!(*served.borrow(), ["made", "lost: Aborted"]);
        assert_eq!(*told.borrow(), ["made", "lost: Reset"]);
    });
}

#[test]
fn an_abort_after_lose_connection_does_not_wait_for_a_peer_that_never_reads() {
    everywhere(|ground| {
        let log = log();
        let server = Recorder::new(&log).made(|transport| {
            transport.write(&[0; 32 << 20])?;
            transport.lose_connection();
            let own = transport.clone();
            transport.reactor().call_later(Duration::ZERO, move |_: &Handle| {
                assert_ne!(own.state(), ConnectionState::Closed);
                own.abort_connection();
            });
            Ok(())
        });
        ground.against(server, |mut stream| {
            let _ = stream.read_to_end(&mut Vec::new());
        });
        assert_last(&log, "lost: Aborted");
    });
}

#[test]
fn an_abort_from_resume_writing_is_not_reentrant() {
    everywhere(|ground| {
        let log = log();
        let inner = Rc::clone(&log);
        let server = Recorder::new(&log)
            .made(|transport| Ok(transport.write(&[0; 32 << 20])?))
            .resume(move |transport| {
                transport.abort_connection();
                note(&inner, "still here");
                Ok(())
            });
        ground.against(server, |mut stream| {
            let _ = stream.read_to_end(&mut Vec::new());
        });
        assert_eq!(*log.borrow(), ["made", "pause", "resume", "still here", "lost: Aborted"]);
    });
}

#[test]
fn a_panic_in_connection_lost_is_counted_and_the_socket_is_closed() {
    everywhere(|ground| {
        let log = log();
        let server = Recorder::new(&log).lost(|_| panic!("on purpose"));
        let address = ground.once(ground.loopback(), server);
        let stream = ground.plain(address);
        drop(stream);
        ground.expect_panics(1);
        ground.run();
        assert_eq!(ground.panics(), 1);
        assert!(ground.streams().is_empty());
        assert_eq!(count(&log, "lost: Done"), 1);
    });
}

/// Notes that it was dropped.
struct Dropped(Log);

impl Drop for Dropped {
    fn drop(&mut self) {
        note(&self.0, "dropped");
    }
}

#[test]
fn a_lost_connection_keeps_neither_protocol_nor_socket() {
    everywhere(|ground| {
        let log = log();
        let (kept, held) = (Rc::new(RefCell::new(None::<Transport>)), Dropped(Rc::clone(&log)));
        let inner = Rc::clone(&kept);
        let server = Recorder::new(&log).made(move |transport| {
            let _ = &held;
            *inner.borrow_mut() = Some(transport.clone());
            Ok(())
        });
        let port = ground.against(server, |stream| stream.local_addr());
        assert_eq!(*log.borrow(), ["made", "read lost", "lost: Done", "dropped"]);
        let kept = kept.borrow();
        let transport = kept.as_ref().expect("made");
        assert_eq!(transport.state(), ConnectionState::Closed);
        assert!(matches!(transport.with_fd(|_| ()), Err(OptionError::Closed)));
        assert!(matches!(transport.peer_addr(), Err(OptionError::Closed)));
        assert!(transport.pause_reading().is_err() && transport.resume_reading().is_err());
        assert!(transport.write(b"x").is_err() && !transport.readable() && !transport.writable());
        transport.lose_connection();
        transport.lose_write();
        transport.abort_connection();
        assert_ne!(port.port(), 0);
    });
}

#[test]
fn writing_to_a_peer_that_closed_while_paused_ends_the_connection() {
    everywhere(|ground| {
        let log = log();
        let server = Recorder::new(&log).made(|transport| {
            transport.pause_reading()?;
            let own = transport.clone();
            transport
                .reactor()
                .looping_call(Duration::from_millis(5), move |_: &Handle, _| {
                    let _ = own.write(b"hello?");
                })
                .unref();
            Ok(())
        });
        ground.against(server, drop);
        assert_eq!(log.borrow().len(), 2, "{log:?}");
        assert_last(&log, "lost: Reset");
    });
}

#[test]
fn a_receiver_that_pauses_gets_data_then_one_loss_of_a_sender_that_closed() {
    everywhere(|ground| {
        let (served, told, got) = (log(), log(), Rc::<RefCell<Vec<u8>>>::default());
        let inner = Rc::clone(&got);
        let server = Recorder::new(&served).data(move |transport, data| {
            inner.borrow_mut().extend_from_slice(data);
            transport.pause_reading()?;
            let own = transport.clone();
            transport
                .reactor()
                .call_later(Duration::from_millis(1), move |_: &Handle| own.resume_reading());
            Ok(())
        });
        let client = Recorder::new(&told).made(|transport| {
            transport.write(&pattern(3 << 20))?;
            transport.lose_connection();
            Ok(())
        });
        ground.pair(server, client);
        assert!(*got.borrow() == pattern(3 << 20));
        assert_eq!(*served.borrow(), ["made", "read lost", "lost: Done"]);
        assert_eq!(*told.borrow(), ["made", "lost: Done"]);
    });
}

#[test]
fn writes_after_lose_write_are_refused_and_reading_goes_on() {
    everywhere(|ground| {
        let (log, got) = (log(), Rc::default());
        let server = Recorder::new(&log).collect(&got).made(|transport| {
            transport.write(b"that is all")?;
            transport.lose_write();
            assert!(!transport.writable() && transport.readable());
            assert!(transport.write(b"more").is_err() && transport.try_write(b"more").is_err());
            transport.lose_write();
            Ok(())
        });
        let all = ground.against(server, |mut stream| {
            let all = read_all(&mut stream);
            stream.write_all(b"an answer").expect("sent");
            all
        });
        assert_eq!(all, b"that is all");
        assert_eq!(*got.borrow(), b"an answer");
        // The peer may answer before the loop has told that our end went out.
        for what in ["made", "write lost", "read lost"] {
            assert_eq!(count(&log, what), 1, "{log:?}");
        }
        assert_last(&log, "lost: Done");
    });
}

#[test]
fn lose_write_after_the_peer_has_gone_passes_silently() {
    everywhere(|ground| {
        let log = log();
        let server = Recorder::new(&log).half(|transport| {
            transport.lose_write();
            transport.lose_write();
            Ok(())
        });
        ground.against(server, drop);
        assert_eq!(*log.borrow(), ["made", "read lost", "write lost", "lost: Done"]);
    });
}

#[test]
fn a_failing_notice_of_half_an_end_ends_the_whole() {
    everywhere(|ground| {
        let read = log();
        ground.against(Recorder::new(&read).half(|_| anyhow::bail!("unprepared")), |mut stream| {
            stream.shutdown(Shutdown::Write);
            assert_eq!(read_all(&mut stream), b"");
        });
        assert_eq!(*read.borrow(), ["made", "read lost", "lost: unprepared"]);

        let write = log();
        let (send, lost) = std::sync::mpsc::channel();
        let server = Recorder::new(&write)
            .made(|transport| {
                transport.lose_write();
                Ok(())
            })
            .ended(|_| anyhow::bail!("unprepared"))
            .lost(move |_| send.send(()).expect("waited for"));
        let options = ground.loopback().close_timeout(Duration::from_millis(20));
        ground.against_with(options, server, move |mut stream| {
            assert_eq!(read_all(&mut stream), b"");
            stream.wait_for(&lost);
        });
        assert_eq!(*write.borrow(), ["made", "write lost", "lost: unprepared"]);
    });
}

#[test]
fn ending_the_halves_from_each_others_notices_closes_fully() {
    everywhere(|ground| {
        let log = log();
        let server = Recorder::new(&log)
            .half(|transport| {
                transport.lose_write();
                Ok(())
            })
            .ended(|transport| {
                transport.lose_connection();
                Ok(())
            });
        ground.against(server, |mut stream| {
            stream.shutdown(Shutdown::Write);
            assert_eq!(read_all(&mut stream), b"");
        });
        assert_eq!(*log.borrow(), ["made", "read lost", "write lost", "lost: Done"]);
    });
}

#[test]
fn a_half_closed_connection_stays_until_it_is_closed() {
    everywhere(|ground| {
        let log = log();
        let address = ground.once(ground.loopback(), Recorder::new(&log).half(|_| Ok(())));
        let mut stream = ground.plain(address);
        stream.shutdown(Shutdown::Write);
        ground.turn_until(|| count(&log, "read lost") == 1);
        let transport = ground.streams().remove(0);
        ground.turns(5, Duration::ZERO);
        assert!(transport.writable() && !transport.readable());
        transport.write(b"still here").expect("open");
        transport.lose_connection();
        ground.run();
        assert_eq!(read_all(&mut stream), b"still here");
        assert_eq!(*log.borrow(), ["made", "read lost", "lost: Done"]);
    });
}

#[test]
fn both_ends_ending_at_once_is_clean() {
    everywhere(|ground| {
        let (served, told) = (log(), log());
        let end = |log: &Log| {
            Recorder::new(log).made(|transport| {
                transport.lose_write();
                transport.lose_connection();
                Ok(())
            })
        };
        ground.pair(end(&served), end(&told));
        assert_last(&served, "lost: Done");
        assert_last(&told, "lost: Done");
    });
}

#[test]
fn a_reader_stopped_before_the_data_came_is_never_called() {
    everywhere(|ground| {
        let log = log();
        let server = Recorder::new(&log)
            .made(|transport| {
                transport.pause_reading()?;
                let own = transport.clone();
                transport
                    .reactor()
                    .call_later(Duration::from_millis(20), move |_: &Handle| own.lose_connection());
                Ok(())
            })
            .data(|_, _| panic!("reading is paused"));
        ground.against(server, |mut stream| {
            stream.write_all(b"never read").expect("sent");
            assert_eq!(read_all(&mut stream), b"");
        });
        assert_eq!(*log.borrow(), ["made", "lost: Done"]);
    });
}

#[test]
fn a_peer_that_never_closes_is_waited_for_no_longer_than_allowed() {
    everywhere(|ground| {
        let log = log();
        let (send, lost) = std::sync::mpsc::channel();
        let server = Recorder::new(&log)
            .made(|transport| {
                transport.write(b"bye")?;
                transport.lose_connection();
                Ok(())
            })
            .lost(move |_| send.send(()).expect("waited for"));
        let options = ground.loopback().close_timeout(Duration::from_millis(20));
        let all = ground.against_with(options, server, move |mut stream| {
            stream.wait_for(&lost);
            read_all(&mut stream)
        });
        assert_eq!(all, b"bye");
        assert_eq!(count(&log, "made"), 1);
        assert_eq!(log.borrow().len(), 2, "{log:?}");
    });
}

#[test]
fn dropping_the_reactor_closes_without_callbacks() {
    // The reactors of a world are its own: nobody can drop one (a crash is silent).
    on_the_system(|ground| {
        let log = log();
        let held = Dropped(Rc::clone(&log));
        let server = Recorder::new(&log).made(move |_| {
            let _ = &held;
            Ok(())
        });
        let address = ground.once(ground.loopback(), server);
        let mut stream = ground.plain(address);
        ground.turn_until(|| count(&log, "made") == 1);
        let kept = ground.streams().remove(0);
        drop(ground);
        assert_eq!(*log.borrow(), ["made", "dropped"]);
        assert_eq!(kept.state(), ConnectionState::Closed);
        assert_eq!(read_all(&mut stream), b"");
    });
}

#[test]
fn a_reset_after_lose_connection_ends_the_waiting() {
    everywhere(|ground| {
        let log = log();
        let (send, closing) = std::sync::mpsc::channel();
        let server = Recorder::new(&log).made(move |transport| {
            transport.write(&[0; 32 << 20])?;
            transport.pause_reading()?;
            transport.lose_connection();
            Ok(send.send(())?)
        });
        let options = ground.loopback().close_timeout(WATCHDOG * 2);
        ground.against_with(options, server, move |stream| {
            stream.wait_for(&closing);
            stream.reset();
        });
        assert_last(&log, "lost: Reset");
        assert_eq!(count(&log, "lost: Reset"), 1);
    });
}

#[test]
fn an_adopted_connection_writes_ends_and_reads_to_the_end() {
    // A simulated host has no descriptors to adopt.
    on_the_system(|ground| {
        let (log, got) = (log(), Rc::default());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let near = std::net::TcpStream::connect(address).expect("a connection");
        let (mut far, _) = listener.accept().expect("the other end");
        let protocol = Recorder::new(&log).collect(&got).made(|transport| {
            transport.write(&pattern(1 << 20))?;
            transport.lose_write();
            Ok(())
        });
        ground.server().adopt_stream_connection(near, protocol).expect("adopted");
        assert!(log.borrow().is_empty(), "inside the call");
        let peer = std::thread::spawn(move || {
            let all = read_all(&mut far);
            far.write_all(b"an answer").expect("sent");
            all
        });
        ground.run();
        assert!(peer.join().expect("content") == pattern(1 << 20));
        assert_eq!(*got.borrow(), b"an answer");
        // The peer may answer before the loop has told that our end went out.
        for what in ["made", "write lost", "read lost"] {
            assert_eq!(count(&log, what), 1, "{log:?}");
        }
        assert_last(&log, "lost: Done");
    });
}
