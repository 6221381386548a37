//! The examples against programs that nobody here wrote. A program that is missing is said so on
//! standard output, and its test proves nothing then.

mod program;

use std::process::Command;

use program::{Program, has_python, loopbacks, python, serve, start, twisted_python, works};

/// The `udp_echo` example on a loopback address: the program, and its host and port.
fn echo(address: &str) -> (Program, String, String) {
    let (program, address) = serve("udp_echo", &["--listen", address], "echoing on ");
    (program, address.ip().to_string(), address.port().to_string())
}

#[test]
fn socat_hears_its_own_lines() {
    if !works(Command::new("socat").arg("-V"), "socat") {
        return;
    }
    for address in loopbacks() {
        let (_echo, host, port) = echo(address);
        let to = if host.contains(':') {
            format!("UDP6:[{host}]:{port}")
        } else {
            format!("UDP4:{host}:{port}")
        };
        let mut socat = Program::start(Command::new("socat").args(["-", &to]));
        for line in ["hello", "is there anybody?"] {
            socat.say(line);
            assert_eq!(socat.line(), line);
        }
    }
}

/// Sends payloads of telling lengths to HOST PORT over a plain socket and compares the answers.
const PYTHON_SOCKET: &str = r#"
import os, socket, sys
host, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
for connected in (False, True):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(20)
        if connected:
            s.connect((host, port))
        for length in (0, 1, 512, 1472, 9000, 65507):
            payload = os.urandom(length)
            s.send(payload) if connected else s.sendto(payload, (host, port))
            answer, source = s.recvfrom(65536)
            assert answer == payload, (length, len(answer))
            assert source[:2] == (host, port), source
print("ok")
"#;

#[test]
fn a_python_socket_gets_every_payload_back() {
    if !has_python() {
        return;
    }
    for address in loopbacks() {
        let (_echo, host, port) = echo(address);
        assert_eq!(python("python3", PYTHON_SOCKET, &[&host, &port]), ["ok"]);
    }
}

/// Has sixteen questions under way at a time, 2,000 in all, and checks that each comes back once.
const PYTHON_ASYNCIO: &str = r#"
import asyncio, sys

class Client(asyncio.DatagramProtocol):
    def __init__(self):
        self.next, self.seen, self.done = 0, set(), asyncio.get_running_loop().create_future()
    def connection_made(self, transport):
        self.transport = transport
        for _ in range(16):
            self.ask()
    def ask(self):
        if self.next < 2000:
            self.transport.sendto(b"question %d" % self.next)
            self.next += 1
    def datagram_received(self, data, address):
        assert data not in self.seen, data
        self.seen.add(data)
        if len(self.seen) == 2000:
            self.done.set_result(None)
        self.ask()
    def error_received(self, error):
        self.done.set_exception(error)

async def main():
    loop = asyncio.get_running_loop()
    remote = (sys.argv[1], int(sys.argv[2]))
    transport, client = await loop.create_datagram_endpoint(Client, remote_addr=remote)
    await asyncio.wait_for(client.done, 20)
    assert client.seen == {b"question %d" % n for n in range(2000)}
    print("ok")

asyncio.run(main())
"#;

#[test]
fn python_asyncio_gets_an_answer_to_every_question() {
    if !has_python() {
        return;
    }
    for address in loopbacks() {
        let (_echo, host, port) = echo(address);
        assert_eq!(python("python3", PYTHON_ASYNCIO, &[&host, &port]), ["ok"]);
    }
}

/// The connected client of Twisted's UDP howto, over both kinds of port.
const TWISTED_CLIENT: &str = r#"
import sys
from twisted.internet import reactor
from twisted.internet.protocol import DatagramProtocol
host, port = sys.argv[1], int(sys.argv[2])

class Helloer(DatagramProtocol):
    def __init__(self, connected):
        self.connected, self.left = connected, 100
    def startProtocol(self):
        if self.connected:
            self.transport.connect(host, port)
        self.say()
    def say(self):
        text = b"hello %d" % self.left
        self.transport.write(text) if self.connected else self.transport.write(text, (host, port))
    def datagramReceived(self, data, address):
        assert data == b"hello %d" % self.left, data
        assert tuple(address)[:2] == (host, port), address
        self.left -= 1
        if self.left:
            self.say()
        else:
            waiting.remove(self)
            if not waiting:
                print("ok")
                reactor.stop()
    def connectionRefused(self):
        print("refused")
        reactor.stop()

waiting = [Helloer(False), Helloer(True)]
for protocol in list(waiting):
    reactor.listenUDP(0, protocol, interface=host)
reactor.callLater(20, reactor.stop)
reactor.run()
"#;

#[test]
fn a_twisted_client_talks_to_the_server() {
    let Some(twisted) = twisted_python() else { return };
    for address in loopbacks() {
        let (_echo, host, port) = echo(address);
        assert_eq!(python(&twisted, TWISTED_CLIENT, &[&host, &port]), ["ok"]);
    }
}

/// The echo server of Twisted's UDP howto.
const TWISTED_SERVER: &str = r#"
import sys
from twisted.internet import reactor
from twisted.internet.protocol import DatagramProtocol

class Echo(DatagramProtocol):
    def datagramReceived(self, data, address):
        self.transport.write(data, address)

port = reactor.listenUDP(0, Echo(), interface=sys.argv[1])
print(port.getHost().port, flush=True)
reactor.run()
"#;

#[test]
fn our_client_talks_to_a_twisted_server() {
    let Some(twisted) = twisted_python() else { return };
    for address in loopbacks() {
        let host: std::net::SocketAddr = address.parse().unwrap();
        let mut command = Command::new(&twisted);
        command.args(["-c", TWISTED_SERVER, &host.ip().to_string()]);
        let server = Program::start(&mut command);
        let to = std::net::SocketAddr::new(host.ip(), server.line().parse().unwrap());
        let client = start("udp_client", &["--to", &to.to_string(), "--count", "100"]);
        let lines = client.finish().succeeded();
        assert_eq!(lines.len(), 101);
        assert_eq!(lines[100], "100 sent, 100 answered, 0 failed");
    }
}
