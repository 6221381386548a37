//! Multicast: ports for it, groups, and how datagrams to groups leave.
//!
//! What a call means for the memberships is in [`groups`](super::groups); naming interfaces in
//! [`interface`](super::interface).

use std::net::IpAddr;

use super::groups::Target;
use super::interface::Place;
use super::{DatagramProtocol, DatagramTransport, Family, Interface, UdpOptions, within};
use crate::Handle;
use crate::error::{ListenError, MulticastError, OptionError};
use crate::net::{GroupRequest, SocketOption};

/// Which sources of a group a port hears on an interface (RFC 3376, section 3.1); what
/// [`source_filter`](DatagramTransport::source_filter) reads.
///
/// ```
/// # use strand_reactor::*;
/// # use std::net::{IpAddr, Ipv4Addr};
/// # struct P;
/// # impl DatagramProtocol for P {
/// #     fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>)
/// #     -> anyhow::Result<()> { Ok(()) }
/// # }
/// # if !cfg!(target_os = "linux") { return Ok(()) }
/// let reactor = Reactor::new()?;
/// let port = reactor.listen_multicast(0, P)?;
/// let (group, lo) = ([239, 1, 2, 3], Ipv4Addr::LOCALHOST);
/// assert_eq!(port.source_filter(group, lo)?, None);
/// port.join_group(group, lo)?;
/// port.block_source(group, [192, 0, 2, 7], lo)?;
/// let blocked = IpAddr::from([192, 0, 2, 7]);
/// assert_eq!(port.source_filter(group, lo)?, Some(SourceFilter::Exclude(vec![blocked])));
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceFilter {
    /// These alone: the group was joined by [`join_source`](DatagramTransport::join_source).
    Include(Vec<IpAddr>),
    /// All but these: it was joined by [`join_group`](DatagramTransport::join_group).
    Exclude(Vec<IpAddr>),
}

impl Handle {
    /// Opens a UDP port for multicast and attaches a protocol to it, as
    /// [`listen_udp`](Self::listen_udp) does, but so that
    ///
    /// * several ports, of this program and of others that agree, share the number, and each gets
    ///   every datagram of the groups it joined (`SO_REUSEADDR`; of unicast, one gets it);
    /// * it hears those groups alone, and not, as is Linux's default, every group that any socket
    ///   of the host joined (`IP_MULTICAST_ALL` off, ip(7));
    /// * [`set_ttl`](DatagramTransport::set_ttl), and [`UdpOptions::ttl`], set the TTL of
    ///   multicast, too.
    ///
    /// Every other port can join groups just as well. Bind the port to 0.0.0.0 or `[::]` for groups
    /// of either family: a dual-stack port joins IPv6 groups alone.
    ///
    /// ```
    /// # use strand_reactor::*;
    /// # struct P;
    /// # impl DatagramProtocol for P {
    /// #     fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>)
    /// #     -> anyhow::Result<()> { Ok(()) }
    /// # }
    /// let reactor = Reactor::new()?;
    /// let first = reactor.listen_multicast(0, P)?;
    /// let second = reactor.listen_multicast(first.local_addr()?, P)?;
    /// second.set_ttl(2)?;
    /// assert_eq!((first.multicast_ttl()?, second.multicast_ttl()?), (1, 2));
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`listen_udp`](Self::listen_udp).
    pub fn listen_multicast<O, P>(
        &self,
        options: O,
        protocol: P,
    ) -> Result<DatagramTransport, ListenError>
    where
        O: TryInto<UdpOptions>,
        O::Error: Into<ListenError>,
        P: DatagramProtocol + 'static,
    {
        let mut options = options.try_into().map_err(Into::into)?;
        options.tuning.multicast = true;
        self.open_udp(options, None, Box::new(protocol))
    }
}

