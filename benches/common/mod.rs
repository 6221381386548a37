//! What the benches share: ports and connections to measure, and how long to measure them.

#![allow(dead_code, reason = "each bench uses a part of this")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use criterion::Criterion;
use strand_reactor::testing::{Script, ScriptedStream};
use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Protocol, Reactor, Transport, UdpOptions,
};

/// Short, and enough to see a change of 5 %: the whole of a bench takes seconds.
pub fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1_500))
        .sample_size(30)
        .configure_from_args()
}

/// The `number`th peer of a scripted port.
pub fn peer(number: usize) -> SocketAddr {
    (Ipv4Addr::new(192, 0, 2, 1), 1024 + number as u16).into()
}

/// One turn that does not wait.
pub fn turn(reactor: &Reactor) {
    reactor.iterate(Some(Duration::ZERO)).expect("a turn of the loop");
}

/// The turns in which a new connection has `connection_made` called, and its socket looked at.
fn settle(reactor: &Reactor) {
    turn(reactor);
    turn(reactor);
}

/// Answers every datagram with itself.
pub struct Echo;

impl DatagramProtocol for Echo {
    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        transport.write_to(datagram.payload(), datagram.source())?;
        Ok(())
    }
}

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
        transport.write(data)?;
        Ok(())
    }
}

/// Counts what it receives.
#[derive(Default)]
pub struct Sink {
    received: u64,
}

impl DatagramProtocol for Sink {
    fn datagram_received(
        &mut self,
        _: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        self.received += datagram.payload().len() as u64;
        Ok(())
    }
}

impl Protocol for Sink {
    fn data_received(&mut self, _: &Transport, data: &[u8]) -> anyhow::Result<()> {
        self.received += data.len() as u64;
        Ok(())
    }
}

/// A reactor with one port, whose socket plays a script.
pub struct Scripted {
    pub reactor: Reactor,
    pub script: Script,
    pub port: DatagramTransport,
}

impl Scripted {
    pub fn new(protocol: impl DatagramProtocol + 'static) -> anyhow::Result<Self> {
        let (reactor, script) = (Reactor::new()?, Script::new());
        let options = UdpOptions::parse("127.0.0.1:9")?;
        let port = script.listen(&reactor, options, protocol)?;
        Ok(Self { reactor, script, port })
    }

    /// `count` datagrams arrive, from `peers` peers in turn.
    pub fn receive(&self, count: usize, peers: usize, payload: &[u8]) {
        (0..count).for_each(|number| self.script.receive(peer(number % peers), payload));
    }
}

/// A reactor with one connection, whose socket plays a script.
pub struct Streaming {
    pub reactor: Reactor,
    pub script: ScriptedStream,
    pub transport: Transport,
}

impl Streaming {
    pub fn new(protocol: impl Protocol + 'static) -> anyhow::Result<Self> {
        let (reactor, script) = (Reactor::new()?, ScriptedStream::new(peer(0)));
        let transport = script.attach(&reactor, protocol)?;
        settle(&reactor);
        Ok(Self { reactor, script, transport })
    }
}

/// A reactor with one connection over loopback, and its other end.
pub struct Connected {
    pub reactor: Reactor,
    pub transport: Transport,
    pub other: TcpStream,
}

impl Connected {
    /// The other end does not block.
    pub fn new(protocol: impl Protocol + 'static) -> anyhow::Result<Self> {
        let reactor = Reactor::new()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let other = TcpStream::connect(listener.local_addr()?)?;
        other.set_nodelay(true)?;
        other.set_nonblocking(true)?;
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let transport = reactor.adopt_stream_connection(socket, protocol)?;
        settle(&reactor);
        Ok(Self { reactor, transport, other })
    }
}
