//! `bench_server` serves what the peer bench asks of it, and says what it does not.

mod program;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use program::{PATIENCE, assert_echoes, client, serve, start};

fn served(kind: &str) -> (program::Program, SocketAddr) {
    let (program, address) = serve("bench_server", &[kind, "0"], &format!("{kind} on "));
    assert_ne!(address.port(), 0);
    (program, address)
}

fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn udp_echo_sends_every_datagram_back() {
    let (_program, server) = served("udp-echo");
    for payload in [&b"hello"[..], b"", b"STAT", &[7; 1200], &[8; 65_507]] {
        assert_echoes(server, payload);
    }
}

#[test]
fn udp_sink_answers_stat_alone_and_with_the_count() {
    let (_program, server) = served("udp-sink");
    let client = client(server);
    let mut answer = [0; 64];
    for (payloads, count) in [(&[][..], 0_u64), (&[&b""[..], b"stat", b"STATS", &[1; 1200]], 4)] {
        for payload in payloads {
            client.send(payload).unwrap();
        }
        // What else would be answered would come before this.
        client.send(b"STAT").unwrap();
        let len = client.recv(&mut answer).unwrap();
        assert_eq!(answer[..len], count.to_le_bytes());
    }
}

#[test]
fn tcp_echo_sends_every_byte_back_and_closes_after_its_client() {
    let (_program, server) = served("tcp-echo");
    let data: Vec<u8> = (0..3_000_000_u32).map(|byte| byte as u8).collect();
    let mut stream = connect(server);
    let mut sender = stream.try_clone().unwrap();
    let sent = data.clone();
    let writer = std::thread::spawn(move || {
        sender.write_all(&sent).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    writer.join().unwrap();
    assert!(back == data, "{} bytes came back", back.len());
}

#[test]
fn tcp_sink_reads_everything_and_closes_after_its_client() {
    let (_program, server) = served("tcp-sink");
    let mut stream = connect(server);
    // More than the buffers of both ends hold: it is written only if the server reads.
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..64 {
        stream.write_all(&[9; 1 << 18]).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    assert!(back.is_empty());
}

#[test]
fn a_kind_that_is_not_offered_ends_with_status_64() {
    let finished = start("bench_server", &["quic-echo", "0"]).finish();
    assert_eq!(finished.status.code(), Some(64));
    assert!(finished.stderr.join("\n").contains("quic-echo"), "{finished:?}");
}

#[test]
fn the_kinds_are_described_by_the_help() {
    let text = start("bench_server", &["--help"]).finish().succeeded().join("\n");
    for part in ["udp-echo", "udp-sink", "tcp-echo", "tcp-sink", "STAT", "64"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
}

#[test]
fn options_change_nothing_in_what_is_served() {
    let arguments = ["udp-echo", "0", "--busy-poll", "50"];
    let (_program, server) = serve("bench_server", &arguments, "udp-echo on ");
    assert_echoes(server, b"hello");

    let arguments = ["tcp-echo", "0", "--workers", "2"];
    let (_program, server) = serve("bench_server", &arguments, "tcp-echo on ");
    for _ in 0..16 {
        let mut stream = connect(server);
        stream.write_all(b"hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert_eq!(back, b"hello");
    }
}

#[test]
fn the_sink_of_two_workers_tells_the_count_of_both() {
    let arguments = ["udp-sink", "0", "--workers", "2"];
    let (_program, server) = serve("bench_server", &arguments, "udp-sink on ");
    let sources: Vec<_> = (0..32).map(|_| client(server)).collect();
    let stat = |source: &std::net::UdpSocket| {
        source.send(b"STAT").unwrap();
        let mut answer = [0; 8];
        assert_eq!(source.recv(&mut answer).unwrap(), 8);
        u64::from_le_bytes(answer)
    };
    for source in &sources {
        source.send(b"counted").unwrap();
        // The answer to each source comes from the worker that counted its datagram.
        assert!(stat(source) >= 1);
    }
    for source in &sources {
        assert_eq!(stat(source), 32);
    }
}

#[test]
fn no_workers_are_refused() {
    let text = start("bench_server", &["udp-echo", "0", "--workers", "0"]).finish().failed();
    assert!(text.contains("at least 1"), "{text}");
}
