//! The seam: what the reactor asks of a network.
//!
//! A [`Driver`] opens sockets, waits for events and tells the time; a [`DatagramSocket`] moves
//! batches of datagrams. Everything above (transports, queues, timers, error handling, closing)
//! is written once against these traits and cannot tell whether the kernel ([`os`]) or a script
//! (`script`, feature `testing`) is beneath.
//!
//! Contracts that hold for every implementation:
//!
//! * Nothing here blocks except [`Driver::poll`].
//! * Readiness is edge-triggered: an event may be the only one until the socket was drained.
//! * Calls interrupted by a signal are retried inside; `Interrupted` never surfaces.
//! * A socket is registered with its driver from its birth, and is deregistered and closed when
//!   the last `Rc` of it goes.

mod link;
#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod os;
#[cfg(feature = "testing")]
pub(crate) mod script;
#[cfg(feature = "sim")]
pub(crate) mod sim;
mod stream;
mod unix;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::datagram::{Capabilities, Ecn, Family, Metadata, SourceFilter};
use crate::error::AdoptError;
use crate::interfaces::NetworkInterface;
use crate::sys;

pub(crate) use link::StreamLink;
pub(crate) use stream::{ListenSocket, ListenSpec, StreamOption, StreamSocket, StreamSpec};
pub(crate) use unix::{
    UnixDatagramSocket, UnixDatagramSpec, UnixListenSpec, UnixMessage, UnixSpec,
};

/// Number of receive slots of a reactor, and the most messages one receive returns.
pub(crate) const RECV_SLOTS: usize = 16;
/// Bytes of a receive slot: an aggregate of the kernel (UDP_GRO) is at most this long.
pub(crate) const SLOT_LEN: usize = 65_536;

/// Wakes a sleeping [`Driver::poll`] from any thread.
pub(crate) type Wake = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// A network and its clock.
pub(crate) trait Driver {
    /// The monotonic clock.
    fn now(&self) -> Instant;

