//! Peers: connecting, refusals, the error queue, disconnecting.

use super::*;
use crate::net::Origin;

#[test]
fn ten_sends_to_a_closed_port_leave_ten_reports() {
    for (family, bind) in FAMILIES {
        let mut bench = Bench::new();
        let host = if family == Family::Dual { "[::ffff:127.0.0.1]:0" } else { bind };
        let to = closed_port(&mut bench, if family == Family::Dual { "127.0.0.1:0" } else { host });
        let to = SocketAddr::new(host.parse::<SocketAddr>().unwrap().ip(), to.port());
        let socket = bench.open(&spec(family, bind));
        socket.set_option(SocketOption::ErrorQueue, 1).unwrap();
        assert_eq!(option(&*socket, SocketOption::ErrorQueue), 1);
        socket.connect(to).unwrap();
        let mut letters = Letters::default();
        for index in 0..10 {
            letters.add(&vec![0; 10 + index], None, Control::default());
        }
        let mut done = 0;
        while done < 10 {
            let rest = SendBatch { queue: &letters.queue[done..], ..letters.batch() };
            match socket.send(&rest) {
                Ok(count) => done += count,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused),
            }
        }
        let mut reports = 0;
        while reports < 10 {
            let Some(report) = socket.next_error().unwrap() else {
                bench.poll();
                continue;
            };
            reports += 1;
            assert_eq!(report.error.kind(), io::ErrorKind::ConnectionRefused);
            assert_eq!(report.destination, Some(to), "{family:?}");
            assert_eq!(report.offender, Some(to.ip()), "{family:?}");
            let (origin, kind, code) = match to.ip().to_canonical().is_ipv4() {
                true => (Origin::Icmp, 3, 3),
                false => (Origin::Icmp6, 1, 4),
            };
            assert_eq!(report.origin, origin);
            assert_eq!((report.icmp_type, report.icmp_code), (kind, code));
        }
        assert!(socket.next_error().unwrap().is_none());
    }
}

#[test]
fn a_datagram_too_long_to_leave_whole_is_a_local_report() {
    let mut bench = Bench::new();
    let a = bench.bound("127.0.0.1:0");
    a.set_option(SocketOption::ErrorQueue, 1).unwrap();
    a.set_option(SocketOption::PathMtuMode, 2).unwrap();
    let to = a.local_addr().unwrap();
    match send(&*a, &vec![0; 65_507], to) {
        // The usual MTU of loopback has room for every datagram.
        Ok(_) => assert!(a.next_error().unwrap().is_none()),
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
            let report = a.next_error().unwrap().unwrap();
            assert_eq!(report.origin, Origin::Local);
            assert_eq!(report.error.raw_os_error(), Some(libc::EMSGSIZE));
            // The port is that of the peer; there is none.
            assert_eq!(report.destination.unwrap().ip(), to.ip());
            assert!(report.info >= 68);
        }
    }
}

#[test]
fn a_refusal_is_an_event_of_error_alone() {
    for portable in [false, true] {
        let mut bench = Bench::with(portable);
        let to = closed_port(&mut bench, "127.0.0.1:0");
        let socket = bench.bound("127.0.0.1:0");
        let token = bench.tokens;
        socket.connect(to).unwrap();
        send_connected(&*socket, b"x").unwrap();
        let events = bench.poll();
        let [event] = events[..] else { panic!("{events:?}") };
        assert_eq!(event.token, token);
        assert!(event.error && !event.readable && !event.writable);
        let pending = socket.take_error().unwrap().unwrap();
        assert_eq!(pending.kind(), io::ErrorKind::ConnectionRefused);
        assert!(socket.take_error().unwrap().is_none());
        assert!(socket.next_error().unwrap().is_none());
    }
}

#[test]
fn a_pending_refusal_is_an_error_of_the_first_datagram() {
    for portable in [false, true] {
        let mut bench = Bench::with(portable);
        let to = closed_port(&mut bench, "127.0.0.1:0");
        let socket = bench.bound("127.0.0.1:0");
        socket.connect(to).unwrap();
        send_connected(&*socket, b"x").unwrap();
        bench.poll();
        let error = send_connected(&*socket, b"y").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(send_connected(&*socket, b"y").unwrap(), 1);
    }
}

