//! What one host shows, on its loopback interface: Linux delivers IPv4 groups there to those who
//! join on it by index, although it does not call it multicast-capable.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::Rc;

use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Family, Interface, Metadata, MulticastError,
    NetworkInterface, SourceFilter, UdpOptions,
};

use crate::support::{Lab, Setup, plainly};

const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(239, 255, 0, 1));
const GROUP_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 7));

type Heard = Rc<RefCell<Vec<String>>>;

struct Ear(Heard);

impl DatagramProtocol for Ear {
    fn datagram_received(
        &mut self,
        _: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        self.0.borrow_mut().push(String::from_utf8_lossy(datagram.payload()).into_owned());
        if let Some(destination) = datagram.destination() {
            assert_eq!(destination.ip(), GROUP);
            assert_ne!(datagram.hop_limit(), Some(0));
            assert!(datagram.source().ip().is_loopback());
        }
        Ok(())
    }
}

struct Stage {
    reactor: Lab,
    loopback: NetworkInterface,
}

impl Stage {
    fn new(s: &Setup) -> Self {
        let reactor = s.lab();
        let interfaces = reactor.interfaces().unwrap();
        let loopback = interfaces.into_iter().find(NetworkInterface::is_loopback).unwrap();
        Self { reactor, loopback }
    }

    fn lo(&self) -> Interface {
        Interface::Index(self.loopback.index())
    }

    /// A multicast port that sends by loopback, and what it hears.
    #[track_caller]
    fn multicast(&self, options: UdpOptions) -> (DatagramTransport, Heard) {
        let heard = Heard::default();
        let port = self.reactor.listen_multicast(options, Ear(Rc::clone(&heard))).unwrap();
        // By address, and so from this address; by index it would be another of the host's.
        port.set_multicast_interface(Ipv4Addr::LOCALHOST).ok();
        (port, heard)
    }

    #[track_caller]
    fn udp(&self, options: impl Into<UdpOptions>) -> (DatagramTransport, Heard) {
        let heard = Heard::default();
        let port = self.reactor.listen_udp(options.into(), Ear(Rc::clone(&heard))).unwrap();
        (port, heard)
    }

    /// Runs until `heard` ends with `last`, and returns all of it.
    #[track_caller]
    fn until(&self, heard: &Heard, last: &str) -> Vec<String> {
        let what = format!("{last} as the last of what is heard");
        self.reactor.until(&what, || heard.borrow().last().is_some_and(|text| text == last));
        std::mem::take(&mut *heard.borrow_mut())
    }
}

/// Whether this host has IPv6; says so if not.
fn has_v6(s: &Setup) -> bool {
    let has = s.simulated || UdpSocket::bind("[::1]:0").is_ok();
    if !has {
        println!("skipped over IPv6: [::1] cannot be bound");
    }
    has
}

/// Those of the addresses that this system has the family of.
fn here<'a>(s: &Setup, addresses: &[&'a str]) -> Vec<&'a str> {
    let v6 = has_v6(s);
    addresses.iter().copied().filter(|address| v6 || !address.starts_with('[')).collect()
}

fn families(s: &Setup) -> Vec<Family> {
    let mut families = vec![Family::V4];
    if has_v6(s) {
        families.extend([Family::V6Only, Family::Dual]);
    }
    families
}

fn any() -> UdpOptions {
    UdpOptions::from(0)
}

fn group_at(port: &DatagramTransport) -> SocketAddr {
    SocketAddr::new(GROUP, port.local_addr().unwrap().port())
}

/// Sent to the port itself, and so heard by it alone.
fn sentinel(port: &DatagramTransport, text: &str) {
    let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port.local_addr().unwrap().port());
    port.try_write_to(text.as_bytes(), to).unwrap();
}

// ---- Options ----

