//! `sendmmsg`.

use std::io;
use std::marker::PhantomData;
use std::mem::zeroed;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::name::Name;
use super::{ControlSpace, Encoder};
use crate::sys::counted;

/// Most messages of one batched send.
pub(crate) const BATCH: usize = 64;

/// IPV6_PKTINFO (40 bytes on 64-bit systems) is the longest of its kind, hop limit, TOS and segment
/// size take 24 each.
type Space = ControlSpace<128>;

/// Headers, names and control space of a batched send, kept between calls for their memory alone.
pub(crate) struct SendHeaders {
    messages: Vec<libc::mmsghdr>,
    /// Where each message's pieces end, and the bytes of its name and control messages.
    plan: Vec<Plan>,
    pieces: Vec<libc::iovec>,
    names: Vec<Name>,
    control: Vec<Space>,
}

#[derive(Clone, Copy)]
struct Plan {
    end: usize,
    name_len: libc::socklen_t,
    control_len: usize,
}

impl SendHeaders {
    /// Takes no memory before the first send.
    pub(crate) fn new() -> Self {
        Self {
            messages: Vec::new(),
            plan: Vec::new(),
            pieces: Vec::new(),
            names: Vec::new(),
            control: Vec::new(),
        }
    }

    /// Begins a batch of at most [`BATCH`] messages.
    pub(crate) fn fill<'p>(&mut self) -> Outbound<'_, 'p> {
        self.plan.clear();
        self.pieces.clear();
        if self.names.len() < BATCH {
            // SAFETY: plain data for which all zeroes is valid.
            self.messages.resize(BATCH, unsafe { zeroed() });
            self.names.resize(BATCH, Name::zeroed());
            self.control.resize(BATCH, ControlSpace([0; 128]));
        }
        Outbound { headers: self, payloads: PhantomData }
    }
}

/// A batch being filled: the [`piece`](Self::piece)s of a message, the
/// [`message`](Self::message), and so on.
pub(crate) struct Outbound<'h, 'p> {
    headers: &'h mut SendHeaders,
    /// The pieces point into these.
    payloads: PhantomData<&'p [u8]>,
}

impl<'p> Outbound<'_, 'p> {
    pub(crate) fn len(&self) -> usize {
        self.headers.plan.len()
    }

    /// Adds to the payload of the message that is added next.
    #[inline]
    pub(crate) fn piece(&mut self, payload: &'p [u8]) {
        // The kernel only reads what it sends; `iovec` has no constant pointer.
        let iov_base = payload.as_ptr().cast_mut().cast();
        self.headers.pieces.push(libc::iovec { iov_base, iov_len: payload.len() });
    }

    /// Adds a message of the pieces that came since the last one, to the peer if `to` is `None`.
    /// Its control messages are what `encode` writes.
    ///
    /// # Panics
    /// If there are [`BATCH`] already.
    #[inline]
    pub(crate) fn message(
        &mut self,
        to: Option<&SocketAddr>,
        encode: impl FnOnce(&mut Encoder<'_>),
    ) {
        let headers = &mut *self.headers;
        let index = headers.plan.len();
        let name_len = to.map_or(0, |to| headers.names[index].set(to));
        let mut encoder = Encoder::new(&mut headers.control[index].0);
        encode(&mut encoder);
        let control_len = encoder.len();
        headers.plan.push(Plan { end: headers.pieces.len(), name_len, control_len });
    }

    /// Sends the messages and returns how many of them the kernel took; an error belongs to the
    /// first.
    pub(crate) fn send(self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        let SendHeaders { messages, plan, pieces, names, control } = self.headers;
        // Raw from the start: a borrow of a whole vector would end pointers into it.
        let pieces_start = pieces.as_mut_ptr();
        let (names, control) = (names.as_mut_ptr(), control.as_mut_ptr());
        let mut first_piece = 0;
        for (index, (this, message)) in plan.iter().zip(messages.iter_mut()).enumerate() {
            let header = &mut message.msg_hdr;
            header.msg_name = match this.name_len {
                0 => ptr::null_mut(),
                _ => names.wrapping_add(index).cast(),
            };
            header.msg_namelen = this.name_len;
            header.msg_iov = pieces_start.wrapping_add(first_piece);
            header.msg_iovlen = (this.end - first_piece) as _;
            first_piece = this.end;
            header.msg_control = match this.control_len {
                0 => ptr::null_mut(),
                _ => control.wrapping_add(index).cast(),
            };
            header.msg_controllen = this.control_len as _;
        }
        let (fd, flags) = (fd.as_raw_fd(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
        let first = messages.as_mut_ptr();
        if plan.len() == 1 {
            // SAFETY: the loop above set every pointer of the first header: name and control to
            // elements of these vectors, pieces to a range of `pieces`, and those to payloads that
            // live for 'p, longer than this call. The kernel only reads them.
            counted(|| unsafe { libc::sendmsg(fd, &raw const (*first).msg_hdr, flags) })?;
            return Ok(1);
        }
        let count = plan.len() as libc::c_uint;
        // By number: musl and Android's libc have no such function in the libc crate.
        // SAFETY: as above, for the first `count` headers, whose `msg_len` the kernel writes.
        counted(|| unsafe { libc::syscall(libc::SYS_sendmmsg, fd, first, count, flags) as isize })
    }
}
