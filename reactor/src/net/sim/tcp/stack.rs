//! The connections and listening ports of one host. What it has to send, whom it has to tell and
//! when it wants to be called is collected here; `mod.rs` passes it on to the network.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use super::address::{Place, Tuple, Way};
use super::incoming::TIME_WAIT;
use super::tcb::{Readiness, Setup, State, Tcb};
use super::{LOOPBACK_MTU, ports, seq};
use crate::net::StreamOption;
use crate::net::sim::host::Signal;
use crate::net::sim::packet::{Body, Flags, Packet, Segment};
use crate::slots::{Key, Slots};

/// How far the numbers of a new connection are from those of the one before it (Linux).
const BEYOND: u32 = 65_535 + 2;
/// Half-open connections that a listener keeps whatever its backlog.
const HALF_OPEN: usize = 256;
/// Ended connections remembered (Linux: `tcp_max_tw_buckets`); the oldest go first.
const MOST_REMEMBERED: usize = 16_384;
/// How long a host asks who has an address on its network (Linux: three requests).
pub(super) const NEIGHBOUR_TIMEOUT: u64 = 3_000_000_000;

/// Bytes of an IP header and a TCP header.
pub(super) fn headers(ip: IpAddr) -> u32 {
    if ip.is_ipv4() { 40 } else { 60 }
}

/// Everything of TCP on one host.
pub(super) struct Stack {
    pub(super) connections: Slots<Connection>,
    pub(super) listeners: Slots<Listener>,
    /// Connections that packets can reach.
    pub(super) by_tuple: BTreeMap<Tuple, Key>,
    pub(super) by_port: BTreeMap<u16, Vec<Key>>,
    /// Ended connections whose numbers are still remembered (`TIME-WAIT`).
    pub(super) remembered: BTreeMap<Tuple, Remembered>,
    pub(super) ephemeral: u16,
    /// By time and the number of the timer: those of one instant come in the order of setting.
    timers: BTreeMap<(u64, u64), Key>,
    next_timer_number: u64,
    /// Connections with an acknowledgement for the end of the turn.
    flush: Vec<Key>,
    /// When the network was asked to call; `u64::MAX` for never.
    pub(super) armed: u64,
    pub(super) flush_armed: bool,
    pub(super) out: VecDeque<(Option<Key>, Packet)>,
    pub(super) raised: Vec<(Rc<Signal>, u8)>,
}

/// A connection, and its socket.
pub(super) struct Connection {
    /// Apart, since the slots of a host have room to grow.
    pub(super) tcb: Box<Tcb>,
    pub(super) tuple: Tuple,
    /// Of the socket; none before it is accepted.
    signal: Option<Rc<Signal>>,
    /// The listener that it has yet to be accepted from.
    parent: Option<Key>,
    /// Waits to be accepted.
    queued: bool,
    /// The socket is one of IPv6, the peer is not.
    pub(super) mapped: bool,
    pub(super) nodelay: bool,
    /// `SO_REUSEADDR`, from the listener.
    pub(super) reuse: bool,
    /// `SO_RCVBUF` and `SO_SNDBUF`, as they are read.
    pub(super) recv_buffer: usize,
    pub(super) send_buffer: usize,
    on_flush: bool,
    /// When its entry among the timers is due.
    scheduled: Option<u64>,
    /// When the host gives up looking for its peer.
    pub(super) no_neighbour_at: Option<u64>,
}

pub(super) struct Listener {
    pub(super) place: Place,
    pub(super) port: u16,
    pub(super) backlog: usize,
    pub(super) reuse_address: bool,
    pub(super) reuse_port: bool,
    /// The interface that it is confined to; 0 for none.
    pub(super) device: u32,
    pub(super) options: Vec<StreamOption>,
    pub(super) signal: Rc<Signal>,
    /// Connections that wait to be accepted, and the number of those that are not open yet.
    pub(super) queue: VecDeque<Key>,
    pub(super) half_open: usize,
}

/// What is left of an ended connection.
pub(super) struct Remembered {
    /// The next number to send and the next expected.
    nxt: u32,
    rcv_nxt: u32,
    pub(super) since: u64,
    pub(super) reuse: bool,
}

