//! What ports and connections are opened with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::common::{Common, accept_setters, stream_setters, tcp_setters};
use crate::address::{Host, parse_address, parse_host};
use crate::datagram::{Family, within};
use crate::error::{AddressError, ConnectError, OptionError};
use crate::net::{ListenSpec, StreamSpec};
use crate::resolve::AddressFamily;

/// Probes of an idle connection (`SO_KEEPALIVE`, tcp(7)); the times are in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Idle time before the first probe (`TCP_KEEPIDLE`).
    pub idle: Duration,
    /// Time between probes (`TCP_KEEPINTVL`).
    pub interval: Duration,
    /// Unanswered probes after which the connection is lost (`TCP_KEEPCNT`).
    pub count: u32,
}

impl KeepAlive {
    pub(crate) fn check(self) -> Result<Self, OptionError> {
        within("keepalive (idle seconds)", self.idle.as_secs(), 1, 32_767)?;
        within("keepalive (interval seconds)", self.interval.as_secs(), 1, 32_767)?;
        within("keepalive (count)", self.count.into(), 1, 127)?;
        Ok(self)
    }
}

/// How many connections a port accepts in one turn of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AcceptBudget {
    /// More while many arrive, fewer when they do not: 16 to 512.
    #[default]
    Adaptive,
    /// This many, at least 1.
    Fixed(usize),
}

/// What every connection of a port or connector has in common, above its socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    pub(crate) high_watermark: usize,
    pub(crate) low_watermark: usize,
    pub(crate) write_limit: usize,
    pub(crate) close_timeout: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            high_watermark: 64 * 1024,
            low_watermark: 16 * 1024,
            write_limit: 256 << 20,
            close_timeout: Duration::from_secs(5),
        }
    }
}

impl Tuning {
    pub(crate) fn check(self) -> Result<Self, OptionError> {
        within("write_limit", self.write_limit as u64, 1, 1 << 40)?;
        check_watermarks(self.low_watermark, self.high_watermark)?;
        Ok(self)
    }
}

pub(crate) fn check_watermarks(low: usize, high: usize) -> Result<(), OptionError> {
    if low > high {
        return Err(OptionError::Contradiction {
            reason: "the low watermark is above the high one: writing would never resume",
        });
    }
    Ok(())
}

/// How to open a TCP port: an address, and options that have good defaults.
///
/// Wherever one is wanted, a `u16` (that port of 0.0.0.0), a `SocketAddr`, an `(IpAddr, u16)` or
/// a string such as `"127.0.0.1:9999"` or `"[::]:5353"` does as well.
///
/// ```
/// use strand_reactor::{PeerAddr, Protocol, Reactor, TcpOptions, Transport};
/// # struct P;
/// # impl Protocol for P {
/// #     fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> { Ok(()) }
/// # }
/// let reactor = Reactor::new()?;
/// let options = TcpOptions::parse("127.0.0.1:0")?.backlog(64).max_connections(10);
/// let port = reactor.listen_tcp(options, |_: PeerAddr| Some(P))?;
/// assert!(port.local_addr()?.is_ipv4());
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TcpOptions {
    address: SocketAddr,
    family: Option<Family>,
    backlog: u32,
    reuse_address: Option<bool>,
    reuse_port: bool,
    device: Option<String>,
    accept: Accept,
    common: Common,
}

/// How a port accepts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accept {
    pub(crate) budget: AcceptBudget,
    pub(crate) max_connections: Option<usize>,
    pub(crate) max_connections_per_peer: Option<usize>,
    pub(crate) start_paused: bool,
    pub(crate) label: Option<String>,
}

impl Accept {
    pub(crate) fn check(self) -> Result<Self, OptionError> {
        if let AcceptBudget::Fixed(budget) = self.budget {
            within("accept_budget", budget as u64, 1, 1 << 30)?;
        }
        for (name, limit) in [
            ("max_connections", self.max_connections),
            ("max_connections_per_peer", self.max_connections_per_peer),
        ] {
            within(name, limit.unwrap_or(1) as u64, 1, 1 << 30)?;
        }
        Ok(self)
    }
}

