//! Reaching the loop from other threads.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use crate::Handle;
use crate::callback::CallbackResult;
use crate::net::Wake;

pub(crate) type RemoteCall = Box<dyn FnOnce(&Handle) -> anyhow::Result<()> + Send>;

/// A hand on a reactor that other threads may hold: cheap to clone, and not counted among what
/// keeps [`run`](crate::Reactor::run) going.
///
/// ```
/// use strand_reactor::Reactor;
/// let reactor = Reactor::new()?;
/// let keep_running = reactor.call_later(std::time::Duration::from_secs(60), |_| {});
/// let remote = reactor.remote();
/// let thread = std::thread::spawn(move || {
///     remote.call_from_thread(|handle| handle.stop()).unwrap();
/// });
/// reactor.run()?;
/// thread.join().unwrap();
/// assert!(keep_running.active());
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone)]
pub struct Remote {
    pub(crate) mailbox: Arc<Mailbox>,
}

/// What other threads posted.
pub(crate) struct Mailbox {
    post: Mutex<Post>,
    /// Something was posted since the loop last looked: no second wake is needed.
    posted: AtomicBool,
    wake: Wake,
    wakes: AtomicUsize,
}

#[derive(Default)]
struct Post {
    calls: VecDeque<RemoteCall>,
    stop: bool,
    closed: bool,
}

/// The reactor is gone; the closure comes back with [`into_inner`](Self::into_inner).
pub struct ReactorGone<F>(Mutex<F>);

impl<F> ReactorGone<F> {
    // In a mutex so that the error may be shared between threads, as `?` into anyhow wants,
    // whatever the closure captured.
    fn new(call: F) -> Self {
        Self(Mutex::new(call))
    }

    /// The closure that will not be called.
    pub fn into_inner(self) -> F {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F> fmt::Debug for ReactorGone<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReactorGone(_)")
    }
}

impl<F> fmt::Display for ReactorGone<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reactor is gone")
    }
}

impl<F> std::error::Error for ReactorGone<F> {}

impl Remote {
    /// Runs `call` on the reactor's thread, in one of its next turns. Calls of one thread keep
    /// their order. However many are posted before the loop turns, it is woken once. Calls posted
    /// after the last turn are dropped with the reactor, uncalled.
    ///
    /// # Errors
    /// [`ReactorGone`] with the closure, when the reactor was dropped.
    pub fn call_from_thread<F, R>(&self, call: F) -> Result<(), ReactorGone<F>>
    where
        F: FnOnce(&Handle) -> R + Send + 'static,
        R: CallbackResult,
    {
        {
            let mut post = self.mailbox.lock();
            if post.closed {
                return Err(ReactorGone::new(call));
            }
            post.calls.push_back(Box::new(move |handle| call(handle).into_result()));
        }
        self.mailbox.ring();
        Ok(())
    }

    /// As [`Handle::stop`], from any thread. Nothing happens when the reactor is gone.
    pub fn stop(&self) {
        self.mailbox.lock().stop = true;
        self.mailbox.ring();
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").finish_non_exhaustive()
    }
}

impl Mailbox {
    pub(crate) fn new(wake: Wake) -> Self {
        Self {
            post: Mutex::default(),
            posted: AtomicBool::new(false),
            wake,
            wakes: AtomicUsize::new(0),
        }
    }

    /// No user code runs under this lock, so a poisoned one is as good as new.
    fn lock(&self) -> MutexGuard<'_, Post> {
        self.post.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ring(&self) {
        // The loop clears the flag before it empties the mailbox. So whoever finds it set knows
        // that the loop has yet to look, and will see what was just posted.
        if self.posted.swap(true, Ordering::AcqRel) {
            return;
        }
        self.wakes.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = (self.wake)() {
            tracing::error!(%error, "the reactor cannot be woken; it will see the call at its next turn");
        }
    }

    /// How often the loop was woken.
    pub(crate) fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::Relaxed) as u64
    }

    /// Whether `stop` was asked for since this was last called.
    pub(crate) fn takes_stop(&self) -> bool {
        self.is_posted() && std::mem::take(&mut self.lock().stop)
    }

    /// Posts a call of the reactor's own.
    #[cfg(feature = "threads")]
    pub(crate) fn post(&self, call: RemoteCall) {
        {
            let mut post = self.lock();
            if post.closed {
                drop(post);
                return drop(call);
            }
            post.calls.push_back(call);
        }
        self.ring();
    }

    /// Whether something waits.
    pub(crate) fn is_posted(&self) -> bool {
        self.posted.load(Ordering::Acquire)
    }

    /// Empties the mailbox; also tells whether `stop` was asked for.
    pub(crate) fn collect(&self) -> (VecDeque<RemoteCall>, bool) {
        if !self.posted.swap(false, Ordering::AcqRel) {
            return (VecDeque::new(), false);
        }
        let mut post = self.lock();
        (std::mem::take(&mut post.calls), std::mem::take(&mut post.stop))
    }

    /// Refuses further calls and returns those that will never run.
    pub(crate) fn close(&self) -> VecDeque<RemoteCall> {
        let mut post = self.lock();
        post.closed = true;
        std::mem::take(&mut post.calls)
    }
}

/// Starts a thread that works for the reactor of this one, on whichever core is free.
pub(crate) fn start<F>(name: String, work: F) -> io::Result<JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    #[cfg(feature = "per-core")]
    let cores = crate::per_core::Cores::of_pinned();
    Builder::new().name(name).spawn(move || {
        #[cfg(feature = "per-core")]
        if let Some(cores) = cores {
            cores.spread();
        }
        work();
    })
}

/// How many cores there are for such threads.
#[cfg(feature = "threads")]
pub(crate) fn cores() -> usize {
    #[cfg(feature = "per-core")]
    if let Some(cores) = crate::per_core::Cores::of_pinned() {
        return cores.count();
    }
    std::thread::available_parallelism().map_or(1, usize::from)
}
