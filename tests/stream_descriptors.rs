//! A process that runs out of descriptors: those who wait are shed, the factory is told, nothing
//! spins, and the port comes back by itself.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::io::Read;
use std::net::TcpStream;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::{Factory, Handle, PeerAddr, Protocol, Reactor, Transport};

const IN_CHILD: &str = "STRAND_TEST_FEW_DESCRIPTORS";

/// Closes each connection with a greeting, and notes the errors of accepting.
struct Greeter {
    errors: Rc<RefCell<Vec<Option<i32>>>>,
    on_error: Rc<RefCell<Vec<File>>>,
}

struct Greeting;

impl Protocol for Greeting {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        transport.write(b"hello")?;
        transport.lose_connection();
        Ok(())
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }
}

impl Factory for Greeter {
    fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> {
        Some(Box::new(Greeting))
    }

    fn accept_error(&mut self, error: &io::Error) {
        self.errors.borrow_mut().push(error.raw_os_error());
        // What was wanting is there again.
        self.on_error.borrow_mut().clear();
    }
}

#[test]
fn a_port_survives_the_want_of_descriptors() {
    if std::env::var_os(IN_CHILD).is_none() {
        // The limit is the process's: in a child it hurts nobody else.
        let this = std::env::current_exe().expect("this program");
        let script = format!("ulimit -n 48 && exec {:?} --exact --nocapture \"$1\"", this);
        let status = Command::new("sh")
            .args(["-c", &script, "sh", "a_port_survives_the_want_of_descriptors"])
            .env(IN_CHILD, "1")
            .status();
        return match status {
            Ok(status) => assert!(status.success(), "{status}"),
            Err(error) => println!("skipped: no shell to lower the limit with: {error}"),
        };
    }
    let reactor = Reactor::new().expect("a reactor");
    let hang = reactor.call_later(Duration::from_secs(30), |handle: &Handle| handle.stop());
    hang.unref();
    let errors = Rc::new(RefCell::new(Vec::new()));
    let fillers = Rc::new(RefCell::new(Vec::new()));
    let factory = Greeter { errors: Rc::clone(&errors), on_error: Rc::clone(&fillers) };
    let port = reactor.listen_tcp("127.0.0.1:0", factory).expect("a port");
    let address = port.local_addr().expect("bound");

    // Three wait, and not a descriptor is left to take them with.
    let mut waiting: Vec<_> =
        (0..3).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    while let Ok(filler) = File::open("/dev/null") {
        fillers.borrow_mut().push(filler);
    }
    while errors.borrow().is_empty() {
        assert!(reactor.iterate(None).expect("a turn"), "the port is gone");
        assert!(hang.active(), "the port hangs");
    }
    assert_eq!(*errors.borrow(), [Some(24)]);
    let stats = port.stats().expect("open");
    assert_eq!((stats.accepted, stats.shed, stats.accept_errors), (0, 3, 1));
    for stream in &mut waiting {
        assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0, "shed connections are closed");
    }

    // It refrains without spinning, and comes back.
    let turns = reactor.stats().turns;
    let mut stream = TcpStream::connect(address).expect("a connection");
    while port.stats().expect("open").accepted == 0 {
        reactor.iterate(None).expect("a turn");
        assert!(hang.active(), "the port hangs");
    }
    assert!(reactor.stats().turns - turns < 10, "the loop spins");
    while !reactor.streams().iter().all(|stream| !stream.writable()) {
        reactor.iterate(None).expect("a turn");
    }
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).expect("a greeting");
    assert_eq!(&hello, b"hello");
    assert_eq!(errors.borrow().len(), 1);
}
