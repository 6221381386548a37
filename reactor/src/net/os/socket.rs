//! What every datagram socket does in the same way; how datagrams cross is its [`Transfer`].

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{SockAddr, Socket};

use super::poller::Registration;
use super::{groups, options};
use crate::datagram::{Capabilities, Family, Metadata, SourceFilter};
use crate::net::{
    DatagramSocket, GroupRequest, Membership, QueuedError, RecvBatch, SendBatch, SocketOption,
};
use crate::sys;

/// How datagrams cross to and from the kernel.
pub(super) trait Transfer: 'static {
    fn capabilities(&self) -> Capabilities;
    fn receive(&self, at: &Endpoint, slots: usize, batch: &mut RecvBatch) -> io::Result<bool>;
    fn send(&self, at: &Endpoint, batch: &SendBatch<'_>) -> io::Result<usize>;
    fn next_error(&self, at: &Endpoint) -> io::Result<Option<QueuedError>>;
    fn set_metadata(&self, at: &Endpoint, wanted: Metadata) -> io::Result<Metadata>;
}

/// A descriptor, and what must be known of it.
pub(super) struct Endpoint {
    pub(super) socket: Socket,
    pub(super) family: Family,
    registration: Registration,
    /// What the first `connect` found; `disconnect` restores it.
    unconnected: RefCell<Option<Unconnected>>,
    /// The interface that groups are sent to by over IPv4, where the kernel does not say.
    pub(super) multicast_interface: Cell<u32>,
}

/// What a socket was before it had a peer.
struct Unconnected {
    /// Unless the kernel was still to choose one.
    local: Option<SocketAddr>,
    device: Option<String>,
}

impl Endpoint {
    pub(super) fn new(socket: Socket, family: Family, registration: Registration) -> Self {
        Self {
            socket,
            family,
            registration,
            unconnected: RefCell::new(None),
            multicast_interface: Cell::new(0),
        }
    }

    #[inline]
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn register(&self) -> io::Result<()> {
        self.registration.register(self.fd())
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        ip(self.socket.local_addr()?)
    }

    pub(super) fn peer_addr(&self) -> io::Result<SocketAddr> {
        ip(self.socket.peer_addr()?)
    }

    fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        let had_peer = self.unconnected.borrow().is_some() || self.socket.peer_addr().is_ok();
        // With a peer, a socket shows an address chosen for it.
        let before = if had_peer { None } else { Some(self.shown()?) };
        let peer = SockAddr::from(peer);
        loop {
            match self.socket.connect(&peer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
                _ => break,
            }
        }
        if before.is_some() {
            *self.unconnected.borrow_mut() = before;
        }
        Ok(())
    }

    fn disconnect(&self) -> io::Result<()> {
        let before = match self.unconnected.take() {
            Some(before) => before,
            // Adopted with a peer: what it shows now is all that is known.
            None if self.socket.peer_addr().is_ok() => self.shown()?,
            None => return Ok(()),
        };
        sys::disconnect(self.fd())?;
        // Linux forgets the device in any case, and the port if the kernel had chosen it.
        if before.device.is_some() {
            options::set_device(&self.socket, before.device.as_deref())?;
        }
        match before.local {
            Some(local) if self.local_addr()?.port() == 0 => self.socket.bind(&local.into()),
            _ => Ok(()),
        }
    }

    fn shown(&self) -> io::Result<Unconnected> {
        let local = self.local_addr()?;
        Ok(Unconnected {
            local: (local.port() != 0).then_some(local),
            device: options::device(&self.socket)?,
        })
    }

    fn option(&self, option: SocketOption) -> io::Result<u32> {
        let names = options::names(option, self.family).ok_or(io::ErrorKind::Unsupported)?;
        let (level, name) = names.first;
        // -1 is how an option says that it was never set.
        Ok(u32::try_from(sys::option(self.fd(), level, name)?).unwrap_or(0))
    }

    fn set_option(&self, option: SocketOption, value: u32) -> io::Result<()> {
        let names = options::names(option, self.family).ok_or(io::ErrorKind::Unsupported)?;
        let value = match i32::try_from(value) {
            Ok(value) if options::is_settable(option) => value,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let (level, name) = names.first;
        sys::set_option(self.fd(), level, name, value)
            .map_err(|error| options::refused(option, error))?;
        match names.second.map(|(level, name)| sys::set_option(self.fd(), level, name, value)) {
            // Elsewhere the options of IPv4 may not exist on sockets of IPv6.
            Some(Err(error)) if cfg!(any(target_os = "linux", target_os = "android")) => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.registration.end(self.fd());
    }
}

fn ip(address: SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A datagram socket of the kernel.
pub(super) struct OsSocket<T> {
    endpoint: Endpoint,
    transfer: T,
}

impl<T: Transfer> OsSocket<T> {
    pub(super) fn new(endpoint: Endpoint, transfer: T) -> Self {
        Self { endpoint, transfer }
    }

    pub(super) fn inner(&self) -> &Socket {
        &self.endpoint.socket
    }

    pub(super) fn register(&self) -> io::Result<()> {
        self.endpoint.register()
    }
}

impl<T: Transfer> DatagramSocket for OsSocket<T> {
    fn family(&self) -> Family {
        self.endpoint.family
    }

    fn capabilities(&self) -> Capabilities {
        self.transfer.capabilities()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.peer_addr()
    }

    fn bind(&self, address: SocketAddr) -> io::Result<()> {
        self.endpoint.socket.bind(&address.into())
    }

    fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        self.endpoint.connect(peer)
    }

    fn disconnect(&self) -> io::Result<()> {
        self.endpoint.disconnect()
    }

    fn receive(&self, slots: usize, batch: &mut RecvBatch) -> io::Result<bool> {
        self.transfer.receive(&self.endpoint, slots, batch)
    }

    fn send(&self, batch: &SendBatch<'_>) -> io::Result<usize> {
        self.transfer.send(&self.endpoint, batch)
    }

    fn next_error(&self) -> io::Result<Option<QueuedError>> {
        self.transfer.next_error(&self.endpoint)
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.endpoint.socket.take_error()
    }

    fn watch_writable(&self, on: bool) -> io::Result<()> {
        self.endpoint.registration.watch_writable(self.endpoint.fd(), on)
    }

    fn option(&self, option: SocketOption) -> io::Result<u32> {
        self.endpoint.option(option)
    }

    fn set_option(&self, option: SocketOption, value: u32) -> io::Result<()> {
        if option == SocketOption::ErrorQueue && !self.capabilities().error_queue {
            // The kernel would fill a queue that nobody reads.
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.endpoint.set_option(option, value)
    }

    fn device(&self) -> io::Result<Option<String>> {
        options::device(&self.endpoint.socket)
    }

    fn set_device(&self, name: Option<&str>) -> io::Result<()> {
        options::set_device(&self.endpoint.socket, name)?;
        if let Some(unconnected) = &mut *self.endpoint.unconnected.borrow_mut() {
            unconnected.device = name.map(str::to_owned);
        }
        Ok(())
    }

    fn set_metadata(&self, wanted: Metadata) -> io::Result<Metadata> {
        self.transfer.set_metadata(&self.endpoint, wanted)
    }

    fn change_membership(&self, request: GroupRequest, at: &Membership) -> io::Result<()> {
        groups::change_membership(&self.endpoint, request, at)
    }

    fn source_filter(&self, group: IpAddr, interface: u32) -> io::Result<Option<SourceFilter>> {
        groups::source_filter(&self.endpoint, group, interface)
    }

    fn multicast_interface(&self) -> io::Result<u32> {
        groups::multicast_interface(&self.endpoint)
    }

    fn set_multicast_interface(&self, interface: u32, source: Option<Ipv4Addr>) -> io::Result<()> {
        groups::set_multicast_interface(&self.endpoint, interface, source)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn drops(&self) -> Option<u32> {
        sys::drops(self.endpoint.fd())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.endpoint.fd())
    }
}
