//! Streams over bad links, and calls of theirs that fail.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::sim::{Call, Latency, Link, Rule, World};
use strand_reactor::{
    ClientFactory, ConnectError, ConnectionLost, Connector, Handle, PeerAddr, Protocol, Transport,
};

use super::support::MS;
use super::watchdog::{Watchdog, watchdog};

const SECOND: Duration = Duration::from_secs(1);
const ECONNRESET: i32 = 104;
const EMFILE: i32 = 24;
const ENETUNREACH: i32 = 101;

/// What one end of a stream saw, with the virtual time.
#[derive(Default)]
pub struct End {
    pub received: Vec<u8>,
    told: Vec<(Duration, String)>,
    pub transport: Option<Transport>,
}

/// A protocol, and the factory of itself.
#[derive(Clone)]
pub struct Tape {
    handle: Handle,
    start: std::time::Instant,
    pub end: Rc<RefCell<End>>,
}

impl Tape {
    fn new(handle: &Handle) -> Self {
        Self { handle: handle.clone(), start: handle.now(), end: Rc::default() }
    }

    fn note(&self, what: impl ToString) {
        let at = self.handle.now() - self.start;
        self.end.borrow_mut().told.push((at, what.to_string()));
    }

    pub fn told(&self) -> Vec<String> {
        self.end.borrow().told.iter().map(|(_, told)| told.clone()).collect()
    }

    pub fn write(&self, data: &[u8]) -> anyhow::Result<()> {
        let transport = self.end.borrow().transport.clone();
        Ok(transport.expect("a connection").write(data)?)
    }
}

impl Protocol for Tape {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        self.end.borrow_mut().transport = Some(transport.clone());
        self.note("made");
        Ok(())
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) -> anyhow::Result<()> {
        self.end.borrow_mut().received.extend(data);
        Ok(())
    }

    fn pause_writing(&mut self, _: &Transport) -> anyhow::Result<()> {
        self.note("paused");
        Ok(())
    }

    fn resume_writing(&mut self, _: &Transport) -> anyhow::Result<()> {
        self.note("resumed");
        Ok(())
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        self.note(format_args!("lost: {reason}"));
    }
}

impl ClientFactory for Tape {
    fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> {
        Some(Box::new(self.clone()))
    }

    fn client_connection_failed(
        &mut self,
        _: &Connector,
        error: &ConnectError,
    ) -> anyhow::Result<()> {
        let source = std::error::Error::source(error);
        let os = source.and_then(|source| source.downcast_ref::<std::io::Error>());
        self.note(format_args!("failed: {:?}", os.and_then(std::io::Error::raw_os_error)));
        Ok(())
    }
}

/// A server on host B, and a client on host A that is yet to connect.
pub struct Pair {
    pub world: World,
    pub client: Tape,
    pub server: Tape,
    _watchdog: Watchdog,
}

impl Pair {
    pub fn new(seed: u64) -> anyhow::Result<Self> {
        let world = World::new(seed);
        let (a, b) = (world.host("a", "10.0.0.1")?, world.host("b", "10.0.0.2")?);
        let (client, server) = (Tape::new(&a), Tape::new(&b));
        let tape = server.clone();
        b.listen_tcp(80, move |_| Some(Box::new(tape.clone()) as Box<dyn Protocol>))?;
        Ok(Self { world, client, server, _watchdog: watchdog() })
    }

    pub fn connect(&self) -> anyhow::Result<()> {
        self.client.handle.connect_tcp("10.0.0.2:80", self.client.clone())?;
        Ok(())
    }

    fn connected(seed: u64) -> anyhow::Result<Self> {
        let pair = Self::new(seed)?;
        pair.connect()?;
        pair.world.run_for(SECOND)?;
        assert_eq!(
            (pair.client.told(), pair.server.told()),
            (vec!["made".into()], vec!["made".into()])
        );
        Ok(pair)
    }
}

/// Bytes that do not repeat for long.
pub fn data(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).take(len).collect()
}

#[test]
fn a_stream_arrives_whole_over_a_link_that_does_everything_wrong() -> anyhow::Result<()> {
    let pair = Pair::connected(3)?;
    let bad = Link::new()
        .latency(Latency::log_normal(10 * MS, 0.5))
        .unordered()
        .bandwidth(10_000_000, 20_000)
        .loss(0.1)
        .duplication(0.1)
        .corruption(1.0)
        .mtu(600);
    pair.world.default_link(bad);
    let sent = data(300_000);
    pair.client.write(&sent)?;
    let received = || pair.server.end.borrow().received.len() == sent.len();
    assert!(pair.world.run_until(received)?);
    assert!(pair.server.end.borrow().received == sent, "in order, and not corrupted");
    assert!(pair.world.elapsed() > SECOND, "it took its time: {:?}", pair.world.elapsed());
    Ok(())
}

