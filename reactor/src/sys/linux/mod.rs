//! What Linux offers beyond: batches, control messages, segmentation, the error queue, groups of
//! both families by interface index.

mod control;
mod errors;
mod groups;
mod name;
mod recv;
mod send;

use control::ExtendedError;
pub(crate) use control::{Encoder, Received, decode};
pub(crate) use errors::take_report;
pub(crate) use groups::{request_group, request_source, set_multicast_interface_v4, source_filter};
pub(crate) use recv::RecvHeaders;
pub(crate) use send::{BATCH, Outbound, SendHeaders};

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
