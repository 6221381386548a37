//! Stream sockets.

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::poller::Registration;
use crate::net::StreamSocket;

/// Writing to a stream that the peer has closed is an error and no signal.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: i32 = libc::MSG_NOSIGNAL;
/// There the socket carries `SO_NOSIGPIPE`.
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: i32 = 0;

pub(super) struct OsStream {
    socket: Socket,
}

impl OsStream {
    pub(super) fn connect(
        peer: SocketAddr,
        bind: Option<SocketAddr>,
        registration: &Registration,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(peer), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        #[cfg(target_vendor = "apple")]
        socket.set_nosigpipe(true)?;
        if let Some(address) = bind {
            socket.bind(&address.into())?;
        }
        registration.register_stream(socket.as_fd())?;
        match socket.connect(&peer.into()) {
            // Interrupted: the attempt goes on, as connect(2) says.
            Err(error)
                if error.raw_os_error() != Some(libc::EINPROGRESS)
                    && error.kind() != io::ErrorKind::Interrupted =>
            {
                Err(error)
            }
            _ => Ok(Self { socket }),
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
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        let peer = self.socket.peer_addr()?;
        peer.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        retried(|| (&self.socket).read(buffer))
    }

    fn write(&self, data: &[u8]) -> io::Result<usize> {
        retried(|| self.socket.send_with_flags(data, NO_SIGNAL))
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.shutdown(how)
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.socket.take_error()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::rc::Rc;
    use std::time::Duration;

    use super::super::OsDriver;
    use super::*;
    use crate::net::Driver;

    const TOKEN: usize = 5;

    struct Stage {
        driver: OsDriver,
        stream: Rc<dyn StreamSocket>,
    }

    impl Stage {
        fn connect(peer: SocketAddr, bind: Option<SocketAddr>) -> Self {
            let mut driver = OsDriver::new(false).unwrap();
            let stream = driver.connect_stream(peer, bind, TOKEN).unwrap();
            Self { driver, stream }
        }

        /// Polls until `call` would no longer block.
        #[track_caller]
        fn wait<T>(&mut self, mut call: impl FnMut(&dyn StreamSocket) -> io::Result<T>) -> T {
            for _ in 0..100 {
                match call(&*self.stream) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    other => return other.unwrap(),
                }
                let mut events = Vec::new();
                self.driver.poll(Some(Duration::from_secs(10)), &mut events).unwrap();
                assert!(events.iter().all(|event| event.token == TOKEN));
            }
            panic!("the call blocks for ever");
        }
    }

    fn connected(stream: &dyn StreamSocket) -> io::Result<()> {
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            other => other.map(|_| ()),
        }
    }

    #[test]
    fn bytes_cross_in_both_directions_until_the_end_of_the_stream() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bind = Some((Ipv4Addr::LOCALHOST, 0).into());
        let mut stage = Stage::connect(listener.local_addr().unwrap(), bind);
        stage.wait(connected);
        assert_eq!(stage.stream.peer_addr().unwrap(), listener.local_addr().unwrap());
        let (mut peer, _) = listener.accept().unwrap();
        assert_eq!(stage.wait(|stream| stream.write(b"there")), 5);
        stage.stream.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        peer.read_to_string(&mut text).unwrap();
        assert_eq!(text, "there");
        io::Write::write_all(&mut peer, b"back").unwrap();
        drop(peer);
        let mut buffer = [0; 16];
        assert_eq!(stage.wait(|stream| stream.read(&mut buffer)), 4);
        assert_eq!(&buffer[..4], b"back");
        assert_eq!(stage.wait(|stream| stream.read(&mut buffer)), 0);
    }

    #[test]
    fn a_refused_connection_is_told_by_an_event_and_the_pending_error() {
        // The number of a listener that is gone; on an address that nothing else binds.
        let listener = TcpListener::bind("127.77.0.2:0").unwrap();
        let peer = listener.local_addr().unwrap();
        drop(listener);
        let mut driver = OsDriver::new(false).unwrap();
        let error = match driver.connect_stream(peer, None, TOKEN) {
            Err(error) => error,
            Ok(stream) => {
                let mut stage = Stage { driver, stream };
                stage.wait(|stream| match connected(stream) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => Ok(error),
                    other => other.map(|()| panic!("connected to nobody")),
                })
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_full_buffer_blocks_and_an_event_tells_when_there_is_room() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stage = Stage::connect(listener.local_addr().unwrap(), None);
        stage.wait(connected);
        let (mut peer, _) = listener.accept().unwrap();
        let data = vec![7; 1 << 20];
        let mut sent = 0;
        let error = loop {
            match stage.stream.write(&data) {
                Ok(len) => sent += len,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let thread = std::thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).unwrap();
            all.len()
        });
        sent += stage.wait(|stream| stream.write(&data));
        drop(stage);
        assert_eq!(thread.join().unwrap(), sent);
    }
}
