//! The sends of a turn, and what the kernel had no room for: one queue per port, in order.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::error::WriteError;
use crate::net::{Control, Outgoing, SendBatch};

/// What a write with a completion is told.
pub(crate) type Completion = Box<dyn FnOnce(Result<usize, WriteError>) -> anyhow::Result<()>>;

/// Messages that an outbox collects before it is flushed without waiting for the dispatch to end.
const FLUSH_MESSAGES: usize = 64;
/// Most datagrams of one message (`UDP_MAX_SEGMENTS` of older kernels).
const MAX_SEGMENTS: usize = 64;

/// The memory of a queue. Idle ports have none: it goes back to the reactor's spares.
#[derive(Default)]
pub(crate) struct Storage {
    queue: Vec<Outgoing>,
    bytes: Vec<u8>,
}

impl Storage {
    /// Copies a payload, unless it is sent in place; where it begins, and whether it is lent.
    #[inline]
    fn hold(&mut self, payload: &Payload<'_>) -> (usize, bool) {
        let start = self.bytes.len();
        match payload {
            Payload::Copied(bytes) => self.bytes.extend_from_slice(bytes),
            Payload::Pieces(pieces) => {
                pieces.iter().for_each(|piece| self.bytes.extend_from_slice(piece));
            }
            Payload::Lent { start, .. } => return (*start, true),
        }
        (start, false)
    }
}

/// Storage that grew beyond this is not kept as a spare.
const SPARE_BYTES: usize = 256 * 1024;
/// Bytes of payloads already sent that a queue may hold beyond twice what it has to.
const SLACK_BYTES: usize = 64 * 1024;
/// Spares that a reactor keeps.
const SPARES: usize = 16;

/// Where the payload of a new datagram lies.
pub(crate) enum Payload<'a> {
    /// To be copied.
    Copied(&'a [u8]),
    /// To be copied, in pieces.
    Pieces(&'a [std::io::IoSlice<'a>]),
    /// In the receive buffers, at this offset: sent in place.
    Lent { start: usize, len: usize },
}

impl Payload<'_> {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Copied(bytes) => bytes.len(),
            Self::Pieces(pieces) => pieces.iter().map(|piece| piece.len()).sum(),
            Self::Lent { len, .. } => *len,
        }
    }
}

#[derive(Default)]
pub(crate) struct Outbox {
    storage: Option<Storage>,
    /// Runs of `storage.queue` that are done with.
    head: usize,
    /// Datagrams waiting.
    len: usize,
    /// Number of the oldest that waits, counted over the life of the port.
    sequence: u64,
    /// Payload bytes waiting.
    bytes: usize,
    /// Waiting runs whose payloads are in the receive buffers.
    lent: usize,
    unflushed: Messages,
    /// By number of the datagram; ascending.
    completions: VecDeque<(u64, Completion)>,
}

/// About how many messages the unflushed datagrams make.
#[derive(Default)]
struct Messages {
    count: usize,
    /// Datagrams in the last one.
    last: usize,
}

impl Messages {
    /// Counts another datagram; `joins` says that it is like the last one, and may leave with it.
    #[inline]
    fn add(&mut self, joins: bool) {
        if joins && self.last < MAX_SEGMENTS {
            self.last += 1;
        } else {
            self.count += 1;
            self.last = 1;
        }
    }
}

