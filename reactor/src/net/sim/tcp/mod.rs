//! TCP between simulated hosts, as Linux shows it to those above (tcp(7), RFC 9293).
//!
//! | file | what is in it |
//! |---|---|
//! | `mod.rs` | between the network and the connections of a host |
//! | `sockets.rs` | the sockets as the reactor holds them |
//! | `stack.rs` | the connections and ports of a host: who a segment is for, accepting, timers |
//! | `ports.rs`, `address.rs` | who may bind where |
//! | `tcb.rs` | one connection: its state, and what its user calls |
//! | `incoming.rs` | a segment arrives |
//! | `outgoing.rs` | what is to be sent |
//! | `clock.rs` | retransmission, probes of a shut window, keepalive, ends |
//! | `congestion.rs` | NewReno, and the retransmission timeout |
//! | `buffer.rs`, `seq.rs` | bytes in and out of order, numbers that wrap |
//!
//! What is simpler than in Linux: no selective acknowledgements, no timestamps and no urgent data;
//! buffers stay as large as they were made; every turn of a host acknowledges at its end what
//! arrived in it (no delayed acknowledgements), and small writes never wait (Nagle's algorithm is
//! off; `TCP_NODELAY` is kept for those who ask). An ended connection is remembered for a minute, but
//! lets a new one from the same port pass after a second.

mod address;
mod buffer;
mod clock;
mod congestion;
mod incoming;
mod outgoing;
mod ports;
mod seq;
mod sockets;
mod stack;
mod tcb;
#[cfg(test)]
mod tests;

pub(crate) use self::sockets::{SimListener, SimStream};

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use self::address::{Place, Tuple, Way, on_wire};
use self::ports::Sharing;
use self::sockets::{Owner, errno};
use self::stack::{Listener, Stack, headers};
use super::host::{HostAddress, HostId, LOOPBACK, Signal, broadcast_of, same_network};
use super::links::Reason;
use super::network::{MTU, Net, SharedNet};
use super::packet::{Body, IcmpError, IcmpKind, Packet};
use super::trace::TraceEvent;
use crate::datagram::Family;
use crate::net::{ListenSpec, OpenError, StreamSpec};
use crate::slots::Key;

/// The longest packet of loopback.
const LOOPBACK_MTU: u32 = 65_536;

/// What [`timer`] is called for: timers of connections, or the end of a turn.
const TIMERS: u64 = 0;
const END_OF_TURN: u64 = 1;

/// The TCP sockets of a host; next to nothing while it has none.
#[derive(Default)]
pub(crate) struct Table {
    stack: Option<Box<Stack>>,
}

impl Table {
    /// A line for each socket, for `World::dump`.
    pub(crate) fn dump(&self, text: &mut String) -> fmt::Result {
        self.stack.as_ref().map_or(Ok(()), |stack| stack.dump(text))
    }

    /// Whether nothing is left of any connection or port.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.stack.as_ref().is_none_or(|stack| {
            stack.connections.is_empty()
                && stack.listeners.is_empty()
                && stack.by_tuple.is_empty()
                && stack.by_port.is_empty()
        })
    }

    fn stack(&mut self) -> &mut Stack {
        self.stack.get_or_insert_with(|| Box::new(Stack::new()))
    }
}

/// The host goes down: everything is forgotten, nobody is told.
pub(crate) fn crash(net: &mut Net, host: HostId) {
    net.host_mut(host).tcp.stack = None;
}

/// A segment has come to a host.
pub(crate) fn deliver(net: &mut Net, from: HostId, to: HostId, packet: Packet) {
    let now = net.now;
    let mtu = if from == to { LOOPBACK_MTU } else { MTU };
    if let Body::Tcp(segment) = &packet.body {
        let host = net.host(to);
        let path_mtu = host.mtu(now, packet.source.ip());
        let interface =
            if from == to { LOOPBACK } else { host.interface_of(packet.destination.ip()) };
        let way = Way { interface, mtu, path_mtu };
        net.host_mut(to).tcp.stack().receive(now, &packet, segment, way);
        pump(net, to);
    }
}

/// A report about a segment of this host has come.
pub(crate) fn report(net: &mut Net, to: HostId, _by: IpAddr, report: &IcmpError) {
    let tuple = Tuple::new(on_wire(report.about_source), on_wire(report.about_destination));
    let now = net.now;
    if let IcmpKind::TooBig { mtu } = report.kind {
        net.learn_mtu(to, tuple.remote, mtu);
    }
    let stack = net.host_mut(to).tcp.stack();
    let Some(&key) = stack.by_tuple.get(&tuple) else { return };
    if let Some(connection) = stack.connections.get_mut(key) {
        let tcb = &mut connection.tcb;
        match report.kind {
            IcmpKind::TooBig { mtu } => tcb.path_mss(mtu.saturating_sub(headers(tuple.remote))),
            IcmpKind::PortUnreachable => tcb.unreachable(libc::ECONNREFUSED),
            IcmpKind::NetUnreachable => tcb.unreachable(libc::ENETUNREACH),
            IcmpKind::HostUnreachable | IcmpKind::TimeExceeded | IcmpKind::AdminProhibited => {
                tcb.unreachable(libc::EHOSTUNREACH);
            }
        }
    }
    stack.settle(now, key);
    pump(net, to);
}

