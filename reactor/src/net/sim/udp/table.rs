//! The sockets of a host by their ports.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use super::{State, on_wire};

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

impl Table {
    fn of_port(&self, port: u16) -> &[(u16, Rc<State>)] {
        let start = self.bound.partition_point(|(other, _)| *other < port);
        let len = self.bound[start..].partition_point(|(other, _)| *other == port);
        &self.bound[start..start + len]
    }

    /// Whether a socket may be bound there.
    pub(super) fn is_free(&self, address: SocketAddr) -> bool {
        let address = on_wire(address);
        self.of_port(address.port()).iter().all(|(_, other)| {
            let other = on_wire(other.local.get());
            !(other.ip() == address.ip()
                || other.ip().is_unspecified()
                || address.ip().is_unspecified())
        })
    }

    /// A port that nobody has.
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

    /// The socket that a datagram is for.
    pub(super) fn find(&self, source: SocketAddr, destination: SocketAddr) -> Option<&Rc<State>> {
        let fits = |state: &State| {
            let local = on_wire(state.local.get()).ip();
            let here = local == destination.ip() || local.is_unspecified();
            let family = match destination.ip() {
                IpAddr::V4(_) => local.is_ipv4() || state.family == crate::datagram::Family::Dual,
                IpAddr::V6(_) => state.local.get().is_ipv6(),
            };
            here && family && state.peer.get().is_none_or(|peer| on_wire(peer) == source)
        };
        self.of_port(destination.port()).iter().map(|(_, state)| state).find(|state| fits(state))
    }
}
