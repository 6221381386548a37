//! The handle to a connection: its life, its reading, and what can be asked of it.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::{Rc, Weak};

use super::PeerAddr;
use super::connection::{Connection, ConnectionState, Phase, Ready};
use crate::Handle;
use crate::agenda::Agenda;
use crate::datagram::Family;
use crate::error::{Closed, OptionError};
use crate::inner::{Inner, reach};
use crate::slots::Key;
use crate::stats::StreamStats;

/// A handle to a stream, cheap to clone and to store; it keeps nothing alive. Callbacks are given
/// one. Once the connection is closed, calls return a typed `Closed` error.
#[derive(Clone)]
pub struct Transport {
    inner: Weak<Inner>,
    key: Key,
}

/// What a UNIX stream says when it is asked for what only IP has.
const NOT_IP: OptionError =
    OptionError::Unsupported { name: "an address of IP (this is a UNIX stream: see peer)" };

/// Names a connection across threads: plain data, for [`Handle::stream`] to find the connection
/// again on the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamKey {
    reactor: u32,
    key: Key,
}

impl Handle {
    /// The connection of this key; `None` when it is closed or belongs to another reactor.
    pub fn stream(&self, key: StreamKey) -> Option<Transport> {
        let inner = self.upgrade()?;
        let open = inner.id == key.reactor
            && inner.core.borrow().streams.connections.get(key.key).is_some();
        open.then(|| Transport::new(&inner, key.key))
    }

    /// Every connection that is not closed, in no particular order.
    ///
    /// ```
    /// let reactor = strand_reactor::Reactor::new()?;
    /// assert!(reactor.streams().is_empty());
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn streams(&self) -> Vec<Transport> {
        let Some(inner) = self.upgrade() else { return Vec::new() };
        let core = inner.core.borrow();
        let connections = &core.streams.connections;
        let made = |key: &Key| connections.get(*key).is_some_and(|c| c.phase != Phase::Connecting);
        connections.keys().filter(made).map(|key| Transport::new(&inner, key)).collect()
    }
}

impl Transport {
    pub(crate) fn new(inner: &Rc<Inner>, key: Key) -> Self {
        Self { inner: Rc::downgrade(inner), key }
    }

    /// Works on the connection with everything borrowed; `None` when it is closed.
    #[inline]
    pub(crate) fn with<R>(
        &self,
        work: impl FnOnce(&mut Connection, &mut Agenda) -> R,
    ) -> Option<R> {
        let inner = reach(&self.inner)?;
        let core = &mut *inner.core.borrow_mut();
        let connection = core.streams.connections.get_mut(self.key)?;
        Some(work(connection, &mut core.agenda))
    }

    // ---- Closing ----

    /// Closes the connection in order: nothing more is delivered, all that was written before is
    /// sent, the peer is told the end, and what it still sends is discarded until it closes, too
    /// (or [`close_timeout`](crate::TcpOptions::close_timeout) is over). Then `connection_lost`
    /// is called. What is written after this is refused.
    ///
    /// A peer that never reads holds the connection open for as long as something waits to be
    /// sent; [`abort_connection`](Self::abort_connection) ends that.
    pub fn lose_connection(&self) {
        self.with(Connection::lose);
    }

    /// Closes the connection with a reset: what was not sent yet is dropped, and the peer sees an
    /// error. `connection_lost` follows from the loop with
    /// [`ConnectionLost::Aborted`](crate::ConnectionLost::Aborted). UNIX sockets know no reset: over
    /// them the peer reads what the system had taken, and then the end.
    pub fn abort_connection(&self) {
        self.with(Connection::abort);
    }

    /// Ends what we send, and goes on receiving: all that was written before is sent and the peer
    /// told the end, then
    /// [`write_connection_lost`](crate::Protocol::write_connection_lost) is called. Once the peer
    /// has ended what it sends, too, the connection is lost.
    pub fn lose_write(&self) {
        self.with(Connection::lose_write);
    }

    /// Whether the connection is open, half-closed, closing or closed.
    pub fn state(&self) -> ConnectionState {
        self.with(|connection, _| connection.state()).unwrap_or(ConnectionState::Closed)
    }

    /// Whether data may still be received: the peer has not ended what it sends, nor have we
    /// closed the connection.
    pub fn readable(&self) -> bool {
        self.with(|connection, _| {
            connection.phase == Phase::Open && !connection.read_closed && !connection.disconnecting
        })
        .unwrap_or(false)
    }

    /// Whether what is written will be sent.
    pub fn writable(&self) -> bool {
        self.with(|connection, _| connection.is_writable()).unwrap_or(false)
    }

    // ---- Reading ----

