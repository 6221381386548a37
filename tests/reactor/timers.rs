//! Calls later.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::{DelayedCall, Reactor, TimerError};

use crate::support::{ANY, Log, OnDrop, drop_flag, watchdog};

const HOUR: Duration = Duration::from_secs(3600);
const MILLISECOND: Duration = Duration::from_millis(1);

#[test]
fn timers_fire_once_each_and_in_the_order_of_their_deadlines() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let order = Log::new();
    let start = reactor.now();
    // Neither in order nor in reverse.
    for tens in [3, 7, 0, 9, 5, 1, 8, 2, 6, 4] {
        let log = order.clone();
        let delay = MILLISECOND * tens * 5;
        reactor.call_later(delay, move |handle| {
            assert!(handle.now() >= start + delay);
            log.push(tens);
        });
    }
    let stopped = reactor.call_later(MILLISECOND, |_| -> () { panic!("it was cancelled") });
    stopped.cancel().unwrap();
    reactor.run().unwrap();
    assert_eq!(order.entries(), (0..10).collect::<Vec<_>>());
    assert_eq!(reactor.stats().timers_called, 10);
    assert_eq!(reactor.stats().callback_panics, 0);
}

/// The clock may or may not have ticked between two of them; ties to the nanosecond are forced in
/// the tests of the timer queue itself.
#[test]
fn a_thousand_timers_of_one_delay_fire_in_the_order_they_were_made() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let order = Log::new();
    for number in 0..1000 {
        let log = order.clone();
        reactor.call_later(Duration::ZERO, move |_| log.push(number));
    }
    reactor.run().unwrap();
    assert_eq!(order.entries(), (0..1000).collect::<Vec<_>>());
    // All in one turn, and a second one to find that nothing is left.
    assert!(reactor.stats().turns <= 2, "{:?}", reactor.stats());
}

#[test]
fn a_zero_delay_waits_for_the_next_turn() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let order = Log::new();
    let log = order.clone();
    reactor.call_later(Duration::ZERO, move |handle| {
        log.push(("first", handle.stats().turns));
        let later = log.clone();
        handle.call_later(Duration::ZERO, move |handle| {
            later.push(("second", handle.stats().turns));
        });
        log.push(("end of first", handle.stats().turns));
    });
    assert!(order.entries().is_empty());
    reactor.run().unwrap();
    assert_eq!(order.entries(), [("first", 1), ("end of first", 1), ("second", 2)]);
}

#[test]
fn a_running_timer_that_brings_another_forward_does_not_prolong_its_turn() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let order = Log::new();
    let log = order.clone();
    let moved = reactor.call_later(HOUR, move |handle| log.push(("moved", handle.stats().turns)));
    let log = order.clone();
    reactor.call_later(Duration::ZERO, move |handle| {
        moved.reset(Duration::ZERO).unwrap();
        log.push(("mover", handle.stats().turns));
    });
    reactor.run().unwrap();
    assert_eq!(order.entries(), [("mover", 1), ("moved", 2)]);
}

#[test]
fn a_timer_due_in_the_same_turn_can_still_be_cancelled_or_put_off() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let timers = Rc::new(RefCell::new(Vec::<DelayedCall>::new()));
    let others = Rc::clone(&timers);
    reactor.call_later(Duration::ZERO, move |_| {
        others.borrow()[0].cancel().unwrap();
        others.borrow()[1].reset(HOUR).unwrap();
        others.borrow()[2].delay(HOUR).unwrap();
    });
    for _ in 0..3 {
        let timer = reactor.call_later(Duration::ZERO, |_| -> () { panic!("it is not due") });
        timers.borrow_mut().push(timer);
    }
    reactor.iterate(Some(Duration::ZERO)).unwrap();
    let active: Vec<_> = timers.borrow().iter().map(DelayedCall::active).collect();
    assert_eq!(active, [false, true, true]);
    assert_eq!((reactor.stats().timers_called, reactor.stats().callback_panics), (1, 0));
}

