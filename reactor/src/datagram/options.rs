//! What a port is opened with.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::{Family, Metadata};
use crate::address::parse_address;
use crate::error::{AddressError, OptionError};
use crate::net::{DatagramSpec, SocketOption};

/// How a port treats datagrams longer than the path's MTU (`IP_MTU_DISCOVER`, ip(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum PathMtu {
    /// Fragment, and set no don't-fragment bit.
    Fragment = 0,
    /// Fragment where the known path MTU is exceeded; don't-fragment otherwise. The system's
    /// default.
    Want = 1,
    /// Never fragment: a datagram over the path's MTU fails with `EMSGSIZE`.
    DontFragment = 2,
    /// Set don't-fragment but ignore the path's MTU, as probing for it needs (RFC 8899).
    Probe = 3,
    /// Ignore path MTU reports; use the interface's MTU.
    Interface = 4,
    /// As `Interface`, but fragment where that is exceeded.
    Omit = 5,
}

impl PathMtu {
    pub(crate) fn from_raw(value: u32) -> Option<Self> {
        [Self::Fragment, Self::Want, Self::DontFragment, Self::Probe, Self::Interface, Self::Omit]
            .into_iter()
            .find(|mode| *mode as u32 == value)
    }
}

/// What happens to a write when the send queue is at its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum QueuePolicy {
    /// The write fails with [`WriteError::QueueFull`](crate::WriteError::QueueFull).
    #[default]
    Error,
    /// The oldest waiting datagrams make room; they complete with
    /// [`WriteError::Dropped`](crate::WriteError::Dropped) and are counted.
    DropOldest,
    /// The new datagram is dropped in the same way.
    DropNewest,
}

/// How to open a UDP port: an address, and options that have good defaults.
///
/// Wherever one is wanted, a `u16` (that port of 0.0.0.0), a `SocketAddr`, an `(IpAddr, u16)` or
/// a string such as `"127.0.0.1:9999"` or `"[::]:5353"` does as well.
///
/// ```
/// use strand_reactor::{Metadata, Reactor, UdpOptions};
/// # struct P;
/// # impl strand_reactor::DatagramProtocol for P {
/// #     fn datagram_received(&mut self, _: &strand_reactor::DatagramTransport,
/// #         _: strand_reactor::Datagram<'_>) -> anyhow::Result<()> { Ok(()) }
/// # }
/// # fn main() -> anyhow::Result<()> {
/// let reactor = Reactor::new()?;
/// let options = UdpOptions::parse("127.0.0.1:0")?.recv_buffer_size(1 << 18).ttl(7);
/// let port = reactor.listen_udp(options.metadata(Metadata::DESTINATION), P)?;
/// assert_eq!(port.ttl()?, 7);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct UdpOptions {
    /// `None`: unbound, of the family in `family`.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) family: Option<Family>,
    pub(crate) reuse_address: bool,
    pub(crate) reuse_port: bool,
    pub(crate) recv_buffer: Option<usize>,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) ttl: Option<u32>,
    pub(crate) tos: Option<u8>,
    pub(crate) dscp: Option<u8>,
    pub(crate) path_mtu: Option<PathMtu>,
    pub(crate) broadcast: bool,
    pub(crate) device: Option<String>,
    pub(crate) error_queue: bool,
    pub(crate) busy_poll: Option<Duration>,
    pub(crate) tuning: Tuning,
}

/// The options that live above the socket.
#[derive(Clone, Debug)]
pub(crate) struct Tuning {
    pub(crate) metadata: Metadata,
    pub(crate) max_datagram_size: usize,
    pub(crate) batch_size: usize,
    pub(crate) start_paused: bool,
    pub(crate) queue_datagrams: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) queue_policy: QueuePolicy,
    pub(crate) label: Option<String>,
    /// Opened by `listen_multicast`.
    pub(crate) multicast: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            metadata: Metadata::NONE,
            max_datagram_size: 65_535,
            batch_size: crate::net::RECV_SLOTS,
            start_paused: false,
            queue_datagrams: 1024,
            queue_bytes: 1 << 20,
            queue_policy: QueuePolicy::Error,
            label: None,
            multicast: false,
        }
    }
}

