//! The handle to a port: its life, and the way out.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::{Rc, Weak};

use super::delivery;
use super::port::{Port, PortState, Readiness};
use super::received::ReadDatagram;
use crate::Handle;
use crate::agenda::{Agenda, Call, Notice};
use crate::callback::CallbackResult;
use crate::error::{Closed, ConnectError, ListenError, OptionError, StopReason};
use crate::inner::{Inner, reach};
use crate::net::{RecvBatch, SocketOption};
use crate::slots::Key;
use crate::stats::PortStats;

/// A handle to a datagram port, cheap to clone and to store; it keeps nothing alive. Callbacks
/// are given one, and [`Handle::listen_udp`] returns one. Once the port is closed, calls return a
/// typed `Closed` error.
#[derive(Clone)]
pub struct DatagramTransport {
    inner: Weak<Inner>,
    key: Key,
}

/// Names a port across threads: plain data, for [`Handle::datagram`] to find the port again on
/// the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramKey {
    pub(crate) reactor: u32,
    pub(crate) key: Key,
}

impl DatagramTransport {
    pub(crate) fn new(inner: &Rc<Inner>, key: Key) -> Self {
        Self { inner: Rc::downgrade(inner), key }
    }

    /// Works on the port with everything borrowed; `None` when it is closed.
    #[inline]
    pub(crate) fn with<R>(
        &self,
        work: impl FnOnce(&mut Port, &mut Agenda, &Inner) -> R,
    ) -> Option<R> {
        let inner = reach(&self.inner)?;
        let core = &mut *inner.core.borrow_mut();
        let port = core.ports.get_mut(self.key)?;
        Some(work(port, &mut core.agenda, &inner))
    }

    // ---- Reading ----

