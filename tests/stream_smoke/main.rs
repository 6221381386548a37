//! TCP on the loop: servers, clients, closing, back-pressure, against the system's own sockets.

mod clients;
mod data;
mod servers;

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use strand_reactor::{
    AcceptBudget, ClientFactory, ConnectError, ConnectOptions, ConnectionLost, Connector,
    ConnectorState, Factory, Family, Handle, KeepAlive, PeerAddr, Protocol, Reactor, SharedFactory,
    TcpOptions, Transport, WriteError,
};

/// Bounds every test: a hang is a failure.
const WATCHDOG: Duration = Duration::from_secs(60);

fn hang(handle: &Handle) {
    handle.stop();
    panic!("the test hangs");
}

fn reactor() -> Reactor {
    let reactor = Reactor::new().expect("a reactor");
    reactor.call_later(WATCHDOG, hang).unref();
    reactor
}

fn run(reactor: &Reactor) {
    reactor.run().expect("the loop runs");
    assert_eq!(reactor.stats().callback_panics, 0, "a callback panicked");
}

type Log = Rc<RefCell<Vec<String>>>;
type React = Box<dyn FnMut(&Transport) -> anyhow::Result<()>>;
type ReactToData = Box<dyn FnMut(&Transport, &[u8]) -> anyhow::Result<()>>;

/// Notes every callback, and does what the test says.
struct Recorder {
    log: Log,
    made: React,
    data: ReactToData,
    half_close: Option<React>,
}

impl Recorder {
    fn new(log: &Log) -> Self {
        Self {
            log: Rc::clone(log),
            made: Box::new(|_| Ok(())),
            data: Box::new(|_, _| Ok(())),
            half_close: None,
        }
    }

    fn made(mut self, made: impl FnMut(&Transport) -> anyhow::Result<()> + 'static) -> Self {
        self.made = Box::new(made);
        self
    }

    fn data(mut self, data: impl FnMut(&Transport, &[u8]) -> anyhow::Result<()> + 'static) -> Self {
        self.data = Box::new(data);
        self
    }

    fn half(mut self, half: impl FnMut(&Transport) -> anyhow::Result<()> + 'static) -> Self {
        self.half_close = Some(Box::new(half));
        self
    }

    fn note(&self, what: impl Into<String>) {
        self.log.borrow_mut().push(what.into());
    }
}

impl Protocol for Recorder {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        self.note("made");
        (self.made)(transport)
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
        (self.data)(transport, data)
    }

    fn read_connection_lost(&mut self, transport: &Transport) -> anyhow::Result<()> {
        self.note("read lost");
        match &mut self.half_close {
            Some(half) => half(transport),
            None => {
                transport.lose_connection();
                Ok(())
            }
        }
    }

    fn write_connection_lost(&mut self, _: &Transport) -> anyhow::Result<()> {
        self.note("write lost");
        Ok(())
    }

    fn pause_writing(&mut self, _: &Transport) -> anyhow::Result<()> {
        self.note("pause");
        Ok(())
    }

    fn resume_writing(&mut self, _: &Transport) -> anyhow::Result<()> {
        self.note("resume");
        Ok(())
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        let told = match &reason {
            ConnectionLost::Failed(error) => format!("lost: {error}"),
            other => format!("lost: {other:?}"),
        };
        self.note(told);
    }
}

/// One connection of a peer on a thread; the reactor's side is what `protocol` says.
fn against<R: Send + 'static>(
    protocol: Recorder,
    options: impl FnOnce(TcpOptions) -> TcpOptions,
    peer: impl FnOnce(TcpStream) -> R + Send + 'static,
) -> R {
    let reactor = reactor();
    let mut protocol = Some(protocol);
    let options = options(TcpOptions::parse("127.0.0.1:0").expect("an address"));
    let port = reactor.listen_tcp(options, move |_: PeerAddr| protocol.take()).expect("a port");
    let address = port.local_addr().expect("an address");
    port.unref().expect("open");
    // Keeps the loop until the peer is through.
    let remote = reactor.remote();
    let keep = reactor.call_later(WATCHDOG, hang);
    let peer: JoinHandle<R> = std::thread::spawn(move || {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(WATCHDOG)).expect("a timeout");
        let result = peer(stream);
        drop(remote);
        result
    });
    let done = Rc::new(Cell::new(false));
    while !done.get() {
        let alive = reactor.iterate(Some(Duration::from_millis(20))).expect("a turn");
        done.set(peer.is_finished() && reactor.streams().is_empty() || !alive);
    }
    keep.cancel().expect("in time");
    assert_eq!(reactor.stats().callback_panics, 0);
    peer.join().expect("the peer is content")
}

fn log() -> Log {
    Log::default()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| ((at * 31) >> 3) as u8).collect()
}

fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("an orderly end");
    all
}
