//! The errors a caller can act on. `io::Error` stays what it is wherever the kernel spoke; it is
//! then the [`source`](std::error::Error::source) of one of these. Their text tells the cause as
//! well: callbacks print an error alone more often than its chain.

mod multicast;

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::datagram::Family;
use crate::resolve::ResolveError;
pub(crate) use crate::stream::ConnectionLost;

pub use multicast::MulticastError;

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
    /// The address that could not be bound.
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
            Self::Bind { source, .. } | Self::Socket(source) => source.kind(),
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
            Self::Option(error) => error.fmt(f),
            Self::Connect { peer, source } => write!(f, "cannot connect to {peer}: {source}"),
            Self::Socket(source) => write!(f, "cannot open a socket: {source}"),
            Self::Protocol(error) => write!(f, "start_protocol failed: {error}"),
            Self::ShuttingDown => f.write_str("the reactor is shutting down"),
            Self::Closed => f.write_str("the reactor is gone"),
        }
    }
}

impl Error for ListenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Bind { source, .. } | Self::Socket(source) => Some(source),
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
    /// The socket is of a family other than IPv4 and IPv6.
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
                write!(f, "cannot adopt a socket of family {found}: AF_INET or AF_INET6 is needed")
            }
            Self::Socket(source) => write!(f, "cannot adopt the socket: {source}"),
            Self::Protocol(error) => write!(f, "start_protocol failed: {error}"),
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

/// Why a port could not be connected to a peer, or disconnected; its peer is what it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The port has a peer already; [`disconnect`](crate::DatagramTransport::disconnect) first.
    IsConnected {
        /// The peer it has.
        peer: SocketAddr,
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
            Self::Io(source) | Self::Bind { source, .. } => source.kind(),
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
            Self::Factory(error) => write!(f, "the factory failed: {error}"),
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
            Self::Io(source) | Self::Bind { source, .. } => Some(source),
            Self::Option(error) => error.source(),
            Self::Factory(error) => Some(&**error),
            Self::Resolve { source, .. } => Some(source),
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

/// Why a datagram was not sent. The port goes on in every case but [`WriteError::Closed`].
#[derive(Debug)]
#[non_exhaustive]
pub enum WriteError {
    /// The port is closed, or the reactor is gone.
    Closed,
    /// A destination was given on a connected port (its own peer's counts, too): leave it out.
    IsConnected {
        /// The peer of the port.
        peer: SocketAddr,
    },
    /// No destination on a port without a peer: use `write_to`, or `connect` first.
    DestinationRequired,
    /// The destination's family is not the port's.
    WrongFamily {
        /// The destination.
        address: SocketAddr,
        /// The port's family.
        family: Family,
    },
    /// The payload is longer than a datagram can be.
    TooLong {
        /// Bytes in the payload.
        len: usize,
        /// Bytes that fit: 65,507 over IPv4, 65,527 over IPv6.
        max: usize,
    },
    /// 255.255.255.255 without
    /// [`set_broadcast_allowed(true)`](crate::DatagramTransport::set_broadcast_allowed).
    BroadcastNotAllowed,
    /// The send queue is full and its policy is to refuse; see
    /// [`QueuePolicy`](crate::QueuePolicy).
    QueueFull {
        /// Datagrams waiting.
        datagrams: usize,
        /// Bytes waiting.
        bytes: usize,
    },
    /// On a stream: more bytes would wait to be sent than its
    /// [`write_limit`](crate::TcpOptions::write_limit) allows. Wait for `resume_writing`.
    BufferFull {
        /// Bytes waiting.
        bytes: usize,
        /// Bytes that may wait.
        limit: usize,
    },
    /// `try_write*` only: earlier datagrams are still waiting, or the system has no room now.
    WouldBlock,
    /// The datagram waited in the queue and was dropped to make room, as the policy says.
    Dropped,
    /// The port was closed before the datagram left.
    Cancelled,
    /// A [`SendOptions`](crate::SendOptions) field that the system or socket path does not offer.
    Unsupported {
        /// The field.
        name: &'static str,
    },
    /// The list of buffers is empty: an empty datagram is one empty buffer.
    NoBuffers,
    /// The system refused this datagram.
    Io(io::Error),
}

impl WriteError {
    /// The kind of `std` that fits best.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Closed => io::ErrorKind::NotConnected,
            Self::IsConnected { .. }
            | Self::DestinationRequired
            | Self::WrongFamily { .. }
            | Self::NoBuffers
            | Self::TooLong { .. } => io::ErrorKind::InvalidInput,
            Self::BroadcastNotAllowed => io::ErrorKind::PermissionDenied,
            Self::QueueFull { .. } | Self::BufferFull { .. } | Self::WouldBlock => {
                io::ErrorKind::WouldBlock
            }
            Self::Dropped | Self::Cancelled => io::ErrorKind::Interrupted,
            Self::Unsupported { .. } => io::ErrorKind::Unsupported,
            Self::Io(source) => source.kind(),
        }
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the port is closed"),
            Self::IsConnected { peer } => {
                write!(f, "the port is connected to {peer}: write without a destination")
            }
            Self::DestinationRequired => {
                f.write_str("the port has no peer: use write_to, or connect it first")
            }
            Self::WrongFamily { address, family } => wrong_family(f, *address, *family),
            Self::TooLong { len, max } => {
                write!(f, "a payload of {len} bytes is too long: a datagram carries {max} at most")
            }
            Self::BroadcastNotAllowed => {
                f.write_str("broadcast is off: call set_broadcast_allowed(true) first")
            }
            Self::QueueFull { datagrams, bytes } => write!(
                f,
                "the send queue is full ({datagrams} datagrams, {bytes} bytes): wait for \
                 resume_writing, or choose another queue policy"
            ),
            Self::BufferFull { bytes, limit } => write!(
                f,
                "{bytes} bytes wait to be sent, and no more than {limit} may: wait for \
                 resume_writing, or raise write_limit"
            ),
            Self::WouldBlock => {
                f.write_str("nothing can be sent at once: others wait, or there is no room")
            }
            Self::Dropped => f.write_str("the datagram was dropped to make room in the queue"),
            Self::Cancelled => f.write_str("the port was closed before the datagram left"),
            Self::Unsupported { name } => write!(f, "{name} cannot be chosen per datagram here"),
            Self::NoBuffers => f.write_str(
                "the list of buffers is empty: pass one empty buffer for an empty datagram",
            ),
            Self::Io(source) => write!(f, "cannot send: {source}"),
        }
    }
}

