//! Listening and stream sockets of the kernel.

use std::fs::File;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use super::poller::{Registered, Registration};
use super::unix_path::{self, Claim};
use super::{options, unix};
use crate::datagram::Family;
use crate::error::AdoptError;
use crate::net::{
    ListenSocket, ListenSpec, OpenError, Ownership, StreamLink, StreamOption, StreamSocket,
    StreamSpec, UnixListenSpec, UnixSpec,
};
use crate::stream::{KeepAlive, PeerAddr};
use crate::sys;
use crate::unix::{PeerCredentials, UnixAddr};

/// Writing to a stream that the peer has closed is an error and no signal; nor does it block, even
/// on a descriptor whose original does.
#[cfg(not(target_vendor = "apple"))]
const FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
/// There the socket carries `SO_NOSIGPIPE`.
#[cfg(target_vendor = "apple")]
const FLAGS: i32 = libc::MSG_DONTWAIT;

/// A descriptor kept for the day when there is no other: giving it up makes room to take the
/// connections that wait, and to close them. One for the process, for the limit is the process's.
static RESERVE: Mutex<Option<File>> = Mutex::new(None);

/// Opens the reserve, unless it is there.
fn keep_reserve(reserve: &mut Option<File>) {
    if reserve.is_none() {
        *reserve = File::open("/dev/null").ok();
    }
}

pub(super) struct OsListener {
    /// First: the path is looked at while the socket still holds its inode.
    _claim: Option<Claim>,
    socket: Socket,
    registration: Registration,
    /// For systems and families where an accepted socket does not take after its listener.
    options: Vec<StreamOption>,
}

impl OsListener {
    pub(super) fn open(spec: &ListenSpec, registration: Registration) -> Result<Self, OpenError> {
        let named = |name| move |error| OpenError::Option(name, error);
        let domain = match spec.family {
            Family::V4 => Domain::IPV4,
            Family::V6Only | Family::Dual => Domain::IPV6,
        };
        let socket =
            Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).map_err(OpenError::Socket)?;
        socket.set_nonblocking(true).map_err(OpenError::Socket)?;
        if spec.family != Family::V4 {
            // The default is the administrator's (net.ipv6.bindv6only).
            let alone = spec.family == Family::V6Only;
            socket.set_only_v6(alone).map_err(named("family"))?;
        }
        if spec.reuse_address {
            socket.set_reuse_address(true).map_err(named("reuse_address"))?;
        }
        if spec.reuse_port {
            options::set_reuse_port(&socket).map_err(named("reuse_port"))?;
        }
        if let Some(device) = &spec.device {
            options::set_device(&socket, Some(device)).map_err(named("device"))?;
        }
        // Before listening: buffer sizes decide on the window scale of each handshake.
        for &option in &spec.options {
            set_option(&socket, option).map_err(named(name(option)))?;
        }
        socket.bind(&spec.bind.into()).map_err(OpenError::Bind)?;
        let backlog = i32::try_from(spec.backlog).unwrap_or(i32::MAX);
        socket.listen(backlog).map_err(OpenError::Bind)?;
        registration.register(socket.as_fd()).map_err(OpenError::Socket)?;
        keep_reserve(&mut RESERVE.lock().unwrap_or_else(PoisonError::into_inner));
        let inherited = cfg!(any(target_os = "linux", target_os = "android"));
        let options = if inherited { Vec::new() } else { spec.options.clone() };
        Ok(Self { _claim: None, socket, registration, options })
    }

    pub(super) fn open_unix(
        spec: &UnixListenSpec,
        registration: Registration,
    ) -> Result<Self, OpenError> {
        let socket = unix::socket(Type::STREAM).map_err(OpenError::Socket)?;
        for &option in &spec.options {
            set_option(&socket, option).map_err(|error| OpenError::Option(name(option), error))?;
        }
        let bound = unix_path::bind(&socket, &spec.address, spec.mode)?;
        let backlog = i32::try_from(spec.backlog).unwrap_or(i32::MAX);
        socket.listen(backlog).map_err(OpenError::Bind)?;
        registration.register(socket.as_fd()).map_err(OpenError::Socket)?;
        keep_reserve(&mut RESERVE.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Self { _claim: bound.claim, socket, registration, options: spec.options.clone() })
    }

    pub(super) fn adopt(
        fd: OwnedFd,
        ownership: Ownership,
        registration: Registration,
    ) -> Result<Self, AdoptError> {
        let (socket, _) = examine(fd, true)?;
        socket.set_nonblocking(true).map_err(AdoptError::Socket)?;
        if ownership == Ownership::Owned {
            socket.set_cloexec(true).map_err(AdoptError::Socket)?;
        }
        registration.register(socket.as_fd()).map_err(AdoptError::Socket)?;
        keep_reserve(&mut RESERVE.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Self { _claim: None, socket, registration, options: Vec::new() })
    }
}