#[test]
fn a_stream_survives_a_partition_and_not_a_long_one() -> anyhow::Result<()> {
    let pair = Pair::connected(1)?;
    let split = pair.world.partition("a", "b")?;
    pair.client.write(b"hello")?;
    pair.world.run_for(20 * SECOND)?;
    assert_eq!(pair.server.end.borrow().received, b"");
    split.lift();
    pair.world.run_for(60 * SECOND)?;
    assert_eq!(pair.server.end.borrow().received, b"hello");
    pair.world.partition("b", "a")?.keep();
    pair.client.write(b"anybody?")?;
    pair.world.run_for(3_600 * SECOND)?;
    assert_eq!(pair.client.told()[1..], [format!("lost: {}", ConnectionLost::TimedOut)]);
    Ok(())
}

#[test]
fn a_lost_syn_costs_a_second() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    let unlucky = pair.world.rule(Rule::drop().tcp().port(80).when(|p| p.is_syn()).times(1))?;
    pair.connect()?;
    pair.world.run_for(5 * SECOND)?;
    assert_eq!(unlucky.hits(), 1);
    assert_eq!(pair.client.end.borrow().told, [(SECOND + 2 * MS, "made".to_owned())]);
    Ok(())
}

#[test]
fn connecting_fails_by_rule() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    let nowhere = pair.world.rule(Rule::fail(Call::Connect, ENETUNREACH).tcp().from("a"))?;
    pair.connect()?;
    pair.world.run_for(SECOND)?;
    drop(nowhere);
    let none = pair.world.rule(Rule::no_descriptors().from("a"))?;
    pair.connect()?;
    pair.world.run_for(SECOND)?;
    drop(none);
    let failed = |errno: i32| format!("failed: {:?}", Some(errno));
    assert_eq!(pair.client.told(), [failed(ENETUNREACH), failed(EMFILE)]);
    pair.connect()?;
    pair.world.run_for(SECOND)?;
    assert_eq!(pair.server.told(), ["made"]);
    Ok(())
}

#[test]
fn a_server_without_descriptors_goes_on_when_there_are_some() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    let none = pair.world.rule(Rule::no_descriptors().from("b"))?;
    pair.connect()?;
    pair.world.run_for(10 * SECOND)?;
    assert!(none.hits() > 0);
    assert_eq!(pair.server.told(), [""; 0], "what it cannot take it sheds");
    none.lift();
    pair.connect()?;
    pair.world.run_for(10 * SECOND)?;
    assert_eq!(pair.server.told(), ["made"]);
    Ok(())
}

#[test]
fn reads_and_writes_that_fail_end_the_connection() -> anyhow::Result<()> {
    for (call, host) in [(Call::Read, "b"), (Call::Write, "a")] {
        let pair = Pair::connected(1)?;
        let broken = pair.world.rule(Rule::fail(call, ECONNRESET).from(host).port(80).times(1))?;
        pair.client.write(b"hello")?;
        pair.world.run_for(SECOND)?;
        assert_eq!(broken.hits(), 1);
        let end = if host == "a" { &pair.client } else { &pair.server };
        assert_eq!(end.told()[1..], [format!("lost: {}", ConnectionLost::Reset)], "{call:?}");
        assert_eq!(pair.server.end.borrow().received, b"");
    }
    Ok(())
}

#[test]
fn a_stream_waits_for_room_until_the_rule_is_lifted() -> anyhow::Result<()> {
    let pair = Pair::connected(1)?;
    let full = pair.world.rule(Rule::full_send_buffers())?;
    let sent = data(200_000);
    pair.client.write(&sent)?;
    pair.world.run_for(10 * SECOND)?;
    assert_eq!(pair.client.told()[1..], ["paused"]);
    assert_eq!(pair.server.end.borrow().received, b"");
    full.lift();
    pair.world.run_for(10 * SECOND)?;
    assert_eq!(pair.client.told()[1..], ["paused", "resumed"]);
    assert!(pair.server.end.borrow().received == sent);
    Ok(())
}
