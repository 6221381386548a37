//! A world as text: everything that somebody may wait for is in it.

use std::net::SocketAddr;
use std::time::Duration;

use strand_reactor::sim::{Link, Rule, World};
use strand_reactor::{ConnectionState, PeerAddr, Protocol, Transport};

use crate::support::Recorder;

const SECOND: Duration = Duration::from_secs(1);

struct Quiet;

impl Protocol for Quiet {
    fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }
}

fn build(_: PeerAddr) -> Option<Quiet> {
    Some(Quiet)
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The lines about one host.
fn about<'a>(dump: &'a str, host: &str) -> Vec<&'a str> {
    let first = format!("host {host},");
    let of_host = dump.lines().skip_while(|line| !line.starts_with(&first));
    let mut lines: Vec<_> = of_host.clone().take(1).collect();
    lines.extend(of_host.skip(1).take_while(|line| line.starts_with(' ')));
    lines
}

#[test]
fn a_host_that_has_nothing_is_one_line() {
    let world = World::new(1);
    world.host("a", "10.0.0.1/16, fd00::1").unwrap();
    world.run_for(SECOND).unwrap();
    let expected = "world at 1s: 1 hosts\nhost a, up: 10.0.0.1/16 on eth0 fd00::1/64 on eth0\nunder way: 0 \
         packets\n";
    assert_eq!(world.dump(), expected);
}

#[test]
fn every_timer_is_listed_in_the_time_of_the_world() {
    let world = World::new(1);
    world.run_for(5 * SECOND).unwrap();
    let host = world.host("a", "10.0.0.1").unwrap();
    host.call_later(9 * SECOND, |_| {}).unref();
    let moved = host.call_later(2 * SECOND, |_| {});
    host.call_later(SECOND, |_| {}).cancel().unwrap();
    let _ticking = host.looping_call(3 * SECOND, |_, _| {});
    moved.reset(20 * SECOND).unwrap();
    world.run_for(SECOND).unwrap();
    let expected = [
        "host a, up: 10.0.0.1/24 on eth0",
        "  open in its reactor:",
        "    a timer at 8s",
        "    a timer at 14s, unreferenced",
        "    a timer at 25s",
        "  wants a turn at 8s",
    ];
    assert_eq!(about(&world.dump(), "a"), expected);
}

#[test]
fn listeners_and_connections_are_told_apart_from_udp_ports() {
    let world = World::new(1);
    let server = world.host("s", "10.0.0.1").unwrap();
    let client = world.host("c", "10.0.0.2").unwrap();
    server.listen_udp(7, Recorder::quiet()).unwrap();
    let port = server.listen_tcp(7, build).unwrap();
    let dump = world.dump();
    let expected = [
        "host s, up: 10.0.0.1/24 on eth0",
        "  udp 0.0.0.0:7, 0 datagrams to read (0 bytes)",
        "  tcp 0.0.0.0:7 listens, 0 wait to be accepted, 0 begin",
        "  open in its reactor:",
        "    a UDP port at 0.0.0.0:7",
        "    a TCP port at 0.0.0.0:7",
    ];
    assert_eq!(about(&dump, "s"), expected);

    port.pause_accepting().unwrap();
    for _ in 0..2 {
        client.connect_tcp(at("10.0.0.1:7"), build).unwrap();
    }
    world.run_for(SECOND).unwrap();
    let dump = world.dump();
    assert!(dump.contains("tcp 0.0.0.0:7 listens, 2 wait to be accepted, 0 begin"), "{dump}");
    port.resume_accepting().unwrap();
    world.run_for(SECOND).unwrap();
    let of_server = about(&world.dump(), "s").join("\n");
    let connection = "\n    a connection from 10.0.0.1:7 to 10.0.0.2:32768, Open\n";
    assert!(of_server.contains(connection), "{of_server}");
}

#[test]
fn queues_are_shown_on_both_sides_of_the_socket() {
    let world = World::new(1);
    let a = world.host("a", "10.0.0.1").unwrap();
    let b = world.host("b", "10.0.0.2").unwrap();
    let full = world.rule(Rule::full_send_buffers().from("a")).unwrap();
    let sender = a.listen_udp("10.0.0.1:9", Recorder::quiet()).unwrap();
    let receiver = b.listen_udp("10.0.0.2:9", Recorder::quiet()).unwrap();
    receiver.pause_reading().unwrap();
    for payload in [&b"one"[..], b"three"] {
        sender.write_to(payload, at("10.0.0.2:9")).unwrap();
    }
    world.run_for(SECOND).unwrap();
    let dump = world.dump();
    assert!(dump.contains("    a UDP port at 10.0.0.1:9, 2 datagrams to send\n"), "{dump}");
    full.lift();
    world.run_for(SECOND).unwrap();
    let dump = world.dump();
    assert!(dump.contains("    a UDP port at 10.0.0.1:9\n"), "{dump}");
    assert!(dump.contains("    a UDP port at 10.0.0.2:9, reading is paused\n"), "{dump}");
    assert!(dump.contains("  udp 10.0.0.2:9, 2 datagrams to read ("), "{dump}");
}

