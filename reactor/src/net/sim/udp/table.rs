//! The sockets of a host by their ports.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use super::{State, covers, same};
use crate::datagram::Family;

/// First of the ports that a system gives to sockets which did not ask for one
/// (`net.ipv4.ip_local_port_range`), and the number of them.
const EPHEMERAL: u16 = 32_768;
const EPHEMERAL_COUNT: u16 = 28_232;

/// Sockets that are bound, sorted by port; those of one port in the order of their binding.
#[derive(Default)]
pub(crate) struct Table {
    bound: Vec<(u16, Rc<State>)>,
    next_ephemeral: u16,
}

/// An address that somebody wants to bind.
pub(super) struct Claim<'a> {
    pub(super) address: SocketAddr,
    pub(super) state: &'a State,
}

impl Table {
    fn of_port(&self, port: u16) -> &[(u16, Rc<State>)] {
        // Most hosts have a socket or two.
        if let [(only, _)] = &self.bound[..] {
            return if *only == port { &self.bound } else { &[] };
        }
        let start = self.bound.partition_point(|(other, _)| *other < port);
        let len = self.bound[start..].partition_point(|(other, _)| *other == port);
        &self.bound[start..start + len]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Rc<State>> {
        self.bound.iter().map(|(_, state)| state)
    }

    /// Whether a socket may be bound there: both must have said that they share.
    pub(super) fn is_free(&self, claim: &Claim<'_>) -> bool {
        let (ip, family) = (claim.address.ip(), claim.state.family);
        let own = claim.state.options.borrow();
        self.of_port(claim.address.port()).iter().all(|(_, other)| {
            let others = other.options.borrow();
            (own.reuse_address && others.reuse_address)
                || (own.reuse_port && others.reuse_port)
                || (own.device != 0 && others.device != 0 && own.device != others.device)
                || !overlap((ip, family), (other.local.get().ip(), other.family))
        })
    }

    /// A port that nobody has: the numbers are given out in turn.
    pub(super) fn ephemeral(&mut self) -> Option<u16> {
        for _ in 0..EPHEMERAL_COUNT {
            let port = EPHEMERAL + self.next_ephemeral;
            self.next_ephemeral = (self.next_ephemeral + 1) % EPHEMERAL_COUNT;
            if self.of_port(port).is_empty() {
                return Some(port);
            }
        }
        None
    }

    pub(super) fn insert(&mut self, state: &Rc<State>) {
        let port = state.local.get().port();
        let at = self.bound.partition_point(|(other, _)| *other <= port);
        self.bound.insert(at, (port, Rc::clone(state)));
    }

    pub(super) fn remove(&mut self, state: &Rc<State>) {
        self.bound.retain(|(_, other)| !Rc::ptr_eq(other, state));
    }

    /// Forgets every socket: the host goes down.
    pub(crate) fn clear(&mut self) -> impl Sized + use<> {
        std::mem::take(&mut self.bound)
    }

    /// The socket that a datagram from `source` to one of the host's own addresses is for. One
    /// bound to the address comes before one bound to all, and a connected one before others;
    /// among equals the last bound, unless they share by `SO_REUSEPORT`.
    #[inline]
    pub(super) fn find(
        &self,
        source: SocketAddr,
        destination: SocketAddr,
        interface: u32,
    ) -> Option<&Rc<State>> {
        let of_port = self.of_port(destination.port());
        if let [(_, only)] = of_port {
            return score(only, source, destination.ip(), interface).map(|_| only);
        }
        let mut best: Option<(u32, &Rc<State>)> = None;
        for (_, state) in of_port {
            if let Some(score) = score(state, source, destination.ip(), interface)
                && best.is_none_or(|(least, _)| score >= least)
            {
                best = Some((score, state));
            }
        }
        let (least, state) = best?;
        if state.peer.get().is_some() || !state.options.borrow().reuse_port {
            return Some(state);
        }
        let shares = |other: &&(u16, Rc<State>)| {
            other.1.options.borrow().reuse_port
                && score(&other.1, source, destination.ip(), interface) == Some(least)
        };
        let group: Vec<_> = of_port.iter().filter(shares).collect();
        let chosen = spread(source) as usize % group.len().max(1);
        group.get(chosen).map(|(_, state)| state)
    }

    /// Every socket that hears a datagram to a group or a broadcast address.
    pub(super) fn hearers(
        &self,
        source: SocketAddr,
        destination: SocketAddr,
        interface: u32,
    ) -> impl Iterator<Item = &Rc<State>> {
        let hears = move |state: &&Rc<State>| {
            state.covers(destination.ip())
                && state.peer.get().is_none_or(|peer| same(peer, source))
                && on_device(state, interface)
                && state.lets_in(destination.ip(), source.ip(), interface)
        };
        self.of_port(destination.port()).iter().map(|(_, state)| state).filter(hears)
    }
}

/// How well a socket fits a datagram; `None` if it is for another.
fn score(state: &State, source: SocketAddr, destination: IpAddr, interface: u32) -> Option<u32> {
    if !state.covers(destination) || !on_device(state, interface) {
        return None;
    }
    let connected = match state.peer.get() {
        Some(peer) if !same(peer, source) => return None,
        peer => peer.is_some(),
    };
    let exact = !state.local.get().ip().is_unspecified();
    let plain = state.family == Family::V4 || destination.is_ipv6();
    let device = state.options.borrow().device != 0;
    Some(
        16 * u32::from(exact) + 8 * u32::from(connected) + 4 * u32::from(device) + u32::from(plain),
    )
}

/// Reports concern a socket wherever they came in: interface 0.
fn on_device(state: &State, interface: u32) -> bool {
    let device = state.options.borrow().device;
    device == 0 || device == interface || interface == 0
}

/// Whether there is an address that both hear.
fn overlap(one: (IpAddr, Family), other: (IpAddr, Family)) -> bool {
    match (one.0.is_unspecified(), other.0.is_unspecified()) {
        (false, false) => one.0 == other.0,
        (true, false) => covers(one.0, one.1, other.0),
        (false, true) => covers(other.0, other.1, one.0),
        (true, true) => {
            one.0.is_ipv4() == other.0.is_ipv4()
                || (one.0.is_ipv6() && one.1 == Family::Dual)
                || (other.0.is_ipv6() && other.1 == Family::Dual)
        }
    }
}

/// A number that is the same whenever this peer sends.
fn spread(source: SocketAddr) -> u64 {
    let ip = match source.ip() {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64 ^ v6.to_bits() as u64,
    };
    let mixed = (ip.rotate_left(16) ^ u64::from(source.port())).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed >> 33
}
