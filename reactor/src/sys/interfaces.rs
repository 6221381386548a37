//! The list of network interfaces: getifaddrs(3).

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

/// One entry of the list: an interface, with one of its addresses if the entry has an IP address.
pub(crate) struct InterfaceEntry {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `IFF_*`.
    pub(crate) flags: u32,
    pub(crate) address: Option<IpAddr>,
    pub(crate) netmask: Option<IpAddr>,
    pub(crate) broadcast: Option<Ipv4Addr>,
}

/// What getifaddrs allocated.
struct List(*mut libc::ifaddrs);

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: the pointer came from getifaddrs and is freed here alone.
        unsafe { libc::freeifaddrs(self.0) };
    }
}

/// Every entry of the system's list, in its order.
pub(crate) fn interface_entries() -> io::Result<Vec<InterfaceEntry>> {
    let mut first = ptr::null_mut();
    // SAFETY: the call writes one pointer.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let list = List(first);
    let mut entries = Vec::new();
    let mut next = list.0.cast_const();
    // SAFETY: `next` is null or an entry of the list, which lives until the end of this function.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next.cast_const();
        // SAFETY: every entry has a name that ends with a zero byte.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) };
        // SAFETY: as above. 0 says that the interface is gone by now.
        let index = unsafe { libc::if_nametoindex(entry.ifa_name) };
        if index == 0 {
            continue;
        }
        let flags = entry.ifa_flags;
        // SAFETY: each is null or points to a socket address in the list.
        let (address, netmask, broadcast) =
            unsafe { (ip(entry.ifa_addr), ip(entry.ifa_netmask), ip(broadcast_address(entry))) };
        entries.push(InterfaceEntry {
            index,
            name: name.to_string_lossy().into_owned(),
            flags,
            address,
            netmask,
            broadcast: match broadcast {
                Some(IpAddr::V4(broadcast)) if flags & libc::IFF_BROADCAST as u32 != 0 => {
                    Some(broadcast)
                }
                _ => None,
            },
        });
    }
    Ok(entries)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn broadcast_address(entry: &libc::ifaddrs) -> *const libc::sockaddr {
    entry.ifa_ifu
}

/// The BSDs keep the broadcast address and the other end of a line in one field.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn broadcast_address(entry: &libc::ifaddrs) -> *const libc::sockaddr {
    entry.ifa_dstaddr
}

/// The IP address in a socket address.
///
/// # Safety
/// The pointer is null, or points to a socket address as long as its family says.
unsafe fn ip(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: by contract. Read without a claim on alignment beyond what the caller's list has.
    match i32::from(unsafe { (*address).sa_family }) {
        libc::AF_INET => {
            // SAFETY: the family says that this is what lies there.
            let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}
