//! The other end of a port, on plain sockets.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Deref;

use super::PATIENCE;

/// A plain socket that speaks to ports.
pub struct Peer(UdpSocket);

impl Peer {
    #[track_caller]
    pub fn bind(ip: IpAddr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    pub fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    #[track_caller]
    pub fn send(&self, payload: impl AsRef<[u8]>, to: SocketAddr) {
        let payload = payload.as_ref();
        assert_eq!(self.0.send_to(payload, to).unwrap(), payload.len());
    }

    /// Waits for a datagram that is on its way already.
    #[track_caller]
    pub fn receive(&self) -> (Vec<u8>, SocketAddr) {
        self.0.set_nonblocking(false).unwrap();
        let mut buffer = vec![0; 65_535];
        let (len, from) = self.0.recv_from(&mut buffer).expect("a datagram");
        buffer.truncate(len);
        (buffer, from)
    }

    /// The next datagram, if there is one now.
    #[track_caller]
    pub fn try_receive(&self) -> Option<(Vec<u8>, SocketAddr)> {
        self.0.set_nonblocking(true).unwrap();
        let mut buffer = vec![0; 65_535];
        match self.0.recv_from(&mut buffer) {
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

impl Deref for Peer {
    type Target = UdpSocket;
    fn deref(&self) -> &UdpSocket {
        &self.0
    }
}

/// An address at which nobody listens: the host answers with ICMP port unreachable. A socket
/// holds the number, so that no other test is given it, but hears only itself.
pub struct Deaf(UdpSocket);

impl Deaf {
    #[track_caller]
    pub fn bind(ip: IpAddr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.connect(socket.local_addr().unwrap()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    pub fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// From now on somebody listens, if only to `port`.
    #[track_caller]
    pub fn listen_to(self, port: SocketAddr) -> Peer {
        self.0.connect(port).unwrap();
        Peer(self.0)
    }
}
