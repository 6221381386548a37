//! Datagrams and reports that come in.

use std::net::IpAddr;
use std::rc::Rc;

use super::super::host::{HostId, Signal};
use super::super::network::Net;
use super::super::packet::{Body, IcmpError, Packet};
use super::Received;

/// A datagram has come to a host.
pub(crate) fn deliver(net: &mut Net, _from: HostId, to: HostId, packet: Packet) {
    let at = net.system_time();
    let host = net.host_mut(to);
    let Some(state) = host.udp.find(packet.source, packet.destination) else { return };
    let Body::Udp(payload) = packet.body else { return };
    let state = Rc::clone(state);
    state.queued.set(state.queued.get() + payload.len());
    state.queue.borrow_mut().push_back(Received {
        payload,
        source: packet.source,
        destination: packet.destination.ip(),
        interface: 0,
        hop_limit: packet.hop_limit,
        tos: packet.tos,
        at,
    });
    net.raise(to, &state.signal, Signal::READABLE);
}

/// A report about a datagram of this host has come.
pub(crate) fn report(_net: &mut Net, _to: HostId, _by: IpAddr, _report: &IcmpError) {}
