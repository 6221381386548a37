//! The state of a port, and the half of its work that needs no user code: flushing the outbox,
//! sorting errors, beginning to close.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use super::groups::Joined;
use super::outbox::Outbox;
use super::received::DatagramInfo;
use super::{Capabilities, DatagramProtocol, Family, Metadata, QueuePolicy, Tuning};
use crate::agenda::{Agenda, Call, Notice};
use crate::callback::LogLimit;
use crate::error::{NetworkError, StopReason, WriteError, WriteFailure};
use crate::net::{DatagramSocket, Origin, Outgoing, QueuedError, SendBatch};
use crate::slots::Key;
use crate::stats::PortStats;

/// Reports taken from the error queue at once; the rest waits for the next turn.
pub(crate) const ERROR_BUDGET: usize = 64;
/// Failures of a port that wait to be told. Past this they are only counted: a protocol that
/// floods a dead interface from inside one callback must not grow the process.
const MAX_UNTOLD: usize = 1024;

/// Datagrams sent without a report, after which a port that is told of reports merges runs.
const MERGE_AFTER: u64 = 256;

/// Whether a port is open; see [`DatagramTransport::state`](super::DatagramTransport::state).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// Open and delivering.
    Open,
    /// Open; what arrives waits.
    Paused,
    /// Stopped; `stop_protocol` has not returned yet.
    Closing,
    /// Gone.
    Closed,
}

/// What is left to do for a port, besides receiving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) error: bool,
}

impl Readiness {
    pub(crate) const READABLE: Self = Self { readable: true, writable: false, error: false };

    pub(crate) fn merge(&mut self, other: Self) {
        self.readable |= other.readable;
        self.writable |= other.writable;
        self.error |= other.error;
    }
}

/// Datagrams received but not delivered, because the port was paused or over its budget.
#[derive(Default)]
pub(crate) struct Stash {
    pub(crate) bytes: Vec<u8>,
    pub(crate) datagrams: VecDeque<Stashed>,
}

pub(crate) struct Stashed {
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) truncated: bool,
    pub(crate) kernel_drops: u32,
    pub(crate) info: DatagramInfo,
}

pub(crate) struct Port {
    pub(crate) key: Key,
    pub(crate) socket: Rc<dyn DatagramSocket>,
    /// `None` while a callback runs.
    pub(crate) protocol: Option<Box<dyn DatagramProtocol>>,
    pub(crate) family: Family,
    pub(crate) capabilities: Capabilities,
    pub(crate) metadata: Metadata,
    pub(crate) peer: Option<SocketAddr>,
    /// Whether `IP_RECVERR` was asked for beyond what `connect` turns on by itself.
    pub(crate) wants_error_queue: bool,
    /// Whether reports come by the error queue.
    pub(crate) error_queue: bool,
    /// Datagrams sent since the last report, or since the port got its peer.
    pub(crate) unreported: u64,
    pub(crate) outbox: Outbox,
    pub(crate) stash: Stash,
    /// Opened by `listen_multicast`.
    pub(crate) multicast: bool,
    pub(crate) joined: Joined,
    pub(crate) max_datagram_size: usize,
    pub(crate) batch_size: usize,
    pub(crate) queue_datagrams: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) queue_policy: QueuePolicy,
    /// Reading was paused by the user.
    pub(crate) paused: bool,
    /// A batch is being delivered.
    pub(crate) delivering: bool,
    /// The port ends, and why; the reason is gone once `stop_protocol` was told.
    pub(crate) closing: bool,
    pub(crate) stop_reason: Option<StopReason>,
    pub(crate) stopped: Vec<Call>,
    /// On the ready list, for these reasons.
    pub(crate) on_ready: bool,
    pub(crate) readiness: Readiness,
    pub(crate) on_dirty: bool,
    /// The kernel had no room; an event will tell.
    pub(crate) blocked: bool,
    /// `pause_writing` was told.
    pub(crate) writing_paused: bool,
    pub(crate) untold: usize,
    pub(crate) referenced: bool,
    /// Port number for `destination`, 0 while unknown.
    pub(crate) local_port: u16,
    pub(crate) drops_seen: Option<u32>,
    /// Longest message of the last receive: it tells how much to ask for in the next.
    pub(crate) last_longest: usize,
    pub(crate) label: Rc<str>,
    pub(crate) log: LogLimit,
    pub(crate) stats: PortStats,
}

