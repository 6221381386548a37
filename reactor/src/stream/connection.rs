//! The state of a connection, and the half of its work that needs no user code: flushing the
//! queue, ending one direction or both, beginning to close.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Shutdown};
use std::rc::Rc;

use super::options::Tuning;
use super::rare::{Counters, Peer, Rare};
use super::write_queue::{PIECES, WriteQueue};
use super::{PeerAddr, Protocol, StreamNotice};
use crate::agenda::{Agenda, Notice};
use crate::error::{ConnectionLost, WriteError};
use crate::net::StreamLink;
use crate::slots::{Key, Kind};

/// Whether a connection is open; see [`Transport::state`](super::Transport::state).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// Open in both directions.
    Open,
    /// The peer has ended what it sends.
    ReadClosed,
    /// We have ended what we send, or are about to once it is flushed.
    WriteClosed,
    /// `lose_connection` or `abort_connection` was called, or the connection broke;
    /// `connection_lost` has not returned yet.
    Closing,
    /// Gone.
    Closed,
}

/// What is left to do for a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ready {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) error: bool,
    /// A short read does not say that all was read (DESIGN section 5).
    pub(crate) drain: bool,
}

impl Ready {
    /// Reads until there is nothing left.
    pub(crate) const DRAIN: Self =
        Self { readable: true, writable: false, error: false, drain: true };

    pub(crate) fn merge(&mut self, other: Self) {
        self.readable |= other.readable;
        self.writable |= other.writable;
        self.error |= other.error;
        self.drain |= other.drain;
    }
}

/// A peer, as the limit of connections for each counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Ip(IpAddr),
    /// The user at the other end of a UNIX socket; `None` where the system does not tell, or
    /// nobody asked.
    User(Option<u32>),
}

/// How a connection came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Accepted by a listener.
    Listener(Key),
    /// Made elsewhere.
    Adopted,
    /// Opened by a connector.
    Connector(Key),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// An attempt to connect is under way: there is no protocol yet.
    Connecting,
    Open,
    /// It ended; the loop will close it and tell the protocol.
    Ended,
}

/// The way out of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteHalf {
    Open,
    /// To be shut once the queue is empty.
    Closing,
    /// Shut.
    Closed,
}

/// An idle connection is to cost little: a server may have a hundred thousand.
pub(crate) struct Connection {
    pub(crate) key: Key,
    pub(crate) socket: StreamLink,
    /// `None` while a callback runs.
    pub(crate) protocol: Option<Box<dyn Protocol>>,
    pub(crate) origin: Origin,
    pub(super) peer: Peer,
    pub(crate) phase: Phase,
    pub(crate) queue: WriteQueue,
    pub(crate) tuning: Rc<Tuning>,
    pub(super) rare: Option<Box<Rare>>,
    /// Reading was paused by the user.
    pub(crate) paused: bool,
    /// The peer's end was read.
    pub(crate) read_closed: bool,
    pub(crate) write_half: WriteHalf,
    /// `lose_connection` was called: what still comes is discarded.
    pub(crate) disconnecting: bool,
    /// A callback runs; what it wrote is flushed when it returns.
    pub(crate) held: bool,
    pub(crate) on_ready: bool,
    pub(crate) ready: Ready,
    pub(crate) on_dirty: bool,
    /// The kernel had no room; an event will tell.
    pub(crate) blocked: bool,
    /// `resume_writing` is to be told.
    pub(super) writing_paused: bool,
    pub(crate) referenced: bool,
    /// Counted among what waits to be sent.
    counted: bool,
    pub(super) counters: Counters,
}

impl Connection {
    pub(crate) fn new(
        key: Key,
        socket: StreamLink,
        peer: PeerAddr,
        origin: Origin,
        phase: Phase,
        tuning: Rc<Tuning>,
    ) -> Self {
        Self {
            key,
            socket,
            protocol: None,
            origin,
            peer: peer.into(),
            phase,
            queue: WriteQueue::default(),
            tuning,
            rare: None,
            paused: false,
            read_closed: false,
            write_half: WriteHalf::Open,
            disconnecting: false,
            held: false,
            on_ready: false,
            ready: Ready::default(),
            on_dirty: false,
            blocked: false,
            writing_paused: false,
            referenced: true,
            counted: false,
            counters: Counters::default(),
        }
    }

    pub(crate) fn state(&self) -> ConnectionState {
        if self.phase != Phase::Open || self.disconnecting || self.has_write_error() {
            ConnectionState::Closing
        } else if self.write_half != WriteHalf::Open {
            ConnectionState::WriteClosed
        } else if self.read_closed {
            ConnectionState::ReadClosed
        } else {
            ConnectionState::Open
        }
    }

