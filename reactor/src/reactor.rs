//! The reactor, the handle to it, and the turn of the loop.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::ops::Deref;
use std::panic::resume_unwind;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::agenda::{Agenda, Call, Notice};
use crate::callback::{CallbackResult, Failure, LogLimit, guarded, panic_message};
use crate::datagram::{
    DatagramProtocol, DatagramTransport, Port, Readiness, close_port, service,
};
use crate::error::{RunError, StopReason};
use crate::net::os::OsDriver;
use crate::net::{Driver, Event, RecvBatch};
use crate::slots::{Key, Slots};
use crate::stats::ReactorStats;
use crate::threads::{Mailbox, Remote};
use crate::timers::{Timer, Wheel};

/// The loop and everything in it: ports, timers, buffers. One thread; as many reactors in a
/// process as you like.
///
/// A `Reactor` is the one owner. It dereferences to [`Handle`], which carries the API and which
/// callbacks are given. Dropping it closes every socket and drops every protocol, without further
/// callbacks.
///
/// ```
/// use std::time::Duration;
/// use strand_reactor::Reactor;
/// let reactor = Reactor::new()?;
/// reactor.call_later(Duration::from_millis(1), |handle| handle.stop());
/// reactor.run()?;
/// # Ok::<(), anyhow::Error>(())
/// ```
pub struct Reactor {
    inner: Rc<Inner>,
    handle: Handle,
}

/// A weak hand on a [`Reactor`], cheap to clone and to store: it keeps nothing alive. Once the
/// reactor is gone, calls return a typed `Closed` error or do nothing, as each one says.
#[derive(Clone)]
pub struct Handle {
    inner: Weak<Inner>,
}

/// How to make a reactor; [`Reactor::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    catch_panics: bool,
    portable: bool,
}

impl Builder {
    /// Whether a panic in a callback is caught, logged and counted like an error (the default).
    /// Otherwise it leaves [`Reactor::run`], which may be called again.
    pub fn catch_panics(mut self, on: bool) -> Self {
        self.catch_panics = on;
        self
    }

    /// Uses the sockets of systems without batched calls and control messages, on any system.
    #[cfg(feature = "testing")]
    pub fn portable_sockets(mut self, on: bool) -> Self {
        self.portable = on;
        self
    }

    /// Makes the reactor.
    ///
    /// # Errors
    /// What the system says when it has no descriptor left for a poller.
    pub fn build(self) -> std::io::Result<Reactor> {
        let driver = OsDriver::new(self.portable)?;
        Ok(Reactor::with_driver(Box::new(driver), self.catch_panics))
    }
}

pub(crate) struct Inner {
    pub(crate) core: RefCell<Core>,
    pub(crate) driver: RefCell<Box<dyn Driver>>,
    pub(crate) mailbox: Arc<Mailbox>,
    /// Tells the keys of one reactor from those of another.
    pub(crate) id: u32,
    epoch: Instant,
    running: Cell<bool>,
    stop: Cell<Stop>,
    shutting_down: Cell<bool>,
    /// The memory of the last poll's events.
    events: Cell<Vec<Event>>,
    /// The port being delivered to, and whether its delivery must end.
    dispatching: Cell<Option<Key>>,
    interrupted: Cell<bool>,
    catch_panics: bool,
    /// A panic on its way out of `run`.
    panic: Cell<Option<Box<dyn std::any::Any + Send>>>,
}

/// What user code must never see borrowed.
pub(crate) struct Core {
    pub(crate) ports: Slots<Port>,
    pub(crate) timers: Wheel<Rc<Timer>>,
    pub(crate) agenda: Agenda,
    /// The receive buffers; out while a port is delivered to.
    pub(crate) batch: Option<RecvBatch>,
    /// Bounds the log of what belongs to no port.
    log: LogLimit,
    pub(crate) closed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stop {
    #[default]
    No,
    /// Close every port in order, then return.
    Orderly,
    /// Return and leave everything as it is.
    Crash,
}

impl Reactor {
    /// A reactor on the system's sockets and clock.
    ///
    /// # Errors
    /// What the system says when it has no descriptor left for a poller.
    pub fn new() -> std::io::Result<Self> {
        Self::builder().build()
    }

