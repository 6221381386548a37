//! The end of connections, and what user code is told from the loop.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::connection::{Connection, Origin, Phase};
use super::{StreamNotice, attempts, connector, delivery, layer, listener};
use crate::Handle;
use crate::agenda::{Agenda, Notice};
use crate::callback::{Failure, guarded};
use crate::error::{ConnectError, ConnectionLost, WriteError};
use crate::inner::{Core, Inner};
use crate::slots::Key;

/// When to look again for memory that was wanting.
const SHORTAGE: Duration = Duration::from_millis(10);

impl From<StreamNotice> for Notice {
    fn from(notice: StreamNotice) -> Self {
        Self::Stream(notice)
    }
}

/// Tells user code what happened, or closes what is to be closed.
pub(crate) fn notice(inner: &Rc<Inner>, notice: StreamNotice) {
    match notice {
        StreamNotice::Made(key, protocol) => {
            delivery::put_back(inner, key, protocol);
            delivery::call(inner, key, "connection_made", |protocol, transport| {
                protocol.connection_made(transport)
            });
        }
        StreamNotice::PauseWriting(key) if is_open(inner, key) => {
            delivery::call(inner, key, "pause_writing", |protocol, transport| {
                protocol.pause_writing(transport)
            });
        }
        StreamNotice::ResumeWriting(key) if is_open(inner, key) => {
            delivery::call(inner, key, "resume_writing", |protocol, transport| {
                protocol.resume_writing(transport)
            });
        }
        StreamNotice::PauseWriting(_) | StreamNotice::ResumeWriting(_) => {}
        // Told even if the other direction was closed before, so that this was the end.
        StreamNotice::WriteConnectionLost(key) if is_orderly(inner, key) => {
            delivery::call(inner, key, "write_connection_lost", |protocol, transport| {
                protocol.write_connection_lost(transport)
            });
        }
        StreamNotice::WriteConnectionLost(_) => {}
        StreamNotice::Layers(key) => layer::run(inner, key),
        StreamNotice::Linger(key) => linger(inner, key),
        StreamNotice::Shortage(key) => {
            later(inner, SHORTAGE, move |inner| {
                with(inner, key, |connection, agenda| connection.unblock(agenda));
            });
        }
        StreamNotice::Close(key) => close(inner, key),
        StreamNotice::CloseListener(key) => listener::close(inner, key),
        StreamNotice::Refrain(key, error) => listener::refrain(inner, key, &error),
        StreamNotice::StartedConnecting(key) => connector::started(inner, key),
        StreamNotice::ConnectFailed(key, error) => attempts::failed(inner, key, error),
    }
}

fn with(inner: &Inner, key: Key, work: impl FnOnce(&mut Connection, &mut Agenda)) {
    let core = &mut *inner.core.borrow_mut();
    if let Some(connection) = core.streams.connections.get_mut(key) {
        work(connection, &mut core.agenda);
    }
}

/// A call of the reactor's own, which does not keep `run` going.
pub(crate) fn later(
    inner: &Rc<Inner>,
    delay: Duration,
    call: impl FnOnce(&Rc<Inner>) + 'static,
) -> crate::DelayedCall {
    let timer = inner.handle().call_later(delay, move |handle: &Handle| {
        if let Some(inner) = handle.upgrade() {
            call(&inner);
        }
    });
    timer.unref();
    timer
}

fn is_open(inner: &Inner, key: Key) -> bool {
    let core = inner.core.borrow();
    core.streams.connections.get(key).is_some_and(|connection| connection.phase == Phase::Open)
}

/// Whether it is open, or was closed in order.
fn is_orderly(inner: &Inner, key: Key) -> bool {
    let core = inner.core.borrow();
    core.streams
        .connections
        .get(key)
        .is_some_and(|connection| matches!(connection.reason(), None | Some(ConnectionLost::Done)))
}

fn linger(inner: &Rc<Inner>, key: Key) {
    let limit = match inner.core.borrow().streams.connections.get(key) {
        Some(connection) if connection.phase == Phase::Open => connection.tuning.close_timeout,
        _ => return,
    };
    let timer = later(inner, limit, move |inner| {
        with(inner, key, |connection, agenda| connection.out_of_time(agenda));
    });
    with(inner, key, |connection, _| connection.set_timer(timer));
}

/// Counts and logs a callback that failed, and closes its connection.
pub(crate) fn report(inner: &Inner, key: Key, what: &'static str, failure: Failure) {
    let error = inner.blame("closed connection", what, failure, |core, failed| {
        let connection = core.streams.connections.get_mut(key)?;
        let stats = connection.rare_stats();
        failed.count(&mut stats.callback_errors, &mut stats.callback_panics);
        Some((connection.label(), connection.admits_log(failed.now)))
    });
    with(inner, key, |connection, agenda| {
        connection.fail(ConnectionLost::Failed(Rc::new(error)), agenda);
    });
}

/// Counts and logs a callback that failed when its connection was gone.
fn unheard(inner: &Inner, label: impl fmt::Display, what: &'static str, failure: Failure) {
    drop(inner.blame(label, what, failure, |_, _| None));
}

