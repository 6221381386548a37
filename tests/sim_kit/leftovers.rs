//! What was left behind is found and listed.

use std::time::Duration;

use strand_reactor::sim::{Rule, World};
use strand_reactor::{PeerAddr, Protocol, Transport};

use crate::support::Recorder as Port;
use crate::watchdog::watchdog;

struct Quiet;

impl Protocol for Quiet {
    fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }
}

fn list(world: &World) -> Vec<String> {
    world.leftovers().iter().map(ToString::to_string).collect()
}

#[test]
fn ports_are_listed_with_what_waits_in_them_until_they_are_gone() {
    let _watchdog = watchdog();
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1").unwrap();
    let full = world.rule(Rule::full_send_buffers()).unwrap();
    let port = host.listen_udp(9, Port::quiet()).unwrap();
    port.write_to(b"one", "10.0.0.1:7".parse().unwrap()).unwrap();
    port.write_to(b"two", "10.0.0.1:7".parse().unwrap()).unwrap();
    world.run_for(Duration::from_secs(1)).unwrap();
    assert_eq!(list(&world), ["host a: a UDP port at 0.0.0.0:9, 2 datagrams to send"]);
    full.lift();
    world.run_for(Duration::from_secs(1)).unwrap();
    assert_eq!(list(&world), ["host a: a UDP port at 0.0.0.0:9"]);
    port.stop_listening();
    world.run_for(Duration::from_secs(1)).unwrap();
    world.assert_nothing_left();
}

#[test]
fn streams_are_listed_on_both_hosts_until_they_are_gone() {
    let _watchdog = watchdog();
    let world = World::new(1);
    let a = world.host("a", "10.0.0.1").unwrap();
    let b = world.host("b", "10.0.0.2").unwrap();
    let port = b.listen_tcp(80, |_: PeerAddr| Some(Quiet)).unwrap();
    assert_eq!(list(&world), ["host b: a TCP port at 0.0.0.0:80"]);
    let to = "10.0.0.2:80".parse::<std::net::SocketAddr>().unwrap();
    let connector = a.connect_tcp(to, |_: PeerAddr| Some(Quiet)).unwrap();
    world.run_for(Duration::from_secs(1)).unwrap();
    port.stop_listening();
    world.run_for(Duration::from_secs(1)).unwrap();
    let found = list(&world);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("host a: a connection from 10.0.0.1:"), "{found:?}");
    assert!(found[0].contains(" to 10.0.0.2:80, "), "{found:?}");
    assert!(
        found[1].starts_with("host b: a connection from 10.0.0.2:80 to 10.0.0.1:"),
        "{found:?}"
    );
    connector.disconnect();
    world.run_for(Duration::from_secs(300)).unwrap();
    world.assert_nothing_left();
}

#[test]
fn timers_are_counted_host_by_host() {
    let _watchdog = watchdog();
    let world = World::new(1);
    let a = world.host("a", "10.0.0.1").unwrap();
    world.run_for(Duration::from_secs(5)).unwrap();
    let b = world.host("b", "10.0.0.2").unwrap();
    a.call_later(Duration::from_secs(20), |_| {});
    let first = a.call_later(Duration::from_secs(10), |_| {});
    b.call_later(Duration::from_secs(9), |_| {});
    world.run_for(Duration::from_secs(1)).unwrap();
    assert_eq!(
        list(&world),
        ["host a: 2 timers, the next in 9s", "host b: 1 timer, the next in 8s"]
    );
    assert_eq!(world.leftovers_on("b").unwrap().len(), 1);
    assert!(world.leftovers_on("c").is_err());
    first.cancel().unwrap();
    world.crash("b").unwrap();
    assert_eq!(list(&world), ["host a: 1 timer, the next in 19s"]);
    world.run_for(Duration::from_secs(20)).unwrap();
    world.assert_nothing_left();
}

#[test]
#[should_panic(
    expected = "left behind after 0ns:\n  host a: 1 timer, the next in 1s\n  host b: a UDP port at 0.0.0.0:9"
)]
fn the_assertion_lists_what_is_left() {
    let world = World::new(1);
    world.host("a", "10.0.0.1").unwrap().call_later(Duration::from_secs(1), |_| {});
    world.host("b", "10.0.0.2").unwrap().listen_udp(9, Port::quiet()).unwrap();
    world.assert_nothing_left();
}
