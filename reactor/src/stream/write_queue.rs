//! What waits to be sent on a connection.

use std::collections::VecDeque;
use std::io::IoSlice;

use crate::datagram::Completion;

/// Small writes are gathered in chunks of up to this many bytes.
const CHUNK: usize = 64 * 1024;
/// An owned buffer shorter than this is copied to its neighbours rather than sent as a piece.
const SMALL: usize = 4 * 1024;
/// Most pieces of one vectored send.
pub(crate) const PIECES: usize = 64;
/// Emptied chunks kept by a reactor.
const SPARES: usize = 16;
/// A list that grew longer than this is not kept: one flood would cost for good.
const KEPT: usize = 1024;

/// Memory that empty queues leave to others: as it was left, with a chunk, or the chunks alone.
#[derive(Default)]
pub(crate) struct Spares {
    pub(crate) chunks: Vec<Vec<u8>>,
    #[expect(clippy::vec_box, reason = "a queue takes the box as it is")]
    pub(crate) contents: Vec<Box<Content>>,
}

/// Bytes in order, in chunks: those the queue made itself, and those it was given. Empty, it has no
/// memory.
#[derive(Default)]
pub(crate) struct WriteQueue {
    content: Option<Box<Content>>,
}

#[derive(Default)]
pub(crate) struct Content {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that are sent already.
    head: usize,
    bytes: usize,
    /// The last chunk is our own and may grow.
    open: bool,
    /// Bytes taken by the system since the queue was last empty, and what waits for a number of
    /// them.
    sent: u64,
    marks: VecDeque<Mark>,
}

struct Mark {
    end: u64,
    len: usize,
    completion: Completion,
}

impl WriteQueue {
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.content.as_ref().map_or(0, |content| content.bytes)
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    #[inline]
    fn content(&mut self, spares: &mut Spares) -> &mut Content {
        self.content.get_or_insert_with(|| spares.contents.pop().unwrap_or_default())
    }

    /// Appends a copy.
    #[inline]
    pub(crate) fn push(&mut self, data: &[u8], spares: &mut Spares) {
        if !data.is_empty() {
            self.content(spares);
            if let Some(content) = &mut self.content {
                content.push(data, &mut spares.chunks);
            }
        }
    }

    /// Appends a buffer, which is not copied unless it is small.
    pub(crate) fn push_owned(&mut self, data: Vec<u8>, spares: &mut Spares) {
        if data.len() < SMALL {
            return self.push(&data, spares);
        }
        self.content(spares);
        let Some(content) = &mut self.content else { return };
        if content.bytes == 0 {
            // A chunk that was kept, which is not to be sent as a piece of nothing.
            content.chunks.drain(..).for_each(|chunk| recycle(chunk, &mut spares.chunks));
        }
        content.bytes += data.len();
        content.chunks.push_back(data);
        content.open = false;
    }

    /// To be told when all that was appended so far has been taken by the system.
    pub(crate) fn mark(&mut self, len: usize, completion: Completion, spares: &mut Spares) {
        self.mark_beyond(0, len, completion, spares);
    }

    /// As `mark`, when so many bytes more have been taken that do not pass the queue, or not yet.
    pub(crate) fn mark_beyond(
        &mut self,
        more: usize,
        len: usize,
        completion: Completion,
        spares: &mut Spares,
    ) {
        let content = self.content(spares);
        let end = content.sent + (content.bytes + more) as u64;
        content.marks.push_back(Mark { end, len, completion });
    }

    /// All of it, where that is a single piece; `None` if there are several.
    #[inline]
    pub(crate) fn whole(&self) -> Option<&[u8]> {
        let Some(content) = &self.content else { return Some(&[]) };
        let first = content.chunks.front().map_or(&[][..], |chunk| &chunk[content.head..]);
        (first.len() == content.bytes).then_some(first)
    }