    /// Stops delivery after the call under way; what arrives waits in the system's buffer, and
    /// the peer is slowed down. A reset is noticed all the same. Twice is as good as once.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn pause_reading(&self) -> Result<(), Closed> {
        self.with(|connection, _| connection.paused = true).ok_or(Closed)
    }

    /// Delivers again, from the next turn on, beginning with what waited.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn resume_reading(&self) -> Result<(), Closed> {
        self.with(|connection, agenda| {
            if std::mem::take(&mut connection.paused) {
                connection.make_ready(Ready::DRAIN, agenda);
            }
        })
        .ok_or(Closed)
    }

    /// Whether reading is paused.
    pub fn is_reading_paused(&self) -> bool {
        self.with(|connection, _| connection.paused).unwrap_or(false)
    }

    // ---- Addresses and names ----

    /// The address of this end of a TCP connection.
    ///
    /// # Errors
    /// [`OptionError`]: `Closed`, `Io`, or `Unsupported` on a UNIX stream, whose address
    /// [`unix_local_addr`](Self::unix_local_addr) tells.
    pub fn local_addr(&self) -> Result<SocketAddr, OptionError> {
        self.with(|connection, _| {
            connection.peer().ip().ok_or(NOT_IP)?;
            connection
                .socket
                .local_addr()
                .map_err(|source| OptionError::from_io("local_addr", source))
        })
        .unwrap_or(Err(OptionError::Closed))
    }

    /// The address of the peer of a TCP connection; known also after the peer has gone.
    ///
    /// # Errors
    /// [`OptionError`]: `Closed`, or `Unsupported` on a UNIX stream, whose peer
    /// [`peer`](Self::peer) tells.
    pub fn peer_addr(&self) -> Result<SocketAddr, OptionError> {
        self.with(|connection, _| connection.peer().ip().ok_or(NOT_IP))
            .unwrap_or(Err(OptionError::Closed))
    }

    /// The address of the peer, whatever its family; known also after the peer has gone.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn peer(&self) -> Result<PeerAddr, Closed> {
        self.with(|connection, _| connection.peer()).ok_or(Closed)
    }

    /// The family of the peer's address; [`Family::Dual`] for an IPv4 peer of a dual-stack port.
    ///
    /// # Errors
    /// [`OptionError`]: `Closed`, or `Unsupported` on a UNIX stream.
    pub fn family(&self) -> Result<Family, OptionError> {
        self.with(|connection, _| match connection.peer().ip().ok_or(NOT_IP)? {
            SocketAddr::V4(_) => Ok(Family::V4),
            SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => Ok(Family::Dual),
            SocketAddr::V6(_) => Ok(Family::V6Only),
        })
        .unwrap_or(Err(OptionError::Closed))
    }

    /// The connection's name in logs.
    pub fn label(&self) -> String {
        self.with(|connection, _| connection.label().to_string())
            .unwrap_or_else(|| "closed connection".to_owned())
    }

    /// Names the connection in logs.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn set_label(&self, label: &str) -> Result<(), Closed> {
        self.with(|connection, _| connection.set_label(Some(label))).ok_or(Closed)
    }

    /// What the connection has done so far.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn stats(&self) -> Result<StreamStats, Closed> {
        self.with(|connection, _| connection.stats()).ok_or(Closed)
    }

    // ---- Life ----

    /// Lets [`run`](crate::Reactor::run) return although this connection is open. What waits to
    /// be sent still keeps it.
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
        self.with(|connection, agenda| {
            agenda.references -= usize::from(connection.referenced);
            agenda.references += usize::from(referenced);
            connection.referenced = referenced;
        })
        .ok_or(Closed)
    }

    /// The reactor.
    pub fn reactor(&self) -> Handle {
        Handle::from_weak(self.inner.clone())
    }

    /// The key by which [`Handle::stream`] finds this connection, from any thread's message.
    ///
    /// # Errors
    /// [`Closed`] when the reactor is gone.
    pub fn key(&self) -> Result<StreamKey, Closed> {
        let reactor = self.inner.upgrade().ok_or(Closed)?.id;
        Ok(StreamKey { reactor, key: self.key })
    }

    /// Lends the file descriptor to `look`. Reading, writing or changing its flags interferes
    /// with the connection; options that this crate does not know may be set.
    ///
    /// # Errors
    /// [`OptionError::Closed`]; `Unsupported` where there is no descriptor.
    pub fn with_fd<R>(&self, look: impl FnOnce(BorrowedFd<'_>) -> R) -> Result<R, OptionError> {
        // A second owner for the call, so that nothing is borrowed and `look` may even abort the
        // connection.
        let socket =
            self.with(|connection, _| connection.socket.share()).ok_or(OptionError::Closed)?;
        let fd = socket.fd().ok_or(OptionError::Unsupported { name: "with_fd" })?;
        Ok(look(fd))
    }

    /// Whether both are handles to the same connection.
    pub fn is_same_connection(&self, other: &Self) -> bool {
        self.key == other.key && self.inner.ptr_eq(&other.inner)
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer() {
            Ok(peer) => f
                .debug_struct("Transport")
                .field("peer", &format_args!("{peer}"))
                .field("state", &self.state())
                .finish(),
            Err(_) => f.write_str("Transport(closed)"),
        }
    }
}