    /// A reactor with other than the default settings.
    pub fn builder() -> Builder {
        Builder { catch_panics: true, portable: false }
    }

    pub(crate) fn with_driver(driver: Box<dyn Driver>, catch_panics: bool) -> Self {
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        let inner = Rc::new(Inner {
            core: RefCell::new(Core {
                ports: Slots::new(),
                timers: Wheel::new(),
                agenda: Agenda::default(),
                batch: None,
                log: LogLimit::default(),
                closed: false,
            }),
            mailbox: Arc::new(Mailbox::new(driver.wake())),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            epoch: driver.now(),
            driver: RefCell::new(driver),
            running: Cell::new(false),
            stop: Cell::default(),
            shutting_down: Cell::new(false),
            events: Cell::default(),
            dispatching: Cell::new(None),
            interrupted: Cell::new(false),
            catch_panics,
            panic: Cell::new(None),
        });
        Self { handle: inner.handle(), inner }
    }

    /// Runs until [`stop`](Handle::stop) was called, or nothing is left that could call back: no
    /// open port, no timer, no send under way, no posted call, save for those that were `unref`'d.
    ///
    /// After `stop`, every open port has been closed and its `stop_protocol` called. `run` may be
    /// called again.
    ///
    /// # Errors
    /// [`RunError::AlreadyRunning`] from inside a callback; [`RunError::Poll`] when the system's
    /// poller fails.
    pub fn run(&self) -> Result<(), RunError> {
        let inner = &*self.inner;
        let _running = inner.begin()?;
        while inner.collect_stop() == Stop::No && inner.is_alive() {
            self.turn(None)?;
        }
        self.finish();
        Ok(())
    }

    /// One turn of the loop, waiting for events for at most `timeout` (`None`: until there is
    /// one). Tells whether anything is left that could call back.
    ///
    /// For programs that own their loop and visit this one; after a `stop` the turn is the
    /// closing of every port.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn iterate(&self, timeout: Option<Duration>) -> Result<bool, RunError> {
        let inner = &*self.inner;
        let _running = inner.begin()?;
        if inner.collect_stop() == Stop::No {
            self.turn(timeout)?;
        }
        if inner.stop.get() != Stop::No {
            self.finish();
        }
        Ok(inner.is_alive())
    }

    /// A turn of the loop: what DESIGN section 4 describes, in its order.
    fn turn(&self, timeout: Option<Duration>) -> Result<(), RunError> {
        let inner = &self.inner;
        inner.core.borrow_mut().agenda.stats.turns += 1;
        self.posted_calls();
        self.due_timers();
        self.flush_dirty();
        let events = self.poll(timeout)?;
        self.dispatch(&events);
        inner.events.set(events);
        self.ready_ports();
        self.notices();
        self.flush_dirty();
        inner.resume_panic();
        Ok(())
    }

    fn posted_calls(&self) {
        let inner = &self.inner;
        let (remote, _) = inner.take_posted();
        let local = std::mem::take(&mut inner.core.borrow_mut().agenda.calls);
        let mut calls: VecDeque<Call> = local;
        calls.extend(remote.into_iter().map(|call| -> Call { call }));
        while let Some(call) = calls.pop_front() {
            inner.core.borrow_mut().agenda.stats.calls += 1;
            inner.call(call);
            if inner.is_stopping() {
                // The rest waits for the next run, in front of what was posted meanwhile.
                let mut core = inner.core.borrow_mut();
                calls.append(&mut core.agenda.calls);
                core.agenda.calls = calls;
                return;
            }
        }
    }

    fn due_timers(&self) {
        let inner = &self.inner;
        if inner.core.borrow().timers.is_empty() {
            return;
        }
        let now = inner.now_ns();
        let before = inner.core.borrow().timers.seq();
        while !inner.is_stopping() {
            let timer = {
                let core = &mut *inner.core.borrow_mut();
                let Some((_, deadline, timer)) = core.timers.pop_due(now, before) else { return };
                let stats = &mut core.agenda.stats;
                stats.timers_called += 1;
                stats.max_timer_lateness_ns =
                    stats.max_timer_lateness_ns.max(now.saturating_sub(deadline));
                core.agenda.references -= usize::from(timer.is_referenced());
                timer
            };
            timer.fire(inner, now);
        }
    }

