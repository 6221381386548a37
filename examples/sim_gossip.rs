//! A rumour in a simulated network: every host that has heard it tells others by UDP, over links
//! that lose 20 %. At first the network is split in two halves; after eight seconds it heals. The
//! spread is plotted over virtual time. The same seed gives the same output, to the byte.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Parser;
use strand_reactor::sim::{Latency, Link, Rule, World};
use strand_reactor::{Datagram, DatagramProtocol, DatagramTransport};

/// Spreads a rumour among simulated hosts, and plots how it spreads.
#[derive(Parser)]
struct Arguments {
    /// How many hosts there are
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(2..=1_000_000),
    )]
    hosts: u32,
    /// The seed of everything left to chance
    #[arg(long, value_name = "S", allow_negative_numbers = true, default_value_t = 1)]
    seed: u64,
}

const PORT: u16 = 4_000;
/// Each host that knows the rumour tells so many others in each round.
const TOLD: u32 = 2;
const ROUND: Duration = Duration::from_millis(250);
const LOSS: f64 = 0.2;
const HEALED: Duration = Duration::from_secs(8);
/// What one line of the plot stands for, and how wide it is.
const LINE: Duration = Duration::from_millis(500);
const WIDTH: u32 = 60;
/// Nothing keeps a rumour for so long.
const LIMIT: Duration = Duration::from_secs(120);

fn address(host: u32) -> SocketAddr {
    (Ipv4Addr::from_bits(0x0a00_0001 + host), PORT).into()
}

/// What all hosts share: how many of each half know the rumour.
#[derive(Default)]
struct Spread {
    first: Cell<u32>,
    second: Cell<u32>,
}

struct Gossip {
    number: u32,
    hosts: u32,
    /// Chooses whom to tell; the seed decides (splitmix64).
    random: u64,
    has_heard: bool,
    spread: Rc<Spread>,
}

impl DatagramProtocol for Gossip {
    fn start_protocol(&mut self, transport: &DatagramTransport) -> anyhow::Result<()> {
        if self.number == 0 {
            self.hear(transport);
        }
        Ok(())
    }

    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        _: Datagram<'_>,
    ) -> anyhow::Result<()> {
        if !self.has_heard {
            self.hear(transport);
        }
        Ok(())
    }
}

impl Gossip {
    /// Tells others from now on.
    fn hear(&mut self, transport: &DatagramTransport) {
        self.has_heard = true;
        let half =
            if self.number < self.hosts / 2 { &self.spread.first } else { &self.spread.second };
        half.set(half.get() + 1);
        let (transport, hosts, own) = (transport.clone(), self.hosts, self.number);
        let mut random = self.random;
        transport.clone().reactor().looping_call(ROUND, move |_, _| {
            for _ in 0..TOLD {
                // Any but itself.
                let other = (own + 1 + below(&mut random, hosts - 1)) % hosts;
                transport.write_to(b"have you heard?", address(other))?;
            }
            anyhow::Ok(())
        });
    }
}

/// A number below `end`.
fn below(random: &mut u64, end: u32) -> u32 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bits = *random;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((u128::from(bits ^ (bits >> 31)) * u128::from(end)) >> 64) as u32
}

/// A line of the plot: the first half from the left, the second behind it.
fn plot(world: &World, spread: &Spread, hosts: u32) {
    let (first, second) = (spread.first.get(), spread.second.get());
    let share = |count: u32| (u64::from(count) * u64::from(WIDTH)).div_ceil(hosts.into()) as usize;
    let bar = format!("{}{}", "#".repeat(share(first)), "o".repeat(share(second)));
    let mark = if world.elapsed() < HEALED { "split" } else { "whole" };
    println!(
        "{:>5.1} s {mark} {:>6.2} % |{bar:<width$}|",
        world.elapsed().as_secs_f64(),
        100.0 * f64::from(first + second) / f64::from(hosts),
        width = WIDTH as usize + 1,
    );
}

fn main() -> anyhow::Result<()> {
    let Arguments { hosts, seed } = Arguments::parse();
    let (world, started) = (World::new(seed), Instant::now());
    let latency = Latency::log_normal(Duration::from_millis(30), 0.5);
    world.default_link(Link::new().latency(latency).loss(LOSS).unordered());
    let (spread, mut ports) = (Rc::new(Spread::default()), Vec::new());
    for number in 0..hosts {
        let host = world.host(&format!("host{number}"), address(number).ip())?;
        let random = seed ^ u64::from(number) << 32;
        let spread = Rc::clone(&spread);
        let gossip = Gossip { number, hosts, random, has_heard: false, spread };
        ports.push(host.listen_udp(PORT, gossip)?);
    }
    let half = |range: std::ops::Range<u32>| range.map(|n| address(n).ip()).collect::<Vec<_>>();
    let split = Rule::partition(half(0..hosts / 2), half(hosts / 2..hosts));
    world.rule(split.between(Duration::ZERO, HEALED))?.keep();

    println!("{hosts} hosts, seed {seed}; # knows it in the first half, o in the second");
    while spread.first.get() + spread.second.get() < hosts && world.elapsed() < LIMIT {
        world.run_for(LINE)?;
        plot(&world, &spread, hosts);
    }
    let (mut sent, mut arrived) = (0, 0);
    for port in &ports {
        let stats = port.stats()?;
        sent += stats.datagrams_out;
        arrived += stats.datagrams_in;
    }
    println!("{sent} datagrams sent, {arrived} arrived");
    // Not part of the output, which repeats.
    eprintln!("{:.1?} of virtual time took {:.1?}", world.elapsed(), started.elapsed());
    Ok(())
}
