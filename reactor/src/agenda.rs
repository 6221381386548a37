//! What the loop still has to do: the lists that a turn works through. Each is snapshotted when
//! its phase begins, so that none starves the others, and the poll does not sleep while any of
//! them has an entry.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::Handle;
use crate::datagram::{Completion, Storage};
use crate::error::{NetworkError, WriteError, WriteFailure};
use crate::slots::Key;
use crate::stats::ReactorStats;
use crate::stream::{StreamAgenda, StreamNotice};
use crate::unix::UnixNotice;

/// A closure to be called on the loop.
pub(crate) type Call = Box<dyn FnOnce(&Handle) -> anyhow::Result<()>>;

/// Something to be told to user code, from the loop, in order.
pub(crate) enum Notice {
    /// `connection_refused` about this peer, this many times.
    Refused(Key, SocketAddr, usize),
    NetworkError(Key, NetworkError),
    WriteFailed(Key, WriteFailure),
    PauseWriting(Key),
    ResumeWriting(Key),
    Written(Completion, Result<usize, WriteError>),
    /// Tell the protocol, then close the port.
    Close(Key),
    Call(Call),
    Stream(StreamNotice),
    Unix(UnixNotice),
}

/// The receive buffers while a port is being delivered to: it may send out of them in place.
pub(crate) struct Lent {
    pub(crate) key: Key,
    pub(crate) data: Rc<Box<[u8]>>,
}

#[derive(Default)]
pub(crate) struct Agenda {
    /// Ports with reading, error reports or sends left over.
    pub(crate) ready: VecDeque<Key>,
    /// Ports with unflushed sends.
    pub(crate) dirty: VecDeque<Key>,
    pub(crate) notices: VecDeque<Notice>,
    /// Calls posted on the loop itself.
    pub(crate) calls: VecDeque<Call>,
    pub(crate) lent: Option<Lent>,
    /// Memory for the queues of ports that have something to send.
    pub(crate) spares: Vec<Storage>,
    pub(crate) streams: StreamAgenda,
    /// UNIX datagram ports with reading left over.
    pub(crate) unix_ready: VecDeque<Key>,
    pub(crate) stats: ReactorStats,
    /// Open ports and active timers that keep `run` going.
    pub(crate) references: usize,
    /// Datagrams waiting in outboxes.
    pub(crate) queued: usize,
}

impl Agenda {
    /// Whether the next poll must not sleep.
    pub(crate) fn is_pressing(&self) -> bool {
        !(self.ready.is_empty()
            && self.dirty.is_empty()
            && self.streams.ready.is_empty()
            && self.streams.dirty.is_empty()
            && self.unix_ready.is_empty()
            && self.notices.is_empty()
            && self.calls.is_empty())
    }

    /// Whether something is left that could call back.
    pub(crate) fn is_alive(&self) -> bool {
        self.references > 0 || self.queued > 0 || !self.notices.is_empty() || !self.calls.is_empty()
    }

    /// The receive buffers, as the outbox of `key` may refer to them.
    pub(crate) fn lent_to(&self, key: Key) -> &[u8] {
        match &self.lent {
            Some(lent) if lent.key == key => &lent.data,
            _ => &[],
        }
    }

    /// Queues one `connection_refused`; runs of them take no memory.
    pub(crate) fn refused(&mut self, key: Key, peer: SocketAddr) {
        match self.notices.back_mut() {
            Some(Notice::Refused(last, by, count)) if *last == key && *by == peer => *count += 1,
            _ => self.notices.push_back(Notice::Refused(key, peer, 1)),
        }
    }
}
