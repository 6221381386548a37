//! The end of ports, and what user code is told from the loop.

use std::rc::Rc;

use super::port::UnixPort;
use super::{UnixDatagramProtocol, UnixDatagramTransport, UnixNotice};
use crate::agenda::Notice;
use crate::callback::{Failure, guarded};
use crate::error::StopReason;
use crate::inner::{Core, Inner};
use crate::slots::Key;
use crate::stream::later;

impl From<UnixNotice> for Notice {
    fn from(notice: UnixNotice) -> Self {
        Self::Unix(notice)
    }
}

/// Tells user code what happened, or closes what is to be closed.
pub(crate) fn notice(inner: &Rc<Inner>, notice: UnixNotice) {
    match notice {
        UnixNotice::WriteFailed(key, failure) => {
            if let Some(port) = inner.core.borrow_mut().unix_ports.get_mut(key) {
                port.untold -= 1;
            }
            call(inner, key, "write_failed", |protocol, transport| {
                protocol.write_failed(transport, &failure)
            });
        }
        UnixNotice::PauseWriting(key) => {
            call(inner, key, "pause_writing", |protocol, transport| {
                protocol.pause_writing(transport)
            });
        }
        UnixNotice::ResumeWriting(key) => {
            call(inner, key, "resume_writing", |protocol, transport| {
                protocol.resume_writing(transport)
            });
        }
        UnixNotice::Retry(key) => retry(inner, key),
        UnixNotice::Close(key) => close(inner, key),
    }
}

/// Sets the timer after which a receiver without room is tried again.
fn retry(inner: &Rc<Inner>, key: Key) {
    let delay = match inner.core.borrow_mut().unix_ports.get_mut(key) {
        Some(port) => port.retry_delay(),
        None => return,
    };
    let timer = later(inner, delay, move |inner| {
        let core = &mut *inner.core.borrow_mut();
        if let Some(port) = core.unix_ports.get_mut(key) {
            port.retry(&mut core.agenda);
        }
    });
    if let Some(port) = inner.core.borrow_mut().unix_ports.get_mut(key) {
        port.timer = Some(timer);
    }
}

/// Calls the protocol of an open port; of one that is closing, only `close` does.
fn call(
    inner: &Rc<Inner>,
    key: Key,
    what: &'static str,
    call: impl FnOnce(&mut dyn UnixDatagramProtocol, &UnixDatagramTransport) -> anyhow::Result<()>,
) {
    let protocol = match inner.core.borrow_mut().unix_ports.get_mut(key) {
        Some(port) if !port.closing => port.protocol.take(),
        _ => None,
    };
    let Some(mut protocol) = protocol else { return };
    let transport = UnixDatagramTransport::new(inner, key);
    let outcome = guarded(|| call(&mut *protocol, &transport));
    put_back(inner, key, protocol);
    if let Err(failure) = outcome {
        report(inner, key, what, failure);
    }
}

/// Ends a call: the protocol returns to its port, or is dropped with nothing borrowed.
pub(super) fn put_back(inner: &Inner, key: Key, protocol: Box<dyn UnixDatagramProtocol>) {
    let homeless = match inner.core.borrow_mut().unix_ports.get_mut(key) {
        Some(port) => port.protocol.replace(protocol),
        None => Some(protocol),
    };
    inner.discard("closed port", "drop of a protocol", homeless);
}

/// Counts and logs a callback that failed.
pub(super) fn report(inner: &Inner, key: Key, what: &'static str, failure: Failure) {
    drop(inner.blame("closed port", what, failure, |core, failed| {
        let port = core.unix_ports.get_mut(key)?;
        Some((Rc::clone(&port.label), failed.of_port(&mut port.stats, &mut port.log)))
    }));
}

/// The reactor stops: every port is to be closed.
pub(crate) fn begin_shutdown(core: &mut Core) {
    for key in core.unix_ports.keys().collect::<Vec<_>>() {
        if let Some(port) = core.unix_ports.get_mut(key) {
            port.begin_close(StopReason::Shutdown, &mut core.agenda);
        }
    }
}

/// Takes a port out of its slot. What waited is cancelled. The caller drops the port, and with it
/// the socket and its path, once nothing is borrowed.
pub(super) fn retire(core: &mut Core, key: Key) -> Option<UnixPort> {
    let mut port = core.unix_ports.remove(key)?;
    let agenda = &mut core.agenda;
    agenda.references -= usize::from(port.referenced);
    port.cancel(agenda);
    agenda.notices.extend(port.stopped.drain(..).map(Notice::Call));
    Some(port)
}

/// The end of a port: the goodbye, one flush, and the socket closes.
fn close(inner: &Rc<Inner>, key: Key) {
    let (mut protocol, reason) = match inner.core.borrow_mut().unix_ports.get_mut(key) {
        Some(port) => (port.protocol.take(), port.stop_reason.take()),
        None => return,
    };
    let transport = UnixDatagramTransport::new(inner, key);
    if let Some(protocol) = &mut protocol {
        let reason = reason.unwrap_or(StopReason::Stopped);
        let outcome = guarded(|| {
            protocol.stop_protocol(&transport, reason);
            Ok(())
        });
        if let Err(failure) = outcome {
            report(inner, key, "stop_protocol", failure);
        }
    }
    let port = {
        let core = &mut *inner.core.borrow_mut();
        if let Some(port) = core.unix_ports.get_mut(key) {
            port.flush(&mut core.agenda);
        }
        retire(core, key)
    };
    if let Some(mut port) = port {
        if let Some(timer) = port.timer.take() {
            let _ = timer.cancel();
        }
        tracing::debug!(port = %port.label, "closed");
        drop(port);
    }
    inner.discard("closed port", "drop of a protocol", protocol);
}
