//! Link-local addresses of IPv6 and their zones, as a kernel was seen to treat them.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::sim::World;
use strand_reactor::{
    ConnectOptions, Datagram, DatagramProtocol, DatagramTransport, Family, Handle, PeerAddr,
    Protocol, Transport, UdpOptions,
};

use crate::errno::errno;
use crate::support::{Log, Recorder};

const SECOND: Duration = Duration::from_secs(1);
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const EADDRNOTAVAIL: i32 = 99;
const ENETUNREACH: i32 = 101;

/// Keeps from whom it heard.
#[derive(Clone, Default)]
struct Hearer(Rc<RefCell<Vec<SocketAddr>>>);

impl DatagramProtocol for Hearer {
    fn datagram_received(
        &mut self,
        _: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        self.0.borrow_mut().push(datagram.source());
        Ok(())
    }
}

struct Silent;

impl Protocol for Silent {
    fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn two_hosts() -> (World, Handle, Handle) {
    let world = World::new(1);
    let a = world.host("a", "10.0.0.1, fd00::1, fe80::1").unwrap();
    let b = world.host("b", "10.0.0.2, fd00::2, fe80::2").unwrap();
    (world, a, b)
}

#[test]
fn one_interface_has_link_local_addresses_beside_others() {
    let (_world, a, _) = two_hosts();
    let interfaces = a.interfaces().unwrap();
    let eth0: Vec<_> = interfaces[1].addresses().iter().map(|one| one.ip().to_string()).collect();
    assert_eq!((interfaces.len(), eth0.join(" ")), (2, "10.0.0.1 fd00::1 fe80::1".to_owned()));
}

#[test]
fn a_link_local_address_is_bound_with_its_zone() {
    let (_world, a, _) = two_hosts();
    for (address, refused) in [
        ("[fe80::1]:9", EINVAL),
        ("[fe80::1%1]:9", EADDRNOTAVAIL),
        ("[fe80::1%77]:9", ENODEV),
        ("[fe80::9%2]:9", EADDRNOTAVAIL),
    ] {
        let udp = a.listen_udp(at(address), Recorder::new(&Log::default()));
        assert_eq!(errno(udp), refused, "{address}");
    }
    let port = a.listen_udp(at("[fe80::1%2]:9"), Recorder::new(&Log::default())).unwrap();
    assert_eq!(port.local_addr().unwrap(), at("[fe80::1%2]:9"));
    let device = UdpOptions::new(at("[fe80::1]:10")).family(Family::V6Only).device("eth0");
    let port = a.listen_udp(device, Recorder::new(&Log::default())).unwrap();
    assert_eq!(port.local_addr().unwrap(), at("[fe80::1%2]:10"), "the device says which");

    let nobody = |_: PeerAddr| None::<Silent>;
    assert_eq!(errno(a.listen_tcp(at("[fe80::1]:9"), nobody)), EINVAL);
    let port = a.listen_tcp(at("[fe80::1%2]:9"), nobody).unwrap();
    assert_eq!(port.local_addr().unwrap(), at("[fe80::1%2]:9"));
}

#[test]
fn a_zone_leads_to_its_link_alone() {
    let (world, a, b) = two_hosts();
    let (heard, told) = (Hearer::default(), Log::default());
    b.listen_udp("[::]:9", heard.clone()).unwrap();
    let port = a.listen_udp("[::]:1", Recorder::new(&told)).unwrap();
    told.take();
    for (address, arrives) in [
        ("[fe80::2%2]:9", true),
        ("[fe80::2]:9", true),
        ("[fe80::2%1]:9", false),
        ("[fe80::2%77]:9", false),
        ("[fd00::2%77]:9", true),
    ] {
        port.write_to(b"x", at(address)).unwrap();
        world.run_for(SECOND).unwrap();
        assert_eq!(heard.0.take().len(), usize::from(arrives), "{address}");
        assert_eq!(told.take().len(), usize::from(!arrives), "{address}");
    }
}

#[test]
fn a_port_is_connected_to_a_link_local_peer_with_its_zone() {
    let (world, a, b) = two_hosts();
    let heard = Hearer::default();
    b.listen_udp("[::]:9", heard.clone()).unwrap();
    let connect = |peer: &str| a.connect_udp(at(peer), Recorder::new(&Log::default()));
    for (peer, refused) in
        [("[fe80::2]:9", EINVAL), ("[fe80::2%1]:9", ENETUNREACH), ("[fe80::2%77]:9", ENETUNREACH)]
    {
        assert_eq!(errno(connect(peer)), refused, "{peer}");
    }
    let port = connect("[fe80::2%2]:9").unwrap();
    assert_eq!(port.peer_addr().unwrap(), at("[fe80::2%2]:9"));
    let local = port.local_addr().unwrap();
    assert_eq!(local, at(&format!("[fe80::1%2]:{}", local.port())));
    port.write(b"x").unwrap();
    world.run_for(SECOND).unwrap();
    assert_eq!(heard.0.take(), [local]);
}

#[test]
fn a_stream_to_a_link_local_peer_tells_the_zone_at_both_ends() {
    let (world, a, b) = two_hosts();
    let silent = |_: PeerAddr| Some(Silent);
    b.listen_tcp(at("[fe80::2%2]:80"), silent).unwrap();
    let without = a.connect_tcp(at("[fe80::2]:80"), silent).unwrap();
    let with = a.connect_tcp(ConnectOptions::new(at("[fe80::2%2]:80")), silent).unwrap();
    world.run_for(SECOND).unwrap();
    assert!(without.transport().is_none());
    let (near, far) = (with.transport().unwrap(), b.streams()[0].clone());
    assert_eq!(near.peer_addr().unwrap(), at("[fe80::2%2]:80"));
    assert_eq!(far.peer_addr().unwrap(), near.local_addr().unwrap());
    assert!(near.local_addr().unwrap().to_string().starts_with("[fe80::1%2]:"));
}

#[test]
fn what_stays_on_its_link_comes_from_a_link_local_address() {
    let (world, a, b) = two_hosts();
    let heard = Hearer::default();
    let port = b.listen_multicast("[::]:9", heard.clone()).unwrap();
    port.join_group("ff02::9".parse::<std::net::IpAddr>().unwrap(), "eth0").unwrap();
    port.join_group("ff05::9".parse::<std::net::IpAddr>().unwrap(), "eth0").unwrap();
    let sender = a.listen_udp("[::]:1", Recorder::new(&Log::default())).unwrap();
    for (group, source) in [("[ff02::9]:9", "[fe80::1%2]:1"), ("[ff05::9]:9", "[fd00::1]:1")] {
        sender.write_to(b"x", at(group)).unwrap();
        world.run_for(SECOND).unwrap();
        assert_eq!(heard.0.take(), [at(source)], "{group}");
    }
}