    /// Whether data may be delivered now.
    #[inline]
    pub(crate) fn delivers(&self) -> bool {
        self.phase == Phase::Open
            && !self.paused
            && !self.disconnecting
            && !self.read_closed
            && !self.stack().is_some_and(|stack| stack.eof)
    }

    /// Whether an event leads to a read, which meets an error by itself.
    pub(crate) fn will_read(&self) -> bool {
        if self.layers_hold_back() {
            return self.feeds_layers();
        }
        self.delivers() || (self.disconnecting && !self.read_closed)
    }

    /// Whether there are layers that may still send something.
    pub(crate) fn layers_hold_back(&self) -> bool {
        self.stack().is_some_and(|stack| !stack.down_end)
    }

    /// Whether what arrives goes to the layers: while they are being asked to end, too, for what
    /// they keep may wait for an answer of the peer.
    pub(crate) fn feeds_layers(&self) -> bool {
        match self.disconnecting {
            false => self.delivers(),
            true => {
                self.phase == Phase::Open
                    && !self.read_closed
                    && self.stack().is_some_and(|stack| !stack.down_end && !stack.eof)
            }
        }
    }

    /// Whether a short read says that all was read. On a UNIX socket it may only say that
    /// descriptors or urgent data came with what was read. Of urgent data on TCP an event tells
    /// where the poller knows of it (`EPOLLPRI`).
    pub(crate) fn trusts_short_reads(&self) -> bool {
        if !cfg!(any(target_os = "linux", target_os = "android")) {
            return false;
        }
        match &self.peer {
            Peer::V4(_) => true,
            Peer::Other(address) => matches!(**address, PeerAddr::Ip(_)),
        }
    }

    pub(crate) fn make_ready(&mut self, why: Ready, agenda: &mut Agenda) {
        self.ready.merge(why);
        if !self.on_ready {
            self.on_ready = true;
            agenda.streams.ready.push_back((Kind::Stream, self.key));
        }
    }

    /// Has the connection looked at when the callback under way returns, or before the next poll.
    pub(crate) fn make_dirty(&mut self, agenda: &mut Agenda) {
        if !self.on_dirty && !self.held {
            self.on_dirty = true;
            agenda.streams.dirty.push_back(self.key);
        }
    }

    /// Whether what is written now will be sent.
    #[inline]
    pub(crate) fn is_writable(&self) -> bool {
        self.phase == Phase::Open
            && !self.disconnecting
            && self.write_half == WriteHalf::Open
            && !self.has_write_error()
    }

    /// Whether nothing can be sent any more, whatever waits.
    pub(crate) fn is_broken(&self) -> bool {
        self.phase != Phase::Open || self.has_write_error()
    }

    /// Flushes, and does what waited for the flush.
    #[inline]
    pub(crate) fn settle(&mut self, agenda: &mut Agenda) {
        if !(self.is_carefree() && self.flush_whole(agenda)) {
            self.settle_all(agenda);
        }
    }

    /// Whether all that a write or a flush may lead to is a send: nothing waits for room or for a
    /// flush, or is counted as waiting. So it is with most connections at most times.
    #[inline]
    pub(super) fn is_carefree(&self) -> bool {
        self.is_writable() && !self.blocked && !self.writing_paused && !self.counted
    }

    /// Sends what is queued. False if there is more to do, because it was not all in one piece, or
    /// the system did not take all of it.
    #[inline]
    fn flush_whole(&mut self, agenda: &mut Agenda) -> bool {
        let Some(whole) = self.queue.whole() else { return false };
        if whole.is_empty() {
            return true;
        }
        let len = whole.len();
        let result = self.socket.write(whole);
        let took_all = matches!(result, Ok(taken) if taken == len);
        self.sent(result, agenda);
        self.tell_written(agenda);
        took_all
    }

    #[inline(never)]
    fn settle_all(&mut self, agenda: &mut Agenda) {
        if self.phase != Phase::Open {
            return;
        }
        if self.has_write_error() {
            // What layers still hand down must not follow what was lost.
            for completion in self.queue.clear(&mut agenda.streams.spares) {
                let cancelled = Err(WriteError::Cancelled);
                agenda.notices.push_back(Notice::Written(completion, cancelled));
            }
        } else if !self.blocked && !self.queue.is_empty() {
            self.send(&[], agenda);
        }
        self.check_watermarks(agenda);
        self.advance(agenda);
        self.account(agenda);
    }

