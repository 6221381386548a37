//! The event queue: what happens next in a world, in the order of time, and among events of one
//! instant in the order in which they were scheduled.
//!
//! A radix heap (Ahuja, Mehlhorn, Orlin and Tarjan, "Faster algorithms for the shortest path
//! problem", 1990). Time does not run backwards: whatever waits comes after the instant that is
//! being served. So an event is put by the highest digit in which its time differs from that
//! instant: the place of the digit names a level, its value a slot. When the instant is over, the
//! first slot of the lowest level that has any holds the next event, and its events are put again,
//! by their distance from that one. An event only ever moves to lower levels, however many others
//! wait, and memory is read and written in runs. Events of one time are always in one slot, in the
//! order in which they were scheduled.

mod pool;

use pool::{List, Pool};

/// A level of 64 slots has one word that tells which of them hold something.
const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
const LEVELS: usize = u64::BITS.div_ceil(DIGIT_BITS) as usize;

/// What the events of a slot need is fetched from memory together if there are no more than this:
/// it is to stay in a cache of the second level until they come.
const FETCHED: u32 = 512;

/// An event and its time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<E> {
    pub(crate) at: u64,
    pub(crate) event: E,
}

pub(crate) struct EventQueue<E> {
    /// The instant that is being served.
    instant: u64,
    /// Its events.
    due: List,
    /// Later events: level by level.
    slots: Vec<Slot>,
    /// For each level a bit for each slot that holds something.
    occupied: [u64; LEVELS],
    /// A bit for each level of which a slot does.
    levels: u16,
    pool: Pool<Entry<E>>,
}

/// Events whose times differ from the instant in one digit, which they have in common, and in none
/// above.
#[derive(Clone, Copy)]
struct Slot {
    least: u64,
    most: u64,
    list: List,
    count: u32,
}

impl Slot {
    const EMPTY: Self = Self { least: u64::MAX, most: 0, list: List::EMPTY, count: 0 };
}

impl<E: Copy> EventQueue<E> {
    pub(crate) fn new() -> Self {
        Self {
            instant: 0,
            due: List::EMPTY,
            slots: vec![Slot::EMPTY; LEVELS * SLOTS],
            occupied: [0; LEVELS],
            levels: 0,
            pool: Pool::new(),
        }
    }