impl Port {
    pub(crate) fn new(
        key: Key,
        socket: Rc<dyn DatagramSocket>,
        peer: Option<SocketAddr>,
        error_queue: bool,
        tuning: Tuning,
        label: Rc<str>,
        drops_seen: Option<u32>,
    ) -> Self {
        let (family, capabilities) = (socket.family(), socket.capabilities());
        Self {
            key,
            protocol: None,
            family,
            capabilities,
            metadata: capabilities.metadata,
            peer,
            wants_error_queue: error_queue,
            error_queue,
            unreported: 0,
            outbox: Outbox::default(),
            stash: Stash::default(),
            multicast: tuning.multicast,
            joined: Joined::default(),
            max_datagram_size: tuning.max_datagram_size,
            batch_size: tuning.batch_size,
            queue_datagrams: tuning.queue_datagrams,
            queue_bytes: tuning.queue_bytes,
            queue_policy: tuning.queue_policy,
            paused: tuning.start_paused,
            delivering: false,
            closing: false,
            stop_reason: None,
            stopped: Vec::new(),
            on_ready: false,
            readiness: Readiness::default(),
            on_dirty: false,
            blocked: false,
            writing_paused: false,
            untold: 0,
            referenced: true,
            local_port: 0,
            drops_seen,
            last_longest: 0,
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

    pub(crate) fn make_ready(&mut self, why: Readiness, agenda: &mut Agenda) {
        self.readiness.merge(why);
        if !self.on_ready {
            self.on_ready = true;
            agenda.ready.push_back(self.key);
        }
    }

    #[inline]
    pub(crate) fn make_dirty(&mut self, agenda: &mut Agenda) {
        if !self.on_dirty {
            self.on_dirty = true;
            agenda.dirty.push_back(self.key);
        }
    }

    /// Whether another datagram of `len` bytes would exceed the queue's bound.
    #[inline]
    pub(crate) fn is_full(&self, len: usize) -> bool {
        self.outbox.len() >= self.queue_datagrams
            || (self.outbox.bytes() + len > self.queue_bytes && !self.outbox.is_empty())
    }

    /// Offers the outbox to the kernel until it is empty or the kernel has no room.
    pub(crate) fn flush(&mut self, agenda: &mut Agenda) {
        while !self.outbox.is_empty() {
            let batch = self.outbox.batch(agenda.lent_to(self.key), self.merges());
            let (result, pending) = offer(&*self.socket, &batch);
            self.errors_met_by_send(pending, agenda);
            match result {
                Ok(count) => self.sent(count, agenda),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stats.would_block += 1;
                    self.wait_for_room(agenda);
                    break;
                }
                Err(error) if is_descriptor_gone(&error) => {
                    self.begin_close(StopReason::Failed(error), agenda);
                    break;
                }
                Err(error) => {
                    if let Some((datagram, completion)) = self.outbox.pop(&mut agenda.spares) {
                        agenda.queued -= 1;
                        self.stats.write_failures += 1;
                        self.fail(datagram, completion, WriteError::Io(error), agenda);
                    }
                }
            }
        }
        self.outbox.flushed();
        if self.outbox.is_empty() {
            // By whatever the last one left: a port that goes on waiting for room with nothing to
            // send would never send again.
            if std::mem::take(&mut self.blocked) {
                self.watch_writable(false, agenda);
            }
            self.told_room(agenda);
        } else {
            self.check_watermarks(agenda);
        }
    }

    /// Sends `batch`, which is not in the outbox, at once; the number sent is a prefix.
    pub(crate) fn send_now(
        &mut self,
        batch: &SendBatch<'_>,
        agenda: &mut Agenda,
    ) -> Result<usize, WriteError> {
        let mut done = 0;
        while done < batch.queue.len() {
            let rest = SendBatch { queue: &batch.queue[done..], ..*batch };
            let (result, pending) = offer(&*self.socket, &rest);
            self.errors_met_by_send(pending, agenda);
            match result {
                Ok(count) => {
                    let bytes: usize = rest.queue[..count].iter().map(|sent| sent.len).sum();
                    self.count_sent(count, bytes);
                    done += count;
                }
                Err(_) if done > 0 => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stats.would_block += 1;
                    return Err(WriteError::WouldBlock);
                }
                Err(error) => {
                    self.stats.write_failures += 1;
                    return Err(WriteError::Io(error));
                }
            }
        }
        Ok(done)
    }

    /// A send failed with errors that were not its own but pending on the socket.
    fn errors_met_by_send(&mut self, errors: Vec<io::Error>, agenda: &mut Agenda) {
        if errors.is_empty() {
            return;
        }
        let told = self.drain_reports(ERROR_BUDGET, agenda) > 0;
        for error in errors {
            self.pending_error(error, told, agenda);
        }
    }

    /// A receive failed.
    pub(crate) fn error_met_by_receive(&mut self, error: io::Error, agenda: &mut Agenda) {
        let told = self.drain_reports(ERROR_BUDGET, agenda) > 0;
        self.pending_error(error, told, agenda);
    }

