//! One connection as its user sees it: what can be called, and what it is ready for. What arrives
//! is dealt with in `incoming.rs`, what leaves in `outgoing.rs`, the clock in `clock.rs`.

use std::io::IoSlice;

use super::buffer::{Bytes, Early};
use super::congestion::{Congestion, RoundTrip};
use super::incoming::Incoming;
use super::seq;
use crate::net::sim::packet::Segment;
use crate::stream::KeepAlive;

/// Smallest segment size that a peer may ask for (Linux: `net.ipv4.tcp_min_snd_mss`).
const LEAST_MSS: u32 = 48;
/// Smallest one that a path may: what fits with the headers into the narrowest link of IPv4. A
/// system would rather have routers cut its segments; here they do not, and all must arrive.
const LEAST_PATH_MSS: u32 = 28;
/// Linux: how long a closed socket waits for the end of the other side (`tcp_fin_timeout`).
pub(super) const FIN_TIMEOUT: u64 = 60_000_000_000;

/// The states of RFC 9293, section 3.3.2. `LISTEN` is not among them: it is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    Closed,
}

/// How urgent an acknowledgement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ack {
    No,
    /// With the next segment, or at the end of the turn.
    Soon,
    Now,
}

/// What an edge says; what `epoll_wait` would.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) error: bool,
    pub(crate) read_closed: bool,
}

/// What a connection begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// Its first sequence number.
    pub(crate) isn: u32,
    /// The longest payload that fits the interface.
    pub(crate) mss: u16,
    /// The longest that fits the path, if that is known to be less.
    pub(crate) path_mss: Option<u32>,
    /// Bytes that may wait to be read, and to be acknowledged.
    pub(crate) recv_room: usize,
    pub(crate) send_room: usize,
}

/// A transmission control block: the state of one connection. It knows neither addresses nor
/// sockets; time is a number of nanoseconds that it is given.
#[derive(Debug)]
pub(crate) struct Tcb {
    pub(super) state: State,
    /// The first number of either direction, that of the SYN.
    pub(super) iss: u32,
    pub(super) irs: u32,
    /// Oldest number not acknowledged, next to send, and one after the last that was ever sent.
    pub(super) una: u32,
    pub(super) nxt: u32,
    pub(super) max: u32,
    /// The peer's window, and the segment that told it.
    pub(super) wnd: u32,
    pub(super) wl1: u32,
    pub(super) wl2: u32,
    /// Next number expected, and one after the last that we have allowed.
    pub(super) rcv_nxt: u32,
    pub(super) rcv_edge: u32,
    /// The number of the peer's FIN, when that came early.
    pub(super) early_fin: Option<u32>,
    /// What is to be sent, from the number `send_at` on.
    pub(super) send: Bytes,
    pub(super) send_at: u32,
    pub(super) recv: Bytes,
    pub(super) early: Early,
    pub(super) recv_room: usize,
    pub(super) send_room: usize,
    pub(super) mss: u32,
    pub(super) own_mss: u16,
    pub(super) congestion: Congestion,
    pub(super) round_trip: RoundTrip,
    /// The number whose acknowledgement is timed, and when it was sent.
    pub(super) timed: Option<(u32, u64)>,
    pub(super) rto_at: Option<u64>,
    pub(super) probe_at: Option<u64>,
    /// For what happens while nothing does: keepalive, and the end of a closed connection.
    pub(super) idle_at: Option<u64>,
    pub(super) heard_at: u64,
    pub(super) retries: u8,
    /// Probes since the peer was last heard, and since its window was last open.
    pub(super) probes: u8,
    pub(super) backoff: u8,
    pub(super) ack: Ack,
    /// The first segment that is missing leaves again, out of turn.
    pub(super) resend: bool,
    pub(super) probe_due: bool,
    pub(super) reset_due: bool,
    /// A reset for a segment of another connection, with the number that it expects.
    pub(super) stray: Option<u32>,
    /// Our FIN follows what is queued.
    pub(super) fin: bool,
    /// The peer's FIN was received (`SOCK_DONE`): from here on, reading is at the end.
    pub(super) done: bool,
    /// The directions that are shut (`sk_shutdown`).
    pub(super) read_shut: bool,
    pub(super) write_shut: bool,
    /// Its user has closed it.
    pub(super) orphan: bool,
    /// A write found no room: the next room is news.
    pub(super) no_space: bool,
    /// There is news.
    pub(super) woken: bool,
    /// `SO_ERROR`.
    pub(super) error: Option<i32>,
    /// What ICMP said, told if nothing else comes.
    pub(super) soft_error: Option<i32>,
    pub(super) keepalive: Option<Box<KeepAlive>>,
}

