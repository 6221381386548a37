//! A host: its addresses and interfaces, its sockets, and what they have to tell its reactor.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use super::{tcp, udp};
use crate::interfaces::{InterfaceAddress, NetworkInterface};
use crate::net::Event;

/// Names a host of a world: its place in the list of hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HostId(pub(crate) u32);

/// The interface of loopback.
pub(crate) const LOOPBACK: u32 = 1;

/// The broadcast address of its network.
const LOOPBACK_BROADCAST: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 255);

/// What the network knows of a host.
pub(crate) struct HostState {
    pub(crate) name: Rc<str>,
    /// Addresses with the lengths of their prefixes and the indices of their interfaces, in the
    /// order given; without those of loopback.
    pub(crate) addresses: Box<[HostAddress]>,
    pub(crate) up: bool,
    /// How often it was restarted: what was opened before is none of its business.
    pub(crate) incarnation: u32,
    /// Sockets with events that its reactor has not polled yet.
    pub(crate) pending: Vec<Rc<Signal>>,
    /// On the list of hosts that are to take a turn.
    pub(crate) on_ready: bool,
    /// When it is to take a turn at the latest; `u64::MAX` for never.
    pub(crate) wake_at: u64,
    pub(crate) udp: udp::Table,
    pub(crate) tcp: tcp::Table,
    /// Destinations whose paths were found to be narrower than the interface.
    mtus: BTreeMap<IpAddr, PathMtu>,
}

/// How long a host believes in a narrow path before it tries a wider one again
/// (`net.ipv4.route.mtu_expires`: ten minutes).
const MTU_EXPIRES_NS: u64 = 600_000_000_000;

/// What was found out about a path.
struct PathMtu {
    mtu: u32,
    /// When it is forgotten.
    until: u64,
}

/// An address of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostAddress {
    pub(crate) ip: IpAddr,
    pub(crate) prefix_len: u8,
    /// Index of the interface; from 2 on, since loopback is the first.
    pub(crate) interface: u32,
}

impl HostState {
    pub(crate) fn new(name: Rc<str>, addresses: &[(IpAddr, u8)]) -> Self {
        Self {
            name,
            addresses: interfaces_of(addresses).into_boxed_slice(),
            up: true,
            incarnation: 0,
            pending: Vec::new(),
            on_ready: false,
            wake_at: u64::MAX,
            udp: udp::Table::default(),
            tcp: tcp::Table::default(),
            mtus: BTreeMap::new(),
        }
    }

    /// Whether packets to `ip` are for this host.
    #[inline]
    pub(crate) fn has(&self, ip: IpAddr) -> bool {
        (ip.is_loopback() && ip != LOOPBACK_BROADCAST)
            || self.addresses.iter().any(|address| address.ip == ip)
    }

    /// The address that packets to `destination` carry as their source if their socket has none:
    /// one on the network of the destination, or else the first of its kind.
    pub(crate) fn source_for(&self, destination: IpAddr) -> Option<IpAddr> {
        if destination.is_loopback() {
            return Some(loopback(destination));
        }
        if self.has(destination) {
            return Some(destination);
        }
        let mut of_kind = self.addresses.iter().filter(|own| kind(own.ip) == kind(destination));
        let near = of_kind.clone().find(|own| same_network(own.ip, destination, own.prefix_len));
        near.or_else(|| of_kind.next()).map(|own| own.ip)
    }

