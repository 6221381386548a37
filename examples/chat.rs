//! A chat: each line of a client goes to all others.
//!
//! A client that reads too slowly is dropped: what may wait for one client is bounded, so that
//! nobody makes the server's memory grow by not reading.
//!
//! ```text
//! cargo run --release --example chat
//! ncat 127.0.0.1 9999
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use clap::Parser;
use strand_reactor::{
    ConnectionLost, PeerAddr, Protocol, Reactor, TcpOptions, Transport, parse_address,
};

/// Sends each line of a client to all others; `/quit` ends the connection.
#[derive(Parser)]
struct Arguments {
    /// Address and port to listen on; [::]:PORT takes both families
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9999", value_parser = parse_address)]
    listen: SocketAddr,
    /// Bytes that may wait for one client; it is dropped when there are more
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20)]
    limit: usize,
    /// Most clients at once
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    max_clients: usize,
}

/// Longer lines are cut by ending the connection.
const LONGEST_LINE: usize = 4 * 1024;

#[derive(Default)]
struct Room {
    members: BTreeMap<u64, Transport>,
    last: u64,
}

impl Room {
    /// Sends a line to all but `from`.
    fn tell(&self, from: u64, line: &[u8]) {
        for (id, member) in &self.members {
            // Too much waits for this member already. Its loss is told from the loop, so the
            // room does not change here.
            if *id != from && member.write(line).is_err() {
                member.abort_connection();
            }
        }
    }
}

struct Member {
    room: Rc<RefCell<Room>>,
    id: u64,
    line: Vec<u8>,
}

impl Member {
    fn say(&self, what: &[u8]) {
        let line = [format!("{}: ", self.id).as_bytes(), what, b"\n"].concat();
        self.room.borrow().tell(self.id, &line);
    }
}

impl Protocol for Member {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        {
            let room = &mut *self.room.borrow_mut();
            room.last += 1;
            self.id = room.last;
            room.members.insert(self.id, transport.clone());
        }
        transport.write(format!("* you are {}\n", self.id).as_bytes())?;
        self.say(b"* joined");
        Ok(())
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
        for part in data.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            anyhow::ensure!(self.line.len() <= LONGEST_LINE, "a line of over {LONGEST_LINE} bytes");
            if self.line.last() != Some(&b'\n') {
                break;
            }
            let line = std::mem::take(&mut self.line);
            let line = line.trim_ascii_end();
            if line == b"/quit" {
                transport.lose_connection();
                break;
            }
            self.say(line);
        }
        Ok(())
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        self.room.borrow_mut().members.remove(&self.id);
        println!("{} left: {reason}", self.id);
        self.say(b"* left");
    }
}

fn main() -> anyhow::Result<()> {
    let Arguments { listen, limit, max_clients } = Arguments::parse();
    let reactor = Reactor::new()?;
    let room = Rc::<RefCell<Room>>::default();
    let options = TcpOptions::new(listen)
        .write_watermarks(limit / 4, limit / 2)
        .write_limit(limit)
        .max_connections(max_clients);
    let port = reactor.listen_tcp(options, move |_: PeerAddr| {
        Some(Member { room: Rc::clone(&room), id: 0, line: Vec::new() })
    })?;
    println!("chatting on {}", port.local_addr()?);
    reactor.run()?;
    Ok(())
}
