//! Listening sockets that play a script: these connections, this errno.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::{Rc, Weak};

use super::stream::{Home, ScriptedStream, StreamEvent};
use crate::error::ListenError;
use crate::net::{ListenSocket, StreamSocket};
use crate::{Factory, Handle, ListeningPort, TcpOptions, stream};

/// A script and a record of a listening socket: the connections that wait, and the errors of
/// accepting. Clones are the same script.
///
/// ```
/// use strand_reactor::testing::{ScriptedListener, ScriptedStream, StreamEvent};
/// # use strand_reactor::*;
/// # struct P;
/// # impl Protocol for P {
/// #     fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> { Ok(()) }
/// # }
/// let reactor = Reactor::new()?;
/// let script = ScriptedListener::new();
/// let port = script.listen(&reactor, "192.0.2.1:80", |_: PeerAddr| Some(P))?;
/// script.connection(&ScriptedStream::new("198.51.100.9:4000".parse()?));
/// script.raise(StreamEvent::READABLE);
/// reactor.iterate(None)?;
/// assert_eq!(port.stats()?.accepted, 1);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct ScriptedListener {
    state: Rc<ListenState>,
}

#[derive(Default)]
struct ListenState {
    home: RefCell<Option<Home>>,
    local: Cell<Option<SocketAddr>>,
    waiting: RefCell<VecDeque<Waiting>>,
    /// What every accept fails with, while it is there.
    wanting: Cell<Option<i32>>,
    accepts: Cell<usize>,
    closed: Cell<bool>,
}

enum Waiting {
    Connection(ScriptedStream),
    Fail(i32),
}

impl ScriptedListener {
    /// A script without entries: nobody waits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a port that plays this script. The options are checked as for a real one.
    ///
    /// # Errors
    /// As [`Handle::listen_tcp`], save for what only a system finds.
    pub fn listen<O, F>(
        &self,
        handle: &Handle,
        options: O,
        factory: F,
    ) -> Result<ListeningPort, ListenError>
    where
        O: TryInto<TcpOptions>,
        O::Error: Into<ListenError>,
        F: Factory + 'static,
    {
        let options = options.try_into().map_err(Into::into)?;
        stream::listen_on(handle, options, Box::new(factory), |inner, spec, token| {
            self.state.local.set(Some(spec.bind));
            *self.state.home.borrow_mut() = Some(Home { inner: Rc::downgrade(inner), token });
            Ok(Rc::new(ListenEnd { state: Rc::clone(&self.state) }))
        })
    }

    /// A connection waits, after those before it.
    pub fn connection(&self, stream: &ScriptedStream) {
        self.state.waiting.borrow_mut().push_back(Waiting::Connection(stream.clone()));
    }

    /// One accept fails with this errno, after the connections before it.
    pub fn accept_error(&self, errno: i32) {
        self.state.waiting.borrow_mut().push_back(Waiting::Fail(errno));
    }

    /// From now on every accept fails with this errno, whoever waits; `None` ends that.
    pub fn accept_always_fails(&self, errno: Option<i32>) {
        self.state.wanting.set(errno);
    }

    /// Raises an event, which the next turn finds.
    pub fn raise(&self, event: StreamEvent) {
        if let Some(home) = &*self.state.home.borrow() {
            home.raise(event);
        }
    }

    /// Calls of accept made, whatever they answered.
    pub fn accepts(&self) -> usize {
        self.state.accepts.get()
    }

    /// Whether the port has dropped its socket.
    pub fn is_closed(&self) -> bool {
        self.state.closed.get()
    }
}

struct ListenEnd {
    state: Rc<ListenState>,
}

impl Drop for ListenEnd {
    fn drop(&mut self) {
        self.state.closed.set(true);
    }
}

impl ListenSocket for ListenEnd {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.state.local.get().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn accept(&self, token: usize) -> io::Result<(Rc<dyn StreamSocket>, SocketAddr)> {
        self.state.accepts.set(self.state.accepts.get() + 1);
        if let Some(errno) = self.state.wanting.get() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        match self.state.waiting.borrow_mut().pop_front() {
            None => Err(io::ErrorKind::WouldBlock.into()),
            Some(Waiting::Fail(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Waiting::Connection(stream)) => {
                let inner = match &*self.state.home.borrow() {
                    Some(home) => home.inner.clone(),
                    None => Weak::new(),
                };
                Ok((stream.socket(Home { inner, token }), stream.peer()))
            }
        }
    }

    fn shed(&self, most: usize) -> usize {
        let mut waiting = self.state.waiting.borrow_mut();
        let shed = waiting
            .iter()
            .take(most)
            .take_while(|entry| matches!(entry, Waiting::Connection(_)))
            .count();
        for entry in waiting.drain(..shed) {
            if let Waiting::Connection(stream) = entry {
                stream.shed();
            }
        }
        shed
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
