//! `Remote`: calls from other threads.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use strand_reactor::{Handle, Reactor};

use crate::watchdog::watchdog;

const THREADS: usize = 8;
/// A million in all where that takes a second.
const CALLS: usize = if cfg!(debug_assertions) { 10_000 } else { 125_000 };

thread_local! {
    /// The next number of each thread: what the calls see of the loop's side.
    static NEXT: RefCell<Vec<usize>> = RefCell::default();
}

#[test]
fn eight_threads_post_a_million_calls_and_each_keeps_its_order_with_one_wake_per_turn() {
    let _watchdog = watchdog();
    NEXT.with_borrow_mut(|next| *next = vec![0; THREADS]);
    let reactor = Reactor::new().unwrap();
    let keep = reactor.call_later(Duration::from_secs(3600), |_| {});
    let out_of_order = Arc::new(AtomicUsize::new(0));
    let start = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (remote, start) = (reactor.remote(), Arc::clone(&start));
            let out_of_order = Arc::clone(&out_of_order);
            std::thread::spawn(move || {
                start.wait();
                for number in 0..CALLS {
                    let out_of_order = Arc::clone(&out_of_order);
                    let call = move |handle: &Handle| {
                        NEXT.with_borrow_mut(|next| {
                            if next[thread] != number {
                                out_of_order.fetch_add(1, Ordering::Relaxed);
                            }
                            next[thread] += 1;
                            if next.iter().all(|next| *next == CALLS) {
                                handle.stop();
                            }
                        });
                    };
                    remote.call_from_thread(call).unwrap();
                }
            })
        })
        .collect();
    reactor.run().unwrap();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(keep.active());
    NEXT.with_borrow(|next| assert_eq!(*next, vec![CALLS; THREADS]));
    assert_eq!(out_of_order.load(Ordering::Relaxed), 0);
    let stats = reactor.stats();
    assert_eq!(stats.calls, (THREADS * CALLS) as u64);
    assert!(stats.remote_wakes <= stats.turns + 1, "{stats:?}");
}

#[test]
fn a_flood_posted_before_the_loop_turns_wakes_it_once() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let remote = reactor.remote();
    std::thread::spawn(move || {
        for _ in 0..100_000 {
            remote.call_from_thread(|_| {}).unwrap();
        }
    })
    .join()
    .unwrap();
    assert_eq!(reactor.stats().remote_wakes, 1);
    assert_eq!(reactor.stats().calls, 0, "nothing runs before the loop does");
    reactor.run().unwrap();
    assert_eq!(reactor.stats().calls, 100_000);
}

#[test]
fn a_call_posted_from_a_call_runs_in_the_next_turn_with_other_work_in_between() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let log: Rc<RefCell<Vec<&str>>> = Rc::default();
    LOG.set(Some(Rc::clone(&log)));
    let remote = reactor.remote();
    reactor.call_later(Duration::ZERO, |_| note("timer"));
    let again = remote.clone();
    remote
        .call_from_thread(move |_| {
            note("first");
            again.call_from_thread(|_| note("second")).unwrap();
        })
        .unwrap();
    reactor.run().unwrap();
    assert_eq!(*log.borrow(), ["first", "timer", "second"]);
    // No poll slept: a call that waits is enough to come back at once.
    assert!(reactor.stats().turns <= 3);
}

thread_local! {
    static LOG: Cell<Option<Rc<RefCell<Vec<&'static str>>>>> = const { Cell::new(None) };
}

fn note(what: &'static str) {
    let log = LOG.take().unwrap();
    log.borrow_mut().push(what);
    LOG.set(Some(log));
}

#[test]
fn calls_that_a_stop_leaves_over_keep_their_place_before_later_ones() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let log: Rc<RefCell<Vec<&str>>> = Rc::default();
    LOG.set(Some(Rc::clone(&log)));
    let remote = reactor.remote();
    remote.call_from_thread(|handle| handle.stop()).unwrap();
    remote.call_from_thread(|_| note("left over")).unwrap();
    reactor.run().unwrap();
    assert!(log.borrow().is_empty());
    remote.call_from_thread(|_| note("later")).unwrap();
    reactor.run().unwrap();
    assert_eq!(*log.borrow(), ["left over", "later"]);
}

#[test]
fn a_stop_from_a_thread_is_seen_once_and_its_calls_are_kept() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let remote = reactor.remote();
    remote.call_from_thread(|_| {}).unwrap();
    remote.stop();
    reactor.run().unwrap();
    assert_eq!(reactor.stats().calls, 0);
    reactor.run().unwrap();
    assert_eq!(reactor.stats().calls, 1);
}

#[test]
fn a_reactor_may_end_while_a_thread_goes_on_posting_and_gives_the_closure_back() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let remote = reactor.remote();
    let ran = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&ran);
    let thread = std::thread::spawn(move || {
        let mut taken = 0;
        loop {
            let ran = Arc::clone(&counting);
            let call = move |handle: &Handle| {
                if ran.fetch_add(1, Ordering::SeqCst) == 999 {
                    handle.stop();
                }
            };
            match remote.call_from_thread(call) {
                Ok(()) => taken += 1,
                // The closure is whole: it still holds what it captured.
                Err(gone) => {
                    let call = gone.into_inner();
                    assert!(Arc::strong_count(&counting) >= 2);
                    drop(call);
                    return taken;
                }
            }
        }
    });
    let _keep = reactor.call_later(Duration::from_secs(3600), |_| {});
    reactor.run().unwrap();
    assert_eq!(ran.load(Ordering::SeqCst), 1000, "each once, and none after the stop");
    drop(reactor);
    assert!(thread.join().unwrap() >= 1000);
    assert_eq!(Arc::strong_count(&ran), 1, "those that never ran are gone with the reactor");
}
