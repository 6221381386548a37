//! The end of a run: hooks in three phases, and what may hold them back.
//!
//! `stop` only asks. Between two turns the loop sees it and goes from stage to stage:
//!
//! | stage | what happens | the loop turns while |
//! |---|---|---|
//! | before | hooks; everything goes on as usual | a [`ShutdownHold`] lives |
//! | during | hooks, then every port stops; nothing opens any more | jobs run on threads |
//! | after | hooks; `run` returns | |

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use crate::agenda::Call;
use crate::callback::CallbackResult;
use crate::error::StopReason;
use crate::inner::{Inner, Stop};
use crate::{Handle, Reactor};

/// When a hook of [`Handle::on_shutdown`] is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ShutdownPhase {
    /// Everything still works: ports are open and may be opened, timers run. A hook that needs
    /// time takes a [`ShutdownHold`].
    Before,
    /// The ports are about to be stopped. They may be written to; none can be opened.
    During,
    /// Every port is closed, and no job runs any more.
    After,
}

/// How long each phase is waited for unless [`Builder::shutdown_limit`](crate::Builder::shutdown_limit) says otherwise.
pub(crate) const DEFAULT_LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// No shutdown is under way.
    Open,
    Before,
    During,
    After,
}

/// What the loop does next.
pub(crate) enum Step {
    /// A turn, sleeping for at most this long.
    Turn(Option<Duration>),
    /// Nothing is left that could call back.
    Idle,
    /// The run was ended.
    Left,
}

pub(crate) struct Shutdown {
    stage: Cell<Stage>,
    /// In the order of their calls.
    hooks: RefCell<BTreeMap<(ShutdownPhase, u64), Call>>,
    next_hook: Cell<u64>,
    holds: Cell<usize>,
    limit: Cell<Duration>,
    /// When the present stage stops waiting.
    deadline: Cell<Option<Instant>>,
    /// Nothing is waited for any more.
    forced: Cell<bool>,
    /// The ports were told to stop.
    stopped: Cell<bool>,
}

impl Shutdown {
    pub(crate) fn new() -> Self {
        Self {
            stage: Cell::new(Stage::Open),
            hooks: RefCell::default(),
            next_hook: Cell::new(0),
            holds: Cell::new(0),
            limit: Cell::new(DEFAULT_LIMIT),
            deadline: Cell::new(None),
            forced: Cell::new(false),
            stopped: Cell::new(false),
        }
    }

    pub(crate) fn set_limit(&self, limit: Duration) {
        self.limit.set(limit);
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.stage.get() != Stage::Open
    }

    /// Ends all waiting: somebody insists.
    pub(crate) fn force(&self) {
        self.forced.set(true);
    }

    /// Hooks that will not be called; the caller drops them.
    pub(crate) fn take_hooks(&self) -> impl Sized {
        std::mem::take(&mut *self.hooks.borrow_mut())
    }

    fn enter(&self, stage: Stage, now: Instant) {
        self.stage.set(stage);
        self.deadline.set(now.checked_add(self.limit.get()));
        if stage == Stage::Open {
            self.forced.set(false);
            self.stopped.set(false);
        }
    }

    fn next_of(&self, phase: ShutdownPhase) -> Option<Call> {
        let hooks = &mut *self.hooks.borrow_mut();
        let key = *hooks.range((phase, 0)..=(phase, u64::MAX)).next()?.0;
        hooks.remove(&key)
    }

    /// Whether it is too late to register for `phase`.
    fn has_begun(&self, phase: ShutdownPhase) -> bool {
        self.stage.get()
            >= match phase {
                ShutdownPhase::Before => Stage::Before,
                ShutdownPhase::During => Stage::During,
                ShutdownPhase::After => Stage::After,
            }
    }
}

impl Inner {
    /// Whether what the present stage waited for is there, or is waited for no more.
    pub(crate) fn shutdown_may_go_on(&self) -> bool {
        let shutdown = &self.shutdown;
        match shutdown.stage.get() {
            Stage::Open => false,
            Stage::Before => shutdown.forced.get() || shutdown.holds.get() == 0,
            Stage::During => {
                shutdown.forced.get() || !(self.has_jobs() || crate::stream::is_flushing(self))
            }
            Stage::After => true,
        }
    }