impl Stack {
    pub(super) fn new() -> Self {
        Self {
            connections: Slots::new(),
            listeners: Slots::new(),
            by_tuple: BTreeMap::new(),
            by_port: BTreeMap::new(),
            remembered: BTreeMap::new(),
            ephemeral: ports::EPHEMERAL.start().wrapping_sub(1),
            timers: BTreeMap::new(),
            next_timer_number: 0,
            flush: Vec::new(),
            armed: u64::MAX,
            flush_armed: false,
            out: VecDeque::new(),
            raised: Vec::new(),
        }
    }

    /// The first number of a connection: of the clock, and of the addresses (RFC 9293, section
    /// 3.4.1), but beyond those of an ended connection that is still remembered.
    fn isn(&mut self, now: u64, tuple: &Tuple) -> u32 {
        match self.remembered.remove(tuple) {
            Some(old) if now < old.since + TIME_WAIT => old.nxt.wrapping_add(BEYOND),
            _ => tuple.hash().wrapping_add((now / 4_000) as u32),
        }
    }

    /// Adds a connection whose first segment has yet to leave.
    fn add(&mut self, tcb: Tcb, tuple: Tuple, options: &[StreamOption], now: u64) -> Key {
        let is_local = tcb.send_room == ports::LOOPBACK_SEND;
        let key = self.connections.insert(Connection {
            tcb: Box::new(tcb),
            tuple,
            signal: None,
            parent: None,
            queued: false,
            mapped: false,
            nodelay: false,
            reuse: false,
            recv_buffer: ports::BUFFER,
            send_buffer: if is_local { ports::LOOPBACK_SEND } else { ports::BUFFER },
            on_flush: false,
            scheduled: None,
            no_neighbour_at: None,
        });
        self.by_tuple.insert(tuple, key);
        if let Some(connection) = self.connections.get_mut(key) {
            for &option in options {
                connection.set_option(now, option);
            }
        }
        key
    }

    /// Begins to connect, for a socket.
    pub(super) fn connect(
        &mut self,
        now: u64,
        tuple: Tuple,
        way: Way,
        options: &[StreamOption],
        signal: Rc<Signal>,
        mapped: bool,
    ) -> Key {
        let setup = self.setup(now, &tuple, way, options);
        let key = self.add(Tcb::connect(now, setup), tuple, options, now);
        if let Some(connection) = self.connections.get_mut(key) {
            connection.signal = Some(signal);
            connection.mapped = mapped;
        }
        self.settle(now, key);
        key
    }

    fn setup(&mut self, now: u64, tuple: &Tuple, way: Way, options: &[StreamOption]) -> Setup {
        let mss = |mtu: u32| mtu.saturating_sub(headers(tuple.remote));
        let mut setup = Setup {
            isn: self.isn(now, tuple),
            mss: mss(way.mtu).clamp(48, 65_495) as u16,
            path_mss: way.path_mtu.map(mss),
            recv_room: ports::BUFFER / 2,
            send_room: match way.mtu {
                LOOPBACK_MTU => ports::LOOPBACK_SEND,
                _ => ports::BUFFER / 2,
            },
        };
        for option in options {
            match option {
                StreamOption::RecvBuffer(bytes) => setup.recv_room = ports::recv_buffer(*bytes) / 2,
                StreamOption::SendBuffer(bytes) => setup.send_room = ports::send_buffer(*bytes) / 2,
                _ => {}
            }
        }
        setup
    }

    /// A segment has come.
    pub(super) fn receive(&mut self, now: u64, packet: &Packet, segment: &Segment, way: Way) {
        let tuple = Tuple::new(packet.destination, packet.source);
        if let Some(&key) = self.by_tuple.get(&tuple) {
            return self.receive_for(now, key, segment);
        }
        if self.recall(now, &tuple, segment) {
            return;
        }
        let is_syn = segment.flags.contains(Flags::SYN)
            && !segment.flags.contains(Flags::ACK)
            && !segment.flags.contains(Flags::RST);
        match self.listener_for(&tuple, way.interface) {
            Some(listener) if is_syn => self.answer(now, listener, tuple, segment, way),
            // Late, of a connection that is gone.
            Some(_) if !segment.flags.contains(Flags::ACK) => {}
            _ => self.refuse(&tuple, segment),
        }
    }

