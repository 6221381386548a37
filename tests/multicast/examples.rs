//! The examples of multicast, run as their users run them, on loopback.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// The command of an example, which is built along with the tests.
#[track_caller]
fn example(name: &str) -> Command {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path.push("examples");
    path.push(name);
    assert!(path.exists(), "{} is missing: run `cargo build --examples`", path.display());
    Command::new(path)
}

/// Runs an example that ends by itself.
#[track_caller]
fn run(name: &str, arguments: &[&str]) -> Output {
    example(name).args(arguments).output().unwrap()
}

#[track_caller]
fn refused(name: &str, arguments: &[&str]) -> String {
    let output = run(name, arguments);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A server on a port of the system's choice, ended with the test.
struct Server {
    process: Child,
    lines: Receiver<String>,
    port: String,
}

impl Server {
    #[track_caller]
    fn start(arguments: &[&str]) -> Self {
        let mut process = example("multicast_server")
            .args(["--port", "0", "--interface", "127.0.0.1"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let mut server = Self { process, lines, port: String::new() };
        let announced = server.line();
        server.port = announced.rsplit_once(':').unwrap().1.to_owned();
        server
    }

    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(30)).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Pings from loopback for at most ten seconds.
#[track_caller]
fn ping(group: &str, server: &Server, more: &[&str]) -> String {
    let mut arguments = vec!["--group", group, "--port", &server.port, "--interface", "127.0.0.1"];
    if !more.contains(&"--timeout") {
        arguments.extend(["--timeout", "10000"]);
    }
    arguments.extend(more);
    let output = run("multicast_client", &arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_server_answers_the_client_alone() {
    let server = Server::start(&["--group", "239.255.0.3"]);
    for ttl in ["0", "5"] {
        let answers = ping("239.255.0.3", &server, &["--count", "1", "--ttl", ttl]);
        assert!(answers.starts_with("\"Server: Pong\" from 127.0.0.1:"), "{answers}");
        assert!(server.line().starts_with("\"Client: Ping\" from 127.0.0.1:"));
    }
}

#[test]
fn the_server_hears_the_sources_it_was_told_alone() {
    let group = "239.255.0.4";
    let server = Server::start(&["--group", group, "--source", "127.0.0.2"]);
    let answers = ping(group, &server, &["--source", "127.0.0.3", "--timeout", "1"]);
    assert_eq!(answers, "");
    let answers = ping(group, &server, &["--source", "127.0.0.2", "--count", "1"]);
    assert!(answers.starts_with("\"Server: Pong\" from "), "{answers}");
    // The first it heard is the second that was sent.
    assert!(server.line().contains("from 127.0.0.2:"));
}

#[test]
fn interfaces_lists_loopback_with_its_addresses() {
    let output = run("interfaces", &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, rest) = text.split_once("lo (up, loopback)\n").unwrap();
    assert!(rest.starts_with("    127.0.0.1/8\n"), "{text}");
    let output = run("interfaces", &["--multicast"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("loopback"), "{text}");
}

#[test]
fn bad_values_are_refused_and_named() {
    for (name, arguments, named) in [
        (
            "multicast_server",
            &["--port", "0", "--group", "192.0.2.1"][..],
            &["192.0.2.1", "no group"][..],
        ),
        ("multicast_server", &["--group", "localhost"], &["--group", "localhost"]),
        ("multicast_server", &["--port", "0", "--interface", "nosuch"], &["no interface nosuch"]),
        ("multicast_server", &["--ttl", "0"], &["--ttl", "0"]),
        ("multicast_server", &["--port", "0", "--source", "::1"], &["::1", "family"]),
        ("multicast_client", &["--ttl", "256"], &["--ttl", "256"]),
        ("multicast_client", &["--interface", "all"], &["one interface is needed"]),
        ("multicast_client", &["--source", "192.0.2.77"], &["192.0.2.77"]),
        ("multicast_client", &["--no-such-thing"], &["'--no-such-thing'"]),
        ("interfaces", &["eth0"], &["eth0"]),
    ] {
        let text = refused(name, arguments);
        for part in named {
            assert!(text.contains(part), "{name} {arguments:?} does not name {part:?}: {text}");
        }
    }
}

#[test]
fn every_example_explains_itself() {
    for name in ["multicast_server", "multicast_client", "interfaces"] {
        let output = run(name, &["--help"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains(&format!("Usage: {name}")), "{text}");
    }
}
