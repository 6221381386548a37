//! Naming the interface of a multicast call.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::MulticastError;
use crate::interfaces::NetworkInterface;

/// The interface that a multicast call is about.
///
/// Numbers, names and addresses convert into it, and text: `default`, `all`, a number, an address,
/// or else a name.
///
/// ```
/// use strand_reactor::Interface;
/// assert_eq!(Interface::from("eth0"), Interface::Name("eth0".to_owned()));
/// assert_eq!(Interface::from("2"), Interface::Index(2));
/// assert_eq!(Interface::from("all"), Interface::All);
/// assert_eq!(Interface::from("192.0.2.1").to_string(), "192.0.2.1");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Interface {
    /// The one that the system's routes choose.
    #[default]
    Default,
    /// The one of this index; 0 is [`Default`](Self::Default).
    Index(u32),
    /// The one of this name.
    Name(String),
    /// The one that has this address. A link-local address that several have is an error.
    Addr(IpAddr),
    /// Every one that is up and carries multicast, when the call is made.
    All,
}

impl From<u32> for Interface {
    fn from(index: u32) -> Self {
        Self::Index(index)
    }
}

impl From<&NetworkInterface> for Interface {
    fn from(interface: &NetworkInterface) -> Self {
        Self::Index(interface.index())
    }
}

impl From<IpAddr> for Interface {
    fn from(address: IpAddr) -> Self {
        Self::Addr(address)
    }
}

impl From<Ipv4Addr> for Interface {
    fn from(address: Ipv4Addr) -> Self {
        Self::Addr(address.into())
    }
}

impl From<Ipv6Addr> for Interface {
    fn from(address: Ipv6Addr) -> Self {
        Self::Addr(address.into())
    }
}

impl From<&str> for Interface {
    fn from(text: &str) -> Self {
        match text {
            "default" => Self::Default,
            "all" => Self::All,
            text => {
                let index = text.parse().map(Self::Index).ok();
                let address = || text.parse().map(Self::Addr).ok();
                index.or_else(address).unwrap_or_else(|| Self::Name(text.to_owned()))
            }
        }
    }
}

impl From<String> for Interface {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Index(index) => index.fmt(f),
            Self::Name(name) => f.write_str(name),
            Self::Addr(address) => address.fmt(f),
            Self::All => f.write_str("all"),
        }
    }
}

/// What an [`Interface`] means at the moment of a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    Default,
    /// By index.
    At(u32),
    /// By indices.
    All(Vec<u32>),
}

impl Interface {
    pub(super) fn resolve(&self, present: &[NetworkInterface]) -> Result<Place, MulticastError> {
        let unknown = || MulticastError::UnknownInterface { interface: self.clone() };
        let found = match self {
            Self::Default | Self::Index(0) => return Ok(Place::Default),
            Self::All => {
                let fit = present.iter().filter(|one| one.is_up() && one.is_multicast());
                return Ok(Place::All(fit.map(NetworkInterface::index).collect()));
            }
            Self::Addr(address) if address.is_unspecified() => return Ok(Place::Default),
            Self::Addr(address) => {
                let mut owners = present.iter().filter(|one| one.has_address(*address));
                let found = owners.next();
                if owners.next().is_some() {
                    return Err(MulticastError::AmbiguousAddress { address: *address });
                }
                found.ok_or(MulticastError::NotOurAddress { address: *address })?
            }
            Self::Index(index) => {
                present.iter().find(|one| one.index() == *index).ok_or_else(unknown)?
            }
            Self::Name(name) => {
                present.iter().find(|one| one.name() == name).ok_or_else(unknown)?
            }
        };
        Ok(Place::At(found.index()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interfaces::InterfaceAddress;

    fn present() -> Vec<NetworkInterface> {
        let up = (libc::IFF_UP | libc::IFF_MULTICAST) as u32;
        let with = |index, name: &str, flags, addresses: &[&str]| NetworkInterface {
            index,
            name: name.to_owned(),
            flags,
            addresses: addresses
                .iter()
                .map(|ip| InterfaceAddress {
                    ip: ip.parse().unwrap(),
                    prefix_len: 24,
                    broadcast: None,
                })
                .collect(),
        };
        vec![
            with(1, "lo", libc::IFF_UP as u32, &["127.0.0.1"]),
            with(2, "eth0", up, &["192.0.2.1", "fe80::1"]),
            with(3, "eth1", up, &["198.51.100.1", "fe80::1"]),
            with(4, "eth2", libc::IFF_MULTICAST as u32, &[]),
        ]
    }

    #[test]
    fn an_interface_is_found_by_index_name_and_address() {
        for text in ["3", "eth1", "198.51.100.1", "::ffff:198.51.100.1"] {
            assert_eq!(Interface::from(text).resolve(&present()).unwrap(), Place::At(3), "{text}");
        }
        for text in ["default", "0", "0.0.0.0", "::"] {
            assert_eq!(
                Interface::from(text).resolve(&present()).unwrap(),
                Place::Default,
                "{text}"
            );
        }
    }

    #[test]
    fn all_is_every_one_that_is_up_and_carries_multicast() {
        assert_eq!(Interface::All.resolve(&present()).unwrap(), Place::All(vec![2, 3]));
    }

    #[test]
    fn what_is_not_there_or_not_one_is_an_error() {
        for (text, part) in [
            ("9", "no interface 9"),
            ("eth9", "no interface eth9"),
            ("203.0.113.1", "203.0.113.1"),
            ("fe80::1", "several"),
        ] {
            let error = Interface::from(text).resolve(&present()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
