//! What Linux offers beyond: batches, control messages, segmentation, the error queue, groups of
//! both families by interface index.

mod control;
mod errors;
mod groups;
mod name;
mod recv;
mod send;

use std::os::fd::{AsRawFd, BorrowedFd};

use control::ExtendedError;
pub(crate) use control::{Encoder, Received, decode};
pub(crate) use errors::take_report;
pub(crate) use groups::{request_group, request_source, set_multicast_interface_v4, source_filter};
pub(crate) use recv::RecvHeaders;
pub(crate) use send::{BATCH, Outbound, SendHeaders};

use super::counted;

/// Datagrams that the kernel dropped on this socket since it was made, modulo 2^32; `None` where it
/// does not say (before Linux 4.6).
pub(crate) fn drops(fd: BorrowedFd<'_>) -> Option<u32> {
    // SK_MEMINFO_VARS numbers, of which SK_MEMINFO_DROPS is the last (linux/sock_diag.h).
    let mut numbers = [0_u32; 9];
    let mut len = size_of_val(&numbers) as libc::socklen_t;
    let (level, name, value) = (libc::SOL_SOCKET, libc::SO_MEMINFO, numbers.as_mut_ptr().cast());
    // SAFETY: the kernel writes at most `len` bytes, the size of `numbers`.
    counted(|| unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, value, &raw mut len) as isize
    })
    .ok()?;
    (len as usize == size_of_val(&numbers)).then_some(numbers[8])
}

/// Room for the control messages of one message, aligned as the kernel wants `cmsghdr`.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct ControlSpace<const N: usize>([u8; N]);

impl<const N: usize> ControlSpace<N> {
    /// What the kernel wrote, as the header it was given tells.
    fn written(&self, header: &libc::msghdr) -> &[u8] {
        #[allow(clippy::unnecessary_cast, reason = "a socklen_t with musl")]
        let len = header.msg_controllen as usize;
        &self.0[..len.min(N)]
    }
}
