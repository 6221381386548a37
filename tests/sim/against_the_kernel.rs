//! The same programs on the loopback of this system and of a simulated host: what they are told,
//! and in which order, must be the same.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use strand_reactor::sim::World;
use strand_reactor::{DatagramTransport, Handle, Interface, PathMtu, Reactor, UdpOptions};

use crate::support::{Log, Recorder};

/// Runs one program on both and compares what it notes. Each step is followed by as much time as
/// everything needs that it brought about.
fn on_both(program: impl Fn(&Handle, &dyn Fn(), &Log)) {
    let world = World::new(1);
    let simulated = Log::default();
    let host = world.host("a", "10.0.0.1, fd00::1").unwrap();
    program(&host, &|| world.run_for(Duration::from_secs(1)).unwrap(), &simulated);

    let reactor = Reactor::new().unwrap();
    let real = Log::default();
    // Loopback delivers within the call that sends; what is left is the loop's own work.
    let settle = || {
        let end = Instant::now() + Duration::from_millis(20);
        while Instant::now() < end {
            reactor.iterate(Some(Duration::from_millis(2))).unwrap();
        }
    };
    program(&reactor, &settle, &real);
    assert_eq!(simulated.events(), real.events(), "simulated, and real");
    assert!(!real.events().is_empty());
}

fn open(handle: &Handle, address: &str, log: &Log) -> DatagramTransport {
    handle.listen_udp(address, Recorder::new(log)).unwrap()
}

fn addr(port: &DatagramTransport) -> SocketAddr {
    port.local_addr().unwrap()
}

/// An address where nobody listens.
fn deaf(handle: &Handle, settle: &dyn Fn(), ip: &str) -> SocketAddr {
    let port = open(handle, ip, &Log::default());
    let address = addr(&port);
    port.stop_listening();
    settle();
    address
}

#[test]
fn refusals_and_datagrams_of_a_connected_port_come_in_the_same_order() {
    for ip in ["127.0.0.1:0", "[::1]:0"] {
        on_both(|handle, settle, log| {
            let nobody = deaf(handle, settle, ip);
            let port = open(handle, ip, log);
            let stranger = open(handle, ip, &Log::default());
            stranger.try_write_to(b"before", addr(&port)).unwrap();
            port.connect(nobody).unwrap();
            port.try_write(b"knock").unwrap();
            port.try_write(b"knock").unwrap();
            stranger.try_write_to(b"not heard", addr(&port)).unwrap();
            settle();
            port.write(b"once more").unwrap();
            settle();
            let somebody = open(handle, &nobody.to_string(), log);
            port.write(b"there").unwrap();
            settle();
            somebody.write_to(b"here", addr(&port)).unwrap();
            settle();
            port.stop_listening();
            settle();
        });
    }
}

#[test]
fn without_the_error_queue_an_unconnected_port_hears_nothing_of_refusals() {
    on_both(|handle, settle, log| {
        let nobody = deaf(handle, settle, "127.0.0.1:0");
        let port = open(handle, "127.0.0.1:0", log);
        port.write_to(b"a", nobody).unwrap();
        settle();
        port.set_error_queue(true).unwrap();
        port.write_to(b"b", nobody).unwrap();
        port.write_to(b"c", nobody).unwrap();
        settle();
        let itself = addr(&port);
        port.write_to(b"d", itself).unwrap();
        settle();
    });
}

#[test]
fn binding_is_refused_alike() {
    on_both(|handle, _, log| {
        let taken = |options: UdpOptions| {
            match handle.listen_udp(options, Recorder::quiet()) {
                Ok(port) => {
                    log.note("bound");
                    std::mem::forget(port);
                }
                Err(error) => log.note(match error.kind() {
                    std::io::ErrorKind::AddrInUse => "in use",
                    std::io::ErrorKind::AddrNotAvailable => "not available",
                    _ => "other",
                }),
            };
        };
        let first = open(handle, "127.0.0.1:0", &Log::default());
        let port = addr(&first).port();
        let shared = open_shared(handle, "127.0.0.1:0");
        let other = addr(&shared).port();
        for (address, reuse) in [
            (format!("127.0.0.1:{port}"), false),
            (format!("127.0.0.1:{port}"), true),
            (format!("0.0.0.0:{port}"), false),
            (format!("[::]:{port}"), false),
            (format!("[::1]:{port}"), false),
            (format!("127.0.0.2:{port}"), false),
            (format!("127.0.0.1:{other}"), true),
            (format!("0.0.0.0:{other}"), true),
            (format!("[::]:{other}"), true),
            (format!("0.0.0.0:{other}"), false),
            ("203.0.113.77:0".to_owned(), false),
        ] {
            taken(UdpOptions::try_from(address.as_str()).unwrap().reuse_address(reuse));
        }
    });
}

fn open_shared(handle: &Handle, address: &str) -> DatagramTransport {
    let options = UdpOptions::try_from(address).unwrap().reuse_address(true);
    handle.listen_udp(options, Recorder::quiet()).unwrap()
}