    /// Whether runs of equal size may leave as one message. Where a host answers such a message
    /// whole (loopback does), many refused datagrams come back as one report: a port that is told
    /// of reports merges only once it has sent for a while without one.
    #[inline]
    pub(crate) fn merges(&self) -> bool {
        self.capabilities.segmentation && (!self.error_queue || self.unreported >= MERGE_AFTER)
    }

    fn count_sent(&mut self, count: usize, bytes: usize) {
        self.unreported += count as u64;
        self.stats.batches_out += 1;
        self.stats.datagrams_out += count as u64;
        self.stats.bytes_out += bytes as u64;
    }

    /// As `flush`, unless an event will tell when there is room.
    pub(crate) fn flush_unless_blocked(&mut self, agenda: &mut Agenda) {
        if !self.blocked {
            self.flush(agenda);
        }
    }

    fn sent(&mut self, count: usize, agenda: &mut Agenda) {
        let notices = &mut agenda.notices;
        let bytes = self.outbox.sent(count, &mut agenda.spares, |completion, len| {
            notices.push_back(Notice::Written(completion, Ok(len)));
        });
        agenda.queued -= count;
        self.count_sent(count, bytes);
    }

    fn wait_for_room(&mut self, agenda: &mut Agenda) {
        let waiting = self.outbox.len() as u64;
        self.stats.queue_high_water = self.stats.queue_high_water.max(waiting);
        if !self.blocked {
            self.blocked = true;
            self.watch_writable(true, agenda);
        }
    }

    fn watch_writable(&mut self, on: bool, agenda: &mut Agenda) {
        if let Err(error) = self.socket.watch_writable(on) {
            // Without the event the queue would wait for ever: try again each turn instead.
            self.network_error(plain(error), agenda);
            if on {
                self.blocked = false;
                self.make_ready(Readiness { writable: true, ..Readiness::default() }, agenda);
            }
        }
    }

    /// Tells `pause_writing` when half of the queue is filled and the kernel has no room.
    pub(crate) fn check_watermarks(&mut self, agenda: &mut Agenda) {
        if self.closing {
            return;
        }
        let (datagrams, bytes) = (self.outbox.len(), self.outbox.bytes());
        if !self.writing_paused {
            if self.blocked
                && (datagrams * 2 >= self.queue_datagrams || bytes * 2 >= self.queue_bytes)
            {
                self.writing_paused = true;
                agenda.notices.push_back(Notice::PauseWriting(self.key));
            }
        } else if datagrams * 8 <= self.queue_datagrams && bytes * 8 <= self.queue_bytes {
            self.told_room(agenda);
        }
    }

    fn told_room(&mut self, agenda: &mut Agenda) {
        if std::mem::take(&mut self.writing_paused) && !self.closing {
            agenda.notices.push_back(Notice::ResumeWriting(self.key));
        }
    }

    /// Tells the writer of `datagram` what became of it: the completion if there is one, else
    /// `write_failed`.
    pub(crate) fn fail(
        &mut self,
        datagram: Outgoing,
        completion: Option<super::Completion>,
        error: WriteError,
        agenda: &mut Agenda,
    ) {
        if let Some(completion) = completion {
            agenda.notices.push_back(Notice::Written(completion, Err(error)));
        } else if !self.closing && self.untold < MAX_UNTOLD {
            self.untold += 1;
            let destination = datagram.to.or(self.peer);
            let failure = WriteFailure { destination, len: datagram.len, error };
            agenda.notices.push_back(Notice::WriteFailed(self.key, failure));
        }
    }

    /// Makes room by dropping the oldest datagram.
    pub(crate) fn drop_oldest(&mut self, agenda: &mut Agenda) {
        if let Some((datagram, completion)) = self.outbox.pop(&mut agenda.spares) {
            agenda.queued -= 1;
            self.stats.queue_dropped += 1;
            self.fail(datagram, completion, WriteError::Dropped, agenda);
        }
    }

    /// An error event: takes reports from the error queue, or the one pending error where there is
    /// none.
    pub(crate) fn drain_errors(&mut self, most: usize, agenda: &mut Agenda) {
        let mut told = self.drain_reports(most, agenda) > 0;
        // What raised the event may be no report (or one that came between); fetch and clear it.
        let pending = match self.socket.take_error() {
            Ok(None) => return,
            Ok(Some(error)) | Err(error) => error,
        };
        told = told || self.drain_reports(most, agenda) > 0;
        self.pending_error(pending, told, agenda);
    }

