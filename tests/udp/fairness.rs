//! A port under a flood leaves others their turn.
//!
//! The floods here never end: every datagram delivered sends another to its own port, at once. So
//! only the budget ends a turn, and what comes in between is counted, not timed. There are more
//! of them than one batch takes: a short batch would end the turn as well.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::DatagramTransport;

use crate::support::{Lab, Log, Recorder, Setup, everywhere, listening};

const TURN_DATAGRAMS: usize = 4_096;
const TURN_BYTES: usize = 1024 * 1024;

/// A port that is never drained, and the number of its deliveries.
struct Flood {
    port: DatagramTransport,
    delivered: Rc<Cell<usize>>,
}

impl Flood {
    /// `seeds` datagrams of `size` bytes, going round.
    fn start(s: &Setup, lab: &Lab, seeds: usize, size: usize) -> Self {
        let delivered = Rc::new(Cell::new(0));
        let own = Rc::new(Cell::new(None));
        let (count, to) = (Rc::clone(&delivered), Rc::clone(&own));
        let port = lab.open(Recorder::quiet().on_datagram(move |transport, datagram| {
            count.set(count.get() + 1);
            transport.try_write_to(datagram.payload(), to.get().unwrap())?;
            Ok(())
        }));
        own.set(Some(s.reach(&port)));
        for _ in 0..seeds {
            port.try_write_to(&vec![1; size], s.reach(&port)).unwrap();
        }
        Self { port, delivered }
    }

    /// Turns the loop until `reached`, which must come about while the flood had a share or two.
    fn until(&self, lab: &Lab, share: usize, what: &str, reached: impl Fn() -> bool) {
        let before = self.delivered.get();
        for _ in 0..3 {
            lab.turn();
            if reached() {
                let meanwhile = self.delivered.get() - before;
                assert!(meanwhile <= 3 * share, "{what}, only after {meanwhile} of the flood");
                return;
            }
        }
        panic!("{what} starved: the flood had {}", self.delivered.get() - before);
    }
}

/// The flood's share of a turn is `share` datagrams; others are served between its shares.
fn leaves_others_their_turn(s: &Setup, size: usize, seeds: usize, share: usize) {
    let (lab, log, peer) = (s.lab(), Log::default(), s.peer());
    let flood = Flood::start(s, &lab, seeds, size);
    let other = lab.open(Recorder::new(&log));
    for round in 1..=3 {
        peer.send("me too", s.reach(&other));
        flood.until(&lab, share, "the other port", || log.datagrams() == round);

        let fired = Rc::new(Cell::new(false));
        let fire = Rc::clone(&fired);
        lab.call_later(Duration::ZERO, move |_| fire.set(true));
        flood.until(&lab, share, "the timer", || fired.get());

        let called = Rc::new(Cell::new(false));
        let call = Rc::clone(&called);
        lab.call_when_running(move |_| call.set(true));
        flood.until(&lab, share, "the posted call", || called.get());
    }
    // The flood went on by itself, with no event but its first.
    assert!(flood.delivered.get() >= 3 * share, "{}", flood.delivered.get());
    assert_eq!(flood.port.stats().unwrap().callback_errors, 0);
}

#[test]
fn a_flood_of_empty_datagrams_leaves_others_their_turn() {
    everywhere(|s| leaves_others_their_turn(s, 0, 40, TURN_DATAGRAMS));
}

#[test]
fn a_flood_of_bytes_leaves_others_their_turn() {
    everywhere(|s| leaves_others_their_turn(s, 4_096, 20, TURN_BYTES / 4_096));
}

#[test]
fn a_turn_takes_no_more_than_its_budget_of_datagrams() {
    listening(|s| {
        let lab = s.lab();
        let flood = Flood::start(s, &lab, 40, 0);
        for turn in 1..=4 {
            lab.turn();
            let delivered = flood.delivered.get();
            assert!(delivered <= turn * TURN_DATAGRAMS, "{delivered} after {turn} turns");
        }
    });
}

#[test]
fn a_turn_takes_no_more_than_its_budget_of_bytes() {
    listening(|s| {
        let lab = s.lab();
        let size = 4_000;
        let flood = Flood::start(s, &lab, 20, size);
        let share = TURN_BYTES.div_ceil(size);
        for turn in 1..=4 {
            lab.turn();
            let delivered = flood.delivered.get();
            assert!(delivered <= turn * share, "{delivered} after {turn} turns");
        }
    });
}

#[test]
fn two_floods_share_the_loop() {
    everywhere(|s| {
        let lab = s.lab();
        let (one, two) = (Flood::start(s, &lab, 40, 1), Flood::start(s, &lab, 40, 1));
        for _ in 0..4 {
            lab.turn();
        }
        let (first, second) = (one.delivered.get(), two.delivered.get());
        assert!(first > 0 && second > 0);
        assert!(first.abs_diff(second) <= 2 * TURN_DATAGRAMS, "{first} and {second}");
    });
}

#[test]
fn a_flooded_port_can_be_stopped() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let flood = Flood::start(s, &lab, 40, 0);
        let (port, done) = (flood.port.clone(), log.clone());
        lab.call_later(Duration::ZERO, move |_| {
            port.stop_listening_then(move |_| done.note("stopped")).unwrap();
        });
        lab.run();
        assert!(log.has_note("stopped"));
    });
}
