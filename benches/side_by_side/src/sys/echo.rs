//! The hand-written loop over batches: `recvmmsg`, and answers out of the receive buffers.

use std::mem::zeroed;

use super::batch::{Control, MAX_MERGED_BYTES, MAX_SEGMENTS, SLOT, segment, segment_size};
use super::{ADDRESS_LEN, Address, Fd, set_option};
use crate::peer::Counter;

/// Messages of a batch.
const MESSAGES: usize = 64;
/// Room for a datagram where the kernel merges none.
const SMALL_SLOT: usize = 2_048;

/// What a batch loop makes use of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// `recvmmsg` and `sendmmsg`.
    Batches,
    /// Answers in a row to one peer leave merged (GSO), too.
    Merging,
    /// The kernel merges what it receives (GRO), too.
    MergingBoth,
}

/// Buffers and headers, for one socket.
pub struct BatchLoop {
    variant: Variant,
    stride: usize,
    memory: Vec<u8>,
    addresses: Vec<Address>,
    pieces: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    controls: Vec<Control>,
    out_pieces: Vec<libc::iovec>,
    out_headers: Vec<libc::mmsghdr>,
    out_controls: Vec<Control>,
}

impl BatchLoop {
    pub fn new(fd: Fd, variant: Variant) -> std::io::Result<Self> {
        let merged = variant == Variant::MergingBoth;
        if merged {
            set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1)?;
        }
        let stride = if merged { SLOT } else { SMALL_SLOT };
        // SAFETY: all of it is plain data, for which zeroes are a value.
        let (address, piece, header) = unsafe { (zeroed(), zeroed(), zeroed()) };
        let mut this = Self {
            variant,
            stride,
            memory: vec![0; stride * MESSAGES],
            addresses: vec![address; MESSAGES],
            pieces: vec![piece; MESSAGES],
            headers: vec![header; MESSAGES],
            controls: vec![Control([0; 64]); MESSAGES],
            out_pieces: vec![piece; MESSAGES],
            out_headers: vec![header; MESSAGES],
            out_controls: vec![Control([0; 64]); MESSAGES],
        };
        // The vectors never change from here on, so that pointers into them stay valid.
        for nth in 0..MESSAGES {
            let start = this.memory[nth * stride..].as_mut_ptr();
            this.pieces[nth] = libc::iovec { iov_base: start.cast(), iov_len: stride };
            let header = &mut this.headers[nth].msg_hdr;
            header.msg_name = (&raw mut this.addresses[nth]).cast();
            header.msg_namelen = ADDRESS_LEN;
            header.msg_iov = &raw mut this.pieces[nth];
            header.msg_iovlen = 1;
            if merged {
                header.msg_control = (&raw mut this.controls[nth]).cast();
            }
        }
        Ok(this)
    }

    /// Receives a batch and echoes or counts it. False: the socket is drained.
    pub fn turn(&mut self, fd: Fd, counter: Option<&mut Counter>) -> bool {
        if self.variant == Variant::MergingBoth {
            for header in &mut self.headers {
                header.msg_hdr.msg_controllen = size_of::<Control>() as _;
            }
        }
        let (headers, flags) = (self.headers.as_mut_ptr(), libc::MSG_DONTWAIT as _);
        // SAFETY: the headers point into vectors of `self`, which never change.
        let got =
            unsafe { libc::recvmmsg(fd, headers, MESSAGES as u32, flags, std::ptr::null_mut()) };
        let got = got.max(0) as usize;
        match counter {
            Some(counter) => self.count(fd, got, counter),
            None => self.echo(fd, got),
        }
        got == MESSAGES
    }

    fn len(&self, nth: usize) -> usize {
        self.headers[nth].msg_len as usize
    }

    fn segment(&self, nth: usize) -> usize {
        let len = self.len(nth);
        if self.variant != Variant::MergingBoth {
            return len;
        }
        // SAFETY: the header is as the last receive left it.
        unsafe { segment_size(&self.headers[nth].msg_hdr, len) }
    }

    fn count(&self, fd: Fd, got: usize, counter: &mut Counter) {
        for nth in 0..got {
            let message = &self.memory[nth * self.stride..][..self.len(nth)];
            for datagram in message.chunks(self.segment(nth).max(1)) {
                if let Some(answer) = counter.datagram(datagram) {
                    super::send_to(fd, &answer, &self.addresses[nth]);
                }
            }
        }
    }

    fn echo(&mut self, fd: Fd, got: usize) {
        let (mut messages, mut first) = (0, 0);
        while first < got {
            let (next, total) = self.run(first, got);
            let size = self.segment(first);
            let header = &mut self.out_headers[messages].msg_hdr;
            header.msg_name = (&raw mut self.addresses[first]).cast();
            header.msg_namelen = ADDRESS_LEN;
            header.msg_iov = &raw mut self.out_pieces[first];
            header.msg_iovlen = (next - first) as _;
            header.msg_control = std::ptr::null_mut();
            header.msg_controllen = 0;
            if total > size {
                // SAFETY: the vector of controls never changes.
                unsafe { segment(header, &mut self.out_controls[messages], size as u16) };
            }
            messages += 1;
            first = next;
        }
        let mut done = 0;
        while done < messages {
            let rest = &mut self.out_headers[done..messages];
            // SAFETY: the headers point into vectors of `self`, which never change.
            let sent = unsafe { libc::sendmmsg(fd, rest.as_mut_ptr(), rest.len() as u32, 0) };
            // A refused message is dropped: UDP.
            done += sent.max(1) as usize;
        }
    }

    /// The messages from `first` on that may leave as one: those that follow to the same peer,
    /// while all before were made of whole segments of one size. Where the next run begins, and
    /// the bytes of this one.
    fn run(&mut self, first: usize, got: usize) -> (usize, usize) {
        let (len, size) = (self.len(first), self.segment(first));
        self.out_pieces[first] = self.piece(first);
        let (mut total, mut next) = (len, first + 1);
        while self.variant != Variant::Batches
            && next < got
            && size > 0
            && self.len(next - 1).is_multiple_of(size)
        {
            let len = self.len(next);
            let (to, same) = (&self.addresses[next], &self.addresses[first]);
            if (to.sin_port, to.sin_addr.s_addr) != (same.sin_port, same.sin_addr.s_addr)
                || self.segment(next) != size
                || total + len > MAX_MERGED_BYTES
                || (total + len).div_ceil(size) > MAX_SEGMENTS
            {
                break;
            }
            self.out_pieces[next] = self.piece(next);
            total += len;
            next += 1;
        }
        (next, total)
    }

    fn piece(&self, nth: usize) -> libc::iovec {
        libc::iovec { iov_base: self.pieces[nth].iov_base, iov_len: self.len(nth) }
    }
}
