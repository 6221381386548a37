//! Opening and adopting ports.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::closing::{put_back, retire};
use super::port::UnixPort;
use super::{UnixDatagramProtocol, UnixDatagramTransport};
use crate::Handle;
use crate::callback::guarded;
use crate::datagram::{StartError, vacancy};
use crate::error::{AdoptError, ListenError, OptionError};
use crate::inner::Inner;
use crate::net::OpenError;
use crate::slots::Kind;
use crate::unix::UnixDatagramOptions;
use crate::unix::options::DatagramTuning;

impl Handle {
    /// Opens a UNIX socket for datagrams and attaches a protocol to it, whose `start_protocol` is
    /// called before this returns. `options` is a path, an abstract name, or
    /// [`UnixDatagramOptions`]. As for [`listen_unix`](Self::listen_unix), the path is removed
    /// when the port stops, and one that a dead program left behind is replaced.
    ///
    /// ```
    /// use std::os::unix::net::UnixDatagram as Peer;
    /// use strand_reactor::{Reactor, UnixDatagram, UnixDatagramProtocol, UnixDatagramTransport};
    /// struct Printer;
    /// impl UnixDatagramProtocol for Printer {
    ///     fn datagram_received(
    ///         &mut self,
    ///         transport: &UnixDatagramTransport,
    ///         datagram: UnixDatagram<'_>,
    ///     ) -> anyhow::Result<()> {
    ///         assert_eq!(datagram.payload(), b"hello");
    ///         assert!(datagram.source().is_unnamed());
    ///         transport.stop_listening();
    ///         Ok(())
    ///     }
    /// }
    /// let reactor = Reactor::new()?;
    /// let path = std::env::temp_dir().join(format!("strand-log-{}.sock", std::process::id()));
    /// reactor.listen_unix_datagram(&path, Printer)?;
    /// Peer::unbound()?.send_to(b"hello", &path)?;
    /// reactor.run()?;
    /// assert_eq!((reactor.stats().callback_panics, path.exists()), (0, false));
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ListenError`]; nothing is left behind.
    pub fn listen_unix_datagram<O, P>(
        &self,
        options: O,
        protocol: P,
    ) -> Result<UnixDatagramTransport, ListenError>
    where
        O: TryInto<UnixDatagramOptions>,
        O::Error: Into<ListenError>,
        P: UnixDatagramProtocol + 'static,
    {
        let options = options.try_into().map_err(Into::into)?;
        let spec = options.check()?;
        let inner = self.upgrade().ok_or(ListenError::Closed)?;
        vacancy(&inner)?;
        let key = inner.core.borrow().unix_ports.next_key();
        let socket = inner
            .driver
            .borrow_mut()
            .open_unix_datagram(&spec, key.token(Kind::UnixDatagram))
            .map_err(|error| match (error, &spec.address) {
                (OpenError::Bind(source), Some(address)) => {
                    ListenError::BindUnix { address: address.clone(), source }
                }
                (OpenError::Option(name, source), _) => {
                    ListenError::Option(OptionError::from_io(name, source))
                }
                (OpenError::Bind(source) | OpenError::Socket(source), _) => {
                    ListenError::Socket(source)
                }
            })?;
        let label: Rc<str> = match (options.label, &spec.address) {
            (Some(label), _) => label.into(),
            (None, Some(address)) => format!("unix datagrams {address}").into(),
            (None, None) => "unix datagrams".into(),
        };
        start(&inner, UnixPort::new(key, socket, options.tuning, label), Box::new(protocol))
    }

    /// Takes over a UNIX socket for datagrams made elsewhere: by a parent process, a service
    /// manager, or as one of a pair. It belongs to the port from now on, and is made non-blocking
    /// and close-on-exec; its path stays where it is. A peer that it was connected to is the
    /// port's.
    ///
    /// ```
    /// use std::os::unix::net::UnixDatagram as Peer;
    /// # use strand_reactor::*;
    /// # struct P;
    /// # impl UnixDatagramProtocol for P {
    /// #     fn datagram_received(&mut self, _: &UnixDatagramTransport, _: UnixDatagram<'_>)
    /// #     -> anyhow::Result<()> { Ok(()) }
    /// # }
    /// let reactor = Reactor::new()?;
    /// let (near, far) = Peer::pair()?;
    /// let port = reactor.adopt_unix_datagram_port(near, P)?;
    /// port.write(b"hello")?;
    /// let mut buffer = [0; 5];
    /// assert_eq!((far.recv(&mut buffer)?, &buffer), (5, b"hello"));
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`AdoptError`]; the socket is closed.
    pub fn adopt_unix_datagram_port<P>(
        &self,
        socket: impl Into<OwnedFd>,
        protocol: P,
    ) -> Result<UnixDatagramTransport, AdoptError>
    where
        P: UnixDatagramProtocol + 'static,
    {
        // The conversion is user code: with nothing borrowed, and no key foretold.
        let socket = socket.into();
        let inner = self.upgrade().ok_or(AdoptError::Closed)?;
        vacancy(&inner)?;
        let key = inner.core.borrow().unix_ports.next_key();
        let token = key.token(Kind::UnixDatagram);
        let socket = inner.driver.borrow_mut().adopt_unix_datagram(socket, token)?;
        let label: Rc<str> = match socket.local_addr() {
            Ok(address) => format!("adopted unix datagrams {address}").into(),
            Err(_) => "adopted unix datagrams".into(),
        };
        let mut port = UnixPort::new(key, socket, DatagramTuning::default(), label);
        // What waits already is no news to the poller.
        port.make_ready(&mut inner.core.borrow_mut().agenda);
        start(&inner, port, Box::new(protocol))
    }

    /// Every UNIX port for datagrams that is not closed, in no particular order.
    ///
    /// ```
    /// let reactor = strand_reactor::Reactor::new()?;
    /// assert!(reactor.unix_datagram_ports().is_empty());
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn unix_datagram_ports(&self) -> Vec<UnixDatagramTransport> {
        let Some(inner) = self.upgrade() else { return Vec::new() };
        let core = inner.core.borrow();
        core.unix_ports.keys().map(|key| UnixDatagramTransport::new(&inner, key)).collect()
    }
}

/// Puts the port in its slot and tells the protocol; takes it out again if that fails.
fn start<E: From<StartError>>(
    inner: &Rc<Inner>,
    port: UnixPort,
    mut protocol: Box<dyn UnixDatagramProtocol>,
) -> Result<UnixDatagramTransport, E> {
    let label = Rc::clone(&port.label);
    let key = {
        let core = &mut *inner.core.borrow_mut();
        core.agenda.references += 1;
        core.unix_ports.insert(port)
    };
    let transport = UnixDatagramTransport::new(inner, key);
    inner.starting.set(inner.starting.get() + 1);
    let outcome = guarded(|| protocol.start_protocol(&transport));
    inner.starting.set(inner.starting.get() - 1);
    let failure = match outcome {
        Ok(()) => {
            put_back(inner, key, protocol);
            if inner.core.borrow().closed {
                return Err(StartError::Closed.into());
            }
            tracing::debug!(port = %label, "open");
            return Ok(transport);
        }
        Err(failure) => failure,
    };
    let port = retire(&mut inner.core.borrow_mut(), key);
    drop(port);
    inner.discard("closed port", "drop of a protocol", protocol);
    Err(StartError::Protocol(inner.start_failure(failure)).into())
}
