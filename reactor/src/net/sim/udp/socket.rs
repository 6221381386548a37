//! The socket as the reactor holds it.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::super::host::{HostId, Signal};
use super::super::network::{Net, SharedNet};
use super::super::packet::{Body, Packet};
use super::{State, on_wire, unspecified};
use crate::datagram::{Capabilities, Family, Metadata};
use crate::net::{
    DatagramSocket, DatagramSpec, Message, Meta, OpenError, Outgoing, QueuedError, RecvBatch,
    SLOT_LEN, SendBatch, SocketOption,
};

/// A UDP socket of a simulated host; closed when it is dropped.
pub(crate) struct UdpSocket {
    net: SharedNet,
    host: HostId,
    state: Rc<State>,
}

impl UdpSocket {
    pub(crate) fn open(
        net: &SharedNet,
        host: HostId,
        spec: &DatagramSpec,
        token: usize,
    ) -> Result<Self, OpenError> {
        let state = Rc::new(State {
            signal: Signal::new(token),
            family: spec.family,
            local: Cell::new(unspecified(spec.family)),
            peer: Cell::new(None),
            queue: RefCell::default(),
            queued: Cell::new(0),
            errors: RefCell::default(),
            pending: Cell::new(0),
        });
        let socket = Self { net: Rc::clone(net), host, state };
        if let Some(address) = spec.bind {
            socket.bind(address).map_err(OpenError::Bind)?;
        }
        Ok(socket)
    }

    fn send_one(&self, net: &mut Net, datagram: &Outgoing, payload: &[u8]) -> io::Result<()> {
        let to = datagram.to.or(self.state.peer.get()).ok_or(io::ErrorKind::NotConnected)?;
        let destination = on_wire(to);
        let target = net
            .route(self.host, destination.ip())
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENETUNREACH))?;
        let local = on_wire(self.state.local.get());
        let source = if local.ip().is_unspecified() {
            net.host(self.host).source_for(destination.ip()).unwrap_or(local.ip())
        } else {
            local.ip()
        };
        let packet = Packet {
            source: SocketAddr::new(source, local.port()),
            destination,
            hop_limit: 64,
            tos: 0,
            body: Body::Udp(payload.into()),
        };
        net.transmit(self.host, target, packet);
        Ok(())
    }

    fn bind_ephemeral(&self) -> io::Result<()> {
        if self.state.local.get().port() == 0 {
            self.bind(self.state.local.get())?;
        }
        Ok(())
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        self.net.borrow_mut().host_mut(self.host).udp.remove(&self.state);
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
            metadata: Metadata::ALL,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.state.local.get())
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.state.peer.get().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn bind(&self, mut address: SocketAddr) -> io::Result<()> {
        let host = &mut *self.net.borrow_mut();
        let host = host.host_mut(self.host);
        let own = on_wire(address).ip();
        if !own.is_unspecified() && !host.has(own) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        if address.port() == 0 {
            address.set_port(host.udp.ephemeral().ok_or(io::ErrorKind::AddrInUse)?);
        } else if !host.udp.is_free(address) {
            return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        }
        self.state.local.set(address);
        host.udp.insert(&self.state);
        Ok(())
    }

    fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        self.bind_ephemeral()?;
        let mut local = self.state.local.get();
        if on_wire(local).ip().is_unspecified() {
            let source = self.net.borrow().host(self.host).source_for(on_wire(peer).ip());
            let source = source.ok_or_else(|| io::Error::from_raw_os_error(libc::ENETUNREACH))?;
            local = self.state.shown(SocketAddr::new(source, local.port()));
            self.state.local.set(local);
        }
        self.state.peer.set(Some(peer));
        Ok(())
    }

    fn disconnect(&self) -> io::Result<()> {
        self.state.peer.set(None);
        Ok(())
    }

    fn receive(&self, slots: usize, batch: &mut RecvBatch) -> io::Result<bool> {
        batch.messages.clear();
        let data = Rc::get_mut(&mut batch.data).ok_or(io::ErrorKind::ResourceBusy)?;
        let mut queue = self.state.queue.borrow_mut();
        while batch.messages.len() < slots {
            let Some(received) = queue.pop_front() else { break };
            let start = batch.messages.len() * SLOT_LEN;
            let len = received.payload.len();
            self.state.queued.set(self.state.queued.get() - len);
            data[start..start + len].copy_from_slice(&received.payload);
            batch.messages.push(Message {
                len,
                segment: len.max(1),
                truncated: false,
                source: self.state.shown(received.source),
                meta: Meta::default(),
            });
        }
        if batch.messages.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(queue.is_empty())
    }

    fn send(&self, batch: &SendBatch<'_>) -> io::Result<usize> {
        self.bind_ephemeral()?;
        let net = &mut *self.net.borrow_mut();
        for (sent, datagram) in batch.queue.iter().enumerate() {
            match self.send_one(net, datagram, batch.payload(datagram)) {
                Err(error) if sent == 0 => return Err(error),
                Err(_) => return Ok(sent),
                Ok(()) => {}
            }
        }
        Ok(batch.queue.len())
    }

    fn next_error(&self) -> io::Result<Option<QueuedError>> {
        Ok(self.state.errors.borrow_mut().pop_front())
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        let errno = self.state.pending.take();
        Ok((errno != 0).then(|| io::Error::from_raw_os_error(errno)))
    }

    fn watch_writable(&self, on: bool) -> io::Result<()> {
        if on {
            self.net.borrow_mut().raise(self.host, &self.state.signal, Signal::WRITABLE);
        }
        Ok(())
    }

    fn option(&self, _option: SocketOption) -> io::Result<u32> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_option(&self, _option: SocketOption, _value: u32) -> io::Result<()> {
        Ok(())
    }

    fn device(&self) -> io::Result<Option<String>> {
        Ok(None)
    }

    fn set_device(&self, _name: Option<&str>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_metadata(&self, wanted: Metadata) -> io::Result<Metadata> {
        Ok(wanted)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
