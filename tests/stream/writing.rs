//! Writing: order, watermarks, limits, gauges, completions.

use std::cell::{Cell, RefCell};
use std::io::{IoSlice, Read, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::mpsc::channel;

use strand_reactor::{OptionError, StreamLayer, WriteError};

use crate::support::*;

#[test]
fn every_way_of_writing_keeps_the_order() {
    everywhere(|ground| {
        let log = log();
        let server = Recorder::new(&log).made(|transport| {
            transport.write(b"a")?;
            transport.write_vectored(&[
                IoSlice::new(b"b"),
                IoSlice::new(b""),
                IoSlice::new(b"c"),
            ])?;
            transport.write_bytes(vec![b'd'; 10_000])?;
            transport.write_then(b"e", |_| {})?;
            transport.write(&[b'f'; 100_000])?;
            transport.write(b"")?;
            transport.write_vectored(&[])?;
            transport.write(b"g")?;
            transport.lose_connection();
            Ok(())
        });
        let got = ground.against(server, |mut stream| read_all(&mut stream));
        let expected = [
            b"abc".to_vec(),
            vec![b'd'; 10_000],
            b"e".to_vec(),
            vec![b'f'; 100_000],
            b"g".to_vec(),
        ];
        assert!(got == expected.concat(), "{} bytes", got.len());
    });
}

#[test]
fn empty_writes_send_nothing_and_queue_nothing() {
    everywhere(|ground| {
        let log = log();
        let server = Recorder::new(&log).made(|transport| {
            transport.write(b"")?;
            transport.write_bytes(Vec::new())?;
            transport.write_vectored(&[IoSlice::new(b"")])?;
            assert_eq!((transport.queued_bytes(), transport.stats()?.writes), (0, 0));
            transport.lose_connection();
            Ok(())
        });
        assert_eq!(ground.against(server, |mut stream| read_all(&mut stream)), b"");
    });
}

#[test]
fn sixty_mebibytes_of_one_turn_are_exact() {
    let whole = Rc::new(pattern(60 << 20));
    everywhere(|ground| {
        let (served, told, got) = (log(), log(), Rc::default());
        let inner = Rc::clone(&whole);
        let server = Recorder::new(&served).made(move |transport| {
            for piece in inner.chunks(777_777) {
                transport.write(piece)?;
            }
            transport.lose_connection();
            Ok(())
        });
        ground.pair(server, Recorder::new(&told).collect(&got));
        assert!(*got.borrow() == *whole, "{} bytes", got.borrow().len());
        assert_last(&served, "lost: Done");
        assert_last(&told, "lost: Done");
    });
}

#[test]
fn ten_thousand_writes_to_a_peer_that_never_reads_complete_once_each_and_in_order() {
    everywhere(|ground| {
        let log = log();
        let ends = Rc::new(RefCell::new(Vec::new()));
        let inner = Rc::clone(&ends);
        let (send, over) = channel();
        let server = Recorder::new(&log)
            .made(move |transport| {
                for at in 0..10_000 {
                    let ends = Rc::clone(&inner);
                    transport.write_then(&[7; 1024], move |result| {
                        ends.borrow_mut().push((at, result.is_ok()));
                    })?;
                }
                Ok(())
            })
            .pause(|transport| {
                transport.abort_connection();
                Ok(())
            })
            .lost(move |_| send.send(()).expect("waited for"));
        ground.against_with(ground.loopback().send_buffer_size(16 * 1024), server, move |stream| {
            stream.wait_for(&over);
            drop(stream);
        });
        let ends = ends.borrow();
        assert!(ends.iter().map(|(at, _)| *at).eq(0..10_000), "{} completions", ends.len());
        let fine = ends.iter().take_while(|(_, ok)| *ok).count();
        assert!(ends[fine..].iter().all(|(_, ok)| !ok), "a failure before a success");
        assert!((1..10_000).contains(&fine), "{fine} of 10000 left");
        assert_last(&log, "lost: Aborted");
    });
}

#[test]
fn a_completion_comes_with_the_gauge_at_what_still_waits() {
    everywhere(|ground| {
        let log = log();
        let gauges = Rc::new(RefCell::new(Vec::new()));
        let inner = Rc::clone(&gauges);
        let server = Recorder::new(&log).made(move |transport| {
            for data in [vec![1; 10 << 20], vec![2]] {
                let before = transport.queued_bytes();
                let (gauges, own) = (Rc::clone(&inner), transport.clone());
                transport.write_then(&data, move |result| {
                    gauges.borrow_mut().push((result.expect("sent"), own.queued_bytes()));
                })?;
                if data.len() == 1 {
                    assert_eq!(transport.queued_bytes(), before + 1);
                }
            }
            Ok(())
        });
        ground.against(server, |mut stream| {
            let mut all = vec![0; (10 << 20) + 1];
            stream.read_exact(&mut all).expect("all of it");
        });
        let gauges = gauges.borrow();
        assert_eq!(gauges.iter().map(|(len, _)| *len).collect::<Vec<_>>(), [10 << 20, 1]);
        assert!(gauges[0].1 <= 1 && gauges[1].1 == 0, "{gauges:?}");
    });
}

#[test]
fn completions_never_run_inside_the_call_that_writes_or_closes() {
    everywhere(|ground| {
        let log = log();
        let inside = Rc::new(Cell::new(false));
        let (inner, told) = (Rc::clone(&inside), Rc::new(Cell::new(0)));
        let count = Rc::clone(&told);
        let server = Recorder::new(&log).made(move |transport| {
            inner.set(true);
            for len in [0, 1, 20_000, 1 << 20] {
                let (inside, count) = (Rc::clone(&inner), Rc::clone(&count));
                transport.write_then(&vec![0; len], move |_| {
                    assert!(!inside.get(), "inside a call");
                    count.set(count.get() + 1);
                })?;
            }
            transport.abort_connection();
            inner.set(false);
            Ok(())
        });
        ground.against(server, |mut stream| {
            let _ = stream.read_to_end(&mut Vec::new());
        });
        assert_eq!(told.get(), 4);
        assert_eq!(*log.borrow(), ["made", "lost: Aborted"]);
    });
}

#[test]
fn completions_come_before_connection_lost() {
    everywhere(|ground| {
        let log = log();
        let inner = Rc::clone(&log);
        let server = Recorder::new(&log).made(move |transport| {
            for _ in 0..32 {
                let log = Rc::clone(&inner);
                transport.write_then(&[1; 1000], move |_| note(&log, "completed"))?;
            }
            transport.lose_connection();
            Ok(())
        });
        ground.against(server, |mut stream| assert_eq!(read_all(&mut stream).len(), 32_000));
        assert_eq!(count(&log, "completed"), 32);
        assert_last(&log, "lost: Done");
    });
}

#[test]
fn cancelled_completions_come_before_connection_lost_too() {
    everywhere(|ground| {
        let log = log();
        let inner = Rc::clone(&log);
        let server = Recorder::new(&log).made(move |transport| {
            for _ in 0..32 {
                let log = Rc::clone(&inner);
                transport.write_then(&[1; 1000], move |_| note(&log, "completed"))?;
            }
            transport.abort_connection();
            Ok(())
        });
        ground.against(server, |mut stream| {
            let _ = stream.read_to_end(&mut Vec::new());
        });
        assert_eq!(count(&log, "completed"), 32);
        assert_last(&log, "lost: Aborted");
    });
}

#[test]
fn exactly_the_high_watermark_does_not_pause_and_one_more_does() {
    everywhere(|ground| {
        let log = log();
        let inner = Rc::clone(&log);
        let (send, go_on) = channel::<()>();
        let server = Recorder::new(&log)
            .made(move |transport| {
                // Until the system takes no more.
                while transport.try_write(&[0; 65_536]).is_ok() {}
                transport.set_write_watermarks(0, 5000)?;
                assert_eq!(transport.write_watermarks()?, (0, 5000));
                transport.write(&[1; 5000])?;
                note(&inner, "at the mark");
                let own = transport.clone();
                let inner = Rc::clone(&inner);
                let send = send.clone();
                transport.reactor().call_when_running(move |_: &strand_reactor::Handle| {
                    assert_eq!(own.queued_bytes(), 5000);
                    note(&inner, "above");
                    own.write(b"x").expect("room");
                    own.write(b"y").expect("room");
                    send.send(()).expect("waited for");
                });
                Ok(())
            })
            .resume(|transport| {
                assert_eq!(transport.queued_bytes(), 0);
                transport.lose_connection();
                Ok(())
            });
        ground.against(server, move |mut stream| {
            stream.wait_for(&go_on);
            let all = read_all(&mut stream);
            assert!(all.ends_with(b"\x01xy"));
        });
        let expected = ["made", "at the mark", "above", "pause", "resume", "lost: Done"];
        assert_eq!(*log.borrow(), expected);
    });
}

/// Writes a portion, asks to be resumed, and writes the next, ten times.
fn produces_in_portions(ground: &Ground, layers: bool) {
    const PORTION: usize = 1000;
    let log = log();
    let inner = Rc::clone(&log);
    let left = Rc::new(Cell::new(10));
    let server = Recorder::new(&log)
        .made(move |transport| {
            if layers {
                transport.push_layer(Through)?;
            }
            transport.set_write_watermarks(100, 200)?;
            transport.write(&[0; PORTION])?;
            transport.request_resume_writing()?;
            transport.request_resume_writing()?;
            note(&inner, "requested");
            Ok(())
        })
        .resume(move |transport| {
            assert!(transport.queued_bytes() <= 100, "{}", transport.queued_bytes());
            left.set(left.get() - 1);
            if left.get() == 0 {
                transport.lose_connection();
                assert!(transport.request_resume_writing().is_err());
                return Ok(());
            }
            transport.write(&[0; PORTION])?;
            transport.request_resume_writing()?;
            Ok(())
        });
    let got = ground.against(server, |mut stream| read_all(&mut stream));
    assert_eq!(got.len(), 10 * PORTION);
    let resumed = log.borrow().iter().filter(|what| *what == "resume").count();
    assert_eq!(resumed, 10, "{:?}", log.borrow());
    assert_eq!(log.borrow()[..2], ["made", "requested"]);
    assert!(!log.borrow().iter().any(|what| what == "pause"));
}

struct Through;

impl StreamLayer for Through {}

#[test]
fn a_protocol_that_stops_by_itself_is_resumed_although_the_system_took_all() {
    everywhere(|ground| {
        produces_in_portions(ground, false);
    });
}

#[test]
fn a_protocol_above_layers_that_stops_by_itself_is_resumed() {
    everywhere(|ground| {
        produces_in_portions(ground, true);
    });
}

#[test]
fn contradictory_watermarks_change_nothing() {
    everywhere(|ground| {
        let log = log();
        let server = Recorder::new(&log).made(|transport| {
            let marks = transport.write_watermarks()?;
            assert_eq!(marks, (16 * 1024, 64 * 1024));
            let refused = transport.set_write_watermarks(2, 1);
            assert!(matches!(refused, Err(OptionError::Contradiction { .. })));
            assert_eq!(transport.write_watermarks()?, marks);
            transport.lose_connection();
            Ok(())
        });
        ground.against(server, |mut stream| read_all(&mut stream));
    });
}

#[test]
fn a_loss_while_paused_is_not_told_as_room() {
    everywhere(|ground| {
        let log = log();
        let (send, paused) = channel();
        let server = Recorder::new(&log)
            .made(|transport| Ok(transport.write(&[0; 32 << 20])?))
            .pause(move |_| Ok(send.send(())?));
        ground.against(server, move |stream| {
            stream.wait_for(&paused);
            stream.reset();
        });
        assert_eq!(*log.borrow(), ["made", "pause", "lost: Reset"]);
    });
}

#[test]
fn the_limit_refuses_and_loses_nothing_that_was_taken() {
    everywhere(|ground| {
        let log = log();
        let taken = Rc::new(Cell::new(0));
        let inner = Rc::clone(&taken);
        let server = Recorder::new(&log).made(move |transport| {
            loop {
                match transport.write(&[5; 30_000]) {
                    Ok(()) => inner.set(inner.get() + 30_000),
                    Err(WriteError::BufferFull { bytes, limit }) => {
                        assert!(bytes <= limit && limit == 100_000 && bytes + 30_000 > limit);
                        break;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            transport.lose_connection();
            Ok(())
        });
        let options = ground.loopback().write_limit(100_000).write_watermarks(1000, 50_000);
        let got = ground.against_with(options, server, |mut stream| read_all(&mut stream).len());
        assert_eq!(got, taken.get());
    });
}

#[test]
fn try_write_keeps_nothing_and_says_when_there_is_no_room() {
    everywhere(|ground| {
        let log = log();
        let taken = Rc::new(Cell::new(0));
        let inner = Rc::clone(&taken);
        let server = Recorder::new(&log).made(move |transport| {
            transport.write(b"first")?;
            loop {
                match transport.try_write(&[9; 100_000]) {
                    Ok(count) => inner.set(inner.get() + count),
                    Err(WriteError::WouldBlock) => break,
                    Err(error) => return Err(error.into()),
                }
                assert_eq!(transport.queued_bytes(), 0);
            }
            transport.lose_connection();
            Ok(())
        });
        let got = ground.against(server, |mut stream| read_all(&mut stream));
        assert!(got.starts_with(b"first"));
        assert_eq!(got.len(), 5 + taken.get());
    });
}

#[test]
fn try_write_to_a_peer_that_is_gone_ends_in_an_error_with_nothing_queued() {
    // The callback waits for the peer: in a world it would wait for ever.
    on_the_system(|ground| {
        let log = log();
        let (send, gone) = channel::<()>();
        let server = Recorder::new(&log).made(move |transport| {
            gone.recv()?;
            let error = loop {
                match transport.try_write(b"hello?") {
                    Ok(_) => std::thread::yield_now(),
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, WriteError::Io(_) | WriteError::Closed), "{error:?}");
            assert_eq!(transport.queued_bytes(), 0);
            Ok(())
        });
        ground.against(server, move |stream| {
            stream.reset();
            send.send(()).expect("waited for");
        });
        assert_last(&log, "lost: Reset");
    });
}

#[test]
fn one_byte_pieces_arrive_as_one_message_each_round() {
    everywhere(|ground| {
        let (served, told) = (log(), log());
        let rounds = Rc::new(Cell::new(0));
        let server = Recorder::new(&served).data(|transport, data| {
            assert_eq!(data, b"hello", "the pieces left one by one");
            Ok(transport.write(data)?)
        });
        let send = |transport: &strand_reactor::Transport| {
            let pieces: Vec<_> = b"hello".chunks(1).map(IoSlice::new).collect();
            transport.write_vectored(&pieces)
        };
        let (inner, client) = (Rc::clone(&rounds), Recorder::new(&told));
        let client =
            client.made(move |transport| Ok(send(transport)?)).data(move |transport, _| {
                inner.set(inner.get() + 1);
                if inner.get() < 1000 {
                    send(transport)?;
                } else {
                    transport.lose_connection();
                }
                Ok(())
            });
        ground.pair(server, client);
        assert_eq!(rounds.get(), 1000);
    });
}

#[test]
fn three_large_vectored_writes_are_echoed_whole() {
    everywhere(|ground| {
        let (served, told, got) = (log(), log(), Rc::default());
        let ended = Rc::new(Cell::new(0));
        let server = Recorder::new(&served)
            .data(|transport, data| Ok(transport.write(data)?))
            .pause(|transport| Ok(transport.pause_reading()?))
            .resume(|transport| Ok(transport.resume_reading()?));
        let (first, last) = (Rc::clone(&ended), Rc::clone(&ended));
        let client = Recorder::new(&told)
            .collect(&got)
            .made(move |transport| {
                let buffer = pattern(10_024);
                for _ in 0..3 {
                    let pieces = vec![IoSlice::new(&buffer); 512];
                    transport.write_vectored(&pieces)?;
                    let ended = Rc::clone(&first);
                    transport.write_then(b"", move |result| {
                        result.expect("sent");
                        ended.set(ended.get() + 1);
                    })?;
                }
                transport.lose_write();
                Ok(())
            })
            .half(|_| Ok(()))
            .ended(move |transport| {
                assert_eq!((last.get(), transport.queued_bytes()), (3, 0));
                Ok(())
            });
        ground.pair(server, client);
        let len = 3 * 512 * 10_024;
        assert_eq!(got.borrow().len(), len);
        assert!(got.borrow().chunks(10_024).all(|chunk| chunk == pattern(10_024)));
        assert_eq!(count(&told, "write lost"), 1);
        assert_last(&told, "lost: Done");
    });
}

#[test]
fn a_write_to_a_peer_that_closed_is_taken_and_the_end_is_told_once() {
    everywhere(|ground| {
        let log = log();
        let server = Recorder::new(&log).half(|transport| {
            transport.write(b"are you there?")?;
            Ok(())
        });
        ground.against(server, |stream| {
            stream.shutdown(Shutdown::Both);
            drop(stream);
        });
        assert_eq!(*log.borrow(), ["made", "read lost", "lost: Reset"]);
    });
}

#[test]
fn pieces_delivered_are_no_longer_than_the_buffer_and_the_rest_follows() {
    everywhere(|ground| {
        let (log, longest) = (log(), Rc::new(Cell::new(0)));
        let (inner, total) = (Rc::clone(&longest), Rc::new(Cell::new(0)));
        let sum = Rc::clone(&total);
        let server = Recorder::new(&log).data(move |_, data| {
            inner.set(inner.get().max(data.len()));
            sum.set(sum.get() + data.len());
            Ok(())
        });
        ground.against(server, |mut stream| stream.write_all(&pattern(5 << 20)).expect("sent"));
        assert_eq!(total.get(), 5 << 20);
        assert!(longest.get() <= 256 * 1024, "{} at once", longest.get());
    });
}
