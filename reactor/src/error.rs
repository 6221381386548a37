//! The errors a caller can act on. `io::Error` stays what it is wherever the kernel spoke; it is
//! then the [`source`](std::error::Error::source) of one of these. Their text tells the cause as
//! well: callbacks print an error alone more often than its chain.

mod causes;
mod connect;
mod multicast;
mod write;

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::datagram::Family;
pub(crate) use crate::stream::ConnectionLost;
use crate::unix::UnixAddr;

pub(crate) use causes::Causes;
pub use connect::ConnectError;
pub use multicast::MulticastError;
pub use write::{NetworkError, WriteError, WriteFailure};

/// Text that is not an address and port; see [`parse_address`](crate::parse_address).
///
/// ```
/// let error = strand_reactor::parse_address("example.com:53").unwrap_err();
/// assert!(error.to_string().contains("resolve"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError {
    pub(crate) text: String,
    pub(crate) reason: &'static str,
}

impl AddressError {
    /// The text that could not be read.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid address {:?}: {}", self.text, self.reason)
    }
}

impl Error for AddressError {}

/// Why a port could not be opened. Nothing is left behind: no socket, no protocol.
#[derive(Debug)]
#[non_exhaustive]
pub enum ListenError {
    /// The text given is no address.
    Address(AddressError),
    /// The address could not be bound: taken (`AddrInUse`), not of this host
    /// (`AddrNotAvailable`), a port below 1024 without the right (`PermissionDenied`).
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The address of a UNIX port could not be bound: somebody answers there, or a file that is
    /// no socket is in its place (`AddrInUse`), the directory is missing (`NotFound`) or not ours
    /// to write to (`PermissionDenied`).
    BindUnix {
        /// The address asked for.
        address: UnixAddr,
        /// What the system said.
        source: io::Error,
    },
    /// An option contradicts another, is out of range, or was refused by the system.
    Option(OptionError),
    /// The port could not be connected to its peer.
    Connect {
        /// The peer asked for.
        peer: SocketAddr,
        /// Why not.
        source: ConnectError,
    },
    /// The socket could not be made or watched (out of descriptors, family not supported).
    Socket(io::Error),
    /// `start_protocol` failed; the port is closed again.
    Protocol(anyhow::Error),
    /// The reactor is shutting down: ports opened now would only be closed at once.
    ShuttingDown,
    /// The reactor is gone.
    Closed,
}

impl ListenError {
    /// The address of IP that could not be bound.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Bind { address, .. } => Some(*address),
            _ => None,
        }
    }

    /// The kind of the system's error; `InvalidInput` for mistakes in the call, `Other` for a
    /// failing protocol, `NotConnected` when the reactor is gone or going.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Address(_) => io::ErrorKind::InvalidInput,
            Self::Bind { source, .. } | Self::BindUnix { source, .. } | Self::Socket(source) => {
                source.kind()
            }
            Self::Option(error) => error.kind(),
            Self::Connect { source: ConnectError::Io(source), .. } => source.kind(),
            Self::Connect { .. } => io::ErrorKind::InvalidInput,
            Self::Protocol(_) => io::ErrorKind::Other,
            Self::ShuttingDown | Self::Closed => io::ErrorKind::NotConnected,
        }
    }
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(error) => error.fmt(f),
            Self::Bind { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Self::BindUnix { address, source } => {
                write!(f, "cannot listen on {address}: {source}")
            }
            Self::Option(error) => error.fmt(f),
            Self::Connect { peer, source } => write!(f, "cannot connect to {peer}: {source}"),
            Self::Socket(source) => write!(f, "cannot open a socket: {source}"),
            Self::Protocol(error) => write!(f, "start_protocol failed: {}", Causes(error)),
            Self::ShuttingDown => f.write_str("the reactor is shutting down"),
            Self::Closed => f.write_str("the reactor is gone"),
        }
    }
}

impl Error for ListenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Bind { source, .. } | Self::BindUnix { source, .. } | Self::Socket(source) => {
                Some(source)
            }
            Self::Option(error) => error.source(),
            Self::Connect { source, .. } => Some(source),
            Self::Protocol(error) => Some(&**error),
            _ => None,
        }
    }
}

