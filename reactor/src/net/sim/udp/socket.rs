//! The socket as the reactor holds it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::super::host::{HostId, Signal, interface_name};
use super::super::network::{Net, SharedNet, system_time};
use super::sending::loopback;
use super::table::Claim;
use super::{Received, State, charge, on_wire};
use crate::datagram::{Capabilities, Ecn, Family, Metadata, SourceFilter};
use crate::net::{
    DatagramSocket, DatagramSpec, GroupRequest, Membership, Message, Meta, OpenError, QueuedError,
    RecvBatch, SLOT_LEN, SendBatch, SocketOption,
};

/// A UDP socket of a simulated host; closed when it is dropped.
pub(crate) struct UdpSocket {
    net: SharedNet,
    host: HostId,
    /// Opened before the host went down: it is on no network any more.
    incarnation: u32,
    state: Rc<State>,
    /// Where it was bound before it had a peer.
    unconnected: Cell<Option<SocketAddr>>,
}

/// Memory of queues that is kept for the next socket that receives.
const SPARE_QUEUES: usize = 256;

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

impl UdpSocket {
    pub(crate) fn open(
        net: &SharedNet,
        host: HostId,
        spec: &DatagramSpec,
        token: usize,
    ) -> Result<Self, OpenError> {
        let state = Rc::new(State::new(Signal::new(token), spec.family));
        {
            let options = &mut *state.options.borrow_mut();
            // On Linux `SO_REUSEADDR` alone shares a port among the members of a group.
            options.reuse_address = spec.reuse_address || spec.multicast;
            options.reuse_port = spec.reuse_port;
            options.multicast_all = !spec.multicast;
        }
        state.metadata.set(spec.metadata);
        let incarnation = net.borrow().host(host).incarnation;
        let unconnected = Cell::new(None);
        let socket = Self { net: Rc::clone(net), host, incarnation, state, unconnected };
        if let Some(device) = &spec.device {
            socket.set_device(Some(device)).map_err(|error| OpenError::Option("device", error))?;
        }
        for &(option, value) in &spec.options {
            let set = socket.set_option(option, value);
            set.map_err(|error| OpenError::Option(option_name(option), error))?;
        }
        if let Some(address) = spec.bind {
            socket.bind(address).map_err(OpenError::Bind)?;
        }
        Ok(socket)
    }

    fn is_gone(&self, net: &Net) -> bool {
        net.host(self.host).incarnation != self.incarnation
    }

    /// Gives it a port if it has none.
    fn autobind(&self, net: &mut Net) -> io::Result<()> {
        let local = self.state.local.get();
        if local.port() == 0 { self.bind_at(net, local) } else { Ok(()) }
    }

    fn bind_at(&self, net: &mut Net, mut address: SocketAddr) -> io::Result<()> {
        if self.is_gone(net) {
            return Err(errno(libc::ENETDOWN));
        }
        let host = net.host_mut(self.host);
        let device = self.state.options.borrow().device;
        host.check_own_zone(address, device).map_err(errno)?;
        address = host.zoned(address);
        let ip = address.ip();
        let any = ip.is_unspecified() || ip.is_multicast();
        if !any && !host.has(ip) && host.broadcasts_on(ip).is_none() {
            return Err(errno(libc::EADDRNOTAVAIL));
        }
        if address.port() == 0 {
            let port = host.udp.ephemeral().ok_or_else(|| errno(libc::EADDRINUSE))?;
            address.set_port(port);
        } else if !host.udp.is_free(&Claim { address, state: &self.state }) {
            return Err(errno(libc::EADDRINUSE));
        }
        self.state.local.set(address);
        self.state.path.set(None);
        host.udp.insert(&self.state);
        Ok(())
    }

    /// An address as the socket tells it; the zone of a link-local one is the interface by which
    /// it was met.
    fn shown(&self, address: SocketAddr, interface: u32) -> SocketAddr {
        match self.state.shown(address) {
            SocketAddr::V6(mut v6) if v6.ip().is_unicast_link_local() => {
                v6.set_scope_id(interface);
                v6.into()
            }
            other => other,
        }
    }

