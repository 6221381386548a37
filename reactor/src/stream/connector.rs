//! Clients: opening connections, again and again if wanted.

use std::fmt;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::attempts::{Lookups, begin, give_up};
use super::happy_eyeballs::Race;
use super::{ConnectOptions, PeerAddr, Protocol, StreamNotice, Transport};
use crate::callback::{LogLimit, guarded};
use crate::error::{ConnectError, ConnectionLost};
use crate::inner::{Inner, reach};
use crate::slots::Key;
use crate::unix::UnixConnectOptions;
use crate::{DelayedCall, Handle};

/// Builds the protocol of a connection that a client opened, and is told how that went.
///
/// A closure that takes a [`PeerAddr`] and returns an `Option` of a protocol is a factory.
///
/// ```
/// use strand_reactor::{ClientFactory, ConnectError, Connector, PeerAddr, Protocol, Reactor};
/// struct Client;
/// impl ClientFactory for Client {
///     fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> { None }
///     fn client_connection_failed(&mut self, connector: &Connector, _: &ConnectError)
///     -> anyhow::Result<()> {
///         connector.reactor().stop();
///         Ok(())
///     }
/// }
/// let reactor = Reactor::new()?;
/// let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
/// reactor.connect_tcp(nobody, Client)?;
/// reactor.run()?;
/// # Ok::<(), anyhow::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no factory of protocols for a client",
    note = "a closure such as `|_: PeerAddr| Some(protocol)` is one; it makes the protocol of each \
            connection"
)]
pub trait ClientFactory {
    /// The connection is there. `None` closes it, and `client_connection_failed` is called with
    /// [`ConnectError::NoProtocol`].
    fn build_protocol(&mut self, peer: PeerAddr) -> Option<Box<dyn Protocol>>;

    /// An attempt begins: called before [`Handle::connect_tcp`] returns, which returns an error
    /// of this; from the loop for [`Connector::connect`].
    ///
    /// # Errors
    /// Whatever should keep the attempt from being made.
    fn started_connecting(&mut self, connector: &Connector) -> anyhow::Result<()> {
        let _ = connector;
        Ok(())
    }

    /// The attempt failed. [`Connector::connect`] may be called to try again.
    ///
    /// # Errors
    /// Logged and counted.
    fn client_connection_failed(
        &mut self,
        connector: &Connector,
        error: &ConnectError,
    ) -> anyhow::Result<()> {
        tracing::debug!(peer = %connector.label(), %error, "not connected");
        Ok(())
    }

    /// The connection that this made ended; its protocol was told before.
    /// [`Connector::connect`] may be called to connect again.
    ///
    /// # Errors
    /// Logged and counted.
    fn client_connection_lost(
        &mut self,
        connector: &Connector,
        reason: &ConnectionLost,
    ) -> anyhow::Result<()> {
        let _ = (connector, reason);
        Ok(())
    }
}

impl<F, P> ClientFactory for F
where
    F: FnMut(PeerAddr) -> Option<P>,
    P: Protocol + 'static,
{
    fn build_protocol(&mut self, peer: PeerAddr) -> Option<Box<dyn Protocol>> {
        let protocol = self(peer)?;
        Some(Box::new(protocol))
    }
}

/// What a connector is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectorState {
    /// Nothing: the attempt failed, or the connection is lost.
    Disconnected,
    /// Trying.
    Connecting,
    /// Its connection is open.
    Connected,
}

/// Where a connector connects to.
pub(crate) enum Target {
    Tcp(ConnectOptions),
    Unix(UnixConnectOptions),
}

impl Target {
    /// What can be said at the call.
    fn check_call(&self) -> Result<(), ConnectError> {
        match self {
            Self::Tcp(options) => options.check_call(),
            Self::Unix(options) => {
                options.check()?;
                options.common.tuning.check()?;
                options.common.check()?;
                Ok(())
            }
        }
    }

    fn peer(&self) -> Option<PeerAddr> {
        match self {
            Self::Tcp(options) => options.peer().map(Into::into),
            Self::Unix(options) => Some(options.address().clone().into()),
        }
    }

    pub(super) fn label(&self) -> Option<&str> {
        match self {
            Self::Tcp(options) => options.label.as_deref(),
            Self::Unix(options) => options.label.as_deref(),
        }
    }