    /// The first signal asks for a shutdown, one that comes during it ends the waiting.
    /// When a shutdown goes on although something holds it back, in nanoseconds of the reactor's
    /// clock.
    #[cfg(feature = "sim")]
    pub(crate) fn shutdown_deadline(&self) -> Option<u64> {
        if !self.shutdown.is_under_way() {
            return None;
        }
        self.shutdown.deadline.get().map(|at| self.nanoseconds(at))
    }

    #[cfg(feature = "signals")]
    pub(crate) fn stop_by_signal(&self) {
        // Also one that comes before the loop has looked at the first.
        if self.shutdown.is_under_way() || self.stop.get() == Stop::Orderly {
            self.shutdown.force();
        } else {
            self.request_stop(Stop::Orderly);
        }
    }

    /// How long the present stage still waits; `None` when it goes on.
    fn shutdown_waits(&self) -> Option<Duration> {
        if self.shutdown_may_go_on() {
            return None;
        }
        // A deadline beyond what the clock can tell never comes.
        let Some(deadline) = self.shutdown.deadline.get() else { return Some(Duration::MAX) };
        let left = deadline.saturating_duration_since(self.now());
        if left.is_zero() {
            tracing::warn!(
                holds = self.shutdown.holds.get(),
                jobs = self.has_jobs(),
                "the shutdown was held back past its limit and goes on"
            );
            return None;
        }
        Some(left)
    }

    /// Calls the hooks of a phase; a panic that is let through leaves the rest for later.
    fn run_hooks(self: &Rc<Self>, phase: ShutdownPhase) {
        while !self.has_panic()
            && let Some(hook) = self.shutdown.next_of(phase)
        {
            self.call_as("shutdown hook", hook);
        }
    }
}

impl Reactor {
    /// Goes on with a shutdown as far as it goes without a turn, and tells what is next.
    pub(crate) fn step(&self) -> Step {
        let step = self.next_step();
        self.inner.resume_panic();
        step
    }

    fn next_step(&self) -> Step {
        let inner = &self.inner;
        let shutdown = &inner.shutdown;
        loop {
            let stop = inner.collect_stop();
            match shutdown.stage.get() {
                Stage::Open => match stop {
                    Stop::No if inner.is_alive() => return Step::Turn(None),
                    Stop::No => return Step::Idle,
                    Stop::Crash => {
                        inner.stop.take();
                        shutdown.enter(Stage::Open, inner.now());
                        return Step::Left;
                    }
                    Stop::Orderly => {
                        inner.stop.take();
                        shutdown.enter(Stage::Before, inner.now());
                    }
                },
                Stage::Before => {
                    inner.run_hooks(ShutdownPhase::Before);
                    if inner.stop.take() == Stop::Crash {
                        shutdown.enter(Stage::Open, inner.now());
                        return Step::Left;
                    }
                    if inner.has_panic() {
                        return Step::Left;
                    }
                    if let Some(left) = inner.shutdown_waits() {
                        return Step::Turn(Some(left));
                    }
                    inner.shutting_down.set(true);
                    shutdown.enter(Stage::During, inner.now());
                }
                Stage::During => {
                    inner.run_hooks(ShutdownPhase::During);
                    if inner.has_panic() {
                        return Step::Left;
                    }
                    if !shutdown.stopped.replace(true) {
                        self.stop_ports();
                        inner.cancel_waiting_jobs();
                    }
                    self.notices();
                    if inner.stop.take() == Stop::Crash {
                        shutdown.force();
                    }
                    if inner.has_panic() {
                        return Step::Left;
                    }
                    if let Some(left) = inner.shutdown_waits() {
                        return Step::Turn(Some(left));
                    }
                    self.end_connections();
                    inner.end_threads();
                    shutdown.enter(Stage::After, inner.now());
                }
                Stage::After => {
                    inner.run_hooks(ShutdownPhase::After);
                    if inner.has_panic() {
                        return Step::Left;
                    }
                    self.notices();
                    inner.stop.take();
                    inner.shutting_down.set(false);
                    shutdown.enter(Stage::Open, inner.now());
                    return Step::Left;
                }
            }
        }
    }

