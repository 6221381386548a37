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
    if Kind::of(event.token) != Some(Kind::Stream) {
        return listener_event(inner, event);
    }
    let ready = Ready {
        readable: event.readable,
        writable: event.writable,
        error: event.error,
        drain: event.error || event.read_closed,
    };
    let (key, next) = {
        let core = &mut *inner.core.borrow_mut();
        let found = core.streams.connections.occupant_of(event.token);
        let Some((key, connection)) = found else { return false };
        if connection.on_ready || inner.is_stopping() {
            // Already due this turn, or due no more: the edge is kept on the list.
            connection.make_ready(ready, &mut core.agenda);
            return true;
        }
        (key, begin(connection, &mut core.streams.buffer, ready, &mut core.agenda))
    };
    go_on(inner, key, ready, next);
    true
}

fn listener_event(inner: &Rc<Inner>, event: &Event) -> bool {
    let key = {
        let core = &mut *inner.core.borrow_mut();
        let listeners = &mut core.streams.listeners;
        let Some((key, listener)) = listeners.occupant_of(event.token) else { return false };
        if listener.on_ready || inner.is_stopping() {
            // Already due this turn, with the budget of one; or due no more.
            listener.make_ready(&mut core.agenda);
            return true;
        }
        key
    };
    listener::service(inner, key);
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
    let next = {
        let core = &mut *inner.core.borrow_mut();
        let Some(connection) = core.streams.connections.get_mut(key) else { return };
        begin(connection, &mut core.streams.buffer, ready, &mut core.agenda)
    };
    go_on(inner, key, ready, next);
}

/// What is left to do for a connection with nothing borrowed.
enum Next {
    Nothing,
    Attempt,
    Layers,
    /// Its protocol is told what was read into the buffer.
    Deliver(Box<dyn Protocol>, Box<[u8]>, Read),
}

/// The part of the service that needs no user code, up to the first read.
#[inline]
fn begin(
    connection: &mut Connection,
    shared: &mut Option<Box<[u8]>>,
    ready: Ready,
    agenda: &mut Agenda,
) -> Next {
    match connection.phase {
        Phase::Connecting => return Next::Attempt,
        Phase::Ended => return Next::Nothing,
        Phase::Open if connection.protocol.is_none() => {
            // Out on a call: its edge must not be lost.
            connection.make_ready(ready, agenda);
            return Next::Nothing;
        }
        Phase::Open => {}
    }
    if ready.writable {
        connection.unblock(agenda);
    }
    if ready.error && !connection.will_read() {
        connection.check_error(agenda);
    }
    if connection.paused && !connection.disconnecting {
        // Nothing can be sent any more, and nobody wants to read what is left.
        connection.read_dry(agenda);
    }
    if !(ready.readable || ready.error) {
        return Next::Nothing;
    }
    let memory = shared.get_or_insert_with(buffer);
    if connection.disconnecting && !connection.layers_hold_back() {
        discard(connection, memory, ready.drain, agenda);
        return Next::Nothing;
    }
    if connection.stack().is_some() {
        return Next::Layers;
    }
    if !connection.delivers() {
        return Next::Nothing;
    }
    let read = read(connection, memory, agenda);
    match (shared.take(), connection.protocol.take()) {
        (Some(buffer), Some(protocol)) => {
            connection.held = true;
            Next::Deliver(protocol, buffer, read)
        }
        // Never: both were there.
        _ => Next::Nothing,
    }
}

#[inline]
fn go_on(inner: &Rc<Inner>, key: Key, ready: Ready, next: Next) {
    match next {
        Next::Nothing => {}
        Next::Attempt => attempts::event(inner, key, ready),
        Next::Layers => layer::service(inner, key, ready),
        Next::Deliver(protocol, buffer, read) => {
            deliver(inner, key, protocol, buffer, ready, read);
        }
    }
}

/// A connection that was paused by what was delivered meets no error by itself.
pub(super) fn look_after(inner: &Inner, key: Key, ready: Ready) {
    let core = &mut *inner.core.borrow_mut();
    if let Some(connection) = core.streams.connections.get_mut(key) {
        check_paused(connection, ready, &mut core.agenda);
    }
}

fn check_paused(connection: &mut Connection, ready: Ready, agenda: &mut Agenda) {
    if connection.paused && !connection.disconnecting {
        if ready.error {
            connection.check_error(agenda);
        }
        // Nor is it read any more after a write that failed.
        connection.read_dry(agenda);
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

/// Tells the protocol what was read, and reads on as long as there may be more.
fn deliver(
    inner: &Rc<Inner>,
    key: Key,
    mut protocol: Box<dyn Protocol>,
    mut buffer: Box<[u8]>,
    ready: Ready,
    mut read: Read,
) {
    let transport = Transport::new(inner, key);
    let mut budget = BUFFER_LEN;
    loop {
        let (what, outcome, more) = match read {
            Read::Nothing => break,
            Read::End => {
                let outcome = guarded(|| protocol.read_connection_lost(&transport));
                ("read_connection_lost", outcome, false)
            }
            Read::Data { len, short } => {
                budget -= len;
                let outcome = guarded(|| protocol.data_received(&transport, &buffer[..len]));
                // A short read means that all was read, except after an end or an error.
                ("data_received", outcome, !short || ready.drain)
            }
        };
        if let Err(failure) = outcome {
            report(inner, key, what, failure);
            break;
        }
        if !more {
            break;
        }
        read = read_on(inner, key, &mut buffer, budget, ready);
    }
    let homeless = {
        let core = &mut *inner.core.borrow_mut();
        core.streams.buffer = Some(buffer);
        take_back(core, key, protocol, Some(ready))
    };
    if homeless.is_some() {
        inner.discard("closed connection", "drop of a protocol", homeless);
    }
}

/// A read after another, if the protocol still wants to be told.
#[inline(never)]
fn read_on(inner: &Inner, key: Key, buffer: &mut [u8], budget: usize, ready: Ready) -> Read {
    let core = &mut *inner.core.borrow_mut();
    let Some(connection) = core.streams.connections.get_mut(key) else { return Read::Nothing };
    if !connection.delivers() {
        return Read::Nothing;
    }
    // A layer that the protocol has just pushed sees all that is read from here on.
    if budget == 0 || connection.stack().is_some() || inner.is_stopping() {
        let again = Ready { error: ready.error, ..Ready::DRAIN };
        connection.make_ready(again, &mut core.agenda);
        return Read::Nothing;
    }
    let room = budget.min(buffer.len());
    read(connection, &mut buffer[..room], &mut core.agenda)
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
    let homeless = take_back(&mut inner.core.borrow_mut(), key, protocol, None);
    inner.discard("closed connection", "drop of a protocol", homeless);
}

/// Returns the protocol that has no place any more; `ready` is what it was called for, if it was
/// told what was read.
#[inline]
fn take_back(
    core: &mut Core,
    key: Key,
    protocol: Box<dyn Protocol>,
    ready: Option<Ready>,
) -> Option<Box<dyn Protocol>> {
    let Some(connection) = core.streams.connections.get_mut(key) else { return Some(protocol) };
    connection.held = false;
    let homeless = connection.protocol.replace(protocol);
    connection.settle(&mut core.agenda);
    if let Some(ready) = ready {
        check_paused(connection, ready, &mut core.agenda);
    }
    homeless
}