#[test]
fn cancelling_drops_what_was_captured_at_once() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let (captured, dropped) = drop_flag();
    let timer = reactor.call_later(HOUR, move |_| drop(captured));
    let copy = timer.clone();
    assert!(!dropped.get());
    timer.cancel().unwrap();
    // Although a handle to the timer lives on.
    assert!(dropped.get());
    assert!(!copy.active());

    let (captured, dropped) = drop_flag();
    let ticks = reactor.looping_call(HOUR, move |_, _| {
        let _captured = &captured;
    });
    ticks.stop().unwrap();
    assert!(dropped.get());
}

#[test]
fn what_a_called_timer_captured_is_gone_after_the_call() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let (captured, dropped) = drop_flag();
    let timer = reactor.call_later(Duration::ZERO, move |_| drop(captured));
    reactor.run().unwrap();
    assert!(dropped.get() && !timer.active());
}

/// No borrow is held while the captured values are dropped.
#[test]
fn what_a_cancelled_timer_captured_may_call_the_reactor_from_its_drop() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let other = reactor.call_later(HOUR, |_| {});
    let (handle, victim) = (reactor.listen_udp(ANY, crate::support::Quiet).unwrap(), other.clone());
    let cancelled = Rc::new(Cell::new(0));
    let count = Rc::clone(&cancelled);
    let guard = OnDrop(move || {
        let handle = handle.reactor();
        victim.cancel().unwrap();
        handle.call_later(HOUR, |_| {}).cancel().unwrap();
        handle.listen_udp(ANY, crate::support::Quiet).unwrap();
        count.set(handle.pending_timers().len());
    });
    let timer = reactor.call_later(HOUR, move |_| drop(guard));
    let _last = reactor.call_later(HOUR, |_| {});
    timer.cancel().unwrap();
    assert_eq!(cancelled.get(), 1);
    assert!(!other.active());
    assert_eq!(reactor.datagram_ports().len(), 2);
}

#[test]
fn each_misuse_of_a_timer_has_its_error() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let misuse = |timer: &DelayedCall, error: TimerError| {
        assert_eq!(timer.cancel(), Err(error));
        assert_eq!(timer.reset(MILLISECOND), Err(error));
        assert_eq!(timer.delay(MILLISECOND), Err(error));
        assert!(!timer.active());
        assert_eq!(timer.deadline(), None);
    };
    let cancelled = reactor.call_later(HOUR, |_| {});
    cancelled.cancel().unwrap();
    misuse(&cancelled, TimerError::AlreadyCancelled);

    let called = Rc::new(RefCell::new(None::<DelayedCall>));
    let own = Rc::clone(&called);
    let during = Rc::new(Cell::new(false));
    let set = Rc::clone(&during);
    let timer = reactor.call_later(Duration::ZERO, move |_| {
        misuse(own.borrow().as_ref().unwrap(), TimerError::AlreadyCalled);
        set.set(true);
    });
    *called.borrow_mut() = Some(timer.clone());
    reactor.run().unwrap();
    assert!(during.get());
    misuse(&timer, TimerError::AlreadyCalled);

    let orphan = reactor.call_later(HOUR, |_| {});
    drop(reactor);
    misuse(&orphan, TimerError::Closed);
    // What happened before the end is still told.
    misuse(&cancelled, TimerError::AlreadyCancelled);
    misuse(&timer, TimerError::AlreadyCalled);
    for (error, text) in [
        (TimerError::AlreadyCalled, "called"),
        (TimerError::AlreadyCancelled, "cancelled"),
        (TimerError::Closed, "gone"),
    ] {
        assert!(error.to_string().contains(text));
    }
}

#[test]
fn reset_counts_from_now_and_delay_from_the_deadline() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let timer = reactor.call_later(HOUR, |_| {});
    let first = timer.deadline().unwrap();
    timer.delay(HOUR).unwrap();
    assert_eq!(timer.deadline(), Some(first + HOUR));

    // Sooner, and later than it was.
    for delay in [MILLISECOND * 100, HOUR * 5] {
        let before = reactor.now();
        timer.reset(delay).unwrap();
        let after = reactor.now();
        let deadline = timer.deadline().unwrap();
        assert!((before + delay..=after + delay).contains(&deadline), "{delay:?}");
    }
}

