//! What is sent arrives, once and in order, however the ends close.

use super::*;

#[test]
fn what_a_client_sends_is_echoed_to_the_byte() {
    everywhere(|ground| {
        let log = log();
        let echo = Recorder::new(&log).data(|transport, data| Ok(transport.write(data)?));
        let len = 20 << 20;
        let back = against(
            ground,
            echo,
            |options| options,
            move |mut stream| stream.exchange(&pattern(len)),
        );
        assert!(back == pattern(len), "{} of {len} bytes", back.len());
        let log = log.borrow();
        assert_eq!(log.first().map(String::as_str), Some("made"));
        assert_eq!(log.last().map(String::as_str), Some("lost: Done"));
    });
}

#[test]
fn sixty_mebibytes_written_in_one_turn_arrive_after_the_peer_ended_its_side() {
    everywhere(|ground| {
        let log = log();
        let len = 60 << 20;
        let answer = Recorder::new(&log).data(move |transport, _| {
            transport.write(&pattern(len))?;
            transport.lose_connection();
            assert!(matches!(transport.write(b"too late"), Err(WriteError::Closed)));
            Ok(())
        });
        let got = against(
            ground,
            answer,
            |options| options,
            |mut stream| {
                stream.write_all(b"give").expect("sent");
                stream.shutdown(Shutdown::Write);
                read_all(&mut stream)
            },
        );
        assert!(got == pattern(len), "{} of {len} bytes", got.len());
        let log = log.borrow();
        assert_eq!(log.last().map(String::as_str), Some("lost: Done"));
        assert_eq!(log.iter().filter(|what| what.starts_with("lost")).count(), 1);
    });
}

#[test]
fn closing_does_not_reset_away_what_the_peer_has_not_read() {
    everywhere(|ground| {
        let log = log();
        let len = 4 << 20;
        let answer = Recorder::new(&log).made(move |transport| {
            transport.write_bytes(pattern(len))?;
            transport.lose_connection();
            Ok(())
        });
        let got = against(
            ground,
            answer,
            |options| options,
            |mut stream| {
                // Unread input makes a kernel answer close() with a reset.
                stream.write_all(&[1; 100_000]).expect("sent");
                read_all(&mut stream)
            },
        );
        assert!(got == pattern(len), "{} of {len} bytes", got.len());
    });
}

#[test]
fn a_reset_is_noticed_while_reading_is_paused() {
    everywhere(|ground| {
        let log = log();
        let paused = Recorder::new(&log).made(|transport| Ok(transport.pause_reading()?));
        against(
            ground,
            paused,
            |options| options,
            |mut stream| {
                stream.write_all(b"never read").expect("sent");
                stream.reset();
            },
        );
        assert_eq!(*log.borrow(), ["made", "lost: Reset"]);
    });
}

#[test]
fn an_abort_resets_and_is_told_from_the_loop() {
    everywhere(|ground| {
        let log = log();
        let seen = Rc::clone(&log);
        let abort = Recorder::new(&log).made(move |transport| {
            transport.write(b"never sent")?;
            transport.abort_connection();
            transport.abort_connection();
            transport.lose_connection();
            seen.borrow_mut().push("aborted".into());
            Ok(())
        });
        let end = against(
            ground,
            abort,
            |options| options,
            |mut stream| {
                let mut all = Vec::new();
                (stream.read_to_end(&mut all).map_err(|error| error.kind()), all)
            },
        );
        assert_eq!(end, (Err(ErrorKind::ConnectionReset), Vec::new()));
        assert_eq!(*log.borrow(), ["made", "aborted", "lost: Aborted"]);
    });
}

#[test]
fn both_halves_closed_one_after_the_other_is_the_end() {
    everywhere(|ground| {
        let log = log();
        let half = Recorder::new(&log).half(|transport| {
            transport.write(b"last words")?;
            transport.lose_write();
            assert!(!transport.writable());
            Ok(())
        });
        let got = against(
            ground,
            half,
            |options| options,
            |mut stream| {
                stream.shutdown(Shutdown::Write);
                read_all(&mut stream)
            },
        );
        assert_eq!(got, b"last words");
        assert_eq!(*log.borrow(), ["made", "read lost", "write lost", "lost: Done"]);
    });
}

#[test]
fn a_connection_goes_on_receiving_after_it_ended_what_it_sends() {
    everywhere(|ground| {
        let log = log();
        let seen = Rc::clone(&log);
        let half = Recorder::new(&log)
            .made(|transport| {
                transport.write(b"that is all")?;
                transport.lose_write();
                Ok(())
            })
            .data(move |_, data| {
                seen.borrow_mut().push(String::from_utf8_lossy(data).into_owned());
                Ok(())
            })
            .half(|_| Ok(()));
        against(
            ground,
            half,
            |options| options,
            |mut stream| {
                assert_eq!(read_all(&mut stream), b"that is all");
                stream.write_all(b"thanks").expect("sent");
            },
        );
        // The answer may come in before the end of our own words is told.
        let mut told = log.borrow().clone();
        let ended = told.iter().position(|what| what == "write lost").expect("told");
        assert!(ended < 4, "{told:?}");
        told.remove(ended);
        assert_eq!(told, ["made", "thanks", "read lost", "lost: Done"]);
    });
}

#[test]
fn a_failing_callback_closes_the_connection_with_its_error() {
    everywhere(|ground| {
        let made = log();
        let failing = Recorder::new(&made).made(|transport| {
            transport.write(b"sorry")?;
            anyhow::bail!("no more room")
        });
        let got = against(ground, failing, |options| options, |mut stream| read_all(&mut stream));
        assert_eq!(got, b"sorry");
        assert_eq!(*made.borrow(), ["made", "lost: no more room"]);

        let data = log();
        let failing = Recorder::new(&data).data(|_, _| anyhow::bail!("no such command"));
        against(
            ground,
            failing,
            |options| options,
            |mut stream| {
                stream.write_all(b"nonsense").expect("sent");
                assert_eq!(read_all(&mut stream), b"");
            },
        );
        assert_eq!(*data.borrow(), ["made", "lost: no such command"]);
    });
}

