//! What is inside a reactor, and how user code is called: with nothing borrowed, its errors and
//! panics contained.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::panic::resume_unwind;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::Handle;
use crate::agenda::{Agenda, Call};
use crate::callback::{
    Failed, Failure, LogLimit, discard_panic, guarded, into_message, panic_message,
};
use crate::datagram::{DatagramProtocol, DatagramTransport, Port};
use crate::error::{Causes, RunError};
use crate::net::{Driver, Event, RecvBatch};
#[cfg(feature = "dns")]
use crate::resolve::Executor;
use crate::resolve::Names;
use crate::shutdown::Shutdown;
use crate::slots::{Key, Slots};
use crate::stream::Streams;
use crate::threads::{Mailbox, RemoteCall};
use crate::timers::{Timer, Wheel};
use crate::unix::UnixPort;

pub(crate) struct Inner {
    pub(crate) core: RefCell<Core>,
    pub(crate) driver: RefCell<Box<dyn Driver>>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) names: Names,
    /// The tasks of the DNS client.
    #[cfg(feature = "dns")]
    pub(crate) executor: Executor,
    /// Tells the keys of one reactor from those of another.
    pub(crate) id: u32,
    epoch: Instant,
    pub(crate) running: Cell<bool>,
    /// Calls of `start_protocol` under way, which `listen_*` makes in or out of the loop.
    pub(crate) starting: Cell<usize>,
    pub(crate) stop: Cell<Stop>,
    /// The ports are stopped or about to be; nothing can be opened.
    pub(crate) shutting_down: Cell<bool>,
    pub(crate) shutdown: Shutdown,
    #[cfg(feature = "threads")]
    pub(crate) jobs: crate::jobs::Jobs,
    #[cfg(feature = "signals")]
    pub(crate) signals: crate::signals::Signals,
    /// The reactors that this one runs beside.
    #[cfg(feature = "per-core")]
    pub(crate) workers: std::cell::OnceCell<crate::Workers>,
    /// What scripted sockets put in the driver's place.
    #[cfg(feature = "testing")]
    pub(crate) scripted: crate::net::script::Injected,
    /// The memory of the last poll's events.
    pub(crate) events: Cell<Vec<Event>>,
    /// The port being delivered to, and whether its delivery must end.
    dispatching: Cell<Option<Key>>,
    interrupted: Cell<bool>,
    catch_panics: bool,
    /// Set on a host of a simulated world: tells the world of calls outside of turns.
    #[cfg(feature = "sim")]
    hook: std::cell::OnceCell<Rc<crate::net::sim::Hook>>,
    /// A panic on its way out of `run`.
    panic: Cell<Option<Box<dyn std::any::Any + Send>>>,
}

/// What user code must never see borrowed.
pub(crate) struct Core {
    pub(crate) ports: Slots<Port>,
    pub(crate) streams: Streams,
    pub(crate) unix_ports: Slots<UnixPort>,
    pub(crate) timers: Wheel<Rc<Timer>>,
    pub(crate) agenda: Agenda,
    /// The receive buffers; out while a port is delivered to. Pulling from another port meanwhile
    /// makes a second set.
    pub(crate) batches: Vec<RecvBatch>,
    /// Bounds the log of what belongs to no port.
    pub(crate) log: LogLimit,
    pub(crate) closed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stop {
    #[default]
    No,
    /// Close every port in order, then return.
    Orderly,
    /// Return and leave everything as it is.
    Crash,
}

/// The reactor behind a handle that is about to ask something of it.
#[inline(always)]
pub(crate) fn reach(inner: &Weak<Inner>) -> Option<Rc<Inner>> {
    let inner = inner.upgrade()?;
    inner.touch();
    Some(inner)
}

/// While it lives, the loop runs.
pub(crate) struct Running<'a>(&'a Inner);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(false);
    }
}

impl Inner {
    pub(crate) fn new(driver: Box<dyn Driver>, catch_panics: bool) -> Self {
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        let mailbox = Arc::new(Mailbox::new(driver.wake()));
        Self {
            core: RefCell::new(Core {
                ports: Slots::new(),
                streams: Streams::new(),
                unix_ports: Slots::new(),
                timers: Wheel::new(),
                agenda: Agenda::default(),
                batches: Vec::new(),
                log: LogLimit::default(),
                closed: false,
            }),
            names: Names::new(),
            #[cfg(feature = "dns")]
            executor: Executor::new(&mailbox),
            mailbox,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            epoch: driver.now(),
            driver: RefCell::new(driver),
            running: Cell::new(false),
            starting: Cell::new(0),
            stop: Cell::default(),
            shutting_down: Cell::new(false),
            shutdown: Shutdown::new(),
            #[cfg(feature = "threads")]
            jobs: crate::jobs::Jobs::new(),
            #[cfg(feature = "signals")]
            signals: crate::signals::Signals::new(),
            #[cfg(feature = "per-core")]
            workers: std::cell::OnceCell::new(),
            #[cfg(feature = "testing")]
            scripted: crate::net::script::Injected::default(),
            events: Cell::default(),
            dispatching: Cell::new(None),
            interrupted: Cell::new(false),
            catch_panics,
            #[cfg(feature = "sim")]
            hook: std::cell::OnceCell::new(),
            panic: Cell::new(None),
        }
    }