#[test]
fn a_timer_brought_forward_is_waited_for_no_longer_than_that() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let timer = reactor.call_later(HOUR, |_| {});
    timer.reset(MILLISECOND).unwrap();
    // Would take the hour.
    reactor.run().unwrap();
    assert!(!timer.active());

    // And from another callback, while the loop sleeps until that hour.
    let timer = reactor.call_later(HOUR, |_| {});
    let far = timer.clone();
    reactor.call_later(MILLISECOND, move |_| far.reset(Duration::ZERO));
    reactor.run().unwrap();
    assert!(!timer.active());
}

#[test]
fn a_restarted_timer_fires_at_its_new_time_only() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let fired = Log::new();
    let log = fired.clone();
    let timer = reactor.call_later(MILLISECOND, move |handle| log.push(handle.now()));
    timer.reset(MILLISECOND * 5).unwrap();
    let deadline = timer.deadline().unwrap();
    reactor.run().unwrap();
    assert_eq!(fired.len(), 1);
    assert!(fired.entries()[0] >= deadline);
}

#[test]
fn cancelling_the_only_timer_ends_the_wait() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let timer = reactor.call_later(HOUR, |_| {});
    reactor.call_later(MILLISECOND, move |_| timer.cancel());
    reactor.run().unwrap();
    assert!(reactor.pending_timers().is_empty());
    assert_eq!(reactor.stats().callback_errors, 0);
}

#[test]
fn delays_without_end_neither_overflow_nor_fire() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let delays = [
        Duration::MAX,
        Duration::from_nanos(u64::MAX),
        Duration::from_millis(1 << 48),
        Duration::from_millis(u64::MAX),
        Duration::from_millis(1 << 32),
        Duration::from_millis(1 << 31),
    ];
    let timers: Vec<_> = delays
        .iter()
        .map(|delay| reactor.call_later(*delay, |_| -> () { panic!("too soon") }))
        .collect();
    let ticks = reactor.looping_call(Duration::MAX, |_, _| -> () { panic!("too soon") });
    for timer in &timers {
        timer.delay(Duration::MAX).unwrap();
        timer.reset(Duration::MAX).unwrap();
        timer.delay(MILLISECOND).unwrap();
    }
    reactor.call_later(MILLISECOND, |handle| handle.crash());
    reactor.run().unwrap();
    assert!(timers.iter().all(DelayedCall::active) && ticks.running());
    assert_eq!(reactor.stats().callback_panics, 0);
    // The longest wait that can be asked for is still a wait, and can be ended.
    let remote = reactor.remote();
    let thread =
        std::thread::spawn(move || remote.call_from_thread(|handle| handle.crash()).unwrap());
    while reactor.stats().calls == 0 {
        reactor.iterate(Some(Duration::MAX)).unwrap();
    }
    thread.join().unwrap();
}

#[test]
fn pending_timers_are_those_still_to_come() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let near = reactor.call_later(Duration::ZERO, |_| {});
    let far = reactor.call_later(HOUR, |_| {});
    let ticks = reactor.looping_call(HOUR, |_, _| {});
    let mut deadlines: Vec<_> =
        reactor.pending_timers().iter().map(|timer| timer.deadline().unwrap()).collect();
    deadlines.sort_unstable();
    let expected = [near.deadline(), far.deadline(), ticks.deadline()].map(Option::unwrap);
    assert_eq!(deadlines, expected);

    reactor.iterate(Some(Duration::ZERO)).unwrap();
    assert_eq!(reactor.pending_timers().len(), 2);
    far.cancel().unwrap();
    let [left] = &reactor.pending_timers()[..] else { panic!("one is left") };
    assert_eq!(left.deadline(), ticks.deadline());
    // They are hands on the timers, not copies.
    left.cancel().unwrap();
    assert!(!ticks.running() && reactor.pending_timers().is_empty());
}

#[test]
fn cancelled_timers_do_not_pile_up() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let alive = Rc::new(());
    for round in 0..10_000_u32 {
        let captured = Rc::clone(&alive);
        let timer = reactor.call_later(HOUR + MILLISECOND * round, move |_| drop(captured));
        timer.cancel().unwrap();
        assert_eq!(Rc::strong_count(&alive), 1);
    }
    assert!(reactor.pending_timers().is_empty());
    assert!(!reactor.iterate(None).unwrap());
}
