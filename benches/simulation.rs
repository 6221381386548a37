//! A simulated world: datagrams between hosts, few and many, one by one and in bursts; and what an
//! event costs by the number of those that wait. One core: a world has one thread.

mod common;

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use strand_reactor::sim::{Latency, Link, World};
use strand_reactor::{Datagram, DatagramProtocol, DatagramTransport};

const PORT: u16 = 9;
const PAYLOAD: [u8; 64] = [0x5a; 64];
/// The latency of a link of which nothing is said: in this time every datagram moves by one host.
const HOP: Duration = Duration::from_millis(1);
/// Hosts whose events are counted, and how often each sample is to see one.
const EVENT_HOSTS: u32 = 100;
const EVENTS: u64 = 20_000;

fn address(number: u32) -> SocketAddr {
    (Ipv4Addr::from_bits(0x0a00_0001 + number), PORT).into()
}

/// Passes on what it receives.
struct Forward {
    next: SocketAddr,
    passed: Rc<Cell<u64>>,
}

impl DatagramProtocol for Forward {
    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        self.passed.set(self.passed.get() + 1);
        transport.write_to(datagram.payload(), self.next)?;
        Ok(())
    }
}

/// Hosts each of which passes datagrams on to another, far away in the list.
struct Ring {
    world: World,
    ports: Vec<DatagramTransport>,
    passed: Rc<Cell<u64>>,
}

impl Ring {
    fn new(hosts: u32, link: Link) -> anyhow::Result<Self> {
        let (world, passed) = (World::new(1), Rc::new(Cell::new(0)));
        world.default_link(link);
        let mut ports = Vec::new();
        for number in 0..hosts {
            let host = world.host(&number.to_string(), address(number).ip())?;
            let next = address((number + 7_919) % hosts);
            let forward = Forward { next, passed: Rc::clone(&passed) };
            ports.push(host.listen_udp(PORT, forward)?);
        }
        Ok(Self { world, ports, passed })
    }

    /// Every host sends `count` datagrams.
    fn send(&self, count: u64) -> anyhow::Result<()> {
        for (number, port) in self.ports.iter().enumerate() {
            let next = address((number as u32 + 7_919) % self.ports.len() as u32);
            (0..count).try_for_each(|_| port.write_to(&PAYLOAD, next))?;
        }
        self.world.run_for(Duration::ZERO)?;
        Ok(())
    }

    /// The time that so much virtual time takes, and the datagrams that arrived in it.
    fn timed(&self, duration: Duration) -> (Duration, u64) {
        let (before, started) = (self.passed.get(), Instant::now());
        self.world.run_for(duration).expect("a world at rest");
        (started.elapsed(), self.passed.get() - before)
    }
}

fn datagrams(criterion: &mut Criterion) {
    for (hosts, burst) in [(100, 1), (100, 16), (100_000, 1), (100_000, 4)] {
        let mut group = criterion.benchmark_group(format!("simulation/hosts/{hosts}"));
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
        // So that a measurement does not consist of its ends.
        let hops = (200_000 / (u64::from(hosts) * burst)).max(1) as u32;
        group.throughput(Throughput::Elements(u64::from(hosts * hops) * burst));
        let ring = RefCell::new(None);
        group.bench_function(BenchmarkId::new("datagrams_at_once", burst), |bencher| {
            let mut ring = ring.borrow_mut();
            let ring = ring.get_or_insert_with(|| {
                let ring = Ring::new(hosts, Link::new().latency(HOP)).expect("a world");
                ring.send(burst).expect("room");
                ring
            });
            bencher.iter_custom(|iterations| {
                let (spent, arrived) = ring.timed(HOP * hops * iterations as u32);
                assert_eq!(arrived, iterations * burst * u64::from(hosts * hops));
                spent
            });
        });
        group.finish();
    }
}

/// `pending` datagrams are under way, each for up to two seconds, and each of them takes a turn: of
/// its host, which passes it on. So an event is here a datagram's whole way, from one protocol to
/// the next. The work of it does not grow with `pending`, but for the times that the queue puts it
/// nearer, at most one for each six bits of its distance. What grows is the wait for memory: a
/// datagram of 64 bytes takes 250 bytes while it is under way, so that ten thousand no longer fit in
/// the processor's second cache, and a million in none.
fn events(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("simulation/event");
    group.sampling_mode(SamplingMode::Flat).sample_size(10).throughput(Throughput::Elements(1));
    for pending in [1_000, 10_000, 100_000, 1_000_000] {
        let ring = RefCell::new(None);
        group.bench_function(BenchmarkId::new("pending", pending), |bencher| {
            let mut ring = ring.borrow_mut();
            let ring = ring.get_or_insert_with(|| spread(pending).expect("a world"));
            // On average they are under way for a second.
            let span = Duration::from_secs(EVENTS) / pending as u32;
            bencher.iter_custom(|iterations| {
                let (spent, arrived) = ring.timed(span);
                spent.mul_f64(iterations as f64 / arrived as f64)
            });
        });
    }
    group.finish();
}

fn spread(pending: u64) -> anyhow::Result<Ring> {
    let latency = Latency::uniform(Duration::ZERO, Duration::from_secs(2));
    let ring = Ring::new(EVENT_HOSTS, Link::new().latency(latency).unordered())?;
    let mut left = pending / u64::from(EVENT_HOSTS);
    while left > 0 {
        // No more than a port may have waiting.
        let count = left.min(500);
        ring.send(count)?;
        left -= count;
    }
    ring.world.run_for(Duration::from_secs(2))?;
    Ok(ring)
}

criterion_group! { name = benches; config = common::criterion(); targets = datagrams, events }
criterion_main!(benches);
