//! The way in: from the socket to the protocol.

use std::io;
use std::rc::Rc;

use super::closing::{put_back, report};
use super::{UnixDatagram, UnixDatagramProtocol, UnixDatagramTransport};
use crate::callback::guarded;
use crate::datagram::is_descriptor_gone;
use crate::error::StopReason;
use crate::inner::Inner;
use crate::net::Event;
use crate::slots::Key;
use crate::stream;

/// What a port may take in one turn, whichever is used up first, as those of UDP.
const TURN_BYTES: usize = 256 * 1024;
const TURN_DATAGRAMS: usize = 4096;

/// An event for a port. False: there is nobody of that token.
pub(crate) fn event(inner: &Rc<Inner>, event: &Event) -> bool {
    let stopping = inner.is_stopping();
    let key = {
        let core = &mut *inner.core.borrow_mut();
        let Some(key) = core.unix_ports.key_of(event.token) else { return false };
        if let Some(port) = core.unix_ports.get_mut(key) {
            if event.writable || event.error {
                port.flush(&mut core.agenda);
            }
            // Already due this turn, or due no more: the edge is kept on the list.
            if port.on_ready || stopping {
                port.make_ready(&mut core.agenda);
                return true;
            }
        }
        key
    };
    if event.readable || event.error {
        service(inner, key);
    }
    true
}

/// How many are on the ready list before the events of a turn: what those add waits for the next.
pub(crate) fn due(inner: &Inner) -> usize {
    inner.core.borrow().agenda.unix_ready.len()
}

/// Works through so many of the ready list.
pub(crate) fn ready(inner: &Rc<Inner>, due: usize) {
    for _ in 0..due {
        if inner.is_stopping() {
            return;
        }
        let key = {
            let core = &mut *inner.core.borrow_mut();
            let Some(key) = core.agenda.unix_ready.pop_front() else { return };
            let Some(port) = core.unix_ports.get_mut(key) else { continue };
            port.on_ready = false;
            key
        };
        service(inner, key);
    }
}

/// Delivers what has arrived.
fn service(inner: &Rc<Inner>, key: Key) {
    let (mut protocol, mut buffer) = {
        let core = &mut *inner.core.borrow_mut();
        let Some(port) = core.unix_ports.get_mut(key) else { return };
        if !port.reads() {
            return;
        }
        let Some(protocol) = port.protocol.take() else {
            // Out on a call: its edge must not be lost.
            return port.make_ready(&mut core.agenda);
        };
        (protocol, core.streams.buffer.take().unwrap_or_else(stream::buffer))
    };
    deliver(inner, key, &mut *protocol, &mut buffer);
    inner.core.borrow_mut().streams.buffer = Some(buffer);
    put_back(inner, key, protocol);
}

fn deliver(
    inner: &Rc<Inner>,
    key: Key,
    protocol: &mut dyn UnixDatagramProtocol,
    buffer: &mut [u8],
) {
    let transport = UnixDatagramTransport::new(inner, key);
    let (mut bytes, mut datagrams) = (TURN_BYTES, TURN_DATAGRAMS);
    loop {
        let message = {
            let core = &mut *inner.core.borrow_mut();
            let Some(port) = core.unix_ports.get_mut(key) else { return };
            if !port.reads() {
                return;
            }
            if bytes == 0 || datagrams == 0 || inner.is_stopping() {
                return port.make_ready(&mut core.agenda);
            }
            datagrams -= 1;
            match port.socket.receive(buffer) {
                Ok(message) => {
                    port.stats.datagrams_in += 1;
                    port.stats.batches_in += 1;
                    port.stats.bytes_in += message.len as u64;
                    port.stats.truncated += u64::from(message.truncated);
                    message
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_descriptor_gone(&error) => {
                    return port.begin_close(StopReason::Failed(error), &mut core.agenda);
                }
                Err(_) => {
                    // A peer that is gone; the next write tells the same.
                    port.stats.network_errors += 1;
                    continue;
                }
            }
        };
        bytes = bytes.saturating_sub(message.len);
        let datagram = UnixDatagram {
            payload: &buffer[..message.len],
            source: &message.source,
            truncated: message.truncated,
        };
        if let Err(failure) = guarded(|| protocol.datagram_received(&transport, datagram)) {
            report(inner, key, "datagram_received", failure);
        }
    }
}
