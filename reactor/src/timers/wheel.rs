//! The timer queue: a hierarchical wheel over a slab, and in front of it what is nearly due.
//!
//! Time is nanoseconds since the reactor's start, cut into ticks of 2^20 ns. What lies in a later
//! tick than the wheel's position hangs in a slot of the wheel, in the order of arrival:
//! scheduling, cancelling and moving it cost a few writes. When the position reaches a tick, its
//! timers are sorted once, to the nanosecond, into the run. What is scheduled for a tick that the
//! position has reached already is late for that, and goes to a heap; the next to fire is the
//! earlier of run and heap.
//!
//! The slot of a timer follows from its tick and the wheel's position alone: the level is that of
//! the highest digit (of 6 bits) in which the two differ. So all of a lower level comes before all
//! of a higher one; every occupied slot is ahead of the position; the position may jump to any
//! tick before the nearest occupied slot without touching a node; and timers of one tick are at
//! any time in one list, first in first out, however many levels they came down.

use std::mem;

/// log2 of the nanoseconds in a tick: about a millisecond.
const TICK_SHIFT: u32 = 20;
/// Ticks have 44 bits: with eight levels of 6 no deadline is too far for the wheel.
const LEVELS: usize = 8;
const SLOT_BITS: u32 = 6;
/// After the slots of all levels: late timers of the turn under way, which wait for the next.
const WAITING: usize = LEVELS << SLOT_BITS;
/// How far a list is searched for its earliest deadline.
const EXACT_UP_TO: usize = 32;

const NIL: u32 = u32::MAX;
/// In [`Node::prev`]: in the run. Also the limit for indices.
const IN_RUN: u32 = u32::MAX - 1;
/// In [`Late::child`]: in the waiting list, not in the heap.
const IS_WAITING: u32 = u32::MAX - 1;

/// Names one scheduled timer, also after it is gone: no other timer ever has the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TimerId {
    index: u32,
    generation: u32,
}

/// With many timers every operation costs what its cache misses cost, so a node holds no more than
/// the wheel needs.
struct Node<T> {
    deadline: u64,
    /// In a list: the one before, or NIL. In the run: `IN_RUN`. In the heap: the left sibling,
    /// for a first child the parent, for the root NIL.
    prev: u32,
    /// In a list, also the free list: the one after, or NIL. In the run: the stamp of its entry.
    /// In the heap: the right sibling.
    next: u32,
    /// Raised when the timer goes. A node that reaches the maximum is retired.
    generation: u32,
    /// `None` in a free node.
    value: Option<T>,
}

/// What only late timers need, beside their nodes.
#[derive(Clone, Copy)]
struct Late {
    /// Order of arrival.
    order: u64,
    /// In the heap: the first child. Otherwise `IS_WAITING`.
    child: u32,
}

#[derive(Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

const EMPTY: List = List { first: NIL, last: NIL };

/// The slots, level by level, and the waiting list. A level is made with its first timer: a
/// reactor without timers has none, and few have timers on more than two or three.
struct Lists {
    levels: [Option<Box<[List; 1 << SLOT_BITS]>>; LEVELS],
    waiting: List,
}

impl Lists {
    const fn new() -> Self {
        Self { levels: [const { None }; LEVELS], waiting: EMPTY }
    }

    #[inline]
    fn first(&self, at: usize) -> u32 {
        match self.levels.get(at >> SLOT_BITS) {
            Some(Some(level)) => level[at & 63].first,
            Some(None) => NIL,
            None => self.waiting.first,
        }
    }

    #[inline]
    fn get_mut(&mut self, at: usize) -> &mut List {
        match self.levels.get_mut(at >> SLOT_BITS) {
            Some(level) => {
                &mut level.get_or_insert_with(|| Box::new([EMPTY; 1 << SLOT_BITS]))[at & 63]
            }
            None => &mut self.waiting,
        }
    }

    /// Empties a list, and gives its first node.
    fn take(&mut self, at: usize) -> u32 {
        match self.first(at) {
            NIL => NIL,
            _ => mem::replace(self.get_mut(at), EMPTY).first,
        }
    }
}

/// Entry of the run. Stale when its node is no longer in the run, or with another stamp.
#[derive(Clone, Copy)]
struct Due {
    deadline: u64,
    index: u32,
    stamp: u32,
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
    nodes: Vec<Node<T>>,
    free: u32,
    len: usize,
    lists: Lists,
    /// A bit for every list that is not empty.
    occupied: [u64; LEVELS + 1],
    /// The wheel's position, a tick. May be ahead of the clock, at a tick that has timers.
    position: u64,
    /// Sorted; the part before `run_start` is done with.
    run: Vec<Due>,
    run_start: usize,
    /// Counts the slots that were emptied into the run.
    stamp: u32,
    /// Root of the heap.
    root: u32,
    /// As long as late timers require; its capacity is that of `nodes`.
    late: Vec<Late>,
    arrivals: u64,
    /// The clock of the turn, while one is under way.
    turn: Option<u64>,
    earliest: Earliest,
}

