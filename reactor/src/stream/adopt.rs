//! Taking over stream sockets made elsewhere.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use super::connection::{Connection, Origin, Phase, Ready};
use super::listen::start;
use super::listener::Listener;
use super::options::{Accept, Tuning};
use super::{Factory, ListeningPort, PeerAddr, Protocol, StreamNotice, Transport};
use crate::Handle;
use crate::error::AdoptError;
use crate::inner::Inner;
use crate::net::{Ownership, StreamSocket};
use crate::slots::Kind;

impl Handle {
    /// Takes over a listening TCP or UNIX socket made elsewhere (by a parent process, by another
    /// library), with the connections that wait in it. The socket belongs to the port from now
    /// on, and is closed with it; it is made non-blocking and close-on-exec, and no other option
    /// is touched. The path of a UNIX socket stays where it is: who made it removes it.
    ///
    /// ```
    /// # use strand_reactor::*;
    /// # struct P;
    /// # impl Protocol for P {
    /// #     fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> { Ok(()) }
    /// # }
    /// let reactor = Reactor::new()?;
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let address = listener.local_addr()?;
    /// let port = reactor.adopt_stream_port(listener, |_: PeerAddr| Some(P))?;
    /// assert_eq!(port.local_addr()?, address);
    /// let datagrams = std::net::UdpSocket::bind("127.0.0.1:0")?;
    /// assert!(reactor.adopt_stream_port(datagrams, |_: PeerAddr| Some(P)).is_err());
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`AdoptError`]; the socket is closed.
    pub fn adopt_stream_port<F>(
        &self,
        socket: impl Into<OwnedFd>,
        factory: F,
    ) -> Result<ListeningPort, AdoptError>
    where
        F: Factory + 'static,
    {
        adopt_listener(self, socket.into(), Ownership::Owned, Box::new(factory))
    }

    /// As [`adopt_stream_port`](Self::adopt_stream_port), on a duplicate of the descriptor: the
    /// caller's stays open, and goes on listening when the port is stopped.
    ///
    /// Both descriptors are the same socket: each connection goes to whoever accepts first, and
    /// the options are common. So is the blocking mode, which no single accept(2) can choose for
    /// itself: the socket is made non-blocking, and stays so. Whoever accepts by the original must
    /// expect `WouldBlock`.
    ///
    /// ```
    /// # use strand_reactor::*;
    /// # struct P;
    /// # impl Protocol for P {
    /// #     fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> { Ok(()) }
    /// # }
    /// let reactor = Reactor::new()?;
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let port = reactor.adopt_stream_port_shared(&listener, |_: PeerAddr| Some(P))?;
    /// port.stop_listening();
    /// reactor.run()?;
    /// let waits = std::net::TcpStream::connect(listener.local_addr()?)?;
    /// assert_eq!(listener.accept()?.1, waits.local_addr()?);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`AdoptError`]; the caller's descriptor is unharmed.
    pub fn adopt_stream_port_shared<F>(
        &self,
        socket: impl AsFd,
        factory: F,
    ) -> Result<ListeningPort, AdoptError>
    where
        F: Factory + 'static,
    {
        let duplicate = socket.as_fd().try_clone_to_owned().map_err(AdoptError::BadDescriptor)?;
        adopt_listener(self, duplicate, Ownership::Shared, Box::new(factory))
    }

    /// Takes over a connected TCP or UNIX socket made elsewhere and attaches a protocol to it, whose
    /// `connection_made` is called from the loop. The socket belongs to the connection from now
    /// on; what arrived before is delivered.
    ///
    /// # Errors
    /// [`AdoptError`]; the socket is closed.
    pub fn adopt_stream_connection<P>(
        &self,
        socket: impl Into<OwnedFd>,
        protocol: P,
    ) -> Result<Transport, AdoptError>
    where
        P: Protocol + 'static,
    {
        // The conversion is user code: with nothing borrowed, and no key foretold.
        let socket = socket.into();
        attach(self, Box::new(protocol), |inner, token| {
            inner.driver.borrow_mut().adopt_stream(socket, Ownership::Owned, token)
        })
    }

    /// As [`adopt_stream_connection`](Self::adopt_stream_connection), on a duplicate of the
    /// descriptor: the caller's stays open when the connection is lost here, and none of its
    /// flags changes.
    ///
    /// Both descriptors are the same connection: what arrives goes to whoever reads first, and
    /// its ends and options are common. [`lose_connection`](Transport::lose_connection) tells the
    /// peer the end, and [`abort_connection`](Transport::abort_connection) resets, whoever else
    /// holds the connection.
    ///
    /// ```
    /// # use strand_reactor::*;
    /// # struct P;
    /// # impl Protocol for P {
    /// #     fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
    /// #         transport.write(b"hello")?;
    /// #         transport.reactor().stop();
    /// #         Ok(())
    /// #     }
    /// #     fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> { Ok(()) }
    /// # }
    /// let reactor = Reactor::new()?;
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let near = std::net::TcpStream::connect(listener.local_addr()?)?;
    /// let (far, _) = listener.accept()?;
    /// let transport = reactor.adopt_stream_connection_shared(&near, P)?;
    /// assert_eq!(transport.peer_addr()?, far.local_addr()?);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`AdoptError`]; the caller's descriptor is unharmed.
    pub fn adopt_stream_connection_shared<P>(
        &self,
        socket: impl AsFd,
        protocol: P,
    ) -> Result<Transport, AdoptError>
    where
        P: Protocol + 'static,
    {
        let duplicate = socket.as_fd().try_clone_to_owned().map_err(AdoptError::BadDescriptor)?;
        attach(self, Box::new(protocol), |inner, token| {
            inner.driver.borrow_mut().adopt_stream(duplicate, Ownership::Shared, token)
        })
    }
}

