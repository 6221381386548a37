//! The server under test of the peer bench: echo and sink over UDP and TCP, as a user would write
//! them, with ordinary protocols and default options.
//!
//! ```text
//! cargo run --release --example bench_server -- udp-echo 9999
//! ```

use std::net::Ipv4Addr;
use std::process::ExitCode;

use clap::Parser;
use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Handle, PeerAddr, Protocol, Reactor, TcpOptions,
    Transport,
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

#[derive(Default)]
struct UdpSink {
    count: u64,
}

impl DatagramProtocol for UdpSink {
    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        if datagram.payload() == b"STAT" {
            transport.write_to(&self.count.to_le_bytes(), datagram.source())?;
        } else {
            self.count += 1;
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

/// Opens the port of a kind; `None` if there is no such kind.
fn listen(handle: &Handle, kind: &str, port: u16) -> anyhow::Result<Option<u16>> {
    let address = (Ipv4Addr::LOCALHOST, port);
    let stream = || TcpOptions::from(address).backlog(BACKLOG);
    let bound = match kind {
        "udp-echo" => handle.listen_udp(address, UdpEcho)?.local_addr()?,
        "udp-sink" => handle.listen_udp(address, UdpSink::default())?.local_addr()?,
        "tcp-echo" => handle.listen_tcp(stream(), |_: PeerAddr| Some(TcpEcho))?.local_addr()?,
        "tcp-sink" => handle.listen_tcp(stream(), |_: PeerAddr| Some(TcpSink))?.local_addr()?,
        _ => return Ok(None),
    };
    Ok(Some(bound.port()))
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let reactor = Reactor::new()?;
    let Some(port) = listen(&reactor, &arguments.kind, arguments.port)? else {
        eprintln!("no kind {:?}: there are udp-echo, udp-sink, tcp-echo, tcp-sink", arguments.kind);
        return Ok(NOT_OFFERED.into());
    };
    println!("{} on 127.0.0.1:{port}", arguments.kind);
    reactor.run()?;
    Ok(ExitCode::SUCCESS)
}
