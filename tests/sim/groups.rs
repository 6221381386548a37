//! Multicast and broadcast between simulated hosts.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use strand_reactor::sim::World;
use strand_reactor::{
    DatagramTransport, Handle, Interface, MulticastError, SourceFilter, UdpOptions,
};

use crate::support::{Event, Log, Recorder};

const SECOND: Duration = Duration::from_secs(1);
const GROUP: [u8; 4] = [239, 1, 2, 3];

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn member(handle: &Handle) -> (DatagramTransport, Log) {
    let log = Log::default();
    let port = handle.listen_multicast(9, Recorder::new(&log)).unwrap();
    log.take();
    (port, log)
}

/// Two hosts on one network, a third on another.
fn world() -> (World, [Handle; 3]) {
    let world = World::new(1);
    let hosts = [("a", "10.0.0.1/24"), ("b", "10.0.0.2/24"), ("c", "10.0.1.3/24")];
    let hosts = hosts.map(|(name, address)| world.host(name, address).unwrap());
    (world, hosts)
}

#[test]
fn a_group_reaches_its_members_on_the_network_and_the_sender_if_it_is_one() {
    let (world, [a, b, c]) = world();
    let ports = [member(&a), member(&b), member(&c)];
    for (port, _) in &ports {
        port.join_group(GROUP, Interface::Default).unwrap();
    }
    ports[0].0.write_to(b"near", at("239.1.2.3:9")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(ports.each_ref().map(|(_, log)| log.datagrams()), [1, 1, 0]);
    ports[0].0.set_multicast_ttl(2).unwrap();
    ports[0].0.set_multicast_loopback(false).unwrap();
    ports[0].0.write_to(b"far", at("239.1.2.3:9")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(ports.each_ref().map(|(_, log)| log.datagrams()), [1, 2, 1]);
    ports[0].0.set_multicast_ttl(0).unwrap();
    ports[0].0.write_to(b"nowhere", at("239.1.2.3:9")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(ports.each_ref().map(|(_, log)| log.datagrams()), [1, 2, 1]);
    ports[1].0.leave_group(GROUP, Interface::Default).unwrap();
    ports[0].0.set_multicast_ttl(1).unwrap();
    ports[0].0.write_to(b"left", at("239.1.2.3:9")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(ports[1].1.datagrams(), 2);
}

#[test]
fn groups_of_link_local_scope_stay_on_their_network_whatever_the_hop_limit() {
    let (world, [a, _, c]) = world();
    let (port, log) = member(&c);
    port.join_group([224, 0, 0, 251], Interface::Default).unwrap();
    let (sender, _) = member(&a);
    sender.set_multicast_ttl(255).unwrap();
    sender.write_to(b"x", at("224.0.0.251:9")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(log.datagrams(), 0);
}

#[test]
fn source_filters_decide() {
    let (world, [a, b, c]) = world();
    let (port, log) = member(&b);
    let senders = [member(&a).0, member(&c).0];
    let send = || {
        for (sender, payload) in senders.iter().zip([b"a", b"c"]) {
            sender.set_multicast_ttl(8).unwrap();
            sender.write_to(payload, at("239.1.2.3:9")).unwrap();
        }
        world.run_for(SECOND).unwrap();
        log.take().into_iter().filter(|event| matches!(event, Event::Datagram(_))).count()
    };
    port.join_source(GROUP, [10, 0, 0, 1], Interface::Default).unwrap();
    assert_eq!(send(), 1);
    port.leave_source(GROUP, [10, 0, 0, 1], Interface::Default).unwrap();
    assert_eq!(send(), 0);
    port.join_group(GROUP, Interface::Default).unwrap();
    port.block_source(GROUP, [10, 0, 1, 3], Interface::Default).unwrap();
    let filter = port.source_filter(GROUP, Interface::Default).unwrap();
    assert_eq!(filter, Some(SourceFilter::Exclude(vec![IpAddr::from([10, 0, 1, 3])])));
    assert_eq!(send(), 1);
    port.unblock_source(GROUP, [10, 0, 1, 3], Interface::Default).unwrap();
    assert_eq!(send(), 2);
}

#[test]
fn refusals_of_memberships_are_those_of_the_system() {
    let (_world, [a, _, _]) = world();
    let (port, _) = member(&a);
    port.join_group(GROUP, 2).unwrap();
    let again = port.join_group(GROUP, 2);
    assert!(matches!(again, Err(MulticastError::AlreadyJoined { .. })), "{again:?}");
    let elsewhere = port.leave_group([239, 9, 9, 9], 2);
    assert!(matches!(elsewhere, Err(MulticastError::NotJoined { .. })), "{elsewhere:?}");
    let unknown = port.join_group([239, 9, 9, 9], 7);
    assert!(matches!(unknown, Err(MulticastError::UnknownInterface { .. })), "{unknown:?}");
}

#[test]
fn interfaces_choose_the_network() {
    let world = World::new(1);
    let a = world.host("a", ["10.0.0.1/24", "10.0.1.1/24"]).unwrap();
    let logs = [("b", "10.0.0.2"), ("c", "10.0.1.2")].map(|(name, address)| {
        let (port, log) = member(&world.host(name, address).unwrap());
        port.join_group(GROUP, Interface::Default).unwrap();
        log
    });
    let (sender, _) = member(&a);
    let counts = || {
        sender.write_to(b"x", at("239.1.2.3:9")).unwrap();
        world.run_for(SECOND).unwrap();
        logs.each_ref().map(Log::datagrams)
    };
    assert_eq!(counts(), [1, 0]);
    sender.set_multicast_interface("eth1").unwrap();
    assert_eq!(counts(), [1, 1]);
    sender.set_multicast_interface(IpAddr::from([10, 0, 0, 1])).unwrap();
    assert_eq!(counts(), [2, 1]);
}

#[test]
fn groups_of_ipv6_work_alike() {
    let world = World::new(1);
    let logs =
        [("a", "fd00::1"), ("b", "fd00::2"), ("c", "fd00:0:0:1::3")].map(|(name, address)| {
            let host = world.host(name, address).unwrap();
            let log = Log::default();
            let port = host.listen_multicast("[::]:9", Recorder::new(&log)).unwrap();
            port.join_group("ff08::7".parse::<IpAddr>().unwrap(), Interface::Default).unwrap();
            (port, log)
        });
    logs[0].0.write_to(b"x", at("[ff08::7]:9")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(logs.each_ref().map(|(_, log)| log.datagrams()), [1, 1, 0]);
}

#[test]
fn broadcasts_need_leave_and_stay_on_their_network() {
    let (world, [a, b, c]) = world();
    let logs = [&a, &b, &c].map(|host| {
        let log = Log::default();
        let port = host.listen_udp(9, Recorder::new(&log)).unwrap();
        log.take();
        (port, log)
    });
    let sender = &logs[0].0;
    sender.write_to(b"forbidden", at("10.0.0.255:9")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(logs[0].1.take(), [Event::WriteFailed], "EACCES");
    sender.set_broadcast_allowed(true).unwrap();
    for to in ["10.0.0.255:9", "255.255.255.255:9"] {
        sender.write_to(b"all", at(to)).unwrap();
        world.run_for(SECOND).unwrap();
    }
    assert_eq!(logs.each_ref().map(|(_, log)| log.datagrams()), [2, 2, 0]);
}

#[test]
fn a_port_bound_to_one_address_hears_no_broadcast() {
    let (world, [a, b, _]) = world();
    let log = Log::default();
    b.listen_udp("10.0.0.2:9", Recorder::new(&log)).unwrap();
    let sender = a.listen_udp(UdpOptions::from(9).broadcast_allowed(true), Recorder::quiet());
    sender.unwrap().write_to(b"all", at("10.0.0.255:9")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(log.datagrams(), 0);
}
