//! Packets as bytes: the headers of IP and of what it carries, with their checksums.
//!
//! Our own code, of the few headers that a simulated packet has: a crate that builds any packet
//! would be the second of the feature `sim`, for a hundred lines.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::net::sim::packet::{Body, Flags, IcmpError, IcmpKind, Packet, Segment, TCP, UDP};

const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
const DONT_FRAGMENT: u16 = 0x4000;
/// The scale that every SYN announces: simulated windows have 32 bits, those of the wire 16.
const WINDOW_SCALE: u8 = 7;
/// Bytes of the packet that a report is about, beyond its IP header.
const QUOTED: usize = 8;

/// Appends a packet, beginning with its IP header.
pub(super) fn append(packet: &Packet, out: &mut Vec<u8>) {
    let ends = Ends::of(packet.source.ip(), packet.destination.ip());
    let (source, destination) = (packet.source.port(), packet.destination.port());
    let (protocol, payload): (u8, &[u8]) = match (&packet.body, ends) {
        (Body::Udp(payload), _) => (UDP, payload),
        (Body::Tcp(segment), _) => (TCP, &segment.payload),
        (Body::Icmp(_), Ends::V4(..)) => (ICMP, &[]),
        (Body::Icmp(_), Ends::V6(..)) => (ICMP_V6, &[]),
    };
    ends.append(protocol, packet.wire_len() - ends.header_len(), packet.hop_limit, packet.tos, out);
    let start = out.len();
    match &packet.body {
        Body::Udp(_) => append_udp(source, destination, payload.len(), out),
        Body::Tcp(segment) => append_tcp(source, destination, segment, out),
        Body::Icmp(report) => append_icmp(report, ends, out),
    }
    let checksum_at = match (&packet.body, protocol) {
        (Body::Udp(_), _) => 6,
        (Body::Tcp(_), _) => 16,
        (Body::Icmp(_), _) => 2,
    };
    out.extend_from_slice(payload);
    let length = out.len() - start;
    let pseudo = if protocol == ICMP { 0 } else { ends.pseudo_header(protocol, length) };
    let sum = match checksum(pseudo, &out[start..]) {
        // Of UDP 0 says that there is no checksum (RFC 768).
        0 if protocol == UDP => 0xffff,
        sum => sum,
    };
    out[start + checksum_at..][..2].copy_from_slice(&sum.to_be_bytes());
}

/// The addresses of a packet, of one family.
#[derive(Clone, Copy)]
enum Ends {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

impl Ends {
    fn of(source: IpAddr, destination: IpAddr) -> Self {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Self::V4(source, destination),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Self::V6(source, destination),
            // No such packet can be made; what is shown of one is at least a packet.
            (IpAddr::V6(_), IpAddr::V4(destination)) => {
                Self::V4(Ipv4Addr::UNSPECIFIED, destination)
            }
            (IpAddr::V4(_), IpAddr::V6(destination)) => {
                Self::V6(Ipv6Addr::UNSPECIFIED, destination)
            }
        }
    }

    fn header_len(self) -> usize {
        match self {
            Self::V4(..) => 20,
            Self::V6(..) => 40,
        }
    }

    /// The header of a packet with so many bytes behind it (RFC 791, RFC 8200).
    fn append(self, protocol: u8, length: usize, hop_limit: u8, tos: u8, out: &mut Vec<u8>) {
        match self {
            Self::V4(source, destination) => {
                let start = out.len();
                out.extend([0x45, tos]);
                append_u16(20 + length, out);
                // It is not fragmented, and needs no identification (RFC 6864).
                append_u16(0, out);
                out.extend(DONT_FRAGMENT.to_be_bytes());
                out.extend([hop_limit, protocol, 0, 0]);
                out.extend(source.octets());
                out.extend(destination.octets());
                let sum = checksum(0, &out[start..]);
                out[start + 10..][..2].copy_from_slice(&sum.to_be_bytes());
            }
            Self::V6(source, destination) => {
                out.extend((6 << 28 | u32::from(tos) << 20).to_be_bytes());
                append_u16(length, out);
                out.extend([protocol, hop_limit]);
                out.extend(source.octets());
                out.extend(destination.octets());
            }
        }
    }

