//! The sockets against the kernel, on loopback.

mod associations;
mod metadata;
mod opening;
mod transfer;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::OsDriver;
use crate::datagram::{Family, Metadata};
use crate::net::{
    Control, DatagramSocket, DatagramSpec, Driver, Event, Meta, Outgoing, RECV_SLOTS, RecvBatch,
    SLOT_LEN, SendBatch, SocketOption,
};

/// The loopback address, as a socket of each family writes it.
const FAMILIES: [(Family, &str); 3] =
    [(Family::V4, "127.0.0.1:0"), (Family::V6Only, "[::1]:0"), (Family::Dual, "[::]:0")];

fn spec(family: Family, bind: &str) -> DatagramSpec {
    DatagramSpec {
        family,
        bind: Some(bind.parse().unwrap()),
        reuse_address: false,
        reuse_port: false,
        multicast: false,
        device: None,
        metadata: Metadata::NONE,
        options: Vec::new(),
    }
}

/// One datagram as it arrived.
#[derive(Debug)]
struct Arrived {
    payload: Vec<u8>,
    source: SocketAddr,
    meta: Meta,
}

/// A driver, and what a reactor would keep beside it.
struct Bench {
    driver: OsDriver,
    batch: RecvBatch,
    tokens: usize,
}

impl Bench {
    fn new() -> Self {
        Self::with(false)
    }

    fn with(portable: bool) -> Self {
        Self {
            driver: OsDriver::new(portable, Duration::ZERO).unwrap(),
            batch: RecvBatch::new(),
            tokens: 0,
        }
    }

    fn token(&mut self) -> usize {
        self.tokens += 1;
        self.tokens
    }

    #[track_caller]
    fn open(&mut self, spec: &DatagramSpec) -> Rc<dyn DatagramSocket> {
        let token = self.token();
        self.driver.open_datagram(spec, token).unwrap()
    }

    #[track_caller]
    fn bound(&mut self, bind: &str) -> Rc<dyn DatagramSocket> {
        let family = if bind.starts_with('[') { Family::V6Only } else { Family::V4 };
        self.open(&spec(family, bind))
    }

    /// Polls once; a test that would wait for longer than this has failed.
    #[track_caller]
    fn poll(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.driver.poll(Some(Duration::from_secs(10)), &mut events).unwrap();
        events
    }

    /// Receives until there is something.
    #[track_caller]
    fn receive(&mut self, socket: &dyn DatagramSocket, slots: usize) -> io::Result<bool> {
        for _ in 0..8 {
            match socket.receive(slots, &mut self.batch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.poll();
                }
                other => return other,
            }
        }
        panic!("nothing arrived");
    }

    /// Receives `count` datagrams, taking merged messages apart.
    #[track_caller]
    fn arrivals(&mut self, socket: &dyn DatagramSocket, count: usize) -> Vec<Arrived> {
        let mut arrived = Vec::new();
        while arrived.len() < count {
            self.receive(socket, RECV_SLOTS).unwrap();
            for (slot, message) in self.batch.messages.iter().enumerate() {
                assert!(!message.truncated);
                let data = &self.batch.data[slot * SLOT_LEN..][..message.len];
                let mut payloads: Vec<_> = data.chunks(message.segment).collect();
                if data.is_empty() {
                    payloads.push(data);
                }
                arrived.extend(payloads.into_iter().map(|payload| Arrived {
                    payload: payload.to_vec(),
                    source: message.source,
                    meta: message.meta,
                }));
            }
        }
        assert_eq!(arrived.len(), count);
        arrived
    }
}

/// Datagrams to send.
#[derive(Default)]
struct Letters {
    queue: Vec<Outgoing>,
    own: Vec<u8>,
}

impl Letters {
    fn add(&mut self, payload: &[u8], to: Option<SocketAddr>, control: Control) {
        let (start, len) = (self.own.len(), payload.len());
        self.own.extend_from_slice(payload);
        self.queue.push(Outgoing { control, ..Outgoing::one(start, len, to) });
    }

    fn batch(&self) -> SendBatch<'_> {
        SendBatch { queue: &self.queue, own: &self.own, lent: &[], merge: true }
    }
}

fn send(socket: &dyn DatagramSocket, payload: &[u8], to: SocketAddr) -> io::Result<usize> {
    send_with(socket, payload, to, Control::default())
}

fn send_with(
    socket: &dyn DatagramSocket,
    payload: &[u8],
    to: SocketAddr,
    control: Control,
) -> io::Result<usize> {
    let mut letters = Letters::default();
    letters.add(payload, Some(to), control);
    socket.send(&letters.batch())
}

fn send_connected(socket: &dyn DatagramSocket, payload: &[u8]) -> io::Result<usize> {
    let mut letters = Letters::default();
    letters.add(payload, None, Control::default());
    socket.send(&letters.batch())
}

/// An address of loopback where nobody listens.
fn closed_port(bench: &mut Bench, bind: &str) -> SocketAddr {
    bench.bound(bind).local_addr().unwrap()
}

fn option(socket: &dyn DatagramSocket, option: SocketOption) -> u32 {
    socket.option(option).unwrap()
}