    /// Stops delivery at once; what arrives waits in the system's buffer, and what was received
    /// already waits in the port. Twice is as good as once.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn pause_reading(&self) -> Result<(), Closed> {
        self.with(|port, _, inner| {
            port.paused = true;
            inner.interrupt(port.key);
        })
        .ok_or(Closed)
    }

    /// Delivers again, from the next turn on, beginning with what waited.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn resume_reading(&self) -> Result<(), Closed> {
        self.with(|port, agenda, _| {
            if std::mem::take(&mut port.paused) {
                port.make_ready(Readiness::READABLE, agenda);
            }
        })
        .ok_or(Closed)
    }

    /// Bytes in the first datagram waiting on a paused port: `Some(0)` for an empty one, `None`
    /// if there is none.
    ///
    /// # Errors
    /// [`OptionError::NotPaused`] on a port that delivers by itself or is just delivering;
    /// `Closed`.
    pub fn pending_datagram_size(&self) -> Result<Option<usize>, OptionError> {
        self.pull(|port| port.stash.datagrams.front().map(|first| first.len))
    }

    /// Takes the first datagram waiting on a paused port into `buffer`; `None` if there is none.
    /// What does not fit is lost ([`ReadDatagram::is_truncated`]): an empty buffer discards the
    /// datagram.
    ///
    /// ```
    /// # use strand_reactor::*;
    /// # struct Quiet;
    /// # impl DatagramProtocol for Quiet {
    /// #     fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>)
    /// #     -> anyhow::Result<()> { unreachable!() }
    /// # }
    /// let reactor = Reactor::new()?;
    /// let port = reactor.listen_udp(UdpOptions::parse("127.0.0.1:0")?.start_paused(true), Quiet)?;
    /// assert_eq!(port.pending_datagram_size()?, None);
    /// port.try_write_to(b"hello", port.local_addr()?)?;
    /// assert_eq!(port.pending_datagram_size()?, Some(5));
    /// let mut buffer = [0; 4];
    /// let datagram = port.read_datagram(&mut buffer)?.unwrap();
    /// assert_eq!((datagram.len(), datagram.size(), datagram.is_truncated()), (4, 5, true));
    /// assert_eq!(&buffer, b"hell");
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`pending_datagram_size`](Self::pending_datagram_size).
    pub fn read_datagram(&self, buffer: &mut [u8]) -> Result<Option<ReadDatagram>, OptionError> {
        self.pull(|port| {
            let first = port.stash.datagrams.pop_front()?;
            let len = first.len.min(buffer.len());
            buffer[..len].copy_from_slice(&port.stash.bytes[first.start..][..len]);
            if port.stash.datagrams.is_empty() {
                port.stash.bytes.clear();
            }
            Some(ReadDatagram {
                info: first.info,
                len,
                size: first.len,
                kernel_drops: first.kernel_drops,
                truncated: first.truncated,
            })
        })
    }

    fn pull<R>(&self, take: impl FnOnce(&mut Port) -> Option<R>) -> Result<Option<R>, OptionError> {
        let inner = reach(&self.inner).ok_or(OptionError::Closed)?;
        let core = &mut *inner.core.borrow_mut();
        let port = core.ports.get_mut(self.key).ok_or(OptionError::Closed)?;
        if port.closing {
            return Ok(None);
        }
        if !port.paused || port.delivering {
            return Err(OptionError::NotPaused);
        }
        if port.stash.datagrams.is_empty() {
            let mut batch = core.batches.pop().unwrap_or_else(RecvBatch::new);
            let lent = core.agenda.lent.take();
            delivery::pull(port, &mut batch, &mut core.agenda);
            core.agenda.lent = lent;
            core.batches.push(batch);
        }
        Ok(take(port))
    }

    // ---- Peer and address ----

    /// Gives the port a peer: it then sends to and hears from that address alone, `write` needs
    /// no destination, and ICMP reports reach
    /// [`connection_refused`](crate::DatagramProtocol::connection_refused). Datagrams of others
    /// that were queued before are still delivered. Nothing is sent.
    ///
    /// # Errors
    /// [`ConnectError::IsConnected`], even for the same peer; `WrongFamily`; `Io` (no route).
    pub fn connect(&self, peer: SocketAddr) -> Result<(), ConnectError> {
        self.with(|port, agenda, _| port.connect(peer, agenda)).unwrap_or(Err(ConnectError::Closed))
    }

    /// Takes the peer away again. The port goes back to what it was bound to: a number that the
    /// system chose is kept, but for a port that was never bound
    /// ([`unbound`](crate::UdpOptions::unbound)), and one bound to every address hears every
    /// address again. What was written before still goes to the old peer.
    ///
    /// # Errors
    /// [`ConnectError::NotConnected`] without a peer; `Io`.
    pub fn disconnect(&self) -> Result<(), ConnectError> {
        self.with(|port, agenda, _| port.disconnect(agenda)).unwrap_or(Err(ConnectError::Closed))
    }

    /// The port's peer.
    ///
    /// # Errors
    /// [`OptionError::NotConnected`]; `Closed`.
    pub fn peer_addr(&self) -> Result<SocketAddr, OptionError> {
        self.with(|port, _, _| port.peer.ok_or(OptionError::NotConnected))
            .unwrap_or(Err(OptionError::Closed))
    }

    /// The address that the port is bound to, with flow information and scope id for IPv6.
    ///
    /// # Errors
    /// [`OptionError::NotBound`] before the first send of an unbound port; `Closed`.
    pub fn local_addr(&self) -> Result<SocketAddr, OptionError> {
        self.with(|port, _, _| match port.socket.local_addr() {
            Ok(address) if address.port() == 0 && address.ip().is_unspecified() => {
                Err(OptionError::NotBound)
            }
            Ok(address) => Ok(address),
            Err(source) => Err(OptionError::from_io("local_addr", source)),
        })
        .unwrap_or(Err(OptionError::Closed))
    }

    /// Binds a port that has no address yet (opened [unbound](crate::UdpOptions::unbound), or
    /// adopted).
    ///
    /// # Errors
    /// [`ListenError::Bind`]: taken, or not of this host; [`ListenError::Option`] for another
    /// family, and for a port that is bound already.
    pub fn bind(&self, address: SocketAddr) -> Result<(), ListenError> {
        self.with(|port, _, _| {
            let admitted = port.family.admit(address).ok_or(OptionError::Contradiction {
                reason: "the address is not of the port's family",
            })?;
            if port.socket.local_addr().is_ok_and(|address| address.port() != 0) {
                let reason = "the port is bound already: open another for another address";
                return Err(OptionError::Contradiction { reason }.into());
            }
            port.local_port = 0;
            port.socket.bind(admitted).map_err(|source| ListenError::Bind { address, source })
        })
        .unwrap_or(Err(ListenError::Closed))
    }

    // ---- Life ----

    /// Closes the port: nothing is delivered any more, even of a batch under way. From the loop,
    /// `stop_protocol` is called, what was written is offered to the system once, and the socket
    /// is closed. Calling it again, or on a closed port, does nothing.
    pub fn stop_listening(&self) {
        self.with(|port, agenda, inner| {
            port.begin_close(StopReason::Stopped, agenda);
            inner.interrupt(port.key);
        });
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
        match core.ports.get_mut(self.key) {
            Some(port) => {
                port.stopped.push(done);
                port.begin_close(StopReason::Stopped, &mut core.agenda);
                inner.interrupt(self.key);
            }
            None => core.agenda.notices.push_back(Notice::Call(done)),
        }
        Ok(())
    }

    /// Whether the port is open, paused, closing or closed.
    pub fn state(&self) -> PortState {
        self.with(|port, _, _| port.state()).unwrap_or(PortState::Closed)
    }

    /// Lets [`run`](crate::Reactor::run) return although this port is open. A datagram that waits
    /// to be sent still keeps it.
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
        self.with(|port, agenda, _| {
            agenda.references -= usize::from(port.referenced);
            agenda.references += usize::from(referenced);
            port.referenced = referenced;
        })
        .ok_or(Closed)
    }

    /// The reactor.
    pub fn reactor(&self) -> Handle {
        Handle::from_weak(self.inner.clone())
    }

    /// The key by which [`Handle::datagram`] finds this port, from any thread's message.
    ///
    /// # Errors
    /// [`Closed`] when the reactor is gone.
    pub fn key(&self) -> Result<DatagramKey, Closed> {
        let reactor = self.inner.upgrade().ok_or(Closed)?.id;
        Ok(DatagramKey { reactor, key: self.key })
    }

    /// Lends the file descriptor to `look`. Reading it or changing its flags interferes with the
    /// port; options that this crate does not know may be set.
    ///
    /// # Errors
    /// [`OptionError::Closed`]; `Unsupported` where there is no descriptor.
    pub fn with_fd<R>(&self, look: impl FnOnce(BorrowedFd<'_>) -> R) -> Result<R, OptionError> {
        // A second owner for the call, so that nothing is borrowed and `look` may even stop the
        // port.
        let socket = self.with(|port, _, _| Rc::clone(&port.socket)).ok_or(OptionError::Closed)?;
        let fd = socket.fd().ok_or(OptionError::Unsupported { name: "with_fd" })?;
        Ok(look(fd))
    }

    /// The port's name in logs.
    pub fn label(&self) -> String {
        self.with(|port, _, _| port.label.to_string()).unwrap_or_else(|| "closed port".to_owned())
    }

    /// Names the port in logs.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn set_label(&self, label: &str) -> Result<(), Closed> {
        self.with(|port, _, _| port.label = label.into()).ok_or(Closed)
    }

    /// What the port has done so far. The figures go with the port: `stop_protocol` is the last
    /// place to read them.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn stats(&self) -> Result<PortStats, Closed> {
        self.with(|port, _, _| port.stats).ok_or(Closed)
    }

    /// Whether both are handles to the same port.
    pub fn is_same_port(&self, other: &Self) -> bool {
        self.key == other.key && self.inner.ptr_eq(&other.inner)
    }
}

