//! What was written, and what came of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use strand_reactor::{DatagramTransport, Transport};

/// One life of a host, from its start or restart to a crash.
#[derive(Debug, Default)]
pub struct Life {
    pub host: usize,
    /// How many lives the host had before.
    pub number: u32,
    pub crashed: Cell<bool>,
    /// `stop` was called at some time.
    pub stopped: Cell<bool>,
    /// Callbacks that panicked on purpose.
    pub panics: Cell<u64>,
    /// Groups that some port of it has joined.
    pub groups: RefCell<BTreeSet<IpAddr>>,
}

pub fn bump(cell: &Cell<u64>, by: usize) {
    cell.set(cell.get() + by as u64);
}

/// What becomes of something that is to be called once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    #[default]
    Pending,
    Called,
    Dropped,
}

/// Goes with a closure; tells of its end.
pub struct Token(Rc<Cell<Fate>>);

impl Token {
    pub fn new() -> (Self, Rc<Cell<Fate>>) {
        let fate = Rc::default();
        (Self(Rc::clone(&fate)), fate)
    }

    pub fn called(self) {
        self.0.set(Fate::Called);
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if self.0.get() == Fate::Pending {
            self.0.set(Fate::Dropped);
        }
    }
}

/// Something that was promised to be called, by whom and of which kind.
pub struct Promise {
    pub kind: &'static str,
    pub life: Rc<Life>,
    pub fate: Rc<Cell<Fate>>,
}

/// A datagram, by its number.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub destination: SocketAddr,
    pub len: usize,
    /// A write call took it, and nobody was told that it failed.
    pub accepted: bool,
}

/// Bytes with which every datagram begins: its number, twice.
pub const HEADER: usize = 8;

/// The payload of a datagram of this number.
pub fn payload(number: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![number as u8; len];
    bytes[..4].copy_from_slice(&(number as u32).to_le_bytes());
    bytes[4..HEADER].copy_from_slice(&(!number as u32).to_le_bytes());
    bytes
}

/// The number of a datagram, if it says one.
pub fn number_of(payload: &[u8]) -> Option<usize> {
    let number = u32::from_le_bytes(payload.get(..4)?.try_into().ok()?);
    let again = u32::from_le_bytes(payload.get(4..HEADER)?.try_into().ok()?);
    let filled = payload[HEADER..].iter().all(|byte| *byte == number as u8);
    (number == !again && filled).then_some(number as usize)
}

/// A port of datagrams, as the program knows it.
pub struct PortBook {
    pub life: Rc<Life>,
    pub transport: RefCell<Option<DatagramTransport>>,
    /// Made by `listen_multicast`: it hears only groups of its own.
    pub multicast: bool,
    /// The peer it was opened with, for as long as it keeps that.
    pub peer: Cell<Option<SocketAddr>>,
    /// Datagrams that write calls took, `try_write` apart.
    pub accepted: Cell<u64>,
    /// `try_write`: sent, and refused by the system.
    pub tried: Cell<u64>,
    pub tried_in_vain: Cell<u64>,
    pub groups: RefCell<BTreeSet<IpAddr>>,
    /// Numbers of the datagrams it was given.
    pub received: RefCell<BTreeSet<usize>>,
}

/// One end of a connection, as the program knows it.
pub struct StreamBook {
    pub life: Rc<Life>,
    pub number: usize,
    pub transport: RefCell<Option<Transport>>,
    /// Bytes that write calls took.
    pub written: Cell<u64>,
    pub received: Cell<u64>,
    /// The first bytes received: the number of the other end.
    pub header: RefCell<Vec<u8>>,
    pub promises: RefCell<Vec<Rc<Cell<Fate>>>>,
    pub aborted: Cell<bool>,
    pub ended: Cell<bool>,
    pub has_layers: Cell<bool>,
}

/// Byte `at` of what the end of this number writes.
pub fn byte_of(number: usize, at: u64) -> u8 {
    match at {
        0..4 => (number as u32).to_le_bytes()[at as usize],
        _ => (number as u64).wrapping_mul(37).wrapping_add(at * 7).wrapping_add(at >> 9) as u8,
    }
}

impl StreamBook {
    /// The next bytes to write.
    pub fn next_bytes(&self, len: usize) -> Vec<u8> {
        let from = self.written.get();
        (from..from + len as u64).map(|at| byte_of(self.number, at)).collect()
    }

    /// The number of the other end, as soon as it is known.
    pub fn other(&self) -> Option<usize> {
        let header = self.header.borrow();
        Some(u32::from_le_bytes(header.get(..4)?.try_into().ok()?) as usize)
    }
}
