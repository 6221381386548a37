//! Control messages (cmsg(3)), without a pointer: the layout is the kernel's ABI.
//!
//! A message is a header (`usize` length that includes the header, `i32` level, `i32` type), its
//! data, and padding to the size of a `usize`.

use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const WORD: usize = size_of::<usize>();
/// Of the header; a multiple of `WORD` on systems of 32 and of 64 bits.
const HEADER: usize = WORD + 8;

/// What one control message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Bytes of each datagram but the last of a merged message.
    Segment(usize),
    /// Where a datagram was going.
    Destination {
        destination: IpAddr,
        /// `ipi_spec_dst`; IPv6 has no such thing.
        specific: Option<IpAddr>,
        interface: u32,
    },
    HopLimit(u8),
    /// The TOS byte or traffic class.
    Tos(u8),
    Time(SystemTime),
    Drops(u32),
    /// An entry of the error queue.
    Error(ExtendedError),
}

/// `sock_extended_err`, and the address behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExtendedError {
    pub(crate) errno: u32,
    /// `SO_EE_ORIGIN_*`.
    pub(crate) origin: u8,
    pub(crate) icmp_type: u8,
    pub(crate) icmp_code: u8,
    pub(crate) info: u32,
    pub(crate) offender: Option<IpAddr>,
}

/// The control messages that we know of. Whatever is cut short ends the list or is left out.
pub(crate) fn decode(mut control: &[u8]) -> impl Iterator<Item = Received> {
    std::iter::from_fn(move || {
        loop {
            let len = usize::from_ne_bytes(*control.first_chunk()?);
            let level = int(control.get(WORD..)?)?;
            let kind = int(control.get(WORD + 4..)?)?;
            let data = control.get(HEADER..len)?;
            control = control.get(len.next_multiple_of(WORD)..).unwrap_or_default();
            if let Some(received) = read(level, kind, data) {
                return Some(received);
            }
        }
    })
}

fn read(level: i32, kind: i32, data: &[u8]) -> Option<Received> {
    Some(match (level, kind) {
        (libc::SOL_UDP, libc::UDP_GRO) => Received::Segment(usize::try_from(int(data)?).ok()?),
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => Received::Destination {
            // in_pktinfo: ipi_ifindex, ipi_spec_dst, ipi_addr
            destination: v4(data.get(8..)?)?.into(),
            specific: Some(v4(data.get(4..)?)?.into()),
            interface: u32::from_ne_bytes(*data.first_chunk()?),
        },
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => Received::Destination {
            // in6_pktinfo: ipi6_addr, ipi6_ifindex
            destination: v6(data)?.into(),
            specific: None,
            interface: u32::from_ne_bytes(*data.get(16..)?.first_chunk()?),
        },
        (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
            Received::HopLimit(u8::try_from(int(data)?).ok()?)
        }
        // One byte for IPv4, an `int` for IPv6.
        (libc::IPPROTO_IP, libc::IP_TOS) => Received::Tos(*data.first()?),
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => Received::Tos(u8::try_from(int(data)?).ok()?),
        (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => Received::Time(time(data)?),
        (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
            Received::Drops(u32::from_ne_bytes(*data.first_chunk()?))
        }
        (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
            let [origin, icmp_type, icmp_code, _] = *data.get(4..)?.first_chunk()?;
            Received::Error(ExtendedError {
                errno: u32::from_ne_bytes(*data.first_chunk()?),
                origin,
                icmp_type,
                icmp_code,
                info: u32::from_ne_bytes(*data.get(8..)?.first_chunk()?),
                offender: data.get(16..).and_then(address),
            })
        }
        _ => return None,
    })
}

fn int(data: &[u8]) -> Option<i32> {
    data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
}

fn v4(data: &[u8]) -> Option<Ipv4Addr> {
    data.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
}

fn v6(data: &[u8]) -> Option<Ipv6Addr> {
    data.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets))
}

/// The IP address of a `sockaddr`; none if it is `AF_UNSPEC`.
fn address(data: &[u8]) -> Option<IpAddr> {
    match libc::c_int::from(u16::from_ne_bytes(*data.first_chunk()?)) {
        libc::AF_INET => Some(v4(data.get(4..)?)?.into()),
        libc::AF_INET6 => Some(v6(data.get(8..)?)?.into()),
        _ => None,
    }
}

/// A `timespec`, whose members are of 32 bits on old 32-bit systems.
fn time(data: &[u8]) -> Option<SystemTime> {
    let (seconds, nanoseconds) = match data.len() {
        8 => (i64::from(int(data)?), i64::from(int(&data[4..])?)),
        _ => {
            let long = |at| Some(i64::from_ne_bytes(*data.get(at..)?.first_chunk()?));
            (long(0)?, long(8)?)
        }
    };
    let nanoseconds = u32::try_from(nanoseconds).ok().filter(|n| *n < 1_000_000_000)?;
    UNIX_EPOCH.checked_add(Duration::new(u64::try_from(seconds).ok()?, nanoseconds))
}

