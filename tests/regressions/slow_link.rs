//! A socket that blocks: on a loopback that is slowed down, in a network namespace of its own.
//!
//! Each test starts itself once more in the namespace; there it finds [`ROLE`] in its environment.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::SockRef;

use crate::support::{Event, Log, Peer, Recorder, Setup, spawn};

/// Tells the test in the namespace from the one that made it.
const ROLE: &str = "STRAND_SLOW_LINK";

/// A network namespace whose loopback carries 5 Mbit/s after the first 70 kB. It is removed when this is dropped.
struct Namespace(String);

impl Namespace {
    fn make() -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("strand-slow-{}-{count}", std::process::id());
        run("ip", &format!("netns add {name}"))?;
        let namespace = Self(name);
        let name = &namespace.0;
        run("ip", &format!("-n {name} link set lo up"))?;
        let shape = "dev lo root tbf rate 5mbit burst 70kb limit 4mb";
        run("tc", &format!("-n {name} qdisc add {shape}"))?;
        Ok(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = run("ip", &format!("netns del {}", self.0));
    }
}

fn run(program: &str, arguments: &str) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Whether this is the test in the namespace. If not, starts it there and waits for its end.
#[track_caller]
fn on_a_slow_link(test: &str) -> bool {
    if std::env::var_os(ROLE).is_some() {
        return true;
    }
    let namespace = match Namespace::make() {
        Ok(namespace) => namespace,
        Err(reason) => {
            println!("skipped: no slow link can be made here: {reason}");
            return false;
        }
    };
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", &namespace.0])
        .arg(std::env::current_exe().unwrap())
        .args([&format!("slow_link::{test}"), "--exact", "--nocapture"])
        .env(ROLE, "inside")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = spawn(&mut command).unwrap().wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

/// A peer that has room for everything that a test sends, however late it looks.
fn sink(setup: &Setup) -> Peer {
    let peer = setup.peer();
    SockRef::from(peer.socket()).set_recv_buffer_size(1 << 20).unwrap();
    peer
}

/// A port that waits for room with nothing under way got no event any more, when the last datagram
/// of its queue failed.
#[test]
fn a_port_that_was_blocked_when_its_last_datagram_failed_sends_again() {
    if !on_a_slow_link("a_port_that_was_blocked_when_its_last_datagram_failed_sends_again") {
        return;
    }
    for portable in [false, true] {
        let setup = Setup { portable, ..Setup::plain() };
        let (lab, sink, log) = (setup.lab(), sink(&setup), Log::default());
        let port =
            lab.listen_udp(setup.options().send_buffer_size(1), Recorder::new(&log)).unwrap();
        // Of different lengths: they are not merged.
        for number in 0..200 {
            port.write_to(&vec![0; 1000 - number], sink.addr()).unwrap();
        }
        // There is no way to this one.
        port.write_to(b"fails", "192.0.2.1:9".parse().unwrap()).unwrap();
        lab.turn();
        assert!(port.queued_datagrams() > 0, "{setup}: the link is not slow enough");
        for _ in 0..200 {
            lab.receive(&sink);
        }
        lab.until("the failure", || log.has(&Event::WriteFailed));
        lab.settle();
        assert_eq!(port.queued_datagrams(), 0);

        port.write_to(b"next", sink.addr()).unwrap();
        assert_eq!(lab.receive(&sink).0, b"next", "{setup}");
    }
}

/// Whatever is accepted arrives, in its order, however often the socket blocks in between.
#[test]
fn what_a_slow_link_was_given_arrives_whole_and_in_order() {
    if !on_a_slow_link("what_a_slow_link_was_given_arrives_whole_and_in_order") {
        return;
    }
    for portable in [false, true] {
        let setup = Setup { portable, ..Setup::plain() };
        for (size, count) in [(300, 500_u32), (1000, 150), (9000, 30)] {
            let (lab, sink, log) = (setup.lab(), sink(&setup), Log::default());
            let options = setup.options().send_buffer_size(10_000);
            let port = lab.connect_udp_from(options, sink.addr(), Recorder::new(&log)).unwrap();
            let mut payload = vec![0; size];
            for number in 0..count {
                payload[..4].copy_from_slice(&number.to_le_bytes());
                port.write(&payload).unwrap();
            }
            lab.turn();
            assert!(port.queued_datagrams() > 0, "{setup}: the link is not slow enough");
            for number in 0..count {
                let (received, _) = lab.receive(&sink);
                assert_eq!(received.len(), size);
                assert_eq!(received[..4], number.to_le_bytes(), "{setup}, {count} of {size}");
            }
            let (paused, resumed) = (Event::PauseWriting, Event::ResumeWriting);
            lab.until("the resumption", || log.count(&paused) == log.count(&resumed));
            assert!(!log.has(&Event::WriteFailed), "{setup}");
        }
    }
}
