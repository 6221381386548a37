//! Work on other threads: a bounded queue, a pool, and the completions, which stay on the loop.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Weak;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::Handle;
use crate::agenda::{Call, Notice};
use crate::callback::{CallbackResult, into_message};
use crate::inner::{Inner, reach};
use crate::reactor::Builder;
use crate::slots::{Key, Slots};
use crate::threads::{self, Mailbox};

/// Runs the user's work and keeps its outcome; what it captured is dropped with it.
type Work = Box<dyn FnOnce() + Send>;

/// Where a job leaves its outcome; empty if it never ran.
type Outcome<T> = Arc<Mutex<Option<Result<T, JobError>>>>;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// As many as the machine has cores, within bounds, unless set.
    threads: Option<usize>,
    waiting: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { threads: None, waiting: 1024 }
    }
}

impl Limits {
    /// The system takes its time to count cores: it is asked when the threads start, not for each
    /// reactor.
    fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| {
            // Jobs mostly wait (for disks, for names), so a small machine needs more than cores.
            threads::cores().clamp(4, 8)
        })
    }
}

impl Builder {
    /// Most threads that run jobs of [`Handle::defer_to_thread`]: at least 1. Unless set, as many
    /// as the machine has cores, but at least 4 and at most 8. All start with the first job.
    pub fn threads(mut self, threads: usize) -> Self {
        self.jobs.threads = Some(threads.max(1));
        self
    }

    /// Most jobs that wait for a thread, beyond which they are [`JobError::Rejected`]: at least 1;
    /// 1,024 unless set.
    pub fn job_queue(mut self, waiting: usize) -> Self {
        self.jobs.waiting = waiting.max(1);
        self
    }
}

/// The loop's side.
pub(crate) struct Jobs {
    limits: Cell<Limits>,
    /// What is to be called when a job ends.
    completions: RefCell<Slots<Call>>,
    pool: RefCell<Option<Pool>>,
}

struct Pool {
    threads: rayon_core::ThreadPool,
    handles: Vec<JoinHandle<()>>,
    queue: Arc<Queue>,
}

/// What the loop and the threads share.
struct Queue {
    state: Mutex<State>,
    mailbox: Arc<Mailbox>,
    threads: usize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(Key, Work)>,
    running: usize,
    /// Tasks of the pool that take jobs from here; at most one for each thread.
    servers: usize,
}

impl Queue {
    /// No user code runs under this lock, so a poisoned one is as good as new.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one job, then queues up again: a job that splits itself over the pool is not
    /// kept waiting by one thread that helps it and meets a long queue here.
    fn serve(self: Arc<Self>) {
        let Some((key, work)) = self.next() else { return };
        let _ended = Ended { queue: self, key };
        work();
    }

    fn next(&self) -> Option<(Key, Work)> {
        let mut state = self.lock();
        let next = state.waiting.pop_front();
        match next {
            Some(_) => state.running += 1,
            None => state.servers -= 1,
        }
        next
    }
}

/// A job that runs; it ends with this, whichever way.
struct Ended {
    queue: Arc<Queue>,
    key: Key,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.queue.lock().running -= 1;
        let queue = Arc::clone(&self.queue);
        rayon_core::spawn_fifo(move || queue.serve());
        let key = self.key;
        self.queue.mailbox.post(Box::new(move |handle| {
            let Some(inner) = handle.upgrade() else { return Ok(()) };
            let completion = inner.jobs.completions.borrow_mut().remove(key);
            if let Some(completion) = completion {
                inner.call_as("job", completion);
            }
            Ok(())
        }));
    }
}

impl Pool {
    fn start(threads: usize, mailbox: &Arc<Mailbox>) -> io::Result<Self> {
        let mut handles = Vec::new();
        let mut failure = None;
        let pool = rayon_core::ThreadPoolBuilder::new()
            .num_threads(threads)
            .panic_handler(|panic| {
                let message = into_message(panic);
                tracing::error!("dropping what a job left behind panicked: {message}");
            })
            .spawn_handler(|thread| {
                let name = format!("strand-job-{}", thread.index());
                match threads::start(name, || thread.run()) {
                    Ok(handle) => {
                        handles.push(handle);
                        Ok(())
                    }
                    Err(error) => {
                        let kind = error.kind();
                        failure = Some(error);
                        Err(kind.into())
                    }
                }
            })
            .build();
        match pool {
            Ok(threads_of) => {
                let queue =
                    Queue { state: Mutex::default(), mailbox: Arc::clone(mailbox), threads };
                Ok(Self { threads: threads_of, handles, queue: Arc::new(queue) })
            }
            Err(error) => {
                join(handles);
                Err(failure.unwrap_or_else(|| io::Error::other(error)))
            }
        }
    }

