//! Every unsafe block of the project: system calls that neither `std`, nor socket2, nor mio offers.
//!
//! The contract. On every system (`portable.rs`):
//!
//! | item | what it is |
//! |---|---|
//! | [`receive_one`], [`send_one`] | one datagram, non-blocking whatever the descriptor's flags say |
//! | [`accept`] | a connection that waits, already non-blocking |
//! | [`option`], [`set_option`] | a socket option with an `int` for a value |
//! | [`disconnect`] | `connect` to `AF_UNSPEC` |
//! | [`interface_index`] | `if_nametoindex` |
//! | [`inherited_fds`] | descriptors handed over at exec, claimed once per process |
//! | [`RecvHeaders`] | what a batched receive keeps between calls; empty where there is none |
//!
//! On Linux and Android besides (`linux/`):
//!
//! | item | what it is |
//! |---|---|
//! | [`RecvHeaders::receive`] | `recvmmsg`, and readers for what it brought |
//! | [`SendHeaders`] | `sendmmsg`, filled message by message |
//! | [`Encoder`], [`decode`] | control messages, to and from the kernel |
//! | [`take_report`] | one entry of the error queue |
//!
//! No function here keeps a pointer beyond its call, and none blocks. Calls that a signal
//! interrupted are made again.

#![allow(unsafe_code)]

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;
mod portable;

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use linux::{
    BATCH, Encoder, Outbound, Received, RecvHeaders, SendHeaders, decode, take_report,
};
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) use portable::RecvHeaders;
pub(crate) use portable::{
    accept, disconnect, inherited_fds, interface_index, option, receive_one, send_one, set_option,
};

use std::io;

/// The result of a system call that counts, or fails with -1; repeated while interrupted.
fn counted(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// A descriptor that is not open, as only a mistake elsewhere in a program can make it.
#[cfg(test)]
pub(crate) fn closed_fd() -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: nobody else owns the number, since it is beyond the kernel's limit on descriptors and
    // so never open; closing it fails with EBADF and touches no file.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(i32::MAX - 1) }
}
