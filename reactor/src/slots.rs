//! A slab whose keys carry a generation, so that a key kept after its slot was reused is
//! recognised instead of reaching a stranger.

use slab::Slab;

/// Names one occupant of a slot; never reused within 2^32 turnovers of that slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    index: u32,
    generation: u32,
}

/// Which slots a token points into. The poller keeps the kind with all bits set for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Kind {
    Datagram = 0,
    /// A socket of a task of the resolver.
    Task = 1,
    Listener = 2,
    Stream = 3,
    UnixDatagram = 4,
}

const KIND_BITS: u32 = 3;
/// Bits of a token that hold the index; the rest, above the kind, hold what fits of the
/// generation. A descriptor's number, and so the index, fits by far.
const INDEX_BITS: u32 = if usize::BITS >= 64 { 30 } else { 18 };

impl Kind {
    /// The kind of what `token` was made for.
    #[inline]
    pub(crate) fn of(token: usize) -> Option<Self> {
        const KINDS: [Kind; 5] =
            [Kind::Datagram, Kind::Task, Kind::Listener, Kind::Stream, Kind::UnixDatagram];
        KINDS.get(token & ((1 << KIND_BITS) - 1)).copied()
    }
}

impl Key {
    /// The key as a number for the poller. On 32-bit systems the generation is cut to 11 bits: a
    /// stale event may then pass for a spurious one, which every port tolerates.
    #[inline]
    pub(crate) fn token(self, kind: Kind) -> usize {
        kind as usize
            | (self.index as usize) << KIND_BITS
            | (self.generation as usize).wrapping_shl(KIND_BITS + INDEX_BITS)
    }
}

pub(crate) struct Slots<T> {
    slab: Slab<T>,
    /// Of each slot: the generation of its occupant, or of the next.
    generations: Vec<u32>,
}

impl<T> Slots<T> {
    pub(crate) fn new() -> Self {
        Self { slab: Slab::new(), generations: Vec::new() }
    }

    /// The key that the next `insert` will return.
    pub(crate) fn next_key(&self) -> Key {
        let index = self.slab.vacant_key();
        let generation = self.generations.get(index).copied().unwrap_or(0);
        Key { index: index as u32, generation }
    }

    pub(crate) fn insert(&mut self, value: T) -> Key {
        let key = self.next_key();
        if key.index as usize == self.generations.len() {
            self.generations.push(0);
        }
        if self.slab.capacity() == 0 {
            // Many reactors hold a single port, and ports are big.
            self.slab.reserve_exact(1);
        }
        self.slab.insert(value);
        key
    }

    #[inline]
    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        match self.generations.get(key.index as usize) {
            Some(generation) if *generation == key.generation => self.slab.get(key.index as usize),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.generations.get(key.index as usize) {
            Some(generation) if *generation == key.generation => {
                self.slab.get_mut(key.index as usize)
            }
            _ => None,
        }
    }

    /// The key of the occupant that `token` was made for; `None` when it is gone.
    #[inline]
    pub(crate) fn key_of(&self, token: usize) -> Option<Key> {
        let index = (token >> KIND_BITS) & ((1_usize << INDEX_BITS) - 1);
        self.slab.get(index)?;
        let key = self.key_at(index);
        (key.token(Kind::of(token)?) == token).then_some(key)
    }

    /// The occupant that `token` was made for, and its key; `None` when it is gone.
    #[inline]
    pub(crate) fn occupant_of(&mut self, token: usize) -> Option<(Key, &mut T)> {
        let index = (token >> KIND_BITS) & ((1_usize << INDEX_BITS) - 1);
        let key = Key { index: index as u32, generation: *self.generations.get(index)? };
        if key.token(Kind::of(token)?) != token {
            return None;
        }
        self.slab.get_mut(index).map(|occupant| (key, occupant))
    }

    fn key_at(&self, index: usize) -> Key {
        Key { index: index as u32, generation: self.generations[index] }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        let generation = &mut self.generations[key.index as usize];
        *generation = generation.wrapping_add(1);
        Some(self.slab.remove(key.index as usize))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.slab.iter().map(|(index, _)| self.key_at(index))
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// Empties every slot; the values are the caller's to drop.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        let keys: Vec<Key> = self.keys().collect();
        keys.into_iter().filter_map(|key| self.remove(key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stale_key_or_token_reaches_nobody() {
        let mut slots = Slots::new();
        let first = slots.insert("first");
        assert_eq!(slots.key_of(first.token(Kind::Datagram)), Some(first));
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second");
        assert_ne!(first, second);
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.key_of(first.token(Kind::Datagram)), None);
        assert_eq!(slots.occupant_of(first.token(Kind::Datagram)), None);
        let found = slots.occupant_of(second.token(Kind::Datagram));
        assert_eq!(found, Some((second, &mut "second")));
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get(second), Some(&"second"));
    }

    #[test]
    fn next_key_tells_what_insert_will_return() {
        let mut slots = Slots::new();
        for round in 0..3 {
            let foretold = slots.next_key();
            assert_eq!(slots.insert(round), foretold);
            slots.remove(foretold);
        }
    }

    proptest! {
        #[test]
        fn slots_behave_like_a_map(steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..200)) {
            let mut slots = Slots::new();
            let mut model = HashMap::new();
            let mut keys = Vec::new();
            for (number, (insert, at)) in steps.into_iter().enumerate() {
                if insert || keys.is_empty() {
                    let key = slots.insert(number);
                    prop_assert!(model.insert(key, number).is_none());
                    keys.push(key);
                } else {
                    let key = *at.get(&keys);
                    prop_assert_eq!(slots.remove(key), model.remove(&key));
                }
                for key in &keys {
                    prop_assert_eq!(slots.get(*key), model.get(key));
                }
                prop_assert_eq!(slots.keys().count(), model.len());
            }
        }
    }
}
