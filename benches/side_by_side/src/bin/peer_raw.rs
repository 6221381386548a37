//! The hand-written loop: plain system calls. Its variants:
//!
//! * `epoll`: `epoll_wait`, then `recvfrom` and `sendto` until there is nothing (TCP: one `recv`
//!   a readiness, one buffer for all)
//! * `mmsg`: `recvmmsg` and `sendmmsg` of 64
//! * `gso`: and answers in a row to one peer leave as one
//! * `gro`: and the kernel merges what is received

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;

use side_by_side::peer::{Command, Counter, not_offered, tcp, udp};
use side_by_side::sys::{self, BatchLoop, EPOLLIN, EPOLLOUT, Epoll, Fd, Variant, epoll_event};

const FOREVER: i32 = -1;
const BUFFER: usize = 256 * 1024;

fn main() -> io::Result<()> {
    let command = Command::parse("epoll");
    let counter = match command.kind.as_str() {
        "udp-echo" => None,
        "udp-sink" => Some(Counter::default()),
        "tcp-echo" if command.variant == "epoll" => return Streams::new(true)?.serve(command.port),
        "tcp-sink" if command.variant == "epoll" => {
            return Streams::new(false)?.serve(command.port);
        }
        _ => not_offered(),
    };
    let variant = match command.variant.as_str() {
        "epoll" => None,
        "mmsg" => Some(Variant::Batches),
        "gso" => Some(Variant::Merging),
        "gro" => Some(Variant::MergingBoth),
        _ => not_offered(),
    };
    datagrams(command.port, variant, counter)
}

fn no_events() -> [epoll_event; 256] {
    [epoll_event { events: 0, u64: 0 }; 256]
}

fn datagrams(port: u16, variant: Option<Variant>, mut counter: Option<Counter>) -> io::Result<()> {
    let socket = udp(port)?;
    let (fd, epoll, mut events) = (socket.as_raw_fd(), Epoll::new()?, no_events());
    epoll.add(fd, EPOLLIN, 0)?;
    if let Some(variant) = variant {
        let mut batches = BatchLoop::new(fd, variant)?;
        loop {
            epoll.wait(&mut events, FOREVER);
            while batches.turn(fd, counter.as_mut()) {}
        }
    }
    let mut buffer = vec![0; 65_536];
    let mut from = sys::address(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
    loop {
        epoll.wait(&mut events, FOREVER);
        while let Ok(len) = usize::try_from(sys::receive_from(fd, &mut buffer, &mut from)) {
            let datagram = &buffer[..len];
            match &mut counter {
                None => {
                    sys::send_to(fd, datagram, &from);
                }
                Some(counter) => {
                    if let Some(answer) = counter.datagram(datagram) {
                        sys::send_to(fd, &answer, &from);
                    }
                }
            }
        }
    }
}

/// Connections, level-triggered.
struct Streams {
    epoll: Epoll,
    echo: bool,
    buffer: Vec<u8>,
    /// Answers for which there was no room; nothing is read from these meanwhile.
    pending: HashMap<Fd, Vec<u8>>,
}

impl Streams {
    fn new(echo: bool) -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new()?, echo, buffer: vec![0; BUFFER], pending: HashMap::new() })
    }

    fn serve(mut self, port: u16) -> io::Result<()> {
        let listener = tcp(port)?;
        let listening = listener.as_raw_fd();
        self.epoll.add(listening, EPOLLIN, listening as u64)?;
        let mut events = no_events();
        loop {
            let count = self.epoll.wait(&mut events, FOREVER);
            for event in &events[..count] {
                let (fd, what) = (event.u64 as Fd, event.events as i32);
                if fd == listening {
                    while let Ok(fd) = sys::accept(listening) {
                        self.epoll.add(fd, EPOLLIN, fd as u64)?;
                    }
                } else if what & EPOLLOUT != 0 {
                    self.resume(fd)?;
                } else {
                    self.read(fd)?;
                }
            }
        }
    }

    fn read(&mut self, fd: Fd) -> io::Result<()> {
        let read = sys::receive(fd, &mut self.buffer);
        if read < 0 && sys::errno() == sys::EAGAIN {
            return Ok(());
        }
        if read <= 0 {
            self.pending.remove(&fd);
            sys::close(fd);
            return Ok(());
        }
        if self.echo {
            let data = &self.buffer[..read as usize];
            let sent = sys::send(fd, data).max(0) as usize;
            if sent < data.len() {
                self.pending.insert(fd, data[sent..].to_vec());
                self.epoll.modify(fd, EPOLLOUT, fd as u64)?;
            }
        }
        Ok(())
    }

    fn resume(&mut self, fd: Fd) -> io::Result<()> {
        let left = self.pending.remove(&fd).unwrap_or_default();
        let sent = sys::send(fd, &left).max(0) as usize;
        if sent < left.len() {
            self.pending.insert(fd, left[sent..].to_vec());
            return Ok(());
        }
        self.epoll.modify(fd, EPOLLIN, fd as u64)
    }
}
