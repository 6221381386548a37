//! Addresses of connections and ports, and which of them are in each other's way.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

use crate::datagram::Family;

/// What tells one connection of a host from the others. The local port comes first: those of one
/// port lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tuple {
    pub(super) local_port: u16,
    pub(super) local: IpAddr,
    pub(super) remote_port: u16,
    pub(super) remote: IpAddr,
}

impl Tuple {
    pub(super) fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            local_port: local.port(),
            local: local.ip(),
            remote_port: remote.port(),
            remote: remote.ip(),
        }
    }

    /// Every tuple of a port lies between these two.
    pub(super) fn of_port(port: u16) -> std::ops::RangeInclusive<Self> {
        let end = |ip, remote_port| Self { local_port: port, local: ip, remote_port, remote: ip };
        let last = std::net::Ipv6Addr::from_bits(u128::MAX);
        end(Ipv4Addr::UNSPECIFIED.into(), 0)..=end(last.into(), u16::MAX)
    }

    pub(super) fn local(&self) -> SocketAddr {
        (self.local, self.local_port).into()
    }

    pub(super) fn remote(&self) -> SocketAddr {
        (self.remote, self.remote_port).into()
    }

    /// A number that depends on all of it, the same on every machine.
    pub(super) fn hash(&self) -> u32 {
        let bits = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let mut hash = u64::from(self.local_port) << 16 | u64::from(self.remote_port);
        for bits in [bits(self.local), bits(self.remote)] {
            for half in [bits as u64, (bits >> 64) as u64] {
                hash = (hash ^ half).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                hash ^= hash >> 29;
            }
        }
        (hash >> 32) as u32
    }
}

/// The way to a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    /// By which interface; of a connection that comes in.
    pub(super) interface: u32,
    /// The longest packet of the interface, and of the path as far as that is known.
    pub(super) mtu: u32,
    pub(super) path_mtu: Option<u32>,
}

/// Where a socket is bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) ip: IpAddr,
    pub(super) family: Family,
}

impl Place {
    /// Whether packets to `ip` are for it.
    pub(super) fn covers(&self, ip: IpAddr) -> bool {
        if !self.ip.is_unspecified() {
            return self.ip == ip;
        }
        match self.family {
            Family::V4 => ip.is_ipv4(),
            Family::V6Only => ip.is_ipv6(),
            Family::Dual => true,
        }
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.covers(other.ip) || other.covers(self.ip)
    }

    /// How closely it is bound: the closest hears of a connection.
    pub(super) fn closeness(&self) -> u8 {
        match (self.ip.is_unspecified(), self.family) {
            (false, _) => 2,
            (true, Family::Dual) => 0,
            (true, _) => 1,
        }
    }
}

/// An address as the wire has it: IPv4 is never mapped, and there are no scopes.
pub(super) fn on_wire(address: SocketAddr) -> SocketAddr {
    (address.ip().to_canonical(), address.port()).into()
}

/// An address of the wire as a socket of IPv6 shows it.
pub(super) fn shown(address: SocketAddr, mapped: bool) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if mapped => {
            SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into()
        }
        _ => address,
    }
}
