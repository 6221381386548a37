//! How a world drives the reactor of a host: one turn at a time, never waiting.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::host::HostId;
use crate::Reactor;
use crate::net::{Event, RecvBatch};

/// Tells the world that somebody called into a reactor outside of its turns: what was asked for
/// wants a turn, or has set a deadline.
pub(crate) struct Hook {
    host: HostId,
    /// On the list, or taking its turn: the world will look at it in any case.
    noted: Cell<bool>,
    list: Rc<RefCell<Vec<HostId>>>,
}

impl Hook {
    pub(super) fn new(host: HostId, list: &Rc<RefCell<Vec<HostId>>>) -> Self {
        Self { host, noted: Cell::new(false), list: Rc::clone(list) }
    }

    #[inline]
    pub(crate) fn touch(&self) {
        if !self.noted.replace(true) {
            self.list.borrow_mut().push(self.host);
        }
    }

    pub(super) fn set_noted(&self, on: bool) {
        self.noted.set(on);
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook").field("host", &self.host).finish_non_exhaustive()
    }
}

/// Hosts that other threads have posted calls to.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    any: AtomicBool,
    hosts: Mutex<Vec<HostId>>,
}

impl Mail {
    pub(crate) fn post(&self, host: HostId) {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).push(host);
        self.any.store(true, Ordering::Release);
    }

    #[inline]
    pub(super) fn take(&self) -> Vec<HostId> {
        if !self.any.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut *self.hosts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The big buffers of a reactor. The hosts of a world lend them to each other: one takes its turn
/// at a time.
#[derive(Default)]
pub(super) struct Buffers {
    batches: Vec<RecvBatch>,
    stream: Option<Box<[u8]>>,
    events: Vec<Event>,
}

/// When a reactor wants its next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    Now,
    /// At this moment of its own clock, in nanoseconds.
    At(u64),
    Nothing,
}

impl Reactor {
    /// Gives the reactor the buffers of its world.
    pub(super) fn lend(&self, buffers: &mut Buffers) {
        let core = &mut *self.inner.core.borrow_mut();
        std::mem::swap(&mut core.batches, &mut buffers.batches);
        std::mem::swap(&mut core.streams.buffer, &mut buffers.stream);
        self.inner.events.set(std::mem::take(&mut buffers.events));
    }

    /// Takes them back, with what the reactor made for itself.
    pub(super) fn reclaim(&self, buffers: &mut Buffers) {
        let core = &mut *self.inner.core.borrow_mut();
        // With two sets one was made while the other was out; one is enough for the next.
        core.batches.truncate(1);
        if !core.batches.is_empty() || buffers.batches.is_empty() {
            std::mem::swap(&mut core.batches, &mut buffers.batches);
        }
        core.batches = Vec::new();
        if let Some(stream) = core.streams.buffer.take() {
            buffers.stream = Some(stream);
        }
        let events = self.inner.events.take();
        if events.capacity() > 0 {
            buffers.events = events;
        }
    }

    /// When it wants its next turn, events apart.
    pub(super) fn wants(&self) -> Wants {
        let inner = &self.inner;
        if inner.must_not_sleep() {
            return Wants::Now;
        }
        let timer = inner.core.borrow_mut().timers.next_deadline();
        let at = match (timer, inner.shutdown_deadline()) {
            (Some(one), Some(other)) => one.min(other),
            (one, other) => match one.or(other) {
                Some(at) => at,
                None => return Wants::Nothing,
            },
        };
        if at <= inner.now_ns() { Wants::Now } else { Wants::At(at) }
    }
}
