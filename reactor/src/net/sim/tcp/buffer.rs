//! The bytes of a connection: those that wait to be sent or read, and those that came early.
//! Empty queues own no memory.

use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

use super::seq;

/// Pieces that may wait for what is missing before them; the peer sends those above again.
const MOST_PIECES: usize = 4096;

/// Bytes in order.
#[derive(Default)]
pub(super) struct Bytes {
    bytes: VecDeque<u8>,
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

impl Bytes {
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.bytes.extend(data);
    }

    /// Forgets the first `len` bytes.
    pub(super) fn skip(&mut self, len: usize) {
        if len >= self.bytes.len() {
            self.bytes = VecDeque::new();
        } else {
            self.bytes.drain(..len);
        }
    }

    /// Moves bytes into `buffer` and returns how many.
    pub(super) fn take(&mut self, buffer: &mut [u8]) -> usize {
        let len = buffer.len().min(self.bytes.len());
        let (front, back) = self.bytes.as_slices();
        let first = len.min(front.len());
        buffer[..first].copy_from_slice(&front[..first]);
        buffer[first..len].copy_from_slice(&back[..len - first]);
        self.skip(len);
        len
    }

    /// A copy of `len` bytes from `at` on.
    pub(super) fn copy(&self, at: usize, len: usize) -> Rc<[u8]> {
        let (front, back) = self.bytes.as_slices();
        if at + len <= front.len() {
            return front[at..at + len].into();
        }
        if at >= front.len() {
            let at = at - front.len();
            return back[at..at + len].into();
        }
        let mut both = Vec::with_capacity(len);
        both.extend_from_slice(&front[at..]);
        both.extend_from_slice(&back[..len - (front.len() - at)]);
        both.into()
    }
}

/// What came before its turn, in the order of sequence numbers.
#[derive(Default)]
pub(super) struct Early {
    pieces: VecDeque<(u32, Rc<[u8]>)>,
}

impl fmt::Debug for Early {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pieces = self.pieces.iter().map(|(at, piece)| (at, piece.len()));
        f.debug_list().entries(pieces).finish()
    }
}

impl Early {
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.pieces.capacity()
    }

    pub(super) fn clear(&mut self) {
        self.pieces = VecDeque::new();
    }

    pub(super) fn insert(&mut self, at: u32, data: Rc<[u8]>) {
        let end = seq::after(at, data.len());
        let covered = |(from, piece): &(u32, Rc<[u8]>)| {
            seq::le(*from, at) && seq::le(end, seq::after(*from, piece.len()))
        };
        if self.pieces.len() >= MOST_PIECES || self.pieces.iter().any(covered) {
            return;
        }
        let place = self.pieces.partition_point(|(from, _)| seq::lt(*from, at));
        self.pieces.insert(place, (at, data));
    }

    /// Moves what follows on `next` to `bytes`, and returns what follows then.
    pub(super) fn release(&mut self, mut next: u32, bytes: &mut Bytes) -> u32 {
        while let Some((from, _)) = self.pieces.front()
            && seq::le(*from, next)
        {
            let Some((from, piece)) = self.pieces.pop_front() else { break };
            let known = seq::distance(from, next);
            if known < piece.len() {
                bytes.push(&piece[known..]);
                next = seq::after(from, piece.len());
            }
        }
        if self.pieces.is_empty() {
            self.clear();
        }
        next
    }
}
