//! Every example, run as its users run it.

mod program;

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use program::{Program, assert_echoes, client, example, loopbacks, root, serve, start};

/// The names of the examples, from the folder itself.
fn examples() -> Vec<String> {
    let names: Vec<_> = fs::read_dir(root().join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert!(names.len() >= 7, "{names:?}");
    names
}

/// A port of this host where nobody listens: the socket that holds it hears another peer only.
fn deaf() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(other.local_addr().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

#[test]
fn every_example_explains_itself() {
    for name in examples() {
        let text = start(&name, &["--help"]).finish().succeeded().join("\n");
        assert!(text.contains(&format!("Usage: {name}")), "{text}");
        assert!(text.contains("--help"), "{text}");
    }
}

#[test]
fn every_example_refuses_an_unknown_argument_by_name() {
    for name in examples() {
        let text = start(&name, &["--no-such-thing"]).finish().failed();
        assert!(text.contains("'--no-such-thing'"), "{name}: {text}");
    }
}

#[test]
fn a_bad_value_is_refused_and_named_with_its_argument() {
    for (name, arguments, named) in [
        ("udp_echo", &["--listen", "localhost:9"][..], &["localhost:9", "--listen", "resolve"][..]),
        ("udp_echo", &["--listen", "127.0.0.1"], &["--listen", "port"]),
        ("udp_echo", &["--listen"], &["--listen"]),
        ("udp_client", &[], &["--to"]),
        ("udp_client", &["--to", "127.0.0.1:70000"], &["--to", "70000", "65535"]),
        ("udp_client", &["--to", "127.0.0.1:9", "--count", "-1"], &["--count"]),
        ("udp_client", &["--to", "127.0.0.1:9", "--count", "few"], &["--count", "few"]),
        ("udp_client", &["--to", "127.0.0.1:9", "--interval", "1s"], &["--interval", "1s"]),
        ("udp_client", &["--to", "127.0.0.1:9", "--timeout", ""], &["--timeout"]),
        ("broadcast_discovery", &["--port", "70000"], &["--port", "70000"]),
        ("broadcast_discovery", &["--broadcast", "::1"], &["--broadcast", "::1"]),
        ("broadcast_discovery", &["--interval", "0"], &["--interval", "0"]),
        ("broadcast_discovery", &["--count", "x"], &["--count"]),
        ("adopt_datagram_port", &["--listen", "::1:9"], &["--listen", "brackets"]),
        ("ipv6_listen", &["--listen", "127.0.0.1:0"], &["--listen", "not an IPv6 address"]),
        ("ipv6_listen", &["--v6-only", "yes"], &["yes"]),
        ("udp_meter", &["--listen", "[::1%nosuchzone]:9"], &["--listen", "interface"]),
        ("udp_meter", &["--seconds", "ten"], &["--seconds", "ten"]),
        ("broadcast_discovery", &["--interval", "-5"], &["--interval", "-5"]),
        ("udp_meter", &["--max-sources", "-1"], &["--max-sources"]),
        ("socket_activation", &["9999"], &["9999"]),
    ] {
        let text = start(name, arguments).finish().failed();
        for part in named {
            assert!(text.contains(part), "{name} {arguments:?} does not name {part:?}: {text}");
        }
    }
}

#[test]
fn an_address_that_is_taken_is_a_clear_error() {
    for name in ["udp_echo", "adopt_datagram_port", "udp_meter"] {
        let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap().to_string();
        let text = start(name, &["--listen", &address]).finish().failed();
        assert!(text.contains(&address) && text.contains("in use"), "{name}: {text}");
    }
}

#[test]
fn udp_echo_answers_over_both_families() {
    for address in loopbacks() {
        let (_echo, server) = serve("udp_echo", &["--listen", address], "echoing on ");
        for payload in [&b"hello"[..], b"", &[7; 1472], &[8; 65_507]] {
            assert_echoes(server, payload);
        }
    }
}

#[test]
fn udp_client_sends_numbered_messages_and_ends_when_all_are_answered() {
    let (_echo, server) = serve("udp_echo", &["--listen", "127.0.0.1:0"], "echoing on ");
    let server = server.to_string();
    let client = start("udp_client", &["--to", &server, "--count", "3", "--interval", "1"]);
    assert_eq!(
        client.finish().succeeded(),
        [
            "answer: \"message 1\"",
            "answer: \"message 2\"",
            "answer: \"message 3\"",
            "3 sent, 3 answered, 0 failed",
        ]
    );
}

#[test]
fn udp_client_sends_the_lines_of_its_input_as_they_come() {
    for address in loopbacks() {
        let (_echo, server) = serve("udp_echo", &["--listen", address], "echoing on ");
        let mut client = start("udp_client", &["--to", &server.to_string()]);
        client.say("one");
        assert_eq!(client.line(), "answer: \"one\"");
        client.say("it's \u{e4} line");
        assert_eq!(client.line(), "answer: \"it's \u{e4} line\"");
        client.end_input();
        assert_eq!(client.finish().succeeded(), ["2 sent, 2 answered, 0 failed"]);
    }
}

#[test]
fn udp_client_without_anything_to_send_ends_at_once() {
    let (_echo, server) = serve("udp_echo", &["--listen", "127.0.0.1:0"], "echoing on ");
    let client = start("udp_client", &["--to", &server.to_string()]);
    assert_eq!(client.finish().succeeded(), ["0 sent, 0 answered, 0 failed"]);
}

#[test]
fn udp_client_prints_refusals_and_fails() {
    let (_socket, address) = deaf();
    let client = start("udp_client", &["--to", &address, "--count", "2", "--timeout", "20000"]);
    let refused = format!("refused: nobody listens on {address}");
    let finished = client.finish();
    assert_eq!(finished.stdout, [&refused, &refused, "2 sent, 0 answered, 2 failed"]);
    assert_eq!(finished.status.code(), Some(1));
}

#[test]
fn udp_client_gives_up_on_a_server_that_is_silent() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let client = start("udp_client", &["--to", &address, "--count", "1", "--timeout", "10"]);
    let finished = client.finish();
    assert_eq!(finished.stdout, ["1 sent, 0 answered, 0 failed"]);
    assert_eq!(finished.status.code(), Some(1));
}

#[test]
fn udp_client_says_what_cannot_be_sent_and_goes_on() {
    let (_echo, server) = serve("udp_echo", &["--listen", "127.0.0.1:0"], "echoing on ");
    let mut client = start("udp_client", &["--to", &server.to_string()]);
    client.say(&"x".repeat(70_000));
    client.say("short");
    client.end_input();
    let finished = client.finish();
    assert_eq!(finished.stdout, ["answer: \"short\"", "1 sent, 1 answered, 0 failed"]);
    assert!(finished.stderr[0].contains("70000 bytes is too long"), "{finished:?}");
}

const ON_LOOPBACK: [&str; 2] = ["--broadcast", "127.255.255.255"];

#[test]
fn broadcast_discovery_finds_its_twins() {
    let start = |port: &str| {
        let mut command = example("broadcast_discovery");
        Program::start(command.args(ON_LOOPBACK).args(["--port", port, "--interval", "20"]))
    };
    let announced = |program: &Program| {
        let line = program.line();
        let (id, to) = line.split_once(" announces itself to 127.255.255.255:").unwrap();
        (id.to_owned(), to.to_owned())
    };
    let first = start("0");
    let (first_id, port) = announced(&first);
    let second = start(&port);
    let (second_id, _) = announced(&second);
    assert_ne!(first_id, second_id);
    assert!(first.line_after("found ").starts_with(&second_id));
    assert!(second.line_after("found ").starts_with(&first_id));
    // And notices that one is gone.
    drop(second);
    assert!(first.line_after("lost ").starts_with(&second_id));
}

#[test]
fn broadcast_discovery_ends_after_its_count() {
    let mut command = example("broadcast_discovery");
    command.args(ON_LOOPBACK).args(["--port", "0", "--interval", "10", "--count", "2"]);
    let lines = Program::start(&mut command).finish().succeeded();
    assert_eq!(lines.len(), 1, "it does not find itself: {lines:?}");
}

#[test]
fn adopt_datagram_port_echoes_on_a_socket_made_elsewhere() {
    for address in loopbacks() {
        let (program, server) = serve("adopt_datagram_port", &["--listen", address], "adopted ");
        assert_echoes(server, b"hello");
        assert!(program.line().starts_with("5 bytes from "));
    }
}

#[test]
fn ipv6_listen_serves_both_families_unless_told_otherwise() {
    if loopbacks().len() == 1 {
        return;
    }
    let (program, server) = serve("ipv6_listen", &["--listen", "[::]:0"], "listening on ");
    assert_echoes(([0, 0, 0, 0, 0, 0, 0, 1], server.port()).into(), b"six");
    assert!(program.line().starts_with("3 bytes over IPv6 from [::1]:"));
    assert_echoes(([127, 0, 0, 1], server.port()).into(), b"four");
    assert!(program.line().starts_with("4 bytes over IPv4 from [::ffff:127.0.0.1]:"));

    let (program, server) =
        serve("ipv6_listen", &["--listen", "[::]:0", "--v6-only"], "listening on ");
    let v4 = client(([127, 0, 0, 1], server.port()).into());
    v4.send(b"four").unwrap();
    let refused = v4.recv(&mut [0; 8]).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_echoes(([0, 0, 0, 0, 0, 0, 0, 1], server.port()).into(), b"only six");
    assert!(program.line().starts_with("8 bytes over IPv6"));
}

#[test]
fn socket_activation_without_sockets_is_a_clear_error() {
    let mut command = example("socket_activation");
    command.env_remove("LISTEN_PID").env_remove("LISTEN_FDS").env_remove("LISTEN_FDNAMES");
    let text = Program::start(&mut command).finish().failed();
    assert!(text.contains("LISTEN_FDS"), "{text}");
}

/// Starts `socket_activation` with two descriptors, as a service manager does. They come in as
/// the shell's standard input and error, since only the shell knows the process id in time.
fn activated(first: OwnedFd, second: OwnedFd, names: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" 3<&0 4<&2 0</dev/null 2>&1"])
        .arg(example("socket_activation").get_program())
        .env("LISTEN_FDNAMES", names)
        .stdin(first)
        .stdout(Stdio::piped())
        .stderr(second);
    command
}