impl<T> Wheel<T> {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            free: NIL,
            len: 0,
            lists: Lists::new(),
            occupied: [0; LEVELS + 1],
            position: 0,
            run: Vec::new(),
            run_start: 0,
            stamp: 0,
            root: NIL,
            late: Vec::new(),
            arrivals: 0,
            turn: None,
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

    /// Schedules `value`. A deadline in the past is due at once; `u64::MAX` never is.
    #[inline]
    pub(crate) fn insert(&mut self, deadline: u64, value: T) -> TimerId {
        let index = self.free;
        let id = if let Some(node) = self.nodes.get_mut(index as usize) {
            self.free = node.next;
            node.deadline = deadline;
            node.value = Some(value);
            TimerId { index, generation: node.generation }
        } else {
            self.grow(deadline, value)
        };
        self.place(id.index);
        self.len += 1;
        self.note_added(deadline);
        id
    }

    /// Cancels, and gives back the value. `None` when the timer has fired or was cancelled.
    #[inline]
    pub(crate) fn remove(&mut self, id: TimerId) -> Option<T> {
        let deadline = self.deadline(id)?;
        self.detach(id.index);
        self.note_gone(deadline);
        self.release(id.index)
    }

    /// Moves to another deadline, and behind those already there: as if removed and inserted, but
    /// the id stays. False when the timer has fired or was cancelled.
    pub(crate) fn reset(&mut self, id: TimerId, deadline: u64) -> bool {
        let Some(old) = self.deadline(id) else {
            return false;
        };
        self.detach(id.index);
        self.nodes[id.index as usize].deadline = deadline;
        self.place(id.index);
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
        let node = self.nodes.get(id.index as usize)?;
        node.value.as_ref().filter(|_| node.generation == id.generation)
    }

