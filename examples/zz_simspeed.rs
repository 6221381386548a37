//! temporary
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use strand_reactor::sim::World;
use strand_reactor::{Datagram, DatagramProtocol, DatagramTransport};
struct P;
impl DatagramProtocol for P {
    fn datagram_received(&mut self, t: &DatagramTransport, d: Datagram<'_>) -> anyhow::Result<()> {
        t.write_to(d.payload(), d.source())?;
        Ok(())
    }
}
fn main() {
    let n: u32 = std::env::args().nth(1).unwrap().parse().unwrap();
    let per: u32 = std::env::args().nth(2).unwrap().parse().unwrap();
    let rounds: u64 = std::env::args().nth(3).unwrap().parse().unwrap();
    let world = World::new(1);
    let ip = |k: u32| std::net::Ipv4Addr::from_bits(0x0a00_0000 + k % n + 1);
    let ports: Vec<_> = (0..n)
        .map(|k| {
            world
                .host(&format!("h{k}"), format!("{}/8", ip(k)).as_str())
                .unwrap()
                .listen_udp(9, P)
                .unwrap()
        })
        .collect();
    for k in 0..n {
        for j in 0..per {
            ports[k as usize].write_to(&[1; 64], SocketAddr::from((ip(k * 7 + j + 1), 9))).unwrap();
        }
    }
    world.run_for(Duration::from_millis(10)).unwrap();
    let start = Instant::now();
    let before: u64 = ports.iter().map(|p| p.stats().unwrap().datagrams_in).sum();
    world.run_for(Duration::from_millis(rounds)).unwrap();
    let took = start.elapsed();
    let after: u64 = ports.iter().map(|p| p.stats().unwrap().datagrams_in).sum();
    println!(
        "{} datagrams in {:?}: {:.0} ns each, {:.2} M/s",
        after - before,
        took,
        took.as_nanos() as f64 / (after - before) as f64,
        (after - before) as f64 / took.as_secs_f64() / 1e6
    );
}
