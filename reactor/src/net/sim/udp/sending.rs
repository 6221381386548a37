//! From the socket onto the network: source addresses, MTU, groups and broadcasts. The order of
//! the refusals is that of `udp_sendmsg` and `__ip_append_data` of Linux.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use super::super::host::{HostId, HostState, LOOPBACK, same_network};
use super::super::links::Reason;
use super::super::network::{LOOPBACK_MTU, MTU, Net, corrupted};
use super::super::packet::{Body, IcmpError, IcmpKind, Packet, TCP, UDP, ip_header_len};
use super::super::trace::TraceEvent;
use super::options::Options;
use super::{Path, State, on_wire};
use crate::net::{Control, Outgoing};

/// How long a host looks for another on its network that is not there: three questions, a second
/// apart (arp(7), `mcast_solicit`).
const SEARCH_NS: u64 = 3_000_000_000;

/// Discriminants of `PathMtu`.
const FRAGMENT: u8 = 0;
const DONT_FRAGMENT: u8 = 2;
const PROBE: u8 = 3;
const INTERFACE: u8 = 4;
const OMIT: u8 = 5;

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// Where a datagram goes.
enum Target {
    One(Path),
    /// Nobody has the address; whether it is on a network of this host.
    Nobody {
        near: bool,
        source: IpAddr,
    },
    /// A group or a broadcast address, by this interface.
    Many {
        interface: u32,
        source: IpAddr,
    },
}

impl State {
    pub(super) fn send_one(
        self: &Rc<Self>,
        net: &mut Net,
        host: HostId,
        datagram: &Outgoing,
        payload: &[u8],
    ) -> io::Result<()> {
        let mut destination = match datagram.to {
            Some(to) => on_wire(to),
            None => self.peer.get().ok_or_else(|| errno(libc::EDESTADDRREQ))?,
        };
        if destination.port() == 0 {
            return Err(errno(libc::EINVAL));
        }
        let control = &datagram.control;
        // What names a zone has it looked at each time.
        let zoned = matches!(destination, SocketAddr::V6(v6) if v6.scope_id() != 0);
        let plain = control.is_none();
        let target = match self.path.get() {
            Some(path) if plain && !zoned && path.destination == destination.ip() => {
                Target::One(path)
            }
            _ => {
                if destination.ip().is_unspecified() {
                    destination.set_ip(loopback(destination.ip()));
                }
                self.target(net, host, destination, control)?
            }
        };
        let local = self.local.get();
        let of_path = match &target {
            Target::One(path) => path.source,
            Target::Nobody { source, .. } | Target::Many { source, .. } => *source,
        };
        let source = match control.source {
            Some(source) => source.to_canonical(),
            None if local.ip().is_unspecified() => of_path,
            // Who is bound to a group or a broadcast address sends from one of the host's own.
            None if !net.host(host).has(local.ip()) => of_path,
            None => local.ip(),
        };
        if !plain && !net.host(host).has(source) {
            return Err(errno(libc::EINVAL));
        }
        let options = self.options.borrow();
        self.check_length(net, host, &options, &target, destination, payload.len())?;
        if let Some(pending) = self.take_error() {
            return Err(pending);
        }
        let of_target = match target {
            Target::Many { .. } if destination.ip().is_multicast() => options.multicast_ttl,
            _ => options.ttl,
        };
        let packet = Packet {
            source: SocketAddr::new(source, local.port()),
            destination,
            hop_limit: control.hop_limit.unwrap_or(of_target),
            tos: control.ecn.map_or(options.tos, |ecn| ecn as u8),
            body: Body::Udp(payload.into()),
        };
        let mode = options.path_mtu;
        let loops = options.multicast_loopback;
        drop(options);
        match target {
            Target::One(path) => {
                if plain && !zoned {
                    self.path.set(Some(path));
                }
                net.send_to_one(host, path, packet, mode);
            }
            Target::Nobody { near: true, .. } => net.search_in_vain(host, &packet),
            Target::Nobody { near: false, .. } => {}
            Target::Many { interface, .. } if destination.ip().is_multicast() => {
                net.send_to_group(host, interface, packet, (loops, mode));
            }
            Target::Many { interface, .. } => net.broadcast(host, interface, packet, mode),
        }
        Ok(())
    }