/// A timer that was set with [`Net::set_timer`] has come; `what` is what was given there. A timer
/// cannot be taken back: one that nobody needs any more is to be recognised.
pub(crate) fn timer(net: &mut Net, host: HostId, what: u64) {
    let now = net.now;
    let Some(stack) = &mut net.host_mut(host).tcp.stack else { return };
    if what == END_OF_TURN {
        stack.flush_armed = false;
        stack.flush(now);
    } else if now >= stack.armed {
        stack.armed = u64::MAX;
        stack.on_timer(now);
    }
    pump(net, host);
}

/// Passes on what a host has to send and to tell, and asks to be called again.
fn pump(net: &mut Net, host: HostId) {
    let now = net.now;
    while let Some((key, packet)) = net.host_mut(host).tcp.stack().out.pop_front() {
        let remote = packet.destination.ip();
        match net.route(host, remote) {
            // What the answers say is dealt with before the call returns, as over the loopback of
            // a system; nobody's code is called by that.
            Some(to) if net.passes_at_once(host, to, &packet) => {
                if let Body::Tcp(segment) = &packet.body {
                    let way = Way { interface: LOOPBACK, mtu: LOOPBACK_MTU, path_mtu: None };
                    net.host_mut(host).tcp.stack().receive(now, &packet, segment, way);
                }
            }
            Some(to) => {
                let interface = net.host(to).interface_of(remote);
                let interface = if to == host { LOOPBACK } else { interface };
                if let Some((mtu, packet)) = net.offer(host, to, interface, packet) {
                    net.record(host, to, &packet, TraceEvent::Dropped(Reason::TooBig));
                    too_big(net, (host, to), key, &packet, mtu);
                }
            }
            None => {
                // On its own network the host looks for it; elsewhere nobody answers.
                let state = net.host_mut(host);
                let is_near =
                    state.addresses.iter().any(|own| same_network(own.ip, remote, own.prefix_len));
                if let (true, Some(key)) = (is_near, key) {
                    state.tcp.stack().no_neighbour(now, key);
                }
            }
        }
    }
    for (signal, ready) in std::mem::take(&mut net.host_mut(host).tcp.stack().raised) {
        net.raise(host, &signal, ready);
    }
    let stack = net.host_mut(host).tcp.stack();
    let flush = stack.wants_flush() && !std::mem::replace(&mut stack.flush_armed, true);
    let at = stack.next_timer().filter(|at| *at < stack.armed);
    stack.armed = at.unwrap_or(stack.armed);
    if flush {
        // After all turns of this instant.
        net.set_timer(host, now + 1, END_OF_TURN);
    }
    if let Some(at) = at {
        net.set_timer(host, at, TIMERS);
    }
}

/// A segment is too long for the link. A router tells so; where there is none, the host knows.
fn too_big(
    net: &mut Net,
    (host, to): (HostId, HostId),
    key: Option<Key>,
    packet: &Packet,
    mtu: u32,
) {
    if to != host {
        return net.refuse_on_the_way(host, to, packet, IcmpKind::TooBig { mtu });
    }
    let now = net.now;
    let stack = net.host_mut(host).tcp.stack();
    if let Some(key) = key {
        if let Some(connection) = stack.connections.get_mut(key) {
            connection.tcb.path_mss(mtu.saturating_sub(headers(packet.destination.ip())));
        }
        stack.settle(now, key);
    }
}

pub(crate) fn listen(
    net: &SharedNet,
    host: HostId,
    spec: &ListenSpec,
    token: usize,
) -> Result<Rc<SimListener>, OpenError> {
    let refused = |code| OpenError::Bind(errno(code));
    let state = &mut *net.borrow_mut();
    let now = state.now;
    let state = state.host_mut(host);
    let bind = on_wire(spec.bind);
    if !bind.ip().is_unspecified() && !state.has(bind.ip()) {
        return Err(refused(libc::EADDRNOTAVAIL));
    }
    let device = match &spec.device {
        None => 0,
        Some(name) => {
            let interfaces = state.interfaces();
            let named = interfaces.iter().find(|one| one.name() == name);
            let unknown = || OpenError::Option("device", errno(libc::ENODEV));
            named.ok_or_else(unknown)?.index()
        }
    };
    state.check_own_zone(spec.bind, device).map_err(refused)?;
    let incarnation = state.incarnation;
    let stack = state.tcp.stack();
    let place = Place { ip: bind.ip(), family: spec.family };
    let sharing = Sharing { address: spec.reuse_address, port: spec.reuse_port, device };
    let port = match bind.port() {
        0 => stack.free_port(now, place),
        port => Some(port).filter(|port| stack.is_free(now, place, *port, sharing)),
    };
    let port = port.ok_or_else(|| refused(libc::EADDRINUSE))?;
    let key = stack.listen(Listener {
        place,
        port,
        backlog: spec.backlog as usize,
        reuse_address: spec.reuse_address,
        reuse_port: spec.reuse_port,
        device,
        options: spec.options.clone(),
        signal: Signal::new(token),
        queue: Default::default(),
        half_open: 0,
    });
    let mut local = spec.bind;
    local.set_port(port);
    let owner = Owner { net: Rc::clone(net), host, incarnation };
    Ok(Rc::new(SimListener { owner, key, local }))
}

