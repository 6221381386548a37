//! The `port_forward` example: exact, and bounded whatever its peers do.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::thread;

use crate::program::example;
use crate::support::{WATCHDOG, nobody, pattern, read_all, reset};

/// The example, ended with the test.
struct Forwarder(Child);

impl Forwarder {
    /// KiB resident at most so far.
    fn peak(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().split(' ').next()?.parse().ok()
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A forwarder to `to`, and a connection through it.
fn forward(to: &str) -> (Forwarder, TcpStream) {
    let mut child = example("port_forward")
        .args(["--listen", "127.0.0.1:0", "--to", to])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the example");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("its address");
    let address = line.split(' ').nth(2).expect("its address");
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(WATCHDOG)).expect("a timeout");
    (Forwarder(child), stream)
}

fn target() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    (listener, address)
}

#[test]
fn much_to_a_slow_reader_costs_little_memory() {
    let len: usize = if cfg!(debug_assertions) { 64 << 20 } else { 256 << 20 };
    let (listener, to) = target();
    let (forwarder, mut stream) = forward(&to);
    let (mut far, _) = listener.accept().expect("forwarded");
    far.set_read_timeout(Some(WATCHDOG)).expect("a timeout");
    let before = forwarder.peak();
    let block = pattern(1 << 20);
    let writer = thread::spawn({
        let block = block.clone();
        move || {
            for _ in 0..len / block.len() {
                stream.write_all(&block).expect("sent");
            }
            stream.shutdown(Shutdown::Write).expect("an end");
            read_all(&mut stream)
        }
    });
    // Slow: small reads, each with a turn for the others; what is not read waits at the sender.
    let (mut at, mut piece) = (0, vec![0; 16 * 1024]);
    loop {
        let count = far.read(&mut piece).expect("data or an end");
        if count == 0 {
            break;
        }
        let from = at % block.len();
        let first = count.min(block.len() - from);
        assert!(piece[..first] == block[from..from + first], "wrong at {at}");
        assert!(piece[first..count] == block[..count - first], "wrong at {at}");
        at += count;
        thread::yield_now();
    }
    assert_eq!(at, len);
    far.write_all(b"thanks").expect("sent");
    drop(far);
    assert_eq!(writer.join().expect("sent"), b"thanks");
    match (before, forwarder.peak()) {
        (Some(before), Some(peak)) => {
            println!("port_forward: {before} KiB before, {peak} KiB at most, {len} bytes");
            assert!(peak - before < 8 * 1024, "{before} KiB before, {peak} KiB at most");
        }
        _ => println!("skipped the measurement of memory: no /proc/PID/status"),
    }
}

#[test]
fn ends_of_a_direction_pass_through_and_the_other_goes_on() {
    let (listener, to) = target();
    let (_forwarder, mut stream) = forward(&to);
    let (mut far, _) = listener.accept().expect("forwarded");
    far.set_read_timeout(Some(WATCHDOG)).expect("a timeout");
    far.write_all(b"a greeting").expect("sent");
    far.shutdown(Shutdown::Write).expect("an end");
    assert_eq!(read_all(&mut stream), b"a greeting");
    stream.write_all(b"an answer").expect("sent");
    drop(stream);
    assert_eq!(read_all(&mut far), b"an answer");
}

#[test]
fn a_reset_passes_through() {
    let (listener, to) = target();
    let (_forwarder, mut stream) = forward(&to);
    let (far, _) = listener.accept().expect("forwarded");
    reset(far);
    let end = stream.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
}

#[test]
fn a_target_that_refuses_is_passed_on_as_a_reset() {
    let (_forwarder, mut stream) = forward(&nobody().to_string());
    let end = stream.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
}
