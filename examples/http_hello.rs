//! A small HTTP/1.1 server (RFC 9112) that greets: keep-alive, pipelining, bodies of known length.
//!
//! ```text
//! cargo run --release --example http_hello
//! curl http://127.0.0.1:8080/
//! ```

use std::net::SocketAddr;

use clap::Parser;
use httparse::{EMPTY_HEADER, Request, Status};
use strand_reactor::{PeerAddr, Protocol, Reactor, Transport, parse_address};

/// Answers every HTTP request with a greeting.
#[derive(Parser)]
struct Arguments {
    /// Address and port to listen on; [::]:PORT takes both families
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = parse_address)]
    listen: SocketAddr,
}

/// A longer head of a request is refused.
const LONGEST_HEAD: usize = 16 * 1024;
const MOST_HEADERS: usize = 64;

const GREETING: &str = "Hello, world!\n";

#[derive(Default)]
struct Http {
    /// The beginning of a head.
    head: Vec<u8>,
    /// Bytes of a body still to come, and to be skipped.
    body: u64,
}

/// What of a request matters for the answer.
#[derive(Debug)]
struct Asked {
    len: usize,
    is_head: bool,
    keep_alive: bool,
    body: u64,
}

/// The number and words of a refusal.
type Refusal = &'static str;

/// Reads a head; `None` when it is not complete.
fn parse(data: &[u8]) -> Result<Option<Asked>, Refusal> {
    let mut headers = [EMPTY_HEADER; MOST_HEADERS];
    let mut request = Request::new(&mut headers);
    let len = match request.parse(data) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) if data.len() <= LONGEST_HEAD => return Ok(None),
        Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err("431 Request Header Fields Too Large");
        }
        Err(_) => return Err("400 Bad Request"),
    };
    let is_head = request.method == Some("HEAD");
    let mut keep_alive = request.version == Some(1);
    let mut body = None;
    for header in request.headers.iter() {
        let name = header.name;
        let value = str::from_utf8(header.value).map_err(|_| "400 Bad Request")?.trim();
        if name.eq_ignore_ascii_case("connection") {
            for token in value.split(',').map(str::trim) {
                if token.eq_ignore_ascii_case("close") {
                    keep_alive = false;
                } else if token.eq_ignore_ascii_case("keep-alive") && request.version == Some(0) {
                    keep_alive = true;
                }
            }
        } else if name.eq_ignore_ascii_case("content-length") {
            // Only digits (RFC 9112, 6.2); two lengths that differ are an attack (6.3).
            let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            let length = value.parse().ok().filter(|_| digits).ok_or("400 Bad Request")?;
            if body.replace(length).is_some_and(|before: u64| before != length) {
                return Err("400 Bad Request");
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("501 Not Implemented");
        }
    }
    Ok(Some(Asked { len, is_head, keep_alive, body: body.unwrap_or(0) }))
}

impl Http {
    /// Answers the requests at the start of `data`; returns how many bytes it is through with.
    fn answer(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<usize> {
        let mut done = 0;
        loop {
            let skipped = self.body.min((data.len() - done) as u64);
            self.body -= skipped;
            done += usize::try_from(skipped)?;
            if done == data.len() {
                return Ok(done);
            }
            match parse(&data[done..]) {
                Ok(None) => return Ok(done),
                Ok(Some(asked)) => {
                    let (connection, body) = (
                        if asked.keep_alive { "keep-alive" } else { "close" },
                        if asked.is_head { "" } else { GREETING },
                    );
                    let length = GREETING.len();
                    transport.write(
                        format!(
                            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\
                             Content-Length: {length}\r\nConnection: {connection}\r\n\r\n{body}"
                        )
                        .as_bytes(),
                    )?;
                    done += asked.len;
                    self.body = asked.body;
                    if !asked.keep_alive {
                        transport.lose_connection();
                        return Ok(data.len());
                    }
                }
                Err(refusal) => {
                    let head = format!(
                        "HTTP/1.1 {refusal}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    );
                    transport.write(head.as_bytes())?;
                    transport.lose_connection();
                    return Ok(data.len());
                }
            }
        }
    }
}

impl Protocol for Http {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
        if self.head.is_empty() {
            let done = self.answer(transport, data)?;
            self.head.extend_from_slice(&data[done..]);
        } else {
            let mut head = std::mem::take(&mut self.head);
            head.extend_from_slice(data);
            let done = self.answer(transport, &head)?;
            head.drain(..done);
            self.head = head;
        }
        Ok(())
    }

    // A client that asks and does not read is not read either.
    fn pause_writing(&mut self, transport: &Transport) -> anyhow::Result<()> {
        transport.pause_reading()?;
        Ok(())
    }

    fn resume_writing(&mut self, transport: &Transport) -> anyhow::Result<()> {
        transport.resume_reading()?;
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let reactor = Reactor::new()?;
    let port = reactor.listen_tcp(arguments.listen, |_: PeerAddr| Some(Http::default()))?;
    println!("serving http://{}", port.local_addr()?);
    reactor.run()?;
    Ok(())
}
