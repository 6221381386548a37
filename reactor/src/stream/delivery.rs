//! The way in: from the socket to the protocol.

use std::io;
use std::rc::Rc;

use super::closing::report;
use super::connection::{Phase, Ready, lost};
use super::{BUFFER_LEN, Connection, Protocol, Transport, attempts, layer, listener};
use crate::agenda::Agenda;
use crate::callback::guarded;
use crate::inner::{Core, Inner};
use crate::net::Event;
use crate::slots::{Key, Kind};

/// An event for a listener or a connection. False: there is nobody of that token.
pub(crate) fn event(inner: &Rc<Inner>, event: &Event) -> bool {
    let ready = Ready {
        readable: event.readable,
        writable: event.writable,
        error: event.error,
        drain: event.error || event.read_closed,
    };
    let stopping = inner.is_stopping();
    let (kind, key) = {
        let core = &mut *inner.core.borrow_mut();
        match Kind::of(event.token) {
            Some(Kind::Listener) => match core.streams.listeners.key_of(event.token) {
                Some(key) => match core.streams.listeners.get_mut(key) {
                    // Already due this turn, with the budget of one; or due no more.
                    Some(listener) if listener.on_ready || stopping => {
                        listener.make_ready(&mut core.agenda);
                        return true;
                    }
                    _ => (Kind::Listener, key),
                },
                None => return false,
            },
            Some(Kind::Stream) => {
                let Some(key) = core.streams.connections.key_of(event.token) else { return false };
                match core.streams.connections.get_mut(key) {
                    // Already due this turn, or due no more: the edge is kept on the list.
                    Some(connection) if connection.on_ready || stopping => {
                        connection.make_ready(ready, &mut core.agenda);
                        return true;
                    }
                    _ => (Kind::Stream, key),
                }
            }
            _ => return false,
        }
    };
    match kind {
        Kind::Listener => listener::service(inner, key),
        _ => service(inner, key, ready),
    }
    true
}

/// How many are on the ready list before the events of a turn: what those add waits for the next.
pub(crate) fn due(inner: &Inner) -> usize {
    inner.core.borrow().agenda.streams.ready.len()
}

/// Works through so many of the ready list.
pub(crate) fn ready(inner: &Rc<Inner>, due: usize) {
    for _ in 0..due {
        if inner.is_stopping() {
            return;
        }
        let (key, ready) = {
            let core = &mut *inner.core.borrow_mut();
            let Some((kind, key)) = core.agenda.streams.ready.pop_front() else { return };
            if kind == Kind::Listener {
                if let Some(listener) = core.streams.listeners.get_mut(key) {
                    listener.on_ready = false;
                }
                (key, None)
            } else {
                let Some(connection) = core.streams.connections.get_mut(key) else { continue };
                connection.on_ready = false;
                let mut ready = std::mem::take(&mut connection.ready);
                ready.drain = true;
                (key, Some(ready))
            }
        };
        match ready {
            None => listener::service(inner, key),
            Some(ready) => service(inner, key, ready),
        }
    }
}

/// Flushes what was written outside of the callbacks of its connection.
pub(crate) fn flush_dirty(core: &mut Core) {
    while let Some(key) = core.agenda.streams.dirty.pop_front() {
        if let Some(connection) = core.streams.connections.get_mut(key) {
            connection.on_dirty = false;
            connection.settle(&mut core.agenda);
        }
    }
}

/// Does what a connection is ready for: room to send, an error, data.
fn service(inner: &Rc<Inner>, key: Key, ready: Ready) {
    let (mut protocol, mut buffer) = {
        let mut guard = inner.core.borrow_mut();
        let core = &mut *guard;
        let Some(connection) = core.streams.connections.get_mut(key) else { return };
        match connection.phase {
            Phase::Connecting => {
                drop(guard);
                return attempts::event(inner, key, ready);
            }
            Phase::Ended => return,
            Phase::Open if connection.protocol.is_none() => {
                // Out on a call: its edge must not be lost.
                return connection.make_ready(ready, &mut core.agenda);
            }
            Phase::Open => {}
        }
        if ready.writable {
            connection.unblock(&mut core.agenda);
        }
        if ready.error && !connection.will_read() {
            connection.check_error(&mut core.agenda);
        }
        if connection.paused && !connection.disconnecting {
            // Nothing can be sent any more, and nobody wants to read what is left.
            connection.read_dry(&mut core.agenda);
        }
        if !(ready.readable || ready.error) {
            return;
        }
        if connection.disconnecting && !connection.layers_hold_back() {
            let mut buffer = core.streams.buffer.take().unwrap_or_else(buffer);
            discard(connection, &mut buffer, ready.drain, &mut core.agenda);
            core.streams.buffer = Some(buffer);
            return;
        }
        if connection.stack().is_some() {
            drop(guard);
            return layer::service(inner, key, ready);
        }
        if !connection.delivers() {
            return;
        }
        let Some(protocol) = connection.protocol.take() else { return };
        connection.held = true;
        (protocol, core.streams.buffer.take().unwrap_or_else(buffer))
    };
    deliver(inner, key, &mut *protocol, &mut buffer, ready);
    inner.core.borrow_mut().streams.buffer = Some(buffer);
    put_back(inner, key, protocol);
    look_after(inner, key, ready);
}

