//! Opening a port.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use anyhow::bail;
use socket2::SockRef;
use strand_reactor::{
    AdoptError, DatagramTransport, Family, ListenError, OptionError, PortState, UdpOptions,
};

use crate::support::{
    Event, Log, Recorder, Setup, Way, everywhere, has_ipv6, in_each, listening, listening_over,
    plainly, without_children,
};

#[test]
fn start_protocol_runs_once_before_the_open_call_returns() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let port = lab.open(Recorder::new(&log).on_start(|transport| {
            assert_ne!(transport.local_addr()?.port(), 0);
            Ok(())
        }));
        assert_eq!(log.events(), [Event::Start]);
        let address = port.local_addr().unwrap();
        assert_eq!((address.ip(), port.family().unwrap()), (s.bind_ip(), s.family));
        lab.settle();
        assert_eq!(log.events(), [Event::Start]);
    });
}

#[test]
fn writing_works_inside_start_protocol() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let to = peer.addr();
        let port = lab.open(Recorder::quiet().on_start(move |transport| {
            transport.write_to(b"written", to)?;
            transport.try_write_to(b"tried", to)?;
            Ok(())
        }));
        assert_eq!(lab.receive(&peer).0, b"written");
        assert_eq!(lab.receive(&peer), (b"tried".to_vec(), s.reach(&port)));
    });
}

#[test]
fn connecting_works_inside_start_protocol() {
    everywhere(|s| {
        let (lab, peer) = (s.lab(), s.peer());
        let to = peer.addr();
        let port = lab.open(Recorder::quiet().on_start(move |transport| {
            transport.connect(to)?;
            transport.write(b"hello")?;
            Ok(())
        }));
        assert_eq!(port.peer_addr().unwrap(), s.shown(to));
        assert_eq!(lab.receive(&peer).0, b"hello");
    });
}

#[test]
fn stopping_works_inside_start_protocol() {
    everywhere(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let inside = log.clone();
        let port = lab.open(Recorder::new(&log).on_start(move |transport| {
            transport.stop_listening();
            inside.note("start returns");
            Ok(())
        }));
        assert_eq!(log.events(), [Event::Start, Event::Note("start returns")]);
        assert_eq!(port.state(), PortState::Closing);
        lab.run();
        assert_eq!(log.events().last(), Some(&Event::Stop("stopped".into())));
        assert_eq!((log.events().len(), port.state()), (3, PortState::Closed));
    });
}

#[test]
fn a_start_protocol_that_fails_closes_the_socket_and_is_returned() {
    listening(|s| {
        let lab = s.lab();
        let log = Log::default();
        let mut seen = None;
        let (address, _closing) = (s.lasting_address(), without_children());
        for _ in 0..2 {
            let options = s.options_at(address);
            let failing = Recorder::new(&log).on_start(|_| bail!("not today"));
            let error = lab.listen_udp(options, failing).unwrap_err();
            assert!(
                matches!(&error, ListenError::Protocol(source) if source.to_string() == "not today")
            );
            seen = Some(format!("{:#}", anyhow::Error::new(error)));
        }
        assert!(seen.unwrap().contains("not today"));
        assert!(lab.datagram_ports().is_empty());
        assert_eq!(log.take(), [Event::Start, Event::Start], "no stop without a start that worked");
    });
}

#[test]
fn a_start_protocol_that_fails_gives_an_adopted_socket_back_to_nobody() {
    let s = Setup::plain();
    let lab = s.lab();
    let (socket, _closing) = (s.unbound_socket(), without_children());
    let address = s.lasting_address().into();
    socket.bind(&address).unwrap();
    let failing = || Recorder::quiet().on_start(|_| bail!("no"));
    let error = lab.adopt_datagram_port_shared(&socket, failing()).unwrap_err();
    assert!(matches!(error, AdoptError::Protocol(_)));
    assert_eq!(socket.local_addr().unwrap(), address, "a shared one stays the caller's");
    assert!(matches!(lab.adopt_datagram_port(socket, failing()), Err(AdoptError::Protocol(_))));
    s.unbound_socket().bind(&address).expect("an owned one is closed, and its number free");
}

