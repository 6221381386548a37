//! Faults with a beginning and an end, in the words of the user: [`Rule`] and its [`Guard`].

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::latency::Latency;
use super::link::Link;
use super::loss::Chance;
use super::matching::{Hosts, PacketView, Traffic};
use super::nanos;

/// A system call of a socket, for [`Rule::fail`].
///
/// ```
/// use strand_reactor::sim::{Call, Rule};
///
/// // The network of one host is down, as far as datagrams are concerned.
/// const ENETDOWN: i32 = 100;
/// let rule = Rule::fail(Call::Send, ENETDOWN).from("alice");
/// assert!(format!("{rule:?}").contains("Send"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// `socket(2)`, of any kind.
    Open,
    /// `bind(2)`, of any kind.
    Bind,
    /// `listen(2)`.
    Listen,
    /// `connect(2)`, of any kind, also to an address of nobody (`disconnect`). Of TCP it is the
    /// result of the attempt that fails.
    Connect,
    /// `accept(2)`.
    Accept,
    /// `sendmsg(2)` of a datagram; it is not sent.
    Send,
    /// `recvmsg(2)` of a datagram; what waits to be received goes on waiting.
    Receive,
    /// `read(2)` of a stream; what waits to be read goes on waiting.
    Read,
    /// `write(2)` of a stream; nothing is written.
    Write,
    /// `shutdown(2)` of a stream.
    Shutdown,
    /// `setsockopt(2)`: options before and after the socket was opened, and memberships of groups.
    SetOption,
    /// `getsockopt(2)`, that of the pending error (`SO_ERROR`) apart.
    GetOption,
    /// `getsockname(2)` and `getpeername(2)`.
    Name,
    /// `recvmsg(2)` of the error queue of a port; what is queued stays there.
    ReceiveError,
}

impl Call {
    /// Whether sockets of this protocol make it.
    pub(super) fn is_of(self, protocol: u8) -> bool {
        match self {
            Self::Listen | Self::Accept | Self::Read | Self::Write | Self::Shutdown => {
                protocol == Traffic::TCP
            }
            Self::Send | Self::Receive | Self::ReceiveError => protocol == Traffic::UDP,
            Self::Open
            | Self::Bind
            | Self::Connect
            | Self::SetOption
            | Self::GetOption
            | Self::Name => protocol != Traffic::ICMP,
        }
    }
}