    fn submit(&self, key: Key, work: Work) {
        let mut state = self.queue.lock();
        state.waiting.push_back((key, work));
        if state.servers < self.queue.threads {
            state.servers += 1;
            drop(state);
            let queue = Arc::clone(&self.queue);
            self.threads.spawn_fifo(move || queue.serve());
        }
    }

    /// Ends the threads, each after the job it has, and waits for them.
    fn end(self) {
        drop(self.threads);
        join(self.handles);
    }
}

fn join(handles: Vec<JoinHandle<()>>) {
    for handle in handles {
        // Jobs do not unwind out of their thread.
        let _ = handle.join();
    }
}

impl Jobs {
    pub(crate) fn new() -> Self {
        Self {
            limits: Cell::default(),
            completions: RefCell::new(Slots::new()),
            pool: RefCell::default(),
        }
    }

    pub(crate) fn set_limits(&self, limits: Limits) {
        self.limits.set(limits);
    }

    /// Whether a job can be taken now; the pool runs if so.
    fn admit(&self, mailbox: &Arc<Mailbox>) -> Result<(), JobError> {
        let limits = self.limits.get();
        let pool = &mut *self.pool.borrow_mut();
        match pool {
            Some(pool) => {
                let waiting = pool.queue.lock().waiting.len();
                if waiting < limits.waiting { Ok(()) } else { Err(JobError::Rejected { waiting }) }
            }
            None => {
                *pool = Some(Pool::start(limits.threads(), mailbox).map_err(JobError::Threads)?);
                Ok(())
            }
        }
    }
}

impl Inner {
    /// Whether a job has not been told its end.
    pub(crate) fn has_jobs(&self) -> bool {
        !self.jobs.completions.borrow().is_empty()
    }

    /// Jobs that wait, and jobs that run.
    pub(crate) fn jobs_under_way(&self) -> (u64, u64) {
        self.jobs.pool.borrow().as_ref().map_or((0, 0), |pool| {
            let state = pool.queue.lock();
            (state.waiting.len() as u64, state.running as u64)
        })
    }

    /// Takes every job that has not begun from the queue; the loop will tell them so.
    pub(crate) fn cancel_waiting_jobs(&self) {
        let waiting = match &*self.jobs.pool.borrow() {
            Some(pool) => std::mem::take(&mut pool.queue.lock().waiting),
            None => return,
        };
        for (key, work) in waiting {
            self.tell_cancelled(key, work);
        }
    }

    fn tell_cancelled(&self, key: Key, work: Work) {
        if let Some(completion) = self.jobs.completions.borrow_mut().remove(key) {
            self.tell(Box::new(move |handle| {
                drop(work);
                completion(handle)
            }));
        }
    }

    fn tell(&self, call: Call) {
        self.core.borrow_mut().agenda.notices.push_back(Notice::Call(call));
    }

    /// Ends the threads: joins them if they are idle, and otherwise leaves each to its last job.
    pub(crate) fn end_threads(&self) {
        let Some(pool) = self.jobs.pool.take() else { return };
        let running = pool.queue.lock().running;
        if running == 0 {
            pool.end();
        } else {
            tracing::warn!(running, "jobs are still running; their threads end after them");
        }
    }

    pub(crate) fn end_idle_threads(&self) {
        if !self.has_jobs() {
            self.end_threads();
        }
    }

    /// Everything, for the end of the reactor; the caller drops it.
    pub(crate) fn take_jobs(&self) -> impl Sized {
        let completions = self.jobs.completions.borrow_mut().drain();
        let waiting = match &*self.jobs.pool.borrow() {
            Some(pool) => std::mem::take(&mut pool.queue.lock().waiting),
            None => VecDeque::new(),
        };
        self.end_threads();
        (completions, waiting)
    }
}

/// Work given to a thread; made by [`Handle::defer_to_thread`]. Dropping this changes nothing.
#[derive(Clone)]
pub struct Job {
    inner: Weak<Inner>,
    /// `None` when the job was never queued.
    key: Option<Key>,
}

