//! The timer queue: a hierarchical wheel over a slab, with a small heap in front of it.
//!
//! Time is nanoseconds since the reactor's start, cut into ticks of 2^20 ns. What lies in a later
//! tick than the wheel's position hangs in a slot of the wheel, unsorted: scheduling, cancelling
//! and moving it cost a few writes. What lies at or before that position, a tick's worth, is in a
//! pairing heap ordered by (deadline, sequence number): it decides, to the nanosecond, what fires
//! and in which order. Slots, heap and free list all run through the same nodes, so nothing but a
//! node that the slab never had before is ever allocated.
//!
//! Where a timer belongs follows from its tick and the wheel's position alone: the level is that
//! of the highest digit (of 6 bits) in which the two differ. Hence all of a lower level comes
//! before all of a higher one, every occupied slot is ahead of the position, and the position may
//! jump to any tick before the nearest occupied slot without touching a node.

use std::mem;

/// log2 of the nanoseconds in a tick: about a millisecond.
const TICK_SHIFT: u32 = 20;
/// Ticks have 44 bits: with eight levels of 6 no deadline is too far for the wheel.
const LEVELS: usize = 8;
const SLOT_BITS: u32 = 6;
/// After the slots of all levels: what must wait for another turn, see [`Wheel::pop_due`].
const WAITING: usize = LEVELS << SLOT_BITS;
/// How far a slot is searched for its earliest deadline.
const EXACT_UP_TO: usize = 32;

const NIL: u32 = u32::MAX;
/// In [`Node::child`]: on the waiting list, not in the heap.
const IS_WAITING: u32 = u32::MAX - 1;

/// Names one scheduled timer, also after it is gone: no other timer ever has the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TimerId {
    index: u32,
    generation: u32,
}

/// Kept to half a cache line, which is why the values live elsewhere.
struct Node {
    deadline: u64,
    sequence: u64,
    /// In a list: the one before, or NIL. In the heap: the left sibling, for a first child the
    /// parent, for the root NIL.
    prev: u32,
    /// In a list, also the free list: the one after. In the heap: the right sibling.
    next: u32,
    /// In the heap: the first child. Otherwise it tells the waiting list from the heap.
    child: u32,
    /// Raised when the timer goes. A node that reaches the maximum is retired.
    generation: u32,
}

impl Node {
    fn tick(&self) -> u64 {
        self.deadline >> TICK_SHIFT
    }
}

/// What is known of the earliest deadline.
#[derive(Clone, Copy)]
enum Earliest {
    Unknown,
    Exactly(u64),
    NotBefore(u64),
}

/// Timers by deadline, first in first out among equals. No value is dropped in here, except with
/// the whole wheel: a value is user code's, and its drop may come back to the reactor.
pub(crate) struct Wheel<T> {
    nodes: Vec<Node>,
    /// Beside `nodes`; `None` for a free node.
    values: Vec<Option<T>>,
    free: u32,
    len: usize,
    /// First nodes of the slots, level by level, and of the waiting list.
    heads: Box<[u32; WAITING + 1]>,
    /// A bit for every head that is not NIL.
    occupied: [u64; LEVELS + 1],
    /// Root of the heap.
    root: u32,
    /// The wheel's position, a tick. May run ahead of the clock, to a tick that has timers.
    position: u64,
    /// The number of the next insertion or reset.
    sequence: u64,
    /// The limit of the turn: timers numbered from here on wait when they come to the front.
    limit: u64,
    earliest: Earliest,
}

impl<T> Wheel<T> {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            values: Vec::new(),
            free: NIL,
            len: 0,
            heads: Box::new([NIL; WAITING + 1]),
            occupied: [0; LEVELS + 1],
            root: NIL,
            position: 0,
            sequence: 0,
            limit: 0,
            earliest: Earliest::Unknown,
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number the next insertion or reset will get: taken at the start of a turn, it is the
    /// limit for [`pop_due`](Self::pop_due).
    pub(crate) fn seq(&self) -> u64 {
        self.sequence
    }

