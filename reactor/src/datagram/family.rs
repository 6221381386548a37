//! Address families, and what fits into a datagram of each.

use std::net::SocketAddr;

/// The address family of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6 alone (`IPV6_V6ONLY` on).
    V6Only,
    /// IPv6 and IPv4 on one socket (`IPV6_V6ONLY` off): IPv4 sources show as `::ffff:a.b.c.d`,
    /// and destinations may be written either way.
    Dual,
}

/// The longest payload that goes to any address: one that goes over IPv4.
pub(crate) const MIN_MAX_PAYLOAD: usize = 65_507;

impl Family {
    /// Bytes of the longest payload: 65,535 less the headers of UDP and, for IPv4, of IP.
    #[inline]
    pub(crate) fn max_payload(self, to: Option<SocketAddr>) -> usize {
        match (self, to) {
            (Self::V4, _) => MIN_MAX_PAYLOAD,
            (Self::Dual, Some(SocketAddr::V6(to))) if to.ip().to_ipv4_mapped().is_some() => {
                MIN_MAX_PAYLOAD
            }
            _ => 65_527,
        }
    }

    /// Whether a socket of this family takes the address as it is.
    #[inline]
    pub(crate) fn takes(self, address: &SocketAddr) -> bool {
        match (self, address) {
            (Self::V4, SocketAddr::V4(_)) | (Self::Dual, SocketAddr::V6(_)) => true,
            (Self::V6Only, SocketAddr::V6(to)) => to.ip().to_ipv4_mapped().is_none(),
            _ => false,
        }
    }

    /// The address as a socket of this family takes it; `None` if it cannot.
    #[inline]
    pub(crate) fn admit(self, address: SocketAddr) -> Option<SocketAddr> {
        match (self, address) {
            _ if self.takes(&address) => Some(address),
            (Self::Dual, SocketAddr::V4(to)) => {
                Some(SocketAddr::new(to.ip().to_ipv6_mapped().into(), to.port()))
            }
            _ => None,
        }
    }
}