#[test]
fn defaults_are_ttl_1_loopback_on_and_no_interface() {
    plainly(|s| {
        let stage = Stage::new(s);
        for address in here(s, &["0.0.0.0:0", "[::]:0"]) {
            let (port, _) = stage.udp(UdpOptions::parse(address).unwrap());
            assert_eq!(port.multicast_ttl().unwrap(), 1, "{address}");
            assert!(port.multicast_loopback().unwrap(), "{address}");
            assert_eq!(port.multicast_interface().unwrap(), Interface::Default, "{address}");
        }
    });
}

#[test]
fn options_read_back_and_out_of_range_values_change_nothing() {
    plainly(|s| {
        let stage = Stage::new(s);
        for family in families(s) {
            let (port, _) = stage.udp(UdpOptions::unbound(family));
            for hops in [0, 1, 2, 128, 255] {
                port.set_multicast_ttl(hops).unwrap();
                assert_eq!(port.multicast_ttl().unwrap(), hops, "{family:?}");
            }
            for hops in [256, 1024, u32::MAX] {
                assert!(port.set_multicast_ttl(hops).is_err());
                assert_eq!(port.multicast_ttl().unwrap(), 255);
            }
            for on in [false, false, true, true, false] {
                port.set_multicast_loopback(on).unwrap();
                assert_eq!(port.multicast_loopback().unwrap(), on, "{family:?}");
            }
            for on in [true, true, false, false] {
                port.set_broadcast_allowed(on).unwrap();
                assert_eq!(port.broadcast_allowed().unwrap(), on);
            }
            // The unicast TTL is another, here.
            port.set_ttl(9).unwrap();
            assert_eq!(port.multicast_ttl().unwrap(), 255);
        }
    });
}

#[test]
fn ttl_of_a_multicast_port_is_also_that_of_multicast() {
    plainly(|s| {
        let stage = Stage::new(s);
        for address in here(s, &["0.0.0.0:0", "[::1]:0", "[::]:0"]) {
            let options = UdpOptions::parse(address).unwrap().ttl(5);
            let port = stage.reactor.listen_multicast(options, Ear(Heard::default())).unwrap();
            assert_eq!((port.ttl().unwrap(), port.multicast_ttl().unwrap()), (5, 5), "{address}");
            port.set_ttl(7).unwrap();
            assert_eq!((port.ttl().unwrap(), port.multicast_ttl().unwrap()), (7, 7), "{address}");
            port.set_multicast_ttl(0).unwrap();
            assert_eq!((port.ttl().unwrap(), port.multicast_ttl().unwrap()), (7, 0), "{address}");
        }
    });
}

#[test]
fn the_outgoing_interface_reads_back_by_index_name_and_each_address() {
    plainly(|s| {
        let stage = Stage::new(s);
        for interface in stage.reactor.interfaces().unwrap() {
            if !interface.is_up() {
                continue;
            }
            let index = Interface::Index(interface.index());
            for family in families(s) {
                let (port, _) = stage.udp(UdpOptions::unbound(family));
                let v4 = family == Family::V4;
                let mut ways = vec![index.clone(), Interface::Name(interface.name().to_owned())];
                let addresses = interface.addresses().iter().map(|address| address.ip());
                ways.extend(addresses.filter(|ip| ip.is_ipv4() == v4).map(Interface::Addr));
                for way in ways {
                    port.set_multicast_interface(way.clone()).unwrap();
                    assert_eq!(port.multicast_interface().unwrap(), index, "{family:?} {way}");
                    port.set_multicast_interface(Interface::Default).unwrap();
                    assert_eq!(port.multicast_interface().unwrap(), Interface::Default);
                }
            }
        }
        let (port, _) = stage.udp(any());
        port.set_multicast_interface("0.0.0.0").unwrap();
        assert_eq!(port.multicast_interface().unwrap(), Interface::Default);
    });
}

