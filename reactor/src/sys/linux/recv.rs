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

/// Headers, names and control space of a batched receive. What a header points to is fixed, but
/// for the payloads, whose place is set at every call: vectors that are never resized do not move
/// their elements, wherever they are moved themselves.
pub(crate) struct RecvHeaders {
    messages: Vec<libc::mmsghdr>,
    pieces: Vec<libc::iovec>,
    names: Vec<Name>,
    control: Vec<Space>,
    /// Whether the headers point to their control space.
    with_control: bool,
    /// So many headers the kernel may have written to since they were last set.
    used: usize,
}

impl RecvHeaders {
    pub(crate) fn new() -> Self {
        // SAFETY: both are plain data for which all zeroes is valid.
        let (message, piece): (libc::mmsghdr, libc::iovec) = unsafe { (zeroed(), zeroed()) };
        let mut headers = Self {
            messages: vec![message; RECV_SLOTS],
            pieces: vec![piece; RECV_SLOTS],
            names: vec![Name::zeroed(); RECV_SLOTS],
            control: vec![ControlSpace([0; 512]); RECV_SLOTS],
            with_control: false,
            used: RECV_SLOTS,
        };
        let (pieces, names) = (headers.pieces.as_mut_ptr(), headers.names.as_mut_ptr());
        for (index, message) in headers.messages.iter_mut().enumerate() {
            message.msg_hdr.msg_name = names.wrapping_add(index).cast();
            message.msg_hdr.msg_iov = pieces.wrapping_add(index);
            message.msg_hdr.msg_iovlen = 1;
        }
        headers
    }

    /// Makes the headers that were used ready to be used again.
    fn reset(&mut self, control: bool) {
        if control != self.with_control {
            self.with_control = control;
            self.used = RECV_SLOTS;
        }
        let spaces = self.control.as_mut_ptr();
        for (index, message) in self.messages[..self.used].iter_mut().enumerate() {
            let header = &mut message.msg_hdr;
            // In and out: the kernel leaves what it wrote, and the next call must not see it.
            header.msg_namelen = Name::LEN;
            header.msg_flags = 0;
            if control {
                header.msg_control = spaces.wrapping_add(index).cast();
                header.msg_controllen = size_of::<Space>() as _;
            } else {
                header.msg_control = ptr::null_mut();
                header.msg_controllen = 0;
            }
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
        self.reset(control);
        let mut count = 0;
        for (piece, slot) in self.pieces.iter_mut().zip(data.chunks_exact_mut(slot_len)).take(slots)
        {
            *piece = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot_len };
            count += 1;
        }
        // What an error leaves behind is not known.
        self.used = count;
        let received = self.call(fd, count)?;
        self.used = received;
        Ok(received)
    }

    /// Receives up to `count` messages.
    fn call(&mut self, fd: BorrowedFd<'_>, count: usize) -> io::Result<usize> {
        let (fd, first) = (fd.as_raw_fd(), self.messages.as_mut_ptr());
        if count == 1 {
            // SAFETY: every pointer of the first header is to memory that is alive, exclusively
            // borrowed by `receive`, and as long as the header says: name, piece and control
            // space are elements of vectors that are never resized, and `receive` has just set
            // the piece to a slot of its `data`.
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
