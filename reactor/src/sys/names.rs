//! The system's resolver: getaddrinfo(3).

use std::ffi::CStr;
use std::io;
use std::mem::zeroed;
use std::net::SocketAddr;
use std::ptr::{copy_nonoverlapping, null, null_mut};

use socket2::{SockAddr, SockAddrStorage};

/// "No address of this family", netdb.h; libc does not name it.
#[cfg(target_os = "linux")]
const EAI_ADDRFAMILY: libc::c_int = -9;

/// The addresses of a host, in the order of the system's choice; none when there is no such host.
/// Blocks for as long as the system takes.
///
/// `family` is `AF_INET`, `AF_INET6` or `AF_UNSPEC`.
pub(crate) fn host_addresses(name: &CStr, family: i32) -> io::Result<Vec<SocketAddr>> {
    // SAFETY: `addrinfo` is plain data for which all zeroes is valid: no hints.
    let mut hints: libc::addrinfo = unsafe { zeroed() };
    hints.ai_family = family;
    // Any type would do; without one each address would come once for each.
    hints.ai_socktype = libc::SOCK_STREAM;
    let mut list: *mut libc::addrinfo = null_mut();
    // SAFETY: `name` ends with a zero byte; it and `hints` outlive the call, which sets `list` only
    // when it succeeds.
    let code = unsafe { libc::getaddrinfo(name.as_ptr(), null(), &raw const hints, &raw mut list) };
    match code {
        0 => {}
        libc::EAI_NONAME => return Ok(Vec::new()),
        // Not every system tells "no such host" from "no such address".
        #[cfg(any(target_os = "linux", target_os = "android"))]
        libc::EAI_NODATA => return Ok(Vec::new()),
        #[cfg(target_os = "linux")]
        EAI_ADDRFAMILY => return Ok(Vec::new()),
        libc::EAI_SYSTEM => return Err(io::Error::last_os_error()),
        code => {
            // SAFETY: the text is a constant of the C library, ended by a zero byte.
            let text = unsafe { CStr::from_ptr(libc::gai_strerror(code)) };
            return Err(io::Error::other(text.to_string_lossy().into_owned()));
        }
    }
    let mut addresses = Vec::new();
    let mut entry = list;
    while !entry.is_null() {
        // SAFETY: `entry` is one of the list that getaddrinfo made, not yet freed.
        let info = unsafe { &*entry };
        // SAFETY: `ai_addr` points to `ai_addrlen` bytes of an address, and no more than the storage
        // holds are copied into it; it began zeroed.
        let copied = unsafe {
            SockAddr::try_init(|storage: *mut SockAddrStorage, len| {
                let bytes = (info.ai_addrlen as usize).min(size_of::<SockAddrStorage>());
                copy_nonoverlapping(info.ai_addr.cast::<u8>(), storage.cast::<u8>(), bytes);
                *len = bytes as libc::socklen_t;
                Ok(())
            })
        };
        if let Ok(((), address)) = copied {
            addresses.extend(address.as_socket());
        }
        entry = info.ai_next;
    }
    // SAFETY: the list came from getaddrinfo, is freed once, and nothing refers to it any more.
    unsafe { libc::freeaddrinfo(list) };
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_need_no_server() {
        let addresses = host_addresses(c"192.0.2.1", libc::AF_UNSPEC).unwrap();
        assert_eq!(addresses, ["192.0.2.1:0".parse().unwrap()]);
        let addresses = host_addresses(c"fe80::1%1", libc::AF_INET6).unwrap();
        assert_eq!(addresses, ["[fe80::1%1]:0".parse().unwrap()]);
    }
}
