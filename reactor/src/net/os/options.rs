//! How the kernel calls options and metadata.

use std::io;

#[cfg(any(target_os = "linux", target_os = "android"))]
use socket2::Protocol;
use socket2::Socket;

use crate::datagram::Family;
#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::datagram::Metadata;
use crate::net::SocketOption;

/// Level and name, as setsockopt(2) wants them.
pub(super) type Name = (i32, i32);

/// The option of one family, or of both in the order they are set: on dual-stack sockets IPv6,
/// whose option is the one read, comes first.
#[derive(Clone, Copy)]
pub(super) struct Names {
    pub(super) first: Name,
    pub(super) second: Option<Name>,
}

impl Names {
    fn of(family: Family, v4: Name, v6: Name) -> Self {
        match family {
            Family::V4 => Self { first: v4, second: None },
            Family::V6Only => Self { first: v6, second: None },
            Family::Dual => Self { first: v6, second: (v4 != v6).then_some(v4) },
        }
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn iter(self) -> impl Iterator<Item = Name> {
        std::iter::once(self.first).chain(self.second)
    }
}

/// `None`: this system has no such option.
pub(super) fn names(option: SocketOption, family: Family) -> Option<Names> {
    use libc::{IPPROTO_IP as V4, IPPROTO_IPV6 as V6, SOL_SOCKET};
    let (v4, v6) = match option {
        SocketOption::Broadcast => common((SOL_SOCKET, libc::SO_BROADCAST)),
        SocketOption::RecvBuffer => common((SOL_SOCKET, libc::SO_RCVBUF)),
        SocketOption::SendBuffer => common((SOL_SOCKET, libc::SO_SNDBUF)),
        SocketOption::ReuseAddress => common((SOL_SOCKET, libc::SO_REUSEADDR)),
        SocketOption::ReusePort => common((SOL_SOCKET, libc::SO_REUSEPORT)),
        SocketOption::V6Only => common((V6, libc::IPV6_V6ONLY)),
        SocketOption::Ttl => ((V4, libc::IP_TTL), (V6, libc::IPV6_UNICAST_HOPS)),
        SocketOption::Tos => ((V4, libc::IP_TOS), (V6, libc::IPV6_TCLASS)),
        SocketOption::MulticastTtl => {
            ((V4, libc::IP_MULTICAST_TTL), (V6, libc::IPV6_MULTICAST_HOPS))
        }
        SocketOption::MulticastLoopback => {
            ((V4, libc::IP_MULTICAST_LOOP), (V6, libc::IPV6_MULTICAST_LOOP))
        }
        SocketOption::PathMtuMode
        | SocketOption::ErrorQueue
        | SocketOption::PathMtu
        | SocketOption::BusyPoll
        | SocketOption::MulticastAll => linux_only(option)?,
    };
    Some(Names::of(family, v4, v6))
}

fn common(name: Name) -> (Name, Name) {
    (name, name)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn linux_only(option: SocketOption) -> Option<(Name, Name)> {
    use libc::{IPPROTO_IP as V4, IPPROTO_IPV6 as V6};
    match option {
        SocketOption::PathMtuMode => {
            Some(((V4, libc::IP_MTU_DISCOVER), (V6, libc::IPV6_MTU_DISCOVER)))
        }
        SocketOption::ErrorQueue => Some(((V4, libc::IP_RECVERR), (V6, libc::IPV6_RECVERR))),
        SocketOption::PathMtu => Some(((V4, libc::IP_MTU), (V6, libc::IPV6_MTU))),
        SocketOption::BusyPoll => Some(common((libc::SOL_SOCKET, libc::SO_BUSY_POLL))),
        SocketOption::MulticastAll => {
            Some(((V4, libc::IP_MULTICAST_ALL), (V6, libc::IPV6_MULTICAST_ALL)))
        }
        _ => None,
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn linux_only(_option: SocketOption) -> Option<(Name, Name)> {
    None
}

/// Whether setting it makes sense.
pub(super) fn is_settable(option: SocketOption) -> bool {
    !matches!(
        option,
        SocketOption::PathMtu
            | SocketOption::ReuseAddress
            | SocketOption::ReusePort
            | SocketOption::V6Only
    )
}

/// What a user calls it.
pub(super) fn name(option: SocketOption) -> &'static str {
    match option {
        SocketOption::Broadcast => "broadcast_allowed",
        SocketOption::Ttl => "ttl",
        SocketOption::Tos => "tos",
        SocketOption::RecvBuffer => "recv_buffer_size",
        SocketOption::SendBuffer => "send_buffer_size",
        SocketOption::PathMtuMode | SocketOption::PathMtu => "path_mtu",
        SocketOption::ErrorQueue => "error_queue",
        SocketOption::BusyPoll => "busy_poll",
        SocketOption::MulticastTtl => "multicast_ttl",
        SocketOption::MulticastLoopback => "multicast_loopback",
        SocketOption::MulticastAll => "multicast_all",
        SocketOption::ReuseAddress => "reuse_address",
        SocketOption::ReusePort => "reuse_port",
        SocketOption::V6Only => "family",
    }
}

/// What a refusal means, where the kernel's number alone does not tell.
pub(super) fn refused(option: SocketOption, error: io::Error) -> io::Error {
    match (option, error.raw_os_error()) {
        (SocketOption::BusyPoll, Some(libc::EPERM)) => io::Error::new(
            io::ErrorKind::PermissionDenied,
            "more than before needs the right to administer the network (CAP_NET_ADMIN); the \
             administrator may raise it for all sockets (net.core.busy_read)",
        ),
        // A kernel built without it.
        (SocketOption::BusyPoll, Some(libc::ENOPROTOOPT)) => io::ErrorKind::Unsupported.into(),
        _ => error,
    }
}

/// What asks for each kind of metadata.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn metadata(family: Family) -> [(Metadata, Names); 5] {
    use libc::{IPPROTO_IP as V4, IPPROTO_IPV6 as V6, SOL_SOCKET};
    let per_family = |v4, v6| Names::of(family, (V4, v4), (V6, v6));
    let of_socket = |name| Names::of(family, (SOL_SOCKET, name), (SOL_SOCKET, name));
    [
        (Metadata::DESTINATION, per_family(libc::IP_PKTINFO, libc::IPV6_RECVPKTINFO)),
        (Metadata::HOP_LIMIT, per_family(libc::IP_RECVTTL, libc::IPV6_RECVHOPLIMIT)),
        (Metadata::ECN, per_family(libc::IP_RECVTOS, libc::IPV6_RECVTCLASS)),
        (Metadata::RECEIVE_TIME, of_socket(libc::SO_TIMESTAMPNS)),
        (Metadata::DROPS, of_socket(libc::SO_RXQ_OVFL)),
    ]
}

/// Whether the kernel says that it lacks this, rather than that something went wrong.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP | libc::EINVAL))
}

#[cfg(not(any(target_os = "solaris", target_os = "illumos")))]
pub(super) fn set_reuse_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

#[cfg(any(target_os = "solaris", target_os = "illumos"))]
pub(super) fn set_reuse_port(_socket: &Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Lets several ports get the datagrams of a group. On Linux `SO_REUSEADDR` does that alone, and
/// `SO_REUSEPORT` would spread unicast among them.
pub(super) fn share_for_multicast(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    if cfg!(any(target_os = "linux", target_os = "android")) {
        return Ok(());
    }
    match set_reuse_port(socket) {
        Err(error)
            if error.kind() == io::ErrorKind::Unsupported
                || error.raw_os_error() == Some(libc::ENOPROTOOPT) =>
        {
            Ok(())
        }
        other => other,
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn is_udp(socket: &Socket) -> bool {
    matches!(socket.protocol(), Ok(Some(Protocol::UDP)))
}

/// Only those systems that segment want to know.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn is_udp(_socket: &Socket) -> bool {
    false
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn device(socket: &Socket) -> io::Result<Option<String>> {
    Ok(socket.device()?.map(|name| String::from_utf8_lossy(&name).into_owned()))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn set_device(socket: &Socket, name: Option<&str>) -> io::Result<()> {
    socket.bind_device(name.map(str::as_bytes))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn device(_socket: &Socket) -> io::Result<Option<String>> {
    Ok(None)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn set_device(_socket: &Socket, _name: Option<&str>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
