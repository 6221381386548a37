//! Stream sockets that play a script: these pieces, this errno, this event.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::BorrowedFd;
use std::rc::{Rc, Weak};

use crate::error::AdoptError;
use crate::inner::Inner;
use crate::net::{Event, OpenError, StreamOption, StreamSocket};
use crate::stream::{self, KeepAlive};
use crate::{Handle, Protocol, Transport};

/// A script and a record of a stream socket: what reads find, what writes and the rest answer, and
/// what was written through it. Clones are the same script.
///
/// Nothing is told to the reactor by itself: a test raises the events, and may leave out or repeat
/// what a kernel would not.
///
/// ```
/// use strand_reactor::testing::{ScriptedStream, StreamEvent, WriteStep};
/// # use strand_reactor::*;
/// # struct Echo;
/// # impl Protocol for Echo {
/// #     fn data_received(&mut self, t: &Transport, data: &[u8]) -> anyhow::Result<()> {
/// #         Ok(t.write(data)?)
/// #     }
/// # }
/// let reactor = Reactor::new()?;
/// let script = ScriptedStream::new("192.0.2.1:7".parse()?);
/// script.attach(&reactor, Echo)?;
/// reactor.iterate(None)?; // `connection_made`
/// script.receive(b"ping");
/// script.answer_write(WriteStep::Take(3));
/// script.answer_write(WriteStep::WouldBlock);
/// script.raise(StreamEvent::READABLE);
/// reactor.iterate(None)?;
/// assert_eq!(script.written(), b"pin");
/// script.raise(StreamEvent::WRITABLE);
/// reactor.iterate(None)?;
/// assert_eq!(script.written(), b"ping");
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone)]
pub struct ScriptedStream {
    state: Rc<State>,
}

/// What a script's next write answers. Without an answer everything is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteStep {
    /// Takes at most this many bytes, at least one.
    Take(usize),
    /// Has no room; an event should tell when there is some.
    WouldBlock,
    /// Fails with this errno; nothing is taken.
    Fail(i32),
}

/// What a poller says of a stream.
///
/// ```
/// use strand_reactor::testing::StreamEvent;
/// let reset = StreamEvent::END.and(StreamEvent::ERROR).and(StreamEvent::WRITABLE);
/// assert!(reset.readable && reset.read_closed && reset.error && reset.writable);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamEvent {
    /// There may be something to read, or to accept.
    pub readable: bool,
    /// There may be room to write.
    pub writable: bool,
    /// An error is pending.
    pub error: bool,
    /// The peer has ended what it sends, or the connection is gone.
    pub read_closed: bool,
}

impl StreamEvent {
    /// Says nothing at all, as the event of out-of-band data does.
    pub const NOTHING: Self =
        Self { readable: false, writable: false, error: false, read_closed: false };
    /// Data, or a connection that waits.
    pub const READABLE: Self = Self { readable: true, ..Self::NOTHING };
    /// Room to write.
    pub const WRITABLE: Self = Self { writable: true, ..Self::NOTHING };
    /// An error alone.
    pub const ERROR: Self = Self { error: true, ..Self::NOTHING };
    /// The end of the stream.
    pub const END: Self = Self { readable: true, read_closed: true, ..Self::NOTHING };

    /// Both in one event.
    pub const fn and(self, other: Self) -> Self {
        Self {
            readable: self.readable | other.readable,
            writable: self.writable | other.writable,
            error: self.error | other.error,
            read_closed: self.read_closed | other.read_closed,
        }
    }
}

/// Where a scripted socket is registered.
pub(super) struct Home {
    pub(super) inner: Weak<Inner>,
    pub(super) token: usize,
}

impl Home {
    pub(super) fn raise(&self, event: StreamEvent) {
        if let Some(inner) = self.inner.upgrade() {
            let StreamEvent { readable, writable, error, read_closed } = event;
            let event = Event { token: self.token, readable, writable, error, read_closed };
            inner.scripted.events.borrow_mut().push(event);
        }
    }
}

enum Incoming {
    Data(Vec<u8>),
    WouldBlock,
    Fail(i32),
}

struct State {
    home: RefCell<Option<Home>>,
    peer: SocketAddr,
    /// An attempt to connect is under way.
    connecting: Cell<bool>,
    /// Opening the socket fails with this.
    refusal: Cell<Option<i32>>,
    incoming: RefCell<VecDeque<Incoming>>,
    ended: Cell<bool>,
    answers: RefCell<VecDeque<WriteStep>>,
    shutdown_answers: RefCell<VecDeque<i32>>,
    /// The pending error (`SO_ERROR`).
    pending: Cell<Option<i32>>,
    written: RefCell<Vec<u8>>,
    write_sizes: RefCell<Vec<usize>>,
    reads: Cell<usize>,
    shutdowns: RefCell<Vec<Shutdown>>,
    options: RefCell<Vec<StreamOption>>,
    reset: Cell<bool>,
    closed: Cell<bool>,
}

