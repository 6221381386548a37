//! The wheel itself: levels of slots, each a list of timers.
//!
//! The slot of a timer follows from its tick and the wheel's position alone: the level is that of
//! the highest digit (of 6 bits) in which the two differ. So all of a lower level comes before all
//! of a higher one; every occupied slot is ahead of the position; the position may jump to any
//! tick before the nearest occupied slot without touching a node; and timers of one tick are at
//! any time in one list, first in first out, however many levels they came down.

use std::mem;

use super::{Due, Known, LEVELS, NIL, RUN, SLOT_BITS, TICK_SHIFT, WAITING, Wheel};

#[derive(Clone, Copy)]
pub(super) struct List {
    pub(super) first: u32,
    last: u32,
}

const EMPTY: List = List { first: NIL, last: NIL };

type Level = [List; 1 << SLOT_BITS];

/// The slots, level by level, and the waiting list. A level is made with its first timer: a
/// reactor without timers has none, and few have timers on more than two or three.
pub(super) struct Lists {
    levels: [Option<Box<Level>>; LEVELS],
    /// A bit for every slot that is not empty.
    occupied: [u64; LEVELS],
    waiting: List,
}

impl Lists {
    pub(super) const fn new() -> Self {
        Self { levels: [const { None }; LEVELS], occupied: [0; LEVELS], waiting: EMPTY }
    }

    #[inline]
    pub(super) fn first(&self, at: u32) -> u32 {
        match self.levels.get((at >> SLOT_BITS) as usize) {
            Some(Some(level)) => level[at as usize & 63].first,
            Some(None) => NIL,
            None => self.waiting.first,
        }
    }

    #[inline]
    fn get_mut(&mut self, at: u32) -> &mut List {
        match self.levels.get_mut((at >> SLOT_BITS) as usize) {
            Some(level) => &mut level.get_or_insert_with(new_level)[at as usize & 63],
            None => &mut self.waiting,
        }
    }

    #[inline]
    fn set_occupied(&mut self, at: u32, occupied: bool) {
        if let Some(bits) = self.occupied.get_mut((at >> SLOT_BITS) as usize) {
            let bit = 1 << (at & 63);
            *bits = if occupied { *bits | bit } else { *bits & !bit };
        }
    }

    /// Empties a list; what was in it.
    pub(super) fn take(&mut self, at: u32) -> List {
        if self.first(at) == NIL {
            return EMPTY;
        }
        self.set_occupied(at, false);
        mem::replace(self.get_mut(at), EMPTY)
    }
}

#[cold]
fn new_level() -> Box<Level> {
    Box::new([EMPTY; 1 << SLOT_BITS])
}

/// A slot, and the first of its ticks.
#[derive(Clone, Copy)]
pub(super) struct Nearest {
    pub(super) level: usize,
    pub(super) slot: u32,
    pub(super) start: u64,
}

impl<T> Wheel<T> {
    /// The slot of a timer that is scheduled now; `None` if it is late.
    #[inline]
    pub(super) fn slot_of(&self, tick: u64) -> Option<u32> {
        if tick > self.horizon { Some(self.slot_ahead(tick)) } else { None }
    }

    /// The slot of a tick later than the position.
    #[inline]
    fn slot_ahead(&self, tick: u64) -> u32 {
        debug_assert!(tick > self.position);
        let level = (tick ^ self.position).ilog2() / SLOT_BITS;
        let digit = (tick >> (level * SLOT_BITS)) as u32 & 63;
        level << SLOT_BITS | digit
    }

    /// The first occupied slot.
    pub(super) fn nearest(&self) -> Option<Nearest> {
        let level = self.lists.occupied.iter().position(|&bits| bits != 0)?;
        let digit = self.lists.occupied[level].trailing_zeros();
        let shift = level as u32 * SLOT_BITS;
        let above = shift + SLOT_BITS;
        let start = (self.position >> above << above) | (u64::from(digit) << shift);
        Some(Nearest { level, slot: (level as u32) << SLOT_BITS | digit, start })
    }

    /// Fills the run, which is empty, from the nearest slot if its time has come; false if none's
    /// has.
    #[cold]
    pub(super) fn refill(&mut self) -> bool {
        let Some(nearest) = self.nearest().filter(|nearest| nearest.start <= self.horizon) else {
            self.position = self.position.max(self.horizon);
            return false;
        };
        let last = nearest.start | ((1 << (nearest.level as u32 * SLOT_BITS)) - 1);
        if last <= self.horizon {
            // All of it is due: there is no need to take it down the levels.
            self.position = last;
            self.drain_slot(nearest);
        } else {
            self.empty_slot(nearest);
        }
        true
    }

    /// Puts the position to the start of the nearest slot, and its timers to where they belong
    /// then: to lower levels or, of the first tick, to the run.
    pub(super) fn empty_slot(&mut self, nearest: Nearest) {
        debug_assert!(nearest.start > self.position);
        self.position = nearest.start;
        self.horizon = self.horizon.max(nearest.start);
        if nearest.level == 0 {
            return self.drain_slot(nearest);
        }
        let sorted = self.begin_run();
        let mut index = self.lists.take(nearest.slot).first;
        while let Some(node) = self.nodes.get(index as usize) {
            let (deadline, next) = (node.deadline, node.next);
            let tick = deadline >> TICK_SHIFT;
            if tick > self.position {
                self.push_list(index, self.slot_ahead(tick));
            } else {
                let due = self.due(index);
                self.run.push(due);
            }
            index = next;
        }
        // Stable: lists are in the order of arrival.
        self.run[sorted..].sort_by_key(|due| due.deadline);
    }

