//! A connected UDP client: sends lines of text to one address, prints what comes back, and ends
//! when every line was answered or refused.
//!
//! The lines are read by a thread of their own, since reading a terminal blocks; they reach the
//! loop through `Remote`.

use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use clap::Parser;
use strand_reactor::{
    Datagram, DatagramKey, DatagramProtocol, DatagramTransport, Reactor, Remote, WriteFailure,
    parse_address,
};

/// Sends lines as datagrams and prints the answers; fails if a line got none.
#[derive(Parser)]
struct Arguments {
    /// Address and port to send to
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    to: SocketAddr,
    /// Send this many numbered messages instead of the lines of standard input
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    count: Option<u64>,
    /// Milliseconds from one message to the next
    #[arg(long, value_name = "MS", allow_negative_numbers = true, default_value_t = 0)]
    interval: u64,
    /// Milliseconds to wait, after the last message, for answers that are still missing
    #[arg(long, value_name = "MS", allow_negative_numbers = true, default_value_t = 2000)]
    timeout: u64,
}

/// Messages sent, and how many of them came to an end, good or bad.
struct Progress {
    /// `u64::MAX` until the last one was sent.
    sent: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Progress {
    fn is_complete(&self) -> bool {
        self.answered.load(Relaxed) + self.failed.load(Relaxed) >= self.sent.load(Relaxed)
    }
}

struct Client(Arc<Progress>);

impl Client {
    fn count(&self, outcome: &AtomicU64, transport: &DatagramTransport) -> anyhow::Result<()> {
        outcome.fetch_add(1, Relaxed);
        if self.0.is_complete() {
            transport.reactor().stop();
        }
        Ok(())
    }
}

impl DatagramProtocol for Client {
    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        println!("answer: {:?}", String::from_utf8_lossy(datagram.payload()));
        self.count(&self.0.answered, transport)
    }

    fn connection_refused(&mut self, transport: &DatagramTransport) -> anyhow::Result<()> {
        println!("refused: nobody listens on {}", transport.peer_addr()?);
        self.count(&self.0.failed, transport)
    }

    fn write_failed(
        &mut self,
        transport: &DatagramTransport,
        failure: &WriteFailure,
    ) -> anyhow::Result<()> {
        println!("not sent: {failure}");
        self.count(&self.0.failed, transport)
    }
}

/// Hands messages to the port, one by one, each when the one before was taken.
fn feed(
    messages: impl Iterator<Item = io::Result<Vec<u8>>>,
    (remote, key): (&Remote, DatagramKey),
    interval: Duration,
) -> u64 {
    let mut sent = 0;
    for message in messages {
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                eprintln!("standard input: {error}");
                break;
            }
        };
        let (taken, waiting) = mpsc::channel();
        let posted = remote.call_from_thread(move |handle| {
            let result = match handle.datagram(key) {
                Some(port) => port.write(&message).map_err(|error| eprintln!("not sent: {error}")),
                None => Err(()),
            };
            let _ = taken.send(result.is_ok());
        });
        match (posted, waiting.recv()) {
            (Ok(()), Ok(true)) => sent += 1,
            (Ok(()), Ok(false)) => {}
            _ => break,
        }
        thread::sleep(interval);
    }
    sent
}

fn main() -> anyhow::Result<ExitCode> {
    let Arguments { to, count, interval, timeout } = Arguments::parse();
    let (interval, timeout) = (Duration::from_millis(interval), Duration::from_millis(timeout));
    let progress = Arc::new(Progress {
        sent: AtomicU64::new(u64::MAX),
        answered: AtomicU64::new(0),
        failed: AtomicU64::new(0),
    });
    let reactor = Reactor::new()?;
    let port = reactor.connect_udp(to, Client(Arc::clone(&progress)))?;

    let (remote, key, shared) = (reactor.remote(), port.key()?, Arc::clone(&progress));
    thread::spawn(move || {
        let way = (&remote, key);
        let sent = match count {
            Some(count) => {
                let messages = (1..=count).map(|n| Ok(format!("message {n}").into_bytes()));
                feed(messages, way, interval)
            }
            None => feed(io::stdin().lock().split(b'\n'), way, interval),
        };
        remote.call_from_thread(move |handle| {
            shared.sent.store(sent, Relaxed);
            if shared.is_complete() {
                handle.stop();
            } else {
                handle.call_later(timeout, |handle| handle.stop());
            }
        })
    });
    reactor.run()?;

    let (sent, answered) = (progress.sent.load(Relaxed), progress.answered.load(Relaxed));
    println!("{sent} sent, {answered} answered, {} failed", progress.failed.load(Relaxed));
    Ok(if answered < sent { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