impl ScriptedStream {
    /// A script without entries, of a connection to `peer`: reads and an attempt to connect wait,
    /// writes take everything.
    pub fn new(peer: SocketAddr) -> Self {
        let state = State {
            home: RefCell::default(),
            peer,
            connecting: Cell::new(false),
            refusal: Cell::default(),
            incoming: RefCell::default(),
            ended: Cell::default(),
            answers: RefCell::default(),
            shutdown_answers: RefCell::default(),
            pending: Cell::default(),
            written: RefCell::default(),
            write_sizes: RefCell::default(),
            reads: Cell::default(),
            shutdowns: RefCell::default(),
            options: RefCell::default(),
            reset: Cell::default(),
            closed: Cell::default(),
        };
        Self { state: Rc::new(state) }
    }

    /// Attaches a protocol to this socket, as
    /// [`adopt_stream_connection`](Handle::adopt_stream_connection) does.
    ///
    /// # Errors
    /// [`AdoptError`]: `Closed`, `ShuttingDown`.
    pub fn attach<P>(&self, handle: &Handle, protocol: P) -> Result<Transport, AdoptError>
    where
        P: Protocol + 'static,
    {
        stream::attach(handle, Box::new(protocol), |inner, token| {
            Ok(self.socket(Home { inner: Rc::downgrade(inner), token }))
        })
    }

    /// The next attempt to connect on this reactor gets this socket, and goes on until
    /// [`connected`](Self::connected) or [`connect_failed`](Self::connect_failed). Several wait
    /// in order.
    ///
    /// ```
    /// use strand_reactor::testing::ScriptedStream;
    /// # use strand_reactor::*;
    /// # struct P;
    /// # impl Protocol for P {
    /// #     fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> { Ok(()) }
    /// # }
    /// let reactor = Reactor::new()?;
    /// let script = ScriptedStream::new("192.0.2.1:7".parse()?);
    /// script.answer_connect(&reactor);
    /// let connector = reactor.connect_tcp("192.0.2.1:7", |_: PeerAddr| Some(P))?;
    /// reactor.iterate(Some(std::time::Duration::ZERO))?;
    /// assert_eq!(connector.state(), ConnectorState::Connecting);
    /// script.connected();
    /// reactor.iterate(None)?;
    /// assert_eq!(connector.state(), ConnectorState::Connected);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn answer_connect(&self, handle: &Handle) {
        self.state.connecting.set(true);
        if let Some(inner) = handle.upgrade() {
            inner.scripted.connecting.borrow_mut().push_back(self.clone());
        }
    }

    /// The attempt to connect fails in the call that begins it, with this errno.
    pub fn fail_connect_at_once(&self, errno: i32) {
        self.state.refusal.set(Some(errno));
    }

    /// The attempt to connect succeeds: raises the event.
    pub fn connected(&self) {
        self.state.connecting.set(false);
        self.raise(StreamEvent::WRITABLE);
    }

    /// The attempt to connect fails with this errno: raises the event.
    pub fn connect_failed(&self, errno: i32) {
        self.state.pending.set(Some(errno));
        self.raise(StreamEvent::END.and(StreamEvent::WRITABLE).and(StreamEvent::ERROR));
    }

    /// Raises an event, which the next turn finds. Does nothing while the socket is of no reactor;
    /// after the end of its connection the event is a stale one.
    pub fn raise(&self, event: StreamEvent) {
        if let Some(home) = &*self.state.home.borrow() {
            home.raise(event);
        }
    }

    /// A piece arrives. One read never takes more than one piece.
    pub fn receive(&self, data: &[u8]) {
        self.state.incoming.borrow_mut().push_back(Incoming::Data(data.to_vec()));
    }

    /// One read finds nothing here, although more may follow.
    pub fn receive_would_block(&self) {
        self.state.incoming.borrow_mut().push_back(Incoming::WouldBlock);
    }

    /// One read fails here with this errno.
    pub fn receive_error(&self, errno: i32) {
        self.state.incoming.borrow_mut().push_back(Incoming::Fail(errno));
    }

    /// The peer ends what it sends, after all that arrived before.
    pub fn receive_end(&self) {
        self.state.ended.set(true);
    }

    /// Appends an answer of a write.
    pub fn answer_write(&self, step: WriteStep) {
        self.state.answers.borrow_mut().push_back(step);
    }

    /// The next shutdown of a direction fails with this errno.
    pub fn fail_shutdown(&self, errno: i32) {
        self.state.shutdown_answers.borrow_mut().push_back(errno);
    }

    /// Sets the pending error (`SO_ERROR`), which a read that finds nothing else meets, too. The
    /// event is the test's to raise.
    pub fn pending_error(&self, errno: i32) {
        self.state.pending.set(Some(errno));
    }

    /// Everything that was taken, in order.
    pub fn written(&self) -> Vec<u8> {
        self.state.written.borrow().clone()
    }

    /// Empties the record of what was written: for benches, which write without end.
    pub fn forget_written(&self) {
        self.state.written.borrow_mut().clear();
        self.state.write_sizes.borrow_mut().clear();
    }

    /// How many bytes each write took; 0 where it failed.
    pub fn write_sizes(&self) -> Vec<usize> {
        self.state.write_sizes.borrow().clone()
    }

    /// Calls of read made, whatever they answered.
    pub fn reads(&self) -> usize {
        self.state.reads.get()
    }

    /// What was shut, in order, whatever was answered.
    pub fn shutdowns(&self) -> Vec<Shutdown> {
        self.state.shutdowns.borrow().clone()
    }

    /// Whether closing the socket is to be a reset.
    pub fn is_reset(&self) -> bool {
        self.state.reset.get()
    }

    /// Whether the connection has dropped its socket.
    pub fn is_closed(&self) -> bool {
        self.state.closed.get()
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.state.peer
    }

    /// Closed before anybody had it.
    pub(super) fn shed(&self) {
        self.state.closed.set(true);
    }

    pub(super) fn socket(&self, home: Home) -> Rc<dyn StreamSocket> {
        *self.state.home.borrow_mut() = Some(home);
        Rc::new(StreamEnd { state: Rc::clone(&self.state) })
    }

    pub(super) fn open(
        &self,
        inner: &Rc<Inner>,
        token: usize,
    ) -> Result<Rc<dyn StreamSocket>, OpenError> {
        match self.state.refusal.take() {
            Some(errno) => Err(OpenError::Socket(io::Error::from_raw_os_error(errno))),
            None => Ok(self.socket(Home { inner: Rc::downgrade(inner), token })),
        }
    }
}

