//! The record of what travelled: a pcapng file, for Wireshark and its like.
//!
//! Every host is an interface, named after it. A packet is seen where it was sent, and again where
//! it arrived; of one that did not arrive a comment at the place where it was last seen tells why.

mod headers;
mod pcapng;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::host::{HostId, HostState};
use super::links::Reason;
use super::network::EPOCH_SECONDS;
use super::packet::Packet;
use pcapng::Direction;

/// What happened to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TraceEvent {
    /// It left its host and is on its way.
    Sent,
    Received,
    /// It left its host and will not arrive.
    Dropped(Reason),
}

/// The record of a world; off until somebody asks for it.
#[derive(Default)]
pub(crate) struct Trace {
    file: Option<Box<File>>,
}

/// A record that is being written.
struct File {
    sink: Sink,
    /// The number of each host's interface, `NONE` before its first packet.
    interfaces: Vec<u32>,
    next_interface: u32,
    /// Where blocks are put together.
    block: Vec<u8>,
    /// What went wrong first; nothing is written after that.
    failed: Option<io::Error>,
}

const NONE: u32 = u32::MAX;

/// Where a record goes. A writer is `Send` so that it can hold nothing of the world, which is in
/// use when it is called.
enum Sink {
    Memory(Vec<u8>),
    Writer(Box<dyn Write + Send>),
}

impl Trace {
    /// Begins a record in memory.
    pub(crate) fn begin(&mut self) {
        self.open(Sink::Memory(Vec::new()));
    }

    /// Begins a record that is written there.
    pub(crate) fn begin_to(&mut self, writer: Box<dyn Write + Send>) {
        self.open(Sink::Writer(writer));
    }

    fn open(&mut self, sink: Sink) {
        let block = Vec::new();
        let (interfaces, next_interface, failed) = (Vec::new(), 0, None);
        let mut file = File { sink, interfaces, next_interface, block, failed };
        pcapng::section_header(&mut file.block);
        file.write();
        self.file = Some(Box::new(file));
    }

    /// Ends the record: what of it is in memory, or the first error of writing it.
    pub(crate) fn end(&mut self) -> io::Result<Vec<u8>> {
        let Some(file) = self.file.take() else { return Ok(Vec::new()) };
        if let Some(error) = file.failed {
            return Err(error);
        }
        match file.sink {
            Sink::Memory(bytes) => Ok(bytes),
            Sink::Writer(mut writer) => told(|| writer.flush()).map(|()| Vec::new()),
        }
    }

    #[inline]
    pub(crate) fn record(
        &mut self,
        now_ns: u64,
        hosts: &[HostState],
        (from, to): (HostId, HostId),
        packet: &Packet,
        event: TraceEvent,
    ) {
        if let Some(file) = &mut self.file {
            file.record(now_ns, hosts, (from, to), packet, event);
        }
    }
}

impl File {
    #[cold]
    fn record(
        &mut self,
        now_ns: u64,
        hosts: &[HostState],
        (from, to): (HostId, HostId),
        packet: &Packet,
        event: TraceEvent,
    ) {
        let (at, direction) = match event {
            TraceEvent::Dropped(reason) if reason.is_of_receiver() => (to, Direction::In),
            TraceEvent::Sent | TraceEvent::Dropped(_) => (from, Direction::Out),
            TraceEvent::Received => (to, Direction::In),
        };
        let comment = match event {
            TraceEvent::Dropped(reason) => Some(format!("dropped: {reason}")),
            TraceEvent::Sent | TraceEvent::Received => None,
        };
        let interface = self.interface(at, hosts);
        let unix_ns = now_ns.saturating_add(EPOCH_SECONDS * 1_000_000_000);
        let append = |out: &mut Vec<u8>| headers::append(packet, out);
        pcapng::packet(interface, unix_ns, direction, comment.as_deref(), &mut self.block, append);
        self.write();
    }

    /// The number of a host's interface; its block comes before its first packet.
    fn interface(&mut self, host: HostId, hosts: &[HostState]) -> u32 {
        let index = host.0 as usize;
        if self.interfaces.len() <= index {
            self.interfaces.resize(index + 1, NONE);
        }
        if self.interfaces[index] == NONE {
            pcapng::interface(&hosts[index].name, &mut self.block);
            self.interfaces[index] = self.next_interface;
            self.next_interface += 1;
        }
        self.interfaces[index]
    }

    /// Writes what was put together.
    fn write(&mut self) {
        match &mut self.sink {
            Sink::Memory(bytes) => bytes.append(&mut self.block),
            Sink::Writer(writer) if self.failed.is_none() => {
                self.failed = told(|| writer.write_all(&self.block)).err();
            }
            Sink::Writer(_) => {}
        }
        self.block.clear();
    }
}

/// Calls a writer. Its panic is an error of writing: an unwinding would lose what whoever sends has in
/// hand.
fn told(write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    catch_unwind(AssertUnwindSafe(write))
        .unwrap_or_else(|_| Err(io::Error::other("the writer of the record panicked")))
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("on", &self.file.is_some()).finish_non_exhaustive()
    }
}
