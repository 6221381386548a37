//! Pings a group and prints who answers. The other half is `multicast_server`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Parser;
use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Interface, Reactor, UdpOptions, WriteFailure,
};

/// Pings a multicast group and prints who answers.
#[derive(Parser)]
struct Arguments {
    /// Group to ping, IPv4 or IPv6
    #[arg(long, value_name = "IP", default_value = "228.0.0.5")]
    group: IpAddr,
    /// Port that the group is heard on
    #[arg(long, value_name = "PORT", allow_negative_numbers = true, default_value_t = 9999)]
    port: u16,
    /// Interface to send by: an index, a name, an address or `default`
    #[arg(long, value_name = "INTERFACE", default_value = "default")]
    interface: Interface,
    /// Address of this host to send from
    #[arg(long, value_name = "IP")]
    source: Option<IpAddr>,
    /// TTL or hop limit: 0 stays on this host, 1 on the network
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(0..=255),
    )]
    ttl: u32,
    /// Milliseconds to wait for answers
    #[arg(long, value_name = "MS", allow_negative_numbers = true, default_value_t = 1000)]
    timeout: u64,
    /// End after this many answers
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    count: Option<u64>,
}

struct Client {
    arguments: Arguments,
    answers: u64,
}

impl DatagramProtocol for Client {
    fn start_protocol(&mut self, transport: &DatagramTransport) -> anyhow::Result<()> {
        let Arguments { group, port, interface, ttl, timeout, .. } = &self.arguments;
        if *interface != Interface::Default {
            transport.set_multicast_interface(interface.clone())?;
        }
        transport.set_multicast_ttl(*ttl)?;
        transport.write_to(b"Client: Ping", SocketAddr::new(*group, *port))?;
        transport.reactor().call_later(Duration::from_millis(*timeout), |handle| handle.stop());
        Ok(())
    }

    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        let text = String::from_utf8_lossy(datagram.payload());
        println!("{text:?} from {}", datagram.source());
        self.answers += 1;
        if self.arguments.count.is_some_and(|count| self.answers >= count) {
            transport.reactor().stop();
        }
        Ok(())
    }

    fn write_failed(
        &mut self,
        transport: &DatagramTransport,
        failure: &WriteFailure,
    ) -> anyhow::Result<()> {
        eprintln!("cannot ping: {failure}");
        transport.reactor().stop();
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let any: IpAddr = match arguments.group {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let reactor = Reactor::new()?;
    let options = UdpOptions::from((arguments.source.unwrap_or(any), 0));
    // A port of its own: the answers are meant for it alone.
    reactor.listen_udp(options, Client { arguments, answers: 0 })?;
    reactor.run()?;
    Ok(())
}
