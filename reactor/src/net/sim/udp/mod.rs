//! UDP as Linux behaves (udp(7), ip(7), ipv6(7)).
//!
//! | file | what is in it |
//! |---|---|
//! | `mod.rs` | what a socket is |
//! | `table.rs` | the sockets of a host by their ports: who may bind, and who hears a datagram |
//! | `groups.rs` | multicast: memberships and their source filters |
//! | `options.rs` | options and their bounds |
//! | `errors.rs` | the pending error and the error queue |
//! | `room.rs` | the send buffer |
//! | `sending.rs` | from the socket onto the network: source addresses, MTU, groups, broadcasts |
//! | `arrival.rs` | datagrams and reports that come in |
//! | `socket.rs` | the socket as the reactor holds it |
//!
//! What differs from the kernel, on purpose: reports of ICMP are not limited in their rate, a
//! send never waits for room, and `SO_REUSEPORT` spreads peers by a hash of its own.

mod arrival;
mod errors;
mod groups;
mod options;
mod room;
mod sending;
mod socket;
mod table;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::rc::Rc;

use super::host::{HostId, Signal};
use crate::datagram::{Family, Metadata};

pub(crate) use arrival::{deliver, report};
pub(super) use groups::Groups;
pub(crate) use socket::{UdpSocket, option_name};
pub(crate) use table::Table;

use self::errors::Errors;
use self::groups::Membership;
use self::options::Options;
use self::room::Unsent;

/// A socket, as the network holds it. Addresses are those of the wire: never IPv4 mapped to IPv6.
pub(super) struct State {
    signal: Rc<Signal>,
    family: Family,
    /// Where it is bound; port 0 while it is not.
    local: Cell<SocketAddr>,
    peer: Cell<Option<SocketAddr>>,
    queue: RefCell<VecDeque<Received>>,
    /// Bytes of the receive buffer that `queue` and the error queue take.
    charged: Cell<usize>,
    /// Datagrams for which there was no room, modulo 2^32.
    drops: Cell<u32>,
    errors: RefCell<Errors>,
    options: RefCell<Options>,
    memberships: RefCell<Vec<Membership>>,
    metadata: Cell<Metadata>,
    /// The way to the destination of the last send.
    path: Cell<Option<Path>>,
    /// Made when a datagram first meets a narrow link.
    unsent: RefCell<Option<Box<Unsent>>>,
}

/// A datagram that waits to be read.
pub(super) struct Received {
    payload: Rc<[u8]>,
    source: SocketAddr,
    destination: IpAddr,
    interface: u32,
    hop_limit: u8,
    tos: u8,
    /// The count of drops when it came; the kernel tells none.
    drops: u32,
    /// Virtual time.
    at: u64,
}

/// The way of a datagram to one host. What it says stays true: addresses of hosts never change.
#[derive(Clone, Copy)]
struct Path {
    destination: IpAddr,
    to: HostId,
    /// The interface by which it comes to that host.
    interface: u32,
    /// The source address, unless the socket is bound to another.
    source: IpAddr,
    /// On another network: through a router.
    routed: bool,
}

impl State {
    fn new(signal: Rc<Signal>, family: Family) -> Self {
        let any: IpAddr = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6Only | Family::Dual => Ipv6Addr::UNSPECIFIED.into(),
        };
        Self {
            signal,
            family,
            local: Cell::new(SocketAddr::new(any, 0)),
            peer: Cell::new(None),
            queue: RefCell::default(),
            charged: Cell::new(0),
            drops: Cell::new(0),
            errors: RefCell::default(),
            options: RefCell::default(),
            memberships: RefCell::default(),
            metadata: Cell::new(Metadata::NONE),
            path: Cell::new(None),
            unsent: RefCell::default(),
        }
    }

    /// An address of the wire as this socket shows it: IPv4 is mapped on a dual-stack one.
    fn shown(&self, address: SocketAddr) -> SocketAddr {
        match (self.family, address) {
            (Family::Dual, SocketAddr::V4(v4)) => {
                SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into()
            }
            _ => address,
        }
    }

    fn shown_ip(&self, ip: IpAddr) -> IpAddr {
        match (self.family, ip) {
            (Family::Dual, IpAddr::V4(v4)) => v4.to_ipv6_mapped().into(),
            _ => ip,
        }
    }

    /// Whether packets to an address of the family of `ip` can reach it at all.
    fn speaks(&self, ip: IpAddr) -> bool {
        match self.family {
            Family::V4 => ip.is_ipv4(),
            Family::V6Only => ip.is_ipv6(),
            Family::Dual => true,
        }
    }

    /// The interface that a link-local address has confined it to; 0 for none.
    fn zone(&self) -> u32 {
        match self.local.get() {
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => v6.scope_id(),
            _ => 0,
        }
    }

    /// Whether it is bound so that it covers `ip`: to that address, or to all of its family.
    fn covers(&self, ip: IpAddr) -> bool {
        covers(self.local.get().ip(), self.family, ip)
    }
}

/// For `World::dump`.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.local.get())?;
        if let Some(peer) = self.peer.get() {
            write!(f, " connected to {peer}")?;
        }
        let (waiting, drops) = (self.queue.borrow().len(), self.drops.get());
        write!(f, ", {waiting} datagrams to read ({} bytes)", self.charged.get())?;
        if drops > 0 {
            write!(f, ", {drops} dropped")?;
        }
        match self.errors.borrow().waiting() {
            0 => Ok(()),
            reports => write!(f, ", {reports} reports of errors"),
        }
    }
}

/// Whether a socket of `family` that is bound to `local` hears what is sent to `ip`.
fn covers(local: IpAddr, family: Family, ip: IpAddr) -> bool {
    if !local.is_unspecified() {
        return local == ip;
    }
    match (local, ip) {
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => true,
        (IpAddr::V6(_), IpAddr::V4(_)) => family == Family::Dual,
        (IpAddr::V4(_), IpAddr::V6(_)) => false,
    }
}

/// An address as the wire has it: IPv4 is never mapped.
fn on_wire(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => (v4, v6.port()).into(),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// Whether two addresses name the same end, whatever their scopes and flow labels.
fn same(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && one.ip() == other.ip()
}

/// What a datagram takes of the receive buffer: its memory and the kernel's description of it, as
/// `skb->truesize` counts.
fn charge(len: usize) -> usize {
    const DESCRIPTION: usize = 256;
    const TAIL: usize = 384;
    let data = len + TAIL;
    DESCRIPTION + if data <= 4_096 { data.next_power_of_two().max(512) } else { data + 4_096 }
}
