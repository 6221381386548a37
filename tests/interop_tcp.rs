//! The examples of streams against programs that nobody here wrote. A program that is missing is
//! said so on standard output, and its test proves nothing then.

mod program;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use program::{Program, has_python, loopbacks, python, serve, start, twisted_python, works};

/// The `tcp_echo` example on a loopback address: the program, and its host and port.
fn echo(address: &str) -> (Program, String, String) {
    let (program, address) = serve("tcp_echo", &["--listen", address], "echoing on ");
    (program, address.ip().to_string(), address.port().to_string())
}

/// Lines of text of about this many bytes in all.
fn lines(bytes: usize) -> String {
    (0..bytes / 20).map(|at| format!("this is line {at:>6}\n")).collect()
}

/// A file of its own, removed with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, content: &str) -> Self {
        let path = std::env::temp_dir().join(format!("strand-{}-{name}", std::process::id()));
        fs::write(&path, content).expect("a file");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Has a client end what it sends at the end of a file, and compares what comes back with it.
fn sends_a_file(client: &mut Command, name: &str) {
    let text = lines(4 << 20);
    let file = Scratch::new(name, &text);
    let input = fs::File::open(&file.0).expect("the file");
    let client = client.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    let back = Program::spawn(client).finish().succeeded();
    assert!(back.iter().map(String::as_str).eq(text.lines()), "{} lines came back", back.len());
}

#[test]
fn ncat_gets_a_file_back_after_it_ended_its_side() {
    if !works(Command::new("ncat").arg("--version"), "ncat") {
        return;
    }
    for address in loopbacks() {
        let (_echo, host, port) = echo(address);
        sends_a_file(Command::new("ncat").args([&host, &port]), "ncat");
    }
}

#[test]
fn socat_gets_a_file_back_after_it_ended_its_side() {
    if !works(Command::new("socat").arg("-V"), "socat") {
        return;
    }
    for address in loopbacks() {
        let (_echo, host, port) = echo(address);
        let to = if host.contains(':') {
            format!("TCP6:[{host}]:{port}")
        } else {
            format!("TCP4:{host}:{port}")
        };
        sends_a_file(Command::new("socat").args(["-t", "60", "-", &to]), "socat");
    }
}

#[test]
fn tcp_client_talks_to_a_python_server() {
    if !has_python() {
        return;
    }
    let server = Program::start(Command::new("python3").args(["-c", PYTHON_SERVER]));
    let port = server.line();
    let client = start("tcp_client", &["--to", &format!("127.0.0.1:{port}"), "--count", "3"]);
    client.line_after("connected from ");
    let expected = [
        "answer: \"MESSAGE 1\"",
        "answer: \"MESSAGE 2\"",
        "answer: \"MESSAGE 3\"",
        "answer: \"that was all\"",
        "end: closed in order",
    ];
    assert_eq!(client.finish().succeeded(), expected);
}

/// Answers lines in capitals, and the end with a last word.
const PYTHON_SERVER: &str = r#"
import asyncio

async def serve(reader, writer):
    async for line in reader:
        writer.write(line.upper())
    writer.write(b"that was all\n")
    await writer.drain()
    writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"#;

/// Fifty connections at a time, each with an exchange in pieces and a half-closed end.
const PYTHON_ASYNCIO: &str = r#"
import asyncio, os, sys
host, port = sys.argv[1], int(sys.argv[2])

async def one(size):
    reader, writer = await asyncio.open_connection(host, port)
    data = os.urandom(size)
    async def send():
        for at in range(0, size, 10_000):
            writer.write(data[at:at + 10_000])
            await writer.drain()
        writer.write_eof()
    sending = asyncio.create_task(send())
    back = await reader.read()
    await sending
    assert back == data, (size, len(back))
    writer.close()
    await writer.wait_closed()

async def main():
    for size in (0, 1, 1000, 100_000):
        await asyncio.gather(*(one(size) for _ in range(50)))
    await one(10_000_000)
    print("ok")

asyncio.run(main())
"#;

#[test]
fn asyncio_clients_get_everything_back() {
    if !has_python() {
        return;
    }
    for address in loopbacks() {
        let (_echo, host, port) = echo(address);
        assert_eq!(python("python3", PYTHON_ASYNCIO, &[&host, &port]), ["ok"]);
    }
}

