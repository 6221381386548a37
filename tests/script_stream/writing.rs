//! What writes may take, and fail with.

use strand_reactor::testing::{StreamEvent, WriteStep};
use strand_reactor::{ConnectionState, Flow, StreamLayer, WriteError};

use crate::support::errno::*;
use crate::support::{Stage, turn_until};
use crate::watchdog::watchdog;

/// 24 bytes in three writes.
const WORDS: [&[u8]; 3] = [b"abcdefgh", b"ijklmno", b"pqrstuvwx"];

#[test]
fn a_write_cut_at_any_place_goes_on_there_and_completes_in_order() {
    let _watchdog = watchdog();
    for cut in 1..24 {
        for middle in [WriteStep::WouldBlock, WriteStep::Take(1)] {
            let stage = Stage::new();
            stage.script.answer_write(WriteStep::Take(cut));
            stage.script.answer_write(middle);
            stage.script.answer_write(WriteStep::WouldBlock);
            for word in WORDS {
                stage.write_noted(word);
            }
            stage.turns(1);
            let first = stage.script.written().len();
            assert_eq!(first, cut + usize::from(middle == WriteStep::Take(1)).min(24 - cut));
            assert_eq!(stage.transport.queued_bytes(), 24 - first);
            let sent = [8, 15, 24].map(|end| first >= end);
            assert_eq!(stage.log.borrow().len(), sent.iter().filter(|sent| **sent).count());
            stage.raise(StreamEvent::WRITABLE);
            if first < 24 && middle == WriteStep::WouldBlock {
                // The last answer is left over.
                stage.raise(StreamEvent::WRITABLE);
            }
            assert_eq!(stage.script.written(), WORDS.concat());
            assert_eq!(stage.transport.queued_bytes(), 0);
            stage.expect(&["sent 8", "sent 7", "sent 9"]);
        }
    }
}

#[test]
fn a_long_write_cut_at_any_place_goes_on_there() {
    let _watchdog = watchdog();
    // From 16 KiB on a write is offered to the system out of the caller's memory.
    let long: Vec<u8> = (0..20_000_u32).map(|at| ((at * 7) >> 3) as u8).collect();
    for cut in [1, 2, 999, 16_383, 16_384, 19_999] {
        let stage = Stage::new();
        stage.script.answer_write(WriteStep::Take(cut));
        stage.script.answer_write(WriteStep::WouldBlock);
        stage.write_noted(&long);
        stage.write_noted(b"end");
        stage.turns(1);
        assert_eq!(stage.script.written(), long[..cut]);
        assert_eq!(stage.transport.queued_bytes(), 20_003 - cut);
        stage.expect(&[]);
        stage.raise(StreamEvent::WRITABLE);
        assert_eq!(stage.script.written(), [&long[..], b"end"].concat());
        stage.expect(&["sent 20000", "sent 3"]);
    }
}

#[test]
fn a_byte_at_a_time_is_enough() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    for _ in 0..24 {
        stage.script.answer_write(WriteStep::Take(1));
        stage.script.answer_write(WriteStep::WouldBlock);
    }
    for word in WORDS {
        stage.write_noted(word);
    }
    stage.transport.lose_write();
    stage.turns(1);
    for done in 1..24 {
        assert_eq!(stage.script.written().len(), done);
        assert!(stage.script.shutdowns().is_empty(), "ended before all was sent");
        stage.raise(StreamEvent::WRITABLE);
    }
    assert_eq!(stage.script.written(), WORDS.concat());
    stage.raise(StreamEvent::WRITABLE);
    stage.expect(&["sent 8", "sent 7", "sent 9", "write lost"]);
    assert_eq!(stage.script.shutdowns(), [std::net::Shutdown::Write]);
}

#[test]
fn nothing_is_offered_again_before_an_event_says_that_there_is_room() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    stage.script.answer_write(WriteStep::WouldBlock);
    stage.transport.write(b"one").expect("open");
    stage.turns(1);
    for _ in 0..10 {
        stage.transport.write(b"two").expect("open");
        stage.raise(StreamEvent::READABLE);
    }
    assert_eq!(stage.script.write_sizes(), [0]);
    stage.raise(StreamEvent::WRITABLE);
    assert_eq!(stage.script.write_sizes(), [0, 33]);
}

#[test]
fn want_of_memory_is_tried_again_by_itself_and_breaks_nothing() {
    let _watchdog = watchdog();
    for errno in [ENOBUFS, ENOMEM] {
        let stage = Stage::new();
        stage.script.answer_write(WriteStep::Take(2));
        stage.script.answer_write(WriteStep::Fail(errno));
        stage.script.answer_write(WriteStep::Fail(errno));
        stage.write_noted(b"hello");
        stage.turns(1);
        assert_eq!(stage.script.written(), b"he");
        let turns = stage.reactor.stats().turns;
        // No event comes of it.
        turn_until(&stage.reactor, || stage.script.written().len() == 5);
        assert!(stage.reactor.stats().turns - turns < 10, "the loop spins");
        stage.turns(1);
        stage.expect(&["sent 5"]);
        assert_eq!(stage.transport.state(), ConnectionState::Open);

        stage.script.answer_write(WriteStep::Fail(errno));
        assert!(matches!(stage.transport.try_write(b"now"), Err(WriteError::WouldBlock)));
        assert_eq!(stage.transport.try_write(b"now").ok(), Some(3));
    }
}