impl UdpOptions {
    /// A port bound to `address`; port number 0 lets the system choose one.
    ///
    /// `[::]` and every other IPv6 address mean [`Family::Dual`] and [`Family::V6Only`]
    /// respectively, unless [`family`](Self::family) says otherwise.
    pub fn new(address: impl Into<SocketAddr>) -> Self {
        Self {
            address: Some(address.into()),
            family: None,
            reuse_address: false,
            reuse_port: false,
            recv_buffer: None,
            send_buffer: None,
            ttl: None,
            tos: None,
            dscp: None,
            path_mtu: None,
            broadcast: false,
            device: None,
            error_queue: false,
            busy_poll: None,
            tuning: Tuning::default(),
        }
    }

    /// As [`new`](Self::new), from text; see [`parse_address`](crate::parse_address).
    ///
    /// # Errors
    /// Text that is no address with a port. Names are not looked up.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        parse_address(text).map(Self::new)
    }

    /// A port of a family without an address: the system binds it at the first send. Until then
    /// [`local_addr`](crate::DatagramTransport::local_addr) is
    /// [`OptionError::NotBound`](crate::OptionError::NotBound).
    pub fn unbound(family: Family) -> Self {
        let mut options = Self::new(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0));
        options.address = None;
        options.family = Some(family);
        options
    }

    /// Chooses between [`Family::V6Only`] and [`Family::Dual`] for an IPv6 address. Any other
    /// combination of family and address is an error at the call that opens the port.
    pub fn family(mut self, family: Family) -> Self {
        self.family = Some(family);
        self
    }

    /// Shares the address with others that ask for the same (`SO_REUSEADDR`). On Linux the last
    /// one bound takes the unicast traffic; all get broadcasts and groups. Off by default.
    pub fn reuse_address(mut self, on: bool) -> Self {
        self.reuse_address = on;
        self
    }

    /// Lets several ports share the address and the load (`SO_REUSEPORT`). Off by default.
    pub fn reuse_port(mut self, on: bool) -> Self {
        self.reuse_port = on;
        self
    }

    /// Asks for a receive buffer of this many bytes; the system may grant another size, see
    /// [`recv_buffer_size`](crate::DatagramTransport::recv_buffer_size).
    pub fn recv_buffer_size(mut self, bytes: usize) -> Self {
        self.recv_buffer = Some(bytes);
        self
    }

    /// Asks for a send buffer of this many bytes.
    pub fn send_buffer_size(mut self, bytes: usize) -> Self {
        self.send_buffer = Some(bytes);
        self
    }

    /// The unicast TTL or hop limit, 1 to 255.
    pub fn ttl(mut self, hops: u32) -> Self {
        self.ttl = Some(hops);
        self
    }

    /// The TOS byte or traffic class: DSCP in the upper six bits, ECN in the lower two.
    pub fn tos(mut self, byte: u8) -> Self {
        self.tos = Some(byte);
        self
    }

    /// The differentiated services codepoint (RFC 2474), 0 to 63; a greater value is an error at
    /// the call that opens the port.
    pub fn dscp(mut self, codepoint: u8) -> Self {
        self.dscp = Some(codepoint);
        self
    }

    /// How to treat datagrams longer than the path's MTU.
    pub fn path_mtu(mut self, mode: PathMtu) -> Self {
        self.path_mtu = Some(mode);
        self
    }

    /// Whether datagrams may go to broadcast addresses from the start.
    pub fn broadcast_allowed(mut self, on: bool) -> Self {
        self.broadcast = on;
        self
    }

    /// Receives and sends through this interface only (`SO_BINDTODEVICE`).
    pub fn device(mut self, name: impl Into<String>) -> Self {
        self.device = Some(name.into());
        self
    }

    /// Reports ICMP errors of an unconnected port to
    /// [`network_error`](crate::DatagramProtocol::network_error) (`IP_RECVERR`, Linux). Connected
    /// ports have their reports in any case.
    pub fn error_queue(mut self, on: bool) -> Self {
        self.error_queue = on;
        self
    }

    /// How long the system may spin on the network card's queue when it is asked for datagrams and
    /// has none (`SO_BUSY_POLL`, socket(7); Linux), in whole microseconds, a part of one counting as
    /// one. To raise it above the system's own (`net.core.busy_read`) takes `CAP_NET_ADMIN`. Cards
    /// without such a queue, loopback among them, have no use for it.
    ///
    /// The loop's own spinning is [`Builder::busy_poll`](crate::Builder::busy_poll).
    pub fn busy_poll(mut self, spin: Duration) -> Self {
        self.busy_poll = Some(spin);
        self
    }

    /// What to learn with every datagram.
    pub fn metadata(mut self, wanted: Metadata) -> Self {
        self.tuning.metadata = wanted;
        self
    }

    /// Longest payload to deliver, 1 to 65,535 bytes (the default); what is longer is cut and
    /// [flagged](crate::Datagram::is_truncated).
    pub fn max_datagram_size(mut self, bytes: usize) -> Self {
        self.tuning.max_datagram_size = bytes;
        self
    }

    /// Most messages taken from the kernel by one system call, 1 to 16 (the default).
    pub fn batch_size(mut self, messages: usize) -> Self {
        self.tuning.batch_size = messages;
        self
    }

    /// Opens the port with reading paused.
    pub fn start_paused(mut self, on: bool) -> Self {
        self.tuning.start_paused = on;
        self
    }

    /// The bound of the send queue: 1,024 datagrams and 1 MiB by default. Both hold.
    pub fn queue_limit(mut self, datagrams: usize, bytes: usize) -> Self {
        self.tuning.queue_datagrams = datagrams;
        self.tuning.queue_bytes = bytes;
        self
    }

    /// What happens at that bound.
    pub fn queue_policy(mut self, policy: QueuePolicy) -> Self {
        self.tuning.queue_policy = policy;
        self
    }

    /// The name of the port in logs; by default its kind and address.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.tuning.label = Some(label.into());
        self
    }
}

