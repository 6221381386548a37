//! What a world and its hosts have not got, and where they end.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::sim::{HostAddresses, HostError, Link, Rule, World};
use strand_reactor::{
    ConnectorState, PathMtu, PeerAddr, Protocol, Transport, UdpOptions, UnixDatagram,
    UnixDatagramProtocol, UnixDatagramTransport,
};

use crate::support::{Log, Recorder};

const SECOND: Duration = Duration::from_secs(1);

struct Quiet;

impl Protocol for Quiet {
    fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }
}

impl UnixDatagramProtocol for Quiet {
    fn datagram_received(
        &mut self,
        _: &UnixDatagramTransport,
        _: UnixDatagram<'_>,
    ) -> anyhow::Result<()> {
        Ok(())
    }
}

fn build(_: PeerAddr) -> Option<Quiet> {
    Some(Quiet)
}

#[test]
fn a_simulated_host_says_that_it_has_no_unix_sockets() {
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1").unwrap();
    let no_listener = host.listen_unix("/run/x.sock", build).unwrap_err().to_string();
    let no_port = host.listen_unix_datagram("/run/x.sock", Quiet).unwrap_err().to_string();
    for refused in [no_listener, no_port] {
        assert!(refused.contains("a simulated host has no UNIX sockets"), "{refused}");
    }
    let connector = host.connect_unix("/run/x.sock", build).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(connector.state(), ConnectorState::Disconnected);
}

#[test]
fn a_simulated_host_says_that_it_gets_no_signals() {
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1").unwrap();
    let refused = host.on_signal(strand_reactor::Signal::HUP, |_| {}).unwrap_err();
    let source = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
    let told = format!("{refused}: {source}");
    assert!(told.contains("a simulated host gets no signals"), "{told}");
}

#[test]
fn at_the_end_of_time_connections_and_datagrams_still_have_their_timers() {
    let world = World::new(1);
    let server = world.host("a", "10.0.0.1").unwrap();
    let client = world.host("b", "10.0.0.2").unwrap();
    server.listen_tcp(9, build).unwrap();
    world.run_for(Duration::MAX).unwrap();
    let end = world.elapsed();
    assert!(end.as_secs() > 290 * 365 * 86_400);
    client.connect_tcp("10.0.0.1:9".parse::<SocketAddr>().unwrap(), build).unwrap();
    let port = client.listen_udp(9, Recorder::quiet()).unwrap();
    port.write_to(b"to nobody", "10.0.0.77:9".parse().unwrap()).unwrap();
    client.call_later(SECOND, |_| {});
    world.run_for(SECOND).unwrap();
    while world.step().unwrap() {}
    assert_eq!(world.elapsed(), end);
}

#[test]
fn a_host_has_a_name_and_no_address_twice() {
    let world = World::new(1);
    let refused = world.host("", "10.0.0.1").unwrap_err();
    assert!(matches!(refused, HostError::Name { .. }), "{refused}");
    let twice = HostAddresses::try_from("10.0.0.1, fd00::1, 10.0.0.1/16").unwrap_err();
    assert_eq!(
        twice.to_string(),
        "'10.0.0.1/16' cannot be an address of a host: it is among them already"
    );
    // Nothing of what was refused is left.
    world.host("a", "10.0.0.1").unwrap();
}

/// Counts what it receives.
struct Counting(Rc<Cell<usize>>);

impl Protocol for Counting {
    fn data_received(&mut self, _: &Transport, data: &[u8]) -> anyhow::Result<()> {
        self.0.set(self.0.get() + data.len());
        Ok(())
    }
}

/// Sends more than fits into one packet.
struct Sending;

impl Protocol for Sending {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        transport.write(&[7; 2_000])?;
        Ok(())
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }
}

#[test]
fn streams_pass_the_narrowest_link_that_there_can_be() {
    for mtu in [68, 87, 107, 576] {
        let world = World::new(1);
        world.default_link(Link::new().latency(Duration::from_millis(1)).mtu(mtu));
        let server = world.host("a", "10.0.0.1, fd00::1").unwrap();
        let client = world.host("b", "10.0.0.2, fd00::2").unwrap();
        for address in ["10.0.0.1:9", "[fd00::1]:9"] {
            let received = Rc::new(Cell::new(0));
            let counted = Rc::clone(&received);
            let build = move |_: PeerAddr| Some(Counting(Rc::clone(&counted)));
            let port = server.listen_tcp(address, build).unwrap();
            let peer: SocketAddr = address.parse().unwrap();
            client.connect_tcp(peer, |_: PeerAddr| Some(Sending)).unwrap();
            world.run_for(60 * SECOND).unwrap();
            assert_eq!(received.get(), 2_000, "to {address} with an MTU of {mtu}");
            port.stop_listening();
        }
    }
}

/// What a host may send to 10.0.0.1 in one piece.
fn known_mtu(world: &World) -> u32 {
    let host = world.handle("b").unwrap();
    let port = host.connect_udp("10.0.0.1:9".parse().unwrap(), Recorder::quiet()).unwrap();
    let mtu = port.path_mtu().unwrap();
    port.stop_listening();
    mtu
}

fn find_the_path_narrow(world: &World) {
    let narrow = world.rule(Rule::through(Link::new().mtu(1_000))).unwrap();
    let options = UdpOptions::parse("0.0.0.0:0").unwrap().path_mtu(PathMtu::DontFragment);
    let host = world.handle("b").unwrap();
    let port = host.listen_udp(options, Recorder::new(&Log::default())).unwrap();
    port.write_to(&[0; 1_400], "10.0.0.1:9".parse().unwrap()).unwrap();
    world.run_for(SECOND).unwrap();
    port.stop_listening();
    narrow.lift();
    world.run_for(SECOND).unwrap();
}

#[test]
fn a_host_forgets_a_narrow_path_after_ten_minutes_and_when_it_restarts() {
    let world = World::new(1);
    world.host("a", "10.0.0.1").unwrap().listen_udp(9, Recorder::quiet()).unwrap();
    world.host("b", "10.0.0.2").unwrap();
    find_the_path_narrow(&world);
    assert_eq!(known_mtu(&world), 1_000);
    world.run_for(590 * SECOND).unwrap();
    assert_eq!(known_mtu(&world), 1_000);
    world.run_for(20 * SECOND).unwrap();
    assert_eq!(known_mtu(&world), 1_500);

    find_the_path_narrow(&world);
    assert_eq!(known_mtu(&world), 1_000);
    world.restart("b").unwrap();
    assert_eq!(known_mtu(&world), 1_500);
}