impl TcpOptions {
    /// A port bound to `address`; port number 0 lets the system choose one.
    ///
    /// `[::]` and every other IPv6 address mean [`Family::Dual`] and [`Family::V6Only`]
    /// respectively, unless [`family`](Self::family) says otherwise.
    pub fn new(address: impl Into<SocketAddr>) -> Self {
        Self {
            address: address.into(),
            family: None,
            backlog: 1024,
            reuse_address: None,
            reuse_port: false,
            device: None,
            accept: Accept::default(),
            common: Common::default(),
        }
    }

    /// As [`new`](Self::new), from text; see [`parse_address`](crate::parse_address).
    ///
    /// # Errors
    /// Text that is no address with a port. Names are not looked up.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        parse_address(text).map(Self::new)
    }

    /// Chooses between [`Family::V6Only`] and [`Family::Dual`] for an IPv6 address. Any other
    /// combination of family and address is an error at the call that opens the port.
    pub fn family(mut self, family: Family) -> Self {
        self.family = Some(family);
        self
    }

    /// Connections that may wait to be accepted: 1,024 by default. The system may clamp it
    /// (`net.core.somaxconn`).
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = connections;
        self
    }

    /// Whether the address may be taken while connections of an earlier port on it fade away
    /// (`SO_REUSEADDR`). On by default, but for port number 0.
    pub fn reuse_address(mut self, on: bool) -> Self {
        self.reuse_address = Some(on);
        self
    }

    /// Lets several ports share the address and the load (`SO_REUSEPORT`). Off by default.
    pub fn reuse_port(mut self, on: bool) -> Self {
        self.reuse_port = on;
        self
    }

    /// Accepts through this interface only (`SO_BINDTODEVICE`).
    pub fn device(mut self, name: impl Into<String>) -> Self {
        self.device = Some(name.into());
        self
    }

    /// Most connections of one IP address at once; one more is closed as soon as it is accepted.
    pub fn max_connections_per_peer(mut self, connections: usize) -> Self {
        self.accept.max_connections_per_peer = Some(connections);
        self
    }

    accept_setters!();
    tcp_setters!();
    stream_setters!();

    pub(crate) fn check(self) -> Result<(ListenSpec, Accept, Tuning), OptionError> {
        let family = match (self.address, self.family) {
            (SocketAddr::V4(_), None | Some(Family::V4)) => Family::V4,
            (SocketAddr::V4(_), Some(_)) => {
                return Err(OptionError::Contradiction {
                    reason: "an IPv4 address with an IPv6 family: use \"[::]\" for a dual-stack port",
                });
            }
            (SocketAddr::V6(_), Some(Family::V4)) => {
                return Err(OptionError::Contradiction {
                    reason: "an IPv6 address with the IPv4 family: leave the family out",
                });
            }
            (SocketAddr::V6(v6), None)
                if v6.ip().is_unspecified() || v6.ip().to_ipv4_mapped().is_some() =>
            {
                Family::Dual
            }
            (SocketAddr::V6(_), family) => family.unwrap_or(Family::V6Only),
        };
        let accept = self.accept.check()?;
        let tuning = self.common.tuning.check()?;
        let spec = ListenSpec {
            family,
            bind: self.address,
            backlog: self.backlog,
            reuse_address: self.reuse_address.unwrap_or(self.address.port() != 0),
            reuse_port: self.reuse_port,
            device: self.device,
            options: self.common.check()?,
        };
        Ok((spec, accept, tuning))
    }
}

