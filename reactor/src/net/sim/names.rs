//! The names of a world, and the resolver that every host of it starts with.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use super::turn::Surroundings;
use crate::{Answer, Handle, Query, Resolve};

/// Names and their addresses; those of hosts are among them.
pub(super) struct NameTable {
    addresses: RefCell<BTreeMap<String, Vec<IpAddr>>>,
    pub(super) lookup_time: Cell<Duration>,
}

impl Default for NameTable {
    fn default() -> Self {
        Self { addresses: RefCell::default(), lookup_time: Cell::new(Duration::from_millis(1)) }
    }
}

impl NameTable {
    /// Gives a name these addresses, or takes it away with none.
    pub(super) fn set(&self, name: &str, addresses: Vec<IpAddr>) {
        let names = &mut *self.addresses.borrow_mut();
        if addresses.is_empty() {
            names.remove(&key(name));
        } else {
            names.insert(key(name), addresses);
        }
    }

    fn get(&self, name: &str) -> Vec<IpAddr> {
        self.addresses.borrow().get(&key(name)).cloned().unwrap_or_default()
    }
}

/// Case does not matter, nor does the root's full stop (RFC 4343).
fn key(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Answers from the table as it is when the time of the lookup is over.
pub(super) struct WorldResolver {
    pub(super) around: Rc<Surroundings>,
}

impl Resolve for WorldResolver {
    fn resolve(&mut self, handle: &Handle, query: Query, answer: Answer) {
        let around = Rc::clone(&self.around);
        let wait = around.names.lookup_time.get();
        handle.call_later(wait, move |_| answer.found(around.names.get(query.name())));
    }
}