#[test]
fn a_panic_in_start_protocol_is_an_error_of_the_call() {
    plainly(|s| {
        let lab = s.lab();
        let panicking = Recorder::quiet().on_start(|_| panic!("oh"));
        let error = lab.listen_udp("127.0.0.1:0", panicking).unwrap_err();
        let text = format!("{:#}", anyhow::Error::new(error));
        assert!(text.contains("oh"), "{text}");
        assert!(lab.datagram_ports().is_empty());
    });
}

#[test]
fn a_bare_number_is_a_port_of_every_ipv4_address() {
    plainly(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let port = lab.listen_udp(0, Recorder::new(&log)).unwrap();
        assert_eq!(port.local_addr().unwrap().ip(), Ipv4Addr::UNSPECIFIED);
        assert_eq!(port.family().unwrap(), Family::V4);
        s.peer().send("hi", s.reach(&port));
        lab.until("the datagram", || log.has_payload("hi"));
    });
}

#[test]
fn every_form_of_address_opens_a_port() {
    plainly(|s| {
        let lab = s.lab();
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let ports = [
            lab.listen_udp(loopback, Recorder::quiet()),
            lab.listen_udp((Ipv4Addr::LOCALHOST, 0), Recorder::quiet()),
            lab.listen_udp("127.0.0.1:0", Recorder::quiet()),
            lab.listen_udp(String::from("127.0.0.1:0"), Recorder::quiet()),
            lab.listen_udp(UdpOptions::new(loopback), Recorder::quiet()),
        ];
        for port in ports {
            assert_eq!(port.unwrap().local_addr().unwrap().ip(), Ipv4Addr::LOCALHOST);
        }
    });
}

