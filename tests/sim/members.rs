//! What random programs of `multicast/random.rs` found: where the simulation was not told what
//! Linux tells. Here without the namespaces that those need.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::sim::World;
use strand_reactor::{DatagramTransport, Handle, UdpOptions};

use crate::support::{Log, Recorder};

const SECOND: Duration = Duration::from_secs(1);
const GROUP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(239, 1, 2, 3));
const GROUP_V6: &str = "ff15::7";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Two hosts that meet on two networks, by `eth0` and by `eth1`.
fn world() -> (World, [Handle; 2]) {
    let world = World::new(1);
    let hosts = [("a", 1), ("b", 2)].map(|(name, number)| {
        let addresses =
            ["10.0.0.", "10.0.1.", "fd00::", "fd01::"].map(|net| format!("{net}{number}"));
        world.host(name, addresses.join(", ")).unwrap()
    });
    (world, hosts)
}

fn sender(host: &Handle, address: &str, interface: &str) -> DatagramTransport {
    let port = host.listen_udp(at(address), Recorder::quiet()).unwrap();
    port.set_multicast_interface(interface).unwrap();
    port
}

#[test]
fn a_port_that_is_no_member_hears_what_some_member_of_its_host_wants() {
    let (world, [a, b]) = world();
    let log = Log::default();
    let options = UdpOptions::from(9).reuse_address(true);
    let _bystander = b.listen_udp(options, Recorder::new(&log)).unwrap();
    let member = b.listen_udp(0, Recorder::quiet()).unwrap();
    member.join_source(GROUP, IpAddr::from([10, 0, 0, 77]), "eth0").unwrap();
    let from = sender(&a, "0.0.0.0:0", "eth0");
    from.write_to(b"unwanted", at("239.1.2.3:9")).unwrap();
    world.run_for(SECOND).unwrap();
    member.join_source(GROUP, IpAddr::from([10, 0, 0, 1]), "eth0").unwrap();
    from.write_to(b"wanted", at("239.1.2.3:9")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(log.payloads(), [b"wanted"]);
}

#[test]
fn a_membership_of_ipv6_lets_in_what_the_host_hears_on_another_interface() {
    let (world, [a, b]) = world();
    let log = Log::default();
    let port = b.listen_multicast(at("[::]:9"), Recorder::new(&log)).unwrap();
    let group: IpAddr = GROUP_V6.parse().unwrap();
    port.join_group(group, "eth1").unwrap();
    let from = sender(&a, "[::]:0", "eth0");
    from.write_to(b"nobody's", at("[ff15::7]:9")).unwrap();
    world.run_for(SECOND).unwrap();
    let other = b.listen_udp(at("[::]:0"), Recorder::quiet()).unwrap();
    other.join_group(group, "eth0").unwrap();
    from.write_to(b"another's", at("[ff15::7]:9")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(log.payloads(), [b"another's"]);
}

#[test]
fn a_hop_limit_of_0_keeps_a_datagram_on_a_host_that_is_a_member_alone() {
    let (world, [a, b]) = world();
    for (address, to) in [("0.0.0.0:9", "239.1.2.3:9"), ("[::]:9", "[ff15::7]:9")] {
        let log = Log::default();
        let (to, address) = (at(to), at(address));
        let port = b.listen_multicast(address, Recorder::new(&log)).unwrap();
        port.join_group(to.ip(), "eth0").unwrap();
        let from = a.listen_multicast(address, Recorder::quiet()).unwrap();
        from.set_multicast_interface("eth0").unwrap();
        from.set_multicast_ttl(0).unwrap();
        from.write_to(b"out", to).unwrap();
        world.run_for(SECOND).unwrap();
        from.join_group(to.ip(), "eth0").unwrap();
        from.write_to(b"kept", to).unwrap();
        world.run_for(SECOND).unwrap();
        assert_eq!(log.payloads(), [b"out"], "{to}");
        port.stop_listening();
        from.stop_listening();
        world.run_for(SECOND).unwrap();
    }
}

#[test]
fn loopback_has_no_route_for_groups_of_ipv6_and_no_address_for_those_of_ipv4() {
    let (world, [a, _]) = world();
    let sources: Rc<RefCell<Vec<IpAddr>>> = Rc::default();
    let sink = Rc::clone(&sources);
    let hearing = Recorder::quiet().on_datagram(move |_, datagram| {
        sink.borrow_mut().push(datagram.source().ip());
        Ok(())
    });
    let port = a.listen_multicast(9, hearing).unwrap();
    port.join_group(GROUP, "lo").unwrap();
    // By name, and so from no address of its own; by address, and so from that.
    for interface in ["lo", "127.0.0.1"] {
        let from = a.listen_udp(0, Recorder::quiet()).unwrap();
        from.set_multicast_interface(interface).unwrap();
        from.write_to(b"x", at("239.1.2.3:9")).unwrap();
        world.run_for(SECOND).unwrap();
    }
    assert_eq!(sources.take(), [IpAddr::from([10, 0, 0, 1]), IpAddr::from([127, 0, 0, 1])]);
    let from = sender(&a, "[::]:0", "lo");
    let refused = from.try_write_to(b"x", at("[ff15::7]:9")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NetworkUnreachable);
}
