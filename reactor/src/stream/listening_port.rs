//! The handle to a TCP or UNIX port.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::{Rc, Weak};

use super::listener::Listener;
use crate::Handle;
use crate::agenda::{Agenda, Call, Notice};
use crate::callback::CallbackResult;
use crate::datagram::PortState;
use crate::error::{Closed, OptionError};
use crate::inner::{Inner, reach};
use crate::slots::Key;
use crate::stats::ListenerStats;

/// A handle to a TCP or UNIX port, cheap to clone and to store; it keeps nothing alive.
/// [`Handle::listen_tcp`] and [`Handle::listen_unix`] return one. Once the port is closed, calls return a typed `Closed`
/// error.
///
/// ```
/// use strand_reactor::{PeerAddr, PortState, Protocol, Reactor, Transport};
/// # struct P;
/// # impl Protocol for P {
/// #     fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> { Ok(()) }
/// # }
/// let reactor = Reactor::new()?;
/// let port = reactor.listen_tcp("127.0.0.1:0", |_: PeerAddr| Some(P))?;
/// port.stop_listening_then(|_| println!("closed"))?;
/// assert_eq!(port.state(), PortState::Closing);
/// reactor.run()?;
/// assert_eq!(port.state(), PortState::Closed);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone)]
pub struct ListeningPort {
    inner: Weak<Inner>,
    key: Key,
}

impl ListeningPort {
    pub(crate) fn new(inner: &Rc<Inner>, key: Key) -> Self {
        Self { inner: Rc::downgrade(inner), key }
    }

    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut Listener, &mut Agenda) -> R) -> Option<R> {
        let inner = reach(&self.inner)?;
        let core = &mut *inner.core.borrow_mut();
        let listener = core.streams.listeners.get_mut(self.key)?;
        Some(work(listener, &mut core.agenda))
    }

    /// Closes the port: no more connections are accepted, and those that wait are reset. Open
    /// connections go on. The path of a UNIX port is removed, if it still is that port's. Calling it again, or on a closed port, does nothing.
    pub fn stop_listening(&self) {
        self.with(Listener::begin_close);
    }

    /// As [`stop_listening`](Self::stop_listening), and calls `done` when the port is closed and
    /// its number free; in the next turn, if it is closed already.
    ///
    /// # Errors
    /// [`Closed`] when the reactor is gone: `done` is dropped.
    pub fn stop_listening_then<F, R>(&self, done: F) -> Result<(), Closed>
    where
        F: FnOnce(&Handle) -> R + 'static,
        R: CallbackResult + 'static,
    {
        let done: Call = Box::new(move |handle| done(handle).into_result());
        let inner = reach(&self.inner).ok_or(Closed)?;
        let core = &mut *inner.core.borrow_mut();
        if core.closed {
            return Err(Closed);
        }
        match core.streams.listeners.get_mut(self.key) {
            Some(listener) => {
                listener.stopped.push(done);
                listener.begin_close(&mut core.agenda);
            }
            None => core.agenda.notices.push_back(Notice::Call(done)),
        }
        Ok(())
    }

    /// Stops accepting: connections wait in the system's backlog.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn pause_accepting(&self) -> Result<(), Closed> {
        self.with(|listener, _| listener.paused = true).ok_or(Closed)
    }

    /// Accepts again, from the next turn on, beginning with what waited.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn resume_accepting(&self) -> Result<(), Closed> {
        self.with(|listener, agenda| {
            if std::mem::take(&mut listener.paused) {
                listener.make_ready(agenda);
            }
        })
        .ok_or(Closed)
    }

    /// The address that a TCP port is bound to.
    ///
    /// # Errors
    /// [`OptionError`]: `Closed`, `Io`, or `Unsupported` on a UNIX port, whose address
    /// [`unix_addr`](Self::unix_addr) tells.
    pub fn local_addr(&self) -> Result<SocketAddr, OptionError> {
        self.with(|listener, _| {
            listener
                .socket
                .local_addr()
                .map_err(|source| OptionError::from_io("local_addr", source))
        })
        .unwrap_or(Err(OptionError::Closed))
    }

    /// Whether the port is open, paused, closing or closed.
    pub fn state(&self) -> PortState {
        self.with(|listener, _| listener.state()).unwrap_or(PortState::Closed)
    }

    /// What the port has done so far.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn stats(&self) -> Result<ListenerStats, Closed> {
        self.with(|listener, _| listener.stats).ok_or(Closed)
    }

    /// Lets [`run`](crate::Reactor::run) return although this port is open.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn unref(&self) -> Result<(), Closed> {
        self.count(false)
    }

    /// Takes [`unref`](Self::unref) back.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn reref(&self) -> Result<(), Closed> {
        self.count(true)
    }

    fn count(&self, referenced: bool) -> Result<(), Closed> {
        self.with(|listener, agenda| {
            agenda.references -= usize::from(listener.referenced);
            agenda.references += usize::from(referenced);
            listener.referenced = referenced;
        })
        .ok_or(Closed)
    }

    /// The reactor.
    pub fn reactor(&self) -> Handle {
        Handle::from_weak(self.inner.clone())
    }

    /// The port's name in logs.
    pub fn label(&self) -> String {
        self.with(|listener, _| listener.label.to_string())
            .unwrap_or_else(|| "closed port".to_owned())
    }

    /// Lends the file descriptor to `look`; options that this crate does not know may be set.
    ///
    /// # Errors
    /// [`OptionError::Closed`]; `Unsupported` where there is no descriptor.
    pub fn with_fd<R>(&self, look: impl FnOnce(BorrowedFd<'_>) -> R) -> Result<R, OptionError> {
        let socket =
            self.with(|listener, _| Rc::clone(&listener.socket)).ok_or(OptionError::Closed)?;
        let fd = socket.fd().ok_or(OptionError::Unsupported { name: "with_fd" })?;
        Ok(look(fd))
    }
}

impl fmt::Debug for ListeningPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.local_addr() {
            Ok(address) => f
                .debug_struct("ListeningPort")
                .field("local_addr", &address)
                .field("state", &self.state())
                .finish(),
            Err(OptionError::Closed) => f.write_str("ListeningPort(closed)"),
            Err(_) => f
                .debug_struct("ListeningPort")
                .field("label", &self.label())
                .field("state", &self.state())
                .finish(),
        }
    }
}
