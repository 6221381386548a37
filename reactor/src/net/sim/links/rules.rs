//! The rules in force, as asked for every packet and every call.

use std::any::Any;
use std::cell::Cell;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::{fmt, io};

use fastrand::Rng;

use super::loss::Chance;
use super::matching::{Host, HostSet, Hosts, PacketView, Traffic};
use super::pairs::Pairs;
use super::queue::Queue;
use super::rule::{Call, Condition, Effect, Guard, Rule, Schedule, Shared};
use super::stage::{Flights, pass};
use super::{Link, Reason};
use crate::net::sim::error::HostError;
use crate::net::sim::host::HostId;
use crate::net::sim::packet::Packet;

/// All rules of a world, in the order in which they were added.
#[derive(Default)]
pub(super) struct Rules {
    packets: Vec<Active<PacketEffect>>,
    calls: Vec<Active<(Vec<Call>, i32)>>,
    lifts: Rc<Cell<u64>>,
    /// How many lifts were looked after.
    swept: u64,
    /// When the schedule of one ends next.
    over_ns: u64,
    /// What a condition has panicked with: kept until nothing of the world is in use.
    panic: Option<Panic>,
}

/// What a panic carries.
pub(crate) type Panic = Box<dyn Any + Send>;

/// A rule in force.
struct Active<E> {
    effect: E,
    from: Option<HostSet>,
    to: Option<HostSet>,
    both_ways: bool,
    traffic: Traffic,
    condition: Option<Condition>,
    chance: Chance,
    left: Option<u64>,
    schedule: Schedule,
    shared: Rc<Shared>,
}

enum PacketEffect {
    Drop,
    Partition,
    /// The queue is everybody's; the rest is for each pair.
    Through(Box<(Link, Queue, Pairs)>),
}

/// A call that a socket is about to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) host: HostId,
    pub(crate) call: Call,
    /// The protocol number of UDP or TCP.
    pub(crate) protocol: u8,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) peer: Option<SocketAddr>,
}

impl Rules {
    /// Puts a rule in force.
    ///
    /// # Errors
    /// It names a host that `find` does not know.
    ///
    /// # Panics
    /// If it contradicts itself.
    pub(super) fn add(
        &mut self,
        rule: Rule,
        find: &dyn Fn(&Host) -> Option<HostId>,
    ) -> Result<Guard, HostError> {
        self.over_ns = self.over_ns.min(rule.schedule.over_ns());
        let shared = Rc::new(Shared { lifts: Rc::clone(&self.lifts), ..Shared::default() });
        let guard = Guard::new(&shared);
        let Rule { effect, from, to, both_ways, traffic, condition, chance, times, schedule } =
            rule;
        let set = |hosts: Option<Hosts>| -> Result<_, HostError> {
            hosts.map(|hosts| Ok(HostSet::of(&hosts.resolve(find)?))).transpose()
        };
        let (from, to) = (set(from)?, set(to)?);
        let rest = Active {
            effect: (),
            from,
            to,
            both_ways,
            traffic,
            condition,
            chance,
            left: times,
            schedule,
            shared,
        };
        match effect {
            Effect::Drop => self.packets.push(rest.with(PacketEffect::Drop)),
            Effect::Partition => self.packets.push(rest.with(PacketEffect::Partition)),
            Effect::Through(link) => {
                let stage = Box::new((*link, Queue::default(), Pairs::default()));
                self.packets.push(rest.with(PacketEffect::Through(stage)));
            }
            Effect::Fail(calls, errno) => {
                assert!(
                    rest.to.is_none() && rest.condition.is_none() && !rest.both_ways,
                    "a rule about calls has no `to`, `when` or `both_ways`: those are for packets"
                );
                assert!(
                    rest.traffic
                        .protocol
                        .is_none_or(|number| calls.iter().any(|c| c.is_of(number))),
                    "no socket of that protocol makes the call {calls:?}: the rule would never apply"
                );
                self.calls.push(rest.with((calls, errno)));
            }
        }
        Ok(guard)
    }

    #[inline]
    pub(super) fn has_no_packets(&self) -> bool {
        self.packets.is_empty()
    }