struct StreamEnd {
    state: Rc<State>,
}

impl Drop for StreamEnd {
    fn drop(&mut self) {
        self.state.closed.set(true);
    }
}

impl StreamEnd {
    /// How many of `offered` bytes a write takes.
    fn take(&self, offered: usize) -> io::Result<usize> {
        let taken = match self.state.answers.borrow_mut().pop_front() {
            None => Ok(offered),
            Some(WriteStep::Take(most)) => Ok(most.clamp(1, offered)),
            Some(WriteStep::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Some(WriteStep::Fail(errno)) => Err(io::Error::from_raw_os_error(errno)),
        };
        self.state.write_sizes.borrow_mut().push(*taken.as_ref().unwrap_or(&0));
        taken
    }
}

impl StreamSocket for StreamEnd {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok((Ipv4Addr::LOCALHOST, 1).into())
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self.state.connecting.get() {
            true => Err(io::ErrorKind::NotConnected.into()),
            false => Ok(self.state.peer),
        }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.state.reads.set(self.state.reads.get() + 1);
        let mut incoming = self.state.incoming.borrow_mut();
        match incoming.pop_front() {
            Some(Incoming::Data(mut data)) => {
                let len = data.len().min(buffer.len());
                buffer[..len].copy_from_slice(&data[..len]);
                if len < data.len() {
                    incoming.push_front(Incoming::Data(data.split_off(len)));
                }
                Ok(len)
            }
            Some(Incoming::Fail(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Incoming::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            None => match self.state.pending.take() {
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                None if self.state.ended.get() => Ok(0),
                None => Err(io::ErrorKind::WouldBlock.into()),
            },
        }
    }

    fn write(&self, data: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(data)])
    }

    fn write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let taken = self.take(pieces.iter().map(|piece| piece.len()).sum())?;
        let (mut left, mut written) = (taken, self.state.written.borrow_mut());
        for piece in pieces {
            let len = piece.len().min(left);
            written.extend_from_slice(&piece[..len]);
            left -= len;
        }
        Ok(taken)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.state.shutdowns.borrow_mut().push(how);
        match self.state.shutdown_answers.borrow_mut().pop_front() {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.state.pending.take().map(io::Error::from_raw_os_error))
    }

    fn reset_on_close(&self) -> io::Result<()> {
        self.state.reset.set(true);
        Ok(())
    }

    fn set_option(&self, option: StreamOption) -> io::Result<()> {
        self.state.options.borrow_mut().push(option);
        Ok(())
    }

    fn nodelay(&self) -> io::Result<bool> {
        let options = self.state.options.borrow();
        let set = options.iter().rev().find_map(|option| match option {
            StreamOption::NoDelay(on) => Some(*on),
            _ => None,
        });
        Ok(set.unwrap_or(false))
    }

    fn keepalive(&self) -> io::Result<Option<KeepAlive>> {
        let options = self.state.options.borrow();
        let set = options.iter().rev().find_map(|option| match option {
            StreamOption::KeepAlive(times) => Some(*times),
            _ => None,
        });
        Ok(set.flatten())
    }

    fn recv_buffer_size(&self) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn send_buffer_size(&self) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