/// The condition of a rule. It is `Send` so that it can hold neither the world nor anything of a
/// reactor, which are in use while it is asked.
pub(super) type Condition = Box<dyn FnMut(&PacketView<'_>) -> bool + Send>;

/// What goes wrong, where, and when: a fault to add to a world.
///
/// What is not said does not matter: a rule without hosts is about all of them. Packets that a
/// host sends to itself are left alone unless [`from`](Self::from) and [`to`](Self::to) both name
/// it. All rules that match a packet apply to it, in the order in which they were added, and then
/// the link between the hosts does.
///
/// ```
/// use std::time::Duration;
/// use strand_reactor::sim::{Link, Rule};
///
/// let second = Duration::from_secs(1);
/// // The first two acknowledgements are lost.
/// let unlucky = Rule::drop().to("alice").udp().when(|p| p.payload().starts_with(b"ACK")).times(2);
/// // Every minute the path is bad for ten seconds.
/// let weather = Rule::through(Link::new().loss(0.3)).every(60 * second, 10 * second);
/// // The two halves of a world cannot reach each other until second 90.
/// let split = Rule::partition(["a", "b"], ["c", "d"]).between(30 * second, 90 * second);
/// # for rule in [unlucky, weather, split] { assert!(format!("{rule:?}").starts_with("Rule")); }
/// ```
#[must_use = "a rule does nothing until it is added to a world"]
pub struct Rule {
    pub(super) effect: Effect,
    pub(super) from: Option<Hosts>,
    pub(super) to: Option<Hosts>,
    pub(super) both_ways: bool,
    pub(super) traffic: Traffic,
    pub(super) condition: Option<Condition>,
    pub(super) chance: Chance,
    pub(super) times: Option<u64>,
    pub(super) schedule: Schedule,
}

/// What a rule does.
#[derive(Debug)]
pub(super) enum Effect {
    Drop,
    Partition,
    Through(Box<Link>),
    /// These calls fail with this errno.
    Fail(Vec<Call>, i32),
}

impl Rule {
    fn new(effect: Effect) -> Self {
        Self {
            effect,
            from: None,
            to: None,
            both_ways: false,
            traffic: Traffic::default(),
            condition: None,
            chance: Chance::Always,
            times: None,
            schedule: Schedule::ALWAYS,
        }
    }

    /// Packets vanish.
    pub fn drop() -> Self {
        Self::new(Effect::Drop)
    }

    /// Nothing gets from the hosts of one side to those of the other, nor back.
    pub fn partition(one: impl Into<Hosts>, other: impl Into<Hosts>) -> Self {
        Self { both_ways: true, ..Self::partition_one_way(one, other) }
    }

    /// Nothing gets from the hosts `from` to the hosts `to`; the way back is open.
    pub fn partition_one_way(from: impl Into<Hosts>, to: impl Into<Hosts>) -> Self {
        Self::new(Effect::Partition).from(from).to(to)
    }

    /// Packets take longer, by this; in order among themselves if it is random.
    pub fn delay(by: impl Into<Latency>) -> Self {
        Self::through(Link::new().latency(by))
    }

    /// Packets pass this link too, before that between the hosts. Its bandwidth is shared by all
    /// that match: with [`from`](Self::from) alone it is the uplink of a host. Everything else is
    /// for each pair of hosts on its own.
    pub fn through(link: Link) -> Self {
        Self::new(Effect::Through(Box::new(link)))
    }

    /// A system call fails with this errno, as often as it is made. That of sockets opened before
    /// fails as well.
    ///
    /// What the reactor tries again by itself it tries again a millisecond later, or when the rule
    /// ends. `EINTR` counts as a hit and is not seen: the call is made again, as it is below every
    /// reactor.
    ///
    /// # Panics
    ///
    /// If `errno` is not above 0.
    pub fn fail(call: Call, errno: i32) -> Self {
        assert!(errno > 0, "an errno of {errno}: errno(3) has those there are, from 1 on");
        Self::new(Effect::Fail(vec![call], errno))
    }

    /// Send buffers are full: nothing can be sent (`EAGAIN`), neither datagrams nor on streams.
    /// When the rule ends the sockets are told that there is room.
    pub fn full_send_buffers() -> Self {
        Self::new(Effect::Fail(vec![Call::Send, Call::Write], libc::EAGAIN))
    }

    /// No descriptors are left: sockets can be neither opened nor accepted (`EMFILE`).
    pub fn no_descriptors() -> Self {
        Self::new(Effect::Fail(vec![Call::Open, Call::Accept], libc::EMFILE))
    }

    /// Only packets that these hosts send; only calls that they make.
    pub fn from(mut self, hosts: impl Into<Hosts>) -> Self {
        self.from = Some(hosts.into());
        self
    }

    /// Only packets to these hosts. A call has no such host.
    pub fn to(mut self, hosts: impl Into<Hosts>) -> Self {
        self.to = Some(hosts.into());
        self
    }

    /// Also packets the other way: those that match with "from" and "to" exchanged.
    pub fn both_ways(mut self) -> Self {
        self.both_ways = true;
        self
    }

    /// Only packets from or to this port; only calls on sockets with this port at either end.
    pub fn port(mut self, port: u16) -> Self {
        self.traffic.port = Some(port);
        self
    }

    /// Only UDP.
    pub fn udp(mut self) -> Self {
        self.traffic.protocol = Some(Traffic::UDP);
        self
    }

    /// Only TCP.
    pub fn tcp(mut self) -> Self {
        self.traffic.protocol = Some(Traffic::TCP);
        self
    }

    /// Only the reports of ICMP and ICMPv6.
    pub fn icmp(mut self) -> Self {
        self.traffic.protocol = Some(Traffic::ICMP);
        self
    }

    /// Only packets for which this holds, asked after everything else but the probability. A call
    /// is no packet. It must decide by the packet and by what it has seen before alone, or runs
    /// cannot be repeated.
    ///
    /// A packet for which it panics does not match. Once the turn in which that happened is over, the
    /// panic leaves [`World::run_for`](super::super::World::run_for) or its like, whatever
    /// `catch_panics` says; the world and the rule are as good as before.
    pub fn when(mut self, condition: impl FnMut(&PacketView<'_>) -> bool + Send + 'static) -> Self {
        self.condition = Some(Box::new(condition));
        self
    }

    /// Applies with this probability, to each packet or call on its own.
    ///
    /// # Panics
    ///
    /// If it is not within 0 to 1.
    pub fn probability(mut self, probability: f64) -> Self {
        self.chance = Chance::of(probability, "rule");
        self
    }

    /// Applies so many times, and never again.
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Applies from one instant (included) to another (excluded), counted from the beginning of
    /// the world.
    ///
    /// # Panics
    ///
    /// If the end is not after the beginning.
    pub fn between(mut self, from: Duration, until: Duration) -> Self {
        assert!(from < until, "a rule between {from:?} and {until:?}: it would never apply");
        (self.schedule.from_ns, self.schedule.until_ns) = (nanos(from), nanos(until));
        self
    }

    /// Applies for a time at the beginning of every period. Periods are counted from the beginning
    /// of the world, or of [`between`](Self::between).
    ///
    /// # Panics
    ///
    /// If it would apply always or never: for 0, or for the whole period or more.
    pub fn every(mut self, period: Duration, lasting: Duration) -> Self {
        assert!(
            Duration::ZERO < lasting && lasting < period,
            "a rule for {lasting:?} of every {period:?}: it would apply always or never"
        );
        self.schedule.period = Some((nanos(period), nanos(lasting)));
        self
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule")
            .field("effect", &self.effect)
            .field("from", &self.from)
            .field("to", &self.to)
            .field("traffic", &self.traffic)
            .field("schedule", &self.schedule)
            .finish_non_exhaustive()
    }
}

/// When a rule applies, in virtual time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    from_ns: u64,
    until_ns: u64,
    /// A period, and for how long of it.
    period: Option<(u64, u64)>,
}

impl Schedule {
    const ALWAYS: Self = Self { from_ns: 0, until_ns: u64::MAX, period: None };

    #[inline]
    pub(super) fn applies(&self, now_ns: u64) -> bool {
        self.from_ns <= now_ns
            && now_ns < self.until_ns
            && self
                .period
                .is_none_or(|(period, lasting)| (now_ns - self.from_ns) % period < lasting)
    }

    /// When it applies for the last time; `u64::MAX` if never.
    pub(super) fn over_ns(&self) -> u64 {
        self.until_ns
    }

    /// When it next stops to apply, if it does apply now.
    pub(super) fn ends(&self, now_ns: u64) -> Option<u64> {
        let end = match self.period {
            None => self.until_ns,
            Some((period, lasting)) => {
                let begun = now_ns - (now_ns - self.from_ns) % period;
                self.until_ns.min(begun.saturating_add(lasting))
            }
        };
        (self.applies(now_ns) && end != u64::MAX).then_some(end)
    }
}

/// What a rule and its guard share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) kept: Cell<bool>,
    pub(super) lifted: Cell<bool>,
    pub(super) hits: Cell<u64>,
    /// How many rules of the world were lifted: it looks here when there may be news.
    pub(super) lifts: Rc<Cell<u64>>,
}

