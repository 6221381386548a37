//! Many datagrams by one system call, with all that Linux tells and takes about each.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use socket2::{Domain, Protocol, Socket, Type};

use super::socket::{Endpoint, Transfer};
use super::{nobody, options};
use crate::datagram::{Capabilities, Ecn, Family, Metadata};
use crate::net::{
    Control, Message, Meta, Origin, Outgoing, QueuedError, RecvBatch, SLOT_LEN, SendBatch,
};
use crate::sys::{self, Encoder, Outbound, Received, SendHeaders};

/// Most datagrams that UDP_SEGMENT makes of one message on every kernel that has it.
const MAX_SEGMENTS: usize = 64;

/// Most bytes of one message: what fits over IPv4, which a dual-stack socket may be using.
const RUN_BYTES: usize = 65_507;

/// So many more full batches with bursts than without ...
const BURSTY_BATCHES: u32 = 8;
/// ... of at least so many messages each ...
const BURSTY_SLOTS: usize = 8;
/// ... and at least so many in a row alike, on average, show traffic that UDP_GRO would merge. With
/// it on and nothing to merge, receiving costs 3 to 5 % more.
const BURST: usize = 3;

/// What the sockets of a driver have in common.
pub(super) struct Batching {
    headers: Rc<RefCell<SendHeaders>>,
    segmentation: bool,
    coalescing: bool,
}

impl Batching {
    /// Asks the kernel what it offers, on a socket made for the purpose.
    pub(super) fn probe() -> Self {
        let socket = [Domain::IPV4, Domain::IPV6]
            .iter()
            .find_map(|domain| Socket::new(*domain, Type::DGRAM, Some(Protocol::UDP)).ok());
        let offers = |name, value| {
            use std::os::fd::AsFd;
            let set = |socket: &Socket| sys::set_option(socket.as_fd(), libc::SOL_UDP, name, value);
            socket.as_ref().is_some_and(|socket| set(socket).is_ok())
        };
        Self {
            headers: Rc::new(RefCell::new(SendHeaders::new())),
            segmentation: offers(libc::UDP_SEGMENT, 0),
            coalescing: offers(libc::UDP_GRO, 1),
        }
    }

    /// For a socket of our own.
    pub(super) fn opened(&self) -> Batched {
        let coalescing = if self.coalescing { Coalescing::Idle(0) } else { Coalescing::Never };
        self.transfer(self.segmentation, coalescing)
    }

    /// For a socket made elsewhere; `merging` if UDP_GRO is on already.
    pub(super) fn adopted(&self, udp: bool, merging: bool) -> Batched {
        let coalescing = if merging { Coalescing::On } else { Coalescing::Never };
        self.transfer(udp && self.segmentation, coalescing)
    }

    fn transfer(&self, segmentation: bool, coalescing: Coalescing) -> Batched {
        Batched {
            headers: Rc::clone(&self.headers),
            segment_bound: Cell::new(if segmentation { usize::MAX } else { 0 }),
            coalescing: Cell::new(coalescing),
            granted: Cell::new(Metadata::NONE),
        }
    }
}

