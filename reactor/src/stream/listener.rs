//! The state of a listening port, and accepting.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::closing::{later, retire};
use super::connection::{Connection, Origin, Phase, Who, is_shortage};
use super::options::{Accept, AcceptBudget, Tuning};
use super::{Factory, PeerAddr, StreamNotice, delivery};
use crate::DelayedCall;
use crate::agenda::{Agenda, Call, Notice};
use crate::callback::{Failure, LogLimit, guarded};
use crate::datagram::PortState;
use crate::inner::Inner;
use crate::net::{ListenSocket, StreamSocket};
use crate::slots::{Key, Kind};
use crate::stats::ListenerStats;

/// The adaptive budget moves between these.
const LEAST: usize = 16;
const MOST: usize = 512;
/// Connections closed at once when descriptors are wanting.
const SHED: usize = 512;
/// How long a listener refrains from accepting: at first, and at most.
const REFRAIN: Duration = Duration::from_millis(50);
const REFRAIN_MOST: Duration = Duration::from_secs(1);

pub(crate) struct Listener {
    pub(crate) key: Key,
    pub(crate) socket: Rc<dyn ListenSocket>,
    /// `None` while it is called.
    pub(crate) factory: Option<Box<dyn Factory>>,
    pub(crate) accept: Accept,
    pub(crate) tuning: Rc<Tuning>,
    pub(crate) paused: bool,
    pub(crate) closing: bool,
    pub(crate) stopped: Vec<Call>,
    pub(crate) on_ready: bool,
    /// A timer will end this.
    refraining: bool,
    refrain: Duration,
    timer: Option<DelayedCall>,
    budget: usize,
    per_peer: BTreeMap<Who, usize>,
    pub(crate) referenced: bool,
    pub(crate) label: Rc<str>,
    log: LogLimit,
    pub(crate) stats: ListenerStats,
}

impl Listener {
    pub(crate) fn new(
        key: Key,
        socket: Rc<dyn ListenSocket>,
        accept: Accept,
        tuning: Tuning,
        label: Rc<str>,
    ) -> Self {
        Self {
            key,
            socket,
            factory: None,
            paused: accept.start_paused,
            accept,
            tuning: Rc::new(tuning),
            closing: false,
            stopped: Vec::new(),
            on_ready: false,
            refraining: false,
            refrain: REFRAIN,
            timer: None,
            budget: LEAST,
            per_peer: BTreeMap::new(),
            referenced: true,
            label,
            log: LogLimit::default(),
            stats: ListenerStats::default(),
        }
    }

    pub(crate) fn state(&self) -> PortState {
        match (self.closing, self.paused) {
            (true, _) => PortState::Closing,
            (_, true) => PortState::Paused,
            _ => PortState::Open,
        }
    }

    fn is_full(&self) -> bool {
        self.accept.max_connections.is_some_and(|most| self.stats.connections as usize >= most)
    }

    /// Whether connections may be taken now.
    fn accepts(&self) -> bool {
        !self.paused && !self.closing && !self.refraining && !self.is_full()
    }

    pub(crate) fn make_ready(&mut self, agenda: &mut Agenda) {
        if !self.on_ready {
            self.on_ready = true;
            agenda.streams.ready.push_back((Kind::Listener, self.key));
        }
    }

    /// One of its connections is gone.
    pub(crate) fn departed(&mut self, who: Who, agenda: &mut Agenda) {
        let was_full = self.is_full();
        self.stats.connections -= 1;
        if let Some(count) = self.per_peer.get_mut(&who) {
            *count -= 1;
            if *count == 0 {
                self.per_peer.remove(&who);
            }
        }
        if was_full && self.accepts() {
            self.make_ready(agenda);
        }
    }

    /// Ends accepting at once; the rest of the closing happens on the loop. Idempotent.
    pub(crate) fn begin_close(&mut self, agenda: &mut Agenda) {
        if !self.closing {
            self.closing = true;
            agenda.notices.push_back(StreamNotice::CloseListener(self.key).into());
        }
    }

    /// Refrains from accepting for a while.
    fn begin_refrain(&mut self, error: io::Error, agenda: &mut Agenda) {
        self.refraining = true;
        self.stats.accept_errors += 1;
        agenda.notices.push_back(StreamNotice::Refrain(self.key, error).into());
    }

    /// Adapts the budget to what was used of it.
    fn adapt(&mut self, used: usize) {
        if self.accept.budget == AcceptBudget::Adaptive {
            self.budget = match used >= self.budget {
                true => (self.budget * 2).min(MOST),
                false => (self.budget / 2).max(LEAST).max(used),
            };
        }
    }
}