    /// Finds out where a datagram goes, or why it cannot.
    fn target(
        &self,
        net: &Net,
        host: HostId,
        destination: SocketAddr,
        control: &Control,
    ) -> io::Result<Target> {
        let own = net.host(host);
        let options = self.options.borrow();
        if control.interface != 0 && !own.has_interface(control.interface) {
            return Err(errno(libc::ENODEV));
        }
        let named = if control.interface != 0 { control.interface } else { options.device };
        let ip = destination.ip();
        if ip.is_multicast() {
            let scope = match destination {
                // To groups of wider scope it says nothing (`__ipv6_addr_needs_scope_id`).
                SocketAddr::V6(v6) if matches!(v6.ip().octets()[1] & 0x0f, 1 | 2) => v6.scope_id(),
                _ => 0,
            };
            let wishes = [named, scope, options.multicast_interface];
            let interface = self.outgoing(own, ip, &wishes)?;
            if interface == LOOPBACK && ip.is_ipv6() {
                // Loopback has no route for groups of IPv6, since it is not capable of multicast.
                return Err(errno(libc::ENETUNREACH));
            }
            let source = match (ip, options.multicast_source) {
                (IpAddr::V4(_), Some(source)) => Some(source.into()),
                _ => own.source_on(interface, ip),
            };
            let source = source.ok_or_else(|| errno(libc::ENETUNREACH))?;
            return Ok(Target::Many { interface, source });
        }
        if let Some(interface) = own.broadcasts_on(ip) {
            if !options.broadcast {
                return Err(errno(libc::EACCES));
            }
            let interface = match interface {
                0 => self.outgoing(own, ip, &[named])?,
                of_network => of_network,
            };
            let source = own.address_on(interface, ip).ok_or_else(|| errno(libc::ENETUNREACH))?;
            return Ok(Target::Many { interface, source });
        }
        let source = own.source_for(ip).ok_or_else(|| errno(libc::ENETUNREACH))?;
        let bound = if named == 0 { self.zone() } else { named };
        own.check_zone(destination, bound).map_err(errno)?;
        let local = self.local.get().ip();
        let to = net.route(host, ip);
        if to == Some(host) {
            return own_target(own, ip, named, source, host);
        }
        match local {
            IpAddr::V4(v4) if v4.is_loopback() => return Err(errno(libc::EINVAL)),
            // It leaves, and nobody takes it.
            IpAddr::V6(v6) if v6.is_loopback() => {
                return Ok(Target::Nobody { near: false, source });
            }
            _ => {}
        }
        if named == LOOPBACK {
            return Err(errno(libc::ENETUNREACH));
        }
        let near = own.is_near(ip);
        let Some(to) = to else { return Ok(Target::Nobody { near, source }) };
        let interface = net.host(to).interface_of(ip);
        Ok(Target::One(Path { destination: ip, to, interface, source, routed: !near }))
    }

    /// The interface by which a datagram to many leaves: the first that was wished for, the one
    /// that has the socket's address, or else the one that the routes choose.
    fn outgoing(&self, own: &HostState, ip: IpAddr, wishes: &[u32]) -> io::Result<u32> {
        if let Some(wish) = wishes.iter().find(|wish| **wish != 0) {
            return match own.has_interface(*wish) {
                true => Ok(*wish),
                false => Err(errno(libc::ENODEV)),
            };
        }
        let local = self.local.get().ip();
        if local.is_loopback() {
            return Ok(LOOPBACK);
        }
        if own.has(local) {
            return Ok(own.interface_of(local));
        }
        own.first_interface(ip).ok_or_else(|| errno(libc::ENETUNREACH))
    }

    /// Refuses what is longer than the path allows if it must not be fragmented.
    #[inline]
    fn check_length(
        &self,
        net: &mut Net,
        host: HostId,
        options: &Options,
        target: &Target,
        destination: SocketAddr,
        len: usize,
    ) -> io::Result<()> {
        if !matches!(options.path_mtu, DONT_FRAGMENT | PROBE | INTERFACE) {
            return Ok(());
        }
        let mtu = match target {
            Target::Many { interface: LOOPBACK, .. } => LOOPBACK_MTU,
            // Also what a host sends to itself has the MTU of its way.
            Target::One(path) if path.to == host => LOOPBACK_MTU,
            _ if options.path_mtu == DONT_FRAGMENT => net.path_mtu(host, destination.ip()),
            _ => MTU,
        };
        if ip_header_len(destination.ip()) + 8 + len <= mtu as usize {
            return Ok(());
        }
        if self.too_long(destination, mtu) {
            net.raise(host, &self.signal, super::super::host::Signal::ERROR);
        }
        Err(errno(libc::EMSGSIZE))
    }

