//! What reads and events may say, in what order.

use strand_reactor::testing::{StreamEvent, WriteStep};
use strand_reactor::{Flow, StreamLayer};

use crate::support::Stage;
use crate::support::errno::*;
use crate::watchdog::watchdog;

#[test]
fn pieces_are_delivered_as_they_are_read_and_a_short_read_ends_the_reading() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    let before = stage.script.reads();
    stage.script.receive(b"one");
    stage.script.receive(b"two");
    stage.raise(StreamEvent::READABLE);
    // What arrives after a short read is told by an event of its own.
    stage.expect(&["data one"]);
    assert_eq!(stage.script.reads() - before, 1);
    stage.raise(StreamEvent::READABLE);
    stage.expect(&["data two"]);
}

#[test]
fn what_arrived_with_the_end_or_an_error_is_delivered_before_it() {
    let _watchdog = watchdog();
    for event in [StreamEvent::END, StreamEvent::END.and(StreamEvent::WRITABLE)] {
        let stage = Stage::new();
        stage.script.receive(b"one");
        stage.script.receive(b"two");
        stage.script.receive_end();
        stage.raise(event);
        stage.expect(&["data one", "data two", "read lost"]);
    }
    for event in [
        StreamEvent::ERROR,
        StreamEvent::READABLE.and(StreamEvent::ERROR),
        StreamEvent::END.and(StreamEvent::WRITABLE).and(StreamEvent::ERROR),
    ] {
        let stage = Stage::new();
        stage.script.receive(b"one");
        stage.script.receive(b"two");
        stage.script.pending_error(ECONNRESET);
        stage.raise(event);
        stage.expect(&["data one", "data two", "lost: Reset"]);
        assert!(stage.script.is_closed());
    }
}

#[test]
fn each_error_has_its_reason() {
    let _watchdog = watchdog();
    for (errno, reason) in [
        (ECONNRESET, "lost: Reset"),
        (EPIPE, "lost: Reset"),
        (ECONNABORTED, "lost: Reset"),
        (ETIMEDOUT, "lost: TimedOut"),
        (EHOSTUNREACH, "lost: Some(113)"),
        (EIO, "lost: Some(5)"),
    ] {
        let stage = Stage::new();
        stage.script.receive(b"before");
        stage.script.receive_error(errno);
        stage.raise(StreamEvent::END.and(StreamEvent::ERROR));
        stage.expect(&["data before", reason]);
        // With the error alone in the event.
        let stage = Stage::new();
        stage.script.pending_error(errno);
        stage.raise(StreamEvent::ERROR);
        stage.expect(&[reason]);
    }
}

#[test]
fn a_reset_is_noticed_while_reading_is_paused_and_a_fin_is_not() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    stage.transport.pause_reading().expect("open");
    stage.script.receive(b"unread");
    stage.script.receive_end();
    stage.raise(StreamEvent::END);
    stage.expect(&[]);
    stage.transport.resume_reading().expect("open");
    stage.turns(2);
    stage.expect(&["data unread", "read lost"]);

    let stage = Stage::new();
    stage.transport.pause_reading().expect("open");
    stage.script.receive(b"unread");
    stage.script.pending_error(ECONNRESET);
    stage.raise(StreamEvent::END.and(StreamEvent::WRITABLE).and(StreamEvent::ERROR));
    stage.expect(&["lost: Reset"]);
}

#[test]
fn a_reset_met_by_who_paused_in_the_delivery_before_it_is_told() {
    let _watchdog = watchdog();
    let stage =
        Stage::with(|recorder| recorder.on_data(|transport, _| Ok(transport.pause_reading()?)));
    stage.script.receive(b"one");
    stage.script.receive(b"two");
    stage.script.pending_error(ECONNRESET);
    stage.raise(StreamEvent::END.and(StreamEvent::ERROR));
    stage.expect(&["data one", "lost: Reset"]);
}

#[test]
fn a_reset_behind_more_than_a_turn_may_take_is_told_to_who_paused_over_layers() {
    let _watchdog = watchdog();
    let stage =
        Stage::with(|recorder| recorder.on_data(|transport, _| Ok(transport.pause_reading()?)));
    stage.transport.push_layer(Capitals).expect("open");
    stage.turns(1);
    stage.script.receive(&[b'a'; 256 * 1024]);
    stage.script.receive(b"two");
    stage.script.pending_error(ECONNRESET);
    stage.raise(StreamEvent::END.and(StreamEvent::ERROR));
    stage.turns(3);
    let log = stage.log.take();
    assert_eq!(log.len(), 2);
    assert!(log[0].starts_with("data AAA"));
    assert_eq!(log[1], "lost: Reset");
}

#[test]
fn a_write_that_failed_is_the_end_for_who_pauses_in_the_delivery_after_it() {
    let _watchdog = watchdog();
    for layered in [false, true] {
        let stage =
            Stage::with(|recorder| recorder.on_data(|transport, _| Ok(transport.pause_reading()?)));
        if layered {
            stage.transport.push_layer(Capitals).expect("open");
            stage.turns(1);
        }
        stage.script.receive(b"ONE");
        stage.script.answer_write(WriteStep::Fail(EPIPE));
        stage.transport.write(b"hello").expect("open");
        stage.turns(4);
        stage.expect(&["data ONE", "lost: Reset"]);
    }
}

#[test]
fn a_reset_is_noticed_after_the_peers_end_was_read() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    stage.script.receive_end();
    stage.raise(StreamEvent::END);
    stage.expect(&["read lost"]);
    stage.script.pending_error(EPIPE);
    stage.raise(StreamEvent::END.and(StreamEvent::ERROR));
    stage.expect(&["lost: Reset"]);
}

