//! A network in memory with a clock of its own, for tests of what is above the seam: it cuts reads
//! and writes into pieces, delays, joins and invents events, and has any call fail, as chance says.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    DatagramSocket, DatagramSpec, Driver, Event, ListenSocket, ListenSpec, OpenError, Ownership,
    StreamOption, StreamSocket, StreamSpec, Wake,
};
use crate::error::AdoptError;
use crate::stream::KeepAlive;

/// Decides what happens. Every answer is 0, which is the harmless one, once it has run out, so
/// that all comes to an end.
#[derive(Default)]
pub(crate) struct Chance {
    bytes: RefCell<VecDeque<u8>>,
    /// Whether calls may fail for good; otherwise only for now.
    pub(crate) breaks: Cell<bool>,
}

impl Chance {
    pub(crate) fn new(bytes: Vec<u8>, breaks: bool) -> Self {
        Self { bytes: RefCell::new(bytes.into()), breaks: Cell::new(breaks) }
    }

    fn below(&self, limit: u8) -> u8 {
        self.bytes.borrow_mut().pop_front().unwrap_or(0) % limit
    }

    /// Once in so many times.
    fn rarely(&self, times: u8) -> bool {
        self.below(times) == times - 1
    }

    /// A part of `most`, at least 1.
    fn part(&self, most: usize) -> usize {
        match self.below(8) {
            0..4 => most,
            4 => 1,
            5 => most.min(7),
            6 => most.div_ceil(2),
            _ => most.saturating_sub(1).max(1),
        }
    }

    fn one_of(&self, errnos: &[i32]) -> i32 {
        errnos[usize::from(self.below(errnos.len() as u8))]
    }
}

/// The network: what waits to be told, and who listens.
pub(crate) struct Net {
    chance: Chance,
    events: RefCell<BTreeMap<usize, Event>>,
    listeners: RefCell<Vec<(SocketAddr, Weak<Backlog>)>>,
    port: Cell<u16>,
    /// Bytes in one direction that nobody has read yet, at most.
    room: usize,
    /// Something was broken for good.
    broken: Cell<bool>,
    /// Bytes read by the ends that accepted, and by those that connected.
    read: [Cell<usize>; 2],
}

impl Net {
    pub(crate) fn new(chance: Chance, room: usize) -> Rc<Self> {
        Rc::new(Self {
            chance,
            events: RefCell::default(),
            listeners: RefCell::default(),
            port: Cell::new(1000),
            room,
            broken: Cell::new(false),
            read: Default::default(),
        })
    }

    /// Whether a connection, or an attempt, was broken.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Bytes that were read from the sockets that accepted, and from those that connected.
    pub(crate) fn bytes_read(&self) -> [usize; 2] {
        self.read.each_ref().map(Cell::get)
    }

    fn raise(&self, token: usize, readable: bool, writable: bool, gone: [bool; 2]) {
        let mut events = self.events.borrow_mut();
        let none =
            Event { token, readable: false, writable: false, error: false, read_closed: false };
        let event = events.entry(token).or_insert(none);
        event.readable |= readable;
        event.writable |= writable;
        event.error |= gone[0];
        event.read_closed |= gone[1];
    }

    /// An errno now and then, where calls may fail for good.
    fn breaks(&self, times: u8, errnos: &[i32]) -> Option<i32> {
        let errno = (self.chance.breaks.get() && self.chance.rarely(times))
            .then(|| self.chance.one_of(errnos))?;
        self.broken.set(true);
        Some(errno)
    }

    fn next_address(&self) -> SocketAddr {
        self.port.set(self.port.get() + 1);
        (Ipv4Addr::LOCALHOST, self.port.get()).into()
    }
}

