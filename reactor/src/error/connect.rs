//! Why there is no connection.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use super::{AddressError, Causes, OptionError, wrong_family};
use crate::datagram::Family;
use crate::resolve::ResolveError;
use crate::stream::PeerAddr;
use crate::unix::UnixAddr;

/// Why a port could not be connected to a peer, or disconnected; its peer is what it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The port has a peer already; [`disconnect`](crate::DatagramTransport::disconnect) first.
    IsConnected {
        /// The peer it has.
        peer: PeerAddr,
    },
    /// An attempt is under way: wait for its end, or
    /// [`stop_connecting`](crate::Connector::stop_connecting) first.
    IsConnecting,
    /// There is nothing to disconnect.
    NotConnected,
    /// The peer's family is not the port's.
    WrongFamily {
        /// The peer asked for.
        address: SocketAddr,
        /// The port's family.
        family: Family,
    },
    /// The system refused (no route, out of memory), or the network did (nobody listens there).
    Io(io::Error),
    /// A UNIX port or connection could not be connected to this address: nobody listens there
    /// (`ConnectionRefused`, `NotFound`), the mode bits shut us out (`PermissionDenied`).
    Unix {
        /// The address asked for.
        address: UnixAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The port is closed, or the reactor is gone.
    Closed,
    /// The text given is no address.
    Address(AddressError),
    /// An option is out of range, or was refused by the system.
    Option(OptionError),
    /// The local address could not be had.
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The attempt took longer than its [`timeout`](crate::ConnectOptions::timeout).
    TimedOut,
    /// [`stop_connecting`](crate::Connector::stop_connecting) was called, or the reactor stopped.
    Cancelled,
    /// The attempt met itself: the system chose the peer's own port on this host as the local
    /// one, and nobody else is there.
    SelfConnect {
        /// The address of both ends.
        address: SocketAddr,
    },
    /// The name of the host has no addresses, or they could not be found out.
    Resolve {
        /// The name.
        name: String,
        /// Why there are none.
        source: ResolveError,
    },
    /// There is no address to connect to.
    NoAddress,
    /// The factory built no protocol; the connection is closed again.
    NoProtocol,
    /// The factory failed.
    Factory(anyhow::Error),
    /// There is no attempt to stop.
    NotConnecting,
    /// The reactor is shutting down.
    ShuttingDown,
}

impl ConnectError {
    /// The kind of `std` that fits best.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Io(source) | Self::Bind { source, .. } | Self::Unix { source, .. } => {
                source.kind()
            }
            Self::Option(error) => error.kind(),
            Self::TimedOut => io::ErrorKind::TimedOut,
            Self::Cancelled => io::ErrorKind::Interrupted,
            Self::SelfConnect { .. } => io::ErrorKind::ConnectionRefused,
            Self::Resolve { source, .. } => source.kind(),
            Self::NoProtocol | Self::Factory(_) => io::ErrorKind::Other,
            Self::NotConnected | Self::Closed | Self::ShuttingDown => io::ErrorKind::NotConnected,
            Self::IsConnected { .. }
            | Self::WrongFamily { .. }
            | Self::Address(_)
            | Self::NoAddress
            | Self::IsConnecting
            | Self::NotConnecting => io::ErrorKind::InvalidInput,
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IsConnected { peer } => {
                write!(f, "the port is connected to {peer}: disconnect first")
            }
            Self::IsConnecting => {
                f.write_str("an attempt is under way: wait for its end, or stop it first")
            }
            Self::NotConnected => f.write_str("the port is not connected"),
            Self::WrongFamily { address, family } => wrong_family(f, *address, *family),
            Self::Io(source) if source.kind() == io::ErrorKind::PermissionDenied => write!(
                f,
                "cannot connect: {source} (to a broadcast address, allow that first: \
                 broadcast_allowed)"
            ),
            Self::Io(source) => write!(f, "cannot connect: {source}"),
            Self::Unix { address, source } => write!(f, "cannot connect to {address}: {source}"),
            Self::Closed => f.write_str("the port is closed"),
            Self::Address(error) => error.fmt(f),
            Self::Option(error) => error.fmt(f),
            Self::Bind { address, source } => write!(f, "cannot connect from {address}: {source}"),
            Self::TimedOut => f.write_str("the attempt to connect took too long"),
            Self::Cancelled => f.write_str("the attempt to connect was given up"),
            Self::SelfConnect { address } => {
                write!(f, "nobody listens on {address}: the attempt met itself")
            }
            Self::Resolve { name, .. } => write!(f, "cannot find the host {name:?}"),
            Self::NoAddress => f.write_str("there is no address to connect to"),
            Self::NoProtocol => f.write_str("the factory built no protocol"),
            Self::Factory(error) => write!(f, "the factory failed: {}", Causes(error)),
            Self::NotConnecting => f.write_str("there is no attempt to stop"),
            Self::ShuttingDown => f.write_str("the reactor is shutting down"),
        }
    }
}

impl From<AddressError> for ConnectError {
    fn from(error: AddressError) -> Self {
        Self::Address(error)
    }
}

impl From<OptionError> for ConnectError {
    fn from(error: OptionError) -> Self {
        Self::Option(error)
    }
}

impl From<Infallible> for ConnectError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(source) | Self::Bind { source, .. } | Self::Unix { source, .. } => {
                Some(source)
            }
            Self::Option(error) => error.source(),
            Self::Factory(error) => Some(&**error),
            Self::Resolve { source, .. } => Some(source),
            _ => None,
        }
    }
}
