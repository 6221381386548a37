//! Stream sockets.

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::poller::Registration;
use crate::net::StreamSocket;

/// Writing to a stream that the peer has closed is an error and no signal.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: i32 = libc::MSG_NOSIGNAL;
/// There the socket carries `SO_NOSIGPIPE`.
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: i32 = 0;

pub(super) struct OsStream {
    socket: Socket,
}

impl OsStream {
    pub(super) fn connect(
        peer: SocketAddr,
        bind: Option<SocketAddr>,
        registration: &Registration,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(peer), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        #[cfg(target_vendor = "apple")]
        socket.set_nosigpipe(true)?;
        if let Some(address) = bind {
            socket.bind(&address.into())?;
        }
        registration.register_stream(socket.as_fd())?;
        match socket.connect(&peer.into()) {
            // Interrupted: the attempt goes on, as connect(2) says.
            Err(error)
                if error.raw_os_error() != Some(libc::EINPROGRESS)
                    && error.kind() != io::ErrorKind::Interrupted =>
            {
                Err(error)
            }
            _ => Ok(Self { socket }),
        }
    }
}

/// Repeats a call that a signal interrupted.
fn retried<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

impl StreamSocket for OsStream {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        let peer = self.socket.peer_addr()?;
        peer.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        retried(|| (&self.socket).read(buffer))
    }

    fn write(&self, data: &[u8]) -> io::Result<usize> {
        retried(|| self.socket.send_with_flags(data, NO_SIGNAL))
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.shutdown(how)
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.socket.take_error()
    }
}