    fn meta(&self, net: &Net, received: &Received) -> Meta {
        let wanted = self.state.metadata.get();
        let mut meta = Meta::default();
        if wanted.contains(Metadata::DESTINATION) {
            meta.destination = Some(self.state.shown_ip(received.destination));
            meta.interface = Some(received.interface);
            // Only IPv4 tells.
            if received.destination.is_ipv4() {
                let host = net.host(self.host);
                let specific = match host.has(received.destination) {
                    true => Some(received.destination),
                    false => host.address_on(received.interface, received.destination),
                };
                meta.specific_destination = specific.map(|ip| self.state.shown_ip(ip));
            }
        }
        if wanted.contains(Metadata::HOP_LIMIT) {
            meta.hop_limit = Some(received.hop_limit);
        }
        if wanted.contains(Metadata::ECN) {
            meta.ecn = Some(Ecn::from_bits(received.tos));
        }
        if wanted.contains(Metadata::RECEIVE_TIME) {
            meta.received_at = Some(system_time(received.at));
        }
        if wanted.contains(Metadata::DROPS) && received.drops != 0 {
            meta.drops = Some(received.drops);
        }
        meta
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        let net = &mut *self.net.borrow_mut();
        self.state.leave_all(net, self.host);
        net.host_mut(self.host).udp.remove(&self.state);
    }
}

