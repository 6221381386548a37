//! What every peer shares: its command line, its sockets, and the counting rule of the sink.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

/// "This peer does not offer this kind": no failure. (`EX_USAGE` of sysexits(3).)
pub const NOT_OFFERED: i32 = 64;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// `PEER [VARIANT] KIND PORT`.
pub struct Command {
    pub variant: String,
    pub kind: String,
    pub port: u16,
}

impl Command {
    /// Parses the arguments, or ends the process.
    pub fn parse(default_variant: &str) -> Self {
        let mut given: Vec<String> = std::env::args().skip(1).collect();
        if given.len() == 2 {
            given.insert(0, default_variant.to_owned());
        }
        let [variant, kind, port] = &given[..] else { usage() };
        let Ok(port) = port.parse() else { usage() };
        Self { variant: variant.clone(), kind: kind.clone(), port }
    }
}

fn usage() -> ! {
    eprintln!("usage: PEER [VARIANT] udp-echo|udp-sink|tcp-echo|tcp-sink PORT");
    std::process::exit(2)
}

/// Ends the process: the kind or the variant is none of this peer's.
pub fn not_offered() -> ! {
    std::process::exit(NOT_OFFERED)
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

pub fn udp(port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(local(port))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

pub fn tcp(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(local(port))?;
    // std asks for 128.
    crate::sys::listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Counts datagrams; a `STAT` is answered with the count (`u64`, little-endian) instead.
#[derive(Default)]
pub struct Counter(u64);

impl Counter {
    #[inline]
    pub fn datagram(&mut self, datagram: &[u8]) -> Option<[u8; 8]> {
        if datagram == b"STAT" {
            return Some(self.0.to_le_bytes());
        }
        self.0 += 1;
        None
    }
}
