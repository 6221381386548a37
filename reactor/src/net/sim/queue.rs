//! The event queue: what happens next in a world, in the order of time, and among events of one
//! instant in the order in which they were scheduled.

/// One entry: small, since a heap moves its entries about. What an event needs beyond lies
/// elsewhere, under `index`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<E> {
    pub(crate) at: u64,
    /// Order of scheduling; decides among equals.
    sequence: u64,
    pub(crate) event: E,
}

impl<E> Entry<E> {
    #[inline]
    fn is_before(&self, other: &Self) -> bool {
        (self.at, self.sequence) < (other.at, other.sequence)
    }
}

/// A heap whose nodes have four children: half as deep as with two, and the children of a node
/// lie side by side.
pub(crate) struct EventQueue<E> {
    heap: Vec<Entry<E>>,
    next_sequence: u64,
}

const ARITY: usize = 4;

impl<E: Copy> EventQueue<E> {
    pub(crate) fn new() -> Self {
        Self { heap: Vec::new(), next_sequence: 0 }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.heap.len()
    }

    /// In no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry<E>> {
        self.heap.iter()
    }

    pub(crate) fn push(&mut self, at: u64, event: E) {
        let entry = Entry { at, sequence: self.next_sequence, event };
        self.next_sequence += 1;
        let mut hole = self.heap.len();
        self.heap.push(entry);
        while hole > 0 {
            let parent = (hole - 1) / ARITY;
            if !entry.is_before(&self.heap[parent]) {
                break;
            }
            self.heap[hole] = self.heap[parent];
            hole = parent;
        }
        self.heap[hole] = entry;
    }

    /// When the earliest event happens.
    #[inline]
    pub(crate) fn next_at(&self) -> Option<u64> {
        self.heap.first().map(|entry| entry.at)
    }

    /// Takes the earliest event, if it happens no later than `until`.
    pub(crate) fn pop_until(&mut self, until: u64) -> Option<Entry<E>> {
        if self.next_at()? > until {
            return None;
        }
        let last = self.heap.pop()?;
        let Some(&first) = self.heap.first() else { return Some(last) };
        let len = self.heap.len();
        let mut hole = 0;
        loop {
            let children = hole * ARITY + 1;
            if children >= len {
                break;
            }
            let mut least = children;
            for child in children + 1..(children + ARITY).min(len) {
                if self.heap[child].is_before(&self.heap[least]) {
                    least = child;
                }
            }
            if !self.heap[least].is_before(&last) {
                break;
            }
            self.heap[hole] = self.heap[least];
            hole = least;
        }
        self.heap[hole] = last;
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn events_come_in_order_of_time_and_then_of_scheduling(
            steps in prop::collection::vec(prop::option::of(0_u64..20), 0..300),
        ) {
            let mut queue = EventQueue::new();
            let mut model: Vec<(u64, usize)> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Some(at) => {
                        queue.push(at, number);
                        model.push((at, number));
                    }
                    None => {
                        model.sort_unstable();
                        let due = model.first().is_some_and(|(at, _)| *at <= 15);
                        let expected = due.then(|| model.remove(0));
                        let got = queue.pop_until(15).map(|entry| (entry.at, entry.event));
                        prop_assert_eq!(got, expected);
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.next_at(), model.iter().map(|(at, _)| *at).min());
            }
        }
    }
}