#[test]
fn a_wrong_outgoing_interface_is_an_error_and_changes_nothing() {
    plainly(|s| {
        if !has_v6(s) {
            return;
        }
        let stage = Stage::new(s);
        let (v4, _) = stage.udp(any());
        let (v6, _) = stage.udp(UdpOptions::unbound(Family::V6Only));
        for port in [&v4, &v6] {
            port.set_multicast_interface(stage.lo()).unwrap();
            let error = port.set_multicast_interface(Interface::All).unwrap_err();
            assert!(matches!(error, MulticastError::NotOneInterface), "{error}");
            let error = port.set_multicast_interface("no-such-name").unwrap_err();
            assert!(matches!(error, MulticastError::UnknownInterface { .. }), "{error}");
            let error = port.set_multicast_interface(999_999).unwrap_err();
            assert!(matches!(error, MulticastError::UnknownInterface { .. }), "{error}");
            assert_eq!(port.multicast_interface().unwrap(), stage.lo());
        }
        let error = v4.set_multicast_interface("192.0.2.77").unwrap_err();
        assert!(matches!(error, MulticastError::NotOurAddress { .. }), "{error}");
        let error = v4.set_multicast_interface(Ipv6Addr::LOCALHOST).unwrap_err();
        assert!(matches!(error, MulticastError::WrongFamily { family: Family::V4, .. }), "{error}");
        let error = v6.set_multicast_interface(Ipv4Addr::LOCALHOST).unwrap_err();
        assert!(
            matches!(error, MulticastError::WrongFamily { family: Family::V6Only, .. }),
            "{error}"
        );
    });
}

#[test]
fn a_multicast_port_shares_by_reuse_address_alone_and_another_by_nothing() {
    plainly(|s| {
        let stage = Stage::new(s);
        for address in here(s, &["0.0.0.0:0", "[::1]:0", "[::]:0"]) {
            let options = UdpOptions::parse(address).unwrap();
            let (plain, _) = stage.udp(options.clone());
            assert!(!plain.reuse_address().unwrap() && !plain.reuse_port().unwrap());
            let port = stage.reactor.listen_multicast(options, Ear(Heard::default())).unwrap();
            assert!(port.reuse_address().unwrap());
            assert_eq!(port.reuse_port().unwrap(), !cfg!(target_os = "linux"));
        }
    });
}

// ---- Groups ----

#[test]
fn a_member_hears_what_it_sends_itself_in_order() {
    plainly(|s| {
        let stage = Stage::new(s);
        let (port, heard) = stage.multicast(any().metadata(Metadata::ALL));
        port.join_group(GROUP, stage.lo()).unwrap();
        for text in ["one", "two", "three", "four"] {
            port.try_write_to(text.as_bytes(), group_at(&port)).unwrap();
        }
        assert_eq!(stage.until(&heard, "four"), ["one", "two", "three", "four"]);
        port.leave_group(GROUP, stage.lo()).unwrap();
    });
}

#[test]
fn every_kind_of_port_can_join_and_hears_nothing_after_leaving() {
    plainly(|s| {
        let stage = Stage::new(s);
        // Of this test alone: a port that is not opened for multicast hears what others joined, too.
        let [high, low] = (std::process::id() as u16).to_be_bytes();
        let group = IpAddr::from([239, 254, high, low]);
        let (plain, of_plain) = stage.udp(any());
        let (multicast, of_multicast) = stage.multicast(any());
        let mut ports = vec![(plain, of_plain), (multicast, of_multicast)];
        if s.has_descriptors() {
            let heard = Heard::default();
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            let adopted = stage.reactor.adopt_datagram_port(socket, Ear(Rc::clone(&heard)));
            ports.push((adopted.unwrap(), heard));
        }
        let (sender, _) = stage.multicast(any());
        for (port, heard) in ports {
            let to = SocketAddr::new(group, port.local_addr().unwrap().port());
            port.join_group(group, stage.lo()).unwrap();
            sender.try_write_to(b"joined", to).unwrap();
            assert_eq!(stage.until(&heard, "joined"), ["joined"]);
            port.leave_group(group, stage.lo()).unwrap();
            sender.try_write_to(b"left", to).unwrap();
            // Then for one source of it, which is this host.
            port.join_source(group, Ipv4Addr::LOCALHOST, stage.lo()).unwrap();
            sender.try_write_to(b"again", to).unwrap();
            assert_eq!(stage.until(&heard, "again"), ["again"]);
            port.leave_source(group, Ipv4Addr::LOCALHOST, stage.lo()).unwrap();
        }
    });
}

