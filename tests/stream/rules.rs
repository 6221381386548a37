//! The rules that other reactors break, one by one.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::rc::Rc;
use std::sync::mpsc::channel;
use std::time::Duration;

use socket2::{SockRef, Type};
use strand_reactor::{ConnectionState, Handle, PeerAddr, Reactor, WriteError};

use crate::support::*;

#[test]
fn a_fin_does_not_cut_what_is_queued_for_its_sender() {
    everywhere(|ground| {
        let (log, len) = (log(), 20 << 20);
        let server =
            Recorder::new(&log).data(move |transport, _| Ok(transport.write(&pattern(len))?));
        let got = ground.against(server, |mut stream| {
            stream.write_all(b"give").expect("sent");
            stream.shutdown(Shutdown::Write);
            read_all(&mut stream)
        });
        assert!(got == pattern(len), "{} of {len} bytes", got.len());
        assert_last(&log, "lost: Done");
    });
}

#[test]
fn a_reset_is_noticed_while_paused_with_data_waiting() {
    everywhere(|ground| {
        let log = log();
        let server = Recorder::new(&log)
            .made(|transport| Ok(transport.pause_reading()?))
            .data(|_, _| panic!("reading is paused"));
        ground.against(server, |mut stream| {
            stream.write_all(&[1; 10_000]).expect("sent");
            stream.reset();
        });
        assert_eq!(*log.borrow(), ["made", "lost: Reset"]);
    });
}

#[test]
fn a_fin_is_told_only_after_resuming() {
    everywhere(|ground| {
        let log = log();
        let (send, paused) = channel();
        let seen = Rc::clone(&log);
        let server = Recorder::new(&log)
            .made(move |transport| {
                transport.pause_reading()?;
                send.send(())?;
                let (transport, seen) = (transport.clone(), Rc::clone(&seen));
                transport.reactor().call_later(Duration::from_millis(20), move |_: &Handle| {
                    note(&seen, "resumed");
                    transport.resume_reading()
                });
                Ok(())
            })
            .data({
                let seen = Rc::clone(&log);
                move |_, data| {
                    note(&seen, format!("{} bytes", data.len()));
                    Ok(())
                }
            });
        ground.against(server, move |mut stream| {
            stream.wait_for(&paused);
            stream.write_all(b"words").expect("sent");
            drop(stream);
        });
        assert_eq!(*log.borrow(), ["made", "resumed", "5 bytes", "read lost", "lost: Done"]);
    });
}

#[test]
fn nothing_written_after_lose_connection_is_sent() {
    everywhere(|ground| {
        let log = log();
        let server = Recorder::new(&log).made(|transport| {
            transport.write(b"before")?;
            transport.lose_connection();
            assert!(!transport.writable() && !transport.readable());
            assert!(matches!(transport.write(b"1"), Err(WriteError::Closed)));
            assert!(matches!(transport.write_bytes(*b"2"), Err(WriteError::Closed)));
            assert!(matches!(transport.try_write(b"3"), Err(WriteError::Closed)));
            let never = |_| -> () { panic!("a refused write has no completion") };
            assert!(matches!(transport.write_then(b"4", never), Err(WriteError::Closed)));
            Ok(())
        });
        assert_eq!(ground.against(server, |mut stream| read_all(&mut stream)), b"before");
        assert_eq!(*log.borrow(), ["made", "lost: Done"]);
    });
}

#[test]
fn data_before_a_reset_is_delivered_before_it() {
    everywhere(|ground| {
        let (log, got) = (log(), Rc::default());
        let (send, paused) = channel();
        let server = Recorder::new(&log).collect(&got).made(move |transport| {
            transport.write(b"unread")?;
            send.send(())?;
            Ok(())
        });
        ground.against(server, move |mut stream| {
            stream.wait_for(&paused);
            stream.peek();
            stream.write_all(&pattern(5000)).expect("sent");
            // Closing with input unread resets after the data.
            drop(stream);
        });
        assert!(*got.borrow() == pattern(5000), "{} bytes", got.borrow().len());
        assert_last(&log, "lost: Reset");
    });
}

