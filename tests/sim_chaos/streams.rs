//! Connections that do something in every callback, and what must hold for each of them.

use std::cell::Cell;
use std::rc::Rc;

use anyhow::Result;
use strand_reactor::{
    ClientFactory, ConnectError, ConnectOptions, ConnectionLost, ConnectionState, Connector,
    Factory, Flow, Handle, ListeningPort, PeerAddr, Protocol, StreamLayer, Transport, WriteError,
};

use crate::actions::{Scene, act};
use crate::ledger::{Fate, Life, StreamBook, bump, byte_of};
use crate::options;
use crate::program::{Alive, PORTS, Program};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Built,
    Made,
    Lost,
}

pub struct Stream {
    alive: Alive,
    book: Rc<StreamBook>,
    phase: Phase,
    read_lost: bool,
    write_lost: bool,
    held_back: bool,
    /// Keeps its half open when the peer has ended its own.
    half: bool,
}

impl Stream {
    fn new(program: &Rc<Program>, life: &Rc<Life>) -> Self {
        let number = program.streams.borrow().len();
        let book = Rc::new(StreamBook {
            life: Rc::clone(life),
            number,
            transport: Default::default(),
            written: Cell::default(),
            received: Cell::default(),
            header: Default::default(),
            promises: Default::default(),
            aborted: Cell::default(),
            ended: Cell::default(),
            has_layers: Cell::default(),
        });
        program.streams.borrow_mut().push(Rc::clone(&book));
        Self {
            alive: Alive::new(program),
            book,
            phase: Phase::Built,
            read_lost: false,
            write_lost: false,
            held_back: false,
            half: program.random.one_in(3),
        }
    }

    fn program(&self) -> &Rc<Program> {
        &self.alive.0
    }

    fn enter(&self, what: &'static str, transport: Option<&Transport>) {
        let (program, life) = (self.program(), &self.book.life);
        program.note(what, life.host, self.book.number as u64);
        program.expect(!life.crashed.get(), || format!("{what} on a host that crashed"));
        program.expect(self.phase == Phase::Made, || format!("{what} while {:?}", self.phase));
        if let Some(transport) = transport {
            let state = transport.state();
            let open = !matches!(state, ConnectionState::Closed);
            program.expect(open, || format!("{what} while {state:?}"));
        }
    }

    fn act(&self) -> Result<()> {
        act(self.program(), &self.book.life, Scene::Stream(&self.book))
    }

    /// What arrives are the bytes that the other end wrote, in order.
    fn check(&self, data: &[u8]) {
        let (program, book) = (self.program(), &self.book);
        program.expect(!data.is_empty(), || "no data received".to_owned());
        let from = book.received.get();
        bump(&book.received, data.len());
        {
            let header = &mut *book.header.borrow_mut();
            let wanted = 4 - header.len().min(4);
            header.extend_from_slice(&data[..wanted.min(data.len())]);
        }
        let Some(other) = book.other() else { return };
        let wrong = data.iter().zip(from..).find(|(byte, at)| **byte != byte_of(other, *at));
        program.expect(wrong.is_none(), || format!("{wrong:?} came to stream {}", book.number));
        let written = program.streams.borrow().get(other).map(|other| other.written.get());
        let received = book.received.get();
        program.expect(written.is_some_and(|written| received <= written), || {
            format!("{received} bytes of stream {other}, which wrote {written:?}")
        });
    }

    /// All that was written has left, or waits.
    pub fn check_account(program: &Program, book: &StreamBook) {
        let Some(transport) = book.transport.borrow().clone() else { return };
        let Ok(stats) = transport.stats() else { return };
        if !transport.writable() || book.has_layers.get() {
            return;
        }
        let (written, waiting) = (book.written.get(), transport.queued_bytes() as u64);
        program.expect(written == stats.bytes_out + waiting, || {
            format!("{written} bytes were taken; {waiting} wait, the rest: {stats:?}")
        });
    }
}