    /// In no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry<E>> {
        let later = self.slots.iter().map(|slot| slot.list);
        std::iter::once(self.due).chain(later).flat_map(|list| self.pool.iter(list))
    }

    /// What is for the past happens as soon as what was scheduled for now has happened.
    #[inline]
    pub(crate) fn push(&mut self, at: u64, event: E) {
        self.put(Entry { at: at.max(self.instant), event });
    }

    #[inline]
    fn put(&mut self, entry: Entry<E>) {
        let differ = entry.at ^ self.instant;
        if differ == 0 {
            return self.pool.push(&mut self.due, entry);
        }
        let level = differ.ilog2() / DIGIT_BITS;
        let digit = (entry.at >> (level * DIGIT_BITS)) as usize % SLOTS;
        self.levels |= 1 << level;
        self.occupied[level as usize] |= 1 << digit;
        let slot = &mut self.slots[level as usize * SLOTS + digit];
        slot.least = slot.least.min(entry.at);
        slot.most = slot.most.max(entry.at);
        slot.count += 1;
        self.pool.push(&mut slot.list, entry);
    }

    /// The level and the digit of the slot of the next event; something waits, and nothing is due.
    #[inline]
    fn first(&self) -> (usize, usize) {
        let level = self.levels.trailing_zeros() as usize;
        (level, self.occupied[level].trailing_zeros() as usize)
    }

    /// When the earliest event happens.
    #[inline]
    pub(crate) fn next_at(&self) -> Option<u64> {
        if !self.due.is_empty() {
            return Some(self.instant);
        }
        if self.levels == 0 {
            return None;
        }
        let (level, digit) = self.first();
        Some(self.slots[level * SLOTS + digit].least)
    }

    /// Takes the earliest event, if it happens no later than `until`. Of events that come soon,
    /// many at once, `fetch` is told before: it may have the processor fetch what they need.
    #[inline]
    pub(crate) fn pop_until(&mut self, until: u64, fetch: impl FnMut(&E)) -> Option<Entry<E>> {
        if self.next_at()? > until {
            return None;
        }
        if self.due.is_empty() {
            self.begin_next(fetch);
        }
        self.pool.pop(&mut self.due)
    }

    /// Comes to the instant of the next event; something waits, and nothing is due.
    fn begin_next(&mut self, mut fetch: impl FnMut(&E)) {
        let (level, digit) = self.first();
        let place = level * SLOTS + digit;
        let mut slot = std::mem::replace(&mut self.slots[place], Slot::EMPTY);
        self.occupied[level] &= !(1 << digit);
        if self.occupied[level] == 0 {
            self.levels &= !(1 << level);
        }
        self.instant = slot.least;
        if slot.least == slot.most {
            self.due = slot.list;
            return;
        }
        if slot.count <= FETCHED {
            self.pool.iter(slot.list).for_each(|entry| fetch(&entry.event));
        }
        while let Some(entry) = self.pool.pop(&mut slot.list) {
            self.put(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// An event so much after the latest that was taken.
        In(u64),
        At(u64),
        /// Takes what happens in this time, but no more than so many events.
        Take(u64, usize),
    }

    fn steps() -> impl Strategy<Value = Step> {
        let near = prop_oneof![Just(0_u64), 0_u64..4, Just(1_000_000), 0_u64..3_000_000_000];
        let far = prop_oneof![any::<u64>(), u64::MAX - 3..=u64::MAX, 0_u64..20];
        // Distances of every magnitude.
        let some = (0..64_u32, any::<u64>()).prop_map(|(bits, any)| any >> bits);
        prop_oneof![
            4 => near.prop_map(Step::In),
            2 => some.clone().prop_map(Step::In),
            1 => far.prop_map(Step::At),
            4 => (some, 0..8_usize).prop_map(|(time, count)| Step::Take(time, count)),
        ]
    }

    proptest! {
        #[test]
        fn events_come_in_order_of_time_and_then_of_scheduling(
            steps in prop::collection::vec(steps(), 0..400),
        ) {
            let mut queue = EventQueue::new();
            let (mut model, mut now) = (std::collections::BTreeMap::new(), 0_u64);
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::In(time) => {
                        let at = now.saturating_add(time);
                        queue.push(at, number);
                        model.insert((at, number), ());
                    }
                    Step::At(at) => {
                        queue.push(at, number);
                        model.insert((at.max(now), number), ());
                    }
                    Step::Take(time, count) => {
                        let until = now.saturating_add(time);
                        for _ in 0..count {
                            let first = model.first_entry().filter(|e| e.key().0 <= until);
                            let expected = first.map(|e| e.remove_entry().0);
                            let got = queue.pop_until(until, |_| {}).map(|entry| (entry.at, entry.event));
                            prop_assert_eq!(got, expected);
                            now = got.map_or(now, |(at, _)| at);
                        }
                    }
                }
                prop_assert_eq!(queue.next_at(), model.keys().next().map(|(at, _)| *at));
            }
            let mut waiting: Vec<_> = queue.iter().map(|entry| (entry.at, entry.event)).collect();
            waiting.sort_unstable();
            prop_assert!(waiting.iter().eq(model.keys()));
        }
    }

    #[test]
    fn many_events_of_one_instant_come_in_the_order_of_scheduling() {
        let mut queue = EventQueue::new();
        for number in 0..1_000 {
            queue.push(1_000_000 + number % 3, number);
        }
        let mut taken = Vec::new();
        while let Some(entry) = queue.pop_until(u64::MAX, |_| {}) {
            taken.push((entry.at, entry.event));
            if entry.event < 1_000 {
                // Behind all that were there before.
                queue.push(entry.at, entry.event + 1_000);
            }
        }
        let mut expected = taken.clone();
        expected.sort_by_key(|(at, number)| (*at, *number));
        assert_eq!(taken.len(), 2_000);
        assert_eq!(taken, expected);
    }

    #[test]
    fn events_that_come_soon_are_told_of_together() {
        let mut queue = EventQueue::new();
        for number in 0..100_u64 {
            queue.push(1_000_000 + 10 * number, number);
        }
        let mut told = std::collections::BTreeSet::new();
        let first = queue.pop_until(u64::MAX, |number| {
            told.insert(*number);
        });
        assert_eq!(first.map(|entry| entry.event), Some(0));
        assert!(told.len() > 50, "{told:?}");
    }
}
