//! What is kept of a connection so that an idle one costs little: a compact address, half-size
//! counters, and apart from it what few connections have.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::rc::Rc;
use std::time::Instant;

use super::connection::{Connection, Who};
use super::layer::Stack;
use super::{ConnectionLost, PeerAddr};
use crate::DelayedCall;
use crate::callback::LogLimit;
use crate::stats::StreamStats;
use crate::unix::UnixAddr;

/// The address of a peer. Most are of IPv4, and there are as many as there are connections.
#[derive(Clone, Debug)]
pub(super) enum Peer {
    V4(SocketAddrV4),
    Other(Box<PeerAddr>),
}

impl From<PeerAddr> for Peer {
    fn from(address: PeerAddr) -> Self {
        match address {
            PeerAddr::Ip(SocketAddr::V4(address)) => Self::V4(address),
            other => Self::Other(Box::new(other)),
        }
    }
}

/// What few connections have, or not for long.
#[derive(Default)]
pub(super) struct Rare {
    pub(super) stack: Option<Box<Stack>>,
    pub(super) timer: Option<DelayedCall>,
    /// The time until the connection is closed in any case has begun to count.
    pub(super) lingering: bool,
    /// Why nothing can be sent any more; what the peer sent before is still read.
    pub(super) write_error: Option<io::Error>,
    /// What `connection_lost` will be told, however the connection ends.
    pub(super) failure: Option<ConnectionLost>,
    pub(super) reason: Option<ConnectionLost>,
    pub(super) label: Option<Rc<str>>,
    pub(super) log: LogLimit,
    /// The user at the other end, if the listener counts by it.
    pub(super) user: Option<u32>,
    /// What [`Counters`] have no room for; the rest of it is added there.
    pub(super) stats: StreamStats,
}

/// What a connection is called in logs: put into words only where somebody reads them.
pub(crate) enum Name {
    Given(Rc<str>),
    Peer(PeerAddr),
    /// Most clients of UNIX sockets have no name: the server's says more.
    ClientOf(UnixAddr),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(label) => f.write_str(label),
            Self::Peer(PeerAddr::Ip(peer)) => write!(f, "tcp {peer}"),
            Self::Peer(PeerAddr::Unix(peer)) if peer.is_unnamed() => f.write_str("unix"),
            Self::Peer(PeerAddr::Unix(peer)) => write!(f, "unix {peer}"),
            Self::ClientOf(server) => write!(f, "unix client of {server}"),
        }
    }
}

/// The low halves of the statistics that every connection has; what overflows goes to [`Rare`].
#[derive(Default)]
pub(super) struct Counters {
    bytes_in: u32,
    reads: u32,
    bytes_out: u32,
    writes: u32,
    queue_high_water: u32,
}

impl Connection {
    /// Its name in logs.
    pub(crate) fn name(&self) -> Name {
        if let Some(label) = self.rare.as_ref().and_then(|rare| rare.label.as_ref()) {
            return Name::Given(Rc::clone(label));
        }
        match self.peer() {
            PeerAddr::Unix(peer) if peer.is_unnamed() => match self.socket.unix_local_addr() {
                Ok(own) if !own.is_unnamed() => Name::ClientOf(own),
                _ => Name::Peer(peer.into()),
            },
            peer => Name::Peer(peer),
        }
    }

    pub(crate) fn label(&self) -> Rc<str> {
        match self.name() {
            Name::Given(label) => label,
            name => name.to_string().into(),
        }
    }

    pub(crate) fn set_label(&mut self, label: Option<&str>) {
        if label.is_some() {
            self.rare().label = label.map(Into::into);
        }
    }

    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    pub(crate) fn peer(&self) -> PeerAddr {
        match &self.peer {
            Peer::V4(address) => PeerAddr::Ip(SocketAddr::V4(*address)),
            Peer::Other(address) => PeerAddr::clone(address),
        }
    }

    /// Whom the connection counts for at its listener.
    pub(crate) fn who(&self) -> Who {
        match &self.peer {
            Peer::V4(address) => Who::Ip(IpAddr::V4(*address.ip())),
            Peer::Other(address) => match **address {
                PeerAddr::Ip(address) => Who::Ip(address.ip().to_canonical()),
                PeerAddr::Unix(_) => Who::User(self.rare.as_ref().and_then(|rare| rare.user)),
            },
        }
    }