/// What one attempt to accept came to.
enum Accepted {
    Connection(Key, Box<dyn Factory>, PeerAddr),
    /// A connection came and went, or was refused; there may be others.
    Skipped,
    Nothing,
}

/// Accepts what waits, within the port's budget.
pub(crate) fn service(inner: &Rc<Inner>, key: Key) {
    let mut used = 0;
    loop {
        let accepted = {
            let core = &mut *inner.core.borrow_mut();
            let Some(listener) = core.streams.listeners.get_mut(key) else { return };
            if !listener.accepts() {
                return;
            }
            let budget = match listener.accept.budget {
                AcceptBudget::Adaptive => listener.budget,
                AcceptBudget::Fixed(budget) => budget,
            };
            if used >= budget || listener.factory.is_none() || inner.is_stopping() {
                // A factory out on a call accepts later.
                listener.make_ready(&mut core.agenda);
                listener.adapt(used);
                return;
            }
            let stream = core.streams.connections.next_key();
            let accepted = accept_one(listener, stream, &mut core.agenda);
            match accepted {
                Ok((connection, factory, peer)) => {
                    core.agenda.references += 1;
                    core.streams.connections.insert(connection);
                    Accepted::Connection(stream, factory, peer)
                }
                Err(accepted) => {
                    if matches!(accepted, Accepted::Nothing) {
                        listener.adapt(used);
                    }
                    accepted
                }
            }
        };
        used += 1;
        match accepted {
            Accepted::Connection(stream, factory, peer) => build(inner, key, stream, factory, peer),
            Accepted::Skipped => {}
            Accepted::Nothing => return,
        }
    }
}

fn accept_one(
    listener: &mut Listener,
    stream: Key,
    agenda: &mut Agenda,
) -> Result<(Connection, Box<dyn Factory>, PeerAddr), Accepted> {
    let (socket, peer) = match listener.socket.accept_peer(stream.token(Kind::Stream)) {
        Ok(accepted) => accepted,
        Err(error) => {
            match verdict(&error) {
                Verdict::Nothing => {}
                Verdict::Skip => {
                    listener.stats.skipped += 1;
                    return Err(Accepted::Skipped);
                }
                Verdict::Gone => listener.begin_close(agenda),
                Verdict::Refrain => {
                    if is_exhaustion(&error) {
                        listener.stats.shed += listener.socket.shed(SHED) as u64;
                    }
                    listener.begin_refrain(error, agenda);
                }
            }
            return Err(Accepted::Nothing);
        }
    };
    listener.stats.accepted += 1;
    listener.refrain = REFRAIN;
    let counts = listener.accept.max_connections_per_peer.is_some();
    let who = who(&peer, &*socket, counts);
    if let Some(most) = listener.accept.max_connections_per_peer
        && listener.per_peer.get(&who).is_some_and(|count| *count >= most)
    {
        listener.stats.refused += 1;
        return Err(Accepted::Skipped);
    }
    let Some(factory) = listener.factory.take() else { return Err(Accepted::Nothing) };
    listener.stats.connections += 1;
    if counts {
        *listener.per_peer.entry(who).or_default() += 1;
    }
    let origin = Origin::Listener(listener.key);
    let tuning = Rc::clone(&listener.tuning);
    let mut connection = Connection::new(stream, socket, peer.clone(), origin, Phase::Open, tuning);
    if let Who::User(Some(user)) = who {
        connection.set_user(Some(user));
    }
    Ok((connection, factory, peer))
}

/// Whom a connection counts for. The user of a UNIX socket is asked for only where it counts.
fn who(peer: &PeerAddr, socket: &dyn StreamSocket, counts: bool) -> Who {
    match peer {
        PeerAddr::Ip(address) => Who::Ip(address.ip().to_canonical()),
        PeerAddr::Unix(_) if !counts => Who::User(None),
        PeerAddr::Unix(_) => Who::User(socket.peer_credentials().ok().map(|peer| peer.uid)),
    }
}

/// Asks the factory for a protocol, and tells that one its connection.
fn build(
    inner: &Rc<Inner>,
    listener: Key,
    stream: Key,
    mut factory: Box<dyn Factory>,
    peer: PeerAddr,
) {
    let mut protocol = None;
    let outcome = guarded(|| {
        protocol = factory.build_protocol(peer);
        Ok(())
    });
    return_factory(inner, listener, factory);
    if let Err(failure) = outcome {
        report(inner, listener, "build_protocol", failure);
    }
    let (refused, homeless) = {
        let core = &mut *inner.core.borrow_mut();
        let wanted = !core.closed && protocol.is_some();
        match core.streams.connections.get_mut(stream) {
            Some(connection) if wanted && connection.phase == Phase::Open => {
                connection.protocol = protocol;
                (None, None)
            }
            _ => {
                if let Some(listener) = core.streams.listeners.get_mut(listener) {
                    listener.stats.refused += 1;
                }
                (retire(core, stream), protocol)
            }
        }
    };
    drop(refused);
    inner.discard("refused connection", "drop of a protocol", homeless);
    delivery::call(inner, stream, "connection_made", |protocol, transport| {
        protocol.connection_made(transport)
    });
}

