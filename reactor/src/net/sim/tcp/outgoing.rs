//! What a connection sends.

use std::rc::Rc;

use super::seq;
use super::tcb::{Ack, State, Tcb};
use crate::net::sim::packet::{Flags, Segment};

/// A window of more needs scaling, which begins after the SYN (RFC 7323, section 2.2).
const MOST_UNSCALED: u32 = u16::MAX as u32;

impl Tcb {
    /// The next segment to send. Acknowledgements that may ride with data wait for the end of a
    /// turn: `end_of_turn`.
    pub(crate) fn poll_transmit(&mut self, now: u64, end_of_turn: bool) -> Option<Segment> {
        if std::mem::take(&mut self.reset_due) {
            return Some(self.segment(self.max, Flags::RST | Flags::ACK, None));
        }
        if let Some(expected) = self.stray.take() {
            return Some(self.segment(expected, Flags::RST, None));
        }
        match self.state {
            State::Closed => None,
            State::SynSent | State::SynReceived if self.nxt == self.iss => Some(self.syn(now)),
            State::SynSent => None,
            State::SynReceived | State::TimeWait => self.bare_ack(end_of_turn),
            _ => self
                .missing(now)
                .or_else(|| self.next(now))
                .or_else(|| self.probe())
                .or_else(|| self.bare_ack(end_of_turn)),
        }
    }

    fn syn(&mut self, now: u64) -> Segment {
        let flags = match self.state {
            State::SynSent => Flags::SYN,
            _ => Flags::SYN | Flags::ACK,
        };
        let first = self.max == self.iss;
        self.nxt = self.iss.wrapping_add(1);
        self.sent(now, self.iss, first);
        let mut segment = self.segment(self.iss, flags, None);
        segment.mss = Some(self.own_mss);
        segment.window = segment.window.min(MOST_UNSCALED);
        if self.state == State::SynSent {
            (segment.ack, segment.window) = (0, self.recv_room.min(MOST_UNSCALED as usize) as u32);
        } else {
            self.rcv_edge = self.rcv_nxt.wrapping_add(segment.window);
        }
        segment
    }

    /// The first segment that was not acknowledged, again.
    fn missing(&mut self, now: u64) -> Option<Segment> {
        if !std::mem::take(&mut self.resend) || self.una == self.nxt {
            return None;
        }
        self.timed = None;
        let sent = self.unsent_after(self.una).min(seq::distance(self.una, self.max));
        self.rto_at = Some(now + self.current_rto());
        Some(self.data(self.una, sent.min(self.mss as usize)))
    }

    /// What follows on what was sent.
    fn next(&mut self, now: u64) -> Option<Segment> {
        let unsent = self.unsent_after(self.nxt);
        let fin_is_next = self.fin && !seq::lt(self.end_of_data(), self.nxt);
        if unsent == 0 && !fin_is_next {
            return None;
        }
        let under_way = seq::distance(self.una, self.nxt);
        // What was sent before was allowed then, whatever an old acknowledgement says.
        let edge = seq::max(self.una.wrapping_add(self.wnd), self.max);
        let window = seq::distance(self.una, edge).min(self.congestion.window() as usize);
        let allowed = window.saturating_sub(under_way);
        let len = unsent.min(allowed).min(self.mss as usize);
        if unsent > 0 && len == 0 {
            if under_way == 0 && self.probe_at.is_none() && self.rto_at.is_none() {
                self.probe_at = Some(now + self.round_trip.timeout(self.backoff.into()));
            }
            return None;
        }
        // Crumbs of a window wait for the rest of it (RFC 9293, section 3.8.6.2.1).
        if len < unsent && len < self.mss as usize && under_way > 0 {
            return None;
        }
        self.probe_at = None;
        let from = self.nxt;
        let segment = self.data(from, len);
        let first = self.nxt == self.max;
        let fin = u32::from(segment.flags.contains(Flags::FIN));
        self.nxt = seq::after(from, len).wrapping_add(fin);
        self.sent(now, from, first);
        Some(segment)
    }

    /// Asks the peer for its window, or whether it is there: a number that it has acknowledged is
    /// answered.
    fn probe(&mut self) -> Option<Segment> {
        std::mem::take(&mut self.probe_due)
            .then(|| self.segment(self.una.wrapping_sub(1), Flags::ACK, None))
    }

    fn bare_ack(&mut self, end_of_turn: bool) -> Option<Segment> {
        let due = self.ack == Ack::Now || (end_of_turn && self.ack == Ack::Soon);
        due.then(|| self.segment(self.max, Flags::ACK, None))
    }

    /// One after the last number of what is queued.
    pub(super) fn end_of_data(&self) -> u32 {
        seq::after(self.send_at, self.send.len())
    }

    /// Bytes queued from this number on.
    fn unsent_after(&self, number: u32) -> usize {
        seq::distance(number, self.end_of_data())
    }

    /// A segment with `len` bytes from the number `from` on, and with our FIN if that follows.
    fn data(&mut self, from: u32, len: usize) -> Segment {
        let payload = self.send.copy(seq::distance(self.send_at, from), len);
        let end = seq::after(from, len);
        let is_last = end == self.end_of_data();
        let mut flags = Flags::ACK;
        if is_last && len > 0 {
            flags |= Flags::PSH;
        }
        if is_last && self.fin {
            // If this is the first time, `next` sends it once more: nothing holds it back.
            flags |= Flags::FIN;
        }
        self.segment(from, flags, Some(payload))
    }

    /// A segment that says what we have received and still take.
    fn segment(&mut self, seq: u32, flags: Flags, payload: Option<Rc<[u8]>>) -> Segment {
        self.ack = Ack::No;
        if !self.done {
            self.rcv_edge = self.next_edge();
        }
        Segment {
            seq,
            ack: self.rcv_nxt,
            flags,
            window: seq::distance(self.rcv_nxt, self.rcv_edge) as u32,
            payload: payload.unwrap_or_else(|| Rc::new([])),
            mss: None,
        }
    }

    /// Numbers from `from` up to `nxt` have left, for the first time or again.
    fn sent(&mut self, now: u64, from: u32, first: bool) {
        // Karn: what was sent twice measures nothing (RFC 6298, section 3).
        if first && self.timed.is_none() {
            self.timed = Some((from, now));
        }
        self.max = seq::max(self.max, self.nxt);
        if self.rto_at.is_none() {
            self.rto_at = Some(now + self.current_rto());
        }
    }
}