impl DatagramTransport {
    fn change(
        &self,
        request: GroupRequest,
        group: IpAddr,
        source: Option<IpAddr>,
        on: &Interface,
    ) -> Result<(), MulticastError> {
        self.with(|port, _, inner| {
            let target = Target::new(group, source, port.family)?;
            let present = inner.driver.borrow().interfaces();
            let present = present.map_err(|error| failed("interfaces", error))?;
            port.change_membership(request, target, on, &present)
        })
        .unwrap_or(Err(MulticastError::Closed))
    }

    /// Joins a group on an interface: its datagrams to the port's number are delivered from now on,
    /// whoever sends them. A port may join many groups, and a group on many interfaces.
    ///
    /// [`Interface::All`] joins on each interface that is up and multicast-capable now, save where
    /// the group is joined already; one that comes later is not joined by itself. On
    /// [`Interface::Default`] Linux takes an IPv6 group for joined that is joined on any interface.
    ///
    /// ```
    /// # use strand_reactor::*;
    /// # struct P;
    /// # impl DatagramProtocol for P {
    /// #     fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>)
    /// #     -> anyhow::Result<()> { Ok(()) }
    /// # }
    /// let reactor = Reactor::new()?;
    /// let port = reactor.listen_multicast(0, P)?;
    /// let interfaces = reactor.interfaces()?;
    /// let loopback = interfaces.iter().find(|one| one.is_loopback()).unwrap();
    /// port.join_group([239, 1, 2, 3], loopback)?;
    /// let twice = port.join_group([239, 1, 2, 3], loopback).unwrap_err();
    /// assert!(matches!(twice, MulticastError::AlreadyJoined { .. }));
    /// port.leave_group([239, 1, 2, 3], loopback)?;
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`MulticastError`]; nothing was changed then.
    pub fn join_group(
        &self,
        group: impl Into<IpAddr>,
        on: impl Into<Interface>,
    ) -> Result<(), MulticastError> {
        self.change(GroupRequest::Join, group.into(), None, &on.into())
    }

    /// Leaves a group, with the sources blocked or chosen in it: what arrives from now on is not
    /// delivered, while what waited in the port's buffer is. [`Interface::Default`] and
    /// [`Interface::All`] leave what a join on the same joined, on these very interfaces.
    ///
    /// # Errors
    /// [`MulticastError::NotJoined`], and as [`join_group`](Self::join_group).
    pub fn leave_group(
        &self,
        group: impl Into<IpAddr>,
        on: impl Into<Interface>,
    ) -> Result<(), MulticastError> {
        self.change(GroupRequest::Leave, group.into(), None, &on.into())
    }

    /// Joins a group for the datagrams of one source (source-specific multicast, RFC 4607; IPv4 and
    /// IPv6). Call it again for each further source.
    ///
    /// ```
    /// # use strand_reactor::*;
    /// # use std::net::Ipv4Addr;
    /// # struct P;
    /// # impl DatagramProtocol for P {
    /// #     fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>)
    /// #     -> anyhow::Result<()> { Ok(()) }
    /// # }
    /// # if !cfg!(target_os = "linux") { return Ok(()) }
    /// let reactor = Reactor::new()?;
    /// let port = reactor.listen_multicast(0, P)?;
    /// let (group, source) = ([232, 1, 2, 3], [192, 0, 2, 7]);
    /// port.join_source(group, source, Ipv4Addr::LOCALHOST)?;
    /// let filter = port.source_filter(group, Ipv4Addr::LOCALHOST)?;
    /// assert_eq!(filter, Some(SourceFilter::Include(vec![source.into()])));
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`MulticastError::FilterConflict`] where the group is joined from every source;
    /// `AlreadyJoined` for the same source; `Unsupported` on systems other than Linux; and as
    /// [`join_group`](Self::join_group).
    pub fn join_source(
        &self,
        group: impl Into<IpAddr>,
        source: impl Into<IpAddr>,
        on: impl Into<Interface>,
    ) -> Result<(), MulticastError> {
        self.change(GroupRequest::JoinSource, group.into(), Some(source.into()), &on.into())
    }

    /// Takes a [`join_source`](Self::join_source) back; with its last source the group is left.
    ///
    /// # Errors
    /// [`MulticastError::NotJoined`], and as [`join_source`](Self::join_source).
    pub fn leave_source(
        &self,
        group: impl Into<IpAddr>,
        source: impl Into<IpAddr>,
        on: impl Into<Interface>,
    ) -> Result<(), MulticastError> {
        self.change(GroupRequest::LeaveSource, group.into(), Some(source.into()), &on.into())
    }

    /// Hears a source no more in a group joined by [`join_group`](Self::join_group).
    ///
    /// # Errors
    /// [`MulticastError::AlreadyBlocked`]; `NotJoined`; `FilterConflict` where the group is joined
    /// by [`join_source`](Self::join_source); and as there.
    pub fn block_source(
        &self,
        group: impl Into<IpAddr>,
        source: impl Into<IpAddr>,
        on: impl Into<Interface>,
    ) -> Result<(), MulticastError> {
        self.change(GroupRequest::BlockSource, group.into(), Some(source.into()), &on.into())
    }

    /// Takes a [`block_source`](Self::block_source) back.
    ///
    /// # Errors
    /// [`MulticastError::NotBlocked`], and as [`block_source`](Self::block_source).
    pub fn unblock_source(
        &self,
        group: impl Into<IpAddr>,
        source: impl Into<IpAddr>,
        on: impl Into<Interface>,
    ) -> Result<(), MulticastError> {
        self.change(GroupRequest::UnblockSource, group.into(), Some(source.into()), &on.into())
    }

    /// Whether the group is joined on one interface, and the sources heard, as the system has it;
    /// `None` if it is not joined there. [`Interface::Default`] is the one that a join on it chose.
    ///
    /// # Errors
    /// [`MulticastError::NotOneInterface`] for [`Interface::All`]; `Unsupported` on systems other
    /// than Linux; and as [`join_group`](Self::join_group).
    pub fn source_filter(
        &self,
        group: impl Into<IpAddr>,
        on: impl Into<Interface>,
    ) -> Result<Option<SourceFilter>, MulticastError> {
        let (group, on) = (group.into(), on.into());
        self.with(|port, _, inner| {
            let target = Target::new(group, None, port.family)?;
            let present = inner.driver.borrow().interfaces();
            let present = present.map_err(|error| failed("interfaces", error))?;
            let interface = match target.resolve(&on, &present)? {
                Place::At(interface) => interface,
                Place::Default => match port.default_interface(target.group) {
                    Some(interface) => interface,
                    None => return Ok(None),
                },
                Place::All(_) => return Err(MulticastError::NotOneInterface),
            };
            let filter = port.socket.source_filter(target.group, interface);
            filter.map_err(|error| failed("source_filter", error))
        })
        .unwrap_or(Err(MulticastError::Closed))
    }

    /// The interface by which datagrams to groups leave: [`Interface::Index`], or
    /// [`Interface::Default`] as long as none was chosen.
    ///
    /// The system is asked. Over IPv4, Linux tells the source address alone if one was set, and
    /// nothing where an index was; the answer is then the interface that has the address, or the one
    /// that was set on this port.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn multicast_interface(&self) -> Result<Interface, OptionError> {
        self.setting(|port| match port.socket.multicast_interface() {
            Ok(0) => Ok(Interface::Default),
            Ok(index) => Ok(Interface::Index(index)),
            Err(source) => Err(OptionError::from_io("multicast_interface", source)),
        })
    }

    /// Chooses the interface by which datagrams to groups leave; [`Interface::Default`] leaves it to
    /// the routes again. An IPv4 address is also what they are sent from; an index or name lets the
    /// system choose one of the interface's.
    ///
    /// ```
    /// # use strand_reactor::*;
    /// # struct P;
    /// # impl DatagramProtocol for P {
    /// #     fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>)
    /// #     -> anyhow::Result<()> { Ok(()) }
    /// # }
    /// let reactor = Reactor::new()?;
    /// let port = reactor.listen_udp(0, P)?;
    /// assert_eq!(port.multicast_interface()?, Interface::Default);
    /// let interfaces = reactor.interfaces()?;
    /// let loopback = interfaces.iter().find(|one| one.is_loopback()).unwrap();
    /// port.set_multicast_interface(loopback)?;
    /// assert_eq!(port.multicast_interface()?, loopback.into());
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`MulticastError`]: an unknown interface, an address of no interface or of another family
    /// than the port's, [`Interface::All`]; nothing was changed then.
    pub fn set_multicast_interface(&self, on: impl Into<Interface>) -> Result<(), MulticastError> {
        let on = on.into();
        self.with(|port, _, inner| {
            let address = match on {
                Interface::Addr(address) => Some(address.to_canonical()),
                _ => None,
            };
            if let Some(address) = address
                && match port.family {
                    Family::V4 => !address.is_ipv4(),
                    Family::V6Only => address.is_ipv4(),
                    Family::Dual => false,
                }
            {
                return Err(MulticastError::WrongFamily { address, family: port.family });
            }
            let present = inner.driver.borrow().interfaces();
            let present = present.map_err(|error| failed("interfaces", error))?;
            let (index, source) = match (on.resolve(&present)?, address) {
                (Place::Default, _) => (0, None),
                (Place::At(index), Some(IpAddr::V4(source))) => (index, Some(source)),
                (Place::At(index), _) => (index, None),
                (Place::All(_), _) => return Err(MulticastError::NotOneInterface),
            };
            let set = port.socket.set_multicast_interface(index, source);
            set.map_err(|error| failed("multicast_interface", error))
        })
        .unwrap_or(Err(MulticastError::Closed))
    }

    /// The TTL or hop limit of datagrams to groups; 1 at first, which keeps them on the network.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn multicast_ttl(&self) -> Result<u32, OptionError> {
        self.get(SocketOption::MulticastTtl, "multicast_ttl")
    }

    /// Sets the TTL or hop limit of datagrams to groups, 0 (they stay on this host) to 255; of both
    /// families on a dual-stack port. The unicast one is another: [`set_ttl`](Self::set_ttl).
    ///
    /// ```
    /// # use strand_reactor::*;
    /// # struct P;
    /// # impl DatagramProtocol for P {
    /// #     fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>)
    /// #     -> anyhow::Result<()> { Ok(()) }
    /// # }
    /// let reactor = Reactor::new()?;
    /// let port = reactor.listen_udp(0, P)?;
    /// port.set_multicast_ttl(0)?;
    /// assert!(port.set_multicast_ttl(256).is_err());
    /// assert_eq!(port.multicast_ttl()?, 0);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`OptionError::OutOfRange`], and as every setter.
    pub fn set_multicast_ttl(&self, hops: u32) -> Result<(), OptionError> {
        within("multicast_ttl", hops.into(), 0, 255)?;
        self.set(SocketOption::MulticastTtl, "multicast_ttl", hops)
    }

    /// Whether members on this host hear what the port sends to their groups; on at first.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn multicast_loopback(&self) -> Result<bool, OptionError> {
        Ok(self.get(SocketOption::MulticastLoopback, "multicast_loopback")? != 0)
    }

    /// Sets whether members on this host, the port itself included, hear what the port sends to
    /// their groups (`IP_MULTICAST_LOOP`, `IPV6_MULTICAST_LOOP`).
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn set_multicast_loopback(&self, on: bool) -> Result<(), OptionError> {
        self.set(SocketOption::MulticastLoopback, "multicast_loopback", on.into())
    }
}

fn failed(name: &'static str, source: std::io::Error) -> MulticastError {
    match source.kind() {
        std::io::ErrorKind::Unsupported => MulticastError::Unsupported { name },
        _ => MulticastError::Io { name, source },
    }
}
