//! Opening ports, and taking over sockets made elsewhere.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use super::closing::retire;
use super::port::{Port, Readiness};
use super::{DatagramKey, DatagramProtocol, DatagramTransport, Tuning, UdpOptions};
use crate::Handle;
use crate::callback::guarded;
use crate::error::{AdoptError, ListenError, OptionError};
use crate::inner::Inner;
use crate::net::{DatagramSocket, DatagramSpec, OpenError, Ownership, SocketOption};
use crate::slots::{Key, Kind};

impl Handle {
    /// Opens a UDP port and attaches a protocol to it. Its `start_protocol` is called before this
    /// returns; datagrams come once the loop runs.
    ///
    /// `options` is a port number (of 0.0.0.0), an address, text such as `"127.0.0.1:9999"` or
    /// `"[::]:5353"`, or [`UdpOptions`].
    ///
    /// ```
    /// # use strand_reactor::*;
    /// # struct Echo;
    /// # impl DatagramProtocol for Echo {
    /// #     fn datagram_received(&mut self, transport: &DatagramTransport, datagram: Datagram<'_>)
    /// #     -> anyhow::Result<()> { Ok(transport.write_to(datagram.payload(), datagram.source())?) }
    /// # }
    /// let reactor = Reactor::new()?;
    /// let port = reactor.listen_udp("127.0.0.1:0", Echo)?;
    /// assert_ne!(port.local_addr()?.port(), 0);
    /// let taken = reactor.listen_udp(port.local_addr()?, Echo).unwrap_err();
    /// assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ListenError`]; nothing is left behind.
    pub fn listen_udp<O, P>(
        &self,
        options: O,
        protocol: P,
    ) -> Result<DatagramTransport, ListenError>
    where
        O: TryInto<UdpOptions>,
        O::Error: Into<ListenError>,
        P: DatagramProtocol + 'static,
    {
        self.open_udp(options.try_into().map_err(Into::into)?, None, Box::new(protocol))
    }

    /// Opens a UDP port on a number of the system's choice, connected to `peer`: it sends to and
    /// hears from that address alone, and is told when nobody listens there. The port is
    /// connected before `start_protocol` is called.
    ///
    /// # Errors
    /// As [`listen_udp`](Self::listen_udp), and [`ListenError::Connect`].
    pub fn connect_udp<P>(
        &self,
        peer: SocketAddr,
        protocol: P,
    ) -> Result<DatagramTransport, ListenError>
    where
        P: DatagramProtocol + 'static,
    {
        let any: SocketAddr = match peer {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        self.connect_udp_from(any, peer, protocol)
    }

    /// As [`connect_udp`](Self::connect_udp), from a port with options of its own.
    ///
    /// # Errors
    /// As [`connect_udp`](Self::connect_udp).
    pub fn connect_udp_from<O, P>(
        &self,
        options: O,
        peer: SocketAddr,
        protocol: P,
    ) -> Result<DatagramTransport, ListenError>
    where
        O: TryInto<UdpOptions>,
        O::Error: Into<ListenError>,
        P: DatagramProtocol + 'static,
    {
        self.open_udp(options.try_into().map_err(Into::into)?, Some(peer), Box::new(protocol))
    }

    pub(super) fn open_udp(
        &self,
        options: UdpOptions,
        peer: Option<SocketAddr>,
        protocol: Box<dyn DatagramProtocol>,
    ) -> Result<DatagramTransport, ListenError> {
        let (spec, mut tuning) = options.check()?;
        let inner = self.upgrade().ok_or(ListenError::Closed)?;
        let key = vacancy(&inner)?;
        let socket = inner
            .driver
            .borrow_mut()
            .open_datagram(&spec, key.token(Kind::Datagram))
            .map_err(|error| listen_error(error, &spec))?;
        let kind = if tuning.multicast { "multicast" } else { "udp" };
        let label = label(&*socket, tuning.label.take(), kind);
        let error_queue = spec.options.contains(&(SocketOption::ErrorQueue, 1));
        let mut port = Port::new(key, socket, None, error_queue, tuning, label, Some(0));
        if let Some(peer) = peer {
            let connected = port.connect(peer, &mut inner.core.borrow_mut().agenda);
            connected.map_err(|source| ListenError::Connect { peer, source })?;
        }
        start(&inner, port, protocol)
    }

    /// Takes over a datagram socket made elsewhere (by a parent process, by another library) and
    /// attaches a protocol to it. The socket belongs to the port from now on, and is closed with
    /// it.
    ///
    /// The kernel is asked what the socket is: its family, whether it is bound, and its peer if
    /// it has one. It is made non-blocking and close-on-exec; no other option is touched, and
    /// what arrived before is delivered. Datagram (`SOCK_DGRAM`) and raw (`SOCK_RAW`) sockets of
    /// IPv4 and IPv6 can be adopted.
    ///
    /// The kernel does not tell the peer of a raw socket: write with a destination even where it
    /// was connected.
    ///
    /// A socket that was connected before keeps its own setting of `IP_RECVERR`: where it is off,
    /// a burst of refusals may be told as one. `set_error_queue(true)` turns it on.
    ///
    /// # Errors
    /// [`AdoptError`]; the socket is closed.
    pub fn adopt_datagram_port<P>(
        &self,
        socket: impl Into<OwnedFd>,
        protocol: P,
    ) -> Result<DatagramTransport, AdoptError>
    where
        P: DatagramProtocol + 'static,
    {
        self.adopt(socket.into(), Ownership::Owned, Box::new(protocol))
    }

    /// As [`adopt_datagram_port`](Self::adopt_datagram_port), over a duplicate of a descriptor
    /// that the caller keeps: it stays open and works as before, blocking or not.
    ///
    /// Both descriptors are the same socket: each datagram goes to whoever reads first, and the
    /// peer and the options are common.
    ///
    /// # Errors
    /// [`AdoptError`]; the caller's descriptor is unharmed.
    pub fn adopt_datagram_port_shared<P>(
        &self,
        socket: impl AsFd,
        protocol: P,
    ) -> Result<DatagramTransport, AdoptError>
    where
        P: DatagramProtocol + 'static,
    {
        let duplicate = socket.as_fd().try_clone_to_owned().map_err(AdoptError::BadDescriptor)?;
        self.adopt(duplicate, Ownership::Shared, Box::new(protocol))
    }

    fn adopt(
        &self,
        fd: OwnedFd,
        ownership: Ownership,
        protocol: Box<dyn DatagramProtocol>,
    ) -> Result<DatagramTransport, AdoptError> {
        let inner = self.upgrade().ok_or(AdoptError::Closed)?;
        let key = vacancy(&inner)?;
        let socket =
            inner.driver.borrow_mut().adopt_datagram(fd, ownership, key.token(Kind::Datagram))?;
        let peer = socket.peer_addr().ok();
        let error_queue = socket.capabilities().error_queue
            && socket.option(SocketOption::ErrorQueue).unwrap_or(0) != 0;
        let drops = socket.drops();
        let label = label(&*socket, None, "adopted udp");
        let mut port = Port::new(key, socket, peer, error_queue, Tuning::default(), label, drops);
        // What waits already is no news to the poller.
        port.make_ready(Readiness::READABLE, &mut inner.core.borrow_mut().agenda);
        start(&inner, port, protocol)
    }

    /// The port of this key; `None` when it is closed or belongs to another reactor.
    pub fn datagram(&self, key: DatagramKey) -> Option<DatagramTransport> {
        let inner = self.upgrade()?;
        let open = inner.id == key.reactor && inner.core.borrow().ports.get(key.key).is_some();
        open.then(|| DatagramTransport::new(&inner, key.key))
    }

    /// Every port that is not closed, in no particular order.
    pub fn datagram_ports(&self) -> Vec<DatagramTransport> {
        let Some(inner) = self.upgrade() else { return Vec::new() };
        let core = inner.core.borrow();
        core.ports.keys().map(|key| DatagramTransport::new(&inner, key)).collect()
    }
}

/// Why nothing can be opened on this reactor any more.
pub(crate) enum Ending {
    ShuttingDown,
    Closed,
}

impl From<Ending> for ListenError {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::ShuttingDown => Self::ShuttingDown,
            Ending::Closed => Self::Closed,
        }
    }
}

