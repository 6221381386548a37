//! Bugs that a review found, one test each, so that none comes back; and random programs that look
//! for more. What the tests of a part already pin down is there, and not here.

#[path = "../support/mod.rs"]
mod support;

mod peers;
mod random;
mod random_callbacks;
mod reactor;
mod sending;
mod slow_link;
mod sockets;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use strand_reactor::Reactor;

/// Where scripted sockets send to: nobody's address.
fn nowhere() -> SocketAddr {
    (Ipv4Addr::new(192, 0, 2, 1), 7).into()
}

/// Turns of the loop that wait for nothing.
fn turn(reactor: &Reactor, times: usize) {
    for _ in 0..times {
        reactor.iterate(Some(Duration::ZERO)).unwrap();
    }
}