#[test]
fn socket_activation_serves_on_the_sockets_handed_over() {
    let sockets = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let addresses = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
    // What arrives before the program is started waits for it.
    let early = client(addresses[0]);
    early.send(b"early").unwrap();

    let [first, second] = sockets;
    let mut command = activated(first.into(), second.into(), "talk:discard");
    let program = Program::spawn(&mut command);
    drop(command);
    assert_eq!(program.line(), format!("echo on {} (socket talk)", addresses[0]));
    assert_eq!(program.line(), format!("discard on {} (socket discard)", addresses[1]));
    let mut answer = [0; 8];
    let len = early.recv(&mut answer).unwrap();
    assert_eq!(&answer[..len], b"early");
    assert_echoes(addresses[0], b"late");
}

#[test]
fn socket_activation_refuses_a_stream_socket_by_name() {
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    let stream = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = activated(datagrams.into(), stream.into(), "talk:web");
    let finished = Program::spawn(&mut command).finish();
    assert_eq!(finished.status.code(), Some(1));
    let text = finished.stdout.join("\n");
    assert!(text.contains("socket web") && text.contains("stream"), "{text}");
}

#[test]
fn udp_meter_tells_sizes_and_sources() {
    let arguments = ["--listen", "127.0.0.1:0", "--max-sources", "2"];
    let (program, server) = serve("udp_meter", &arguments, "metering ");
    // Three sources, of which two are counted. A second may end between them: then they are all
    // heard in one of the next.
    let sources = [10, 20, 60].map(|len| (client(server), vec![0; len]));
    for _ in 0..10 {
        for (source, payload) in &sources {
            source.send(payload).unwrap();
        }
        let line = program.line();
        assert!(!line.contains("3 sources"), "{line}");
        if line.contains(", sizes 10/30.0/60 min/mean/max, ") {
            assert!(line.contains(" datagrams/s, 0.00") && line.contains("Mbit/s"), "{line}");
            assert!(line.ends_with(", 0 dropped by the kernel, 2+ sources"), "{line}");
            return;
        }
    }
    panic!("the three sources were never heard in one second");
}

#[test]
fn udp_meter_ends_after_its_seconds_with_the_sum() {
    let (program, _) =
        serve("udp_meter", &["--listen", "127.0.0.1:0", "--seconds", "1"], "metering ");
    assert_eq!(
        program.finish().succeeded(),
        ["0 datagrams/s, 0.000 Mbit/s of payload, 0 sources", "0 datagrams in all, 0 bytes",]
    );
}

#[test]
fn sim_gossip_says_the_same_for_one_seed_and_all_hear_the_rumour() {
    let run = |seed| start("sim_gossip", &["--hosts", "300", "--seed", seed]).finish().succeeded();
    let first = run("7");
    assert_eq!(first, run("7"));
    assert_ne!(first[1..], run("8")[1..]);
    assert!(first.iter().any(|line| line.contains(" split  50.00 % |####")), "{first:#?}");
    assert!(first[first.len() - 2].contains(" whole 100.00 % |####"), "{first:#?}");
}