#[test]
fn disconnecting_restores_address_and_port() {
    let wildcards =
        [(Family::V4, "0.0.0.0:0"), (Family::V6Only, "[::]:0"), (Family::Dual, "[::]:0")];
    for (family, bind) in FAMILIES.into_iter().chain(wildcards) {
        let mut bench = Bench::new();
        let socket = bench.open(&spec(family, bind));
        let before = socket.local_addr().unwrap();
        assert_eq!(before.ip(), bind.parse::<SocketAddr>().unwrap().ip());
        let host = if family == Family::V4 { "127.0.0.1:0" } else { "[::1]:0" };
        let peer = bench.bound(host);
        let stranger = bench.bound(host);
        // Twice: the second time the port is one that was asked for by number.
        for _ in 0..2 {
            assert_eq!(socket.peer_addr().unwrap_err().kind(), io::ErrorKind::NotConnected);
            socket.connect(peer.local_addr().unwrap()).unwrap();
            assert_eq!(socket.peer_addr().unwrap(), peer.local_addr().unwrap());
            socket.connect(stranger.local_addr().unwrap()).unwrap();
            socket.disconnect().unwrap();
            assert_eq!(socket.local_addr().unwrap(), before, "{family:?} {bind}");
            let to = SocketAddr::new(host.parse::<SocketAddr>().unwrap().ip(), before.port());
            send(&*peer, b"a", to).unwrap();
            send(&*stranger, b"b", to).unwrap();
            assert_eq!(bench.arrivals(&*socket, 2).len(), 2);
            send(&*socket, b"c", stranger.local_addr().unwrap()).unwrap();
            assert_eq!(bench.arrivals(&*stranger, 1)[0].source.port(), before.port());
        }
    }
}

#[test]
fn after_disconnecting_every_source_is_heard_again() {
    let mut bench = Bench::new();
    let socket = bench.open(&spec(Family::Dual, "[::]:0"));
    let port = socket.local_addr().unwrap().port();
    let (v6, v4) = (bench.bound("[::1]:0"), bench.bound("127.0.0.1:0"));
    for _ in 0..2 {
        socket.connect(v6.local_addr().unwrap()).unwrap();
        socket.disconnect().unwrap();
        send(&*v4, b"4", SocketAddr::new("127.0.0.1".parse().unwrap(), port)).unwrap();
        assert_eq!(bench.arrivals(&*socket, 1)[0].payload, b"4");
        send(&*v6, b"6", SocketAddr::new("::1".parse().unwrap(), port)).unwrap();
        assert_eq!(bench.arrivals(&*socket, 1)[0].payload, b"6");
    }
}

#[test]
fn an_unbound_socket_is_unbound_again() {
    let mut bench = Bench::new();
    let peer = bench.bound("127.0.0.1:0");
    let socket = bench.open(&DatagramSpec { bind: None, ..spec(Family::V4, "0.0.0.0:0") });
    assert_eq!(socket.local_addr().unwrap().port(), 0);
    socket.connect(peer.local_addr().unwrap()).unwrap();
    assert_ne!(socket.local_addr().unwrap().port(), 0);
    socket.disconnect().unwrap();
    assert_eq!(socket.local_addr().unwrap(), "0.0.0.0:0".parse().unwrap());
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    assert_ne!(socket.local_addr().unwrap().port(), 0);
}

#[test]
fn the_device_survives_disconnecting() {
    let mut bench = Bench::new();
    let peer = bench.bound("127.0.0.1:0");
    let socket = bench.bound("127.0.0.1:0");
    if let Err(error) = socket.set_device(Some("lo")) {
        eprintln!("skipped: {error}");
        return;
    }
    socket.connect(peer.local_addr().unwrap()).unwrap();
    socket.disconnect().unwrap();
    assert_eq!(socket.device().unwrap().as_deref(), Some("lo"));
    socket.set_device(None).unwrap();
    assert_eq!(socket.device().unwrap(), None);
}

#[test]
fn connecting_to_the_unspecified_address_is_connecting_to_this_host() {
    let mut bench = Bench::new();
    let peer = bench.bound("0.0.0.0:0");
    let socket = bench.bound("0.0.0.0:0");
    let mut to = peer.local_addr().unwrap();
    to.set_ip("0.0.0.0".parse().unwrap());
    socket.connect(to).unwrap();
    send_connected(&*socket, b"x").unwrap();
    assert_eq!(bench.arrivals(&*peer, 1)[0].payload, b"x");
}

#[test]
fn path_mtu_of_a_peer() {
    for (family, host) in [
        (Family::V4, "127.0.0.1:9"),
        (Family::V6Only, "[::1]:9"),
        (Family::Dual, "[::ffff:127.0.0.1]:9"),
    ] {
        let mut bench = Bench::new();
        let bind = if family == Family::V4 { "0.0.0.0:0" } else { "[::]:0" };
        let socket = bench.open(&spec(family, bind));
        let error = socket.option(SocketOption::PathMtu).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotConnected, "{family:?}");
        socket.connect(host.parse().unwrap()).unwrap();
        assert!(option(&*socket, SocketOption::PathMtu) >= 1280, "{family:?}");
    }
}