    fn flush_dirty(&self) {
        let core = &mut *self.inner.core.borrow_mut();
        while let Some(key) = core.agenda.dirty.pop_front() {
            if let Some(port) = core.ports.get_mut(key) {
                port.on_dirty = false;
                port.flush_unless_blocked(&mut core.agenda);
            }
        }
    }

    fn poll(&self, timeout: Option<Duration>) -> Result<Vec<Event>, RunError> {
        let inner = &*self.inner;
        let timeout = if inner.must_not_sleep() {
            Some(Duration::ZERO)
        } else {
            let next = inner.core.borrow_mut().timers.next_deadline();
            let until = next.map(|at| Duration::from_nanos(at.saturating_sub(inner.now_ns())));
            match (timeout, until) {
                (Some(timeout), Some(until)) => Some(timeout.min(until)),
                (timeout, until) => timeout.or(until),
            }
        };
        let mut events = inner.events.take();
        events.clear();
        inner.driver.borrow_mut().poll(timeout, &mut events).map_err(RunError::Poll)?;
        let stats = &mut inner.core.borrow_mut().agenda.stats;
        stats.wakeups += u64::from(!events.is_empty());
        stats.events += events.len() as u64;
        Ok(events)
    }

    fn dispatch(&self, events: &[Event]) {
        let inner = &self.inner;
        for event in events {
            let ready = Readiness {
                readable: event.readable,
                writable: event.writable,
                error: event.error,
            };
            let key = {
                let stopping = inner.is_stopping();
                let core = &mut *inner.core.borrow_mut();
                let Some(key) = core.ports.key_of(event.token) else {
                    core.agenda.stats.stale_events += 1;
                    continue;
                };
                match core.ports.get_mut(key) {
                    // Already due this turn, or due no more: the edge is kept on the list.
                    Some(port) if port.on_ready || stopping => {
                        port.make_ready(ready, &mut core.agenda);
                        continue;
                    }
                    _ => key,
                }
            };
            service(inner, key, ready);
        }
    }

    fn ready_ports(&self) {
        let inner = &self.inner;
        let due = inner.core.borrow().agenda.ready.len();
        for _ in 0..due {
            if inner.is_stopping() {
                return;
            }
            let (key, ready) = {
                let core = &mut *inner.core.borrow_mut();
                let Some(key) = core.agenda.ready.pop_front() else { return };
                let Some(port) = core.ports.get_mut(key) else { continue };
                port.on_ready = false;
                (key, std::mem::take(&mut port.readiness))
            };
            service(inner, key, ready);
        }
    }

    /// Tells user code what happened, in order, and closes the ports that are to be closed.
    fn notices(&self) {
        let inner = &self.inner;
        let due = inner.core.borrow().agenda.notices.len();
        for _ in 0..due {
            let Some(notice) = inner.core.borrow_mut().agenda.notices.pop_front() else { return };
            match notice {
                Notice::Refused(key, count) => {
                    for _ in 0..count {
                        inner.call_protocol(key, "connection_refused", |protocol, transport| {
                            protocol.connection_refused(transport)
                        });
                    }
                }
                Notice::NetworkError(key, error) => {
                    inner.told(key);
                    inner.call_protocol(key, "network_error", |protocol, transport| {
                        protocol.network_error(transport, &error)
                    });
                }
                Notice::WriteFailed(key, failure) => {
                    inner.told(key);
                    inner.call_protocol(key, "write_failed", |protocol, transport| {
                        protocol.write_failed(transport, &failure)
                    });
                }
                Notice::PauseWriting(key) => {
                    inner.call_protocol(key, "pause_writing", |protocol, transport| {
                        protocol.pause_writing(transport)
                    });
                }
                Notice::ResumeWriting(key) => {
                    inner.call_protocol(key, "resume_writing", |protocol, transport| {
                        protocol.resume_writing(transport)
                    });
                }
                Notice::Written(completion, result) => {
                    if let Err(failure) = guarded(|| completion(result)) {
                        inner.report(None, "write completion", failure);
                    }
                }
                Notice::Close(key) => close_port(inner, key),
                Notice::Call(call) => inner.call(call),
            }
        }
    }

