//! The state of a UNIX datagram port, and the half of its work that needs no user code: sending,
//! waiting for room, beginning to close.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::{Completion, UnixDatagramProtocol, UnixNotice, UnixWriteFailure};
use crate::DelayedCall;
use crate::agenda::{Agenda, Call, Notice};
use crate::callback::LogLimit;
use crate::datagram::{PortState, QueuePolicy, is_descriptor_gone};
use crate::error::{StopReason, WriteError};
use crate::net::UnixDatagramSocket;
use crate::slots::Key;
use crate::stats::PortStats;
use crate::unix::UnixAddr;
use crate::unix::options::DatagramTuning;

/// Failures of a port that wait to be told. Past this they are only counted.
const MAX_UNTOLD: usize = 1024;
/// When a receiver without room is tried again: at first, and at most.
const RETRY: Duration = Duration::from_millis(1);
const RETRY_MOST: Duration = Duration::from_millis(32);

/// A datagram that waits for its receiver to have room.
struct Waiting {
    payload: Vec<u8>,
    to: Option<UnixAddr>,
    completion: Option<Completion>,
}

pub(crate) struct UnixPort {
    pub(crate) key: Key,
    pub(crate) socket: Rc<dyn UnixDatagramSocket>,
    /// `None` while a callback runs.
    pub(crate) protocol: Option<Box<dyn UnixDatagramProtocol>>,
    pub(crate) peer: Option<UnixAddr>,
    queue: VecDeque<Waiting>,
    queue_bytes: usize,
    tuning: DatagramTuning,
    pub(crate) paused: bool,
    /// The port ends, and why; the reason is gone once `stop_protocol` was told.
    pub(crate) closing: bool,
    pub(crate) stop_reason: Option<StopReason>,
    pub(crate) stopped: Vec<Call>,
    pub(crate) on_ready: bool,
    /// The poller was asked to tell when there is room.
    watching: bool,
    /// A timer will tell, or is about to be set.
    retrying: bool,
    retry: Duration,
    pub(crate) timer: Option<DelayedCall>,
    writing_paused: bool,
    pub(crate) untold: usize,
    pub(crate) referenced: bool,
    pub(crate) label: Rc<str>,
    pub(crate) log: LogLimit,
    pub(crate) stats: PortStats,
}

impl UnixPort {
    pub(crate) fn new(
        key: Key,
        socket: Rc<dyn UnixDatagramSocket>,
        tuning: DatagramTuning,
        label: Rc<str>,
    ) -> Self {
        Self {
            key,
            protocol: None,
            peer: socket.peer_addr().ok(),
            queue: VecDeque::new(),
            queue_bytes: 0,
            paused: tuning.start_paused,
            tuning,
            closing: false,
            stop_reason: None,
            stopped: Vec::new(),
            on_ready: false,
            watching: false,
            retrying: false,
            retry: RETRY,
            timer: None,
            writing_paused: false,
            untold: 0,
            referenced: true,
            label,
            log: LogLimit::default(),
            stats: PortStats::default(),
            socket,
        }
    }

    pub(crate) fn state(&self) -> PortState {
        match (self.closing, self.paused) {
            (true, _) => PortState::Closing,
            (_, true) => PortState::Paused,
            _ => PortState::Open,
        }
    }

    /// Whether datagrams may be delivered now.
    pub(crate) fn reads(&self) -> bool {
        !self.paused && !self.closing
    }

    pub(crate) fn make_ready(&mut self, agenda: &mut Agenda) {
        if !self.on_ready {
            self.on_ready = true;
            agenda.unix_ready.push_back(self.key);
        }
    }

    pub(crate) fn queued(&self) -> (usize, usize) {
        (self.queue.len(), self.queue_bytes)
    }

    /// Sends, or queues what its receiver has no room for. A completion that will not be called is
    /// left where it was, for the caller to drop with nothing borrowed.
    pub(crate) fn write(
        &mut self,
        payload: &[u8],
        to: Option<&UnixAddr>,
        completion: &mut Option<Completion>,
        agenda: &mut Agenda,
    ) -> Result<(), WriteError> {
        let to = self.admit(to)?;
        // What was written to the same receiver before goes before; others need not wait.
        let waits = self.queue.iter().any(|waiting| waiting.to.as_ref() == to);
        if !waits {
            match self.offer(payload, to, agenda) {
                Offer::Done(result) => {
                    self.tell(payload.len(), to, completion.take(), result, agenda);
                    return Ok(());
                }
                Offer::NoRoom(error) => self.wait(to.is_some(), &error, agenda),
            }
        }
        self.make_room(payload.len(), to, completion, agenda)?;
        if self.is_full(payload.len()) {
            return Ok(());
        }
        let completion = completion.take();
        self.queue.push_back(Waiting { payload: payload.to_vec(), to: to.cloned(), completion });
        self.queue_bytes += payload.len();
        agenda.queued += 1;
        self.stats.queue_high_water = self.stats.queue_high_water.max(self.queue.len() as u64);
        self.check_watermarks(agenda);
        Ok(())
    }

