//! Protocols of these tests, and worlds of two hosts.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::sim::World;
use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Handle, NetworkError, WriteFailure,
};

use super::watchdog::{Watchdog, watchdog};

pub const MS: Duration = Duration::from_millis(1);

/// What happened to a [`Witness`], with the virtual time since the world began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Datagram(Vec<u8>),
    WriteFailed(Option<i32>),
    NetworkError(Option<i32>),
    Paused,
    Resumed,
}

/// Keeps what happens to it.
#[derive(Clone)]
pub struct Witness {
    pub handle: Handle,
    start: std::time::Instant,
    pub seen: Rc<RefCell<Vec<(Duration, Seen)>>>,
}

impl Witness {
    /// A witness on a host that has just been made.
    pub fn new(handle: &Handle) -> Self {
        Self { handle: handle.clone(), start: handle.now(), seen: Rc::default() }
    }

    fn note(&self, seen: Seen) -> anyhow::Result<()> {
        self.seen.borrow_mut().push((self.handle.now() - self.start, seen));
        Ok(())
    }

    /// The datagrams, as numbers of one byte.
    pub fn numbers(&self) -> Vec<u8> {
        let seen = self.seen.borrow();
        let number = |(_, seen): &(_, Seen)| match seen {
            Seen::Datagram(payload) => payload.first().copied(),
            _ => None,
        };
        seen.iter().filter_map(number).collect()
    }

    /// What happened, without the times; it is forgotten.
    pub fn take(&self) -> Vec<Seen> {
        self.seen.take().into_iter().map(|(_, seen)| seen).collect()
    }
}

impl DatagramProtocol for Witness {
    fn datagram_received(
        &mut self,
        _: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        self.note(Seen::Datagram(datagram.payload().to_vec()))
    }

    fn write_failed(
        &mut self,
        _: &DatagramTransport,
        failure: &WriteFailure,
    ) -> anyhow::Result<()> {
        self.note(Seen::WriteFailed(errno(&failure.error)))
    }

    fn network_error(&mut self, _: &DatagramTransport, error: &NetworkError) -> anyhow::Result<()> {
        self.note(Seen::NetworkError(error.error.raw_os_error()))
    }

    fn pause_writing(&mut self, _: &DatagramTransport) -> anyhow::Result<()> {
        self.note(Seen::Paused)
    }

    fn resume_writing(&mut self, _: &DatagramTransport) -> anyhow::Result<()> {
        self.note(Seen::Resumed)
    }
}

fn errno(error: &strand_reactor::WriteError) -> Option<i32> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<std::io::Error>()?.raw_os_error()
}

/// Two hosts, a port on each. What one writes goes to the other.
pub struct Pair {
    pub world: World,
    pub a: DatagramTransport,
    pub b: DatagramTransport,
    pub at_a: Witness,
    pub at_b: Witness,
    _watchdog: Watchdog,
}

impl Pair {
    pub fn new(seed: u64) -> anyhow::Result<Self> {
        let world = World::new(seed);
        let (a, b) = (world.host("a", "10.0.0.1")?, world.host("b", "10.0.0.2")?);
        let (at_a, at_b) = (Witness::new(&a), Witness::new(&b));
        let a = a.listen_udp(1_000, at_a.clone())?;
        let b = b.listen_udp(2_000, at_b.clone())?;
        Ok(Self { world, a, b, at_a, at_b, _watchdog: watchdog() })
    }

    pub fn a_writes(&self, payload: &[u8]) -> anyhow::Result<()> {
        Ok(self.a.write_to(payload, "10.0.0.2:2000".parse()?)?)
    }

    pub fn b_writes(&self, payload: &[u8]) -> anyhow::Result<()> {
        Ok(self.b.write_to(payload, "10.0.0.1:1000".parse()?)?)
    }

    /// A and B write a datagram each; whether each arrives within a second.
    pub fn exchange(&self) -> anyhow::Result<[bool; 2]> {
        self.a_writes(b"a")?;
        self.b_writes(b"b")?;
        self.world.run_for(Duration::from_secs(1))?;
        let arrived = |witness: &Witness| !witness.take().is_empty();
        Ok([arrived(&self.at_b), arrived(&self.at_a)])
    }
}
