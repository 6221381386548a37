//! What a host costs that does nothing.

use std::net::Ipv4Addr;
use std::time::Duration;

use strand_reactor::sim::World;
use strand_reactor::{Datagram, DatagramProtocol, DatagramTransport};

/// Takes no memory of its own.
struct Silent;

impl DatagramProtocol for Silent {
    fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>) -> anyhow::Result<()> {
        Ok(())
    }
}

const HOSTS: u32 = 10_000;

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + number % HOSTS + 1)
}

/// Each with a port, and with a datagram for the next.
fn world_of_many() -> World {
    let world = World::new(1);
    for number in 0..HOSTS {
        let host = world.host(&format!("host {number}"), address(number)).unwrap();
        let port = host.listen_udp(9, Silent).unwrap();
        port.write_to(b"ping", (address(number + 1), 9).into()).unwrap();
    }
    world
}

#[test]
fn a_host_that_was_busy_and_is_idle_costs_less_than_4_kib() {
    let mut kept = None;
    let used = allocation_counter::measure(|| {
        let world = world_of_many();
        world.run_for(Duration::from_secs(1)).unwrap();
        kept = Some(world);
    });
    let world = kept.unwrap();
    let port = &world.handle("host 1").unwrap().datagram_ports()[0];
    assert_eq!(port.stats().unwrap().datagrams_in, 1);
    let each = used.bytes_current / i64::from(HOSTS);
    println!("{each} bytes in {} pieces", used.count_current / i64::from(HOSTS));
    assert!(each < 4096, "{each} bytes");
}