#[test]
fn of_ports_that_share_an_address_the_same_one_hears() {
    on_both(|handle, settle, log| {
        let names = ["first", "second", "exact"];
        let share = |address: &str, name: &'static str| {
            let log = log.clone();
            let recorder = Recorder::quiet().on_datagram(move |_, _| {
                log.note(name);
                Ok(())
            });
            let options = UdpOptions::try_from(address).unwrap().reuse_address(true);
            handle.listen_udp(options, recorder).unwrap()
        };
        let first = share("0.0.0.0:0", names[0]);
        let port = addr(&first).port();
        share(&format!("0.0.0.0:{port}"), names[1]);
        let sender = open(handle, "127.0.0.1:0", &Log::default());
        let to: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
        sender.write_to(b"x", to).unwrap();
        settle();
        share(&to.to_string(), names[2]);
        sender.write_to(b"x", to).unwrap();
        settle();
        first.connect(addr(&sender)).unwrap();
        sender.write_to(b"x", to).unwrap();
        settle();
    });
}

#[test]
fn options_have_the_same_defaults_and_bounds() {
    on_both(|handle, _, log| {
        for ip in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let port = open(handle, ip, &Log::default());
            let mut told = vec![
                port.ttl().unwrap(),
                port.tos().unwrap().into(),
                port.multicast_ttl().unwrap(),
                port.multicast_loopback().unwrap().into(),
                port.broadcast_allowed().unwrap().into(),
                port.path_mtu_mode().unwrap() as u32,
                port.error_queue().unwrap().into(),
            ];
            port.set_recv_buffer_size(10_000).unwrap();
            told.push(port.recv_buffer_size().unwrap() as u32);
            port.set_recv_buffer_size(1).unwrap();
            told.push(port.recv_buffer_size().unwrap() as u32);
            log.push(crate::support::Event::Datagram(
                told.iter().flat_map(|n| n.to_be_bytes()).collect(),
            ));
        }
    });
}

#[test]
fn truncation_of_nothing_and_the_empty_datagram() {
    on_both(|handle, settle, log| {
        let port = open(handle, "127.0.0.1:0", log);
        let sender = open(handle, "127.0.0.1:0", &Log::default());
        sender.write_to(b"", addr(&port)).unwrap();
        sender.write_to(&[7; 65_507], addr(&port)).unwrap();
        sender.write_to(b"", addr(&port)).unwrap();
        settle();
    });
}

#[test]
fn the_longest_datagrams_without_fragments_are_refused_alike() {
    for (ip, most) in [("127.0.0.1:0", 65_507), ("[::1]:0", 65_527)] {
        let reactor = Reactor::new().unwrap();
        let itself = open(&reactor, ip, &Log::default());
        itself.connect(addr(&itself)).unwrap();
        let mtu = itself.path_mtu().unwrap();
        if mtu != 65_536 {
            println!("skipped: the MTU of loopback is {mtu}, not the usual 65536");
            return;
        }
        on_both(|handle, settle, log| {
            let port = open(handle, ip, log);
            let sender = open(handle, ip, log);
            sender.set_path_mtu_mode(PathMtu::DontFragment).unwrap();
            sender.connect(addr(&port)).unwrap();
            sender.write(&vec![1; most]).unwrap();
            settle();
            sender.write(b"short").unwrap();
            settle();
        });
    }
}

#[test]
fn groups_on_loopback_are_heard_alike() {
    on_both(|handle, settle, log| {
        let log = log.clone();
        let told = log.clone();
        let recorder = Recorder::new(&told);
        let port = handle.listen_multicast("0.0.0.0:0", recorder).unwrap();
        let to = SocketAddr::from(([239, 255, 77, 7], addr(&port).port()));
        let sender = open(handle, "127.0.0.1:0", &Log::default());
        sender.set_multicast_interface(Interface::Name("lo".into())).unwrap();
        sender.write_to(b"nobody", to).unwrap();
        settle();
        port.join_group([239, 255, 77, 7], "lo").unwrap();
        sender.write_to(b"member", to).unwrap();
        settle();
        let source = [127, 0, 0, 1];
        port.block_source([239, 255, 77, 7], source, "lo").unwrap();
        sender.write_to(b"blocked", to).unwrap();
        settle();
        log.note(match port.block_source([239, 255, 77, 7], source, "lo") {
            Ok(()) => "again",
            Err(_) => "twice is an error",
        });
        log.note(match port.join_source([239, 255, 77, 7], source, "lo") {
            Ok(()) => "mixed",
            Err(_) => "filters do not mix",
        });
        port.unblock_source([239, 255, 77, 7], source, "lo").unwrap();
        sender.set_multicast_loopback(false).unwrap();
        sender.write_to(b"looped by the interface", to).unwrap();
        settle();
        sender.set_multicast_loopback(true).unwrap();
        sender.write_to(b"heard", to).unwrap();
        settle();
    });
}

#[test]
fn broadcast_on_loopback_is_allowed_alike() {
    on_both(|handle, settle, log| {
        let port = open(handle, "0.0.0.0:0", log);
        let to = SocketAddr::from(([127, 255, 255, 255], addr(&port).port()));
        let sender = open(handle, "127.0.0.1:0", log);
        sender.write_to(b"forbidden", to).unwrap();
        settle();
        sender.set_broadcast_allowed(true).unwrap();
        sender.write_to(b"allowed", to).unwrap();
        settle();
    });
}
