//! One-shot and repeating calls.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use strand_reactor::{DatagramTransport, DelayedCall, LoopingCall, Reactor, TimerError};

use crate::support::{ANY, Log, OnDatagram, OnDrop, drop_flag, turn_until, watchdog};

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

/// What a looping call saw: the sum of the ticks it was told of, and the time inside the call.
fn counted(reactor: &Reactor, interval: Duration, now: bool) -> (LoopingCall, Log<(u64, Instant)>) {
    let calls = Log::new();
    let (log, mut sum) = (calls.clone(), 0);
    let call = move |handle: &strand_reactor::Handle, ticks: u64| {
        sum += ticks;
        assert!(ticks > 0);
        log.push((sum, handle.now()));
        if log.len() == 2 {
            // A call that takes five intervals.
            std::thread::sleep(interval * 5);
        }
    };
    let looping = match now {
        true => reactor.looping_call_now(interval, call),
        false => reactor.looping_call(interval, call),
    };
    (looping, calls)
}

#[test]
fn a_looping_call_stays_on_its_grid_and_counts_every_tick() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let interval = MILLISECOND * 2;
    let (looping, calls) = counted(&reactor, interval, false);
    let origin = looping.deadline().unwrap() - interval;
    let mut deadlines = Vec::new();
    for number in 1..=20 {
        deadlines.push(looping.deadline().unwrap());
        turn_until(&reactor, || calls.len() == number);
    }
    let intervals = |span: Duration| (span.as_nanos() / interval.as_nanos()) as u64;
    for (deadline, (sum, at)) in deadlines.iter().zip(calls.entries()) {
        let since = *deadline - origin;
        assert_eq!(since.as_nanos() % interval.as_nanos(), 0, "the deadline is off the grid");
        // The sum is the number of grid points passed: no more than when the call ran, and no
        // fewer than when it was due.
        assert!((intervals(since)..=intervals(at - origin)).contains(&sum));
    }
    let (before, after) = (calls.entries()[1].0, calls.entries()[2].0);
    assert!(after >= before + 5, "the ticks that the slow call missed are counted by the next");
    looping.stop().unwrap();
    assert!(!reactor.iterate(None).unwrap());
}

#[test]
fn a_looping_call_that_starts_now_counts_the_start() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let interval = MILLISECOND * 2;
    let (looping, calls) = counted(&reactor, interval, true);
    let origin = looping.deadline().unwrap();
    assert_eq!(calls.len(), 0);
    let mut deadlines = Vec::new();
    for number in 1..=10 {
        deadlines.push(looping.deadline().unwrap());
        turn_until(&reactor, || calls.len() == number);
    }
    let intervals = |span: Duration| (span.as_nanos() / interval.as_nanos()) as u64;
    for (deadline, (sum, at)) in deadlines.iter().zip(calls.entries()) {
        let since = *deadline - origin;
        assert_eq!(since.as_nanos() % interval.as_nanos(), 0);
        assert!((1 + intervals(since)..=1 + intervals(at - origin)).contains(&sum));
    }
    assert_eq!(looping.interval(), interval);
}

#[test]
fn missed_ticks_make_one_call() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let calls = Log::new();
    let log = calls.clone();
    let looping = reactor.looping_call(MILLISECOND, move |_, ticks| log.push(ticks));
    let due = looping.deadline().unwrap() + MILLISECOND;
    while reactor.now() < due {
        std::hint::spin_loop();
    }
    reactor.iterate(Some(Duration::ZERO)).unwrap();
    assert_eq!(calls.len(), 1);
    assert!(calls.entries()[0] >= 2);
    assert!(looping.deadline().unwrap() > due);
}

#[test]
fn a_failure_ends_a_looping_call() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    for panics in [false, true] {
        let (captured, dropped) = drop_flag();
        let calls = Log::new();
        let log = calls.clone();
        let looping = reactor.looping_call_now(Duration::ZERO, move |_, ticks| {
            let _captured = &captured;
            log.push(ticks);
            if log.len() == 3 {
                assert!(!panics, "the third time");
                anyhow::bail!("the third time");
            }
            Ok(())
        });
        reactor.run().unwrap();
        assert_eq!(calls.entries(), [1, 1, 1]);
        assert!(!looping.running() && dropped.get());
        assert_eq!(looping.stop(), Err(TimerError::AlreadyCalled));
        assert_eq!(looping.reset(), Err(TimerError::AlreadyCalled));
    }
    assert_eq!((reactor.stats().callback_errors, reactor.stats().callback_panics), (1, 1));
}

/// A looping call and a hand on it, for what it does to itself.
fn with_itself(
    reactor: &Reactor,
    interval: Duration,
    mut call: impl FnMut(&LoopingCall, usize) + 'static,
) -> LoopingCall {
    let own = Rc::new(RefCell::new(None::<LoopingCall>));
    let (hand, mut number) = (Rc::clone(&own), 0);
    let looping = reactor.looping_call(interval, move |_, _| {
        number += 1;
        call(hand.borrow().as_ref().unwrap(), number);
    });
    *own.borrow_mut() = Some(looping.clone());
    looping
}

