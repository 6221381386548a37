//! Options: each setter is checked with its getter, and against the kernel.

use std::net::Ipv4Addr;

use socket2::SockRef;
use strand_reactor::{
    Capabilities, DatagramTransport, Family, ListenError, Metadata, OptionError, PathMtu,
    QueuePolicy, UdpOptions,
};

use crate::support::{Recorder, Setup, Way, everywhere, in_each, listening, plainly};

/// Asks the kernel itself, where there is one.
#[track_caller]
fn kernel<R>(
    s: &Setup,
    port: &DatagramTransport,
    ask: impl FnOnce(SockRef<'_>) -> std::io::Result<R>,
) -> Option<R> {
    s.has_descriptors().then(|| port.with_fd(|fd| ask(SockRef::from(&fd)).unwrap()).unwrap())
}

/// What the kernel itself says must be this. A simulated host has none that could be asked.
#[track_caller]
fn kernel_says<R: PartialEq + std::fmt::Debug>(
    s: &Setup,
    port: &DatagramTransport,
    ask: impl FnOnce(SockRef<'_>) -> std::io::Result<R>,
    expected: R,
) {
    if let Some(said) = kernel(s, port, ask) {
        assert_eq!(said, expected);
    }
}

#[test]
fn broadcast_round_trips() {
    everywhere(|s| {
        let lab = s.lab();
        let port = lab.open(Recorder::quiet());
        assert!(!port.broadcast_allowed().unwrap(), "off by default");
        for on in [true, true, false, false, true] {
            port.set_broadcast_allowed(on).unwrap();
            assert_eq!(port.broadcast_allowed().unwrap(), on);
            kernel_says(s, &port, |socket| socket.broadcast(), on);
        }
        // The getter reads the kernel, whoever set it.
        if kernel(s, &port, |socket| socket.set_broadcast(false)).is_some() {
            assert!(!port.broadcast_allowed().unwrap());
        }
    });
}

#[test]
fn ttl_round_trips_from_1_to_255_and_nothing_else_changes_it() {
    everywhere(|s| {
        let lab = s.lab();
        let port = lab.open(Recorder::quiet());
        for hops in 1..=255 {
            port.set_ttl(hops).unwrap();
            assert_eq!(port.ttl().unwrap(), hops);
        }
        port.set_ttl(77).unwrap();
        for hops in [0, 256, 1024, u32::MAX] {
            let error = port.set_ttl(hops).unwrap_err();
            assert!(
                matches!(error, OptionError::OutOfRange { value, min: 1, max: 255, .. } if value == u64::from(hops))
            );
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        }
        assert_eq!(port.ttl().unwrap(), 77);
        if s.family != Family::V4 {
            kernel_says(s, &port, |socket| socket.unicast_hops_v6(), 77);
        }
        if s.family != Family::V6Only {
            // On a dual-stack port both families have it.
            kernel_says(s, &port, |socket| socket.ttl_v4(), 77);
        }
    });
}

#[test]
fn tos_and_dscp_are_two_views_of_one_byte() {
    everywhere(|s| {
        let lab = s.lab();
        let port = lab.open(Recorder::quiet());
        assert_eq!((port.tos().unwrap(), port.dscp().unwrap()), (0, 0));
        port.set_tos(0xb8 | 2).unwrap();
        assert_eq!((port.tos().unwrap(), port.dscp().unwrap()), (0xba, 0x2e));
        port.set_dscp(10).unwrap();
        assert_eq!((port.tos().unwrap(), port.dscp().unwrap()), (10 << 2 | 2, 10));
        assert!(matches!(port.set_dscp(64), Err(OptionError::OutOfRange { max: 63, .. })));
        assert_eq!(port.dscp().unwrap(), 10);
        match s.family {
            Family::V4 => kernel_says(s, &port, |socket| socket.tos_v4(), 10 << 2 | 2),
            Family::V6Only | Family::Dual => {
                kernel_says(s, &port, |socket| socket.tclass_v6(), 10 << 2 | 2);
            }
        }
        if s.family == Family::Dual {
            kernel_says(s, &port, |socket| socket.tos_v4(), 10 << 2 | 2);
        }
    });
}

#[test]
fn buffer_sizes_read_back_as_granted() {
    everywhere(|s| {
        let lab = s.lab();
        let port = lab.open(Recorder::quiet());
        assert!(port.recv_buffer_size().unwrap() > 0 && port.send_buffer_size().unwrap() > 0);
        port.set_recv_buffer_size(10_000).unwrap();
        port.set_send_buffer_size(10_000).unwrap();
        // Linux doubles what is asked for.
        assert!([10_000, 20_000].contains(&port.recv_buffer_size().unwrap()));
        assert!([10_000, 20_000].contains(&port.send_buffer_size().unwrap()));
        let granted = (port.recv_buffer_size().unwrap(), port.send_buffer_size().unwrap());
        let ask =
            |socket: SockRef<'_>| Ok((socket.recv_buffer_size()?, socket.send_buffer_size()?));
        kernel_says(s, &port, ask, granted);
        for bytes in [0, 1 << 31, usize::MAX] {
            assert!(matches!(
                port.set_recv_buffer_size(bytes),
                Err(OptionError::OutOfRange { .. })
            ));
            assert!(matches!(
                port.set_send_buffer_size(bytes),
                Err(OptionError::OutOfRange { .. })
            ));
        }
        assert_eq!(port.recv_buffer_size().unwrap(), granted.0);
        // More than the administrator grants is cut, and says so when read.
        port.set_recv_buffer_size(i32::MAX as usize).unwrap();
        assert!(port.recv_buffer_size().unwrap() >= granted.0);
    });
}

#[test]
fn path_mtu_modes_round_trip() {
    everywhere(|s| {
        let lab = s.lab();
        let port = lab.open(Recorder::quiet());
        for mode in [
            PathMtu::Fragment,
            PathMtu::Want,
            PathMtu::DontFragment,
            PathMtu::Probe,
            PathMtu::Interface,
            PathMtu::Omit,
        ] {
            port.set_path_mtu_mode(mode).unwrap();
            assert_eq!(port.path_mtu_mode().unwrap(), mode);
        }
    });
}

#[test]
fn a_port_can_be_confined_to_an_interface() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let port = lab.open(Recorder::quiet());
        assert_eq!(port.device().unwrap(), None);
        let missing = port.set_device(Some("no-such-if"));
        assert!(matches!(missing, Err(OptionError::NoSuchDevice { .. })), "{missing:?}");
        assert!(missing.unwrap_err().to_string().contains("no-such-if"));
        match port.set_device(Some("lo")) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                println!("skipped: no right to confine a socket: {error}");
                return;
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!(port.device().unwrap().as_deref(), Some("lo"));
        port.write_to(b"by loopback", peer.addr()).unwrap();
        assert_eq!(lab.receive(&peer).0, b"by loopback");
        // A peer that comes and goes leaves it as it is.
        port.connect(peer.addr()).unwrap();
        port.disconnect().unwrap();
        assert_eq!(port.device().unwrap().as_deref(), Some("lo"));
        match port.set_device(None) {
            Ok(()) => assert_eq!(port.device().unwrap(), None),
            // Without the right a socket may be confined, but not freed again.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
        }
    });
}