    /// Tells every open port and connection to stop, and waits until each port has.
    fn stop_ports(&self) {
        let inner = &*self.inner;
        {
            let core = &mut *inner.core.borrow_mut();
            for key in core.ports.keys().collect::<Vec<_>>() {
                if let Some(port) = core.ports.get_mut(key) {
                    port.begin_close(StopReason::Shutdown, &mut core.agenda);
                }
            }
            crate::unix::begin_shutdown(core);
        }
        crate::stream::begin_shutdown(inner);
        while inner.has_datagram_ports() {
            self.notices();
        }
        // The completions of the last ones.
        self.notices();
    }

    /// What is left of the connections ends: they have flushed, or were waited for long enough.
    fn end_connections(&self) {
        let inner = &*self.inner;
        crate::stream::end_shutdown(inner);
        while !inner.is_empty() {
            self.notices();
        }
        self.notices();
    }
}

/// A hook that waits for a shutdown; made by [`Handle::on_shutdown`]. Dropping this changes
/// nothing: the hook is still called.
pub struct ShutdownHook {
    inner: Weak<Inner>,
    key: (ShutdownPhase, u64),
    removed: Cell<bool>,
}

impl ShutdownHook {
    /// Prevents the call and drops the closure, before this returns. Hooks may remove hooks, of
    /// their own phase or a later one.
    ///
    /// # Errors
    /// [`ShutdownError::AlreadyCalled`] when it has run or is running,
    /// [`ShutdownError::AlreadyRemoved`] the second time, [`ShutdownError::Closed`] when the
    /// reactor is gone.
    ///
    /// ```
    /// use strand_reactor::{Reactor, ShutdownError, ShutdownPhase};
    /// let reactor = Reactor::new()?;
    /// let hook = reactor.on_shutdown(ShutdownPhase::Before, |_| println!("never"))?;
    /// hook.remove()?;
    /// assert_eq!(hook.remove(), Err(ShutdownError::AlreadyRemoved));
    /// reactor.stop();
    /// reactor.run()?;
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn remove(&self) -> Result<(), ShutdownError> {
        if self.removed.get() {
            return Err(ShutdownError::AlreadyRemoved);
        }
        let inner = self.inner.upgrade().ok_or(ShutdownError::Closed)?;
        let hook = inner.shutdown.hooks.borrow_mut().remove(&self.key);
        match hook {
            Some(hook) => {
                self.removed.set(true);
                drop(hook);
                Ok(())
            }
            None if inner.core.borrow().closed => Err(ShutdownError::Closed),
            None => Err(ShutdownError::AlreadyCalled),
        }
    }

    /// The phase it was registered for.
    pub fn phase(&self) -> ShutdownPhase {
        self.key.0
    }
}

impl fmt::Debug for ShutdownHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownHook").field("phase", &self.key.0).finish_non_exhaustive()
    }
}

/// Holds a shutdown back before its second phase, while the loop goes on as usual; made by
/// [`Handle::hold_shutdown`], ended by being dropped.
///
/// It does not keep [`run`](crate::Reactor::run) going when no shutdown is under way, and is
/// overruled by [`Builder::shutdown_limit`](crate::Builder::shutdown_limit) and by a second
/// signal.
#[must_use = "dropping it lets the shutdown go on"]
pub struct ShutdownHold {
    inner: Weak<Inner>,
}

impl Drop for ShutdownHold {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade() {
            inner.touch();
            let holds = &inner.shutdown.holds;
            holds.set(holds.get() - 1);
        }
    }
}

impl fmt::Debug for ShutdownHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownHold").finish_non_exhaustive()
    }
}

/// Why a shutdown hook was not registered or removed, or a hold not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShutdownError {
    /// The phase has begun: do the work now, or register for a later one.
    TooLate,
    /// The hook has run, or is running.
    AlreadyCalled,
    /// The hook was removed before.
    AlreadyRemoved,
    /// The reactor is gone.
    Closed,
}

impl fmt::Display for ShutdownError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLate => {
                "this phase of the shutdown has begun: do the work now, or choose a later phase"
            }
            Self::AlreadyCalled => "the hook has been called",
            Self::AlreadyRemoved => "the hook was removed",
            Self::Closed => "the reactor is gone",
        })
    }
}