impl fmt::Debug for DatagramTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.local_addr();
        if matches!(address, Err(OptionError::Closed)) {
            return f.write_str("DatagramTransport(closed)");
        }
        let mut debug = f.debug_struct("DatagramTransport");
        match address {
            Ok(address) => debug.field("local_addr", &address),
            Err(_) => debug.field("local_addr", &"not bound"),
        };
        debug.field("state", &self.state()).finish()
    }
}

impl Port {
    pub(crate) fn connect(
        &mut self,
        peer: SocketAddr,
        agenda: &mut Agenda,
    ) -> Result<(), ConnectError> {
        if let Some(peer) = self.peer {
            return Err(ConnectError::IsConnected { peer: peer.into() });
        }
        let admitted = self
            .family
            .admit(peer)
            .ok_or(ConnectError::WrongFamily { address: peer, family: self.family })?;
        // What was addressed before leaves before.
        self.flush_unless_blocked(agenda);
        self.socket.connect(admitted).map_err(ConnectError::Io)?;
        // The kernel reads 0.0.0.0 as this host.
        self.peer = Some(self.socket.peer_addr().unwrap_or(admitted));
        self.local_port = 0;
        self.unreported = 0;
        if self.capabilities.error_queue && !self.error_queue {
            // Where it is refused, refusals come as pending errors: fewer, but not none.
            self.error_queue = self.socket.set_option(SocketOption::ErrorQueue, 1).is_ok();
        }
        Ok(())
    }

    fn disconnect(&mut self, agenda: &mut Agenda) -> Result<(), ConnectError> {
        let peer = self.peer.ok_or(ConnectError::NotConnected)?;
        self.flush_unless_blocked(agenda);
        self.outbox.address(peer);
        // Reports about the old peer are told as refusals while there is one.
        self.drain_errors(usize::MAX, agenda);
        self.socket.disconnect().map_err(ConnectError::Io)?;
        self.peer = None;
        self.local_port = 0;
        if self.error_queue && !self.wants_error_queue {
            // On an unconnected socket it would surface other people's refusals.
            self.socket.set_option(SocketOption::ErrorQueue, 0).map_err(ConnectError::Io)?;
            self.error_queue = false;
        }
        Ok(())
    }
}

impl OptionError {
    /// A refused `SO_BINDTODEVICE`.
    pub(crate) fn of_device(name: Option<&str>, source: io::Error) -> Self {
        match name {
            Some(name) if source.raw_os_error() == Some(libc::ENODEV) => {
                Self::NoSuchDevice { name: name.to_owned() }
            }
            _ => Self::from_io("device", source),
        }
    }

    pub(crate) fn from_io(name: &'static str, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::Unsupported {
            Self::Unsupported { name }
        } else {
            Self::Io { name, source }
        }
    }
}