/// A descriptor found to be a stream socket that listens, or that has a peer; and whether it is of
/// UNIX instead of IP.
fn examine(fd: OwnedFd, listening: bool) -> Result<(Socket, bool), AdoptError> {
    let needed = match listening {
        true => "a listening stream socket",
        false => "a connected stream socket",
    };
    let kind = match SockRef::from(&fd).r#type() {
        Ok(kind) => kind,
        Err(error) => return Err(super::not_a_socket(fd, error)),
    };
    let socket = Socket::from(fd);
    if kind != Type::STREAM {
        let found = if kind == Type::DGRAM { "a datagram socket" } else { "another socket" };
        return Err(AdoptError::NotStream { found, needed });
    }
    let domain = socket.local_addr().map_err(AdoptError::Socket)?.domain();
    if ![Domain::IPV4, Domain::IPV6, Domain::UNIX].contains(&domain) {
        return Err(AdoptError::Family { found: domain.into() });
    }
    let accepts = sys::option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_ACCEPTCONN);
    let found = match accepts.map_err(AdoptError::Socket)? != 0 {
        true if listening => None,
        true => Some("a listening stream socket"),
        false if listening => Some("a stream socket that does not listen"),
        false if socket.peer_addr().is_err() => Some("a stream socket without a peer"),
        false => None,
    };
    if let Some(found) = found {
        return Err(AdoptError::NotStream { found, needed });
    }
    Ok((socket, domain == Domain::UNIX))
}

impl ListenSocket for OsListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        ip(self.socket.local_addr()?.as_socket())
    }

    fn accept(&self, token: usize) -> io::Result<(Rc<dyn StreamSocket>, SocketAddr)> {
        let (mut stream, peer) = self.accept_peer(token)?;
        Ok((stream.share(), ip(peer.ip())?))
    }

    fn accept_peer(&self, token: usize) -> io::Result<(StreamLink, PeerAddr)> {
        let (fd, peer) = sys::accept(self.socket.as_fd())?;
        let peer = peer_addr(&peer)?;
        let unix = peer.unix().is_some();
        let socket = Socket::from(fd);
        for &option in &self.options {
            // Some systems refuse that of a connection that is gone already: no fault of the port.
            set_option(&socket, option)
                .map_err(|_| io::Error::from_raw_os_error(libc::ECONNABORTED))?;
        }
        let stream = OsStream::registered(socket, &self.registration.sibling(token), unix)?;
        Ok((StreamLink::System(stream), peer))
    }

    fn unix_addr(&self) -> io::Result<UnixAddr> {
        unix::own(&self.socket.local_addr()?)
    }

    fn shed(&self, most: usize) -> usize {
        let mut reserve = RESERVE.lock().unwrap_or_else(PoisonError::into_inner);
        if reserve.take().is_none() {
            keep_reserve(&mut reserve);
            return 0;
        }
        let fd = self.socket.as_fd();
        let shed = (0..most).take_while(|_| sys::accept(fd).is_ok()).count();
        keep_reserve(&mut reserve);
        shed
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}

impl Drop for OsListener {
    fn drop(&mut self) {
        self.registration.end(self.socket.as_fd());
    }
}

/// Small, for there may be very many.
pub(crate) struct OsStream {
    /// `None`: taken to another place.
    socket: Option<Socket>,
    unix: bool,
    registered: Registered,
}

