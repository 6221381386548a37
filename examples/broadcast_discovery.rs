//! Finds its twins: every instance broadcasts who it is, and prints whom it hears.
//!
//! Start it on several hosts of a network, or several times on one host: the port is shared, and
//! broadcasts reach every instance.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use clap::Parser;
use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Reactor, UdpOptions, WriteFailure,
};

/// Finds other instances of this program by broadcast.
#[derive(Parser)]
struct Arguments {
    /// Port that all instances share; 0 lets the system choose one
    #[arg(long, value_name = "PORT", allow_negative_numbers = true, default_value_t = 9998)]
    port: u16,
    /// Where to send announcements: a network's broadcast address, or 255.255.255.255
    #[arg(long, value_name = "IP", default_value_t = Ipv4Addr::BROADCAST)]
    broadcast: Ipv4Addr,
    /// Milliseconds between announcements; a twin is gone after three without any
    #[arg(
        long,
        value_name = "MS",
        allow_negative_numbers = true,
        default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(10..),
    )]
    interval: u64,
    /// End after this many announcements instead of running for ever
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    count: Option<u64>,
}

/// What an announcement starts with; the sender's number follows, 8 bytes.
const MAGIC: &[u8] = b"strand discovery 1 ";
/// A forger can make up any number of twins; we remember this many.
const MAX_TWINS: usize = 1000;

struct Discovery {
    id: u64,
    to: SocketAddr,
    interval: Duration,
    count: u64,
    twins: HashMap<u64, (IpAddr, Instant)>,
}

impl DatagramProtocol for Discovery {
    fn start_protocol(&mut self, transport: &DatagramTransport) -> anyhow::Result<()> {
        let local = transport.local_addr()?;
        self.to.set_port(local.port());
        println!("{:016x} announces itself to {}", self.id, self.to);
        let (transport, to, mut left) = (transport.clone(), self.to, self.count);
        let announcement = [MAGIC, &self.id.to_be_bytes()].concat();
        transport.reactor().looping_call_now(self.interval, move |handle, _| {
            if left == 0 {
                handle.stop();
            } else if let Err(error) = transport.write_to(&announcement, to) {
                eprintln!("cannot announce: {error}");
            }
            left = left.saturating_sub(1);
        });
        Ok(())
    }

    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        let now = transport.reactor().now();
        let lost = self.interval * 3;
        self.twins.retain(|id, (ip, heard)| {
            let alive = now.saturating_duration_since(*heard) < lost;
            if !alive {
                println!("lost {id:016x} at {ip}");
            }
            alive
        });
        let id = datagram.payload().strip_prefix(MAGIC).and_then(|id| id.try_into().ok());
        let Some(id) = id.map(u64::from_be_bytes).filter(|id| *id != self.id) else {
            return Ok(());
        };
        if self.twins.len() < MAX_TWINS || self.twins.contains_key(&id) {
            let ip = datagram.source().ip();
            if self.twins.insert(id, (ip, now)).is_none() {
                println!("found {id:016x} at {ip}");
            }
        }
        Ok(())
    }

    fn write_failed(
        &mut self,
        _: &DatagramTransport,
        failure: &WriteFailure,
    ) -> anyhow::Result<()> {
        eprintln!("cannot announce: {failure}");
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let reactor = Reactor::new()?;
    let options = UdpOptions::from(arguments.port).reuse_address(true).broadcast_allowed(true);
    let discovery = Discovery {
        // Random enough to tell the instances apart.
        id: RandomState::new().hash_one(std::process::id()),
        to: (arguments.broadcast, 0).into(),
        interval: Duration::from_millis(arguments.interval),
        count: arguments.count.unwrap_or(u64::MAX),
        twins: HashMap::new(),
    };
    reactor.listen_udp(options, discovery)?;
    reactor.run()?;
    Ok(())
}