    /// Schedules `value`. A deadline in the past is due at once; `u64::MAX` never is.
    pub(crate) fn insert(&mut self, deadline: u64, value: T) -> TimerId {
        let sequence = self.next_sequence();
        let index = self.free;
        let id = if let Some(node) = self.nodes.get_mut(index as usize) {
            self.free = node.next;
            (node.deadline, node.sequence) = (deadline, sequence);
            self.values[index as usize] = Some(value);
            TimerId { index, generation: node.generation }
        } else {
            let index = self.nodes.len();
            assert!(index < IS_WAITING as usize, "too many timers");
            let index = index as u32;
            let generation = 0;
            let (prev, next, child) = (NIL, NIL, NIL);
            self.values.push(Some(value));
            self.nodes.push(Node { deadline, sequence, prev, next, child, generation });
            TimerId { index, generation }
        };
        self.place(id.index);
        self.len += 1;
        self.note_added(deadline);
        id
    }

    /// Cancels, and gives back the value. `None` when the timer has fired or was cancelled.
    pub(crate) fn remove(&mut self, id: TimerId) -> Option<T> {
        let deadline = self.deadline(id)?;
        self.detach(id.index);
        self.note_gone(deadline);
        self.release(id.index)
    }

    /// Moves to another deadline; among equals it then counts as inserted now, also for a turn
    /// under way. False when the timer has fired or was cancelled.
    pub(crate) fn reset(&mut self, id: TimerId, deadline: u64) -> bool {
        let Some(old) = self.deadline(id) else {
            return false;
        };
        let sequence = self.next_sequence();
        let (from, to) = (old >> TICK_SHIFT, deadline >> TICK_SHIFT);
        // A timeout that is pushed back mostly stays in its slot.
        let stays =
            from > self.position && to > self.position && self.slot_of(from) == self.slot_of(to);
        if !stays {
            self.detach(id.index);
        }
        let node = &mut self.nodes[id.index as usize];
        (node.deadline, node.sequence) = (deadline, sequence);
        if !stays {
            self.place(id.index);
        }
        self.note_gone(old);
        self.note_added(deadline);
        true
    }

    pub(crate) fn deadline(&self, id: TimerId) -> Option<u64> {
        let node = self.nodes.get(id.index as usize)?;
        (node.generation == id.generation).then_some(node.deadline)
    }

    #[cfg(test)]
    pub(crate) fn get(&self, id: TimerId) -> Option<&T> {
        self.deadline(id)?;
        self.values[id.index as usize].as_ref()
    }

