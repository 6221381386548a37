//! The attempts of a connector: one for each address, in the order and at the times that
//! [`happy_eyeballs`](super::happy_eyeballs) says.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use super::closing::{later, retire};
use super::connection::{Connection, Origin, Phase, Ready};
use super::connector::{Client, call, release};
use super::happy_eyeballs::{Action, Happening, Race};
use super::{ConnectorState, PeerAddr, StreamNotice, delivery, unix};
use crate::DelayedCall;
use crate::error::{ConnectError, ConnectionLost, OptionError};
use crate::inner::{Core, Inner};
use crate::net::{OpenError, StreamLink, StreamSpec};
use crate::resolve::{Resolution, ResolveError, ResolveOptions};
use crate::slots::{Key, Kind};

/// Begins to connect; how it ends is told from the loop.
pub(super) fn begin(inner: &Rc<Inner>, key: Key) {
    let begun = {
        let core = &mut *inner.core.borrow_mut();
        let Some(client) = core.streams.connectors.get_mut(key) else { return };
        if client.ending || client.state != ConnectorState::Connecting {
            return;
        }
        if inner.is_shutting_down() {
            client.ending = true;
            let notice = StreamNotice::ConnectFailed(key, ConnectError::ShuttingDown);
            core.agenda.notices.push_back(notice.into());
            return;
        }
        client.race = Race::new();
        client.first_error = None;
        client.lookups.error = None;
        let what = client.target.tcp().map(|options| {
            let host = options.host_and_port().map(|(name, port)| (name.to_owned(), port));
            (options.addresses().to_vec(), host)
        });
        (client.target.timeout(), what)
    };
    let (timeout, what) = begun;
    let timer = later(inner, timeout, move |inner| give_up(inner, key, ConnectError::TimedOut));
    if let Some(client) = inner.core.borrow_mut().streams.connectors.get_mut(key) {
        client.timeout = Some(timer);
    }
    let Some((addresses, host)) = what else { return unix::attempt(inner, key) };
    if let Some((name, port)) = host {
        look_up(inner, key, &name, port);
    } else {
        step(inner, key, Happening::Resolved(addresses));
        step(inner, key, Happening::ResolutionEnded);
    }
}

/// The lookups of an attempt, one for each family.
#[derive(Default)]
pub(super) struct Lookups {
    /// Which attempt they are of.
    round: u64,
    waiting: usize,
    handles: Vec<Resolution>,
    /// Why one of them failed.
    error: Option<ResolveError>,
}

/// Looks both families up side by side, so that the one is tried while the other is awaited.
fn look_up(inner: &Rc<Inner>, key: Key, name: &str, port: u16) {
    let (families, round) = match inner.core.borrow_mut().streams.connectors.get_mut(key) {
        Some(client) => {
            let Some(options) = client.target.tcp() else { return };
            client.lookups.waiting = options.families().len();
            (options.families(), client.lookups.round)
        }
        None => return,
    };
    for family in families {
        let weak = Rc::downgrade(inner);
        // The timeout of the attempt ends the lookups, too.
        let options = ResolveOptions::new().family(*family).timeout(None);
        let lookup = inner.handle().resolve_addrs(name, port, options, move |result| {
            if let Some(inner) = weak.upgrade() {
                answered(&inner, key, round, result);
            }
        });
        if let Some(client) = inner.core.borrow_mut().streams.connectors.get_mut(key) {
            client.lookups.handles.push(lookup);
        }
    }
}