#[test]
fn what_the_peer_sent_is_read_after_a_write_failed() {
    // Between hosts both writes are under way before the first is answered.
    over_loopback(|ground| {
        let (log, got) = (log(), Rc::default());
        let failed = Rc::new(Cell::new(0));
        let seen = Rc::clone(&failed);
        let mut first = true;
        let server = Recorder::new(&log).collect(&got).half(|_| Ok(())).made(move |transport| {
            if std::mem::take(&mut first) {
                // The peer ends both directions, its words still unread here: its kernel answers
                // our bytes with a reset, which the second write meets.
                for _ in 0..2 {
                    let seen = Rc::clone(&seen);
                    let written = transport.write_then(b"to nobody", move |result| {
                        seen.set(seen.get() + usize::from(result.is_err()));
                    });
                    if written.is_ok() {
                        let _ = transport.flush();
                    }
                }
            }
            Ok(())
        });
        let address = ground.once(ground.loopback().start_paused(true), server);
        let mut stream = ground.plain(address);
        stream.write_all(b"last words").expect("sent");
        drop(stream);
        ground.let_in();
        ground.run();
        assert_eq!(failed.get(), 1);
        // Linux keeps what came before a reset for its reader.
        assert_eq!(*got.borrow(), b"last words");
        let ends = log.borrow().iter().filter(|line| line.starts_with("lost")).count();
        assert_eq!(ends, 1, "{log:?}");
    });
}

#[test]
fn both_halves_closed_is_lost_without_being_asked_in_either_order() {
    everywhere(|ground| {
        for server_first in [true, false] {
            let (served, told) = (log(), log());
            let ends = |log: &Log, first: bool| {
                Recorder::new(log)
                    .made(move |transport| {
                        if first {
                            transport.lose_write();
                        }
                        Ok(())
                    })
                    .half(move |transport| {
                        transport.lose_write();
                        Ok(())
                    })
            };
            ground.pair(ends(&served, server_first), ends(&told, !server_first));
            for log in [served, told] {
                assert_last(&log, "lost: Done");
                for what in ["made", "read lost", "write lost", "lost: Done"] {
                    assert_eq!(count(&log, what), 1, "{log:?}");
                }
            }
        }
    });
}

#[test]
fn out_of_band_data_does_not_spin_or_end_the_connection() {
    // The simulated TCP has no urgent data.
    on_the_system(|ground| {
        let (log, got) = (log(), Rc::new(RefCell::new(Vec::new())));
        let address = ground.once(ground.loopback(), Recorder::new(&log).collect(&got));
        let mut stream = TcpStream::connect(address).expect("a connection");
        ground.turn_until(|| count(&log, "made") == 1);
        for _ in 0..2 {
            let sent = SockRef::from(&stream).send_out_of_band(b"hello").expect("sent");
            assert_eq!(sent, 5);
        }
        // The urgent byte itself is not part of the stream.
        ground.turn_until(|| got.borrow().len() >= 8);
        let reactor = ground.reactor();
        let turns = reactor.stats().turns;
        let ticked = Rc::new(Cell::new(false));
        let tick = Rc::clone(&ticked);
        reactor.call_later(Duration::from_millis(50), move |_: &Handle| tick.set(true));
        ground.turn_until(|| ticked.get());
        assert!(reactor.stats().turns - turns < 20, "the loop spins");
        stream.write_all(b"in band").expect("sent");
        drop(stream);
        ground.run();
        assert!(got.borrow().ends_with(b"in band"));
        assert_eq!(*log.borrow(), ["made", "read lost", "lost: Done"]);
    });
}

#[test]
fn closing_leaves_the_peer_all_that_was_written_though_its_own_words_are_unread() {
    everywhere(|ground| {
        let log = log();
        let server = Recorder::new(&log).made(move |transport| {
            // What the client sent waits in the kernel when the connection is closed.
            transport.write_bytes(pattern(1 << 20))?;
            transport.lose_connection();
            Ok(())
        });
        let options = ground.loopback().start_paused(true);
        let got = ground.against_with(options, server, |mut stream| {
            stream.write_all(&[1; 50_000]).expect("sent");
            stream.be_let_in();
            read_all(&mut stream)
        });
        assert!(got == pattern(1 << 20), "{} bytes", got.len());
        assert_last(&log, "lost: Done");
    });
}

#[test]
fn a_failing_connection_made_closes_with_its_error_and_delivers_nothing() {
    everywhere(|ground| {
        let log = log();
        let server = Recorder::new(&log)
            .made(|_| anyhow::bail!("no room"))
            .data(|_, _| panic!("the connection is closed"));
        let got = ground.against(server, |mut stream| {
            let _ = stream.write_all(b"hello");
            let mut all = Vec::new();
            let _ = stream.read_to_end(&mut all);
            all
        });
        assert_eq!(got, b"");
        assert_eq!(*log.borrow(), ["made", "lost: no room"]);
    });
}

