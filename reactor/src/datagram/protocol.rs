//! What a user writes: the callbacks of a datagram port.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use super::{Datagram, DatagramTransport};
use crate::error::{NetworkError, StopReason, WriteFailure};

/// A protocol over datagrams. Every method but `datagram_received` has a default.
///
/// The reactor owns the protocol and calls it, on its own thread, one callback at a time. Any
/// operation may be called from any callback. An error returned (or a panic) is logged with the
/// port's label, counted, and hurts nothing else: the next datagram is delivered as usual.
///
/// The trait is implemented for boxes of it, and for `Rc<RefCell<P>>`, so that a program can keep
/// a hand on its protocol.
///
/// ```
/// use strand_reactor::{Datagram, DatagramProtocol, DatagramTransport};
///
/// struct Echo;
/// impl DatagramProtocol for Echo {
///     fn datagram_received(
///         &mut self,
///         transport: &DatagramTransport,
///         datagram: Datagram<'_>,
///     ) -> anyhow::Result<()> {
///         transport.write_to(datagram.payload(), datagram.source())?;
///         Ok(())
///     }
/// }
/// let boxed: Box<dyn DatagramProtocol> = Box::new(Echo);
/// # drop(boxed);
/// ```
pub trait DatagramProtocol {
    /// The port is open: called once, before `listen_udp` returns. Writing, connecting and
    /// stopping work already. An error closes the port, and `listen_udp` returns it.
    fn start_protocol(&mut self, transport: &DatagramTransport) -> anyhow::Result<()> {
        let _ = transport;
        Ok(())
    }

    /// A datagram arrived; it may be empty.
    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()>;

    /// On a connected port: the peer's host reported that nobody listens (ICMP port unreachable).
    /// Called once per report. The port goes on: if the peer appears later, it is heard. What comes
    /// in about a peer that the port has left since goes to `network_error`.
    fn connection_refused(&mut self, transport: &DatagramTransport) -> anyhow::Result<()> {
        let _ = transport;
        Ok(())
    }

    /// The network reported another error; the port goes on. On unconnected ports this needs
    /// [`UdpOptions::error_queue`](crate::UdpOptions::error_queue).
    fn network_error(
        &mut self,
        transport: &DatagramTransport,
        error: &NetworkError,
    ) -> anyhow::Result<()> {
        let _ = (transport, error);
        Ok(())
    }

    /// A datagram that a write call accepted was refused by the system, or dropped by the queue's
    /// policy. Writes with a completion are told there instead.
    fn write_failed(
        &mut self,
        transport: &DatagramTransport,
        failure: &WriteFailure,
    ) -> anyhow::Result<()> {
        let _ = (transport, failure);
        Ok(())
    }

    /// The system has no room and half of the send queue is filled: stop producing.
    fn pause_writing(&mut self, transport: &DatagramTransport) -> anyhow::Result<()> {
        let _ = transport;
        Ok(())
    }

    /// After `pause_writing`: no more than an eighth of the queue is filled.
    fn resume_writing(&mut self, transport: &DatagramTransport) -> anyhow::Result<()> {
        let _ = transport;
        Ok(())
    }

    /// The port ends: called once, and last. Reading has ended; writes (a goodbye) are still
    /// accepted until this returns, and sent if the system takes them at once.
    fn stop_protocol(&mut self, transport: &DatagramTransport, reason: StopReason) {
        let _ = (transport, reason);
    }
}

/// A callback could not reach a protocol in an `Rc<RefCell<_>>`, because the program held a
/// borrow of it while it called the reactor (or called `start_protocol` by opening a port).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolBorrowed;

impl fmt::Display for ProtocolBorrowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the protocol's RefCell is borrowed elsewhere: end the borrow before returning to the loop",
        )
    }
}

impl std::error::Error for ProtocolBorrowed {}

macro_rules! forward {
    ($self:ident => $target:expr) => {
        fn start_protocol(&mut $self, transport: &DatagramTransport) -> anyhow::Result<()> {
            $target.start_protocol(transport)
        }
        fn datagram_received(
            &mut $self,
            transport: &DatagramTransport,
            datagram: Datagram<'_>,
        ) -> anyhow::Result<()> {
            $target.datagram_received(transport, datagram)
        }
        fn connection_refused(&mut $self, transport: &DatagramTransport) -> anyhow::Result<()> {
            $target.connection_refused(transport)
        }
        fn network_error(
            &mut $self,
            transport: &DatagramTransport,
            error: &NetworkError,
        ) -> anyhow::Result<()> {
            $target.network_error(transport, error)
        }
        fn write_failed(
            &mut $self,
            transport: &DatagramTransport,
            failure: &WriteFailure,
        ) -> anyhow::Result<()> {
            $target.write_failed(transport, failure)
        }
        fn pause_writing(&mut $self, transport: &DatagramTransport) -> anyhow::Result<()> {
            $target.pause_writing(transport)
        }
        fn resume_writing(&mut $self, transport: &DatagramTransport) -> anyhow::Result<()> {
            $target.resume_writing(transport)
        }
    };
}

impl<P: DatagramProtocol + ?Sized> DatagramProtocol for Box<P> {
    forward!(self => (**self));

    fn stop_protocol(&mut self, transport: &DatagramTransport, reason: StopReason) {
        (**self).stop_protocol(transport, reason);
    }
}

impl<P: DatagramProtocol + ?Sized> DatagramProtocol for Rc<RefCell<P>> {
    forward!(self => self.try_borrow_mut().map_err(|_| ProtocolBorrowed)?);

    fn stop_protocol(&mut self, transport: &DatagramTransport, reason: StopReason) {
        match self.try_borrow_mut() {
            Ok(mut protocol) => protocol.stop_protocol(transport, reason),
            Err(_) => {
                tracing::error!(port = %transport.label(), "stop_protocol: {ProtocolBorrowed}");
            }
        }
    }
}
