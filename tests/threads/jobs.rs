//! `defer_to_thread`: work on a bounded pool, completions on the loop.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use strand_reactor::{Handle, Job, JobCancelError, JobError, Reactor, ShutdownPhase};

use crate::watchdog::watchdog;

/// Outcomes, in the order in which the loop was told.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    /// A completion that notes how the job ended. It is not `Send`.
    fn done<T: std::fmt::Debug>(&self) -> impl FnOnce(&Handle, Result<T, JobError>) + use<T> {
        let log = Rc::clone(&self.0);
        move |_, outcome| {
            let outcome = match outcome {
                Ok(value) => format!("{value:?}"),
                Err(JobError::Panicked(message)) => format!("panicked: {message}"),
                Err(JobError::Rejected { waiting }) => format!("rejected behind {waiting}"),
                Err(JobError::Cancelled) => "cancelled".to_owned(),
                Err(JobError::ShuttingDown) => "shutting down".to_owned(),
                Err(other) => format!("other: {other}"),
            };
            log.borrow_mut().push(outcome);
        }
    }

    fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

/// Occupies a thread until the sender is dropped; returns when it runs.
fn occupy(reactor: &Handle, log: &Log) -> (Job, Sender<()>) {
    let (release, released) = channel::<()>();
    let (begun, begins) = channel();
    let work = move || {
        begun.send(()).unwrap();
        let _ = released.recv();
        "released"
    };
    let job = reactor.defer_to_thread(work, log.done());
    begins.recv().unwrap();
    (job, release)
}

fn one_thread() -> Reactor {
    Reactor::builder().threads(1).job_queue(2).build().unwrap()
}

#[test]
fn a_result_comes_back_to_the_loop_and_the_loop_does_not_wait_for_it() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let here = thread::current().id();
    let told = Rc::new(Cell::new(false));
    let (release, released): (Sender<()>, Receiver<()>) = channel();
    let telling = Rc::clone(&told);
    reactor.defer_to_thread(
        move || {
            released.recv().unwrap();
            (thread::current().id(), thread::current().name().map(str::to_owned))
        },
        move |handle, outcome| {
            let (there, name) = outcome.unwrap();
            assert_ne!(there, here);
            assert_eq!(thread::current().id(), here);
            assert!(name.unwrap().starts_with("strand-job-"));
            assert!(handle.is_running());
            telling.set(true);
        },
    );
    // While the job waits for it, the loop runs timers.
    reactor.call_later(Duration::ZERO, move |_| release.send(()));
    reactor.run().unwrap();
    assert!(told.get());
    assert_eq!(reactor.stats().callback_panics, 0);
}

#[test]
fn a_panic_arrives_as_an_error_with_its_message_and_the_thread_lives_on() {
    let _watchdog = watchdog();
    let reactor = Reactor::builder().threads(1).build().unwrap();
    let log = Log::default();
    reactor.defer_to_thread(|| -> u8 { panic!("number {}", 7) }, log.done());
    reactor.defer_to_thread(|| -> u8 { std::panic::panic_any(7) }, log.done());
    let after = reactor.defer_to_thread(|| 1_u8, log.done());
    drop(after); // changes nothing
    reactor.run().unwrap();
    let expected = ["panicked: number 7", "panicked: a value that is no text", "1"];
    assert_eq!(log.take(), expected);
    assert_eq!(reactor.stats().callback_panics, 0);
}

#[test]
fn a_failure_without_a_receiver_is_counted_as_one_of_a_callback() {
    let _watchdog = watchdog();
    let reactor = Reactor::builder().catch_panics(false).build().unwrap();
    reactor.call_in_thread(|| -> () { panic!("nobody listens") });
    reactor.call_in_thread(|| Err::<(), _>(anyhow::anyhow!("nor here")));
    reactor.call_in_thread(|| {});
    reactor.run().unwrap();
    assert_eq!((reactor.stats().callback_errors, reactor.stats().callback_panics), (2, 0));
}

/// What a panic may carry at worst.
struct Spiteful;

impl Drop for Spiteful {
    fn drop(&mut self) {
        panic!("dropped, on purpose");
    }
}

#[test]
fn a_panic_whose_value_panics_when_dropped_is_no_cancelled_job() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let log = Log::default();
    reactor.defer_to_thread(|| -> u8 { std::panic::panic_any(Spiteful) }, log.done());
    reactor.run().unwrap();
    assert_eq!(log.take(), ["panicked: a value that is no text"]);
}

#[test]
fn a_completion_that_fails_or_panics_is_contained_as_any_callback() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    reactor.defer_to_thread(|| {}, |_, _| Err::<(), _>(anyhow::anyhow!("no")));
    reactor.defer_to_thread(|| {}, |_, _| -> () { panic!("no") });
    reactor.run().unwrap();
    assert_eq!((reactor.stats().callback_errors, reactor.stats().callback_panics), (1, 1));
}