    /// All timers, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (TimerId, u64, &T)> {
        self.nodes.iter().enumerate().filter_map(|(index, node)| {
            let id = TimerId { index: index as u32, generation: node.generation };
            node.value.as_ref().map(|value| (id, node.deadline, value))
        })
    }

    /// When to look again: the earliest deadline. Only where more than 32 timers lie together may
    /// it be less: the start of their slot if that is at least 64 ticks long, or 0 if they were
    /// scheduled in the turn under way for a tick that has come.
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

    /// Begins a turn: what is scheduled now for `now` or before belongs to it, what is scheduled
    /// or reset later does not, so callbacks do not prolong their own turn. A `now` that goes back
    /// does no harm.
    pub(crate) fn begin_turn(&mut self, now: u64) {
        self.end_turn();
        // The last instant never comes: a timer set for it is one that never fires.
        let now = now.min(u64::MAX - 1);
        self.turn = Some(now);
        if self.run_start * 2 >= self.run.len() {
            self.run.drain(..self.run_start);
            self.run_start = 0;
        }
        let tick = now >> TICK_SHIFT;
        while let Some((level, slot, start)) = self.nearest() {
            if start > tick {
                break;
            }
            self.empty_slot(level, slot, start);
        }
        self.position = self.position.max(tick);
    }

    /// Takes the next timer of the turn, by deadline and among equals by the order of insertion
    /// or reset. `None` ends the turn.
    #[inline]
    pub(crate) fn pop_due(&mut self) -> Option<(TimerId, u64, T)> {
        let now = self.turn?;
        // Neither a run nor a heap that is empty has anything before the last instant.
        let due = self.first_of_run();
        let due_at = due.map_or(u64::MAX, |due| due.deadline);
        let late_at = self.nodes.get(self.root as usize).map_or(u64::MAX, |node| node.deadline);
        let deadline = due_at.min(late_at);
        if deadline > now {
            self.end_turn();
            return None;
        }
        let index = match due {
            // Among equals the run is first: its timers were there before their tick came.
            Some(due) if due_at <= late_at => {
                self.run_start += 1;
                due.index
            }
            _ => {
                let root = self.root;
                self.remove_heap(root);
                root
            }
        };
        self.note_gone(deadline);
        let id = TimerId { index, generation: self.nodes[index as usize].generation };
        self.release(index).map(|value| (id, deadline, value))
    }

    fn end_turn(&mut self) {
        self.turn = None;
        let mut index = self.lists.take(WAITING);
        self.occupied[LEVELS] = 0;
        while let Some(node) = self.nodes.get(index as usize) {
            let next = node.next;
            self.push_heap(index);
            index = next;
        }
    }

    #[cold]
    fn grow(&mut self, deadline: u64, value: T) -> TimerId {
        let index = self.nodes.len();
        assert!(index < IN_RUN as usize, "too many timers");
        let index = index as u32;
        let (prev, next, generation) = (NIL, NIL, 0);
        if index == 0 {
            // Many reactors have one timer.
            self.nodes.reserve_exact(1);
        }
        self.nodes.push(Node { deadline, prev, next, generation, value: Some(value) });
        // Reserved, so that no reset allocates; not filled, for few timers are ever late.
        self.late.reserve_exact(self.nodes.capacity() - self.late.len());
        TimerId { index, generation }
    }

    /// Frees a node that hangs nowhere.
    #[inline]
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
        node.value.take()
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
            Earliest::Exactly(at) if at != deadline => {}
            // After a bound too: its slot may have shrunk to where the exact answer is due.
            _ => self.earliest = Earliest::Unknown,
        }
    }

    fn find_earliest(&mut self) -> Earliest {
        let mut at = u64::MAX;
        if self.occupied[LEVELS] != 0 {
            match self.earliest_of(WAITING) {
                Some(waiting) => at = waiting,
                None => return Earliest::NotBefore(0),
            }
        }
        if let Some(node) = self.nodes.get(self.root as usize) {
            at = at.min(node.deadline);
        }
        if let Some(due) = self.first_of_run() {
            return Earliest::Exactly(at.min(due.deadline));
        }
        if self.root != NIL || self.occupied[LEVELS] != 0 {
            return Earliest::Exactly(at);
        }
        let Some((level, slot, start)) = self.nearest() else {
            return Earliest::Unknown;
        };
        if let Some(at) = self.earliest_of(slot) {
            return Earliest::Exactly(at);
        }
        if level > 0 {
            return Earliest::NotBefore(start << TICK_SHIFT);
        }
        // So near that it may be sorted ahead of time.
        self.empty_slot(level, slot, start);
        self.first_of_run().map_or(Earliest::Unknown, |due| Earliest::Exactly(due.deadline))
    }

    /// `None` when the list is too long to search.
    fn earliest_of(&self, list: usize) -> Option<u64> {
        let mut at = u64::MAX;
        let mut index = self.lists.first(list);
        for _ in 0..EXACT_UP_TO {
            let Some(node) = self.nodes.get(index as usize) else { break };
            at = at.min(node.deadline);
            index = node.next;
        }
        (index == NIL).then_some(at)
    }

    // ---- the wheel

    /// The slot of a tick that is later than the position.
    fn slot_of(&self, tick: u64) -> usize {
        debug_assert!(tick > self.position);
        let level = (tick ^ self.position).ilog2() / SLOT_BITS;
        let digit = (tick >> (level * SLOT_BITS)) as usize & 63;
        (level as usize) << SLOT_BITS | digit
    }

    /// Level, slot and first tick of the first occupied slot.
    fn nearest(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied[..LEVELS].iter().position(|&bits| bits != 0)?;
        let digit = self.occupied[level].trailing_zeros();
        let shift = level as u32 * SLOT_BITS;
        let above = shift + SLOT_BITS;
        let start = (self.position >> above << above) | (u64::from(digit) << shift);
        Some((level, level << SLOT_BITS | digit as usize, start))
    }

    /// Puts the position to `start` of the nearest `slot`, and its timers to where they belong
    /// then: to lower levels or, of the tick `start`, to the run.
    fn empty_slot(&mut self, level: usize, slot: usize, start: u64) {
        debug_assert!(start > self.position);
        self.position = start;
        if matches!(self.earliest, Earliest::NotBefore(_)) {
            self.earliest = Earliest::Unknown;
        }
        self.stamp = self.stamp.wrapping_add(1);
        let stamp = self.stamp;
        let sorted = self.run.len();
        let mut index = self.lists.take(slot);
        self.occupied[level] &= !(1 << (slot & 63));
        while let Some(node) = self.nodes.get_mut(index as usize) {
            let (deadline, next) = (node.deadline, node.next);
            let tick = deadline >> TICK_SHIFT;
            if tick > start {
                let slot = self.slot_of(tick);
                self.push_list(index, slot);
            } else {
                (node.prev, node.next) = (IN_RUN, stamp);
                self.run.push(Due { deadline, index, stamp });
            }
            index = next;
        }
        // Stable: lists are in the order of arrival.
        self.run[sorted..].sort_by_key(|due| due.deadline);
    }

    #[inline]
    fn first_of_run(&mut self) -> Option<Due> {
        while let Some(&due) = self.run.get(self.run_start) {
            let node = &self.nodes[due.index as usize];
            if node.prev == IN_RUN && node.next == due.stamp {
                return Some(due);
            }
            self.run_start += 1;
        }
        self.run.clear();
        self.run_start = 0;
        None
    }

    /// Hangs a loose node where its deadline and the position say.
    #[inline]
    fn place(&mut self, index: u32) {
        let tick = self.nodes[index as usize].deadline >> TICK_SHIFT;
        if tick > self.position {
            let slot = self.slot_of(tick);
            self.push_list(index, slot);
        } else {
            self.place_late(index);
        }
    }

    fn place_late(&mut self, index: u32) {
        let at = index as usize;
        let late = Late { order: self.arrivals, child: IS_WAITING };
        self.arrivals += 1;
        if at >= self.late.len() {
            self.late.resize(at + 1, late);
        }
        self.late[at] = late;
        if self.turn.is_some() {
            self.push_list(index, WAITING);
        } else {
            self.push_heap(index);
        }
    }

    /// Takes a node from where it hangs; its own links are left as they are.
    #[inline]
    fn detach(&mut self, index: u32) {
        let node = &self.nodes[index as usize];
        let (prev, next, tick) = (node.prev, node.next, node.deadline >> TICK_SHIFT);
        let later = tick > self.position;
        if !later && self.detach_front(index) {
            return;
        }
        if let Some(node) = self.nodes.get_mut(prev as usize) {
            node.next = next;
        }
        if let Some(node) = self.nodes.get_mut(next as usize) {
            node.prev = prev;
        }
        if prev == NIL || next == NIL {
            self.detach_end(if later { self.slot_of(tick) } else { WAITING }, prev, next);
        }
    }

    /// For the first or last of a list.
    fn detach_end(&mut self, at: usize, prev: u32, next: u32) {
        let list = self.lists.get_mut(at);
        if prev == NIL {
            list.first = next;
        }
        if next == NIL {
            list.last = prev;
        }
        if list.first == NIL {
            self.occupied[at >> SLOT_BITS] &= !(1 << (at & 63));
        }
    }

    /// Takes a node from the run or the heap; false if it is in the waiting list.
    fn detach_front(&mut self, index: u32) -> bool {
        let node = &mut self.nodes[index as usize];
        if node.prev == IN_RUN {
            // Its entry is now stale.
            node.prev = NIL;
            return true;
        }
        if self.late[index as usize].child == IS_WAITING {
            return false;
        }
        self.remove_heap(index);
        true
    }

    #[inline]
    fn push_list(&mut self, index: u32, at: usize) {
        let list = self.lists.get_mut(at);
        let prev = mem::replace(&mut list.last, index);
        if let Some(prev) = self.nodes.get_mut(prev as usize) {
            prev.next = index;
        } else {
            list.first = index;
            self.occupied[at >> SLOT_BITS] |= 1 << (at & 63);
        }
        let node = &mut self.nodes[index as usize];
        (node.prev, node.next) = (prev, NIL);
    }

    // ---- the heap: a pairing heap, every node before its children, which form a list

    fn push_heap(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        (node.prev, node.next) = (NIL, NIL);
        self.late[index as usize].child = NIL;
        self.root = self.meld(self.root, index);
    }

    fn remove_heap(&mut self, index: u32) {
        let node = &self.nodes[index as usize];
        let (prev, next) = (node.prev, node.next);
        let rest = self.meld_children(self.late[index as usize].child);
        let Some(before) = self.nodes.get_mut(prev as usize) else {
            self.root = rest;
            return;
        };
        let parent = &mut self.late[prev as usize];
        if parent.child == index {
            parent.child = next;
        } else {
            before.next = next;
        }
        if let Some(next) = self.nodes.get_mut(next as usize) {
            next.prev = prev;
        }
        self.root = self.meld(self.root, rest);
    }

    /// Joins two heaps, given by their roots; either may be NIL.
    fn meld(&mut self, a: u32, b: u32) -> u32 {
        let (Some(x), Some(y)) = (self.nodes.get(a as usize), self.nodes.get(b as usize)) else {
            return if a == NIL { b } else { a };
        };
        let x = (x.deadline, self.late[a as usize].order);
        let y = (y.deadline, self.late[b as usize].order);
        let (first, second) = if x < y { (a, b) } else { (b, a) };
        let sibling = mem::replace(&mut self.late[first as usize].child, second);
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
