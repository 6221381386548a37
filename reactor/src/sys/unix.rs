//! UNIX sockets: who is at the other end, and taking turns with others about a path.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::counted;
use crate::unix::PeerCredentials;

/// Who opened the other end of a UNIX stream.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn peer_credentials(fd: BorrowedFd<'_>) -> io::Result<PeerCredentials> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_PEERCRED);
    // SAFETY: the kernel writes at most `len` bytes, the size of `found`.
    counted(|| unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut found).cast(), &raw mut len)
            as isize
    })?;
    // 0: of a namespace that cannot be seen into.
    let pid = u32::try_from(found.pid).ok().filter(|pid| *pid != 0);
    Ok(PeerCredentials { pid, uid: found.uid, gid: found.gid })
}

/// Who opened the other end of a UNIX stream.
#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd"
))]
pub(crate) fn peer_credentials(fd: BorrowedFd<'_>) -> io::Result<PeerCredentials> {
    let (mut uid, mut gid) = (0, 0);
    // SAFETY: both pointers are to values of the types that the call writes.
    counted(|| unsafe { libc::getpeereid(fd.as_raw_fd(), &raw mut uid, &raw mut gid) as isize })?;
    Ok(PeerCredentials { pid: None, uid, gid })
}

/// Systems that tell nothing.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd"
)))]
pub(crate) fn peer_credentials(_fd: BorrowedFd<'_>) -> io::Result<PeerCredentials> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Takes the advisory lock of an open file or directory, which is held until it is closed; never
/// waits. `WouldBlock`: another has it.
#[cfg(not(target_os = "solaris"))]
pub(crate) fn try_lock(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes numbers, and touches no memory of ours.
    counted(|| unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) as isize })?;
    Ok(())
}

/// Takes the advisory lock of an open file or directory.
#[cfg(target_os = "solaris")]
pub(crate) fn try_lock(_fd: BorrowedFd<'_>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
