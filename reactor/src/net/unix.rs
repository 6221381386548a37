//! UNIX sockets, as the reactor asks for them. Streams are [`StreamSocket`](super::StreamSocket)s
//! like any other once they are open.

use std::io;
use std::os::fd::BorrowedFd;

use super::StreamOption;
use crate::unix::UnixAddr;

/// A listening UNIX socket to open. A path that a dead program left behind is replaced; whoever
/// answers, or is no socket, is `AddrInUse`.
#[derive(Clone, Debug)]
pub(crate) struct UnixListenSpec {
    pub(crate) address: UnixAddr,
    /// Mode bits of the path, in force before anybody can connect.
    pub(crate) mode: Option<u32>,
    pub(crate) backlog: u32,
    /// What every accepted connection gets.
    pub(crate) options: Vec<StreamOption>,
}

/// A UNIX connection to open.
#[derive(Clone, Debug)]
pub(crate) struct UnixSpec {
    pub(crate) peer: UnixAddr,
    pub(crate) options: Vec<StreamOption>,
}

/// A UNIX datagram socket to open.
#[derive(Clone, Debug)]
pub(crate) struct UnixDatagramSpec {
    pub(crate) address: Option<UnixAddr>,
    pub(crate) mode: Option<u32>,
    pub(crate) recv_buffer: Option<usize>,
    pub(crate) send_buffer: Option<usize>,
}

/// A datagram received.
#[derive(Debug)]
pub(crate) struct UnixMessage {
    pub(crate) len: usize,
    pub(crate) truncated: bool,
    pub(crate) source: UnixAddr,
}

/// A UNIX datagram socket, registered for reading.
pub(crate) trait UnixDatagramSocket {
    fn local_addr(&self) -> io::Result<UnixAddr>;
    fn peer_addr(&self) -> io::Result<UnixAddr>;
    fn connect(&self, peer: &UnixAddr) -> io::Result<()>;
    fn disconnect(&self) -> io::Result<()>;
    fn receive(&self, buffer: &mut [u8]) -> io::Result<UnixMessage>;
    /// Sends one datagram, to the peer if `to` is `None`. `WouldBlock`: the receiver, or the send
    /// buffer, has no room. On a socket with a peer an event tells when there is, once
    /// [`watch_writable`](Self::watch_writable) asks for it; on one without, nothing does.
    fn send(&self, payload: &[u8], to: Option<&UnixAddr>) -> io::Result<()>;
    fn watch_writable(&self, on: bool) -> io::Result<()>;
    fn recv_buffer_size(&self) -> io::Result<usize>;
    fn send_buffer_size(&self) -> io::Result<usize>;
    /// The descriptor, where there is one.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}