#[test]
fn text_that_is_no_address_opens_nothing() {
    plainly(|s| {
        let lab = s.lab();
        for text in ["localhost:9", "example.com:9", "127.0.0.1", "1.2.3:9", "::1:9", "[::1]", ""] {
            let error = lab.listen_udp(text, Recorder::quiet()).unwrap_err();
            assert!(matches!(error, ListenError::Address(_)), "{text}: {error}");
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        assert!(lab.datagram_ports().is_empty());
    });
}

#[test]
fn a_taken_port_is_an_error_of_the_call_that_names_the_address() {
    listening(|s| {
        let lab = s.lab();
        let first = lab.open(Recorder::quiet());
        let taken = first.local_addr().unwrap();
        let log = Log::default();
        let options = UdpOptions::new(taken).family(s.family);
        let error = lab.listen_udp(options, Recorder::new(&log)).unwrap_err();
        assert_eq!((error.kind(), error.address()), (ErrorKind::AddrInUse, Some(taken)));
        let ListenError::Bind { source, .. } = &error else { panic!("{error:?}") };
        assert!(source.raw_os_error().is_some());
        let text = error.to_string();
        assert!(text.contains(&taken.to_string()) && text.contains(&source.to_string()), "{text}");
        assert!(log.events().is_empty(), "no protocol is started");
        assert_eq!(lab.datagram_ports().len(), 1);
    });
}

#[test]
fn an_address_of_another_host_is_not_available() {
    plainly(|s| {
        let lab = s.lab();
        let error = lab.listen_udp("192.0.2.1:0", Recorder::quiet()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        assert_eq!(error.address(), Some("192.0.2.1:0".parse().unwrap()));
        if s.simulated || has_ipv6() {
            let error = lab.listen_udp("[2001:db8::1]:0", Recorder::quiet()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        }
    });
}

#[test]
fn a_family_that_contradicts_the_address_is_an_error_of_the_call() {
    plainly(|s| {
        let lab = s.lab();
        let v4 = || UdpOptions::new((Ipv4Addr::LOCALHOST, 0));
        let v6 = || UdpOptions::new((Ipv6Addr::LOCALHOST, 0));
        for options in
            [v4().family(Family::V6Only), v4().family(Family::Dual), v6().family(Family::V4)]
        {
            let error = lab.listen_udp(options, Recorder::quiet()).unwrap_err();
            assert!(
                matches!(error, ListenError::Option(OptionError::Contradiction { .. })),
                "{error}"
            );
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    });
}

#[test]
fn the_ipv6_mode_is_set_explicitly() {
    plainly(|s| {
        if !s.simulated && !has_ipv6() {
            return;
        }
        let lab = s.lab();
        // A simulated host has no descriptor to ask.
        let is_only_v6 = |port: &DatagramTransport, expected: bool| {
            if s.has_descriptors() {
                let told = port.with_fd(|fd| SockRef::from(&fd).only_v6().unwrap());
                assert_eq!(told.unwrap(), expected);
            }
        };
        for (text, family) in [("[::]:0", Family::Dual), ("[::1]:0", Family::V6Only)] {
            let port = lab.listen_udp(text, Recorder::quiet()).unwrap();
            assert_eq!(port.family().unwrap(), family);
            is_only_v6(&port, family == Family::V6Only);
        }
        let options = UdpOptions::parse("[::]:0").unwrap().family(Family::V6Only);
        let port = lab.listen_udp(options, Recorder::quiet()).unwrap();
        is_only_v6(&port, true);
    });
}

#[test]
fn descriptors_are_nonblocking_and_close_on_exec_and_share_no_address() {
    everywhere(|s| {
        use std::os::fd::AsRawFd;
        let lab = s.lab();
        let port = lab.open(Recorder::quiet());
        assert!(!port.reuse_address().unwrap() && !port.reuse_port().unwrap());
        if !s.has_descriptors() {
            return;
        }
        let (nonblocking, number) =
            port.with_fd(|fd| (SockRef::from(&fd).nonblocking().unwrap(), fd.as_raw_fd())).unwrap();
        // A shared descriptor has the flag in common with its original, and is left alone.
        assert_eq!(nonblocking, s.way != Way::Shared);
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"));
        if let Ok(info) = info {
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
            assert_ne!(flags & 0o2_000_000, 0, "O_CLOEXEC");
        }
    });
}

#[test]
fn an_unbound_port_gets_its_address_with_its_first_send() {
    listening(|s| {
        let (lab, peer, log) = (s.lab(), s.peer(), Log::default());
        let port = lab.listen_udp(UdpOptions::unbound(s.family), Recorder::new(&log)).unwrap();
        assert!(matches!(port.local_addr(), Err(OptionError::NotBound)));
        assert_eq!((port.family().unwrap(), port.state()), (s.family, PortState::Open));
        assert!(format!("{port:?}").contains("not bound"));
        assert_eq!(port.try_write_to(b"first", peer.addr()).unwrap(), 5);
        let address = port.local_addr().unwrap();
        assert!(address.ip().is_unspecified() && address.port() != 0, "{address}");
        let (payload, from) = peer.receive();
        assert_eq!((&payload[..], from), (&b"first"[..], s.reach(&port)));
        peer.send("answer", from);
        lab.until("the answer", || log.has_payload("answer"));
    });
}

#[test]
fn options_work_on_a_port_before_it_is_bound() {
    listening(|s| {
        let lab = s.lab();
        let port = lab.listen_udp(UdpOptions::unbound(s.family), Recorder::quiet()).unwrap();
        port.set_broadcast_allowed(true).unwrap();
        port.set_ttl(9).unwrap();
        port.set_recv_buffer_size(10_000).unwrap();
        assert!(port.broadcast_allowed().unwrap() && port.ttl().unwrap() == 9);
        assert!(matches!(port.local_addr(), Err(OptionError::NotBound)));
    });
}

#[test]
fn an_unbound_port_can_be_bound_once() {
    listening(|s| {
        let (lab, log) = (s.lab(), Log::default());
        let port = lab.listen_udp(UdpOptions::unbound(s.family), Recorder::new(&log)).unwrap();
        let wrong: SocketAddr = match s.family {
            Family::V4 => (Ipv6Addr::LOCALHOST, 0).into(),
            Family::V6Only | Family::Dual => (Ipv4Addr::LOCALHOST, 0).into(),
        };
        // A dual-stack port takes either family.
        if s.family != Family::Dual {
            assert_eq!(port.bind(wrong).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        port.bind((s.bind_ip(), 0).into()).unwrap();
        assert_eq!(port.local_addr().unwrap().ip(), s.bind_ip());
        let again = port.bind((s.bind_ip(), 0).into()).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::InvalidInput);
        s.peer().send("found", s.reach(&port));
        lab.until("the datagram", || log.has_payload("found"));
    });
}

#[test]
fn an_unbound_dual_port_sends_to_either_family_first() {
    listening_over(Family::Dual, |s| {
        let v4 = Setup { family: Family::V4, ..*s };
        let v6 = Setup { family: Family::V6Only, ..v4 };
        for order in [[v4, v6], [v6, v4]] {
            let lab = v4.lab();
            let port =
                lab.listen_udp(UdpOptions::unbound(Family::Dual), Recorder::quiet()).unwrap();
            for s in order {
                let peer = s.peer();
                port.write_to(b"hello", peer.addr()).unwrap();
                let (payload, from) = lab.receive(&peer);
                assert_eq!((&payload[..], from.port()), (&b"hello"[..], s.reach(&port).port()));
                assert_eq!(from.ip(), s.peer_ip());
            }
        }
    });
}

#[test]
fn a_dual_port_exchanges_with_both_families() {
    in_each(Setup::all().filter(|s| s.family == Family::Dual), |s| {
        {
            let (lab, log) = (s.lab(), Log::default());
            let sources = std::rc::Rc::default();
            let seen: std::rc::Rc<std::cell::RefCell<Vec<SocketAddr>>> =
                std::rc::Rc::clone(&sources);
            let port = lab.open(Recorder::new(&log).on_datagram(move |transport, datagram| {
                seen.borrow_mut().push(datagram.source());
                transport.write_to(b"echo", datagram.source())?;
                Ok(())
            }));
            let number = port.local_addr().unwrap().port();
            for family in [Family::V4, Family::V6Only] {
                let peer = Setup { family, ..*s }.peer();
                let own = SocketAddr::new(peer.addr().ip(), number);
                peer.send("ask", own);
                // The source shows mapped, and a reply to the mapped address works.
                assert_eq!(lab.receive(&peer), (b"echo".to_vec(), own), "{s}");
                let shown = match peer.addr() {
                    SocketAddr::V4(v4) => {
                        SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
                    }
                    v6 => v6,
                };
                assert_eq!(sources.take(), [shown], "{s}");
            }
        }
    });
}

#[test]
fn an_ipv6_only_wildcard_port_hears_nothing_over_ipv4() {
    plainly(|s| {
        if !s.simulated && !has_ipv6() {
            return;
        }
        let v4 = *s;
        let s = Setup { family: Family::V6Only, ..*s };
        let (lab, log) = (s.lab(), Log::default());
        let options = UdpOptions::parse("[::]:0").unwrap().family(Family::V6Only);
        let port = lab.listen_udp(options, Recorder::new(&log)).unwrap();
        let number = port.local_addr().unwrap().port();
        v4.peer().send("over v4", (Ipv4Addr::LOCALHOST, number).into());
        s.peer().send("over v6", (Ipv6Addr::LOCALHOST, number).into());
        lab.until("the sentinel", || log.has_payload("over v6"));
        assert_eq!(log.datagrams(), 1);
    });
}

#[test]
fn scope_ids_are_kept() {
    // Over the simulation: `sim/zones.rs`.
    // Traffic to an address of this very host stays on it, whatever interface has the address.
    let addresses = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let link_local = addresses.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let address = u128::from_str_radix(fields.next()?, 16).ok()?;
        let index = u32::from_str_radix(fields.next()?, 16).ok()?;
        let ip = Ipv6Addr::from_bits(address);
        // Tentative addresses (flag 0x40) cannot be bound yet.
        let usable = u8::from_str_radix(fields.nth(1)?, 16).ok()? & 0x40 == 0;
        (usable && ip.segments()[0] == 0xfe80).then_some((ip, index))
    });
    let Some((ip, scope)) = link_local else {
        println!("skipped: no interface has a link-local address");
        return;
    };
    for portable in [false, true] {
        let s = Setup { family: Family::V6Only, portable, ..Setup::plain() };
        let lab = s.lab();
        let at = SocketAddr::from(SocketAddrV6::new(ip, 0, 0, scope));
        let log = Log::default();
        let echo = lab.listen_udp(at, Recorder::echo()).unwrap();
        let scope_of = |address| match address {
            SocketAddr::V6(v6) => v6.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        assert_eq!(scope_of(echo.local_addr().unwrap()), scope);
        let asker = lab
            .listen_udp(
                at,
                Recorder::new(&log).on_datagram(move |_, datagram| {
                    assert_eq!(scope_of(datagram.source()), scope);
                    Ok(())
                }),
            )
            .unwrap();
        asker.write_to(b"over the link", echo.local_addr().unwrap()).unwrap();
        lab.until("the echo", || log.has_payload("over the link"));
        assert_eq!(asker.stats().unwrap().callback_panics, 0);
        let text = format!("[{ip}%{scope}]:0");
        let parsed = lab.listen_udp(&*text, Recorder::quiet()).unwrap();
        assert_eq!(scope_of(parsed.local_addr().unwrap()), scope);
    }
}

#[test]
fn connect_udp_opens_a_connected_port() {
    listening(|s| {
        let (lab, peer, log) = (s.lab(), s.peer(), Log::default());
        let to = peer.addr();
        let port = lab
            .connect_udp(
                to,
                Recorder::new(&log).on_start(move |transport| {
                    assert_eq!(transport.peer_addr()?, to);
                    Ok(())
                }),
            )
            .unwrap();
        port.write(b"hello").unwrap();
        let (payload, from) = lab.receive(&peer);
        assert_eq!((&payload[..], from), (&b"hello"[..], port.local_addr().unwrap()));
        peer.send("back", from);
        lab.until("the answer", || log.has_payload("back"));

        let from_own = lab.connect_udp_from(s.options(), to, Recorder::quiet()).unwrap();
        assert_eq!(from_own.peer_addr().unwrap(), s.shown(to));
        let wrong: SocketAddr = match s.family {
            Family::V4 => "[::1]:9".parse().unwrap(),
            Family::V6Only | Family::Dual => "127.0.0.1:9".parse().unwrap(),
        };
        let bound = UdpOptions::new((s.peer_ip(), 0));
        let error = lab.connect_udp_from(bound, wrong, Recorder::quiet());
        if s.family != Family::Dual {
            assert!(matches!(error, Err(ListenError::Connect { peer, .. }) if peer == wrong));
        }
    });
}

#[test]
fn nothing_opens_on_a_reactor_that_is_gone() {
    plainly(|s| {
        let lab = s.lab();
        let handle = lab.reactor_handle();
        drop(lab);
        assert!(matches!(handle.listen_udp(0, Recorder::quiet()), Err(ListenError::Closed)));
        if s.has_descriptors() {
            let adopted = handle.adopt_datagram_port(s.socket(), Recorder::quiet());
            assert!(matches!(adopted, Err(AdoptError::Closed)));
        }
        let source = io::Error::from(ErrorKind::NotConnected);
        assert_eq!(ListenError::Closed.kind(), source.kind());
    });
}
