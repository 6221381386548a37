//! A protocol that notes what it is told, on a scripted socket.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::testing::{ScriptedStream, StreamEvent};
use strand_reactor::{ConnectionLost, Handle, Protocol, Reactor, Transport};

pub type Log = Rc<RefCell<Vec<String>>>;
type React = Box<dyn FnMut(&Transport, &[u8]) -> anyhow::Result<()>>;

/// Notes every callback. Stays open when the peer has ended what it sends.
pub struct Recorder {
    log: Log,
    react: React,
}

impl Recorder {
    pub fn new(log: &Log) -> Self {
        Self { log: Rc::clone(log), react: Box::new(|_, _| Ok(())) }
    }

    /// What else to do with data.
    pub fn on_data(
        mut self,
        react: impl FnMut(&Transport, &[u8]) -> anyhow::Result<()> + 'static,
    ) -> Self {
        self.react = Box::new(react);
        self
    }

    fn note(&self, what: impl Into<String>) {
        self.log.borrow_mut().push(what.into());
    }
}

impl Protocol for Recorder {
    fn connection_made(&mut self, _: &Transport) -> anyhow::Result<()> {
        self.note("made");
        Ok(())
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
        self.note(format!("data {}", String::from_utf8_lossy(data)));
        (self.react)(transport, data)
    }

    fn read_connection_lost(&mut self, _: &Transport) -> anyhow::Result<()> {
        self.note("read lost");
        Ok(())
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
        self.note(match &reason {
            ConnectionLost::Failed(error) => {
                let errno = error.downcast_ref().and_then(std::io::Error::raw_os_error);
                format!("lost: {errno:?}")
            }
            other => format!("lost: {other:?}"),
        });
    }
}

pub fn peer() -> SocketAddr {
    "192.0.2.1:7".parse().expect("an address")
}

fn hang(_: &Handle) {
    panic!("the test hangs");
}

pub fn reactor() -> Reactor {
    let reactor = Reactor::new().expect("a reactor");
    let hang = reactor.call_later(Duration::from_secs(60), hang);
    hang.unref();
    reactor
}

/// One turn that waits for nothing.
#[track_caller]
pub fn turn(reactor: &Reactor) {
    reactor.iterate(Some(Duration::ZERO)).expect("a turn");
    assert_eq!(reactor.stats().callback_panics, 0, "a callback panicked, or the test hangs");
}

/// Turns until `done`; what that waits for comes by a timer.
#[track_caller]
pub fn turn_until(reactor: &Reactor, mut done: impl FnMut() -> bool) {
    while !done() {
        reactor.iterate(None).expect("a turn");
        assert_eq!(reactor.stats().callback_panics, 0, "a callback panicked, or the test hangs");
    }
}

/// A connection on a scripted socket, made and told so.
pub struct Stage {
    pub reactor: Reactor,
    pub script: ScriptedStream,
    pub transport: Transport,
    pub log: Log,
}

impl Stage {
    pub fn new() -> Self {
        Self::with(|recorder| recorder)
    }

    pub fn with(recorder: impl FnOnce(Recorder) -> Recorder) -> Self {
        let (reactor, log) = (reactor(), Log::default());
        let script = ScriptedStream::new(peer());
        let protocol = recorder(Recorder::new(&log));
        let transport = script.attach(&reactor, protocol).expect("attached");
        let stage = Self { reactor, script, transport, log };
        stage.turns(2);
        stage.expect(&["made"]);
        stage
    }

    #[track_caller]
    pub fn turns(&self, turns: usize) {
        for _ in 0..turns {
            turn(&self.reactor);
        }
    }

    /// Raises an event and gives it what turns it takes.
    #[track_caller]
    pub fn raise(&self, event: StreamEvent) {
        self.script.raise(event);
        self.turns(3);
    }

    /// What was noted since the last time.
    #[track_caller]
    pub fn expect(&self, notes: &[&str]) {
        assert_eq!(std::mem::take(&mut *self.log.borrow_mut()), notes);
    }

    /// Writes with a completion that notes how it went.
    #[track_caller]
    pub fn write_noted(&self, data: &[u8]) {
        let log = Rc::clone(&self.log);
        self.transport
            .write_then(data, move |result| {
                let note = match result {
                    Ok(len) => format!("sent {len}"),
                    Err(strand_reactor::WriteError::Io(error)) => {
                        format!("failed {:?}", error.raw_os_error())
                    }
                    Err(error) => format!("failed {error:?}"),
                };
                log.borrow_mut().push(note);
            })
            .expect("taken");
    }
}

/// The numbers of Linux.
pub mod errno {
    pub const EPERM: i32 = 1;
    pub const EIO: i32 = 5;
    pub const EBADF: i32 = 9;
    pub const EAGAIN: i32 = 11;
    pub const ENOMEM: i32 = 12;
    pub const EINVAL: i32 = 22;
    pub const ENFILE: i32 = 23;
    pub const EMFILE: i32 = 24;
    pub const EPIPE: i32 = 32;
    pub const EPROTO: i32 = 71;
    pub const ENOPROTOOPT: i32 = 92;
    pub const EOPNOTSUPP: i32 = 95;
    pub const ENETDOWN: i32 = 100;
    pub const ENETUNREACH: i32 = 101;
    pub const ECONNABORTED: i32 = 103;
    pub const ECONNRESET: i32 = 104;
    pub const ENOBUFS: i32 = 105;
    pub const ENOTCONN: i32 = 107;
    pub const ETIMEDOUT: i32 = 110;
    pub const ECONNREFUSED: i32 = 111;
    pub const EHOSTDOWN: i32 = 112;
    pub const EHOSTUNREACH: i32 = 113;
}