/// Writes control messages.
pub(crate) struct Encoder<'b> {
    space: &'b mut [u8],
    used: usize,
}

impl<'b> Encoder<'b> {
    pub(crate) fn new(space: &'b mut [u8]) -> Self {
        Self { space, used: 0 }
    }

    /// Bytes written so far.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// Sends the message as datagrams of `bytes` each.
    pub(crate) fn segment(&mut self, bytes: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &bytes.to_ne_bytes());
    }

    /// Sends from this address (unless unspecified) and by this interface (unless 0).
    pub(crate) fn source_v4(&mut self, source: Ipv4Addr, interface: u32) {
        let mut info = [0; 12];
        info[..4].copy_from_slice(&interface.to_ne_bytes());
        info[4..8].copy_from_slice(&source.octets());
        self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
    }

    /// As [`source_v4`](Self::source_v4).
    pub(crate) fn source_v6(&mut self, source: Ipv6Addr, interface: u32) {
        let mut info = [0; 20];
        info[..16].copy_from_slice(&source.octets());
        info[16..].copy_from_slice(&interface.to_ne_bytes());
        self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
    }

    pub(crate) fn hop_limit(&mut self, v4: bool, hops: u8) {
        let (level, kind) = match v4 {
            true => (libc::IPPROTO_IP, libc::IP_TTL),
            false => (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT),
        };
        self.push(level, kind, &i32::from(hops).to_ne_bytes());
    }

    /// The TOS byte or traffic class.
    pub(crate) fn tos(&mut self, v4: bool, byte: u8) {
        let (level, kind) = match v4 {
            true => (libc::IPPROTO_IP, libc::IP_TOS),
            false => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        self.push(level, kind, &i32::from(byte).to_ne_bytes());
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let len = HEADER + data.len();
        let space = &mut self.space[self.used..][..len.next_multiple_of(WORD)];
        space[..WORD].copy_from_slice(&len.to_ne_bytes());
        space[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        space[WORD + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        space[HEADER..len].copy_from_slice(data);
        space[len..].fill(0);
        self.used += space.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_that_of_the_c_macros() {
        let mut space = [0xff; 128];
        let mut encoder = Encoder::new(&mut space);
        encoder.segment(1200);
        encoder.source_v4(Ipv4Addr::new(127, 0, 0, 2), 7);
        let used = encoder.len();
        // SAFETY: these two only calculate.
        unsafe {
            assert_eq!(used, (libc::CMSG_SPACE(2) + libc::CMSG_SPACE(12)) as usize);
            assert_eq!(
                usize::from_ne_bytes(*space.first_chunk().unwrap()),
                libc::CMSG_LEN(2) as usize
            );
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let mut space = [0; 256];
        let mut encoder = Encoder::new(&mut space);
        encoder.source_v4(Ipv4Addr::new(127, 0, 0, 2), 7);
        encoder.segment(9);
        encoder.source_v6(Ipv6Addr::LOCALHOST, 3);
        encoder.hop_limit(true, 255);
        encoder.hop_limit(false, 1);
        encoder.tos(true, 0xff);
        encoder.tos(false, 2);
        let used = encoder.len();
        let specific = Some(Ipv4Addr::new(127, 0, 0, 2).into());
        let all: Vec<_> = decode(&space[..used]).collect();
        assert_eq!(
            all,
            [
                Received::Destination {
                    destination: Ipv4Addr::UNSPECIFIED.into(),
                    specific,
                    interface: 7
                },
                Received::Destination {
                    destination: Ipv6Addr::LOCALHOST.into(),
                    specific: None,
                    interface: 3
                },
                Received::HopLimit(255),
                Received::HopLimit(1),
                Received::Tos(0xff),
                Received::Tos(2),
            ]
        );
    }

    #[test]
    fn every_control_message_at_once_fits_the_space_of_a_send() {
        let mut space = [0; 128];
        let mut encoder = Encoder::new(&mut space);
        encoder.source_v6(Ipv6Addr::LOCALHOST, 3);
        encoder.hop_limit(false, 1);
        encoder.tos(false, 2);
        encoder.segment(1);
        assert!(encoder.len() <= 128);
    }

    #[test]
    fn nonsense_ends_the_list() {
        let mut space = [0; 64];
        let mut encoder = Encoder::new(&mut space);
        encoder.tos(true, 1);
        encoder.tos(true, 2);
        let used = encoder.len();
        // The padding of the last one may be missing.
        for cut in 0..used - WORD + 4 {
            assert!(decode(&space[..cut]).count() <= 1, "{cut}");
        }
        for len in [0, 1, HEADER - 1, HEADER, usize::MAX, usize::MAX - WORD] {
            space[..WORD].copy_from_slice(&len.to_ne_bytes());
            assert!(decode(&space[..used]).count() <= 1, "{len}");
        }
    }
}