/// How to connect over TCP: the peer's address or its name, and options that have good defaults.
///
/// Wherever one is wanted, a `SocketAddr`, an `(IpAddr, u16)`, a `("example.com", 80)` or a string
/// such as `"192.0.2.1:80"` or `"example.com:80"` does as well.
///
/// ```
/// use std::time::Duration;
/// use strand_reactor::ConnectOptions;
/// let options = ConnectOptions::parse("192.0.2.1:80")?.timeout(Duration::from_secs(3));
/// assert_eq!(options.addresses()[0].port(), 80);
/// # Ok::<(), strand_reactor::AddressError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Looked up for every attempt.
    host: Option<(String, u16)>,
    addresses: Vec<SocketAddr>,
    bind: Option<SocketAddr>,
    pub(crate) timeout: Duration,
    pub(crate) label: Option<String>,
    common: Common,
}

impl ConnectOptions {
    /// A connection to `peer`.
    pub fn new(peer: impl Into<SocketAddr>) -> Self {
        Self::any_of([peer.into()])
    }

    /// A connection to one of these addresses of the same peer, whichever answers first: they
    /// are tried one after the other, IPv6 and IPv4 by turns, each as soon as the one before has
    /// failed or 250 ms have passed (RFC 8305).
    ///
    /// ```
    /// use strand_reactor::ConnectOptions;
    /// let addresses = ["[2001:db8::1]:80".parse()?, "192.0.2.1:80".parse()?];
    /// assert_eq!(ConnectOptions::any_of(addresses).addresses(), addresses);
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub fn any_of(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            host: None,
            addresses: addresses.into_iter().collect(),
            bind: None,
            timeout: Duration::from_secs(30),
            label: None,
            common: Common::default(),
        }
    }

    /// A connection to the host of this name. Every attempt looks the name up anew, IPv6 and IPv4
    /// side by side as [`resolve`](crate::Handle::resolve) does, and tries the addresses as
    /// [`any_of`](Self::any_of) does while they come; those of IPv4 wait up to 50 ms for those of
    /// IPv6 (RFC 8305). The [`timeout`](Self::timeout) covers the lookup. An address as text is
    /// not looked up.
    ///
    /// ```
    /// use strand_reactor::ConnectOptions;
    /// assert!(ConnectOptions::host("example.com", 80).addresses().is_empty());
    /// let literal = ConnectOptions::host("192.0.2.1", 80);
    /// assert_eq!(literal.addresses(), ["192.0.2.1:80".parse()?]);
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub fn host(name: impl Into<String>, port: u16) -> Self {
        let name = name.into();
        match name.parse::<IpAddr>() {
            Ok(ip) => Self::new((ip, port)),
            Err(_) => Self { host: Some((name, port)), ..Self::any_of([]) },
        }
    }

    /// As [`new`](Self::new) or [`host`](Self::host), from text: what
    /// [`parse_address`](crate::parse_address) reads, or `"example.com:80"`.
    ///
    /// ```
    /// use strand_reactor::ConnectOptions;
    /// assert_eq!(ConnectOptions::parse("[::1]:80")?.addresses().len(), 1);
    /// assert!(ConnectOptions::parse("example.com:80")?.addresses().is_empty());
    /// assert!(ConnectOptions::parse("example.com").is_err());
    /// # Ok::<(), strand_reactor::AddressError>(())
    /// ```
    ///
    /// # Errors
    /// Text that is neither an address nor the name of a host, or without a port.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        Ok(match parse_host(text)? {
            Host::Address(address) => Self::new(address),
            Host::Name(name, port) => Self::host(name, port),
        })
    }

    pub(crate) fn host_and_port(&self) -> Option<(&str, u16)> {
        self.host.as_ref().map(|(name, port)| (name.as_str(), *port))
    }

    /// Which lookups a name needs: those of the family of the local address, or of both, IPv6
    /// first.
    pub(crate) fn families(&self) -> &'static [AddressFamily] {
        match self.bind {
            None => &[AddressFamily::V6, AddressFamily::V4],
            Some(SocketAddr::V6(_)) => &[AddressFamily::V6],
            Some(SocketAddr::V4(_)) => &[AddressFamily::V4],
        }
    }

    /// Where to connect to; empty when that is to be looked up.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.addresses.first().copied()
    }

    /// The target in logs.
    pub(crate) fn target(&self) -> String {
        match (&self.host, self.peer()) {
            (Some((name, port)), _) => format!("{name}:{port}"),
            (None, Some(peer)) => peer.to_string(),
            (None, None) => "nowhere".to_owned(),
        }
    }

    /// The local address to connect from; port number 0 lets the system choose one. Of a host's
    /// name, only addresses of the same family are looked up.
    pub fn local_addr(mut self, address: impl Into<SocketAddr>) -> Self {
        self.bind = Some(address.into());
        self
    }

    /// How long the attempt may take, with the lookup of a name: 30 s by default.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// The name of the connection in logs; by default its kind and the peer's address.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    tcp_setters!();
    stream_setters!();

    /// What can be said before anything is looked up.
    pub(crate) fn check_call(&self) -> Result<(), ConnectError> {
        let peer = match self.host {
            // Any address does: what is checked is the rest.
            Some(_) => self.bind.unwrap_or((Ipv4Addr::LOCALHOST, 0).into()),
            None => self.peer().ok_or(ConnectError::NoAddress)?,
        };
        self.check(peer)?;
        Ok(())
    }

    pub(crate) fn check(&self, peer: SocketAddr) -> Result<(StreamSpec, Tuning), OptionError> {
        let tuning = self.common.tuning.check()?;
        if let Some(bind) = self.bind
            && self.host.is_none()
            && self.addresses.iter().all(|to| to.is_ipv4() != bind.is_ipv4())
        {
            return Err(OptionError::Contradiction {
                reason: "the local address is of another family than every address to connect to",
            });
        }
        // For the others the system chooses.
        let bind = self.bind.filter(|bind| bind.is_ipv4() == peer.is_ipv4());
        let spec = StreamSpec { peer, bind, options: self.common.check()? };
        Ok((spec, tuning))
    }
}