    /// Offers the queue, and `more` after it, to the kernel until all is taken or the kernel has
    /// no room. Returns what is left of `more`: a number of pieces to skip, and of bytes of the
    /// next.
    pub(crate) fn send(&mut self, more: &[IoSlice<'_>], agenda: &mut Agenda) -> (usize, usize) {
        let (mut piece, mut offset) = (0, 0);
        loop {
            let rest = more.get(piece..).unwrap_or_default();
            let result = match (self.queue.front(), rest) {
                ([], []) => break,
                ([], [single]) if single.len() == offset => break,
                ([], [single]) => self.socket.write(&single[offset..]),
                (front, []) if front.len() == self.queue.bytes() => self.socket.write(front),
                _ => match self.write_pieces(rest, offset) {
                    Some(result) => result,
                    None => break,
                },
            };
            let Some(mut beyond) = self.sent(result, agenda) else { break };
            while let Some(data) = more.get(piece)
                && beyond + offset >= data.len()
            {
                beyond -= data.len() - offset;
                (piece, offset) = (piece + 1, 0);
            }
            offset += beyond;
        }
        self.tell_written(agenda);
        (piece, offset)
    }

    /// What came of a send: the bytes that were taken beyond the queue, or `None` if nothing more
    /// can be sent for now.
    #[inline]
    fn sent(&mut self, result: io::Result<usize>, agenda: &mut Agenda) -> Option<usize> {
        match result {
            Ok(taken) => {
                self.count_write(taken);
                Some(self.queue.taken(taken, &mut agenda.streams.spares))
            }
            Err(error) => {
                self.not_sent(error, agenda);
                None
            }
        }
    }

    #[cold]
    fn not_sent(&mut self, error: io::Error, agenda: &mut Agenda) {
        if error.kind() == io::ErrorKind::WouldBlock {
            self.rare_stats().would_block += 1;
            self.blocked = true;
        } else if is_shortage(&error) {
            // No event tells when there is memory again.
            self.blocked = true;
            agenda.notices.push_back(StreamNotice::Shortage(self.key).into());
        } else {
            self.write_failed(error, agenda);
        }
    }

    /// Offers the first pieces of the queue and of `more`, whose first is to begin at `offset`.
    /// `None` if all are empty.
    #[inline(never)]
    fn write_pieces(&self, more: &[IoSlice<'_>], mut offset: usize) -> Option<io::Result<usize>> {
        let mut out = [IoSlice::new(&[]); PIECES];
        let mut count = self.queue.pieces(&mut out);
        for (place, data) in out[count..].iter_mut().zip(more) {
            *place = IoSlice::new(&data[std::mem::take(&mut offset)..]);
            count += 1;
        }
        let out = &out[..count];
        if out.iter().all(|piece| piece.is_empty()) {
            return None;
        }
        Some(self.socket.write_vectored(out))
    }

    /// Queues the completions of what the system has taken.
    #[inline]
    pub(crate) fn tell_written(&mut self, agenda: &mut Agenda) {
        while let Some((completion, len)) = self.queue.completed() {
            agenda.notices.push_back(Notice::Written(completion, Ok(len)));
        }
        self.queue.rest(&mut agenda.streams.spares);
    }

    /// There is room again.
    #[inline]
    pub(crate) fn unblock(&mut self, agenda: &mut Agenda) {
        if std::mem::take(&mut self.blocked) {
            self.settle(agenda);
        }
    }

    pub(crate) fn write_failed(&mut self, error: io::Error, agenda: &mut Agenda) {
        let mut cause = Some(io::Error::from(error.kind()));
        if let Some(code) = error.raw_os_error() {
            cause = Some(io::Error::from_raw_os_error(code));
        }
        for completion in self.queue.clear(&mut agenda.streams.spares) {
            let error = cause.take().map_or(WriteError::Cancelled, WriteError::Io);
            agenda.notices.push_back(Notice::Written(completion, Err(error)));
        }
        self.write_half = WriteHalf::Closed;
        if self.read_closed || (self.paused && !self.disconnecting) {
            self.end(lost(error), agenda);
        } else {
            self.rare().write_error = Some(error);
            self.make_ready(Ready::DRAIN, agenda);
        }
    }

    /// All that had arrived was read: if nothing can be sent any more, this is the end.
    pub(crate) fn read_dry(&mut self, agenda: &mut Agenda) {
        if let Some(error) = self.rare.as_mut().and_then(|rare| rare.write_error.take()) {
            self.end(lost(error), agenda);
        }
    }

    /// Looks for an error that no read will meet.
    pub(crate) fn check_error(&mut self, agenda: &mut Agenda) {
        if let Ok(Some(error)) = self.socket.take_error() {
            self.end(lost(error), agenda);
        }
    }

    pub(crate) fn check_watermarks(&mut self, agenda: &mut Agenda) {
        if !self.writing_paused {
            if self.blocked && self.queue.bytes() > self.tuning.high_watermark && self.is_writable()
            {
                self.writing_paused = true;
                agenda.notices.push_back(StreamNotice::PauseWriting(self.key).into());
            }
        } else if self.waiting() <= self.tuning.low_watermark {
            self.writing_paused = false;
            if self.is_writable() {
                agenda.notices.push_back(StreamNotice::ResumeWriting(self.key).into());
            }
        }
    }

    /// What waits to be sent keeps `run` going, even on a connection that does not.
    pub(crate) fn account(&mut self, agenda: &mut Agenda) {
        let waiting = !self.queue.is_empty();
        self.note_waiting(self.queue.bytes());
        if waiting != self.counted {
            self.counted = waiting;
            if waiting {
                agenda.queued += 1;
            } else {
                agenda.queued -= 1;
            }
        }
    }

    /// Brings about what was waiting for the queue to be empty, and the end when both directions
    /// are closed.
    pub(crate) fn advance(&mut self, agenda: &mut Agenda) {
        if self.phase != Phase::Open || !self.queue.is_empty() || self.has_write_error() {
            return;
        }
        let asked = self.write_half == WriteHalf::Closing;
        if asked || (self.disconnecting && self.write_half == WriteHalf::Open) {
            if !self.layers_have_ended(agenda) {
                return;
            }
            self.write_half = WriteHalf::Closed;
            // It fails when the peer has reset the connection, which the next read tells.
            let _ = self.socket.shutdown(Shutdown::Write);
            if asked && !self.disconnecting {
                agenda.notices.push_back(StreamNotice::WriteConnectionLost(self.key).into());
            }
        }
        if self.write_half == WriteHalf::Closed && self.read_closed {
            self.end(ConnectionLost::Done, agenda);
        } else if self.disconnecting && !self.is_lingering() {
            self.linger(agenda);
        }
    }

    /// The connection is to be closed; the peer has so much time to close it, too.
    fn linger(&mut self, agenda: &mut Agenda) {
        self.rare().lingering = true;
        agenda.notices.push_back(StreamNotice::Linger(self.key).into());
    }

    /// Closes once all that was written is sent. Idempotent.
    pub(crate) fn lose(&mut self, agenda: &mut Agenda) {
        if self.phase == Phase::Open && !self.disconnecting {
            self.disconnecting = true;
            // What waits unread is no news to the poller.
            self.make_ready(Ready::DRAIN, agenda);
            self.make_dirty(agenda);
        }
    }

    /// Ends what we send, once it is flushed.
    pub(crate) fn lose_write(&mut self, agenda: &mut Agenda) {
        if self.is_writable() {
            self.write_half = WriteHalf::Closing;
            self.make_dirty(agenda);
        }
    }

    /// Closes with a reset.
    pub(crate) fn abort(&mut self, agenda: &mut Agenda) {
        if self.phase == Phase::Open {
            self.end(ConnectionLost::Aborted, agenda);
        }
    }

    /// A callback failed: the connection is closed, and told why. What was written is still sent,
    /// if the peer takes it in time.
    pub(crate) fn fail(&mut self, reason: ConnectionLost, agenda: &mut Agenda) {
        if self.phase == Phase::Open {
            // A callback that failed of a write that failed: what broke the connection is told.
            let is_consequence = self.has_write_error()
                && matches!(&reason, ConnectionLost::Failed(error)
                    if matches!(error.downcast_ref(), Some(WriteError::Closed)));
            if !is_consequence {
                self.rare().failure.get_or_insert(reason);
            }
            self.lose(agenda);
            if !self.is_lingering() {
                self.linger(agenda);
            }
        }
    }

    /// The time for an orderly close is over.
    pub(crate) fn out_of_time(&mut self, agenda: &mut Agenda) {
        self.end(ConnectionLost::Done, agenda);
    }

    /// Ends the connection; the rest happens on the loop. Idempotent.
    pub(crate) fn end(&mut self, reason: ConnectionLost, agenda: &mut Agenda) {
        if self.phase == Phase::Open {
            self.phase = Phase::Ended;
            if !matches!(reason, ConnectionLost::Done) || !self.queue.is_empty() {
                // An end in order would tell the peer that it got everything; it does where no
                // reset is to be had.
                let _ = self.socket.reset_on_close();
            }
            // Most end in order, which is what is assumed where no reason is kept.
            if self.rare.is_some() || !matches!(reason, ConnectionLost::Done) {
                let rare = self.rare();
                rare.reason = Some(rare.failure.take().unwrap_or(reason));
            }
            agenda.notices.push_back(StreamNotice::Close(self.key).into());
        }
    }
}

/// What an error of the system says of the connection.
pub(crate) fn lost(error: io::Error) -> ConnectionLost {
    match error.kind() {
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionAborted => ConnectionLost::Reset,
        io::ErrorKind::TimedOut => ConnectionLost::TimedOut,
        _ => ConnectionLost::Failed(Rc::new(error.into())),
    }
}

/// Whether memory is wanting, rather than anything wrong.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}
