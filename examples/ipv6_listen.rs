//! Listens over IPv6, and over IPv4 on the same port unless told otherwise: `[::]` means both, and
//! an IPv4 sender then shows as `::ffff:a.b.c.d`.

use std::net::{IpAddr, SocketAddr};

use clap::Parser;
use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Family, Reactor, UdpOptions, parse_address,
};

/// Echoes datagrams over IPv6, and says where they came from.
#[derive(Parser)]
struct Arguments {
    /// IPv6 address and port to listen on, with a zone where it needs one: [fe80::1%eth0]:9999
    #[arg(long, value_name = "ADDR", default_value = "[::]:9999", value_parser = ipv6)]
    listen: SocketAddr,
    /// Take IPv6 alone, even on [::]
    #[arg(long)]
    v6_only: bool,
}

fn ipv6(text: &str) -> anyhow::Result<SocketAddr> {
    let address = parse_address(text)?;
    anyhow::ensure!(address.is_ipv6(), "not an IPv6 address: {address}");
    Ok(address)
}

struct Echo;

impl DatagramProtocol for Echo {
    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        let source = datagram.source();
        let family = match source.ip() {
            IpAddr::V6(ip) if ip.to_ipv4_mapped().is_none() => "IPv6",
            _ => "IPv4",
        };
        println!("{} bytes over {family} from {source}", datagram.payload().len());
        // A mapped address is answered like any other.
        transport.write_to(datagram.payload(), source)?;
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let Arguments { listen, v6_only } = Arguments::parse();
    let mut options = UdpOptions::new(listen);
    if v6_only {
        options = options.family(Family::V6Only);
    }
    let reactor = Reactor::new()?;
    let port = reactor.listen_udp(options, Echo)?;
    println!("listening on {} ({:?})", port.local_addr()?, port.family()?);
    reactor.run()?;
    Ok(())
}
