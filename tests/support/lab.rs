//! A reactor that a test drives turn by turn.

use std::cell::Cell;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::time::{Duration, Instant};

use strand_reactor::{DatagramProtocol, DatagramTransport, Handle, Reactor};

use super::{PATIENCE, Peer, Setup};

/// A reactor on the path of a [`Setup`]. Every wait has a bound, and fails the test beyond it.
pub struct Lab {
    reactor: Reactor,
    setup: Setup,
}

impl Deref for Lab {
    type Target = Reactor;
    fn deref(&self) -> &Reactor {
        &self.reactor
    }
}

impl Lab {
    pub fn new(setup: Setup) -> Self {
        let reactor = Reactor::builder().portable_sockets(setup.portable).build().unwrap();
        Self { reactor, setup }
    }

    /// A handle that may outlive the reactor.
    pub fn reactor_handle(&self) -> Handle {
        Handle::clone(&self.reactor)
    }

    /// Opens a port in the way of the setup.
    #[track_caller]
    pub fn open(&self, protocol: impl DatagramProtocol + 'static) -> DatagramTransport {
        self.setup.open(self, protocol)
    }

    /// Turns the loop until `reached` says so.
    #[track_caller]
    pub fn until(&self, what: &str, mut reached: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !reached() {
            assert!(Instant::now() < end, "waited in vain: {what}");
            self.reactor.iterate(Some(Duration::from_millis(20))).unwrap();
        }
    }

    /// Turns the loop until `peer` has a datagram.
    #[track_caller]
    pub fn receive(&self, peer: &Peer) -> (Vec<u8>, SocketAddr) {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(received) = peer.try_receive() {
                return received;
            }
            assert!(Instant::now() < end, "no datagram for {}", peer.addr());
            self.reactor.iterate(Some(Duration::from_millis(1))).unwrap();
        }
    }

    /// One turn that waits for nothing.
    #[track_caller]
    pub fn turn(&self) {
        self.reactor.iterate(Some(Duration::ZERO)).unwrap();
    }

    /// Turns the loop until posted calls have gone round twice: whatever was due, was told.
    #[track_caller]
    pub fn settle(&self) {
        for _ in 0..3 {
            let done = Rc::new(Cell::new(false));
            let set = Rc::clone(&done);
            self.reactor.call_when_running(move |_| set.set(true));
            self.until("a posted call", || done.get());
        }
    }

    /// Runs until nothing is left to do or somebody stops, under a watchdog that does not keep
    /// the reactor alive.
    #[track_caller]
    pub fn run(&self) {
        let overdue = Rc::new(Cell::new(false));
        let flag = Rc::clone(&overdue);
        let watchdog = self.reactor.call_later(PATIENCE, move |handle| {
            flag.set(true);
            handle.crash();
        });
        watchdog.unref();
        self.reactor.run().unwrap();
        assert!(!overdue.get(), "`run` did not return");
        let _ = watchdog.cancel();
    }
}
