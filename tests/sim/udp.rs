//! UDP between simulated hosts.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::sim::World;
use strand_reactor::{
    DatagramTransport, Ecn, Handle, Metadata, SendOptions, UdpOptions, WriteError,
};

use crate::support::{Event, Log, Recorder};

const SECOND: Duration = Duration::from_secs(1);

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Two hosts on one network, with both families.
fn pair() -> (World, Handle, Handle) {
    let world = World::new(1);
    let a = world.host("a", "10.0.0.1, fd00::1").unwrap();
    let b = world.host("b", "10.0.0.2, fd00::2").unwrap();
    (world, a, b)
}

/// A port that logs, and what it was told about each datagram.
fn open<O>(handle: &Handle, options: O) -> (DatagramTransport, Log)
where
    O: TryInto<UdpOptions>,
    O::Error: Into<strand_reactor::ListenError>,
{
    let log = Log::default();
    let port = handle.listen_udp(options, Recorder::new(&log)).unwrap();
    log.take();
    (port, log)
}

#[test]
fn a_dual_port_speaks_both_families_and_a_v6_port_one() {
    let (world, a, b) = pair();
    let (dual, log) = open(&a, "[::]:9");
    let (_, v6_log) =
        open(&b, UdpOptions::try_from("[::]:9").unwrap().family(strand_reactor::Family::V6Only));
    let (v4, v4_log) = open(&b, "0.0.0.0:9");
    dual.write_to(b"to v4", at("10.0.0.2:9")).unwrap();
    dual.write_to(b"to v6", at("[fd00::2]:9")).unwrap();
    v4.write_to(b"from v4", at("10.0.0.1:9")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(v4_log.payloads(), [b"to v4"]);
    assert_eq!(v6_log.payloads(), [b"to v6"]);
    assert_eq!(log.payloads(), [b"from v4"]);
}

#[test]
fn ports_are_given_out_and_refused() {
    let (_world, a, _) = pair();
    let (one, _) = open(&a, "0.0.0.0:0");
    let (two, _) = open(&a, "0.0.0.0:0");
    let ports = [&one, &two].map(|port| port.local_addr().unwrap().port());
    assert!(ports[0] != 0 && ports[0] != ports[1], "{ports:?}");
    let taken = |address: &str| a.listen_udp(address, Recorder::quiet()).unwrap_err().kind();
    assert_eq!(taken(&format!("127.0.0.1:{}", ports[0])), ErrorKind::AddrInUse);
    assert_eq!(taken("10.0.0.77:9"), ErrorKind::AddrNotAvailable);
    one.stop_listening();
    let (specific, _) = open(&a, "10.0.0.1:9");
    let (other, _) = open(&a, "127.0.0.1:9");
    assert_eq!(taken("0.0.0.0:9"), ErrorKind::AddrInUse);
    assert_eq!(taken("[::]:9"), ErrorKind::AddrInUse, "dual");
    drop((specific, other));
}

#[test]
fn a_closed_port_is_free_again() {
    let (world, a, _) = pair();
    let (port, _) = open(&a, 9);
    port.stop_listening();
    world.run_for(SECOND).unwrap();
    open(&a, 9);
}

#[test]
fn the_exact_address_comes_before_all_and_a_connected_port_before_others() {
    let (world, a, b) = pair();
    let shared = |address: &str| UdpOptions::try_from(address).unwrap().reuse_address(true);
    let (_, any) = open(&a, shared("0.0.0.0:9"));
    let (_, exact) = open(&a, shared("10.0.0.1:9"));
    let (connected, of_peer) = open(&a, shared("10.0.0.1:9"));
    connected.connect(at("10.0.0.2:5")).unwrap();
    let (peer, _) = open(&b, 5);
    let (stranger, _) = open(&b, 6);
    peer.write_to(b"peer", at("10.0.0.1:9")).unwrap();
    stranger.write_to(b"stranger", at("10.0.0.1:9")).unwrap();
    let (local, _) = open(&a, 7);
    local.write_to(b"loopback", at("127.0.0.1:9")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(of_peer.payloads(), [b"peer"]);
    assert_eq!(exact.payloads(), [b"stranger"]);
    assert_eq!(any.payloads(), [b"loopback"]);
}

#[test]
fn ports_that_share_by_reuse_port_each_keep_their_peers() {
    let (world, a, b) = pair();
    let shared = || UdpOptions::from(9).reuse_port(true);
    let logs: Vec<_> = (0..4).map(|_| open(&a, shared()).1).collect();
    let senders: Vec<_> = (0..64).map(|_| open(&b, 0).0).collect();
    for round in 0..2 {
        for sender in &senders {
            let port = sender.local_addr().unwrap().port();
            sender.write_to(&port.to_be_bytes(), at("10.0.0.1:9")).unwrap();
        }
        world.run_for(SECOND).unwrap();
        let counts: Vec<_> = logs.iter().map(Log::datagrams).collect();
        assert_eq!(counts.iter().sum::<usize>(), 64 * (round + 1));
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    }
    for log in &logs {
        let mut payloads = log.payloads();
        payloads.sort();
        assert!(payloads.chunks(2).all(|pair| pair[0] == pair[1]), "a peer went to two ports");
    }
}

#[test]
fn a_connected_port_is_told_of_each_refusal_and_lives() {
    let (world, a, b) = pair();
    let log = Log::default();
    let port = a.connect_udp(at("10.0.0.2:9"), Recorder::new(&log)).unwrap();
    assert_eq!(port.local_addr().unwrap().ip(), "10.0.0.1".parse::<IpAddr>().unwrap());
    log.take();
    for _ in 0..10 {
        port.write(b"knock").unwrap();
    }
    world.run_for(SECOND).unwrap();
    assert_eq!(log.take(), vec![Event::Refused; 10]);
    assert_eq!(port.stats().unwrap().datagrams_out, 10);
    let (peer, heard) = open(&b, 9);
    port.write(b"there").unwrap();
    peer.write_to(b"here", port.local_addr().unwrap()).unwrap();
    world.run_for(SECOND).unwrap();
    assert!(heard.has_payload("there") && log.has_payload("here"));
}

#[test]
fn an_unconnected_port_with_the_error_queue_is_told_who_refused_what() {
    let (world, a, _) = pair();
    let reports = Rc::new(RefCell::new(Vec::new()));
    let told = Rc::clone(&reports);
    let recorder = Recorder::quiet().on_network_error(move |_, error| {
        told.borrow_mut().push((error.error.kind(), error.destination, error.offender, error.icmp));
        Ok(())
    });
    let port = a.listen_udp(UdpOptions::try_from("[::]:9").unwrap().error_queue(true), recorder);
    let port = port.unwrap();
    port.write_to(b"x", at("10.0.0.2:1")).unwrap();
    port.write_to(b"x", at("[fd00::2]:2")).unwrap();
    world.run_for(SECOND).unwrap();
    let (v4, v6) = (at("[::ffff:10.0.0.2]:1"), at("[fd00::2]:2"));
    let refused = ErrorKind::ConnectionRefused;
    let expected = [
        (refused, Some(v4), Some(v4.ip()), Some((3, 3))),
        (refused, Some(v6), Some(v6.ip()), Some((1, 4))),
    ];
    assert_eq!(*reports.borrow(), expected);
    assert_eq!(port.stats().unwrap().refusals, 0);
}

#[test]
fn a_host_that_is_not_there_is_reported_by_its_own_network_alone() {
    let (world, a, _) = pair();
    let log = Log::default();
    let port = a.listen_udp(UdpOptions::from(9).error_queue(true), Recorder::new(&log));
    let port = port.unwrap();
    log.take();
    port.write_to(b"far", at("192.0.2.1:9")).unwrap();
    world.run_for(10 * SECOND).unwrap();
    assert!(log.events().is_empty(), "lost on its way");
    port.write_to(b"near", at("10.0.0.77:9")).unwrap();
    world.run_for(2 * SECOND).unwrap();
    assert!(log.events().is_empty(), "still looking");
    world.run_for(2 * SECOND).unwrap();
    assert_eq!(log.events(), [Event::NetworkError]);
}

#[test]
fn without_a_route_a_write_fails() {
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1").unwrap();
    let (port, log) = open(&host, "[::]:9");
    let outcome = Rc::new(RefCell::new(None));
    let told = Rc::clone(&outcome);
    port.write_then(b"x", at("[fd00::2]:9"), move |sent| *told.borrow_mut() = Some(sent)).unwrap();
    world.run_for(SECOND).unwrap();
    let Some(Err(WriteError::Io(error))) = outcome.take() else { panic!("{:?}", log.events()) };
    assert_eq!(error.raw_os_error(), Some(libc_errno("ENETUNREACH")));
}

/// Numbers of Linux.
fn libc_errno(name: &str) -> i32 {
    match name {
        "ENETUNREACH" => 101,
        "EMSGSIZE" => 90,
        "EACCES" => 13,
        _ => panic!("{name}"),
    }
}

#[test]
fn a_full_receive_buffer_drops_and_counts() {
    let (world, a, b) = pair();
    let options = UdpOptions::from(9).recv_buffer_size(8_192).metadata(Metadata::DROPS);
    let (port, log) = open(&a, options);
    port.pause_reading().unwrap();
    let (sender, _) = open(&b, 9);
    for number in 0..100_u8 {
        sender.write_to(&[number; 100], at("10.0.0.1:9")).unwrap();
    }
    world.run_for(SECOND).unwrap();
    port.resume_reading().unwrap();
    world.run_for(SECOND).unwrap();
    let received = log.datagrams();
    assert!((10..40).contains(&received), "{received}");
    sender.write_to(b"one more", at("10.0.0.1:9")).unwrap();
    world.run_for(SECOND).unwrap();
    let stats = port.stats().unwrap();
    assert_eq!(stats.kernel_drops as usize, 100 - received);
    assert!(log.has_payload("one more"));
}

#[test]
fn metadata_tells_destination_hops_ecn_and_time() {
    let (world, a, b) = pair();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let told = Rc::clone(&seen);
    let recorder = Recorder::quiet().on_datagram(move |_, datagram| {
        told.borrow_mut().push((
            datagram.destination(),
            datagram.interface(),
            datagram.hop_limit(),
            datagram.ecn(),
            datagram.received_at().is_some(),
        ));
        Ok(())
    });
    a.listen_udp(UdpOptions::from(9).metadata(Metadata::ALL), recorder).unwrap();
    let (sender, _) = open(&b, 9);
    sender.set_ttl(7).unwrap();
    sender.write_to(b"x", at("10.0.0.1:9")).unwrap();
    let options = SendOptions::to(at("10.0.0.1:9")).hop_limit(3).ecn(Ecn::Ce);
    sender.write_with(b"x", &options).unwrap();
    world.run_for(SECOND).unwrap();
    let here = Some(at("10.0.0.1:9"));
    let expected = [
        (here, Some(2), Some(7), Some(Ecn::NotEct), true),
        (here, Some(2), Some(3), Some(Ecn::Ce), true),
    ];
    assert_eq!(*seen.borrow(), expected);
}

#[test]
fn worlds_begin_on_the_first_of_january_2000() {
    let (world, a, b) = pair();
    let seen = Rc::new(Cell::new(None));
    let told = Rc::clone(&seen);
    let recorder = Recorder::quiet().on_datagram(move |_, datagram| {
        told.set(datagram.received_at());
        Ok(())
    });
    a.listen_udp(UdpOptions::from(9).metadata(Metadata::RECEIVE_TIME), recorder).unwrap();
    world.run_for(59 * SECOND).unwrap();
    open(&b, 9).0.write_to(b"x", at("10.0.0.1:9")).unwrap();
    world.run_for(SECOND).unwrap();
    let date = seen.get().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    // `date -u -d 2000-01-01 +%s`; then the wait, and the millisecond of the link.
    assert_eq!(date, Duration::from_secs(946_684_800 + 59) + Duration::from_millis(1));
}

#[test]
fn every_refusal_is_reported_however_many_there_are() {
    let (world, a, _) = pair();
    let port = a.connect_udp(at("10.0.0.2:9"), Recorder::quiet()).unwrap();
    for _ in 0..1_000 {
        port.write(b"knock").unwrap();
        world.run_for(Duration::from_micros(10)).unwrap();
    }
    world.run_for(SECOND).unwrap();
    assert_eq!(port.stats().unwrap().refusals, 1_000, "Linux stops at about six a second");
}

#[test]
fn what_arrives_together_is_delivered_in_one_turn() {
    let (world, a, b) = pair();
    let c = world.host("c", "10.0.0.3").unwrap();
    let (port, log) = open(&a, 9);
    let (near, far) = (open(&b, 9).0, open(&c, 9).0);
    world.run_for(SECOND).unwrap();
    let before = a.stats().turns;
    near.write_to(b"one", at("10.0.0.1:9")).unwrap();
    far.write_to(b"two", at("10.0.0.1:9")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(
        (log.payloads(), a.stats().turns - before),
        (vec![b"one".to_vec(), b"two".to_vec()], 1)
    );
    far.write_to(b"three", at("10.0.0.1:9")).unwrap();
    world.run_for(Duration::from_nanos(1)).unwrap();
    near.write_to(b"four", at("10.0.0.1:9")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(a.stats().turns - before, 3, "apart by a nanosecond");
    drop(port);
}

#[test]
fn a_hop_limit_of_one_reaches_the_own_network_alone() {
    let world = World::new(1);
    let a = world.host("a", "10.0.0.1/24").unwrap();
    let near = world.host("near", "10.0.0.2/24").unwrap();
    let far = world.host("far", "10.0.1.2/24").unwrap();
    let (_, near_log) = open(&near, 9);
    let (_, far_log) = open(&far, 9);
    let log = Log::default();
    let port = a.listen_udp(UdpOptions::from(9).error_queue(true), Recorder::new(&log));
    let port = port.unwrap();
    log.take();
    port.set_ttl(1).unwrap();
    port.write_to(b"near", at("10.0.0.2:9")).unwrap();
    port.write_to(b"far", at("10.0.1.2:9")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(near_log.payloads(), [b"near"]);
    assert_eq!(far_log.datagrams(), 0);
    assert_eq!(log.events(), [Event::NetworkError], "time exceeded");
    port.set_ttl(2).unwrap();
    port.write_to(b"far", at("10.0.1.2:9")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(far_log.payloads(), [b"far"]);
}

#[test]
fn what_must_not_be_fragmented_and_is_too_long_fails() {
    let (world, a, b) = pair();
    let (_, heard) = open(&b, 9);
    let (port, log) = open(&a, 9);
    port.write_to(&[0; 9_000], at("10.0.0.2:9")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(heard.datagrams(), 1, "in fragments");
    port.set_path_mtu_mode(strand_reactor::PathMtu::DontFragment).unwrap();
    port.write_to(&[0; 1_472], at("10.0.0.2:9")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!((heard.datagrams(), log.events().len()), (2, 0));
    port.write_to(&[0; 1_473], at("10.0.0.2:9")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!((heard.datagrams(), log.events()), (2, vec![Event::WriteFailed]));
    port.connect(at("10.0.0.2:9")).unwrap();
    assert_eq!(port.path_mtu().unwrap(), 1_500);
}

#[test]
fn a_batch_of_more_than_sixteen_is_delivered_in_order() {
    let (world, a, b) = pair();
    let (_, log) = open(&a, 9);
    let (sender, _) = open(&b, 9);
    for number in 0..200_u8 {
        sender.write_to(&[number], at("10.0.0.1:9")).unwrap();
    }
    world.run_for(SECOND).unwrap();
    let payloads: Vec<u8> = log.payloads().concat();
    assert_eq!(payloads, (0..200).collect::<Vec<u8>>());
}

#[test]
fn a_port_bound_to_a_device_hears_that_alone() {
    let world = World::new(1);
    let a = world.host("a", ["10.0.0.1/24", "10.0.1.1/24"]).unwrap();
    let b = world.host("b", ["10.0.0.2/24", "10.0.1.2/24"]).unwrap();
    let (port, log) = open(&a, UdpOptions::from(9).device("eth1"));
    assert_eq!(port.device().unwrap().as_deref(), Some("eth1"));
    let (sender, _) = open(&b, 9);
    sender.write_to(b"eth0", at("10.0.0.1:9")).unwrap();
    sender.write_to(b"eth1", at("10.0.1.1:9")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(log.payloads(), [b"eth1"]);
    assert!(a.listen_udp(UdpOptions::from(8).device("wlan0"), Recorder::quiet()).is_err());
}

#[test]
fn disconnecting_restores_the_port() {
    let (world, a, b) = pair();
    let (port, log) = open(&a, 9);
    port.connect(at("10.0.0.2:9")).unwrap();
    assert_eq!(port.local_addr().unwrap(), at("10.0.0.1:9"));
    port.disconnect().unwrap();
    assert_eq!(port.local_addr().unwrap(), at("0.0.0.0:9"));
    let (stranger, _) = open(&b, 10);
    stranger.write_to(b"hello", at("10.0.0.1:9")).unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(log.payloads(), [b"hello"]);
}

#[test]
fn who_is_bound_to_many_sends_from_an_address_of_the_host() {
    let (world, a, b) = pair();
    for bound in ["239.0.0.1:7", "10.0.0.255:7", "255.255.255.255:7"] {
        let heard: Rc<RefCell<Vec<SocketAddr>>> = Rc::default();
        let sources = Rc::clone(&heard);
        let log = Log::default();
        let hearer = Recorder::new(&log).on_datagram(move |_, datagram| {
            sources.borrow_mut().push(datagram.source());
            Ok(())
        });
        let at_b = b.listen_udp(at("10.0.0.2:9"), hearer).unwrap();
        let (port, _) = open(&a, at(bound));
        assert_eq!(port.local_addr().unwrap(), at(bound));
        port.write_to(b"x", at("10.0.0.2:9")).unwrap();
        world.run_for(SECOND).unwrap();
        assert_eq!(heard.take(), [at("10.0.0.1:7")], "bound to {bound}");
        at_b.stop_listening();
        port.stop_listening();
        world.run_for(SECOND).unwrap();
    }
}
