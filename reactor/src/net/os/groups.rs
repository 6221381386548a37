//! Multicast as the kernel takes it.
//!
//! Linux names interfaces by index in every call (RFC 3678), for both families. Elsewhere the older
//! calls are used: by index to join, by address for the rest of IPv4, and without source filters
//! for IPv6.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use super::socket::Endpoint;
use crate::datagram::{Family, SourceFilter};
use crate::interfaces::NetworkInterface;
use crate::net::{GroupRequest, Membership};
use crate::sys;

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn change_membership(
    endpoint: &Endpoint,
    request: GroupRequest,
    at: &Membership,
) -> io::Result<()> {
    let name = match request {
        GroupRequest::Join => libc::MCAST_JOIN_GROUP,
        GroupRequest::Leave => libc::MCAST_LEAVE_GROUP,
        GroupRequest::JoinSource => libc::MCAST_JOIN_SOURCE_GROUP,
        GroupRequest::LeaveSource => libc::MCAST_LEAVE_SOURCE_GROUP,
        GroupRequest::BlockSource => libc::MCAST_BLOCK_SOURCE,
        GroupRequest::UnblockSource => libc::MCAST_UNBLOCK_SOURCE,
    };
    match at.source {
        None => sys::request_group(endpoint.fd(), name, at.interface, at.group),
        Some(source) => sys::request_source(endpoint.fd(), name, at.interface, at.group, source),
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn source_filter(
    endpoint: &Endpoint,
    group: IpAddr,
    interface: u32,
) -> io::Result<Option<SourceFilter>> {
    match sys::source_filter(endpoint.fd(), interface, group) {
        Ok((true, sources)) => Ok(Some(SourceFilter::Exclude(sources))),
        Ok((false, sources)) => Ok(Some(SourceFilter::Include(sources))),
        // ENODEV: the interface has no address of that family, or is gone.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn change_membership(
    endpoint: &Endpoint,
    request: GroupRequest,
    at: &Membership,
) -> io::Result<()> {
    use socket2::InterfaceIndexOrAddress::Index;
    let socket = &endpoint.socket;
    match (request, at.group) {
        (GroupRequest::Join, IpAddr::V4(group)) => {
            socket.join_multicast_v4_n(&group, &Index(at.interface))
        }
        (GroupRequest::Leave, IpAddr::V4(group)) => {
            socket.leave_multicast_v4_n(&group, &Index(at.interface))
        }
        (GroupRequest::Join, IpAddr::V6(group)) => socket.join_multicast_v6(&group, at.interface),
        (GroupRequest::Leave, IpAddr::V6(group)) => socket.leave_multicast_v6(&group, at.interface),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn source_filter(
    _endpoint: &Endpoint,
    _group: IpAddr,
    _interface: u32,
) -> io::Result<Option<SourceFilter>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// IPv6 tells the index. IPv4 tells the source address if one was set, and otherwise nothing: then
/// the index is the one that was set through us.
pub(super) fn multicast_interface(endpoint: &Endpoint) -> io::Result<u32> {
    if endpoint.family != Family::V4 {
        let (level, name) = (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF);
        return Ok(sys::option(endpoint.fd(), level, name)?.cast_unsigned());
    }
    let bytes = sys::option(endpoint.fd(), libc::IPPROTO_IP, libc::IP_MULTICAST_IF)?;
    let source = Ipv4Addr::from(bytes.to_ne_bytes());
    if source.is_unspecified() {
        return Ok(endpoint.multicast_interface.get());
    }
    let owners: Vec<u32> = NetworkInterface::list()?
        .iter()
        .filter(|interface| interface.has_address(source.into()))
        .map(NetworkInterface::index)
        .collect();
    let known = endpoint.multicast_interface.get();
    match owners.first() {
        // One address on several interfaces: the one that was asked for.
        _ if owners.contains(&known) => Ok(known),
        Some(owner) => Ok(*owner),
        None => Ok(known),
    }
}

pub(super) fn set_multicast_interface(
    endpoint: &Endpoint,
    interface: u32,
    source: Option<Ipv4Addr>,
) -> io::Result<()> {
    if endpoint.family != Family::V4 {
        let (level, name) = (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF);
        sys::set_option(endpoint.fd(), level, name, interface.cast_signed())?;
    }
    // Elsewhere the options of IPv4 may not exist on sockets of IPv6.
    let linux = cfg!(any(target_os = "linux", target_os = "android"));
    if endpoint.family == Family::V4 || (linux && endpoint.family == Family::Dual) {
        set_multicast_interface_v4(endpoint, interface, source)?;
        endpoint.multicast_interface.set(interface);
    }
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn set_multicast_interface_v4(
    endpoint: &Endpoint,
    interface: u32,
    source: Option<Ipv4Addr>,
) -> io::Result<()> {
    let source = source.unwrap_or(Ipv4Addr::UNSPECIFIED);
    sys::set_multicast_interface_v4(endpoint.fd(), interface, source)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn set_multicast_interface_v4(
    endpoint: &Endpoint,
    interface: u32,
    source: Option<Ipv4Addr>,
) -> io::Result<()> {
    let address = match (source, interface) {
        (Some(source), _) => source,
        (None, 0) => Ipv4Addr::UNSPECIFIED,
        (None, index) => NetworkInterface::list()?
            .iter()
            .filter(|interface| interface.index() == index)
            .flat_map(|interface| interface.addresses())
            .find_map(|address| match address.ip() {
                IpAddr::V4(v4) => Some(v4),
                IpAddr::V6(_) => None,
            })
            .ok_or(io::ErrorKind::AddrNotAvailable)?,
    };
    endpoint.socket.set_multicast_if_v4(&address)
}
