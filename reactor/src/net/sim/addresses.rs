//! The addresses of a host, as a program gives them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::error::HostError;

/// Prefix lengths of addresses given without one: the usual sizes of a local network.
const PREFIX_V4: u8 = 24;
const PREFIX_V6: u8 = 64;

/// The addresses of a host, each with the length of its network's prefix.
///
/// Made from text such as `"10.0.0.1/16"`, or several of these with commas between them; from an
/// array or slice of such texts; or from an [`IpAddr`]. Without a length it is 24 for IPv4 and 64
/// for IPv6. The last address of a network of IPv4 (10.0.0.255 of 10.0.0.0/24) means all of its
/// hosts to those on it: where a host has such an address, give all of them a shorter prefix.
///
/// ```
/// use strand_reactor::sim::HostAddresses;
/// let one = HostAddresses::try_from("10.0.0.1/16, fd00::1")?;
/// assert_eq!(one, HostAddresses::try_from(["10.0.0.1/16", "fd00::1/64"])?);
/// assert!(HostAddresses::try_from("10.0.0.1/33").is_err());
/// let refused = HostAddresses::try_from("10.0.0.1/x").unwrap_err().to_string();
/// assert!(refused.contains("a number of bits"), "{refused}");
/// # Ok::<(), strand_reactor::sim::HostError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostAddresses {
    pub(super) list: Vec<(IpAddr, u8)>,
}

impl HostAddresses {
    fn add(&mut self, text: &str) -> Result<(), HostError> {
        for part in text.split(',') {
            let part = part.trim();
            let refused = |reason| HostError::Address { given: part.to_owned(), reason };
            let (ip, prefix) = match part.split_once('/') {
                Some((ip, prefix)) => (ip, Some(prefix)),
                None => (part, None),
            };
            let ip = IpAddr::from_str(ip)
                .map_err(|_| refused("write it as 10.0.0.1, 10.0.0.1/24 or fd00::1/64"))?;
            let most = if ip.is_ipv4() { 32 } else { 128 };
            let prefix = match prefix {
                Some(prefix) => {
                    let number: Result<u32, _> = prefix.parse();
                    let number = number
                        .map_err(|_| refused("the length of the prefix is a number of bits"))?;
                    u8::try_from(number)
                        .ok()
                        .filter(|bits| *bits <= most)
                        .ok_or_else(|| refused("the prefix is longer than the address"))?
                }
                None => usual_prefix(ip),
            };
            check(ip).map_err(refused)?;
            if self.list.iter().any(|(other, _)| *other == ip) {
                return Err(refused("it is among them already"));
            }
            self.list.push((ip, prefix));
        }
        Ok(())
    }
}

fn usual_prefix(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { PREFIX_V4 } else { PREFIX_V6 }
}

fn check(ip: IpAddr) -> Result<(), &'static str> {
    if ip.is_unspecified() || ip.is_multicast() || ip == Ipv4Addr::BROADCAST {
        Err("it names no single host")
    } else if ip.to_canonical() != ip {
        Err("write the IPv4 address itself")
    } else {
        Ok(())
    }
}

impl FromStr for HostAddresses {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        Self::try_from(text)
    }
}

impl TryFrom<&str> for HostAddresses {
    type Error = HostError;

    fn try_from(text: &str) -> Result<Self, HostError> {
        Self::try_from([text])
    }
}

impl TryFrom<&String> for HostAddresses {
    type Error = HostError;

    fn try_from(text: &String) -> Result<Self, HostError> {
        Self::try_from(text.as_str())
    }
}

impl TryFrom<String> for HostAddresses {
    type Error = HostError;

    fn try_from(text: String) -> Result<Self, HostError> {
        Self::try_from(text.as_str())
    }
}

impl TryFrom<&[&str]> for HostAddresses {
    type Error = HostError;

    fn try_from(texts: &[&str]) -> Result<Self, HostError> {
        let mut addresses = Self::default();
        texts.iter().try_for_each(|text| addresses.add(text))?;
        Ok(addresses)
    }
}

impl<const N: usize> TryFrom<[&str; N]> for HostAddresses {
    type Error = HostError;

    fn try_from(texts: [&str; N]) -> Result<Self, HostError> {
        Self::try_from(&texts[..])
    }
}

impl TryFrom<IpAddr> for HostAddresses {
    type Error = HostError;

    fn try_from(ip: IpAddr) -> Result<Self, HostError> {
        check(ip).map_err(|reason| HostError::Address { given: ip.to_string(), reason })?;
        Ok(Self { list: vec![(ip, usual_prefix(ip))] })
    }
}

impl TryFrom<Ipv4Addr> for HostAddresses {
    type Error = HostError;

    fn try_from(ip: Ipv4Addr) -> Result<Self, HostError> {
        Self::try_from(IpAddr::from(ip))
    }
}

impl TryFrom<Ipv6Addr> for HostAddresses {
    type Error = HostError;

    fn try_from(ip: Ipv6Addr) -> Result<Self, HostError> {
        Self::try_from(IpAddr::from(ip))
    }
}
