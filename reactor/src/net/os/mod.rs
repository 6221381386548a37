//! The kernel's sockets, under mio's poller.
//!
//! | file | what is in it |
//! |---|---|
//! | `mod.rs` | [`OsDriver`]: opening and adopting |
//! | `poller.rs` | waiting for events, and being woken |
//! | `socket.rs` | what every socket does in the same way: addresses, options, readiness |
//! | `groups.rs` | multicast: memberships, and the interface that groups are sent to by |
//! | `options.rs` | how options and metadata are called by the kernel |
//! | `batched.rs` | many datagrams by one system call, and all that Linux adds |
//! | `portable.rs` | one datagram by one system call, on every unix |
//! | `stream.rs` | listening and stream sockets |
//! | `unix.rs` | UNIX sockets: their addresses, and datagrams |
//! | `unix_path.rs` | taking a path, with its mode bits, and giving it back |

#[cfg(any(target_os = "linux", target_os = "android"))]
mod batched;
mod groups;
mod options;
mod poller;
mod portable;
mod socket;
mod stream;
#[cfg(all(test, target_os = "linux"))]
mod tests;
mod unix;
mod unix_path;

use std::io;
use std::net::SocketAddr;
#[cfg(feature = "signals")]
use std::os::fd::BorrowedFd;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use self::poller::Poller;
use self::portable::Portable;
use self::socket::{Endpoint, OsSocket, Transfer};
pub(super) use self::stream::OsStream;
use super::{
    BusyPolls, DatagramSocket, DatagramSpec, Driver, Event, ListenSocket, ListenSpec, OpenError,
    Ownership, SocketOption, StreamLink, StreamSocket, StreamSpec, UnixDatagramSocket,
    UnixDatagramSpec, UnixListenSpec, UnixSpec, Wake,
};
use crate::datagram::Family;
use crate::error::AdoptError;
use crate::interfaces::NetworkInterface;
use crate::sys;

/// The driver of a reactor that is not simulated.
pub(crate) struct OsDriver {
    poller: Poller,
    /// `None`: one datagram at a time.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    batching: Option<batched::Batching>,
}

impl OsDriver {
    /// `portable`: sends and receives one datagram at a time even where batches are offered.
    /// `busy`: how long a poll spins before it sleeps.
    pub(crate) fn new(portable: bool, busy: Duration) -> io::Result<Self> {
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let _ = portable;
        Ok(Self {
            poller: Poller::new(busy)?,
            #[cfg(any(target_os = "linux", target_os = "android"))]
            batching: (!portable).then(batched::Batching::probe),
        })
    }

    fn endpoint(&self, socket: Socket, family: Family, token: usize) -> Endpoint {
        Endpoint::new(socket, family, self.poller.registration(token))
    }
}

impl Driver for OsDriver {
    #[allow(clippy::disallowed_methods, reason = "this is where time comes from")]
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn poll(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        self.poller.poll(timeout, events)
    }

    fn busy_polls(&self) -> BusyPolls {
        self.poller.busy_polls()
    }

    fn wake(&self) -> Wake {
        self.poller.wake()
    }

    #[cfg(feature = "signals")]
    fn watch_waker(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.poller.watch_waker(fd)
    }

    #[cfg(feature = "signals")]
    fn unwatch_waker(&mut self, fd: BorrowedFd<'_>) {
        self.poller.unwatch_waker(fd);
    }

