//! The handle to a UNIX datagram port.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::rc::{Rc, Weak};

use super::Completion;
use super::port::UnixPort;
use crate::Handle;
use crate::agenda::{Agenda, Call, Notice};
use crate::callback::CallbackResult;
use crate::datagram::PortState;
use crate::error::{Closed, ConnectError, OptionError, StopReason, WriteError};
use crate::inner::Inner;
use crate::slots::Key;
use crate::stats::PortStats;
use crate::unix::UnixAddr;

/// A handle to a UNIX datagram port, cheap to clone and to store; it keeps nothing alive.
/// Callbacks are given one, and [`Handle::listen_unix_datagram`] returns one. Once the port is
/// closed, calls return a typed `Closed` error.
#[derive(Clone)]
pub struct UnixDatagramTransport {
    inner: Weak<Inner>,
    key: Key,
}

/// Names a UNIX datagram port across threads: plain data, for [`Handle::unix_datagram`] to find the
/// port again on the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UnixDatagramKey {
    reactor: u32,
    key: Key,
}

impl Handle {
    /// The UNIX datagram port of this key; `None` when it is closed or belongs to another reactor.
    ///
    /// ```
    /// # use strand_reactor::*;
    /// # struct P;
    /// # impl UnixDatagramProtocol for P {
    /// #     fn datagram_received(&mut self, _: &UnixDatagramTransport, _: UnixDatagram<'_>)
    /// #     -> anyhow::Result<()> { Ok(()) }
    /// # }
    /// let reactor = Reactor::new()?;
    /// let port = reactor.listen_unix_datagram(UnixDatagramOptions::unnamed(), P)?;
    /// let key = port.key()?;
    /// reactor.remote().call_from_thread(move |handle| {
    ///     handle.unix_datagram(key).expect("still open").stop_listening();
    /// })?;
    /// reactor.run()?;
    /// assert!(reactor.unix_datagram(key).is_none());
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn unix_datagram(&self, key: UnixDatagramKey) -> Option<UnixDatagramTransport> {
        let inner = self.upgrade()?;
        let open = inner.id == key.reactor && inner.core.borrow().unix_ports.get(key.key).is_some();
        open.then(|| UnixDatagramTransport::new(&inner, key.key))
    }
}

impl UnixDatagramTransport {
    pub(crate) fn new(inner: &Rc<Inner>, key: Key) -> Self {
        Self { inner: Rc::downgrade(inner), key }
    }

    /// Works on the port with everything borrowed; `None` when it is closed.
    fn with<R>(&self, work: impl FnOnce(&mut UnixPort, &mut Agenda) -> R) -> Option<R> {
        let inner = self.inner.upgrade()?;
        let core = &mut *inner.core.borrow_mut();
        let port = core.unix_ports.get_mut(self.key)?;
        Some(work(port, &mut core.agenda))
    }

    // ---- Writing ----

    /// Sends a datagram to the peer of a connected port. It leaves at once, or waits for the
    /// receiver to have room; unlike UDP's it is not lost when there is none. What becomes of it
    /// afterwards is told to [`write_failed`](super::UnixDatagramProtocol::write_failed).
    ///
    /// # Errors
    /// [`WriteError`]: `DestinationRequired` on a port without a peer, `QueueFull`, `Closed`.
    pub fn write(&self, payload: &[u8]) -> Result<(), WriteError> {
        self.enqueue(payload, None, None)
    }

    /// As [`write`](Self::write), to this address. A receiver without room does not hold back
    /// what goes to others.
    ///
    /// # Errors
    /// [`WriteError`]: `IsConnected` on a port with a peer, `DestinationRequired` for the unnamed
    /// address, `QueueFull`, `Closed`.
    pub fn write_to(&self, payload: &[u8], to: impl Into<UnixAddr>) -> Result<(), WriteError> {
        self.enqueue(payload, Some(to.into()), None)
    }

    /// As [`write`](Self::write) (`to` is `None`) and [`write_to`](Self::write_to); calls `done`
    /// from the loop, once: with the length when the system took the datagram, or with the error
    /// that kept it from that.
    ///
    /// # Errors
    /// As theirs; `done` is then dropped without a call.
    pub fn write_then<F, R>(
        &self,
        payload: &[u8],
        to: Option<UnixAddr>,
        done: F,
    ) -> Result<(), WriteError>
    where
        F: FnOnce(Result<usize, WriteError>) -> R + 'static,
        R: CallbackResult + 'static,
    {
        self.enqueue(payload, to, Some(Box::new(move |result| done(result).into_result())))
    }

