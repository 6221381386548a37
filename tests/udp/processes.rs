//! Two processes.
//!
//! The child is this very test binary, asked by an environment variable to be the server.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::rc::Rc;

use crate::support::{Lab, PATIENCE, Recorder, Setup, everywhere_on_the_system, spawn};

const FAMILY: &str = "STRAND_TEST_SERVER";

/// The server: answers every number with its double until its standard input ends.
#[test]
fn in_the_child_numbers_are_doubled() {
    let Ok(wanted) = std::env::var(FAMILY) else {
        return; // The parent below starts this as a child.
    };
    let s = Setup::all().find(|s| s.to_string() == wanted).unwrap();
    let lab = Lab::new(s);
    let port = lab.open(Recorder::quiet().on_datagram(|transport, datagram| {
        let number = u64::from_le_bytes(datagram.payload().try_into()?);
        transport.write_to(&(number * 2).to_le_bytes(), datagram.source())?;
        Ok(())
    }));
    // A line of its own, whatever the test harness has written before.
    println!("\nlistening on {}", port.local_addr().unwrap().port());
    let remote = lab.remote();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        remote.stop();
    });
    lab.call_later(PATIENCE * 3, |handle| handle.stop()).unref();
    lab.reactor().run().unwrap();
}

/// The child, ended with the test however that ends.
struct Server {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(s: &Setup) -> (Self, u16) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["processes::in_the_child_numbers_are_doubled", "--exact", "--nocapture"])
            .env(FAMILY, s.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = spawn(&mut command).unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut server = Self { child, output };
        let number = server
            .output
            .by_ref()
            .lines()
            .find_map(|line| line.ok()?.strip_prefix("listening on ")?.parse().ok())
            .expect("the child listens");
        (server, number)
    }
}

#[test]
fn two_processes_exchange_counters_connected_and_not() {
    const ROUNDS: u64 = 200;
    // No process is on the network of another's world.
    everywhere_on_the_system(|s| {
        let (mut server, number) = Server::start(s);
        let to = std::net::SocketAddr::new(s.peer_ip(), number);
        for connected in [false, true] {
            let lab = s.lab();
            let round = Rc::new(Cell::new(0));
            let count = Rc::clone(&round);
            let send = move |transport: &strand_reactor::DatagramTransport, number: u64| {
                let payload = number.to_le_bytes();
                match connected {
                    true => transport.write(&payload),
                    false => transport.write_to(&payload, to),
                }
            };
            let port = lab.open(Recorder::quiet().on_datagram(move |transport, datagram| {
                let doubled = u64::from_le_bytes(datagram.payload().try_into()?);
                assert_eq!(doubled, 2 * count.get());
                count.set(count.get() + 1);
                match count.get() {
                    ROUNDS => transport.stop_listening(),
                    next => send(transport, next)?,
                }
                Ok(())
            }));
            if connected {
                port.connect(to).unwrap();
            }
            send(&port, 0).unwrap();
            lab.run();
            assert_eq!((round.get(), lab.stats().callback_panics), (ROUNDS, 0));
        }
        // The end of its input ends the child in order.
        drop(server.child.stdin.take());
        server.output.read_to_end(&mut Vec::new()).unwrap();
        assert!(server.child.wait().unwrap().success());
    });
}
