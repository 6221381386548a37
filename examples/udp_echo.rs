//! A UDP echo server: every datagram goes back to its sender.
//!
//! ```text
//! cargo run --release --example udp_echo
//! socat - UDP:127.0.0.1:9999
//! ```

use std::net::SocketAddr;

use clap::Parser;
use strand_reactor::{Datagram, DatagramProtocol, DatagramTransport, Reactor, parse_address};

/// Answers every datagram with its own payload.
#[derive(Parser)]
struct Arguments {
    /// Address and port to listen on; [::]:PORT takes both families
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9999", value_parser = parse_address)]
    listen: SocketAddr,
}

struct Echo;

impl DatagramProtocol for Echo {
    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        transport.write_to(datagram.payload(), datagram.source())?;
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let reactor = Reactor::new()?;
    let port = reactor.listen_udp(arguments.listen, Echo)?;
    println!("echoing on {}", port.local_addr()?);
    reactor.run()?;
    Ok(())
}
