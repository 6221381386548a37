//! What travels through a simulated network: the one type that sockets, links and the trace share.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::{BitOr, BitOrAssign};
use std::rc::Rc;

/// An IP packet. Addresses are those of the wire: never IPv4 mapped to IPv6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) hop_limit: u8,
    /// The type of service or traffic class, with ECN in the lowest two bits.
    pub(crate) tos: u8,
    pub(crate) body: Body,
}

/// What a packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Udp(Rc<[u8]>),
    Tcp(Segment),
    /// In a box: rare, and longer than the others.
    Icmp(Box<IcmpError>),
}

/// A TCP segment (RFC 9293).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: Flags,
    pub(crate) window: u32,
    pub(crate) payload: Rc<[u8]>,
    /// The option of a SYN.
    pub(crate) mss: Option<u16>,
}

/// The flags of a segment, with the bits that they have on the wire.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Flags(pub(crate) u8);

impl Flags {
    pub(crate) const FIN: Self = Self(0x01);
    pub(crate) const SYN: Self = Self(0x02);
    pub(crate) const RST: Self = Self(0x04);
    pub(crate) const PSH: Self = Self(0x08);
    pub(crate) const ACK: Self = Self(0x10);

    pub(crate) const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(1, "FIN"), (2, "SYN"), (4, "RST"), (8, "PSH"), (16, "ACK")];
        let set = names.iter().filter(|(bit, _)| self.0 & bit != 0);
        f.debug_set().entries(set.map(|(_, name)| name)).finish()
    }
}

/// A report about a packet that went nowhere (RFC 792, RFC 4443). Its own source is who reports;
/// the ports of the packet that carries it are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IcmpError {
    pub(crate) kind: IcmpKind,
    /// Source and destination of the packet that it is about.
    pub(crate) about_source: SocketAddr,
    pub(crate) about_destination: SocketAddr,
    /// The protocol of that packet: [`UDP`] or [`TCP`].
    pub(crate) protocol: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "some are only ever received: nothing in a world sends them yet")]
pub(crate) enum IcmpKind {
    PortUnreachable,
    HostUnreachable,
    NetUnreachable,
    TooBig { mtu: u32 },
    TimeExceeded,
    AdminProhibited,
}

/// The protocol number of UDP in an IP header.
pub(crate) const UDP: u8 = 17;
/// The protocol number of TCP in an IP header.
pub(crate) const TCP: u8 = 6;

impl Packet {
    /// Bytes of the packet: its IP header, the header of what it carries, and the payload.
    pub(crate) fn wire_len(&self) -> usize {
        let ip = ip_header_len(self.destination.ip());
        ip + match &self.body {
            Body::Udp(payload) => 8 + payload.len(),
            // A SYN has an option for the segment size, and one for the scale of windows.
            Body::Tcp(segment) => {
                20 + 8 * usize::from(segment.mss.is_some()) + segment.payload.len()
            }
            // The header of ICMP, and of the packet that it is about the first 8 bytes.
            Body::Icmp(_) => 8 + ip + 8,
        }
    }
}

pub(crate) fn ip_header_len(address: IpAddr) -> usize {
    if address.is_ipv4() { 20 } else { 40 }
}