/// Whether UDP_GRO is on.
pub(super) fn merges(fd: BorrowedFd<'_>) -> bool {
    sys::option(fd, libc::SOL_UDP, libc::UDP_GRO).is_ok_and(|on| on != 0)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Coalescing {
    /// Off; by how many full batches those with bursts are ahead.
    Idle(u32),
    On,
    Never,
}

pub(super) struct Batched {
    headers: Rc<RefCell<SendHeaders>>,
    /// Runs of datagrams shorter than this leave as one message; 0 if the kernel cannot do that.
    segment_bound: Cell<usize>,
    coalescing: Cell<Coalescing>,
    granted: Cell<Metadata>,
}

impl Transfer for Batched {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            batching: true,
            segmentation: self.segment_bound.get() != 0,
            coalescing: self.coalescing.get() != Coalescing::Never,
            error_queue: true,
            send_options: true,
            metadata: self.granted.get(),
        }
    }

    fn receive(&self, at: &Endpoint, slots: usize, batch: &mut RecvBatch) -> io::Result<bool> {
        let RecvBatch { data, messages, headers } = batch;
        messages.clear();
        let granted = self.granted.get();
        let merging = self.coalescing.get() == Coalescing::On;
        let control = merging || !granted.is_empty();
        // Unique by contract; a copy would be slow, not wrong.
        debug_assert_eq!(Rc::strong_count(data), 1);
        let got =
            headers.receive(at.fd(), &mut Rc::make_mut(data)[..], SLOT_LEN, slots, control)?;
        for index in 0..got {
            let len = headers.len(index);
            messages.push(Message {
                len,
                segment: len.max(1),
                truncated: headers.truncated(index),
                source: headers.source(index).unwrap_or_else(|| nobody(at.family)),
                meta: Meta::default(),
            });
        }
        if control {
            for (index, message) in messages.iter_mut().enumerate() {
                for received in sys::decode(headers.control(index)) {
                    note(message, granted, received);
                }
                if at.family == Family::Dual && !granted.is_empty() {
                    let mapped = |ip| match ip {
                        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
                        IpAddr::V6(_) => ip,
                    };
                    let meta = &mut message.meta;
                    meta.destination = meta.destination.map(mapped);
                    meta.specific_destination = meta.specific_destination.map(mapped);
                }
            }
        }
        if let Coalescing::Idle(ahead) = self.coalescing.get() {
            self.watch_for_bursts(at, ahead, got == slots, messages);
        }
        Ok(got < slots)
    }

    fn send(&self, at: &Endpoint, batch: &SendBatch<'_>) -> io::Result<usize> {
        let mut headers = self.headers.borrow_mut();
        let mut sent = 0;
        let mut rest = Rest { queue: batch.queue, done: 0 };
        // Datagrams in each message.
        let mut counts = [0_u16; sys::BATCH];
        while !rest.queue.is_empty() {
            let (outbound, left) = match self.plan(at, batch, rest, headers.fill(), &mut counts) {
                Ok(plan) => plan,
                Err(error) if sent == 0 => return Err(error),
                Err(_) => return Ok(sent),
            };
            let planned = outbound.len();
            let (more, after) = match outbound.send(at.fd()) {
                Ok(messages) => {
                    let more = counts[..messages].iter().map(|count| usize::from(*count)).sum();
                    (more, (messages == planned).then_some(left))
                }
                Err(error) if counts[0] > 1 => {
                    match self.after_refused_run(at, batch, rest, error, &mut headers) {
                        Ok(more) => (more, None),
                        Err(error) if sent == 0 => return Err(error),
                        Err(_) => return Ok(sent),
                    }
                }
                Err(error) if sent == 0 => return Err(error),
                Err(_) => return Ok(sent),
            };
            sent += more;
            rest = after.unwrap_or_else(|| rest.without(more));
        }
        Ok(sent)
    }

    fn next_error(&self, at: &Endpoint) -> io::Result<Option<QueuedError>> {
        let Some((destination, report)) = sys::take_report(at.fd())? else {
            return Ok(None);
        };
        let Some(report) = report else {
            return Ok(Some(QueuedError {
                error: io::Error::other("a report of unknown form"),
                origin: Origin::Other,
                icmp_type: 0,
                icmp_code: 0,
                info: 0,
                offender: None,
                destination,
            }));
        };
        Ok(Some(QueuedError {
            error: io::Error::from_raw_os_error(report.errno.cast_signed()),
            origin: match report.origin {
                libc::SO_EE_ORIGIN_LOCAL => Origin::Local,
                libc::SO_EE_ORIGIN_ICMP => Origin::Icmp,
                libc::SO_EE_ORIGIN_ICMP6 => Origin::Icmp6,
                _ => Origin::Other,
            },
            icmp_type: report.icmp_type,
            icmp_code: report.icmp_code,
            info: report.info,
            offender: report.offender,
            destination,
        }))
    }

    fn set_metadata(&self, at: &Endpoint, wanted: Metadata) -> io::Result<Metadata> {
        for (bit, names) in options::metadata(at.family) {
            let (has, wants) = (self.granted.get().contains(bit), wanted.contains(bit));
            // What was not asked for through us is not touched: another may rely on it.
            if has != wants && set_all(at, names, wants)? {
                self.granted.set(toggled(self.granted.get(), bit, wants));
            }
        }
        Ok(self.granted.get())
    }
}

