//! What all parts of a program share.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use strand_reactor::sim::{Guard, World};
use strand_reactor::{Connector, DelayedCall, Handle, ListeningPort, LoopingCall, ShutdownHold};

use crate::ledger::{Fate, Life, PortBook, Promise, Sent, StreamBook, Token};
use crate::random::Random;

/// Numbers that ports are given: few, so that they meet.
pub const PORTS: [u16; 5] = [1000, 1001, 1002, 1003, 1004];
pub const GROUPS: [&str; 4] = ["239.1.1.1", "239.1.1.2", "232.1.1.1", "ff12::1"];

pub struct Host {
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

/// Handles that were kept, for whoever wants to do something with them.
#[derive(Default)]
pub struct Kept {
    /// With the time before which they are not to be called.
    pub timers: RefCell<Vec<(DelayedCall, Rc<Cell<Instant>>)>>,
    pub loops: RefCell<Vec<LoopingCall>>,
    pub listeners: RefCell<Vec<(Rc<Life>, ListeningPort)>>,
    pub connectors: RefCell<Vec<Connector>>,
    pub holds: RefCell<Vec<ShutdownHold>>,
    pub guards: RefCell<Vec<Guard>>,
}

pub struct Program {
    pub random: Random,
    pub world: Weak<World>,
    pub hosts: Vec<Host>,
    /// Of each host, the present life.
    pub lives: RefCell<Vec<Rc<Life>>>,
    /// Callbacks that may still do something.
    pub budget: Cell<u32>,
    pub kept: Kept,
    pub sent: RefCell<Vec<Sent>>,
    pub ports: RefCell<Vec<Rc<PortBook>>>,
    /// All ends of connections there ever were.
    pub streams: RefCell<Vec<Rc<StreamBook>>>,
    pub promises: RefCell<Vec<Promise>>,
    /// Protocols and factories that live.
    pub alive: Cell<u64>,
    /// Some fault sends datagrams twice, or changes them.
    pub duplicates: Cell<bool>,
    pub corrupts: Cell<bool>,
    /// All that happened, in one number.
    pub digest: Cell<u64>,
    pub happened: Cell<u64>,
    pub violations: RefCell<Vec<String>>,
    pub verbose: bool,
}

impl Program {
    pub fn world(&self) -> Option<Rc<World>> {
        self.world.upgrade()
    }

    pub fn life(&self, host: usize) -> Rc<Life> {
        Rc::clone(&self.lives.borrow()[host])
    }

    pub fn now(&self) -> Duration {
        self.world().map_or(Duration::ZERO, |world| world.elapsed())
    }

    /// The handle of a host that is up.
    pub fn handle(&self, host: usize) -> Option<Handle> {
        self.world()?.handle(&self.hosts[host].name).ok()
    }

    /// Something happened.
    pub fn note(&self, what: &str, host: usize, detail: u64) {
        let mut digest = self.digest.get();
        let mut mix = |value: u64| digest = (digest ^ value).wrapping_mul(0x0000_0100_0000_01B3);
        what.bytes().for_each(|byte| mix(byte.into()));
        mix(host as u64);
        mix(detail);
        mix(self.now().as_nanos() as u64);
        self.digest.set(digest);
        self.happened.set(self.happened.get() + 1);
        if self.verbose {
            println!("{:?} h{host}: {what} {detail}", self.now());
        }
    }

    /// Something happened that must not.
    pub fn violated(&self, what: impl Into<String>) {
        let what = format!("{:?}: {}", self.now(), what.into());
        if self.verbose {
            println!("VIOLATED {what}");
        }
        self.violations.borrow_mut().push(what);
    }

    pub fn expect(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violated(what());
        }
    }

    /// Promises that a closure with this token will be called. The cell is for whoever finds out
    /// that it will not be.
    pub fn promise(&self, kind: &'static str, life: &Rc<Life>) -> (Token, Rc<Cell<Fate>>) {
        let (token, fate) = Token::new();
        let promise = Promise { kind, life: Rc::clone(life), fate: Rc::clone(&fate) };
        self.promises.borrow_mut().push(promise);
        (token, fate)
    }

    /// Takes back the latest promise: the call that was to keep it failed.
    pub fn unpromise(&self, fate: &Rc<Cell<Fate>>) {
        let promises = &mut *self.promises.borrow_mut();
        if let Some(at) = promises.iter().rposition(|promise| Rc::ptr_eq(&promise.fate, fate)) {
            promises.remove(at);
        }
    }

    /// Where something may be, or not.
    pub fn somewhere(&self) -> SocketAddr {
        let random = &self.random;
        let port = random.pick(&PORTS);
        match random.below(12) {
            0 => SocketAddr::new("10.0.0.255".parse().expect("an address"), port),
            1 => SocketAddr::new("10.0.0.99".parse().expect("an address"), port),
            2 => SocketAddr::new("127.0.0.1".parse().expect("an address"), port),
            3 => SocketAddr::new(random.pick(&GROUPS).parse().expect("an address"), port),
            _ => {
                let host = &self.hosts[random.index(self.hosts.len())];
                SocketAddr::new(random.pick(&host.addresses), port)
            }
        }
    }
}

/// Lives as long as a protocol or a factory does.
pub struct Alive(pub Rc<Program>);

impl Alive {
    pub fn new(program: &Rc<Program>) -> Self {
        program.alive.set(program.alive.get() + 1);
        Self(Rc::clone(program))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.alive.set(self.0.alive.get() - 1);
    }
}
