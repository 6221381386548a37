//! Opening, adopting, options, and the poller.

use std::fs::File;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, SockRef, Socket, Type};

use super::*;
use crate::error::AdoptError;
use crate::net::{OpenError, Ownership};

#[test]
fn a_plain_socket_shares_nothing() {
    for (family, bind) in FAMILIES {
        let mut bench = Bench::new();
        let socket = bench.open(&spec(family, bind));
        assert_eq!(socket.family(), family);
        assert_eq!(option(&*socket, SocketOption::ReuseAddress), 0);
        assert_eq!(option(&*socket, SocketOption::ReusePort), 0);
        assert_eq!(option(&*socket, SocketOption::Broadcast), 0);
        assert_eq!(socket.device().unwrap(), None);
        if family != Family::V4 {
            assert_eq!(option(&*socket, SocketOption::V6Only), u32::from(family == Family::V6Only));
        }
        let fd = socket.fd().unwrap();
        assert!(SockRef::from(&fd).nonblocking().unwrap());
        let taken = socket.local_addr().unwrap();
        let token = bench.token();
        let again = DatagramSpec { bind: Some(taken), ..spec(family, bind) };
        match bench.driver.open_datagram(&again, token) {
            Err(OpenError::Bind(error)) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse),
            other => panic!("{:?}", other.err()),
        }
    }
}

#[test]
fn options_are_set_before_the_bind() {
    for portable in [false, true] {
        for (family, bind) in FAMILIES {
            let mut bench = Bench::with(portable);
            let options = vec![
                (SocketOption::RecvBuffer, 50_000),
                (SocketOption::SendBuffer, 40_000),
                (SocketOption::Ttl, 9),
                (SocketOption::Tos, 0x28),
                (SocketOption::PathMtuMode, 3),
                (SocketOption::Broadcast, 1),
            ];
            let wanted = DatagramSpec {
                reuse_address: true,
                reuse_port: true,
                options: options.clone(),
                ..spec(family, bind)
            };
            let socket = bench.open(&wanted);
            for (name, value) in options {
                let read = option(&*socket, name);
                match name {
                    SocketOption::RecvBuffer | SocketOption::SendBuffer => assert!(read >= value),
                    _ => assert_eq!(read, value, "{name:?} {family:?}"),
                }
            }
            assert_eq!(option(&*socket, SocketOption::ReuseAddress), 1);
            assert_eq!(option(&*socket, SocketOption::ReusePort), 1);
            // Reusable addresses are reusable.
            let address = socket.local_addr().unwrap();
            bench.open(&DatagramSpec { bind: Some(address), ..wanted });
        }
    }
}

#[test]
fn every_option_reads_back_on_every_family() {
    for (family, bind) in FAMILIES {
        let mut bench = Bench::new();
        let socket = bench.open(&spec(family, bind));
        for (name, value) in [
            (SocketOption::Broadcast, 1),
            (SocketOption::Ttl, 255),
            (SocketOption::Ttl, 1),
            (SocketOption::Tos, 255),
            (SocketOption::Tos, 0),
            (SocketOption::PathMtuMode, 0),
            (SocketOption::PathMtuMode, 5),
            (SocketOption::ErrorQueue, 1),
            (SocketOption::ErrorQueue, 0),
        ] {
            socket.set_option(name, value).unwrap();
            assert_eq!(option(&*socket, name), value, "{name:?} {family:?}");
        }
        for name in [SocketOption::ReusePort, SocketOption::PathMtu, SocketOption::V6Only] {
            let error = socket.set_option(name, 1).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
        let error = socket.set_option(SocketOption::RecvBuffer, u32::MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}

#[test]
fn dual_sockets_have_both_options_set() {
    let mut bench = Bench::new();
    let socket = bench.open(&spec(Family::Dual, "[::]:0"));
    socket.set_option(SocketOption::Ttl, 33).unwrap();
    socket.set_option(SocketOption::Tos, 0x10).unwrap();
    socket.set_option(SocketOption::ErrorQueue, 1).unwrap();
    let v4 = |name| crate::sys::option(socket.fd().unwrap(), libc::IPPROTO_IP, name).unwrap();
    assert_eq!([v4(libc::IP_TTL), v4(libc::IP_TOS), v4(libc::IP_RECVERR)], [33, 0x10, 1]);
}

#[test]
fn a_refused_option_is_named() {
    let mut bench = Bench::new();
    let broken = [
        (
            DatagramSpec { device: Some("no-such-dev0".into()), ..spec(Family::V4, "127.0.0.1:0") },
            "device",
        ),
        (
            DatagramSpec {
                options: vec![(SocketOption::Ttl, 256)],
                ..spec(Family::V4, "127.0.0.1:0")
            },
            "ttl",
        ),
        (
            DatagramSpec {
                options: vec![(SocketOption::PathMtuMode, 99)],
                ..spec(Family::Dual, "[::1]:0")
            },
            "path_mtu",
        ),
    ];
    for (spec, name) in broken {
        match bench.driver.open_datagram(&spec, 1) {
            Err(OpenError::Option(refused, _)) => assert_eq!(refused, name),
            other => panic!("{:?}", other.err()),
        }
    }
    match bench.driver.open_datagram(&spec(Family::V4, "192.0.2.1:0"), 1) {
        Err(OpenError::Bind(error)) => assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable),
        other => panic!("{:?}", other.err()),
    }
}

#[track_caller]
fn refused(fd: impl Into<OwnedFd>) -> AdoptError {
    let mut bench = Bench::new();
    bench.driver.adopt_datagram(fd.into(), Ownership::Owned, 1).err().unwrap()
}

#[test]
fn what_carries_no_datagrams_of_ip_is_not_adopted() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    for (fd, kind) in [
        (OwnedFd::from(stream), "a stream socket"),
        (OwnedFd::from(listener), "a listening stream socket"),
        (OwnedFd::from(UnixStream::pair().unwrap().0), "a stream socket"),
    ] {
        match refused(fd) {
            AdoptError::NotDatagram { found } => assert_eq!(found, kind),
            other => panic!("{other}"),
        }
    }
    let packets = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    match refused(packets) {
        AdoptError::NotDatagram { found } => assert_eq!(found, "a socket of type 5"),
        other => panic!("{other}"),
    }
    match refused(UnixDatagram::unbound().unwrap()) {
        AdoptError::Family { found } => assert_eq!(found, libc::AF_UNIX),
        other => panic!("{other}"),
    }
}

#[test]
fn what_is_no_open_socket_is_not_adopted() {
    match refused(File::open("/dev/null").unwrap()) {
        AdoptError::BadDescriptor(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOTSOCK)),
        other => panic!("{other}"),
    }
    match refused(crate::sys::closed_fd()) {
        AdoptError::BadDescriptor(error) => assert_eq!(error.raw_os_error(), Some(libc::EBADF)),
        other => panic!("{other}"),
    }
}