pub(crate) fn open(
    net: &SharedNet,
    host: HostId,
    spec: &StreamSpec,
    token: usize,
) -> Result<Rc<SimStream>, OpenError> {
    let shared = net;
    let net = &mut *shared.borrow_mut();
    let now = net.now;
    let tuple = tuple_of(net, host, spec)?;
    let is_own = net.route(host, tuple.remote) == Some(host);
    let path_mtu = net.host(host).mtu(now, tuple.remote);
    let state = net.host_mut(host);
    let incarnation = state.incarnation;
    let stack = state.tcp.stack();
    let mtu = if is_own { LOOPBACK_MTU } else { MTU };
    let way = Way { interface: 0, mtu, path_mtu };
    let mapped = spec.peer.is_ipv6();
    let key = stack.connect(now, tuple, way, &spec.options, Signal::new(token), mapped);
    pump(net, host);
    let owner = Owner { net: Rc::clone(shared), host, incarnation };
    Ok(Rc::new(SimStream { owner, key }))
}

/// The addresses of a connection to open.
fn tuple_of(net: &mut Net, host: HostId, spec: &StreamSpec) -> Result<Tuple, OpenError> {
    let now = net.now;
    let state = net.host_mut(host);
    let failed = |code| OpenError::Socket(errno(code));
    let mut remote = on_wire(spec.peer);
    if remote.ip().is_unspecified() {
        // This host, as Linux takes it: of IPv4 the address that the socket is bound to, if any.
        let bound = spec.bind.map(|bind| on_wire(bind).ip());
        let bound = bound.filter(|ip| ip.is_ipv4() && remote.is_ipv4() && !ip.is_unspecified());
        remote.set_ip(bound.unwrap_or_else(|| loopback_like(remote)));
    }
    let is_broadcast = |own: &HostAddress| {
        broadcast_of(own.ip, own.prefix_len).is_some_and(|all| remote.ip() == all)
    };
    if remote.ip().is_multicast()
        || remote.ip() == Ipv4Addr::BROADCAST
        || state.addresses.iter().any(is_broadcast)
    {
        return Err(failed(libc::ENETUNREACH));
    }
    let asked = spec.bind.map(on_wire);
    let source = match asked {
        Some(bind) if !bind.ip().is_unspecified() => {
            if !state.has(bind.ip()) {
                return Err(OpenError::Bind(errno(libc::EADDRNOTAVAIL)));
            }
            if let Some(named) = spec.bind {
                let checked = state.check_own_zone(named, 0);
                checked.map_err(|code| OpenError::Bind(errno(code)))?;
            }
            bind.ip()
        }
        _ => state.source_for(remote.ip()).ok_or_else(|| failed(libc::ENETUNREACH))?,
    };
    // What comes from 127.0.0.1 does not leave the host.
    let leaves = !remote.ip().is_loopback() && !state.has(remote.ip());
    let is_stuck = source.is_ipv4() && source.is_loopback() && leaves;
    if source.is_ipv4() != remote.is_ipv4() || is_stuck {
        return Err(failed(libc::EINVAL));
    }
    let bound = asked.map_or(0, |bind| state.zone_of(bind.ip()));
    state.check_peer_zone(spec.peer, bound).map_err(failed)?;
    let stack = state.tcp.stack();
    let mut tuple = Tuple::new(SocketAddr::new(source, 0), remote);
    match asked.map_or(0, |bind| bind.port()) {
        0 => {
            tuple.local_port =
                stack.port_to(now, tuple).ok_or_else(|| failed(libc::EADDRNOTAVAIL))?;
        }
        port => {
            let family = if source.is_ipv4() { Family::V4 } else { Family::V6Only };
            let place = Place { ip: asked.map_or(source, |bind| bind.ip()), family };
            tuple.local_port = port;
            if !stack.is_free(now, place, port, Sharing::default()) {
                return Err(OpenError::Bind(errno(libc::EADDRINUSE)));
            }
        }
    }
    Ok(tuple)
}

fn loopback_like(address: SocketAddr) -> IpAddr {
    match address {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    }
}
