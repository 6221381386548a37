#![doc = include_str!("crate.md")]
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_types, clippy::disallowed_methods))]
#![doc(test(attr(deny(warnings))))]

mod activation;
mod address;
mod agenda;
mod callback;
mod datagram;
mod error;
pub mod guide;
mod handle;
mod inner;
mod interfaces;
#[cfg(feature = "threads")]
mod jobs;
mod net;
#[cfg(feature = "per-core")]
mod per_core;
mod reactor;
mod resolve;
mod shutdown;
#[cfg(feature = "signals")]
mod signals;
mod slots;
mod stats;
mod stream;
mod sys;
mod threads;
mod timers;
mod unix;
mod without;

pub use address::parse_address;
pub use callback::CallbackResult;
pub use datagram::{
    Capabilities, Datagram, DatagramInfo, DatagramKey, DatagramProtocol, DatagramTransport, Ecn,
    Family, Interface, Metadata, PathMtu, PortState, ProtocolBorrowed, QueuePolicy, ReadDatagram,
    SendOptions, SourceFilter, UdpOptions,
};
pub use error::{
    AddressError, AdoptError, Closed, ConnectError, ListenError, MulticastError, NetworkError,
    OptionError, RunError, StopReason, TimerError, WriteError, WriteFailure,
};
pub use handle::Handle;
pub use interfaces::{InterfaceAddress, NetworkInterface};
#[cfg(feature = "threads")]
pub use jobs::{Job, JobCancelError, JobError};
#[cfg(feature = "per-core")]
pub use per_core::{PerCoreError, WorkerFailure, Workers, run_per_core};
pub use reactor::{Builder, Reactor};
#[cfg(feature = "dns")]
pub use resolve::DnsResolver;
pub use resolve::{
    AddressFamily, Answer, Query, QueryId, Resolution, Resolve, ResolveError, ResolveOptions,
    SystemResolver,
};
pub use shutdown::{ShutdownError, ShutdownHold, ShutdownHook, ShutdownPhase};
#[cfg(feature = "signals")]
pub use signals::{Signal, SignalError, SignalWatch};
pub use stats::{ListenerStats, PortStats, ReactorStats, StreamStats};
pub use stream::{
    AcceptBudget, ClientFactory, ConnectOptions, ConnectionLost, ConnectionState, Connector,
    ConnectorState, Factory, Flow, KeepAlive, ListeningPort, PeerAddr, Protocol, SharedFactory,
    StreamKey, StreamLayer, TcpOptions, Transport,
};
pub use threads::{ReactorGone, Remote};
pub use timers::{DelayedCall, LoopingCall};
pub use unix::{
    PeerCredentials, UnixAddr, UnixConnectOptions, UnixDatagram, UnixDatagramKey,
    UnixDatagramOptions, UnixDatagramProtocol, UnixDatagramTransport, UnixOptions,
    UnixWriteFailure,
};

/// What only a system with descriptors has.
pub mod os {
    pub use crate::activation::{ListenFd, take_listen_fds};
}

#[cfg(feature = "sim")]
pub mod sim {
    #![doc = include_str!("net/sim/page.md")]

    pub use crate::net::sim::{
        Call, GilbertElliott, Guard, HostAddresses, HostError, Hosts, Latency, Leftover, Link,
        Loss, PacketView, Pair, Recorder, Rule, Seeds, SentDatagram, UntilError, World,
        WrittenStream, for_each_seed, pair, stream_pair,
    };
}

/// For tests of the reactor, and of protocols on it (feature `testing`).
#[cfg(feature = "testing")]
pub mod testing {
    pub use crate::net::script::{
        GroupChange, Script, ScriptedListener, ScriptedStream, SendStep, Sent, StreamEvent,
        WriteStep,
    };
    #[cfg(feature = "sim")]
    pub use crate::net::sim::{PlainListener, PlainStream};
}
