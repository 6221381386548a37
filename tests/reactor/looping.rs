//! Repeating calls.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use strand_reactor::{DatagramTransport, LoopingCall, Reactor, TimerError};

use crate::support::{ANY, Log, OnDatagram, drop_flag, turn_until, watchdog};

const HOUR: Duration = Duration::from_secs(3600);
const MILLISECOND: Duration = Duration::from_millis(1);

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
