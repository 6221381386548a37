//! The weak hand on a reactor that carries its API.

use std::fmt;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use crate::agenda::Call;
use crate::callback::CallbackResult;
use crate::inner::{Inner, Stop, reach};
use crate::stats::ReactorStats;
use crate::threads::{Mailbox, Remote};

/// A weak hand on a [`Reactor`](crate::Reactor), cheap to clone and to store: it keeps nothing alive. Once the
/// reactor is gone, calls return a typed `Closed` error or do nothing, as each one says.
#[derive(Clone)]
pub struct Handle {
    inner: Weak<Inner>,
}

impl Handle {
    pub(crate) fn upgrade(&self) -> Option<Rc<Inner>> {
        reach(&self.inner)
    }

    pub(crate) fn from_weak(inner: Weak<Inner>) -> Self {
        Self { inner }
    }

    pub(crate) fn weak(&self) -> Weak<Inner> {
        self.inner.clone()
    }

    /// Whether the reactor is gone.
    pub fn is_closed(&self) -> bool {
        self.upgrade().is_none_or(|inner| inner.core.borrow().closed)
    }

    /// Makes [`run`](crate::Reactor::run) return: the callback under way ends, no other begins, every
    /// open port is stopped with [`StopReason::Shutdown`](crate::StopReason::Shutdown), and `run` returns. Called before
    /// `run`, it makes the next `run` return in the same way at once; called during a shutdown, it
    /// changes nothing.
    ///
    /// Hooks of [`on_shutdown`](Self::on_shutdown) come before, between and after. As long as a
    /// [`ShutdownHold`](crate::ShutdownHold) or a job on a thread holds the shutdown back, the loop goes on as usual.
    pub fn stop(&self) {
        if let Some(inner) = self.upgrade() {
            inner.request_stop(Stop::Orderly);
        }
    }

    /// Makes [`run`](crate::Reactor::run) return and leaves everything as it is: ports stay open, timers
    /// stay set, and the next `run` goes on. No hook of [`on_shutdown`](Self::on_shutdown) is called; those of a shutdown
    /// that is only held back wait for the next.
    pub fn crash(&self) {
        if let Some(inner) = self.upgrade() {
            inner.request_stop(Stop::Crash);
        }
    }

    /// Whether `run` or `iterate` is under way.
    pub fn is_running(&self) -> bool {
        self.upgrade().is_some_and(|inner| inner.running.get())
    }

    /// Calls `call` on the loop: when it starts, or in its next turn. In order, never inside this
    /// call. On a reactor that is gone the closure is dropped.
    ///
    /// ```
    /// let reactor = strand_reactor::Reactor::new()?;
    /// reactor.call_when_running(|handle| assert!(handle.is_running()));
    /// reactor.run()?;
    /// assert_eq!(reactor.stats().calls, 1);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn call_when_running<F, R>(&self, call: F)
    where
        F: FnOnce(&Self) -> R + 'static,
        R: CallbackResult + 'static,
    {
        if let Some(inner) = self.upgrade()
            && !inner.core.borrow().closed
        {
            let call: Call = Box::new(move |handle| call(handle).into_result());
            inner.core.borrow_mut().agenda.calls.push_back(call);
        }
    }

    /// The time by the reactor's clock, which never goes back; the system's when the reactor is
    /// gone.
    #[allow(clippy::disallowed_methods, reason = "a reactor that is gone has no clock")]
    pub fn now(&self) -> Instant {
        self.upgrade().map_or_else(Instant::now, |inner| inner.now())
    }

    /// A hand for other threads.
    ///
    /// ```
    /// let reactor = strand_reactor::Reactor::new()?;
    /// let remote = reactor.remote();
    /// drop(reactor);
    /// assert!(remote.call_from_thread(|_| {}).is_err());
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn remote(&self) -> Remote {
        match self.upgrade() {
            Some(inner) => Remote { mailbox: Arc::clone(&inner.mailbox) },
            None => {
                let mailbox = Mailbox::new(Arc::new(|| Ok(())));
                mailbox.close();
                Remote { mailbox: Arc::new(mailbox) }
            }
        }
    }

    /// What the reactor has done so far.
    pub fn stats(&self) -> ReactorStats {
        let Some(inner) = self.upgrade() else { return ReactorStats::default() };
        let mut stats = inner.core.borrow().agenda.stats;
        stats.remote_wakes = inner.mailbox.wakes();
        let busy = inner.driver.borrow().busy_polls();
        (stats.busy_polls, stats.busy_poll_hits) = (busy.waits, busy.hits);
        (stats.jobs_waiting, stats.jobs_running) = inner.jobs_under_way();
        (stats.lookups, stats.pending_lookups) = inner.names.gauges();
        #[cfg(feature = "dns")]
        {
            (stats.resolver_tasks, stats.resolver_sockets) = inner.executor.gauges();
        }
        stats
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("closed", &self.is_closed()).finish()
    }
}