    /// Takes all of a slot into the run.
    fn drain_slot(&mut self, Nearest { level, slot, .. }: Nearest) {
        let sorted = self.begin_run();
        let list = self.lists.take(slot);
        // From both ends, so that two nodes are on their way from memory at a time.
        let (mut front, mut back) = (list.first, list.last);
        let mut rear = mem::take(&mut self.spare);
        while front != NIL {
            let next = self.nodes[front as usize].next;
            let due = self.due(front);
            self.run.push(due);
            if front == back {
                break;
            }
            let prev = self.nodes[back as usize].prev;
            let due = self.due(back);
            rear.push(due);
            if next == back {
                break;
            }
            (front, back) = (next, prev);
        }
        self.run.extend(rear.drain(..).rev());
        // Stable: lists are in the order of arrival.
        sort(&mut self.run[sorted..], &mut rear, TICK_SHIFT + level as u32 * SLOT_BITS);
        rear.clear();
        if rear.capacity() <= CROWD {
            self.spare = rear;
        }
    }

    /// Where the next part of the run begins.
    fn begin_run(&mut self) -> usize {
        if self.known == Known::Bound {
            self.forget_earliest();
        }
        self.stamp = self.stamp.wrapping_add(1);
        self.run.len()
    }

    /// A node goes to the run: its entry.
    #[inline]
    fn due(&mut self, index: u32) -> Due {
        let stamp = self.stamp;
        let node = &mut self.nodes[index as usize];
        (node.place, node.next) = (RUN, stamp);
        Due { deadline: node.deadline, index, stamp }
    }

    /// Appends a loose node to a list.
    #[inline]
    pub(super) fn push_list(&mut self, index: u32, at: u32) {
        let prev = self.append(index, at);
        let node = &mut self.nodes[index as usize];
        (node.prev, node.next, node.place) = (prev, NIL, at);
    }

    /// Makes `index` the last of a list, and gives the one before.
    #[inline]
    pub(super) fn append(&mut self, index: u32, at: u32) -> u32 {
        debug_assert!(at <= WAITING);
        let list = self.lists.get_mut(at);
        let prev = mem::replace(&mut list.last, index);
        if let Some(prev) = self.nodes.get_mut(prev as usize) {
            prev.next = index;
        } else {
            list.first = index;
            self.lists.set_occupied(at, true);
        }
        prev
    }

    /// Joins the neighbours of a node that leaves its list.
    #[inline]
    pub(super) fn leave_list(&mut self, at: u32, prev: u32, next: u32) {
        let before = self.nodes.get_mut(prev as usize).map(|node| node.next = next);
        let after = self.nodes.get_mut(next as usize).map(|node| node.prev = prev);
        if before.is_none() || after.is_none() {
            self.leave_end(at, prev, next);
        }
    }

    /// For the first or the last of a list.
    fn leave_end(&mut self, at: u32, prev: u32, next: u32) {
        let list = self.lists.get_mut(at);
        if prev == NIL {
            list.first = next;
        }
        if next == NIL {
            list.last = prev;
        }
        if list.first == NIL {
            self.lists.set_occupied(at, false);
        }
    }
}

/// A crowd is split before it is sorted, where the standard library would get memory, too.
const CROWD: usize = 256;
const MOST_BUCKETS: u32 = 12;
/// As few are sorted by insertion.
const SMALL_BUCKET: usize = 16;

/// Sorts by deadline, keeping the order of equals; the deadlines differ in the lower `bits` alone.
/// `spare` is empty.
fn sort(entries: &mut [Due], spare: &mut Vec<Due>, bits: u32) {
    // As it is where all timers are set for the same time ahead.
    if entries.is_sorted_by_key(|due| due.deadline) {
        return;
    }
    if entries.len() <= CROWD {
        entries.sort_by_key(|due| due.deadline);
        return;
    }
    // Into buckets of a few, unless they lie close together: moved once, not log n times.
    let split = entries.len().ilog2().min(MOST_BUCKETS);
    let shift = bits - split;
    let bucket = |due: &Due| (due.deadline >> shift) as usize & ((1 << split) - 1);
    let mut ends = vec![0; 1 << split];
    entries.iter().for_each(|due| ends[bucket(due)] += 1);
    let mut sum = 0;
    for end in &mut ends {
        sum += mem::replace(end, sum);
    }
    spare.extend_from_slice(entries);
    for due in &*spare {
        let end: &mut usize = &mut ends[bucket(due)];
        entries[*end] = *due;
        *end += 1;
    }
    let mut start = 0;
    for end in ends {
        if end - start > SMALL_BUCKET {
            entries[start..end].sort_by_key(|due| due.deadline);
        }
        start = end;
    }
    // What is left to do is near: an entry moves no further than within its bucket.
    for at in 1..entries.len() {
        let due = entries[at];
        let mut hole = at;
        while hole > 0 && entries[hole - 1].deadline > due.deadline {
            entries[hole] = entries[hole - 1];
            hole -= 1;
        }
        entries[hole] = due;
    }
}