    pub(crate) fn handle(self: &Rc<Self>) -> Handle {
        Handle::from_weak(Rc::downgrade(self))
    }

    pub(crate) fn now(&self) -> Instant {
        self.driver.borrow().now()
    }

    /// Nanoseconds since the reactor was made.
    pub(crate) fn now_ns(&self) -> u64 {
        self.now().saturating_duration_since(self.epoch).as_nanos() as u64
    }

    /// Nanoseconds from when the reactor was made to `at`.
    #[cfg(feature = "sim")]
    pub(crate) fn nanoseconds(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_nanos() as u64
    }

    /// The instant that many nanoseconds after the reactor was made, if it can be told.
    pub(crate) fn instant(&self, nanoseconds: u64) -> Option<Instant> {
        self.epoch.checked_add(Duration::from_nanos(nanoseconds))
    }

    /// Makes it the reactor of a host of a simulated world.
    #[cfg(feature = "sim")]
    pub(crate) fn simulate(&self, hook: Rc<crate::net::sim::Hook>) {
        let _ = self.hook.set(hook);
    }

    #[cfg(feature = "sim")]
    pub(crate) fn simulation(&self) -> Option<&crate::net::sim::Hook> {
        self.hook.get().map(|hook| &**hook)
    }

    /// Somebody is about to change something; a simulated world must then look for what is due.
    #[inline]
    pub(crate) fn touch(&self) {
        #[cfg(feature = "sim")]
        if self.hook.get().is_some() {
            self.touch_world();
        }
    }

    #[cfg(feature = "sim")]
    #[cold]
    fn touch_world(&self) {
        if let Some(hook) = self.hook.get() {
            hook.touch();
        }
    }