    /// Waits for events for at most `timeout` (`None`: without limit) and appends them. Returns
    /// early, possibly with none, when woken or interrupted.
    fn poll(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()>;

    /// What spinning before a sleep came to, where a driver does that.
    fn busy_polls(&self) -> BusyPolls {
        BusyPolls::default()
    }

    /// What wakes `poll`.
    fn wake(&self) -> Wake;

    /// Has `poll` return whenever this descriptor becomes readable; raises no event. For what may
    /// come in the middle of any system call: signals.
    #[cfg(feature = "signals")]
    fn watch_waker(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let _ = fd;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Ends that, before the descriptor is closed.
    #[cfg(feature = "signals")]
    fn unwatch_waker(&mut self, fd: BorrowedFd<'_>) {
        let _ = fd;
    }

    /// Opens a datagram socket, sets its options, binds it and registers it under `token`.
    fn open_datagram(
        &mut self,
        spec: &DatagramSpec,
        token: usize,
    ) -> Result<Rc<dyn DatagramSocket>, OpenError>;

    /// Takes over a datagram socket made elsewhere, after asking the kernel what it is.
    fn adopt_datagram(
        &mut self,
        fd: OwnedFd,
        ownership: Ownership,
        token: usize,
    ) -> Result<Rc<dyn DatagramSocket>, AdoptError>;

    /// Opens a listening stream socket and registers it under `token`.
    fn listen_stream(
        &mut self,
        spec: &ListenSpec,
        token: usize,
    ) -> Result<Rc<dyn ListenSocket>, OpenError>;

    /// Opens a stream socket, registers it under `token` for reading and writing and begins to
    /// connect it. The first event that says "writable" (or "error") tells that the attempt
    /// ended, and [`StreamSocket::take_error`] how.
    fn open_stream(
        &mut self,
        spec: &StreamSpec,
        token: usize,
    ) -> Result<Rc<dyn StreamSocket>, OpenError>;

    /// As [`open_stream`](Self::open_stream), for a connection of the reactor.
    fn open_link(&mut self, spec: &StreamSpec, token: usize) -> Result<StreamLink, OpenError> {
        self.open_stream(spec, token).map(StreamLink::from)
    }

    /// Takes over a listening stream socket made elsewhere. One that is shared is made
    /// non-blocking all the same: an accept cannot be, by itself.
    fn adopt_listener(
        &mut self,
        fd: OwnedFd,
        ownership: Ownership,
        token: usize,
    ) -> Result<Rc<dyn ListenSocket>, AdoptError>;

    /// Takes over a connected stream socket made elsewhere.
    fn adopt_stream(
        &mut self,
        fd: OwnedFd,
        ownership: Ownership,
        token: usize,
    ) -> Result<Rc<dyn StreamSocket>, AdoptError>;

    /// Opens a listening UNIX socket.
    fn listen_unix(
        &mut self,
        spec: &UnixListenSpec,
        token: usize,
    ) -> Result<Rc<dyn ListenSocket>, OpenError> {
        let _ = (spec, token);
        Err(OpenError::Socket(io::ErrorKind::Unsupported.into()))
    }

    /// Opens a UNIX stream, which is connected when this returns; an event says "writable".
    /// `WouldBlock`: the server has no room for another that waits, and nothing will tell when.
    fn connect_unix(
        &mut self,
        spec: &UnixSpec,
        token: usize,
    ) -> Result<Rc<dyn StreamSocket>, OpenError> {
        let _ = (spec, token);
        Err(OpenError::Socket(io::ErrorKind::Unsupported.into()))
    }

    /// Opens a UNIX datagram socket and registers it for reading.
    fn open_unix_datagram(
        &mut self,
        spec: &UnixDatagramSpec,
        token: usize,
    ) -> Result<Rc<dyn UnixDatagramSocket>, OpenError> {
        let _ = (spec, token);
        Err(OpenError::Socket(io::ErrorKind::Unsupported.into()))
    }

    /// Takes over a UNIX datagram socket made elsewhere.
    fn adopt_unix_datagram(
        &mut self,
        fd: OwnedFd,
        token: usize,
    ) -> Result<Rc<dyn UnixDatagramSocket>, AdoptError> {
        let _ = (fd, token);
        Err(AdoptError::Unsupported)
    }

    /// As [`open_stream`](Self::open_stream), without options.
    #[cfg(feature = "dns")]
    fn connect_stream(
        &mut self,
        peer: SocketAddr,
        bind: Option<SocketAddr>,
        token: usize,
    ) -> io::Result<Rc<dyn StreamSocket>> {
        let spec = StreamSpec { peer, bind, options: Vec::new() };
        self.open_stream(&spec, token).map_err(|error| match error {
            OpenError::Socket(source) | OpenError::Option(_, source) | OpenError::Bind(source) => {
                source
            }
        })
    }

    /// The interfaces of the host, in the order of their indices.
    fn interfaces(&self) -> io::Result<Vec<NetworkInterface>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Polls that spun before they slept.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BusyPolls {
    pub(crate) waits: u64,
    /// Of these, those that something ended before they slept.
    pub(crate) hits: u64,
}

/// Something happened on the socket registered under `token`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) token: usize,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// An error is pending: a refused connected UDP socket raises this alone.
    pub(crate) error: bool,
    /// A stream's peer has ended what it sends, or the connection is gone; or there is urgent
    /// data, before which a read stops, too.
    pub(crate) read_closed: bool,
}

/// Whose an adopted descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// Ours alone: it is made non-blocking and close-on-exec, and closed with the port.
    Owned,
    /// A duplicate; the caller keeps using the original, whose flags must stay as they are: every
    /// call is made with `MSG_DONTWAIT`.
    Shared,
}

/// A socket to open.
#[derive(Clone, Debug)]
pub(crate) struct DatagramSpec {
    pub(crate) family: Family,
    /// Where to bind; `None` leaves it to the kernel at the first send.
    pub(crate) bind: Option<SocketAddr>,
    pub(crate) reuse_address: bool,
    pub(crate) reuse_port: bool,
    /// Shares its address as multicast needs it on this system, and hears no group but those
    /// that it joined.
    pub(crate) multicast: bool,
    pub(crate) device: Option<String>,
    pub(crate) metadata: Metadata,
    /// Options to set before the bind.
    pub(crate) options: Vec<(SocketOption, u32)>,
}

/// Why a socket could not be opened, and at which step.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// `socket(2)` or the registration failed.
    Socket(io::Error),
    /// The named option was refused.
    Option(&'static str, io::Error),
    /// `bind(2)` failed.
    Bind(io::Error),
}

/// Options with a number for a value; flags are 0 and 1. On a dual-stack socket both the v4 and
/// the v6 option are set, and the v6 one is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketOption {
    /// `SO_BROADCAST`.
    Broadcast,
    /// `IP_TTL`, `IPV6_UNICAST_HOPS`: 1 to 255.
    Ttl,
    /// `IP_TOS`, `IPV6_TCLASS`: 0 to 255.
    Tos,
    /// `SO_RCVBUF` in bytes; reading gives the effective value.
    RecvBuffer,
    /// `SO_SNDBUF` in bytes; reading gives the effective value.
    SendBuffer,
    /// `IP_MTU_DISCOVER`, `IPV6_MTU_DISCOVER`: the discriminant of `PathMtu`.
    PathMtuMode,
    /// `IP_RECVERR`, `IPV6_RECVERR`.
    ErrorQueue,
    /// `SO_BUSY_POLL`, in microseconds.
    BusyPoll,
    /// `IP_MTU`, `IPV6_MTU` of a connected socket; read only.
    PathMtu,
    /// `IP_MULTICAST_TTL`, `IPV6_MULTICAST_HOPS`: 0 to 255.
    MulticastTtl,
    /// `IP_MULTICAST_LOOP`, `IPV6_MULTICAST_LOOP`.
    MulticastLoopback,
    /// `IP_MULTICAST_ALL`, `IPV6_MULTICAST_ALL`: whether a socket hears groups that only others
    /// joined.
    MulticastAll,
    /// `SO_REUSEADDR`; read only.
    ReuseAddress,
    /// `SO_REUSEPORT`; read only.
    ReusePort,
    /// `IPV6_V6ONLY`; read only.
    #[cfg_attr(not(test), expect(dead_code, reason = "asked for by tests alone"))]
    V6Only,
}