impl Tcb {
    /// Begins to connect.
    pub(crate) fn connect(now: u64, setup: Setup) -> Self {
        Self::new(now, setup, State::SynSent)
    }

    /// Answers a SYN.
    pub(crate) fn answer(now: u64, setup: Setup, syn: &Segment) -> Self {
        let mut tcb = Self::new(now, setup, State::SynReceived);
        tcb.synchronize(syn);
        tcb
    }

    fn new(now: u64, setup: Setup, state: State) -> Self {
        let Setup { isn, mss, path_mss, recv_room, send_room } = setup;
        let path_mss = path_mss.map_or(u32::from(mss), |path| path.max(LEAST_PATH_MSS));
        Self {
            state,
            iss: isn,
            irs: 0,
            una: isn,
            nxt: isn,
            max: isn,
            wnd: 0,
            wl1: 0,
            wl2: 0,
            rcv_nxt: 0,
            rcv_edge: 0,
            early_fin: None,
            send: Bytes::default(),
            send_at: isn.wrapping_add(1),
            recv: Bytes::default(),
            early: Early::default(),
            recv_room,
            send_room,
            mss: path_mss.min(mss.into()),
            own_mss: mss,
            congestion: Congestion::new(isn, u32::from(mss)),
            round_trip: RoundTrip::default(),
            timed: None,
            rto_at: None,
            probe_at: None,
            idle_at: None,
            heard_at: now,
            retries: 0,
            probes: 0,
            backoff: 0,
            ack: Ack::No,
            resend: false,
            probe_due: false,
            reset_due: false,
            stray: None,
            fin: false,
            done: false,
            read_shut: false,
            write_shut: false,
            orphan: false,
            no_space: false,
            woken: false,
            error: None,
            soft_error: None,
            keepalive: None,
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Whether there is news since the last call.
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.woken)
    }

    /// Bytes that wait to be read, and to be acknowledged by the peer.
    pub(crate) fn queued(&self) -> (usize, usize) {
        (self.recv.len(), self.send.len())
    }

    /// What it is ready for, as Linux' `tcp_poll` says.
    pub(crate) fn readiness(&self) -> Readiness {
        let gone = matches!(self.state, State::Closed | State::TimeWait);
        let hung_up = gone || (self.read_shut && self.write_shut);
        let synchronized = !matches!(self.state, State::SynSent | State::SynReceived);
        Readiness {
            readable: hung_up || self.read_shut || (synchronized && !self.recv.is_empty()),
            writable: synchronized && (self.write_shut || self.has_room()),
            error: self.error.is_some(),
            read_closed: hung_up || self.read_shut,
        }
    }

    /// Whether so much room is free that writing is worth it: a third (`sk_stream_min_wspace`).
    pub(super) fn has_room(&self) -> bool {
        self.send.len() < self.send_room && self.send_room - self.send.len() >= self.send.len() / 2
    }