impl OsStream {
    fn registered(socket: Socket, registration: &Registration, unix: bool) -> io::Result<Self> {
        #[cfg(target_vendor = "apple")]
        socket.set_nosigpipe(true)?;
        let registered = registration.register_stream(socket.as_fd())?;
        Ok(Self { socket: Some(socket), unix, registered })
    }

    /// Moves it out; what stays behind is closed.
    pub(in crate::net) fn take(&mut self) -> Self {
        Self { socket: self.socket.take(), unix: self.unix, registered: self.registered.clone() }
    }

    #[inline]
    fn socket(&self) -> io::Result<&Socket> {
        self.socket.as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    /// Some of what only TCP has would be accepted and do nothing.
    fn needs_tcp(&self) -> io::Result<()> {
        if self.unix { Err(io::ErrorKind::Unsupported.into()) } else { Ok(()) }
    }

    pub(super) fn adopt(
        fd: OwnedFd,
        ownership: Ownership,
        registration: &Registration,
    ) -> Result<Self, AdoptError> {
        let (socket, unix) = examine(fd, false)?;
        if ownership == Ownership::Owned {
            socket.set_nonblocking(true).map_err(AdoptError::Socket)?;
            socket.set_cloexec(true).map_err(AdoptError::Socket)?;
        }
        Self::registered(socket, registration, unix).map_err(AdoptError::Socket)
    }

    pub(super) fn connect(
        spec: &StreamSpec,
        registration: &Registration,
    ) -> Result<Self, OpenError> {
        let domain = Domain::for_address(spec.peer);
        let socket =
            Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).map_err(OpenError::Socket)?;
        socket.set_nonblocking(true).map_err(OpenError::Socket)?;
        for &option in &spec.options {
            set_option(&socket, option).map_err(|error| OpenError::Option(name(option), error))?;
        }
        if let Some(address) = spec.bind {
            socket.bind(&address.into()).map_err(OpenError::Bind)?;
        }
        // Registered after the attempt began: before, a socket raises an event of its own
        // (`EPOLLHUP`). If the attempt has ended by then, registering raises the edge.
        match socket.connect(&spec.peer.into()) {
            // Interrupted: the attempt goes on, as connect(2) says.
            Err(error)
                if error.raw_os_error() != Some(libc::EINPROGRESS)
                    && error.kind() != io::ErrorKind::Interrupted =>
            {
                Err(OpenError::Socket(error))
            }
            _ => Self::registered(socket, registration, false).map_err(OpenError::Socket),
        }
    }

    pub(super) fn connect_unix(
        spec: &UnixSpec,
        registration: &Registration,
    ) -> Result<Self, OpenError> {
        let socket = unix::socket(Type::STREAM).map_err(OpenError::Socket)?;
        for &option in &spec.options {
            set_option(&socket, option).map_err(|error| OpenError::Option(name(option), error))?;
        }
        let peer = unix::name(&spec.peer).map_err(OpenError::Socket)?;
        // It succeeds or fails at once, or there is no room (connect(2), EAGAIN).
        retried(|| socket.connect(&peer)).map_err(OpenError::Socket)?;
        Self::registered(socket, registration, true).map_err(OpenError::Socket)
    }
}

impl Drop for OsStream {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            self.registered.end(socket.as_fd());
        }
    }
}

/// Repeats a call that a signal interrupted.
fn retried<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

