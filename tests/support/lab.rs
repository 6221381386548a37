//! A reactor that a test drives turn by turn.

use std::cell::Cell;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use strand_reactor::{DatagramProtocol, DatagramTransport, Handle, Reactor, RunError};

use super::{PATIENCE, Peer, Setup, Simulation};

/// A reactor on the path of a [`Setup`]. Every wait has a bound, and fails the test beyond it.
pub struct Lab {
    ground: Ground,
    handle: Handle,
    setup: Setup,
}

enum Ground {
    System(Reactor),
    Simulated(Rc<Simulation>),
}

impl Deref for Lab {
    type Target = Handle;
    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The other goes by itself.
        if let Ground::Simulated(simulation) = &self.ground {
            simulation.end();
        }
    }
}

impl Lab {
    pub fn new(setup: Setup) -> Self {
        Self::make(setup, true)
    }

    /// One whose callbacks' panics leave `run`.
    pub fn letting_panics_through(setup: Setup) -> Self {
        Self::make(setup, false)
    }

    fn make(setup: Setup, catch_panics: bool) -> Self {
        if setup.simulated {
            let simulation = Simulation::for_a_lab(catch_panics);
            let handle = simulation.handle();
            return Self { ground: Ground::Simulated(simulation), handle, setup };
        }
        let builder = Reactor::builder().portable_sockets(setup.portable);
        let reactor = builder.catch_panics(catch_panics).build().unwrap();
        Self { handle: reactor.handle(), ground: Ground::System(reactor), setup }
    }

    /// A handle that may outlive the reactor.
    pub fn reactor_handle(&self) -> Handle {
        self.handle.clone()
    }

    pub fn setup(&self) -> Setup {
        self.setup
    }

    /// The reactor itself, which only a lab on the system has.
    #[track_caller]
    pub fn reactor(&self) -> &Reactor {
        match &self.ground {
            Ground::System(reactor) => reactor,
            Ground::Simulated(_) => panic!("the world drives the reactors of its hosts"),
        }
    }

    /// Opens a port in the way of the setup.
    #[track_caller]
    pub fn open(&self, protocol: impl DatagramProtocol + 'static) -> DatagramTransport {
        self.setup.open(self, protocol)
    }

    /// The date, as the host's clock has it.
    pub fn date(&self) -> SystemTime {
        match &self.ground {
            Ground::System(_) => SystemTime::now(),
            Ground::Simulated(simulation) => simulation.date(),
        }
    }

    /// Turns the loop until `reached` says so.
    #[track_caller]
    pub fn until(&self, what: &str, mut reached: impl FnMut() -> bool) {
        let reactor = match &self.ground {
            Ground::System(reactor) => reactor,
            Ground::Simulated(simulation) => {
                assert!(simulation.until(reached), "waited in vain: {what}");
                return;
            }
        };
        let end = Instant::now() + PATIENCE;
        while !reached() {
            assert!(Instant::now() < end, "waited in vain: {what}");
            reactor.iterate(Some(Duration::from_millis(20))).unwrap();
        }
    }

    /// Turns the loop until `peer` has a datagram.
    #[track_caller]
    pub fn receive(&self, peer: &Peer) -> (Vec<u8>, SocketAddr) {
        let mut received = None;
        if let Ground::Simulated(simulation) = &self.ground {
            simulation.until(|| {
                received = received.take().or_else(|| peer.try_receive());
                received.is_some()
            });
            return received.unwrap_or_else(|| panic!("no datagram for {}", peer.addr()));
        }
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(received) = peer.try_receive() {
                return received;
            }
            assert!(Instant::now() < end, "no datagram for {}", peer.addr());
            self.reactor().iterate(Some(Duration::from_millis(1))).unwrap();
        }
    }

    /// One turn that waits for nothing.
    #[track_caller]
    pub fn turn(&self) {
        match &self.ground {
            Ground::System(reactor) => {
                reactor.iterate(Some(Duration::ZERO)).unwrap();
            }
            Ground::Simulated(simulation) => simulation.turn(),
        }
    }

    /// Turns the loop until posted calls have gone round twice: whatever was due, was told.
    #[track_caller]
    pub fn settle(&self) {
        for _ in 0..3 {
            let done = Rc::new(Cell::new(false));
            let set = Rc::clone(&done);
            self.handle.call_when_running(move |_| set.set(true));
            self.until("a posted call", || done.get());
        }
    }

    /// Runs until nothing is left to do or somebody stops, under a watchdog that does not keep
    /// the reactor alive.
    #[track_caller]
    pub fn run(&self) {
        let reactor = match &self.ground {
            Ground::System(reactor) => reactor,
            Ground::Simulated(simulation) => {
                assert!(simulation.run(), "`run` did not return");
                return;
            }
        };
        let overdue = Rc::new(Cell::new(false));
        let flag = Rc::clone(&overdue);
        let watchdog = self.handle.call_later(PATIENCE, move |handle| {
            flag.set(true);
            handle.crash();
        });
        watchdog.unref();
        reactor.run().unwrap();
        assert!(!overdue.get(), "`run` did not return");
        let _ = watchdog.cancel();
    }

    /// What whoever drives the reactor is told when it is driven already: for a whole run, and for
    /// a turn.
    pub fn driven_twice(&self) -> [RunError; 2] {
        match &self.ground {
            Ground::System(reactor) => {
                [reactor.run().unwrap_err(), reactor.iterate(Some(Duration::ZERO)).unwrap_err()]
            }
            Ground::Simulated(simulation) => [
                simulation.world().run_for(Duration::from_secs(1)).unwrap_err(),
                simulation.world().step().unwrap_err(),
            ],
        }
    }
}