    pub(super) fn timeout(&self) -> Duration {
        match self {
            Self::Tcp(options) => options.timeout,
            Self::Unix(options) => options.timeout,
        }
    }

    /// The options of TCP, which alone looks names up and races addresses.
    pub(super) fn tcp(&self) -> Option<&ConnectOptions> {
        if let Self::Tcp(options) = self { Some(options) } else { None }
    }
}

/// The state of a connector.
pub(crate) struct Client {
    key: Key,
    /// `None` while it is called.
    factory: Option<Box<dyn ClientFactory>>,
    pub(super) target: Target,
    pub(super) state: ConnectorState,
    /// It is over, and the loop will say so.
    pub(super) ending: bool,
    pub(super) race: Race,
    /// The attempts under way.
    pub(super) attempts: Vec<(Key, PeerAddr)>,
    /// Why the first of them failed.
    pub(super) first_error: Option<ConnectError>,
    /// The lookups of this attempt; answers to those of another are late.
    pub(super) lookups: Lookups,
    /// Where the connection goes.
    pub(super) peer: Option<PeerAddr>,
    /// The connection.
    pub(super) stream: Option<Key>,
    /// Ends the race when it takes too long.
    pub(super) timeout: Option<DelayedCall>,
    /// Begins the next attempt.
    pub(super) delay: Option<DelayedCall>,
    /// Shared with every handle: tells whether there is one.
    handles: Rc<()>,
    log: LogLimit,
}

/// A handle to what connects a client, cheap to clone. [`Handle::connect_tcp`] and
/// [`Handle::connect_unix`] return one and the factory is given one; it opens one connection at a time.
#[derive(Clone)]
pub struct Connector {
    inner: Weak<Inner>,
    key: Key,
    handles: Rc<()>,
}

impl Handle {
    /// Connects to an address or a host over TCP. Nothing but the factory's
    /// [`started_connecting`](ClientFactory::started_connecting) is called before this returns;
    /// success and failure come from the loop.
    ///
    /// `target` is a `SocketAddr`, text such as `"192.0.2.1:80"` or `"example.com:80"`, a name and
    /// a port such as `("example.com", 80)`, or [`ConnectOptions`], which can hold several
    /// addresses to try. A name is looked up as [`ConnectOptions::host`] says; one without
    /// addresses ends in [`ConnectError::Resolve`].
    ///
    /// ```
    /// use strand_reactor::{PeerAddr, Protocol, Reactor, Transport};
    /// struct Server;
    /// impl Protocol for Server {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
    ///         transport.write(data)?;
    ///         transport.lose_connection();
    ///         Ok(())
    ///     }
    /// }
    /// struct Client;
    /// impl Protocol for Client {
    ///     fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
    ///         Ok(transport.write(b"hello")?)
    ///     }
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
    ///         assert_eq!(data, b"hello");
    ///         transport.reactor().stop();
    ///         Ok(())
    ///     }
    /// }
    /// let reactor = Reactor::new()?;
    /// let port = reactor.listen_tcp("127.0.0.1:0", |_: PeerAddr| Some(Server))?;
    /// reactor.connect_tcp(port.local_addr()?, |_: PeerAddr| Some(Client))?;
    /// reactor.run()?;
    /// assert_eq!(reactor.stats().callback_panics, 0);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ConnectError`] for what is wrong with the call (`Address`, `Option`), for an error of
    /// the factory, and when the reactor is gone or going. What the network says goes to the
    /// factory.
    pub fn connect_tcp<O, F>(&self, target: O, factory: F) -> Result<Connector, ConnectError>
    where
        O: TryInto<ConnectOptions>,
        O::Error: Into<ConnectError>,
        F: ClientFactory + 'static,
    {
        let options = target.try_into().map_err(Into::into)?;
        self.open_connector(Target::Tcp(options), Box::new(factory))
    }

