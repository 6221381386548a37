//! Timers: one-shot and repeating calls on the monotonic clock.

mod wheel;
// Not in `wheel`, whose source the benches beside other queues use, too.
#[cfg(test)]
mod wheel_tests;

use std::cell::Cell;
use std::fmt;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

pub(crate) use wheel::{TimerId, Wheel};

use crate::Handle;
use crate::callback::CallbackResult;
use crate::error::TimerError;
use crate::inner::{Inner, reach};

/// A timer as the queue holds it; the closure lies in `call`.
pub(crate) struct Timer<C: ?Sized = dyn TimerCall> {
    status: Cell<Status>,
    /// Its place in the queue, while it is in there.
    id: Cell<Option<TimerId>>,
    referenced: Cell<bool>,
    call: C,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Pending,
    Called,
    Cancelled,
    Closed,
}

impl Status {
    /// Why nothing is to come; of a timer that waits, because its reactor is gone.
    #[cold]
    fn over(self) -> TimerError {
        match self {
            Self::Called => TimerError::AlreadyCalled,
            Self::Cancelled => TimerError::AlreadyCancelled,
            Self::Pending | Self::Closed => TimerError::Closed,
        }
    }
}

/// What a timer does when it is due. Deadlines are nanoseconds since the reactor was made.
pub(crate) trait TimerCall {
    /// Calls the closure, and uses it up unless `again` says when to call it next.
    fn call(&self, handle: &Handle, now: u64) -> anyhow::Result<()>;
    /// When to call next, asked after a call that went well; `None` if that was the last.
    fn again(&self, now: u64) -> Option<u64>;
    /// Drops the closure.
    fn discard(&self);
}

struct Once<F>(Cell<Option<F>>);

impl<F, R> TimerCall for Once<F>
where
    F: FnOnce(&Handle) -> R,
    R: CallbackResult,
{
    fn call(&self, handle: &Handle, _: u64) -> anyhow::Result<()> {
        match self.0.take() {
            Some(call) => call(handle).into_result(),
            None => Ok(()),
        }
    }

    fn again(&self, _: u64) -> Option<u64> {
        None
    }

    fn discard(&self) {
        drop(self.0.take());
    }
}

/// A repeating call on the grid `origin + n * interval`: what one call is late does not move the
/// next.
struct Repeating<F> {
    call: Cell<Option<F>>,
    interval: u64,
    grid: Rc<Grid>,
}

struct Grid {
    origin: Cell<u64>,
    /// Grid points accounted for so far.
    counted: Cell<u64>,
    /// The first call comes at the origin itself, and counts as one.
    at_origin: Cell<bool>,
}

impl<F, R> TimerCall for Repeating<F>
where
    F: FnMut(&Handle, u64) -> R,
    R: CallbackResult,
{
    fn call(&self, handle: &Handle, now: u64) -> anyhow::Result<()> {
        let Some(mut call) = self.call.take() else { return Ok(()) };
        let grid = &self.grid;
        let passed = now.saturating_sub(grid.origin.get()).checked_div(self.interval);
        let mut ticks = match passed {
            Some(passed) => passed - grid.counted.replace(passed),
            None => 1,
        };
        if grid.at_origin.take() && passed.is_some() {
            ticks += 1;
        }
        let result = call(handle, ticks).into_result();
        self.call.set(Some(call));
        result
    }

    fn again(&self, now: u64) -> Option<u64> {
        let origin = self.grid.origin.get();
        Some(match now.saturating_sub(origin).checked_div(self.interval) {
            Some(passed) => {
                origin.saturating_add((passed.saturating_add(1)).saturating_mul(self.interval))
            }
            None => now,
        })
    }

    fn discard(&self) {
        drop(self.call.take());
    }
}

