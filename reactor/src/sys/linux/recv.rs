//! `recvmmsg`.

use std::io;
use std::mem::zeroed;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::ControlSpace;
use super::name::Name;
use crate::net::RECV_SLOTS;
use crate::sys::counted;

/// Everything a dual-stack socket can be asked to tell takes 248 bytes; adopted sockets may have
/// been asked for more.
type Space = ControlSpace<512>;

/// Headers, names and control space of a batched receive. All pointers are set at every call, so
/// it may be moved in between.
pub(crate) struct RecvHeaders {
    messages: Box<[libc::mmsghdr]>,
    pieces: Box<[libc::iovec]>,
    names: Box<[Name]>,
    control: Box<[Space]>,
}

impl RecvHeaders {
    pub(crate) fn new() -> Self {
        // SAFETY: both are plain data for which all zeroes is valid.
        let (message, piece): (libc::mmsghdr, libc::iovec) = unsafe { (zeroed(), zeroed()) };
        Self {
            messages: vec![message; RECV_SLOTS].into(),
            pieces: vec![piece; RECV_SLOTS].into(),
            names: vec![Name::zeroed(); RECV_SLOTS].into(),
            control: vec![ControlSpace([0; 512]); RECV_SLOTS].into(),
        }
    }

    /// Receives up to `slots` messages, each to the start of `slot_len` bytes of `data`, and
    /// returns their number. The kernel is given control space only if `control` is set.
    pub(crate) fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        data: &mut [u8],
        slot_len: usize,
        slots: usize,
        control: bool,
    ) -> io::Result<usize> {
        let mut count = 0;
        let headers = self.messages.iter_mut().zip(&mut self.pieces);
        let spaces = self.names.iter_mut().zip(&mut self.control);
        for (((message, piece), (name, space)), slot) in
            headers.zip(spaces).zip(data.chunks_exact_mut(slot_len)).take(slots)
        {
            piece.iov_base = slot.as_mut_ptr().cast();
            piece.iov_len = slot_len;
            let header = &mut message.msg_hdr;
            header.msg_name = ptr::from_mut(name).cast();
            header.msg_iov = piece;
            header.msg_iovlen = 1;
            // In and out: the kernel leaves what it wrote, and the next call must not see it.
            header.msg_namelen = Name::LEN;
            header.msg_flags = 0;
            if control {
                header.msg_control = ptr::from_mut(space).cast();
                header.msg_controllen = space.0.len() as _;
            } else {
                header.msg_control = ptr::null_mut();
                header.msg_controllen = 0;
            }
            count += 1;
        }
        let (fd, first) = (fd.as_raw_fd(), self.messages.as_mut_ptr());
        if count == 1 {
            // SAFETY: the loop above set every pointer of the first header to memory that is
            // alive, exclusively borrowed by this call, and as long as the header says.
            let len = counted(|| unsafe {
                libc::recvmsg(fd, &raw mut (*first).msg_hdr, libc::MSG_DONTWAIT)
            })?;
            self.messages[0].msg_len = len as libc::c_uint;
            return Ok(1);
        }
        let null = ptr::null_mut::<libc::timespec>();
        let flags = libc::MSG_DONTWAIT;
        // By number: musl and Android's libc have no such function in the libc crate.
        // SAFETY: as above, for the first `count` headers.
        counted(|| unsafe {
            libc::syscall(libc::SYS_recvmmsg, fd, first, count as libc::c_uint, flags, null)
                as isize
        })
    }

    /// Bytes of message `index`.
    #[inline]
    pub(crate) fn len(&self, index: usize) -> usize {
        // More than was asked for only with MSG_TRUNC among the flags, which we do not give.
        (self.messages[index].msg_len as usize).min(self.pieces[index].iov_len)
    }

    #[inline]
    pub(crate) fn source(&self, index: usize) -> Option<SocketAddr> {
        self.names[index].get(self.messages[index].msg_hdr.msg_namelen)
    }

    /// The message was longer than its slot.
    #[inline]
    pub(crate) fn truncated(&self, index: usize) -> bool {
        self.messages[index].msg_hdr.msg_flags & libc::MSG_TRUNC != 0
    }

    /// The control messages, for [`decode`](super::decode).
    #[inline]
    pub(crate) fn control(&self, index: usize) -> &[u8] {
        self.control[index].written(&self.messages[index].msg_hdr)
    }
}