#[test]
fn a_membership_made_before_adoption_is_seen_and_can_be_left() {
    // A simulated host adopts nothing.
    let stage = Stage::new(&Setup::plain());
    let index = stage.loopback.index();
    for way in [stage.lo(), Interface::Default] {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.join_multicast_v4(&Ipv4Addr::new(239, 255, 0, 1), &Ipv4Addr::LOCALHOST).unwrap();
        let port = stage.reactor.adopt_datagram_port(socket, Ear(Heard::default())).unwrap();
        let filter = port.source_filter(GROUP, index).unwrap();
        assert_eq!(filter, Some(SourceFilter::Exclude(vec![])));
        let twice = port.join_group(GROUP, index).unwrap_err();
        assert!(matches!(twice, MulticastError::AlreadyJoined { .. }), "{twice}");
        port.leave_group(GROUP, way).unwrap();
        assert_eq!(port.source_filter(GROUP, index).unwrap(), None);
    }
}

#[test]
fn several_members_on_one_number_hear_each_datagram_and_outsiders_none() {
    plainly(|s| {
        let stage = Stage::new(s);
        let (first, of_first) = stage.multicast(any());
        let number = first.local_addr().unwrap().port();
        let (second, of_second) = stage.multicast(UdpOptions::from(number));
        let (outsider, of_outsider) = stage.multicast(UdpOptions::from(number));
        let (sender, _) = stage.multicast(any());
        for port in [&first, &second] {
            port.join_group(GROUP, stage.lo()).unwrap();
        }
        sender.try_write_to(b"all", group_at(&first)).unwrap();
        assert_eq!(stage.until(&of_first, "all"), ["all"]);
        assert_eq!(stage.until(&of_second, "all"), ["all"]);
        // Unicast goes to the last one bound.
        sentinel(&outsider, "alone");
        assert_eq!(stage.until(&of_outsider, "alone"), ["alone"]);
    });
}

#[test]
fn a_second_join_and_a_leave_without_a_join_are_errors_that_harm_nothing() {
    plainly(|s| {
        let stage = Stage::new(s);
        let (port, heard) = stage.multicast(any());
        let error = port.leave_group(GROUP, stage.lo()).unwrap_err();
        assert!(matches!(error, MulticastError::NotJoined { group: GROUP }), "{error}");
        port.join_group(GROUP, stage.lo()).unwrap();
        for way in [stage.lo(), Interface::Addr(Ipv4Addr::LOCALHOST.into()), "lo".into()] {
            let error = port.join_group(GROUP, way).unwrap_err();
            assert!(matches!(error, MulticastError::AlreadyJoined { group: GROUP }), "{error}");
            assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        }
        let error = port.join_source(GROUP, Ipv4Addr::LOCALHOST, stage.lo()).unwrap_err();
        assert!(matches!(error, MulticastError::FilterConflict { group: GROUP }), "{error}");
        let error = port.leave_source(GROUP, Ipv4Addr::LOCALHOST, stage.lo()).unwrap_err();
        assert!(matches!(error, MulticastError::FilterConflict { group: GROUP }), "{error}");
        port.try_write_to(b"unharmed", group_at(&port)).unwrap();
        assert_eq!(stage.until(&heard, "unharmed"), ["unharmed"]);
        port.leave_group(GROUP, stage.lo()).unwrap();
    });
}

