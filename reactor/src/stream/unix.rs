//! Streams over UNIX sockets: opening ports and connections. Once open, they are as those of TCP.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::attempts::{give_up, set_delay};
use super::closing::later;
use super::connection::{Connection, Origin, Phase};
use super::connector::Target;
use super::listener::Listener;
use super::{ClientFactory, Connector, Factory, ListeningPort, Transport, listen};
use crate::Handle;
use crate::error::{ConnectError, ListenError, OptionError};
use crate::inner::Inner;
use crate::net::{OpenError, UnixListenSpec, UnixSpec};
use crate::slots::{Key, Kind};
use crate::unix::{PeerCredentials, UnixAddr, UnixConnectOptions, UnixOptions};

/// When to look again whether a server that has no room has some.
const RETRY: Duration = Duration::from_millis(10);

impl Handle {
    /// Opens a UNIX port: each connection that comes is given a protocol by the factory, as by
    /// [`listen_tcp`](Self::listen_tcp). `options` is a path, an abstract name
    /// ([`UnixAddr::abstract_name`]), or [`UnixOptions`].
    ///
    /// The path is removed when the port stops, if it still is that port's. One that a dead
    /// program left behind is replaced: a socket to which the system refuses connections. Whatever
    /// else is there stays, and is `AddrInUse`. The check takes connecting there and hanging up,
    /// which a living server sees.
    ///
    /// ```
    /// use strand_reactor::{PeerAddr, Protocol, Reactor, Transport};
    /// struct Echo;
    /// impl Protocol for Echo {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
    ///         Ok(transport.write(data)?)
    ///     }
    /// }
    /// let reactor = Reactor::new()?;
    /// let path = std::env::temp_dir().join(format!("strand-listen-{}.sock", std::process::id()));
    /// reactor.listen_unix(&path, |_: PeerAddr| Some(Echo))?;
    /// let taken = reactor.listen_unix(&path, |_: PeerAddr| Some(Echo)).unwrap_err();
    /// assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    /// drop(reactor);
    /// assert!(!path.exists());
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ListenError`]; nothing is left behind. An error of the factory's
    /// [`start_factory`](Factory::start_factory) is [`ListenError::Protocol`].
    pub fn listen_unix<O, F>(&self, options: O, factory: F) -> Result<ListeningPort, ListenError>
    where
        O: TryInto<UnixOptions>,
        O::Error: Into<ListenError>,
        F: Factory + 'static,
    {
        let options = options.try_into().map_err(Into::into)?;
        self.open_unix_listener(options, Box::new(factory))
    }

    fn open_unix_listener(
        &self,
        options: UnixOptions,
        factory: Box<dyn Factory>,
    ) -> Result<ListeningPort, ListenError> {
        let (spec, mut accept, tuning) = options.check()?;
        let inner = self.upgrade().ok_or(ListenError::Closed)?;
        if inner.core.borrow().closed {
            return Err(ListenError::Closed);
        } else if inner.is_shutting_down() {
            return Err(ListenError::ShuttingDown);
        }
        let key = inner.core.borrow().streams.listeners.next_key();
        let socket = inner
            .driver
            .borrow_mut()
            .listen_unix(&spec, key.token(Kind::Listener))
            .map_err(|error| listen_error(error, &spec))?;
        let label: Rc<str> = match accept.label.take() {
            Some(label) => label.into(),
            None => format!("unix {}", spec.address).into(),
        };
        listen::start(&inner, Listener::new(key, socket, accept, tuning, label), factory)
    }

    /// Connects to a UNIX port, as [`connect_tcp`](Self::connect_tcp) does over TCP. `target` is a
    /// path, an abstract name ([`UnixAddr::abstract_name`]), or [`UnixConnectOptions`].
    ///
    /// ```
    /// use strand_reactor::{PeerAddr, Protocol, Reactor, Transport};
    /// struct Client;
    /// impl Protocol for Client {
    ///     fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
    ///         assert!(transport.peer()?.unix().is_some());
    ///         transport.lose_connection();
    ///         Ok(())
    ///     }
    ///     fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> { Ok(()) }
    /// }
    /// let path = std::env::temp_dir().join(format!("strand-connect-{}.sock", std::process::id()));
    /// let server = std::os::unix::net::UnixListener::bind(&path)?;
    /// let reactor = Reactor::new()?;
    /// reactor.connect_unix(&path, |_: PeerAddr| Some(Client))?;
    /// let _other = server.accept()?;
    /// reactor.iterate(None)?;
    /// assert_eq!(reactor.stats().callback_panics, 0);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ConnectError`] for what is wrong with the call (`Address`, `Option`), for an error of
    /// the factory, and when the reactor is gone or going. What the system says, [`ConnectError::Unix`],
    /// goes to the factory.
    pub fn connect_unix<O, F>(&self, target: O, factory: F) -> Result<Connector, ConnectError>
    where
        O: TryInto<UnixConnectOptions>,
        O::Error: Into<ConnectError>,
        F: ClientFactory + 'static,
    {
        let options = target.try_into().map_err(Into::into)?;
        self.open_connector(Target::Unix(options), Box::new(factory))
    }
}

