//! What is kept for a pair of hosts, one direction: only for those that need it.

use std::collections::BTreeMap;

use super::Link;
use super::queue::Queue;
use super::stage::Path;
use crate::net::sim::host::HostId;

/// The pairs that differ from others, or have a memory. By sender, so that one who has none is
/// told by one look.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    by_sender: Vec<BTreeMap<u32, Pair>>,
    /// For those who have no memory.
    blank: Pair,
}

/// One direction between two hosts.
#[derive(Debug, Default)]
pub(super) struct Pair {
    /// Its link, unless that is everybody's.
    pub(super) link: Option<Box<Link>>,
    pub(super) path: Path,
    pub(super) queue: Queue,
}

impl Pairs {
    #[inline]
    pub(super) fn get_mut(&mut self, from: HostId, to: HostId) -> Option<&mut Pair> {
        self.by_sender.get_mut(from.0 as usize)?.get_mut(&to.0)
    }

    /// The pair, which is made if it is to be `remembered` and does not exist.
    pub(super) fn of(&mut self, from: HostId, to: HostId, remembered: bool) -> &mut Pair {
        if !remembered {
            self.blank = Pair::default();
            return &mut self.blank;
        }
        let sender = from.0 as usize;
        if self.by_sender.len() <= sender {
            self.by_sender.resize_with(sender + 1, BTreeMap::new);
        }
        self.by_sender[sender].entry(to.0).or_default()
    }
}
