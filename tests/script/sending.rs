//! What a socket may do when it is written to, and the queue before it.

use super::*;

#[test]
fn an_answer_leaves_from_the_address_that_was_asked_but_never_from_a_group_or_broadcast() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let cases = [
        ("127.0.0.2", Some("127.0.0.2"), Some("127.0.0.2")),
        ("224.0.0.251", Some("192.0.2.9"), Some("192.0.2.9")),
        ("255.255.255.255", Some("192.0.2.9"), Some("192.0.2.9")),
        ("255.255.255.255", None, None),
        ("ff02::fb", None, None),
        ("::ffff:224.0.0.251", None, None),
        ("2001:db8::1", None, Some("2001:db8::1")),
    ];
    for (destination, specific, answer) in cases {
        let seen = Rc::new(RefCell::new(None));
        let reply = Rc::clone(&seen);
        let stage = Stage::reacting(move |_, datagram| {
            *reply.borrow_mut() = Some(datagram.reply());
            Ok(())
        });
        stage.script.receive_at(peer(), b"?", ip(destination), specific.map(ip), 3);
        stage.settle();
        let reply = seen.borrow_mut().take().unwrap();
        assert_eq!(reply.source_address(), answer.map(ip), "asked at {destination}");
        assert_eq!(reply.interface_index(), Some(3));
        assert_eq!(reply.destination(), Some(peer()));
    }
}

#[test]
fn a_send_that_meets_a_pending_refusal_is_made_once_more_and_fails_for_nobody() {
    let stage = Stage::with(
        {
            let script = Script::new();
            script.without_error_queue();
            script
        },
        options(),
        |_, _| Ok(()),
    );
    stage.port.connect(peer()).unwrap();
    stage.script.answer_send(SendStep::Fail(ECONNREFUSED));
    stage.port.write(b"hello").unwrap();
    assert!(stage.log.borrow().is_empty(), "no callback inside the call");
    assert_eq!(stage.settle(), ["refused"]);
    assert_eq!(stage.sent(), ["hello"]);
    assert_eq!(stage.script.sends(), 2);
}

#[test]
fn with_an_error_queue_each_report_is_one_refusal_whatever_the_sends_met() {
    let stage = Stage::connected();
    for _ in 0..3 {
        stage.script.report(ECONNREFUSED, peer(), peer().ip(), (3, 3), 0);
    }
    stage.script.answer_send(SendStep::Fail(ECONNREFUSED));
    stage.port.write(b"hello").unwrap();
    assert_eq!(stage.settle(), ["refused", "refused", "refused"]);
    assert_eq!(stage.sent(), ["hello"]);
}

#[test]
fn a_report_on_an_unconnected_port_tells_destination_offender_icmp_and_mtu() {
    struct Keep(Rc<RefCell<Vec<String>>>);
    impl DatagramProtocol for Keep {
        fn datagram_received(
            &mut self,
            _: &DatagramTransport,
            _: Datagram<'_>,
        ) -> anyhow::Result<()> {
            Ok(())
        }
        fn network_error(&mut self, _: &DatagramTransport, e: &NetworkError) -> anyhow::Result<()> {
            let note = format!("{:?} {:?} {:?} {:?}", e.destination, e.offender, e.icmp, e.mtu);
            self.0.borrow_mut().push(note);
            Ok(())
        }
    }
    let reactor = Reactor::new().unwrap();
    let log = Log::default();
    let script = Script::new();
    let options = options().error_queue(true);
    let port = script.listen(&reactor, options, Keep(Rc::clone(&log))).unwrap();
    let router: IpAddr = Ipv4Addr::new(198, 51, 100, 1).into();
    script.report(90, peer(), router, (3, 4), 1400);
    reactor.iterate(None).unwrap();
    let expected = "Some(192.0.2.1:7) Some(198.51.100.1) Some((3, 4)) Some(1400)";
    assert_eq!(*log.borrow(), [expected]);
    assert_eq!(port.stats().unwrap().network_errors, 1);
}