impl Outbox {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether enough has been collected to flush without waiting.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.unflushed.count >= FLUSH_MESSAGES
    }

    /// The completion of the datagram that is pushed next.
    pub(crate) fn complete_next(&mut self, completion: Completion) {
        self.completions.push_back((self.sequence + self.len as u64, completion));
    }

    /// Appends a datagram, to the peer if `to` is `None`. `merges` says that runs of equal size to
    /// one peer leave as one message.
    #[inline]
    pub(crate) fn push(
        &mut self,
        payload: &Payload<'_>,
        to: Option<&SocketAddr>,
        control: Option<&Control>,
        merges: bool,
        spares: &mut Vec<Storage>,
    ) {
        let storage = self.storage.get_or_insert_with(|| spares.pop().unwrap_or_default());
        let len = payload.len();
        let (start, lent) = storage.hold(payload);
        self.len += 1;
        self.bytes += len;
        let mut joins = false;
        if let Some(last) = storage.queue.last_mut()
            && last.len == len
            && last.to.as_ref() == to
            && control.map_or_else(|| last.control.is_none(), |it| last.control == *it)
        {
            joins = merges && len > 0;
            if last.lent == lent && last.start + last.bytes() == start {
                last.count += 1;
                self.unflushed.add(joins);
                return;
            }
        }
        self.unflushed.add(joins);
        self.lent += usize::from(lent);
        let (to, control) = (to.copied(), control.copied().unwrap_or_default());
        storage.queue.push(Outgoing { start, len, count: 1, lent, to, control });
    }

    /// What waits, as the socket takes it. `lent` are the receive buffers.
    pub(crate) fn batch<'a>(&'a self, lent: &'a [u8], merge: bool) -> SendBatch<'a> {
        match &self.storage {
            Some(storage) => {
                let queue = &storage.queue[self.head..];
                SendBatch { queue, own: &storage.bytes, lent, merge }
            }
            None => SendBatch { queue: &[], own: &[], lent, merge },
        }
    }

    /// Everything unflushed was offered to the socket.
    pub(crate) fn flushed(&mut self) {
        self.unflushed = Messages::default();
    }

    /// Removes the oldest `count` datagrams, which were sent; hands over each completion that is
    /// due with the length of its datagram. Returns the bytes removed.
    pub(crate) fn sent(
        &mut self,
        count: usize,
        spares: &mut Vec<Storage>,
        mut completed: impl FnMut(Completion, usize),
    ) -> usize {
        let Some(storage) = &mut self.storage else { return 0 };
        let (mut left, mut removed) = (count, 0);
        for run in &mut storage.queue[self.head..] {
            let taken = left.min(run.count);
            let bytes = taken * run.len;
            left -= taken;
            removed += bytes;
            self.sequence += taken as u64;
            while let Some(completion) = due(&mut self.completions, self.sequence) {
                completed(completion, run.len);
            }
            if taken < run.count {
                run.count -= taken;
                run.start += bytes;
                break;
            }
            self.head += 1;
            self.lent -= usize::from(run.lent);
        }
        self.len -= count;
        self.bytes -= removed;
        self.tidy(spares);
        removed
    }

    /// Removes the oldest datagram unsent.
    pub(crate) fn pop(
        &mut self,
        spares: &mut Vec<Storage>,
    ) -> Option<(Outgoing, Option<Completion>)> {
        let run = self.storage.as_mut()?.queue.get_mut(self.head)?;
        let datagram = run.take_first();
        if run.count == 0 {
            self.head += 1;
            self.lent -= usize::from(datagram.lent);
        }
        self.len -= 1;
        self.bytes -= datagram.len;
        self.sequence += 1;
        let completion = due(&mut self.completions, self.sequence);
        self.tidy(spares);
        Some((datagram, completion))
    }

    /// Gives memory back that holds what is done with.
    fn tidy(&mut self, spares: &mut Vec<Storage>) {
        let Some(storage) = &mut self.storage else { return };
        if self.head == storage.queue.len() {
            self.head = 0;
            self.unflushed = Messages::default();
            storage.queue.clear();
            storage.bytes.clear();
            let small = storage.bytes.capacity() <= SPARE_BYTES;
            if let Some(storage) = self.storage.take()
                && small
                && spares.len() < SPARES
            {
                spares.push(storage);
            }
        } else if (self.head >= 256 && self.head * 2 >= storage.queue.len())
            || storage.bytes.len() > 2 * self.bytes + SLACK_BYTES
        {
            // A queue that never runs empty must not keep what it sent.
            storage.queue.drain(..self.head);
            self.head = 0;
            let mut kept = Vec::with_capacity(self.bytes);
            for run in storage.queue.iter_mut().filter(|run| !run.lent) {
                let start = kept.len();
                kept.extend_from_slice(&storage.bytes[run.start..][..run.bytes()]);
                run.start = start;
            }
            storage.bytes = kept;
        }
    }

    /// Copies payloads that lie in the receive buffers, which are about to be written again.
    pub(crate) fn keep_lent(&mut self, lent: &[u8]) {
        if self.lent == 0 {
            return;
        }
        self.lent = 0;
        if let Some(storage) = &mut self.storage {
            for run in storage.queue[self.head..].iter_mut().filter(|run| run.lent) {
                let start = storage.bytes.len();
                storage.bytes.extend_from_slice(&lent[run.start..][..run.bytes()]);
                (run.start, run.lent) = (start, false);
            }
        }
    }

    /// Gives every datagram that was meant for the port's peer its address: the port is about to
    /// lose that peer.
    pub(crate) fn address(&mut self, peer: SocketAddr) {
        if let Some(storage) = &mut self.storage {
            storage.queue[self.head..].iter_mut().for_each(|run| {
                run.to.get_or_insert(peer);
            });
        }
    }

    /// The completions still waiting, when the port closes.
    pub(crate) fn take_completions(&mut self) -> VecDeque<(u64, Completion)> {
        std::mem::take(&mut self.completions)
    }
}