    /// Whether `ip` is on one of its networks.
    pub(crate) fn is_near(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|own| same_network(own.ip, ip, own.prefix_len))
    }

    /// The interface that has this address of its own.
    #[inline]
    pub(crate) fn interface_of(&self, ip: IpAddr) -> u32 {
        let own = self.addresses.iter().find(|own| own.ip == ip);
        own.map_or(LOOPBACK, |own| own.interface)
    }

    pub(crate) fn has_interface(&self, index: u32) -> bool {
        index == LOOPBACK || self.addresses.iter().any(|own| own.interface == index)
    }

    /// The first interface, loopback apart, with an address of the family of `like`.
    pub(crate) fn first_interface(&self, like: IpAddr) -> Option<u32> {
        let of_family = self.addresses.iter().filter(|own| own.ip.is_ipv4() == like.is_ipv4());
        of_family.map(|own| own.interface).min()
    }

    /// The zone of an address (RFC 4007): of a link-local one of IPv6 the interface on whose link
    /// it is. 0 for others, and where this host is on no such link.
    pub(crate) fn zone_of(&self, ip: IpAddr) -> u32 {
        if kind(ip) != Kind::LinkLocal {
            return 0;
        }
        let near = self.addresses.iter().find(|own| same_network(own.ip, ip, own.prefix_len));
        near.map_or(0, |own| own.interface)
    }

    /// An address as sockets tell it: with its zone, if it has one.
    pub(crate) fn zoned(&self, address: SocketAddr) -> SocketAddr {
        match address {
            SocketAddr::V6(mut v6) if v6.ip().is_unicast_link_local() => {
                v6.set_scope_id(self.zone_of(address.ip()));
                v6.into()
            }
            other => other,
        }
    }

    /// Whether a socket that is confined to `device` (0: to none) may be bound to an address as far
    /// as zones go: a link-local one needs its own (ipv6(7)).
    pub(crate) fn check_own_zone(&self, address: SocketAddr, device: u32) -> Result<(), i32> {
        let Some(named) = named_zone(address) else { return Ok(()) };
        match if named == 0 { device } else { named } {
            0 => Err(libc::EINVAL),
            zone if !self.has_interface(zone) => Err(libc::ENODEV),
            zone if self.zone_of(address.ip()) != zone => Err(libc::EADDRNOTAVAIL),
            _ => Ok(()),
        }
    }

    /// Whether a socket that is confined to the interface `bound` (0: to none) may send to an
    /// address as far as zones go.
    pub(crate) fn check_zone(&self, address: SocketAddr, bound: u32) -> Result<(), i32> {
        let Some(named) = named_zone(address) else { return Ok(()) };
        let zone = self.zone_of(address.ip());
        match [named, bound].into_iter().all(|wish| wish == 0 || wish == zone) {
            true => Ok(()),
            false => Err(libc::ENETUNREACH),
        }
    }

    /// As [`check_zone`](Self::check_zone), to connect: then a link-local address needs its zone.
    pub(crate) fn check_peer_zone(&self, peer: SocketAddr, bound: u32) -> Result<(), i32> {
        match named_zone(peer) {
            Some(0) if bound == 0 => Err(libc::EINVAL),
            Some(named) if named != 0 && bound != 0 && named != bound => Err(libc::EINVAL),
            _ => self.check_zone(peer, bound),
        }
    }

    /// The address from which an interface sends to a group or to everybody: of a group that stays
    /// on its link a link-local one, if it has any, and of others one that is not (RFC 6724).
    pub(crate) fn source_on(&self, interface: u32, to: IpAddr) -> Option<IpAddr> {
        let local = matches!(to, IpAddr::V6(v6) if v6.octets()[1] & 0x0f <= 2);
        let on_it = self.addresses.iter().filter(|own| own.interface == interface);
        let fits = |ip| matches!(kind(ip), Kind::LinkLocal) == local;
        let best = on_it.map(|own| own.ip).find(|ip| ip.is_ipv6() && to.is_ipv6() && fits(*ip));
        best.or_else(|| self.address_on(interface, to))
    }

    /// The first address of an interface, of the family of `like`.
    pub(crate) fn address_on(&self, interface: u32, like: IpAddr) -> Option<IpAddr> {
        if interface == LOOPBACK {
            // What is not for this host alone carries no address that is (`inet_select_addr`).
            let wider = self.first_interface(like).filter(
                |_| matches!(like, IpAddr::V4(v4) if v4.is_multicast() || v4.is_broadcast()),
            );
            let source = wider.and_then(|first| self.address_on(first, like));
            return Some(source.unwrap_or_else(|| loopback(like)));
        }
        let of_family = self.addresses.iter().filter(|own| own.ip.is_ipv4() == like.is_ipv4());
        of_family.clone().find(|own| own.interface == interface).map(|own| own.ip)
    }

    /// The interface on whose network `ip` reaches everybody; 0 for 255.255.255.255, which does so
    /// on any.
    pub(crate) fn broadcasts_on(&self, ip: IpAddr) -> Option<u32> {
        let IpAddr::V4(v4) = ip else { return None };
        if v4.is_broadcast() {
            return Some(0);
        }
        if v4 == LOOPBACK_BROADCAST {
            return Some(LOOPBACK);
        }
        let own =
            self.addresses.iter().find(|own| broadcast_of(own.ip, own.prefix_len) == Some(v4));
        own.map(|own| own.interface)
    }

    /// The router of the network that `ip`, an address of this host, is on. It takes no part in
    /// anything but reports, which come from the last address of the network.
    pub(crate) fn router_for(&self, ip: IpAddr) -> Option<IpAddr> {
        let own = self.addresses.iter().find(|own| own.ip == ip)?;
        Some(match own.ip {
            IpAddr::V4(v4) => {
                let hosts = u32::MAX.checked_shr(own.prefix_len.into()).unwrap_or(0);
                Ipv4Addr::from_bits((v4.to_bits() | hosts) & !1).into()
            }
            IpAddr::V6(v6) => {
                let hosts = u128::MAX.checked_shr(own.prefix_len.into()).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() | hosts).into()
            }
        })
    }

    /// Its interfaces, as a system lists them.
    pub(crate) fn interfaces(&self) -> Vec<NetworkInterface> {
        let up = (libc::IFF_UP | libc::IFF_RUNNING) as u32;
        let address = |ip, prefix_len, broadcast| InterfaceAddress { ip, prefix_len, broadcast };
        let mut list = vec![NetworkInterface {
            index: LOOPBACK,
            name: "lo".to_owned(),
            flags: up | libc::IFF_LOOPBACK as u32,
            addresses: vec![
                address(Ipv4Addr::LOCALHOST.into(), 8, None),
                address(Ipv6Addr::LOCALHOST.into(), 128, None),
            ],
        }];
        let last = self.addresses.iter().map(|own| own.interface).max().unwrap_or(LOOPBACK);
        for index in LOOPBACK + 1..=last {
            let own = self.addresses.iter().filter(|own| own.interface == index);
            list.push(NetworkInterface {
                index,
                name: interface_name(index),
                flags: up | (libc::IFF_BROADCAST | libc::IFF_MULTICAST) as u32,
                addresses: own
                    .map(|own| {
                        address(own.ip, own.prefix_len, broadcast_of(own.ip, own.prefix_len))
                    })
                    .collect(),
            });
        }
        list
    }

    /// What is known now of the path to `ip`.
    pub(crate) fn mtu(&self, now: u64, ip: IpAddr) -> Option<u32> {
        self.mtus.get(&ip).filter(|path| now < path.until).map(|path| path.mtu)
    }

    pub(crate) fn learn_mtu(&mut self, now: u64, ip: IpAddr, mtu: u32) {
        let mtu = self.mtu(now, ip).map_or(mtu, |known| known.min(mtu));
        let until = now.saturating_add(MTU_EXPIRES_NS);
        self.mtus.insert(ip, PathMtu { mtu, until });
    }

    /// As after a restart: nothing is known of any path.
    pub(crate) fn forget_mtus(&mut self) {
        self.mtus.clear();
    }

    /// Notes an event of a socket for the next poll of its reactor; false if one is noted
    /// already.
    pub(crate) fn note(&mut self, signal: &Rc<Signal>, readiness: u8) -> bool {
        let before = signal.raised.replace(signal.raised.get() | readiness);
        if before == 0 {
            self.pending.push(Rc::clone(signal));
        }
        before == 0
    }
}

