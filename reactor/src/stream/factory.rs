//! What makes a protocol for each connection that a port accepts.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;

use super::{PeerAddr, Protocol};
use crate::datagram::ProtocolBorrowed;

/// Builds the protocol of each connection that a port accepts.
///
/// A closure that takes a [`PeerAddr`] and returns an `Option` of a protocol is a factory; the type
/// of its argument has to be written, `|_: PeerAddr|`. To have one factory on several ports, wrap
/// it in a [`SharedFactory`].
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
/// assert_ne!(port.local_addr()?.port(), 0);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no factory of protocols",
    note = "a closure such as `|_: PeerAddr| Some(protocol)` is one; it makes the protocol of each \
            connection"
)]
pub trait Factory {
    /// A connection of `peer` was accepted. `None` refuses it: it is closed at once, and nothing
    /// else is.
    fn build_protocol(&mut self, peer: PeerAddr) -> Option<Box<dyn Protocol>>;

    /// A port with this factory opens: called before `listen_tcp` returns, which returns an error
    /// of this.
    ///
    /// # Errors
    /// Whatever keeps the factory from serving; the port is closed again.
    fn start_factory(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// The port is closed. Its connections go on.
    ///
    /// # Errors
    /// Logged and counted.
    fn stop_factory(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// The system could not accept a connection, for want of descriptors (`EMFILE`, `ENFILE`) or
    /// memory. The port refrains from accepting for a moment and goes on by itself; without
    /// descriptors the connections that wait are closed, so that their peers need not wait.
    fn accept_error(&mut self, error: &io::Error) {
        let _ = error;
    }
}

impl<F, P> Factory for F
where
    F: FnMut(PeerAddr) -> Option<P>,
    P: Protocol + 'static,
{
    fn build_protocol(&mut self, peer: PeerAddr) -> Option<Box<dyn Protocol>> {
        let protocol = self(peer)?;
        Some(Box::new(protocol))
    }
}

impl Factory for Box<dyn Factory> {
    fn build_protocol(&mut self, peer: PeerAddr) -> Option<Box<dyn Protocol>> {
        (**self).build_protocol(peer)
    }
    fn start_factory(&mut self) -> anyhow::Result<()> {
        (**self).start_factory()
    }
    fn stop_factory(&mut self) -> anyhow::Result<()> {
        (**self).stop_factory()
    }
    fn accept_error(&mut self, error: &io::Error) {
        (**self).accept_error(error);
    }
}

/// One factory for several ports: clones are the same factory, started with the first of its
/// ports and stopped with the last.
///
/// ```
/// use strand_reactor::{Factory, PeerAddr, Protocol, Reactor, SharedFactory};
/// struct Counter(u32);
/// impl Factory for Counter {
///     fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> { None }
///     fn start_factory(&mut self) -> anyhow::Result<()> { self.0 += 1; Ok(()) }
/// }
/// let reactor = Reactor::new()?;
/// let factory = SharedFactory::new(Counter(0));
/// reactor.listen_tcp("127.0.0.1:0", factory.clone())?;
/// reactor.listen_tcp("127.0.0.1:0", factory.clone())?;
/// assert_eq!((factory.ports(), factory.factory().borrow().0), (2, 1));
/// # Ok::<(), anyhow::Error>(())
/// ```
pub struct SharedFactory<F: ?Sized> {
    shared: Rc<Shared<F>>,
}

struct Shared<F: ?Sized> {
    ports: Cell<usize>,
    factory: RefCell<F>,
}

impl<F> SharedFactory<F> {
    /// Makes `factory` one that several ports can have.
    pub fn new(factory: F) -> Self {
        Self { shared: Rc::new(Shared { ports: Cell::new(0), factory: RefCell::new(factory) }) }
    }
}

impl<F: ?Sized> SharedFactory<F> {
    /// The factory itself. A borrow must end before control returns to the loop.
    pub fn factory(&self) -> &RefCell<F> {
        &self.shared.factory
    }

    /// How many ports have it.
    pub fn ports(&self) -> usize {
        self.shared.ports.get()
    }
}

impl<F: ?Sized> Clone for SharedFactory<F> {
    fn clone(&self) -> Self {
        Self { shared: Rc::clone(&self.shared) }
    }
}

impl<F: ?Sized> fmt::Debug for SharedFactory<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedFactory").field("ports", &self.ports()).finish_non_exhaustive()
    }
}

impl<F: Factory + ?Sized> Factory for SharedFactory<F> {
    fn build_protocol(&mut self, peer: PeerAddr) -> Option<Box<dyn Protocol>> {
        match self.shared.factory.try_borrow_mut() {
            Ok(mut factory) => factory.build_protocol(peer),
            Err(_) => {
                tracing::error!("build_protocol: {ProtocolBorrowed}");
                None
            }
        }
    }

    fn start_factory(&mut self) -> anyhow::Result<()> {
        let shared = &self.shared;
        if shared.ports.get() == 0 {
            shared.factory.try_borrow_mut().map_err(|_| ProtocolBorrowed)?.start_factory()?;
        }
        shared.ports.set(shared.ports.get() + 1);
        Ok(())
    }

    fn stop_factory(&mut self) -> anyhow::Result<()> {
        let shared = &self.shared;
        shared.ports.set(shared.ports.get().saturating_sub(1));
        if shared.ports.get() == 0 {
            shared.factory.try_borrow_mut().map_err(|_| ProtocolBorrowed)?.stop_factory()?;
        }
        Ok(())
    }

    fn accept_error(&mut self, error: &io::Error) {
        if let Ok(mut factory) = self.shared.factory.try_borrow_mut() {
            factory.accept_error(error);
        }
    }
}
