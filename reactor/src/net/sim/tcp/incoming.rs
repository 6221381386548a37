//! A segment arrives (RFC 9293, section 3.10.7, with the checks of RFC 5961).

use super::seq;
use super::tcb::{Ack, FIN_TIMEOUT, State, Tcb};
use crate::net::sim::packet::{Flags, Segment};

/// How long the numbers of a connection are remembered after its end: Linux' 60 s.
pub(crate) const TIME_WAIT: u64 = 60_000_000_000;

/// A segment on its way through the checks.
pub(super) struct Incoming<'a> {
    pub(super) tcb: &'a mut Tcb,
    pub(super) now: u64,
    pub(super) segment: &'a Segment,
}

impl Incoming<'_> {
    pub(super) fn process(mut self) {
        match self.tcb.state {
            State::Closed => {}
            State::SynSent => self.answer_to_syn(),
            _ => {
                if self.is_acceptable()
                    && self.check_reset()
                    && self.check_syn()
                    && self.has(Flags::ACK)
                    && self.acknowledgement()
                {
                    self.data();
                }
            }
        }
    }

    fn has(&self, flags: Flags) -> bool {
        self.segment.flags.contains(flags)
    }

    /// RFC 9293, section 3.10.7.3.
    fn answer_to_syn(&mut self) {
        let segment = self.segment;
        let acknowledged = self.has(Flags::ACK);
        if acknowledged && segment.ack != self.tcb.max {
            // Of an earlier connection, which the peer believes to be still there.
            if !self.has(Flags::RST) {
                self.tcb.stray = Some(segment.ack);
            }
            return;
        }
        if self.has(Flags::RST) {
            if acknowledged {
                self.tcb.fail(libc::ECONNREFUSED);
            }
            return;
        }
        if !self.has(Flags::SYN) {
            return;
        }
        self.tcb.synchronize(segment);
        if acknowledged {
            self.tcb.una = segment.ack;
            self.establish();
            self.tcb.ack = Ack::Now;
        } else {
            // Both ends began at the same time.
            self.tcb.state = State::SynReceived;
            self.tcb.nxt = self.tcb.iss;
            self.tcb.rto_at = None;
        }
    }

    fn establish(&mut self) {
        let tcb = &mut *self.tcb;
        tcb.state = State::Established;
        (tcb.wnd, tcb.wl1, tcb.wl2) = (self.segment.window, self.segment.seq, self.segment.ack);
        tcb.nxt = tcb.max;
        tcb.rto_at = None;
        tcb.retries = 0;
        tcb.soft_error = None;
        if let Some((_, at)) = tcb.timed.take() {
            tcb.round_trip.measured(self.now.saturating_sub(at));
        }
        tcb.woken = true;
        if let Some(times) = tcb.keepalive.as_deref().copied() {
            tcb.set_keepalive(self.now, Some(times));
        }
    }

    fn len(&self) -> usize {
        self.segment.payload.len()
            + usize::from(self.has(Flags::SYN))
            + usize::from(self.has(Flags::FIN))
    }

    /// Whether it lies within what we take: with its end not before what is expected, and its
    /// start not after what is allowed. Otherwise the peer is told where we are.
    fn is_acceptable(&mut self) -> bool {
        let (length, seq) = (self.len(), self.segment.seq);
        let is_syn = self.has(Flags::SYN);
        let is_reset = self.has(Flags::RST);
        let tcb = &mut *self.tcb;
        if tcb.state == State::SynReceived && is_syn && seq == tcb.irs {
            return true;
        }
        let known = match length {
            0 => seq::lt(seq, tcb.rcv_nxt),
            _ => seq::le(seq::after(seq, length), tcb.rcv_nxt),
        };
        if !known && seq::le(seq, tcb.rcv_edge) {
            return true;
        }
        // Answering every old acknowledgement would never end; but probes are to be answered.
        let is_probe = seq == tcb.rcv_nxt.wrapping_sub(1);
        if (length > 0 || is_probe) && !is_reset {
            tcb.ack = Ack::Now;
        }
        false
    }

    /// A reset counts if it has exactly the number expected; else the peer is asked whether it
    /// meant it (RFC 5961, section 3.2). False: that was all.
    fn check_reset(&mut self) -> bool {
        if !self.has(Flags::RST) {
            return true;
        }
        if self.segment.seq != self.tcb.rcv_nxt {
            self.tcb.ack = Ack::Now;
            return false;
        }
        match self.tcb.state {
            State::SynReceived => self.tcb.fail(libc::ECONNREFUSED),
            State::CloseWait => self.tcb.fail(libc::EPIPE),
            State::TimeWait => self.tcb.finish(),
            _ => self.tcb.fail(libc::ECONNRESET),
        }
        false
    }

    /// A SYN has no business in a connection (RFC 5961, section 4.2), save one that crossed ours
    /// or comes again. False: that was all.
    fn check_syn(&mut self) -> bool {
        if !self.has(Flags::SYN) {
            return true;
        }
        let tcb = &mut *self.tcb;
        if tcb.state != State::SynReceived || self.segment.seq != tcb.irs {
            tcb.ack = Ack::Now;
            return false;
        }
        if self.segment.flags.contains(Flags::ACK) {
            // Both began; the peer waits for an acknowledgement.
            tcb.ack = Ack::Now;
            return true;
        }
        // Our answer was lost.
        tcb.nxt = tcb.iss;
        false
    }

    /// False: there is nothing more to be had from the segment.
    fn acknowledgement(&mut self) -> bool {
        let (ack, tcb) = (self.segment.ack, &mut *self.tcb);
        if tcb.state == State::SynReceived {
            if ack != tcb.max || tcb.max == tcb.iss {
                tcb.stray = Some(ack);
                return false;
            }
            tcb.una = ack;
            self.establish();
            return true;
        }
        if seq::lt(tcb.max, ack) {
            tcb.ack = Ack::Now;
            return false;
        }
        if seq::lt(tcb.una, ack) {
            self.advance();
        } else if ack == tcb.una
            && tcb.una != tcb.max
            && self.segment.payload.is_empty()
            && !self.segment.flags.contains(Flags::FIN)
            && self.segment.window == tcb.wnd
        {
            let flight = seq::distance(tcb.una, tcb.max) as u32;
            tcb.resend |= tcb.congestion.duplicate(tcb.una, tcb.max, flight, tcb.mss);
        }
        self.window();
        true
    }

    /// New data was acknowledged.
    fn advance(&mut self) {
        let (ack, tcb) = (self.segment.ack, &mut *self.tcb);
        let flight = seq::distance(tcb.una, tcb.max) as u32;
        let bytes = seq::distance(tcb.una, ack) as u32;
        tcb.resend |= tcb.congestion.acknowledged(ack, bytes, flight, tcb.mss);
        let end = tcb.end_of_data();
        let data_end = if seq::lt(end, ack) { end } else { ack };
        tcb.send.skip(seq::distance(tcb.send_at, data_end));
        tcb.send_at = seq::max(tcb.send_at, data_end);
        tcb.una = ack;
        tcb.nxt = seq::max(tcb.nxt, ack);
        if let Some((number, at)) = tcb.timed
            && seq::lt(number, ack)
        {
            tcb.timed = None;
            tcb.round_trip.measured(self.now.saturating_sub(at));
        }
        (tcb.retries, tcb.soft_error) = (0, None);
        tcb.rto_at = match tcb.una == tcb.max {
            true => None,
            false => Some(self.now + tcb.current_rto()),
        };
        tcb.tell_room();
        if tcb.fin && tcb.una == end.wrapping_add(1) {
            self.fin_acknowledged();
        }
    }

    fn fin_acknowledged(&mut self) {
        match self.tcb.state {
            State::FinWait1 => {
                self.tcb.state = State::FinWait2;
                self.tcb.woken = true;
                if self.tcb.orphan {
                    self.tcb.idle_at = Some(self.now + FIN_TIMEOUT);
                }
            }
            State::Closing => self.time_wait(),
            State::LastAck => self.tcb.finish(),
            _ => {}
        }
    }

    fn time_wait(&mut self) {
        let tcb = &mut *self.tcb;
        tcb.state = State::TimeWait;
        (tcb.read_shut, tcb.write_shut, tcb.woken) = (true, true, true);
        (tcb.rto_at, tcb.probe_at) = (None, None);
        tcb.idle_at = Some(self.now + TIME_WAIT);
    }

    /// Takes the window of a segment that is not older than the one it was last taken from.
    fn window(&mut self) {
        let (segment, tcb) = (self.segment, &mut *self.tcb);
        if seq::lt(tcb.wl1, segment.seq)
            || (tcb.wl1 == segment.seq && seq::le(tcb.wl2, segment.ack))
        {
            (tcb.wnd, tcb.wl1, tcb.wl2) = (segment.window, segment.seq, segment.ack);
            if tcb.wnd > 0 {
                (tcb.probe_at, tcb.backoff) = (None, 0);
            }
        }
    }

    fn data(&mut self) {
        if self.len() == 0 || self.tcb.state == State::Closed {
            return;
        }
        let (segment, tcb) = (self.segment, &mut *self.tcb);
        if !matches!(tcb.state, State::Established | State::FinWait1 | State::FinWait2) {
            // Nothing follows a FIN; one that comes again was not heard to be acknowledged.
            tcb.ack = Ack::Now;
            if tcb.state == State::TimeWait {
                tcb.idle_at = Some(self.now + TIME_WAIT);
            }
            return;
        }
        let end = seq::after(segment.seq, segment.payload.len());
        if tcb.read_shut
            && matches!(tcb.state, State::FinWait1 | State::FinWait2)
            && seq::lt(tcb.rcv_nxt, end)
        {
            // Data for a socket that was closed: nobody will read it (RFC 9293, section 3.10.7.4).
            tcb.reset();
            tcb.error = Some(libc::ECONNRESET);
            return;
        }
        if segment.flags.contains(Flags::FIN) && tcb.early_fin.is_none() {
            tcb.early_fin = Some(end);
        }
        self.payload();
        if self.tcb.early_fin == Some(self.tcb.rcv_nxt) {
            self.fin();
        }
    }

    fn payload(&mut self) {
        let (segment, tcb) = (self.segment, &mut *self.tcb);
        // Old at its start, beyond the window at its end.
        let from = seq::distance(segment.seq, tcb.rcv_nxt).min(segment.payload.len());
        let at = seq::after(segment.seq, from);
        let to = from + (segment.payload.len() - from).min(seq::distance(at, tcb.rcv_edge));
        if at != tcb.rcv_nxt {
            if from < to {
                tcb.early.insert(at, segment.payload[from..to].into());
            }
            // Tells the peer at once that something is missing.
            tcb.ack = Ack::Now;
            return;
        }
        tcb.ack = tcb.ack.max_with(Ack::Soon);
        if from == to {
            if !segment.payload.is_empty() {
                tcb.ack = Ack::Now;
            }
            return;
        }
        tcb.recv.push(&segment.payload[from..to]);
        tcb.rcv_nxt = tcb.early.release(seq::after(at, to - from), &mut tcb.recv);
        tcb.woken = true;
    }

    /// All before the peer's FIN was received.
    fn fin(&mut self) {
        let tcb = &mut *self.tcb;
        tcb.rcv_nxt = tcb.rcv_nxt.wrapping_add(1);
        tcb.rcv_edge = seq::max(tcb.rcv_edge, tcb.rcv_nxt);
        (tcb.done, tcb.read_shut, tcb.woken) = (true, true, true);
        tcb.early_fin = None;
        tcb.early.clear();
        tcb.ack = Ack::Now;
        match tcb.state {
            State::Established => tcb.state = State::CloseWait,
            State::FinWait1 => tcb.state = State::Closing,
            State::FinWait2 => self.time_wait(),
            _ => {}
        }
    }
}
