//! Signals on the loop: who watches which, and the signals that stop a reactor.
//!
//! The handler (in `sys`) only counts and wakes. Each watcher remembers how far it has counted,
//! and the loop calls it for the difference.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::rc::{Rc, Weak};

use crate::Handle;
use crate::callback::{CallbackResult, guarded};
use crate::error::RunError;
use crate::inner::{Inner, Stop};
use crate::reactor::Builder;
use crate::sys::signals::{Waker, Watched, count, is_free, total};

/// Calls of one watcher in one turn, and so the most that can wait: of a flood of signals beyond
/// that, the oldest are told as one.
const BACKLOG: usize = 256;

/// The number of a signal; signal(7).
///
/// ```
/// use strand_reactor::Signal;
/// assert_eq!(Signal::INT.to_string(), "SIGINT");
/// assert_eq!(Signal::from_raw(15), Signal::TERM);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(i32);

macro_rules! signals {
    ($($(#[$doc:meta])* $name:ident = $number:ident;)*) => {
        impl Signal {
            $($(#[$doc])* pub const $name: Self = Self(libc::$number);)*

            fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(stringify!($number)),)*
                    _ => None,
                }
            }
        }
    };
}

signals! {
    /// The terminal is gone; to a server: read the configuration again.
    HUP = SIGHUP;
    /// Interrupted at the terminal (Ctrl-C).
    INT = SIGINT;
    /// Quit at the terminal (Ctrl-\).
    QUIT = SIGQUIT;
    /// Please end.
    TERM = SIGTERM;
    /// The program's own.
    USR1 = SIGUSR1;
    /// The program's own.
    USR2 = SIGUSR2;
    /// A child process stopped or ended.
    CHLD = SIGCHLD;
    /// Goes on after a stop.
    CONT = SIGCONT;
    /// Stop at the terminal (Ctrl-Z).
    TSTP = SIGTSTP;
    /// The terminal has another size.
    WINCH = SIGWINCH;
    /// A timer of the system ran out.
    ALRM = SIGALRM;
    /// Written to a pipe that nobody reads. Rust's programs ignore it.
    PIPE = SIGPIPE;
    /// Urgent data on a socket.
    URG = SIGURG;
}

impl Signal {
    /// The signal of this number, whether the system knows it or not.
    pub const fn from_raw(number: i32) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn as_raw(self) -> i32 {
        self.0
    }

    /// Whether a handler may be installed and return.
    fn is_watchable(self) -> bool {
        ![libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV, libc::SIGFPE, libc::SIGILL, libc::SIGBUS]
            .contains(&self.0)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "signal {}", self.0),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a signal cannot be watched.
#[derive(Debug)]
#[non_exhaustive]
pub enum SignalError {
    /// The system delivers it to nobody (`SIGKILL`, `SIGSTOP`), or it says that the program is
    /// broken at this very instruction (`SIGSEGV`, `SIGFPE`, `SIGILL`, `SIGBUS`), to which no
    /// event loop can come back.
    Unwatchable(Signal),
    /// The system knows no signal of this number.
    Unknown(Signal),
    /// Too many reactors of this process watch signals: 256 can at a time.
    TooManyReactors,
    /// The system refused what it takes (descriptors), or the reactor's network has no signals.
    Io(io::Error),
    /// The reactor is gone.
    Closed,
}

impl fmt::Display for SignalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unwatchable(signal) => {
                write!(f, "{signal} cannot be watched: choose one that a program may survive")
            }
            Self::Unknown(signal) => write!(f, "{signal} does not exist on this system"),
            Self::TooManyReactors => {
                f.write_str("too many reactors watch signals: let one watch and tell the others")
            }
            Self::Io(source) => write!(f, "cannot watch signals: {source}"),
            Self::Closed => f.write_str("the reactor is gone"),
        }
    }
}

impl Error for SignalError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(source) => Some(source),
            _ => None,
        }
    }
}

type Callback = Box<dyn FnMut(&Handle) -> anyhow::Result<()>>;