fn failed<T>(errno: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

pub(crate) struct Memory {
    net: Rc<Net>,
    now: Instant,
    /// Polls without a wait and without an event, one after the other.
    idle_polls: usize,
}

impl Memory {
    #[allow(clippy::disallowed_methods, reason = "an `Instant` has no other origin")]
    pub(crate) fn new(net: &Rc<Net>) -> Self {
        Self { net: Rc::clone(net), now: Instant::now(), idle_polls: 0 }
    }
}

impl Driver for Memory {
    fn now(&self) -> Instant {
        self.now
    }

    fn poll(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let chance = &self.net.chance;
        let due = std::mem::take(&mut *self.net.events.borrow_mut());
        if due.is_empty() {
            // Nothing else can happen: time passes.
            let timeout = timeout.ok_or(io::ErrorKind::TimedOut)?;
            self.idle_polls = if timeout.is_zero() { self.idle_polls + 1 } else { 0 };
            assert!(self.idle_polls < 1000, "the loop spins");
            self.now += timeout;
            return Ok(());
        }
        self.idle_polls = 0;
        for (token, event) in due {
            if chance.rarely(5) {
                // Later, and maybe as one with another.
                self.net.raise(
                    token,
                    event.readable,
                    event.writable,
                    [event.error, event.read_closed],
                );
                continue;
            }
            events.push(event);
            if chance.rarely(9) {
                let (readable, writable) = (chance.rarely(2), chance.rarely(2));
                let invented =
                    Event { readable, writable, error: false, read_closed: false, ..event };
                events.push(invented);
            }
        }
        if chance.rarely(3) {
            events.reverse();
        }
        Ok(())
    }

    fn wake(&self) -> Wake {
        Arc::new(|| Ok(()))
    }

    fn open_datagram(
        &mut self,
        _: &DatagramSpec,
        _: usize,
    ) -> Result<Rc<dyn DatagramSocket>, OpenError> {
        Err(OpenError::Socket(io::ErrorKind::Unsupported.into()))
    }

    fn adopt_datagram(
        &mut self,
        _: OwnedFd,
        _: Ownership,
        _: usize,
    ) -> Result<Rc<dyn DatagramSocket>, AdoptError> {
        Err(AdoptError::Socket(io::ErrorKind::Unsupported.into()))
    }

    fn listen_stream(
        &mut self,
        _: &ListenSpec,
        token: usize,
    ) -> Result<Rc<dyn ListenSocket>, OpenError> {
        let net = Rc::clone(&self.net);
        let address = net.next_address();
        let backlog = Rc::new(Backlog { net, token, address, waiting: RefCell::default() });
        self.net.listeners.borrow_mut().push((address, Rc::downgrade(&backlog)));
        Ok(backlog)
    }

    fn open_stream(
        &mut self,
        spec: &StreamSpec,
        token: usize,
    ) -> Result<Rc<dyn StreamSocket>, OpenError> {
        let net = &self.net;
        if let Some(errno) = net.breaks(20, &[libc::ENETUNREACH, libc::EADDRNOTAVAIL]) {
            return Err(OpenError::Socket(io::Error::from_raw_os_error(errno)));
        }
        let (near, far) = End::pair(net, net.next_address(), spec.peer);
        near.place.token.set(Some(token));
        let listeners = net.listeners.borrow();
        let found = listeners.iter().find(|(address, _)| *address == spec.peer);
        match found.and_then(|(_, listener)| listener.upgrade()) {
            Some(listener) if net.breaks(20, &[0]).is_none() => {
                listener.waiting.borrow_mut().push_back(far);
                net.raise(listener.token, true, false, [false; 2]);
                near.place.raise(false, true);
            }
            _ => near.place.break_off(libc::ECONNREFUSED),
        }
        Ok(near)
    }

    fn adopt_listener(
        &mut self,
        _: OwnedFd,
        _: Ownership,
        _: usize,
    ) -> Result<Rc<dyn ListenSocket>, AdoptError> {
        Err(AdoptError::Socket(io::ErrorKind::Unsupported.into()))
    }

    fn adopt_stream(
        &mut self,
        _: OwnedFd,
        _: Ownership,
        _: usize,
    ) -> Result<Rc<dyn StreamSocket>, AdoptError> {
        Err(AdoptError::Socket(io::ErrorKind::Unsupported.into()))
    }
}

/// Connections that wait to be accepted.
struct Backlog {
    net: Rc<Net>,
    token: usize,
    address: SocketAddr,
    waiting: RefCell<VecDeque<Rc<End>>>,
}

impl ListenSocket for Backlog {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn accept(&self, token: usize) -> io::Result<(Rc<dyn StreamSocket>, SocketAddr)> {
        if !self.waiting.borrow().is_empty() && self.net.chance.rarely(10) {
            return failed(self.net.chance.one_of(&[libc::ENOBUFS, libc::ENOMEM, libc::EIO]));
        }
        let end = self.waiting.borrow_mut().pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        if let Some(errno) = self.net.breaks(20, &[libc::ECONNABORTED, libc::EPERM]) {
            return failed(errno);
        }
        end.place.token.set(Some(token));
        // Registering tells what is there already.
        end.place.raise(true, true);
        let peer = end.far_address;
        Ok((end, peer))
    }

    fn shed(&self, _: usize) -> usize {
        0
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Where an end is registered, and what its peer did to it.
struct Place {
    net: Rc<Net>,
    token: Cell<Option<usize>>,
    /// The pending error.
    error: Cell<Option<i32>>,
    /// Nothing can be sent or received any more, but what arrived.
    dead: Cell<bool>,
    /// A write found no room.
    wants_room: Cell<bool>,
    arriving: RefCell<VecDeque<u8>>,
    /// The peer has ended what arrives.
    ended: Cell<bool>,
}

impl Place {
    fn new(net: &Rc<Net>) -> Rc<Self> {
        Rc::new(Self {
            net: Rc::clone(net),
            token: Cell::default(),
            error: Cell::default(),
            dead: Cell::default(),
            wants_room: Cell::default(),
            arriving: RefCell::default(),
            ended: Cell::default(),
        })
    }

    /// Tells what is new, with what is so already.
    fn raise(&self, readable: bool, writable: bool) {
        if let Some(token) = self.token.get() {
            let dead = self.dead.get();
            self.net.raise(token, readable, writable, [dead, dead || self.ended.get()]);
        }
    }

    /// The connection breaks: what did not arrive yet never will.
    fn break_off(&self, errno: i32) {
        let mut arriving = self.arriving.borrow_mut();
        if !self.dead.replace(true) {
            if !self.ended.get() && self.net.chance.below(2) == 0 {
                arriving.clear();
            }
            self.error.set(Some(errno));
        }
        drop(arriving);
        self.raise(true, true);
    }
}

/// One end of a connection.
struct End {
    place: Rc<Place>,
    far: Rc<Place>,
    near_address: SocketAddr,
    far_address: SocketAddr,
    /// 0 for one that accepted, 1 for one that connected.
    side: usize,
    reset: Cell<bool>,
    shut: Cell<bool>,
}

impl End {
    fn pair(net: &Rc<Net>, near: SocketAddr, far: SocketAddr) -> (Rc<Self>, Rc<Self>) {
        let places = [Place::new(net), Place::new(net)];
        let end = |at: usize, near_address, far_address| {
            Rc::new(Self {
                place: Rc::clone(&places[at]),
                far: Rc::clone(&places[1 - at]),
                near_address,
                far_address,
                side: 1 - at,
                reset: Cell::default(),
                shut: Cell::default(),
            })
        };
        (end(0, near, far), end(1, far, near))
    }

    /// The connection breaks at this end, and so at the other.
    fn broken<T>(&self, errno: i32) -> io::Result<T> {
        self.place.dead.set(true);
        self.far.break_off(libc::ECONNRESET);
        failed(errno)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let unread = !self.place.arriving.borrow().is_empty();
        if self.reset.get() || unread {
            self.far.break_off(libc::ECONNRESET);
        } else if !self.place.dead.get() && !self.shut.get() {
            self.far.ended.set(true);
            self.far.raise(true, false);
        }
        // What is sent to nobody is answered by a reset.
        self.place.dead.set(true);
        self.place.token.set(None);
    }
}

impl StreamSocket for End {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.near_address)
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.far_address)
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let net = &self.place.net;
        if let Some(errno) = net.breaks(40, &[libc::ECONNRESET, libc::ETIMEDOUT, libc::EIO]) {
            return self.broken(errno);
        }
        let mut arriving = self.place.arriving.borrow_mut();
        let there = arriving.len();
        if there == 0 {
            // What came before the error was an end: it is read first, as Linux has it.
            if self.place.ended.get() {
                return Ok(0);
            }
            return match self.place.error.take() {
                Some(errno) => failed(errno),
                None if self.place.dead.get() => Ok(0),
                None => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        if net.chance.rarely(6) {
            // It arrives right after the call.
            self.place.raise(true, false);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = net.chance.part(there).min(buffer.len());
        buffer[..len].copy_from_slice(&arriving.make_contiguous()[..len]);
        arriving.drain(..len);
        let read = &net.read[self.side];
        read.set(read.get() + len);
        if len < there && len < buffer.len() {
            // The rest arrives right after the call.
            self.place.raise(true, false);
        }
        if self.far.wants_room.take() {
            self.far.raise(false, true);
        }
        Ok(len)
    }

    fn write(&self, data: &[u8]) -> io::Result<usize> {
        let net = &self.place.net;
        if self.shut.get() {
            return failed(libc::EPIPE);
        }
        if let Some(errno) = self.place.error.take() {
            return failed(errno);
        }
        if self.place.dead.get() {
            return failed(libc::EPIPE);
        }
        if let Some(errno) = net.breaks(40, &[libc::EPIPE, libc::ECONNRESET, libc::EIO]) {
            return self.broken(errno);
        }
        if net.chance.rarely(12) {
            return failed(net.chance.one_of(&[libc::ENOBUFS, libc::ENOMEM]));
        }
        if self.far.dead.get() {
            // The peer is gone: a reset is on its way.
            self.place.break_off(libc::ECONNRESET);
            return Ok(data.len());
        }
        let mut leaving = self.far.arriving.borrow_mut();
        let room = net.room.saturating_sub(leaving.len());
        if room == 0 || net.chance.rarely(8) {
            if room > 0 {
                self.place.raise(false, true);
            } else {
                self.place.wants_room.set(true);
            }
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = net.chance.part(room.min(data.len()));
        leaving.extend(&data[..len]);
        drop(leaving);
        self.far.raise(true, false);
        Ok(len)
    }

    fn write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let pieces: Vec<&[u8]> = pieces.iter().map(|piece| &**piece).collect();
        self.write(&pieces.concat())
    }

    fn shutdown(&self, _: Shutdown) -> io::Result<()> {
        if self.place.dead.get() {
            return failed(libc::ENOTCONN);
        }
        if let Some(errno) = self.place.net.breaks(10, &[libc::ENOTCONN]) {
            self.place.break_off(libc::ECONNRESET);
            return self.broken(errno);
        }
        self.shut.set(true);
        self.far.ended.set(true);
        self.far.raise(true, false);
        Ok(())
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.place.error.take().map(io::Error::from_raw_os_error))
    }

    fn reset_on_close(&self) -> io::Result<()> {
        self.reset.set(true);
        Ok(())
    }

    fn set_option(&self, _: StreamOption) -> io::Result<()> {
        Ok(())
    }

    fn nodelay(&self) -> io::Result<bool> {
        Ok(true)
    }

    fn keepalive(&self) -> io::Result<Option<KeepAlive>> {
        Ok(None)
    }

    fn recv_buffer_size(&self) -> io::Result<usize> {
        Ok(self.place.net.room)
    }

    fn send_buffer_size(&self) -> io::Result<usize> {
        Ok(self.place.net.room)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
