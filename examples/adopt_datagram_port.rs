//! Takes over a socket that was made elsewhere, here with `std`.
//!
//! The kernel is asked what the socket is, so neither its family nor its blocking mode needs to
//! be told; from then on it belongs to the reactor. What arrived before is delivered, too.

use std::net::{SocketAddr, UdpSocket};

use anyhow::Context;
use clap::Parser;
use strand_reactor::{Datagram, DatagramProtocol, DatagramTransport, Reactor, parse_address};

/// Opens a socket by hand, adopts it, and echoes what it receives.
#[derive(Parser)]
struct Arguments {
    /// Address and port to bind the socket to
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9999", value_parser = parse_address)]
    listen: SocketAddr,
}

struct Echo;

impl DatagramProtocol for Echo {
    fn start_protocol(&mut self, transport: &DatagramTransport) -> anyhow::Result<()> {
        println!("adopted {} ({:?})", transport.local_addr()?, transport.family()?);
        Ok(())
    }

    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        println!("{} bytes from {}", datagram.payload().len(), datagram.source());
        transport.write_to(datagram.payload(), datagram.source())?;
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let Arguments { listen } = Arguments::parse();
    let socket = UdpSocket::bind(listen).with_context(|| format!("cannot bind {listen}"))?;
    let reactor = Reactor::new()?;
    reactor.adopt_datagram_port(socket, Echo)?;
    reactor.run()?;
    Ok(())
}
