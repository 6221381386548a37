//! Addresses as text.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6};

use crate::error::AddressError;
use crate::resolve::check_name;
use crate::sys;

/// Reads an address with a port: `"127.0.0.1:9999"`, `"[::1]:9999"`, `"[fe80::1%eth0]:9999"`
/// (a zone by name or number), or `"<broadcast>:9999"` for 255.255.255.255.
///
/// Nothing is looked up but the name of an interface.
///
/// ```
/// use strand_reactor::parse_address;
/// assert_eq!(parse_address("[::1]:53")?.port(), 53);
/// assert_eq!(parse_address("<broadcast>:9")?.to_string(), "255.255.255.255:9");
/// assert!(parse_address("[fe80::1%no-such-zone]:53").is_err());
/// # Ok::<(), strand_reactor::AddressError>(())
/// ```
///
/// # Errors
/// Text of another form, a port over 65,535, an unknown zone, and host names, which
/// `resolve` is for.
pub fn parse_address(text: &str) -> Result<SocketAddr, AddressError> {
    let fail = |reason| AddressError { text: text.to_owned(), reason };
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Some(port) = text.strip_prefix("<broadcast>:") {
        let port = parse_port(port).ok_or_else(|| fail(BAD_PORT))?;
        return Ok(SocketAddr::new(Ipv4Addr::BROADCAST.into(), port));
    }
    if let Some((inside, port)) = text.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        let port = parse_port(port).ok_or_else(|| fail(BAD_PORT))?;
        let (ip, zone) = inside.split_once('%').unwrap_or((inside, ""));
        let ip = ip.parse().map_err(|_| fail("the text in brackets is no IPv6 address"))?;
        let scope = match zone {
            "" if inside.contains('%') => return Err(fail("the zone after % is empty")),
            "" => 0,
            zone => match zone.parse() {
                Ok(index) => index,
                Err(_) => sys::interface_index(zone)
                    .ok_or_else(|| fail("no interface has the name after %"))?,
            },
        };
        return Ok(SocketAddrV6::new(ip, port, 0, scope).into());
    }
    Err(fail(match text.rsplit_once(':') {
        None if parse_port(text).is_some() => "the address is missing: write 0.0.0.0:PORT",
        None => "a port is missing: write ADDRESS:PORT",
        Some(("*" | "", _)) => "write 0.0.0.0:PORT or [::]:PORT for every address of this host",
        _ if text.contains("://") => "leave out the scheme: write ADDRESS:PORT",
        Some((host, _)) if host.contains(':') => {
            "write an IPv6 address in brackets: [ADDRESS]:PORT"
        }
        Some((_, port)) if parse_port(port).is_none() => BAD_PORT,
        Some((host, _)) if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') => {
            "the part before the port is no IPv4 address"
        }
        Some(_) => "names are not looked up here: use `resolve` and listen or write to its answer",
    }))
}

/// Reads the name of a host with a port, `"example.com:80"`; an address otherwise.
pub(crate) fn parse_host(text: &str) -> Result<Host<'_>, AddressError> {
    let error = match parse_address(text) {
        Ok(address) => return Ok(Host::Address(address)),
        Err(error) => error,
    };
    let Some((name, Some(port))) =
        text.rsplit_once(':').map(|(name, port)| (name, parse_port(port)))
    else {
        return Err(error);
    };
    let looks_like_an_address = name.contains([':', '[', '%', '<'])
        || matches!(name, "" | "*")
        || name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if looks_like_an_address {
        return Err(error);
    }
    match check_name(name) {
        Ok(()) => Ok(Host::Name(name, port)),
        Err(reason) => Err(AddressError { text: text.to_owned(), reason }),
    }
}

/// What [`parse_host`] reads.
#[derive(Debug, PartialEq)]
pub(crate) enum Host<'a> {
    Address(SocketAddr),
    Name(&'a str, u16),
}

const BAD_PORT: &str = "the port is not a number from 0 to 65535";

fn parse_port(text: &str) -> Option<u16> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotted_quads_are_read_strictly() {
        assert!(parse_address("255.255.255.255:1").is_ok());
        for bad in ["255.255.255*000:1", "255.255.255.256:1", "2555.0.0.0:1", "255:1", "1.2.3.4"] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ipv6_literals_are_read_strictly_with_and_without_a_zone() {
        let full = "fedc:ba98:7654:3210:fedc:ba98:7654:3210";
        for good in ["::", "::1", "fe80::1", full, "::ffff:1.2.3.4"] {
            assert!(parse_address(&format!("[{good}]:9")).is_ok(), "{good}");
            let scoped = parse_address(&format!("[{good}%1]:9")).unwrap();
            assert!(matches!(scoped, SocketAddr::V6(v6) if v6.scope_id() == 1), "{good}");
        }
        let nine = "1:2:3:4:5:6:7:8:9";
        for bad in [":::1", "abcde::1", nine, "fedc:ba98:7654:3210:fedc:ba98:7654:3210:1.2.3.4"] {
            assert!(parse_address(&format!("[{bad}]:9")).is_err(), "{bad}");
            assert!(parse_address(&format!("[{bad}%1]:9")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_zone_may_be_a_name_and_an_unknown_one_is_an_error() {
        let loopback = if cfg!(target_os = "linux") { "lo" } else { "lo0" };
        let address = parse_address(&format!("[fe80::1%{loopback}]:9")).unwrap();
        assert!(matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0));
        for bad in ["[fe80::1%nosuchzone]:9", "[fe80::1%]:9"] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_addresses_or_names_with_a_port() {
        assert_eq!(parse_host("example.com:80").unwrap(), Host::Name("example.com", 80));
        assert_eq!(parse_host("localhost:0").unwrap(), Host::Name("localhost", 0));
        for literal in ["127.0.0.1:9", "[::1]:9"] {
            assert_eq!(parse_host(literal).unwrap(), Host::Address(literal.parse().unwrap()));
        }
        for bad in ["1.2.3:9", "::1:9", "example.com", "a b:9", ":9", "*:9", "a..b:9", "a:70000"] {
            assert!(parse_host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_error_names_the_text_and_the_remedy() {
        for (text, hint) in [
            ("localhost:9", "resolve"),
            ("127.0.0.1", "port"),
            ("9999", "0.0.0.0:PORT"),
            ("*:9999", "0.0.0.0:PORT"),
            ("127.0.0.1:70000", "65535"),
            ("127.0.0.1:+9", "65535"),
            ("::1:9", "brackets"),
            ("udp://192.0.2.1:9", "scheme"),
            ("http://example.com", "scheme"),
            ("1.2.3:9", "IPv4"),
        ] {
            let error = parse_address(text).unwrap_err().to_string();
            assert!(error.contains(hint) && error.contains(text), "{error}");
        }
    }
}
