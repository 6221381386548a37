//! tokio on one thread. Its variants:
//!
//! * `await`: `recv_from().await`, `send_to().await` (TCP: `read().await` into a 16 KiB buffer of
//!   the task, `write_all().await`)
//! * `try`: `readable().await`, then `try_recv_from` and `try_send_to` until they would block
//!   (TCP: `try_read` into one buffer for all)

use std::cell::RefCell;
use std::io::{self, ErrorKind};

use side_by_side::peer::{Command, Counter, not_offered, tcp, udp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

fn main() -> io::Result<()> {
    let command = Command::parse("await");
    let trying = match command.variant.as_str() {
        "await" => false,
        "try" => true,
        _ => not_offered(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let counter = match command.kind.as_str() {
            "udp-echo" => None,
            "udp-sink" => Some(Counter::default()),
            "tcp-echo" => return streams(command.port, true, trying).await,
            "tcp-sink" => return streams(command.port, false, trying).await,
            _ => not_offered(),
        };
        // As a task: what block_on polls itself costs more a wake-up.
        let served = if trying {
            tokio::spawn(datagrams_trying(command.port, counter))
        } else {
            tokio::spawn(datagrams_awaiting(command.port, counter))
        };
        served.await?
    })
}

async fn datagrams_awaiting(port: u16, mut counter: Option<Counter>) -> io::Result<()> {
    let socket = UdpSocket::from_std(udp(port)?)?;
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((len, from)) = socket.recv_from(&mut buffer).await else { continue };
        let datagram = &buffer[..len];
        let _ = match &mut counter {
            None => socket.send_to(datagram, from).await,
            Some(counter) => match counter.datagram(datagram) {
                Some(answer) => socket.send_to(&answer, from).await,
                None => continue,
            },
        };
    }
}

async fn datagrams_trying(port: u16, mut counter: Option<Counter>) -> io::Result<()> {
    let socket = UdpSocket::from_std(udp(port)?)?;
    let mut buffer = vec![0; 65_536];
    loop {
        socket.readable().await?;
        while let Ok((len, from)) = socket.try_recv_from(&mut buffer) {
            let datagram = &buffer[..len];
            let _ = match &mut counter {
                None => socket.try_send_to(datagram, from),
                Some(counter) => match counter.datagram(datagram) {
                    Some(answer) => socket.try_send_to(&answer, from),
                    None => continue,
                },
            };
        }
    }
}

async fn streams(port: u16, echo: bool, trying: bool) -> io::Result<()> {
    let accepting = async move {
        let listener = TcpListener::from_std(tcp(port)?)?;
        loop {
            let Ok((socket, _)) = listener.accept().await else { continue };
            let _ = socket.set_nodelay(true);
            if trying {
                tokio::spawn(connection_trying(socket, echo));
            } else {
                tokio::spawn(connection_awaiting(socket, echo));
            }
        }
    };
    tokio::spawn(accepting).await?
}

async fn connection_awaiting(mut socket: TcpStream, echo: bool) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(len @ 1..) = socket.read(&mut buffer).await {
        if echo && socket.write_all(&buffer[..len]).await.is_err() {
            break;
        }
    }
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 256 * 1024]);
}

async fn connection_trying(mut socket: TcpStream, echo: bool) {
    let mut rest = Vec::new();
    while socket.readable().await.is_ok() {
        let read = BUFFER.with_borrow_mut(|buffer| {
            let len = socket.try_read(buffer)?;
            if echo {
                let sent = socket.try_write(&buffer[..len]).unwrap_or(0);
                rest.extend_from_slice(&buffer[sent..len]);
            }
            io::Result::Ok(len)
        });
        match read {
            Ok(0) => break,
            Ok(_) if rest.is_empty() => {}
            Ok(_) => {
                if socket.write_all(&rest).await.is_err() {
                    break;
                }
                rest.clear();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
}