impl Error for ShutdownError {}

impl Handle {
    /// Calls `hook` once, in that phase of the next shutdown: after [`stop`](Self::stop), or a
    /// signal of `Builder::stop_on_signals` (feature `signals`). Hooks of a phase
    /// are called in the order in which they were registered; one that fails is logged and keeps
    /// no other from being called.
    ///
    /// A run that ends because nothing is left to do, or by [`crash`](Self::crash), is no shutdown:
    /// its hooks wait for the next run. Dropping the reactor drops them uncalled.
    ///
    /// # Errors
    /// [`ShutdownError::TooLate`] when the phase has begun, [`ShutdownError::Closed`] when the
    /// reactor is gone; the closure is dropped.
    ///
    /// ```
    /// use std::{cell::RefCell, rc::Rc};
    /// use strand_reactor::{Reactor, ShutdownPhase};
    /// let reactor = Reactor::new()?;
    /// let order = Rc::new(RefCell::new(Vec::new()));
    /// for phase in [ShutdownPhase::After, ShutdownPhase::Before, ShutdownPhase::During] {
    ///     let order = order.clone();
    ///     reactor.on_shutdown(phase, move |_| order.borrow_mut().push(phase))?;
    /// }
    /// reactor.stop();
    /// reactor.run()?;
    /// assert!(order.borrow().is_sorted() && order.borrow().len() == 3);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn on_shutdown<F, R>(
        &self,
        phase: ShutdownPhase,
        hook: F,
    ) -> Result<ShutdownHook, ShutdownError>
    where
        F: FnOnce(&Self) -> R + 'static,
        R: CallbackResult + 'static,
    {
        let inner = self.open()?;
        let shutdown = &inner.shutdown;
        if shutdown.has_begun(phase) {
            return Err(ShutdownError::TooLate);
        }
        let id = shutdown.next_hook.get();
        shutdown.next_hook.set(id + 1);
        let key = (phase, id);
        let hook: Call = Box::new(move |handle| hook(handle).into_result());
        shutdown.hooks.borrow_mut().insert(key, hook);
        Ok(ShutdownHook { inner: self.weak(), key, removed: Cell::new(false) })
    }

    /// Holds back the next shutdown, or the one that has just begun, from stopping ports until
    /// the guard is dropped. For work that must be brought to its end: taken by a hook of
    /// [`ShutdownPhase::Before`], or at any time earlier.
    ///
    /// # Errors
    /// [`ShutdownError::TooLate`] when ports are being stopped, [`ShutdownError::Closed`] when
    /// the reactor is gone.
    ///
    /// ```
    /// use std::time::Duration;
    /// use strand_reactor::{Reactor, ShutdownPhase};
    /// let reactor = Reactor::new()?;
    /// reactor.on_shutdown(ShutdownPhase::Before, |handle| {
    ///     let hold = handle.hold_shutdown()?;
    ///     handle.call_later(Duration::from_millis(1), move |_| drop(hold)); // the last words
    ///     anyhow::Ok(())
    /// })?;
    /// reactor.stop();
    /// reactor.run()?;
    /// assert_eq!(reactor.stats().timers_called, 1);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn hold_shutdown(&self) -> Result<ShutdownHold, ShutdownError> {
        let inner = self.open()?;
        let shutdown = &inner.shutdown;
        if shutdown.has_begun(ShutdownPhase::During) {
            return Err(ShutdownError::TooLate);
        }
        shutdown.holds.set(shutdown.holds.get() + 1);
        Ok(ShutdownHold { inner: self.weak() })
    }

    /// Whether a shutdown is under way: [`stop`](Self::stop) was seen by the loop, and `run` has
    /// not returned yet.
    pub fn is_shutting_down(&self) -> bool {
        self.upgrade().is_some_and(|inner| inner.shutdown.is_under_way())
    }

    fn open(&self) -> Result<Rc<Inner>, ShutdownError> {
        let inner = self.upgrade().ok_or(ShutdownError::Closed)?;
        let closed = inner.core.borrow().closed;
        if closed { Err(ShutdownError::Closed) } else { Ok(inner) }
    }
}