#[test]
fn an_error_of_the_datagram_itself_goes_to_write_failed_once_and_the_next_is_sent() {
    for errno in [EPERM, EHOSTUNREACH] {
        let stage = Stage::new();
        stage.script.answer_send(SendStep::Fail(errno));
        if errno == EHOSTUNREACH {
            // The network could have set it before; only the second says that it did not.
            stage.script.answer_send(SendStep::Fail(errno));
        }
        stage.port.write_to(b"bad", peer()).unwrap();
        stage.port.write_to(b"good", peer()).unwrap();
        let noted = stage.settle();
        assert_eq!(noted.len(), 1, "{noted:?}");
        assert!(noted[0].starts_with("failed 3"), "{noted:?}");
        assert_eq!(stage.sent(), ["good"]);
        assert_eq!(stage.port.stats().unwrap().write_failures, 1);
    }
}

#[test]
fn a_completion_takes_the_place_of_write_failed() {
    let stage = Stage::new();
    stage.script.answer_send(SendStep::Fail(EPERM));
    for payload in [&b"bad"[..], b"good"] {
        let log = Rc::clone(&stage.log);
        let done = move |result: Result<usize, WriteError>| {
            log.borrow_mut().push(format!("{:?}", result.map_err(|error| error.kind())));
        };
        stage.port.write_then(payload, peer(), done).unwrap();
    }
    assert!(stage.log.borrow().is_empty(), "no completion inside the call");
    assert_eq!(stage.settle(), ["Err(PermissionDenied)", "Ok(4)"]);
}

#[test]
fn no_buffer_space_is_loss_and_never_waited_for() {
    let stage = Stage::new();
    stage.script.answer_send(SendStep::Fail(ENOBUFS));
    stage.port.write_to(b"lost", peer()).unwrap();
    let noted = stage.settle();
    assert_eq!(noted.len(), 1);
    assert!(noted[0].starts_with("failed 4"));
    assert!(!stage.script.is_watching_writable());
    assert_eq!(stage.port.queued_datagrams(), 0);
}

#[test]
fn what_the_kernel_has_no_room_for_waits_in_order_and_leaves_with_the_event() {
    let stage = Stage::new();
    stage.script.answer_send(SendStep::Take(1));
    stage.script.answer_send(block());
    for payload in ["one", "two", "three"] {
        stage.port.write_to(payload.as_bytes(), peer()).unwrap();
    }
    stage.turn();
    assert_eq!(stage.sent(), ["one"]);
    assert_eq!((stage.port.queued_datagrams(), stage.port.queued_bytes()), (2, 8));
    assert!(stage.script.is_watching_writable());
    assert!(matches!(stage.port.try_write_to(b"x", peer()), Err(WriteError::WouldBlock)));
    let sends = stage.script.sends();
    stage.port.write_to(b"four", peer()).unwrap();
    stage.turn();
    assert_eq!(stage.script.sends(), sends, "no attempt before the event");
    stage.script.make_writable();
    stage.turn();
    assert_eq!(stage.sent(), ["one", "two", "three", "four"]);
    assert_eq!((stage.port.queued_datagrams(), stage.port.queued_bytes()), (0, 0));
    assert!(!stage.script.is_watching_writable());
}

#[test]
fn any_split_of_a_batch_by_the_kernel_sends_each_datagram_once_and_in_order() {
    for step in 1..=45 {
        let stage = Stage::new();
        for _ in 0..45 {
            stage.script.answer_send(SendStep::Take(step));
        }
        let payloads: Vec<String> = (0..45).map(|number| format!("{number}")).collect();
        for payload in &payloads {
            stage.port.write_to(payload.as_bytes(), peer()).unwrap();
        }
        stage.turn();
        assert_eq!(stage.sent(), payloads, "in steps of {step}");
    }
}