/// A lookup has ended, from the loop.
fn answered(
    inner: &Rc<Inner>,
    key: Key,
    round: u64,
    result: Result<Vec<SocketAddr>, ResolveError>,
) {
    let (addresses, last) = {
        let core = &mut *inner.core.borrow_mut();
        let Some(client) = core.streams.connectors.get_mut(key) else { return };
        let lookups = &mut client.lookups;
        if lookups.round != round {
            return;
        }
        lookups.waiting -= 1;
        let addresses = match result {
            Ok(addresses) => Some(addresses),
            Err(error) => {
                // That a family has no addresses is the least that can be said.
                if lookups.error.as_ref().is_none_or(|e| matches!(e, ResolveError::NotFound { .. }))
                {
                    lookups.error = Some(error);
                }
                None
            }
        };
        (addresses, lookups.waiting == 0)
    };
    if let Some(addresses) = addresses {
        step(inner, key, Happening::Resolved(addresses));
    }
    if last {
        step(inner, key, Happening::ResolutionEnded);
    }
}

/// Tells the race what happened, and does what it says.
fn step(inner: &Rc<Inner>, key: Key, happening: Happening) {
    let mut happenings = VecDeque::from([happening]);
    while let Some(happening) = happenings.pop_front() {
        let actions = match inner.core.borrow_mut().streams.connectors.get_mut(key) {
            Some(client) if !client.ending => client.race.step(happening),
            _ => return,
        };
        for action in actions {
            match action {
                Action::Connect(address) => {
                    if let Err(error) = open(inner, key, address) {
                        note(inner, key, error);
                        happenings.push_back(Happening::Failed(address));
                    }
                }
                Action::SetTimer(delay) => {
                    let timer =
                        later(inner, delay, move |inner| step(inner, key, Happening::Timer));
                    set_delay(inner, key, Some(timer));
                }
                Action::CancelTimer => set_delay(inner, key, None),
                Action::Cancel(address) => forget(inner, key, address),
                Action::Done(_) => {}
                Action::Lost => {
                    let client = &mut inner.core.borrow_mut();
                    let error = match client.streams.connectors.get_mut(key) {
                        Some(client) => client.first_error.take().or_else(|| {
                            let source = client.lookups.error.take()?;
                            let name = source.name().to_owned();
                            Some(ConnectError::Resolve { name, source })
                        }),
                        None => None,
                    };
                    end(client, key, error.unwrap_or(ConnectError::NoAddress));
                }
            }
        }
    }
}

pub(super) fn set_delay(inner: &Inner, key: Key, timer: Option<DelayedCall>) {
    let before = match inner.core.borrow_mut().streams.connectors.get_mut(key) {
        Some(client) => std::mem::replace(&mut client.delay, timer),
        None => timer,
    };
    if let Some(timer) = before {
        // It may have run.
        let _ = timer.cancel();
    }
}

/// Keeps the first error: it belongs to the address that would have been preferred.
fn note(inner: &Inner, key: Key, error: ConnectError) {
    if let Some(client) = inner.core.borrow_mut().streams.connectors.get_mut(key) {
        client.first_error.get_or_insert(error);
    }
}

/// Opens a socket and begins to connect it.
fn open(inner: &Rc<Inner>, key: Key, address: SocketAddr) -> Result<(), ConnectError> {
    let core = &mut *inner.core.borrow_mut();
    let client = core.streams.connectors.get_mut(key).ok_or(ConnectError::Closed)?;
    let Some(options) = client.target.tcp() else { return Err(ConnectError::NoAddress) };
    let (spec, tuning) = options.check(address)?;
    let stream = core.streams.connections.next_key();
    let socket = open_socket(inner, &spec, stream.token(Kind::Stream))
        .map_err(|error| connect_error(error, &spec))?;
    let origin = Origin::Connector(key);
    let (phase, tuning) = (Phase::Connecting, Rc::new(tuning));
    let mut connection = Connection::new(stream, socket, address.into(), origin, phase, tuning);
    connection.set_label(client.target.label());
    client.attempts.push((stream, address.into()));
    core.agenda.references += 1;
    core.streams.connections.insert(connection);
    Ok(())
}