    fn open_datagram(
        &mut self,
        spec: &DatagramSpec,
        token: usize,
    ) -> Result<Rc<dyn DatagramSocket>, OpenError> {
        let domain = match spec.family {
            Family::V4 => Domain::IPV4,
            Family::V6Only | Family::Dual => Domain::IPV6,
        };
        let socket =
            Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).map_err(OpenError::Socket)?;
        socket.set_nonblocking(true).map_err(OpenError::Socket)?;
        let endpoint = self.endpoint(socket, spec.family, token);
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(batching) = &self.batching {
            return Ok(configure(endpoint, batching.opened(), spec)?);
        }
        Ok(configure(endpoint, Portable::default(), spec)?)
    }

    fn adopt_datagram(
        &mut self,
        fd: OwnedFd,
        ownership: Ownership,
        token: usize,
    ) -> Result<Rc<dyn DatagramSocket>, AdoptError> {
        let Examined { fd, family, udp } = examine(fd)?;
        let socket = Socket::from(fd);
        if ownership == Ownership::Owned {
            socket.set_nonblocking(true).map_err(AdoptError::Socket)?;
            socket.set_cloexec(true).map_err(AdoptError::Socket)?;
        }
        let endpoint = self.endpoint(socket, family, token);
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            let merging = udp && batched::merges(endpoint.fd());
            if let Some(batching) = &self.batching {
                endpoint.register().map_err(AdoptError::Socket)?;
                return Ok(Rc::new(OsSocket::new(endpoint, batching.adopted(udp, merging))));
            }
            if merging {
                let reason =
                    "UDP_GRO is on, which receiving one datagram at a time cannot take apart";
                let error = io::Error::new(io::ErrorKind::Unsupported, reason);
                return Err(AdoptError::Socket(error));
            }
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let _ = udp;
        endpoint.register().map_err(AdoptError::Socket)?;
        Ok(Rc::new(OsSocket::new(endpoint, Portable::default())))
    }

    fn listen_stream(
        &mut self,
        spec: &ListenSpec,
        token: usize,
    ) -> Result<Rc<dyn ListenSocket>, OpenError> {
        let registration = self.poller.registration(token);
        Ok(Rc::new(stream::OsListener::open(spec, registration)?))
    }

    fn open_stream(
        &mut self,
        spec: &StreamSpec,
        token: usize,
    ) -> Result<Rc<dyn StreamSocket>, OpenError> {
        let registration = self.poller.registration(token);
        Ok(Rc::new(OsStream::connect(spec, &registration)?))
    }

    fn open_link(&mut self, spec: &StreamSpec, token: usize) -> Result<StreamLink, OpenError> {
        OsStream::connect(spec, &self.poller.registration(token)).map(StreamLink::System)
    }

    fn adopt_listener(
        &mut self,
        fd: OwnedFd,
        ownership: Ownership,
        token: usize,
    ) -> Result<Rc<dyn ListenSocket>, AdoptError> {
        let registration = self.poller.registration(token);
        Ok(Rc::new(stream::OsListener::adopt(fd, ownership, registration)?))
    }

    fn adopt_stream(
        &mut self,
        fd: OwnedFd,
        ownership: Ownership,
        token: usize,
    ) -> Result<Rc<dyn StreamSocket>, AdoptError> {
        let registration = self.poller.registration(token);
        Ok(Rc::new(OsStream::adopt(fd, ownership, &registration)?))
    }

    fn listen_unix(
        &mut self,
        spec: &UnixListenSpec,
        token: usize,
    ) -> Result<Rc<dyn ListenSocket>, OpenError> {
        let registration = self.poller.registration(token);
        Ok(Rc::new(stream::OsListener::open_unix(spec, registration)?))
    }

    fn connect_unix(
        &mut self,
        spec: &UnixSpec,
        token: usize,
    ) -> Result<Rc<dyn StreamSocket>, OpenError> {
        let registration = self.poller.registration(token);
        Ok(Rc::new(OsStream::connect_unix(spec, &registration)?))
    }

    fn open_unix_datagram(
        &mut self,
        spec: &UnixDatagramSpec,
        token: usize,
    ) -> Result<Rc<dyn UnixDatagramSocket>, OpenError> {
        let registration = self.poller.registration(token);
        Ok(Rc::new(unix::OsUnixDatagram::open(spec, registration)?))
    }

    fn adopt_unix_datagram(
        &mut self,
        fd: OwnedFd,
        token: usize,
    ) -> Result<Rc<dyn UnixDatagramSocket>, AdoptError> {
        let registration = self.poller.registration(token);
        Ok(Rc::new(unix::OsUnixDatagram::adopt(fd, registration)?))
    }

    fn interfaces(&self) -> io::Result<Vec<NetworkInterface>> {
        NetworkInterface::list()
    }
}