/// The oldest completion, if its datagram came before number `next`.
#[inline]
fn due(completions: &mut VecDeque<(u64, Completion)>, next: u64) -> Option<Completion> {
    let (number, _) = completions.front()?;
    if *number >= next {
        return None;
    }
    completions.pop_front().map(|(_, completion)| completion)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(outbox: &mut Outbox, payload: &[u8], spares: &mut Vec<Storage>) {
        outbox.push(&Payload::Copied(payload), None, None, true, spares);
    }

    fn payloads(outbox: &Outbox, lent: &[u8]) -> Vec<Vec<u8>> {
        let batch = outbox.batch(lent, true);
        batch.datagrams().map(|datagram| batch.payload(&datagram).to_vec()).collect()
    }

    #[test]
    fn order_and_gauges_hold_over_partial_sends() {
        let (mut outbox, mut spares) = (Outbox::default(), Vec::new());
        for payload in [&b"a"[..], b"", b"ccc"] {
            push(&mut outbox, payload, &mut spares);
        }
        assert_eq!((outbox.len(), outbox.bytes()), (3, 4));
        outbox.sent(2, &mut spares, |_, _| unreachable!());
        assert_eq!(payloads(&outbox, &[]), [b"ccc"]);
        assert_eq!((outbox.len(), outbox.bytes()), (1, 3));
        outbox.sent(1, &mut spares, |_, _| unreachable!());
        assert!(outbox.is_empty());
        assert_eq!(spares.len(), 1, "an idle port holds no memory");
    }

    #[test]
    fn alike_datagrams_that_lie_one_after_another_are_one_run_which_may_be_sent_in_parts() {
        let (mut outbox, mut spares) = (Outbox::default(), Vec::new());
        let lent = *b"aabbccdd..ee";
        for start in [0, 2, 4, 6, 10] {
            if start == 4 {
                outbox.complete_next(Box::new(|_| Ok(())));
            }
            outbox.push(&Payload::Lent { start, len: 2 }, None, None, true, &mut spares);
        }
        assert_eq!(outbox.batch(&lent, true).queue.len(), 2);
        assert_eq!(outbox.unflushed.count, 1, "the gap is no matter to the message");
        let mut completed = 0;
        assert_eq!(outbox.sent(2, &mut spares, |_, _| completed += 1), 4);
        assert_eq!((outbox.len(), outbox.bytes(), completed), (3, 6, 0));
        let (first, completion) = outbox.pop(&mut spares).unwrap();
        assert_eq!((first.start, first.len, first.count, completion.is_some()), (4, 2, 1, true));
        outbox.keep_lent(&lent);
        push(&mut outbox, b"ff", &mut spares);
        assert_eq!(payloads(&outbox, &[]), [b"dd", b"ee", b"ff"]);
        assert_eq!(outbox.sent(3, &mut spares, |_, _| completed += 1), 6);
        assert!(outbox.is_empty() && outbox.storage.is_none() && completed == 0);
    }

    #[test]
    fn what_is_lent_is_copied_before_the_buffers_are_written_again() {
        let (mut outbox, mut spares) = (Outbox::default(), Vec::new());
        let lent = *b"..lent..";
        push(&mut outbox, b"own", &mut spares);
        let payload = Payload::Lent { start: 2, len: 4 };
        outbox.push(&payload, None, None, true, &mut spares);
        push(&mut outbox, b"more", &mut spares);
        assert_eq!(payloads(&outbox, &lent), [&b"own"[..], b"lent", b"more"]);
        outbox.keep_lent(&lent);
        assert_eq!(payloads(&outbox, &[]), [&b"own"[..], b"lent", b"more"]);
    }

    #[test]
    fn completions_follow_their_own_datagram() {
        let (mut outbox, mut spares) = (Outbox::default(), Vec::new());
        for (number, done) in [(1, false), (2, true), (3, false), (4, true)] {
            if done {
                outbox.complete_next(Box::new(|_| Ok(())));
            }
            push(&mut outbox, &vec![0; number], &mut spares);
        }
        let mut completed = Vec::new();
        outbox.sent(3, &mut spares, |_, len| completed.push(len));
        assert_eq!(completed, [2]);
        let (last, completion) = outbox.pop(&mut spares).unwrap();
        assert_eq!((last.len, completion.is_some()), (4, true));
    }

    #[test]
    fn a_queue_that_never_runs_empty_does_not_grow() {
        let (mut outbox, mut spares) = (Outbox::default(), Vec::new());
        push(&mut outbox, &[0; 100], &mut spares);
        for number in 0..100_000_u32 {
            push(&mut outbox, &number.to_le_bytes(), &mut spares);
            outbox.sent(1, &mut spares, |_, _| unreachable!());
            assert_eq!(outbox.len(), 1);
        }
        assert_eq!(payloads(&outbox, &[]), [99_999_u32.to_le_bytes()]);
        let storage = outbox.storage.as_ref().unwrap();
        assert!(storage.queue.capacity() < 2_048 && storage.bytes.capacity() < 65_536);
    }

    #[test]
    fn runs_to_one_peer_count_as_one_message() {
        let (mut outbox, mut spares) = (Outbox::default(), Vec::new());
        for _ in 0..64 {
            push(&mut outbox, b"same", &mut spares);
        }
        assert_eq!(outbox.unflushed.count, 1);
        push(&mut outbox, b"same", &mut spares);
        push(&mut outbox, b"other", &mut spares);
        push(&mut outbox, b"", &mut spares);
        push(&mut outbox, b"", &mut spares);
        assert_eq!(outbox.unflushed.count, 5);
    }
}
