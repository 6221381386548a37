//! The reactor: its making, its end, and the one place that spells out a turn of the loop.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use crate::Handle;
use crate::agenda::{Call, Notice};
use crate::callback::guarded;
use crate::datagram::{Readiness, close_port, service};
use crate::error::{NetworkError, RunError};
use crate::inner::Inner;
use crate::net::os::OsDriver;
use crate::net::{Driver, Event};
use crate::shutdown::{DEFAULT_LIMIT, Step};
use crate::slots::{Key, Kind};
use crate::stream::{self, Streams};
use crate::timers::Wheel;
use crate::unix;

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
    pub(crate) inner: Rc<Inner>,
    handle: Handle,
}

/// How to make a reactor; [`Reactor::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    catch_panics: bool,
    portable: bool,
    shutdown_limit: Duration,
    busy_poll: Duration,
    #[cfg(feature = "threads")]
    pub(crate) jobs: crate::jobs::Limits,
    #[cfg(feature = "signals")]
    pub(crate) stop_on_signals: bool,
}

impl Builder {
    /// Whether a panic in a callback is caught, logged and counted like an error (the default).
    /// Otherwise it leaves [`Reactor::run`], which may be called again.
    pub fn catch_panics(mut self, on: bool) -> Self {
        self.catch_panics = on;
        self
    }

    /// How long a shutdown may be held back, once before the ports stop (by a
    /// [`ShutdownHold`](crate::ShutdownHold)), and once before `run` returns (by jobs that are
    /// running on threads). Then it goes on, and says so in the log. 30 seconds unless set;
    /// `Duration::MAX` is no limit.
    pub fn shutdown_limit(mut self, limit: Duration) -> Self {
        self.shutdown_limit = limit;
        self
    }