#[test]
fn adopting_asks_the_kernel_for_the_family() {
    let mut bench = Bench::new();
    for (family, domain) in
        [(Family::V4, Domain::IPV4), (Family::V6Only, Domain::IPV6), (Family::Dual, Domain::IPV6)]
    {
        let socket = Socket::new(domain, Type::DGRAM, None).unwrap();
        if domain == Domain::IPV6 {
            socket.set_only_v6(family == Family::V6Only).unwrap();
        }
        socket.set_cloexec(false).unwrap();
        let token = bench.token();
        let adopted = bench.driver.adopt_datagram(socket.into(), Ownership::Owned, token).unwrap();
        assert_eq!(adopted.family(), family);
        assert!(!adopted.capabilities().coalescing);
        let fd = adopted.fd().unwrap();
        assert!(SockRef::from(&fd).nonblocking().unwrap());
    }
}

#[test]
fn a_raw_socket_has_no_segmentation() {
    let mut bench = Bench::new();
    let Ok(raw) = Socket::new(Domain::IPV4, Type::RAW, Some(socket2::Protocol::ICMPV4)) else {
        eprintln!("skipped: raw sockets need a right");
        return;
    };
    let raw = bench.driver.adopt_datagram(raw.into(), Ownership::Owned, 1).unwrap();
    assert!(!raw.capabilities().segmentation && !raw.capabilities().coalescing);
}

#[test]
fn a_shared_socket_keeps_its_flags_and_never_blocks() {
    for portable in [false, true] {
        let mut bench = Bench::with(portable);
        let original = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = original.local_addr().unwrap();
        let fd = original.as_fd().try_clone_to_owned().unwrap();
        let token = bench.token();
        let shared = bench.driver.adopt_datagram(fd, Ownership::Shared, token).unwrap();
        assert!(!SockRef::from(&original).nonblocking().unwrap());
        // Both would hang here.
        for slots in [1, 4] {
            let error = shared.receive(slots, &mut bench.batch).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
        assert_eq!(send(&*shared, b"to itself", to).unwrap(), 1);
        assert_eq!(bench.arrivals(&*shared, 1)[0].payload, b"to itself");

        // With the port gone, the socket lives on and raises no more events.
        drop(shared);
        original.send_to(b"x", to).unwrap();
        let mut events = Vec::new();
        bench.driver.poll(Some(Duration::ZERO), &mut events).unwrap();
        assert!(events.is_empty(), "{events:?}");
        let mut buffer = [0; 8];
        assert_eq!(original.recv(&mut buffer).unwrap(), 1);
    }
}

#[test]
fn data_raises_one_event() {
    let mut bench = Bench::new();
    let (a, b) = (bench.bound("127.0.0.1:0"), bench.bound("127.0.0.1:0"));
    let token = bench.tokens;
    send(&*a, b"x", b.local_addr().unwrap()).unwrap();
    let events = bench.poll();
    let [event] = events[..] else { panic!("{events:?}") };
    assert_eq!(event.token, token);
    assert!(event.readable && !event.writable && !event.error);
    let mut events = Vec::new();
    bench.driver.poll(Some(Duration::ZERO), &mut events).unwrap();
    assert!(events.is_empty(), "{events:?}");
}

#[test]
fn room_to_send_is_told_while_asked_for() {
    let mut bench = Bench::new();
    let a = bench.bound("127.0.0.1:0");
    a.watch_writable(true).unwrap();
    let events = bench.poll();
    assert!(events.iter().any(|event| event.writable), "{events:?}");
    a.watch_writable(false).unwrap();
    send(&*a, b"x", a.local_addr().unwrap()).unwrap();
    let events = bench.poll();
    assert!(events.iter().all(|event| event.readable && !event.writable), "{events:?}");
}

#[test]
fn a_waker_ends_the_poll_without_an_event() {
    static WOKEN: AtomicBool = AtomicBool::new(false);
    let mut bench = Bench::new();
    let wake = bench.driver.wake();
    let waker = std::thread::spawn(move || {
        WOKEN.store(true, Ordering::SeqCst);
        wake().unwrap();
    });
    let mut events = Vec::new();
    bench.driver.poll(None, &mut events).unwrap();
    assert!(WOKEN.load(Ordering::SeqCst));
    assert!(events.is_empty());
    waker.join().unwrap();
    // A wake before the poll is kept for it.
    bench.driver.wake()().unwrap();
    bench.driver.poll(None, &mut events).unwrap();
    assert!(events.is_empty());
}
