//! The load generator: one run against a server on loopback, one line of JSON. It spins, so that
//! the server never pays for waking it.

mod meter;
mod tcp;
mod udp;

use std::net::SocketAddrV4;

use clap::{Args, Parser, Subcommand};
use side_by_side::Reading;

/// Loads a server on loopback, and prints what it found as a line of JSON.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Args, Clone, Copy)]
struct Common {
    /// The server's address
    #[arg(long)]
    to: SocketAddrV4,
    /// The server's process: its CPU time and memory are read
    #[arg(long)]
    pid: i32,
    /// How long to measure
    #[arg(long, default_value_t = 1.0)]
    secs: f64,
}

#[derive(Subcommand)]
enum Mode {
    /// A window of datagrams is kept in flight
    UdpEcho(udp::Echo),
    /// Datagrams are sent, and the server is asked how many it got
    UdpSink(udp::Sink),
    /// Requests and answers on some connections
    TcpEcho(tcp::Echo),
    /// As many bytes as go through
    TcpStream(tcp::Stream),
    /// Connect, a byte each way, close
    TcpAccept(tcp::Accept),
    /// Memory of connections that are idle
    Idle(tcp::Idle),
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let common = arguments.common;
    let mut reading: Reading = match arguments.mode {
        Mode::UdpEcho(mode) => udp::echo(common, &mode)?,
        Mode::UdpSink(mode) => udp::sink(common, &mode)?,
        Mode::TcpEcho(mode) => tcp::echo(common, &mode)?,
        Mode::TcpStream(mode) => tcp::stream(common, &mode)?,
        Mode::TcpAccept(mode) => tcp::accept(common, &mode)?,
        Mode::Idle(mode) => tcp::idle(common, &mode)?,
    };
    reading.load_cpu = side_by_side::sys::own_cpu();
    println!("{}", serde_json::to_string(&reading)?);
    Ok(())
}