    pub(crate) fn open_connector(
        &self,
        target: Target,
        mut factory: Box<dyn ClientFactory>,
    ) -> Result<Connector, ConnectError> {
        target.check_call()?;
        let inner = self.upgrade().ok_or(ConnectError::Closed)?;
        check_open(&inner)?;
        let handles = Rc::new(());
        let key = {
            let core = &mut *inner.core.borrow_mut();
            let key = core.streams.connectors.next_key();
            core.streams.connectors.insert(Client {
                key,
                factory: None,
                target,
                state: ConnectorState::Connecting,
                ending: false,
                race: Race::new(),
                attempts: Vec::new(),
                first_error: None,
                lookups: Lookups::default(),
                peer: None,
                stream: None,
                timeout: None,
                delay: None,
                handles: Rc::clone(&handles),
                log: LogLimit::default(),
            })
        };
        let connector = Connector { inner: Rc::downgrade(&inner), key, handles };
        inner.starting.set(inner.starting.get() + 1);
        let outcome = guarded(|| factory.started_connecting(&connector));
        inner.starting.set(inner.starting.get() - 1);
        match outcome {
            Ok(()) => {
                return_factory(&inner, key, factory);
                begin(&inner, key);
                Ok(connector)
            }
            Err(failure) => {
                let client = inner.core.borrow_mut().streams.connectors.remove(key);
                inner.discard("unused connector", "drop of a factory", (client, factory));
                Err(ConnectError::Factory(inner.start_failure(failure)))
            }
        }
    }
}

fn check_open(inner: &Inner) -> Result<(), ConnectError> {
    if inner.core.borrow().closed {
        Err(ConnectError::Closed)
    } else if inner.is_shutting_down() {
        Err(ConnectError::ShuttingDown)
    } else {
        Ok(())
    }
}

impl Connector {
    fn with<R>(&self, work: impl FnOnce(&mut Client) -> R) -> Option<R> {
        let inner = reach(&self.inner)?;
        let core = &mut *inner.core.borrow_mut();
        core.streams.connectors.get_mut(self.key).map(work)
    }

    /// Connects anew, once the attempt before has failed or the connection is lost. A name is
    /// looked up anew, too.
    ///
    /// # Errors
    /// [`ConnectError::IsConnecting`] and `IsConnected`; `ShuttingDown`, `Closed`.
    /// What the network says goes to the factory.
    pub fn connect(&self) -> Result<(), ConnectError> {
        let inner = reach(&self.inner).ok_or(ConnectError::Closed)?;
        check_open(&inner)?;
        {
            let core = &mut *inner.core.borrow_mut();
            let client = core.streams.connectors.get_mut(self.key).ok_or(ConnectError::Closed)?;
            match (client.state, client.peer.clone()) {
                (ConnectorState::Disconnected, _) => {}
                (ConnectorState::Connected, Some(peer)) => {
                    return Err(ConnectError::IsConnected { peer });
                }
                _ => return Err(ConnectError::IsConnecting),
            }
            client.state = ConnectorState::Connecting;
            client.ending = false;
            core.agenda.notices.push_back(StreamNotice::StartedConnecting(self.key).into());
        }
        Ok(())
    }

    /// Gives the attempt up, and the lookup of its name: `client_connection_failed` follows from
    /// the loop with [`ConnectError::Cancelled`].
    ///
    /// # Errors
    /// [`ConnectError::NotConnecting`] when there is none; `Closed`.
    pub fn stop_connecting(&self) -> Result<(), ConnectError> {
        let inner = reach(&self.inner).ok_or(ConnectError::Closed)?;
        let core = &mut *inner.core.borrow_mut();
        match core.streams.connectors.get_mut(self.key) {
            Some(client) if client.state == ConnectorState::Connecting => {
                if !std::mem::replace(&mut client.ending, true) {
                    let notice = StreamNotice::ConnectFailed(self.key, ConnectError::Cancelled);
                    core.agenda.notices.push_back(notice.into());
                }
                Ok(())
            }
            Some(_) => Err(ConnectError::NotConnecting),
            None => Err(ConnectError::Closed),
        }
    }

    /// Ends whatever it does: gives the attempt up, or closes the connection as
    /// [`lose_connection`](Transport::lose_connection) does.
    pub fn disconnect(&self) {
        if self.stop_connecting().is_err()
            && let Some(transport) = self.transport()
        {
            transport.lose_connection();
        }
    }

    /// What it is doing.
    pub fn state(&self) -> ConnectorState {
        self.with(|client| client.state).unwrap_or(ConnectorState::Disconnected)
    }

