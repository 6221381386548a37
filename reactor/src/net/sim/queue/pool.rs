//! Lists that share one memory: what one gives back serves the next, and none is ever moved to
//! grow.

/// Entries that lie side by side.
const CHUNK: usize = 16;
/// No position, and no chunk.
const NONE: u32 = u32::MAX;

/// A list, first in, first out: the positions of its first and its last entry.
#[derive(Clone, Copy)]
pub(super) struct List {
    first: u32,
    last: u32,
}

impl List {
    pub(super) const EMPTY: Self = Self { first: NONE, last: NONE };

    #[inline]
    pub(super) fn is_empty(self) -> bool {
        self.first == NONE
    }
}

/// The memory of lists.
pub(super) struct Pool<T> {
    /// Chunk by chunk.
    entries: Vec<T>,
    /// For each chunk the one that follows in its list, or in that of the free ones.
    next: Vec<u32>,
    free: u32,
}

impl<T: Copy> Pool<T> {
    pub(super) fn new() -> Self {
        Self { entries: Vec::new(), next: Vec::new(), free: NONE }
    }

    #[inline]
    pub(super) fn push(&mut self, list: &mut List, entry: T) {
        let last = if list.is_empty() {
            list.first = self.take_chunk(entry);
            list.first
        } else if (list.last as usize + 1).is_multiple_of(CHUNK) {
            let start = self.take_chunk(entry);
            self.next[list.last as usize / CHUNK] = start / CHUNK as u32;
            start
        } else {
            list.last + 1
        };
        self.entries[last as usize] = entry;
        list.last = last;
    }

    #[inline]
    pub(super) fn pop(&mut self, list: &mut List) -> Option<T> {
        let List { first, last } = *list;
        let entry = *self.entries.get(first as usize)?;
        if first == last {
            *list = List::EMPTY;
        } else {
            list.first = self.after(first);
        }
        if first == last || (first as usize + 1).is_multiple_of(CHUNK) {
            let chunk = first / CHUNK as u32;
            self.next[chunk as usize] = std::mem::replace(&mut self.free, chunk);
        }
        Some(entry)
    }

    pub(super) fn iter(&self, list: List) -> impl Iterator<Item = &T> {
        let after = move |at: &u32| (*at != list.last).then(|| self.after(*at));
        let positions = std::iter::successors((!list.is_empty()).then_some(list.first), after);
        positions.map(|at| &self.entries[at as usize])
    }

    /// The position behind one that is not the last of its list.
    #[inline]
    fn after(&self, position: u32) -> u32 {
        let chunk = position as usize / CHUNK;
        match (position as usize + 1).is_multiple_of(CHUNK) {
            true => self.next[chunk] * CHUNK as u32,
            false => position + 1,
        }
    }

    /// The position of the first entry of a chunk that nobody has.
    fn take_chunk(&mut self, filler: T) -> u32 {
        let chunk = match self.free {
            NONE => {
                let chunk = self.next.len();
                self.next.push(NONE);
                self.entries.resize((chunk + 1) * CHUNK, filler);
                chunk as u32
            }
            free => {
                self.free = self.next[free as usize];
                free
            }
        };
        chunk * CHUNK as u32
    }
}
