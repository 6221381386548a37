//! Taking over stream sockets made elsewhere.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::connection::{Connection, Origin, Phase, Ready};
use super::listen::start;
use super::listener::Listener;
use super::options::{Accept, Tuning};
use super::{Factory, ListeningPort, PeerAddr, Protocol, StreamNotice, Transport};
use crate::Handle;
use crate::error::AdoptError;
use crate::inner::Inner;
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
        let inner = self.upgrade().ok_or(AdoptError::Closed)?;
        check_open(&inner)?;
        let key = inner.core.borrow().streams.listeners.next_key();
        let token = key.token(Kind::Listener);
        let socket = inner.driver.borrow_mut().adopt_listener(socket.into(), token)?;
        let label: Rc<str> = match (socket.local_addr(), socket.unix_addr()) {
            (Ok(address), _) => format!("adopted tcp {address}").into(),
            (_, Ok(address)) => format!("adopted unix {address}").into(),
            _ => "adopted tcp".into(),
        };
        let mut listener = Listener::new(key, socket, Accept::default(), Tuning::default(), label);
        // What waits already is no news to the poller.
        listener.make_ready(&mut inner.core.borrow_mut().agenda);
        start(&inner, listener, Box::new(factory))
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
        let inner = self.upgrade().ok_or(AdoptError::Closed)?;
        check_open(&inner)?;
        let protocol: Box<dyn Protocol> = Box::new(protocol);
        let core = &mut *inner.core.borrow_mut();
        let key = core.streams.connections.next_key();
        let token = key.token(Kind::Stream);
        let adopted = inner.driver.borrow_mut().adopt_stream(socket.into(), token);
        let opened = adopted.and_then(|socket| {
            let peer = match socket.unix_peer_addr() {
                Ok(address) => PeerAddr::Unix(address),
                Err(_) => PeerAddr::Ip(socket.peer_addr().map_err(AdoptError::Socket)?),
            };
            let tuning = Tuning::default();
            Ok(Connection::new(key, socket, peer, Origin::Adopted, Phase::Open, tuning))
        });
        let mut connection = opened?;
        connection.make_ready(Ready::DRAIN, &mut core.agenda);
        core.agenda.references += 1;
        core.streams.connections.insert(connection);
        core.agenda.notices.push_back(StreamNotice::Made(key, protocol).into());
        Ok(Transport::new(&inner, key))
    }
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
