//! Datagrams and reports that come in.

use std::net::IpAddr;
use std::rc::Rc;

use super::super::host::{HostId, Signal};
use super::super::network::Net;
use super::super::packet::{Body, IcmpError, IcmpKind, Packet};
use super::sending::icmp;
use super::{Received, State};

/// A datagram has come to a host by one of its interfaces.
pub(crate) fn deliver(net: &mut Net, to: HostId, interface: u32, packet: Packet) {
    let ip = packet.destination.ip();
    let host = net.host(to);
    if !ip.is_multicast() && host.has(ip) {
        match host.udp.find(packet.source, packet.destination, interface) {
            Some(state) => {
                let state = Rc::clone(state);
                enqueue(net, to, &state, interface, packet);
            }
            None => refuse(net, to, &packet),
        }
        return;
    }
    // Nobody is told of datagrams to many that nobody hears.
    let hearers: Vec<Rc<State>> =
        host.udp.hearers(packet.source, packet.destination, interface).map(Rc::clone).collect();
    for state in hearers {
        enqueue(net, to, &state, interface, packet.clone());
    }
}

#[inline]
fn enqueue(net: &mut Net, to: HostId, state: &Rc<State>, interface: u32, packet: Packet) {
    let Body::Udp(payload) = packet.body else { return };
    if !state.admits(payload.len()) {
        return;
    }
    let queue = &mut *state.queue.borrow_mut();
    if queue.capacity() == 0
        && let Some(spare) = net.spare_queues.pop()
    {
        *queue = spare;
    }
    queue.push_back(Received {
        payload,
        source: packet.source,
        destination: packet.destination.ip(),
        interface,
        hop_limit: packet.hop_limit,
        tos: packet.tos,
        drops: state.drops.get(),
        at: net.now,
    });
    net.raise(to, &state.signal, Signal::READABLE);
}

/// Nobody listens on the port (RFC 1122, 4.1.3.1).
fn refuse(net: &mut Net, host: HostId, packet: &Packet) {
    let by = packet.destination.ip();
    if let Some(to) = net.route(host, packet.source.ip()) {
        net.transmit(host, to, icmp(by, packet, IcmpKind::PortUnreachable));
    }
}

/// A report about a datagram of this host has come.
pub(crate) fn report(net: &mut Net, to: HostId, by: IpAddr, report: &IcmpError) {
    if let IcmpKind::TooBig { mtu } = report.kind {
        net.learn_mtu(to, report.about_destination.ip(), mtu);
    }
    let host = net.host(to);
    let Some(state) = host.udp.find(report.about_destination, report.about_source, 0) else {
        return;
    };
    if state.reported(by, report) {
        let state = Rc::clone(state);
        net.raise(to, &state.signal, Signal::ERROR);
    }
}