    /// The end of `run`: after an orderly stop every port is closed.
    fn finish(&self) {
        let inner = &*self.inner;
        if inner.stop.take() == Stop::Orderly {
            inner.shutting_down.set(true);
            {
                let core = &mut *inner.core.borrow_mut();
                for key in core.ports.keys().collect::<Vec<_>>() {
                    if let Some(port) = core.ports.get_mut(key) {
                        port.begin_close(StopReason::Shutdown, &mut core.agenda);
                    }
                }
            }
            while !inner.core.borrow().ports.is_empty() {
                self.notices();
            }
            // The completions of the last ones.
            self.notices();
            inner.shutting_down.set(false);
            inner.stop.take();
        }
        inner.resume_panic();
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        let inner = &*self.inner;
        let remote = inner.mailbox.close();
        let (ports, timers, agenda, batch) = {
            let core = &mut *inner.core.borrow_mut();
            core.closed = true;
            (
                core.ports.drain(),
                std::mem::replace(&mut core.timers, Wheel::new()),
                std::mem::take(&mut core.agenda),
                core.batch.take(),
            )
        };
        // User values go now that nothing is borrowed; what they call finds the reactor closed.
        for (_, _, timer) in timers.iter() {
            timer.close();
        }
        drop((ports, timers, agenda, batch, remote));
    }
}

impl Deref for Reactor {
    type Target = Handle;
    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("running", &self.inner.running.get()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("closed", &self.is_closed()).finish()
    }
}

/// While it lives, the loop runs.
struct Running<'a>(&'a Inner);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(false);
    }
}

impl Inner {
    pub(crate) fn handle(self: &Rc<Self>) -> Handle {
        Handle { inner: Rc::downgrade(self) }
    }

    pub(crate) fn now(&self) -> Instant {
        self.driver.borrow().now()
    }

    /// Nanoseconds since the reactor was made.
    pub(crate) fn now_ns(&self) -> u64 {
        self.now().saturating_duration_since(self.epoch).as_nanos() as u64
    }

    /// The instant that many nanoseconds after the reactor was made, if it can be told.
    pub(crate) fn instant(&self, nanoseconds: u64) -> Option<Instant> {
        self.epoch.checked_add(Duration::from_nanos(nanoseconds))
    }

