//! The loop, its timers, and what users drop in it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, LoopingCall, PortState, Reactor,
};

use crate::support::{PATIENCE, Recorder, Setup};

/// A looping call that failed after it had reset itself ended, and its timer did not: `run` waited
/// for a call that never came.
#[test]
fn a_looping_call_that_resets_itself_and_fails_leaves_no_timer() {
    let reactor = Reactor::new().unwrap();
    let itself: Rc<RefCell<Option<LoopingCall>>> = Rc::default();
    let inside = Rc::clone(&itself);
    let call = reactor.looping_call_now(Duration::from_secs(3600), move |_, _| {
        inside.borrow().as_ref().unwrap().reset()?;
        anyhow::bail!("after a reset")
    });
    *itself.borrow_mut() = Some(call.clone());
    assert!(!reactor.iterate(Some(Duration::ZERO)).unwrap(), "something is left");
    assert!(!call.running());
    assert!(reactor.pending_timers().is_empty());
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("in drop");
    }
}

impl DatagramProtocol for PanicsWhenDropped {
    fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>) -> anyhow::Result<()> {
        Ok(())
    }
}

/// A protocol was dropped outside of what catches panics: the panic left `run` in the middle of
/// the shutdown, and nothing could be opened any more.
#[test]
fn a_protocol_that_panics_in_its_drop_hurts_nobody() {
    let lab = Setup::plain().lab();
    let ports = [lab.open(PanicsWhenDropped), lab.open(Recorder::quiet())];
    lab.stop();
    lab.run();
    assert_eq!(ports.map(|port| port.state()), [PortState::Closed, PortState::Closed]);
    assert_eq!(lab.stats().callback_panics, 1);
    lab.open(Recorder::quiet());
}

/// The same for the closure of a looping call that ends.
#[test]
fn a_closure_that_panics_in_its_drop_hurts_nobody() {
    let lab = Setup::plain().lab();
    let captured = PanicsWhenDropped;
    lab.looping_call_now(Duration::from_secs(3600), move |_, _| {
        let _held = &captured;
        anyhow::bail!("the end")
    });
    lab.run();
    let stats = lab.stats();
    assert_eq!((stats.callback_errors, stats.callback_panics), (1, 1));
}

/// With nothing left that keeps `run` going, `iterate` did not wait either: a program that drives
/// the loop itself and had unreferenced everything went round at full speed.
#[test]
fn iterate_waits_for_what_was_unreferenced() {
    let lab = Setup::plain().lab();
    lab.open(Recorder::quiet()).unref().unwrap();
    let called = Rc::new(Cell::new(false));
    let set = Rc::clone(&called);
    lab.call_later(Duration::from_millis(50), move |_| set.set(true)).unref();
    let mut turns = 0;
    while !called.get() {
        turns += 1;
        assert!(turns < 20, "the loop spins");
        lab.reactor().iterate(Some(PATIENCE)).unwrap();
    }
}
