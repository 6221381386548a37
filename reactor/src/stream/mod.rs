//! Streams: TCP servers and clients, and those over UNIX sockets once they are open (`unix`).
//!
//! The way of a connection, file by file: a [`listener`] accepts it, or a [`connector`] opens it;
//! its [`factory`] builds the [`protocol`]; [`delivery`] reads from the socket and hands to the
//! protocol what came; what that writes through its [`transport`] ([`writing`]) goes straight to
//! the socket or collects in the [`write_queue`], which [`connection`] flushes ([`rare`] is what few
//! connections need); [`closing`] is the
//! end of it. [`listen`] opens ports, [`options`] says how they behave.

mod address;
mod adopt;
mod attempts;
mod closing;
mod common;
mod connection;
mod connector;
mod delivery;
mod factory;
#[cfg(test)]
mod fault_tests;
mod happy_eyeballs;
mod layer;
mod listen;
mod listener;
mod listening_port;
mod lost;
mod options;
#[cfg(test)]
mod property_tests;
mod protocol;
mod rare;
mod settings;
mod transport;
mod unix;
mod write_queue;
mod writing;

use std::collections::VecDeque;

pub use address::PeerAddr;
pub use connection::ConnectionState;
pub use connector::{ClientFactory, Connector, ConnectorState};
pub use factory::{Factory, SharedFactory};
pub use layer::{Flow, StreamLayer};
pub use listening_port::ListeningPort;
pub use lost::ConnectionLost;
pub use options::{AcceptBudget, ConnectOptions, KeepAlive, TcpOptions};
pub use protocol::Protocol;
pub use transport::{StreamKey, Transport};

#[cfg(feature = "testing")]
pub(crate) use adopt::attach;
pub(crate) use closing::{begin_shutdown, end_shutdown, is_flushing, later, notice};
pub(crate) use common::{Common, accept_setters, stream_setters};
pub(crate) use connection::Connection;
pub(crate) use delivery::{buffer, due, event, flush_dirty, ready};
#[cfg(feature = "testing")]
pub(crate) use listen::listen_on;
pub(crate) use listener::Listener;
pub(crate) use options::{Accept, Tuning};

use crate::error::ConnectError;
use crate::slots::{Key, Kind, Slots};

/// Everything of streams that lives in a reactor.
pub(crate) struct Streams {
    pub(crate) connections: Slots<Connection>,
    pub(crate) listeners: Slots<Listener>,
    pub(crate) connectors: Slots<connector::Client>,
    /// What is read lies here; out while user code looks at it.
    pub(crate) buffer: Option<Box<[u8]>>,
}

impl Streams {
    pub(crate) fn new() -> Self {
        Self {
            connections: Slots::new(),
            listeners: Slots::new(),
            connectors: Slots::new(),
            buffer: None,
        }
    }

    /// Whether nothing is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.listeners.is_empty()
    }
}

/// What the loop still has to do for streams.
#[derive(Default)]
pub(crate) struct StreamAgenda {
    /// Connections and listeners with reading or accepting left over.
    pub(crate) ready: VecDeque<(Kind, Key)>,
    /// Connections with unflushed writes, or an end to bring about.
    pub(crate) dirty: VecDeque<Key>,
    /// Memory for small writes.
    pub(crate) spares: write_queue::Spares,
}

/// Something that user code is told from the loop, in order.
pub(crate) enum StreamNotice {
    /// An adopted connection is given its protocol.
    Made(Key, Box<dyn Protocol>),
    PauseWriting(Key),
    ResumeWriting(Key),
    WriteConnectionLost(Key),
    /// Something waits to pass the layers of a connection.
    Layers(Key),
    /// The time of a closing connection begins to count.
    Linger(Key),
    /// The system had no memory for what a connection sends.
    Shortage(Key),
    /// Close the connection, then tell the protocol.
    Close(Key),
    CloseListener(Key),
    /// The listener cannot accept for now, and why.
    Refrain(Key, std::io::Error),
    /// A connector begins anew.
    StartedConnecting(Key),
    ConnectFailed(Key, ConnectError),
}

/// Bytes read, and thereby delivered at once, at most; also what a connection may take in a turn.
pub(crate) const BUFFER_LEN: usize = 256 * 1024;
