//! mio by hand, the loop a user would write: `recv_from` and `send_to` (`read` and `write`) until
//! they would block.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};

use mio::net::{TcpListener, TcpStream, UdpSocket};
use mio::{Events, Interest, Poll, Token};
use side_by_side::peer::{Command, Counter, not_offered, tcp, udp};

fn main() -> io::Result<()> {
    let command = Command::parse("plain");
    match command.kind.as_str() {
        "udp-echo" => datagrams(command.port, None),
        "udp-sink" => datagrams(command.port, Some(Counter::default())),
        "tcp-echo" => streams(command.port, true),
        "tcp-sink" => streams(command.port, false),
        _ => not_offered(),
    }
}

fn datagrams(port: u16, mut counter: Option<Counter>) -> io::Result<()> {
    let mut socket = UdpSocket::from_std(udp(port)?);
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(256));
    poll.registry().register(&mut socket, Token(0), Interest::READABLE)?;
    let mut buffer = vec![0; 65_536];
    loop {
        if poll.poll(&mut events, None).is_err() {
            continue;
        }
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let datagram = &buffer[..len];
            // What cannot be sent is lost: UDP.
            let _ = match &mut counter {
                None => socket.send_to(datagram, from),
                Some(counter) => match counter.datagram(datagram) {
                    Some(answer) => socket.send_to(&answer, from),
                    None => continue,
                },
            };
        }
    }
}

struct Connection {
    socket: TcpStream,
    pending: Vec<u8>,
}

fn streams(port: u16, echo: bool) -> io::Result<()> {
    const LISTENER: Token = Token(0);
    let mut listener = TcpListener::from_std(tcp(port)?);
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(256));
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut connections: HashMap<Token, Connection> = HashMap::new();
    let mut next = 1;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        if poll.poll(&mut events, None).is_err() {
            continue;
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut socket, _)) = listener.accept() {
                    let _ = socket.set_nodelay(true);
                    let both = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut socket, Token(next), both)?;
                    connections.insert(Token(next), Connection { socket, pending: Vec::new() });
                    next += 1;
                }
                continue;
            }
            let Some(connection) = connections.get_mut(&event.token()) else { continue };
            if !serve(connection, &mut buffer, echo)
                && let Some(mut connection) = connections.remove(&event.token())
            {
                poll.registry().deregister(&mut connection.socket)?;
            }
        }
    }
}

/// False once the connection is over. Edge-triggered: reads until it would block, but not while
/// an answer is stuck.
fn serve(connection: &mut Connection, buffer: &mut [u8], echo: bool) -> bool {
    let Connection { socket, pending } = connection;
    loop {
        while !pending.is_empty() {
            match socket.write(pending) {
                Ok(len) => drop(pending.drain(..len)),
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        match socket.read(buffer) {
            Ok(0) => return false,
            Ok(len) if echo => match socket.write(&buffer[..len]) {
                Ok(sent) => pending.extend_from_slice(&buffer[sent..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    pending.extend_from_slice(&buffer[..len]);
                }
                Err(_) => return false,
            },
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}
