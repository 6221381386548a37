//! How connections end, whatever fails meanwhile.

use std::cell::Cell;
use std::net::Shutdown;
use std::rc::Rc;

use strand_reactor::testing::{StreamEvent, WriteStep};
use strand_reactor::{Flow, StreamLayer, WriteError};

use crate::support::errno::*;
use crate::support::{Stage, turn_until};
use crate::watchdog::watchdog;

#[test]
fn closing_waits_for_the_last_byte_and_for_the_peer() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    stage.script.answer_write(WriteStep::Take(3));
    stage.script.answer_write(WriteStep::WouldBlock);
    stage.write_noted(b"goodbye");
    stage.transport.lose_connection();
    assert!(matches!(stage.transport.write(b"more"), Err(WriteError::Closed)));
    stage.script.receive(b"too late");
    stage.raise(StreamEvent::READABLE);
    assert_eq!((stage.script.written(), stage.script.shutdowns()), (b"goo".to_vec(), vec![]));
    stage.raise(StreamEvent::WRITABLE);
    assert_eq!(stage.script.written(), b"goodbye");
    assert_eq!(stage.script.shutdowns(), [Shutdown::Write]);
    assert!(!stage.script.is_closed());
    stage.script.receive_end();
    stage.raise(StreamEvent::END);
    stage.expect(&["sent 7", "lost: Done"]);
    assert!(stage.script.is_closed() && !stage.script.is_reset());
}

#[test]
fn a_reset_ends_a_connection_that_is_closing() {
    let _watchdog = watchdog();
    // With output that waits, and without.
    for blocked in [true, false] {
        let stage = Stage::new();
        if blocked {
            stage.script.answer_write(WriteStep::WouldBlock);
        }
        stage.transport.write(b"goodbye").expect("open");
        stage.transport.lose_connection();
        stage.turns(2);
        stage.script.pending_error(ECONNRESET);
        stage.script.answer_write(WriteStep::Fail(EPIPE));
        stage.raise(StreamEvent::END.and(StreamEvent::WRITABLE).and(StreamEvent::ERROR));
        stage.expect(&["lost: Reset"]);
    }
}

#[test]
fn a_shutdown_that_fails_keeps_no_connection_open() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    stage.script.fail_shutdown(ENOTCONN);
    stage.transport.lose_connection();
    stage.turns(2);
    assert_eq!(stage.script.shutdowns(), [Shutdown::Write]);
    // What it failed of is told by the next read.
    stage.script.receive_error(ECONNRESET);
    stage.raise(StreamEvent::END.and(StreamEvent::ERROR));
    stage.expect(&["lost: Reset"]);
}

#[test]
fn an_abort_sends_nothing_more_and_is_a_reset() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    stage.script.answer_write(WriteStep::Take(2));
    stage.script.answer_write(WriteStep::WouldBlock);
    stage.write_noted(b"hello");
    stage.turns(1);
    stage.transport.abort_connection();
    stage.script.receive(b"unread");
    stage.raise(StreamEvent::WRITABLE.and(StreamEvent::READABLE));
    stage.expect(&["failed Cancelled", "lost: Aborted"]);
    assert_eq!(stage.script.written(), b"he");
    assert!(stage.script.is_reset() && stage.script.is_closed());
}

#[test]
fn want_of_memory_while_closing_loses_nothing() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    stage.script.answer_write(WriteStep::Fail(ENOBUFS));
    stage.script.answer_write(WriteStep::Fail(ENOMEM));
    stage.write_noted(b"goodbye");
    stage.transport.lose_connection();
    turn_until(&stage.reactor, || !stage.script.shutdowns().is_empty());
    assert_eq!(stage.script.written(), b"goodbye");
    stage.script.receive_end();
    stage.raise(StreamEvent::END);
    stage.expect(&["sent 7", "lost: Done"]);
}

/// Passes the end of reading and of writing on only when asked to.
#[derive(Default)]
struct Holding {
    write_ended: Rc<Cell<bool>>,
}

impl StreamLayer for Holding {
    fn read_ended(&mut self, _: &mut Flow) -> anyhow::Result<()> {
        Ok(())
    }

    fn write_ended(&mut self, _: &mut Flow) -> anyhow::Result<()> {
        self.write_ended.set(true);
        Ok(())
    }
}

#[test]
fn a_write_that_fails_after_the_end_was_read_ends_a_connection_with_layers() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    stage.transport.push_layer(Holding::default()).expect("open");
    stage.turns(1);
    stage.script.receive(b"last words");
    stage.script.receive_end();
    stage.raise(StreamEvent::END);
    stage.expect(&["data last words"]);
    stage.script.answer_write(WriteStep::Fail(EPIPE));
    stage.transport.write(b"hello").expect("open");
    stage.turns(3);
    stage.expect(&["lost: Reset"]);
}

#[test]
fn a_reset_is_noticed_while_a_layer_holds_back_an_end() {
    let _watchdog = watchdog();
    // The end of reading.
    let stage = Stage::new();
    stage.transport.push_layer(Holding::default()).expect("open");
    stage.script.receive_end();
    stage.raise(StreamEvent::END);
    stage.expect(&[]);
    stage.script.pending_error(EPIPE);
    stage.raise(StreamEvent::END.and(StreamEvent::ERROR));
    stage.expect(&["lost: Reset"]);

    // The end of writing, which keeps the connection from closing.
    let stage = Stage::new();
    let layer = Holding::default();
    let asked = Rc::clone(&layer.write_ended);
    stage.transport.push_layer(layer).expect("open");
    stage.script.receive_end();
    stage.transport.lose_connection();
    stage.raise(StreamEvent::END);
    assert!(asked.get() && stage.script.shutdowns().is_empty());
    stage.expect(&[]);
    stage.script.pending_error(EPIPE);
    stage.raise(StreamEvent::END.and(StreamEvent::WRITABLE).and(StreamEvent::ERROR));
    stage.expect(&["lost: Reset"]);
}