    /// How long the loop asks the system again and again for events after its last work, before
    /// it sleeps until there is one. Zero, the default, sleeps at once.
    ///
    /// Waking a sleeping thread takes several microseconds and often far more; a spinning one
    /// answers without, at the price of a core that is busy for this long after each piece of
    /// work. It pays where the next datagram usually comes within that time: some tens of
    /// microseconds. Timers, posted calls and signals are served while the loop spins. How often it
    /// paid, [`ReactorStats::busy_poll_hits`](crate::ReactorStats::busy_poll_hits) tells.
    ///
    /// Spinning inside the system, on the network card's queue, is an option of the port:
    /// [`UdpOptions::busy_poll`](crate::UdpOptions::busy_poll).
    ///
    /// ```
    /// use std::time::Duration;
    /// use strand_reactor::Reactor;
    /// let reactor = Reactor::builder().busy_poll(Duration::from_micros(50)).build()?;
    /// reactor.iterate(Some(Duration::from_millis(1)))?;
    /// assert_eq!(reactor.stats().busy_polls, 1);
    /// assert_eq!(reactor.stats().busy_poll_hits, 0, "nothing came");
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn busy_poll(mut self, spin: Duration) -> Self {
        self.busy_poll = spin;
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
        let driver = OsDriver::new(self.portable, self.busy_poll)?;
        let reactor = Reactor::with_driver(Box::new(driver), self.catch_panics);
        let inner = &reactor.inner;
        inner.shutdown.set_limit(self.shutdown_limit);
        #[cfg(feature = "threads")]
        inner.jobs.set_limits(self.jobs);
        #[cfg(feature = "signals")]
        inner.signals.set_stop_on_signals(self.stop_on_signals);
        Ok(reactor)
    }
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
        Builder {
            catch_panics: true,
            portable: false,
            shutdown_limit: DEFAULT_LIMIT,
            busy_poll: Duration::ZERO,
            #[cfg(feature = "threads")]
            jobs: crate::jobs::Limits::default(),
            #[cfg(feature = "signals")]
            stop_on_signals: false,
        }
    }

    pub(crate) fn with_driver(driver: Box<dyn Driver>, catch_panics: bool) -> Self {
        let inner = Rc::new(Inner::new(driver, catch_panics));
        Self { handle: inner.handle(), inner }
    }

    /// A handle of its own: what may be stored in protocols and closures, where a reference to the
    /// reactor cannot go.
    ///
    /// ```
    /// let reactor = strand_reactor::Reactor::new()?;
    /// let handle = reactor.handle();
    /// reactor.call_when_running(move |_| handle.stop());
    /// reactor.run()?;
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until [`stop`](Handle::stop) was called, or nothing is left that could call back: no
    /// open port or connection, no attempt to connect, no lookup, no timer, no send under way, no
    /// posted call, no job on a thread, save for those that were `unref`'d.
    ///
    /// After `stop`, the hooks of [`on_shutdown`](Handle::on_shutdown) have run, every open port
    /// has been closed and its `stop_protocol` called, and the threads of jobs are joined. `run`
    /// may be called again.
    ///
    /// # Errors
    /// [`RunError::AlreadyRunning`] from inside a callback; [`RunError::Poll`] when the system's
    /// poller fails; [`RunError::Signals`] when the signals that are to stop it cannot be watched.
    pub fn run(&self) -> Result<(), RunError> {
        let inner = &self.inner;
        let _running = inner.begin()?;
        let _signals = inner.watch_stop_signals()?;
        while let Step::Turn(limit) = self.step() {
            self.turn(limit, Sleep::InAnyCase)?;
        }
        inner.end_idle_threads();
        Ok(())
    }

    /// One turn of the loop. Unless a posted call or a timer is due, it waits for events for at
    /// most `timeout`; `None` waits until there is one, if anything is left that could call back.
    /// Tells whether that is so.
    ///
    /// For programs that own their loop and visit this one; after a `stop` the turn is the
    /// shutdown, or a part of it: it goes on with the next call while something holds it back.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn iterate(&self, timeout: Option<Duration>) -> Result<bool, RunError> {
        let inner = &self.inner;
        let _running = inner.begin()?;
        inner.keep_stop_signals()?;
        match self.step() {
            Step::Turn(limit) => self.turn(sooner(timeout, limit), Sleep::WithoutWork)?,
            Step::Idle => self.turn(timeout, Sleep::WithoutWork)?,
            Step::Left => {}
        }
        // What a callback of this turn asked for belongs to it.
        self.step();
        Ok(inner.is_alive())
    }

    /// A turn of a host of a simulated world, which never waits. True when a stop has come to its
    /// end, where [`run`](Self::run) would return.
    #[cfg(feature = "sim")]
    pub(crate) fn simulated_turn(&self) -> Result<bool, RunError> {
        let _running = self.inner.begin_turn()?;
        if matches!(self.step(), Step::Left) {
            return Ok(true);
        }
        self.turn(Some(Duration::ZERO), Sleep::InAnyCase)?;
        Ok(matches!(self.step(), Step::Left))
    }

    /// A turn of the loop: what DESIGN section 4 describes, in its order.
    fn turn(&self, timeout: Option<Duration>, sleep: Sleep) -> Result<(), RunError> {
        let inner = &self.inner;
        inner.core.borrow_mut().agenda.stats.turns += 1;
        let called = self.posted_calls() | self.due_timers();
        #[cfg(feature = "dns")]
        crate::resolve::Executor::run(inner);
        self.flush_dirty();
        let awake = match sleep {
            // Nothing could end a wait without end.
            Sleep::InAnyCase => !inner.is_alive(),
            Sleep::WithoutWork => called || (timeout.is_none() && !inner.is_alive()),
        };
        let events = self.poll(if awake { Some(Duration::ZERO) } else { timeout })?;
        inner.deliver_signals();
        // A port that uses up its share of this turn while its event is dispatched goes on the list
        // for the next.
        let due = inner.core.borrow().agenda.ready.len();
        let streams_due = stream::due(inner);
        let unix_due = unix::due(inner);
        self.dispatch(&events);
        inner.events.set(events);
        self.ready_ports(due);
        stream::ready(inner, streams_due);
        unix::ready(inner, unix_due);
        self.notices();
        self.flush_dirty();
        inner.resume_panic();
        Ok(())
    }

    /// Tells, as `due_timers` does, whether anything was called.
    fn posted_calls(&self) -> bool {
        let inner = &self.inner;
        if !inner.mailbox.is_posted() && inner.core.borrow().agenda.calls.is_empty() {
            return false;
        }
        let remote = inner.take_posted();
        let local = std::mem::take(&mut inner.core.borrow_mut().agenda.calls);
        let mut calls: VecDeque<Call> = local;
        calls.extend(remote.into_iter().map(|call| -> Call { call }));
        let any = !calls.is_empty();
        while !inner.is_stopping()
            && let Some(call) = calls.pop_front()
        {
            inner.core.borrow_mut().agenda.stats.calls += 1;
            inner.call(call);
        }
        if !calls.is_empty() {
            // The rest waits for the next run, in front of what was posted meanwhile.
            let mut core = inner.core.borrow_mut();
            calls.append(&mut core.agenda.calls);
            core.agenda.calls = calls;
        }
        any
    }

    fn due_timers(&self) -> bool {
        let inner = &self.inner;
        let mut any = false;
        if inner.core.borrow().timers.is_empty() {
            return any;
        }
        let now = inner.now_ns();
        inner.core.borrow_mut().timers.begin_turn(now);
        while !inner.is_stopping() {
            let timer = {
                let core = &mut *inner.core.borrow_mut();
                let Some((_, deadline, timer)) = core.timers.pop_due() else { break };
                let stats = &mut core.agenda.stats;
                stats.timers_called += 1;
                stats.max_timer_lateness_ns =
                    stats.max_timer_lateness_ns.max(now.saturating_sub(deadline));
                core.agenda.references -= usize::from(timer.is_referenced());
                timer
            };
            timer.fire(inner, now);
            any = true;
        }
        any
    }

    fn flush_dirty(&self) {
        let core = &mut *self.inner.core.borrow_mut();
        while let Some(key) = core.agenda.dirty.pop_front() {
            if let Some(port) = core.ports.get_mut(key) {
                port.on_dirty = false;
                port.flush_unless_blocked(&mut core.agenda);
            }
        }
        stream::flush_dirty(core);
    }

    fn poll(&self, timeout: Option<Duration>) -> Result<Vec<Event>, RunError> {
        let inner = &*self.inner;
        let timeout = if inner.must_not_sleep() {
            Some(Duration::ZERO)
        } else {
            let next = inner.core.borrow_mut().timers.next_deadline();
            let until = next.map(|at| Duration::from_nanos(at.saturating_sub(inner.now_ns())));
            sooner(timeout, until)
        };
        let mut events = inner.events.take();
        events.clear();
        inner.driver.borrow_mut().poll(timeout, &mut events).map_err(RunError::Poll)?;
        #[cfg(feature = "testing")]
        inner.scripted.take_events(&mut events);
        let stats = &mut inner.core.borrow_mut().agenda.stats;
        stats.wakeups += u64::from(!events.is_empty());
        stats.events += events.len() as u64;
        Ok(events)
    }

    fn dispatch(&self, events: &[Event]) {
        let inner = &self.inner;
        for event in events {
            if matches!(Kind::of(event.token), Some(Kind::Listener | Kind::Stream)) {
                if !stream::event(inner, event) {
                    inner.core.borrow_mut().agenda.stats.stale_events += 1;
                }
                continue;
            }
            if Kind::of(event.token) == Some(Kind::UnixDatagram) {
                let known = unix::event(inner, event);
                inner.core.borrow_mut().agenda.stats.stale_events += u64::from(!known);
                continue;
            }
            let ready = Readiness {
                readable: event.readable,
                writable: event.writable,
                error: event.error,
            };
            #[cfg(feature = "dns")]
            if Kind::of(event.token) == Some(Kind::Task) {
                let (readable, writable) =
                    (event.readable || event.error, event.writable || event.error);
                let known = inner.executor.event(event.token, readable, writable);
                inner.core.borrow_mut().agenda.stats.stale_events += u64::from(!known);
                continue;
            }
            let key = {
                let stopping = inner.is_stopping();
                let core = &mut *inner.core.borrow_mut();
                let key = match Kind::of(event.token) {
                    Some(Kind::Datagram) => core.ports.key_of(event.token),
                    _ => None,
                };
                let Some(key) = key else {
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

    fn ready_ports(&self, due: usize) {
        let inner = &self.inner;
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

    /// Tells a refusal: of the port's peer, or of one that it has left since.
    fn refused(&self, key: Key, by: SocketAddr) {
        let inner = &self.inner;
        let peer = inner.core.borrow().ports.get(key).and_then(|port| port.peer);
        if peer == Some(by) {
            inner.call_protocol(key, "connection_refused", |protocol, transport| {
                protocol.connection_refused(transport)
            });
        } else {
            let error = NetworkError::refusal(by);
            inner.call_protocol(key, "network_error", |protocol, transport| {
                protocol.network_error(transport, &error)
            });
        }
    }

    /// Tells user code what happened, in order, and closes the ports that are to be closed.
    pub(crate) fn notices(&self) {
        let inner = &self.inner;
        let mut due = inner.core.borrow().agenda.notices.len();
        while due > 0 {
            due -= 1;
            if inner.is_stopping() && !inner.is_shutting_down() {
                return;
            }
            let Some(notice) = inner.core.borrow_mut().agenda.notices.pop_front() else { return };
            match notice {
                Notice::Refused(key, peer, count) => {
                    self.refused(key, peer);
                    if count > 1 {
                        let rest = Notice::Refused(key, peer, count - 1);
                        inner.core.borrow_mut().agenda.notices.push_front(rest);
                        due += 1;
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
                Notice::Stream(notice) => stream::notice(inner, notice),
                Notice::Unix(notice) => unix::notice(inner, notice),
            }
        }
    }
}

/// The shorter of two waits, of which `None` has no end.
fn sooner(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// When a turn may wait for events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sleep {
    InAnyCase,
    /// Not after a posted call or a timer: whoever drives the loop turn by turn wants to look at
    /// what it did.
    WithoutWork,
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.end();
    }
}

impl Reactor {
    /// Closes and drops everything, without callbacks; from inside of one, the turn under way
    /// finds nothing more to do.
    pub(crate) fn end(&self) {
        let inner = &*self.inner;
        let remote = inner.mailbox.close();
        let hooks = inner.shutdown.take_hooks();
        let jobs = inner.take_jobs();
        let signals = inner.take_signals();
        let (ports, streams, unix_ports, timers, agenda, batches) = {
            let core = &mut *inner.core.borrow_mut();
            core.closed = true;
            (
                core.ports.drain(),
                std::mem::replace(&mut core.streams, Streams::new()),
                core.unix_ports.drain(),
                std::mem::replace(&mut core.timers, Wheel::new()),
                std::mem::take(&mut core.agenda),
                std::mem::take(&mut core.batches),
            )
        };
        #[cfg(feature = "dns")]
        let tasks = inner.executor.close();
        #[cfg(not(feature = "dns"))]
        let tasks = ();
        let names = inner.names.close();
        // User values go now that nothing is borrowed, and all handles know that the reactor is
        // closed: the drop of one may call any other.
        timers.iter().for_each(|(_, _, timer)| timer.close());
        timers.iter().for_each(|(_, _, timer)| timer.discard());
        drop((ports, streams, unix_ports, timers, agenda, batches));
        drop((remote, hooks, jobs, signals, names, tasks));
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
        f.debug_struct("Reactor")
            .field("running", &self.inner.running.get())
            .finish_non_exhaustive()
    }
}