/// Takes a connection out of its slot. What waited is cancelled. The caller drops the connection,
/// and with it the socket, once nothing is borrowed.
pub(crate) fn retire(core: &mut Core, key: Key) -> Option<Connection> {
    let mut connection = core.streams.connections.remove(key)?;
    let agenda = &mut core.agenda;
    agenda.references -= usize::from(connection.referenced);
    for completion in connection.queue.clear(&mut agenda.streams.spares) {
        agenda.notices.push_back(Notice::Written(completion, Err(WriteError::Cancelled)));
    }
    connection.account(agenda);
    if let Origin::Listener(listener) = connection.origin
        && let Some(listener) = core.streams.listeners.get_mut(listener)
    {
        listener.departed(connection.who(), agenda);
    }
    Some(connection)
}

/// The end of a connection: its socket is closed, then its protocol and its maker are told.
fn close(inner: &Rc<Inner>, key: Key) {
    let (connection, completions) = {
        let core = &mut *inner.core.borrow_mut();
        let before = core.agenda.notices.len();
        (retire(core, key), core.agenda.notices.split_off(before))
    };
    let Some(mut connection) = connection else { return };
    if let Some(timer) = connection.take_timer() {
        let _ = timer.cancel();
    }
    let (unsent, layers) = match connection.take_stack() {
        Some(stack) => stack.dissolve(),
        None => Default::default(),
    };
    let protocol = connection.protocol.take();
    let reason = connection.reason().cloned().unwrap_or(ConnectionLost::Done);
    let (label, origin) = (connection.name(), connection.origin);
    drop(connection);
    tracing::debug!(connection = %label, %reason, "closed");
    let cancelled =
        unsent.into_iter().map(|done| Notice::Written(done, Err(WriteError::Cancelled)));
    // The writers are told before the protocol is: the loss is the last that is heard.
    for notice in completions.into_iter().chain(cancelled) {
        let Notice::Written(done, result) = notice else {
            inner.core.borrow_mut().agenda.notices.push_back(notice);
            continue;
        };
        if inner.is_gone() {
            continue;
        }
        if let Err(failure) = guarded(|| done(result)) {
            unheard(inner, &label, "write completion", failure);
        }
    }
    for mut layer in layers {
        if inner.is_gone() {
            break;
        }
        let outcome = guarded(|| {
            layer.lost(&reason);
            Ok(())
        });
        if let Err(failure) = outcome {
            unheard(inner, &label, "stream layer lost", failure);
        }
        inner.discard(&label, "drop of a stream layer", layer);
    }
    if let Some(mut protocol) = protocol
        && !inner.is_gone()
    {
        let told = reason.clone();
        let outcome = guarded(|| {
            protocol.connection_lost(told);
            Ok(())
        });
        if let Err(failure) = outcome {
            unheard(inner, &label, "connection_lost", failure);
        }
        // The protocol goes before anybody opens the next one in its stead.
        inner.discard(&label, "drop of a protocol", protocol);
    }
    if let Origin::Connector(connector) = origin {
        attempts::lost(inner, connector, &reason);
    }
}

/// The reactor stops: listeners and attempts end, connections are closed in order.
pub(crate) fn begin_shutdown(inner: &Inner) {
    let core = &mut *inner.core.borrow_mut();
    // With those that have no socket yet, because their host is being looked up.
    for key in core.streams.connectors.keys().collect::<Vec<_>>() {
        attempts::end(core, key, ConnectError::Cancelled);
    }
    let agenda = &mut core.agenda;
    for key in core.streams.listeners.keys().collect::<Vec<_>>() {
        if let Some(listener) = core.streams.listeners.get_mut(key) {
            listener.begin_close(agenda);
        }
    }
    for key in core.streams.connections.keys().collect::<Vec<_>>() {
        let Some(connection) = core.streams.connections.get_mut(key) else { continue };
        connection.lose(agenda);
        connection.settle(agenda);
    }
}

/// Whether a connection has output that the system has not taken, or layers that may keep some.
pub(crate) fn is_flushing(inner: &Inner) -> bool {
    let core = inner.core.borrow();
    let connections = &core.streams.connections;
    let flushing = |one: &Connection| {
        one.phase == Phase::Open && (!one.queue.is_empty() || one.layers_hold_back())
    };
    connections.keys().any(|key| connections.get(key).is_some_and(flushing))
}

/// What is left of them ends after one more flush.
pub(crate) fn end_shutdown(inner: &Inner) {
    let core = &mut *inner.core.borrow_mut();
    let mut buffer = core.streams.buffer.take().unwrap_or_else(delivery::buffer);
    for key in core.streams.connections.keys().collect::<Vec<_>>() {
        let Some(connection) = core.streams.connections.get_mut(key) else { continue };
        let agenda = &mut core.agenda;
        connection.settle(agenda);
        // Closing with unread input would reset away what the peer has not read.
        delivery::discard(connection, &mut buffer, true, agenda);
        let reason = match connection.queue.is_empty() {
            true => ConnectionLost::Done,
            false => ConnectionLost::Aborted,
        };
        connection.end(reason, agenda);
    }
    core.streams.buffer = Some(buffer);
}