/// Sets an option on every family of the socket, or on none; false if the kernel lacks it.
fn set_all(at: &Endpoint, names: options::Names, on: bool) -> io::Result<bool> {
    for (done, (level, name)) in names.iter().enumerate() {
        if let Err(error) = sys::set_option(at.fd(), level, name, on.into()) {
            for (level, name) in names.iter().take(done) {
                sys::set_option(at.fd(), level, name, (!on).into())?;
            }
            return if options::is_unsupported(&error) { Ok(false) } else { Err(error) };
        }
    }
    Ok(true)
}

fn toggled(set: Metadata, bit: Metadata, on: bool) -> Metadata {
    if on {
        return set | bit;
    }
    let bits = [
        Metadata::DESTINATION,
        Metadata::HOP_LIMIT,
        Metadata::ECN,
        Metadata::RECEIVE_TIME,
        Metadata::DROPS,
    ];
    let left = bits.into_iter().filter(|other| *other != bit && set.contains(*other));
    left.fold(Metadata::NONE, |set, bit| set | bit)
}

/// Notes what a control message says, if it was asked for.
fn note(message: &mut Message, granted: Metadata, received: Received) {
    let meta = &mut message.meta;
    match received {
        Received::Segment(bytes) => message.segment = bytes.max(1),
        Received::Destination { destination, specific, interface }
            if granted.contains(Metadata::DESTINATION) =>
        {
            meta.destination = Some(destination);
            // IPv4 datagrams on a dual-stack socket come with both kinds, in either order.
            meta.specific_destination = specific.or(meta.specific_destination);
            meta.interface = Some(interface);
        }
        Received::HopLimit(hops) if granted.contains(Metadata::HOP_LIMIT) => {
            meta.hop_limit = Some(hops);
        }
        Received::Tos(byte) if granted.contains(Metadata::ECN) => {
            meta.ecn = Some(Ecn::from_bits(byte));
        }
        Received::Time(time) if granted.contains(Metadata::RECEIVE_TIME) => {
            meta.received_at = Some(time);
        }
        Received::Drops(count) if granted.contains(Metadata::DROPS) => meta.drops = Some(count),
        _ => {}
    }
}

impl Batched {
    fn watch_for_bursts(&self, at: &Endpoint, ahead: u32, full: bool, messages: &[Message]) {
        let breaks =
            |pair: &&[Message]| pair[0].source != pair[1].source || pair[0].len != pair[1].len;
        let bursts = || 1 + messages.windows(2).filter(breaks).count();
        let next = if !full || messages.len() < BURSTY_SLOTS || bursts() * BURST > messages.len() {
            Coalescing::Idle(ahead.saturating_sub(1))
        } else if ahead + 1 < BURSTY_BATCHES {
            Coalescing::Idle(ahead + 1)
        } else {
            return self.coalesce(at);
        };
        self.coalescing.set(next);
    }

    /// Turns UDP_GRO on, for good: datagrams merged before it is turned off would arrive unmarked.
    fn coalesce(&self, at: &Endpoint) {
        let outcome = sys::set_option(at.fd(), libc::SOL_UDP, libc::UDP_GRO, 1);
        self.coalescing.set(if outcome.is_ok() { Coalescing::On } else { Coalescing::Never });
    }