    #[inline]
    pub(super) fn has_no_calls(&self) -> bool {
        self.calls.is_empty()
    }

    /// The rules in force, one by line.
    pub(super) fn write(&self, now_ns: u64, text: &mut dyn fmt::Write) -> fmt::Result {
        for rule in &self.packets {
            let effect = match rule.effect {
                PacketEffect::Drop => "drop",
                PacketEffect::Partition => "partition",
                PacketEffect::Through(_) => "another link",
            };
            rule.write(now_ns, effect, text)?;
        }
        for rule in &self.calls {
            let (calls, errno) = &rule.effect;
            let error = io::Error::from_raw_os_error(*errno);
            rule.write(now_ns, &format!("{calls:?} fails: {error}"), text)?;
        }
        Ok(())
    }

    /// What a condition has panicked with since the last call.
    #[inline]
    pub(super) fn take_panic(&mut self) -> Option<Panic> {
        self.panic.take()
    }

    /// How many rules were lifted so far: when it grows, a socket that was refused may try again.
    pub(super) fn lifts(&self) -> u64 {
        self.lifts.get()
    }

    /// Applies the rules to a packet that leaves `from` for `to`.
    pub(super) fn apply(
        &mut self,
        rng: &mut Rng,
        now_ns: u64,
        (from, to): (HostId, HostId),
        packet: &Packet,
        flights: &mut Flights,
    ) -> Verdict {
        self.sweep(now_ns);
        let Self { packets, panic, .. } = self;
        for rule in packets {
            if !rule.has_packet(now_ns, from, to, packet, panic) || !rule.takes(rng) {
                continue;
            }
            match &mut rule.effect {
                PacketEffect::Drop => return Verdict::Dropped(Reason::Rule),
                PacketEffect::Partition => return Verdict::Dropped(Reason::Partition),
                PacketEffect::Through(stage) => {
                    let (link, queue, pairs) = &mut **stage;
                    if let Some(mtu) = link.too_small_for(packet) {
                        return Verdict::TooBig(mtu);
                    }
                    let path = &mut pairs.of(from, to, link.path_has_memory()).path;
                    let lost = pass(link, (path, queue), packet, flights, rng);
                    if let Some(reason) = lost.filter(|_| flights.under_way.is_empty()) {
                        return Verdict::Dropped(reason);
                    }
                }
            }
        }
        Verdict::Passed
    }

    /// The least MTU that the packet may meet, if it is longer.
    pub(super) fn narrowest(
        &self,
        now_ns: u64,
        (from, to): (HostId, HostId),
        packet: &Packet,
    ) -> Option<u32> {
        let too_small = |rule: &Active<PacketEffect>| match &rule.effect {
            PacketEffect::Through(stage) => stage.0.too_small_for(packet),
            PacketEffect::Drop | PacketEffect::Partition => None,
        };
        let concern = |rule: &&Active<PacketEffect>| {
            rule.lasts(now_ns) && rule.concerns(now_ns, from, to, packet)
        };
        self.packets.iter().filter(concern).filter_map(too_small).min()
    }

    /// The errno with which a call is to fail, if it is; and when to try again, if that is known.
    pub(super) fn refuses(
        &mut self,
        rng: &mut Rng,
        now_ns: u64,
        attempt: &Attempt,
    ) -> Option<Refusal> {
        if self.calls.is_empty() {
            return None;
        }
        self.sweep(now_ns);
        let rule = self.calls.iter_mut().find_map(|rule| {
            let applies = rule.has_call(now_ns, attempt) && rule.takes(rng);
            // A call that a signal interrupts is made again below the seam.
            (applies && rule.effect.1 != libc::EINTR).then_some(rule)
        })?;
        Some(Refusal {
            errno: rule.effect.1,
            until_ns: rule.schedule.ends(now_ns),
            is_lasting: rule.left.is_none() && rule.chance == Chance::Always,
        })
    }

    /// Whether a rule is about this call.
    pub(super) fn would_refuse(&self, now_ns: u64, attempt: &Attempt) -> bool {
        self.calls.iter().any(|rule| rule.has_call(now_ns, attempt))
    }

