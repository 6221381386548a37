//! Ten thousand connections that say nothing: what each costs, and that nothing stays behind.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};

use crate::program::example;
use crate::support::WATCHDOG;

const CONNECTIONS: usize = 10_000;
/// Descriptors of a process beside its connections.
const OTHERS: u64 = 100;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("running");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        line.trim().split(' ').next().expect("a number").parse().expect("a number")
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.0.id())).expect("running").count()
    }
}

/// How many descriptors this process, and so its children, may have.
fn limit() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

#[test]
fn ten_thousand_idle_connections_answer_and_leave_nothing() {
    match limit() {
        Some(limit) if limit >= CONNECTIONS as u64 + OTHERS => {}
        Some(limit) => return println!("skipped: only {limit} descriptors are allowed"),
        None => return println!("skipped: no /proc/self/limits to read"),
    }
    let mut command = example("tcp_echo");
    let mut server = Server(
        command.args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().expect("started"),
    );
    let mut line = String::new();
    let stdout = server.0.stdout.take().expect("a pipe");
    let mut stdout = BufReader::new(stdout);
    stdout.read_line(&mut line).expect("its address");
    let address: SocketAddr =
        line.trim().strip_prefix("echoing on ").expect("its address").parse().expect("an address");
    let talk = |stream: &mut TcpStream, words: &[u8]| {
        stream.write_all(words).expect("sent");
        let mut back = vec![0; words.len()];
        stream.read_exact(&mut back).expect("an echo");
        assert_eq!(back, words);
    };
    let connect = || {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(WATCHDOG)).expect("a timeout");
        stream
    };
    let descriptors = server.descriptors();
    // What is made at the first connection is not one connection's.
    talk(&mut connect(), b"warm");
    let resident = server.resident();
    let mut streams: Vec<TcpStream> = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        streams.push(connect());
        // The backlog is not the subject here.
        if streams.len().is_multiple_of(500) {
            talk(streams.last_mut().expect("one"), b"accepted");
        }
    }
    let held = server.resident() - resident;
    println!("{CONNECTIONS} idle connections: {} bytes each", held * 1024 / CONNECTIONS as u64);
    assert!(held * 1024 / (CONNECTIONS as u64) < 4096, "{held} KiB");
    for (at, stream) in streams.iter_mut().enumerate() {
        talk(stream, format!("still there, {at}?").as_bytes());
    }
    assert!(server.descriptors() >= CONNECTIONS);
    let spoken = server.resident() - resident;
    println!("after each has spoken: {} bytes each", spoken * 1024 / CONNECTIONS as u64);
    drop(streams);
    // A hang here is cut by the harness's own limit; each pass asks the system anew.
    let limit = std::time::Instant::now() + WATCHDOG;
    while server.descriptors() != descriptors {
        assert!(std::time::Instant::now() < limit, "{} remain", server.descriptors());
        std::thread::yield_now();
    }
    talk(&mut connect(), b"and still serves");
}
