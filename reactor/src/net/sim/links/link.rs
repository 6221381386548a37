//! What a link does to packets, in the words of the user: [`Link`].

use super::latency::Latency;
use super::loss::{Chance, Loss};
use super::queue::Bandwidth;
use crate::net::sim::packet::Packet;

/// The narrowest link of IPv6 (RFC 8200, section 5).
const LEAST_MTU_V6: u32 = 1_280;

/// How a path from one host to another treats what is sent along it.
///
/// [`new`](Self::new) is the perfect link: no latency, no limit, no loss. Each direction between
/// two hosts has a link of its own, and what one does to its packets is independent of the others.
///
/// **Order.** A link is a wire: packets arrive in the order in which they were sent, and one that
/// a random latency holds up holds up those behind it. [`reordering`](Self::reordering) lets some
/// be overtaken, [`unordered`](Self::unordered) all.
///
/// ```
/// use std::time::Duration;
/// use strand_reactor::sim::{Latency, Link, Loss};
///
/// let ms = Duration::from_millis(1);
/// let mobile = Link::new()
///     .latency(Latency::log_normal(40 * ms, 0.5))
///     .bandwidth(5_000_000, 128 * 1024)
///     .loss(Loss::bursts(0.02, 4.0))
///     .mtu(1_400);
/// assert_eq!(mobile, mobile.clone());
/// assert_ne!(mobile, Link::new());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    pub(super) latency: Latency,
    pub(super) bandwidth: Option<Bandwidth>,
    pub(super) loss: Loss,
    pub(super) duplicated: Chance,
    /// How many are overtaken, and for how long they are held back.
    pub(super) reordered: Option<(Chance, Latency)>,
    pub(super) unordered: bool,
    pub(super) corrupted: Chance,
    pub(super) mtu: Option<u32>,
}

impl Link {
    /// The perfect link.
    pub const fn new() -> Self {
        Self {
            latency: Latency::ZERO,
            bandwidth: None,
            loss: Loss::NONE,
            duplicated: Chance::Never,
            reordered: None,
            unordered: false,
            corrupted: Chance::Never,
            mtu: None,
        }
    }

    /// How long a packet is under way once it was sent.
    pub fn latency(mut self, latency: impl Into<Latency>) -> Self {
        self.latency = latency.into();
        self
    }

    /// How many bits of packets, headers of IP and above included, are sent per second, and how
    /// many bytes may wait for it, the packet being sent included. What finds no room is lost
    /// (tail drop), but a link with nothing to send takes a packet of any size.
    ///
    /// # Panics
    ///
    /// If the bandwidth is 0.
    pub fn bandwidth(mut self, bits_per_second: u64, queue_bytes: usize) -> Self {
        self.bandwidth = Some(Bandwidth::new(bits_per_second, queue_bytes));
        self
    }

    /// Which packets are lost: a probability, or a [`Loss`] that comes in bursts.
    ///
    /// # Panics
    ///
    /// If a number is not within 0 to 1.
    pub fn loss(mut self, loss: impl Into<Loss>) -> Self {
        self.loss = loss.into();
        self
    }

    /// With what probability a packet arrives twice. Each copy draws its own latency; of a fixed
    /// one they arrive together.
    ///
    /// # Panics
    ///
    /// If the probability is not within 0 to 1.
    pub fn duplication(mut self, probability: f64) -> Self {
        self.duplicated = Chance::of(probability, "duplication");
        self
    }

    /// With what probability a packet is held back, and for how long beyond its latency; those
    /// sent after it overtake it.
    ///
    /// # Panics
    ///
    /// If the probability is not within 0 to 1.
    pub fn reordering(mut self, probability: f64, by: impl Into<Latency>) -> Self {
        self.reordered = Some((Chance::of(probability, "reordering"), by.into()));
        self
    }

    /// Each packet takes its own latency, whoever overtakes whom: so do paths over many routes.
    /// Of no effect where the latency is fixed.
    pub fn unordered(mut self) -> Self {
        self.unordered = true;
        self
    }

    /// With what probability one bit of a datagram's payload arrives flipped, as after an error
    /// that the checksum of UDP did not find, or with the checksum off. (What it does find the
    /// kernel drops: that is [`loss`](Self::loss).) TCP is spared: its checksum cannot be off.
    ///
    /// # Panics
    ///
    /// If the probability is not within 0 to 1.
    pub fn corruption(mut self, probability: f64) -> Self {
        self.corrupted = Chance::of(probability, "corruption");
        self
    }

    /// The longest packet in bytes, its IP header included. One that may not be fragmented comes
    /// back as an ICMP "too big" that names this MTU; without one packets of any size pass. To IPv6
    /// no link is narrower than 1,280 bytes: one that is cuts them by itself (RFC 8200, section 5).
    ///
    /// # Panics
    ///
    /// If it is below 68, the least that IPv4 allows (RFC 791).
    pub fn mtu(mut self, bytes: u32) -> Self {
        assert!(bytes >= 68, "an MTU of {bytes}: IPv4 needs 68 bytes, IPv6 1,280");
        self.mtu = Some(bytes);
        self
    }

    /// The latency of all its packets, if nothing else is to be said of the link: it needs no
    /// random numbers and no memory.
    pub(super) fn as_plain(&self) -> Option<u64> {
        let latency = self.latency.as_fixed()?;
        let fixed = Self { latency: Latency::ZERO, unordered: false, ..self.clone() };
        (fixed == Self::new()).then_some(latency)
    }

    /// The MTU, if the packet is longer.
    #[inline]
    pub(super) fn too_small_for(&self, packet: &Packet) -> Option<u32> {
        let least = if packet.destination.is_ipv4() { 0 } else { LEAST_MTU_V6 };
        self.mtu.map(|mtu| mtu.max(least)).filter(|mtu| packet.wire_len() > *mtu as usize)
    }

    /// Whether what it does to a packet depends on those before.
    pub(super) fn has_memory(&self) -> bool {
        self.bandwidth.is_some() || self.path_has_memory()
    }

    /// Whether it does so otherwise than by its queue.
    pub(super) fn path_has_memory(&self) -> bool {
        let varies = self.latency.as_fixed().is_none();
        self.loss.has_memory() || varies && !self.unordered
    }
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_link_is_plain_as_long_as_only_its_latency_is_set() {
        let second = Duration::from_secs(1);
        assert_eq!(Link::new().as_plain(), Some(0));
        assert_eq!(Link::new().latency(second).unordered().as_plain(), Some(1_000_000_000));
        let plain = Link::new().latency(second);
        for other in [
            plain.clone().bandwidth(1, 1),
            plain.clone().loss(0.1),
            plain.clone().duplication(0.1),
            plain.clone().reordering(0.1, second),
            plain.clone().corruption(0.1),
            plain.clone().mtu(1_500),
            plain.clone().latency(Latency::uniform(second, second)),
        ] {
            assert_eq!(other.as_plain(), None, "{other:?}");
        }
    }

    #[test]
    #[should_panic(expected = "an MTU of 40")]
    fn an_mtu_without_room_for_headers_is_refused() {
        let _ = Link::new().mtu(40);
    }
}