/// A datagram socket. Every method takes `&self`: a socket may be lent out while its port changes.
pub(crate) trait DatagramSocket {
    fn family(&self) -> Family;
    fn capabilities(&self) -> Capabilities;
    fn local_addr(&self) -> io::Result<SocketAddr>;
    fn peer_addr(&self) -> io::Result<SocketAddr>;
    fn bind(&self, address: SocketAddr) -> io::Result<()>;
    fn connect(&self, peer: SocketAddr) -> io::Result<()>;
    /// Dissolves the association with the peer and keeps the local address.
    fn disconnect(&self) -> io::Result<()>;

    /// Receives up to `slots` messages into `batch` (whose old messages are cleared first) and
    /// tells whether the socket was drained. `Ok` comes with at least one message; `WouldBlock`
    /// says that there was none. An error met after the first message is returned by the next call.
    fn receive(&self, slots: usize, batch: &mut RecvBatch) -> io::Result<bool>;

    /// Sends a prefix of `batch` and returns its length in datagrams, at least 1. An error belongs
    /// to the first datagram alone, and nothing was sent; what ended a longer prefix is met by the
    /// next call, which begins with the datagram that met it. `WouldBlock`: the send buffer is full.
    fn send(&self, batch: &SendBatch<'_>) -> io::Result<usize>;

    /// The oldest report of the error queue; `None` when it is empty or not offered.
    fn next_error(&self) -> io::Result<Option<QueuedError>>;
    /// Fetches and clears the pending error (`SO_ERROR`).
    fn take_error(&self) -> io::Result<Option<io::Error>>;
    /// Starts or ends asking for events that say "there is room to send".
    fn watch_writable(&self, on: bool) -> io::Result<()>;

    fn option(&self, option: SocketOption) -> io::Result<u32>;
    fn set_option(&self, option: SocketOption, value: u32) -> io::Result<()>;
    fn device(&self) -> io::Result<Option<String>>;
    fn set_device(&self, name: Option<&str>) -> io::Result<()>;
    /// Asks for metadata with every datagram and returns what was granted.
    fn set_metadata(&self, wanted: Metadata) -> io::Result<Metadata>;
    /// Changes a membership: see the errors of each [`GroupRequest`].
    fn change_membership(&self, request: GroupRequest, at: &Membership) -> io::Result<()> {
        let _ = (request, at);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The source filter of a group on the interface of this index; `None` if it is not joined
    /// there.
    fn source_filter(&self, group: IpAddr, interface: u32) -> io::Result<Option<SourceFilter>> {
        let _ = (group, interface);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The index of the interface that groups are sent to by; 0 leaves it to the routes.
    fn multicast_interface(&self) -> io::Result<u32> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Chooses that interface, and the source address of what is sent over IPv4 by it.
    fn set_multicast_interface(&self, interface: u32, source: Option<Ipv4Addr>) -> io::Result<()> {
        let _ = (interface, source);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Datagrams the kernel dropped on this socket so far, modulo 2^32; `None` if it does not say.
    fn drops(&self) -> Option<u32> {
        None
    }
    /// The descriptor, where there is one.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}

/// A change of a membership. An unknown interface, or no route where its index is 0, is `ENODEV`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupRequest {
    /// Hears every source; `EADDRINUSE` if the group is joined there already.
    Join,
    /// Ends the membership, whatever its filter; `EADDRNOTAVAIL` without one.
    Leave,
    /// Hears this source (too), and no others.
    JoinSource,
    /// Takes back `JoinSource`; the membership ends with its last source.
    LeaveSource,
    /// Hears this source no more.
    BlockSource,
    /// Takes back `BlockSource`.
    UnblockSource,
}

/// What a [`GroupRequest`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) group: IpAddr,
    /// For requests about a source.
    pub(crate) source: Option<IpAddr>,
    /// 0 leaves it to the routes.
    pub(crate) interface: u32,
}

/// What one receive brought, with the buffers for it. A reactor has one; it is taken out while
/// user code looks at the payloads.
pub(crate) struct RecvBatch {
    /// [`RECV_SLOTS`] slots of [`SLOT_LEN`] bytes; message `i` lies at the start of slot `i`.
    /// Shared, so that a port may send in place out of what is being delivered to it; unique
    /// whenever a receive runs.
    pub(crate) data: Rc<Box<[u8]>>,
    pub(crate) messages: Vec<Message>,
    /// Headers and control space of the batched system call. Boxed, since a batch is moved out and
    /// back at every delivery.
    pub(crate) headers: Box<sys::RecvHeaders>,
}

impl RecvBatch {
    pub(crate) fn new() -> Self {
        Self {
            // Zeroed by the allocator: pages that no datagram reaches are never touched.
            data: Rc::new(vec![0; RECV_SLOTS * SLOT_LEN].into_boxed_slice()),
            messages: Vec::with_capacity(RECV_SLOTS),
            headers: Box::new(sys::RecvHeaders::new()),
        }
    }
}

/// One message of a batch: a datagram, or several of equal size that the kernel merged.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// Bytes of the whole message.
    pub(crate) len: usize,
    /// Bytes of each datagram in it but the last, which may be shorter; at least 1.
    pub(crate) segment: usize,
    /// The kernel cut the (last) datagram to fit.
    pub(crate) truncated: bool,
    pub(crate) source: SocketAddr,
    pub(crate) meta: Meta,
}

/// What the metadata mask asked for; everything else is `None`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meta {
    pub(crate) destination: Option<IpAddr>,
    /// The address to answer from when `destination` is a group or broadcast (`ipi_spec_dst`).
    pub(crate) specific_destination: Option<IpAddr>,
    pub(crate) interface: Option<u32>,
    pub(crate) hop_limit: Option<u8>,
    pub(crate) ecn: Option<Ecn>,
    pub(crate) received_at: Option<SystemTime>,
    /// Datagrams the kernel dropped on this socket since it was made, modulo 2^32.
    pub(crate) drops: Option<u32>,
}

/// Datagrams to send, in order, those that are alike in runs. Payloads lie in `own` (the port's
/// queue) or in `lent` (the receive buffers of the reactor).
pub(crate) struct SendBatch<'a> {
    pub(crate) queue: &'a [Outgoing],
    pub(crate) own: &'a [u8],
    pub(crate) lent: &'a [u8],
    /// Whether runs of equal size to one peer may leave as one message (`UDP_SEGMENT`).
    pub(crate) merge: bool,
}

