//! One side of a connection, which logs what it is told.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::Result;
use strand_reactor::{
    ClientFactory, ConnectError, ConnectionLost, Connector, ListeningPort, PeerAddr, Protocol,
    TcpOptions, Transport,
};

use crate::stage::Stage;

#[path = "../common/watchdog.rs"]
pub mod watchdog;

/// What a side was told; data in one line, however it came.
#[derive(Clone, Default)]
pub struct Told {
    lines: Rc<RefCell<Vec<String>>>,
    pub bytes: Rc<Cell<usize>>,
    pub transport: Rc<RefCell<Option<Transport>>>,
}

impl Told {
    pub fn note(&self, line: impl Into<String>) {
        self.lines.borrow_mut().push(line.into());
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.borrow().clone()
    }

    pub fn has(&self, line: &str) -> bool {
        self.lines.borrow().iter().any(|told| told == line)
    }

    /// Whether the last that it was told begins so.
    pub fn ends(&self, line: &str) -> bool {
        self.lines.borrow().last().is_some_and(|last| last.starts_with(line))
    }

    pub fn transport(&self) -> Transport {
        self.transport.borrow().clone().expect("connected")
    }
}

type Act = Box<dyn FnMut(&Transport) -> Result<()>>;
type Hear = Box<dyn FnMut(&Transport, &[u8]) -> Result<()>>;

#[derive(Default)]
pub struct Side {
    told: Told,
    made: Option<Act>,
    data: Option<Hear>,
    end: Option<Act>,
}

impl Side {
    pub fn new(told: &Told) -> Self {
        Self { told: told.clone(), ..Self::default() }
    }

    pub fn made(mut self, act: impl FnMut(&Transport) -> Result<()> + 'static) -> Self {
        self.made = Some(Box::new(act));
        self
    }

    pub fn data(mut self, hear: impl FnMut(&Transport, &[u8]) -> Result<()> + 'static) -> Self {
        self.data = Some(Box::new(hear));
        self
    }

    /// Instead of closing when the peer has ended what it sends.
    pub fn end(mut self, act: impl FnMut(&Transport) -> Result<()> + 'static) -> Self {
        self.end = Some(Box::new(act));
        self
    }

    pub fn echo(told: &Told) -> Self {
        Self::new(told).data(|transport, data| Ok(transport.write(data)?))
    }
}

impl Protocol for Side {
    fn connection_made(&mut self, transport: &Transport) -> Result<()> {
        self.told.note("made");
        *self.told.transport.borrow_mut() = Some(transport.clone());
        self.made.as_mut().map_or(Ok(()), |act| act(transport))
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> Result<()> {
        self.told.bytes.set(self.told.bytes.get() + data.len());
        if !self.told.ends("data") {
            self.told.note("data");
        }
        self.data.as_mut().map_or(Ok(()), |hear| hear(transport, data))
    }

    fn read_connection_lost(&mut self, transport: &Transport) -> Result<()> {
        self.told.note("end");
        match &mut self.end {
            Some(act) => act(transport),
            None => {
                transport.lose_connection();
                Ok(())
            }
        }
    }

    fn write_connection_lost(&mut self, _: &Transport) -> Result<()> {
        self.told.note("own end");
        Ok(())
    }

    fn pause_writing(&mut self, _: &Transport) -> Result<()> {
        self.told.note("pause");
        Ok(())
    }

    fn resume_writing(&mut self, _: &Transport) -> Result<()> {
        self.told.note("resume");
        Ok(())
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        self.told.note(format!("lost: {reason}"));
    }
}

/// Connects once.
struct Client {
    side: Option<Side>,
    told: Told,
}

impl ClientFactory for Client {
    fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> {
        Some(Box::new(self.side.take()?))
    }

    fn client_connection_failed(&mut self, _: &Connector, error: &ConnectError) -> Result<()> {
        let kind = match error {
            ConnectError::Io(source) => format!("{:?}", source.kind()),
            other => other.to_string(),
        };
        self.told.note(format!("failed: {kind}"));
        Ok(())
    }
}

impl dyn Stage + '_ {
    /// A listener there that gives out these sides, one for each connection.
    #[track_caller]
    pub fn listener(&self, sides: Vec<Side>) -> (ListeningPort, SocketAddr) {
        let mut sides = sides.into_iter();
        let options = TcpOptions::new(SocketAddr::new(self.there_ip(), 0));
        let port = self.there().listen_tcp(options, move |_: PeerAddr| sides.next());
        let port = port.expect("a free port");
        let address = port.local_addr().expect("open");
        (port, address)
    }

    /// Connects from here.
    #[track_caller]
    pub fn connect(&self, to: SocketAddr, side: Side) -> Connector {
        let told = side.told.clone();
        let client = Client { side: Some(side), told };
        self.here().connect_tcp(to, client).expect("an attempt")
    }

    /// A connection from here to there: what each side is told.
    #[track_caller]
    pub fn meet(&self, here: Side, there: Side) -> (Told, Told) {
        let told = (here.told.clone(), there.told.clone());
        let (_, address) = self.listener(vec![there]);
        self.connect(address, here);
        self.until(|| !told.0.lines().is_empty() && !told.1.lines().is_empty());
        told
    }
}
