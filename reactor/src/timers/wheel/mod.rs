//! The timer queue: a hierarchical wheel over a slab, and in front of it what is nearly due.
//!
//! Time is nanoseconds since the reactor's start, cut into ticks of 2^20 ns. What lies in a later
//! tick than the wheel's position hangs in a slot of the wheel, in the order of arrival:
//! scheduling, cancelling and moving it cost a few writes. When the position reaches a tick, its
//! timers are sorted once, to the nanosecond, into the run. What is scheduled for a tick that has
//! come already is late for that, and goes to a heap; the next to fire is the earlier of run and
//! heap.
//!
//! With many timers every operation costs what its cache misses cost, so a node is small, and all
//! of a timer lies in it.

mod heap;
mod slots;

use heap::Late;
use slots::Lists;

/// log2 of the nanoseconds in a tick: about a millisecond.
pub(super) const TICK_SHIFT: u32 = 20;
/// Ticks have 44 bits: with eight levels of 6 no deadline is too far for the wheel.
const LEVELS: usize = 8;
const SLOT_BITS: u32 = 6;
/// How far a list is searched for its earliest deadline.
const EXACT_UP_TO: usize = 32;

/// No node. Also the limit for indices.
const NIL: u32 = u32::MAX;

// Where a node hangs: in one of the slots, which come first, or
/// in the list of late timers of the turn under way, which wait for the next,
const WAITING: u32 = (LEVELS as u32) << SLOT_BITS;
/// in the heap of those that waited,
const HEAP: u32 = WAITING + 1;
/// in the run,
const RUN: u32 = WAITING + 2;
/// in the free list.
const FREE: u32 = WAITING + 3;

/// Names one scheduled timer, also after it is gone: no other timer ever has the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TimerId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

pub(super) struct Node<T> {
    deadline: u64,
    /// In a list: the one before, or NIL. In the heap: where.
    prev: u32,
    /// In a list, also the free list: the one after, or NIL. In the run: the stamp of its entry.
    next: u32,
    /// Raised when the timer goes. A node that reaches the maximum is retired.
    pub(super) generation: u32,
    place: u32,
    /// `None` in a free node.
    value: Option<T>,
}

/// Entry of the run. Stale when its node is no longer in the run, or with another stamp.
#[derive(Clone, Copy)]
pub(super) struct Due {
    deadline: u64,
    index: u32,
    stamp: u32,
}

/// What is known of the earliest deadline.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing,
    Exactly,
    /// It is not before.
    Bound,
}

/// Timers by deadline, first in first out among equals. No value is dropped in here, except with
/// the whole wheel: a value is user code's, and its drop may come back to the reactor.
pub(crate) struct Wheel<T> {
    pub(super) nodes: Vec<Node<T>>,
    free: u32,
    len: usize,
    lists: Lists,
    /// The wheel's position, a tick.
    position: u64,
    /// The tick that time has come to, or ahead of it the position. A slot that has come stays as
    /// it is until the run is empty: with one at a time in hand, the caches hold it.
    horizon: u64,
    /// Sorted; the part before `run_start` is done with.
    pub(super) run: Vec<Due>,
    run_start: usize,
    /// What a few timers need on their way to the run; empty in between.
    spare: Vec<Due>,
    /// Counts the slots that were emptied into the run.
    stamp: u32,
    /// The heap.
    pub(super) late: Vec<Late>,
    /// Counts what came to the heap.
    arrivals: u64,
    /// The clock of the turn, while one is under way.
    turn: Option<u64>,
    /// 0 while nothing is known.
    earliest: u64,
    known: Known,
}