    /// All timers, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (TimerId, u64, &T)> {
        self.nodes.iter().zip(&self.values).enumerate().filter_map(|(index, (node, value))| {
            let id = TimerId { index: index as u32, generation: node.generation };
            value.as_ref().map(|value| (id, node.deadline, value))
        })
    }

    /// When to look again: the earliest deadline; or, if it is more than 64 ticks away in a slot
    /// of more than 32 timers, perhaps the start of that slot, which is earlier.
    pub(crate) fn next_deadline(&mut self) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        if matches!(self.earliest, Earliest::Unknown) {
            self.earliest = self.find_earliest();
        }
        match self.earliest {
            Earliest::Exactly(at) | Earliest::NotBefore(at) => Some(at),
            Earliest::Unknown => None,
        }
    }

    /// Takes the first timer whose deadline is not after `now`, in the order of (deadline,
    /// sequence), of those inserted or reset before `before_seq`. The others wait: a callback that
    /// schedules for "now" does not prolong its own turn. A `now` that goes back finds nothing new.
    pub(crate) fn pop_due(&mut self, now: u64, before_seq: u64) -> Option<(TimerId, u64, T)> {
        let now = now.min(u64::MAX - 1);
        if self.limit != before_seq {
            self.limit = before_seq;
            self.admit_waiting();
        }
        loop {
            let index = self.root;
            if let Some(node) = self.nodes.get(index as usize) {
                let (deadline, sequence) = (node.deadline, node.sequence);
                if deadline > now {
                    return None;
                }
                let id = TimerId { index, generation: node.generation };
                self.detach(index);
                if sequence < before_seq {
                    self.note_gone(deadline);
                    return self.release(index).map(|value| (id, deadline, value));
                }
                // Only after `next_deadline` was asked within the turn.
                self.push_list(index, WAITING);
                self.nodes[index as usize].child = IS_WAITING;
            } else if !self.advance(now >> TICK_SHIFT) {
                return None;
            }
        }
    }

    fn next_sequence(&mut self) -> u64 {
        let sequence = self.sequence;
        self.sequence += 1;
        sequence
    }

    /// Frees a node that hangs nowhere.
    fn release(&mut self, index: u32) -> Option<T> {
        let node = &mut self.nodes[index as usize];
        node.generation += 1;
        // A generation must not come twice, so the last is never handed out: one node is lost in
        // 2^32 uses.
        if node.generation != u32::MAX {
            node.next = self.free;
            self.free = index;
        }
        self.len -= 1;
        self.values[index as usize].take()
    }

    fn note_added(&mut self, deadline: u64) {
        match self.earliest {
            Earliest::Exactly(at) | Earliest::NotBefore(at) if deadline < at => {
                self.earliest = Earliest::Exactly(deadline);
            }
            _ => {}
        }
    }

    fn note_gone(&mut self, deadline: u64) {
        match self.earliest {
            // Others may share the deadline, but that costs a search all the same.
            Earliest::Exactly(at) if at != deadline => {}
            // The slot may have shrunk to where the exact answer is due.
            _ => self.earliest = Earliest::Unknown,
        }
    }

    fn find_earliest(&mut self) -> Earliest {
        while let Some(index) = self.pop_list(WAITING) {
            self.push_heap(index);
        }
        if self.root == NIL {
            let Some((level, slot)) = self.nearest() else {
                return Earliest::Unknown;
            };
            let mut at = u64::MAX;
            let mut index = self.heads[slot];
            for _ in 0..EXACT_UP_TO {
                let Some(node) = self.nodes.get(index as usize) else { break };
                at = at.min(node.deadline);
                index = node.next;
            }
            if index == NIL {
                return Earliest::Exactly(at);
            }
            let start = self.start_of(level, slot);
            if level > 0 {
                return Earliest::NotBefore(start << TICK_SHIFT);
            }
            // So near that the heap may have it early; the heap finds its minimum without search.
            self.empty_slot(slot, start);
            while let Some(index) = self.pop_list(WAITING) {
                self.push_heap(index);
            }
        }
        match self.nodes.get(self.root as usize) {
            Some(root) => Earliest::Exactly(root.deadline),
            None => Earliest::Unknown,
        }
    }

    // ---- the wheel

    /// The slot of a tick that is later than the position.
    fn slot_of(&self, tick: u64) -> usize {
        debug_assert!(tick > self.position);
        let level = (tick ^ self.position).ilog2() / SLOT_BITS;
        let digit = (tick >> (level * SLOT_BITS)) as usize & 63;
        (level as usize) << SLOT_BITS | digit
    }

    /// The first occupied slot and its level: that of the earliest timer outside the heap.
    fn nearest(&self) -> Option<(usize, usize)> {
        let level = self.occupied[..LEVELS].iter().position(|&bits| bits != 0)?;
        Some((level, level << SLOT_BITS | self.occupied[level].trailing_zeros() as usize))
    }

    /// The first tick of an occupied slot.
    fn start_of(&self, level: usize, slot: usize) -> u64 {
        let shift = level as u32 * SLOT_BITS;
        let above = shift + SLOT_BITS;
        (self.position >> above << above) | ((slot as u64 & 63) << shift)
    }

    /// Moves on by one slot, or by all the way to `tick` when no slot begins before it or there.
    /// False when there is no more to come.
    fn advance(&mut self, tick: u64) -> bool {
        if let Some((level, slot)) = self.nearest() {
            let start = self.start_of(level, slot);
            if start <= tick {
                self.empty_slot(slot, start);
                return true;
            }
        }
        self.position = self.position.max(tick);
        false
    }

    /// Puts the position to `start` of the nearest `slot`, and its nodes where they belong then:
    /// to lower levels or to the front.
    fn empty_slot(&mut self, slot: usize, start: u64) {
        debug_assert!(start > self.position);
        self.position = start;
        if matches!(self.earliest, Earliest::NotBefore(_)) {
            self.earliest = Earliest::Unknown;
        }
        let mut index = mem::replace(&mut self.heads[slot], NIL);
        self.occupied[slot >> SLOT_BITS] &= !(1 << (slot & 63));
        while let Some(node) = self.nodes.get(index as usize) {
            let next = node.next;
            self.place(index);
            index = next;
        }
    }

    /// Hangs a loose node where its deadline and the position say.
    fn place(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        let tick = node.tick();
        if tick > self.position {
            let slot = self.slot_of(tick);
            self.push_list(index, slot);
        } else if node.sequence < self.limit {
            self.push_heap(index);
        } else {
            node.child = IS_WAITING;
            self.push_list(index, WAITING);
        }
    }

    /// The inverse of `place`; the links of the node itself are left as they are.
    fn detach(&mut self, index: u32) {
        let node = &self.nodes[index as usize];
        let (prev, next, tick) = (node.prev, node.next, node.tick());
        if tick <= self.position && node.child != IS_WAITING {
            return self.remove_heap(index);
        }
        if let Some(next) = self.nodes.get_mut(next as usize) {
            next.prev = prev;
        }
        if let Some(prev) = self.nodes.get_mut(prev as usize) {
            prev.next = next;
            return;
        }
        let list = if tick > self.position { self.slot_of(tick) } else { WAITING };
        self.heads[list] = next;
        if next == NIL {
            self.occupied[list >> SLOT_BITS] &= !(1 << (list & 63));
        }
    }

    fn push_list(&mut self, index: u32, list: usize) {
        let next = mem::replace(&mut self.heads[list], index);
        self.occupied[list >> SLOT_BITS] |= 1 << (list & 63);
        let node = &mut self.nodes[index as usize];
        (node.prev, node.next) = (NIL, next);
        if let Some(next) = self.nodes.get_mut(next as usize) {
            next.prev = index;
        }
    }

    fn pop_list(&mut self, list: usize) -> Option<u32> {
        let index = self.heads[list];
        if index == NIL {
            return None;
        }
        self.detach(index);
        Some(index)
    }

    /// Lets those that waited for the turn into the heap.
    fn admit_waiting(&mut self) {
        let mut index = mem::replace(&mut self.heads[WAITING], NIL);
        self.occupied[LEVELS] = 0;
        while let Some(node) = self.nodes.get(index as usize) {
            let next = node.next;
            self.place(index);
            index = next;
        }
    }

    // ---- the heap: every node is before its children, which form a list

    fn push_heap(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        (node.prev, node.next, node.child) = (NIL, NIL, NIL);
        self.root = self.meld(self.root, index);
    }

    fn remove_heap(&mut self, index: u32) {
        let node = &self.nodes[index as usize];
        let (prev, next, child) = (node.prev, node.next, node.child);
        let rest = self.meld_children(child);
        if let Some(before) = self.nodes.get_mut(prev as usize) {
            if before.child == index {
                before.child = next;
            } else {
                before.next = next;
            }
            if let Some(next) = self.nodes.get_mut(next as usize) {
                next.prev = prev;
            }
            self.root = self.meld(self.root, rest);
        } else {
            self.root = rest;
        }
    }

    /// Joins two heaps, given by their roots; either may be NIL.
    fn meld(&mut self, a: u32, b: u32) -> u32 {
        let (Some(x), Some(y)) = (self.nodes.get(a as usize), self.nodes.get(b as usize)) else {
            return if a == NIL { b } else { a };
        };
        let a_first = (x.deadline, x.sequence) < (y.deadline, y.sequence);
        let (first, second) = if a_first { (a, b) } else { (b, a) };
        let sibling = mem::replace(&mut self.nodes[first as usize].child, second);
        if let Some(sibling) = self.nodes.get_mut(sibling as usize) {
            sibling.prev = second;
        }
        let node = &mut self.nodes[second as usize];
        (node.prev, node.next) = (first, sibling);
        first
    }

    /// Joins a list of siblings whose parent goes: in pairs from the left, then the pairs from
    /// the right, which is what makes a removal logarithmic in the long run.
    fn meld_children(&mut self, mut child: u32) -> u32 {
        let mut pairs = NIL;
        while let Some(node) = self.nodes.get(child as usize) {
            let second = node.next;
            let next = self.nodes.get(second as usize).map_or(NIL, |node| node.next);
            let pair = self.meld(child, second);
            self.nodes[pair as usize].next = pairs;
            pairs = pair;
            child = next;
        }
        let mut root = NIL;
        while let Some(node) = self.nodes.get(pairs as usize) {
            let next = node.next;
            root = self.meld(root, pairs);
            pairs = next;
        }
        if let Some(node) = self.nodes.get_mut(root as usize) {
            (node.prev, node.next) = (NIL, NIL);
        }
        root
    }
}

#[cfg(test)]
#[path = "wheel_tests.rs"]
mod tests;
