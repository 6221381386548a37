//! The send buffer: datagrams count against it until they have left the queues of narrow links, as
//! those of a system do until the interface has sent them.

use std::collections::VecDeque;

use super::super::host::HostId;
use super::super::network::Net;
use super::{State, charge};

/// Datagrams that stand in queues.
#[derive(Default)]
pub(super) struct Unsent {
    /// When each leaves, and its bytes.
    queue: VecDeque<(u64, usize)>,
    bytes: usize,
    /// When the reactor is told of room.
    told_at: Option<u64>,
}

impl Unsent {
    fn forget_until(&mut self, now: u64) {
        while let Some((departs, bytes)) = self.queue.front()
            && *departs <= now
        {
            self.bytes -= bytes;
            self.queue.pop_front();
        }
    }

    /// When no more than this is left.
    fn falls_to(&self, most: usize) -> Option<u64> {
        let mut left = self.bytes;
        self.queue.iter().find_map(|(departs, bytes)| {
            left -= bytes;
            (left <= most).then_some(*departs)
        })
    }
}

impl State {
    /// Whether a datagram may be sent: while the buffer is not full one of any length may
    /// (`sock_alloc_send_pskb`). If not, an event will tell when half of it is free
    /// (`sock_def_write_space`).
    #[inline]
    pub(super) fn has_room(&self, net: &mut Net, host: HostId) -> bool {
        // Of whatever was sent before.
        net.links.take_departure();
        let Some(unsent) = &mut *self.unsent.borrow_mut() else { return true };
        unsent.forget_until(net.now);
        let size = self.options.borrow().send_buffer as usize;
        let has_room = unsent.bytes < size;
        if !has_room && unsent.told_at.is_none_or(|at| at <= net.now) {
            unsent.told_at = unsent.falls_to(size / 2);
            if let Some(at) = unsent.told_at {
                net.tell_room(host, at, &self.signal);
            }
        }
        has_room
    }

    /// A datagram was sent.
    #[inline]
    pub(super) fn sent(&self, net: &mut Net, len: usize) {
        let departs = net.links.take_departure();
        if departs > net.now {
            let mut unsent = self.unsent.borrow_mut();
            let unsent = unsent.get_or_insert_default();
            unsent.queue.push_back((departs, charge(len)));
            unsent.bytes += charge(len);
        }
    }
}