    /// The source address that connecting to `peer` gives the socket.
    pub(super) fn source_to(
        &self,
        net: &Net,
        host: HostId,
        peer: SocketAddr,
    ) -> io::Result<IpAddr> {
        Ok(match self.target(net, host, peer, &Control::default())? {
            Target::One(path) => path.source,
            Target::Nobody { source, .. } | Target::Many { source, .. } => source,
        })
    }
}

/// What a host sends to an address of its own comes by the interface that has it, although it never
/// leaves the host (`__mkroute_output`, `ip6_rcv_core`). By another interface, which `named` is if
/// not 0, it is lost, unless IPv4 has it come back by loopback.
fn own_target(
    own: &HostState,
    ip: IpAddr,
    named: u32,
    source: IpAddr,
    host: HostId,
) -> io::Result<Target> {
    let of_address = if ip.is_loopback() { LOOPBACK } else { own.interface_of(ip) };
    let interface = match named {
        0 => of_address,
        named if named == of_address => of_address,
        LOOPBACK if ip.is_ipv4() => LOOPBACK,
        _ if ip.is_loopback() => return Ok(Target::Nobody { near: false, source }),
        _ if ip.is_ipv6() => return Err(errno(libc::ENETUNREACH)),
        _ => return Ok(Target::Nobody { near: true, source }),
    };
    Ok(Target::One(Path { destination: ip, to: host, interface, source, routed: false }))
}

pub(super) fn loopback(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    }
}

impl Net {
    fn send_to_one(&mut self, from: HostId, path: Path, mut packet: Packet, mode: u8) {
        if path.routed {
            if packet.hop_limit <= 1 {
                return self.refuse_on_the_way(from, path.to, &packet, IcmpKind::TimeExceeded);
            }
            packet.hop_limit -= 1;
        }
        let local = match mode {
            PROBE | INTERFACE | OMIT if path.to != from => MTU,
            _ => self.path_mtu(from, path.destination),
        };
        if let Some((mtu, packet)) =
            self.carry(from, (path.to, path.interface), packet, local, mode)
        {
            self.record(from, path.to, &packet, TraceEvent::Dropped(Reason::TooBig));
            self.refuse_on_the_way(from, path.to, &packet, IcmpKind::TooBig { mtu });
        }
    }

    /// Sends a datagram, in pieces where it must be: what is longer than the MTU that the host
    /// knows it cuts itself; of IPv4, routers cut what they are allowed to. Gives back what fits
    /// nowhere, with the MTU of the link.
    fn carry(
        &mut self,
        from: HostId,
        (to, interface): (HostId, u32),
        packet: Packet,
        local: u32,
        mode: u8,
    ) -> Option<(u32, Packet)> {
        let v4 = packet.destination.is_ipv4();
        let is_cut = packet.wire_len() > local as usize;
        let may_be_cut = is_cut || (v4 && matches!(mode, FRAGMENT | INTERFACE | OMIT));
        if may_be_cut && let Some(mtu) = self.links.narrowest(self.now, (from, to), &packet) {
            let piece = if is_cut { mtu.min(local) } else { mtu };
            // To routers of IPv6 the pieces are whole.
            if v4 || local <= mtu {
                self.fragment(from, to, interface, packet, piece);
                return None;
            }
        }
        self.offer(from, to, interface, packet)
    }

    /// As [`carry`](Self::carry), where nobody is told of what does not fit: of what goes to many.
    fn carry_to_many(&mut self, from: HostId, at: (HostId, u32), packet: Packet, mode: u8) {
        if let Some((_, packet)) = self.carry(from, at, packet, MTU, mode) {
            self.record(from, at.0, &packet, TraceEvent::Dropped(Reason::TooBig));
        }
    }

    /// A datagram in pieces: each travels by itself; it is there when the last of them is, and is
    /// lost with any.
    fn fragment(&mut self, from: HostId, to: HostId, interface: u32, packet: Packet, mtu: u32) {
        let Body::Udp(payload) = &packet.body else { return };
        let header = ip_header_len(packet.destination.ip());
        let piece = ((mtu as usize).saturating_sub(header) / 8 * 8).max(16);
        let mut rest = 8 + payload.len();
        let mut at = self.now;
        let mut wrong = None;
        while rest > 0 {
            let len = piece.min(rest);
            rest -= len;
            let body = Body::Udp(payload[..len.saturating_sub(8)].into());
            match self.pass(from, to, &Packet { body, ..packet.clone() }) {
                Ok(arrival) => {
                    at = at.max(arrival.at_ns);
                    wrong = wrong.or(arrival.corrupted);
                }
                Err(reason) => {
                    return self.record(from, to, &packet, TraceEvent::Dropped(reason));
                }
            }
        }
        self.record(from, to, &packet, TraceEvent::Sent);
        self.launch(from, to, interface, corrupted(packet, wrong), at);
    }