impl<T> Wheel<T> {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            free: NIL,
            len: 0,
            lists: Lists::new(),
            position: 0,
            horizon: 0,
            run: Vec::new(),
            run_start: 0,
            spare: Vec::new(),
            stamp: 0,
            late: Vec::new(),
            arrivals: 0,
            turn: None,
            earliest: 0,
            known: Known::Nothing,
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
        self.len += 1;
        self.note_added(deadline);
        let slot = self.slot_of(deadline >> TICK_SHIFT);
        let index = self.free;
        if let Some(node) = self.nodes.get_mut(index as usize) {
            self.free = node.next;
            let generation = node.generation;
            (node.deadline, node.value) = (deadline, Some(value));
            self.place(index, slot);
            return TimerId { index, generation };
        }
        if self.nodes.len() == self.nodes.capacity() {
            self.grow();
        }
        let index = self.nodes.len() as u32;
        // What hangs in no list yet is put where it belongs when it exists.
        let prev = slot.map_or(NIL, |slot| self.append(index, slot));
        let (next, generation, place, value) = (NIL, 0, slot.unwrap_or(FREE), Some(value));
        self.nodes.push(Node { deadline, prev, next, generation, place, value });
        if slot.is_none() {
            self.place_late(index);
        }
        TimerId { index, generation }
    }

    /// Cancels, and gives back the value. `None` when the timer has fired or was cancelled.
    #[inline]
    pub(crate) fn remove(&mut self, id: TimerId) -> Option<T> {
        let node = self.nodes.get(id.index as usize).filter(|it| it.generation == id.generation)?;
        let deadline = node.deadline;
        self.detach(id.index, node.place, node.prev, node.next);
        self.note_gone(deadline);
        self.release(id.index)
    }

    /// Moves to another deadline, and behind those already there: as if removed and inserted, but
    /// the id stays. False when the timer has fired or was cancelled.
    #[inline(always)]
    pub(crate) fn reset(&mut self, id: TimerId, deadline: u64) -> bool {
        let Some(node) = self.nodes.get(id.index as usize) else { return false };
        if node.generation != id.generation {
            return false;
        }
        let old = node.deadline;
        self.detach(id.index, node.place, node.prev, node.next);
        self.nodes[id.index as usize].deadline = deadline;
        self.place(id.index, self.slot_of(deadline >> TICK_SHIFT));
        self.note_gone(old);
        self.note_added(deadline);
        true
    }

    #[inline]
    pub(crate) fn deadline(&self, id: TimerId) -> Option<u64> {
        let node = self.nodes.get(id.index as usize)?;
        (node.generation == id.generation).then_some(node.deadline)
    }

    #[cfg(test)]
    pub(crate) fn get(&self, id: TimerId) -> Option<&T> {
        self.deadline(id).and(self.nodes[id.index as usize].value.as_ref())
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
        if self.known == Known::Nothing {
            (self.known, self.earliest) = self.find_earliest();
        }
        Some(self.earliest)
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
        self.horizon = self.horizon.max(now >> TICK_SHIFT);
    }

    /// Takes the next timer of the turn, by deadline and among equals by the order of insertion
    /// or reset. `None` ends the turn.
    #[inline]
    pub(crate) fn pop_due(&mut self) -> Option<(TimerId, u64, T)> {
        let now = self.turn?;
        // Neither a run nor a heap that is empty has anything before the last instant.
        let due = self.first_of_run();
        let due_at = due.map_or(u64::MAX, |due| due.deadline);
        let late_at = self.first_late().map_or(u64::MAX, |node| node.deadline);
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
            _ => self.pop_late()?,
        };
        self.note_gone(deadline);
        let id = TimerId { index, generation: self.nodes[index as usize].generation };
        self.release(index).map(|value| (id, deadline, value))
    }

    fn end_turn(&mut self) {
        self.turn = None;
        let mut index = self.lists.take(WAITING).first;
        while let Some(node) = self.nodes.get(index as usize) {
            let next = node.next;
            self.push_heap(index);
            index = next;
        }
    }

    // ---- the nodes

    #[cold]
    fn grow(&mut self) {
        // Many reactors have one timer.
        let wanted = (self.nodes.len() * 2).clamp(1, NIL as usize);
        let more = wanted - self.nodes.len();
        assert!(more > 0, "too many timers");
        self.nodes.reserve_exact(more);
        // So that no reset allocates, should all of them be late one day.
        self.late.reserve_exact(wanted - self.late.len());
    }

    /// Frees a node that hangs nowhere.
    #[inline]
    fn release(&mut self, index: u32) -> Option<T> {
        let node = &mut self.nodes[index as usize];
        node.generation += 1;
        node.place = FREE;
        self.len -= 1;
        // A generation must not come twice, so the last is never handed out: one node is lost in
        // 2^32 uses.
        if node.generation != u32::MAX {
            node.next = self.free;
            self.free = index;
        }
        node.value.take()
    }

    /// Hangs a loose node into a slot, or among the late ones.
    #[inline]
    fn place(&mut self, index: u32, slot: Option<u32>) {
        match slot {
            Some(slot) => self.push_list(index, slot),
            None => self.place_late(index),
        }
    }

    /// Takes a node from where it hangs; what it says of that is left as it is.
    #[inline]
    fn detach(&mut self, index: u32, place: u32, prev: u32, next: u32) {
        match place {
            ..=WAITING => self.leave_list(place, prev, next),
            HEAP => self.remove_heap(index),
            // The entry is stale when the node is freed, or hangs elsewhere.
            _ => {}
        }
    }

    // ---- the run

    #[inline]
    fn first_of_run(&mut self) -> Option<Due> {
        loop {
            while let Some(&due) = self.run.get(self.run_start) {
                let node = &self.nodes[due.index as usize];
                if node.place == RUN && node.next == due.stamp {
                    return Some(due);
                }
                self.run_start += 1;
            }
            self.run.clear();
            self.run_start = 0;
            if !self.refill() {
                return None;
            }
        }
    }

    // ---- the earliest

    #[inline]
    fn note_added(&mut self, deadline: u64) {
        if deadline < self.earliest {
            (self.known, self.earliest) = (Known::Exactly, deadline);
        }
    }

    #[inline]
    fn note_gone(&mut self, deadline: u64) {
        // After a bound too: its slot may have shrunk to where the exact answer is due.
        if self.earliest == deadline || self.known != Known::Exactly {
            self.forget_earliest();
        }
    }

    #[inline]
    fn forget_earliest(&mut self) {
        (self.known, self.earliest) = (Known::Nothing, 0);
    }

    fn find_earliest(&mut self) -> (Known, u64) {
        let mut at = u64::MAX;
        if self.lists.first(WAITING) != NIL {
            match self.earliest_of(WAITING) {
                Some(waiting) => at = waiting,
                None => return (Known::Bound, 0),
            }
        }
        let late = self.first_late().map(|node| node.deadline);
        let due = self.first_of_run().map(|due| due.deadline);
        at = at.min(late.unwrap_or(u64::MAX)).min(due.unwrap_or(u64::MAX));
        if late.is_some() || due.is_some() || self.lists.first(WAITING) != NIL {
            return (Known::Exactly, at);
        }
        let Some(nearest) = self.nearest() else {
            return (Known::Nothing, 0);
        };
        if let Some(at) = self.earliest_of(nearest.slot) {
            return (Known::Exactly, at);
        }
        if nearest.level > 0 {
            return (Known::Bound, nearest.start << TICK_SHIFT);
        }
        // So near that it may be sorted ahead of time.
        self.empty_slot(nearest);
        self.first_of_run().map_or((Known::Nothing, 0), |due| (Known::Exactly, due.deadline))
    }

    /// `None` when the list is too long to search.
    fn earliest_of(&self, list: u32) -> Option<u64> {
        let mut at = u64::MAX;
        let mut index = self.lists.first(list);
        for _ in 0..EXACT_UP_TO {
            let Some(node) = self.nodes.get(index as usize) else { break };
            at = at.min(node.deadline);
            index = node.next;
        }
        (index == NIL).then_some(at)
    }
}
