//! A protocol that notes what it is told.
#![allow(dead_code, reason = "each suite uses its own part")]

use std::cell::RefCell;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::{ConnectionLost, Protocol, Transport};

pub type Log = Rc<RefCell<Vec<String>>>;
type React = Box<dyn FnMut(&Transport) -> anyhow::Result<()>>;
type ReactToLoss = Box<dyn FnMut(&ConnectionLost)>;
type ReactToData = Box<dyn FnMut(&Transport, &[u8]) -> anyhow::Result<()>>;

pub fn log() -> Log {
    Log::default()
}

pub fn note(log: &Log, what: impl Into<String>) {
    log.borrow_mut().push(what.into());
}

/// How often `what` stands in the log.
pub fn count(log: &Log, what: &str) -> usize {
    log.borrow().iter().filter(|line| *line == what).count()
}

#[track_caller]
pub fn assert_last(log: &Log, what: &str) {
    assert_eq!(log.borrow().last().map(String::as_str), Some(what), "{log:?}");
}

/// Notes every callback but `data_received`, and does what the test says.
#[derive(Default)]
pub struct Recorder {
    log: Log,
    made: Option<React>,
    data: Option<ReactToData>,
    half: Option<React>,
    ended: Option<React>,
    pause: Option<React>,
    resume: Option<React>,
    lost: Option<ReactToLoss>,
}

macro_rules! reactions {
    ($($name:ident),*) => {$(
        pub fn $name(mut self, react: impl FnMut(&Transport) -> anyhow::Result<()> + 'static) -> Self {
            self.$name = Some(Box::new(react));
            self
        }
    )*};
}

impl Recorder {
    pub fn new(log: &Log) -> Self {
        Self { log: Rc::clone(log), ..Self::default() }
    }

    reactions!(made, half, ended, pause, resume);

    pub fn data(
        mut self,
        react: impl FnMut(&Transport, &[u8]) -> anyhow::Result<()> + 'static,
    ) -> Self {
        self.data = Some(Box::new(react));
        self
    }

    /// Collects what is received.
    pub fn collect(self, into: &Rc<RefCell<Vec<u8>>>) -> Self {
        let into = Rc::clone(into);
        self.data(move |_, data| {
            into.borrow_mut().extend_from_slice(data);
            Ok(())
        })
    }

    pub fn lost(mut self, react: impl FnMut(&ConnectionLost) + 'static) -> Self {
        self.lost = Some(Box::new(react));
        self
    }
}

fn react(react: &mut Option<React>, transport: &Transport) -> anyhow::Result<()> {
    react.as_mut().map_or(Ok(()), |react| react(transport))
}

impl Protocol for Recorder {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        note(&self.log, "made");
        react(&mut self.made, transport)
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
        assert!(!data.is_empty());
        self.data.as_mut().map_or(Ok(()), |react| react(transport, data))
    }

    fn read_connection_lost(&mut self, transport: &Transport) -> anyhow::Result<()> {
        note(&self.log, "read lost");
        match &mut self.half {
            Some(half) => half(transport),
            None => {
                transport.lose_connection();
                Ok(())
            }
        }
    }

    fn write_connection_lost(&mut self, transport: &Transport) -> anyhow::Result<()> {
        note(&self.log, "write lost");
        react(&mut self.ended, transport)
    }

    fn pause_writing(&mut self, transport: &Transport) -> anyhow::Result<()> {
        note(&self.log, "pause");
        react(&mut self.pause, transport)
    }

    fn resume_writing(&mut self, transport: &Transport) -> anyhow::Result<()> {
        note(&self.log, "resume");
        react(&mut self.resume, transport)
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        note(
            &self.log,
            match &reason {
                ConnectionLost::Failed(error) => format!("lost: {error}"),
                other => format!("lost: {other:?}"),
            },
        );
        if let Some(lost) = &mut self.lost {
            lost(&reason);
        }
    }
}

/// Bytes in which a loss, a repetition or an exchange of parts shows.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| ((at * 31) >> 3) as u8 ^ (at >> 16) as u8).collect()
}

/// Closes with a reset.
pub fn reset(stream: TcpStream) {
    socket2::Socket::from(stream).set_linger(Some(Duration::ZERO)).expect("an option");
}

/// Where nobody of the system listens.
pub fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

pub fn read_all(stream: &mut impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("an orderly end");
    all
}