#[test]
fn try_write_batch_counts_exactly_the_prefix_that_was_sent() {
    for (count, taken) in [(1, 1), (20, 7), (21, 20), (41, 40), (45, 44), (100, 64), (100, 70)] {
        let stage = Stage::new();
        let payloads: Vec<String> = (0..count).map(|number| format!("{number}")).collect();
        let batch: Vec<_> =
            payloads.iter().map(|payload| (payload.as_bytes(), Some(peer()))).collect();
        for step in [taken.min(64), taken - taken.min(64)] {
            if step > 0 {
                stage.script.answer_send(SendStep::Take(step));
            }
        }
        if taken < count {
            stage.script.answer_send(block());
        }
        assert_eq!(stage.port.try_write_batch(&batch).unwrap(), taken);
        assert_eq!(stage.sent(), payloads[..taken]);
        assert_eq!(stage.port.queued_datagrams(), 0);
    }
}

#[test]
fn try_write_batch_reports_an_error_only_of_the_first() {
    let stage = Stage::new();
    stage.script.answer_send(SendStep::Fail(EPERM));
    let batch = [(&b"a"[..], Some(peer())), (b"b", Some(peer()))];
    let error = stage.port.try_write_batch(&batch).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(stage.sent().is_empty());
    // A wrong use of the second ends the prefix before it.
    let batch = [(&b"a"[..], Some(peer())), (b"b", None)];
    assert_eq!(stage.port.try_write_batch(&batch).unwrap(), 1);
    assert!(stage.settle().is_empty(), "what was returned is not told again");
}

fn fill(stage: &Stage, count: usize) -> Vec<Result<(), WriteError>> {
    stage.script.answer_send(block());
    (0..count).map(|number| stage.port.write_to(format!("{number}").as_bytes(), peer())).collect()
}

#[test]
fn a_full_queue_refuses_the_write_by_default() {
    let stage = Stage::with(Script::new(), options().queue_limit(4, 1 << 20), |_, _| Ok(()));
    let results = fill(&stage, 6);
    assert!(results[..4].iter().all(Result::is_ok));
    for result in &results[4..] {
        assert!(matches!(result, Err(WriteError::QueueFull { datagrams: 4, bytes: 4 })));
    }
    stage.script.make_writable();
    stage.settle();
    assert_eq!(stage.sent(), ["0", "1", "2", "3"]);
    assert_eq!(stage.port.stats().unwrap().queue_high_water, 4);
}

#[test]
fn a_full_queue_may_drop_its_oldest_or_the_newest_and_each_is_told() {
    for (policy, left) in [
        (QueuePolicy::DropOldest, ["2", "3", "4", "5"]),
        (QueuePolicy::DropNewest, ["0", "1", "2", "3"]),
    ] {
        let options = options().queue_limit(4, 1 << 20).queue_policy(policy);
        let stage = Stage::with(Script::new(), options, |_, _| Ok(()));
        assert!(fill(&stage, 6).iter().all(Result::is_ok));
        stage.script.make_writable();
        let noted = stage.settle();
        assert_eq!(stage.sent(), left, "{policy:?}");
        assert_eq!(noted.iter().filter(|what| what.starts_with("failed 1")).count(), 2);
        assert_eq!(stage.port.stats().unwrap().queue_dropped, 2);
    }
}

#[test]
fn the_bound_in_bytes_holds_but_one_datagram_always_fits() {
    let stage = Stage::with(Script::new(), options().queue_limit(100, 10), |_, _| Ok(()));
    stage.script.answer_send(block());
    stage.port.write_to(&[0; 64], peer()).unwrap();
    assert!(matches!(stage.port.write_to(b"x", peer()), Err(WriteError::QueueFull { .. })));
}

