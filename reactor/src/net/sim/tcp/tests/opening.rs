use super::channel::*;
use crate::net::sim::packet::Flags;
use crate::net::sim::tcp::tcb::{State, Tcb};

#[test]
fn three_segments_connect() {
    let mut channel = Channel::new(1, NONE, [setup(100), setup(u32::MAX)]);
    channel.connect(A);
    channel.run();
    assert_eq!([channel.state(A), channel.state(B)], [State::Established; 2]);
    assert_eq!(channel.log.len(), 3, "{:?}", channel.log);
    assert_eq!(channel.log[0].2.mss, Some(1460));
    assert!(channel.end(A).take_news() && channel.end(A).readiness().writable);
    assert!(channel.end(A).next_timer().is_none(), "an idle connection waits for nothing");
}

#[test]
fn an_attempt_that_nobody_answers_ends_after_eleven_syns_and_131_seconds() {
    let mut channel = Channel::new(1, Faults { loss: 100, ..NONE }, [setup(100), setup(7)]);
    channel.connect(A);
    channel.run();
    let seconds: Vec<u64> = channel.log.iter().map(|(at, _, _)| at / SECOND).collect();
    assert_eq!(seconds, [0, 1, 2, 3, 4, 5, 7, 11, 19, 35, 67]);
    assert_eq!(channel.now, 131 * SECOND);
    assert_eq!(channel.end(A).take_error(), Some(libc::ETIMEDOUT));
    let readiness = channel.end(A).readiness();
    assert!(readiness.readable && readiness.writable && readiness.read_closed);
}

#[test]
fn a_lost_answer_is_sent_again() {
    for lost in 0..3 {
        let mut channel = Channel::new(1, NONE, [setup(100), setup(7)]);
        channel.connect(A);
        for _ in 0..lost {
            channel.step();
        }
        // The segment that is now under way never arrives.
        let under_way = channel.drop_flying();
        assert_eq!(under_way, 1);
        channel.run();
        assert_eq!([channel.state(A), channel.state(B)], [State::Established; 2], "{lost}");
    }
}

#[test]
fn a_refusal_ends_an_attempt() {
    let mut channel = Channel::new(1, NONE, [setup(100), setup(7)]);
    channel.listens[B] = false;
    channel.connect(A);
    channel.run();
    assert_eq!(channel.state(A), State::Closed);
    assert_eq!(channel.end(A).read(&mut [0; 9]), Err(libc::ECONNREFUSED));
    assert_eq!(channel.end(A).read(&mut [0; 9]), Ok(0), "an error is told once");
}

#[test]
fn icmp_ends_an_attempt_but_no_connection() {
    let mut attempt = Tcb::connect(0, setup(1));
    attempt.unreachable(libc::EHOSTUNREACH);
    assert_eq!(attempt.take_error(), Some(libc::EHOSTUNREACH));

    let mut channel = Channel::connected(NONE);
    channel.end(A).unreachable(libc::ENETUNREACH);
    assert_eq!((channel.state(A), channel.end(A).take_error()), (State::Established, None));
    // But what nothing else explains, it does.
    channel.faults.loss = 100;
    channel.write(A, b"x").expect("room");
    channel.run();
    assert_eq!(channel.end(A).take_error(), Some(libc::ENETUNREACH));
}

#[test]
fn both_may_begin_at_the_same_time() {
    let mut channel = Channel::new(1, NONE, [setup(100), setup(7)]);
    channel.connect(A);
    channel.connect(B);
    channel.run();
    assert_eq!([channel.state(A), channel.state(B)], [State::Established; 2]);
    channel.write(A, b"over").expect("room");
    channel.run();
    channel.read(B, 9).expect("data");
    assert_eq!(channel.received[B], b"over");
}

#[test]
fn a_connection_may_be_with_itself() {
    let mut tcb = Tcb::connect(0, setup(100));
    let mut log = Vec::new();
    while let Some(segment) = tcb.poll_transmit(0, true) {
        tcb.on_segment(0, &segment);
        log.push(segment);
        assert!(log.len() < 10, "{log:?}");
    }
    assert_eq!(tcb.state(), State::Established);
    tcb.write(&[std::io::IoSlice::new(b"echo")]).expect("room");
    while let Some(segment) = tcb.poll_transmit(0, true) {
        tcb.on_segment(0, &segment);
    }
    let mut buffer = [0; 9];
    assert_eq!(tcb.read(&mut buffer), Ok(4));
    tcb.shutdown_write().expect("a connection");
    while let Some(segment) = tcb.poll_transmit(0, true) {
        tcb.on_segment(0, &segment);
    }
    assert_eq!(tcb.read(&mut buffer), Ok(0));
    assert_eq!(tcb.state(), State::TimeWait, "its FIN is both: simultaneous");
}

#[test]
fn an_answer_to_an_old_connection_is_reset() {
    let mut channel = Channel::new(1, NONE, [setup(100), setup(7)]);
    channel.connect(A);
    channel.run();
    // One end forgets, and begins anew.
    channel.setups[A] = setup(4711);
    channel.connect(A);
    channel.step();
    channel.step();
    assert_eq!(channel.sent(A, Flags::RST), 1, "{:?}", channel.log);
    channel.step();
    assert_eq!(channel.state(B), State::Closed);
    assert_eq!(channel.end(B).take_error(), Some(libc::ECONNRESET));
    // The answering end is gone; its host would listen again.
    channel.ends[B] = None;
    channel.run();
    assert_eq!([channel.state(A), channel.state(B)], [State::Established; 2]);
}

#[test]
fn an_idle_connection_is_small() {
    let mut channel = Channel::connected(NONE);
    channel.write(A, &pattern(50_000, 0)).expect("room");
    channel.run();
    channel.read(B, 4096).expect("data");
    assert!(size_of::<Tcb>() <= 512, "{}", size_of::<Tcb>());
    assert_eq!(channel.end(A).memory(), 0);
    assert_eq!(channel.end(B).memory(), 0);
}