impl From<AddressError> for ListenError {
    fn from(error: AddressError) -> Self {
        Self::Address(error)
    }
}

impl From<OptionError> for ListenError {
    fn from(error: OptionError) -> Self {
        Self::Option(error)
    }
}

impl From<Infallible> for ListenError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Why a socket could not be adopted. An owned descriptor is closed with the error; of a shared
/// one only our duplicate is.
#[derive(Debug)]
#[non_exhaustive]
pub enum AdoptError {
    /// The descriptor is not open, or not a socket.
    BadDescriptor(io::Error),
    /// The socket is not of a kind that carries datagrams.
    NotDatagram {
        /// What it is: "a stream socket", "a listening stream socket", or the type's number.
        found: String,
    },
    /// The socket is no stream socket, or not in the state that is needed.
    NotStream {
        /// What it is: "a datagram socket", "a stream socket without a peer", and so on.
        found: &'static str,
        /// What is needed: "a listening stream socket", "a connected stream socket".
        needed: &'static str,
    },
    /// The socket is of a family that this call does not take. Datagrams over UNIX sockets have a
    /// call of their own, [`adopt_unix_datagram_port`](crate::Handle::adopt_unix_datagram_port).
    Family {
        /// The number of the family (`AF_*`).
        found: i32,
    },
    /// The socket could not be examined or watched.
    Socket(io::Error),
    /// `start_protocol` failed; the port is closed again.
    Protocol(anyhow::Error),
    /// The driver beneath the reactor has no descriptors (simulation, scripts).
    Unsupported,
    /// The reactor is shutting down.
    ShuttingDown,
    /// The reactor is gone.
    Closed,
}

impl fmt::Display for AdoptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadDescriptor(source) => write!(f, "cannot adopt the descriptor: {source}"),
            Self::NotDatagram { found } => {
                write!(
                    f,
                    "cannot adopt {found} as a datagram port: SOCK_DGRAM or SOCK_RAW is needed"
                )
            }
            Self::NotStream { found, needed } => {
                write!(f, "cannot adopt {found}: {needed} is needed")
            }
            Self::Family { found } => {
                let call = match *found {
                    libc::AF_UNIX => " (for AF_UNIX: adopt_unix_datagram_port)",
                    _ => "",
                };
                write!(f, "cannot adopt a socket of family {found} here{call}")
            }
            Self::Socket(source) => write!(f, "cannot adopt the socket: {source}"),
            Self::Protocol(error) => write!(f, "start_protocol failed: {}", Causes(error)),
            Self::Unsupported => f.write_str("this reactor's network has no descriptors to adopt"),
            Self::ShuttingDown => f.write_str("the reactor is shutting down"),
            Self::Closed => f.write_str("the reactor is gone"),
        }
    }
}

impl Error for AdoptError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::BadDescriptor(source) | Self::Socket(source) => Some(source),
            Self::Protocol(error) => Some(&**error),
            _ => None,
        }
    }
}

/// Why an option or an address of a port could not be read or changed; nothing was changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum OptionError {
    /// A value outside the option's range.
    OutOfRange {
        /// The option.
        name: &'static str,
        /// The value given.
        value: u64,
        /// The least value allowed.
        min: u64,
        /// The greatest value allowed.
        max: u64,
    },
    /// Two options that cannot both hold.
    Contradiction {
        /// What contradicts what, and the way out.
        reason: &'static str,
    },
    /// The system, or the socket path in use, does not offer this.
    Unsupported {
        /// What was asked for.
        name: &'static str,
    },
    /// The port has no local address yet: the system binds it at the first send, or
    /// [`bind`](crate::DatagramTransport::bind) does.
    NotBound,
    /// The port has no peer; [`connect`](crate::DatagramTransport::connect) gives it one.
    NotConnected,
    /// The call needs a port whose reading is paused
    /// ([`pause_reading`](crate::DatagramTransport::pause_reading)).
    NotPaused,
    /// No interface has this name.
    NoSuchDevice {
        /// The name given.
        name: String,
    },
    /// The system refused.
    Io {
        /// The option or call that was refused.
        name: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The port is closed, or the reactor is gone.
    Closed,
}

