//! The way in: from the socket, by batches, to the protocol.

use std::io;
use std::rc::Rc;

use super::port::{ERROR_BUDGET, Port, Readiness, Stash, Stashed, is_descriptor_gone};
use super::received::{Datagram, DatagramInfo};
use super::{DatagramProtocol, DatagramTransport};
use crate::agenda::{Agenda, Lent};
use crate::callback::guarded;
use crate::error::StopReason;
use crate::inner::Inner;
use crate::net::{Message, RecvBatch, SLOT_LEN};
use crate::slots::Key;

/// What a port may take in one turn, whichever is used up first: all receive slots full of merged
/// datagrams. A quarter of that (DESIGN decision 5) ends the turn after four merged messages, and
/// the receives before its end are of few slots: bulk traffic then costs 1.4 times as much.
const TURN_BYTES: usize = 1024 * 1024;
const TURN_DATAGRAMS: usize = 4096;
/// Memory for datagrams put aside that a flooded port keeps from one turn to the next.
const STASH_BYTES: usize = 128 * 1024;
/// Receive errors of a port that one turn bears before it goes on to other ports.
const TURN_ERRORS: usize = 64;

/// What is left of a port's share of the turn.
struct Budget {
    bytes: usize,
    datagrams: usize,
}

impl Budget {
    #[inline]
    fn spend(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.datagrams -= 1;
    }

    /// How far it goes in a message of which `rest` bytes are left: so many bytes of datagrams of
    /// `segment` bytes each.
    #[inline]
    fn reach(&self, rest: usize, segment: usize) -> usize {
        if rest < self.bytes && rest <= self.datagrams.saturating_mul(segment) {
            // All of it, without a division.
            return rest;
        }
        self.bytes.div_ceil(segment).min(self.datagrams).saturating_mul(segment)
    }

    #[inline]
    fn is_spent(&self) -> bool {
        self.bytes == 0 || self.datagrams == 0
    }
}

/// Does what a port is ready for: room to send, error reports, datagrams.
pub(crate) fn service(inner: &Rc<Inner>, key: Key, ready: Readiness) {
    let (mut protocol, mut batch, mut stash) = {
        let mut core = inner.core.borrow_mut();
        let core = &mut *core;
        let Some(port) = core.ports.get_mut(key) else { return };
        if port.protocol.is_none() {
            // Out on a call: its edge must not be lost.
            port.make_ready(ready, &mut core.agenda);
            return;
        }
        if ready.writable {
            port.flush(&mut core.agenda);
        }
        if ready.error {
            port.drain_errors(ERROR_BUDGET, &mut core.agenda);
        }
        if !(ready.readable || ready.error) || !port.reads() {
            return;
        }
        let Some(protocol) = port.protocol.take() else { return };
        port.delivering = true;
        let batch = core.batches.pop().unwrap_or_else(RecvBatch::new);
        (protocol, batch, std::mem::take(&mut port.stash))
    };
    inner.enter(key);

    let transport = DatagramTransport::new(inner, key);
    let mut budget = Budget { bytes: TURN_BYTES, datagrams: TURN_DATAGRAMS };
    let delivery = Delivery { inner, key, transport: &transport };
    let finished = delivery.stashed(&mut *protocol, &mut stash, &mut budget) && {
        delivery.lend_memory(&mut stash);
        delivery.received(&mut *protocol, &mut batch, &mut budget, ready.error)
    };

    let gone = {
        let mut core = inner.core.borrow_mut();
        let core = &mut *core;
        core.agenda.lent = None;
        match core.ports.get_mut(key) {
            Some(port) => {
                port.delivering = false;
                port.protocol = Some(protocol);
                if !port.closing {
                    put_back(port, stash, finished, &mut core.agenda);
                }
                core.batches.push(batch);
                None
            }
            // The reactor was dropped meanwhile.
            None => Some(protocol),
        }
    };
    inner.leave();
    drop(gone);
}

/// Puts back what was left of a stash when the delivery ended.
fn put_back(port: &mut Port, mut stash: Stash, finished: bool, agenda: &mut Agenda) {
    // Received before anything that `received` put aside, so it goes in front.
    stash.append(&mut port.stash);
    let goes_on = !finished && port.reads();
    // Memory alone is kept only while more comes.
    let is_kept = goes_on || !stash.datagrams.is_empty();
    port.stash = if is_kept { stash } else { Stash::default() };
    if goes_on {
        port.make_ready(Readiness::READABLE, agenda);
    }
}