/// A connection that was paused by what was delivered meets no error by itself.
pub(super) fn look_after(inner: &Inner, key: Key, ready: Ready) {
    let core = &mut *inner.core.borrow_mut();
    if let Some(connection) = core.streams.connections.get_mut(key)
        && connection.paused
        && !connection.disconnecting
    {
        if ready.error {
            connection.check_error(&mut core.agenda);
        }
        // Nor is it read any more after a write that failed.
        connection.read_dry(&mut core.agenda);
    }
}

pub(crate) fn buffer() -> Box<[u8]> {
    vec![0; BUFFER_LEN].into_boxed_slice()
}

/// What one read brought.
enum Read {
    Data {
        len: usize,
        short: bool,
    },
    End,
    /// Nothing more, for whatever reason.
    Nothing,
}

fn deliver(
    inner: &Rc<Inner>,
    key: Key,
    protocol: &mut dyn Protocol,
    buffer: &mut [u8],
    ready: Ready,
) {
    let transport = Transport::new(inner, key);
    let mut budget = BUFFER_LEN;
    loop {
        let read = {
            let core = &mut *inner.core.borrow_mut();
            let Some(connection) = core.streams.connections.get_mut(key) else { return };
            if !connection.delivers() {
                return;
            }
            // A layer that the protocol has just pushed sees all that is read from here on.
            if budget == 0 || connection.stack().is_some() || inner.is_stopping() {
                let again = Ready { error: ready.error, ..Ready::DRAIN };
                connection.make_ready(again, &mut core.agenda);
                return;
            }
            let room = budget.min(buffer.len());
            read(connection, &mut buffer[..room], &mut core.agenda)
        };
        let (what, outcome) = match read {
            Read::Nothing => return,
            Read::End => {
                ("read_connection_lost", guarded(|| protocol.read_connection_lost(&transport)))
            }
            Read::Data { len, .. } => {
                budget -= len;
                ("data_received", guarded(|| protocol.data_received(&transport, &buffer[..len])))
            }
        };
        if let Err(failure) = outcome {
            report(inner, key, what, failure);
            return;
        }
        match read {
            // A short read means that all was read, except after an end or an error.
            Read::Data { short: true, .. } if !ready.drain => return,
            Read::Data { .. } => {}
            _ => return,
        }
    }
}

/// One read, counted. An end that leaves nothing to do is told as `Nothing`.
fn read(connection: &mut Connection, buffer: &mut [u8], agenda: &mut Agenda) -> Read {
    match connection.socket.read(buffer) {
        Ok(0) => {
            connection.read_closed = true;
            connection.read_dry(agenda);
            match connection.phase {
                Phase::Open => Read::End,
                _ => Read::Nothing,
            }
        }
        Ok(len) => {
            connection.count_read(len);
            Read::Data { len, short: len < buffer.len() && connection.trusts_short_reads() }
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            connection.read_dry(agenda);
            Read::Nothing
        }
        Err(error) => {
            connection.end(lost(error), agenda);
            Read::Nothing
        }
    }
}

/// Reads what a connection that is being closed still receives, and forgets it.
pub(crate) fn discard(
    connection: &mut Connection,
    buffer: &mut [u8],
    drain: bool,
    agenda: &mut Agenda,
) {
    let mut budget = BUFFER_LEN;
    while !connection.read_closed && connection.phase == Phase::Open {
        if budget == 0 {
            return connection.make_ready(Ready::DRAIN, agenda);
        }
        let room = budget.min(buffer.len());
        match read(connection, &mut buffer[..room], agenda) {
            Read::Data { len, short } => {
                connection.rare_stats().bytes_discarded += len as u64;
                budget -= len;
                if short && !drain {
                    break;
                }
            }
            Read::End => connection.settle(agenda),
            Read::Nothing => break,
        }
    }
}

/// Calls the protocol of an open connection.
pub(crate) fn call(
    inner: &Rc<Inner>,
    key: Key,
    what: &'static str,
    call: impl FnOnce(&mut dyn Protocol, &Transport) -> anyhow::Result<()>,
) {
    let protocol = match inner.core.borrow_mut().streams.connections.get_mut(key) {
        Some(connection) => {
            let protocol = connection.protocol.take();
            connection.held |= protocol.is_some();
            protocol
        }
        None => None,
    };
    let Some(mut protocol) = protocol else { return };
    let transport = Transport::new(inner, key);
    if let Err(failure) = guarded(|| call(&mut *protocol, &transport)) {
        report(inner, key, what, failure);
    }
    put_back(inner, key, protocol);
}

/// Ends a call: the protocol returns to its connection, what it wrote leaves. It is dropped, with
/// nothing borrowed, if the reactor was dropped meanwhile.
pub(crate) fn put_back(inner: &Inner, key: Key, protocol: Box<dyn Protocol>) {
    let homeless = {
        let core = &mut *inner.core.borrow_mut();
        match core.streams.connections.get_mut(key) {
            Some(connection) => {
                connection.held = false;
                let homeless = connection.protocol.replace(protocol);
                connection.settle(&mut core.agenda);
                homeless
            }
            None => Some(protocol),
        }
    };
    inner.discard("closed connection", "drop of a protocol", homeless);
}