impl Job {
    /// Takes the job from the queue; the loop then calls its completion with
    /// [`JobError::Cancelled`].
    ///
    /// # Errors
    /// [`JobCancelError::Running`] when a thread has begun it: it ends as usual.
    /// [`JobCancelError::Finished`] when it has ended or was cancelled,
    /// [`JobCancelError::Closed`] when the reactor is gone.
    ///
    /// ```
    /// use strand_reactor::{JobCancelError, Reactor};
    /// let reactor = Reactor::new()?;
    /// let job = reactor.defer_to_thread(|| 6 * 7, |_, answer| assert_eq!(answer.unwrap(), 42));
    /// reactor.run()?;
    /// assert_eq!(job.cancel(), Err(JobCancelError::Finished));
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn cancel(&self) -> Result<(), JobCancelError> {
        let inner = reach(&self.inner).ok_or(JobCancelError::Closed)?;
        if inner.core.borrow().closed {
            return Err(JobCancelError::Closed);
        }
        let key = self.key.ok_or(JobCancelError::Finished)?;
        if inner.jobs.completions.borrow().get(key).is_none() {
            return Err(JobCancelError::Finished);
        }
        let work = inner.jobs.pool.borrow().as_ref().and_then(|pool| {
            let waiting = &mut pool.queue.lock().waiting;
            let at = waiting.iter().position(|(waiting, _)| *waiting == key)?;
            waiting.remove(at)
        });
        let (key, work) = work.ok_or(JobCancelError::Running)?;
        inner.tell_cancelled(key, work);
        Ok(())
    }

    /// Whether the completion is still to be called.
    pub fn is_pending(&self) -> bool {
        self.inner
            .upgrade()
            .zip(self.key)
            .is_some_and(|(inner, key)| inner.jobs.completions.borrow().get(key).is_some())
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("pending", &self.is_pending()).finish()
    }
}

/// Why a job could not be cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobCancelError {
    /// A thread has begun it: no thread can be stopped from outside. Its completion will come.
    Running,
    /// It has ended, was cancelled before, or was refused.
    Finished,
    /// The reactor is gone.
    Closed,
}

impl fmt::Display for JobCancelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "the job is running and will end as usual",
            Self::Finished => "the job has ended",
            Self::Closed => "the reactor is gone",
        })
    }
}

impl Error for JobCancelError {}

/// Why a job has no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum JobError {
    /// The work panicked with this message.
    Panicked(String),
    /// Too many jobs wait for a thread: try again when some have ended, or make more room with
    /// [`Builder::threads`] or [`Builder::job_queue`].
    Rejected {
        /// Jobs that wait.
        waiting: usize,
    },
    /// It was cancelled before it began, by [`Job::cancel`] or by a shutdown.
    Cancelled,
    /// The reactor is shutting down and takes no jobs.
    ShuttingDown,
    /// The system gave no threads.
    Threads(io::Error),
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(message) => write!(f, "the job panicked: {message}"),
            Self::Rejected { waiting } => write!(
                f,
                "{waiting} jobs wait already: try again later, or allow more threads or a longer \
                 queue"
            ),
            Self::Cancelled => f.write_str("the job was cancelled before it began"),
            Self::ShuttingDown => f.write_str("the reactor is shutting down and takes no jobs"),
            Self::Threads(source) => write!(f, "no threads to run the job: {source}"),
        }
    }
}

impl Error for JobError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Threads(source) => Some(source),
            _ => None,
        }
    }
}