struct Watch {
    signal: Signal,
    /// How many were told.
    told: usize,
    /// Out while it is called.
    call: Option<Callback>,
    _watched: Watched,
}

pub(crate) struct Signals {
    /// In the order in which they began.
    watches: RefCell<BTreeMap<u64, Watch>>,
    next: Cell<u64>,
    /// There as long as there are watches.
    waker: RefCell<Option<Waker>>,
    /// Whether there are watches, and the process's count when they were last looked at.
    looked_at: Cell<Option<usize>>,
    stop_on_signals: Cell<bool>,
    stopping: RefCell<Vec<SignalWatch>>,
}

impl Signals {
    pub(crate) fn new() -> Self {
        Self {
            watches: RefCell::default(),
            next: Cell::new(0),
            waker: RefCell::default(),
            looked_at: Cell::new(None),
            stop_on_signals: Cell::new(false),
            stopping: RefCell::default(),
        }
    }

    pub(crate) fn set_stop_on_signals(&self, on: bool) {
        self.stop_on_signals.set(on);
    }

    /// The next signal of a watcher: its callback, if one is to be told. `now`: how many there are
    /// to tell, this turn.
    fn next_of(&self, id: u64, now: usize) -> Option<Callback> {
        let watches = &mut *self.watches.borrow_mut();
        let watch = watches.get_mut(&id)?;
        let behind = now.wrapping_sub(watch.told);
        // A count that is ahead: the watch began after this turn's look.
        if behind == 0 || behind > usize::MAX / 2 {
            return None;
        }
        let call = watch.call.take()?;
        watch.told = now.wrapping_sub(behind.min(BACKLOG) - 1);
        Some(call)
    }

    /// The callback returns to its watch, or to the caller if that has ended.
    fn put_back(&self, id: u64, call: Callback) -> Option<Callback> {
        match self.watches.borrow_mut().get_mut(&id) {
            Some(watch) => watch.call.replace(call),
            None => Some(call),
        }
    }
}

/// Ends the watch for the signals that stop a reactor, when its run does.
struct StopSignals<'a>(&'a Inner);

impl Drop for StopSignals<'_> {
    fn drop(&mut self) {
        let watches = self.0.signals.stopping.take();
        drop(watches);
    }
}

impl Inner {
    /// Whether signals came that the loop has not looked at.
    pub(crate) fn has_signals(&self) -> bool {
        self.signals.looked_at.get().is_some_and(|seen| seen != total())
    }

    /// Calls the watchers of the signals that came.
    pub(crate) fn deliver_signals(self: &Rc<Self>) {
        if !self.has_signals() {
            return;
        }
        let signals = &self.signals;
        // Before the counts are read, so that what comes in between wakes again.
        if let Some(waker) = &*signals.waker.borrow() {
            waker.drain();
        }
        signals.looked_at.set(Some(total()));
        let due: Vec<(u64, usize)> = signals
            .watches
            .borrow()
            .iter()
            .map(|(id, watch)| (*id, count(watch.signal.0)))
            .collect();
        let handle = self.handle();
        for (id, now) in due {
            while let Some(mut call) = signals.next_of(id, now) {
                let outcome = guarded(|| call(&handle));
                let ended = signals.put_back(id, call);
                drop(ended);
                if let Err(failure) = outcome {
                    self.report(None, "signal", failure);
                }
                // After `stop` the others are still told: a signal belongs to all its watchers.
                if self.stop.get() == Stop::Crash || self.has_panic() {
                    // The rest is for the next run.
                    if let Some(seen) = signals.looked_at.get() {
                        signals.looked_at.set(Some(seen.wrapping_sub(1)));
                    }
                    return;
                }
            }
        }
    }

    /// Watches the signals that stop the reactor, if the builder said so, until the result is
    /// dropped.
    pub(crate) fn watch_stop_signals(self: &Rc<Self>) -> Result<impl Sized, RunError> {
        let ending = StopSignals(self);
        self.keep_stop_signals()?;
        Ok(ending)
    }

