//! What becomes of a packet between two hosts: whether it arrives, when, and how often.
//!
//! [`Links`] decides it, knowing nothing of sockets. Its parts: a [`Link`] says what is done to
//! packets ([`latency`], [`loss`], bandwidth with its [`queue`]), [`stage`] does it; a [`Rule`]
//! says what goes wrong and for whom ([`matching`]), [`rules`] hold those in force; [`pairs`] keep
//! what has to be remembered of the traffic between two hosts.
//!
//! Costs: between hosts of which nothing was said, two comparisons and an addition. A link with a
//! memory costs a search among the peers of the sender, a rule a look at its conditions. No state
//! is made for a pair before it is needed.

mod latency;
mod link;
mod loss;
mod matching;
mod pairs;
mod queue;
mod rule;
mod rules;
mod stage;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use super::error::HostError;
use super::host::HostId;
use super::packet::Packet;
use pairs::Pairs;
use rules::{Panic, Rules, Verdict};
use stage::{Flight, Flights, pass};

pub use latency::Latency;
pub use link::Link;
pub use loss::{GilbertElliott, Loss};
pub use matching::{Hosts, PacketView};
pub use rule::{Call, Guard, Rule};

pub(crate) use matching::Host;
pub(crate) use rules::{Attempt, Refusal};

/// The latency between two hosts of which nothing was said: 1 ms.
const LATENCY: Duration = Duration::from_millis(1);

/// The links between the hosts of a world, and the rules about them.
pub(crate) struct Links {
    default: Link,
    /// The latency of the default link, if there is no more to it.
    plain_ns: Option<u64>,
    /// The link of a host with itself.
    loopback: Link,
    pairs: Pairs,
    rules: Rules,
    /// Between packets: what is left of the last.
    flights: Flights,
    departs_ns: u64,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Dropped(Reason),
    /// Longer than the path allows, and not to be fragmented.
    TooBig {
        mtu: u32,
    },
    /// Arrives; more than once if it was duplicated.
    Deliver(Arrivals),
}

/// Why a packet does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Chance, as the link has it.
    Loss,
    /// The queue before the link was full.
    QueueFull,
    /// A rule that drops.
    Rule,
    /// A rule that parts hosts.
    Partition,
    /// Longer than the MTU.
    TooBig,
    /// The host that it goes to is down.
    HostDown,
}

impl Reason {
    /// Whether it came as far as its destination.
    pub(crate) fn is_of_receiver(self) -> bool {
        matches!(self, Self::HostDown)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loss => "lost",
            Self::QueueFull => "the queue is full",
            Self::Rule => "a rule",
            Self::Partition => "a partition",
            Self::TooBig => "longer than the MTU",
            Self::HostDown => "the host is down",
        })
    }
}

/// The arrivals of one packet: nearly always one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrivals {
    pub(crate) first: Arrival,
    pub(crate) more: Vec<Arrival>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) at_ns: u64,
    /// The bit of the payload that arrives wrong.
    pub(crate) corrupted: Option<usize>,
}

impl Links {
    /// Decides what becomes of a packet that leaves `from` for `to` now. Time never runs
    /// backwards between calls.
    #[inline]
    pub(crate) fn transmit(
        &mut self,
        rng: &mut Rng,
        now_ns: u64,
        from: HostId,
        to: HostId,
        packet: &Packet,
    ) -> Fate {
        if let Some(latency) = self.plain_ns
            && self.rules.has_no_packets()
            && from != to
            && self.pairs.get_mut(from, to).is_none()
        {
            self.departs_ns = now_ns;
            let first = Arrival { at_ns: now_ns.saturating_add(latency), corrupted: None };
            return Fate::Deliver(Arrivals { first, more: Vec::new() });
        }
        self.transmit_through(rng, now_ns, (from, to), packet)
    }

    fn transmit_through(
        &mut self,
        rng: &mut Rng,
        now_ns: u64,
        (from, to): (HostId, HostId),
        packet: &Packet,
    ) -> Fate {
        let Self { default, loopback, pairs, rules, flights, departs_ns, .. } = self;
        *departs_ns = now_ns;
        flights.under_way.clear();
        flights.under_way.push(Flight::new(now_ns));
        match rules.apply(rng, now_ns, (from, to), packet, flights) {
            Verdict::Passed => {}
            Verdict::Dropped(reason) => return Fate::Dropped(reason),
            Verdict::TooBig(mtu) => return Fate::TooBig { mtu },
        }
        let common = if from == to { &*loopback } else { &*default };
        // What has a link of its own exists.
        let exists = pairs.get_mut(from, to).is_some();
        let pairs::Pair { link, path, queue } = pairs.of(from, to, exists || common.has_memory());
        let link = link.as_deref().unwrap_or(common);
        if let Some(mtu) = link.too_small_for(packet) {
            return Fate::TooBig { mtu };
        }
        let lost = pass(link, (path, queue), packet, flights, rng);
        *departs_ns = flights.under_way.iter().map(|f| f.departs_ns).fold(now_ns, u64::max);
        let mut arrivals = flights.under_way.iter().map(Arrival::of);
        match arrivals.next() {
            Some(first) => Fate::Deliver(Arrivals { first, more: arrivals.collect() }),
            None => Fate::Dropped(lost.unwrap_or(Reason::Loss)),
        }
    }