impl Error for WriteError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(source) => Some(source),
            _ => None,
        }
    }
}

/// A datagram that was accepted by a write call and failed afterwards; what
/// [`write_failed`](crate::DatagramProtocol::write_failed) is told.
#[derive(Debug)]
#[non_exhaustive]
pub struct WriteFailure {
    /// Where it was going.
    pub destination: Option<SocketAddr>,
    /// Bytes of its payload.
    pub len: usize,
    /// What happened.
    pub error: WriteError,
}

impl fmt::Display for WriteFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "datagram of {} bytes", self.len)?;
        if let Some(destination) = self.destination {
            write!(f, " to {destination}")?;
        }
        write!(f, " was not sent: {}", self.error)
    }
}

impl Error for WriteFailure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

/// An error that the network reported, not tied to a write call; what
/// [`network_error`](crate::DatagramProtocol::network_error) is told. The port goes on.
///
/// The fields after `error` are known where the report came through the error queue
/// (`IP_RECVERR`, ip(7)).
#[derive(Debug)]
#[non_exhaustive]
pub struct NetworkError {
    /// The error, as the system numbers it.
    pub error: io::Error,
    /// Where the datagram that caused the report was going.
    pub destination: Option<SocketAddr>,
    /// Who sent the report: a router, or the destination itself.
    pub offender: Option<IpAddr>,
    /// ICMP type and code (RFC 792, RFC 4443).
    pub icmp: Option<(u8, u8)>,
    /// The MTU that the datagram exceeded, in bytes.
    pub mtu: Option<u32>,
}

impl NetworkError {
    /// A refusal by somebody who is not the port's peer any more.
    pub(crate) fn refusal(by: SocketAddr) -> Self {
        let error = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        Self { error, destination: Some(by), offender: None, icmp: None, mtu: None }
    }
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)?;
        if let Some(destination) = self.destination {
            write!(f, ", sending to {destination}")?;
        }
        if let Some(offender) = self.offender {
            write!(f, ", reported by {offender}")?;
        }
        if let Some((kind, code)) = self.icmp {
            write!(f, " (ICMP type {kind} code {code})")?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, ", MTU {mtu}")?;
        }
        Ok(())
    }
}

impl Error for NetworkError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
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
        }
    }
}

impl Error for RunError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Poll(source) | Self::Signals(source) => Some(source),
            Self::AlreadyRunning => None,
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