    /// The sum of the pseudo header that the checksums above IP begin with.
    fn pseudo_header(self, protocol: u8, length: usize) -> u64 {
        let addresses = match self {
            Self::V4(source, destination) => sum(&source.octets()) + sum(&destination.octets()),
            Self::V6(source, destination) => sum(&source.octets()) + sum(&destination.octets()),
        };
        addresses + u64::from(protocol) + length as u64
    }
}

/// RFC 768.
fn append_udp(source: u16, destination: u16, payload: usize, out: &mut Vec<u8>) {
    append_u16(source.into(), out);
    append_u16(destination.into(), out);
    append_u16(8 + payload, out);
    append_u16(0, out);
}

/// RFC 9293, section 3.1.
fn append_tcp(source: u16, destination: u16, segment: &Segment, out: &mut Vec<u8>) {
    append_u16(source.into(), out);
    append_u16(destination.into(), out);
    out.extend(segment.seq.to_be_bytes());
    out.extend(segment.ack.to_be_bytes());
    let words = if segment.mss.is_some() { 7 } else { 5 };
    out.extend([words << 4, segment.flags.0]);
    let window = segment.window as usize;
    // That of a SYN is not scaled (RFC 7323, section 2.2).
    let is_syn = segment.flags.contains(Flags::SYN);
    append_u16(if is_syn { window } else { window.div_ceil(1 << WINDOW_SCALE) }, out);
    out.extend([0; 4]);
    if let Some(mss) = segment.mss {
        out.extend([2, 4]);
        append_u16(mss.into(), out);
        out.extend([1, 3, 3, WINDOW_SCALE]);
    }
}

/// RFC 792, RFC 4443: with the beginning of the packet that it is about.
fn append_icmp(report: &IcmpError, ends: Ends, out: &mut Vec<u8>) {
    let (kind, code, mtu) = match ends {
        Ends::V4(..) => match report.kind {
            IcmpKind::NetUnreachable => (3, 0, 0),
            IcmpKind::HostUnreachable => (3, 1, 0),
            IcmpKind::PortUnreachable => (3, 3, 0),
            IcmpKind::TooBig { mtu } => (3, 4, mtu.min(0xffff)),
            IcmpKind::AdminProhibited => (3, 13, 0),
            IcmpKind::TimeExceeded => (11, 0, 0),
        },
        Ends::V6(..) => match report.kind {
            IcmpKind::NetUnreachable => (1, 0, 0),
            IcmpKind::AdminProhibited => (1, 1, 0),
            IcmpKind::HostUnreachable => (1, 3, 0),
            IcmpKind::PortUnreachable => (1, 4, 0),
            IcmpKind::TooBig { mtu } => (2, 0, mtu),
            IcmpKind::TimeExceeded => (3, 0, 0),
        },
    };
    out.extend([kind, code, 0, 0]);
    out.extend(mtu.to_be_bytes());
    let (source, destination): (SocketAddr, SocketAddr) =
        (report.about_source, report.about_destination);
    let about = Ends::of(source.ip(), destination.ip());
    about.append(report.protocol, QUOTED, 0, 0, out);
    append_u16(source.port().into(), out);
    append_u16(destination.port().into(), out);
    if report.protocol == UDP {
        append_u16(QUOTED, out);
        append_u16(0, out);
    } else {
        out.extend([0; 4]);
    }
}

/// What does not fit is cut to the most that does.
fn append_u16(value: usize, out: &mut Vec<u8>) {
    out.extend(u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes());
}

/// The checksum of the Internet (RFC 1071), continued from a sum.
fn checksum(begun: u64, bytes: &[u8]) -> u16 {
    let mut sum = begun + sum(bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn sum(bytes: &[u8]) -> u64 {
    let pairs = bytes.chunks(2);
    pairs.map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum()
}
