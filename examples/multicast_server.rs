//! Joins a group and answers its pings: to the sender alone, not to the group. The other half is
//! `multicast_client`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::Parser;
use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Interface, Reactor, UdpOptions,
};

/// Answers the pings sent to a multicast group.
#[derive(Parser)]
struct Arguments {
    /// Group to join, IPv4 or IPv6
    #[arg(long, value_name = "IP", default_value = "228.0.0.5")]
    group: IpAddr,
    /// Port that the group is heard on; 0 lets the system choose one
    #[arg(long, value_name = "PORT", allow_negative_numbers = true, default_value_t = 9999)]
    port: u16,
    /// Interface to join on: an index, a name, an address, `all` or `default`
    #[arg(long, value_name = "INTERFACE", default_value = "default")]
    interface: Interface,
    /// Hear this source alone; may be given several times
    #[arg(long, value_name = "IP")]
    source: Vec<IpAddr>,
    /// TTL or hop limit of the answers
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..=255),
    )]
    ttl: u32,
}

struct Server(Arguments);

impl DatagramProtocol for Server {
    fn start_protocol(&mut self, transport: &DatagramTransport) -> anyhow::Result<()> {
        let Arguments { group, interface, source, ttl, .. } = &self.0;
        transport.set_ttl(*ttl)?;
        if source.is_empty() {
            transport.join_group(*group, interface.clone())?;
        }
        for source in source {
            transport.join_source(*group, *source, interface.clone())?;
        }
        Ok(())
    }

    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        let text = String::from_utf8_lossy(datagram.payload());
        println!("{text:?} from {}", datagram.source());
        if datagram.payload() == b"Client: Ping" {
            transport.write_to(b"Server: Pong", datagram.source())?;
        }
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let group = arguments.group;
    let any: IpAddr = match group {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let reactor = Reactor::new()?;
    let options = UdpOptions::from((any, arguments.port));
    let port = reactor.listen_multicast(options, Server(arguments))?;
    println!("hearing {group} on {}", port.local_addr()?);
    reactor.run()?;
    Ok(())
}
