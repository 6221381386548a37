//! One link at work: what it does to a packet, given what it did to those before.

use fastrand::Rng;

use super::Reason;
use super::link::Link;
use super::queue::Queue;
use crate::net::sim::packet::{Body, Packet};

/// Copies of one packet under way at once, whatever links and rules duplicate.
const COPIES_LIMIT: usize = 16;

/// A copy of a packet under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flight {
    /// When its last bit has left the last queue.
    pub(super) departs_ns: u64,
    pub(super) at_ns: u64,
    /// Whether it has left the order of the others.
    pub(super) apart: bool,
    pub(super) corrupted: Option<usize>,
}

impl Flight {
    pub(super) fn new(now_ns: u64) -> Self {
        Self { departs_ns: now_ns, at_ns: now_ns, apart: false, corrupted: None }
    }
}

/// All copies of a packet under way.
#[derive(Debug, Default)]
pub(super) struct Flights {
    pub(super) under_way: Vec<Flight>,
    /// Those that have passed the link that they are passing.
    passed: Vec<Flight>,
}

/// What a link remembers of the packets of one direction.
#[derive(Clone, Debug, Default)]
pub(super) struct Path {
    /// The state of its loss model.
    bad: bool,
    /// When the last of those in order arrives.
    last_ns: u64,
}

/// Takes the copies of a packet over a link: some vanish, some multiply. Returns why the last of
/// those that vanished did.
///
/// A queue sees a packet when the one before has sent it, not when it would arrive there: latencies
/// add up at the end. So times do not run backwards in a queue, whatever latencies are drawn.
pub(super) fn pass(
    link: &Link,
    (path, queue): (&mut Path, &mut Queue),
    packet: &Packet,
    flights: &mut Flights,
    rng: &mut Rng,
) -> Option<Reason> {
    let mut lost = None;
    let mut copies = flights.under_way.len();
    for flight in flights.under_way.drain(..) {
        let departs_ns = match link.bandwidth {
            None => flight.departs_ns,
            Some(bandwidth) => match queue.pass(bandwidth, flight.departs_ns, packet.wire_len()) {
                Some(departs_ns) => departs_ns,
                None => {
                    lost = Some(Reason::QueueFull);
                    continue;
                }
            },
        };
        if link.loss.loses(&mut path.bad, rng) {
            lost = Some(Reason::Loss);
            continue;
        }
        let at_ns = flight.at_ns.saturating_add(departs_ns - flight.departs_ns);
        let sent = Flight { departs_ns, at_ns, ..flight };
        if link.duplicated.happens(rng) && copies < COPIES_LIMIT {
            copies += 1;
            flights.passed.push(travel(link, path, sent, packet, rng));
        }
        flights.passed.push(travel(link, path, sent, packet, rng));
    }
    std::mem::swap(&mut flights.under_way, &mut flights.passed);
    lost
}

/// What happens to a packet between the ends of a link.
fn travel(link: &Link, path: &mut Path, sent: Flight, packet: &Packet, rng: &mut Rng) -> Flight {
    let mut flight = sent;
    flight.at_ns = flight.at_ns.saturating_add(link.latency.sample(rng));
    if let Some((chance, by)) = &link.reordered
        && chance.happens(rng)
    {
        flight.apart = true;
        flight.at_ns = flight.at_ns.saturating_add(by.sample(rng));
    }
    flight.apart |= link.unordered;
    if !flight.apart {
        flight.at_ns = flight.at_ns.max(path.last_ns);
        path.last_ns = flight.at_ns;
    }
    if let Body::Udp(payload) = &packet.body
        && !payload.is_empty()
        && link.corrupted.happens(rng)
    {
        flight.corrupted = Some(rng.usize(..payload.len() * 8));
    }
    flight
}