#[test]
fn each_reason_is_told_once() {
    everywhere(|ground| {
        let done = log();
        ground.against(Recorder::new(&done), drop);
        assert_eq!(*done.borrow(), ["made", "read lost", "lost: Done"]);

        let was_reset = log();
        ground.against(Recorder::new(&was_reset), Peer::reset);
        assert_eq!(*was_reset.borrow(), ["made", "lost: Reset"]);

        let aborted = log();
        let server = Recorder::new(&aborted).made(|transport| {
            transport.abort_connection();
            Ok(())
        });
        let end = ground
            .against(server, |mut stream| stream.read(&mut [0]).map_err(|error| error.kind()));
        assert_eq!(end, Err(ErrorKind::ConnectionReset));
        assert_eq!(*aborted.borrow(), ["made", "lost: Aborted"]);

        let failed = log();
        let server = Recorder::new(&failed).data(|_, _| anyhow::bail!("nonsense"));
        ground.against(server, |mut stream| {
            stream.write_all(b"?").expect("sent");
            assert_eq!(read_all(&mut stream), b"");
        });
        assert_eq!(*failed.borrow(), ["made", "lost: nonsense"]);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_peer_that_lets_nothing_through_times_out_as_the_system_says() {
    // The option is set by the descriptor, and a simulated host has none.
    on_the_system(|ground| {
        let log = log();
        let (send, lost) = channel();
        let server = Recorder::new(&log)
            .made(|transport| {
                // The kernel gives up when nothing was taken for so long (tcp(7), TCP_USER_TIMEOUT).
                let limit = Some(Duration::from_millis(50));
                transport.with_fd(|fd| SockRef::from(&fd).set_tcp_user_timeout(limit))??;
                Ok(transport.write_bytes(vec![0; 32 << 20])?)
            })
            .lost(move |_| send.send(()).expect("waited for"));
        ground.against(server, move |stream| {
            stream.wait_for(&lost);
            drop(stream);
        });
        assert_eq!(*log.borrow(), ["made", "pause", "lost: TimedOut"]);
    });
}

#[test]
fn a_reset_is_the_reason_though_a_callback_failed_of_it() {
    // The callback waits for the peer: in a world it would wait for ever.
    on_the_system(|ground| {
        let log = log();
        let (send, gone) = channel();
        let server = Recorder::new(&log).made(move |transport| {
            gone.recv()?;
            loop {
                transport.write(&[0; 1 << 20])?;
                let _ = transport.flush();
            }
        });
        ground.against(server, move |stream| {
            stream.reset();
            send.send(()).expect("waited for");
        });
        assert_eq!(*log.borrow(), ["made", "lost: Reset"]);
    });
}

#[test]
fn a_connection_goes_on_after_its_descriptor_was_lent() {
    // A simulated connection has no descriptor.
    on_the_system(|ground| {
        let log = log();
        let server = Recorder::new(&log).data(|transport, data| {
            let number = |fd: BorrowedFd<'_>| fd.as_raw_fd();
            let (first, second) = (transport.with_fd(number)?, transport.with_fd(number)?);
            anyhow::ensure!(first == second, "{first} became {second}");
            Ok(transport.write(data)?)
        });
        ground.against(server, |mut stream| {
            for _ in 0..3 {
                stream.write_all(b"ping").expect("sent");
                stream.read_exact(&mut [0; 4]).expect("answered");
            }
            stream.shutdown(Shutdown::Write);
            assert_eq!(read_all(&mut stream), b"");
        });
        assert_last(&log, "lost: Done");
    });
}

#[test]
fn a_lent_descriptor_stays_open_though_its_connection_is_closed() {
    let (log, reactor) = (log(), Reactor::new().expect("a reactor"));
    let its = Rc::clone(&log);
    let factory = move |_: PeerAddr| Some(Recorder::new(&its));
    let port = reactor.listen_tcp("127.0.0.1:0", factory).expect("a port");
    let _client = TcpStream::connect(port.local_addr().expect("bound")).expect("connected");
    while reactor.streams().is_empty() {
        reactor.iterate(None).expect("a turn");
    }
    let transport = reactor.streams().remove(0);
    let lent = transport.with_fd(|fd| {
        transport.abort_connection();
        while transport.state() != ConnectionState::Closed {
            reactor.iterate(Some(Duration::ZERO)).expect("a turn");
        }
        SockRef::from(&fd).r#type().expect("still open")
    });
    assert_eq!(lent.expect("open when it was asked for"), Type::STREAM);
    assert_last(&log, "lost: Aborted");
}