macro_rules! conversions {
    ($options:ty) => {
        impl From<SocketAddr> for $options {
            fn from(address: SocketAddr) -> Self {
                Self::new(address)
            }
        }

        impl From<std::net::SocketAddrV4> for $options {
            fn from(address: std::net::SocketAddrV4) -> Self {
                Self::new(address)
            }
        }

        impl From<std::net::SocketAddrV6> for $options {
            fn from(address: std::net::SocketAddrV6) -> Self {
                Self::new(address)
            }
        }

        impl TryFrom<&str> for $options {
            type Error = AddressError;
            fn try_from(text: &str) -> Result<Self, AddressError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $options {
            type Error = AddressError;
            fn try_from(text: String) -> Result<Self, AddressError> {
                Self::parse(&text)
            }
        }
    };
}

conversions!(TcpOptions);
conversions!(ConnectOptions);

impl<I: Into<IpAddr>> From<(I, u16)> for TcpOptions {
    fn from((ip, port): (I, u16)) -> Self {
        Self::new(SocketAddr::new(ip.into(), port))
    }
}

// One by one: `&str` could become an address one day, as far as the compiler knows.
macro_rules! connects_to {
    ($($ip:ty),*) => {$(
        impl From<($ip, u16)> for ConnectOptions {
            fn from((ip, port): ($ip, u16)) -> Self {
                Self::new((ip, port))
            }
        }
    )*};
}

connects_to!(IpAddr, Ipv4Addr, Ipv6Addr, [u8; 4], [u8; 16], [u16; 8]);

impl From<(&str, u16)> for ConnectOptions {
    fn from((name, port): (&str, u16)) -> Self {
        Self::host(name, port)
    }
}

impl From<(String, u16)> for ConnectOptions {
    fn from((name, port): (String, u16)) -> Self {
        Self::host(name, port)
    }
}

/// That port of every IPv4 address of this host.
impl From<u16> for TcpOptions {
    fn from(port: u16) -> Self {
        Self::new((Ipv4Addr::UNSPECIFIED, port))
    }
}
