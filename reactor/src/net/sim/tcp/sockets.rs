//! The sockets as the reactor holds them; closed when they are dropped.

use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::address::shown;
use super::pump;
use super::stack::{Connection, Stack};
use super::tcb::State;
use crate::net::sim::host::{HostId, Signal};
use crate::net::sim::network::{Net, SharedNet};
use crate::net::{ListenSocket, StreamOption, StreamSocket};
use crate::slots::Key;
use crate::stream::KeepAlive;

/// Where a socket is: on a host, as long as that is not restarted.
#[derive(Clone)]
pub(super) struct Owner {
    pub(super) net: SharedNet,
    pub(super) host: HostId,
    pub(super) incarnation: u32,
}

impl Owner {
    /// Calls with the host's connections and the time; `ENOTCONN` if the host has crashed since.
    fn with<R>(&self, call: impl FnOnce(&mut Stack, u64) -> io::Result<R>) -> io::Result<R> {
        let net: &mut Net = &mut self.net.borrow_mut();
        let now = net.now;
        let host = net.host_mut(self.host);
        if host.incarnation != self.incarnation {
            return Err(errno(libc::ENOTCONN));
        }
        let result = call(host.tcp.stack(), now);
        pump(net, self.host);
        result
    }
}

impl Owner {
    /// An address as the sockets of the host tell it.
    fn zoned(&self, address: SocketAddr) -> SocketAddr {
        self.net.borrow().host(self.host).zoned(address)
    }
}

pub(super) fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// A connection.
pub(crate) struct SimStream {
    pub(super) owner: Owner,
    pub(super) key: Key,
}

impl SimStream {
    fn with<R>(&self, call: impl FnOnce(&mut Connection, u64) -> Result<R, i32>) -> io::Result<R> {
        self.owner.with(|stack, now| {
            let connection = stack.connections.get_mut(self.key);
            let result = connection.map_or(Err(libc::ENOTCONN), |connection| call(connection, now));
            stack.settle(now, self.key);
            result.map_err(errno)
        })
    }

    /// Bytes that wait to be read.
    #[cfg(feature = "testing")]
    pub(crate) fn unread(&self) -> io::Result<usize> {
        self.with(|connection, _| Ok(connection.tcb.queued().0))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        // A host that crashed since has forgotten it.
        let _ = self.owner.with(|stack, now| {
            stack.close(now, self.key);
            Ok(())
        });
    }
}

impl StreamSocket for SimStream {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        let local =
            self.with(|connection, _| Ok(shown(connection.tuple.local(), connection.mapped)))?;
        Ok(self.owner.zoned(local))
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        let peer = self.with(|connection, _| match connection.tcb.state() {
            State::SynSent | State::SynReceived | State::Closed => Err(libc::ENOTCONN),
            _ => Ok(shown(connection.tuple.remote(), connection.mapped)),
        })?;
        Ok(self.owner.zoned(peer))
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(|connection, _| connection.tcb.read(buffer))
    }

    fn write(&self, data: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(data)])
    }

    fn write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.with(|connection, _| connection.tcb.write(pieces))
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.with(|connection, _| match how {
            Shutdown::Write => connection.tcb.shutdown_write(),
            Shutdown::Read => connection.tcb.shutdown_read(),
            Shutdown::Both => {
                connection.tcb.shutdown_read()?;
                connection.tcb.shutdown_write()
            }
        })
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.with(|connection, _| Ok(connection.tcb.take_error().map(errno)))
    }

    fn reset_on_close(&self) -> io::Result<()> {
        self.with(|connection, _| {
            connection.tcb.abort();
            Ok(())
        })
    }

    fn set_option(&self, option: StreamOption) -> io::Result<()> {
        self.with(|connection, now| {
            connection.set_option(now, option);
            Ok(())
        })
    }

    fn nodelay(&self) -> io::Result<bool> {
        self.with(|connection, _| Ok(connection.nodelay))
    }

    fn keepalive(&self) -> io::Result<Option<KeepAlive>> {
        self.with(|connection, _| Ok(connection.tcb.keepalive()))
    }

    fn recv_buffer_size(&self) -> io::Result<usize> {
        self.with(|connection, _| Ok(connection.recv_buffer))
    }

    fn send_buffer_size(&self) -> io::Result<usize> {
        self.with(|connection, _| Ok(connection.send_buffer))
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A listening port.
pub(crate) struct SimListener {
    pub(super) owner: Owner,
    pub(super) key: Key,
    /// As it is shown.
    pub(super) local: SocketAddr,
}

impl Drop for SimListener {
    fn drop(&mut self) {
        // A host that crashed since has forgotten it.
        let _ = self.owner.with(|stack, now| {
            stack.close_listener(now, self.key);
            Ok(())
        });
    }
}

impl SimListener {
    /// Takes a connection that waits, with the address of its peer.
    pub(crate) fn take(&self, token: usize) -> io::Result<(Rc<SimStream>, SocketAddr)> {
        let (key, peer) = self.owner.with(|stack, _| {
            let accepted = stack.accept(self.key, &Signal::new(token));
            accepted.ok_or_else(|| errno(libc::EAGAIN))
        })?;
        let peer = self.owner.zoned(peer);
        Ok((Rc::new(SimStream { owner: self.owner.clone(), key }), peer))
    }
}

impl ListenSocket for SimListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.owner.zoned(self.local))
    }

    fn accept(&self, token: usize) -> io::Result<(Rc<dyn StreamSocket>, SocketAddr)> {
        self.take(token).map(|(stream, peer)| (stream as Rc<dyn StreamSocket>, peer))
    }

    fn shed(&self, most: usize) -> usize {
        let shed = self
            .owner
            .with(|stack, now| Ok((0..most).take_while(|_| stack.shed(now, self.key)).count()));
        shed.unwrap_or(0)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