#[test]
fn events_that_say_too_much_are_harmless() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    let everything = StreamEvent::END.and(StreamEvent::WRITABLE).and(StreamEvent::ERROR);
    for event in [
        StreamEvent::NOTHING,
        StreamEvent::READABLE,
        StreamEvent::WRITABLE,
        StreamEvent::END,
        StreamEvent::ERROR,
        everything,
    ] {
        stage.raise(event);
        stage.expect(&[]);
    }
    stage.script.receive(b"still here");
    stage.raise(StreamEvent::READABLE);
    stage.expect(&["data still here"]);
    stage.transport.write(b"yes").expect("open");
    stage.turns(1);
    assert_eq!(stage.script.written(), b"yes");
}

#[test]
fn an_event_costs_one_turn_whatever_it_says() {
    let _watchdog = watchdog();
    // Out-of-band data raises an event of which nothing follows (poll(2), POLLPRI), or one that
    // says "readable" with nothing to read.
    let stage = Stage::new();
    for event in [StreamEvent::NOTHING, StreamEvent::READABLE] {
        let (reads, turns) = (stage.script.reads(), stage.reactor.stats().turns);
        for _ in 0..100 {
            stage.script.raise(event);
            stage.turns(1);
        }
        assert!(stage.script.reads() - reads <= 100);
        assert_eq!(stage.reactor.stats().turns - turns, 100);
        // Nothing is left that would keep the loop from sleeping until its next timer.
        let slept = std::rc::Rc::new(std::cell::Cell::new(false));
        let told = std::rc::Rc::clone(&slept);
        let soon = std::time::Duration::from_millis(5);
        stage.reactor.call_later(soon, move |_: &strand_reactor::Handle| told.set(true));
        let turns = stage.reactor.stats().turns;
        crate::support::turn_until(&stage.reactor, || slept.get());
        assert!(stage.reactor.stats().turns - turns <= 3, "the loop spins");
    }
    stage.expect(&[]);
}

#[test]
fn a_read_that_finds_nothing_ends_the_reading_until_the_next_event() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    stage.script.receive(b"one");
    stage.script.receive_would_block();
    stage.script.receive(b"two");
    stage.script.receive_end();
    stage.raise(StreamEvent::END);
    stage.expect(&["data one"]);
    stage.raise(StreamEvent::END);
    stage.expect(&["data two", "read lost"]);
}

#[test]
fn more_than_a_turn_may_take_comes_in_the_next_without_an_event() {
    let _watchdog = watchdog();
    let stage = Stage::with(|recorder| recorder);
    let piece = vec![b'x'; 100_000];
    for _ in 0..6 {
        stage.script.receive(&piece);
    }
    stage.script.raise(StreamEvent::END);
    stage.turns(1);
    let received = stage.transport.stats().expect("open").bytes_in;
    assert_eq!(received, 256 * 1024);
    stage.turns(3);
    assert_eq!(stage.transport.stats().expect("open").bytes_in, 600_000);
}

#[test]
fn an_event_for_a_connection_that_is_gone_is_stale() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    stage.transport.abort_connection();
    stage.turns(2);
    stage.expect(&["lost: Aborted"]);
    let stale = stage.reactor.stats().stale_events;
    stage.raise(StreamEvent::END.and(StreamEvent::ERROR));
    assert_eq!(stage.reactor.stats().stale_events, stale + 1);
    stage.expect(&[]);
}

/// Capitals in what is received, and a mark at its end.
struct Capitals;

impl StreamLayer for Capitals {
    fn received(&mut self, data: &[u8], flow: &mut Flow) -> anyhow::Result<()> {
        flow.deliver(&data.to_ascii_uppercase());
        Ok(())
    }

    fn read_ended(&mut self, flow: &mut Flow) -> anyhow::Result<()> {
        flow.deliver(b"!");
        flow.end_reading();
        Ok(())
    }
}

#[test]
fn a_layer_pushed_by_the_protocol_sees_all_that_is_read_after() {
    let _watchdog = watchdog();
    for end in [false, true] {
        let stage = Stage::with(|recorder| {
            recorder.on_data(|transport, data| {
                if data == b"start" {
                    transport.push_layer(Capitals)?;
                }
                Ok(())
            })
        });
        stage.script.receive(b"start");
        if end {
            stage.script.receive_end();
        } else {
            stage.script.receive(b"more");
        }
        // Read to the end, in one delivery.
        stage.raise(StreamEvent::END);
        match end {
            true => stage.expect(&["data start", "data !", "read lost"]),
            false => stage.expect(&["data start", "data MORE"]),
        }
    }
}

#[test]
fn what_arrived_before_an_error_passes_the_layers_before_it() {
    let _watchdog = watchdog();
    let layered = || {
        let stage = Stage::new();
        stage.transport.push_layer(Capitals).expect("open");
        stage.turns(1);
        stage.script.receive(b"last ");
        stage.script.receive(b"words");
        stage
    };
    let stage = layered();
    stage.script.receive_error(ECONNRESET);
    stage.raise(StreamEvent::END.and(StreamEvent::ERROR));
    stage.expect(&["data LAST WORDS", "lost: Reset"]);

    // An error of a write, after which the rest is read.
    for end in [false, true] {
        let stage = layered();
        if end {
            stage.script.receive_end();
        }
        stage.script.answer_write(WriteStep::Fail(EPIPE));
        stage.transport.write(b"hello").expect("open");
        stage.turns(4);
        match end {
            // The layer is told of the end, since it may hold something back; the protocol hears
            // of none that may be the doing of the reset.
            true => stage.expect(&["data LAST WORDS!", "lost: Reset"]),
            false => stage.expect(&["data LAST WORDS", "lost: Reset"]),
        }
    }
}