#[test]
fn what_the_peer_sent_is_read_after_a_write_failed_and_then_the_loss_is_told() {
    let _watchdog = watchdog();
    for (errno, reason) in
        [(EPIPE, "lost: Reset"), (ECONNRESET, "lost: Reset"), (EIO, "lost: Some(5)")]
    {
        let stage = Stage::new();
        stage.script.receive(b"last ");
        stage.script.receive(b"words");
        stage.script.answer_write(WriteStep::Fail(errno));
        stage.write_noted(b"hello");
        stage.write_noted(b"again");
        assert!(matches!(stage.transport.flush(), Err(WriteError::Closed)));
        assert_eq!(stage.transport.state(), ConnectionState::Closing);
        assert!(matches!(stage.transport.write(b"more"), Err(WriteError::Closed)));
        stage.turns(3);
        let notes = stage.log.take();
        let (data, failed): (Vec<_>, Vec<_>) =
            notes[..4].iter().map(String::as_str).partition(|note| note.starts_with("data"));
        assert_eq!(data, ["data last ", "data words"]);
        assert_eq!(failed, [&*format!("failed Some({errno})"), "failed Cancelled"]);
        assert_eq!(notes[4..], [reason]);
    }
}

#[test]
fn a_long_write_that_breaks_the_connection_tells_its_completion() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    stage.script.answer_write(WriteStep::Take(1000));
    stage.script.answer_write(WriteStep::Fail(EPIPE));
    stage.write_noted(&[7; 20_000]);
    stage.expect(&[]);
    assert_eq!(stage.script.written().len(), 1000);
    assert!(matches!(stage.transport.write(b"more"), Err(WriteError::Closed)));
    stage.turns(3);
    stage.expect(&["failed Some(32)", "lost: Reset"]);
}

#[test]
fn a_write_that_fails_after_the_peers_end_or_while_paused_is_the_end() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    stage.script.receive_end();
    stage.raise(StreamEvent::END);
    stage.script.answer_write(WriteStep::Fail(EPIPE));
    stage.write_noted(b"hello");
    stage.turns(2);
    stage.expect(&["read lost", "failed Some(32)", "lost: Reset"]);

    let stage = Stage::new();
    stage.transport.pause_reading().expect("open");
    stage.script.receive(b"unread");
    stage.script.answer_write(WriteStep::Fail(EPIPE));
    stage.write_noted(b"hello");
    stage.turns(2);
    stage.expect(&["failed Some(32)", "lost: Reset"]);
}

#[test]
fn try_write_hands_over_what_is_taken_and_keeps_nothing() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    stage.script.answer_write(WriteStep::Take(2));
    assert_eq!(stage.transport.try_write(b"hello").ok(), Some(2));
    stage.script.answer_write(WriteStep::WouldBlock);
    assert!(matches!(stage.transport.try_write(b"llo"), Err(WriteError::WouldBlock)));
    assert_eq!(stage.transport.queued_bytes(), 0);
    stage.script.answer_write(WriteStep::Fail(EIO));
    match stage.transport.try_write(b"llo") {
        Err(WriteError::Io(error)) => assert_eq!(error.raw_os_error(), Some(EIO)),
        other => panic!("{other:?}"),
    }
    stage.turns(2);
    stage.expect(&["lost: Some(5)"]);
    assert_eq!(stage.script.written(), b"he");
}

#[test]
fn writing_is_paused_and_resumed_once_per_crossing_however_it_is_cut() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    stage.transport.set_write_watermarks(10, 20).expect("in order");
    stage.script.answer_write(WriteStep::WouldBlock);
    stage.transport.write(&[1; 30]).expect("open");
    stage.turns(2);
    stage.expect(&["pause"]);
    stage.transport.write(&[2; 30]).expect("open");
    stage.turns(1);
    for left in (10..60).rev() {
        stage.expect(&[]);
        stage.script.answer_write(WriteStep::Take(1));
        stage.script.answer_write(WriteStep::WouldBlock);
        stage.raise(StreamEvent::WRITABLE);
        assert_eq!(stage.transport.queued_bytes(), left);
    }
    stage.expect(&["resume"]);
}

#[test]
fn try_write_sends_nothing_behind_what_was_lost() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    stage.script.answer_write(WriteStep::Fail(EIO));
    stage.transport.write(b"lost").unwrap();
    assert!(matches!(stage.transport.try_write(b"late"), Err(WriteError::Closed)));
    stage.turns(2);
    assert_eq!(stage.script.written(), b"");
}

/// Hands everything on as it is.
struct Through;

impl StreamLayer for Through {
    fn received(&mut self, data: &[u8], flow: &mut Flow) -> anyhow::Result<()> {
        flow.deliver(data);
        Ok(())
    }

    fn written(&mut self, data: &[u8], flow: &mut Flow) -> anyhow::Result<()> {
        flow.send(data);
        Ok(())
    }
}

#[test]
fn layers_send_nothing_behind_what_was_lost() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    stage.script.answer_write(WriteStep::Fail(EIO));
    stage.transport.write(b"lost").unwrap();
    stage.transport.push_layer(Through).unwrap();
    stage.transport.write(b"late").unwrap();
    stage.turns(2);
    assert_eq!(stage.script.written(), b"");
}
