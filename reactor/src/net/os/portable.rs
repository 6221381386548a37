//! One datagram by one system call.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use super::nobody;
use super::socket::{Endpoint, Transfer};
use crate::datagram::{Capabilities, Metadata};
use crate::net::{Message, Meta, QueuedError, RecvBatch, SLOT_LEN, SendBatch};
use crate::sys;

#[derive(Default)]
pub(super) struct Portable {
    /// Met by a receive after the first datagram of a batch.
    deferred: RefCell<Option<io::Error>>,
    /// Met by a send after the first datagram of a batch. It may have been pending on the socket
    /// (a refusal), and would be lost with the call that fetched it.
    unsent: RefCell<Option<io::Error>>,
}

impl Transfer for Portable {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            batching: false,
            segmentation: false,
            coalescing: false,
            error_queue: false,
            send_options: false,
            metadata: Metadata::NONE,
        }
    }

    fn receive(&self, at: &Endpoint, slots: usize, batch: &mut RecvBatch) -> io::Result<bool> {
        batch.messages.clear();
        if let Some(error) = self.deferred.take() {
            return Err(error);
        }
        let data = &mut Rc::make_mut(&mut batch.data)[..];
        for slot in data.chunks_exact_mut(SLOT_LEN).take(slots) {
            match sys::receive_one(at.fd(), slot) {
                Ok(single) => batch.messages.push(Message {
                    len: single.len,
                    segment: single.len.max(1),
                    truncated: single.truncated,
                    source: single.source.as_socket().unwrap_or_else(|| nobody(at.family)),
                    meta: Meta::default(),
                }),
                Err(error) if batch.messages.is_empty() => return Err(error),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => {
                    *self.deferred.borrow_mut() = Some(error);
                    return Ok(false);
                }
            }
        }
        Ok(false)
    }

    fn send(&self, at: &Endpoint, batch: &SendBatch<'_>) -> io::Result<usize> {
        if let Some(error) = self.unsent.take() {
            return Err(error);
        }
        let mut sent = 0;
        for datagram in batch.datagrams() {
            let outcome = match datagram.control.is_none() {
                true => sys::send_one(at.fd(), batch.payload(&datagram), datagram.to),
                false => Err(io::ErrorKind::Unsupported.into()),
            };
            match outcome {
                Ok(()) => sent += 1,
                Err(error) if sent == 0 => return Err(error),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(sent),
                Err(error) => {
                    *self.unsent.borrow_mut() = Some(error);
                    return Ok(sent);
                }
            }
        }
        Ok(sent)
    }

    fn next_error(&self, _at: &Endpoint) -> io::Result<Option<QueuedError>> {
        Ok(None)
    }

    fn set_metadata(&self, _at: &Endpoint, _wanted: Metadata) -> io::Result<Metadata> {
        Ok(Metadata::NONE)
    }
}