/// The checks of `UdpOptions`, and what they leave for the socket and for the port.
impl UdpOptions {
    pub(crate) fn check(self) -> Result<(DatagramSpec, Tuning), OptionError> {
        let family = match (self.address, self.family) {
            (None, family) => family.unwrap_or(Family::Dual),
            (Some(SocketAddr::V4(_)), None | Some(Family::V4)) => Family::V4,
            (Some(SocketAddr::V4(_)), Some(_)) => {
                return Err(OptionError::Contradiction {
                    reason: "an IPv4 address with an IPv6 family: use \"[::]\" for a dual-stack port",
                });
            }
            (Some(SocketAddr::V6(_)), Some(Family::V4)) => {
                return Err(OptionError::Contradiction {
                    reason: "an IPv6 address with the IPv4 family: leave the family out",
                });
            }
            (Some(SocketAddr::V6(v6)), None) if v6.ip().is_unspecified() => Family::Dual,
            // A mapped address can only be bound by a socket that speaks IPv4, too.
            (Some(SocketAddr::V6(v6)), None) if v6.ip().to_ipv4_mapped().is_some() => Family::Dual,
            (Some(SocketAddr::V6(_)), family) => family.unwrap_or(Family::V6Only),
        };
        if self.tos.is_some() && self.dscp.is_some() {
            return Err(OptionError::Contradiction {
                reason: "both tos and dscp: dscp is the upper six bits of tos, set one of them",
            });
        }
        let tuning = self.tuning;
        within("max_datagram_size", tuning.max_datagram_size as u64, 1, 65_535)?;
        within("batch_size", tuning.batch_size as u64, 1, crate::net::RECV_SLOTS as u64)?;
        within("queue_limit (datagrams)", tuning.queue_datagrams as u64, 1, 1 << 30)?;
        within("queue_limit (bytes)", tuning.queue_bytes as u64, 1, 1 << 40)?;

        let mut options = Vec::new();
        if let Some(bytes) = self.recv_buffer {
            options.push((SocketOption::RecvBuffer, buffer_size("recv_buffer_size", bytes)?));
        }
        if let Some(bytes) = self.send_buffer {
            options.push((SocketOption::SendBuffer, buffer_size("send_buffer_size", bytes)?));
        }
        if let Some(hops) = self.ttl {
            options.push((SocketOption::Ttl, check_ttl(hops)?));
            if tuning.multicast {
                options.push((SocketOption::MulticastTtl, hops));
            }
        }
        if let Some(byte) = self.tos {
            options.push((SocketOption::Tos, byte.into()));
        }
        if let Some(codepoint) = self.dscp {
            within("dscp", codepoint.into(), 0, 63)?;
            options.push((SocketOption::Tos, u32::from(codepoint) << 2));
        }
        if let Some(mode) = self.path_mtu {
            options.push((SocketOption::PathMtuMode, mode as u32));
        }
        if self.broadcast {
            options.push((SocketOption::Broadcast, 1));
        }
        if self.error_queue {
            options.push((SocketOption::ErrorQueue, 1));
        }
        if let Some(spin) = self.busy_poll {
            options.push((SocketOption::BusyPoll, busy_poll(spin)?));
        }
        let spec = DatagramSpec {
            family,
            bind: self.address,
            reuse_address: self.reuse_address,
            reuse_port: self.reuse_port,
            multicast: tuning.multicast,
            device: self.device,
            metadata: tuning.metadata,
            options,
        };
        Ok((spec, tuning))
    }
}

