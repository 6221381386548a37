//! What a user writes: the callbacks of a stream.

use std::cell::RefCell;
use std::rc::Rc;

use super::Transport;
use crate::datagram::ProtocolBorrowed;
use crate::error::ConnectionLost;

/// A protocol over a stream. Every method but `data_received` has a default.
///
/// The reactor owns the protocol and calls it, on its own thread, one callback at a time; one
/// protocol serves one connection. Any operation may be called from any callback. An error
/// returned (or a panic) is logged with the connection's label, counted, and closes this
/// connection: `connection_lost` is told that error.
///
/// The trait is implemented for boxes of it, and for `Rc<RefCell<P>>`, so that a program can keep
/// a hand on its protocol.
///
/// ```
/// use strand_reactor::{Protocol, Transport};
///
/// struct Echo;
/// impl Protocol for Echo {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
///         transport.write(data)?;
///         Ok(())
///     }
/// }
/// let boxed: Box<dyn Protocol> = Box::new(Echo);
/// # drop(boxed);
/// ```
pub trait Protocol {
    /// The connection is there: called once, and first.
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        let _ = transport;
        Ok(())
    }

    /// Bytes arrived, at least one. Where one call ends and the next begins says nothing about
    /// how the peer wrote them.
    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()>;

    /// The peer has ended what it sends (its FIN); nothing more is received, and writing still
    /// works.
    ///
    /// By default the connection is closed once all that was written has been sent. A protocol
    /// that overrides this has a half-closed connection and must close it itself.
    fn read_connection_lost(&mut self, transport: &Transport) -> anyhow::Result<()> {
        transport.lose_connection();
        Ok(())
    }

    /// All that was written before [`lose_write`](Transport::lose_write) was handed to the system,
    /// and the peer told that no more will come.
    fn write_connection_lost(&mut self, transport: &Transport) -> anyhow::Result<()> {
        let _ = transport;
        Ok(())
    }

    /// The system has no room, and more bytes wait for it than the high watermark
    /// ([`set_write_watermarks`](Transport::set_write_watermarks)): stop producing. Called once
    /// per crossing, from the loop; a callback that writes much asks
    /// [`queued_bytes`](Transport::queued_bytes) itself, and
    /// [`request_resume_writing`](Transport::request_resume_writing).
    fn pause_writing(&mut self, transport: &Transport) -> anyhow::Result<()> {
        let _ = transport;
        Ok(())
    }

    /// After `pause_writing`, or a request: no more bytes wait than the low watermark.
    fn resume_writing(&mut self, transport: &Transport) -> anyhow::Result<()> {
        let _ = transport;
        Ok(())
    }

    /// The connection ended and its socket is closed: called once, and last, if `connection_made`
    /// was called.
    fn connection_lost(&mut self, reason: ConnectionLost) {
        let _ = reason;
    }
}

macro_rules! forward {
    ($self:ident => $target:expr) => {
        fn connection_made(&mut $self, transport: &Transport) -> anyhow::Result<()> {
            $target.connection_made(transport)
        }
        fn data_received(&mut $self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
            $target.data_received(transport, data)
        }
        fn read_connection_lost(&mut $self, transport: &Transport) -> anyhow::Result<()> {
            $target.read_connection_lost(transport)
        }
        fn write_connection_lost(&mut $self, transport: &Transport) -> anyhow::Result<()> {
            $target.write_connection_lost(transport)
        }
        fn pause_writing(&mut $self, transport: &Transport) -> anyhow::Result<()> {
            $target.pause_writing(transport)
        }
        fn resume_writing(&mut $self, transport: &Transport) -> anyhow::Result<()> {
            $target.resume_writing(transport)
        }
    };
}

impl<P: Protocol + ?Sized> Protocol for Box<P> {
    forward!(self => (**self));

    fn connection_lost(&mut self, reason: ConnectionLost) {
        (**self).connection_lost(reason);
    }
}

impl<P: Protocol + ?Sized> Protocol for Rc<RefCell<P>> {
    forward!(self => self.try_borrow_mut().map_err(|_| ProtocolBorrowed)?);

    fn connection_lost(&mut self, reason: ConnectionLost) {
        match self.try_borrow_mut() {
            Ok(mut protocol) => protocol.connection_lost(reason),
            Err(_) => tracing::error!("connection_lost: {ProtocolBorrowed}"),
        }
    }
}