#[test]
fn a_looping_call_can_stop_itself() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let (captured, dropped) = drop_flag();
    let calls = Log::new();
    let (log, gone) = (calls.clone(), Rc::clone(&dropped));
    let looping = with_itself(&reactor, MILLISECOND, move |own, number| {
        let _captured = &captured;
        log.push(number);
        if number == 3 {
            assert!(own.running());
            assert_eq!(own.deadline(), None);
            own.stop().unwrap();
            assert!(!own.running());
            // What runs is not dropped under its feet.
            assert!(!gone.get());
            assert_eq!(own.stop(), Err(TimerError::AlreadyCancelled));
        }
    });
    reactor.run().unwrap();
    assert_eq!(calls.entries(), [1, 2, 3]);
    assert!(dropped.get() && !looping.running());
    assert_eq!(reactor.stats().callback_panics, 0);
}

#[test]
fn a_looping_call_stopped_before_its_first_tick_is_never_called() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let looping = reactor.looping_call_now(Duration::ZERO, |_, _| -> () { panic!("stopped") });
    looping.stop().unwrap();
    reactor.run().unwrap();
    assert_eq!(reactor.stats().timers_called, 0);
}

#[test]
fn reset_starts_the_grid_of_a_looping_call_anew() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let looping = reactor.looping_call(HOUR, |_, _| {});
    let first = looping.deadline().unwrap();
    let before = reactor.now();
    looping.reset().unwrap();
    let after = reactor.now();
    let second = looping.deadline().unwrap();
    assert!((before + HOUR..=after + HOUR).contains(&second) && second > first);

    // From inside the call as well, and the ticks start from there.
    let deadlines = Log::new();
    let (log, ticks) = (deadlines.clone(), Log::new());
    let seen = ticks.clone();
    let own = Rc::new(RefCell::new(None::<LoopingCall>));
    let hand = Rc::clone(&own);
    let looping = reactor.looping_call(MILLISECOND, move |handle, ticks| {
        seen.push(ticks);
        if seen.len() == 1 {
            // Several intervals go by, which the new grid knows nothing of.
            std::thread::sleep(MILLISECOND * 10);
            let reset = handle.now();
            hand.borrow().as_ref().unwrap().reset().unwrap();
            let deadline = hand.borrow().as_ref().unwrap().deadline().unwrap();
            log.push((reset, deadline));
        } else {
            hand.borrow().as_ref().unwrap().stop().unwrap();
        }
    });
    *own.borrow_mut() = Some(looping.clone());
    turn_until(&reactor, || !looping.running());
    let [(reset, deadline)] = deadlines.entries()[..] else { panic!("reset once") };
    assert!(deadline >= reset + MILLISECOND);
    assert_eq!(ticks.len(), 2);
}

#[test]
fn an_interval_of_zero_means_once_a_turn_and_starves_nobody() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let turns = Log::new();
    let log = turns.clone();
    reactor.looping_call(Duration::ZERO, move |handle, ticks| {
        assert_eq!(ticks, 1);
        log.push(handle.stats().turns);
    });
    let (heard, fired) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let count = Rc::clone(&heard);
    let port = reactor
        .listen_udp(
            ANY,
            OnDatagram(move |transport: &DatagramTransport, payload: &[u8]| {
                count.set(count.get() + 1);
                transport.write_to(payload, transport.local_addr()?)?;
                Ok(())
            }),
        )
        .unwrap();
    port.write_to(b"x", port.local_addr().unwrap()).unwrap();
    let set = Rc::clone(&fired);
    reactor.call_later(MILLISECOND * 5, move |_| set.set(true));
    turn_until(&reactor, || heard.get() >= 50 && fired.get());
    assert_eq!(turns.entries(), (1..=reactor.stats().turns).collect::<Vec<_>>());
    assert_eq!(reactor.stats().callback_panics, 0);
}

#[test]
fn a_call_of_every_turn_that_ends_after_64_takes_64_turns() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let looping = with_itself(&reactor, Duration::ZERO, |own, number| {
        if number == 64 {
            own.stop().unwrap();
        }
    });
    for turn in 1..=64 {
        assert!(looping.running(), "turn {turn}");
        reactor.iterate(None).unwrap();
    }
    assert!(!looping.running());
    assert_eq!(reactor.stats().timers_called, 64);
}

#[test]
fn a_repeating_call_can_change_its_mind_about_keeping_the_loop() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let looping = with_itself(&reactor, Duration::ZERO, |own, number| {
        if number == 3 {
            own.unref();
        }
    });
    reactor.run().unwrap();
    assert!(looping.running());
    assert_eq!(reactor.stats().timers_called, 3);
    looping.reref();
    assert!(reactor.iterate(Some(Duration::ZERO)).unwrap());
}
