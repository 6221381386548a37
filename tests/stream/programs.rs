//! The examples of streams, run as their users run them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use crate::program::{loopbacks, serve, start};
use crate::support::{WATCHDOG, nobody, pattern, read_all};

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(WATCHDOG)).expect("a timeout");
    stream
}

#[test]
fn bad_values_are_refused_and_named_with_their_argument() {
    for (name, arguments, named) in [
        ("tcp_echo", &["--listen", "localhost:9"][..], &["localhost:9", "--listen"][..]),
        ("tcp_client", &[], &["--to"]),
        ("tcp_client", &["--to", "127.0.0.1:70000"], &["--to", "70000"]),
        ("tcp_client", &["--to", "127.0.0.1:9", "--count", "-1"], &["--count"]),
        ("tcp_client", &["--to", "127.0.0.1:9", "--timeout", "1s"], &["--timeout", "1s"]),
        ("chat", &["--listen", "127.0.0.1"], &["--listen", "port"]),
        ("chat", &["--limit", "much"], &["--limit", "much"]),
        ("port_forward", &[], &["--to"]),
        ("http_hello", &["--listen", "::1:80"], &["--listen", "brackets"]),
    ] {
        let text = start(name, arguments).finish().failed();
        for part in named {
            assert!(text.contains(part), "{name} {arguments:?} does not name {part:?}: {text}");
        }
    }
}

#[test]
fn a_taken_address_is_a_clear_error() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = holder.local_addr().expect("bound").to_string();
    let to = ["--listen", &address, "--to", &address];
    for name in ["tcp_echo", "chat", "port_forward", "http_hello"] {
        let arguments = if name == "port_forward" { &to[..] } else { &to[..2] };
        let text = start(name, arguments).finish().failed();
        assert!(text.contains(&address) && text.contains("in use"), "{name}: {text}");
    }
}

#[test]
fn tcp_echo_answers_over_both_families() {
    for address in loopbacks() {
        let (_echo, server) = serve("tcp_echo", &["--listen", address], "echoing on ");
        let mut stream = connect(server);
        let mut sender = stream.try_clone().expect("a clone");
        let writer = std::thread::spawn(move || {
            sender.write_all(&pattern(3 << 20)).expect("sent");
            sender.shutdown(Shutdown::Write).expect("an end");
        });
        assert!(read_all(&mut stream) == pattern(3 << 20));
        writer.join().expect("sent");
    }
}

#[test]
fn tcp_client_prints_the_answers_and_the_end() {
    let (_echo, server) = serve("tcp_echo", &["--listen", "127.0.0.1:0"], "echoing on ");
    let client = start("tcp_client", &["--to", &server.to_string(), "--count", "3"]);
    client.line_after("connected from 127.0.0.1:");
    let rest = client.finish().succeeded();
    let answers = ["answer: \"message 1\"", "answer: \"message 2\"", "answer: \"message 3\""];
    assert_eq!(rest[..3], answers);
    assert_eq!(rest[3..], ["end: closed in order"]);
}

#[test]
fn tcp_client_sends_the_lines_of_its_input() {
    let (_echo, server) = serve("tcp_echo", &["--listen", "127.0.0.1:0"], "echoing on ");
    let mut client = start("tcp_client", &["--to", &server.to_string()]);
    client.line_after("connected from ");
    for line in ["hello", "", "is there anybody?"] {
        client.say(line);
        assert_eq!(client.line(), format!("answer: {line:?}"));
    }
    assert_eq!(client.finish().succeeded(), ["end: closed in order"]);
}

#[test]
fn tcp_client_fails_when_nobody_listens() {
    let client = start("tcp_client", &["--to", &nobody().to_string(), "--count", "1"]);
    let text = client.finish().failed();
    assert!(text.contains("not connected") && text.contains("refused"), "{text}");
}

struct Chatter {
    lines: BufReader<TcpStream>,
    id: String,
}