/// The events of one socket that its reactor has yet to hear of.
#[derive(Debug)]
pub(crate) struct Signal {
    token: usize,
    raised: Cell<u8>,
}

impl Signal {
    pub(crate) const READABLE: u8 = 1;
    pub(crate) const WRITABLE: u8 = 2;
    pub(crate) const ERROR: u8 = 4;
    pub(crate) const READ_CLOSED: u8 = 8;

    pub(crate) fn new(token: usize) -> Rc<Self> {
        Rc::new(Self { token, raised: Cell::new(0) })
    }

    /// What was noted since the last call.
    pub(crate) fn take(&self) -> Event {
        let raised = self.raised.take();
        Event {
            token: self.token,
            readable: raised & Self::READABLE != 0,
            writable: raised & Self::WRITABLE != 0,
            error: raised & Self::ERROR != 0,
            read_closed: raised & Self::READ_CLOSED != 0,
        }
    }
}

/// Kinds of addresses that do not stand in for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    V4,
    LinkLocal,
    V6,
}

fn kind(ip: IpAddr) -> Kind {
    match ip {
        IpAddr::V4(_) => Kind::V4,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Kind::LinkLocal,
        IpAddr::V6(_) => Kind::V6,
    }
}

/// The zone that comes with a link-local address, 0 if none does; `None` of others.
fn named_zone(address: SocketAddr) -> Option<u32> {
    match address {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => Some(v6.scope_id()),
        _ => None,
    }
}

/// Puts addresses on interfaces: those of one network on one interface, and the first network of
/// IPv4 on one interface with the first of IPv6, the second with the second, and so on. The network
/// of link-local addresses is beside the first of the others.
fn interfaces_of(addresses: &[(IpAddr, u8)]) -> Vec<HostAddress> {
    let mut placed: Vec<HostAddress> = Vec::with_capacity(addresses.len());
    for &(ip, prefix_len) in addresses {
        let of_kind = placed.iter().filter(|other| kind(other.ip) == kind(ip));
        let beside = of_kind
            .clone()
            .find(|other| other.prefix_len == prefix_len && same_network(other.ip, ip, prefix_len));
        let interface = match beside {
            Some(other) => other.interface,
            None => of_kind.map(|other| other.interface).max().unwrap_or(LOOPBACK) + 1,
        };
        placed.push(HostAddress { ip, prefix_len, interface });
    }
    placed
}

pub(crate) fn interface_name(index: u32) -> String {
    if index == LOOPBACK { "lo".to_owned() } else { format!("eth{}", index - 2) }
}

fn loopback(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

/// Whether two addresses begin with the same bits.
pub(crate) fn same_network(one: IpAddr, other: IpAddr, prefix_len: u8) -> bool {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            let differ = one.to_bits() ^ other.to_bits();
            differ.leading_zeros() >= u32::from(prefix_len)
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => {
            let differ = one.to_bits() ^ other.to_bits();
            differ.leading_zeros() >= u32::from(prefix_len)
        }
        _ => false,
    }
}

/// The address of all hosts of a network of IPv4; networks of one or two hosts have none.
pub(crate) fn broadcast_of(ip: IpAddr, prefix_len: u8) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(v4) if prefix_len < 31 => {
            Some(Ipv4Addr::from_bits(v4.to_bits() | u32::MAX >> prefix_len))
        }
        _ => None,
    }
}
