//! Options and their bounds, as the kernel has them.

use std::io;
use std::net::Ipv4Addr;
use std::rc::Rc;

use super::super::host::HostId;
use super::super::network::Net;
use super::State;
use crate::datagram::Family;
use crate::net::SocketOption;

/// `net.core.rmem_default` and `wmem_default`, and the most that may be asked for (`rmem_max`).
const BUFFER: u32 = 212_992;
/// The least that a receive and a send buffer can be.
const LEAST_RECV: u32 = 2_304;
const LEAST_SEND: u32 = 4_608;

#[derive(Clone)]
pub(super) struct Options {
    pub(super) reuse_address: bool,
    pub(super) reuse_port: bool,
    pub(super) broadcast: bool,
    pub(super) ttl: u8,
    pub(super) tos: u8,
    pub(super) recv_buffer: u32,
    pub(super) send_buffer: u32,
    /// The discriminant of `PathMtu`.
    pub(super) path_mtu: u8,
    pub(super) error_queue: bool,
    pub(super) multicast_ttl: u8,
    pub(super) multicast_loopback: bool,
    pub(super) multicast_all: bool,
    /// 0: as routed.
    pub(super) multicast_interface: u32,
    /// The source of what is sent to groups, if it was chosen with the interface.
    pub(super) multicast_source: Option<Ipv4Addr>,
    /// The interface that it is confined to; 0 for none.
    pub(super) device: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            reuse_address: false,
            reuse_port: false,
            broadcast: false,
            ttl: 64,
            tos: 0,
            recv_buffer: BUFFER,
            send_buffer: BUFFER,
            path_mtu: 1,
            error_queue: false,
            multicast_ttl: 1,
            multicast_loopback: true,
            multicast_all: true,
            multicast_interface: 0,
            multicast_source: None,
            device: 0,
        }
    }
}

impl State {
    pub(super) fn option(&self, net: &Net, host: HostId, option: SocketOption) -> io::Result<u32> {
        let options = self.options.borrow();
        Ok(match option {
            SocketOption::Broadcast => options.broadcast.into(),
            SocketOption::Ttl => options.ttl.into(),
            SocketOption::Tos => options.tos.into(),
            SocketOption::RecvBuffer => options.recv_buffer,
            SocketOption::SendBuffer => options.send_buffer,
            SocketOption::PathMtuMode => options.path_mtu.into(),
            SocketOption::ErrorQueue => options.error_queue.into(),
            SocketOption::PathMtu => {
                let peer = self.peer.get().ok_or(io::ErrorKind::NotConnected)?;
                net.path_mtu(host, peer.ip())
            }
            SocketOption::MulticastTtl => options.multicast_ttl.into(),
            SocketOption::MulticastLoopback => options.multicast_loopback.into(),
            SocketOption::MulticastAll => options.multicast_all.into(),
            SocketOption::ReuseAddress => options.reuse_address.into(),
            SocketOption::ReusePort => options.reuse_port.into(),
            SocketOption::V6Only => (self.family == Family::V6Only).into(),
            SocketOption::BusyPoll => return Err(io::ErrorKind::Unsupported.into()),
        })
    }

    pub(super) fn set_option(self: &Rc<Self>, option: SocketOption, value: u32) -> io::Result<()> {
        let options = &mut *self.options.borrow_mut();
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let byte = |least: u8| u8::try_from(value).ok().filter(|value| *value >= least);
        match option {
            SocketOption::Broadcast => options.broadcast = value != 0,
            SocketOption::Ttl => options.ttl = byte(1).ok_or_else(invalid)?,
            SocketOption::Tos => options.tos = byte(0).ok_or_else(invalid)?,
            SocketOption::RecvBuffer => {
                options.recv_buffer = (value.min(BUFFER) * 2).max(LEAST_RECV);
            }
            SocketOption::SendBuffer => {
                options.send_buffer = (value.min(BUFFER) * 2).max(LEAST_SEND);
            }
            SocketOption::PathMtuMode => {
                options.path_mtu = byte(0).filter(|mode| *mode <= 5).ok_or_else(invalid)?;
            }
            SocketOption::ErrorQueue => {
                options.error_queue = value != 0;
                if value == 0 {
                    let freed = self.errors.borrow_mut().purge();
                    self.charged.set(self.charged.get() - freed);
                }
            }
            SocketOption::MulticastTtl => options.multicast_ttl = byte(0).ok_or_else(invalid)?,
            SocketOption::MulticastLoopback => options.multicast_loopback = value != 0,
            SocketOption::MulticastAll => options.multicast_all = value != 0,
            SocketOption::BusyPoll => return Err(io::ErrorKind::Unsupported.into()),
            SocketOption::PathMtu
            | SocketOption::ReuseAddress
            | SocketOption::ReusePort
            | SocketOption::V6Only => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(())
    }
}
