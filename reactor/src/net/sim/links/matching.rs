//! Which packets and which socket calls a rule is about.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::net::sim::error::HostError;
use crate::net::sim::host::HostId;
use crate::net::sim::packet::{Body, Flags, Packet, TCP, UDP};

/// The protocol number of ICMP over IPv4, and here of both kinds.
const ICMP: u8 = 1;

/// Hosts that a rule is about: by name, or by one of their addresses.
///
/// Wherever some are wanted, one of either does as well, an array, a slice or a `Vec`. Text is a
/// name if there is a host of that name, and an address otherwise.
///
/// ```
/// use std::net::Ipv4Addr;
/// use strand_reactor::sim::Hosts;
///
/// let by_name = Hosts::from(["alice", "bob"]);
/// let by_address = Hosts::from(Ipv4Addr::new(10, 0, 0, 1));
/// assert_eq!(format!("{by_name:?} {by_address:?}"), r#"["alice", "bob"] ["10.0.0.1"]"#);
/// ```
#[derive(Clone, Default)]
pub struct Hosts(Vec<Host>);

#[derive(Clone)]
pub(crate) enum Host {
    Name(String),
    Address(IpAddr),
}

impl Hosts {
    /// These hosts, by a search that knows them all.
    ///
    /// # Errors
    /// It does not know one.
    pub(crate) fn resolve(
        &self,
        find: &dyn Fn(&Host) -> Option<HostId>,
    ) -> Result<Vec<HostId>, HostError> {
        let known =
            |host: &Host| find(host).ok_or_else(|| HostError::Unknown { name: format!("{host}") });
        self.0.iter().map(known).collect()
    }
}

impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(Host::to_string)).finish()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl Hosts {
    fn one(host: Host) -> Self {
        Self(vec![host])
    }
}

impl From<&str> for Hosts {
    fn from(name: &str) -> Self {
        Self::one(Host::Name(name.to_owned()))
    }
}

impl From<String> for Hosts {
    fn from(name: String) -> Self {
        Self::one(Host::Name(name))
    }
}

impl From<&String> for Hosts {
    fn from(name: &String) -> Self {
        Self::from(name.as_str())
    }
}

impl From<IpAddr> for Hosts {
    fn from(address: IpAddr) -> Self {
        Self::one(Host::Address(address))
    }
}

impl From<Ipv4Addr> for Hosts {
    fn from(address: Ipv4Addr) -> Self {
        Self::from(IpAddr::from(address))
    }
}

impl From<Ipv6Addr> for Hosts {
    fn from(address: Ipv6Addr) -> Self {
        Self::from(IpAddr::from(address))
    }
}

impl<H: Into<Self>> From<Vec<H>> for Hosts {
    fn from(hosts: Vec<H>) -> Self {
        hosts.into_iter().collect()
    }
}

impl<H: Into<Self> + Clone> From<&[H]> for Hosts {
    fn from(hosts: &[H]) -> Self {
        hosts.iter().cloned().collect()
    }
}

impl<H: Into<Self>, const N: usize> From<[H; N]> for Hosts {
    fn from(hosts: [H; N]) -> Self {
        hosts.into_iter().collect()
    }
}

impl<H: Into<Self>> FromIterator<H> for Hosts {
    fn from_iter<I: IntoIterator<Item = H>>(hosts: I) -> Self {
        Self(hosts.into_iter().flat_map(|hosts| hosts.into().0).collect())
    }
}

/// Hosts, as asked about for every packet.
#[derive(Debug)]
pub(super) enum HostSet {
    One(HostId),
    /// A bit for each host, up to the last of them.
    Many(Box<[u64]>),
}

impl HostSet {
    pub(super) fn of(ids: &[HostId]) -> Self {
        if let [one] = ids {
            return Self::One(*one);
        }
        let end = ids.iter().map(|id| id.0 as usize + 1).max().unwrap_or(0);
        let mut bits = vec![0; end.div_ceil(64)];
        for id in ids {
            bits[id.0 as usize / 64] |= 1u64 << (id.0 % 64);
        }
        Self::Many(bits.into_boxed_slice())
    }