#[test]
fn what_is_no_group_or_not_of_the_family_is_an_error_that_says_what_to_do() {
    plainly(|s| {
        if !has_v6(s) {
            return;
        }
        let stage = Stage::new(s);
        let (v4, heard) = stage.multicast(any());
        let (v6, _) = stage.multicast(UdpOptions::parse("[::1]:0").unwrap());
        let (dual, _) = stage.multicast(UdpOptions::parse("[::]:0").unwrap());
        for address in ["127.0.0.1", "::1", "0.0.0.0", "255.255.255.255", "240.0.0.1", "fe80::1"] {
            let address: IpAddr = address.parse().unwrap();
            let error = v4.join_group(address, stage.lo()).unwrap_err();
            assert!(matches!(error, MulticastError::NotAGroup { address: at } if at == address));
        }
        for (port, family) in [(&v6, Family::V6Only), (&dual, Family::Dual)] {
            let mapped: IpAddr = "::ffff:239.255.0.1".parse().unwrap();
            for group in [GROUP, mapped] {
                let error = port.join_group(group, stage.lo()).unwrap_err();
                assert!(
                    matches!(error, MulticastError::WrongFamily { address: GROUP, family: f } if f == family)
                );
                assert!(error.to_string().contains("0.0.0.0"), "{error}");
            }
        }
        let error = v4.join_group(GROUP_V6, stage.lo()).unwrap_err();
        assert!(matches!(error, MulticastError::WrongFamily { address: GROUP_V6, .. }), "{error}");
        let error = v4.join_group(GROUP, Ipv6Addr::LOCALHOST).unwrap_err();
        assert!(error.to_string().contains("::1 is not of the family"), "{error}");
        let error = v4.join_source(GROUP, Ipv6Addr::LOCALHOST, stage.lo()).unwrap_err();
        assert!(matches!(error, MulticastError::MixedFamilies { .. }), "{error}");
        for source in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, Ipv4Addr::new(239, 0, 0, 1)] {
            let error = v4.join_source(GROUP, source, stage.lo()).unwrap_err();
            assert!(matches!(error, MulticastError::NotASource { .. }), "{error}");
        }
        // A v6 group works on both, and the port that was refused everything works.
        for port in [&v6, &dual] {
            port.join_group(GROUP_V6, stage.lo()).unwrap();
            let filter = port.source_filter(GROUP_V6, stage.lo()).unwrap();
            assert_eq!(filter, Some(SourceFilter::Exclude(vec![])));
        }
        sentinel(&v4, "unharmed");
        assert_eq!(stage.until(&heard, "unharmed"), ["unharmed"]);
    });
}

#[test]
fn an_unknown_interface_is_an_error() {
    plainly(|s| {
        let stage = Stage::new(s);
        let (port, _) = stage.multicast(any());
        for (on, part) in [
            (Interface::Index(999_999), "no interface 999999"),
            (Interface::Name("no-such-name".into()), "no interface no-such-name"),
            (Interface::Addr(Ipv4Addr::new(192, 0, 2, 77).into()), "no interface has the address"),
        ] {
            let error = port.join_group(GROUP, on).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("interfaces()"), "{error}");
        }
    });
}

#[test]
fn a_v6_group_is_joined_on_the_interface_that_was_named() {
    plainly(|s| {
        if !has_v6(s) {
            return;
        }
        let stage = Stage::new(s);
        let (port, _) = stage.multicast(UdpOptions::parse("[::]:0").unwrap());
        // A simulated host shows no such list.
        let listed = |hex: &str| {
            let text = std::fs::read_to_string("/proc/net/igmp6").unwrap_or_default();
            text.lines()
                .any(|line| line.contains(hex) && line.split_whitespace().nth(1) == Some("lo"))
        };
        // Groups of this test alone, since the list is the host's.
        let ways = [stage.lo(), Interface::from("lo"), Ipv6Addr::LOCALHOST.into()];
        for (number, on) in ways.into_iter().enumerate() {
            let group = Ipv6Addr::from_bits(
                (0xff15 << 112) | u128::from(std::process::id()) << 16 | number as u128,
            );
            let hex = &format!("{:032x}", group.to_bits());
            port.join_group(group, on.clone()).unwrap();
            assert!(s.simulated || listed(hex), "{group}");
            port.leave_group(group, on).unwrap();
            assert!(!listed(hex), "{group}");
        }
    });
}

