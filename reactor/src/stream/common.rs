//! The options that ports and connectors of every kind share, and their setters.

use super::{KeepAlive, Tuning};
use crate::datagram::within;
use crate::error::OptionError;
use crate::net::StreamOption;

/// The options that ports and connectors share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Common {
    pub(crate) nodelay: bool,
    pub(crate) keepalive: Option<KeepAlive>,
    pub(crate) recv_buffer: Option<usize>,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) tuning: Tuning,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            nodelay: true,
            keepalive: None,
            recv_buffer: None,
            send_buffer: None,
            tuning: Tuning::default(),
        }
    }
}

impl Common {
    /// Without what only TCP has.
    pub(crate) fn unix() -> Self {
        Self { nodelay: false, ..Self::default() }
    }

    pub(crate) fn check(&self) -> Result<Vec<StreamOption>, OptionError> {
        let mut options = Vec::new();
        if self.nodelay {
            options.push(StreamOption::NoDelay(true));
        }
        if let Some(times) = self.keepalive {
            options.push(StreamOption::KeepAlive(Some(times.check()?)));
        }
        if let Some(bytes) = self.recv_buffer {
            within("recv_buffer_size", bytes as u64, 1, i32::MAX as u64)?;
            options.push(StreamOption::RecvBuffer(bytes));
        }
        if let Some(bytes) = self.send_buffer {
            within("send_buffer_size", bytes as u64, 1, i32::MAX as u64)?;
            options.push(StreamOption::SendBuffer(bytes));
        }
        Ok(options)
    }
}

/// The setters that TCP alone has.
macro_rules! tcp_setters {
    () => {
        /// Whether small writes leave at once (`TCP_NODELAY`) instead of waiting for the answer
        /// to earlier ones (RFC 896). On by default: the writes of a callback are joined anyway.
        pub fn nodelay(mut self, on: bool) -> Self {
            self.common.nodelay = on;
            self
        }

        /// Probes idle connections, so that a peer that vanished is noticed.
        pub fn keepalive(mut self, times: KeepAlive) -> Self {
            self.common.keepalive = Some(times);
            self
        }
    };
}

/// The setters that every stream has.
macro_rules! stream_setters {
    () => {
        /// Asks for a receive buffer of this many bytes; fixes what the system would adapt.
        pub fn recv_buffer_size(mut self, bytes: usize) -> Self {
            self.common.recv_buffer = Some(bytes);
            self
        }

        /// Asks for a send buffer of this many bytes; fixes what the system would adapt.
        pub fn send_buffer_size(mut self, bytes: usize) -> Self {
            self.common.send_buffer = Some(bytes);
            self
        }

        /// Bytes waiting for room above which `pause_writing` is called, and those down to
        /// which `resume_writing` waits: 64 KiB and 16 KiB by default.
        pub fn write_watermarks(mut self, low: usize, high: usize) -> Self {
            self.common.tuning.low_watermark = low;
            self.common.tuning.high_watermark = high;
            self
        }

        /// Bytes that may wait to be sent; a write beyond is an error, unless nothing waits: then
        /// it is taken, however long. 256 MiB by default.
        pub fn write_limit(mut self, bytes: usize) -> Self {
            self.common.tuning.write_limit = bytes;
            self
        }

        /// How long a connection that was closed waits for its peer to close, too: 5 s by
        /// default. Closing earlier could destroy what the peer has not read yet.
        pub fn close_timeout(mut self, limit: std::time::Duration) -> Self {
            self.common.tuning.close_timeout = limit;
            self
        }
    };
}

/// The setters that every port that accepts has.
macro_rules! accept_setters {
    () => {
        /// How many connections to accept in one turn of the loop.
        pub fn accept_budget(mut self, budget: AcceptBudget) -> Self {
            self.accept.budget = budget;
            self
        }

        /// Most connections that the port has at once; others wait in the backlog until one closes.
        pub fn max_connections(mut self, connections: usize) -> Self {
            self.accept.max_connections = Some(connections);
            self
        }

        /// Opens the port with accepting paused.
        pub fn start_paused(mut self, on: bool) -> Self {
            self.accept.start_paused = on;
            self
        }

        /// The name of the port in logs; by default its kind and address.
        pub fn label(mut self, label: impl Into<String>) -> Self {
            self.accept.label = Some(label.into());
            self
        }
    };
}

pub(crate) use {accept_setters, stream_setters, tcp_setters};