    pub(crate) fn begin(&self) -> Result<Running<'_>, RunError> {
        #[cfg(feature = "sim")]
        if self.hook.get().is_some() {
            return Err(RunError::Simulated);
        }
        self.begin_turn()
    }

    pub(crate) fn begin_turn(&self) -> Result<Running<'_>, RunError> {
        if self.starting.get() > 0 || self.running.replace(true) {
            return Err(RunError::AlreadyRunning);
        }
        Ok(Running(self))
    }

    pub(crate) fn take_posted(&self) -> VecDeque<RemoteCall> {
        let (calls, stop) = self.mailbox.collect();
        if stop {
            self.request_stop(Stop::Orderly);
        }
        calls
    }

    /// What was asked for, also by other threads. Their calls stay where they are, and so need
    /// no further wake, until the turn takes them.
    pub(crate) fn collect_stop(&self) -> Stop {
        if self.mailbox.takes_stop() {
            self.request_stop(Stop::Orderly);
        }
        self.stop.get()
    }

    pub(crate) fn request_stop(&self, stop: Stop) {
        if self.stop.get() != Stop::Orderly {
            self.stop.set(stop);
        }
        self.interrupted.set(true);
    }

    /// Whether callbacks must end, because of `stop` or of a panic that is let through.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.get() != Stop::No || self.has_panic()
    }

    /// Whether the reactor was dropped, or its simulated host has crashed, in a callback that has
    /// not returned yet.
    pub(crate) fn is_gone(&self) -> bool {
        self.core.borrow().closed
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.shutting_down.get()
    }

    /// Whether a port of datagrams is open, whose closing takes no more than the loop.
    pub(crate) fn has_datagram_ports(&self) -> bool {
        let core = self.core.borrow();
        !core.ports.is_empty() || !core.unix_ports.is_empty()
    }

    /// Whether no port and no connection is open.
    pub(crate) fn is_empty(&self) -> bool {
        let core = self.core.borrow();
        core.ports.is_empty() && core.streams.is_empty() && core.unix_ports.is_empty()
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.core.borrow().agenda.is_alive()
            || self.mailbox.is_posted()
            || self.has_jobs()
            || self.shutdown.is_under_way()
    }

    pub(crate) fn must_not_sleep(&self) -> bool {
        self.is_stopping()
            || self.mailbox.is_posted()
            || self.shutdown_may_go_on()
            || self.has_signals()
            || self.core.borrow().agenda.is_pressing()
            || self.has_runnable_tasks()
            || self.has_scripted_events()
    }

    fn has_scripted_events(&self) -> bool {
        #[cfg(feature = "testing")]
        return self.scripted.is_pressing();
        #[cfg(not(feature = "testing"))]
        false
    }

    fn has_runnable_tasks(&self) -> bool {
        #[cfg(feature = "dns")]
        return self.executor.is_pressing();
        #[cfg(not(feature = "dns"))]
        false
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

    pub(crate) fn call(self: &Rc<Self>, call: Call) {
        self.call_as("posted call", call);
    }

    pub(crate) fn call_as(self: &Rc<Self>, what: &'static str, call: Call) {
        let handle = self.handle();
        if let Err(failure) = guarded(|| call(&handle)) {
            self.report(None, what, failure);
        }
    }

    /// Calls the protocol of an open port; of one that is closing, only `close_port` does.
    pub(crate) fn call_protocol(
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
        self.discard("closed port", "drop of a protocol", homeless);
    }

    pub(crate) fn told(&self, key: Key) {
        if let Some(port) = self.core.borrow_mut().ports.get_mut(key) {
            port.untold -= 1;
        }
    }

    /// Counts and logs a callback of a port, or of nobody, that failed.
    pub(crate) fn report(&self, key: Option<Key>, what: &'static str, failure: Failure) {
        drop(self.blame("reactor", what, failure, |core, failed| {
            let port = core.ports.get_mut(key?)?;
            Some((Rc::clone(&port.label), failed.of_port(&mut port.stats, &mut port.log)))
        }));
    }

    /// Counts and logs a callback that failed; returns its error for whoever needs it. `owner`
    /// finds whose it was, counts it there too, and tells the name for the log and whether that has
    /// room; where the owner is gone, the name is `otherwise`. Nothing may be borrowed.
    pub(crate) fn blame(
        &self,
        otherwise: impl fmt::Display,
        what: &'static str,
        failure: Failure,
        owner: impl FnOnce(&mut Core, &Failed) -> Option<(Rc<str>, bool)>,
    ) -> anyhow::Error {
        let failed = Failed { panicked: matches!(failure, Failure::Panic(_)), now: self.now() };
        let (label, logged) = {
            let core = &mut *self.core.borrow_mut();
            let stats = &mut core.agenda.stats;
            failed.count(&mut stats.callback_errors, &mut stats.callback_panics);
            match owner(core, &failed) {
                Some((label, logged)) => (Some(label), logged),
                None => (None, core.log.admits(failed.now)),
            }
        };
        match label {
            Some(label) => self.log_failure(&label, what, failure, logged),
            None => self.log_failure(&otherwise, what, failure, logged),
        }
    }

    /// Drops what is the user's, with nothing borrowed; a panic of that costs nobody else anything.
    pub(crate) fn discard<T>(&self, label: impl fmt::Display, what: &'static str, value: T) {
        let outcome = guarded(|| {
            drop(value);
            Ok(())
        });
        if let Err(failure) = outcome {
            drop(self.blame(label, what, failure, |_, _| None));
        }
    }

    /// Why a start hook kept its port from being opened; a panic may be let through.
    pub(crate) fn start_failure(&self, failure: Failure) -> anyhow::Error {
        match failure {
            Failure::Error(error) => error,
            Failure::Panic(panic) if self.lets_panics_through() => resume_unwind(panic),
            Failure::Panic(panic) => anyhow::anyhow!("panicked: {}", into_message(panic)),
        }
    }

    /// Logs a callback that failed, or keeps its panic to be let through. Nothing may be borrowed:
    /// the log and the error's own text are user code.
    #[cold]
    fn log_failure(
        &self,
        label: &dyn fmt::Display,
        what: &'static str,
        failure: Failure,
        logged: bool,
    ) -> anyhow::Error {
        match failure {
            Failure::Error(error) => {
                if logged {
                    let text = Causes(&error);
                    tracing::error!(port = %label, callback = what, "callback failed: {text}");
                }
                error
            }
            Failure::Panic(panic) => {
                let message = panic_message(&*panic).to_owned();
                if !self.catch_panics {
                    // The first one is let through; what it may have caused is not.
                    match self.panic.take() {
                        Some(first) => {
                            self.panic.set(Some(first));
                            discard_panic(panic);
                        }
                        None => self.panic.set(Some(panic)),
                    }
                    self.interrupted.set(true);
                } else {
                    if logged {
                        tracing::error!(port = %label, callback = what, "callback panicked: {message}");
                    }
                    discard_panic(panic);
                }
                anyhow::anyhow!("{what} panicked: {message}")
            }
        }
    }

    pub(crate) fn has_panic(&self) -> bool {
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

    fn lets_panics_through(&self) -> bool {
        !self.catch_panics
    }
}
