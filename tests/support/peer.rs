//! The other end of a port: plain sockets, of the system or of a simulated host.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::rc::Rc;

use strand_reactor::{DatagramTransport, PortState, UdpOptions};

use super::{PATIENCE, Recorder, Simulation};

/// A socket that speaks to ports.
pub struct Peer(Socket);

enum Socket {
    System(UdpSocket),
    Simulated(Simulated),
}

/// The socket of another program on a simulated host: a port that is never delivered to, but pulled
/// from, so that it takes no part in the loop.
struct Simulated {
    simulation: Rc<Simulation>,
    address: SocketAddr,
    port: RefCell<DatagramTransport>,
}

impl Simulated {
    #[track_caller]
    fn bind(ip: IpAddr) -> Self {
        let simulation = Simulation::current();
        let port = Self::open(&simulation, (ip, 0).into());
        let address = port.local_addr().unwrap();
        Self { simulation, address, port: RefCell::new(port) }
    }

    #[track_caller]
    fn open(simulation: &Simulation, address: SocketAddr) -> DatagramTransport {
        let options = UdpOptions::new(address).start_paused(true);
        let port = simulation.handle().listen_udp(options, Recorder::quiet()).unwrap();
        port.unref().unwrap();
        port
    }

    /// A shutdown of the reactor takes the port along, but not what it stands for.
    #[track_caller]
    fn port(&self) -> DatagramTransport {
        if self.port.borrow().state() == PortState::Closed {
            *self.port.borrow_mut() = Self::open(&self.simulation, self.address);
        }
        self.port.borrow().clone()
    }

    #[track_caller]
    fn connect(&self, peer: SocketAddr) {
        let port = self.port();
        let _ = port.disconnect();
        port.connect(peer).unwrap();
    }

    #[track_caller]
    fn send(&self, payload: &[u8], to: SocketAddr) -> usize {
        let port = self.port();
        match port.peer_addr() {
            Ok(peer) => {
                assert_eq!(peer, to, "it speaks to one alone");
                port.try_write(payload).unwrap()
            }
            Err(_) => port.try_write_to(payload, to).unwrap(),
        }
    }

    #[track_caller]
    fn try_receive(&self) -> Option<(Vec<u8>, SocketAddr)> {
        let port = self.port();
        let mut payload = vec![0; port.pending_datagram_size().unwrap()?];
        let datagram = port.read_datagram(&mut payload).unwrap()?;
        assert!(!datagram.is_truncated());
        Some((payload, datagram.source()))
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.port.borrow().stop_listening();
    }
}

impl Peer {
    /// A socket of the system.
    #[track_caller]
    pub fn bind(ip: IpAddr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(Socket::System(socket))
    }

    #[track_caller]
    pub(super) fn simulated(ip: IpAddr) -> Self {
        Self(Socket::Simulated(Simulated::bind(ip)))
    }

    pub fn addr(&self) -> SocketAddr {
        match &self.0 {
            Socket::System(socket) => socket.local_addr().unwrap(),
            Socket::Simulated(socket) => socket.address,
        }
    }

    /// The socket itself, if it is one of the system.
    #[track_caller]
    pub fn socket(&self) -> &UdpSocket {
        match &self.0 {
            Socket::System(socket) => socket,
            Socket::Simulated(_) => panic!("a simulated host has no descriptors"),
        }
    }

    #[track_caller]
    pub fn set_broadcast(&self, on: bool) {
        match &self.0 {
            Socket::System(socket) => socket.set_broadcast(on).unwrap(),
            Socket::Simulated(socket) => socket.port().set_broadcast_allowed(on).unwrap(),
        }
    }

    #[track_caller]
    pub fn send(&self, payload: impl AsRef<[u8]>, to: SocketAddr) {
        let payload = payload.as_ref();
        let sent = match &self.0 {
            Socket::System(socket) => socket.send_to(payload, to).unwrap(),
            Socket::Simulated(socket) => socket.send(payload, to),
        };
        assert_eq!(sent, payload.len());
    }

    /// Waits for a datagram that is on its way already.
    #[track_caller]
    pub fn receive(&self) -> (Vec<u8>, SocketAddr) {
        let socket = match &self.0 {
            Socket::System(socket) => socket,
            // Nothing takes time within a host.
            Socket::Simulated(socket) => return socket.try_receive().expect("a datagram"),
        };
        socket.set_nonblocking(false).unwrap();
        let mut buffer = vec![0; 65_535];
        let (len, from) = socket.recv_from(&mut buffer).expect("a datagram");
        buffer.truncate(len);
        (buffer, from)
    }

    /// The next datagram, if there is one now.
    #[track_caller]
    pub fn try_receive(&self) -> Option<(Vec<u8>, SocketAddr)> {
        let socket = match &self.0 {
            Socket::System(socket) => socket,
            Socket::Simulated(socket) => return socket.try_receive(),
        };
        socket.set_nonblocking(true).unwrap();
        let mut buffer = vec![0; 65_535];
        match socket.recv_from(&mut buffer) {
            Ok((len, from)) => {
                buffer.truncate(len);
                Some((buffer, from))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// The payloads of the next `count` datagrams, which are on their way already.
    #[track_caller]
    pub fn payloads(&self, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| self.receive().0).collect()
    }
}

/// An address at which nobody listens: the host answers with ICMP port unreachable. A socket
/// holds the number, so that no other test is given it, but hears only itself.
pub struct Deaf(Peer);

impl Deaf {
    /// A socket of the system.
    #[track_caller]
    pub fn bind(ip: IpAddr) -> Self {
        Self::of(Peer::bind(ip))
    }

    #[track_caller]
    pub(super) fn simulated(ip: IpAddr) -> Self {
        Self::of(Peer::simulated(ip))
    }

    #[track_caller]
    fn of(peer: Peer) -> Self {
        peer.connect(peer.addr());
        Self(peer)
    }

    pub fn addr(&self) -> SocketAddr {
        self.0.addr()
    }

    /// From now on somebody listens, if only to `port`.
    #[track_caller]
    pub fn listen_to(self, port: SocketAddr) -> Peer {
        self.0.connect(port);
        self.0
    }
}

impl Peer {
    #[track_caller]
    fn connect(&self, peer: SocketAddr) {
        match &self.0 {
            Socket::System(socket) => socket.connect(peer).unwrap(),
            Socket::Simulated(socket) => socket.connect(peer),
        }
    }
}