struct Delivery<'a> {
    inner: &'a Rc<Inner>,
    key: Key,
    transport: &'a DatagramTransport,
}

impl Delivery<'_> {
    /// Delivers what an earlier turn left. False if it did not come to the end.
    fn stashed(
        &self,
        protocol: &mut dyn DatagramProtocol,
        stash: &mut Stash,
        budget: &mut Budget,
    ) -> bool {
        while let Some(stashed) = stash.datagrams.pop_front() {
            let datagram = Datagram {
                payload: &stash.bytes[stashed.start..][..stashed.len],
                info: &stashed.info,
                kernel_drops: stashed.kernel_drops,
                truncated: stashed.truncated,
            };
            budget.spend(stashed.len);
            let outcome = guarded(|| protocol.datagram_received(self.transport, datagram));
            if let Err(failure) = outcome {
                self.inner.report(Some(self.key), "datagram_received", failure);
            }
            if self.inner.is_interrupted() || budget.is_spent() {
                if stash.datagrams.is_empty() {
                    stash.bytes.clear();
                }
                return false;
            }
        }
        stash.bytes.clear();
        true
    }

    /// Gives the port the memory of a stash that was delivered: under a flood the next turn puts
    /// aside as much again.
    fn lend_memory(&self, stash: &mut Stash) {
        if (1..=STASH_BYTES).contains(&stash.bytes.capacity())
            && let Some(port) = self.inner.core.borrow_mut().ports.get_mut(self.key)
            && port.stash.datagrams.is_empty()
        {
            std::mem::swap(stash, &mut port.stash);
        }
    }

    /// Receives and delivers until the socket is drained (true), the budget is spent or the
    /// protocol had enough (false).
    fn received(
        &self,
        protocol: &mut dyn DatagramProtocol,
        batch: &mut RecvBatch,
        budget: &mut Budget,
        after_error: bool,
    ) -> bool {
        let mut errors = 0;
        loop {
            let (drained, mut place) = {
                let mut core = self.inner.core.borrow_mut();
                let core = &mut *core;
                let Some(port) = core.ports.get_mut(self.key) else { return true };
                match receive(port, batch, budget, &mut core.agenda) {
                    Received::Datagrams { drained, place } => (drained, place),
                    Received::Nothing => return true,
                    Received::Error => {
                        errors += 1;
                        if port.closing || errors >= TURN_ERRORS {
                            return port.closing;
                        }
                        continue;
                    }
                }
            };
            while place.message < batch.messages.len() {
                let outcome =
                    guarded(|| place.deliver(protocol, self.transport, batch, budget, self.inner));
                if let Some(message) = batch.messages.get(place.message) {
                    place.charge(message, budget);
                }
                match outcome {
                    Ok(()) => break,
                    Err(failure) => self.inner.report(Some(self.key), "datagram_received", failure),
                }
                if self.inner.is_interrupted() || budget.is_spent() {
                    break;
                }
            }
            let complete = place.message >= batch.messages.len();
            let mut core = self.inner.core.borrow_mut();
            let core = &mut *core;
            let Some(port) = core.ports.get_mut(self.key) else { return true };
            port.flush_unless_blocked(&mut core.agenda);
            port.outbox.keep_lent(&batch.data);
            core.agenda.lent = None;
            if !complete {
                place.put_aside(batch, port);
                return false;
            }
            place.settle(port);
            if port.closing {
                return true;
            }
            if self.inner.is_interrupted() || budget.is_spent() {
                return false;
            }
            // A short batch means drained, except after an error event: the error itself may have
            // cut the batch short (DESIGN section 5).
            if drained && !after_error {
                return true;
            }
        }
    }
}

enum Received {
    Datagrams { drained: bool, place: Place },
    Nothing,
    Error,
}