#[test]
fn the_queue_and_the_size_limit_round_trip() {
    everywhere(|s| {
        let lab = s.lab();
        let port = lab.open(Recorder::quiet());
        assert_eq!(port.queue_limit().unwrap(), (1_024, 1 << 20), "the default");
        assert_eq!(port.queue_policy().unwrap(), QueuePolicy::Error);
        port.set_queue_limit(5, 500).unwrap();
        assert_eq!(port.queue_limit().unwrap(), (5, 500));
        for (datagrams, bytes) in [(0, 1), (1, 0)] {
            let refused = port.set_queue_limit(datagrams, bytes);
            assert!(matches!(refused, Err(OptionError::OutOfRange { .. })));
        }
        assert_eq!(port.queue_limit().unwrap(), (5, 500));
        for policy in [QueuePolicy::DropOldest, QueuePolicy::DropNewest, QueuePolicy::Error] {
            port.set_queue_policy(policy).unwrap();
            assert_eq!(port.queue_policy().unwrap(), policy);
        }
        assert_eq!(port.max_datagram_size().unwrap(), 65_535);
        port.set_max_datagram_size(1).unwrap();
        for bytes in [0, 65_536] {
            assert!(matches!(
                port.set_max_datagram_size(bytes),
                Err(OptionError::OutOfRange { .. })
            ));
        }
        assert_eq!(port.max_datagram_size().unwrap(), 1);
    });
}