impl OptionError {
    /// The kind of `std` that fits best.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::OutOfRange { .. } | Self::Contradiction { .. } | Self::NotPaused => {
                io::ErrorKind::InvalidInput
            }
            Self::Unsupported { .. } => io::ErrorKind::Unsupported,
            Self::NoSuchDevice { .. } => io::ErrorKind::NotFound,
            Self::NotBound | Self::NotConnected | Self::Closed => io::ErrorKind::NotConnected,
            Self::Io { source, .. } => source.kind(),
        }
    }
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { name, value, min, max } => {
                write!(f, "{name} {value} is out of range: {min} to {max}")
            }
            Self::Contradiction { reason } => f.write_str(reason),
            Self::Unsupported { name } => write!(f, "{name} is not supported here"),
            Self::NoSuchDevice { name } => {
                write!(f, "no interface has the name {name:?}: Handle::interfaces lists them")
            }
            Self::NotBound => f.write_str("the port is not bound yet: send something or call bind"),
            Self::NotConnected => f.write_str("the port has no peer: call connect"),
            Self::NotPaused => f.write_str("the port delivers by itself: call pause_reading first"),
            Self::Io { name, source } => write!(f, "{name}: {source}"),
            Self::Closed => f.write_str("the port is closed"),
        }
    }
}

impl Error for OptionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

fn wrong_family(f: &mut fmt::Formatter<'_>, address: SocketAddr, family: Family) -> fmt::Result {
    let port = match family {
        Family::V4 => "an IPv4",
        Family::V6Only => "an IPv6-only",
        Family::Dual => "a dual-stack",
    };
    write!(f, "{address} cannot be reached from {port} port")
}

/// Why a port ended; what [`stop_protocol`](crate::DatagramProtocol::stop_protocol) is told.
#[derive(Debug)]
#[non_exhaustive]
pub enum StopReason {
    /// [`stop_listening`](crate::DatagramTransport::stop_listening) was called.
    Stopped,
    /// The reactor shuts down.
    Shutdown,
    /// The descriptor became invalid (`EBADF`, `ENOTSOCK`): somebody closed it under us.
    Failed(io::Error),
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::Shutdown => f.write_str("the reactor shuts down"),
            Self::Failed(error) => write!(f, "the descriptor is gone: {error}"),
        }
    }
}

/// Why a timer could not be cancelled or moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimerError {
    /// It has run, or is running.
    AlreadyCalled,
    /// It was cancelled before.
    AlreadyCancelled,
    /// The reactor is gone, and the timer with it.
    Closed,
}

impl fmt::Display for TimerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AlreadyCalled => "the timer has been called",
            Self::AlreadyCancelled => "the timer was cancelled",
            Self::Closed => "the reactor is gone",
        })
    }
}

impl Error for TimerError {}

/// Why the loop could not run.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError {
    /// `run` or `iterate` was called from inside a callback.
    AlreadyRunning,
    /// The poller broke; the reactor cannot go on.
    Poll(io::Error),
    /// The signals that are to stop the reactor cannot be watched
    /// (`Builder::stop_on_signals`, feature `signals`).
    Signals(io::Error),
    /// The reactor is a host of a simulated world, which lets its time pass: call
    /// `World::run_for` (feature `sim`).
    Simulated,
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyRunning => {
                f.write_str("the reactor is running: callbacks must return to the loop instead")
            }
            Self::Poll(source) => write!(f, "the poller failed: {source}"),
            Self::Signals(source) => {
                write!(f, "cannot watch the signals that stop the reactor: {source}")
            }
            Self::Simulated => f.write_str(
                "the reactor is a host of a simulated world: let time pass with World::run_for",
            ),
        }
    }
}

impl Error for RunError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Poll(source) | Self::Signals(source) => Some(source),
            Self::AlreadyRunning | Self::Simulated => None,
        }
    }
}

/// The port is closed, or the reactor is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the port is closed, or the reactor is gone")
    }
}

impl Error for Closed {}