impl From<Ending> for AdoptError {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::ShuttingDown => Self::ShuttingDown,
            Ending::Closed => Self::Closed,
        }
    }
}

/// The key of the port about to be opened.
pub(crate) fn vacancy(inner: &Inner) -> Result<Key, Ending> {
    let core = inner.core.borrow();
    if core.closed {
        Err(Ending::Closed)
    } else if inner.is_shutting_down() {
        Err(Ending::ShuttingDown)
    } else {
        Ok(core.ports.next_key())
    }
}

pub(crate) fn label(
    socket: &dyn DatagramSocket,
    given: Option<String>,
    kind: &'static str,
) -> Rc<str> {
    match (given, socket.local_addr()) {
        (Some(label), _) => label.into(),
        (None, Ok(address)) if address.port() != 0 => format!("{kind} {address}").into(),
        _ => kind.into(),
    }
}

fn listen_error(error: OpenError, spec: &DatagramSpec) -> ListenError {
    match (error, spec.bind) {
        (OpenError::Bind(source), Some(address)) => ListenError::Bind { address, source },
        (OpenError::Option("device", source), _) => {
            ListenError::Option(OptionError::of_device(spec.device.as_deref(), source))
        }
        (OpenError::Option(name, source), _) => {
            ListenError::Option(OptionError::from_io(name, source))
        }
        (OpenError::Socket(source) | OpenError::Bind(source), _) => ListenError::Socket(source),
    }
}

/// Why a protocol was not attached.
pub(crate) enum StartError {
    Protocol(anyhow::Error),
    Closed,
}

impl From<StartError> for ListenError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Protocol(error) => Self::Protocol(error),
            StartError::Closed => Self::Closed,
        }
    }
}

impl From<StartError> for AdoptError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Protocol(error) => Self::Protocol(error),
            StartError::Closed => Self::Closed,
        }
    }
}

/// Puts the port in its slot and tells the protocol; takes it out again if that fails.
pub(crate) fn start<E: From<StartError>>(
    inner: &Rc<Inner>,
    port: Port,
    mut protocol: Box<dyn DatagramProtocol>,
) -> Result<DatagramTransport, E> {
    let label = Rc::clone(&port.label);
    let key = {
        let core = &mut *inner.core.borrow_mut();
        core.agenda.references += 1;
        core.ports.insert(port)
    };
    let transport = DatagramTransport::new(inner, key);
    inner.starting.set(inner.starting.get() + 1);
    let outcome = guarded(|| protocol.start_protocol(&transport));
    inner.starting.set(inner.starting.get() - 1);
    let failure = match outcome {
        Ok(()) => {
            inner.put_back(key, protocol);
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