    fn receive_for(&mut self, now: u64, key: Key, segment: &Segment) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let parent = connection.parent.filter(|_| !connection.queued);
        if let Some(parent) = parent
            && !segment.flags.contains(Flags::RST)
            && segment.flags.contains(Flags::ACK)
            && self.listeners.get(parent).is_some_and(Listener::is_full)
        {
            // No room to be accepted from: as if it was lost (`tcp_abort_on_overflow` is off).
            return;
        }
        connection.tcb.on_segment(now, segment);
        if let Some(parent) = parent
            && !matches!(connection.tcb.state(), State::SynReceived | State::Closed)
            && let Some(listener) = self.listeners.get_mut(parent)
        {
            connection.queued = true;
            listener.half_open -= 1;
            listener.queue.push_back(key);
            self.raised.push((Rc::clone(&listener.signal), Signal::READABLE));
        }
        self.settle(now, key);
    }

    /// A segment for an ended connection that is remembered. False: there is none, or the segment
    /// begins a new one.
    fn recall(&mut self, now: u64, tuple: &Tuple, segment: &Segment) -> bool {
        let Some(old) = self.remembered.get(tuple) else { return false };
        if now >= old.since + TIME_WAIT {
            self.remembered.remove(tuple);
            return false;
        }
        let is = |flags| segment.flags.contains(flags);
        if is(Flags::RST) {
            if segment.seq == old.rcv_nxt {
                self.remembered.remove(tuple);
            }
            return true;
        }
        if is(Flags::SYN) && !is(Flags::ACK) && seq::lt(old.rcv_nxt, segment.seq) {
            return false;
        }
        if is(Flags::SYN) || is(Flags::FIN) || !segment.payload.is_empty() {
            let answer = Segment {
                seq: old.nxt,
                ack: old.rcv_nxt,
                flags: Flags::ACK,
                window: 0,
                payload: Rc::new([]),
                mss: None,
            };
            self.out.push_back((None, packet(tuple, answer)));
        }
        true
    }

    /// The listener that hears of a connection: the one that is bound most closely, and of several
    /// that share a port (`SO_REUSEPORT`) one by the addresses.
    fn listener_for(&self, tuple: &Tuple, interface: u32) -> Option<Key> {
        let keys = self.by_port.get(&tuple.local_port)?;
        let covering = |key: &Key| {
            let listener = self.listeners.get(*key)?;
            let hears = listener.device == 0 || listener.device == interface;
            let covers = hears && listener.place.covers(tuple.local);
            // One for this interface alone comes before those for all.
            covers.then(|| (listener.place.closeness(), listener.device))
        };
        let best = keys.iter().filter_map(covering).max()?;
        let equal: Vec<Key> =
            keys.iter().copied().filter(|key| covering(key) == Some(best)).collect();
        Some(equal[tuple.hash() as usize % equal.len()])
    }

    /// Answers a SYN, if there is room for one more connection.
    fn answer(&mut self, now: u64, listener: Key, tuple: Tuple, syn: &Segment, way: Way) {
        let Some(parent) = self.listeners.get_mut(listener) else { return };
        if parent.is_full() || parent.half_open >= parent.backlog.max(HALF_OPEN) {
            return;
        }
        parent.half_open += 1;
        let options = parent.options.clone();
        let mapped = parent.place.family == crate::datagram::Family::Dual;
        let reuse = parent.reuse_address;
        let setup = self.setup(now, &tuple, way, &options);
        let key = self.add(Tcb::answer(now, setup, syn), tuple, &options, now);
        if let Some(connection) = self.connections.get_mut(key) {
            connection.parent = Some(listener);
            (connection.mapped, connection.reuse) = (mapped, reuse);
        }
        self.settle(now, key);
    }

    /// Nobody is there for this segment (RFC 9293, section 3.10.7.1).
    fn refuse(&mut self, tuple: &Tuple, segment: &Segment) {
        let is = |flags| segment.flags.contains(flags);
        if is(Flags::RST) {
            return;
        }
        let (seq, flags) = match is(Flags::ACK) {
            true => (segment.ack, Flags::RST),
            false => (0, Flags::RST | Flags::ACK),
        };
        let length =
            segment.payload.len() + usize::from(is(Flags::SYN)) + usize::from(is(Flags::FIN));
        let ack = if is(Flags::ACK) { 0 } else { seq::after(segment.seq, length) };
        let reset = Segment { seq, ack, flags, window: 0, payload: Rc::new([]), mss: None };
        self.out.push_back((None, packet(tuple, reset)));
    }

    /// Opens a port.
    pub(super) fn listen(&mut self, listener: Listener) -> Key {
        let port = listener.port;
        let key = self.listeners.insert(listener);
        self.by_port.entry(port).or_default().push(key);
        key
    }

    /// Nobody on the host's network has the address of the peer.
    pub(super) fn no_neighbour(&mut self, now: u64, key: Key) {
        if let Some(connection) = self.connections.get_mut(key)
            && connection.no_neighbour_at.is_none()
        {
            connection.no_neighbour_at = Some(now + NEIGHBOUR_TIMEOUT);
        }
        self.schedule(key);
    }

    /// Takes a connection that waits.
    pub(super) fn accept(
        &mut self,
        listener: Key,
        signal: &Rc<Signal>,
    ) -> Option<(Key, SocketAddr)> {
        let key = self.listeners.get_mut(listener)?.queue.pop_front()?;
        let connection = self.connections.get_mut(key)?;
        (connection.parent, connection.queued) = (None, false);
        connection.signal = Some(Rc::clone(signal));
        // Watching it begins: what it is ready for by now is told at once.
        connection.tcb.take_news();
        self.raised.push((Rc::clone(signal), bits(connection.tcb.readiness())));
        let peer = super::address::shown(connection.tuple.remote(), connection.mapped);
        Some((key, peer))
    }

    /// Refuses a connection that waits; false if none does.
    pub(super) fn shed(&mut self, now: u64, listener: Key) -> bool {
        let next = self.listeners.get_mut(listener).and_then(|one| one.queue.pop_front());
        let Some(key) = next else { return false };
        if let Some(connection) = self.connections.get_mut(key) {
            (connection.parent, connection.queued) = (None, false);
            connection.tcb.close(now);
        }
        self.settle(now, key);
        true
    }

    /// The end of a listener: connections that wait are reset.
    pub(super) fn close_listener(&mut self, now: u64, key: Key) {
        let Some(listener) = self.listeners.remove(key) else { return };
        if let Some(keys) = self.by_port.get_mut(&listener.port) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.by_port.remove(&listener.port);
            }
        }
        let children: Vec<Key> = self
            .by_tuple
            .range(Tuple::of_port(listener.port))
            .map(|(_, child)| *child)
            .chain(listener.queue)
            .collect();
        for child in children {
            let Some(connection) = self.connections.get_mut(child) else { continue };
            if connection.parent != Some(key) {
                continue;
            }
            (connection.parent, connection.queued) = (None, false);
            match connection.tcb.state() {
                // Its peer is told when it speaks next.
                State::SynReceived => connection.tcb.forget(),
                _ => {
                    connection.tcb.abort();
                    connection.tcb.close(now);
                }
            }
            self.settle(now, child);
        }
    }

    /// The socket of a connection is closed.
    pub(super) fn close(&mut self, now: u64, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.tcb.close(now);
        connection.signal = None;
        self.settle(now, key);
    }

    /// Does what a change of a connection brings about.
    pub(super) fn settle(&mut self, now: u64, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.transmit(now, key, false, &mut self.out);
        if connection.tcb.owes_ack() && !connection.on_flush {
            connection.on_flush = true;
            self.flush.push(key);
        }
        if connection.tcb.take_news()
            && let Some(signal) = &connection.signal
        {
            let ready = bits(connection.tcb.readiness());
            if ready != 0 {
                self.raised.push((Rc::clone(signal), ready));
            }
        }
        let state = connection.tcb.state();
        if matches!(state, State::Closed | State::TimeWait) {
            let is_gone = connection.signal.is_none() && !connection.queued;
            let is_half_open = connection.parent.filter(|_| !connection.queued);
            let (tuple, reuse) = (connection.tuple, connection.reuse);
            if state == State::TimeWait {
                let (nxt, rcv_nxt) = connection.tcb.numbers();
                connection.tcb.forget();
                self.remember(tuple, Remembered { nxt, rcv_nxt, since: now, reuse });
            }
            if self.by_tuple.get(&tuple) == Some(&key) {
                self.by_tuple.remove(&tuple);
            }
            if is_gone {
                self.connections.remove(key);
            }
            if let Some(parent) = is_half_open.and_then(|key| self.listeners.get_mut(key)) {
                parent.half_open -= 1;
            }
        }
        self.schedule(key);
    }

    fn remember(&mut self, tuple: Tuple, old: Remembered) {
        if self.remembered.len() >= MOST_REMEMBERED {
            let (from, now) = (self.remembered.len(), old.since);
            self.remembered.retain(|_, other| now < other.since + TIME_WAIT);
            if self.remembered.len() == from {
                self.remembered.pop_first();
            }
        }
        self.remembered.insert(tuple, old);
    }

    /// Sees to it that the connection is called when it wants to be. An entry that has become too
    /// early stays: it is put off when it is due.
    fn schedule(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let wanted = [connection.tcb.next_timer(), connection.no_neighbour_at];
        if let Some(at) = wanted.into_iter().flatten().min()
            && connection.scheduled.is_none_or(|before| at < before)
        {
            connection.scheduled = Some(at);
            self.timers.insert((at, self.next_timer_number), key);
            self.next_timer_number += 1;
        }
    }

    /// When [`on_timer`](Self::on_timer) is to be called.
    pub(super) fn next_timer(&self) -> Option<u64> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    pub(super) fn on_timer(&mut self, now: u64) {
        while let Some(first) = self.timers.first_entry().filter(|first| first.key().0 <= now) {
            let ((at, _), key) = first.remove_entry();
            let Some(connection) = self.connections.get_mut(key) else { continue };
            if connection.scheduled != Some(at) {
                continue;
            }
            connection.scheduled = None;
            connection.tcb.on_timer(now);
            if connection.no_neighbour_at.is_some_and(|at| at <= now) {
                connection.no_neighbour_at = None;
                connection.tcb.unreachable(libc::EHOSTUNREACH);
            }
            self.settle(now, key);
        }
    }

    pub(super) fn wants_flush(&self) -> bool {
        !self.flush.is_empty()
    }

    /// The turn of the host is over: what was to be acknowledged by then, is.
    pub(super) fn flush(&mut self, now: u64) {
        for key in std::mem::take(&mut self.flush) {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            connection.on_flush = false;
            connection.transmit(now, key, true, &mut self.out);
            self.schedule(key);
        }
    }
}

