//! The choices of a program, apart from those of its world.

use std::cell::Cell;
use std::time::Duration;

/// Numbers that look random (splitmix64), the same for the same seed.
pub struct Random(Cell<u64>);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    pub fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.0.set(state);
        let mut mixed = state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    pub fn below(&self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn index(&self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True once in so many times.
    pub fn one_in(&self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn flip(&self) -> bool {
        self.one_in(2)
    }

    pub fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    /// One of them, if there is any.
    pub fn some<'a, T>(&self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { Some(&from[self.index(from.len())]) }
    }

    /// Often short, now and then long.
    pub fn time(&self) -> Duration {
        Duration::from_micros(match self.below(8) {
            0 => 0,
            1..=4 => self.below(3_000),
            5 | 6 => self.below(200_000),
            _ => self.below(5_000_000),
        })
    }
}