impl Timer {
    /// Called by the loop when the timer was taken from the queue: runs it, and puts a repeating
    /// one back.
    pub(crate) fn fire(self: Rc<Self>, inner: &Rc<Inner>, now: u64) {
        self.id.set(None);
        let repeats = self.call.again(now).is_some();
        if !repeats {
            self.status.set(Status::Called);
        }
        let handle = inner.handle();
        let outcome = crate::callback::guarded(|| self.call.call(&handle, now));
        let failed = outcome.is_err();
        if let Err(failure) = outcome {
            // A failure ends a repeating call.
            inner.report(None, if repeats { "looping call, which ends" } else { "timer" }, failure);
        }
        if repeats && failed {
            self.leave(inner);
            self.status.set(Status::Called);
        }
        if !repeats {
            return;
        }
        if self.status.get() != Status::Pending {
            // The drop of what was captured is user code, too.
            let dropped = crate::callback::guarded(|| {
                self.call.discard();
                Ok(())
            });
            if let Err(failure) = dropped {
                inner.report(None, "drop of a timer", failure);
            }
        } else if self.id.get().is_none()
            && let Some(deadline) = self.call.again(inner.now_ns())
        {
            schedule(inner, &self, deadline);
        }
    }

    /// The reactor goes: from now on the timer's handles say so.
    pub(crate) fn close(&self) {
        if self.status.get() == Status::Pending {
            self.status.set(Status::Closed);
        }
        self.id.set(None);
    }

    /// Drops the closure, which is user code: nothing may be borrowed.
    pub(crate) fn discard(&self) {
        self.call.discard();
    }

    pub(crate) fn is_referenced(&self) -> bool {
        self.referenced.get()
    }

    /// Takes the timer out of the queue, if it is in there.
    fn leave(&self, inner: &Inner) {
        if let Some(id) = self.id.take() {
            let core = &mut *inner.core.borrow_mut();
            core.agenda.references -= usize::from(self.referenced.get());
            // Not its last owner: nothing of the user's is dropped here.
            core.timers.remove(id);
        }
    }

    fn finish(&self, status: Status) {
        self.status.set(status);
        self.call.discard();
    }
}

fn schedule(inner: &Inner, timer: &Rc<Timer>, deadline: u64) {
    let mut core = inner.core.borrow_mut();
    if core.closed {
        drop(core);
        timer.close();
        timer.discard();
        return;
    }
    timer.id.set(Some(core.timers.insert(deadline, Rc::clone(timer))));
    core.agenda.references += usize::from(timer.referenced.get());
}

#[inline]
fn nanoseconds(duration: Duration) -> u64 {
    // Not by `as_nanos`, whose 128 bits cost more than all the rest of a reset.
    let seconds = duration.as_secs().checked_mul(1_000_000_000);
    seconds.map_or(u64::MAX, |ns| ns.saturating_add(u64::from(duration.subsec_nanos())))
}

/// A call that is waiting for its time; made by [`Handle::call_later`].
///
/// Dropping it changes nothing: the call still comes.
///
/// ```
/// use std::time::Duration;
/// use strand_reactor::{Reactor, TimerError};
/// let reactor = Reactor::new()?;
/// let call = reactor.call_later(Duration::from_secs(1), |_| println!("too late"));
/// call.reset(Duration::from_secs(2))?;
/// call.cancel()?;
/// assert!(!call.active());
/// assert_eq!(call.cancel(), Err(TimerError::AlreadyCancelled));
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone)]
pub struct DelayedCall {
    inner: Weak<Inner>,
    timer: Rc<Timer>,
}

impl DelayedCall {
    pub(crate) fn new(inner: &Rc<Inner>, timer: Rc<Timer>) -> Self {
        Self { inner: Rc::downgrade(inner), timer }
    }

    /// Prevents the call and drops the closure, before this returns.
    ///
    /// # Errors
    /// [`TimerError::AlreadyCalled`] when it has run or is running,
    /// [`TimerError::AlreadyCancelled`] the second time, [`TimerError::Closed`] when the reactor
    /// is gone.
    pub fn cancel(&self) -> Result<(), TimerError> {
        let inner = self.pending()?;
        self.timer.leave(&inner);
        self.timer.finish(Status::Cancelled);
        Ok(())
    }

    /// Moves the call to `delay` from now, sooner or later than it was.
    ///
    /// # Errors
    /// As [`cancel`](Self::cancel).
    pub fn reset(&self, delay: Duration) -> Result<(), TimerError> {
        let inner = self.pending()?;
        self.move_to(&inner, inner.now_ns().saturating_add(nanoseconds(delay)));
        Ok(())
    }

