//! A TCP echo server: what a client sends comes back, for as many clients as there are.
//!
//! A client that sends and never reads costs a bounded amount of memory: while what goes back to
//! it waits, nothing more is read from it.
//!
//! ```text
//! cargo run --release --example tcp_echo
//! ncat 127.0.0.1 9999
//! ```

use std::net::SocketAddr;

use clap::Parser;
use strand_reactor::{PeerAddr, Protocol, Reactor, Transport, parse_address};

/// Sends everything back to the client that sent it.
#[derive(Parser)]
struct Arguments {
    /// Address and port to listen on; [::]:PORT takes both families
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9999", value_parser = parse_address)]
    listen: SocketAddr,
}

struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
        transport.write(data)?;
        Ok(())
    }

    fn pause_writing(&mut self, transport: &Transport) -> anyhow::Result<()> {
        transport.pause_reading()?;
        Ok(())
    }

    fn resume_writing(&mut self, transport: &Transport) -> anyhow::Result<()> {
        transport.resume_reading()?;
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let reactor = Reactor::new()?;
    let port = reactor.listen_tcp(arguments.listen, |_: PeerAddr| Some(Echo))?;
    println!("echoing on {}", port.local_addr()?);
    reactor.run()?;
    Ok(())
}