pub(crate) fn listen_error(error: OpenError, spec: &UnixListenSpec) -> ListenError {
    match error {
        OpenError::Bind(source) => ListenError::BindUnix { address: spec.address.clone(), source },
        OpenError::Option(name, source) => ListenError::Option(OptionError::from_io(name, source)),
        OpenError::Socket(source) => ListenError::Socket(source),
    }
}

/// Connects; how it ends is told from the loop. A server whose backlog is full is asked again
/// until the attempt is out of time: the system does not tell when there is room.
pub(super) fn attempt(inner: &Rc<Inner>, key: Key) {
    match open(inner, key) {
        Ok(()) => {}
        Err(ConnectError::Unix { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {
            let timer = later(inner, RETRY, move |inner| {
                let core = inner.core.borrow();
                let client = core.streams.connectors.get(key);
                let goes_on = client.is_some_and(|client| !client.ending);
                drop(core);
                if goes_on {
                    attempt(inner, key);
                }
            });
            // There is no connection yet that would keep the loop running.
            timer.reref();
            set_delay(inner, key, Some(timer));
        }
        Err(error) => give_up(inner, key, error),
    }
}

fn open(inner: &Inner, key: Key) -> Result<(), ConnectError> {
    let core = &mut *inner.core.borrow_mut();
    let client = core.streams.connectors.get_mut(key).ok_or(ConnectError::Closed)?;
    let Target::Unix(options) = &client.target else { return Err(ConnectError::NoAddress) };
    let peer = options.address().clone();
    let tuning = options.common.tuning.check()?;
    let spec = UnixSpec { peer: peer.clone(), options: options.common.check()? };
    let stream = core.streams.connections.next_key();
    let socket =
        inner.driver.borrow_mut().connect_unix(&spec, stream.token(Kind::Stream)).map_err(
            |error| match error {
                OpenError::Option(name, source) => {
                    ConnectError::Option(OptionError::from_io(name, source))
                }
                OpenError::Bind(source) | OpenError::Socket(source) => {
                    ConnectError::Unix { address: spec.peer.clone(), source }
                }
            },
        )?;
    let (origin, phase) = (Origin::Connector(key), Phase::Connecting);
    let tuning = Rc::new(tuning);
    let mut connection =
        Connection::new(stream, socket.into(), peer.clone().into(), origin, phase, tuning);
    connection.set_label(client.target.label());
    client.attempts.push((stream, peer.into()));
    core.agenda.references += 1;
    core.streams.connections.insert(connection);
    Ok(())
}

impl Transport {
    /// The address of this end of a UNIX stream: a client has none.
    ///
    /// # Errors
    /// [`OptionError`]: `Closed`, `Io`, or `Unsupported` on a TCP connection.
    pub fn unix_local_addr(&self) -> Result<UnixAddr, OptionError> {
        self.ask("an address of UNIX (of a TCP connection: see local_addr)", |socket| {
            socket.unix_local_addr()
        })
    }

    /// Who opened the other end of a UNIX stream, as the system vouches for it: no peer can lie
    /// about it.
    ///
    /// # Errors
    /// [`OptionError`]: `Closed`, `Io`, or `Unsupported` on a TCP connection and on systems that
    /// do not tell.
    pub fn peer_credentials(&self) -> Result<PeerCredentials, OptionError> {
        self.ask("peer_credentials", |socket| socket.peer_credentials())
    }
}

impl ListeningPort {
    /// The address of a UNIX port, as it was given.
    ///
    /// # Errors
    /// [`OptionError`]: `Closed`, `Io`, or `Unsupported` on a TCP port.
    pub fn unix_addr(&self) -> Result<UnixAddr, OptionError> {
        let name = "an address of UNIX (of a TCP port: see local_addr)";
        self.with(|listener, _| {
            listener.socket.unix_addr().map_err(|source| OptionError::from_io(name, source))
        })
        .unwrap_or(Err(OptionError::Closed))
    }
}
