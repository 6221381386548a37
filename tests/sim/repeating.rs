//! The same seed and the same program are the same run.

use std::cell::RefCell;
use std::fmt::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::sim::{Latency, Link, World};
use strand_reactor::{PeerAddr, Protocol, Transport};

use crate::support::Recorder;

/// Hosts that pass numbers around; everything that they are told, with the time.
fn run(seed: u64) -> String {
    let world = World::new(seed);
    let log = Rc::new(RefCell::new(String::new()));
    for number in 0_u8..20 {
        let host = world.host(&format!("h{number}"), format!("10.0.0.{}", number + 1)).unwrap();
        let (log, start) = (Rc::clone(&log), host.now());
        let recorder = Recorder::quiet().on_datagram(move |transport, datagram| {
            let now = transport.reactor().now() - start;
            let (source, payload) = (datagram.source(), datagram.payload());
            writeln!(log.borrow_mut(), "{now:?} h{number} < {source} {payload:?}")?;
            let [count, step] = [payload[0], payload[1]];
            if count > 0 {
                let next = SocketAddr::from(([10, 0, 0, (number + step) % 20 + 1], 9));
                transport.write_to(&[count - 1, step], next)?;
            }
            Ok(())
        });
        let port = host.listen_udp(9, recorder).unwrap();
        for step in 1..4 {
            let port = port.clone();
            host.call_later(Duration::from_micros(number.into()), move |_| {
                port.write_to(&[10, step], SocketAddr::from(([10, 0, 0, 1], 9)))
            });
        }
    }
    world.run_for(Duration::from_secs(1)).unwrap();
    let dump = world.dump();
    format!("{}{dump}", log.borrow())
}

#[test]
fn a_run_repeats_to_the_byte() {
    let first = run(7);
    assert!(first.lines().count() > 600, "{first}");
    assert_eq!(first, run(7));
}

/// Writes, and closes; or sends back what it gets.
struct Stream {
    first: usize,
}

impl Protocol for Stream {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        if self.first > 0 {
            transport.write(&vec![7; self.first])?;
            transport.lose_connection();
        }
        Ok(())
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
        if self.first == 0 {
            transport.write(data)?;
        }
        Ok(())
    }
}

/// The record of datagrams and a stream over a link that loses and delays by chance.
fn trace(seed: u64) -> Vec<u8> {
    let world = World::new(seed);
    world.trace_in_memory();
    let latency = Latency::log_normal(Duration::from_millis(10), 0.5);
    world.default_link(Link::new().latency(latency).loss(0.2));
    let server = world.host("b", "10.0.0.2").unwrap();
    server.listen_udp(9, Recorder::echo()).unwrap();
    let client = world.host("a", "10.0.0.1").unwrap();
    let port = client.listen_udp(9, Recorder::quiet()).unwrap();
    server.listen_tcp(9, |_: PeerAddr| Some(Stream { first: 0 })).unwrap();
    let to = SocketAddr::from(([10, 0, 0, 2], 9));
    client.connect_tcp(to, |_: PeerAddr| Some(Stream { first: 50_000 })).unwrap();
    for _ in 0..200 {
        port.write_to(b"x", to).unwrap();
        world.run_for(Duration::from_millis(7)).unwrap();
    }
    world.run_for(Duration::from_secs(100)).unwrap();
    world.end_trace().unwrap()
}

/// What a debug build has drawn, a release build must draw, too: the sum is in the test. It
/// changes with every change of what the network does, on purpose or not.
#[test]
fn the_trace_of_a_seed_is_the_same_in_every_build() {
    let bytes = trace(5);
    assert_ne!(bytes, trace(6));
    // FNV-1a.
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    assert_eq!((bytes.len(), sum), (297_260, 0xbd20_12d1_d464_545a));
}