#[test]
fn writing_is_paused_at_half_of_the_queue_and_resumed_at_an_eighth_once_each() {
    let stage = Stage::with(Script::new(), options().queue_limit(16, 1 << 20), |_, _| Ok(()));
    fill(&stage, 7);
    assert!(stage.settle().is_empty());
    for _ in 0..4 {
        stage.port.write_to(b"x", peer()).unwrap();
    }
    assert_eq!(stage.settle(), ["pause"]);
    // Eleven wait; the kernel takes eight, then blocks again.
    stage.script.answer_send(SendStep::Take(8));
    stage.script.answer_send(block());
    stage.script.make_writable();
    assert!(stage.settle().is_empty(), "three are more than an eighth");
    stage.script.answer_send(SendStep::Take(1));
    stage.script.answer_send(block());
    stage.script.make_writable();
    assert_eq!(stage.settle(), ["resume"]);
}

#[test]
fn a_payload_sent_from_the_receive_buffer_survives_the_next_receive() {
    let stage = Stage::reacting(|transport, datagram| {
        transport.write_to(datagram.payload(), datagram.source())?;
        Ok(())
    });
    stage.script.answer_send(SendStep::Take(1));
    stage.script.answer_send(block());
    for payload in ["first", "second", "third"] {
        stage.receive(payload);
    }
    stage.turn();
    assert_eq!(stage.sent(), ["first"]);
    // The same slots are written again while two answers wait.
    for payload in ["XXXXXX", "YYYYYY", "ZZZZZZ"] {
        stage.receive(payload);
    }
    stage.turn();
    stage.script.make_writable();
    stage.turn();
    assert_eq!(stage.sent(), ["first", "second", "third", "XXXXXX", "YYYYYY", "ZZZZZZ"]);
}

#[test]
fn a_port_writing_what_another_was_given_sends_a_copy() {
    let reactor = Reactor::new().unwrap();
    let (from, to) = (Script::new(), Script::new());
    let sink = Recorder { log: Log::default(), react: Box::new(|_, _| Ok(())) };
    let outlet = to.listen(&reactor, options(), sink).unwrap();
    let forward = Recorder {
        log: Log::default(),
        react: Box::new(move |_, datagram| Ok(outlet.write_to(datagram.payload(), peer())?)),
    };
    let _inlet = from.listen(&reactor, options(), forward).unwrap();
    to.answer_send(block());
    from.receive(peer(), b"one");
    reactor.iterate(None).unwrap();
    from.receive(peer(), b"TWO");
    reactor.iterate(None).unwrap();
    to.make_writable();
    reactor.iterate(None).unwrap();
    let sent: Vec<_> = to.sent().into_iter().map(|sent| sent.payload).collect();
    assert_eq!(sent, [b"one", b"TWO"]);
}

#[test]
fn what_still_waits_when_a_port_closes_is_cancelled_before_its_completion_runs() {
    let stage = Stage::new();
    stage.script.answer_send(block());
    stage.script.answer_send(block());
    let log = Rc::clone(&stage.log);
    stage
        .port
        .write_then(b"late", peer(), move |result| {
            log.borrow_mut().push(format!("{}", result.unwrap_err()));
        })
        .unwrap();
    stage.turn();
    let (log, script) = (Rc::clone(&stage.log), stage.script.clone());
    stage
        .port
        .stop_listening_then(move |_| {
            assert!(script.is_closed());
            log.borrow_mut().push("closed".to_owned());
        })
        .unwrap();
    let noted = stage.settle();
    assert_eq!(noted, ["stop stopped", "the port was closed before the datagram left", "closed"]);
    assert!(!stage.reactor.iterate(Some(std::time::Duration::ZERO)).unwrap(), "nothing is left");
}

#[test]
fn a_flood_of_failures_from_one_callback_is_counted_and_told_within_a_bound() {
    let stage = Stage::reacting(|transport, datagram| {
        for _ in 0..5000 {
            transport.write_to(b"x", datagram.source())?;
        }
        Ok(())
    });
    for _ in 0..5000 {
        stage.script.answer_send(SendStep::Fail(EPERM));
    }
    stage.receive("go");
    let noted = stage.settle();
    assert_eq!(noted.iter().filter(|what| what.starts_with("failed")).count(), 1024);
    assert_eq!(stage.port.stats().unwrap().write_failures, 5000);
}