impl Stack {
    pub(super) fn dump(&self, text: &mut String) -> fmt::Result {
        for key in self.by_port.values().flatten() {
            let Some(listener) = self.listeners.get(*key) else { continue };
            let local = SocketAddr::from((listener.place.ip, listener.port));
            let (open, half_open) = (listener.queue.len(), listener.half_open);
            writeln!(text, "  tcp {local} listens, {open} wait to be accepted, {half_open} begin")?;
        }
        for (tuple, key) in &self.by_tuple {
            let Some(connection) = self.connections.get(*key) else { continue };
            let (to_read, unacknowledged) = connection.tcb.queued();
            writeln!(
                text,
                "  tcp {} > {} {:?}, {to_read} bytes to read, {unacknowledged} not acknowledged",
                tuple.local(),
                tuple.remote(),
                connection.tcb.state(),
            )?;
        }
        Ok(())
    }
}

impl Connection {
    fn transmit(
        &mut self,
        now: u64,
        key: Key,
        end_of_turn: bool,
        out: &mut VecDeque<(Option<Key>, Packet)>,
    ) {
        while let Some(segment) = self.tcb.poll_transmit(now, end_of_turn) {
            out.push_back((Some(key), packet(&self.tuple, segment)));
        }
    }

    pub(super) fn set_option(&mut self, now: u64, option: StreamOption) {
        match option {
            StreamOption::NoDelay(on) => self.nodelay = on,
            StreamOption::KeepAlive(times) => self.tcb.set_keepalive(now, times),
            StreamOption::RecvBuffer(bytes) => {
                self.recv_buffer = ports::recv_buffer(bytes);
                self.tcb.set_recv_room(self.recv_buffer / 2);
            }
            StreamOption::SendBuffer(bytes) => {
                self.send_buffer = ports::send_buffer(bytes);
                self.tcb.set_send_room(self.send_buffer / 2);
            }
        }
    }
}

impl Listener {
    /// Linux takes one more than was asked for (`sk_acceptq_is_full`).
    fn is_full(&self) -> bool {
        self.queue.len() > self.backlog
    }
}

pub(super) fn bits(ready: Readiness) -> u8 {
    let bit = |on, bit| if on { bit } else { 0 };
    bit(ready.readable, Signal::READABLE)
        | bit(ready.writable, Signal::WRITABLE)
        | bit(ready.error, Signal::ERROR)
        | bit(ready.read_closed, Signal::READ_CLOSED)
}

fn packet(tuple: &Tuple, segment: Segment) -> Packet {
    Packet {
        source: tuple.local(),
        destination: tuple.remote(),
        hop_limit: 64,
        tos: 0,
        body: Body::Tcp(segment),
    }
}
