//! Protocols that note what they are told and do what the test says.

use std::cell::RefCell;
use std::rc::Rc;

use strand_reactor::sim::World;
use strand_reactor::{
    ClientFactory, ConnectError, ConnectionLost, Connector, Handle, ListeningPort, PeerAddr,
    Protocol, TcpOptions, Transport,
};

/// What a protocol was told, in order; data as the sum of what came between two other lines.
pub type Log = Rc<RefCell<Vec<String>>>;
type Act = Box<dyn FnMut(&Transport) -> anyhow::Result<()>>;

pub fn note(log: &Log, what: impl Into<String>) {
    log.borrow_mut().push(what.into());
}

pub fn lines(log: &Log) -> Vec<String> {
    log.borrow().clone()
}

/// One side of a connection.
#[derive(Default)]
pub struct Side {
    pub log: Log,
    pub received: Rc<RefCell<Vec<u8>>>,
    made: Option<Act>,
    half: Option<Act>,
    paused: Option<Act>,
    resumed: Option<Act>,
    data: Option<Act>,
    /// Done once so many bytes have come.
    after: Vec<(usize, Act)>,
}

macro_rules! acts {
    ($($name:ident),*) => {$(
        pub fn $name(mut self, act: impl FnMut(&Transport) -> anyhow::Result<()> + 'static) -> Self {
            self.$name = Some(Box::new(act));
            self
        }
    )*};
}

impl Side {
    acts!(made, half, data, paused, resumed);

    pub fn new(log: &Log) -> Self {
        Self { log: Rc::clone(log), ..Self::default() }
    }

    pub fn after(
        mut self,
        bytes: usize,
        act: impl FnMut(&Transport) -> anyhow::Result<()> + 'static,
    ) -> Self {
        self.after.push((bytes, Box::new(act)));
        self
    }

    /// Writes as long as there is room, and closes.
    pub fn sends(self, data: Vec<u8>) -> Self {
        self.made(move |transport| {
            transport.write(&data)?;
            transport.lose_connection();
            Ok(())
        })
    }
}

fn act(act: &mut Option<Act>, transport: &Transport) -> anyhow::Result<()> {
    act.as_mut().map_or(Ok(()), |act| act(transport))
}

impl Protocol for Side {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        note(&self.log, "made");
        act(&mut self.made, transport)
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
        self.received.borrow_mut().extend_from_slice(data);
        let sum = {
            let log = &mut *self.log.borrow_mut();
            let before = match log.last().and_then(|line| line.strip_prefix("data ")) {
                Some(before) => before.parse().unwrap_or(0),
                None => 0,
            };
            if before > 0 {
                log.pop();
            }
            log.push(format!("data {}", before + data.len()));
            self.received.borrow().len()
        };
        if self.after.first().is_some_and(|(bytes, _)| sum >= *bytes) {
            let (_, mut act) = self.after.remove(0);
            act(transport)?;
        }
        act(&mut self.data, transport)
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

    fn write_connection_lost(&mut self, _: &Transport) -> anyhow::Result<()> {
        note(&self.log, "write lost");
        Ok(())
    }

    fn pause_writing(&mut self, transport: &Transport) -> anyhow::Result<()> {
        act(&mut self.paused, transport)
    }

    fn resume_writing(&mut self, transport: &Transport) -> anyhow::Result<()> {
        act(&mut self.resumed, transport)
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        note(&self.log, format!("lost: {}", told(&reason)));
    }
}

fn told(reason: &ConnectionLost) -> String {
    match reason {
        ConnectionLost::Failed(error) => error.to_string(),
        other => format!("{other:?}"),
    }
}

/// A client of one attempt; its failure is noted, too.
pub struct Client(pub Option<Side>, pub Log);

impl Client {
    pub fn new(side: Side) -> Self {
        let log = Rc::clone(&side.log);
        Self(Some(side), log)
    }
}

impl ClientFactory for Client {
    fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> {
        Some(Box::new(self.0.take()?))
    }

    fn client_connection_failed(
        &mut self,
        _: &Connector,
        error: &ConnectError,
    ) -> anyhow::Result<()> {
        let told = match error {
            ConnectError::Io(source) => source.to_string(),
            other => other.to_string(),
        };
        note(&self.1, format!("failed: {told}"));
        Ok(())
    }
}

/// Gives out protocols until there are no more; further connections are closed.
pub fn server(
    sides: impl IntoIterator<Item = Side> + 'static,
) -> impl FnMut(PeerAddr) -> Option<Side> {
    let mut sides: Vec<Side> = sides.into_iter().collect();
    sides.reverse();
    move |_| sides.pop()
}

/// Two hosts, 10.0.0.1 and 10.0.0.2.
pub fn two_hosts() -> (World, Handle, Handle) {
    let world = World::new(1);
    let server = world.host("server", "10.0.0.1, fd00::1").expect("a host");
    let client = world.host("client", "10.0.0.2, fd00::2").expect("a host");
    (world, server, client)
}

/// Bytes in which a loss, a repetition or an exchange of parts shows.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| ((at * 31) >> 3) as u8 ^ (at >> 16) as u8).collect()
}

/// A port that gives out these protocols.
pub fn listen(
    host: &Handle,
    address: &str,
    sides: impl IntoIterator<Item = Side> + 'static,
) -> anyhow::Result<ListeningPort> {
    Ok(host.listen_tcp(TcpOptions::parse(address)?, server(sides))?)
}