    /// A router answers for the packet, which gets no further.
    pub(in crate::net::sim) fn refuse_on_the_way(
        &mut self,
        from: HostId,
        to: HostId,
        packet: &Packet,
        kind: IcmpKind,
    ) {
        let Some(router) = self.host(from).router_for(packet.source.ip()) else { return };
        let answer = icmp(router, packet, kind);
        self.transmit_by(to, from, 0, answer);
    }

    /// Nobody on the network of the host answers to the address; the host tells itself so.
    fn search_in_vain(&mut self, host: HostId, packet: &Packet) {
        let answer = icmp(packet.source.ip(), packet, IcmpKind::HostUnreachable);
        self.launch(host, host, LOOPBACK, answer, self.now + SEARCH_NS);
    }

    fn send_to_group(
        &mut self,
        from: HostId,
        interface: u32,
        packet: Packet,
        (loops, mode): (bool, u8),
    ) {
        let group = packet.destination.ip();
        let is_member = self.groups.hears((group, from, interface), packet.source.ip());
        // What leaves by loopback comes back in any case: that is the way of this interface.
        let is_heard = is_member && (loops || interface == LOOPBACK);
        // The hop limit is looked at only on the way of what may be looped (`ip_mc_output`,
        // `ip6_finish_output2`).
        let stays = packet.hop_limit == 0 && if group.is_ipv4() { is_member } else { is_heard };
        let members: Vec<(HostId, u32)> = if stays || interface == LOOPBACK {
            Vec::new()
        } else {
            self.groups.of(group, packet.source.ip()).filter(|(host, _)| *host != from).collect()
        };
        if is_heard {
            self.transmit_by(from, from, interface, packet.clone());
        }
        for (to, at) in members {
            let mut packet = packet.clone();
            if !share_a_network(self.host(from), interface, self.host(to), at) {
                if packet.hop_limit <= 1 || stays_on_link(group) {
                    continue;
                }
                packet.hop_limit -= 1;
            }
            self.carry_to_many(from, (to, at), packet, mode);
        }
    }

    /// To every host of the network of an interface, and to this one.
    fn broadcast(&mut self, from: HostId, interface: u32, packet: Packet, mode: u8) {
        if interface != LOOPBACK {
            for number in 0..self.hosts.len() {
                let to = HostId(number as u32);
                if to == from {
                    continue;
                }
                let near = self.hosts[number].addresses.iter().find(|other| {
                    self.host(from).addresses.iter().any(|own| {
                        own.interface == interface
                            && own.ip.is_ipv4()
                            && same_network(own.ip, other.ip, own.prefix_len)
                    })
                });
                if let Some(at) = near.map(|near| near.interface) {
                    self.carry_to_many(from, (to, at), packet.clone(), mode);
                }
            }
        }
        self.transmit_by(from, from, interface, packet);
    }
}

/// A report about `packet`.
pub(super) fn icmp(by: IpAddr, packet: &Packet, kind: IcmpKind) -> Packet {
    Packet {
        source: SocketAddr::new(by, 0),
        destination: SocketAddr::new(packet.source.ip(), 0),
        hop_limit: 64,
        tos: 0,
        body: Body::Icmp(Box::new(IcmpError {
            kind,
            about_source: packet.source,
            about_destination: packet.destination,
            protocol: if matches!(packet.body, Body::Tcp(_)) { TCP } else { UDP },
        })),
    }
}

/// Whether two interfaces are on one network.
fn share_a_network(one: &HostState, at: u32, other: &HostState, other_at: u32) -> bool {
    let others = || other.addresses.iter().filter(|address| address.interface == other_at);
    one.addresses
        .iter()
        .filter(|address| address.interface == at)
        .any(|own| others().any(|address| same_network(own.ip, address.ip, own.prefix_len)))
}

/// Whether routers keep a group to its network, whatever the hop limit: 224.0.0.0/24, and groups
/// of link-local scope (RFC 5771, RFC 4291).
fn stays_on_link(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.octets()[1] & 0x0f <= 2,
    }
}
