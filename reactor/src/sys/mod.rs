//! Every unsafe block of the project: system calls that neither `std`, nor socket2, nor mio offers.
//!
//! The contract. On every system (`portable.rs`):
//!
//! | item | what it is |
//! |---|---|
//! | [`receive_one`], [`send_one`] | one datagram, non-blocking whatever the descriptor's flags say |
//! | [`receive`] | what a stream has, non-blocking likewise |
//! | [`accept`] | a connection that waits, already non-blocking |
//! | [`option`], [`set_option`] | a socket option with an `int` for a value |
//! | [`disconnect`] | `connect` to `AF_UNSPEC` |
//! | [`interface_index`] | `if_nametoindex` |
//! | [`host_addresses`] | `getaddrinfo`; the one that blocks (`names.rs`) |
//! | [`interface_entries`] | getifaddrs(3) |
//! | [`inherited_fds`] | descriptors handed over at exec, claimed once per process |
//! | [`peer_credentials`] | who is at the other end of a UNIX stream (`unix.rs`) |
//! | [`try_lock`] | `flock`, which never waits |
//! | `signals` | a handler that counts and wakes, while somebody watches (feature `signals`) |
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
//! | [`drops`] | the kernel's count of dropped datagrams |
//! | [`request_group`], [`request_source`], [`source_filter`] | multicast groups (RFC 3678) |
//! | [`set_multicast_interface_v4`] | `IP_MULTICAST_IF` by index |
//!
//! No function here keeps a pointer beyond its call, and none but [`host_addresses`] blocks. Calls
//! that a signal interrupted are made again.

#![allow(unsafe_code)]

mod interfaces;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;
mod names;
mod portable;
#[cfg(feature = "signals")]
pub(crate) mod signals;
mod unix;

pub(crate) use interfaces::{InterfaceEntry, interface_entries};
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use linux::{
    BATCH, Encoder, Outbound, Received, RecvHeaders, SendHeaders, decode, drops, request_group,
    request_source, set_multicast_interface_v4, source_filter, take_report,
};
pub(crate) use names::host_addresses;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) use portable::RecvHeaders;
pub(crate) use portable::{
    accept, disconnect, inherited_fds, interface_index, option, receive, receive_one, send_one,
    set_option,
};
pub(crate) use unix::{peer_credentials, try_lock};

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
