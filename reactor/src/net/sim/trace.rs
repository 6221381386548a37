//! The record of what travelled.

use super::host::HostId;
use super::links::Reason;
use super::packet::Packet;

/// What happened to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TraceEvent {
    Sent,
    Received,
    Dropped(Reason),
}

/// The record of a world; off until somebody asks for it.
#[derive(Debug, Default)]
pub(crate) struct Trace {}

impl Trace {
    #[inline]
    pub(crate) fn record(
        &mut self,
        _now_ns: u64,
        _from: HostId,
        _to: HostId,
        _packet: &Packet,
        _event: TraceEvent,
    ) {
    }
}
