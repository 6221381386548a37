//! The names of a world, and the resolver that every host of it starts with.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use super::host::HostId;
use super::network::Net;
use super::turn::Surroundings;
use crate::{Answer, Handle, Query, Resolve};

/// Names and their addresses; those of hosts are among them.
pub(super) struct NameTable {
    addresses: RefCell<BTreeMap<String, Vec<IpAddr>>>,
    /// Hosts by their names, as `key` writes them.
    hosts: RefCell<BTreeMap<Rc<str>, HostId>>,
    pub(super) lookup_time: Cell<Duration>,
}

impl Default for NameTable {
    fn default() -> Self {
        Self {
            addresses: RefCell::default(),
            hosts: RefCell::default(),
            lookup_time: Cell::new(Duration::from_millis(1)),
        }
    }
}

impl NameTable {
    /// Gives a name these addresses; without any it does not exist.
    pub(super) fn set(&self, name: &str, addresses: Vec<IpAddr>) {
        self.addresses.borrow_mut().insert(key(name).into_owned(), addresses);
    }

    /// Names a host, whose name nobody has.
    pub(super) fn add_host(&self, name: &Rc<str>, id: HostId) {
        let key = match key(name) {
            // In a world of many hosts the memory counts.
            Cow::Borrowed(same) if same.len() == name.len() => Rc::clone(name),
            other => other.into(),
        };
        self.hosts.borrow_mut().insert(key, id);
    }

    /// The host of this name.
    pub(super) fn host(&self, name: &str) -> Option<HostId> {
        self.hosts.borrow().get(&*key(name)).copied()
    }

    fn get(&self, name: &str, net: &Net) -> Vec<IpAddr> {
        if let Some(addresses) = self.addresses.borrow().get(&*key(name)) {
            return addresses.clone();
        }
        let of_host = |id: HostId| net.host(id).addresses.iter().map(|own| own.ip).collect();
        self.host(name).map(of_host).unwrap_or_default()
    }
}

/// Case does not matter, nor does the root's full stop (RFC 4343).
fn key(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        name.to_ascii_lowercase().into()
    } else {
        name.into()
    }
}

/// Answers from the table as it is when the time of the lookup is over.
pub(super) struct WorldResolver {
    pub(super) around: Rc<Surroundings>,
}

impl Resolve for WorldResolver {
    fn resolve(&mut self, handle: &Handle, query: Query, answer: Answer) {
        let around = Rc::clone(&self.around);
        let wait = around.names.lookup_time.get();
        handle.call_later(wait, move |_| {
            let found = around.names.get(query.name(), &around.net.borrow());
            answer.found(found);
        });
    }
}