impl Protocol for Stream {
    fn connection_made(&mut self, transport: &Transport) -> Result<()> {
        let program = Rc::clone(self.program());
        program.note("made", self.book.life.host, self.book.number as u64);
        program.expect(self.phase == Phase::Built, || format!("made while {:?}", self.phase));
        program.expect(!self.book.life.crashed.get(), || "made after a crash".to_owned());
        self.phase = Phase::Made;
        *self.book.transport.borrow_mut() = Some(transport.clone());
        if program.random.one_in(4) {
            write(&program, &self.book);
        }
        self.act()
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> Result<()> {
        self.enter("data", Some(transport));
        let program = Rc::clone(self.program());
        program.expect(!self.read_lost, || "data after the end".to_owned());
        program.expect(transport.readable(), || "data while it is closing".to_owned());
        let paused = transport.is_reading_paused() && !self.book.has_layers.get();
        program.expect(!paused, || "data while reading is paused".to_owned());
        self.check(data);
        // Two that answer each other for ever would never rest.
        if program.random.flip() && self.book.written.get() < MOST_WRITTEN {
            write(&program, &self.book);
        }
        self.act()
    }

    fn read_connection_lost(&mut self, transport: &Transport) -> Result<()> {
        self.enter("read lost", Some(transport));
        let (program, book) = (Rc::clone(self.program()), &self.book);
        program.expect(!self.read_lost, || "the end is told twice".to_owned());
        self.read_lost = true;
        if let Some(other) = book.other() {
            let written = program.streams.borrow()[other].written.get();
            let received = book.received.get();
            program.expect(received == written, || {
                format!("the end after {received} of {written} bytes of stream {other}")
            });
        }
        if !self.half {
            transport.lose_connection();
        }
        self.act()
    }

    fn write_connection_lost(&mut self, transport: &Transport) -> Result<()> {
        self.enter("write lost", Some(transport));
        let program = self.program();
        program.expect(!self.write_lost, || "the end of writing is told twice".to_owned());
        program.expect(self.book.ended.get(), || "nobody ended what it writes".to_owned());
        self.write_lost = true;
        self.act()
    }

    fn pause_writing(&mut self, transport: &Transport) -> Result<()> {
        self.enter("pause", Some(transport));
        self.program().expect(!self.held_back, || "paused twice".to_owned());
        self.held_back = true;
        self.act()
    }

    fn resume_writing(&mut self, transport: &Transport) -> Result<()> {
        self.enter("resume", Some(transport));
        self.program().expect(self.held_back, || "resumed without a pause".to_owned());
        self.held_back = false;
        self.act()
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        self.enter("lost", None);
        let (program, book) = (Rc::clone(self.program()), &self.book);
        program.note(&format!("{reason}"), book.number, book.received.get());
        let state = book.transport.borrow().as_ref().map(Transport::state);
        program.expect(state == Some(ConnectionState::Closed), || format!("lost while {state:?}"));
        let open = book.promises.borrow().iter().filter(|fate| fate.get() == Fate::Pending).count();
        program.expect(open == 0, || format!("{open} completions come after the loss"));
        if matches!(reason, ConnectionLost::Aborted) {
            let why = book.aborted.get() || book.life.stopped.get() || book.ended.get();
            program.expect(why, || "aborted by nobody".to_owned());
        }
        self.phase = Phase::Lost;
        let _ = self.act();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let (program, life) = (self.program(), &self.book.life);
        let over = life.crashed.get() || program.world().is_none();
        program.expect(over || self.phase != Phase::Made, || {
            "a connection was dropped without its end".to_owned()
        });
    }
}

/// After so many bytes an end only answers no more.
const MOST_WRITTEN: u64 = 200_000;

/// Writes something in one of the ways there are.
pub fn write(program: &Rc<Program>, book: &Rc<StreamBook>) {
    let Some(transport) = book.transport.borrow().clone() else { return };
    let random = &program.random;
    let len = match random.below(12) {
        0 => 20_000 + random.index(60_000),
        1 | 2 => random.index(5_000),
        _ => 1 + random.index(100),
    };
    let data = book.next_bytes(len);
    let taken = match random.below(5) {
        0 => {
            let (token, fate) = program.promise("completion of a stream", &book.life);
            let (inner, other) = (Rc::clone(program), Rc::clone(book));
            let done = move |_: Result<usize, WriteError>| {
                token.called();
                act(&inner, &other.life, Scene::Stream(&other))
            };
            let result = transport.write_then(&data, done);
            match result {
                Ok(()) => book.promises.borrow_mut().push(fate),
                Err(_) => program.unpromise(&fate),
            }
            result.map_or(0, |()| len)
        }
        1 => transport.try_write(&data).unwrap_or(0),
        2 => transport.write_bytes(data).map_or(0, |()| len),
        _ => transport.write(&data).map_or(0, |()| len),
    };
    program.note("write tcp", book.number, taken as u64);
    bump(&book.written, taken);
}

/// Hands everything on as it is.
struct Through;

impl StreamLayer for Through {
    fn received(&mut self, data: &[u8], flow: &mut Flow) -> Result<()> {
        flow.deliver(data);
        Ok(())
    }

