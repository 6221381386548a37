//! UNIX sockets of the kernel: opening streams, and datagrams.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::poller::Registration;
use super::unix_path::{self, Claim};
use crate::error::AdoptError;
use crate::net::{OpenError, UnixDatagramSocket, UnixDatagramSpec, UnixMessage};
use crate::sys;
use crate::unix::UnixAddr;

/// Apple's systems have no such flag; sockets of datagrams raise no `SIGPIPE` there.
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: libc::c_int = 0;
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: libc::c_int = libc::MSG_NOSIGNAL;

/// A socket of this kind, non-blocking and close-on-exec.
pub(super) fn socket(kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, kind, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The address as the kernel takes it.
pub(super) fn name(address: &UnixAddr) -> io::Result<SockAddr> {
    match (address.as_path(), address.as_abstract_name()) {
        (Some(path), _) => SockAddr::unix(path),
        (_, Some(name)) => {
            use std::os::unix::ffi::OsStrExt;
            let text = [&[0], name].concat();
            SockAddr::unix(Path::new(std::ffi::OsStr::from_bytes(&text)))
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// The address that the kernel gave; `None` for one of another family. Not `as_unix`, which
/// panics for the longest path that Linux allows.
pub(super) fn address(given: &SockAddr, last: &UnixAddr) -> Option<UnixAddr> {
    if let Some(path) = given.as_pathname() {
        Some(UnixAddr::from_path_or(last, path))
    } else if let Some(name) = given.as_abstract_namespace() {
        Some(UnixAddr::abstract_name(name))
    } else {
        // On some systems nobody has no family either.
        (given.is_unix() || given.len() == 0).then_some(UnixAddr::UNNAMED)
    }
}

/// As [`address`], of a socket that should be of UNIX.
pub(super) fn own(given: &SockAddr) -> io::Result<UnixAddr> {
    let unsupported = || io::ErrorKind::Unsupported.into();
    address(given, &UnixAddr::UNNAMED).filter(|_| given.is_unix()).ok_or_else(unsupported)
}

pub(super) struct OsUnixDatagram {
    /// First: the path is looked at while the socket still holds its inode.
    _claim: Option<Claim>,
    socket: Socket,
    registration: Registration,
    /// Who sent last, and is likely to send next.
    last: RefCell<UnixAddr>,
}

impl OsUnixDatagram {
    pub(super) fn open(
        spec: &UnixDatagramSpec,
        registration: Registration,
    ) -> Result<Self, OpenError> {
        let named = |name| move |error| OpenError::Option(name, error);
        let socket = socket(Type::DGRAM).map_err(OpenError::Socket)?;
        if let Some(bytes) = spec.recv_buffer {
            socket.set_recv_buffer_size(bytes).map_err(named("recv_buffer_size"))?;
        }
        if let Some(bytes) = spec.send_buffer {
            socket.set_send_buffer_size(bytes).map_err(named("send_buffer_size"))?;
        }
        let claim = match &spec.address {
            Some(address) => unix_path::bind(&socket, address, spec.mode)?.claim,
            None => None,
        };
        registration.register(socket.as_fd()).map_err(OpenError::Socket)?;
        let last = RefCell::new(UnixAddr::UNNAMED);
        Ok(Self { _claim: claim, socket, registration, last })
    }

    pub(super) fn adopt(fd: OwnedFd, registration: Registration) -> Result<Self, AdoptError> {
        let examined = SockRef::from(&fd).r#type();
        let kind = match examined {
            Ok(kind) => kind,
            Err(error) => return Err(super::not_a_socket(fd, error)),
        };
        let socket = Socket::from(fd);
        if kind != Type::DGRAM {
            let found = match kind {
                Type::STREAM => "a stream socket".into(),
                other => format!("a socket of type {}", i32::from(other)),
            };
            return Err(AdoptError::NotDatagram { found });
        }
        let domain = socket.local_addr().map_err(AdoptError::Socket)?.domain();
        if domain != Domain::UNIX {
            return Err(AdoptError::Family { found: domain.into() });
        }
        socket.set_nonblocking(true).map_err(AdoptError::Socket)?;
        socket.set_cloexec(true).map_err(AdoptError::Socket)?;
        registration.register(socket.as_fd()).map_err(AdoptError::Socket)?;
        let last = RefCell::new(UnixAddr::UNNAMED);
        Ok(Self { _claim: None, socket, registration, last })
    }
}

impl Drop for OsUnixDatagram {
    fn drop(&mut self) {
        self.registration.end(self.socket.as_fd());
    }
}

impl UnixDatagramSocket for OsUnixDatagram {
    fn local_addr(&self) -> io::Result<UnixAddr> {
        own(&self.socket.local_addr()?)
    }

    fn peer_addr(&self) -> io::Result<UnixAddr> {
        own(&self.socket.peer_addr()?)
    }

    fn connect(&self, peer: &UnixAddr) -> io::Result<()> {
        self.socket.connect(&name(peer)?)
    }

    fn disconnect(&self) -> io::Result<()> {
        sys::disconnect(self.socket.as_fd())
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<UnixMessage> {
        let single = sys::receive_one(self.socket.as_fd(), buffer)?;
        let mut last = self.last.borrow_mut();
        let source = address(&single.source, &last).unwrap_or(UnixAddr::UNNAMED);
        last.clone_from(&source);
        Ok(UnixMessage { len: single.len, truncated: single.truncated, source })
    }

    fn send(&self, payload: &[u8], to: Option<&UnixAddr>) -> io::Result<()> {
        let to = to.map(name).transpose()?;
        let flags = libc::MSG_DONTWAIT | NO_SIGNAL;
        loop {
            let sent = match &to {
                Some(to) => self.socket.send_to_with_flags(payload, to, flags),
                None => self.socket.send_with_flags(payload, flags),
            };
            match sent {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(drop),
            }
        }
    }

    fn watch_writable(&self, on: bool) -> io::Result<()> {
        self.registration.watch_writable(self.socket.as_fd(), on)
    }

    fn recv_buffer_size(&self) -> io::Result<usize> {
        self.socket.recv_buffer_size()
    }

    fn send_buffer_size(&self) -> io::Result<usize> {
        self.socket.send_buffer_size()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}