    fn enqueue(
        &self,
        payload: &[u8],
        to: Option<UnixAddr>,
        completion: Option<Completion>,
    ) -> Result<(), WriteError> {
        let mut completion = completion;
        let result =
            self.with(|port, agenda| port.write(payload, to.as_ref(), &mut completion, agenda));
        // A completion that will not be called is user code to drop, with nothing borrowed.
        drop(completion);
        result.unwrap_or(Err(WriteError::Closed))
    }

    /// Sends a datagram at once or not at all, and returns its length.
    ///
    /// # Errors
    /// [`WriteError::WouldBlock`] when the receiver has no room; what the system says, as
    /// [`WriteError::Io`]; and as [`write`](Self::write) and [`write_to`](Self::write_to).
    pub fn try_write(&self, payload: &[u8], to: Option<UnixAddr>) -> Result<usize, WriteError> {
        self.with(|port, agenda| port.try_write(payload, to.as_ref(), agenda))
            .unwrap_or(Err(WriteError::Closed))
    }

    /// Datagrams written and not yet taken by the system; 0 once closed.
    pub fn queued_datagrams(&self) -> usize {
        self.with(|port, _| port.queued().0).unwrap_or(0)
    }

    /// Bytes of their payloads.
    pub fn queued_bytes(&self) -> usize {
        self.with(|port, _| port.queued().1).unwrap_or(0)
    }

    // ---- Reading ----

