//! What a user writes: the callbacks of a UNIX datagram port.

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::rc::Rc;

use super::UnixDatagramTransport;
use crate::datagram::ProtocolBorrowed;
use crate::error::{StopReason, WriteError};
use crate::unix::UnixAddr;

/// A datagram being delivered. The payload lies in the reactor's buffers and is lent for the call.
#[derive(Clone, Copy, Debug)]
pub struct UnixDatagram<'a> {
    pub(crate) payload: &'a [u8],
    pub(crate) source: &'a UnixAddr,
    pub(crate) truncated: bool,
}

impl<'a> UnixDatagram<'a> {
    /// The payload; empty for an empty datagram.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Who sent it: unnamed, unless the sender is bound to an address, and so cannot be answered.
    pub fn source(&self) -> &'a UnixAddr {
        self.source
    }

    /// Whether the datagram was longer than 256 KiB, and cut.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }
}

/// A protocol over datagrams of UNIX sockets, whose addresses are paths and names. Every method
/// but `datagram_received` has a default; the rules are those of
/// [`DatagramProtocol`](crate::DatagramProtocol), and no failure ends the port.
///
/// The trait is implemented for boxes of it, and for `Rc<RefCell<P>>`.
///
/// ```
/// use strand_reactor::{UnixDatagram, UnixDatagramProtocol, UnixDatagramTransport};
///
/// struct Echo;
/// impl UnixDatagramProtocol for Echo {
///     fn datagram_received(
///         &mut self,
///         transport: &UnixDatagramTransport,
///         datagram: UnixDatagram<'_>,
///     ) -> anyhow::Result<()> {
///         transport.write_to(datagram.payload(), datagram.source())?;
///         Ok(())
///     }
/// }
/// let boxed: Box<dyn UnixDatagramProtocol> = Box::new(Echo);
/// # drop(boxed);
/// ```
pub trait UnixDatagramProtocol {
    /// The port is open: called once, before `listen_unix_datagram` returns. An error closes the
    /// port, and `listen_unix_datagram` returns it.
    fn start_protocol(&mut self, transport: &UnixDatagramTransport) -> anyhow::Result<()> {
        let _ = transport;
        Ok(())
    }

    /// A datagram arrived; it may be empty.
    fn datagram_received(
        &mut self,
        transport: &UnixDatagramTransport,
        datagram: UnixDatagram<'_>,
    ) -> anyhow::Result<()>;

    /// A datagram that a write call accepted was not sent: nobody has the destination open
    /// (`ConnectionRefused`), there is no such path (`NotFound`), or the queue's policy dropped
    /// it. Writes with a completion are told there instead.
    fn write_failed(
        &mut self,
        transport: &UnixDatagramTransport,
        failure: &UnixWriteFailure,
    ) -> anyhow::Result<()> {
        let _ = (transport, failure);
        Ok(())
    }

    /// A receiver has no room and half of the send queue is filled: stop producing.
    fn pause_writing(&mut self, transport: &UnixDatagramTransport) -> anyhow::Result<()> {
        let _ = transport;
        Ok(())
    }

    /// After `pause_writing`: no more than an eighth of the queue is filled.
    fn resume_writing(&mut self, transport: &UnixDatagramTransport) -> anyhow::Result<()> {
        let _ = transport;
        Ok(())
    }

    /// The port ends: called once, and last. Reading has ended; writes (a goodbye) are still
    /// accepted until this returns, and sent if the system takes them at once.
    fn stop_protocol(&mut self, transport: &UnixDatagramTransport, reason: StopReason) {
        let _ = (transport, reason);
    }
}

macro_rules! forward {
    ($self:ident => $target:expr) => {
        fn start_protocol(&mut $self, transport: &UnixDatagramTransport) -> anyhow::Result<()> {
            $target.start_protocol(transport)
        }
        fn datagram_received(
            &mut $self,
            transport: &UnixDatagramTransport,
            datagram: UnixDatagram<'_>,
        ) -> anyhow::Result<()> {
            $target.datagram_received(transport, datagram)
        }
        fn write_failed(
            &mut $self,
            transport: &UnixDatagramTransport,
            failure: &UnixWriteFailure,
        ) -> anyhow::Result<()> {
            $target.write_failed(transport, failure)
        }
        fn pause_writing(&mut $self, transport: &UnixDatagramTransport) -> anyhow::Result<()> {
            $target.pause_writing(transport)
        }
        fn resume_writing(&mut $self, transport: &UnixDatagramTransport) -> anyhow::Result<()> {
            $target.resume_writing(transport)
        }
    };
}

impl<P: UnixDatagramProtocol + ?Sized> UnixDatagramProtocol for Box<P> {
    forward!(self => (**self));

    fn stop_protocol(&mut self, transport: &UnixDatagramTransport, reason: StopReason) {
        (**self).stop_protocol(transport, reason);
    }
}

impl<P: UnixDatagramProtocol + ?Sized> UnixDatagramProtocol for Rc<RefCell<P>> {
    forward!(self => self.try_borrow_mut().map_err(|_| ProtocolBorrowed)?);

    fn stop_protocol(&mut self, transport: &UnixDatagramTransport, reason: StopReason) {
        match self.try_borrow_mut() {
            Ok(mut protocol) => protocol.stop_protocol(transport, reason),
            Err(_) => {
                tracing::error!(port = %transport.label(), "stop_protocol: {ProtocolBorrowed}");
            }
        }
    }
}

/// A datagram that was accepted by a write call and failed afterwards; what
/// [`write_failed`](UnixDatagramProtocol::write_failed) is told.
#[derive(Debug)]
#[non_exhaustive]
pub struct UnixWriteFailure {
    /// Where it was going.
    pub destination: Option<UnixAddr>,
    /// Bytes of its payload.
    pub len: usize,
    /// What happened.
    pub error: WriteError,
}

impl fmt::Display for UnixWriteFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "datagram of {} bytes", self.len)?;
        if let Some(destination) = &self.destination {
            write!(f, " to {destination}")?;
        }
        write!(f, " was not sent: {}", self.error)
    }
}

impl Error for UnixWriteFailure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}
