//! The error queue of a socket.

use std::io;
use std::mem::zeroed;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::name::Name;
use super::{ControlSpace, ExtendedError, Received, decode};
use crate::sys::counted;

/// The oldest entry of the error queue, `None` if it is empty: where the datagram that caused it was
/// going, and what was reported (`None` if the entry is of an unknown form).
pub(crate) fn take_report(
    fd: BorrowedFd<'_>,
) -> io::Result<Option<(Option<SocketAddr>, Option<ExtendedError>)>> {
    let mut name = Name::zeroed();
    let mut control = ControlSpace([0; 512]);
    // SAFETY: plain data for which all zeroes is valid: no payload is asked for.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_name = (&raw mut name).cast();
    header.msg_control = (&raw mut control).cast();
    let taken = counted(|| {
        header.msg_namelen = Name::LEN;
        header.msg_controllen = control.0.len() as _;
        // SAFETY: name and control point to memory that is alive, ours, and as long as the header
        // says, until the call returns.
        unsafe {
            libc::recvmsg(fd.as_raw_fd(), &raw mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
        }
    });
    match taken {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        other => other?,
    };
    let report = decode(control.written(&header)).find_map(|received| match received {
        Received::Error(report) => Some(report),
        _ => None,
    });
    Ok(Some((name.get(header.msg_namelen), report)))
}