    /// Takes out the rules that were lifted, or whose schedule is over.
    #[inline]
    fn sweep(&mut self, now_ns: u64) {
        if self.swept == self.lifts.get() && now_ns < self.over_ns {
            return;
        }
        self.swept = self.lifts.get();
        self.packets.retain(|rule| rule.lasts(now_ns));
        self.calls.retain(|rule| rule.lasts(now_ns));
        let packets = self.packets.iter().map(|rule| rule.schedule.over_ns());
        let calls = self.calls.iter().map(|rule| rule.schedule.over_ns());
        self.over_ns = packets.chain(calls).min().unwrap_or(u64::MAX);
    }
}

/// What the rules make of a packet.
pub(super) enum Verdict {
    /// What is left of it is under way.
    Passed,
    Dropped(Reason),
    TooBig(u32),
}

/// A call that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) errno: i32,
    /// When its schedule ends the rule, if it does.
    pub(crate) until_ns: Option<u64>,
    /// Every call fails until then. Otherwise it takes another call to find out.
    pub(crate) is_lasting: bool,
}

impl Active<()> {
    fn with<E>(self, effect: E) -> Active<E> {
        let Self {
            effect: (),
            from,
            to,
            both_ways,
            traffic,
            condition,
            chance,
            left,
            schedule,
            shared,
        } = self;
        Active { effect, from, to, both_ways, traffic, condition, chance, left, schedule, shared }
    }
}

impl<E> Active<E> {
    fn lasts(&self, now_ns: u64) -> bool {
        !self.shared.lifted.get() && now_ns < self.schedule.over_ns()
    }

    fn has_packet(
        &mut self,
        now_ns: u64,
        from: HostId,
        to: HostId,
        packet: &Packet,
        panic: &mut Option<Panic>,
    ) -> bool {
        self.concerns(now_ns, from, to, packet)
            && self.condition.as_mut().is_none_or(|condition| holds(condition, packet, panic))
    }

    /// Whether it is about such packets now, as far as it can be told without its condition.
    fn concerns(&self, now_ns: u64, from: HostId, to: HostId, packet: &Packet) -> bool {
        let side = |set: &Option<HostSet>, id| set.as_ref().is_none_or(|set| set.contains(id));
        self.schedule.applies(now_ns)
            && self.left != Some(0)
            && (side(&self.from, from) && side(&self.to, to)
                || self.both_ways && side(&self.from, to) && side(&self.to, from))
            && (from != to || self.from.is_some() && self.to.is_some())
            && self.traffic.has_packet(packet)
    }

    fn write(&self, now_ns: u64, effect: &str, text: &mut dyn fmt::Write) -> fmt::Result {
        let state = match () {
            () if self.shared.lifted.get() => "lifted",
            () if self.left == Some(0) => "used up",
            () if self.schedule.applies(now_ns) => "applies",
            () => "waits",
        };
        writeln!(text, "rule: {effect}; {state}, {} hits", self.shared.hits.get())
    }

    /// Throws the dice for what matches otherwise, and counts.
    fn takes(&mut self, rng: &mut Rng) -> bool {
        let takes = self.chance.happens(rng);
        if takes {
            self.left = self.left.map(|left| left - 1);
            self.shared.hits.set(self.shared.hits.get() + 1);
        }
        takes
    }
}

/// Asks a condition. One that panics does not hold: whoever sends has lists in hand that an unwinding
/// would lose, so the panic goes on where none are.
fn holds(condition: &mut Condition, packet: &Packet, panic: &mut Option<Panic>) -> bool {
    let asked = catch_unwind(AssertUnwindSafe(|| condition(&PacketView(packet))));
    asked.unwrap_or_else(|first| {
        panic.get_or_insert(first);
        false
    })
}

impl Active<(Vec<Call>, i32)> {
    fn has_call(&self, now_ns: u64, attempt: &Attempt) -> bool {
        self.effect.0.contains(&attempt.call)
            && !self.shared.lifted.get()
            && self.schedule.applies(now_ns)
            && self.left != Some(0)
            && self.from.as_ref().is_none_or(|hosts| hosts.contains(attempt.host))
            && self.traffic.has(attempt.protocol, attempt.local, attempt.peer)
    }
}
