//! Stream sockets, as the reactor asks for them.

use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::StreamLink;
use crate::datagram::Family;
use crate::stream::{KeepAlive, PeerAddr};
use crate::unix::{PeerCredentials, UnixAddr};

/// A listening socket to open.
#[derive(Clone, Debug)]
pub(crate) struct ListenSpec {
    pub(crate) family: Family,
    pub(crate) bind: SocketAddr,
    pub(crate) backlog: u32,
    pub(crate) reuse_address: bool,
    pub(crate) reuse_port: bool,
    pub(crate) device: Option<String>,
    /// What every accepted connection gets.
    pub(crate) options: Vec<StreamOption>,
}

/// A connection to open.
#[derive(Clone, Debug)]
pub(crate) struct StreamSpec {
    pub(crate) peer: SocketAddr,
    /// Where to bind; `None` leaves it to the kernel.
    pub(crate) bind: Option<SocketAddr>,
    /// Options to set before the attempt begins.
    pub(crate) options: Vec<StreamOption>,
}

/// An option of a stream, with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamOption {
    /// `TCP_NODELAY`.
    NoDelay(bool),
    /// `SO_KEEPALIVE` and its times.
    KeepAlive(Option<KeepAlive>),
    /// `SO_RCVBUF` in bytes.
    RecvBuffer(usize),
    /// `SO_SNDBUF` in bytes.
    SendBuffer(usize),
}

/// A socket that takes connections.
pub(crate) trait ListenSocket {
    fn local_addr(&self) -> io::Result<SocketAddr>;
    /// Takes a connection that waits and registers it under `token`. `WouldBlock`: there is none,
    /// and an event will tell.
    fn accept(&self, token: usize) -> io::Result<(Rc<dyn StreamSocket>, SocketAddr)>;
    /// As [`accept`](Self::accept), whatever the family of the peer.
    fn accept_peer(&self, token: usize) -> io::Result<(StreamLink, PeerAddr)> {
        self.accept(token).map(|(socket, peer)| (socket.into(), peer.into()))
    }
    /// Where a UNIX socket listens.
    fn unix_addr(&self) -> io::Result<UnixAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// With the process out of descriptors: takes up to `most` connections that wait and closes
    /// them. Returns how many.
    fn shed(&self, most: usize) -> usize;
    /// The descriptor, where there is one.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}

/// A stream socket, registered for reading and writing. `WouldBlock` is followed by an event once
/// the call is worth repeating.
pub(crate) trait StreamSocket {
    fn local_addr(&self) -> io::Result<SocketAddr>;
    fn peer_addr(&self) -> io::Result<SocketAddr>;
    /// Reads what has arrived; 0 is the end of the stream.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Sends a prefix of `data` and returns its length. Never raises `SIGPIPE`.
    fn write(&self, data: &[u8]) -> io::Result<usize>;
    /// As `write`, for pieces that follow each other.
    fn write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Ends the stream in one direction, or both.
    fn shutdown(&self, how: Shutdown) -> io::Result<()>;
    /// Fetches and clears the pending error (`SO_ERROR`).
    fn take_error(&self) -> io::Result<Option<io::Error>>;
    /// Makes closing it a reset, if it is none at once: nothing more is sent, and the peer is told
    /// so. To be called last.
    fn reset_on_close(&self) -> io::Result<()>;

    fn set_option(&self, option: StreamOption) -> io::Result<()>;
    fn nodelay(&self) -> io::Result<bool>;
    fn keepalive(&self) -> io::Result<Option<KeepAlive>>;
    fn recv_buffer_size(&self) -> io::Result<usize>;
    fn send_buffer_size(&self) -> io::Result<usize>;
    /// The addresses of a UNIX socket, which has none of IP.
    fn unix_local_addr(&self) -> io::Result<UnixAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn unix_peer_addr(&self) -> io::Result<UnixAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Who opened the other end of a UNIX socket.
    fn peer_credentials(&self) -> io::Result<PeerCredentials> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// The descriptor, where there is one.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}