impl StreamSocket for OsStream {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        ip(self.socket()?.local_addr()?.as_socket())
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        ip(self.socket()?.peer_addr()?.as_socket())
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        sys::receive(self.socket()?.as_fd(), buffer)
    }

    fn write(&self, data: &[u8]) -> io::Result<usize> {
        let socket = self.socket()?;
        retried(|| socket.send_with_flags(data, FLAGS))
    }

    fn write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let socket = self.socket()?;
        retried(|| socket.send_vectored_with_flags(pieces, FLAGS))
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket()?.shutdown(how)
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.socket()?.take_error()
    }

    fn reset_on_close(&self) -> io::Result<()> {
        // Others may have a descriptor of it (who gave us a duplicate, a child), so that closing
        // ours would end nothing. Linux resets a connection that is dissolved, whoever holds it.
        if cfg!(any(target_os = "linux", target_os = "android"))
            && sys::disconnect(self.socket()?.as_fd()).is_ok()
        {
            return Ok(());
        }
        self.socket()?.set_linger(Some(Duration::ZERO))
    }

    fn unix_local_addr(&self) -> io::Result<UnixAddr> {
        unix::own(&self.socket()?.local_addr()?)
    }

    fn unix_peer_addr(&self) -> io::Result<UnixAddr> {
        unix::own(&self.socket()?.peer_addr()?)
    }

    fn peer_credentials(&self) -> io::Result<PeerCredentials> {
        if !self.unix {
            return Err(io::ErrorKind::Unsupported.into());
        }
        sys::peer_credentials(self.socket()?.as_fd())
    }

    fn set_option(&self, option: StreamOption) -> io::Result<()> {
        if matches!(option, StreamOption::NoDelay(_) | StreamOption::KeepAlive(_)) {
            self.needs_tcp()?;
        }
        set_option(self.socket()?, option)
    }

    fn nodelay(&self) -> io::Result<bool> {
        self.needs_tcp()?;
        self.socket()?.tcp_nodelay()
    }

    fn keepalive(&self) -> io::Result<Option<KeepAlive>> {
        self.needs_tcp()?;
        if !self.socket()?.keepalive()? {
            return Ok(None);
        }
        keepalive_times(self.socket()?).map(Some)
    }

    fn recv_buffer_size(&self) -> io::Result<usize> {
        self.socket()?.recv_buffer_size()
    }

    fn send_buffer_size(&self) -> io::Result<usize> {
        self.socket()?.send_buffer_size()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }
}

fn set_option(socket: &Socket, option: StreamOption) -> io::Result<()> {
    match option {
        StreamOption::NoDelay(on) => socket.set_tcp_nodelay(on),
        StreamOption::KeepAlive(None) => socket.set_keepalive(false),
        StreamOption::KeepAlive(Some(times)) => {
            let wanted = TcpKeepalive::new().with_time(times.idle);
            #[cfg(not(any(target_os = "openbsd", target_os = "haiku", target_os = "solaris")))]
            let wanted = wanted.with_interval(times.interval).with_retries(times.count);
            socket.set_tcp_keepalive(&wanted)
        }
        StreamOption::RecvBuffer(bytes) => socket.set_recv_buffer_size(bytes),
        StreamOption::SendBuffer(bytes) => socket.set_send_buffer_size(bytes),
    }
}

#[cfg(not(any(target_os = "openbsd", target_os = "haiku", target_os = "solaris")))]
fn keepalive_times(socket: &Socket) -> io::Result<KeepAlive> {
    Ok(KeepAlive {
        idle: socket.tcp_keepalive_time()?,
        interval: socket.tcp_keepalive_interval()?,
        count: socket.tcp_keepalive_retries()?,
    })
}

#[cfg(any(target_os = "openbsd", target_os = "haiku", target_os = "solaris"))]
fn keepalive_times(_socket: &Socket) -> io::Result<KeepAlive> {
    Err(io::ErrorKind::Unsupported.into())
}

fn name(option: StreamOption) -> &'static str {
    match option {
        StreamOption::NoDelay(_) => "nodelay",
        StreamOption::KeepAlive(_) => "keepalive",
        StreamOption::RecvBuffer(_) => "recv_buffer_size",
        StreamOption::SendBuffer(_) => "send_buffer_size",
    }
}

fn ip(address: Option<SocketAddr>) -> io::Result<SocketAddr> {
    address.ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// The address of a peer of either family. On some systems a peer that is gone has none.
fn peer_addr(address: &SockAddr) -> io::Result<PeerAddr> {
    match address.as_socket() {
        Some(address) => Ok(address.into()),
        None => unix::own(address).map(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn the_reserve_is_opened_once_however_often_it_is_asked_for() {
        let mut reserve = None;
        keep_reserve(&mut reserve);
        let first = reserve.as_ref().map(AsRawFd::as_raw_fd);
        assert!(first.is_some());
        keep_reserve(&mut reserve);
        assert_eq!(reserve.as_ref().map(AsRawFd::as_raw_fd), first);
    }
}