    fn written(&mut self, data: &[u8], flow: &mut Flow) -> Result<()> {
        flow.send(data);
        Ok(())
    }
}

/// Something else that can be done to a connection.
pub fn meddle(program: &Rc<Program>, book: &Rc<StreamBook>) {
    let Some(transport) = book.transport.borrow().clone() else { return };
    let random = &program.random;
    let what = random.below(14);
    program.note("meddle tcp", book.life.host, what);
    match what {
        0 => {
            book.ended.set(true);
            transport.lose_connection();
        }
        1 => {
            book.aborted.set(true);
            transport.abort_connection();
        }
        2 => {
            book.ended.set(true);
            transport.lose_write();
        }
        3 | 4 => drop(transport.pause_reading()),
        5..=8 => drop(transport.resume_reading()),
        9 => drop(transport.flush()),
        10 => drop(if random.flip() { transport.unref() } else { transport.reref() }),
        11 => drop(transport.set_write_watermarks(random.index(50), 50 + random.index(500))),
        12 => {
            book.has_layers.set(true);
            let _ = transport.push_layer(Through);
        }
        _ => drop(transport.set_nodelay(random.flip())),
    }
}

/// Takes connections.
struct Server {
    alive: Alive,
    life: Rc<Life>,
    started: bool,
    stopped: bool,
}

impl Factory for Server {
    fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> {
        let program = &self.alive.0;
        program.note("accept", self.life.host, 0);
        let open = self.started && !self.stopped && !self.life.crashed.get();
        program.expect(open, || "a factory is asked that is not open".to_owned());
        if program.random.one_in(12) {
            return None;
        }
        Some(Box::new(Stream::new(program, &self.life)))
    }

    fn start_factory(&mut self) -> Result<()> {
        let program = &self.alive.0;
        program.expect(!self.started, || "a factory starts twice".to_owned());
        anyhow::ensure!(!program.random.one_in(20), "it does not want to");
        self.started = true;
        Ok(())
    }