    /// The first piece; empty if there is none.
    #[inline]
    pub(crate) fn front(&self) -> &[u8] {
        let Some(content) = &self.content else { return &[] };
        content.chunks.front().map_or(&[], |chunk| &chunk[content.head..])
    }

    /// The first pieces; how many were put into `pieces`.
    pub(crate) fn pieces<'a>(&'a self, pieces: &mut [IoSlice<'a>]) -> usize {
        let Some(content) = &self.content else { return 0 };
        let mut count = 0;
        for (place, chunk) in pieces.iter_mut().zip(&content.chunks) {
            let from = if count == 0 { content.head } else { 0 };
            *place = IoSlice::new(&chunk[from..]);
            count += 1;
        }
        count
    }

    /// The system took `count` bytes off the front. Returns those of them that were not in the
    /// queue, but came after it.
    #[inline]
    pub(crate) fn taken(&mut self, count: usize, spares: &mut Spares) -> usize {
        match &mut self.content {
            Some(content) => content.taken(count, &mut spares.chunks),
            None => count,
        }
    }

    /// A completion whose bytes are all with the system, and their number.
    pub(crate) fn completed(&mut self) -> Option<(Completion, usize)> {
        let content = self.content.as_mut()?;
        if content.marks.front()?.end > content.sent {
            return None;
        }
        content.marks.pop_front().map(|mark| (mark.completion, mark.len))
    }

    /// Leaves the memory to others if nothing is in it.
    #[inline]
    pub(crate) fn rest(&mut self, spares: &mut Spares) {
        if let Some(mut content) =
            self.content.take_if(|content| content.bytes == 0 && content.marks.is_empty())
            && spares.contents.len() < SPARES
            && content.chunks.capacity().max(content.marks.capacity()) <= KEPT
        {
            content.sent = 0;
            spares.contents.push(content);
        }
    }

    /// Forgets what waits; the completions of it are the caller's to tell.
    pub(crate) fn clear(&mut self, spares: &mut Spares) -> Vec<Completion> {
        let Some(mut content) = self.content.take() else { return Vec::new() };
        while let Some(chunk) = content.chunks.pop_front() {
            recycle(chunk, &mut spares.chunks);
        }
        content.marks.drain(..).map(|mark| mark.completion).collect()
    }
}

impl Content {
    #[inline]
    fn push(&mut self, data: &[u8], spares: &mut Vec<Vec<u8>>) {
        self.bytes += data.len();
        match self.chunks.back_mut() {
            Some(last) if self.open && last.len() + data.len() <= CHUNK => {
                last.extend_from_slice(data);
            }
            _ => self.push_in_parts(data, spares),
        }
    }

    #[inline(never)]
    fn push_in_parts(&mut self, mut data: &[u8], spares: &mut Vec<Vec<u8>>) {
        while !data.is_empty() {
            let room = match self.chunks.back() {
                Some(last) if self.open => CHUNK.saturating_sub(last.len()),
                _ => 0,
            };
            if room == 0 {
                self.chunks.push_back(spares.pop().unwrap_or_default());
                self.open = true;
                continue;
            }
            let (fitting, rest) = data.split_at(room.min(data.len()));
            if let Some(last) = self.chunks.back_mut() {
                last.extend_from_slice(fitting);
            }
            data = rest;
        }
    }

    #[inline]
    fn taken(&mut self, count: usize, spares: &mut Vec<Vec<u8>>) -> usize {
        self.sent += count as u64;
        if self.open && self.chunks.len() == 1 && count >= self.bytes {
            // The chunk stays for what is written next.
            self.chunks[0].clear();
            self.head = 0;
            return count - std::mem::take(&mut self.bytes);
        }
        self.taken_in_parts(count, spares)
    }