impl<'a> SendBatch<'a> {
    /// The datagrams one by one: each with a `count` of 1.
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = Outgoing> + 'a {
        self.queue.iter().flat_map(|run| {
            let mut rest = *run;
            (0..run.count).map(move |_| rest.take_first())
        })
    }

    /// The payload of a datagram; of a run, all its payloads.
    #[inline]
    pub(crate) fn payload(&self, run: &Outgoing) -> &'a [u8] {
        self.bytes(run.lent, run.start, run.bytes())
    }

    #[inline]
    pub(crate) fn bytes(&self, lent: bool, start: usize, len: usize) -> &'a [u8] {
        let from = if lent { self.lent } else { self.own };
        &from[start..start + len]
    }
}

/// A datagram to send, or a run of them that are alike and lie one after another: where their
/// payloads are, and where they go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing {
    pub(crate) start: usize,
    /// Bytes of each datagram.
    pub(crate) len: usize,
    /// How many they are; at least 1.
    pub(crate) count: usize,
    pub(crate) lent: bool,
    /// `None` on a connected socket. Already of the socket's family (mapped on a dual socket).
    pub(crate) to: Option<SocketAddr>,
    pub(crate) control: Control,
}

impl Outgoing {
    /// One datagram, with nothing asked of it, whose payload is of the sender's own.
    pub(crate) fn one(start: usize, len: usize, to: Option<SocketAddr>) -> Self {
        Self { start, len, count: 1, lent: false, to, control: Control::default() }
    }

