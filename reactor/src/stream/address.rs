//! Who is at the other end.

use std::fmt;
use std::net::SocketAddr;

/// The address of a stream's peer, as a factory is told.
///
/// ```
/// use std::net::SocketAddr;
/// use strand_reactor::PeerAddr;
/// let address: SocketAddr = "192.0.2.1:80".parse()?;
/// let peer = PeerAddr::from(address);
/// assert_eq!(peer.ip(), Some(address));
/// assert_eq!(peer.to_string(), "192.0.2.1:80");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeerAddr {
    /// An address and port of IP.
    Ip(SocketAddr),
}

impl PeerAddr {
    /// The address and port, if the peer is reached over IP.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
        }
    }
}

impl From<SocketAddr> for PeerAddr {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
        }
    }
}