#[test]
fn what_a_stream_has_still_to_send_is_shown() {
    let world = World::new(1);
    let server = world.host("s", "10.0.0.1").unwrap();
    let client = world.host("c", "10.0.0.2").unwrap();
    server.listen_tcp(7, build).unwrap();
    client.connect_tcp(at("10.0.0.1:7"), build).unwrap();
    world.run_for(SECOND).unwrap();
    let reader = server.streams().remove(0);
    let writer = client.streams().remove(0);
    reader.pause_reading().unwrap();
    writer.write(&[7; 1_000_000]).unwrap();
    world.run_for(10 * SECOND).unwrap();
    let (dump, queued) = (world.dump(), writer.queued_bytes());
    assert!(queued > 500_000);
    let own = writer.local_addr().unwrap();
    assert_eq!(writer.state(), ConnectionState::Open);
    let at_client = format!("a connection from {own} to 10.0.0.1:7, Open, {queued} bytes to send");
    assert!(dump.contains(&at_client), "{dump}");
    let at_server = format!("a connection from 10.0.0.1:7 to {own}, Open, reading is paused");
    assert!(dump.contains(&at_server), "{dump}");
}

#[test]
fn what_is_under_way_is_shown_until_it_arrives() {
    let world = World::new(1);
    world.default_link(Link::new().latency(2 * SECOND));
    let a = world.host("a", "10.0.0.1").unwrap();
    world.host("b", "10.0.0.2").unwrap();
    let port = a.listen_udp("10.0.0.1:9", Recorder::quiet()).unwrap();
    port.write_to(b"early", at("10.0.0.2:9")).unwrap();
    world.run_for(SECOND).unwrap();
    port.write_to(b"late!!", at("10.0.0.2:9")).unwrap();
    world.run_for(Duration::ZERO).unwrap();
    let dump = world.dump();
    let flights = "under way: 2 packets\n  \
        arrives at 2s: a -> b udp 10.0.0.1:9 > 10.0.0.2:9, 5 bytes\n  \
        arrives at 3s: a -> b udp 10.0.0.1:9 > 10.0.0.2:9, 6 bytes\n";
    assert!(dump.ends_with(flights), "{dump}");
    // Then it is the refusals that are.
    world.run_for(SECOND).unwrap();
    let dump = world.dump();
    assert!(dump.contains("arrives at 4s: b -> a icmp 10.0.0.2 > 10.0.0.1, Port"), "{dump}");
    world.run_for(9 * SECOND).unwrap();
    assert!(world.dump().ends_with("under way: 0 packets\n"));
}

#[test]
fn a_host_that_has_stopped_wants_no_turn() {
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1").unwrap();
    let hold = host.hold_shutdown().unwrap();
    host.stop();
    world.run_for(SECOND).unwrap();
    let dump = world.dump();
    assert!(dump.contains("host a, up:"), "{dump}");
    assert!(dump.contains("    a shutdown, over at "), "{dump}");
    drop(hold);
    world.run_for(60 * SECOND).unwrap();
    assert!(world.has_stopped("a").unwrap());
    host.call_when_running(|_| {});
    host.call_later(SECOND, |_| {});
    let dump = world.dump();
    let expected =
        ["host a, stopped: 10.0.0.1/24 on eth0", "  open in its reactor:", "    a timer at 62s"];
    assert_eq!(about(&dump, "a"), expected, "{dump}");
    // Its call does once it runs again.
    world.run_again("a").unwrap();
    assert!(world.dump().contains("wants a turn now"), "{}", world.dump());
    world.crash("a").unwrap();
    assert_eq!(about(&world.dump(), "a"), ["host a, down: 10.0.0.1/24 on eth0"]);
}

#[test]
fn a_dump_from_inside_a_callback_shows_the_host_that_asks() {
    let world = std::rc::Rc::new(World::new(1));
    let host = world.host("a", "10.0.0.1").unwrap();
    host.listen_udp(9, Recorder::quiet()).unwrap();
    let (inside, told) =
        (std::rc::Rc::downgrade(&world), std::rc::Rc::new(std::cell::Cell::new(false)));
    let noted = told.clone();
    host.call_later(SECOND, move |_| {
        let dump = inside.upgrade().unwrap().dump();
        assert!(dump.contains("a UDP port at 0.0.0.0:9"), "{dump}");
        noted.set(true);
    });
    world.run_for(2 * SECOND).unwrap();
    assert!(told.get());
}
