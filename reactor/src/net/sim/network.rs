//! What the hosts of a world share: the clock, what is under way, and the way of a packet.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hint::black_box;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;
use slab::Slab;

use super::faulty::Waiting;
use super::host::{HostId, HostState, LOOPBACK, Signal};
use super::kit::Tapes;
use super::links::{Arrival, Fate, Links, Reason};
use super::packet::{Body, Packet, Segment, TCP};
use super::queue::EventQueue;
use super::table::AddressTable;
use super::trace::{Trace, TraceEvent};
use super::{tcp, udp};

/// The network, as sockets and drivers hold it. It is borrowed for the length of one call of
/// theirs, never while anything of a reactor runs.
pub(crate) type SharedNet = Rc<RefCell<Net>>;

/// Something that happens at a moment of virtual time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Happening {
    /// A packet arrives at a host.
    Arrival { to: HostId, flight: u32 },
    /// A host has a timer due.
    Turn(HostId),
    /// A timer of the TCP of a host; under `what` lies what was given when it was set.
    Tcp { host: HostId, what: u32 },
    /// Sockets that a rule has refused are to try again.
    Refused,
    /// A socket has room to send; under `waiter` lies which.
    Room { host: HostId, waiter: u32 },
}

/// A packet between two hosts, in as few lines of the cache as its size allows.
#[repr(align(64))]
pub(crate) struct Flight {
    pub(crate) from: HostId,
    /// Index of the interface by which it comes in.
    pub(crate) interface: u32,
    pub(crate) packet: Packet,
}

pub(crate) struct Net {
    base: Instant,
    /// Nanoseconds since the world was made.
    pub(crate) now: u64,
    pub(crate) queue: EventQueue<Happening>,
    pub(crate) flights: Slab<Flight>,
    timers: Slab<u64>,
    /// Sockets that wait for room in their send buffers.
    rooms: Slab<Weak<Signal>>,
    pub(crate) hosts: Vec<HostState>,
    pub(super) addresses: AddressTable,
    pub(super) groups: udp::Groups,
    /// Memory for the queues of sockets.
    pub(super) spare_queues: Vec<VecDeque<udp::Received>>,
    pub(crate) links: Links,
    pub(crate) rng: Rng,
    pub(crate) trace: Trace,
    pub(super) waiting: Waiting,
    pub(super) tapes: Tapes,
    /// Hosts that are to take a turn now, in the order of becoming ready.
    pub(crate) ready: VecDeque<HostId>,
}

/// The date on which every world begins: the first of January 2000, in seconds of Unix time.
pub(super) const EPOCH_SECONDS: u64 = 946_684_800;
/// The MTU of interfaces; links may be narrower.
pub(crate) const MTU: u32 = 1_500;
pub(crate) const LOOPBACK_MTU: u32 = 65_536;

/// The date and time at a moment of virtual time.
pub(crate) fn system_time(now: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH_SECONDS) + Duration::from_nanos(now)
}

