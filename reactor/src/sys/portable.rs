//! What every unix offers: one datagram at a time, without metadata.

use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{SockAddr, SockAddrStorage, SockRef};

use super::counted;

/// Apple's systems have no such flag; sockets of datagrams raise no `SIGPIPE` anyway.
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: libc::c_int = 0;
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: libc::c_int = libc::MSG_NOSIGNAL;

/// A datagram received alone.
pub(crate) struct Single {
    pub(crate) len: usize,
    /// The rest of it did not fit and is gone.
    pub(crate) truncated: bool,
    /// Of any family, or none.
    pub(crate) source: SockAddr,
}

/// Receives one datagram; `WouldBlock` when there is none.
pub(crate) fn receive_one(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Single> {
    let mut storage = SockAddrStorage::zeroed();
    let name_len = storage.size_of();
    let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: `msghdr` is plain data for which all zeroes is valid: no name, no control.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_name = (&raw mut storage).cast();
    header.msg_iov = &raw mut piece;
    header.msg_iovlen = 1;
    let len = counted(|| {
        header.msg_namelen = name_len;
        header.msg_flags = 0;
        // SAFETY: name and iovec point to `storage` and `buffer`, alive, exclusively ours and as
        // long as the header says, until the call returns.
        unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) }
    })?;
    // SAFETY: the storage began zeroed and the kernel wrote `msg_namelen` bytes of an address.
    let source = unsafe { SockAddr::new(storage, header.msg_namelen.min(name_len)) };
    Ok(Single {
        len: len.min(buffer.len()),
        truncated: header.msg_flags & libc::MSG_TRUNC != 0,
        source,
    })
}

/// Receives what a stream has; `WouldBlock` when there is nothing, 0 at its end.
pub(crate) fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most the length of `buffer`, which is exclusively ours until
    // the call returns.
    counted(|| unsafe {
        libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT)
    })
}

/// Sends one datagram, to the peer if `to` is `None`.
pub(crate) fn send_one(
    fd: BorrowedFd<'_>,
    payload: &[u8],
    to: Option<SocketAddr>,
) -> io::Result<()> {
    let to = to.map(SockAddr::from);
    let socket = SockRef::from(&fd);
    let flags = libc::MSG_DONTWAIT | NO_SIGNAL;
    loop {
        let sent = match &to {
            Some(to) => socket.send_to_with_flags(payload, to, flags),
            None => socket.send_with_flags(payload, flags),
        };
        match sent {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(|_| ()),
        }
    }
}

/// Takes a connection that waits, non-blocking and close-on-exec.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn accept(fd: BorrowedFd<'_>) -> io::Result<(OwnedFd, SockAddr)> {
    let mut storage = SockAddrStorage::zeroed();
    let size = storage.size_of();
    let mut len = size;
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let accepted = counted(|| {
        len = size;
        // SAFETY: the kernel writes at most `len` bytes, the size of `storage`, and the length.
        unsafe {
            libc::accept4(fd.as_raw_fd(), (&raw mut storage).cast(), &raw mut len, flags) as isize
        }
    })?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    let accepted = unsafe { OwnedFd::from_raw_fd(accepted as RawFd) };
    // SAFETY: the storage began zeroed and the kernel wrote `len` bytes of an address.
    let peer = unsafe { SockAddr::new(storage, len.min(size)) };
    Ok((accepted, peer))
}

/// Takes a connection that waits, non-blocking and close-on-exec.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn accept(fd: BorrowedFd<'_>) -> io::Result<(OwnedFd, SockAddr)> {
    let listener = SockRef::from(&fd);
    loop {
        match listener.accept() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok((accepted, peer)) => {
                accepted.set_nonblocking(true)?;
                return Ok((accepted.into(), peer));
            }
        }
    }
}

/// Reads a socket option of type `int`.
pub(crate) fn option(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<i32> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the size of `value`.
    counted(|| unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len)
            as isize
    })?;
    Ok(value)
}

/// Sets a socket option of type `int`.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads at most `len` bytes, the size of `value`.
    counted(|| unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) as isize
    })?;
    Ok(())
}

/// Dissolves the association of a datagram socket with its peer, or a connection with a reset.
pub(crate) fn disconnect(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: `sockaddr` is plain data for which all zeroes is valid.
    let mut nobody: libc::sockaddr = unsafe { zeroed() };
    nobody.sa_family = libc::AF_UNSPEC as libc::sa_family_t;
    let len = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes, the size of `nobody`.
    let outcome =
        counted(|| unsafe { libc::connect(fd.as_raw_fd(), &raw const nobody, len) as isize });
    match outcome {
        // The BSDs dissolve the association and complain about the address.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// The index of the interface of this name.
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name ends with a zero byte and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// Takes the descriptors `first..first + count` that were open when the program started, and makes
/// them close-on-exec. `None` from the second call on: they have an owner.
///
/// The caller must know from whoever started the program that they were handed over to it.
pub(crate) fn inherited_fds(first: RawFd, count: usize) -> Option<io::Result<Vec<OwnedFd>>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    let last = i32::try_from(count).ok().and_then(|count| first.checked_add(count));
    let Some(last) = last else {
        return Some(Err(io::ErrorKind::InvalidInput.into()));
    };
    // All are looked at before one is owned, so that a failure closes nothing.
    for fd in first..last {
        // SAFETY: F_GETFD and F_SETFD take a number, open or not, and touch no memory.
        let flagged =
            counted(|| unsafe { libc::fcntl(fd, libc::F_GETFD) as isize }).and_then(|flags| {
                let flags = flags as libc::c_int | libc::FD_CLOEXEC;
                // SAFETY: as above.
                counted(|| unsafe { libc::fcntl(fd, libc::F_SETFD, flags) as isize })
            });
        if let Err(error) = flagged {
            return Some(Err(error));
        }
    }
    // SAFETY: each is open, was handed over to this process, and TAKEN makes this the only
    // place and the only time that they become owned.
    Some(Ok((first..last).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect()))
}

/// Nothing to keep between calls.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) struct RecvHeaders;

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl RecvHeaders {
    pub(crate) fn new() -> Self {
        Self
    }
}
