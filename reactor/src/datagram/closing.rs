//! The end of a port.

use std::rc::Rc;

use super::port::Port;
use super::{DatagramProtocol, DatagramTransport};
use crate::agenda::Notice;
use crate::callback::guarded;
use crate::error::{StopReason, WriteError};
use crate::inner::{Core, Inner};
use crate::net::SocketOption;
use crate::slots::Key;

impl Drop for Port {
    fn drop(&mut self) {
        // A shared socket outlives its port, and its queue of reports would fill unread.
        if self.error_queue && !self.wants_error_queue {
            let _ = self.socket.set_option(SocketOption::ErrorQueue, 0);
        }
    }
}

/// Takes a port out of its slot. What waited is cancelled, and what was to be told at the end is
/// queued. The caller drops the port, and with it the socket, once nothing is borrowed.
pub(crate) fn retire(core: &mut Core, key: Key) -> Option<Port> {
    let mut port = core.ports.remove(key)?;
    let agenda = &mut core.agenda;
    agenda.references -= usize::from(port.referenced);
    agenda.queued -= port.outbox.len();
    port.stats.cancelled += port.outbox.len() as u64;
    for (_, completion) in port.outbox.take_completions() {
        agenda.notices.push_back(Notice::Written(completion, Err(WriteError::Cancelled)));
    }
    agenda.notices.extend(port.stopped.drain(..).map(Notice::Call));
    Some(port)
}

/// The end of a port: the goodbye, one flush, and the socket closes.
pub(crate) fn close_port(inner: &Rc<Inner>, key: Key) {
    let (protocol, reason) = match inner.core.borrow_mut().ports.get_mut(key) {
        Some(port) => (port.protocol.take(), port.stop_reason.take()),
        None => return,
    };
    let transport = DatagramTransport::new(inner, key);
    let mut protocol = protocol;
    if let Some(protocol) = &mut protocol {
        let reason = reason.unwrap_or(StopReason::Stopped);
        let outcome = guarded(|| {
            protocol.stop_protocol(&transport, reason);
            Ok(())
        });
        if let Err(failure) = outcome {
            inner.report(Some(key), "stop_protocol", failure);
        }
    }
    let port = {
        let core = &mut *inner.core.borrow_mut();
        if let Some(port) = core.ports.get_mut(key) {
            port.flush(&mut core.agenda);
        }
        retire(core, key)
    };
    if let Some(port) = &port {
        tracing::debug!(port = %port.label, "closed");
    }
    drop(port);
    inner.discard("closed port", "drop of a protocol", protocol);
}
