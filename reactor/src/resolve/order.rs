//! The order in which to try addresses: RFC 6724 section 6.
//!
//! The rules that need more than the source address (deprecated, home and tunnelled addresses)
//! are left out: no portable call tells. Rule 9, the longest matching prefix, is for IPv6 alone;
//! with IPv4 it would undo the balancing of load by servers that rotate their answers.

use std::cmp::Reverse;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use crate::datagram::{Family, Metadata};
use crate::inner::Inner;
use crate::net::{DatagramSocket, DatagramSpec, OpenError};
use crate::slots::Kind;

/// Addresses that are put in order; each costs a socket for a moment. The rest keeps its place
/// behind them.
const MOST: usize = 64;
/// Any will do: nothing is sent.
const PORT: u16 = 53;

/// Puts the best address first.
pub(super) fn sort(inner: &Inner, addresses: &mut [SocketAddr]) {
    let most = addresses.len().min(MOST);
    if most > 1 {
        addresses[..most].sort_by_cached_key(|&address| rank(address, source(inner, address)));
    }
}

/// The address that the system would send from.
fn source(inner: &Inner, mut destination: SocketAddr) -> Option<IpAddr> {
    destination.set_port(PORT);
    // The token of nobody: its events, if any, are stale.
    let token = inner.core.borrow().ports.next_key().token(Kind::Datagram);
    let socket = connected_udp(inner, None, destination, token).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// A UDP socket with a peer.
pub(super) fn connected_udp(
    inner: &Inner,
    bind: Option<SocketAddr>,
    peer: SocketAddr,
    token: usize,
) -> io::Result<Rc<dyn DatagramSocket>> {
    let spec = DatagramSpec {
        family: if peer.is_ipv4() { Family::V4 } else { Family::V6Only },
        bind,
        reuse_address: false,
        reuse_port: false,
        multicast: false,
        device: None,
        metadata: Metadata::NONE,
        options: Vec::new(),
    };
    let socket =
        inner.driver.borrow_mut().open_datagram(&spec, token).map_err(|error| match error {
            OpenError::Socket(error) | OpenError::Option(_, error) | OpenError::Bind(error) => {
                error
            }
        })?;
    socket.connect(peer)?;
    Ok(socket)
}

/// Less is better. A tuple, so that this is a total order whatever the addresses are.
type Rank = (bool, bool, bool, Reverse<u8>, u8, Reverse<u32>);

fn rank(destination: SocketAddr, source: Option<IpAddr>) -> Rank {
    let to = destination.ip();
    let unusable = source.is_none();
    // Without a source the rest only has to be something.
    let from = source.unwrap_or(to);
    let ((precedence, label), (_, source_label)) = (policy(to), policy(from));
    let prefix = match (to, from) {
        (IpAddr::V6(to), IpAddr::V6(from)) => common_prefix(to, from),
        _ => 0,
    };
    (
        unusable,
        scope(to) != scope(from),
        label != source_label,
        Reverse(precedence),
        scope(to),
        Reverse(prefix),
    )
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// Precedence and label: the default policy table, section 2.1.
fn policy(address: IpAddr) -> (u8, u8) {
    const TABLE: [(Ipv6Addr, u32, u8, u8); 9] = [
        (Ipv6Addr::LOCALHOST, 128, 50, 0),
        (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, 35, 4),
        (Ipv6Addr::UNSPECIFIED, 96, 1, 3),
        (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, 5, 5),
        (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, 30, 2),
        (Ipv6Addr::new(0x3ffe, 0, 0, 0, 0, 0, 0, 0), 16, 1, 12),
        (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, 1, 11),
        (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, 3, 13),
        (Ipv6Addr::UNSPECIFIED, 0, 40, 1),
    ];
    let address = mapped(address);
    // Longest first, so the first that matches is the longest.
    let row = TABLE.iter().find(|(prefix, len, ..)| leading(address, *prefix) >= *len);
    row.map_or((40, 1), |&(_, _, precedence, label)| (precedence, label))
}

/// Leading bits that two addresses have in common.
fn leading(one: Ipv6Addr, other: Ipv6Addr) -> u32 {
    (one.to_bits() ^ other.to_bits()).leading_zeros()
}

/// As `CommonPrefixLen` of section 2.2: the part of an address that names the interface is none
/// of the prefix.
fn common_prefix(destination: Ipv6Addr, source: Ipv6Addr) -> u32 {
    leading(destination, source).min(64)
}

/// Section 3.1, with the numbers of multicast scopes.
fn scope(address: IpAddr) -> u8 {
    const LINK: u8 = 2;
    const SITE: u8 = 5;
    const GLOBAL: u8 = 14;
    match address {
        // Section 3.2: private addresses are global ones.
        IpAddr::V4(address) if address.is_loopback() || address.is_link_local() => LINK,
        IpAddr::V4(_) => GLOBAL,
        IpAddr::V6(address) if address.is_multicast() => address.octets()[1] & 0xf,
        IpAddr::V6(address) if address.is_loopback() || address.is_unicast_link_local() => LINK,
        IpAddr::V6(address) if address.segments()[0] & 0xffc0 == 0xfec0 => SITE,
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => scope(address.into()),
            None => GLOBAL,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of section 10.2, with the source address that each destination would get;
    /// the best destination comes first.
    #[test]
    fn destinations_are_ordered_as_in_the_examples_of_the_rfc() {
        for (number, expected) in [
            // Prefer matching scope.
            vec![("2001:db8:1::1", "2001:db8:1::2"), ("198.51.100.121", "169.254.13.78")],
            vec![("198.51.100.121", "198.51.100.117"), ("2001:db8:1::1", "fe80::1")],
            // Prefer higher precedence.
            vec![("2001:db8:1::1", "2001:db8:1::2"), ("10.1.2.3", "10.1.2.4")],
            // Prefer smaller scope.
            vec![("fe80::1", "fe80::2"), ("2001:db8:1::1", "2001:db8:1::2")],
            // Prefer matching label, then higher precedence.
            vec![
                ("2002:c633:6401::1", "2002:c633:6401::2"),
                ("2001:db8:1::1", "2002:c633:6401::2"),
            ],
            vec![("2001:db8:1::1", "2001:db8:1::2"), ("2002:c633:6401::1", "2002:c633:6401::2")],
            // Avoid what cannot be reached, whatever its precedence.
            vec![("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "")],
            // The longest matching prefix, of IPv6 alone.
            vec![("2001:db8:2::1", "2001:db8:2::9"), ("2001:db8:ff::1", "2001:db8:2::9")],
            // Loopback first.
            vec![("::1", "::1"), ("127.0.0.1", "127.0.0.1")],
            // Unique local addresses come after IPv4 unless nothing else is at hand.
            vec![("192.0.2.1", "192.0.2.2"), ("fd00::1", "fd00::2")],
        ]
        .into_iter()
        .enumerate()
        {
            let rank_of = |(to, from): &(&str, &str)| {
                rank((to.parse::<IpAddr>().unwrap(), 0).into(), from.parse().ok())
            };
            let mut shuffled = expected.clone();
            shuffled.reverse();
            shuffled.sort_by_key(rank_of);
            assert_eq!(shuffled, expected, "example {number}");
        }
    }

    #[test]
    fn equals_keep_the_order_of_the_answer() {
        let mut list = ["192.0.2.9", "192.0.2.1", "192.0.2.5"];
        list.sort_by_key(|to| {
            rank((to.parse::<IpAddr>().unwrap(), 0).into(), "192.0.2.7".parse().ok())
        });
        assert_eq!(list, ["192.0.2.9", "192.0.2.1", "192.0.2.5"]);
    }

    #[test]
    fn the_policy_table_is_that_of_the_rfc() {
        for (address, precedence, label) in [
            ("::1", 50, 0),
            ("2001:db8::1", 40, 1),
            ("192.0.2.1", 35, 4),
            ("::ffff:192.0.2.1", 35, 4),
            ("2002::1", 30, 2),
            ("2001::1", 5, 5),
            ("fd00::1", 3, 13),
            ("::2", 1, 3),
            ("fec0::1", 1, 11),
            ("3ffe::1", 1, 12),
        ] {
            assert_eq!(policy(address.parse().unwrap()), (precedence, label), "{address}");
        }
    }
}