fn open_socket(
    inner: &Rc<Inner>,
    spec: &StreamSpec,
    token: usize,
) -> Result<StreamLink, OpenError> {
    #[cfg(feature = "testing")]
    if let Some(scripted) = inner.scripted.open(inner, token) {
        return scripted.map(StreamLink::from);
    }
    inner.driver.borrow_mut().open_link(spec, token)
}

fn connect_error(error: OpenError, spec: &StreamSpec) -> ConnectError {
    match (error, spec.bind) {
        (OpenError::Bind(source), Some(address)) => ConnectError::Bind { address, source },
        (OpenError::Option(name, source), _) => {
            ConnectError::Option(OptionError::from_io(name, source))
        }
        (OpenError::Bind(source) | OpenError::Socket(source), _) => ConnectError::Io(source),
    }
}

/// Closes the socket of an attempt.
fn forget(inner: &Inner, key: Key, address: SocketAddr) {
    let attempt = {
        let core = &mut *inner.core.borrow_mut();
        let client = core.streams.connectors.get_mut(key);
        let attempts = client.map(|client| &mut client.attempts);
        let found = attempts.and_then(|attempts| {
            let at = attempts.iter().position(|(_, other)| *other == address)?;
            Some(attempts.swap_remove(at).0)
        });
        found.and_then(|stream| retire(core, stream))
    };
    drop(attempt);
}

/// Has the loop tell that this is the end of it, unless it is over already.
pub(super) fn give_up(inner: &Inner, key: Key, error: ConnectError) {
    end(&mut inner.core.borrow_mut(), key, error);
}

/// As [`give_up`].
pub(super) fn end(core: &mut Core, key: Key, error: ConnectError) {
    if let Some(client) = core.streams.connectors.get_mut(key)
        && client.state == ConnectorState::Connecting
        && !std::mem::replace(&mut client.ending, true)
    {
        core.agenda.notices.push_back(StreamNotice::ConnectFailed(key, error).into());
    }
}

/// What an event says of an attempt: the peer that it reached, which the system chooses where the
/// address was an unspecified one. `None` while it goes on.
fn outcome(connection: &Connection) -> Option<Result<PeerAddr, ConnectError>> {
    let socket = &*connection.socket;
    match socket.take_error() {
        Ok(Some(error)) | Err(error) => return Some(Err(ConnectError::Io(error))),
        Ok(None) => {}
    }
    if connection.peer().unix().is_some() {
        // It would not be here if it had failed.
        return Some(Ok(connection.peer()));
    }
    // Without a peer it is still under way.
    let peer = socket.peer_addr().ok()?;
    match socket.local_addr() {
        // Both ends chose each other (RFC 9293, simultaneous open): nobody else is there.
        Ok(local) if local == peer => Some(Err(ConnectError::SelfConnect { address: peer })),
        _ => Some(Ok(peer.into())),
    }
}

/// An event for an attempt: it may have succeeded.
pub(crate) fn event(inner: &Rc<Inner>, stream: Key, ready: Ready) {
    let (key, asked, outcome) = {
        let core = &mut *inner.core.borrow_mut();
        let Some(connection) = core.streams.connections.get_mut(stream) else { return };
        let asked = connection.peer().ip();
        let Origin::Connector(key) = connection.origin else { return };
        let Some(client) = core.streams.connectors.get_mut(key) else { return };
        if client.ending || client.state != ConnectorState::Connecting {
            return;
        }
        let Some(outcome) = outcome(connection) else { return };
        if let Ok(peer) = &outcome {
            connection.peer = peer.clone().into();
            connection.phase = Phase::Open;
            connection.make_ready(Ready { drain: true, ..ready }, &mut core.agenda);
            client.attempts.retain(|(attempt, _)| *attempt != stream);
            client.stream = Some(stream);
            client.peer = Some(peer.clone());
        }
        (key, asked, outcome)
    };
    match (outcome, asked) {
        (Ok(peer), address) => {
            if let Some(address) = address {
                step(inner, key, Happening::Connected(address));
            }
            connected(inner, key, stream, peer);
        }
        (Err(error), Some(address)) => {
            note(inner, key, error);
            forget(inner, key, address);
            step(inner, key, Happening::Failed(address));
        }
        (Err(error), None) => give_up(inner, key, error),
    }
}