    /// Learns from the refusal of a message of several datagrams, the first of `rest`, and returns
    /// how many of them were sent in finding out. The plan made next sends the others singly, or the
    /// error is one that the first datagram meets alone, too.
    fn after_refused_run(
        &self,
        at: &Endpoint,
        batch: &SendBatch<'_>,
        rest: Rest<'_>,
        error: io::Error,
        headers: &mut SendHeaders,
    ) -> io::Result<usize> {
        let segment = rest.queue[0].len;
        match error.raw_os_error() {
            // The device cannot checksum segments.
            Some(libc::EIO) => self.segment_bound.set(0),
            // Segments above the path's MTU; nothing else about a run can be too long.
            Some(libc::EMSGSIZE) => self.segment_bound.set(segment),
            // The same on older kernels, or something that is wrong without segments, too.
            Some(libc::EINVAL) => {
                let bound = self.segment_bound.replace(0);
                let run = rest.queue[0];
                let start = run.start + rest.done * run.len;
                let alone = Rest { queue: &[Outgoing { start, count: 1, ..run }], done: 0 };
                let outcome = self
                    .plan(at, batch, alone, headers.fill(), &mut [0; sys::BATCH])
                    .and_then(|(outbound, _)| outbound.send(at.fd()));
                self.segment_bound.set(if outcome.is_ok() { segment } else { bound });
                return outcome;
            }
            _ => return Err(error),
        }
        Ok(0)
    }

    /// Makes messages of the datagrams of `rest`, notes in `counts` how many are in each, and
    /// returns those that are left. An error belongs to the first; it ends the plan if it is
    /// another's.
    fn plan<'h, 'p, 'q>(
        &self,
        at: &Endpoint,
        batch: &SendBatch<'p>,
        mut rest: Rest<'q>,
        mut outbound: Outbound<'h, 'p>,
        counts: &mut [u16; sys::BATCH],
    ) -> io::Result<(Outbound<'h, 'p>, Rest<'q>)> {
        let bound = if batch.merge { self.segment_bound.get() } else { 0 };
        while let Some(first) = rest.queue.first()
            && outbound.len() < sys::BATCH
        {
            let route = match Route::of(at, first) {
                Ok(route) => route,
                Err(error) if outbound.len() == 0 => return Err(error),
                Err(_) => break,
            };
            let most = match first.len {
                len if len == 0 || bound <= len => 0,
                // The division is slow, and seldom needed.
                len if len * MAX_SEGMENTS <= RUN_BYTES => MAX_SEGMENTS,
                len => (RUN_BYTES / len).max(1),
            };
            let is_plain = matches!(route, Route::Plain);
            let count = rest.take_message(batch, most, is_plain, &mut outbound);
            counts[outbound.len()] = count as u16;
            outbound.message(first.to.as_ref(), |encoder| {
                route.encode(&first.control, encoder);
                if count > 1 {
                    encoder.segment(first.len as u16);
                }
            });
        }
        Ok((outbound, rest))
    }
}

/// What is left of a queue.
#[derive(Clone, Copy)]
struct Rest<'a> {
    queue: &'a [Outgoing],
    /// Datagrams of the first run that are done with; not all.
    done: usize,
}