/// Keeps a rule in force: dropping it lifts the rule.
///
/// What is under way already is not affected, neither by the beginning nor by the end of a rule.
///
/// ```
/// use strand_reactor::sim::{Rule, World};
///
/// let world = World::new(1);
/// world.host("alice", "10.0.0.1")?;
/// let storm = world.rule(Rule::drop().from("alice").probability(0.5))?;
/// assert_eq!(storm.hits(), 0);
/// storm.lift();
/// # Ok::<(), anyhow::Error>(())
/// ```
#[must_use = "a rule is lifted when its guard is dropped; `keep` leaves it in force"]
#[derive(Debug)]
pub struct Guard(Rc<Shared>);

impl Guard {
    pub(super) fn new(shared: &Rc<Shared>) -> Self {
        Self(Rc::clone(shared))
    }

    /// Leaves the rule in force for as long as the world, or its schedule, lasts.
    pub fn keep(self) {
        self.0.kept.set(true);
    }

    /// Lifts the rule; so does dropping the guard.
    pub fn lift(self) {}

    /// To how many packets or calls the rule has applied.
    pub fn hits(&self) -> u64 {
        self.0.hits.get()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.0.kept.get() {
            self.0.lifted.set(true);
            self.0.lifts.set(self.0.lifts.get() + 1);
        }
    }
}
