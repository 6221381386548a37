//! Waiting for events.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};

use crate::net::{Event, Wake};

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
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = Rc::new(poll.registry().try_clone()?);
        let waker = Arc::new(Waker::new(&registry, WAKER)?);
        Ok(Self { poll, ready: Events::with_capacity(EVENTS), registry, waker })
    }

    pub(super) fn poll(
        &mut self,
        timeout: Option<Duration>,
        events: &mut Vec<Event>,
    ) -> io::Result<()> {
        match self.poll.poll(&mut self.ready, timeout) {
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
            read_closed: event.is_read_closed(),
        }));
        Ok(())
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
    pub(super) fn register_stream(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.registry.register(&mut SourceFd(&fd.as_raw_fd()), self.token, interest)
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

    /// To be called before the descriptor is closed: epoll forgets a registration by itself only
    /// with the last descriptor of a socket, and others may have one (whoever gave us a duplicate,
    /// a service manager, a child).
    pub(super) fn end(&self, fd: BorrowedFd<'_>) {
        // Fails if it was never registered, which is as good.
        let _ = self.registry.deregister(&mut SourceFd(&fd.as_raw_fd()));
    }
}
