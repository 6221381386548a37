//! Strand.
#![deny(unsafe_code)]

mod activation;
mod address;
mod agenda;
mod callback;
mod datagram;
mod error;
mod handle;
mod inner;
mod net;
mod reactor;
mod slots;
mod stats;
mod stream;
mod sys;
mod threads;
mod timers;

pub use address::parse_address;
pub use callback::CallbackResult;
pub use datagram::{
    Capabilities, Datagram, DatagramInfo, DatagramKey, DatagramProtocol, DatagramTransport, Ecn,
    Family, Metadata, PathMtu, PortState, ProtocolBorrowed, QueuePolicy, ReadDatagram, SendOptions,
    UdpOptions,
};
pub use error::{
    AddressError, AdoptError, Closed, ConnectError, ListenError, NetworkError, OptionError,
    RunError, StopReason, TimerError, WriteError, WriteFailure,
};
pub use handle::Handle;
pub use reactor::{Builder, Reactor};
pub use stats::{ListenerStats, PortStats, ReactorStats, StreamStats};
pub use stream::{
    AcceptBudget, ClientFactory, ConnectOptions, ConnectionLost, ConnectionState, Connector,
    ConnectorState, Factory, Flow, KeepAlive, ListeningPort, PeerAddr, Protocol, SharedFactory,
    StreamKey, StreamLayer, TcpOptions, Transport,
};
pub use threads::{ReactorGone, Remote};
pub use timers::{DelayedCall, LoopingCall};

/// What only a system with descriptors has.
pub mod os {
    pub use crate::activation::{ListenFd, take_listen_fds};
}

/// For tests of the reactor, and of protocols on it (feature `testing`).
#[cfg(feature = "testing")]
pub mod testing {
    pub use crate::net::script::{Script, SendStep, Sent};
}
