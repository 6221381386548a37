//! What comes with a datagram, and what can be asked of one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use super::*;
use crate::datagram::Ecn;

fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V6(_) => address,
    }
}

/// A receiver that is told `metadata`, a sender, and the destination between them.
fn pair(
    bench: &mut Bench,
    family: Family,
    host: IpAddr,
    metadata: Metadata,
) -> (Rc<dyn DatagramSocket>, Rc<dyn DatagramSocket>, SocketAddr) {
    let bind = match family {
        Family::V4 => "0.0.0.0:0",
        Family::V6Only | Family::Dual => "[::]:0",
    };
    let receiver = bench.open(&DatagramSpec { metadata, ..spec(family, bind) });
    assert_eq!(receiver.capabilities().metadata, metadata);
    let sender = bench.open(&spec(family, bind));
    let to = SocketAddr::new(host, receiver.local_addr().unwrap().port());
    (receiver, sender, to)
}

fn hosts() -> [(Family, IpAddr); 4] {
    [
        (Family::V4, Ipv4Addr::LOCALHOST.into()),
        (Family::V6Only, Ipv6Addr::LOCALHOST.into()),
        (Family::Dual, Ipv6Addr::LOCALHOST.into()),
        (Family::Dual, Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()),
    ]
}

#[test]
fn each_kind_comes_alone_and_all_come_together() {
    let kinds = [
        Metadata::NONE,
        Metadata::DESTINATION,
        Metadata::HOP_LIMIT,
        Metadata::ECN,
        Metadata::RECEIVE_TIME,
        Metadata::DROPS,
        Metadata::ALL,
    ];
    for (family, host) in hosts() {
        for wanted in kinds {
            let mut bench = Bench::new();
            let (receiver, sender, to) = pair(&mut bench, family, host, wanted);
            sender.set_option(SocketOption::Ttl, 17).unwrap();
            sender.set_option(SocketOption::Tos, 0xb8 | 1).unwrap();
            send(&*sender, b"x", to).unwrap();
            let datagram = &bench.arrivals(&*receiver, 1)[0];
            let meta = datagram.meta;
            let when = |kind| wanted.contains(kind);
            assert_eq!(meta.destination, when(Metadata::DESTINATION).then_some(host), "{family:?}");
            assert_eq!(meta.interface.is_some(), when(Metadata::DESTINATION));
            let v4 = host.to_canonical().is_ipv4();
            let specific = (when(Metadata::DESTINATION) && v4).then_some(host);
            assert_eq!(meta.specific_destination, specific, "{family:?}");
            assert_eq!(meta.hop_limit, when(Metadata::HOP_LIMIT).then_some(17));
            assert_eq!(meta.ecn, when(Metadata::ECN).then_some(Ecn::Ect1), "{family:?} {host}");
            // The kernel is silent until the first.
            assert_eq!(meta.drops, None);
            assert_eq!(meta.received_at.is_some(), when(Metadata::RECEIVE_TIME));
            if let Some(time) = meta.received_at {
                let age = SystemTime::now().duration_since(time).unwrap_or_default();
                assert!(age < Duration::from_secs(60), "{age:?}");
            }
        }
    }
}

#[test]
fn interface_is_that_of_loopback() {
    let mut bench = Bench::new();
    let host = Ipv4Addr::LOCALHOST.into();
    let (receiver, sender, to) = pair(&mut bench, Family::V4, host, Metadata::DESTINATION);
    send(&*sender, b"x", to).unwrap();
    let index = crate::sys::interface_index("lo");
    assert!(index.is_some());
    assert_eq!(bench.arrivals(&*receiver, 1)[0].meta.interface, index);
    assert_eq!(crate::sys::interface_index("no such interface"), None);
    assert_eq!(crate::sys::interface_index("l\0o"), None);
}

#[test]
fn what_is_no_longer_wanted_no_longer_comes() {
    let mut bench = Bench::new();
    let host = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
    let (receiver, sender, to) = pair(&mut bench, Family::Dual, host, Metadata::ALL);
    let left = Metadata::HOP_LIMIT | Metadata::DROPS;
    assert_eq!(receiver.set_metadata(left).unwrap(), left);
    assert_eq!(receiver.capabilities().metadata, left);
    send(&*sender, b"x", to).unwrap();
    let meta = bench.arrivals(&*receiver, 1)[0].meta;
    assert!(meta.hop_limit.is_some());
    assert!(meta.destination.is_none() && meta.ecn.is_none() && meta.received_at.is_none());
}

#[test]
fn drops_are_counted() {
    let mut bench = Bench::new();
    let host = Ipv4Addr::LOCALHOST.into();
    let (receiver, sender, to) = pair(&mut bench, Family::V4, host, Metadata::DROPS);
    receiver.set_option(SocketOption::RecvBuffer, 1).unwrap();
    for _ in 0..50 {
        send(&*sender, &[0; 1000], to).unwrap();
    }
    let received = {
        let mut received = 0;
        while receiver.receive(RECV_SLOTS, &mut bench.batch).is_ok() {
            received += bench.batch.messages.len();
        }
        received as u32
    };
    assert!(received < 50);
    // The count travels with the next datagram that finds room.
    send(&*sender, b"x", to).unwrap();
    assert_eq!(bench.arrivals(&*receiver, 1)[0].meta.drops, Some(50 - received));
}