    /// As `watch_stop_signals`, until the reactor is gone or has run.
    pub(crate) fn keep_stop_signals(self: &Rc<Self>) -> Result<(), RunError> {
        let signals = &self.signals;
        if !signals.stop_on_signals.get() || !signals.stopping.borrow().is_empty() {
            return Ok(());
        }
        let weak = Rc::downgrade(self);
        let watches = self.watch_stopping(move || {
            if let Some(inner) = weak.upgrade() {
                inner.stop_by_signal();
            }
        })?;
        signals.stopping.replace(watches);
        Ok(())
    }

    /// Calls `stop` for each signal that asks a program to end.
    pub(crate) fn watch_stopping(
        self: &Rc<Self>,
        stop: impl Fn() + Clone + 'static,
    ) -> Result<Vec<SignalWatch>, RunError> {
        let mut watches = Vec::new();
        for signal in [Signal::INT, Signal::TERM] {
            // A shell ignores SIGINT for what it starts in the background; and a handler of the
            // program's own has its reasons.
            if signal == Signal::INT && !is_free(signal.0).map_err(RunError::Signals)? {
                continue;
            }
            let stop = stop.clone();
            let call = move |_: &Handle| {
                stop();
                Ok(())
            };
            let watch = self.watch_signal(signal, Box::new(call)).map_err(|error| match error {
                SignalError::Io(source) => RunError::Signals(source),
                other => RunError::Signals(io::Error::other(other)),
            })?;
            watches.push(watch);
        }
        Ok(watches)
    }

    fn watch_signal(
        self: &Rc<Self>,
        signal: Signal,
        call: Callback,
    ) -> Result<SignalWatch, SignalError> {
        if !signal.is_watchable() {
            return Err(SignalError::Unwatchable(signal));
        }
        let signals = &self.signals;
        if signals.waker.borrow().is_none() {
            let waker = Waker::new().map_err(|error| match error.kind() {
                io::ErrorKind::QuotaExceeded => SignalError::TooManyReactors,
                _ => SignalError::Io(error),
            })?;
            let watched = self.driver.borrow_mut().watch_waker(waker.as_fd());
            watched.map_err(SignalError::Io)?;
            *signals.waker.borrow_mut() = Some(waker);
            signals.looked_at.set(Some(total()));
        }
        // Before the handler is there: what comes from now on is told.
        let told = count(signal.0);
        let watched = match Watched::new(signal.0) {
            Ok(watched) => watched,
            Err(error) => {
                self.end_waker_if_idle();
                return Err(match error.raw_os_error() {
                    Some(libc::EINVAL) => SignalError::Unknown(signal),
                    _ => SignalError::Io(error),
                });
            }
        };
        let id = signals.next.get();
        signals.next.set(id + 1);
        let watch = Watch { signal, told, call: Some(call), _watched: watched };
        signals.watches.borrow_mut().insert(id, watch);
        Ok(SignalWatch { inner: Rc::downgrade(self), id, signal })
    }

    fn unwatch_signal(&self, id: u64) {
        let watch = self.signals.watches.borrow_mut().remove(&id);
        drop(watch);
        self.end_waker_if_idle();
    }

    fn end_waker_if_idle(&self) {
        let signals = &self.signals;
        if signals.watches.borrow().is_empty()
            && let Some(waker) = signals.waker.take()
        {
            signals.looked_at.set(None);
            self.driver.borrow_mut().unwatch_waker(waker.as_fd());
        }
    }

    /// Everything, for the end of the reactor; the caller drops it.
    pub(crate) fn take_signals(&self) -> impl Sized {
        let signals = &self.signals;
        let stopping = signals.stopping.take();
        let watches = signals.watches.take();
        self.end_waker_if_idle();
        (stopping, watches)
    }
}

