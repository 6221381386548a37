use super::channel::*;
use crate::net::sim::packet::Flags;
use crate::net::sim::tcp::tcb::State;

#[test]
fn a_close_is_orderly_when_nothing_waits_unread() {
    let mut channel = Channel::connected(NONE);
    channel.write(A, b"last words").expect("room");
    channel.close(A);
    channel.run_for(SECOND);
    assert_eq!(channel.state(A), State::FinWait2);
    assert_eq!(channel.state(B), State::CloseWait);
    assert_eq!(channel.read(B, 100), Ok(true));
    assert_eq!(channel.received[B], b"last words");
    channel.close(B);
    channel.run_for(SECOND);
    assert_eq!([channel.state(A), channel.state(B)], [State::TimeWait, State::Closed]);
    assert_eq!(channel.sent(A, Flags::RST) + channel.sent(B, Flags::RST), 0);
    channel.run();
    assert_eq!(channel.state(A), State::Closed);
    assert!(!channel.end(B).has_error());
}

#[test]
fn a_close_with_unread_input_is_a_reset() {
    let mut channel = Channel::connected(NONE);
    channel.write(A, b"unread").expect("room");
    channel.run();
    channel.close(B);
    channel.run();
    assert_eq!(channel.sent(B, Flags::RST), 1);
    assert_eq!(channel.write(A, b"x"), Err(libc::ECONNRESET));
    assert_eq!(channel.write(A, b"x"), Err(libc::EPIPE));
    assert_eq!(channel.read(A, 9), Ok(true), "the error was told");
}

#[test]
fn what_arrived_before_a_reset_can_still_be_read() {
    let mut channel = Channel::connected(NONE);
    channel.write(A, b"before").expect("room");
    channel.end(A).abort();
    channel.close(A);
    channel.run();
    let readiness = channel.end(B).readiness();
    assert!(readiness.readable && readiness.writable && readiness.error && readiness.read_closed);
    assert_eq!(channel.read(B, 9), Err(libc::ECONNRESET));
    assert_eq!(channel.received[B], b"before");
    assert_eq!([channel.state(A), channel.state(B)], [State::Closed; 2]);
}

#[test]
fn a_reset_after_the_peers_end_is_a_broken_pipe() {
    let mut channel = Channel::connected(NONE);
    channel.shutdown(A);
    channel.run();
    channel.end(A).abort();
    channel.close(A);
    channel.run();
    assert_eq!(channel.read(B, 9), Ok(true), "the end comes before the error");
    assert_eq!(channel.write(B, b"x"), Err(libc::EPIPE));
}

#[test]
fn half_of_a_connection_stays_open() {
    let mut channel = Channel::connected(NONE);
    channel.shutdown(A);
    assert_eq!(channel.write(A, b"x"), Err(libc::EPIPE));
    channel.run();
    assert_eq!(channel.read(B, 9), Ok(true));
    channel.write(B, b"answer").expect("room");
    channel.run();
    assert_eq!(channel.read(A, 9), Ok(false));
    assert_eq!(channel.received[A], b"answer");
    channel.shutdown(B);
    channel.run();
    assert_eq!(channel.read(A, 9), Ok(true));
    assert_eq!([channel.state(A), channel.state(B)], [State::Closed; 2]);
    assert_eq!(channel.end(A).take_error(), None);
}

#[test]
fn both_may_close_at_the_same_time() {
    let mut channel = Channel::connected(NONE);
    channel.close(A);
    channel.close(B);
    channel.run_for(SECOND);
    assert_eq!([channel.state(A), channel.state(B)], [State::TimeWait; 2]);
    channel.run();
    assert_eq!([channel.state(A), channel.state(B)], [State::Closed; 2]);
}

#[test]
fn data_for_a_closed_socket_is_answered_with_a_reset() {
    let mut channel = Channel::connected(NONE);
    channel.close(A);
    channel.run_for(SECOND);
    channel.write(B, b"too late").expect("room");
    channel.run();
    assert_eq!(channel.sent(A, Flags::RST), 1);
    assert_eq!(channel.state(B), State::Closed);
    // B is told as after its peer's end: reading is at the end, writing fails.
    assert_eq!(channel.read(B, 9), Ok(true));
    assert_eq!(channel.write(B, b"x"), Err(libc::EPIPE));
}

#[test]
fn data_that_follows_an_end_is_ignored() {
    let mut channel = Channel::connected(NONE);
    channel.shutdown(A);
    channel.run();
    let (_, _, fin) = channel.log.iter().find(|(_, from, _)| *from == A).cloned().expect("a FIN");
    let mut more = fin.clone();
    more.seq = more.seq.wrapping_add(1);
    (more.flags, more.payload) = (Flags::ACK, b"more".as_slice().into());
    let now = channel.now;
    channel.end(B).on_segment(now, &more);
    channel.flush(B);
    assert_eq!(channel.end(B).read(&mut [0; 9]), Ok(0));
    assert_eq!(channel.state(B), State::CloseWait);
}

#[test]
fn a_reset_must_have_the_number_that_is_expected() {
    let mut channel = Channel::connected(NONE);
    channel.write(A, b"x").expect("room");
    channel.run();
    let mut forged = channel.log[0].2.clone();
    (forged.flags, forged.payload) = (Flags::RST, [].into());
    forged.seq = forged.seq.wrapping_add(100);
    let now = channel.now;
    channel.log.clear();
    channel.end(B).on_segment(now, &forged);
    channel.flush(B);
    assert_eq!(channel.state(B), State::Established);
    assert_eq!(channel.sent(B, Flags::ACK), 1, "the peer is asked (RFC 5961)");
    channel.run();
    assert_eq!([channel.state(A), channel.state(B)], [State::Established; 2]);
}

#[test]
fn a_closed_end_whose_peer_is_silent_gives_up() {
    let mut channel = Channel::connected(NONE);
    channel.close(A);
    channel.run_for(SECOND);
    // The peer never closes: Linux waits a minute.
    channel.run_for(58 * SECOND);
    assert_eq!(channel.state(A), State::FinWait2);
    channel.run_for(2 * SECOND);
    assert_eq!(channel.state(A), State::Closed);

    let mut channel = Channel::connected(Faults { loss: 100, ..NONE });
    channel.close(A);
    channel.run();
    assert_eq!(channel.state(A), State::Closed);
    assert_eq!(channel.sent(A, Flags::FIN), 9, "once, and eight times again");
}

#[test]
fn an_end_that_forgot_resets() {
    let mut channel = Channel::connected(NONE);
    channel.ends[B] = None;
    channel.listens[B] = false;
    channel.write(A, b"x").expect("room");
    channel.run();
    assert_eq!(channel.read(A, 9), Err(libc::ECONNRESET));
}