/// One receive, counted, with the buffers lent to the port.
fn receive(
    port: &mut Port,
    batch: &mut RecvBatch,
    budget: &Budget,
    agenda: &mut Agenda,
) -> Received {
    // No more than the budget has room for, going by the last batch: what is left is copied.
    let fitting = (budget.bytes / port.last_longest.max(1)).min(budget.datagrams);
    let slots = fitting.clamp(1, port.batch_size);
    match port.socket.receive(slots, batch) {
        Ok(drained) => {
            let (mut longest, mut datagrams, mut bytes) = (0, 0, 0);
            for message in &batch.messages {
                longest = longest.max(message.len);
                bytes += message.len;
                datagrams += match message.len <= message.segment {
                    true => 1,
                    false => message.len.div_ceil(message.segment),
                };
            }
            port.stats.batches_in += 1;
            port.stats.datagrams_in += datagrams as u64;
            port.stats.bytes_in += bytes as u64;
            port.last_longest = longest;
            if port.local_port == 0 && port.metadata.contains(super::Metadata::DESTINATION) {
                port.local_port = port.socket.local_addr().map_or(0, |address| address.port());
            }
            agenda.lent = Some(Lent { key: port.key, data: Rc::clone(&batch.data) });
            Received::Datagrams { drained, place: Place::new(port) }
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Received::Nothing,
        Err(error) if is_descriptor_gone(&error) => {
            port.begin_close(StopReason::Failed(error), agenda);
            Received::Error
        }
        Err(error) => {
            port.error_met_by_receive(error, agenda);
            Received::Error
        }
    }
}

/// How far a batch has been delivered: kept outside of the guarded call, so that a panic costs
/// one datagram and not the rest of its batch.
struct Place {
    message: usize,
    /// Start of the next datagram in the message.
    offset: usize,
    /// How far in the message the budget is charged.
    charged: usize,
    info: DatagramInfo,
    /// The message that `info` tells of.
    info_of: Option<usize>,
    max_datagram_size: usize,
    drops_seen: Option<u32>,
    /// To be told with the next datagram.
    drops: u32,
    /// All that this batch told of.
    kernel_drops: u64,
    truncated: u64,
}

impl Place {
    fn new(port: &Port) -> Self {
        Self {
            message: 0,
            offset: 0,
            charged: 0,
            info: DatagramInfo {
                source: super::UNSPECIFIED,
                meta: crate::net::Meta::default(),
                local_port: port.local_port,
                counts_drops: port.metadata.contains(super::Metadata::DROPS),
            },
            info_of: None,
            max_datagram_size: port.max_datagram_size,
            drops_seen: port.drops_seen,
            drops: 0,
            kernel_drops: 0,
            truncated: 0,
        }
    }

    /// Takes over what the message tells; once per message.
    fn read_info(&mut self, message: &Message) {
        if self.info_of == Some(self.message) {
            return;
        }
        self.info_of = Some(self.message);
        self.info.source = message.source;
        self.info.meta = message.meta;
        if let Some(total) = message.meta.drops {
            // The kernel counts modulo 2^32, since the socket was made.
            self.drops = total.wrapping_sub(self.drops_seen.unwrap_or(total));
            self.drops_seen = Some(total);
            self.kernel_drops += u64::from(self.drops);
        }
    }

    /// Steps over the next datagram and tells where it lies in its slot, and whether it was cut.
    #[inline]
    fn step(&mut self, message: &Message) -> (usize, usize, bool) {
        let start = self.offset;
        let len = message.segment.min(message.len - start);
        self.offset = start + len;
        self.charged = self.offset;
        let is_last = self.offset >= message.len;
        if is_last {
            self.message += 1;
            self.offset = 0;
            self.charged = 0;
        }
        let delivered = len.min(self.max_datagram_size);
        let truncated = delivered < len || (is_last && message.truncated);
        self.truncated += u64::from(truncated);
        (start, delivered, truncated)
    }

    #[inline]
    fn deliver(
        &mut self,
        protocol: &mut dyn DatagramProtocol,
        transport: &DatagramTransport,
        batch: &RecvBatch,
        budget: &mut Budget,
        inner: &Inner,
    ) -> anyhow::Result<()> {
        while let Some(message) = batch.messages.get(self.message) {
            let slot = &batch.data[self.message * SLOT_LEN..][..message.len];
            self.read_info(message);
            if message.segment < message.len
                && message.segment <= self.max_datagram_size
                && self.drops == 0
            {
                self.deliver_whole(protocol, transport, message, slot, budget, inner)?;
                self.charge(message, budget);
                if inner.is_interrupted() || budget.is_spent() {
                    return Ok(());
                }
            }
            let (start, len, truncated) = self.step(message);
            budget.spend(len);
            let payload = &slot[start..start + len];
            let kernel_drops = std::mem::take(&mut self.drops);
            let datagram = Datagram { payload, info: &self.info, kernel_drops, truncated };
            protocol.datagram_received(transport, datagram)?;
            if inner.is_interrupted() || budget.is_spent() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Delivers all datagrams of a message but the last, as far as the budget goes, which is
    /// charged for them afterwards: what is the same for all of them is not done for each. None is
    /// cut, and no drops are to be told.
    #[inline]
    fn deliver_whole(
        &mut self,
        protocol: &mut dyn DatagramProtocol,
        transport: &DatagramTransport,
        message: &Message,
        slot: &[u8],
        budget: &Budget,
        inner: &Inner,
    ) -> anyhow::Result<()> {
        let segment = message.segment;
        let mut rest = &slot[self.offset..];
        let left = segment.max(rest.len().saturating_sub(budget.reach(rest.len(), segment)));
        while left < rest.len() {
            let (payload, more) = rest.split_at(segment);
            rest = more;
            self.offset += segment;
            let datagram =
                Datagram { payload, info: &self.info, kernel_drops: 0, truncated: false };
            protocol.datagram_received(transport, datagram)?;
            if inner.is_interrupted() {
                break;
            }
        }
        Ok(())
    }

    /// Charges the budget for what `deliver_whole` has delivered of the message.
    fn charge(&mut self, message: &Message, budget: &mut Budget) {
        if self.charged < self.offset {
            let bytes = self.offset - self.charged;
            budget.bytes = budget.bytes.saturating_sub(bytes);
            budget.datagrams -= bytes / message.segment;
            self.charged = self.offset;
        }
    }

    /// Copies what was not delivered to the port: the buffers are needed for others.
    fn put_aside(mut self, batch: &RecvBatch, port: &mut Port) {
        while !port.closing
            && let Some(message) = batch.messages.get(self.message)
        {
            let slot = &batch.data[self.message * SLOT_LEN..][..message.len];
            self.read_info(message);
            let (start, len, truncated) = self.step(message);
            let kernel_drops = std::mem::take(&mut self.drops);
            port.stash.push(&slot[start..start + len], truncated, kernel_drops, &self.info);
        }
        self.settle(port);
    }

    /// Writes back what the batch told of the port.
    fn settle(self, port: &mut Port) {
        port.stats.kernel_drops += self.kernel_drops;
        port.stats.truncated += self.truncated;
        port.drops_seen = self.drops_seen;
    }
}

impl Stash {
    fn push(&mut self, payload: &[u8], truncated: bool, kernel_drops: u32, info: &DatagramInfo) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(payload);
        let (len, info) = (payload.len(), info.clone());
        self.datagrams.push_back(Stashed { start, len, truncated, kernel_drops, info });
    }

    /// Moves the datagrams of `later` behind those of this one.
    fn append(&mut self, later: &mut Self) {
        if self.datagrams.is_empty() {
            std::mem::swap(self, later);
            return;
        }
        let offset = self.bytes.len();
        self.bytes.append(&mut later.bytes);
        self.datagrams.extend(later.datagrams.drain(..).map(|mut stashed| {
            stashed.start += offset;
            stashed
        }));
    }
}

/// Receives one message into the stash of a paused port, for the calls that pull.
pub(crate) fn pull(port: &mut Port, batch: &mut RecvBatch, agenda: &mut Agenda) {
    let budget = Budget { bytes: 1, datagrams: 1 };
    for _ in 0..TURN_ERRORS {
        match receive(port, batch, &budget, agenda) {
            Received::Datagrams { place, .. } => {
                agenda.lent = None;
                place.put_aside(batch, port);
                return;
            }
            Received::Nothing => return,
            Received::Error if port.closing => return,
            Received::Error => {}
        }
    }
}