    /// Takes at most so many reports from the error queue, and returns how many there were.
    fn drain_reports(&mut self, most: usize, agenda: &mut Agenda) -> usize {
        if !self.error_queue {
            return 0;
        }
        for taken in 0..most {
            if self.untold >= MAX_UNTOLD {
                break;
            }
            match self.socket.next_error() {
                Ok(Some(report)) => self.queued_error(report, agenda),
                Ok(None) => return taken,
                Err(error) => {
                    self.pending_error(error, false, agenda);
                    return taken;
                }
            }
        }
        self.make_ready(Readiness { error: true, ..Readiness::default() }, agenda);
        most
    }

    fn queued_error(&mut self, report: QueuedError, agenda: &mut Agenda) {
        self.unreported = 0;
        let mtu = match report.origin {
            // The send that met it failed with the same error, and its writer is told that.
            Origin::Local | Origin::Other => return,
            Origin::Icmp | Origin::Icmp6 => (report.info != 0).then_some(report.info),
        };
        let of_peer = match (self.peer, report.destination) {
            (Some(peer), Some(to)) => (peer.ip(), peer.port()) == (to.ip(), to.port()),
            (peer, _) => peer.is_some(),
        };
        if of_peer && is_refusal(&report.error) {
            self.refused(agenda);
        } else {
            let error = NetworkError {
                error: report.error,
                destination: report.destination,
                offender: report.offender,
                icmp: Some((report.icmp_type, report.icmp_code)),
                mtu,
            };
            self.network_error(error, agenda);
        }
    }

    /// Sorts an errno that came from a call or was pending on the socket. `told` says that the
    /// error queue had reports: it is then one of theirs. A full receive buffer has no room for
    /// reports, and the errno is all that is left of them.
    fn pending_error(&mut self, error: io::Error, told: bool, agenda: &mut Agenda) {
        if is_descriptor_gone(&error) {
            self.begin_close(StopReason::Failed(error), agenda);
        } else if told && is_from_network(&error) {
            // The queue told the same, with more.
        } else if is_refusal(&error) {
            // On an unconnected port it belongs to some earlier destination: no news of use.
            if self.peer.is_some() {
                self.refused(agenda);
            }
        } else {
            self.network_error(plain(error), agenda);
        }
    }

    fn refused(&mut self, agenda: &mut Agenda) {
        self.stats.refusals += 1;
        if !self.closing
            && let Some(peer) = self.peer
        {
            agenda.refused(self.key, peer);
        }
    }

    fn network_error(&mut self, error: NetworkError, agenda: &mut Agenda) {
        self.stats.network_errors += 1;
        if !self.closing && self.untold < MAX_UNTOLD {
            self.untold += 1;
            agenda.notices.push_back(Notice::NetworkError(self.key, error));
        }
    }

    /// Ends reading at once; the rest of the closing happens on the loop. Idempotent.
    pub(crate) fn begin_close(&mut self, reason: StopReason, agenda: &mut Agenda) {
        if !self.closing {
            self.closing = true;
            self.stop_reason = Some(reason);
            agenda.notices.push_back(Notice::Close(self.key));
        }
    }
}

/// Most errors that a send bears before it is put off.
const OFFERS: usize = 16;

/// Sends a prefix of `batch`. An error that the network set on the socket makes a send fail
/// without sending, and is cleared by that (DESIGN decision 10): the send is tried again, and such
/// errors are returned beside the result. The same error twice in a row is the datagram's own, but
/// for a refusal, which never is.
fn offer(
    socket: &dyn DatagramSocket,
    batch: &SendBatch<'_>,
) -> (io::Result<usize>, Vec<io::Error>) {
    // Does not allocate while empty.
    let mut pending: Vec<io::Error> = Vec::new();
    while pending.len() < OFFERS {
        match socket.send(batch) {
            Err(error) if is_from_network(&error) => {
                let last = pending.last().and_then(io::Error::raw_os_error);
                if last == error.raw_os_error() && !is_refusal(&error) {
                    pending.pop();
                    return (Err(error), pending);
                }
                pending.push(error);
            }
            result => return (result, pending),
        }
    }
    // Reports come in faster than sends go out: the next turn is soon enough.
    (Err(io::ErrorKind::WouldBlock.into()), pending)
}

fn plain(error: io::Error) -> NetworkError {
    NetworkError { error, destination: None, offender: None, icmp: None, mtu: None }
}

pub(crate) fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        // Windows and some BSDs report an unreachable port as a reset.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
    )
}

/// Errors that an ICMP message can set on a socket.
fn is_from_network(error: &io::Error) -> bool {
    is_refusal(error)
        || matches!(
            error.raw_os_error(),
            Some(
                libc::EHOSTUNREACH
                    | libc::ENETUNREACH
                    | libc::EHOSTDOWN
                    | libc::EPROTO
                    | libc::EMSGSIZE
                    | libc::ENOPROTOOPT
                    | libc::EACCES
                    | libc::EOPNOTSUPP
            )
        )
}

pub(crate) fn is_descriptor_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOTSOCK))
}