    /// Stops delivery after the datagram under way; what arrives waits in the system's buffer, and
    /// whoever sends it is slowed down.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn pause_reading(&self) -> Result<(), Closed> {
        self.with(|port, _| port.paused = true).ok_or(Closed)
    }

    /// Delivers again, from the next turn on, beginning with what waited.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn resume_reading(&self) -> Result<(), Closed> {
        self.with(|port, agenda| {
            if std::mem::take(&mut port.paused) {
                port.make_ready(agenda);
            }
        })
        .ok_or(Closed)
    }

    // ---- Peer and address ----

    /// Gives the port a peer, to which [`write`](Self::write) then sends. On Linux it hears that
    /// peer alone from now on. Whoever is bound to the address later is not the peer: connect
    /// anew.
    ///
    /// # Errors
    /// [`ConnectError::IsConnected`], even for the same peer; `Address`; `Unix` with what the
    /// system says: nobody is there (`ConnectionRefused`, `NotFound`).
    pub fn connect(&self, peer: impl Into<UnixAddr>) -> Result<(), ConnectError> {
        let peer = peer.into().check()?;
        self.with(|port, agenda| {
            if let Some(peer) = &port.peer {
                return Err(ConnectError::IsConnected { peer: peer.clone().into() });
            }
            // What was addressed before leaves before.
            port.flush(agenda);
            match port.socket.connect(&peer) {
                Ok(()) => {
                    port.connected(peer);
                    Ok(())
                }
                Err(source) => Err(ConnectError::Unix { address: peer, source }),
            }
        })
        .unwrap_or(Err(ConnectError::Closed))
    }

    /// Takes the peer away again. What was written before still goes to it.
    ///
    /// # Errors
    /// [`ConnectError::NotConnected`] without a peer; `Unix` with what the system says.
    pub fn disconnect(&self) -> Result<(), ConnectError> {
        self.with(|port, agenda| {
            let Some(peer) = port.peer.clone() else { return Err(ConnectError::NotConnected) };
            port.flush(agenda);
            if let Err(source) = port.socket.disconnect() {
                return Err(ConnectError::Unix { address: peer, source });
            }
            port.address(&peer);
            port.peer = None;
            port.flush(agenda);
            Ok(())
        })
        .unwrap_or(Err(ConnectError::Closed))
    }

    /// The port's peer; unnamed, if it is the other one of a pair.
    ///
    /// # Errors
    /// [`OptionError::NotConnected`]; `Closed`.
    pub fn peer_addr(&self) -> Result<UnixAddr, OptionError> {
        self.with(|port, _| port.peer.clone().ok_or(OptionError::NotConnected))
            .unwrap_or(Err(OptionError::Closed))
    }

    /// The address that the port is bound to, as it was given; or unnamed.
    ///
    /// # Errors
    /// [`OptionError`]: `Closed`, or `Io`.
    pub fn local_addr(&self) -> Result<UnixAddr, OptionError> {
        self.ask("local_addr", |port| port.socket.local_addr())
    }

    /// Bytes of the system's receive buffer, as granted.
    ///
    /// # Errors
    /// [`OptionError`]: `Closed`, or `Io`.
    pub fn recv_buffer_size(&self) -> Result<usize, OptionError> {
        self.ask("recv_buffer_size", |port| port.socket.recv_buffer_size())
    }

    /// Bytes of the system's send buffer, as granted: Linux doubles what was asked for
    /// (socket(7)).
    ///
    /// # Errors
    /// [`OptionError`]: `Closed`, or `Io`.
    pub fn send_buffer_size(&self) -> Result<usize, OptionError> {
        self.ask("send_buffer_size", |port| port.socket.send_buffer_size())
    }

    fn ask<R>(
        &self,
        name: &'static str,
        ask: impl FnOnce(&UnixPort) -> std::io::Result<R>,
    ) -> Result<R, OptionError> {
        self.with(|port, _| ask(port).map_err(|source| OptionError::from_io(name, source)))
            .unwrap_or(Err(OptionError::Closed))
    }

    // ---- Life ----

    /// Closes the port: nothing more is delivered. From the loop, `stop_protocol` is called, what
    /// was written is offered to the system once, the socket is closed, and its path removed if it
    /// still is that port's. Calling it again, or on a closed port, does nothing.
    pub fn stop_listening(&self) {
        self.with(|port, agenda| port.begin_close(StopReason::Stopped, agenda));
    }

    /// As [`stop_listening`](Self::stop_listening), and calls `done` when the port is closed and
    /// its path free; in the next turn, if it is closed already.
    ///
    /// # Errors
    /// [`Closed`] when the reactor is gone: `done` is dropped.
    pub fn stop_listening_then<F, R>(&self, done: F) -> Result<(), Closed>
    where
        F: FnOnce(&Handle) -> R + 'static,
        R: CallbackResult + 'static,
    {
        let done: Call = Box::new(move |handle| done(handle).into_result());
        let inner = self.inner.upgrade().ok_or(Closed)?;
        let core = &mut *inner.core.borrow_mut();
        if core.closed {
            return Err(Closed);
        }
        match core.unix_ports.get_mut(self.key) {
            Some(port) => {
                port.stopped.push(done);
                port.begin_close(StopReason::Stopped, &mut core.agenda);
            }
            None => core.agenda.notices.push_back(Notice::Call(done)),
        }
        Ok(())
    }

    /// Whether the port is open, paused, closing or closed.
    pub fn state(&self) -> PortState {
        self.with(|port, _| port.state()).unwrap_or(PortState::Closed)
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
        self.with(|port, agenda| {
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

    /// Lends the file descriptor to `look`. Reading it or changing its flags interferes with the
    /// port; options that this crate does not know may be set.
    ///
    /// # Errors
    /// [`OptionError::Closed`]; `Unsupported` where there is no descriptor.
    pub fn with_fd<R>(&self, look: impl FnOnce(BorrowedFd<'_>) -> R) -> Result<R, OptionError> {
        // A second owner for the call, so that nothing is borrowed and `look` may even stop the
        // port.
        let socket = self.with(|port, _| Rc::clone(&port.socket)).ok_or(OptionError::Closed)?;
        let fd = socket.fd().ok_or(OptionError::Unsupported { name: "with_fd" })?;
        Ok(look(fd))
    }

    /// The key by which [`Handle::unix_datagram`] finds this port, from any thread's message.
    ///
    /// # Errors
    /// [`Closed`] when the reactor is gone.
    pub fn key(&self) -> Result<UnixDatagramKey, Closed> {
        let reactor = self.inner.upgrade().ok_or(Closed)?.id;
        Ok(UnixDatagramKey { reactor, key: self.key })
    }

    /// Names the port in logs.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn set_label(&self, label: &str) -> Result<(), Closed> {
        self.with(|port, _| port.label = label.into()).ok_or(Closed)
    }

    /// The port's name in logs.
    pub fn label(&self) -> String {
        self.with(|port, _| port.label.to_string()).unwrap_or_else(|| "closed port".to_owned())
    }

    /// What the port has done so far; `network_errors` counts peers that went.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn stats(&self) -> Result<PortStats, Closed> {
        self.with(|port, _| port.stats).ok_or(Closed)
    }

    /// Whether both are handles to the same port.
    pub fn is_same_port(&self, other: &Self) -> bool {
        self.key == other.key && self.inner.ptr_eq(&other.inner)
    }
}

impl fmt::Debug for UnixDatagramTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.local_addr() {
            Ok(address) => f
                .debug_struct("UnixDatagramTransport")
                .field("local_addr", &address)
                .field("state", &self.state())
                .finish(),
            Err(_) => f.write_str("UnixDatagramTransport(closed)"),
        }
    }
}
