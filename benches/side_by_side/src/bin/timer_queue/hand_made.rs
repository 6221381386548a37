//! The queue that one would write by hand: a hierarchical wheel of 5 levels of 64 slots, with
//! ticks of a millisecond, linked both ways through a slab. What is due in one millisecond comes
//! in no order, and a deadline has no finer parts.

use crate::{Queue, Value};

pub(crate) struct Wheel {
    nodes: Vec<Node>,
    free: Vec<u32>,
    heads: Vec<u32>,
    bits: [u64; LEVELS],
    now: u64,
}

struct Node {
    at: u64,
    prev: u32,
    next: u32,
    slot: u32,
    generation: u32,
    value: Option<Value>,
}

const NIL: u32 = u32::MAX;
const LEVELS: usize = 5;

impl Wheel {
    pub(crate) fn new() -> Self {
        let (nodes, free) = (Vec::new(), Vec::new());
        Self { nodes, free, heads: vec![NIL; LEVELS * 64], bits: [0; LEVELS], now: 0 }
    }

    fn link(&mut self, index: u32) {
        let at = self.nodes[index as usize].at.max(self.now);
        let differing = (at ^ self.now) | 63;
        let level = (((63 - differing.leading_zeros()) / 6) as usize).min(LEVELS - 1);
        let slot = level * 64 + ((at >> (6 * level)) & 63) as usize;
        let head = self.heads[slot];
        let node = &mut self.nodes[index as usize];
        (node.prev, node.next, node.slot) = (NIL, head, slot as u32);
        if head != NIL {
            self.nodes[head as usize].prev = index;
        }
        self.heads[slot] = index;
        self.bits[level] |= 1 << (slot & 63);
    }

    fn unlink(&mut self, index: u32) {
        let Node { prev, next, slot, .. } = self.nodes[index as usize];
        if prev == NIL {
            self.heads[slot as usize] = next;
            if next == NIL {
                self.bits[slot as usize / 64] &= !(1 << (slot & 63));
            }
        } else {
            self.nodes[prev as usize].next = next;
        }
        if next != NIL {
            self.nodes[next as usize].prev = prev;
        }
    }

    fn release(&mut self, index: u32) -> Option<Value> {
        let node = &mut self.nodes[index as usize];
        node.generation = node.generation.wrapping_add(1);
        self.free.push(index);
        node.value.take()
    }

    /// The nearest occupied slot of the lowest level that has one: level, slot, first tick.
    fn nearest(&self) -> Option<(usize, u64, u64)> {
        (0..LEVELS).find_map(|level| {
            let current = (self.now >> (6 * level)) & 63;
            let ahead = self.bits[level] & (!0 << current);
            let slot = u64::from(ahead.trailing_zeros());
            let base = self.now >> (6 * (level + 1)) << (6 * (level + 1));
            (ahead != 0).then(|| (level, slot, base + (slot << (6 * level))))
        })
    }
}

impl Queue for Wheel {
    type Handle = (u32, u32);

    fn schedule(&mut self, at: u64, value: Value) -> (u32, u32) {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let (prev, next, slot, generation) = (NIL, NIL, 0, 0);
                self.nodes.push(Node { at, prev, next, slot, generation, value: None });
                self.nodes.len() as u32 - 1
            }
        };
        let node = &mut self.nodes[index as usize];
        (node.at, node.value) = (at, Some(value));
        let generation = node.generation;
        self.link(index);
        (index, generation)
    }

    fn cancel(&mut self, (index, generation): (u32, u32)) -> Option<Value> {
        if self.nodes[index as usize].generation != generation {
            return None;
        }
        self.unlink(index);
        self.release(index)
    }

    fn push_back(&mut self, (index, generation): (u32, u32), at: u64) {
        if self.nodes[index as usize].generation == generation {
            self.unlink(index);
            self.nodes[index as usize].at = at;
            self.link(index);
        }
    }

    fn fire(&mut self, now: u64, mut due: impl FnMut(Value)) {
        while let Some((level, slot, start)) = self.nearest().filter(|nearest| nearest.2 <= now) {
            self.now = self.now.max(start);
            let at = level * 64 + slot as usize;
            let mut index = std::mem::replace(&mut self.heads[at], NIL);
            self.bits[level] &= !(1 << slot);
            while index != NIL {
                let next = self.nodes[index as usize].next;
                if level == 0 {
                    self.release(index).into_iter().for_each(&mut due);
                } else {
                    self.link(index);
                }
                index = next;
            }
        }
        self.now = now;
    }
}