    #[inline(never)]
    fn taken_in_parts(&mut self, count: usize, spares: &mut Vec<Vec<u8>>) -> usize {
        let mut left = count.min(self.bytes);
        let beyond = count - left;
        self.bytes -= left;
        while left > 0 {
            let Some(first) = self.chunks.front() else { break };
            let len = first.len() - self.head;
            if left < len {
                self.head += left;
                break;
            }
            left -= len;
            self.head = 0;
            if let Some(chunk) = self.chunks.pop_front() {
                recycle(chunk, spares);
            }
        }
        if self.chunks.is_empty() {
            self.open = false;
        }
        beyond
    }
}

fn recycle(mut chunk: Vec<u8>, spares: &mut Vec<Vec<u8>>) {
    if spares.len() < SPARES && (1..=2 * CHUNK).contains(&chunk.capacity()) {
        chunk.clear();
        spares.push(chunk);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content(queue: &WriteQueue) -> Vec<u8> {
        let mut pieces = [IoSlice::new(&[]); PIECES];
        let count = queue.pieces(&mut pieces);
        pieces[..count].iter().flat_map(|piece| piece.to_vec()).collect()
    }

    #[test]
    fn completions_wait_for_their_own_last_byte() {
        let (mut queue, mut spares) = (WriteQueue::default(), Spares::default());
        queue.push(b"abc", &mut spares);
        queue.mark(3, Box::new(|_| Ok(())), &mut spares);
        queue.push(b"de", &mut spares);
        queue.mark(2, Box::new(|_| Ok(())), &mut spares);
        queue.taken(2, &mut spares);
        assert!(queue.completed().is_none());
        queue.taken(2, &mut spares);
        assert_eq!(queue.completed().map(|(_, len)| len), Some(3));
        assert!(queue.completed().is_none());
        queue.taken(1, &mut spares);
        assert_eq!(queue.completed().map(|(_, len)| len), Some(2));
        assert!(queue.is_empty());
    }

    #[test]
    fn a_queue_that_was_long_leaves_little_memory_to_others() {
        let (mut queue, mut spares) = (WriteQueue::default(), Spares::default());
        for what in 0..2 {
            for _ in 0..10_000 {
                match what {
                    0 => queue.push_owned(vec![0; SMALL], &mut spares),
                    _ => queue.mark(0, Box::new(|_| Ok(())), &mut spares),
                }
            }
            queue.taken(queue.bytes(), &mut spares);
            while queue.completed().is_some() {}
            queue.rest(&mut spares);
            assert!(queue.content.is_none() && spares.contents.is_empty());
        }
        queue.push(b"short", &mut spares);
        queue.taken(5, &mut spares);
        queue.rest(&mut spares);
        assert_eq!(spares.contents.len(), 1);
    }

    proptest! {
        #[test]
        fn bytes_leave_in_the_order_they_came(
            steps in prop::collection::vec((0..3_u8, 0..10_000_usize), 0..60),
        ) {
            let (mut queue, mut spares) = (WriteQueue::default(), Spares::default());
            let mut model: VecDeque<u8> = VecDeque::new();
            let mut next = 0_u8;
            for (what, count) in steps {
                if what == 2 {
                    let count = count.min(model.len());
                    model.drain(..count);
                    prop_assert_eq!(queue.taken(count, &mut spares), 0);
                    queue.rest(&mut spares);
                } else {
                    let data: Vec<u8> = (0..count).map(|_| { next = next.wrapping_add(1); next }).collect();
                    model.extend(&data);
                    match what {
                        0 => queue.push(&data, &mut spares),
                        _ => queue.push_owned(data, &mut spares),
                    }
                }
                prop_assert_eq!(queue.bytes(), model.len());
                // A piece of nothing would pass for the end.
                prop_assert_eq!(queue.front().is_empty(), model.is_empty());
                let whole = queue.whole().map(<[u8]>::len);
                prop_assert_eq!(whole.unwrap_or(0), if whole.is_some() { model.len() } else { 0 });
                let shown = content(&queue);
                prop_assert!(model.iter().zip(&shown).all(|(a, b)| a == b));
                prop_assert!(shown.len() == model.len() || !shown.is_empty());
            }
        }
    }
}