fn adopt_listener(
    handle: &Handle,
    fd: OwnedFd,
    ownership: Ownership,
    factory: Box<dyn Factory>,
) -> Result<ListeningPort, AdoptError> {
    let inner = handle.upgrade().ok_or(AdoptError::Closed)?;
    check_open(&inner)?;
    let key = inner.core.borrow().streams.listeners.next_key();
    let token = key.token(Kind::Listener);
    let socket = inner.driver.borrow_mut().adopt_listener(fd, ownership, token)?;
    let label: Rc<str> = match (socket.local_addr(), socket.unix_addr()) {
        (Ok(address), _) => format!("adopted tcp {address}").into(),
        (_, Ok(address)) => format!("adopted unix {address}").into(),
        _ => "adopted tcp".into(),
    };
    let mut listener = Listener::new(key, socket, Accept::default(), Tuning::default(), label);
    // What waits already is no news to the poller.
    listener.make_ready(&mut inner.core.borrow_mut().agenda);
    start(&inner, listener, factory)
}

/// Attaches a protocol to the connected socket that `open` makes.
pub(crate) fn attach(
    handle: &Handle,
    protocol: Box<dyn Protocol>,
    open: impl FnOnce(&Rc<Inner>, usize) -> Result<Rc<dyn StreamSocket>, AdoptError>,
) -> Result<Transport, AdoptError> {
    let inner = handle.upgrade().ok_or(AdoptError::Closed)?;
    check_open(&inner)?;
    let core = &mut *inner.core.borrow_mut();
    let key = core.streams.connections.next_key();
    let socket = open(&inner, key.token(Kind::Stream));
    let opened = socket.and_then(|socket| {
        let peer = match socket.unix_peer_addr() {
            Ok(address) => PeerAddr::Unix(address),
            Err(_) => PeerAddr::Ip(socket.peer_addr().map_err(AdoptError::Socket)?),
        };
        let tuning = Rc::new(Tuning::default());
        Ok(Connection::new(key, socket.into(), peer, Origin::Adopted, Phase::Open, tuning))
    });
    let mut connection = opened?;
    connection.make_ready(Ready::DRAIN, &mut core.agenda);
    core.agenda.references += 1;
    core.streams.connections.insert(connection);
    core.agenda.notices.push_back(StreamNotice::Made(key, protocol).into());
    Ok(Transport::new(&inner, key))
}

fn check_open(inner: &Inner) -> Result<(), AdoptError> {
    if inner.core.borrow().closed {
        Err(AdoptError::Closed)
    } else if inner.is_shutting_down() {
        Err(AdoptError::ShuttingDown)
    } else {
        Ok(())
    }
}