/// The race is won: the factory is asked for a protocol, which is told its connection.
fn connected(inner: &Rc<Inner>, key: Key, stream: Key, peer: PeerAddr) {
    if let Some(client) = inner.core.borrow_mut().streams.connectors.get_mut(key) {
        client.state = ConnectorState::Connected;
    }
    cancel_waiting(inner, key);
    let mut protocol = None;
    let built = call(inner, key, "build_protocol", |factory, _| {
        protocol = factory.build_protocol(peer);
        Ok(())
    });
    let (refused, homeless) = {
        let core = &mut *inner.core.borrow_mut();
        match core.streams.connections.get_mut(stream) {
            Some(connection) if protocol.is_some() => {
                connection.protocol = protocol;
                (None, None)
            }
            Some(_) => {
                let error = match built {
                    Ok(()) => ConnectError::NoProtocol,
                    Err(error) => ConnectError::Factory(error),
                };
                if let Some(client) = core.streams.connectors.get_mut(key) {
                    client.state = ConnectorState::Connecting;
                    client.stream = None;
                }
                end(core, key, error);
                // At once: the factory may have ended it, which would be told as a loss, too.
                (retire(core, stream), None)
            }
            None => (None, protocol),
        }
    };
    drop(refused);
    inner.discard("closed connection", "drop of a protocol", homeless);
    delivery::call(inner, stream, "connection_made", |protocol, transport| {
        protocol.connection_made(transport)
    });
}

/// Nothing is waited for any more: neither times nor answers.
fn cancel_waiting(inner: &Inner, key: Key) {
    let (timers, lookups) = match inner.core.borrow_mut().streams.connectors.get_mut(key) {
        Some(client) => {
            // Their answers, cancelled or not, come too late for the next attempt.
            client.lookups.round += 1;
            let lookups = std::mem::take(&mut client.lookups.handles);
            ([client.timeout.take(), client.delay.take()], lookups)
        }
        None => ([None, None], Vec::new()),
    };
    for lookup in lookups {
        // It may have ended.
        let _ = lookup.cancel();
    }
    for timer in timers.into_iter().flatten() {
        // It may have run.
        let _ = timer.cancel();
    }
}

/// No connection came of it: the sockets are closed and the factory told.
pub(crate) fn failed(inner: &Rc<Inner>, key: Key, error: ConnectError) {
    cancel_waiting(inner, key);
    let attempts: Vec<Connection> = {
        let core = &mut *inner.core.borrow_mut();
        let Some(client) = core.streams.connectors.get_mut(key) else { return };
        if client.state != ConnectorState::Connecting {
            return;
        }
        idle(client);
        let attempts = std::mem::take(&mut client.attempts).into_iter().map(|(key, _)| key);
        let streams: Vec<Key> = attempts.chain(client.stream.take()).collect();
        streams.into_iter().filter_map(|stream| retire(core, stream)).collect()
    };
    drop(attempts);
    let _ = call(inner, key, "client_connection_failed", |factory, connector| {
        factory.client_connection_failed(connector, &error)
    });
    release(inner, key);
}

/// The connection is lost, and its protocol was told.
pub(crate) fn lost(inner: &Rc<Inner>, key: Key, reason: &ConnectionLost) {
    if let Some(client) = inner.core.borrow_mut().streams.connectors.get_mut(key) {
        idle(client);
        client.stream = None;
    }
    let _ = call(inner, key, "client_connection_lost", |factory, connector| {
        factory.client_connection_lost(connector, reason)
    });
    release(inner, key);
}

fn idle(client: &mut Client) {
    client.state = ConnectorState::Disconnected;
    client.ending = false;
    client.peer = None;
}