impl DatagramSocket for UdpSocket {
    fn family(&self) -> Family {
        self.state.family
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            batching: true,
            segmentation: false,
            coalescing: false,
            error_queue: true,
            send_options: true,
            metadata: self.state.metadata.get(),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.state.shown(self.state.local.get()))
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        let peer = self.state.peer.get().ok_or_else(|| errno(libc::ENOTCONN))?;
        Ok(self.state.shown(peer))
    }

    fn bind(&self, address: SocketAddr) -> io::Result<()> {
        if self.state.local.get().port() != 0 || !self.state.speaks(on_wire(address).ip()) {
            return Err(errno(libc::EINVAL));
        }
        self.bind_at(&mut self.net.borrow_mut(), on_wire(address))
    }

    fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        let net = &mut *self.net.borrow_mut();
        let mut peer = on_wire(peer);
        if !self.state.speaks(peer.ip()) {
            return Err(errno(libc::EAFNOSUPPORT));
        }
        if peer.ip().is_unspecified() {
            peer.set_ip(loopback(peer.ip()));
        }
        let confined = match self.state.options.borrow().device {
            0 => self.state.zone(),
            device => device,
        };
        let own = net.host(self.host);
        own.check_peer_zone(peer, confined).map_err(errno)?;
        peer = own.zoned(peer);
        let source = self.state.source_to(net, self.host, peer)?;
        let before = self.state.local.get();
        self.autobind(net)?;
        if self.unconnected.get().is_none() {
            self.unconnected.set(Some(before));
        }
        let mut local = self.state.local.get();
        if local.ip().is_unspecified() {
            local.set_ip(source);
            self.state.local.set(net.host(self.host).zoned(local));
        }
        self.state.peer.set(Some(peer));
        Ok(())
    }

    fn disconnect(&self) -> io::Result<()> {
        if let Some(before) = self.unconnected.take() {
            self.state.peer.set(None);
            self.state.local.set(before);
            if before.port() == 0 {
                // The system had chosen the port, and takes it back.
                self.net.borrow_mut().host_mut(self.host).udp.remove(&self.state);
            }
        }
        Ok(())
    }

    fn receive(&self, slots: usize, batch: &mut RecvBatch) -> io::Result<bool> {
        batch.messages.clear();
        if let Some(pending) = self.state.take_error() {
            return Err(pending);
        }
        // Unique by contract; a copy would be slow, not wrong.
        let data = Rc::make_mut(&mut batch.data);
        let mut queue = self.state.queue.borrow_mut();
        let plain = self.state.metadata.get().is_empty();
        while batch.messages.len() < slots {
            let Some(received) = queue.pop_front() else { break };
            let start = batch.messages.len() * SLOT_LEN;
            let len = received.payload.len().min(SLOT_LEN);
            self.state.charged.set(self.state.charged.get() - charge(received.payload.len()));
            data[start..start + len].copy_from_slice(&received.payload[..len]);
            let meta = match plain {
                true => Meta::default(),
                false => self.meta(&self.net.borrow(), &received),
            };
            batch.messages.push(Message {
                len,
                segment: len.max(1),
                truncated: len < received.payload.len(),
                source: self.shown(received.source, received.interface),
                meta,
            });
        }
        if queue.is_empty() && queue.capacity() > 0 {
            // Idle sockets hold no memory.
            let spares = &mut self.net.borrow_mut().spare_queues;
            if spares.len() < SPARE_QUEUES {
                spares.push(std::mem::take(&mut *queue));
            } else {
                *queue = VecDeque::new();
            }
        }
        match batch.messages.len() {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count < slots),
        }
    }

    fn send(&self, batch: &SendBatch<'_>) -> io::Result<usize> {
        let net = &mut *self.net.borrow_mut();
        if self.is_gone(net) {
            return Err(errno(libc::ENETDOWN));
        }
        self.autobind(net)?;
        let mut sent = 0;
        for datagram in batch.datagrams() {
            // By the contract an error belongs to the first datagram of a call.
            if sent > 0 && self.state.errors.borrow().is_pending() {
                return Ok(sent);
            }
            if !self.state.has_room(net, self.host) {
                return if sent == 0 { Err(errno(libc::EAGAIN)) } else { Ok(sent) };
            }
            match self.state.send_one(net, self.host, &datagram, batch.payload(&datagram)) {
                Err(error) if sent == 0 => return Err(error),
                Err(_) => return Ok(sent),
                Ok(()) => self.state.sent(net, datagram.len),
            }
            sent += 1;
        }
        Ok(sent)
    }

    fn next_error(&self) -> io::Result<Option<QueuedError>> {
        Ok(self.state.next_error())
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.state.take_error())
    }

    fn watch_writable(&self, on: bool) -> io::Result<()> {
        let net = &mut *self.net.borrow_mut();
        // Otherwise there will be an event.
        if on && self.state.has_room(net, self.host) {
            net.raise(self.host, &self.state.signal, Signal::WRITABLE);
        }
        Ok(())
    }

    fn option(&self, option: SocketOption) -> io::Result<u32> {
        self.state.option(&self.net.borrow(), self.host, option)
    }

    fn set_option(&self, option: SocketOption, value: u32) -> io::Result<()> {
        self.state.set_option(option, value)
    }

    fn device(&self) -> io::Result<Option<String>> {
        let device = self.state.options.borrow().device;
        Ok((device != 0).then(|| interface_name(device)))
    }

    fn set_device(&self, name: Option<&str>) -> io::Result<()> {
        let index = match name {
            None => 0,
            Some(name) => {
                let interfaces = self.net.borrow().host(self.host).interfaces();
                let named = interfaces.iter().find(|interface| interface.name() == name);
                named.ok_or_else(|| errno(libc::ENODEV))?.index()
            }
        };
        self.state.options.borrow_mut().device = index;
        self.state.path.set(None);
        Ok(())
    }

    fn set_metadata(&self, wanted: Metadata) -> io::Result<Metadata> {
        self.state.metadata.set(wanted);
        Ok(wanted)
    }

    fn change_membership(&self, request: GroupRequest, at: &Membership) -> io::Result<()> {
        self.state.change_membership(&mut self.net.borrow_mut(), self.host, request, at)
    }

    fn source_filter(&self, group: IpAddr, interface: u32) -> io::Result<Option<SourceFilter>> {
        Ok(self.state.source_filter(group, interface))
    }

    fn multicast_interface(&self) -> io::Result<u32> {
        Ok(self.state.options.borrow().multicast_interface)
    }

    fn set_multicast_interface(&self, interface: u32, source: Option<Ipv4Addr>) -> io::Result<()> {
        if interface != 0 && !self.net.borrow().host(self.host).has_interface(interface) {
            return Err(errno(libc::ENODEV));
        }
        let options = &mut *self.state.options.borrow_mut();
        options.multicast_interface = interface;
        options.multicast_source = source;
        Ok(())
    }

    fn drops(&self) -> Option<u32> {
        Some(self.state.drops.get())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// What a user calls the options that can be set before the bind.
pub(crate) fn option_name(option: SocketOption) -> &'static str {
    match option {
        SocketOption::Broadcast => "broadcast_allowed",
        SocketOption::Ttl => "ttl",
        SocketOption::Tos => "tos",
        SocketOption::RecvBuffer => "recv_buffer_size",
        SocketOption::SendBuffer => "send_buffer_size",
        SocketOption::ErrorQueue => "error_queue",
        SocketOption::MulticastTtl => "multicast_ttl",
        SocketOption::MulticastLoopback => "multicast_loopback",
        _ => "option",
    }
}