impl Net {
    #[allow(clippy::disallowed_methods, reason = "an `Instant` has no other origin; none is shown")]
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            base: Instant::now(),
            now: 0,
            queue: EventQueue::new(),
            flights: Slab::new(),
            timers: Slab::new(),
            rooms: Slab::new(),
            hosts: Vec::new(),
            addresses: AddressTable::default(),
            groups: udp::Groups::default(),
            spare_queues: Vec::new(),
            links: Links::default(),
            rng: Rng::with_seed(seed),
            trace: Trace::default(),
            waiting: Waiting::default(),
            tapes: Tapes::default(),
            ready: VecDeque::new(),
        }
    }

    pub(crate) fn instant(&self) -> Instant {
        self.base + Duration::from_nanos(self.now)
    }

    #[inline]
    pub(crate) fn host(&self, id: HostId) -> &HostState {
        &self.hosts[id.0 as usize]
    }

    #[inline]
    pub(crate) fn host_mut(&mut self, id: HostId) -> &mut HostState {
        &mut self.hosts[id.0 as usize]
    }

    /// The host that packets of `from` to `ip` go to.
    #[inline]
    pub(crate) fn route(&self, from: HostId, ip: IpAddr) -> Option<HostId> {
        if ip.is_loopback() { Some(from) } else { self.addresses.get(ip) }
    }

    /// Has the host take a turn at this instant.
    #[inline]
    pub(crate) fn make_ready(&mut self, id: HostId) {
        let host = &mut self.hosts[id.0 as usize];
        if !host.on_ready {
            host.on_ready = true;
            self.ready.push_back(id);
        }
    }

    /// Raises an event of a socket of this host.
    #[inline]
    pub(crate) fn raise(&mut self, id: HostId, signal: &Rc<Signal>, readiness: u8) {
        if self.host_mut(id).note(signal, readiness) {
            self.make_ready(id);
        }
    }

    /// Has the host take a turn at `at`, or before.
    pub(crate) fn wake_at(&mut self, id: HostId, at: u64) {
        let at = at.max(self.now);
        let host = &mut self.hosts[id.0 as usize];
        if at < host.wake_at {
            host.wake_at = at;
            self.queue.push(at, Happening::Turn(id));
        }
    }

    /// Has [`tcp::timer`] called at `at`, for this host and with `what`.
    pub(crate) fn set_timer(&mut self, host: HostId, at: u64, what: u64) {
        let what = self.timers.insert(what) as u32;
        self.queue.push(at.max(self.now), Happening::Tcp { host, what });
    }

    /// Tells the socket at `at` that there is room to send.
    pub(crate) fn tell_room(&mut self, host: HostId, at: u64, signal: &Rc<Signal>) {
        let waiter = self.rooms.insert(Rc::downgrade(signal)) as u32;
        self.queue.push(at.max(self.now), Happening::Room { host, waiter });
    }

    /// Sends a packet to the host that has its destination. Tells the MTU if it is too big for the
    /// link: nothing was sent then.
    pub(crate) fn transmit(&mut self, from: HostId, to: HostId, packet: Packet) -> Option<u32> {
        let interface =
            if from == to { LOOPBACK } else { self.host(to).interface_of(packet.destination.ip()) };
        self.transmit_by(from, to, interface, packet)
    }

    /// Whether a segment has arrived already: within a host, where no link or rule is in its way.
    pub(crate) fn passes_at_once(&mut self, from: HostId, to: HostId, packet: &Packet) -> bool {
        let at_once = from == to && self.links.spares_loopback(from) && self.host(to).up;
        if at_once {
            self.record(from, to, packet, TraceEvent::Sent);
            self.record(from, to, packet, TraceEvent::Received);
        }
        at_once
    }

    /// As [`transmit`](Self::transmit), to come in by this interface. Within a host it arrives at
    /// once, as over the loopback of a system.
    pub(crate) fn transmit_by(
        &mut self,
        from: HostId,
        to: HostId,
        interface: u32,
        packet: Packet,
    ) -> Option<u32> {
        let (mtu, packet) = self.offer(from, to, interface, packet)?;
        self.record(from, to, &packet, TraceEvent::Dropped(Reason::TooBig));
        Some(mtu)
    }

    /// As [`transmit_by`](Self::transmit_by); gives back what is too big, which is not yet lost.
    #[allow(clippy::result_large_err, reason = "moved once, and only if the packet is too big")]
    pub(crate) fn offer(
        &mut self,
        from: HostId,
        to: HostId,
        interface: u32,
        packet: Packet,
    ) -> Option<(u32, Packet)> {
        if from == to && self.links.spares_loopback(from) {
            self.record(from, to, &packet, TraceEvent::Sent);
            self.deliver(Flight { from, interface, packet }, to);
            return None;
        }
        match self.links.transmit(&mut self.rng, self.now, from, to, &packet) {
            Fate::Dropped(reason) => {
                self.record(from, to, &packet, TraceEvent::Dropped(reason));
            }
            Fate::TooBig { mtu } => return Some((mtu, packet)),
            Fate::Deliver(arrivals) => {
                self.record(from, to, &packet, TraceEvent::Sent);
                for arrival in arrivals.more {
                    let packet = corrupted(packet.clone(), arrival.corrupted);
                    self.launch(from, to, interface, packet, arrival.at_ns);
                }
                let packet = corrupted(packet, arrivals.first.corrupted);
                self.launch(from, to, interface, packet, arrivals.first.at_ns);
            }
        }
        None
    }

    /// Asks the link when and how a packet would arrive, and sends nothing.
    pub(crate) fn pass(
        &mut self,
        from: HostId,
        to: HostId,
        packet: &Packet,
    ) -> Result<Arrival, Reason> {
        match self.links.transmit(&mut self.rng, self.now, from, to, packet) {
            Fate::Deliver(arrivals) => Ok(arrivals.first),
            Fate::Dropped(reason) => Err(reason),
            Fate::TooBig { .. } => Err(Reason::TooBig),
        }
    }

    #[inline]
    pub(crate) fn record(&mut self, from: HostId, to: HostId, packet: &Packet, event: TraceEvent) {
        self.trace.record(self.now, &self.hosts, (from, to), packet, event);
    }

    /// Has a packet arrive at `at`.
    pub(crate) fn launch(
        &mut self,
        from: HostId,
        to: HostId,
        interface: u32,
        packet: Packet,
        at: u64,
    ) {
        let flight = self.flights.insert(Flight { from, interface, packet }) as u32;
        self.queue.push(at.max(self.now), Happening::Arrival { to, flight });
    }

    /// The longest packet, headers and all, that is known to reach `ip`.
    pub(crate) fn path_mtu(&self, from: HostId, ip: IpAddr) -> u32 {
        if self.host(from).has(ip) {
            return LOOPBACK_MTU;
        }
        self.host(from).mtu(self.now, ip).unwrap_or(MTU)
    }

    pub(crate) fn learn_mtu(&mut self, host: HostId, ip: IpAddr, mtu: u32) {
        let now = self.now;
        self.host_mut(host).learn_mtu(now, ip, mtu);
    }

    /// Moves the clock to the next happening, if that is no later than `until`, and has
    /// everything of that instant happen.
    pub(crate) fn advance(&mut self, until: u64) -> bool {
        match self.queue.next_at() {
            Some(at) if at <= until => self.now = self.now.max(at),
            _ => return false,
        }
        while let Some(entry) = self.queue.pop_until(self.now, |event| fetch(&self.flights, event))
        {
            match entry.event {
                Happening::Arrival { to, flight } => {
                    let flight = self.flights.remove(flight as usize);
                    self.deliver(flight, to);
                }
                Happening::Tcp { host, what } => {
                    let what = self.timers.remove(what as usize);
                    tcp::timer(self, host, what);
                }
                Happening::Refused => self.tell_refused(),
                Happening::Room { host, waiter } => {
                    if let Some(signal) = self.rooms.remove(waiter as usize).upgrade() {
                        self.raise(host, &signal, Signal::WRITABLE);
                    }
                }
                Happening::Turn(id) => {
                    let host = self.host_mut(id);
                    if host.wake_at == entry.at {
                        host.wake_at = u64::MAX;
                        self.make_ready(id);
                    }
                }
            }
        }
        true
    }

    /// Gives memory back that a burst had needed.
    pub(crate) fn shrink(&mut self) {
        if self.flights.is_empty() {
            self.flights.shrink_to_fit();
        }
    }

    /// A packet arrives.
    fn deliver(&mut self, flight: Flight, to: HostId) {
        let Flight { from, interface, packet } = flight;
        if !self.host(to).up {
            return self.record(from, to, &packet, TraceEvent::Dropped(Reason::HostDown));
        }
        self.record(from, to, &packet, TraceEvent::Received);
        match packet.body {
            Body::Udp(_) => udp::deliver(self, to, interface, packet),
            Body::Tcp(_) => tcp::deliver(self, from, to, packet),
            Body::Icmp(report) if report.protocol == TCP => {
                tcp::report(self, to, packet.source.ip(), &report);
            }
            Body::Icmp(report) => udp::report(self, to, packet.source.ip(), &report),
        }
    }
}

/// Reads from all over what an event will need. Of many that come soon the reads wait for memory
/// together; in turns of hosts each would wait alone.
fn fetch(flights: &Slab<Flight>, event: &Happening) {
    if let Happening::Arrival { flight, .. } = event
        && let Some(Flight { interface, packet, .. }) = flights.get(*flight as usize)
    {
        black_box((*interface, packet.source.port(), packet.destination.port(), packet.tos));
        if let Body::Udp(payload) | Body::Tcp(Segment { payload, .. }) = &packet.body {
            black_box((payload.first().copied(), payload.last().copied()));
        }
    }
}

/// Flips one bit of a datagram's payload.
pub(super) fn corrupted(mut packet: Packet, bit: Option<usize>) -> Packet {
    if let (Some(bit), Body::Udp(payload)) = (bit, &mut packet.body)
        && !payload.is_empty()
    {
        let mut bytes = payload.to_vec();
        let len = bytes.len();
        bytes[bit / 8 % len] ^= 1 << (bit % 8);
        *payload = bytes.into();
    }
    packet
}
