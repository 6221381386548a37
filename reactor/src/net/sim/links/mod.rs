//! What becomes of a packet between two hosts: how long it takes, and whether it arrives.

use fastrand::Rng;

use super::host::HostId;
use super::packet::Packet;

/// The latency of a link that nothing was said about: 1 ms.
const LATENCY_NS: u64 = 1_000_000;

/// The links between the hosts of a world.
#[derive(Debug, Default)]
pub(crate) struct Links {}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Dropped(Reason),
    /// Longer than the path allows, and not to be fragmented.
    TooBig {
        mtu: u32,
    },
    /// Arrives; more than once if it was duplicated.
    Deliver(Arrivals),
}

/// Why a packet does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Loss,
}

/// The arrivals of one packet: nearly always one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrivals {
    pub(crate) first: Arrival,
    pub(crate) more: Vec<Arrival>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) at_ns: u64,
    /// The bit of the payload that arrives wrong.
    pub(crate) corrupted: Option<usize>,
}

impl Links {
    /// Decides what becomes of a packet that leaves `from` for `to` now.
    pub(crate) fn transmit(
        &mut self,
        _rng: &mut Rng,
        now_ns: u64,
        _from: HostId,
        _to: HostId,
        _packet: &Packet,
    ) -> Fate {
        let first = Arrival { at_ns: now_ns + LATENCY_NS, corrupted: None };
        Fate::Deliver(Arrivals { first, more: Vec::new() })
    }
}
