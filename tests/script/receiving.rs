//! What a socket may do when it is read.

use super::*;

#[test]
fn a_refusal_between_datagrams_of_a_connected_port_is_told_once_and_costs_none() {
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
    stage.receive("before");
    stage.script.receive_error(ECONNREFUSED);
    stage.receive("after");
    let mut noted = stage.settle();
    noted.sort();
    assert_eq!(noted, ["after", "before", "refused"]);
    assert_eq!(stage.port.state(), PortState::Open);
    assert_eq!(stage.port.stats().unwrap().refusals, 1);
}

#[test]
fn a_refusal_on_an_unconnected_port_is_nobodys() {
    let stage = Stage::new();
    stage.script.receive_error(ECONNREFUSED);
    stage.receive("next");
    assert_eq!(stage.settle(), ["next"]);
}

#[test]
fn any_other_receive_error_is_told_and_the_port_lives() {
    let stage = Stage::new();
    stage.receive("one");
    stage.script.receive_error(EHOSTUNREACH);
    stage.receive("two");
    let mut noted = stage.settle();
    noted.sort();
    assert_eq!(noted, ["network HostUnreachable", "one", "two"]);
    assert_eq!(stage.port.stats().unwrap().network_errors, 1);
}

#[test]
fn a_socket_that_fails_for_ever_spins_neither_the_port_nor_the_loop() {
    let stage = Stage::new();
    for _ in 0..1000 {
        stage.script.receive_error(EHOSTUNREACH);
    }
    stage.turn();
    assert_eq!(stage.script.receives(), 64, "the errors that one turn bears");
    stage.reactor.call_when_running({
        let log = Rc::clone(&stage.log);
        move |_| log.borrow_mut().push("others get their turn".to_owned())
    });
    assert!(stage.settle().contains(&"others get their turn".to_owned()));
}

#[test]
fn a_descriptor_closed_under_the_port_ends_it_with_that_reason() {
    for met_by_send in [false, true] {
        let stage = Stage::new();
        if met_by_send {
            stage.script.answer_send(SendStep::Fail(EBADF));
            stage.port.write_to(b"x", peer()).unwrap();
        } else {
            stage.script.receive_error(EBADF);
        }
        assert_eq!(stage.settle().last().unwrap(), "stop failed");
        assert_eq!(stage.port.state(), PortState::Closed);
        assert!(stage.script.is_closed());
    }
}

#[test]
fn a_short_batch_means_drained() {
    let stage = Stage::new();
    stage.receive("one");
    stage.receive("two");
    stage.turn();
    assert_eq!(stage.script.receives(), 1);
    assert_eq!(stage.settle(), ["one", "two"]);
}

#[test]
fn after_an_error_event_reading_goes_on_until_there_is_nothing() {
    let stage = Stage::connected();
    stage.receive("one");
    stage.script.pending_error(ECONNREFUSED);
    stage.turn();
    assert_eq!(stage.script.receives(), 2, "the second found nothing");
}

#[test]
fn an_error_cutting_a_batch_short_loses_nothing() {
    let stage = Stage::connected();
    for number in 0..40 {
        stage.receive(&format!("{number}"));
        if number % 7 == 3 {
            stage.script.receive_error(EHOSTUNREACH);
        }
    }
    let noted = stage.settle();
    let numbers: Vec<u32> = noted.iter().filter_map(|what| what.parse().ok()).collect();
    assert_eq!(numbers, (0..40).collect::<Vec<_>>());
}

#[test]
fn merged_datagrams_arrive_one_by_one_and_only_the_last_can_be_cut() {
    let stage = Stage::new();
    stage.script.receive_merged(peer(), b"aaabbbccdd", 3);
    assert_eq!(stage.settle(), ["aaa", "bbb", "ccd", "d"]);
    stage.script.receive_truncated(peer(), b"cut");
    stage.script.receive_merged(peer(), b"", 1);
    assert_eq!(stage.settle(), ["cut cut", ""]);
    assert_eq!(stage.port.stats().unwrap().truncated, 1);
    assert_eq!(stage.port.stats().unwrap().datagrams_in, 6);
}

#[test]
fn the_limit_on_size_holds_for_each_merged_datagram() {
    let stage = Stage::with(Script::new(), options().max_datagram_size(2), |_, _| Ok(()));
    stage.script.receive_merged(peer(), b"aaabbbc", 3);
    assert_eq!(stage.settle(), ["aa cut", "bb cut", "c"]);
    assert_eq!(stage.port.stats().unwrap().truncated, 2);
}

#[test]
fn a_panic_costs_one_datagram_and_not_the_rest_of_its_message() {
    let stage = Stage::reacting(|_, datagram| {
        assert_ne!(datagram.payload(), b"bb", "on purpose");
        Ok(())
    });
    stage.script.receive_merged(peer(), b"aabbcc", 2);
    stage.receive("next");
    assert_eq!(stage.settle(), ["aa", "bb", "cc", "next"]);
    assert_eq!(stage.port.stats().unwrap().callback_panics, 1);
}