impl Chatter {
    fn join(server: SocketAddr) -> Self {
        let mut lines = BufReader::new(connect(server));
        let mut line = String::new();
        lines.read_line(&mut line).expect("a welcome");
        let id = line.trim().strip_prefix("* you are ").expect("a welcome").to_owned();
        Self { lines, id }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    }

    fn say(&mut self, text: &str) {
        writeln!(self.lines.get_mut(), "{text}").expect("sent");
    }
}

#[test]
fn chat_sends_a_line_to_all_others() {
    let (_chat, server) = serve("chat", &["--listen", "127.0.0.1:0"], "chatting on ");
    let mut all: Vec<_> = (0..3).map(|_| Chatter::join(server)).collect();
    for at in 0..3 {
        for later in at + 1..3 {
            let joined = format!("{}: * joined", all[later].id);
            assert_eq!(all[at].line(), joined);
        }
    }
    all[0].say("hello");
    let said = format!("{}: hello", all[0].id);
    assert_eq!(all[1].line(), said);
    assert_eq!(all[2].line(), said);
    all[1].say("/quit");
    let left = format!("{}: * left", all[1].id);
    assert_eq!(all[1].line(), "");
    // The server waits for the other side to end, too.
    drop(all.remove(1));
    assert_eq!(all[0].line(), left);
    assert_eq!(all[1].line(), left);
}

#[test]
fn chat_drops_a_client_that_does_not_read() {
    let arguments = ["--listen", "127.0.0.1:0", "--limit", "100000"];
    let (chat, server) = serve("chat", &arguments, "chatting on ");
    let slow = Chatter::join(server);
    let mut talker = Chatter::join(server);
    let mut writer = talker.lines.get_ref().try_clone().expect("a clone");
    let talking = std::thread::spawn(move || {
        let line = [[b'x'; 999].as_slice(), b"\n"].concat();
        // Until the server has dropped the other, and the test this socket.
        while writer.write_all(&line).is_ok() {}
    });
    let left = chat.line_after(&format!("{} left: ", slow.id));
    assert_eq!(left, "aborted");
    // The one that reads is still there, and was told.
    assert_eq!(talker.line(), format!("{}: * left", slow.id));
    talker.lines.get_ref().shutdown(Shutdown::Both).expect("open");
    talking.join().expect("ends");
}

fn http(server: SocketAddr, requests: &[u8]) -> String {
    let mut stream = connect(server);
    stream.write_all(requests).expect("sent");
    stream.shutdown(Shutdown::Write).expect("an end");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an orderly end");
    answer
}

#[test]
fn http_hello_keeps_a_connection_for_many_requests() {
    let (_server, address) = serve("http_hello", &["--listen", "127.0.0.1:0"], "serving http://");
    let mut stream = connect(address);
    for _ in 0..3 {
        // In pieces, as a network may deliver it.
        for piece in ["GET / HT", "TP/1.1\r\nHost: x\r", "\nContent-Length: 3\r\n\r\na", "bc"] {
            stream.write_all(piece.as_bytes()).expect("sent");
        }
        let mut answer = [0; 104];
        let len = stream.read(&mut answer).expect("an answer");
        let text = String::from_utf8_lossy(&answer[..len]);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("Connection: keep-alive\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\nHello, world!\n"), "{text}");
    }
}

#[test]
fn http_hello_answers_what_is_pipelined_and_refuses_what_is_wrong() {
    let (_server, address) = serve("http_hello", &["--listen", "127.0.0.1:0"], "serving http://");
    let get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(http(address, get.repeat(500).as_bytes()).matches("Hello, world!").count(), 500);
    let closing = "GET / HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned() + get;
    assert_eq!(http(address, closing.as_bytes()).matches("Hello, world!").count(), 1);
    let head = http(address, b"HEAD / HTTP/1.1\r\n\r\n");
    assert!(head.contains("Content-Length: 14") && !head.contains("Hello"), "{head}");
    let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(20_000));
    for (request, status) in [
        ("nonsense\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "501"),
        (&long, "431"),
    ] {
        let answer = http(address, request.as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
    }
}