    /// Moves the call to `extra` after its present deadline.
    ///
    /// # Errors
    /// As [`cancel`](Self::cancel).
    pub fn delay(&self, extra: Duration) -> Result<(), TimerError> {
        let inner = self.pending()?;
        let present = self.timer.id.get().and_then(|id| inner.core.borrow().timers.deadline(id));
        let present = present.unwrap_or_else(|| inner.now_ns());
        self.move_to(&inner, present.saturating_add(nanoseconds(extra)));
        Ok(())
    }

    /// Whether the call is still to come.
    pub fn active(&self) -> bool {
        self.timer.status.get() == Status::Pending
    }

    /// When the call is due; `None` once it is no longer to come.
    pub fn deadline(&self) -> Option<Instant> {
        let inner = self.pending().ok()?;
        let deadline = inner.core.borrow().timers.deadline(self.timer.id.get()?)?;
        inner.instant(deadline)
    }

    /// Lets [`run`](crate::Reactor::run) return although this call is still to come.
    pub fn unref(&self) {
        self.count(false);
    }

    /// Takes [`unref`](Self::unref) back.
    pub fn reref(&self) {
        self.count(true);
    }

    fn count(&self, referenced: bool) {
        let Ok(inner) = self.pending() else { return };
        if self.timer.referenced.replace(referenced) != referenced && self.timer.id.get().is_some()
        {
            let references = &mut inner.core.borrow_mut().agenda.references;
            if referenced {
                *references += 1;
            } else {
                *references -= 1;
            }
        }
    }

    /// Inlined: this is what pushing back an idle timeout costs, once a message.
    #[inline(always)]
    fn move_to(&self, inner: &Rc<Inner>, deadline: u64) {
        match self.timer.id.get() {
            Some(id) => {
                inner.core.borrow_mut().timers.reset(id, deadline);
            }
            // A repeating call that is running: the loop will not schedule it a second time.
            None => schedule(inner, &self.timer, deadline),
        }
    }

    /// The reactor, if the call is still to come.
    #[inline]
    fn pending(&self) -> Result<Rc<Inner>, TimerError> {
        let status = self.timer.status.get();
        let inner = if status == Status::Pending { reach(&self.inner) } else { None };
        inner.ok_or_else(|| status.over())
    }
}

impl fmt::Debug for DelayedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DelayedCall").field("status", &self.timer.status.get()).finish()
    }
}

/// A repeating call; made by [`Handle::looping_call`].
///
/// It keeps to the grid of its interval: a late call does not move those after it. Each call is
/// told how many intervals have passed since the one before, 1 unless ticks were missed; ticks
/// are never made up for one by one. A call that fails ends the loop.
///
/// ```
/// use std::time::Duration;
/// use strand_reactor::Reactor;
/// let reactor = Reactor::new()?;
/// let mut seen = 0;
/// let looping = reactor.looping_call(Duration::from_millis(1), move |handle, ticks| {
///     seen += ticks;
///     if seen >= 3 {
///         handle.stop();
///     }
/// });
/// reactor.run()?;
/// assert!(looping.running());
/// looping.stop()?;
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone)]
pub struct LoopingCall {
    call: DelayedCall,
    interval: Duration,
    grid: Rc<Grid>,
}

impl LoopingCall {
    /// Ends the loop and drops the closure (at its end, if it is running).
    ///
    /// # Errors
    /// As [`DelayedCall::cancel`]; `AlreadyCalled` when a failure ended it.
    pub fn stop(&self) -> Result<(), TimerError> {
        self.call.cancel()
    }

    /// Starts the interval anew: the next call comes one interval from now.
    ///
    /// # Errors
    /// As [`stop`](Self::stop).
    pub fn reset(&self) -> Result<(), TimerError> {
        let inner = self.call.pending()?;
        let now = inner.now_ns();
        self.grid.origin.set(now);
        self.grid.counted.set(0);
        self.grid.at_origin.set(false);
        self.call.move_to(&inner, now.saturating_add(nanoseconds(self.interval)));
        Ok(())
    }

    /// Whether calls are still to come.
    pub fn running(&self) -> bool {
        self.call.active()
    }

