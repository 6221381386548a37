//! What a host sends is recorded: all of it, once, and nothing else.

use std::net::SocketAddr;
use std::time::Duration;

use strand_reactor::sim::{Link, World, stream_pair};
use strand_reactor::{Ecn, Handle, Protocol, SendOptions, Transport, UdpOptions};

use crate::support::Recorder as Port;
use crate::watchdog::watchdog;

const SECOND: Duration = Duration::from_secs(1);

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn two_hosts() -> (World, Handle) {
    let world = World::new(1);
    let a = world.host("a", "10.0.0.1").unwrap();
    world.host("b", "10.0.0.2").unwrap();
    (world, a)
}

#[test]
fn a_datagram_is_recorded_with_its_time_destination_and_options() {
    let _watchdog = watchdog();
    let (world, a) = two_hosts();
    let recorder = world.record("a").unwrap();
    let port = a.listen_udp("10.0.0.1:9", Port::quiet()).unwrap();
    port.write_to(b"plain", at("10.0.0.2:7")).unwrap();
    let options = SendOptions::to(at("10.0.0.2:8")).hop_limit(3).ecn(Ecn::Ect0);
    a.call_later(SECOND, move |_| port.write_with(b"fancy", &options));
    world.run_for(2 * SECOND).unwrap();

    let sent = recorder.datagrams();
    assert_eq!(sent.len(), 2);
    assert_eq!((sent[0].at, sent[1].at), (Duration::ZERO, SECOND));
    assert_eq!((sent[0].from, sent[0].to), (at("10.0.0.1:9"), at("10.0.0.2:7")));
    assert_eq!(sent[0].options, SendOptions::to(at("10.0.0.2:7")));
    assert_eq!(sent[1].options, options);
    assert_eq!(recorder.payloads(), [b"plain", b"fancy"]);
    recorder.clear();
    assert_eq!(recorder.datagrams(), []);
}

#[test]
fn the_peer_of_a_connected_port_is_told_as_the_destination() {
    let _watchdog = watchdog();
    let (world, a) = two_hosts();
    let recorder = world.record("a").unwrap();
    let port = a.connect_udp(at("10.0.0.2:7"), Port::quiet()).unwrap();
    port.write(b"hello").unwrap();
    world.run_for(SECOND).unwrap();
    let sent = &recorder.datagrams()[0];
    assert_eq!(sent.to, at("10.0.0.2:7"));
    assert_eq!(sent.options.destination(), Some(at("10.0.0.2:7")));
    assert_eq!(sent.from, port.local_addr().unwrap());
}

#[test]
fn what_the_network_loses_is_recorded_and_what_the_socket_refuses_is_not() {
    let _watchdog = watchdog();
    let (world, a) = two_hosts();
    world.default_link(Link::new().loss(1.0));
    let (recorder, other) = (world.record("a").unwrap(), world.record("b").unwrap());
    let port = a.listen_udp(UdpOptions::new(at("10.0.0.1:9")), Port::quiet()).unwrap();
    port.write_to(b"lost", at("10.0.0.2:7")).unwrap();
    // The broadcast of its network, without the right to it: EACCES, from the socket.
    port.write_to(b"refused", at("10.0.0.255:7")).unwrap();
    port.write_to(b"lost, too", at("10.0.0.2:7")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(recorder.payloads(), [&b"lost"[..], b"lost, too"]);
    assert_eq!(other.datagrams(), []);
}

#[test]
fn a_record_outlives_a_restart_and_ends_with_its_recorder() {
    let _watchdog = watchdog();
    let (world, a) = two_hosts();
    let send = |host: &Handle, payload| {
        host.listen_udp(9, Port::quiet()).unwrap().write_to(payload, at("10.0.0.2:7")).unwrap();
        world.run_for(SECOND).unwrap();
    };
    let recorder = world.record("a").unwrap();
    let clone = recorder.clone();
    send(&a, b"one");
    drop(recorder);
    send(&world.restart("a").unwrap(), b"two");
    assert_eq!(clone.payloads(), [b"one", b"two"]);
    drop(clone);
    send(&world.restart("a").unwrap(), b"three");
    assert!(world.record("nobody").is_err());
}

/// Writes more than a socket takes at once, and ends; the other side waits for that.
struct Long(usize);

impl Protocol for Long {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        let data: Vec<u8> = (0..self.0).map(|n| (n % 251) as u8).collect();
        transport.write(&data)?;
        if !data.is_empty() {
            transport.lose_connection();
        }
        Ok(())
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }
}

#[test]
fn bytes_of_a_stream_are_recorded_once_although_they_are_written_in_parts_and_lost() {
    let _watchdog = watchdog();
    const LEN: usize = 1_000_000;
    let pair = stream_pair(1, Long(LEN), Long(0)).unwrap();
    pair.default_link(Link::new().latency(Duration::from_millis(5)).loss(0.05));
    while pair.step().unwrap() {}
    let streams = pair.sent_by_client().streams();
    assert_eq!(streams.len(), 1);
    assert_eq!(streams[0].bytes.len(), LEN);
    assert!(streams[0].bytes.iter().enumerate().all(|(n, byte)| *byte == (n % 251) as u8));
    assert!(streams[0].is_ended);
    assert_eq!(streams[0].to, at("10.0.0.2:9999"));
    assert_eq!(pair.sent_by_server().written(), b"");
}