fn outcome_of<T>(outcome: &Outcome<T>) -> MutexGuard<'_, Option<Result<T, JobError>>> {
    outcome.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handle {
    /// Runs `work` on another thread, then calls `done` on the loop with its result: always, and
    /// once, whether the work ended, panicked or never began. For what blocks or computes for
    /// long. Only `work` and its result cross to the thread: `done` need not be `Send`.
    ///
    /// Jobs begin in the order in which they were given, on a bounded number of threads
    /// ([`Builder::threads`]) that start with the first job. They keep `run` going, and the
    /// threads are joined before it returns. At a shutdown, jobs that have not begun are
    /// cancelled, and those that run are waited for, up to
    /// [`Builder::shutdown_limit`](crate::Builder::shutdown_limit). On a reactor that is gone
    /// both closures are dropped; dropping the reactor waits for no job and calls no `done`.
    ///
    /// What the queue or a shutdown refuses ([`JobError::Rejected`], [`JobError::ShuttingDown`])
    /// is told to `done` as well.
    ///
    /// ```
    /// use std::{cell::RefCell, rc::Rc};
    /// let reactor = strand_reactor::Reactor::new()?;
    /// let lines = Rc::new(RefCell::new(0));
    /// let counted = lines.clone();
    /// reactor.defer_to_thread(
    ///     || std::fs::read_to_string(file!()).map_or(0, |text| text.lines().count()),
    ///     move |_, count| {
    ///         *counted.borrow_mut() = count?;
    ///         anyhow::Ok(())
    ///     },
    /// );
    /// reactor.run()?;
    /// assert_eq!(reactor.stats().callback_errors, 0);
    /// # let _ = lines;
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn defer_to_thread<W, T, D, R>(&self, work: W, done: D) -> Job
    where
        W: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
        D: FnOnce(&Self, Result<T, JobError>) -> R + 'static,
        R: CallbackResult + 'static,
    {
        let Some(inner) = self.upgrade().filter(|inner| !inner.core.borrow().closed) else {
            return Job { inner: self.weak(), key: None };
        };
        let admitted = match inner.is_shutting_down() {
            true => Err(JobError::ShuttingDown),
            #[cfg(feature = "sim")]
            false if inner.simulation().is_some() => Ok(()),
            false => inner.jobs.admit(&inner.mailbox),
        };
        if let Err(error) = admitted {
            // What the work captured is dropped by the loop, too.
            inner.tell(Box::new(move |handle| {
                drop(work);
                done(handle, Err(error)).into_result()
            }));
            return Job { inner: self.weak(), key: None };
        }
        let outcome: Outcome<T> = Outcome::default();
        let completion: Call = {
            let outcome = Arc::clone(&outcome);
            Box::new(move |handle| {
                let result = outcome_of(&outcome).take();
                done(handle, result.unwrap_or(Err(JobError::Cancelled))).into_result()
            })
        };
        let work: Work = Box::new(move || {
            // What a panic leaves behind is the work's own, and gone with it.
            let result = catch_unwind(AssertUnwindSafe(work))
                .map_err(|panic| JobError::Panicked(into_message(panic)));
            *outcome_of(&outcome) = Some(result);
        });
        let key = inner.jobs.completions.borrow_mut().insert(completion);
        #[cfg(feature = "sim")]
        if let Some(world) = inner.simulation() {
            self.simulate_job(world.job_time(), key, work);
            return Job { inner: self.weak(), key: Some(key) };
        }
        if let Some(pool) = &*inner.jobs.pool.borrow() {
            pool.submit(key, work);
        }
        Job { inner: self.weak(), key: Some(key) }
    }

    /// On a simulated host a job runs from the first, and is done on the loop when its time is
    /// over.
    #[cfg(feature = "sim")]
    fn simulate_job(&self, takes: std::time::Duration, key: Key, work: Work) {
        self.call_later(takes, move |handle| {
            work();
            let Some(inner) = handle.upgrade() else { return };
            let completion = inner.jobs.completions.borrow_mut().remove(key);
            if let Some(completion) = completion {
                inner.call_as("job", completion);
            }
        });
    }

    /// As [`defer_to_thread`](Self::defer_to_thread) for work that has nobody to tell: an error
    /// or a panic of it, and a refusal, is logged and counted.
    ///
    /// ```
    /// let reactor = strand_reactor::Reactor::new()?;
    /// reactor.call_in_thread(|| Err::<(), _>(anyhow::anyhow!("no such file")));
    /// reactor.run()?;
    /// assert_eq!(reactor.stats().callback_errors, 1);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn call_in_thread<W, R>(&self, work: W) -> Job
    where
        W: FnOnce() -> R + Send + 'static,
        R: CallbackResult,
    {
        self.defer_to_thread(move || work().into_result(), |_, outcome| outcome?)
    }
}

#[cfg(test)]
mod tests {
    use crate::Reactor;

    #[test]
    fn the_pool_starts_with_the_first_job_and_ends_with_the_run() {
        let reactor = Reactor::builder().threads(2).build().unwrap();
        let threads =
            || reactor.inner.jobs.pool.borrow().as_ref().map_or(0, |pool| pool.handles.len());
        reactor.run().unwrap();
        assert_eq!(threads(), 0);
        reactor.call_in_thread(|| {});
        assert_eq!(threads(), 2);
        reactor.run().unwrap();
        assert_eq!(threads(), 0);
    }

    /// Panics when it is dropped.
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("dropped");
            }
        }
    }

    #[test]
    fn a_job_whose_result_cannot_even_be_dropped_ends_and_so_do_those_behind_it() {
        let reactor = Reactor::builder().threads(1).build().unwrap();
        reactor.defer_to_thread(
            || std::panic::panic_any(Bomb),
            |_, outcome: Result<(), _>| {
                assert!(outcome.is_err());
            },
        );
        reactor.defer_to_thread(|| Bomb, |_, bomb| std::mem::forget(bomb));
        reactor.defer_to_thread(|| 1, |_, one| assert_eq!(one.unwrap(), 1));
        reactor.run().unwrap();
        assert_eq!(reactor.stats().callback_panics, 0);
    }
}