    fn begin(&self) -> Result<Running<'_>, RunError> {
        if self.running.replace(true) { Err(RunError::AlreadyRunning) } else { Ok(Running(self)) }
    }

    fn take_posted(&self) -> (VecDeque<crate::threads::RemoteCall>, bool) {
        let (calls, stop) = self.mailbox.collect();
        if stop {
            self.request_stop(Stop::Orderly);
        }
        (calls, stop)
    }

    /// What was asked for, also by other threads; their calls are kept.
    fn collect_stop(&self) -> Stop {
        if self.mailbox.is_posted() {
            let (calls, _) = self.take_posted();
            let calls = calls.into_iter().map(|call| -> Call { call });
            self.core.borrow_mut().agenda.calls.extend(calls);
        }
        self.stop.get()
    }

    fn request_stop(&self, stop: Stop) {
        if self.stop.get() != Stop::Orderly {
            self.stop.set(stop);
        }
        self.interrupted.set(true);
    }

    /// Whether callbacks must end, because of `stop` or of a panic that is let through.
    fn is_stopping(&self) -> bool {
        self.stop.get() != Stop::No || self.has_panic()
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.shutting_down.get()
    }

    fn is_alive(&self) -> bool {
        self.core.borrow().agenda.is_alive() || self.mailbox.is_posted()
    }

    fn must_not_sleep(&self) -> bool {
        self.is_stopping()
            || !self.is_alive()
            || self.mailbox.is_posted()
            || self.core.borrow().agenda.is_pressing()
    }

    /// A delivery to `key` begins.
    pub(crate) fn enter(&self, key: Key) {
        self.dispatching.set(Some(key));
        self.interrupted.set(false);
    }

    pub(crate) fn leave(&self) {
        self.dispatching.set(None);
    }

    /// Ends the delivery to `key`, if it is the one under way.
    pub(crate) fn interrupt(&self, key: Key) {
        if self.dispatching.get() == Some(key) {
            self.interrupted.set(true);
        }
    }

    #[inline]
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.get()
    }

    fn call(self: &Rc<Self>, call: Call) {
        let handle = self.handle();
        if let Err(failure) = guarded(|| call(&handle)) {
            self.report(None, "posted call", failure);
        }
    }

    /// Calls the protocol of an open port; of one that is closing, only `close_port` does.
    fn call_protocol(
        self: &Rc<Self>,
        key: Key,
        what: &'static str,
        call: impl FnOnce(&mut dyn DatagramProtocol, &DatagramTransport) -> anyhow::Result<()>,
    ) {
        let protocol = match self.core.borrow_mut().ports.get_mut(key) {
            Some(port) if !port.closing => port.protocol.take(),
            _ => None,
        };
        let Some(mut protocol) = protocol else { return };
        let transport = DatagramTransport::new(self, key);
        let outcome = guarded(|| call(&mut *protocol, &transport));
        self.put_back(key, protocol);
        if let Err(failure) = outcome {
            self.report(Some(key), what, failure);
        }
    }

    /// Ends a call: the protocol returns to its port, or is dropped with nothing borrowed.
    pub(crate) fn put_back(&self, key: Key, protocol: Box<dyn DatagramProtocol>) {
        let homeless = match self.core.borrow_mut().ports.get_mut(key) {
            Some(port) => port.protocol.replace(protocol),
            None => Some(protocol),
        };
        drop(homeless);
    }

    fn told(&self, key: Key) {
        if let Some(port) = self.core.borrow_mut().ports.get_mut(key) {
            port.untold -= 1;
        }
    }

    /// Counts and logs a callback that failed.
    pub(crate) fn report(&self, key: Option<Key>, what: &'static str, failure: Failure) {
        let now = self.now();
        let panicked = matches!(failure, Failure::Panic(_));
        let (label, logged) = {
            let core = &mut *self.core.borrow_mut();
            let stats = &mut core.agenda.stats;
            stats.callback_errors += u64::from(!panicked);
            stats.callback_panics += u64::from(panicked);
            match key.and_then(|key| core.ports.get_mut(key)) {
                Some(port) => {
                    port.stats.callback_errors += u64::from(!panicked);
                    port.stats.callback_panics += u64::from(panicked);
                    let logged = port.log.admits(now);
                    port.stats.unlogged_errors += u64::from(!logged);
                    (Rc::clone(&port.label), logged)
                }
                None => ("reactor".into(), core.log.admits(now)),
            }
        };
        // Neither the log nor the error's own text is written under a borrow: both are user code.
        match failure {
            Failure::Error(error) if logged => {
                tracing::error!(port = %label, callback = what, "callback failed: {error:#}");
            }
            Failure::Error(_) => {}
            Failure::Panic(panic) if !self.catch_panics => {
                self.panic.set(Some(panic));
                self.interrupted.set(true);
            }
            Failure::Panic(panic) if logged => {
                let message = panic_message(&*panic);
                tracing::error!(port = %label, callback = what, "callback panicked: {message}");
            }
            Failure::Panic(_) => {}
        }
    }

    fn has_panic(&self) -> bool {
        if self.catch_panics {
            return false;
        }
        let panic = self.panic.take();
        let has = panic.is_some();
        self.panic.set(panic);
        has
    }

    /// Lets a panic through, now that everything is in its place again.
    pub(crate) fn resume_panic(&self) {
        if let Some(panic) = self.panic.take() {
            resume_unwind(panic);
        }
    }

    pub(crate) fn lets_panics_through(&self) -> bool {
        !self.catch_panics
    }
}

impl Handle {
    pub(crate) fn upgrade(&self) -> Option<Rc<Inner>> {
        self.inner.upgrade()
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

    /// Makes [`run`](Reactor::run) return: the callback under way ends, no other begins, every
    /// open port is stopped with [`StopReason::Shutdown`], and `run` returns. Called before
    /// `run`, it makes the next `run` return in the same way at once.
    pub fn stop(&self) {
        if let Some(inner) = self.upgrade() {
            inner.request_stop(Stop::Orderly);
        }
    }

    /// Makes [`run`](Reactor::run) return and leaves everything as it is: ports stay open, timers
    /// stay set, and the next `run` goes on.
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
        self.upgrade().map_or_else(ReactorStats::default, |inner| {
            inner.core.borrow().agenda.stats
        })
    }
}