#[test]
fn data_that_came_before_a_reset_is_delivered_before_it() {
    everywhere(|ground| {
        let log = log();
        let (seen, received) = (Rc::clone(&log), Rc::new(Cell::new(0)));
        let count = Rc::clone(&received);
        let protocol = Recorder::new(&log).made(|transport| {
            transport.write(b"x")?;
            Ok(())
        });
        let protocol = protocol.data(move |_, data| {
            count.set(count.get() + data.len());
            seen.borrow_mut().push("data".into());
            Ok(())
        });
        against(
            ground,
            protocol,
            |options| options,
            |mut stream| {
                // Closed with our byte unread: a reset follows the data.
                stream.peek();
                stream.write_all(b"before").expect("sent");
            },
        );
        assert_eq!(received.get(), 6);
        assert_eq!(log.borrow().last().map(String::as_str), Some("lost: Reset"));
    });
}

#[test]
fn pausing_and_resuming_loses_nothing() {
    everywhere(|ground| {
        let log = log();
        let received = Rc::new(RefCell::new(Vec::new()));
        let (all, len) = (Rc::clone(&received), 1 << 20);
        let protocol = Recorder::new(&log).data(move |transport, data| {
            all.borrow_mut().extend_from_slice(data);
            transport.pause_reading()?;
            let again = transport.clone();
            transport
                .reactor()
                .call_later(Duration::ZERO, move |_: &Handle| again.resume_reading());
            Ok(())
        });
        against(
            ground,
            protocol,
            |options| options.recv_buffer_size(16 * 1024),
            move |mut stream| {
                stream.write_all(&pattern(len)).expect("sent");
                stream.shutdown(Shutdown::Write);
                read_all(&mut stream)
            },
        );
        assert!(*received.borrow() == pattern(len));
        assert_eq!(*log.borrow(), ["made", "read lost", "lost: Done"]);
    });
}

#[test]
fn writing_is_paused_and_resumed_once_per_crossing() {
    everywhere(|ground| {
        let log = log();
        let protocol = Recorder::new(&log).made(|transport| {
            for _ in 0..64 {
                transport.write(&[7; 100_000])?;
            }
            Ok(())
        });
        let got = against(
            ground,
            protocol,
            |options| options.send_buffer_size(32 * 1024),
            |mut stream| {
                let mut all = vec![0; 6_400_000];
                stream.read_exact(&mut all).expect("all of it");
                all.len()
            },
        );
        assert_eq!(got, 6_400_000);
        assert_eq!(*log.borrow(), ["made", "pause", "resume", "read lost", "lost: Done"]);
    });
}

#[test]
fn a_write_beyond_the_limit_is_refused_and_harmless() {
    everywhere(|ground| {
        let log = log();
        let refused = Rc::new(Cell::new(0));
        let count = Rc::clone(&refused);
        let protocol = Recorder::new(&log).made(move |transport| {
            // The first is admitted whatever its length, the queue being empty.
            transport.write(&pattern(20 << 20))?;
            while count.get() == 0 {
                match transport.write(&[0; 1000]) {
                    Err(WriteError::BufferFull { limit: 65_536, .. }) => count.set(1),
                    other => panic!("{other:?}"),
                }
            }
            transport.lose_connection();
            Ok(())
        });
        let got = against(
            ground,
            protocol,
            |options| options.write_limit(65_536),
            |mut stream| read_all(&mut stream),
        );
        assert!(got == pattern(20 << 20));
        assert_eq!(refused.get(), 1);
    });
}

#[test]
fn completions_come_in_order_and_once() {
    everywhere(|ground| {
        let log = log();
        let (done, seen) = (Rc::new(RefCell::new(Vec::new())), Rc::clone(&log));
        let completed = Rc::clone(&done);
        let protocol = Recorder::new(&log).made(move |transport| {
            for index in 0..1000_usize {
                let done = Rc::clone(&completed);
                let data = vec![1; index];
                transport.write_then(&data, move |result| done.borrow_mut().push(result.ok()))?;
            }
            seen.borrow_mut().push("written".into());
            transport.lose_connection();
            Ok(())
        });
        let got = against(ground, protocol, |options| options, |mut stream| read_all(&mut stream));
        assert_eq!(got.len(), 999 * 1000 / 2);
        assert_eq!(*done.borrow(), (0..1000).map(Some).collect::<Vec<_>>());
        assert_eq!(*log.borrow(), ["made", "written", "lost: Done"]);
    });
}

#[test]
fn the_writes_of_a_callback_leave_as_one() {
    everywhere(|ground| {
        let log = log();
        let writes = Rc::new(Cell::new(0));
        let (count, first) = (Rc::clone(&writes), Cell::new(true));
        let protocol = Recorder::new(&log).data(move |transport, _| {
            if first.take() {
                for byte in b"hello" {
                    transport.write(&[*byte])?;
                }
            } else {
                count.set(transport.stats()?.writes);
            }
            Ok(())
        });
        against(
            ground,
            protocol,
            |options| options,
            |mut stream| {
                stream.write_all(b"?").expect("sent");
                let mut five = [0; 5];
                stream.read_exact(&mut five).expect("five");
                assert_eq!(&five, b"hello");
                stream.write_all(b"?").expect("sent");
            },
        );
        assert_eq!(writes.get(), 1);
    });
}