#[test]
fn jobs_share_a_bounded_number_of_threads() {
    let _watchdog = watchdog();
    let reactor = Reactor::builder().threads(3).build().unwrap();
    let together = Arc::new(Barrier::new(3));
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let ids: Arc<Mutex<HashSet<ThreadId>>> = Arc::default();
    for number in 0..300 {
        let (now, most, ids) = (Arc::clone(&now), Arc::clone(&most), Arc::clone(&ids));
        let together = Arc::clone(&together);
        reactor.call_in_thread(move || {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            ids.lock().unwrap().insert(thread::current().id());
            if number < 3 {
                // Passes only if three jobs run at a time.
                together.wait();
            }
            now.fetch_sub(1, Ordering::SeqCst);
        });
    }
    reactor.run().unwrap();
    assert_eq!(most.load(Ordering::SeqCst), 3);
    assert_eq!(ids.lock().unwrap().len(), 3);
    assert_eq!(reactor.stats().callback_errors, 0);
}

#[test]
fn jobs_begin_in_the_order_in_which_they_were_given() {
    let _watchdog = watchdog();
    let reactor = Reactor::builder().threads(1).build().unwrap();
    let order: Arc<Mutex<Vec<usize>>> = Arc::default();
    for number in 0..100 {
        let order = Arc::clone(&order);
        reactor.call_in_thread(move || order.lock().unwrap().push(number));
    }
    reactor.run().unwrap();
    assert!(order.lock().unwrap().iter().copied().eq(0..100));
}

#[test]
fn a_full_queue_rejects_and_the_gauges_tell_its_length() {
    let _watchdog = watchdog();
    let (reactor, log) = (one_thread(), Log::default());
    let (_, release) = occupy(&reactor, &log);
    let gauges = || (reactor.stats().jobs_running, reactor.stats().jobs_waiting);
    assert_eq!(gauges(), (1, 0));
    for name in ["a", "b", "c"] {
        let job = reactor.defer_to_thread(move || name, log.done());
        assert_eq!(job.is_pending(), name != "c");
        assert_eq!(job.cancel().is_err(), name == "c");
        reactor.defer_to_thread(move || name, log.done());
    }
    assert_eq!(gauges(), (1, 2));
    assert!(log.take().is_empty(), "a refusal, too, is told by the loop");
    drop(release);
    reactor.run().unwrap();
    let mut seen = log.take();
    seen.sort();
    let expected = [
        "\"a\"",
        "\"b\"",
        "\"released\"",
        "cancelled",
        "cancelled",
        "rejected behind 2",
        "rejected behind 2",
    ];
    assert_eq!(seen, expected);
    assert_eq!(gauges(), (0, 0));
}

#[test]
fn a_waiting_job_can_be_cancelled_and_a_running_one_cannot() {
    let _watchdog = watchdog();
    let (reactor, log) = (one_thread(), Log::default());
    let (running, release) = occupy(&reactor, &log);
    let ran = Arc::new(AtomicBool::new(false));
    let (running_flag, captured) = (Arc::clone(&ran), Arc::downgrade(&ran));
    let waiting =
        reactor.defer_to_thread(move || running_flag.store(true, Ordering::SeqCst), log.done());
    assert_eq!(running.cancel(), Err(JobCancelError::Running));
    assert_eq!(waiting.cancel(), Ok(()));
    assert_eq!(waiting.cancel(), Err(JobCancelError::Finished));
    assert!(!waiting.is_pending() && running.is_pending());
    assert!(log.take().is_empty());
    drop(release);
    reactor.run().unwrap();
    let mut seen = log.take();
    seen.sort();
    assert_eq!(seen, ["\"released\"", "cancelled"]);
    assert!(!ran.load(Ordering::SeqCst));
    assert_eq!(captured.strong_count(), 1, "what it captured is gone");
    assert_eq!(running.cancel(), Err(JobCancelError::Finished));
    drop(reactor);
    assert_eq!(running.cancel(), Err(JobCancelError::Closed));
}

/// Tells when a thread has ended.
struct OnExit(Arc<AtomicUsize>);