impl Builder {
    /// Has `SIGINT` (Ctrl-C) and `SIGTERM` stop the reactor as [`stop`](Handle::stop) does; a
    /// second one during the shutdown ends all waiting for holds and jobs. Off unless called.
    ///
    /// The handlers are there while the reactor runs: from the beginning of
    /// [`run`](crate::Reactor::run) to its end; with [`iterate`](crate::Reactor::iterate), from the first
    /// call until the reactor is dropped. `SIGINT` is left alone if it is ignored when the run
    /// begins, as a shell does for what it starts in the background, or if the program has a
    /// handler of its own.
    ///
    /// ```
    /// let reactor = strand_reactor::Reactor::builder().stop_on_signals().build()?;
    /// # reactor.call_when_running(|handle| handle.stop());
    /// reactor.run()?;
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn stop_on_signals(mut self) -> Self {
        self.stop_on_signals = true;
        self
    }
}

/// A watch for a signal; made by [`Handle::on_signal`], ended by being dropped.
#[must_use = "dropping it ends the watch"]
pub struct SignalWatch {
    inner: Weak<Inner>,
    id: u64,
    signal: Signal,
}

impl SignalWatch {
    /// Ends the watch, as dropping it does: no call comes any more, not even for a signal that
    /// came before. The callback may do this, too.
    pub fn stop(self) {}

    /// The signal.
    pub fn signal(&self) -> Signal {
        self.signal
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade() {
            inner.unwatch_signal(self.id);
        }
    }
}

impl fmt::Debug for SignalWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SignalWatch").field(&self.signal).finish()
    }
}

impl Handle {
    /// Calls `callback` on the loop each time that the process gets `signal`, until the result is
    /// dropped. It does not keep [`run`](crate::Reactor::run) going.
    ///
    /// Every watcher of the signal in every reactor of the process is called. As long as there is
    /// one, the signal does only this: what it did before (by default, most end the process) it
    /// does again once the last watch of the process has ended. The system may join several signals
    /// of one kind that come before it delivers them, and of more than 256 that the loop has not
    /// come round to, the oldest are told as one; at least one call always comes.
    ///
    /// # Errors
    /// [`SignalError::Unwatchable`] for `SIGKILL`, `SIGSTOP`, `SIGSEGV`, `SIGFPE`, `SIGILL` and
    /// `SIGBUS`; the others as they say. Nothing is changed then.
    ///
    /// ```
    /// use strand_reactor::{Reactor, Signal, SignalError};
    /// let reactor = Reactor::new()?;
    /// let reload = reactor.on_signal(Signal::HUP, |_| println!("reading the configuration"))?;
    /// assert_eq!(reload.signal(), Signal::HUP);
    /// reactor.run()?; // returns: nothing but the watch is left
    ///
    /// let refused = reactor.on_signal(Signal::from_raw(9), |_| {}).unwrap_err();
    /// assert!(matches!(refused, SignalError::Unwatchable(_)));
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn on_signal<F, R>(
        &self,
        signal: Signal,
        mut callback: F,
    ) -> Result<SignalWatch, SignalError>
    where
        F: FnMut(&Self) -> R + 'static,
        R: CallbackResult + 'static,
    {
        let inner = self.upgrade().ok_or(SignalError::Closed)?;
        if inner.core.borrow().closed {
            return Err(SignalError::Closed);
        }
        inner.watch_signal(signal, Box::new(move |handle| callback(handle).into_result()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Reactor;
    use crate::sys::signals::{pretend, turn_at_the_table};

    #[test]
    fn of_a_flood_the_oldest_are_told_as_one_and_the_turn_goes_on() {
        let _turn = turn_at_the_table();
        let reactor = Reactor::new().unwrap();
        let told = Rc::new(Cell::new(0));
        let telling = Rc::clone(&told);
        let watch = reactor.on_signal(Signal::ALRM, move |_| {
            // More come while the first are told: they are for the next turn.
            pretend(Signal::ALRM.as_raw(), 1);
            telling.set(telling.get() + 1);
        });
        pretend(Signal::ALRM.as_raw(), 2000);
        for _ in 0..3 {
            reactor.iterate(Some(Duration::ZERO)).unwrap();
            assert_eq!(told.replace(0), BACKLOG);
        }
        drop(watch);
        reactor.iterate(Some(Duration::ZERO)).unwrap();
        assert_eq!(told.get(), 0);
    }
}