#[test]
fn hop_limit_and_ecn_of_one_datagram() {
    for (family, host) in hosts() {
        let mut bench = Bench::new();
        let wanted = Metadata::HOP_LIMIT | Metadata::ECN;
        let (receiver, sender, to) = pair(&mut bench, family, host, wanted);
        let control = Control { hop_limit: Some(3), ecn: Some(Ecn::Ect0), ..Control::default() };
        send_with(&*sender, b"x", to, control).unwrap();
        send(&*sender, b"y", to).unwrap();
        let arrived = bench.arrivals(&*receiver, 2);
        assert_eq!(arrived[0].meta.hop_limit, Some(3), "{family:?} {host}");
        assert_eq!(arrived[0].meta.ecn, Some(Ecn::Ect0), "{family:?} {host}");
        assert_eq!(arrived[1].meta.hop_limit, Some(option(&*sender, SocketOption::Ttl) as u8));
        assert_eq!(arrived[1].meta.ecn, Some(Ecn::NotEct));
        // The same to the peer, of which the datagram does not say the family.
        sender.connect(to).unwrap();
        let mut letters = Letters::default();
        letters.add(b"z", None, control);
        sender.send(&letters.batch()).unwrap();
        let arrived = bench.arrivals(&*receiver, 1);
        assert_eq!(arrived[0].meta.hop_limit, Some(3), "{family:?} {host}");
        assert_eq!(arrived[0].meta.ecn, Some(Ecn::Ect0), "{family:?} {host}");
    }
}

#[test]
fn source_of_one_datagram() {
    let other = Ipv4Addr::new(127, 0, 0, 2);
    for (family, host) in hosts() {
        let mut bench = Bench::new();
        let (receiver, sender, to) = pair(&mut bench, family, host, Metadata::NONE);
        let source: IpAddr = match host {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_none() => host,
            _ => other.into(),
        };
        let interface = crate::sys::interface_index("lo").unwrap();
        let controls = [
            Control { source: Some(source), ..Control::default() },
            Control { source: Some(source), interface, ..Control::default() },
        ];
        for control in controls {
            send_with(&*sender, b"x", to, control).unwrap();
            let arrived = bench.arrivals(&*receiver, 1);
            let seen = arrived[0].source.ip().to_canonical();
            assert_eq!(seen, source, "{family:?} {host}");
        }
        // By interface alone.
        send_with(&*sender, b"x", to, Control { interface, ..Control::default() }).unwrap();
        assert_eq!(bench.arrivals(&*receiver, 1)[0].source.ip(), host);
    }
}

#[test]
fn runs_carry_their_control_messages() {
    let mut bench = Bench::new();
    let host = Ipv4Addr::LOCALHOST.into();
    let (receiver, sender, to) = pair(&mut bench, Family::V4, host, Metadata::ALL);
    let control = Control {
        source: Some(Ipv4Addr::new(127, 0, 0, 2).into()),
        interface: crate::sys::interface_index("lo").unwrap(),
        hop_limit: Some(9),
        ecn: Some(Ecn::Ce),
    };
    let mut letters = Letters::default();
    for index in 0..5 {
        letters.add(&[index; 20], Some(to), control);
    }
    letters.add(&[5; 20], Some(to), Control::default());
    assert_eq!(sender.send(&letters.batch()).unwrap(), 6);
    let arrived = bench.arrivals(&*receiver, 6);
    for datagram in &arrived[..5] {
        assert_eq!(datagram.source.ip(), IpAddr::from([127, 0, 0, 2]));
        assert_eq!((datagram.meta.hop_limit, datagram.meta.ecn), (Some(9), Some(Ecn::Ce)));
    }
    assert_eq!(arrived[5].source.ip(), host);
}

#[test]
fn source_of_the_wrong_family_is_refused_before_anything_is_sent() {
    let mut bench = Bench::new();
    for (family, host) in hosts() {
        let (_receiver, sender, to) = pair(&mut bench, family, host, Metadata::NONE);
        let source: IpAddr = match host.to_canonical() {
            IpAddr::V4(_) => Ipv6Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv4Addr::LOCALHOST.into(),
        };
        let control = Control { source: Some(source), ..Control::default() };
        let error = send_with(&*sender, b"x", to, control).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{family:?} {host}");
    }
}

#[test]
fn sources_on_dual_sockets_are_mapped() {
    let mut bench = Bench::new();
    let host = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
    let (receiver, _, to) = pair(&mut bench, Family::Dual, host, Metadata::DESTINATION);
    let v4 = bench.bound("127.0.0.1:0");
    send(&*v4, b"x", SocketAddr::new(Ipv4Addr::LOCALHOST.into(), to.port())).unwrap();
    let datagram = &bench.arrivals(&*receiver, 1)[0];
    assert_eq!(datagram.source, mapped(v4.local_addr().unwrap()));
    assert_eq!(datagram.meta.destination, Some(host));
}
