//! A link of limited bandwidth: one packet is sent at a time, and a bounded number of bytes waits.

/// The bandwidth of a link, and how many bytes may wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bandwidth {
    bits_per_second: u64,
    queue_ns: u64,
}

const BIT_NS: u64 = 8 * 1_000_000_000;

impl Bandwidth {
    /// # Panics
    ///
    /// If the bandwidth is 0.
    pub(super) fn new(bits_per_second: u64, queue: usize) -> Self {
        assert!(bits_per_second > 0, "a bandwidth of 0: a partition is a rule that drops");
        let queue_ns = queue as u128 * u128::from(BIT_NS) / u128::from(bits_per_second);
        Self { bits_per_second, queue_ns: u64::try_from(queue_ns).unwrap_or(u64::MAX) }
    }
}

/// What a link has still to send, in one direction. Nothing needs to be done when a packet has
/// left: that is a matter of arithmetic.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queue {
    /// When the last bit of all that was accepted has left.
    busy_until_ns: u64,
    /// What is missing from that in billionths of a bit: or a fast link would lose up to a
    /// nanosecond per packet.
    rest: u64,
}

impl Queue {
    /// Accepts a packet at `now` and returns when its last bit leaves; `None` drops it, for the
    /// queue has no room (tail drop). What is being sent counts as waiting; a link with nothing
    /// to send takes any packet.
    #[inline]
    pub(super) fn pass(&mut self, bandwidth: Bandwidth, now_ns: u64, bytes: usize) -> Option<u64> {
        let backlog = self.busy_until_ns.saturating_sub(now_ns);
        let mut work = (bytes as u64).saturating_mul(BIT_NS);
        if backlog > 0 {
            let sending = work / bandwidth.bits_per_second;
            if backlog.saturating_add(sending) > bandwidth.queue_ns {
                return None;
            }
            work = work.saturating_add(self.rest);
        }
        self.rest = work % bandwidth.bits_per_second;
        let sending = work / bandwidth.bits_per_second;
        self.busy_until_ns = now_ns.saturating_add(backlog).saturating_add(sending);
        Some(self.busy_until_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_link_takes_as_long_as_the_bits_need() {
        let mut queue = Queue::default();
        // 1,250 bytes at 1 Mbit/s.
        let slow = Bandwidth::new(1_000_000, 0);
        assert_eq!(queue.pass(slow, 500, 1_250), Some(10_000_500));
        assert_eq!(queue.pass(slow, 10_000_500, 1_250), Some(20_000_500), "idle again");
    }

    #[test]
    fn packets_wait_for_each_other_and_the_tail_is_dropped() {
        let mut queue = Queue::default();
        let link = Bandwidth::new(8_000_000, 3_000);
        let left: Vec<_> = (0..5).map(|_| queue.pass(link, 0, 1_000)).collect();
        // A microsecond per byte.
        assert_eq!(left, [Some(1_000_000), Some(2_000_000), Some(3_000_000), None, None]);
        assert_eq!(queue.pass(link, 999_999, 1_000), None, "the first is not quite away");
        assert_eq!(queue.pass(link, 1_000_000, 1_000), Some(4_000_000));
        assert_eq!(queue.pass(link, 1_500_000, 400), Some(4_400_000), "a short one still fits");
    }

    #[test]
    fn a_busy_link_sends_at_its_rate_to_the_bit() {
        let mut queue = Queue::default();
        // 5.12 ns for each packet of 64 bytes: rounding each up would be 15 % too slow.
        let fast = Bandwidth::new(100_000_000_000, 1 << 30);
        let last = (0..1_000_000).filter_map(|_| queue.pass(fast, 7, 64)).last();
        assert_eq!(last, Some(7 + 5_120_000));
    }

    #[test]
    fn the_slowest_and_the_fastest_link_do_not_overflow() {
        let mut queue = Queue::default();
        assert_eq!(queue.pass(Bandwidth::new(1, 1), 0, 65_575), Some(65_575 * BIT_NS));
        assert_eq!(queue.pass(Bandwidth::new(1, 1), 0, 65_575), None);
        let mut queue = Queue::default();
        let fastest = Bandwidth::new(u64::MAX, usize::MAX);
        assert_eq!(queue.pass(fastest, u64::MAX, 65_575), Some(u64::MAX));
    }
}