#[test]
fn pausing_in_mid_message_keeps_the_rest_in_order() {
    let stage = Stage::reacting(|transport, datagram| {
        if datagram.payload() == b"bb" {
            transport.pause_reading()?;
        }
        Ok(())
    });
    stage.script.receive_merged(peer(), b"aabbccdd", 2);
    stage.receive("late");
    assert_eq!(stage.settle(), ["aa", "bb"]);
    assert_eq!(stage.port.pending_datagram_size().unwrap(), Some(2));
    let mut buffer = [0; 8];
    assert_eq!(stage.port.read_datagram(&mut buffer).unwrap().unwrap().len(), 2);
    assert_eq!(&buffer[..2], b"cc");
    stage.port.resume_reading().unwrap();
    assert_eq!(stage.settle(), ["dd", "late"]);
}

#[test]
fn stopping_in_mid_message_ends_delivery_at_once() {
    let stage = Stage::reacting(|transport, datagram| {
        if datagram.payload() == b"bb" {
            transport.stop_listening();
        }
        Ok(())
    });
    stage.script.receive_merged(peer(), b"aabbccdd", 2);
    stage.receive("late");
    assert_eq!(stage.settle(), ["aa", "bb", "stop stopped"]);
}

#[test]
fn stopping_the_reactor_in_mid_batch_ends_delivery_and_crash_keeps_the_rest() {
    let stage = Stage::reacting(|transport, datagram| {
        if datagram.payload() == b"one" {
            transport.reactor().crash();
        }
        Ok(())
    });
    stage.receive("one");
    stage.receive("two");
    stage.reactor.run().unwrap();
    assert_eq!(std::mem::take(&mut *stage.log.borrow_mut()), ["one"]);
    assert_eq!(stage.settle(), ["two"]);
}

#[test]
fn a_port_takes_4096_datagrams_a_turn_even_empty_ones_and_the_rest_follows() {
    let stage = Stage::new();
    for _ in 0..5000 {
        stage.receive("");
    }
    stage.turn();
    assert_eq!(stage.log.borrow().len(), 4096);
    stage.turn();
    assert_eq!(stage.log.borrow().len(), 5000);
}

#[test]
fn a_port_takes_a_mebibyte_a_turn_to_the_datagram() {
    let stage = Stage::new();
    for _ in 0..20 {
        stage.script.receive_merged(peer(), &[b'x'; 60_000], 1000);
    }
    stage.turn();
    // The budget is checked between the datagrams of a merged message.
    assert_eq!(stage.log.borrow().len(), 1049);
    assert_eq!(stage.settle().len(), 1200);
}

#[test]
fn drops_of_the_kernel_are_told_once_and_its_counter_may_wrap() {
    let told = Rc::new(RefCell::new(Vec::new()));
    let drops = Rc::clone(&told);
    let options = options().metadata(Metadata::DROPS);
    let stage = Stage::with(Script::new(), options, move |_, datagram| {
        drops.borrow_mut().push(datagram.kernel_drops().unwrap());
        Ok(())
    });
    for total in [0, 3, 3, u32::MAX, 1] {
        stage.script.receive_after_drops(peer(), b"x", total);
    }
    stage.settle();
    assert_eq!(*told.borrow(), [0, 3, 0, u32::MAX - 3, 2]);
    assert_eq!(stage.port.stats().unwrap().kernel_drops, 3 + u64::from(u32::MAX - 3) + 2);
}

#[test]
fn a_pending_error_without_an_error_queue_is_one_refusal() {
    let script = Script::new();
    script.without_error_queue();
    let stage = Stage::with(script, options(), |_, _| Ok(()));
    stage.port.connect(peer()).unwrap();
    stage.script.pending_error(ECONNREFUSED);
    assert_eq!(stage.settle(), ["refused"]);
}

#[test]
fn refusals_by_a_peer_that_was_left_are_not_told_as_those_of_the_next() {
    let next: SocketAddr = (Ipv4Addr::new(192, 0, 2, 2), 7).into();
    let stage = Stage::connected();
    for _ in 0..2 {
        stage.script.report(ECONNREFUSED, peer(), peer().ip(), (3, 3), 0);
    }
    stage.port.disconnect().unwrap();
    stage.port.connect(next).unwrap();
    // One more of the old peer, and one of the new.
    stage.script.report(ECONNREFUSED, peer(), peer().ip(), (3, 3), 0);
    stage.script.report(ECONNREFUSED, next, next.ip(), (3, 3), 0);
    let old = "network ConnectionRefused";
    assert_eq!(stage.settle(), [old, old, old, "refused"]);
}

#[test]
fn a_paused_port_still_hears_of_refusals() {
    let stage = Stage::connected();
    stage.port.pause_reading().unwrap();
    stage.script.report(ECONNREFUSED, peer(), peer().ip(), (3, 3), 0);
    stage.receive("waits");
    assert_eq!(stage.settle(), ["refused"]);
    stage.port.resume_reading().unwrap();
    assert_eq!(stage.settle(), ["waits"]);
}

#[test]
fn a_queue_of_reports_is_drained_in_portions_and_completely() {
    let stage = Stage::connected();
    for _ in 0..200 {
        stage.script.report(ECONNREFUSED, peer(), peer().ip(), (3, 3), 0);
    }
    stage.turn();
    let first = stage.log.borrow().len();
    assert_eq!(first, 64);
    assert_eq!(stage.settle().len(), 200);
}
