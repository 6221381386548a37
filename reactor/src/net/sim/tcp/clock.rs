//! What a connection does when time has passed.

use super::seq;
use super::tcb::{State, Tcb, nanoseconds};

/// Linux: `tcp_syn_retries` 6 after `tcp_syn_linear_timeouts` 4: an attempt ends after 131 s.
const SYN_RETRIES: u8 = 10;
const LINEAR_SYN_RETRIES: u8 = 4;
/// `tcp_synack_retries`.
const SYN_ACK_RETRIES: u8 = 5;
/// `tcp_retries2`, and for closed sockets `tcp_orphan_retries`.
const RETRIES: u8 = 15;
const ORPHAN_RETRIES: u8 = 8;

impl Tcb {
    /// When [`on_timer`](Self::on_timer) is due; a call before does nothing.
    pub(crate) fn next_timer(&self) -> Option<u64> {
        [self.rto_at, self.probe_at, self.idle_at].into_iter().flatten().min()
    }

    /// Does what is due.
    pub(crate) fn on_timer(&mut self, now: u64) {
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now);
        if due(self.rto_at) {
            self.unacknowledged();
        }
        if due(self.probe_at) {
            self.window_stays_shut(now);
        }
        if due(self.idle_at) {
            self.idle(now);
        }
    }

    /// The time until what leaves now is sent again.
    pub(super) fn current_rto(&self) -> u64 {
        let doubled = match self.state {
            State::SynSent => self.retries.saturating_sub(LINEAR_SYN_RETRIES),
            _ => self.retries,
        };
        self.round_trip.timeout(doubled.into())
    }

    fn unacknowledged(&mut self) {
        self.rto_at = None;
        let limit = match self.state {
            State::SynSent => SYN_RETRIES,
            State::SynReceived => SYN_ACK_RETRIES,
            _ if self.orphan => ORPHAN_RETRIES,
            _ => RETRIES,
        };
        if self.retries >= limit {
            return self.give_up();
        }
        self.retries += 1;
        if !matches!(self.state, State::SynSent | State::SynReceived) {
            let flight = seq::distance(self.una, self.max) as u32;
            // Of one loss after the other, the first tells how much the path bears.
            let flight = (self.retries == 1).then_some(flight);
            self.congestion.timed_out(self.max, flight, self.mss);
        }
        // From the first that is missing on, as the window grows again (go-back-N).
        self.nxt = self.una;
        (self.timed, self.resend) = (None, false);
    }

    fn window_stays_shut(&mut self, now: u64) {
        let limit = if self.orphan { ORPHAN_RETRIES } else { RETRIES };
        if self.probes >= limit {
            return self.give_up();
        }
        self.probes += 1;
        self.backoff = (self.backoff + 1).min(32);
        self.probe_due = true;
        self.probe_at = Some(now + self.round_trip.timeout(self.backoff.into()));
    }

    fn give_up(&mut self) {
        self.fail(self.soft_error.unwrap_or(libc::ETIMEDOUT));
    }

    fn idle(&mut self, now: u64) {
        self.idle_at = None;
        if self.state == State::TimeWait || (self.orphan && self.state == State::FinWait2) {
            return self.finish();
        }
        let Some(times) = &self.keepalive else { return };
        let (idle, interval) = (nanoseconds(times.idle), nanoseconds(times.interval));
        let heard = self.heard_at + idle;
        if self.una != self.max || !self.send.is_empty() {
            // What is under way finds out by itself.
            self.idle_at = Some(now + idle);
        } else if self.probes == 0 && heard > now {
            self.idle_at = Some(heard);
        } else if u32::from(self.probes) >= times.count {
            self.give_up();
            self.reset_due = true;
        } else {
            self.probes += 1;
            self.probe_due = true;
            self.idle_at = Some(now + interval);
        }
    }
}
