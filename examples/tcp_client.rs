//! A TCP client: sends lines of text, ends its side of the connection, and prints what comes back
//! until the server has ended, too.
//!
//! The lines are read by a thread of their own, since reading a terminal blocks; they reach the
//! loop through `Remote`, each when the one before was taken by the system, so that a server that
//! does not read stops the reading of the lines.

use std::cell::Cell;
use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Parser;
use strand_reactor::{
    ClientFactory, ConnectError, ConnectOptions, ConnectionLost, Connector, PeerAddr, Protocol,
    Reactor, Remote, StreamKey, Transport, parse_address,
};

/// Sends lines over a connection and prints the answers, until both sides have ended.
#[derive(Parser)]
struct Arguments {
    /// Address and port to connect to
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    to: SocketAddr,
    /// Send this many numbered messages instead of the lines of standard input
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    count: Option<u64>,
    /// Milliseconds that connecting may take
    #[arg(long, value_name = "MS", allow_negative_numbers = true, default_value_t = 30_000)]
    timeout: u64,
}

/// How the whole went; failed until it ended in order.
type Success = Rc<Cell<bool>>;

/// An answer without an end of line is printed in pieces of at most this length.
const LONGEST_LINE: usize = 64 * 1024;

struct Client {
    count: Option<u64>,
    line: Vec<u8>,
    success: Success,
}

impl Client {
    fn print(&mut self) {
        println!("answer: {:?}", String::from_utf8_lossy(&self.line));
        self.line.clear();
    }
}

impl Protocol for Client {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        println!("connected from {} to {}", transport.local_addr()?, transport.peer_addr()?);
        let (remote, key, count) = (transport.reactor().remote(), transport.key()?, self.count);
        thread::spawn(move || {
            let way = (&remote, key);
            match count {
                Some(count) => feed((1..=count).map(|n| Ok(format!("message {n}").into())), way),
                None => feed(io::stdin().lock().split(b'\n'), way),
            }
        });
        Ok(())
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) -> anyhow::Result<()> {
        for part in data.split_inclusive(|byte| *byte == b'\n') {
            match part.split_last() {
                Some((b'\n', part)) => {
                    self.line.extend_from_slice(part);
                    self.print();
                }
                _ => self.line.extend_from_slice(part),
            }
            if self.line.len() > LONGEST_LINE {
                self.print();
            }
        }
        Ok(())
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        if !self.line.is_empty() {
            self.print();
        }
        println!("end: {reason}");
        self.success.set(reason.is_clean());
    }
}

/// Hands lines to the connection, each when the one before was taken, and then ends our side.
fn feed(lines: impl Iterator<Item = io::Result<Vec<u8>>>, (remote, key): (&Remote, StreamKey)) {
    for line in lines {
        let mut line = match line {
            Ok(line) => line,
            Err(error) => {
                eprintln!("standard input: {error}");
                break;
            }
        };
        line.push(b'\n');
        let (taken, waiting) = mpsc::channel();
        let posted = remote.call_from_thread(move |handle| {
            // Without a connection `taken` is dropped, which ends the waiting, too.
            if let Some(transport) = handle.stream(key) {
                let written = transport.write_then(&line, move |result| {
                    if result.is_ok() {
                        let _ = taken.send(());
                    }
                });
                if let Err(error) = written {
                    eprintln!("not sent: {error}");
                }
            }
        });
        if posted.is_err() || waiting.recv().is_err() {
            return;
        }
    }
    let _ = remote.call_from_thread(move |handle| {
        if let Some(transport) = handle.stream(key) {
            transport.lose_write();
        }
    });
}

struct Once {
    count: Option<u64>,
    success: Success,
}

impl ClientFactory for Once {
    fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> {
        let success = Rc::clone(&self.success);
        Some(Box::new(Client { count: self.count, line: Vec::new(), success }))
    }

    fn client_connection_failed(
        &mut self,
        _: &Connector,
        error: &ConnectError,
    ) -> anyhow::Result<()> {
        eprintln!("not connected: {error}");
        Ok(())
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let Arguments { to, count, timeout } = Arguments::parse();
    let success = Success::default();
    let reactor = Reactor::new()?;
    let target = ConnectOptions::new(to).timeout(Duration::from_millis(timeout));
    reactor.connect_tcp(target, Once { count, success: Rc::clone(&success) })?;
    reactor.run()?;
    Ok(if success.get() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