    /// Its connection, if there is one.
    pub fn transport(&self) -> Option<Transport> {
        let key = self.with(|client| match client.state {
            ConnectorState::Connected => client.stream,
            _ => None,
        })??;
        Some(Transport::new(&self.inner.upgrade()?, key))
    }

    /// Where it is connected to, or else the first address it tries; `None` when that is to be
    /// looked up or is no address of IP, or the reactor is gone.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer()?.ip()
    }

    /// As [`peer_addr`](Self::peer_addr), whatever the family.
    pub fn peer(&self) -> Option<PeerAddr> {
        self.with(|client| client.peer.clone().or_else(|| client.target.peer()))?
    }

    /// Its name in logs.
    pub fn label(&self) -> String {
        self.with(|client| client.label().to_string())
            .unwrap_or_else(|| "closed connector".to_owned())
    }

    /// The reactor.
    pub fn reactor(&self) -> Handle {
        Handle::from_weak(self.inner.clone())
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        // The last handle to a connector that does nothing: nobody can use it any more.
        if Rc::strong_count(&self.handles) == 2
            && let Some(inner) = self.inner.upgrade()
        {
            let client = match inner.core.try_borrow_mut() {
                Ok(mut core) => take_unused(&mut core.streams.connectors, self.key, 2),
                Err(_) => None,
            };
            inner.discard("unused connector", "drop of a factory", client);
        }
    }
}

/// Takes a connector out of its slot that does nothing and has no handles but those of the caller.
fn take_unused(
    connectors: &mut crate::slots::Slots<Client>,
    key: Key,
    owners: usize,
) -> Option<Client> {
    let client = connectors.get(key)?;
    let unused = client.state == ConnectorState::Disconnected
        && client.factory.is_some()
        && Rc::strong_count(&client.handles) <= owners;
    if unused { connectors.remove(key) } else { None }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("peer", &self.peer())
            .field("state", &self.state())
            .finish()
    }
}

impl Client {
    pub(super) fn label(&self) -> Rc<str> {
        match (&self.target, self.target.label()) {
            (_, Some(label)) => label.into(),
            (Target::Tcp(options), None) => format!("tcp {}", options.target()).into(),
            (Target::Unix(options), None) => format!("unix {}", options.address()).into(),
        }
    }
}

/// The loop tells that an attempt begins, and begins it.
pub(crate) fn started(inner: &Rc<Inner>, key: Key) {
    let ok = call(inner, key, "started_connecting", |factory, connector| {
        factory.started_connecting(connector)
    });
    match ok {
        Ok(()) => begin(inner, key),
        Err(error) => {
            let error = ConnectError::Factory(error);
            give_up(inner, key, error);
        }
    }
}

/// Lets go of a connector that nobody can use any more.
pub(super) fn release(inner: &Inner, key: Key) {
    let client = take_unused(&mut inner.core.borrow_mut().streams.connectors, key, 1);
    inner.discard("unused connector", "drop of a factory", client);
}

/// Calls the factory; what fails is logged and counted, and handed back.
pub(super) fn call(
    inner: &Rc<Inner>,
    key: Key,
    what: &'static str,
    call: impl FnOnce(&mut dyn ClientFactory, &Connector) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (mut factory, connector) = {
        let core = &mut *inner.core.borrow_mut();
        let Some(client) = core.streams.connectors.get_mut(key) else { return Ok(()) };
        let Some(factory) = client.factory.take() else { return Ok(()) };
        let handles = Rc::clone(&client.handles);
        (factory, Connector { inner: Rc::downgrade(inner), key: client.key, handles })
    };
    let outcome = guarded(|| call(&mut *factory, &connector));
    return_factory(inner, key, factory);
    drop(connector);
    let Err(failure) = outcome else { return Ok(()) };
    Err(inner.blame("closed connector", what, failure, |core, failed| {
        let client = core.streams.connectors.get_mut(key)?;
        Some((client.label(), client.log.admits(failed.now)))
    }))
}

/// Ends a call: the factory returns to its connector, or is dropped with nothing borrowed.
fn return_factory(inner: &Inner, key: Key, factory: Box<dyn ClientFactory>) {
    let homeless = match inner.core.borrow_mut().streams.connectors.get_mut(key) {
        Some(client) => client.factory.replace(factory),
        None => Some(factory),
    };
    inner.discard("closed connector", "drop of a factory", homeless);
}
