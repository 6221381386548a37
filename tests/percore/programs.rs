//! The example of workers, run as its users run it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use std::process::Command;

use crate::program::{PATIENCE, Program, assert_echoes, example, start};

#[test]
fn per_core_echo_answers_over_both_protocols_until_a_signal_ends_all_workers() {
    let arguments = ["--listen", "127.0.0.1:0", "--workers", "2"];
    let program = start("per_core_echo", &arguments);
    let line = program.line_after("echoing on UDP ");
    let (udp, rest) = line.split_once(", TCP ").unwrap();
    let tcp = rest.strip_suffix(", 2 workers").unwrap();
    for _ in 0..16 {
        assert_echoes(udp.parse().unwrap(), b"hello");
        let mut stream = TcpStream::connect(tcp).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert_eq!(back, b"hello");
    }
    program.signal("-TERM");
    let mut lines = program.finish().succeeded();
    lines.sort();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let sums = lines.iter().enumerate().map(|(index, line)| {
        let counts = line.strip_prefix(&format!("worker {index}: ")).unwrap();
        let (datagrams, connections) = counts.split_once(" datagrams, ").unwrap();
        let connections = connections.strip_suffix(" connections").unwrap();
        (datagrams.parse::<u64>().unwrap(), connections.parse::<u64>().unwrap())
    });
    assert_eq!(sums.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1)), (16, 16));
}

#[test]
fn per_core_echo_needs_a_worker() {
    let text = start("per_core_echo", &["--workers", "0"]).finish().failed();
    assert!(text.contains("at least 1"), "{text}");
}

#[test]
fn a_worker_that_gets_no_reactor_is_named_and_nobody_is_set_up() {
    // However many there were to be: nothing is made for those that never come.
    for workers in ["40", &usize::MAX.to_string()] {
        let mut command = Command::new("sh");
        let program = example("per_core_echo");
        let script = "ulimit -n 30 && exec \"$0\" --listen 127.0.0.1:0 --workers \"$1\"";
        command.args(["-c", script]).arg(program.get_program()).arg(workers);
        let finished = Program::start(&mut command).finish();
        assert!(finished.stdout.is_empty(), "{finished:?}");
        let text = finished.failed();
        let reactor = text.contains("Error: worker ") && text.contains("cannot make a reactor");
        assert!(reactor, "{text}");
    }
}