/// Ends a call: the factory returns to its listener, or is dropped with nothing borrowed.
fn return_factory(inner: &Inner, key: Key, factory: Box<dyn Factory>) {
    let homeless = match inner.core.borrow_mut().streams.listeners.get_mut(key) {
        Some(listener) => listener.factory.replace(factory),
        None => Some(factory),
    };
    inner.discard("closed port", "drop of a factory", homeless);
}

/// What an error of accepting says.
enum Verdict {
    Nothing,
    /// Of the connection, not of the listener (accept(2)).
    Skip,
    Refrain,
    Gone,
}

fn verdict(error: &io::Error) -> Verdict {
    if error.kind() == io::ErrorKind::WouldBlock {
        return Verdict::Nothing;
    }
    match error.raw_os_error() {
        Some(
            libc::ECONNABORTED
            | libc::EPERM
            | libc::EPROTO
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::EOPNOTSUPP
            | libc::ENETUNREACH
            | libc::ECONNRESET
            | libc::ETIMEDOUT,
        ) => Verdict::Skip,
        Some(libc::EBADF | libc::ENOTSOCK) => Verdict::Gone,
        // No error of the system: the connection has no address any more.
        None => Verdict::Skip,
        _ => Verdict::Refrain,
    }
}

/// Whether descriptors are wanting.
fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Tells the factory that the port cannot accept for now, and sets the timer that ends this.
pub(crate) fn refrain(inner: &Rc<Inner>, key: Key, error: &io::Error) {
    let now = inner.now();
    let (factory, delay, label, logged) = {
        let core = &mut *inner.core.borrow_mut();
        let Some(listener) = core.streams.listeners.get_mut(key) else { return };
        let delay = listener.refrain;
        listener.refrain = (delay * 2).min(REFRAIN_MOST);
        let logged = listener.log.admits(now);
        (listener.factory.take(), delay, Rc::clone(&listener.label), logged)
    };
    let timer = later(inner, delay, move |inner| {
        let core = &mut *inner.core.borrow_mut();
        if let Some(listener) = core.streams.listeners.get_mut(key) {
            listener.refraining = false;
            listener.make_ready(&mut core.agenda);
        }
    });
    if let Some(listener) = inner.core.borrow_mut().streams.listeners.get_mut(key) {
        listener.timer = Some(timer);
    }
    if logged {
        let what = if is_shortage(error) { "no memory" } else { "accepting failed" };
        tracing::warn!(port = %label, %error, "{what}: the port refrains for {delay:?}");
    }
    if let Some(mut factory) = factory {
        let outcome = guarded(|| {
            factory.accept_error(error);
            Ok(())
        });
        return_factory(inner, key, factory);
        if let Err(failure) = outcome {
            report(inner, key, "accept_error", failure);
        }
    }
}

fn report(inner: &Inner, key: Key, what: &'static str, failure: Failure) {
    drop(inner.blame("closed port", what, failure, |core, failed| {
        let listener = core.streams.listeners.get_mut(key)?;
        Some((Rc::clone(&listener.label), listener.log.admits(failed.now)))
    }));
}

/// The end of a port: its socket is closed, its factory and those who wait are told.
pub(crate) fn close(inner: &Rc<Inner>, key: Key) {
    let listener = {
        let core = &mut *inner.core.borrow_mut();
        let listener = core.streams.listeners.remove(key);
        if let Some(listener) = &listener {
            core.agenda.references -= usize::from(listener.referenced);
        }
        listener
    };
    let Some(Listener { socket, factory, timer, stopped, label, .. }) = listener else { return };
    drop(socket);
    if let Some(timer) = timer {
        let _ = timer.cancel();
    }
    tracing::debug!(port = %label, "closed");
    if let Some(mut factory) = factory {
        let outcome = guarded(|| factory.stop_factory());
        if let Err(failure) = outcome {
            report(inner, key, "stop_factory", failure);
        }
        inner.discard(&label, "drop of a factory", factory);
    }
    let calls = stopped.into_iter().map(Notice::Call);
    inner.core.borrow_mut().agenda.notices.extend(calls);
}