impl Rest<'_> {
    /// Steps over at most so many datagrams of the first run, and returns how many there were.
    #[inline]
    fn take(&mut self, most: usize) -> usize {
        let left = self.queue[0].count - self.done;
        if most < left {
            self.done += most;
            return most;
        }
        (self.queue, self.done) = (&self.queue[1..], 0);
        left
    }

    /// What is left after another so many datagrams.
    fn without(mut self, mut count: usize) -> Self {
        while count > 0 {
            count -= self.take(count);
        }
        self
    }

    /// Steps over the datagrams that leave as one message, and adds their payloads: `most` of equal
    /// size, or fewer and a shorter one; if `most` is 0, a single one. Returns how many there are.
    #[inline]
    fn take_message<'p>(
        &mut self,
        batch: &SendBatch<'p>,
        most: usize,
        is_plain: bool,
        outbound: &mut Outbound<'_, 'p>,
    ) -> usize {
        let first = &self.queue[0];
        // Payloads that lie one after another become one piece.
        let start = first.start + self.done * first.len;
        let mut count = self.take(most.max(1));
        let (mut lent, mut start, mut end) = (first.lent, start, start + count * first.len);
        // A shorter one may still fit where no equal one does.
        while most > 0
            && count < MAX_SEGMENTS
            && self.done == 0
            && let Some(next) = self.queue.first()
            && next.len <= first.len
            && next.to == first.to
            && (if is_plain { next.control.is_none() } else { next.control == first.control })
        {
            let is_shorter = next.len < first.len;
            let room = match is_shorter {
                true => usize::from(next.len > 0 && count * first.len + next.len <= RUN_BYTES),
                false => most - count,
            };
            if room == 0 {
                break;
            }
            if next.lent != lent || next.start != end {
                outbound.piece(batch.bytes(lent, start, end - start));
                (lent, start, end) = (next.lent, next.start, next.start);
            }
            let taken = self.take(room);
            count += taken;
            end += taken * next.len;
            if is_shorter {
                break;
            }
        }
        outbound.piece(batch.bytes(lent, start, end - start));
        count
    }
}

/// Which family's control messages a datagram takes, and the source address in that family.
enum Route {
    Plain,
    V4(Option<std::net::Ipv4Addr>),
    V6(Option<std::net::Ipv6Addr>),
}

impl Route {
    #[inline]
    fn of(at: &Endpoint, datagram: &Outgoing) -> io::Result<Self> {
        match datagram.control.is_none() {
            true => Ok(Self::Plain),
            false => Self::with_control(at, datagram),
        }
    }

    fn with_control(at: &Endpoint, datagram: &Outgoing) -> io::Result<Self> {
        let over_v4 = match at.family {
            Family::V4 => true,
            Family::V6Only => false,
            Family::Dual => match datagram.to.map_or_else(|| at.peer_addr(), Ok)? {
                SocketAddr::V4(_) => true,
                SocketAddr::V6(to) => to.ip().to_ipv4_mapped().is_some(),
            },
        };
        let other_family = || {
            let reason = "the source address is of another family than the destination";
            io::Error::new(io::ErrorKind::InvalidInput, reason)
        };
        Ok(match (over_v4, datagram.control.source.map(|source| source.to_canonical())) {
            (true, None) => Self::V4(None),
            (true, Some(IpAddr::V4(source))) => Self::V4(Some(source)),
            (false, None) => Self::V6(None),
            (false, Some(IpAddr::V6(source))) => Self::V6(Some(source)),
            _ => return Err(other_family()),
        })
    }

    fn encode(&self, control: &Control, encoder: &mut Encoder<'_>) {
        use std::net::{Ipv4Addr, Ipv6Addr};
        let (v4, directed) = match self {
            Self::Plain => return,
            Self::V4(source) => (true, source.is_some() || control.interface != 0),
            Self::V6(source) => (false, source.is_some() || control.interface != 0),
        };
        match self {
            Self::V4(source) if directed => {
                encoder.source_v4(source.unwrap_or(Ipv4Addr::UNSPECIFIED), control.interface);
            }
            Self::V6(source) if directed => {
                encoder.source_v6(source.unwrap_or(Ipv6Addr::UNSPECIFIED), control.interface);
            }
            _ => {}
        }
        if let Some(hops) = control.hop_limit {
            encoder.hop_limit(v4, hops);
        }
        if let Some(ecn) = control.ecn {
            encoder.tos(v4, ecn as u8);
        }
    }
}
