//! The simulated host that a lab and its peers are on.
//!
//! Peers are ports of the same host, which are met over its loopback, as those of the system are:
//! what one sends waits in the socket of the other when the call returns. They never deliver, but
//! are pulled from, and keep nothing running; so the loop has nothing to do for them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use strand_reactor::Handle;
use strand_reactor::sim::World;

use super::PATIENCE;

/// A world with one host.
pub struct Simulation {
    world: World,
    handle: RefCell<Handle>,
    /// Whether a lab drives it.
    taken: Cell<bool>,
}

const HOST: &str = "host";

/// Turns that the loop may take in one wait. Those of a program that is never done take no time.
const MOST_TURNS: u32 = 100_000;

thread_local! {
    /// Where the next peer goes: beside the youngest lab.
    static CURRENT: RefCell<Option<Rc<Simulation>>> = const { RefCell::new(None) };
}

impl Simulation {
    fn make(catch_panics: bool) -> Rc<Self> {
        let world = World::new(1);
        world.catch_panics(catch_panics);
        let handle = world.host(HOST, "10.0.0.1, fd00::1").expect("a host");
        let made = Rc::new(Self { world, handle: RefCell::new(handle), taken: Cell::new(false) });
        CURRENT.set(Some(Rc::clone(&made)));
        made
    }

    /// The one that a peer made before the lab, or a new one.
    pub(super) fn for_a_lab(catch_panics: bool) -> Rc<Self> {
        let waiting = CURRENT.with_borrow(|current| current.clone());
        let waiting = waiting.filter(|current| catch_panics && !current.taken.get());
        let simulation = waiting.unwrap_or_else(|| Self::make(catch_panics));
        simulation.taken.set(true);
        simulation
    }

    /// The one of the youngest lab.
    pub(super) fn current() -> Rc<Self> {
        let current = CURRENT.with_borrow(|current| current.clone());
        current.unwrap_or_else(|| Self::make(true))
    }

    /// The behaviour is shown: the next begins with a world of its own.
    pub(super) fn forget() {
        drop(CURRENT.take());
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle.borrow().clone()
    }

    /// Its handle; a host whose reactor is gone is given another.
    pub(super) fn running(&self) -> Handle {
        if self.handle().is_closed() {
            *self.handle.borrow_mut() = self.world.restart(HOST).expect("the host");
        }
        self.handle()
    }

    /// The end of the reactor, as if it were dropped.
    pub(super) fn end(&self) {
        self.world.crash(HOST).expect("the host");
    }

    pub(super) fn world(&self) -> &World {
        &self.world
    }

    /// The date, as the host's clock has it.
    pub(super) fn date(&self) -> SystemTime {
        // The first of January 2000.
        SystemTime::UNIX_EPOCH + Duration::from_secs(946_684_800) + self.world.elapsed()
    }

    /// After the end of a `run` the loop may be turned again.
    fn ready(&self) {
        if self.world.has_stopped(HOST).expect("the host") {
            self.world.run_again(HOST).expect("the host");
        }
    }

    /// One turn, at this instant.
    #[track_caller]
    pub(super) fn turn(&self) {
        self.ready();
        // Has the host take a turn also if there is nothing for it.
        self.handle().call_when_running(|_| ());
        self.world.step().expect("not from a callback");
    }

    /// Turns the loop until `reached` says so; false if it never does.
    #[track_caller]
    pub(super) fn until(&self, mut reached: impl FnMut() -> bool) -> bool {
        self.ready();
        let limit = self.world.elapsed() + PATIENCE;
        for _ in 0..MOST_TURNS {
            if reached() {
                return true;
            }
            // Nothing is left that could happen, or nothing in time.
            if !self.world.step().expect("not from a callback") || self.world.elapsed() > limit {
                return reached();
            }
        }
        false
    }

    /// Until somebody stops, or nothing is left that could happen; false if that takes too long.
    #[track_caller]
    pub(super) fn run(&self) -> bool {
        self.ready();
        let limit = self.world.elapsed() + PATIENCE;
        let over =
            || self.world.has_stopped(HOST).expect("the host") || self.world.elapsed() > limit;
        self.world.run_until(over).expect("not from a callback");
        self.world.elapsed() <= limit
    }
}