    /// Sends at once or not at all.
    pub(crate) fn try_write(
        &mut self,
        payload: &[u8],
        to: Option<&UnixAddr>,
        agenda: &mut Agenda,
    ) -> Result<usize, WriteError> {
        let to = self.admit(to)?;
        if self.queue.iter().any(|waiting| waiting.to.as_ref() == to) {
            return Err(WriteError::WouldBlock);
        }
        match self.offer(payload, to, agenda) {
            Offer::Done(Ok(())) => Ok(payload.len()),
            Offer::Done(Err(error)) => Err(error),
            Offer::NoRoom(_) => Err(WriteError::WouldBlock),
        }
    }

    /// The checks that every write passes.
    fn admit<'a>(&self, to: Option<&'a UnixAddr>) -> Result<Option<&'a UnixAddr>, WriteError> {
        match (&self.peer, to) {
            (Some(peer), Some(_)) => Err(WriteError::IsConnected { peer: peer.clone().into() }),
            // Also what an unnamed sender wants to be answered by.
            (None, None) => Err(WriteError::DestinationRequired),
            (None, Some(to)) if to.is_unnamed() => Err(WriteError::DestinationRequired),
            _ => Ok(to),
        }
    }

    fn is_full(&self, len: usize) -> bool {
        self.queue.len() >= self.tuning.queue_datagrams
            || (self.queue_bytes + len > self.tuning.queue_bytes && !self.queue.is_empty())
    }

    /// Makes room in the queue as its policy says: an error, or the new datagram or old ones go.
    fn make_room(
        &mut self,
        len: usize,
        to: Option<&UnixAddr>,
        completion: &mut Option<Completion>,
        agenda: &mut Agenda,
    ) -> Result<(), WriteError> {
        while self.is_full(len) {
            match self.tuning.queue_policy {
                QueuePolicy::Error => {
                    let (datagrams, bytes) = self.queued();
                    return Err(WriteError::QueueFull { datagrams, bytes });
                }
                QueuePolicy::DropNewest => {
                    self.stats.queue_dropped += 1;
                    let dropped = Err(WriteError::Dropped);
                    self.tell(len, to, completion.take(), dropped, agenda);
                    return Ok(());
                }
                QueuePolicy::DropOldest => {
                    let Some(oldest) = self.pop(agenda) else { return Ok(()) };
                    self.stats.queue_dropped += 1;
                    let (len, to) = (oldest.payload.len(), oldest.to.as_ref());
                    self.tell(len, to, oldest.completion, Err(WriteError::Dropped), agenda);
                }
            }
        }
        Ok(())
    }

    fn pop(&mut self, agenda: &mut Agenda) -> Option<Waiting> {
        let oldest = self.queue.pop_front()?;
        self.queue_bytes -= oldest.payload.len();
        agenda.queued -= 1;
        Some(oldest)
    }

    /// One datagram to the system, counted.
    fn offer(&mut self, payload: &[u8], to: Option<&UnixAddr>, agenda: &mut Agenda) -> Offer {
        match self.socket.send(payload, to) {
            Ok(()) => {
                self.stats.datagrams_out += 1;
                self.stats.batches_out += 1;
                self.stats.bytes_out += payload.len() as u64;
                Offer::Done(Ok(()))
            }
            Err(error) if is_no_room(&error) => {
                self.stats.would_block += 1;
                Offer::NoRoom(error)
            }
            Err(error) => {
                self.stats.write_failures += 1;
                if is_descriptor_gone(&error) {
                    let code = error.raw_os_error().unwrap_or(libc::EBADF);
                    let reason = StopReason::Failed(io::Error::from_raw_os_error(code));
                    self.begin_close(reason, agenda);
                }
                Offer::Done(Err(WriteError::Io(error)))
            }
        }
    }

    /// Tells the writer what became of a datagram: the completion if there is one, else
    /// `write_failed`.
    fn tell(
        &mut self,
        len: usize,
        to: Option<&UnixAddr>,
        completion: Option<Completion>,
        result: Result<(), WriteError>,
        agenda: &mut Agenda,
    ) {
        match (completion, result) {
            (Some(completion), result) => {
                agenda.notices.push_back(Notice::Written(completion, result.map(|()| len)));
            }
            (None, Err(error)) if !self.closing && self.untold < MAX_UNTOLD => {
                self.untold += 1;
                let destination = to.or(self.peer.as_ref()).cloned();
                let failure = UnixWriteFailure { destination, len, error };
                agenda.notices.push_back(UnixNotice::WriteFailed(self.key, failure).into());
            }
            _ => {}
        }
    }

    /// Offers what waits, each receiver's in order, and leaves those without room aside.
    pub(crate) fn flush(&mut self, agenda: &mut Agenda) {
        let mut full: BTreeSet<Option<UnixAddr>> = BTreeSet::new();
        let mut progress = false;
        for waiting in std::mem::take(&mut self.queue) {
            if !full.contains(&waiting.to) {
                match self.offer(&waiting.payload, waiting.to.as_ref(), agenda) {
                    Offer::Done(result) => {
                        progress = true;
                        agenda.queued -= 1;
                        let len = waiting.payload.len();
                        self.queue_bytes -= len;
                        let (to, completion) = (waiting.to.as_ref(), waiting.completion);
                        self.tell(len, to, completion, result, agenda);
                        continue;
                    }
                    Offer::NoRoom(error) => {
                        self.wait(waiting.to.is_some(), &error, agenda);
                        full.insert(waiting.to.clone());
                    }
                }
            }
            self.queue.push_back(waiting);
        }
        if progress {
            self.retry = RETRY;
        }
        if !full.contains(&None) {
            self.stop_watching();
        }
        self.check_watermarks(agenda);
    }

    /// Has the port called when there may be room. Of a peer's room the poller tells; of that of a
    /// receiver by address, or of the system's memory, nobody does.
    fn wait(&mut self, by_address: bool, error: &io::Error, agenda: &mut Agenda) {
        if !by_address && error.kind() == io::ErrorKind::WouldBlock {
            self.watching = self.watching || self.socket.watch_writable(true).is_ok();
            if self.watching {
                return;
            }
        }
        if !std::mem::replace(&mut self.retrying, true) {
            agenda.notices.push_back(UnixNotice::Retry(self.key).into());
        }
    }

    fn stop_watching(&mut self) {
        if std::mem::take(&mut self.watching) {
            // It only costs an event if it fails.
            let _ = self.socket.watch_writable(false);
        }
    }

    /// How long to wait before the next try, which is later each time.
    pub(crate) fn retry_delay(&mut self) -> Duration {
        let delay = self.retry;
        self.retry = (delay * 2).min(RETRY_MOST);
        delay
    }

    /// The time is over.
    pub(crate) fn retry(&mut self, agenda: &mut Agenda) {
        self.retrying = false;
        self.timer = None;
        self.flush(agenda);
    }

    /// As those of UDP ports: half of the queue, and an eighth.
    fn check_watermarks(&mut self, agenda: &mut Agenda) {
        let (datagrams, bytes) = self.queued();
        let (most, most_bytes) = (self.tuning.queue_datagrams, self.tuning.queue_bytes);
        if self.closing {
        } else if !self.writing_paused {
            if !self.queue.is_empty() && (datagrams * 2 >= most || bytes * 2 >= most_bytes) {
                self.writing_paused = true;
                agenda.notices.push_back(UnixNotice::PauseWriting(self.key).into());
            }
        } else if datagrams == 0 || (datagrams * 8 <= most && bytes * 8 <= most_bytes) {
            self.writing_paused = false;
            agenda.notices.push_back(UnixNotice::ResumeWriting(self.key).into());
        }
    }

    /// The port has a peer: what waits for that address goes before what is written to it now.
    pub(crate) fn connected(&mut self, peer: UnixAddr) {
        for waiting in &mut self.queue {
            waiting.to.take_if(|to| *to == peer);
        }
        self.peer = Some(peer);
    }

    /// Gives what waits for the peer its address: the port is about to lose that peer.
    pub(crate) fn address(&mut self, peer: &UnixAddr) {
        for waiting in &mut self.queue {
            waiting.to.get_or_insert_with(|| peer.clone());
        }
    }

    /// Ends reading at once; the rest of the closing happens on the loop. Idempotent.
    pub(crate) fn begin_close(&mut self, reason: StopReason, agenda: &mut Agenda) {
        if !self.closing {
            self.closing = true;
            self.stop_reason = Some(reason);
            agenda.notices.push_back(UnixNotice::Close(self.key).into());
        }
    }

    /// What still waits is not sent any more.
    pub(crate) fn cancel(&mut self, agenda: &mut Agenda) {
        while let Some(waiting) = self.pop(agenda) {
            self.stats.cancelled += 1;
            if let Some(completion) = waiting.completion {
                let cancelled = Err(WriteError::Cancelled);
                agenda.notices.push_back(Notice::Written(completion, cancelled));
            }
        }
    }
}

/// What became of a datagram offered to the system.
enum Offer {
    Done(Result<(), WriteError>),
    NoRoom(io::Error),
}

/// Whether the datagram can be sent later: the receiver has no room (which the BSDs call
/// `ENOBUFS`), or the system no memory.
fn is_no_room(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}
