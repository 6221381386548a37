//! Datagrams in batches, for the load generator: `recvmmsg`, `sendmmsg`, GSO and GRO.

use std::mem::zeroed;

use super::{ADDRESS_LEN, Address, Fd};

/// Datagrams of a batch.
pub const BATCH: usize = 64;
/// Most datagrams of a merged one (`UDP_MAX_SEGMENTS` of older kernels), and most bytes.
pub(super) const MAX_SEGMENTS: usize = 64;
pub(super) const MAX_MERGED_BYTES: usize = 65_000;
/// Room for what the kernel merges.
pub(super) const SLOT: usize = 65_536;

/// Space for control messages.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct Control(pub(super) [u8; 64]);

/// Has a message leave as segments of `size` bytes (`UDP_SEGMENT`).
///
/// # Safety
/// `control` must stay where it is for as long as `header` is used.
pub(super) unsafe fn segment(header: &mut libc::msghdr, control: *mut Control, size: u16) {
    header.msg_control = control.cast();
    // SAFETY: `control` has room for one control message of two bytes, and CMSG_FIRSTHDR points
    // into it; its data may be at an odd address.
    unsafe {
        header.msg_controllen = libc::CMSG_SPACE(2) as _;
        let first = libc::CMSG_FIRSTHDR(header);
        (*first).cmsg_level = libc::SOL_UDP;
        (*first).cmsg_type = libc::UDP_SEGMENT;
        (*first).cmsg_len = libc::CMSG_LEN(2) as _;
        libc::CMSG_DATA(first).cast::<u16>().write_unaligned(size);
    }
}

/// Bytes of each datagram of a received message: `UDP_GRO` says, or it is alone.
///
/// # Safety
/// The control space of `header` must be as the kernel left it.
pub(super) unsafe fn segment_size(header: &libc::msghdr, whole: usize) -> usize {
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR stay within what the kernel wrote.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            if (*control).cmsg_level == libc::SOL_UDP && (*control).cmsg_type == libc::UDP_GRO {
                return libc::CMSG_DATA(control).cast::<i32>().read_unaligned() as usize;
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    whole.max(1)
}

/// `count` pieces of memory, `stride` apart.
fn pieces(memory: &mut [u8], count: usize, stride: usize, len: usize) -> Vec<libc::iovec> {
    let piece = |nth: usize| {
        let piece = &mut memory[nth * stride..][..len];
        libc::iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: len }
    };
    (0..count).map(piece).collect()
}

/// Receives batches; one set of buffers for every socket.
pub struct Receiver {
    headers: Vec<libc::mmsghdr>,
    _pieces: Vec<libc::iovec>,
    memory: Vec<u8>,
    _controls: Vec<Control>,
    stride: usize,
    merging: bool,
}

impl Receiver {
    /// For datagrams of `size` bytes, merged by the kernel or not.
    pub fn new(size: usize, merging: bool) -> Self {
        let stride = if merging { SLOT } else { (size.max(8) + 63) & !63 };
        let mut memory = vec![0; stride * BATCH];
        let mut controls = vec![Control([0; 64]); BATCH];
        let mut pieces = pieces(&mut memory, BATCH, stride, stride);
        let headers = (0..BATCH)
            .map(|nth| {
                // SAFETY: plain data, for which zeroes are a value.
                let mut header: libc::mmsghdr = unsafe { zeroed() };
                header.msg_hdr.msg_iov = &raw mut pieces[nth];
                header.msg_hdr.msg_iovlen = 1;
                if merging {
                    header.msg_hdr.msg_control = (&raw mut controls[nth]).cast();
                }
                header
            })
            .collect();
        Self { headers, _pieces: pieces, memory, _controls: controls, stride, merging }
    }

