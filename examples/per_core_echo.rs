//! A UDP and TCP echo server on every core: each core has a thread with its own reactor, and the
//! system spreads flows and connections over them. Ctrl-C ends it.
//!
//! ```text
//! cargo run --release --example per_core_echo
//! ncat --udp 127.0.0.1 9999
//! ```

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::thread::available_parallelism;

use clap::Parser;
use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Handle, PeerAddr, Protocol, Reactor,
    ShutdownPhase, TcpOptions, Transport, UdpOptions, parse_address,
};

/// Echoes over UDP and TCP, with a reactor on each core.
#[derive(Parser)]
struct Arguments {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9999", value_parser = parse_address)]
    listen: SocketAddr,
    /// Number of workers; as many as there are cores unless given
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
}

/// Made by each worker for itself: what it holds need not be `Send`, and is never shared.
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
    let Arguments { listen, workers } = Arguments::parse();
    let workers = workers.map_or_else(|| available_parallelism().map(usize::from), Ok)?;
    // What the first worker got, if the port was left to the system.
    let (shared_udp, shared_tcp) = (OnceLock::new(), OnceLock::new());
    let set_up = |handle: &Handle, index: usize| {
        let options = UdpOptions::new(*shared_udp.get().unwrap_or(&listen)).reuse_port(true);
        let udp = handle.listen_udp(options, Echo)?;
        let options = TcpOptions::new(*shared_tcp.get().unwrap_or(&listen)).reuse_port(true);
        let tcp = handle.listen_tcp(options, |_: PeerAddr| Some(Echo))?;
        let addresses = (udp.local_addr()?, tcp.local_addr()?);
        shared_udp.get_or_init(|| addresses.0);
        shared_tcp.get_or_init(|| addresses.1);
        if index + 1 == workers {
            println!("echoing on UDP {}, TCP {}, {workers} workers", addresses.0, addresses.1);
        }
        handle.on_shutdown(ShutdownPhase::During, move |_| {
            let datagrams = udp.stats()?.datagrams_in;
            let connections = tcp.stats()?.accepted;
            println!("worker {index}: {datagrams} datagrams, {connections} connections");
            anyhow::Ok(())
        })?;
        Ok(())
    };
    Reactor::builder().stop_on_signals().run_per_core(workers, set_up)?;
    Ok(())
}