    pub(crate) fn set_user(&mut self, user: Option<u32>) {
        self.rare().user = user;
    }

    #[inline]
    pub(crate) fn stack(&self) -> Option<&Stack> {
        self.rare.as_ref().and_then(|rare| rare.stack.as_deref())
    }

    #[inline]
    pub(crate) fn stack_mut(&mut self) -> Option<&mut Stack> {
        self.rare.as_mut().and_then(|rare| rare.stack.as_deref_mut())
    }

    /// The stack of layers, made if there is none.
    pub(crate) fn make_stack(&mut self) -> &mut Stack {
        self.rare().stack.get_or_insert_default()
    }

    pub(crate) fn take_stack(&mut self) -> Option<Box<Stack>> {
        self.rare.as_mut().and_then(|rare| rare.stack.take())
    }

    pub(crate) fn set_timer(&mut self, timer: DelayedCall) {
        self.rare().timer = Some(timer);
    }

    pub(crate) fn take_timer(&mut self) -> Option<DelayedCall> {
        self.rare.as_mut().and_then(|rare| rare.timer.take())
    }

    /// Why it ended; `None` while it has not, or when there is no more to it than that.
    pub(crate) fn reason(&self) -> Option<&ConnectionLost> {
        self.rare.as_ref().and_then(|rare| rare.reason.as_ref())
    }

    /// Whether a failure of its callbacks may be logged.
    pub(crate) fn admits_log(&mut self, now: Instant) -> bool {
        self.rare().log.admits(now)
    }

    #[inline]
    pub(super) fn has_write_error(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.write_error.is_some())
    }

    pub(super) fn is_lingering(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.lingering)
    }

    #[inline]
    pub(crate) fn count_read(&mut self, bytes: usize) {
        let counters = &mut self.counters;
        let (sum, bytes_over) = carry(counters.bytes_in, bytes);
        let (reads, reads_over) = carry(counters.reads, 1);
        (counters.bytes_in, counters.reads) = (sum, reads);
        if bytes_over | reads_over != 0 {
            let stats = &mut self.rare().stats;
            stats.bytes_in += bytes_over;
            stats.reads += reads_over;
        }
    }

    #[inline]
    pub(crate) fn count_write(&mut self, bytes: usize) {
        let counters = &mut self.counters;
        let (sum, bytes_over) = carry(counters.bytes_out, bytes);
        let (writes, writes_over) = carry(counters.writes, 1);
        (counters.bytes_out, counters.writes) = (sum, writes);
        if bytes_over | writes_over != 0 {
            let stats = &mut self.rare().stats;
            stats.bytes_out += bytes_over;
            stats.writes += writes_over;
        }
    }

    #[inline]
    pub(super) fn note_waiting(&mut self, bytes: usize) {
        match u32::try_from(bytes) {
            Ok(bytes) => self.counters.queue_high_water = self.counters.queue_high_water.max(bytes),
            Err(_) => {
                let most = &mut self.rare().stats.queue_high_water;
                *most = (*most).max(bytes as u64);
            }
        }
    }

    /// The counters that move rarely.
    pub(crate) fn rare_stats(&mut self) -> &mut StreamStats {
        &mut self.rare().stats
    }

    pub(crate) fn stats(&self) -> StreamStats {
        let mut stats = self.rare.as_ref().map(|rare| rare.stats).unwrap_or_default();
        let counters = &self.counters;
        stats.bytes_in += u64::from(counters.bytes_in);
        stats.reads += u64::from(counters.reads);
        stats.bytes_out += u64::from(counters.bytes_out);
        stats.writes += u64::from(counters.writes);
        stats.queue_high_water = stats.queue_high_water.max(counters.queue_high_water.into());
        stats
    }
}

/// The sum's low half, and what goes beyond it.
#[inline]
fn carry(counter: u32, more: usize) -> (u32, u64) {
    let sum = u64::from(counter) + more as u64;
    (sum as u32, sum & !u64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_lose_nothing_when_their_low_half_overflows() {
        let (low, over) = carry(u32::MAX - 1, 3);
        assert_eq!(u64::from(low) + over, u64::from(u32::MAX) + 2);
        assert_eq!(carry(5, 6), (11, 0));
    }

    #[test]
    fn an_idle_connection_takes_128_bytes() {
        assert!(size_of::<Connection>() <= 128, "{}", size_of::<Connection>());
    }
}
