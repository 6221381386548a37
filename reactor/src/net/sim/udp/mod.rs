//! UDP as Linux behaves (udp(7), ip(7), ipv6(7)).
//!
//! | file | what is in it |
//! |---|---|
//! | `mod.rs` | what a socket is |
//! | `table.rs` | the sockets of a host by their ports: who may bind, and who hears a datagram |
//! | `arrival.rs` | datagrams and reports that come in |
//! | `socket.rs` | the socket as the reactor holds it |

mod arrival;
mod socket;
mod table;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::rc::Rc;
use std::time::SystemTime;

use super::host::Signal;
use crate::datagram::Family;
use crate::net::QueuedError;

pub(crate) use arrival::{deliver, report};
pub(crate) use socket::UdpSocket;
pub(crate) use table::Table;

/// A socket, as the network holds it.
pub(super) struct State {
    signal: Rc<Signal>,
    family: Family,
    /// Where it is bound, as `getsockname` tells: of its family, mapped on a dual socket.
    local: Cell<SocketAddr>,
    peer: Cell<Option<SocketAddr>>,
    queue: RefCell<VecDeque<Received>>,
    /// Bytes that the datagrams of `queue` take of the receive buffer.
    queued: Cell<usize>,
    errors: RefCell<VecDeque<QueuedError>>,
    /// `SO_ERROR`.
    pending: Cell<i32>,
}

/// A datagram that waits to be read.
struct Received {
    payload: Rc<[u8]>,
    /// As the wire has them.
    source: SocketAddr,
    destination: IpAddr,
    interface: u32,
    hop_limit: u8,
    tos: u8,
    at: SystemTime,
}

impl State {
    /// An address of the wire as this socket shows it.
    fn shown(&self, address: SocketAddr) -> SocketAddr {
        match (self.family, address) {
            (Family::Dual, SocketAddr::V4(v4)) => {
                SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into()
            }
            _ => address,
        }
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

fn unspecified(family: Family) -> SocketAddr {
    match family {
        Family::V4 => (Ipv4Addr::UNSPECIFIED, 0).into(),
        Family::V6Only | Family::Dual => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