    /// The interval.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// When the next call is due; `None` once stopped, and while a call runs.
    pub fn deadline(&self) -> Option<Instant> {
        self.call.deadline()
    }

    /// Lets [`run`](crate::Reactor::run) return although this loop goes on.
    pub fn unref(&self) {
        self.call.unref();
    }

    /// Takes [`unref`](Self::unref) back.
    pub fn reref(&self) {
        self.call.reref();
    }
}

impl fmt::Debug for LoopingCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopingCall")
            .field("interval", &self.interval)
            .field("running", &self.running())
            .finish_non_exhaustive()
    }
}

impl Handle {
    /// Calls `call` once, `delay` from now: at the earliest in the next turn, never inside this
    /// call. Calls with equal deadlines come in the order in which they were made. The system's
    /// poller counts in milliseconds and rounds up, so a call may be late by that much.
    ///
    /// On a reactor that is gone nothing will be called; the result says so
    /// ([`TimerError::Closed`]).
    ///
    /// ```
    /// use std::time::Duration;
    /// let reactor = strand_reactor::Reactor::new()?;
    /// reactor.call_later(Duration::ZERO, |handle| {
    ///     handle.call_later(Duration::from_millis(1), |_| println!("and then"));
    /// });
    /// reactor.run()?; // until nothing is left to call
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn call_later<F, R>(&self, delay: Duration, call: F) -> DelayedCall
    where
        F: FnOnce(&Self) -> R + 'static,
        R: CallbackResult + 'static,
    {
        let deadline = self.now_ns().saturating_add(nanoseconds(delay));
        self.start_timer(deadline, Once(Cell::new(Some(call))))
    }

    /// Calls `call` every `interval`, the first time one interval from now, with the number of
    /// intervals that have passed since the last call. An interval of zero means once a turn.
    pub fn looping_call<F, R>(&self, interval: Duration, call: F) -> LoopingCall
    where
        F: FnMut(&Self, u64) -> R + 'static,
        R: CallbackResult + 'static,
    {
        self.start_loop(interval, false, call)
    }

    /// As [`looping_call`](Self::looping_call), with a first call in the next turn.
    pub fn looping_call_now<F, R>(&self, interval: Duration, call: F) -> LoopingCall
    where
        F: FnMut(&Self, u64) -> R + 'static,
        R: CallbackResult + 'static,
    {
        self.start_loop(interval, true, call)
    }

    fn start_loop<F, R>(&self, interval: Duration, at_origin: bool, call: F) -> LoopingCall
    where
        F: FnMut(&Self, u64) -> R + 'static,
        R: CallbackResult + 'static,
    {
        let origin = self.now_ns();
        let grid = Rc::new(Grid {
            origin: Cell::new(origin),
            counted: Cell::new(0),
            at_origin: Cell::new(at_origin),
        });
        let repeating = Repeating {
            call: Cell::new(Some(call)),
            interval: nanoseconds(interval),
            grid: Rc::clone(&grid),
        };
        let first = if at_origin { origin } else { origin.saturating_add(repeating.interval) };
        LoopingCall { call: self.start_timer(first, repeating), interval, grid }
    }

    fn now_ns(&self) -> u64 {
        self.upgrade().map_or(0, |inner| inner.now_ns())
    }

    fn start_timer(&self, deadline: u64, call: impl TimerCall + 'static) -> DelayedCall {
        let timer: Rc<Timer> = Rc::new(Timer {
            status: Cell::new(Status::Pending),
            id: Cell::new(None),
            referenced: Cell::new(true),
            call,
        });
        match self.upgrade() {
            Some(inner) => schedule(&inner, &timer, deadline),
            None => {
                timer.close();
                timer.discard();
            }
        }
        DelayedCall { inner: self.weak(), timer }
    }

    /// Every timer that is still to come, in no particular order.
    pub fn pending_timers(&self) -> Vec<DelayedCall> {
        let Some(inner) = self.upgrade() else { return Vec::new() };
        let core = inner.core.borrow();
        core.timers.iter().map(|(_, _, timer)| DelayedCall::new(&inner, Rc::clone(timer))).collect()
    }
}