    fn stop_factory(&mut self) -> Result<()> {
        let program = &self.alive.0;
        program.note("stop factory", self.life.host, 0);
        let open = self.started && !self.stopped && !self.life.crashed.get();
        program.expect(open, || "a factory stops that is not open".to_owned());
        self.stopped = true;
        act(program, &self.life, Scene::Free)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let program = &self.alive.0;
        let over = self.life.crashed.get() || program.world().is_none();
        program.expect(over || !self.started || self.stopped, || {
            "a factory was dropped without its end".to_owned()
        });
    }
}

pub fn listen(program: &Rc<Program>, life: &Rc<Life>, handle: &Handle) {
    let random = &program.random;
    let number = if random.one_in(4) { 0 } else { random.pick(&PORTS) };
    let at = options::address(program, life.host, number);
    let alive = Alive::new(program);
    let factory = Server { alive, life: Rc::clone(life), started: false, stopped: false };
    let opened = handle.listen_tcp(options::listen(random, at), factory);
    program.note("listen tcp", life.host, u64::from(opened.is_ok()));
    if let Ok(port) = opened {
        program.kept.listeners.borrow_mut().push((Rc::clone(life), port));
    }
}

pub fn meddle_listener(program: &Rc<Program>, life: &Rc<Life>, port: &ListeningPort) {
    let what = program.random.below(8);
    program.note("meddle listener", life.host, what);
    match what {
        0 => port.stop_listening(),
        1 => {
            let (token, fate) = program.promise("stop_listening_then of TCP", life);
            let (inner, life) = (Rc::clone(program), Rc::clone(life));
            let done = move |_: &Handle| {
                token.called();
                act(&inner, &life, Scene::Free)
            };
            if port.stop_listening_then(done).is_err() {
                program.unpromise(&fate);
            }
        }
        2 => drop(port.pause_accepting()),
        3..=5 => drop(port.resume_accepting()),
        6 => drop(port.unref()),
        _ => drop(port.reref()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    Idle,
    Started,
    Built,
    /// `build_protocol` gave none: the failure follows.
    Refused,
}

/// Makes connections, one after the other.
struct Dial {
    alive: Alive,
    life: Rc<Life>,
    attempt: Attempt,
    /// `started_connecting` was called: from now on it is from the loop.
    begun: bool,
}

impl Dial {
    fn step(&mut self, what: &'static str, from: &[Attempt], to: Attempt) {
        let program = &self.alive.0;
        program.note(what, self.life.host, 0);
        program.expect(!self.life.crashed.get(), || format!("{what} after a crash"));
        program.expect(from.contains(&self.attempt), || format!("{what} while {:?}", self.attempt));
        self.attempt = to;
    }

    fn again(&self, connector: &Connector) -> Result<()> {
        if self.alive.0.random.one_in(3) {
            drop(connector.connect());
        }
        act(&self.alive.0, &self.life, Scene::Free)
    }
}

impl ClientFactory for Dial {
    fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> {
        let refuse = self.alive.0.random.one_in(12);
        let to = if refuse { Attempt::Refused } else { Attempt::Built };
        self.step("connected", &[Attempt::Started], to);
        if refuse {
            return None;
        }
        Some(Box::new(Stream::new(&self.alive.0, &self.life)))
    }

    fn started_connecting(&mut self, _: &Connector) -> Result<()> {
        self.step("connecting", &[Attempt::Idle], Attempt::Started);
        // Which it stays if this panics.
        self.attempt = Attempt::Idle;
        let scene = if self.begun { Scene::Free } else { Scene::Starting };
        self.begun = true;
        act(&self.alive.0, &self.life, scene)?;
        self.attempt = Attempt::Started;
        Ok(())
    }

    fn client_connection_failed(
        &mut self,
        connector: &Connector,
        error: &ConnectError,
    ) -> Result<()> {
        self.alive.0.note(&error.to_string(), self.life.host, 0);
        let from = [Attempt::Started, Attempt::Refused, Attempt::Idle];
        self.step("connect failed", &from, Attempt::Idle);
        self.again(connector)
    }

    fn client_connection_lost(&mut self, connector: &Connector, _: &ConnectionLost) -> Result<()> {
        self.step("client lost", &[Attempt::Built], Attempt::Idle);
        self.again(connector)
    }
}

pub fn connect(program: &Rc<Program>, life: &Rc<Life>, handle: &Handle) {
    let random = &program.random;
    let to = match random.below(5) {
        0 => {
            let name = program.hosts[random.index(program.hosts.len())].name.clone();
            ConnectOptions::host(name, random.pick(&PORTS))
        }
        1 => ConnectOptions::any_of([program.somewhere(), program.somewhere()]),
        _ => ConnectOptions::new(program.somewhere()),
    };
    let alive = Alive::new(program);
    let factory = Dial { alive, life: Rc::clone(life), attempt: Attempt::Idle, begun: false };
    let connector = handle.connect_tcp(options::connect(random, to), factory);
    program.note("connect tcp", life.host, u64::from(connector.is_ok()));
    if let Ok(connector) = connector
        && random.flip()
    {
        program.kept.connectors.borrow_mut().push(connector);
    }
}

pub fn meddle_connector(program: &Program, connector: &Connector) {
    match program.random.below(4) {
        0 => drop(connector.stop_connecting()),
        1 => {
            if let Some(transport) = connector.transport() {
                let streams = program.streams.borrow();
                let book = streams.iter().find(|book| {
                    book.transport
                        .borrow()
                        .as_ref()
                        .is_some_and(|t| t.is_same_connection(&transport))
                });
                if let Some(book) = book {
                    book.ended.set(true);
                }
            }
            connector.disconnect();
        }
        _ => drop(connector.connect()),
    }
}