#[test]
fn options_given_when_listening_hold_from_the_start() {
    listening(|s| {
        let lab = s.lab();
        let mut options = s
            .options()
            .reuse_address(true)
            .reuse_port(true)
            .recv_buffer_size(20_000)
            .send_buffer_size(30_000)
            .ttl(9)
            .dscp(46)
            .path_mtu(PathMtu::DontFragment)
            .broadcast_allowed(true)
            .max_datagram_size(1_500)
            .batch_size(3)
            .start_paused(true)
            .queue_limit(7, 700)
            .queue_policy(QueuePolicy::DropOldest)
            .label("all of them");
        if !s.portable {
            options = options.error_queue(true).metadata(Metadata::ALL);
        }
        let port = lab
            .listen_udp(
                options,
                Recorder::quiet().on_start(|port| {
                    anyhow::ensure!(port.ttl()? == 9 && port.dscp()? == 46);
                    Ok(())
                }),
            )
            .unwrap();
        assert!(port.reuse_address().unwrap() && port.reuse_port().unwrap());
        kernel_says(s, &port, |socket| socket.reuse_address(), true);
        kernel_says(s, &port, |socket| socket.reuse_port(), true);
        assert!([20_000, 40_000].contains(&port.recv_buffer_size().unwrap()));
        assert!([30_000, 60_000].contains(&port.send_buffer_size().unwrap()));
        assert_eq!(port.path_mtu_mode().unwrap(), PathMtu::DontFragment);
        assert!(port.broadcast_allowed().unwrap());
        assert_eq!((port.max_datagram_size().unwrap(), port.batch_size().unwrap()), (1_500, 3));
        assert_eq!(port.state(), strand_reactor::PortState::Paused);
        assert_eq!(port.queue_limit().unwrap(), (7, 700));
        assert_eq!(port.queue_policy().unwrap(), QueuePolicy::DropOldest);
        assert_eq!(port.error_queue().unwrap(), !s.portable);
        assert_eq!(port.label(), "all of them");
        let learned = if s.portable { Metadata::NONE } else { Metadata::ALL };
        assert_eq!(port.metadata().unwrap(), learned);
    });
}

#[test]
fn options_out_of_range_open_nothing() {
    plainly(|s| {
        let lab = s.lab();
        let bad = [
            s.options().ttl(0),
            s.options().ttl(256),
            s.options().dscp(64),
            s.options().recv_buffer_size(0),
            s.options().send_buffer_size(usize::MAX),
            s.options().max_datagram_size(0),
            s.options().max_datagram_size(65_536),
            s.options().batch_size(0),
            s.options().queue_limit(0, 1),
            s.options().queue_limit(1, 0),
            s.options().tos(1).dscp(1),
            s.options().device("no-such-if"),
        ];
        for options in bad {
            let text = format!("{options:?}");
            let error = lab.listen_udp(options, Recorder::quiet()).unwrap_err();
            assert!(matches!(error, ListenError::Option(_)), "{text}: {error:?}");
        }
        assert!(lab.datagram_ports().is_empty());
    });
}

#[test]
fn what_the_system_granted_is_told() {
    everywhere(|s| {
        let lab = s.lab();
        let port = lab.open(Recorder::quiet());
        let Capabilities { batching, segmentation, coalescing, error_queue, send_options, .. } =
            port.capabilities().unwrap();
        if s.portable {
            assert!(!batching && !segmentation && !coalescing && !error_queue && !send_options);
        } else {
            assert!(batching && error_queue && send_options);
        }
        assert_eq!(port.capabilities().unwrap().metadata, Metadata::NONE);
    });
}

#[test]
fn the_options_of_an_adopted_socket_are_left_alone() {
    in_each(Setup::all().filter(|s| s.way != Way::Listen), |s| {
        let lab = s.lab();
        let socket = s.socket();
        socket.set_recv_buffer_size(12_000).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.set_reuse_address(true).unwrap();
        if s.family == Family::V4 {
            socket.set_ttl_v4(11).unwrap();
        } else {
            socket.set_unicast_hops_v6(11).unwrap();
        }
        let granted = socket.recv_buffer_size().unwrap();
        let port = match s.way {
            Way::Listen | Way::Adopt => lab.adopt_datagram_port(socket, Recorder::quiet()),
            Way::Shared => lab.adopt_datagram_port_shared(&socket, Recorder::quiet()),
        }
        .unwrap();
        assert_eq!(port.recv_buffer_size().unwrap(), granted);
        assert!(port.broadcast_allowed().unwrap() && port.reuse_address().unwrap());
        assert_eq!((port.ttl().unwrap(), port.error_queue().unwrap()), (11, false));
    });
}

#[test]
fn a_setter_that_fails_changes_nothing() {
    plainly(|s| {
        // The kernel takes no device of that length.
        let lab = s.lab();
        let port = lab.open(Recorder::quiet());
        assert!(port.set_device(Some(&"x".repeat(64))).is_err());
        assert_eq!(port.device().unwrap(), None);
        let confined = UdpOptions::new((Ipv4Addr::LOCALHOST, 0)).device("x".repeat(64));
        assert!(lab.listen_udp(confined, Recorder::quiet()).is_err());
    });
}