/// Everything between the socket's birth and its first event. A failure drops it, which closes it.
fn configure<T: Transfer>(
    endpoint: Endpoint,
    transfer: T,
    spec: &DatagramSpec,
) -> Result<Rc<OsSocket<T>>, OpenError> {
    let named = |name| move |error| OpenError::Option(name, error);
    let socket = OsSocket::new(endpoint, transfer);
    if spec.family != Family::V4 {
        // The default is the administrator's (net.ipv6.bindv6only).
        let alone = spec.family == Family::V6Only;
        socket.inner().set_only_v6(alone).map_err(named("family"))?;
    }
    if spec.reuse_address {
        socket.inner().set_reuse_address(true).map_err(named("reuse_address"))?;
    }
    if spec.reuse_port {
        options::set_reuse_port(socket.inner()).map_err(named("reuse_port"))?;
    }
    if spec.multicast {
        options::share_for_multicast(socket.inner()).map_err(named("reuse_address"))?;
        // Kernels without the option cannot be told; IPv6 has it since Linux 4.20.
        let _ = socket.set_option(SocketOption::MulticastAll, 0);
    }
    if let Some(device) = &spec.device {
        socket.set_device(Some(device)).map_err(named("device"))?;
    }
    // Before the bind: datagrams may arrive right after it.
    for &(option, value) in &spec.options {
        socket.set_option(option, value).map_err(named(options::name(option)))?;
    }
    socket.set_metadata(spec.metadata).map_err(named("metadata"))?;
    if let Some(address) = spec.bind {
        socket.bind(address).map_err(OpenError::Bind)?;
    }
    socket.register().map_err(OpenError::Socket)?;
    Ok(Rc::new(socket))
}

/// What to say of a descriptor that is none of a socket.
fn not_a_socket(fd: OwnedFd, error: io::Error) -> AdoptError {
    if error.raw_os_error() == Some(libc::EBADF) {
        // Not open, so not ours: closing the number could hit another's file.
        let _ = fd.into_raw_fd();
    }
    AdoptError::BadDescriptor(error)
}

/// A descriptor found to be a socket that carries datagrams over IP.
struct Examined {
    fd: OwnedFd,
    family: Family,
    /// UDP, as opposed to raw sockets, echo sockets of ICMP and UDP-Lite.
    udp: bool,
}

fn examine(fd: OwnedFd) -> Result<Examined, AdoptError> {
    let kind = match SockRef::from(&fd).r#type() {
        Ok(kind) => kind,
        Err(error) => {
            return Err(match error.raw_os_error() {
                Some(libc::EBADF) => {
                    // Not open, so not ours: closing the number could hit another's file.
                    let _ = fd.into_raw_fd();
                    AdoptError::BadDescriptor(error)
                }
                Some(libc::ENOTSOCK) => AdoptError::BadDescriptor(error),
                _ => AdoptError::Socket(error),
            });
        }
    };
    if kind != Type::DGRAM && kind != Type::RAW {
        let listening = sys::option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_ACCEPTCONN);
        let found = match kind {
            Type::STREAM if listening.is_ok_and(|on| on != 0) => "a listening stream socket".into(),
            Type::STREAM => "a stream socket".into(),
            other => format!("a socket of type {}", i32::from(other)),
        };
        return Err(AdoptError::NotDatagram { found });
    }
    let socket = SockRef::from(&fd);
    let family = match socket.local_addr().map_err(AdoptError::Socket)?.domain() {
        Domain::IPV4 => Family::V4,
        // A raw socket of IPv6 never carries IPv4, whatever IPV6_V6ONLY says.
        Domain::IPV6 if kind == Type::RAW => Family::V6Only,
        Domain::IPV6 => match socket.only_v6().map_err(AdoptError::Socket)? {
            true => Family::V6Only,
            false => Family::Dual,
        },
        other => return Err(AdoptError::Family { found: other.into() }),
    };
    let udp = kind == Type::DGRAM && options::is_udp(&socket);
    Ok(Examined { fd, family, udp })
}

/// The address of a source that the kernel did not name.
fn nobody(family: Family) -> SocketAddr {
    match family {
        Family::V4 => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        Family::V6Only | Family::Dual => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