pub(crate) fn within(
    name: &'static str,
    value: u64,
    min: u64,
    max: u64,
) -> Result<(), OptionError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(OptionError::OutOfRange { name, value, min, max })
    }
}

pub(crate) fn check_ttl(hops: u32) -> Result<u32, OptionError> {
    within("ttl", hops.into(), 1, 255).map(|()| hops)
}

/// The kernel takes buffer sizes as an `int`.
pub(crate) fn buffer_size(name: &'static str, bytes: usize) -> Result<u32, OptionError> {
    within(name, bytes as u64, 1, i32::MAX as u64).map(|()| bytes as u32)
}

/// The kernel takes whole microseconds, as an `int`.
pub(crate) fn busy_poll(spin: Duration) -> Result<u32, OptionError> {
    let microseconds = spin.as_nanos().div_ceil(1000);
    let microseconds = u64::try_from(microseconds).unwrap_or(u64::MAX);
    within("busy_poll (microseconds)", microseconds, 0, i32::MAX as u64)?;
    Ok(microseconds as u32)
}

impl From<SocketAddr> for UdpOptions {
    fn from(address: SocketAddr) -> Self {
        Self::new(address)
    }
}

impl From<std::net::SocketAddrV4> for UdpOptions {
    fn from(address: std::net::SocketAddrV4) -> Self {
        Self::new(address)
    }
}

impl From<std::net::SocketAddrV6> for UdpOptions {
    fn from(address: std::net::SocketAddrV6) -> Self {
        Self::new(address)
    }
}

impl<I: Into<IpAddr>> From<(I, u16)> for UdpOptions {
    fn from((ip, port): (I, u16)) -> Self {
        Self::new(SocketAddr::new(ip.into(), port))
    }
}

/// That port of every IPv4 address of this host.
impl From<u16> for UdpOptions {
    fn from(port: u16) -> Self {
        Self::new((Ipv4Addr::UNSPECIFIED, port))
    }
}

impl TryFrom<&str> for UdpOptions {
    type Error = AddressError;
    fn try_from(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for UdpOptions {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        Self::parse(&text)
    }
}
