//! The network interfaces of the host.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Handle;
use crate::sys;

impl Handle {
    /// The network interfaces of the host in the order of their indices, whether up or not
    /// (getifaddrs(3)). The list is a snapshot: ask again when it may have changed.
    ///
    /// ```
    /// let reactor = strand_reactor::Reactor::new()?;
    /// let interfaces = reactor.interfaces()?;
    /// assert!(interfaces.iter().any(|interface| interface.is_loopback()));
    /// for interface in &interfaces {
    ///     println!("{}: {}", interface.index(), interface.name());
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// What the system says; `Unsupported` on a network without interfaces; `NotConnected` when
    /// the reactor is gone.
    pub fn interfaces(&self) -> io::Result<Vec<NetworkInterface>> {
        match self.upgrade() {
            Some(inner) => inner.driver.borrow().interfaces(),
            None => Err(io::Error::new(io::ErrorKind::NotConnected, crate::Closed)),
        }
    }
}

/// A network interface of the host, as [`Handle::interfaces`] found it.
///
/// ```
/// let interfaces = strand_reactor::Reactor::new()?.interfaces()?;
/// let loopback = interfaces.iter().find(|interface| interface.is_loopback()).unwrap();
/// assert!(loopback.has_address("127.0.0.1".parse().unwrap()));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkInterface {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) flags: u32,
    pub(crate) addresses: Vec<InterfaceAddress>,
}

/// An address of a network interface.
///
/// ```
/// let interfaces = strand_reactor::Reactor::new()?.interfaces()?;
/// let addresses = interfaces.iter().flat_map(|interface| interface.addresses());
/// for address in addresses.filter(|address| address.broadcast().is_some()) {
///     assert!(address.ip().is_ipv4() && address.prefix_len() <= 32);
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    pub(crate) ip: IpAddr,
    pub(crate) prefix_len: u8,
    pub(crate) broadcast: Option<Ipv4Addr>,
}

impl NetworkInterface {
    /// The number by which the system knows it, never 0; it changes when the interface is removed
    /// and made again.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its name, such as `eth0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 and IPv6 addresses, in the system's order; empty for an interface without any.
    pub fn addresses(&self) -> &[InterfaceAddress] {
        &self.addresses
    }

    /// Whether it is switched on (`IFF_UP`); a cable need not be in it.
    pub fn is_up(&self) -> bool {
        self.has(libc::IFF_UP)
    }

    /// Whether it leads back to this host (`IFF_LOOPBACK`).
    pub fn is_loopback(&self) -> bool {
        self.has(libc::IFF_LOOPBACK)
    }

    /// Whether it carries multicast (`IFF_MULTICAST`). Loopback says no on Linux, and yet delivers
    /// IPv4 groups to those who join on it by name.
    pub fn is_multicast(&self) -> bool {
        self.has(libc::IFF_MULTICAST)
    }

    /// Whether it carries broadcasts (`IFF_BROADCAST`).
    pub fn is_broadcast(&self) -> bool {
        self.has(libc::IFF_BROADCAST)
    }

    /// Whether `ip` is one of its addresses; an IPv4 address may be written as mapped to IPv6.
    pub fn has_address(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.addresses.iter().any(|address| address.ip == ip)
    }

    fn has(&self, flag: libc::c_int) -> bool {
        self.flags & flag as u32 != 0
    }

    /// The system's list.
    pub(crate) fn list() -> io::Result<Vec<Self>> {
        Ok(collect(sys::interface_entries()?))
    }
}

impl InterfaceAddress {
    /// The address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Bits of the address that name its network: 0 to 32 or 128.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// The address that reaches all hosts of its network, where there is one (IPv4 alone).
    pub fn broadcast(&self) -> Option<Ipv4Addr> {
        self.broadcast
    }
}

/// The system tells one address per entry, and the entries of an interface in any order.
fn collect(entries: Vec<sys::InterfaceEntry>) -> Vec<NetworkInterface> {
    let mut interfaces: Vec<NetworkInterface> = Vec::new();
    for entry in entries {
        let at = match interfaces.binary_search_by_key(&entry.index, |known| known.index) {
            Ok(at) => at,
            Err(at) => {
                let (index, flags) = (entry.index, entry.flags);
                let name = entry.name;
                let addresses = Vec::new();
                interfaces.insert(at, NetworkInterface { index, name, flags, addresses });
                at
            }
        };
        if let Some(ip) = entry.address {
            let prefix_len = entry.netmask.map_or(0, prefix_len);
            let address = InterfaceAddress { ip, prefix_len, broadcast: entry.broadcast };
            interfaces[at].addresses.push(address);
        }
    }
    interfaces
}

fn prefix_len(netmask: IpAddr) -> u8 {
    let ones = match netmask {
        IpAddr::V4(v4) => v4.to_bits().leading_ones(),
        IpAddr::V6(v6) => Ipv6Addr::to_bits(v6).leading_ones(),
    };
    ones as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u32, name: &str, ip: Option<(&str, &str)>) -> sys::InterfaceEntry {
        sys::InterfaceEntry {
            index,
            name: name.to_owned(),
            flags: 0,
            address: ip.map(|(ip, _)| ip.parse().unwrap()),
            netmask: ip.map(|(_, mask)| mask.parse().unwrap()),
            broadcast: None,
        }
    }

    #[test]
    fn entries_of_an_interface_are_gathered_in_any_order() {
        let interfaces = collect(vec![
            entry(7, "eth0", None),
            entry(1, "lo", Some(("127.0.0.1", "255.0.0.0"))),
            entry(7, "eth0", Some(("192.0.2.1", "255.255.255.128"))),
            entry(1, "lo", Some(("::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))),
            entry(3, "tun0", None),
        ]);
        let summary: Vec<_> = interfaces
            .iter()
            .map(|one| {
                let lens: Vec<_> = one.addresses().iter().map(|one| one.prefix_len()).collect();
                (one.index(), one.name(), lens)
            })
            .collect();
        assert_eq!(summary, [(1, "lo", vec![8, 128]), (3, "tun0", vec![]), (7, "eth0", vec![25])]);
        assert!(interfaces[0].has_address("::ffff:127.0.0.1".parse().unwrap()));
        assert!(!interfaces[0].has_address("127.0.0.2".parse().unwrap()));
    }

    #[test]
    fn loopback_is_in_the_systems_list() {
        let list = NetworkInterface::list().unwrap();
        let home = list.iter().find(|one| one.has_address(Ipv4Addr::LOCALHOST.into())).unwrap();
        assert!(home.is_loopback() && home.is_up());
        assert_eq!(sys::interface_index(home.name()), Some(home.index()));
    }
}
