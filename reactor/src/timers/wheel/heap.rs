//! Late timers: those scheduled for a tick that the wheel's position has reached. In the turn
//! under way they wait in a list; then they lie in a binary heap, and a node knows its place there.

use super::{HEAP, NIL, Node, WAITING, Wheel};

/// Entry of the heap. Few timers are ever late, so it holds what the node lacks.
#[derive(Clone, Copy)]
pub(in super::super) struct Late {
    /// Order of arrival.
    order: u64,
    index: u32,
}

impl<T> Wheel<T> {
    pub(super) fn place_late(&mut self, index: u32) {
        if self.turn.is_some() {
            self.push_list(index, WAITING);
        } else {
            self.push_heap(index);
        }
    }

    pub(super) fn push_heap(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        (node.place, node.next) = (HEAP, NIL);
        let late = Late { order: self.arrivals, index };
        self.arrivals += 1;
        self.late.push(late);
        self.sift_up(self.late.len() - 1, late);
    }

    pub(super) fn pop_late(&mut self) -> Option<u32> {
        let index = self.late.first()?.index;
        self.remove_heap(index);
        Some(index)
    }

    pub(super) fn remove_heap(&mut self, index: u32) {
        let hole = self.nodes[index as usize].prev as usize;
        let Some(last) = self.late.pop() else { return };
        if hole == self.late.len() {
            return;
        }
        if hole > 0 && self.is_before(last, self.late[(hole - 1) / 2]) {
            self.sift_up(hole, last);
        } else {
            self.sift_down(hole, last);
        }
    }

    #[inline]
    pub(super) fn first_late(&self) -> Option<&Node<T>> {
        let first = self.late.first()?;
        self.nodes.get(first.index as usize)
    }

    fn is_before(&self, a: Late, b: Late) -> bool {
        let key = |late: Late| (self.nodes[late.index as usize].deadline, late.order);
        key(a) < key(b)
    }

    fn put_late(&mut self, at: usize, late: Late) {
        self.late[at] = late;
        self.nodes[late.index as usize].prev = at as u32;
    }

    /// Puts an entry to the hole `at`, or above.
    fn sift_up(&mut self, mut at: usize, late: Late) {
        while at > 0 {
            let above = (at - 1) / 2;
            let parent = self.late[above];
            if !self.is_before(late, parent) {
                break;
            }
            self.put_late(at, parent);
            at = above;
        }
        self.put_late(at, late);
    }

    /// Puts an entry to the hole `at`, or below.
    fn sift_down(&mut self, mut at: usize, late: Late) {
        while let Some(&left) = self.late.get(2 * at + 1) {
            let (mut below, mut child) = (2 * at + 1, left);
            if let Some(&right) = self.late.get(below + 1)
                && self.is_before(right, left)
            {
                (below, child) = (below + 1, right);
            }
            if !self.is_before(child, late) {
                break;
            }
            self.put_late(at, child);
            at = below;
        }
        self.put_late(at, late);
    }
}
