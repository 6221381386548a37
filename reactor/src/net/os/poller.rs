//! Waiting for events.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};

use crate::net::{BusyPolls, Event, Wake};

/// The token of the waker. Sockets have small ones: indices and generations.
const WAKER: Token = Token(usize::MAX);

/// Most events taken by one poll; the others stay with the kernel for the next.
const EVENTS: usize = 1024;

pub(super) struct Poller {
    poll: Poll,
    /// Reused by every poll.
    ready: Events,
    registry: Rc<Registry>,
    waker: Arc<Waker>,
    /// How long to ask again and again before sleeping.
    busy: Duration,
    busy_polls: BusyPolls,
}

impl Poller {
    pub(super) fn new(busy: Duration) -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = Rc::new(poll.registry().try_clone()?);
        let waker = Arc::new(Waker::new(&registry, WAKER)?);
        Ok(Self {
            poll,
            ready: Events::with_capacity(EVENTS),
            registry,
            waker,
            busy,
            busy_polls: BusyPolls::default(),
        })
    }

    pub(super) fn poll(
        &mut self,
        timeout: Option<Duration>,
        events: &mut Vec<Event>,
    ) -> io::Result<()> {
        match self.wait(timeout) {
            // A signal: the loop looks at what it did and polls again.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        let of_sockets = self.ready.iter().filter(|event| event.token() != WAKER);
        events.extend(of_sockets.map(|event| Event {
            token: event.token().0,
            readable: event.is_readable() || event.is_read_closed(),
            // Not `is_write_closed`: an error alone raises that, too.
            writable: event.is_writable(),
            error: event.is_error(),
            // Read on a stream, urgent data ends a read early as an end does, with more behind it.
            read_closed: event.is_read_closed() || event.is_priority(),
        }));
        Ok(())
    }

    /// Whoever is due to work is called at once: a wait begins when the last work is done, so it
    /// is the place to spin.
    #[allow(clippy::disallowed_methods, reason = "the system's clock bounds the spinning")]
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.busy.is_zero() || timeout == Some(Duration::ZERO) {
            return self.poll.poll(&mut self.ready, timeout);
        }
        self.busy_polls.waits += 1;
        let spin = timeout.map_or(self.busy, |timeout| timeout.min(self.busy));
        let begin = Instant::now();
        loop {
            self.poll.poll(&mut self.ready, Some(Duration::ZERO))?;
            // The waker is among them: calls from other threads and signals end the spin, too.
            if !self.ready.is_empty() {
                self.busy_polls.hits += 1;
                return Ok(());
            }
            let spun = begin.elapsed();
            if spun >= spin {
                let left = timeout.map(|timeout| timeout.saturating_sub(spun));
                // A timer is due: the loop need not ask once more.
                return match left {
                    Some(Duration::ZERO) => Ok(()),
                    left => self.poll.poll(&mut self.ready, left),
                };
            }
        }
    }

    pub(super) fn busy_polls(&self) -> BusyPolls {
        self.busy_polls
    }

    pub(super) fn wake(&self) -> Wake {
        let waker = Arc::clone(&self.waker);
        Arc::new(move || waker.wake())
    }

    /// Wakes `poll` as the waker does, and like it raises no event.
    #[cfg(feature = "signals")]
    pub(super) fn watch_waker(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.registry.register(&mut SourceFd(&fd.as_raw_fd()), WAKER, Interest::READABLE)
    }

    #[cfg(feature = "signals")]
    pub(super) fn unwatch_waker(&self, fd: BorrowedFd<'_>) {
        // Fails if it was never registered, which is as good.
        let _ = self.registry.deregister(&mut SourceFd(&fd.as_raw_fd()));
    }

    /// The right to be polled under `token`; nothing is registered yet.
    pub(super) fn registration(&self, token: usize) -> Registration {
        debug_assert_ne!(Token(token), WAKER);
        Registration { registry: Rc::clone(&self.registry), token: Token(token) }
    }
}

/// The place of one socket among those polled.
pub(super) struct Registration {
    registry: Rc<Registry>,
    token: Token,
}

impl Registration {
    pub(super) fn register(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.registry.register(&mut SourceFd(&fd.as_raw_fd()), self.token, Interest::READABLE)
    }

    /// Streams watch both directions for good: edges cost nothing while nobody waits for them.
    pub(super) fn register_stream(&self, fd: BorrowedFd<'_>) -> io::Result<Registered> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        // A read stops at urgent data (tcp(7)): that it came short must not pass for the end.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let interest = interest | Interest::PRIORITY;
        self.registry.register(&mut SourceFd(&fd.as_raw_fd()), self.token, interest)?;
        Ok(Registered(Rc::clone(&self.registry)))
    }

    /// The same right for the socket to be polled under `token`.
    pub(super) fn sibling(&self, token: usize) -> Self {
        Self { registry: Rc::clone(&self.registry), token: Token(token) }
    }

    /// Registering again also raises an event at once if the socket is ready.
    pub(super) fn watch_writable(&self, fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
        let interest = match on {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        self.registry.reregister(&mut SourceFd(&fd.as_raw_fd()), self.token, interest)
    }

    /// As [`Registered::end`].
    pub(super) fn end(&self, fd: BorrowedFd<'_>) {
        end(&self.registry, fd);
    }
}

/// What is left of a registration that will not change until it ends.
#[derive(Clone)]
pub(super) struct Registered(Rc<Registry>);

impl Registered {
    /// To be called before the descriptor is closed: epoll forgets a registration by itself only
    /// with the last descriptor of a socket, and others may have one (whoever gave us a duplicate,
    /// a service manager, a child).
    pub(super) fn end(&self, fd: BorrowedFd<'_>) {
        end(&self.0, fd);
    }
}

fn end(registry: &Registry, fd: BorrowedFd<'_>) {
    // Fails if it was never registered, which is as good.
    let _ = registry.deregister(&mut SourceFd(&fd.as_raw_fd()));
}
