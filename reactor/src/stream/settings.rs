//! The options of an open connection: each setter has a getter, which asks the kernel.

use std::io;

use super::{KeepAlive, Transport};
use crate::datagram::within;
use crate::error::OptionError;
use crate::net::{StreamOption, StreamSocket};

impl Transport {
    pub(crate) fn ask<R>(
        &self,
        name: &'static str,
        ask: impl FnOnce(&dyn StreamSocket) -> io::Result<R>,
    ) -> Result<R, OptionError> {
        self.with(|connection, _| {
            ask(&*connection.socket).map_err(|source| OptionError::from_io(name, source))
        })
        .unwrap_or(Err(OptionError::Closed))
    }

    /// Whether small writes leave at once; see [`set_nodelay`](Self::set_nodelay).
    ///
    /// # Errors
    /// [`OptionError`], as for every getter below: `Closed`, `Unsupported`, or `Io`.
    pub fn nodelay(&self) -> Result<bool, OptionError> {
        self.ask("nodelay", |socket| socket.nodelay())
    }

    /// Whether small writes leave at once (`TCP_NODELAY`) instead of waiting for the answer to
    /// earlier ones (RFC 896).
    ///
    /// # Errors
    /// [`OptionError`], as for every setter below; nothing was changed then.
    pub fn set_nodelay(&self, on: bool) -> Result<(), OptionError> {
        self.ask("nodelay", |socket| socket.set_option(StreamOption::NoDelay(on)))
    }

    /// How the idle connection is probed; `None` if it is not.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn keepalive(&self) -> Result<Option<KeepAlive>, OptionError> {
        self.ask("keepalive", |socket| socket.keepalive())
    }

    /// Probes the connection while it is idle (`SO_KEEPALIVE`), or does not.
    ///
    /// # Errors
    /// [`OptionError::OutOfRange`] for times of no or more than 32,767 seconds and counts of 0 or
    /// more than 127, and as every setter.
    pub fn set_keepalive(&self, times: Option<KeepAlive>) -> Result<(), OptionError> {
        let times = times.map(KeepAlive::check).transpose()?;
        self.ask("keepalive", |socket| socket.set_option(StreamOption::KeepAlive(times)))
    }

    /// Bytes of the system's receive buffer, as granted: Linux doubles what was asked for
    /// (socket(7)).
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn recv_buffer_size(&self) -> Result<usize, OptionError> {
        self.ask("recv_buffer_size", |socket| socket.recv_buffer_size())
    }

    /// Asks for a receive buffer of this many bytes, and ends the system's own adapting of it.
    ///
    /// # Errors
    /// [`OptionError::OutOfRange`] for 0 and for more than 2^31 - 1, and as every setter.
    pub fn set_recv_buffer_size(&self, bytes: usize) -> Result<(), OptionError> {
        within("recv_buffer_size", bytes as u64, 1, i32::MAX as u64)?;
        self.ask("recv_buffer_size", |socket| socket.set_option(StreamOption::RecvBuffer(bytes)))
    }

    /// Bytes of the system's send buffer, as granted.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn send_buffer_size(&self) -> Result<usize, OptionError> {
        self.ask("send_buffer_size", |socket| socket.send_buffer_size())
    }

    /// Asks for a send buffer of this many bytes, and ends the system's own adapting of it.
    ///
    /// # Errors
    /// As [`set_recv_buffer_size`](Self::set_recv_buffer_size).
    pub fn set_send_buffer_size(&self, bytes: usize) -> Result<(), OptionError> {
        within("send_buffer_size", bytes as u64, 1, i32::MAX as u64)?;
        self.ask("send_buffer_size", |socket| socket.set_option(StreamOption::SendBuffer(bytes)))
    }
}
