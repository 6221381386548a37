//! Opening TCP ports.

use std::rc::Rc;

use super::listener::Listener;
use super::{Factory, ListeningPort, TcpOptions};
use crate::Handle;
use crate::callback::guarded;
use crate::datagram::StartError;
use crate::error::{ListenError, OptionError};
use crate::inner::Inner;
use crate::net::{ListenSocket, ListenSpec, OpenError};
use crate::slots::Kind;

impl Handle {
    /// Opens a TCP port: each connection that comes is given a protocol by the factory.
    ///
    /// `options` is a port number (of 0.0.0.0), an address, text such as `"127.0.0.1:9999"` or
    /// `"[::]:5353"`, or [`TcpOptions`].
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
    /// let port = reactor.listen_tcp("127.0.0.1:0", |_: PeerAddr| Some(Echo))?;
    /// let taken = reactor.listen_tcp(port.local_addr()?, |_: PeerAddr| Some(Echo)).unwrap_err();
    /// assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ListenError`]; nothing is left behind. An error of the factory's
    /// [`start_factory`](Factory::start_factory) is [`ListenError::Protocol`].
    pub fn listen_tcp<O, F>(&self, options: O, factory: F) -> Result<ListeningPort, ListenError>
    where
        O: TryInto<TcpOptions>,
        O::Error: Into<ListenError>,
        F: Factory + 'static,
    {
        let options = options.try_into().map_err(Into::into)?;
        listen_on(self, options, Box::new(factory), |inner, spec, token| {
            inner.driver.borrow_mut().listen_stream(spec, token)
        })
    }

    /// Every TCP and UNIX port that is not closed, in no particular order.
    ///
    /// ```
    /// let reactor = strand_reactor::Reactor::new()?;
    /// assert!(reactor.listening_ports().is_empty());
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn listening_ports(&self) -> Vec<ListeningPort> {
        let Some(inner) = self.upgrade() else { return Vec::new() };
        let core = inner.core.borrow();
        core.streams.listeners.keys().map(|key| ListeningPort::new(&inner, key)).collect()
    }
}

/// Opens a port on the socket that `open` makes.
pub(crate) fn listen_on(
    handle: &Handle,
    options: TcpOptions,
    factory: Box<dyn Factory>,
    open: impl FnOnce(&Rc<Inner>, &ListenSpec, usize) -> Result<Rc<dyn ListenSocket>, OpenError>,
) -> Result<ListeningPort, ListenError> {
    let (spec, mut accept, tuning) = options.check()?;
    let inner = handle.upgrade().ok_or(ListenError::Closed)?;
    if inner.core.borrow().closed {
        return Err(ListenError::Closed);
    } else if inner.is_shutting_down() {
        return Err(ListenError::ShuttingDown);
    }
    let key = inner.core.borrow().streams.listeners.next_key();
    let socket = open(&inner, &spec, key.token(Kind::Listener))
        .map_err(|error| listen_error(error, &spec))?;
    let label: Rc<str> = match (accept.label.take(), socket.local_addr()) {
        (Some(label), _) => label.into(),
        (None, Ok(address)) => format!("tcp {address}").into(),
        (None, Err(_)) => "tcp".into(),
    };
    start(&inner, Listener::new(key, socket, accept, tuning, label), factory)
}

fn listen_error(error: OpenError, spec: &ListenSpec) -> ListenError {
    match error {
        OpenError::Bind(source) => ListenError::Bind { address: spec.bind, source },
        OpenError::Option(name, source) => ListenError::Option(OptionError::from_io(name, source)),
        OpenError::Socket(source) => ListenError::Socket(source),
    }
}

/// Puts the listener in its slot and starts the factory; takes it out again if that fails.
pub(crate) fn start<E: From<StartError>>(
    inner: &Rc<Inner>,
    listener: Listener,
    mut factory: Box<dyn Factory>,
) -> Result<ListeningPort, E> {
    let label = Rc::clone(&listener.label);
    let key = {
        let core = &mut *inner.core.borrow_mut();
        core.agenda.references += 1;
        core.streams.listeners.insert(listener)
    };
    inner.starting.set(inner.starting.get() + 1);
    let outcome = guarded(|| factory.start_factory());
    inner.starting.set(inner.starting.get() - 1);
    let (failure, homeless) = {
        let core = &mut *inner.core.borrow_mut();
        match (outcome, core.streams.listeners.get_mut(key)) {
            (Ok(()), Some(listener)) => {
                listener.factory = Some(factory);
                (None, Err(()))
            }
            (Ok(()), None) => (None, Ok((Some(factory), None))),
            (Err(failure), _) => {
                let listener = core.streams.listeners.remove(key);
                let referenced = listener.as_ref().is_some_and(|listener| listener.referenced);
                core.agenda.references -= usize::from(referenced);
                (Some(failure), Ok((Some(factory), listener)))
            }
        }
    };
    let Ok(homeless) = homeless else {
        tracing::debug!(port = %label, "open");
        return Ok(ListeningPort::new(inner, key));
    };
    inner.discard(&label, "drop of a factory", homeless);
    Err(match failure {
        None => StartError::Closed,
        Some(failure) => StartError::Protocol(inner.start_failure(failure)),
    }
    .into())
}
