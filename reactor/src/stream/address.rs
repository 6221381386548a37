//! Who is at the other end.

use std::fmt;
use std::net::SocketAddr;

use crate::unix::UnixAddr;

/// The address of a stream's peer, as a factory is told.
///
/// ```
/// use std::net::SocketAddr;
/// use strand_reactor::{PeerAddr, UnixAddr};
/// let address: SocketAddr = "192.0.2.1:80".parse()?;
/// let peer = PeerAddr::from(address);
/// assert_eq!((peer.ip(), peer.unix()), (Some(address), None));
/// assert_eq!(peer, address);
/// assert_eq!(peer.to_string(), "192.0.2.1:80");
/// assert_eq!(PeerAddr::from(UnixAddr::UNNAMED).to_string(), "unnamed");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeerAddr {
    /// An address and port of IP.
    Ip(SocketAddr),
    /// The address of a UNIX socket; most clients have none.
    Unix(UnixAddr),
}

impl PeerAddr {
    /// The address and port, if the peer is reached over IP.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The path, name or lack of one, if the peer is reached over a UNIX socket.
    pub fn unix(&self) -> Option<&UnixAddr> {
        match self {
            Self::Ip(_) => None,
            Self::Unix(address) => Some(address),
        }
    }
}

impl From<SocketAddr> for PeerAddr {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl From<UnixAddr> for PeerAddr {
    fn from(address: UnixAddr) -> Self {
        Self::Unix(address)
    }
}

impl PartialEq<SocketAddr> for PeerAddr {
    fn eq(&self, other: &SocketAddr) -> bool {
        self.ip() == Some(*other)
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(address) => address.fmt(f),
        }
    }
}
