//! Multicast groups: joining and leaving for IPv4 and IPv6 alike (RFC 3678).

use std::io;
use std::mem::{offset_of, size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::name::Name;
use crate::sys::counted;

/// Sources that a filter is first asked for; the kernel keeps 10 (IPv4) or 64 (IPv6) at most
/// unless the administrator allows more.
const SOURCES: usize = 64;

/// `struct group_req` of linux/in.h.
#[repr(C)]
struct GroupRequest {
    interface: u32,
    group: libc::sockaddr_storage,
}

/// `struct group_source_req` of linux/in.h.
#[repr(C)]
struct SourceRequest {
    interface: u32,
    group: libc::sockaddr_storage,
    source: libc::sockaddr_storage,
}

/// `struct group_filter` of linux/in.h with room for some sources.
#[repr(C)]
struct GroupFilter {
    interface: u32,
    group: libc::sockaddr_storage,
    mode: u32,
    count: u32,
    sources: [libc::sockaddr_storage; SOURCES],
}

fn storage(ip: IpAddr) -> libc::sockaddr_storage {
    // SAFETY: plain data for which all zeroes is valid.
    let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
    let mut name = Name::zeroed();
    name.set(&SocketAddr::new(ip, 0));
    // SAFETY: a storage has room for, and the alignment of, every socket address.
    unsafe { (&raw mut storage).cast::<Name>().write(name) };
    storage
}

fn ip(storage: &libc::sockaddr_storage) -> Option<IpAddr> {
    // SAFETY: a storage is aligned for and longer than every socket address, and is initialised.
    let name = unsafe { (&raw const *storage).cast::<Name>().read() };
    Some(name.get(Name::LEN)?.ip())
}

fn level(group: IpAddr) -> libc::c_int {
    match group {
        IpAddr::V4(_) => libc::IPPROTO_IP,
        IpAddr::V6(_) => libc::IPPROTO_IPV6,
    }
}

/// Makes one of the `MCAST_*` requests that take a group and no source.
pub(crate) fn request_group(
    fd: BorrowedFd<'_>,
    request: libc::c_int,
    interface: u32,
    group: IpAddr,
) -> io::Result<()> {
    set(fd, level(group), request, &GroupRequest { interface, group: storage(group) })
}

/// Makes one of the `MCAST_*` requests that take a group and a source.
pub(crate) fn request_source(
    fd: BorrowedFd<'_>,
    request: libc::c_int,
    interface: u32,
    group: IpAddr,
    source: IpAddr,
) -> io::Result<()> {
    let wanted = SourceRequest { interface, group: storage(group), source: storage(source) };
    set(fd, level(group), request, &wanted)
}

/// Chooses the interface that IPv4 groups are sent to by, and the source address (0.0.0.0 leaves it
/// to the kernel).
pub(crate) fn set_multicast_interface_v4(
    fd: BorrowedFd<'_>,
    interface: u32,
    source: Ipv4Addr,
) -> io::Result<()> {
    let wanted = libc::ip_mreqn {
        imr_multiaddr: libc::in_addr { s_addr: 0 },
        imr_address: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
        imr_ifindex: interface.cast_signed(),
    };
    set(fd, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &wanted)
}

fn set<T>(fd: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads at most `len` bytes, the size of `value`.
    counted(|| unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const *value).cast(), len) as isize
    })?;
    Ok(())
}

/// The source filter of a membership, and whether its sources are excluded (as opposed to the only
/// ones included); `AddrNotAvailable` without a membership.
pub(crate) fn source_filter(
    fd: BorrowedFd<'_>,
    interface: u32,
    group: IpAddr,
) -> io::Result<(bool, Vec<IpAddr>)> {
    let mut room = 1;
    loop {
        // SAFETY: plain data for which all zeroes is valid.
        let mut filters: Vec<GroupFilter> = (0..room).map(|_| unsafe { zeroed() }).collect();
        let slots = (size_of::<GroupFilter>() * room - offset_of!(GroupFilter, sources))
            / size_of::<libc::sockaddr_storage>();
        filters[0].interface = interface;
        filters[0].group = storage(group);
        filters[0].count = slots as u32;
        let bytes = size_of::<GroupFilter>() * room;
        let mut len = bytes as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes, what the vector has initialised.
        counted(|| unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                level(group),
                libc::MCAST_MSFILTER,
                filters.as_mut_ptr().cast(),
                &raw mut len,
            ) as isize
        })?;
        let count = filters[0].count as usize;
        if count > slots {
            room = count / SOURCES + 1;
            continue;
        }
        let start = offset_of!(GroupFilter, sources);
        // SAFETY: `start` and the `count` sources behind it lie in the vector, since `count` is at
        // most `slots`; an array of storages begins there, and every pattern is valid for them.
        let sources = unsafe {
            let first = filters.as_ptr().cast::<u8>().add(start);
            std::slice::from_raw_parts(first.cast::<libc::sockaddr_storage>(), count)
        };
        let excluded = filters[0].mode == libc::MCAST_EXCLUDE as u32;
        return Ok((excluded, sources.iter().filter_map(ip).collect()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_storage() {
        for text in ["239.1.2.3", "ff15::7"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(ip(&storage(address)), Some(address));
        }
    }
}
