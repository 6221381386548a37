//! Random operations on all ports from all callbacks, against the kernel.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Handle, NetworkError, PortState, StopReason,
    WriteFailure,
};

use crate::random::{Random, seeds};
use crate::support::Setup;
use crate::turn;

/// What the ports of a program have in common.
struct Program {
    random: Random,
    /// Callbacks that may still do something.
    budget: Cell<u32>,
    /// Writes with a completion that were accepted, and completions.
    accepted: Cell<u32>,
    completed: Cell<u32>,
}

/// Does something in every callback.
struct Actor {
    program: Rc<Program>,
    stopped: bool,
}

fn count(cell: &Cell<u32>) {
    cell.set(cell.get() + 1);
}

/// For what may fail: whether an operation is possible depends on all that was done before.
fn attempt<T, E>(_: Result<T, E>) {}

fn open(program: &Rc<Program>, handle: &Handle) -> Result<()> {
    let actor = Actor { program: Rc::clone(program), stopped: false };
    handle.listen_udp("127.0.0.1:0", actor)?;
    Ok(())
}

impl Actor {
    fn act(&self, transport: &DatagramTransport) -> Result<()> {
        assert!(!self.stopped, "called after its end");
        let program = &self.program;
        if program.budget.get() == 0 {
            return Ok(());
        }
        program.budget.set(program.budget.get() - 1);
        let handle = transport.reactor();
        let ports = handle.datagram_ports();
        let other = &ports[program.random.below(ports.len() as u64) as usize];
        for _ in 0..program.random.below(4) {
            self.do_something(transport, &handle, other)?;
        }
        Ok(())
    }

    fn do_something(
        &self,
        transport: &DatagramTransport,
        handle: &Handle,
        other: &DatagramTransport,
    ) -> Result<()> {
        let (program, address) = (&self.program, other.local_addr());
        match (program.random.below(16), address) {
            (0, _) if program.random.below(12) == 0 => other.stop_listening(),
            (1, _) if handle.datagram_ports().len() < 6 => open(program, handle)?,
            (2, _) => attempt(other.pause_reading()),
            (3, _) => attempt(other.resume_reading()),
            (4, Ok(address)) => attempt(transport.connect(address)),
            (5, _) => attempt(other.disconnect()),
            (6 | 7, Ok(address)) => {
                let told = Rc::clone(program);
                let done = move |_| count(&told.completed);
                if transport.write_then(b"completes", address, done).is_ok() {
                    count(&program.accepted);
                }
            }
            (8, _) => attempt(transport.write(b"to the peer")),
            (9, Ok(address)) => attempt(transport.try_write_to(b"at once", address)),
            (10, _) => attempt(other.read_datagram(&mut [0; 2])),
            (11, _) => {
                let other = other.clone();
                handle.call_when_running(move |_| attempt(other.resume_reading()));
            }
            (12, _) => {
                let other = other.clone();
                let delay = Duration::from_micros(100);
                handle.call_later(delay, move |_| attempt(other.write(b"later")));
            }
            (13, _) => anyhow::bail!("one of many"),
            (14, _) => attempt(other.unref()),
            (15, _) => {
                attempt(other.reref());
                attempt(other.set_error_queue(program.random.flip()));
            }
            _ => {}
        }
        Ok(())
    }
}

impl DatagramProtocol for Actor {
    fn start_protocol(&mut self, transport: &DatagramTransport) -> Result<()> {
        transport.write_to(b"to itself", transport.local_addr()?)?;
        Ok(())
    }

    fn datagram_received(&mut self, transport: &DatagramTransport, _: Datagram<'_>) -> Result<()> {
        assert_ne!(transport.state(), PortState::Closing);
        // So that it goes on. An error where the port has a peer.
        let _ = transport.write_to(b"to itself", transport.local_addr()?);
        self.act(transport)
    }

    fn connection_refused(&mut self, transport: &DatagramTransport) -> Result<()> {
        self.act(transport)
    }

    fn network_error(&mut self, transport: &DatagramTransport, _: &NetworkError) -> Result<()> {
        self.act(transport)
    }

    fn write_failed(&mut self, transport: &DatagramTransport, _: &WriteFailure) -> Result<()> {
        self.act(transport)
    }

    fn stop_protocol(&mut self, transport: &DatagramTransport, _: StopReason) {
        let _ = self.act(transport);
        self.stopped = true;
    }
}

/// Nothing panics, no port is called after its end, every accepted completion runs, and nothing
/// that has ended keeps the loop going.
#[test]
fn any_operation_from_any_callback_leaves_the_reactor_in_order() {
    seeds(12, |random| {
        let setup = Setup { portable: random.flip(), ..Setup::plain() };
        let lab = setup.lab();
        let program = Rc::new(Program {
            random: random.clone(),
            budget: Cell::new(3000),
            accepted: Cell::default(),
            completed: Cell::default(),
        });
        for _ in 0..400 {
            if program.budget.get() == 0 {
                break;
            }
            while lab.datagram_ports().len() < 3 {
                open(&program, &lab).unwrap();
            }
            lab.turn();
            // Whatever came to rest is set going again.
            for port in lab.datagram_ports() {
                let _ = port.resume_reading();
                let _ = port.disconnect();
                if let Ok(address) = port.local_addr() {
                    let _ = port.write_to(b"go on", address);
                }
            }
        }
        lab.stop();
        lab.run();
        assert_eq!(lab.stats().callback_panics, 0);
        assert!(lab.datagram_ports().is_empty());
        turn(lab.reactor(), 3);
        assert!(program.accepted.get() > 0);
        assert_eq!(program.completed.get(), program.accepted.get());
        for timer in lab.pending_timers() {
            let _ = timer.cancel();
        }
        turn(lab.reactor(), 2);
        assert!(!lab.reactor().iterate(Some(Duration::ZERO)).unwrap(), "something is left");
    });
}
