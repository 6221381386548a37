//! Two protocols joined by a link.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::rc::Rc;

use super::super::world::World;
use super::recorder::Recorder;
use crate::Handle;
use crate::datagram::{DatagramProtocol, DatagramTransport, UdpOptions};
use crate::error::{ConnectionLost, ListenError};
use crate::stream::{PeerAddr, Protocol, TcpOptions, Transport};

/// Two protocols and the link between them: a [`World`] of two hosts, `"client"` (10.0.0.1) and
/// `"server"` (10.0.0.2), with a port or a connection on each. [`pair`] joins them by datagrams,
/// [`stream_pair`] by a stream.
///
/// It derefs to its world, whose [`step`](World::step) lets one host take one turn, and whose
/// [`link`](World::link) and [`rule`](World::rule) make the link a bad one; at first it takes
/// 1 ms. Panics of callbacks, and so failed assertions, leave `step` and its like.
pub struct Pair<T> {
    world: World,
    client: T,
    server: T,
    sent_by_client: Recorder,
    sent_by_server: Recorder,
}

const PORT: u16 = 9_999;

/// Joins two protocols by datagrams, in a world or in a new one of this seed: the port of `client`
/// is connected to that of `server`, 10.0.0.2:9999, which is not connected and hears everybody. No
/// time has passed yet: what their `start_protocol` wrote is about to be sent.
///
/// ```
/// use strand_reactor::{Datagram, DatagramProtocol, DatagramTransport, sim};
///
/// struct Count(u8);
/// impl DatagramProtocol for Count {
///     fn datagram_received(&mut self, t: &DatagramTransport, d: Datagram<'_>) -> anyhow::Result<()> {
///         self.0 += 1;
///         if self.0 < 3 {
///             t.write_with(d.payload(), &d.reply())?;
///         }
///         Ok(())
///     }
/// }
///
/// let pair = sim::pair(1, Count(0), Count(0))?;
/// pair.client().write(b"ball")?;
/// assert!(pair.step()?); // the client sends it
/// assert!(pair.step()?); // the server has it a millisecond later, and sends it back
/// assert_eq!(pair.server().stats()?.datagrams_in, 1);
/// while pair.step()? {}
/// assert_eq!(pair.elapsed().as_millis(), 5);
/// # Ok::<(), anyhow::Error>(())
/// ```
///
/// # Errors
/// Those of [`listen_udp`](Handle::listen_udp): [`ListenError::Protocol`] when a
/// `start_protocol` fails.
///
/// # Panics
/// When the world has hosts of these names or addresses already.
#[track_caller]
pub fn pair<C, S>(
    world: impl Into<World>,
    client: C,
    server: S,
) -> Result<Pair<DatagramTransport>, ListenError>
where
    C: DatagramProtocol + 'static,
    S: DatagramProtocol + 'static,
{
    let Hosts { world, client: from, server: at, address } = Hosts::new(world.into());
    let recorders = record(&world);
    let server = at.listen_udp(UdpOptions::new(address), server)?;
    let client = from.connect_udp(address, client)?;
    Ok(Pair::new(world, client, server, recorders))
}