    /// The least MTU that a packet may meet on its way, if it is longer: what may be cut is cut
    /// before it leaves.
    pub(crate) fn narrowest(
        &mut self,
        now_ns: u64,
        (from, to): (HostId, HostId),
        packet: &Packet,
    ) -> Option<u32> {
        let common = if from == to { &self.loopback } else { &self.default };
        let pair = self.pairs.get_mut(from, to);
        let link = pair.and_then(|pair| pair.link.as_deref()).unwrap_or(common);
        let of_rules = self.rules.narrowest(now_ns, (from, to), packet);
        link.too_small_for(packet).into_iter().chain(of_rules).min()
    }

    /// When the last packet has left the queues that it stands in; in the past if it met none.
    /// Asking is for once: a packet that is not transmitted is not mistaken for the one before.
    #[inline]
    pub(crate) fn take_departure(&mut self) -> u64 {
        std::mem::take(&mut self.departs_ns)
    }

    /// Whether what a host sends to itself takes no time and is not lost: it need not be asked.
    #[inline]
    pub(crate) fn spares_loopback(&mut self, host: HostId) -> bool {
        self.rules.has_no_packets() && self.pairs.get_mut(host, host).is_none()
    }

    /// Sets the link of all pairs of hosts that have none of their own; not that of a
    /// host with itself.
    pub(crate) fn set_default(&mut self, link: Link) {
        self.plain_ns = link.as_plain();
        self.default = link;
    }

    /// Gives one direction between two hosts a link of its own; or, if they are one, what it
    /// sends to itself.
    pub(crate) fn set(&mut self, from: HostId, to: HostId, link: Link) {
        self.pairs.of(from, to, true).link = Some(Box::new(link));
    }

    /// Puts a rule in force; `find` knows the hosts.
    ///
    /// # Errors
    /// It does not know one.
    ///
    /// # Panics
    /// If the rule contradicts itself.
    pub(crate) fn add_rule(
        &mut self,
        rule: Rule,
        find: &dyn Fn(&Host) -> Option<HostId>,
    ) -> Result<Guard, HostError> {
        self.rules.add(rule, find)
    }

    /// Whether a call of a socket is to fail, and how.
    #[inline]
    pub(crate) fn refuses(
        &mut self,
        rng: &mut Rng,
        now_ns: u64,
        attempt: &Attempt,
    ) -> Option<Refusal> {
        self.rules.refuses(rng, now_ns, attempt)
    }

    /// Whether no rule is about calls.
    #[inline]
    pub(crate) fn refuses_nothing(&self) -> bool {
        self.rules.has_no_calls()
    }

    /// Whether a rule is about this call: it may fail now.
    pub(crate) fn would_refuse(&self, now_ns: u64, attempt: &Attempt) -> bool {
        self.rules.would_refuse(now_ns, attempt)
    }

    /// The rules in force, as text for people.
    pub(crate) fn write_rules(&self, now_ns: u64, text: &mut dyn fmt::Write) -> fmt::Result {
        self.rules.write(now_ns, text)
    }

    /// What the condition of a rule has panicked with since the last call.
    #[inline]
    pub(crate) fn take_panic(&mut self) -> Option<Panic> {
        self.rules.take_panic()
    }

    /// How many rules were lifted so far: when it grows, a socket that was refused may try again.
    #[inline]
    pub(crate) fn lifts(&self) -> u64 {
        self.rules.lifts()
    }
}

impl Default for Links {
    fn default() -> Self {
        let default = Link::new().latency(LATENCY);
        Self {
            plain_ns: default.as_plain(),
            default,
            loopback: Link::new(),
            pairs: Pairs::default(),
            rules: Rules::default(),
            flights: Flights::default(),
            departs_ns: 0,
        }
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("default", &self.default).finish_non_exhaustive()
    }
}

impl Arrival {
    fn of(flight: &Flight) -> Self {
        Self { at_ns: flight.at_ns, corrupted: flight.corrupted }
    }
}

/// Nanoseconds of a duration; centuries are cut.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
