//! Plain sockets of simulated hosts (feature `testing`): what a program has that is not Strand's.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{Ipv6Addr, Shutdown, SocketAddr};
use std::rc::Rc;

use super::tcp::{self, SimListener, SimStream};
use super::world::World;
use crate::datagram::Family;
use crate::net::{ListenSocket, ListenSpec, OpenError, StreamSocket, StreamSpec};

/// Events of plain sockets reach no port: of this kind there are none.
const NOBODY: usize = usize::MAX;

/// A non-blocking TCP socket of a simulated host, without a reactor: the peer that does what no
/// [`Transport`](crate::Transport) would, such as closing with input unread. Whoever holds it lets
/// time pass ([`World::step`]) until a call is worth repeating. Dropping it closes it, as the
/// system would (tcp(7)). Rules for calls ([`Rule::fail`](crate::sim::Rule::fail)) pass it by.
///
/// ```
/// use std::io::ErrorKind;
/// use strand_reactor::sim::World;
/// use strand_reactor::testing::{PlainListener, PlainStream};
///
/// let world = World::new(1);
/// world.host("a", "10.0.0.1")?;
/// world.host("b", "10.0.0.2")?;
/// let listener = PlainListener::bind(&world, "a", "10.0.0.1:7".parse()?, 8)?;
/// let near = PlainStream::connect(&world, "b", "10.0.0.1:7".parse()?)?;
/// assert!(!near.is_connected());
/// while !near.is_connected() {
///     world.step()?;
/// }
/// world.step()?; // the end of the handshake arrives
/// let far = listener.accept()?;
/// near.write(b"hello")?;
/// let mut buffer = [0; 9];
/// assert_eq!(far.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
/// while far.unread()? == 0 {
///     world.step()?;
/// }
/// assert_eq!(far.read(&mut buffer)?, 5);
/// # Ok::<(), anyhow::Error>(())
/// ```
pub struct PlainStream {
    socket: Rc<SimStream>,
}

impl PlainStream {
    /// Begins to connect from a host.
    ///
    /// # Errors
    /// That of the system, such as `ENETUNREACH`; [`HostError`](crate::sim::HostError) within.
    pub fn connect(world: &World, host: &str, to: SocketAddr) -> io::Result<Self> {
        let id = world.find(host).map_err(io::Error::other)?;
        let spec = StreamSpec { peer: to, bind: None, options: Vec::new() };
        let socket = tcp::open(&world.net, id, &spec, NOBODY).map_err(failed)?;
        Ok(Self { socket })
    }

    /// Whether the handshake is over, and the connection not. What became of an attempt that
    /// fails, the calls say.
    pub fn is_connected(&self) -> bool {
        self.socket.peer_addr().is_ok()
    }

    /// Reads what has arrived; 0 is the end.
    ///
    /// # Errors
    /// That of the system; `WouldBlock`: nothing has arrived.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buffer)
    }

    /// Bytes that have arrived and were not read (`FIONREAD`).
    ///
    /// # Errors
    /// `ENOTCONN`, after a crash of the host.
    pub fn unread(&self) -> io::Result<usize> {
        self.socket.unread()
    }

    /// Sends a prefix of `data` and returns its length.
    ///
    /// # Errors
    /// That of the system; `WouldBlock`: there is no room.
    pub fn write(&self, data: &[u8]) -> io::Result<usize> {
        self.socket.write_vectored(&[IoSlice::new(data)])
    }

    /// Ends the stream in one direction, or both.
    ///
    /// # Errors
    /// `ENOTCONN` without a connection.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.shutdown(how)
    }

    /// Closes it with a reset, as a linger time of zero does.
    ///
    /// # Errors
    /// `ENOTCONN`, after a crash of the host.
    pub fn reset(self) -> io::Result<()> {
        self.socket.reset_on_close()
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// `ENOTCONN`, after a crash of the host.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

impl fmt::Debug for PlainStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainStream").field("local", &self.local_addr().ok()).finish()
    }
}

/// A listening TCP socket of a simulated host, without a reactor; see [`PlainStream`].
pub struct PlainListener {
    socket: Rc<SimListener>,
}

impl PlainListener {
    /// Listens. Linux keeps one connection more than `backlog` until they are accepted.
    ///
    /// # Errors
    /// That of the system, such as `EADDRINUSE`; [`HostError`](crate::sim::HostError) within.
    pub fn bind(world: &World, host: &str, at: SocketAddr, backlog: u32) -> io::Result<Self> {
        let id = world.find(host).map_err(io::Error::other)?;
        let family = match at {
            SocketAddr::V4(_) => Family::V4,
            SocketAddr::V6(v6) if *v6.ip() == Ipv6Addr::UNSPECIFIED => Family::Dual,
            SocketAddr::V6(_) => Family::V6Only,
        };
        let spec = ListenSpec {
            family,
            bind: at,
            backlog,
            reuse_address: false,
            reuse_port: false,
            device: None,
            options: Vec::new(),
        };
        let socket = tcp::listen(&world.net, id, &spec, NOBODY).map_err(failed)?;
        Ok(Self { socket })
    }

    /// Takes a connection that waits.
    ///
    /// # Errors
    /// `WouldBlock`: none does.
    pub fn accept(&self) -> io::Result<PlainStream> {
        self.socket.take(NOBODY).map(|(socket, _)| PlainStream { socket })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// None at present.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

impl fmt::Debug for PlainListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainListener").field("local", &self.local_addr().ok()).finish()
    }
}

fn failed(error: OpenError) -> io::Error {
    match error {
        OpenError::Socket(source) | OpenError::Option(_, source) | OpenError::Bind(source) => {
            source
        }
    }
}