    /// Receives what is there, without waiting; how many messages.
    pub fn receive(&mut self, fd: Fd) -> usize {
        if self.merging {
            for header in &mut self.headers {
                header.msg_hdr.msg_controllen = size_of::<Control>() as _;
            }
        }
        let (headers, flags) = (self.headers.as_mut_ptr(), libc::MSG_DONTWAIT as _);
        // SAFETY: the headers point to memory of `self`, whose vectors never change.
        let count =
            unsafe { libc::recvmmsg(fd, headers, BATCH as u32, flags, std::ptr::null_mut()) };
        count.max(0) as usize
    }

    /// Calls `look` with every datagram of the `nth` message of the last batch.
    #[inline]
    pub fn each(&self, nth: usize, look: impl FnMut(&[u8])) {
        let header = &self.headers[nth];
        let len = header.msg_len as usize;
        let mut segment = len.max(1);
        if self.merging {
            // SAFETY: the header is as the last receive left it.
            segment = unsafe { segment_size(&header.msg_hdr, len) };
        }
        self.memory[nth * self.stride..][..len].chunks(segment).for_each(look);
    }
}

/// Sends batches of datagrams of one size to one address, merged (GSO) or one by one.
pub struct Sender {
    headers: Vec<libc::mmsghdr>,
    pieces: Vec<libc::iovec>,
    memory: Vec<u8>,
    _controls: Vec<Control>,
    _to: Box<Address>,
    size: usize,
    merging: bool,
    per_message: usize,
}

impl Sender {
    pub fn new(size: usize, to: &Address, merging: bool) -> Self {
        let mut to = Box::new(*to);
        let mut memory = vec![0x5a; size * BATCH];
        let mut controls = vec![Control([0; 64]); BATCH];
        let mut pieces = pieces(&mut memory, BATCH, size, size);
        let headers = (0..BATCH)
            .map(|nth| {
                // SAFETY: plain data, for which zeroes are a value.
                let mut header: libc::mmsghdr = unsafe { zeroed() };
                header.msg_hdr.msg_iov = &raw mut pieces[nth];
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_name = (&raw mut *to).cast();
                header.msg_hdr.msg_namelen = ADDRESS_LEN;
                if merging {
                    // SAFETY: the vector of controls never changes, and lives as long as this.
                    unsafe { segment(&mut header.msg_hdr, &mut controls[nth], size as u16) };
                }
                header
            })
            .collect();
        let per_message = MAX_SEGMENTS.min(MAX_MERGED_BYTES / size).max(1);
        let (_controls, _to) = (controls, to);
        Self { headers, pieces, memory, _controls, _to, size, merging, per_message }
    }

    /// The payload of the `nth` datagram.
    #[inline]
    pub fn slot(&mut self, nth: usize) -> &mut [u8] {
        &mut self.memory[nth * self.size..][..self.size]
    }

    /// Sends the first `count` datagrams; how many the kernel took.
    pub fn send(&mut self, fd: Fd, count: usize) -> usize {
        let messages = if self.merging { self.merge(count) } else { count };
        let mut done = 0;
        while done < messages {
            let rest = &mut self.headers[done..messages];
            // SAFETY: the headers point to memory of `self`, whose vectors never change.
            let sent = unsafe { libc::sendmmsg(fd, rest.as_mut_ptr(), rest.len() as u32, 0) };
            if sent <= 0 {
                match super::errno() {
                    libc::EINTR => continue,
                    // No room, or nobody there: counted as lost.
                    _ => break,
                }
            }
            done += sent as usize;
        }
        if self.merging {
            self.pieces[..done].iter().map(|piece| piece.iov_len / self.size).sum()
        } else {
            done
        }
    }

    /// Lays the first `count` datagrams out as merged messages; how many.
    fn merge(&mut self, count: usize) -> usize {
        assert!(count <= BATCH);
        let mut messages = 0;
        for first in (0..count).step_by(self.per_message) {
            let segments = self.per_message.min(count - first);
            let piece = &mut self.pieces[messages];
            piece.iov_base = self.memory[first * self.size..].as_mut_ptr().cast();
            piece.iov_len = segments * self.size;
            messages += 1;
        }
        messages
    }
}