    /// Bytes of all its payloads.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.len * self.count
    }

    /// Takes the first datagram off.
    pub(crate) fn take_first(&mut self) -> Self {
        let first = Self { count: 1, ..*self };
        self.start += self.len;
        self.count -= 1;
        first
    }
}

/// What is asked of one datagram beyond its destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) source: Option<IpAddr>,
    /// Index of the interface to leave by; 0 is "as routed".
    pub(crate) interface: u32,
    pub(crate) hop_limit: Option<u8>,
    pub(crate) ecn: Option<Ecn>,
}

impl Control {
    #[inline]
    pub(crate) fn is_none(&self) -> bool {
        self.source.is_none()
            && self.interface == 0
            && self.hop_limit.is_none()
            && self.ecn.is_none()
    }
}

/// A report of the error queue (`MSG_ERRQUEUE`, see ip(7) under `IP_RECVERR`).
#[derive(Debug)]
pub(crate) struct QueuedError {
    pub(crate) error: io::Error,
    pub(crate) origin: Origin,
    pub(crate) icmp_type: u8,
    pub(crate) icmp_code: u8,
    /// `ee_info`: the MTU, for "packet too big".
    pub(crate) info: u32,
    /// Who sent the report.
    pub(crate) offender: Option<IpAddr>,
    /// Where the datagram that caused it was going.
    pub(crate) destination: Option<SocketAddr>,
}

/// Who made a report of the error queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This host, before the datagram left; the send that met it failed too.
    Local,
    Icmp,
    Icmp6,
    /// Anything else (timestamps, zero-copy notices): no error.
    Other,
}
