//! How a world drives the reactor of a host: one turn at a time, never waiting.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::host::HostId;
use super::names::{NameTable, WorldResolver};
use super::network::SharedNet;
use crate::agenda::Agenda;
use crate::net::{Event, RecvBatch};
use crate::{Reactor, Resolve};

/// What the reactors of a world know of it.
pub(super) struct Surroundings {
    /// Hosts that were called into outside of their turns.
    pub(super) touched: RefCell<Vec<HostId>>,
    pub(super) names: NameTable,
    pub(super) net: SharedNet,
    /// How long a job of `defer_to_thread` takes.
    pub(super) job_time: Cell<Duration>,
}

impl Surroundings {
    pub(super) fn new(net: &SharedNet) -> Self {
        Self {
            net: Rc::clone(net),
            touched: RefCell::default(),
            names: NameTable::default(),
            job_time: Cell::new(Duration::from_millis(1)),
        }
    }
}

/// Tells the world that somebody called into a reactor outside of its turns: what was asked for
/// wants a turn, or has set a deadline.
pub(crate) struct Hook {
    host: HostId,
    /// On the list, or taking its turn: the world will look at it in any case.
    noted: Cell<bool>,
    around: Rc<Surroundings>,
}

impl Hook {
    pub(super) fn new(host: HostId, around: &Rc<Surroundings>) -> Self {
        Self { host, noted: Cell::new(false), around: Rc::clone(around) }
    }

    /// The resolver of the host: the names of its world.
    pub(crate) fn resolver(&self) -> Box<dyn Resolve> {
        Box::new(WorldResolver { around: Rc::clone(&self.around) })
    }

    /// How long a job of `defer_to_thread` takes.
    #[cfg(feature = "threads")]
    pub(crate) fn job_time(&self) -> Duration {
        self.around.job_time.get()
    }

    #[inline]
    pub(crate) fn touch(&self) {
        if !self.noted.replace(true) {
            self.around.touched.borrow_mut().push(self.host);
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

/// The buffers and the memory of the lists of a reactor. The hosts of a world lend them to each
/// other: one takes its turn at a time, and between turns its lists are empty.
#[derive(Default)]
pub(super) struct Buffers {
    batches: Vec<RecvBatch>,
    stream: Option<Box<[u8]>>,
    events: Vec<Event>,
    agenda: Agenda,
}

/// Gives `own` the memory of `pool`, if it has nothing in less.
fn lend<T>(own: &mut VecDeque<T>, pool: &mut VecDeque<T>) {
    if own.is_empty() && own.capacity() < pool.capacity() {
        std::mem::swap(own, pool);
    }
}

/// Takes it back, if there is nothing in it; the pool keeps the larger.
fn reclaim<T>(own: &mut VecDeque<T>, pool: &mut VecDeque<T>) {
    if own.is_empty() && own.capacity() > 0 {
        if own.capacity() > pool.capacity() {
            std::mem::swap(own, pool);
        }
        *own = VecDeque::new();
    }
}

/// As `reclaim`, for memory that lies in a list.
fn reclaim_spares<T>(own: &mut Vec<T>, pool: &mut Vec<T>) {
    if own.len() > pool.len() {
        std::mem::swap(own, pool);
    }
    if own.capacity() > 0 {
        *own = Vec::new();
    }
}

/// Trades the memory of every list of an agenda.
macro_rules! each_list {
    ($trade:ident, $own:expr, $pool:expr) => {
        $trade(&mut $own.ready, &mut $pool.ready);
        $trade(&mut $own.dirty, &mut $pool.dirty);
        $trade(&mut $own.notices, &mut $pool.notices);
        $trade(&mut $own.calls, &mut $pool.calls);
        $trade(&mut $own.streams.ready, &mut $pool.streams.ready);
        $trade(&mut $own.streams.dirty, &mut $pool.streams.dirty);
    };
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
        std::mem::swap(&mut core.agenda.spares, &mut buffers.agenda.spares);
        std::mem::swap(&mut core.agenda.streams.spares, &mut buffers.agenda.streams.spares);
        each_list!(lend, core.agenda, buffers.agenda);
        self.inner.events.set(std::mem::take(&mut buffers.events));
    }

    /// Takes them back, with what the reactor made for itself.
    pub(super) fn reclaim(&self, buffers: &mut Buffers) {
        let core = &mut *self.inner.core.borrow_mut();
        reclaim_spares(&mut core.batches, &mut buffers.batches);
        if let Some(stream) = core.streams.buffer.take() {
            buffers.stream = Some(stream);
        }
        reclaim_spares(&mut core.agenda.spares, &mut buffers.agenda.spares);
        let (own, pool) = (&mut core.agenda.streams.spares, &mut buffers.agenda.streams.spares);
        reclaim_spares(&mut own.chunks, &mut pool.chunks);
        reclaim_spares(&mut own.contents, &mut pool.contents);
        each_list!(reclaim, core.agenda, buffers.agenda);
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
