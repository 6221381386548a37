//! What a simulated host costs that does nothing, in bytes: an allocator counts them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use strand_reactor::sim::World;
use strand_reactor::{Datagram, DatagramProtocol, DatagramTransport};

const HOSTS: u32 = 100_000;

struct Quiet;

impl DatagramProtocol for Quiet {
    fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>) -> anyhow::Result<()> {
        Ok(())
    }
}

fn address(number: u32) -> SocketAddr {
    (Ipv4Addr::from_bits(0x0a00_0001 + number % HOSTS), 9).into()
}

/// Bytes for each of the hosts that `build` puts into a world.
fn measure(label: &str, build: impl FnOnce(&World) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let (mut world, mut built) = (None, Ok(()));
    let used = allocation_counter::measure(|| built = build(world.insert(World::new(1))));
    built?;
    let each = used.bytes_current / i64::from(HOSTS);
    println!("{label:<44} {each:>6} bytes in {} pieces", used.count_current / i64::from(HOSTS));
    Ok(())
}

fn main() -> anyhow::Result<()> {
    println!("a host of {HOSTS} in a world:");
    measure("with nothing on it", |world| {
        for number in 0..HOSTS {
            world.host(&number.to_string(), address(number).ip())?;
        }
        Ok(world.run_for(Duration::from_secs(1))?)
    })?;
    measure("with a UDP port", |world| {
        for number in 0..HOSTS {
            world.host(&number.to_string(), address(number).ip())?.listen_udp(9, Quiet)?;
        }
        Ok(world.run_for(Duration::from_secs(1))?)
    })?;
    measure("with a UDP port that has sent and received", |world| {
        for number in 0..HOSTS {
            let host = world.host(&number.to_string(), address(number).ip())?;
            host.listen_udp(9, Quiet)?.write_to(b"hello", address(number + 1))?;
        }
        Ok(world.run_for(Duration::from_secs(1))?)
    })
}