#[test]
fn the_limit_on_groups_is_an_error_that_names_it() {
    plainly(|s| {
        let stage = Stage::new(s);
        let (port, _) = stage.multicast(any());
        let error = (1..=250)
            .find_map(|host| port.join_group([239, 255, 7, host], stage.lo()).err())
            .or_else(|| {
                println!("skipped: this host allows more groups than the test joins");
                None
            });
        if let Some(error) = error {
            assert!(matches!(error, MulticastError::TooMany { .. }), "{error}");
            assert!(error.to_string().contains("igmp_max_memberships"), "{error}");
            port.leave_group([239, 255, 7, 1], stage.lo()).unwrap();
            port.join_group(GROUP, stage.lo()).unwrap();
        }
    });
}

#[test]
fn calls_on_a_closed_port_are_refused() {
    plainly(|s| {
        let stage = Stage::new(s);
        let (port, _) = stage.multicast(any());
        port.join_group(GROUP, stage.lo()).unwrap();
        port.stop_listening();
        stage.reactor.turn();
        let closed = |result: Result<(), MulticastError>| {
            assert!(matches!(result, Err(MulticastError::Closed)));
        };
        closed(port.leave_group(GROUP, stage.lo()));
        closed(port.join_group(GROUP, stage.lo()));
        closed(port.block_source(GROUP, Ipv4Addr::LOCALHOST, stage.lo()));
        closed(port.set_multicast_interface(stage.lo()));
        closed(port.source_filter(GROUP, stage.lo()).map(drop));
        assert!(port.multicast_interface().is_err() && port.set_multicast_ttl(1).is_err());
        drop(stage);
        closed(port.join_group(GROUP, Interface::Default));
    });
}

// ---- Both socket paths ----

#[test]
fn sockets_without_batches_join_as_well() {
    let lab = Setup { portable: true, ..Setup::plain() }.lab();
    let heard = Heard::default();
    let port = lab.listen_multicast(0, Ear(Rc::clone(&heard))).unwrap();
    port.set_multicast_interface("127.0.0.1").unwrap();
    port.join_group(GROUP, Ipv4Addr::LOCALHOST).unwrap();
    port.try_write_to(b"hello", group_at(&port)).unwrap();
    lab.until("the datagram", || !heard.borrow().is_empty());
    assert_eq!(*heard.borrow(), ["hello"]);
}

#[test]
fn a_send_to_a_group_completes_once() {
    plainly(|s| {
        let stage = Stage::new(s);
        let (port, _) = stage.udp(any());
        port.set_multicast_interface("0.0.0.0").unwrap();
        port.set_multicast_ttl(32).unwrap();
        let done = Rc::new(RefCell::new(Vec::new()));
        let completion = Rc::clone(&done);
        let to = SocketAddr::new(GROUP, 9);
        port.write_then(b"x", to, move |result| {
            completion.borrow_mut().push(result.map_err(|error| error.kind()));
        })
        .unwrap();
        for _ in 0..4 {
            stage.reactor.turn();
        }
        // Whether there is a route for it is the host's affair.
        use std::io::ErrorKind::{NetworkUnreachable, PermissionDenied};
        assert!(
            matches!(done.borrow()[..], [Ok(1) | Err(NetworkUnreachable | PermissionDenied)]),
            "{:?}",
            done.borrow()
        );
    });
}
