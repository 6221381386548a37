//! Sockets that play a script. What a kernel does rarely or never on demand (an error in the middle
//! of a batch, a full send buffer, a counter that wraps, a connection that breaks between two
//! reads) is tried against the layers above with them.

mod datagram;
mod listener;
mod stream;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

pub use datagram::{GroupChange, Script, SendStep, Sent};
pub use listener::ScriptedListener;
pub use stream::{ScriptedStream, StreamEvent, WriteStep};

use super::{Event, OpenError, StreamSocket};
use crate::inner::Inner;

/// What scripts put between a reactor and its driver: events, and sockets to connect with.
#[derive(Default)]
pub(crate) struct Injected {
    events: RefCell<Vec<Event>>,
    connecting: RefCell<VecDeque<ScriptedStream>>,
}

impl Injected {
    /// Whether the next poll must not wait.
    pub(crate) fn is_pressing(&self) -> bool {
        !self.events.borrow().is_empty()
    }

    /// Adds the events raised since the last poll, in their order.
    pub(crate) fn take_events(&self, events: &mut Vec<Event>) {
        events.append(&mut self.events.borrow_mut());
    }

    /// The scripted socket for an attempt to connect, if one is due.
    pub(crate) fn open(
        &self,
        inner: &Rc<Inner>,
        token: usize,
    ) -> Option<Result<Rc<dyn StreamSocket>, OpenError>> {
        let script = self.connecting.borrow_mut().pop_front()?;
        Some(script.open(inner, token))
    }
}