    pub(super) fn contains(&self, id: HostId) -> bool {
        match self {
            Self::One(one) => *one == id,
            Self::Many(bits) => {
                bits.get(id.0 as usize / 64).is_some_and(|word| word >> (id.0 % 64) & 1 == 1)
            }
        }
    }
}

/// A packet, as the condition of a rule sees it ([`Rule::when`](super::Rule::when)).
///
/// ```
/// use strand_reactor::sim::{PacketView, Rule};
///
/// fn is_long_answer(packet: &PacketView<'_>) -> bool {
///     packet.is_udp() && packet.source().port() == 53 && packet.payload().len() > 512
/// }
/// let rule = Rule::drop().when(is_long_answer);
/// assert!(format!("{rule:?}").contains("Drop"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct PacketView<'a>(pub(super) &'a Packet);

impl<'a> PacketView<'a> {
    /// Where it comes from; the port is 0 for ICMP.
    pub fn source(&self) -> SocketAddr {
        self.0.source
    }

    /// Where it goes to; the port is 0 for ICMP.
    pub fn destination(&self) -> SocketAddr {
        self.0.destination
    }

    /// The payload of the datagram or the segment; empty for ICMP.
    pub fn payload(&self) -> &'a [u8] {
        match &self.0.body {
            Body::Udp(payload) => payload,
            Body::Tcp(segment) => &segment.payload,
            Body::Icmp(_) => &[],
        }
    }

    /// Bytes of the whole packet, headers of IP and above included.
    pub fn wire_len(&self) -> usize {
        self.0.wire_len()
    }

    /// The hop limit or TTL that it left with.
    pub fn hop_limit(&self) -> u8 {
        self.0.hop_limit
    }

    /// Whether it is a datagram of UDP.
    pub fn is_udp(&self) -> bool {
        protocol(self.0) == UDP
    }

    /// Whether it is a segment of TCP.
    pub fn is_tcp(&self) -> bool {
        protocol(self.0) == TCP
    }

    /// Whether it is a report of ICMP or ICMPv6.
    pub fn is_icmp(&self) -> bool {
        protocol(self.0) == ICMP
    }

    /// Whether it is a segment that opens a connection (SYN, with or without ACK).
    pub fn is_syn(&self) -> bool {
        self.has(Flags::SYN)
    }

    /// Whether it is a segment that ends a stream in order (FIN).
    pub fn is_fin(&self) -> bool {
        self.has(Flags::FIN)
    }

    /// Whether it is a segment that breaks a connection (RST).
    pub fn is_reset(&self) -> bool {
        self.has(Flags::RST)
    }

    fn has(&self, flag: Flags) -> bool {
        matches!(&self.0.body, Body::Tcp(segment) if segment.flags.contains(flag))
    }
}

fn protocol(packet: &Packet) -> u8 {
    match packet.body {
        Body::Udp(_) => UDP,
        Body::Tcp(_) => TCP,
        Body::Icmp(_) => ICMP,
    }
}

/// What a rule is about, but for the hosts: packets and calls alike.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    pub(super) port: Option<u16>,
    pub(super) protocol: Option<u8>,
}

impl Traffic {
    pub(super) const UDP: u8 = UDP;
    pub(super) const TCP: u8 = TCP;
    pub(super) const ICMP: u8 = ICMP;

    pub(super) fn has_packet(&self, packet: &Packet) -> bool {
        self.has(protocol(packet), Some(packet.source), Some(packet.destination))
    }

    pub(super) fn has(
        &self,
        protocol: u8,
        one: Option<SocketAddr>,
        other: Option<SocketAddr>,
    ) -> bool {
        let at = |address: Option<SocketAddr>, port| address.is_some_and(|a| a.port() == port);
        self.protocol.is_none_or(|wanted| wanted == protocol)
            && self.port.is_none_or(|port| at(one, port) || at(other, port))
    }
}
