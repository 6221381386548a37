//! What a name says by itself: an address, this host, or nothing that could be looked up.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::sys;

/// Bytes of a name without the final dot (RFC 1035 section 3.1, as text).
const NAME_LEN: usize = 253;
/// Bytes of a label.
const LABEL_LEN: usize = 63;

#[derive(Debug, PartialEq)]
pub(super) enum Literal {
    /// These are its addresses.
    Addresses(Vec<SocketAddr>),
    /// To be looked up.
    Name,
    Invalid(&'static str),
}

/// The name with full stops in place of the other dots that IDNA has (RFC 3490 section 3.1): what
/// is between two of any kind is a label.
pub(super) fn with_full_stops(name: &str) -> Cow<'_, str> {
    const DOTS: [char; 3] = ['\u{3002}', '\u{ff0e}', '\u{ff61}'];
    if name.contains(DOTS) { name.replace(DOTS, ".").into() } else { name.into() }
}

/// Reads a name that has no dots but full stops. Addresses have port 0.
pub(super) fn read(name: &str) -> Literal {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Literal::Addresses(vec![(address, 0).into()]);
    }
    if let Some((address, zone)) = name.split_once('%')
        && let Ok(address) = address.parse::<Ipv6Addr>()
    {
        return scoped(address, zone);
    }
    if let Err(reason) = check(name) {
        return Literal::Invalid(reason);
    }
    if is_localhost(name) {
        let loopback = [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)];
        return Literal::Addresses(loopback.map(|address| (address, 0).into()).to_vec());
    }
    Literal::Name
}

/// An address with a zone (RFC 4007 section 11): the name or the index of an interface.
fn scoped(address: Ipv6Addr, zone: &str) -> Literal {
    let index = match zone.parse::<u32>() {
        Ok(index) => Some(index),
        Err(_) => sys::interface_index(zone),
    };
    match index {
        Some(0) | None => Literal::Invalid("no interface is called what its zone says"),
        Some(index) => Literal::Addresses(vec![SocketAddrV6::new(address, 0, 0, index).into()]),
    }
}

/// `localhost` and all below it (RFC 6761 section 6.3): never asked of anybody.
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or(name);
    last.eq_ignore_ascii_case("localhost")
}

/// Whether a name could be one, by length and by what it is made of. What lies outside ASCII is
/// left to the resolver.
fn check(name: &str) -> Result<(), &'static str> {
    let relative = name.strip_suffix('.').unwrap_or(name);
    if relative.is_empty() {
        return Err("it is empty");
    }
    if relative.len() > NAME_LEN {
        return Err("it is longer than 253 bytes");
    }
    for label in relative.split('.') {
        if label.is_empty() {
            return Err("one of its labels is empty");
        }
        if label.len() > LABEL_LEN {
            return Err("one of its labels is longer than 63 bytes");
        }
    }
    for char in relative.chars().filter(char::is_ascii) {
        match char {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => {}
            '\0' => return Err("it has a zero byte in it"),
            ':' => return Err("it has a colon in it: leave the port out"),
            '[' | ']' => return Err("it has a bracket in it: write an IPv6 address without"),
            '/' => return Err("it has a slash in it: leave all but the host's name out"),
            _ => return Err("names are made of letters, digits, hyphens and underscores"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn addresses(name: &str) -> Vec<String> {
        match read(name) {
            Literal::Addresses(list) => list.iter().map(ToString::to_string).collect(),
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn literals_are_their_own_answer() {
        assert_eq!(addresses("192.0.2.1"), ["192.0.2.1:0"]);
        assert_eq!(addresses("::1"), ["[::1]:0"]);
        assert_eq!(addresses("fe80::1%7"), ["[fe80::1%7]:0"]);
        assert_eq!(addresses("::ffff:192.0.2.1"), ["[::ffff:192.0.2.1]:0"]);
    }

    #[test]
    fn a_zone_is_the_name_of_an_interface_or_its_index() {
        let index = sys::interface_index("lo").unwrap();
        assert_eq!(addresses("fe80::1%lo"), [format!("[fe80::1%{index}]:0")]);
        for zone in
            ["fe80::1%", "fe80::1%0", "fe80::1%nosuch0", "fe80::1%99999999999", "fe80::1%\0"]
        {
            assert!(matches!(read(zone), Literal::Invalid(_)), "{zone}");
        }
    }

    #[test]
    fn localhost_is_this_host() {
        for name in ["localhost", "LocalHost.", "db.localhost", "a.b.LOCALHOST"] {
            assert_eq!(addresses(name), ["[::1]:0", "127.0.0.1:0"], "{name}");
        }
        assert_eq!(read("localhost.example"), Literal::Name);
        assert_eq!(read("notlocalhost"), Literal::Name);
    }

    #[test]
    fn names_that_no_host_can_have() {
        let label = "a".repeat(64);
        let long = format!("{}a", "a.".repeat(127));
        for (name, part) in [
            ("", "empty"),
            (".", "empty"),
            ("..", "empty"),
            (".a", "empty"),
            ("a..b", "empty"),
            (&label, "63"),
            (&long, "253"),
            ("a\0b", "zero"),
            ("host:80", "colon"),
            ("[::1]", "bracket"),
            ("[v]", "bracket"),
            ("http//x", "slash"),
            ("a b", "letters"),
            ("a\\b", "letters"),
            ("1.2.3.4%lo", "letters"),
        ] {
            match read(name) {
                Literal::Invalid(reason) => assert!(reason.contains(part), "{name:?}: {reason}"),
                other => panic!("{name:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn names_at_the_limits_are_names() {
        let label = "a".repeat(63);
        let name = [label.as_str(), &label, &label, &"a".repeat(61)].join(".");
        assert_eq!(name.len(), 253);
        for name in [&name, &format!("{name}."), "xn--", "xn--80ak6aa92e.com", "_x._udp.a", "é.fr"]
        {
            assert_eq!(read(name), Literal::Name, "{name}");
        }
    }
}
