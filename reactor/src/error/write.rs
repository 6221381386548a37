//! What became of something written, and what the network says of it.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use super::wrong_family;
use crate::datagram::Family;
use crate::stream::PeerAddr;

/// Why a datagram was not sent. The port goes on in every case but [`WriteError::Closed`].
#[derive(Debug)]
#[non_exhaustive]
pub enum WriteError {
    /// The port is closed, or the reactor is gone.
    Closed,
    /// A destination was given on a connected port (its own peer's counts, too): leave it out.
    IsConnected {
        /// The peer of the port.
        peer: PeerAddr,
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