/// Joins two protocols by a stream, in a world or in a new one of this seed, over which `client` has
/// connected to `server`. The handshake is done and both `connection_made` were called; nobody
/// listens any more.
///
/// ```
/// use strand_reactor::{Protocol, Transport, sim};
///
/// struct Shout;
/// impl Protocol for Shout {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
///         transport.write(&data.to_ascii_uppercase())?;
///         transport.lose_connection();
///         Ok(())
///     }
/// }
/// struct Quiet;
/// impl Protocol for Quiet {
///     fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> {
///         Ok(())
///     }
/// }
///
/// let pair = sim::stream_pair(1, Quiet, Shout)?;
/// pair.client().write(b"hello")?;
/// while pair.step()? {}
/// assert_eq!(pair.sent_by_server().written(), b"HELLO");
/// pair.assert_nothing_left();
/// # Ok::<(), anyhow::Error>(())
/// ```
///
/// # Errors
/// Those of [`listen_tcp`](Handle::listen_tcp).
///
/// # Panics
/// As [`pair`].
#[track_caller]
pub fn stream_pair<C, S>(
    world: impl Into<World>,
    client: C,
    server: S,
) -> Result<Pair<Transport>, ListenError>
where
    C: Protocol + 'static,
    S: Protocol + 'static,
{
    let Hosts { world, client: from, server: at, address } = Hosts::new(world.into());
    let recorders = record(&world);
    let (made_client, made_server) = (Place::default(), Place::default());
    let build = factory(server, &made_server);
    let port = at.listen_tcp(TcpOptions::new(address), move |_: PeerAddr| build())?;
    let build = factory(client, &made_client);
    let connector = from.connect_tcp(address, move |_: PeerAddr| build());
    connector.map_err(|source| ListenError::Connect { peer: address, source })?;
    let both = || made_client.borrow().is_some() && made_server.borrow().is_some();
    let joined = world.run_until(both).map_err(|_| ListenError::Closed)?;
    let (client, server) = (made_client.take(), made_server.take());
    let (Some(client), Some(server), true) = (client, server, joined) else {
        return Err(ListenError::Closed);
    };
    port.stop_listening();
    Ok(Pair::new(world, client, server, recorders))
}

/// The hosts of a pair.
struct Hosts {
    world: World,
    client: Handle,
    server: Handle,
    /// Where the server is found.
    address: SocketAddr,
}

impl Hosts {
    #[track_caller]
    fn new(world: World) -> Self {
        world.catch_panics(false);
        let server_ip = Ipv4Addr::new(10, 0, 0, 2);
        let made = world.host("client", Ipv4Addr::new(10, 0, 0, 1));
        let made = made.and_then(|client| Ok((client, world.host("server", server_ip)?)));
        let (client, server) = made.unwrap_or_else(|taken| panic!("no place for a pair: {taken}"));
        Self { world, client, server, address: (server_ip, PORT).into() }
    }
}

fn record(world: &World) -> [Recorder; 2] {
    ["client", "server"].map(|name| world.record(name).expect("a host of every pair"))
}

impl<T> Pair<T> {
    fn new(
        world: World,
        client: T,
        server: T,
        [sent_by_client, sent_by_server]: [Recorder; 2],
    ) -> Self {
        Self { world, client, server, sent_by_client, sent_by_server }
    }

    /// The transport of the client.
    pub fn client(&self) -> &T {
        &self.client
    }

    /// The transport of the server.
    pub fn server(&self) -> &T {
        &self.server
    }

    /// What the client has sent.
    pub fn sent_by_client(&self) -> &Recorder {
        &self.sent_by_client
    }

    /// What the server has sent.
    pub fn sent_by_server(&self) -> &Recorder {
        &self.sent_by_server
    }

    /// The world of the two.
    pub fn world(&self) -> &World {
        &self.world
    }
}

impl<T> Deref for Pair<T> {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl<T: fmt::Debug> fmt::Debug for Pair<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair")
            .field("client", &self.client)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// Where a transport is put once there is one.
type Place = Rc<RefCell<Option<Transport>>>;

/// Gives out the protocol, once.
fn factory<P: Protocol>(protocol: P, place: &Place) -> impl Fn() -> Option<Noted<P>> + use<P> {
    let noted = Cell::new(Some(Noted { protocol, place: Rc::clone(place) }));
    move || noted.take()
}

/// Notes its transport and passes everything on.
struct Noted<P> {
    protocol: P,
    place: Place,
}

impl<P: Protocol> Protocol for Noted<P> {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        self.place.replace(Some(transport.clone()));
        self.protocol.connection_made(transport)
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
        self.protocol.data_received(transport, data)
    }

    fn read_connection_lost(&mut self, transport: &Transport) -> anyhow::Result<()> {
        self.protocol.read_connection_lost(transport)
    }

    fn write_connection_lost(&mut self, transport: &Transport) -> anyhow::Result<()> {
        self.protocol.write_connection_lost(transport)
    }

    fn pause_writing(&mut self, transport: &Transport) -> anyhow::Result<()> {
        self.protocol.pause_writing(transport)
    }

    fn resume_writing(&mut self, transport: &Transport) -> anyhow::Result<()> {
        self.protocol.resume_writing(transport)
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        self.protocol.connection_lost(reason);
    }
}