/// Twenty connections that each send, end their side, and compare.
const TWISTED_CLIENT: &str = r#"
import sys
from twisted.internet import defer, endpoints, protocol, reactor
host, port = sys.argv[1], int(sys.argv[2])
DATA = bytes(range(256)) * 4000

class Client(protocol.Protocol):
    def __init__(self):
        self.back, self.done = b"", defer.Deferred()
    def connectionMade(self):
        self.transport.write(DATA)
        self.transport.loseWriteConnection()
    def dataReceived(self, data):
        self.back += data
    def connectionLost(self, reason):
        self.done.callback((self.back == DATA, reason.type.__name__))

def one():
    endpoint = endpoints.HostnameEndpoint(reactor, host, port)
    return endpoints.connectProtocol(endpoint, Client()).addCallback(lambda c: c.done)

def told(results):
    assert all(result == (True, "ConnectionDone") for result in results), results
    print("ok")
    reactor.stop()

def failed(failure):
    failure.printTraceback()
    reactor.stop()

defer.gatherResults([one() for _ in range(20)]).addCallback(told).addErrback(failed)
reactor.run()
"#;

/// An echo server that pauses its peer by the producer interface.
const TWISTED_SERVER: &str = r#"
from twisted.internet import protocol, reactor

class Echo(protocol.Protocol):
    def dataReceived(self, data):
        self.transport.write(data)

factory = protocol.Factory.forProtocol(Echo)
print(reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port, flush=True)
reactor.run()
"#;

#[test]
fn twisted_clients_get_everything_back() {
    let Some(program) = twisted_python() else { return };
    let (_echo, host, port) = echo("127.0.0.1:0");
    assert_eq!(python(program, TWISTED_CLIENT, &[&host, &port]), ["ok"]);
}

#[test]
fn tcp_client_talks_to_a_twisted_server() {
    let Some(program) = twisted_python() else { return };
    let server = Program::start(Command::new(program).args(["-c", TWISTED_SERVER]));
    let port = server.line();
    let mut client = start("tcp_client", &["--to", &format!("127.0.0.1:{port}")]);
    client.line_after("connected from ");
    for line in ["one", "two"] {
        client.say(line);
        assert_eq!(client.line(), format!("answer: {line:?}"));
    }
    assert_eq!(client.finish().succeeded(), ["end: closed in order"]);
}

#[test]
fn curl_asks_many_times_over_one_connection() {
    if !works(Command::new("curl").arg("--version"), "curl") {
        return;
    }
    for address in loopbacks() {
        let (_server, address) = serve("http_hello", &["--listen", address], "serving http://");
        let url = format!("http://{address}/");
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "-g",
            "--noproxy",
            "*",
            "--fail",
            "-d",
            "some body",
            "-w",
            "%{num_connects}\n",
        ]);
        let said = Program::start(curl.args([&url, &url, &url])).finish().succeeded();
        let greeting = "Hello, world!";
        assert_eq!(said, [greeting, "1", greeting, "0", greeting, "0"]);
    }
}

#[test]
fn curl_asks_through_the_forwarder() {
    if !works(Command::new("curl").arg("--version"), "curl") {
        return;
    }
    let (_server, to) = serve("http_hello", &["--listen", "127.0.0.1:0"], "serving http://");
    let to = to.to_string();
    let arguments = ["--listen", "127.0.0.1:0", "--to", &to];
    let (_forwarder, address) = serve("port_forward", &arguments, "forwarding from ");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--noproxy", "*", "--fail", &format!("http://{address}/")]);
    assert_eq!(Program::start(&mut curl).finish().succeeded(), ["Hello, world!"]);
}

#[test]
fn wrk_gets_answers_only() {
    if !works(Command::new("sh").args(["-c", "command -v wrk"]), "wrk") {
        return;
    }
    let (_server, address) = serve("http_hello", &["--listen", "127.0.0.1:0"], "serving http://");
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-c20", "-d1s", &format!("http://{address}/")]);
    let said = Program::start(&mut wrk).finish().succeeded().join("\n");
    assert!(said.contains("Requests/sec") && !said.contains("Socket errors"), "{said}");
    assert!(!said.contains("Non-2xx"), "{said}");
}
