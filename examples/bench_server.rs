//! The server under test of the peer bench: echo and sink over UDP and TCP, as a user would write
//! them, with ordinary protocols and default options.
//!
//! ```text
//! cargo run --release --example bench_server -- udp-echo 9999
//! ```

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use clap::Parser;
use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Handle, PeerAddr, Protocol, Reactor, TcpOptions,
    Transport, UdpOptions,
};

/// Serves one kind of load on 127.0.0.1 until it is killed.
///
/// udp-echo: every datagram goes back to its sender, as it is.
///
/// udp-sink: datagrams are counted. One of the four bytes "STAT" is not counted but answered with
/// the count, eight bytes, little-endian.
///
/// tcp-echo: every byte goes back; a connection is closed when its client closes it.
///
/// tcp-sink: every byte is read and discarded; a connection is closed when its client closes it.
///
/// The exit status is 64 for a kind that is not among these.
#[derive(Parser)]
struct Arguments {
    /// udp-echo, udp-sink, tcp-echo or tcp-sink
    kind: String,
    /// The port to listen on; 0 lets the system choose, and the first line printed tells which
    port: u16,
    /// Spin for so long before sleeping
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    busy_poll: u64,
    /// Serve with this many reactors, each on a thread of its own, pinned to a core
    #[arg(long, value_name = "N", default_value_t = 1)]
    workers: usize,
}

/// `EX_USAGE` of sysexits(3): the bench skips what a server does not offer.
const NOT_OFFERED: u8 = 64;

/// As many connections as the bench opens at once may wait to be accepted.
const BACKLOG: u32 = 4096;

struct UdpEcho;

impl DatagramProtocol for UdpEcho {
    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        transport.write_to(datagram.payload(), datagram.source())?;
        Ok(())
    }
}

/// What one worker counted, on a cache line of its own: only that worker writes to it.
#[derive(Default)]
#[repr(align(64))]
struct Count(AtomicU64);

struct UdpSink {
    counts: Arc<[Count]>,
    worker: usize,
}

impl DatagramProtocol for UdpSink {
    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        if datagram.payload() == b"STAT" {
            let sum: u64 = self.counts.iter().map(|count| count.0.load(Relaxed)).sum();
            transport.write_to(&sum.to_le_bytes(), datagram.source())?;
        } else {
            let count = &self.counts[self.worker].0;
            count.store(count.load(Relaxed) + 1, Relaxed);
        }
        Ok(())
    }
}

struct TcpEcho;

impl Protocol for TcpEcho {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
        transport.write(data)?;
        Ok(())
    }

    // A client that does not read is not read from, so that it costs a bounded amount of memory.
    fn pause_writing(&mut self, transport: &Transport) -> anyhow::Result<()> {
        transport.pause_reading()?;
        Ok(())
    }

    fn resume_writing(&mut self, transport: &Transport) -> anyhow::Result<()> {
        transport.resume_reading()?;
        Ok(())
    }
}

struct TcpSink;

impl Protocol for TcpSink {
    fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Kind {
    UdpEcho,
    UdpSink,
    TcpEcho,
    TcpSink,
}

impl Kind {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "udp-echo" => Self::UdpEcho,
            "udp-sink" => Self::UdpSink,
            "tcp-echo" => Self::TcpEcho,
            "tcp-sink" => Self::TcpSink,
            _ => return None,
        })
    }
}

/// What the workers have in common.
struct Service {
    kind: Kind,
    /// The port, once it is known.
    port: AtomicU16,
    workers: usize,
    counts: Arc<[Count]>,
}

impl Service {
    /// Opens the port for a worker, and returns its number.
    fn listen(&self, handle: &Handle, worker: usize) -> anyhow::Result<u16> {
        let address = (Ipv4Addr::LOCALHOST, self.port.load(Relaxed));
        let shared = self.workers > 1;
        let udp = UdpOptions::from(address).reuse_port(shared);
        let tcp = TcpOptions::from(address).backlog(BACKLOG).reuse_port(shared);
        let bound = match self.kind {
            Kind::UdpEcho => handle.listen_udp(udp, UdpEcho)?.local_addr()?,
            Kind::UdpSink => {
                let sink = UdpSink { counts: Arc::clone(&self.counts), worker };
                handle.listen_udp(udp, sink)?.local_addr()?
            }
            Kind::TcpEcho => handle.listen_tcp(tcp, |_: PeerAddr| Some(TcpEcho))?.local_addr()?,
            Kind::TcpSink => handle.listen_tcp(tcp, |_: PeerAddr| Some(TcpSink))?.local_addr()?,
        };
        self.port.store(bound.port(), Relaxed);
        Ok(bound.port())
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let Arguments { kind: name, port, busy_poll, workers } = Arguments::parse();
    let Some(kind) = Kind::named(&name) else {
        eprintln!("no kind {name:?}: there are udp-echo, udp-sink, tcp-echo, tcp-sink");
        return Ok(NOT_OFFERED.into());
    };
    let counts = (0..workers).map(|_| Count::default()).collect();
    let service = Service { kind, port: AtomicU16::new(port), workers, counts };
    let builder = Reactor::builder().busy_poll(Duration::from_micros(busy_poll));
    if workers == 1 {
        let reactor = builder.build()?;
        println!("{name} on 127.0.0.1:{}", service.listen(&reactor, 0)?);
        reactor.run()?;
        return Ok(ExitCode::SUCCESS);
    }
    builder.run_per_core(workers, |handle, worker| {
        let port = service.listen(handle, worker)?;
        if worker + 1 == workers {
            println!("{name} on 127.0.0.1:{port} with {workers} workers");
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}
