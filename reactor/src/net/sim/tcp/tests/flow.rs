use std::time::Duration;

use super::channel::*;
use crate::net::sim::packet::Flags;
use crate::net::sim::tcp::tcb::State;
use crate::stream::KeepAlive;

#[test]
fn a_shut_window_holds_the_writer_back_and_is_probed() {
    let mut channel = Channel::connected(NONE);
    let data = pattern(300_000, 3);
    let mut written = 0;
    while let Ok(len) = channel.write(A, &data[written..]) {
        written += len;
        channel.run_for(SECOND);
    }
    assert_eq!(written, 65_535 + 65_536, "one buffer here, one there");
    channel.log.clear();
    channel.run_for(100 * SECOND);
    let probes = channel.sent(A, Flags::ACK);
    assert!((5..15).contains(&probes), "{probes} probes, ever more slowly");
    assert_eq!(channel.sent(B, Flags::ACK), probes, "each is answered");
    // The news of the open window is lost; a probe finds it.
    channel.faults.loss = 100;
    channel.read(B, 65_536).expect("data");
    channel.run_for(SECOND);
    assert_eq!(channel.received[B].len(), 65_535);
    channel.faults.loss = 0;
    channel.run_for(200 * SECOND);
    channel.read(B, 65_536).expect("data");
    assert_eq!(channel.received[B], data[..written]);
    assert!(channel.end(A).take_news(), "there is room to write");
}

#[test]
fn a_peer_that_answers_no_probe_is_lost() {
    let mut channel = Channel::connected(NONE);
    while channel.write(A, &[0; 10_000]).is_ok() {
        channel.run_for(SECOND);
    }
    channel.faults.loss = 100;
    channel.run();
    assert_eq!(channel.end(A).take_error(), Some(libc::ETIMEDOUT));
}

#[test]
fn what_is_never_acknowledged_times_out() {
    let mut channel = Channel::connected(Faults { loss: 100, ..NONE });
    channel.write(A, b"x").expect("room");
    channel.run();
    assert_eq!(channel.end(A).take_error(), Some(libc::ETIMEDOUT));
    assert_eq!(channel.log.len(), 16, "once, and fifteen times again");
    let minutes = channel.now / SECOND / 60;
    assert!((13..30).contains(&minutes), "Linux gives up after 13 to 30 minutes: {minutes}");
}

#[test]
fn one_loss_is_repaired_without_waiting() {
    let mut channel = Channel::connected(NONE);
    let data = pattern(14_600, 0);
    channel.write(A, &data).expect("room");
    channel.drop_first();
    let before = channel.now;
    while channel.received[B].len() < data.len() {
        assert!(channel.step());
        channel.read(B, 65_536).expect("data");
    }
    assert!(channel.now - before < 100_000_000, "fast retransmit, not the 200 ms of the clock");
    assert_eq!(channel.received[B], data);
}

#[test]
fn an_idle_peer_is_probed_if_asked() {
    let times =
        KeepAlive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 3 };
    let mut channel = Channel::connected(NONE);
    let now = channel.now;
    channel.end(A).set_keepalive(now, Some(times));
    channel.run_for(605 * SECOND);
    assert_eq!(channel.state(A), State::Established);
    assert_eq!((channel.sent(A, Flags::ACK), channel.sent(B, Flags::ACK)), (10, 10));
    channel.faults.loss = 100;
    let before = channel.now;
    channel.run();
    assert_eq!(channel.end(A).take_error(), Some(libc::ETIMEDOUT));
    assert!(channel.now - before <= 90 * SECOND);
    assert_eq!(channel.sent(A, Flags::RST), 1);
}

#[test]
fn a_shorter_path_is_learnt() {
    let mut channel = Channel::connected(NONE);
    channel.write(A, &pattern(5_000, 0)).expect("room");
    channel.drop_flying();
    channel.end(A).path_mss(500);
    channel.flush(A);
    let before = channel.now;
    channel.run();
    channel.read(B, 65_536).expect("data");
    assert_eq!(channel.received[B], pattern(5_000, 0));
    assert!(channel.now - before < SECOND);
    assert!(channel.log.iter().rev().take(5).all(|(_, _, segment)| segment.payload.len() <= 500));
}

#[test]
fn new_data_is_news_again_while_old_waits() {
    let mut channel = Channel::connected(NONE);
    channel.end(B).take_news();
    for _ in 0..3 {
        channel.write(A, b"x").expect("room");
        channel.run();
        assert!(channel.end(B).take_news());
        assert!(!channel.end(B).take_news());
    }
}

#[test]
fn a_smaller_buffer_takes_back_nothing_that_was_allowed() {
    let mut channel = Channel::connected(NONE);
    channel.end(B).set_recv_room(1000);
    channel.write(A, &[7; 65_536]).expect("room");
    channel.run_for(10 * SECOND);
    assert_eq!(channel.end(B).queued().0, 65_536 - 1, "all that was allowed at first");
    channel.read(B, 65_536).expect("data");
    channel.run_for(10 * SECOND);
    channel.write(A, &[7; 10_000]).expect("room");
    channel.run_for(10 * SECOND);
    assert!(channel.end(B).queued().0 <= 1000, "{}", channel.end(B).queued().0);
}

#[test]
fn what_was_sent_twice_measures_nothing() {
    let mut channel = Channel::connected(NONE);
    for _ in 0..3 {
        channel.write(A, b"x").expect("room");
        channel.drop_flying();
        let before = channel.now;
        while channel.end(B).queued().0 == 0 {
            assert!(channel.step());
        }
        let late = (channel.now - before) / 1_000_000;
        assert!((200..210).contains(&late), "sent again after {late} ms");
        channel.read(B, 9).expect("data");
        channel.run_for(SECOND);
    }
}
