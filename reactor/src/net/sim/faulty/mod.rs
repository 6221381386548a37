//! Sockets whose system calls fail when a rule says so: a layer between those of [`udp`](super::udp) and
//! [`tcp`](super::tcp) and the reactor, which neither of them knows of.
//!
//! A call that is refused with `EAGAIN` is one to repeat after an event, so there must be one: when
//! the rule ends, whether by its schedule or by its guard, all that were refused are told. Other
//! errors of a call that takes something (a datagram, data, a connection) leave it waiting, and the
//! reactor tries again at once; that would never end while no time passes. So a socket is
//! refused once per moment, finds nothing for the rest of it, and is told a little later. The same
//! goes for a datagram whose sending is refused as if its peer had: the reactor takes that for old
//! news of the network, and keeps the datagram.

mod datagram;
mod stream;

use std::cell::{Cell, OnceCell};
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};

use super::host::{HostId, Signal};
use super::links::{Attempt, Call, Refusal};
use super::network::{Happening, Net, SharedNet};

pub(super) use datagram::open_datagram;
pub(super) use stream::{listen_stream, open_stream};

/// How long something that was refused is left alone before the reactor is told of it again.
const AGAIN_NS: u64 = 1_000_000;

/// A socket under rules: `S` is the socket, or what holds it.
struct Faulty<S> {
    net: SharedNet,
    host: HostId,
    protocol: u8,
    token: usize,
    /// Made when a rule first has something to say: most sockets never meet one.
    faults: OnceCell<Box<Faults>>,
    inner: S,
}

/// What is remembered of refusals.
struct Faults {
    waiter: Rc<Waiter>,
    /// When a call that takes something was last refused.
    refused_at: Cell<Option<u64>>,
    /// When a send was last refused that the reactor tries again.
    put_off_at: Cell<Option<u64>>,
    /// Of the datagrams to send next, how many the rules let pass, and the errno with which they
    /// refuse the one after.
    asked: Cell<(usize, Option<i32>)>,
}

impl<S> Faulty<S> {
    fn new(net: &SharedNet, host: HostId, protocol: u8, token: usize, inner: S) -> Self {
        let (net, faults) = (Rc::clone(net), OnceCell::new());
        Self { net, host, protocol, token, faults, inner }
    }

    fn faults(&self) -> &Faults {
        self.faults.get_or_init(|| {
            let waiter = Waiter { signal: Signal::new(self.token), waits: Cell::new(false) };
            Box::new(Faults {
                waiter: Rc::new(waiter),
                refused_at: Cell::default(),
                put_off_at: Cell::default(),
                asked: Cell::default(),
            })
        })
    }

    #[inline]
    fn is_spared(&self) -> bool {
        self.net.borrow().links.refuses_nothing()
    }

    fn attempt(&self, call: Call, local: Option<SocketAddr>, peer: Option<SocketAddr>) -> Attempt {
        Attempt { host: self.host, call, protocol: self.protocol, local, peer }
    }

    /// Asks the rules about a call that gives or changes something.
    fn check(&self, attempt: &Attempt) -> io::Result<()> {
        let net = &mut *self.net.borrow_mut();
        match net.refuses(attempt) {
            None => Ok(()),
            Some(refusal) => {
                if refusal.errno == libc::EAGAIN {
                    let at = again(net.now, &refusal);
                    net.wait(self.host, &self.faults().waiter, at);
                }
                Err(io::Error::from_raw_os_error(refusal.errno))
            }
        }
    }

    /// Asks the rules about a datagram to send.
    fn check_sending(&self, attempt: &Attempt) -> io::Result<()> {
        if self.faults().put_off_at.get().is_some() {
            let net = &mut *self.net.borrow_mut();
            let Faults { waiter, put_off_at, .. } = self.faults();
            if put_off_at.get() == Some(net.now) && net.links.would_refuse(net.now, attempt) {
                net.wait(self.host, waiter, Some(net.now.saturating_add(AGAIN_NS)));
                return Err(io::Error::from_raw_os_error(libc::EAGAIN));
            }
            put_off_at.set(None);
        }
        self.check(attempt)
    }

    /// A send was refused as if the peer had.
    fn put_off(&self) {
        self.faults().put_off_at.set(Some(self.net.borrow().now));
    }

    /// Asks the rules about a call that takes something.
    fn check_taking(&self, attempt: &Attempt) -> io::Result<()> {
        let net = &mut *self.net.borrow_mut();
        let Faults { waiter, refused_at, .. } = self.faults();
        if refused_at.get() == Some(net.now) && net.links.would_refuse(net.now, attempt) {
            net.wait(self.host, waiter, Some(net.now.saturating_add(AGAIN_NS)));
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let Some(refusal) = net.refuses(attempt) else { return Ok(()) };
        if refusal.errno == libc::EAGAIN {
            let at = again(net.now, &refusal);
            net.wait(self.host, waiter, at);
        } else {
            refused_at.set(Some(net.now));
        }
        Err(io::Error::from_raw_os_error(refusal.errno))
    }
}

/// When a call that was refused with `EAGAIN` is worth another try, if no rule is lifted before.
fn again(now: u64, refusal: &Refusal) -> Option<u64> {
    if refusal.is_lasting {
        return refusal.until_ns;
    }
    let soon = now.saturating_add(AGAIN_NS);
    Some(refusal.until_ns.map_or(soon, |until| until.min(soon)))
}

/// Asks the rules about a call that makes a socket.
fn check_opening(
    net: &SharedNet,
    host: HostId,
    (call, protocol): (Call, u8),
    (local, peer): (Option<SocketAddr>, Option<SocketAddr>),
) -> io::Result<()> {
    match net.borrow_mut().refuses(&Attempt { host, call, protocol, local, peer }) {
        None => Ok(()),
        Some(refusal) => Err(io::Error::from_raw_os_error(refusal.errno)),
    }
}

/// How a socket that was refused is told.
struct Waiter {
    signal: Rc<Signal>,
    /// Whether it is among those who wait.
    waits: Cell<bool>,
}

/// Sockets that were refused and are to be told when it is worth trying again.
#[derive(Default)]
pub(super) struct Waiting {
    sockets: Vec<(HostId, Weak<Waiter>)>,
    /// When all of them are told; `None` if only a lift can be the cause.
    at: Option<u64>,
    /// The lifts of rules that they were told of.
    lifts: u64,
}

impl Net {
    fn refuses(&mut self, attempt: &Attempt) -> Option<Refusal> {
        self.links.refuses(&mut self.rng, self.now, attempt)
    }

    fn wait(&mut self, host: HostId, waiter: &Rc<Waiter>, until: Option<u64>) {
        if !waiter.waits.replace(true) {
            self.waiting.sockets.push((host, Rc::downgrade(waiter)));
        }
        if let Some(until) = until
            && self.waiting.at.is_none_or(|at| until < at)
        {
            self.waiting.at = Some(until);
            self.queue.push(until, Happening::Refused);
        }
    }

    /// Tells those that were refused, if a rule was lifted since.
    #[inline]
    pub(super) fn notice_lifts(&mut self) {
        let lifts = self.links.lifts();
        if lifts != self.waiting.lifts {
            self.waiting.lifts = lifts;
            self.tell_refused();
        }
    }

    /// Tells those that were refused to try again.
    pub(super) fn tell_refused(&mut self) {
        self.waiting.at = None;
        for (host, waiter) in std::mem::take(&mut self.waiting.sockets) {
            if let Some(waiter) = waiter.upgrade() {
                waiter.waits.set(false);
                self.raise(host, &waiter.signal, Signal::READABLE | Signal::WRITABLE);
            }
        }
    }
}