    /// Reads; the order of the answers is that of Linux' `tcp_recvmsg`.
    ///
    /// # Errors
    /// An errno; `EAGAIN`: nothing has arrived.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, i32> {
        if !self.recv.is_empty() {
            let len = self.recv.take(buffer);
            self.update_window();
            return Ok(len);
        }
        if buffer.is_empty() || self.done {
            return Ok(0);
        }
        match self.error.take() {
            Some(error) => Err(error),
            None if self.read_shut => Ok(0),
            None if self.state == State::Closed => Err(libc::ENOTCONN),
            None => Err(libc::EAGAIN),
        }
    }

    /// Tells the peer of new room, if that is worth a segment (RFC 9293, section 3.8.6.2.2).
    fn update_window(&mut self) {
        let known = seq::distance(self.rcv_nxt, self.rcv_edge);
        if known < self.recv_room / 2 && self.next_edge() != self.rcv_edge && !self.done {
            self.ack = self.ack.max_with(Ack::Soon);
        }
    }

    /// One after the last number that may be allowed now: what was allowed is never taken back,
    /// and crumbs are not given.
    pub(super) fn next_edge(&self) -> u32 {
        let free = self.recv_room.saturating_sub(self.recv.len());
        let edge = seq::after(self.rcv_nxt, free);
        let crumb = (self.recv_room / 2).min(self.mss as usize).max(1);
        match seq::distance(self.rcv_edge, edge) >= crumb {
            true => edge,
            false => self.rcv_edge,
        }
    }

    /// Queues a prefix of `pieces` and returns its length.
    ///
    /// # Errors
    /// An errno; `EAGAIN`: there is no room.
    pub(crate) fn write(&mut self, pieces: &[IoSlice<'_>]) -> Result<usize, i32> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if self.write_shut {
            return Err(libc::EPIPE);
        }
        let is_open = matches!(self.state, State::Established | State::CloseWait);
        let mut room = match is_open {
            true => self.send_room.saturating_sub(self.send.len()),
            false => 0,
        };
        if room == 0 {
            self.no_space = true;
            return Err(libc::EAGAIN);
        }
        let before = self.send.len();
        for piece in pieces {
            let len = piece.len().min(room);
            self.send.push(&piece[..len]);
            room -= len;
            self.no_space |= len < piece.len();
        }
        Ok(self.send.len() - before)
    }

    /// Ends what we send.
    ///
    /// # Errors
    /// `ENOTCONN` without a connection.
    pub(crate) fn shutdown_write(&mut self) -> Result<(), i32> {
        // Linux tells it even where there is nothing to shut.
        self.woken = true;
        if self.is_unconnected() {
            return Err(libc::ENOTCONN);
        }
        self.write_shut = true;
        self.begin_fin();
        Ok(())
    }

    /// Ends what we receive, for the reader alone.
    ///
    /// # Errors
    /// As [`shutdown_write`](Self::shutdown_write).
    pub(crate) fn shutdown_read(&mut self) -> Result<(), i32> {
        // Linux tells it even where there is nothing to shut.
        self.woken = true;
        if self.is_unconnected() {
            return Err(libc::ENOTCONN);
        }
        self.read_shut = true;
        Ok(())
    }

    fn is_unconnected(&self) -> bool {
        use State::{Closed, SynReceived, SynSent, TimeWait};
        matches!(self.state, Closed | TimeWait | SynSent | SynReceived)
    }

    fn begin_fin(&mut self) {
        self.state = match self.state {
            State::Established => State::FinWait1,
            State::CloseWait => State::LastAck,
            _ => return,
        };
        self.fin = true;
    }

    /// Its user closes it. What is queued is still sent, unless input was left unread: the
    /// order is that of Linux' `tcp_close`.
    pub(crate) fn close(&mut self, now: u64) {
        let unread = !self.recv.is_empty();
        self.orphan = true;
        (self.read_shut, self.write_shut) = (true, true);
        self.recv = Bytes::default();
        self.early.clear();
        self.keepalive = None;
        if self.state != State::TimeWait {
            self.idle_at = None;
        }
        match self.state {
            State::Closed | State::TimeWait => {}
            State::SynSent => self.finish(),
            State::SynReceived => self.reset(),
            _ if unread => self.reset(),
            State::FinWait2 => self.idle_at = Some(now + FIN_TIMEOUT),
            _ => self.begin_fin(),
        }
    }

    /// Ends it with a reset to the peer.
    pub(super) fn reset(&mut self) {
        let finished = matches!(self.state, State::Closing | State::LastAck)
            && self.una == self.send_at
            && self.send.is_empty();
        self.finish();
        self.reset_due = !finished;
    }

    /// Ends it with an error.
    pub(super) fn fail(&mut self, error: i32) {
        self.error = Some(error);
        self.finish();
    }

    /// Nothing is sent or expected any more; what was received can still be read.
    pub(super) fn finish(&mut self) {
        self.state = State::Closed;
        (self.read_shut, self.write_shut) = (true, true);
        self.send = Bytes::default();
        self.early.clear();
        (self.rto_at, self.probe_at, self.idle_at) = (None, None, None);
        (self.resend, self.probe_due) = (false, false);
        self.ack = Ack::No;
        self.woken = true;
    }

    /// Ends it in silence.
    pub(super) fn forget(&mut self) {
        let news = self.woken;
        self.finish();
        self.woken = news;
    }

    /// Whether an acknowledgement waits for the end of the turn.
    pub(super) fn owes_ack(&self) -> bool {
        self.ack != Ack::No
    }

    /// The next number to send, and the next expected.
    pub(super) fn numbers(&self) -> (u32, u32) {
        (self.nxt, self.rcv_nxt)
    }

    pub(super) fn keepalive(&self) -> Option<KeepAlive> {
        self.keepalive.as_deref().copied()
    }

    /// Fetches and clears the pending error.
    pub(crate) fn take_error(&mut self) -> Option<i32> {
        self.error.take()
    }

    #[cfg(test)]
    pub(crate) fn has_error(&self) -> bool {
        self.error.is_some()
    }

    /// Ends it at once, with a reset to the peer; Linux tells its own user, too
    /// (`tcp_disconnect`).
    pub(crate) fn abort(&mut self) {
        match self.state {
            State::Closed | State::TimeWait => {
                self.recv = Bytes::default();
                self.woken = true;
                return;
            }
            State::SynSent => self.finish(),
            _ => self.reset(),
        }
        self.recv = Bytes::default();
        self.error = Some(libc::ECONNRESET);
    }

    /// Changes how much may wait to be read. What was allowed to the peer stays so.
    pub(crate) fn set_recv_room(&mut self, bytes: usize) {
        self.recv_room = bytes;
    }

    pub(crate) fn set_send_room(&mut self, bytes: usize) {
        self.send_room = bytes;
        self.tell_room();
    }

    pub(crate) fn set_keepalive(&mut self, now: u64, times: Option<KeepAlive>) {
        self.keepalive = times.map(Box::new);
        if !self.orphan {
            self.probes = 0;
            self.idle_at = times.map(|times| now + nanoseconds(times.idle));
        }
    }

    /// ICMP about what we sent (RFC 1122, section 4.2.3.9): fatal to an attempt, remembered else.
    pub(crate) fn unreachable(&mut self, error: i32) {
        match self.state {
            State::SynSent | State::SynReceived => self.fail(error),
            State::Closed | State::TimeWait => {}
            _ => self.soft_error = Some(error),
        }
    }

    /// The path takes no longer segments than this: what was lost for it leaves again, shorter.
    pub(crate) fn path_mss(&mut self, mss: u32) {
        let mss = mss.max(LEAST_PATH_MSS);
        if mss < self.mss {
            self.mss = mss;
            self.timed = None;
            self.nxt = seq::max(self.una, self.iss.wrapping_add(1));
        }
    }

    /// There is room again, and somebody waits for it.
    pub(super) fn tell_room(&mut self) {
        if self.no_space && self.has_room() {
            self.no_space = false;
            self.woken = true;
        }
    }

    /// A segment with the other side's first number.
    pub(super) fn synchronize(&mut self, syn: &Segment) {
        self.irs = syn.seq;
        self.rcv_nxt = syn.seq.wrapping_add(1);
        self.rcv_edge = self.rcv_nxt;
        (self.wnd, self.wl1, self.wl2) = (syn.window, syn.seq, syn.ack);
        // RFC 9293, section 3.7.1: without the option, 536.
        let theirs = u32::from(syn.mss.unwrap_or(536)).max(LEAST_MSS);
        self.mss = self.mss.min(theirs);
        self.congestion = Congestion::new(self.iss, self.mss);
    }

    /// Deals with a segment. What is to be sent then, [`poll_transmit`](Self::poll_transmit) says.
    pub(crate) fn on_segment(&mut self, now: u64, segment: &Segment) {
        self.heard_at = now;
        self.probes = 0;
        Incoming { tcb: self, now, segment }.process();
    }
}

impl Ack {
    pub(super) fn max_with(self, other: Self) -> Self {
        if self == Self::Now || other == Self::Now {
            Self::Now
        } else if self == Self::Soon || other == Self::Soon {
            Self::Soon
        } else {
            Self::No
        }
    }
}

pub(super) fn nanoseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
impl Tcb {
    /// Bytes that its buffers hold on to.
    pub(super) fn memory(&self) -> usize {
        self.send.capacity() + self.recv.capacity() + self.early.capacity()
    }
}
