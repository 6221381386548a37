//! How much may be under way, and for how long it is awaited: slow start, congestion avoidance
//! and fast recovery of NewReno (RFC 5681, 6582) from ten segments on (RFC 6928), and the
//! retransmission timeout of RFC 6298 with Linux' floor.

use super::seq;

/// Repetitions of an acknowledgement that tell a loss.
const DUPLICATES: u32 = 3;
const INITIAL_SEGMENTS: u32 = 10;

const MILLISECOND: u64 = 1_000_000;
const INITIAL_RTO: u64 = 1_000 * MILLISECOND;
/// Linux: the variance counts as at least this (`TCP_RTO_MIN`).
const LEAST_VARIANCE: u64 = 200 * MILLISECOND;
/// `TCP_RTO_MAX`.
pub(super) const MAX_RTO: u64 = 120_000 * MILLISECOND;

/// The congestion window, in bytes.
#[derive(Debug)]
pub(super) struct Congestion {
    window: u32,
    threshold: u32,
    duplicates: u32,
    /// All up to here was sent when the last loss was met.
    recover: u32,
    in_recovery: bool,
}

impl Congestion {
    pub(super) fn new(start: u32, mss: u32) -> Self {
        Self {
            window: INITIAL_SEGMENTS * mss,
            threshold: u32::MAX,
            duplicates: 0,
            recover: start,
            in_recovery: false,
        }
    }

    pub(super) fn window(&self) -> u32 {
        self.window
    }

    /// New data was acknowledged, up to `ack`, of `flight` bytes under way. True: the first
    /// segment that is still missing is to be sent again.
    pub(super) fn acknowledged(&mut self, ack: u32, bytes: u32, flight: u32, mss: u32) -> bool {
        self.duplicates = 0;
        if self.in_recovery {
            if seq::lt(ack, self.recover) {
                self.window = self.window.saturating_sub(bytes).saturating_add(mss).max(mss);
                return true;
            }
            self.in_recovery = false;
            self.window = self.threshold.max(2 * mss);
        } else if self.window / 2 <= flight {
            // Only a window that was in use may grow.
            let more = match self.window < self.threshold {
                true => bytes.min(2 * mss),
                false => (u64::from(mss) * u64::from(mss) / u64::from(self.window)).max(1) as u32,
            };
            self.window = self.window.saturating_add(more).min(1 << 30);
        }
        false
    }

    /// An acknowledgement came again. True as above.
    pub(super) fn duplicate(&mut self, una: u32, sent: u32, flight: u32, mss: u32) -> bool {
        self.duplicates += 1;
        if self.in_recovery {
            self.window = self.window.saturating_add(mss).min(1 << 30);
            return false;
        }
        if self.duplicates != DUPLICATES || seq::lt(una, self.recover) {
            return false;
        }
        self.threshold = (flight / 2).max(2 * mss);
        self.window = self.threshold + DUPLICATES * mss;
        self.recover = sent;
        self.in_recovery = true;
        true
    }

    /// Nothing was acknowledged for too long.
    pub(super) fn timed_out(&mut self, sent: u32, flight: Option<u32>, mss: u32) {
        if let Some(flight) = flight {
            self.threshold = (flight / 2).max(2 * mss);
        }
        self.window = mss;
        self.duplicates = 0;
        self.recover = sent;
        self.in_recovery = false;
    }
}

/// The round-trip time and the timeout that follows from it, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct RoundTrip {
    /// Smoothed; 0 while nothing was measured.
    smoothed: u64,
    variance: u64,
}

impl RoundTrip {
    pub(super) fn measured(&mut self, sample: u64) {
        let sample = sample.max(1);
        if self.smoothed == 0 {
            (self.smoothed, self.variance) = (sample, sample / 2);
        } else {
            self.variance = (3 * self.variance + self.smoothed.abs_diff(sample)) / 4;
            self.smoothed = (7 * self.smoothed + sample) / 8;
        }
    }

    /// The timeout after it was doubled so often.
    pub(super) fn timeout(&self, doubled: u32) -> u64 {
        let base = match self.smoothed {
            0 => INITIAL_RTO,
            smoothed => smoothed + (4 * self.variance).max(LEAST_VARIANCE),
        };
        base.saturating_mul(1_u64.checked_shl(doubled).unwrap_or(u64::MAX)).min(MAX_RTO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_again_after_a_timeout_tells_no_new_loss() {
        let mut congestion = Congestion::new(0, 1_000);
        congestion.timed_out(10_000, Some(10_000), 1_000);
        // The copies of what had arrived are acknowledged again and again.
        assert!((0..10).all(|_| !congestion.duplicate(5_000, 10_000, 5_000, 1_000)));
        congestion.acknowledged(10_000, 5_000, 5_000, 1_000);
        let told: Vec<bool> =
            (0..4).map(|_| congestion.duplicate(10_000, 20_000, 10_000, 1_000)).collect();
        assert_eq!(told, [false, false, true, false]);
    }

    #[test]
    fn the_window_doubles_and_then_creeps() {
        let mut congestion = Congestion::new(0, 1_000);
        assert_eq!(congestion.window(), 10_000);
        for _ in 0..10 {
            congestion.acknowledged(1, 1_000, 10_000, 1_000);
        }
        assert_eq!(congestion.window(), 20_000);
        congestion.timed_out(0, Some(20_000), 1_000);
        assert_eq!(congestion.window(), 1_000);
        for _ in 0..9 {
            congestion.acknowledged(1, 1_000, 10_000, 1_000);
        }
        assert_eq!(congestion.window(), 10_000);
        for _ in 0..10 {
            congestion.acknowledged(1, 1_000, 10_000, 1_000);
        }
        assert!((10_900..11_000).contains(&congestion.window()), "{}", congestion.window());
        // A window that is not used does not grow.
        let before = congestion.window();
        congestion.acknowledged(1, 1_000, 1_000, 1_000);
        assert_eq!(congestion.window(), before);
    }

    #[test]
    fn the_timeout_follows_the_round_trip() {
        let mut round_trip = RoundTrip::default();
        assert_eq!(round_trip.timeout(0), 1_000 * MILLISECOND);
        assert_eq!(round_trip.timeout(3), 8_000 * MILLISECOND);
        for _ in 0..50 {
            round_trip.measured(100 * MILLISECOND);
        }
        assert_eq!(round_trip.timeout(0), 300 * MILLISECOND);
        assert_eq!(round_trip.timeout(40), MAX_RTO);
    }
}