impl Drop for OnExit {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

thread_local! {
    static ON_EXIT: RefCell<Option<OnExit>> = const { RefCell::new(None) };
}

fn watch_exit(reactor: &Handle, ended: &Arc<AtomicUsize>) {
    let ended = Arc::clone(ended);
    reactor.call_in_thread(move || {
        ON_EXIT.with_borrow_mut(|slot| *slot = Some(OnExit(ended)));
    });
}

#[test]
fn the_threads_are_joined_before_run_returns_and_start_again_at_the_next_use() {
    let _watchdog = watchdog();
    let reactor = Reactor::builder().threads(1).build().unwrap();
    let ended = Arc::new(AtomicUsize::new(0));
    for round in 1..=3 {
        watch_exit(&reactor, &ended);
        if round == 2 {
            // By a stop, while the job may be running or waiting.
            let stopping = Rc::new(Cell::new(false));
            let seen = Rc::clone(&stopping);
            reactor.defer_to_thread(
                || {},
                move |handle, _| {
                    seen.set(true);
                    handle.stop();
                },
            );
            reactor.run().unwrap();
            assert!(stopping.get());
        } else {
            reactor.run().unwrap();
        }
        assert_eq!(ended.load(Ordering::SeqCst), round);
    }
}

#[test]
fn a_shutdown_waits_for_running_jobs_and_cancels_those_that_wait() {
    let _watchdog = watchdog();
    let (reactor, log) = (one_thread(), Log::default());
    let (_, release) = occupy(&reactor, &log);
    reactor.defer_to_thread(|| "never", log.done());
    let done = log.done::<&str>();
    reactor
        .on_shutdown(ShutdownPhase::During, move |handle| {
            handle.defer_to_thread(|| "too late", done);
            // The loop turns while it waits.
            handle.call_later(Duration::from_millis(5), move |_| drop(release));
        })
        .unwrap();
    let seen = log.clone();
    reactor
        .on_shutdown(ShutdownPhase::After, move |_| seen.0.borrow_mut().push("after".to_owned()))
        .unwrap();
    reactor.stop();
    reactor.run().unwrap();
    assert_eq!(log.take(), ["shutting down", "cancelled", "\"released\"", "after"]);
}

#[test]
fn a_shutdown_past_its_limit_leaves_a_job_to_its_thread_and_a_later_run_tells_its_end() {
    let _watchdog = watchdog();
    let limit = Duration::from_millis(5);
    let reactor = Reactor::builder().threads(1).shutdown_limit(limit).build().unwrap();
    let log = Log::default();
    let (job, release) = occupy(&reactor, &log);
    reactor.stop();
    reactor.run().unwrap();
    assert!(log.take().is_empty());
    assert!(job.is_pending());
    // New threads serve meanwhile.
    reactor.defer_to_thread(|| "new", log.done());
    reactor.call_later(Duration::from_millis(5), move |_| drop(release));
    reactor.run().unwrap();
    let mut seen = log.take();
    seen.sort();
    assert_eq!(seen, ["\"new\"", "\"released\""]);
}

#[test]
fn crash_leaves_jobs_alone() {
    let _watchdog = watchdog();
    let (reactor, log) = (one_thread(), Log::default());
    let (_, release) = occupy(&reactor, &log);
    reactor.defer_to_thread(|| "waiting", log.done());
    reactor.crash();
    reactor.run().unwrap();
    assert!(log.take().is_empty());
    drop(release);
    reactor.run().unwrap();
    assert_eq!(log.take(), ["\"released\"", "\"waiting\""]);
}

#[test]
fn dropping_the_reactor_calls_nothing_and_ends_the_threads() {
    let _watchdog = watchdog();
    let (reactor, log) = (one_thread(), Log::default());
    let ended = Arc::new(AtomicUsize::new(0));
    watch_exit(&reactor, &ended);
    reactor.run().unwrap();
    assert_eq!(ended.load(Ordering::SeqCst), 1);

    let (job, release) = occupy(&reactor, &log);
    let value = Arc::new(());
    let captured = Arc::clone(&value);
    reactor.defer_to_thread(move || drop(captured), log.done());
    let handle = (*reactor).clone();
    drop(reactor); // does not wait for the job
    assert_eq!(Arc::strong_count(&value), 1);
    assert!(log.take().is_empty());
    assert!(!job.is_pending());
    drop(release);
    let job = handle.defer_to_thread(|| {}, log.done());
    assert_eq!(job.cancel(), Err(JobCancelError::Closed));
    assert!(log.take().is_empty());
}

#[test]
fn jobs_end_in_iterate_as_well() {
    let _watchdog = watchdog();
    let (reactor, log) = (Reactor::new().unwrap(), Log::default());
    reactor.defer_to_thread(|| 5, log.done());
    while reactor.iterate(None).unwrap() {}
    assert_eq!(log.take(), ["5"]);
    let (_, release) = occupy(&reactor, &log);
    reactor.stop();
    assert!(reactor.iterate(Some(Duration::ZERO)).unwrap(), "held back by the job");
    assert!(reactor.is_shutting_down());
    drop(release);
    while reactor.iterate(None).unwrap() {}
    assert!(!reactor.is_shutting_down());
    assert_eq!(log.take(), ["\"released\""]);
}

#[test]
fn a_completion_may_give_the_next_job() {
    let _watchdog = watchdog();
    fn count_down(handle: &Handle, left: u32, told: Rc<Cell<u32>>) {
        handle.defer_to_thread(
            move || left,
            move |handle, outcome| {
                told.set(told.get() + 1);
                match outcome? {
                    0 => {}
                    left => count_down(handle, left - 1, told),
                }
                anyhow::Ok(())
            },
        );
    }
    let reactor = Reactor::new().unwrap();
    let told = Rc::new(Cell::new(0));
    count_down(&reactor, 100, Rc::clone(&told));
    reactor.run().unwrap();
    assert_eq!(told.get(), 101);
}
