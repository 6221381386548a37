//! Why a multicast call failed.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::IpAddr;

use crate::datagram::{Family, Interface};

/// Why a membership or the outgoing interface of a port was not changed; the port is as it was.
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
/// let error = port.join_group([192, 0, 2, 1], Interface::Default).unwrap_err();
/// assert!(matches!(error, MulticastError::NotAGroup { .. }));
/// assert!(error.to_string().contains("224.0.0.0"));
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum MulticastError {
    /// The address is no group: 224.0.0.0 to 239.255.255.255 are, and those of ff00::/8.
    NotAGroup {
        /// The address given for a group.
        address: IpAddr,
    },
    /// The address given for a source is none of a single host.
    NotASource {
        /// The address given for a source.
        address: IpAddr,
    },
    /// The group is not of the port's family. IPv4 groups need an IPv4 port: a dual-stack one does
    /// not join them.
    WrongFamily {
        /// The group, or the address of an interface.
        address: IpAddr,
        /// The port's family.
        family: Family,
    },
    /// The source, or the address of the interface, is of another family than the group.
    MixedFamilies {
        /// The group.
        group: IpAddr,
        /// The other address.
        other: IpAddr,
    },
    /// No interface has this index or name (or zone of an IPv6 address).
    UnknownInterface {
        /// What was asked for.
        interface: Interface,
    },
    /// No interface has this address.
    NotOurAddress {
        /// The address given for an interface.
        address: IpAddr,
    },
    /// Several interfaces have this address.
    AmbiguousAddress {
        /// The address given for an interface.
        address: IpAddr,
    },
    /// No interface would do: no route leads to the group
    /// ([`Interface::Default`]), or none is up and carries
    /// multicast ([`Interface::All`]).
    NoInterface {
        /// The group.
        group: IpAddr,
    },
    /// One interface is needed, and the call could mean several.
    NotOneInterface,
    /// The group (or that source of it) is joined on this interface already.
    AlreadyJoined {
        /// The group.
        group: IpAddr,
    },
    /// The group (or that source of it) is not joined on this interface.
    NotJoined {
        /// The group.
        group: IpAddr,
    },
    /// The source is blocked already.
    AlreadyBlocked {
        /// The source.
        source: IpAddr,
    },
    /// The source is not blocked.
    NotBlocked {
        /// The source.
        source: IpAddr,
    },
    /// The group is joined from every source, and the call is for a membership of chosen ones; or
    /// the other way round. A membership is of one kind (RFC 3678, section 4.1).
    FilterConflict {
        /// The group.
        group: IpAddr,
    },
    /// The system's limit on groups of a socket or on sources of a group is reached.
    TooMany {
        /// What the system said.
        source: io::Error,
    },
    /// The system does not offer this.
    Unsupported {
        /// What was asked for.
        name: &'static str,
    },
    /// The system refused.
    Io {
        /// The call that was refused.
        name: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The port is closed, or the reactor is gone.
    Closed,
}

impl MulticastError {
    /// The kind of `std` that fits best.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::NotAGroup { .. }
            | Self::NotASource { .. }
            | Self::WrongFamily { .. }
            | Self::MixedFamilies { .. }
            | Self::AmbiguousAddress { .. }
            | Self::NotOneInterface
            | Self::FilterConflict { .. } => io::ErrorKind::InvalidInput,
            Self::UnknownInterface { .. } | Self::NoInterface { .. } => io::ErrorKind::NotFound,
            Self::NotOurAddress { .. } | Self::NotJoined { .. } | Self::NotBlocked { .. } => {
                io::ErrorKind::AddrNotAvailable
            }
            Self::AlreadyJoined { .. } | Self::AlreadyBlocked { .. } => io::ErrorKind::AddrInUse,
            Self::TooMany { source } | Self::Io { source, .. } => source.kind(),
            Self::Unsupported { .. } => io::ErrorKind::Unsupported,
            Self::Closed => io::ErrorKind::NotConnected,
        }
    }

    /// Whether it is about one interface of several, and another may do.
    pub(crate) fn is_of_one_interface(&self) -> bool {
        matches!(
            self,
            Self::UnknownInterface { .. }
                | Self::AlreadyJoined { .. }
                | Self::NotJoined { .. }
                | Self::AlreadyBlocked { .. }
                | Self::NotBlocked { .. }
        )
    }
}

impl fmt::Display for MulticastError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAGroup { address } => write!(
                f,
                "{address} is no group: use one of 224.0.0.0 to 239.255.255.255, or of ff00::/8"
            ),
            Self::NotASource { address } => {
                write!(f, "{address} cannot be a source: use the address of a host")
            }
            Self::WrongFamily { address, family: Family::V4 } => {
                write!(f, "{address} does not fit an IPv4 port: open a port on [::] for it")
            }
            Self::WrongFamily { address, family: _ } => {
                write!(f, "{address} does not fit an IPv6 port: open a port on 0.0.0.0 for it")
            }
            Self::MixedFamilies { group, other } => {
                write!(f, "{other} is not of the family of group {group}: use an address that is")
            }
            Self::UnknownInterface { interface } => {
                write!(f, "there is no interface {interface}: see interfaces() for those there are")
            }
            Self::NotOurAddress { address } => write!(
                f,
                "no interface has the address {address}: see interfaces() for those there are"
            ),
            Self::AmbiguousAddress { address } => {
                write!(f, "several interfaces have the address {address}: use an index or a name")
            }
            Self::NoInterface { group } => {
                write!(f, "no route leads to group {group}: name an interface that is up")
            }
            Self::NotOneInterface => {
                f.write_str("one interface is needed: give its index, name or address")
            }
            Self::AlreadyJoined { group } => {
                write!(f, "group {group} is joined on this interface already: leave it first")
            }
            Self::NotJoined { group } => {
                write!(f, "group {group} is not joined in this way: leave as you joined")
            }
            Self::AlreadyBlocked { source } => write!(f, "source {source} is blocked already"),
            Self::NotBlocked { source } => {
                write!(f, "source {source} is not blocked: block it first")
            }
            Self::FilterConflict { group } => write!(
                f,
                "group {group} is joined with the other kind of source filter: leave it first"
            ),
            Self::TooMany { source } => write!(
                f,
                "too many groups or sources: spread them over several ports, or raise \
                 net.ipv4.igmp_max_memberships, igmp_max_msf, net.ipv6.mld_max_msf or \
                 net.core.optmem_max: {source}"
            ),
            Self::Unsupported { name } => write!(f, "{name} is not supported here"),
            Self::Io { name, source } => write!(f, "{name}: {source}"),
            Self::Closed => f.write_str("the port is closed"),
        }
    }
}

impl Error for MulticastError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::TooMany { source } | Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
