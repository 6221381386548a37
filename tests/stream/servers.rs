//! Ports: listening, accepting, limits, stopping.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use strand_reactor::{
    AcceptBudget, Factory, Family, Handle, ListenError, PeerAddr, PortState, Protocol, TcpOptions,
    Transport,
};

use crate::support::*;

/// Says hello and ends.
fn greeter() -> Recorder {
    Recorder::new(&log()).made(|transport| {
        transport.write(b"hello")?;
        transport.lose_connection();
        Ok(())
    })
}

fn greeting(ground: &Ground, address: SocketAddr) -> Vec<u8> {
    ground.with_peer(address, |mut peer| read_all(&mut peer))
}

#[test]
fn a_number_alone_means_every_ipv4_address() {
    everywhere(|ground| {
        let port = ground.server().listen_tcp(0, |_: PeerAddr| Some(greeter())).expect("a port");
        let address = port.local_addr().expect("bound");
        assert_eq!(address.ip(), Ipv4Addr::UNSPECIFIED);
        assert_ne!(address.port(), 0);
    });
}

#[test]
fn reuse_address_is_on_but_for_a_port_that_the_system_chooses() {
    // The option is read by the descriptor, and a simulated host has none.
    on_the_system(|ground| {
        let reuses = |options: TcpOptions| {
            let port =
                ground.server().listen_tcp(options, |_: PeerAddr| Some(greeter())).expect("a port");
            let reuses = port.with_fd(|fd| SockRef::from(&fd).reuse_address().expect("an option"));
            port.stop_listening();
            reuses.expect("open")
        };
        assert!(!reuses(ground.loopback()));
        assert!(reuses(TcpOptions::new(ground.nobody())));
        assert!(!reuses(TcpOptions::new(ground.nobody()).reuse_address(false)));
    });
}

#[test]
fn a_taken_or_foreign_address_is_reported_at_the_call() {
    everywhere(|ground| {
        let holder = ground.held();
        let address = holder.local_addr();
        let error =
            ground.server().listen_tcp(address, |_: PeerAddr| Some(greeter())).expect_err("taken");
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&address.to_string()), "{error}");

        let own = ground
            .server()
            .listen_tcp(ground.any_port(), |_: PeerAddr| Some(greeter()))
            .expect("a port");
        let again = TcpOptions::new(own.local_addr().expect("bound"));
        let error =
            ground.server().listen_tcp(again, |_: PeerAddr| Some(greeter())).expect_err("taken");
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);

        let foreign = ground.server().listen_tcp("192.0.2.1:0", |_: PeerAddr| Some(greeter()));
        let error = foreign.expect_err("not ours");
        assert_eq!(error.kind(), std::io::ErrorKind::AddrNotAvailable);
        assert_eq!(ground.server().listening_ports().len(), 1);
    });
}

#[test]
fn contradictions_of_options_are_errors_at_the_call() {
    everywhere(|ground| {
        let v4 = ground.loopback().family(Family::V6Only);
        let v6 = TcpOptions::parse("[::1]:0").expect("an address").family(Family::V4);
        let marks = ground.loopback().write_watermarks(2, 1);
        let budget = ground.loopback().accept_budget(AcceptBudget::Fixed(0));
        for options in [
            v4,
            v6,
            marks,
            budget,
            ground.loopback().write_limit(0),
            ground.loopback().max_connections(0),
        ] {
            let result = ground.server().listen_tcp(options.clone(), |_: PeerAddr| Some(greeter()));
            assert!(matches!(result, Err(ListenError::Option(_))), "{options:?}: {result:?}");
        }
        let name = ground.server().listen_tcp("localhost:80", |_: PeerAddr| Some(greeter()));
        assert!(name.expect_err("a name").to_string().contains("localhost"));
    });
}

#[test]
fn a_factory_is_told_the_address_of_each_peer() {
    everywhere(|ground| {
        let v4 = ground.any_port();
        let mut ways = vec![(v4, v4.ip(), Family::V4)];
        match ground.v6() {
            Some(v6) => {
                ways.push(((v6, 0).into(), v6, Family::V6Only));
                ways.push((SocketAddr::from(([0_u16; 8], 0)), v4.ip(), Family::Dual));
            }
            None => println!("skipped over IPv6: it is not there"),
        }
        for (address, to, expected) in ways {
            let peers = Rc::new(RefCell::new(Vec::new()));
            let inner = Rc::clone(&peers);
            let port = ground
                .server()
                .listen_tcp(address, move |peer: PeerAddr| {
                    let (inner, told) = (Rc::clone(&inner), peer.ip());
                    Some(Recorder::new(&log()).made(move |transport| {
                        assert_eq!(transport.peer_addr().ok(), told);
                        inner.borrow_mut().push((
                            told,
                            transport.local_addr()?,
                            transport.family()?,
                        ));
                        Ok(())
                    }))
                })
                .expect("a port");
            let bound = port.local_addr().expect("bound");
            let stream = ground.plain((to, bound.port()).into());
            ground.turn_until(|| peers.borrow().len() == 1);
            let (peer, local, family) = peers.borrow()[0];
            let peer = peer.expect("of IP");
            let own = stream.local_addr();
            assert_eq!((peer.ip().to_canonical(), peer.port()), (own.ip(), own.port()));
            assert_eq!(local.port(), bound.port());
            assert_eq!(family, expected);
        }
    });
}

#[test]
fn a_connection_that_the_factory_refuses_is_closed_and_the_next_is_served() {
    everywhere(|ground| {
        let mut first = true;
        let port = ground
            .server()
            .listen_tcp(ground.any_port(), move |_: PeerAddr| {
                (!std::mem::take(&mut first)).then(greeter)
            })
            .expect("a port");
        let address = port.local_addr().expect("bound");
        for expected in [&b""[..], b"hello"] {
            assert_eq!(greeting(ground, address), expected);
        }
        let stats = port.stats().expect("open");
        assert_eq!((stats.accepted, stats.refused), (2, 1));
    });
}

struct Hooks {
    log: Log,
    start: bool,
    stop: bool,
}

impl Factory for Hooks {
    fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> {
        Some(Box::new(greeter()))
    }

    fn start_factory(&mut self) -> anyhow::Result<()> {
        note(&self.log, "start");
        anyhow::ensure!(self.start, "not today");
        Ok(())
    }

    fn stop_factory(&mut self) -> anyhow::Result<()> {
        note(&self.log, "stop");
        anyhow::ensure!(self.stop, "stuck");
        Ok(())
    }
}

#[test]
fn a_factory_that_does_not_start_leaves_no_port() {
    everywhere(|ground| {
        let log = log();
        let address = ground.nobody();
        let factory = Hooks { log: Rc::clone(&log), start: false, stop: true };
        let error = ground.server().listen_tcp(address, factory).expect_err("not started");
        assert!(format!("{error:?}").contains("not today"), "{error:?}");
        assert_eq!(*log.borrow(), ["start"]);
        // The address is free.
        drop(ground.held_on(address));
        ground.run();
    });
}

#[test]
fn a_failing_stop_is_counted_and_the_address_serves_again() {
    everywhere(|ground| {
        let log = log();
        let factory = Hooks { log: Rc::clone(&log), start: true, stop: false };
        let port = ground.server().listen_tcp(ground.any_port(), factory).expect("a port");
        let address = port.local_addr().expect("bound");
        let done = Rc::new(Cell::new(0));
        for _ in 0..2 {
            let done = Rc::clone(&done);
            port.stop_listening_then(move |_: &Handle| done.set(done.get() + 1)).expect("told");
        }
        assert_eq!(port.state(), PortState::Closing);
        ground.run();
        assert_eq!((done.get(), ground.server().stats().callback_errors), (2, 1));
        assert_eq!(*log.borrow(), ["start", "stop"]);
        let inner = Rc::clone(&done);
        port.stop_listening_then(move |_: &Handle| inner.set(9)).expect("told");
        ground.run();
        assert_eq!(done.get(), 9);

        let factory = Hooks { log: Rc::clone(&log), start: true, stop: true };
        let port = ground.server().listen_tcp(address, factory).expect("a port again");
        assert_eq!(greeting(ground, address), b"hello");
        port.stop_listening();
        ground.run();
    });
}

#[test]
fn stopping_a_port_leaves_its_connections_alone() {
    everywhere(|ground| {
        let log = log();
        let echoed = Rc::new(Cell::new(0));
        let inner = Rc::clone(&echoed);
        let server = Recorder::new(&log).data(move |transport, data| {
            inner.set(inner.get() + data.len());
            Ok(transport.write(data)?)
        });
        let mut server = Some(server);
        let port = ground
            .server()
            .listen_tcp(ground.any_port(), move |_: PeerAddr| server.take())
            .expect("a port");
        let address = port.local_addr().expect("bound");
        let mut stream = ground.plain(address);
        ground.turn_until(|| count(&log, "made") == 1);
        port.stop_listening();
        ground.turn_until(|| port.state() == PortState::Closed);
        assert!(ground.is_refused(address));
        stream.write_all(b"still there?").expect("sent");
        ground.turn_until(|| echoed.get() == 12);
        let mut back = [0; 12];
        stream.read_exact(&mut back).expect("an echo");
        drop(stream);
        ground.run();
        assert_eq!(&back, b"still there?");
        assert_eq!(*log.borrow(), ["made", "read lost", "lost: Done"]);
    });
}

#[test]
fn a_paused_port_leaves_connections_in_the_backlog() {
    everywhere(|ground| {
        let options = ground.loopback().start_paused(true);
        let port =
            ground.server().listen_tcp(options, |_: PeerAddr| Some(greeter())).expect("a port");
        let address = port.local_addr().expect("bound");
        let resumed = Rc::new(Cell::new(false));
        let resume = Rc::clone(&resumed);
        ground.server().call_later(Duration::from_millis(25), move |_: &Handle| {
            assert_eq!(
                (port.state(), port.stats().expect("open").accepted),
                (PortState::Paused, 0)
            );
            resume.set(true);
            port.resume_accepting()
        });
        assert_eq!(greeting(ground, address), b"hello");
        assert!(resumed.get());
    });
}

#[test]
fn a_fixed_budget_takes_so_many_in_a_turn_and_loses_none() {
    everywhere(|ground| {
        let options = ground.loopback().accept_budget(AcceptBudget::Fixed(3)).backlog(64);
        let options = options.start_paused(true);
        let port =
            ground.server().listen_tcp(options, |_: PeerAddr| Some(greeter())).expect("a port");
        let address = port.local_addr().expect("bound");
        let mut streams: Vec<_> = (0..20).map(|_| ground.plain(address)).collect();
        ground.let_in();
        let mut before = 0;
        ground.turn_until(|| {
            let accepted = port.stats().expect("open").accepted;
            assert!(accepted - before <= 3, "{before} then {accepted}");
            before = accepted;
            accepted == 20
        });
        for stream in &mut streams {
            let mut hello = [0; 5];
            stream.read_exact(&mut hello).expect("a greeting");
        }
    });
}

#[test]
fn one_address_has_no_more_connections_than_allowed() {
    everywhere(|ground| {
        let log = log();
        let inner = Rc::clone(&log);
        let options = ground.loopback().max_connections_per_peer(2);
        let port = ground
            .server()
            .listen_tcp(options, move |_: PeerAddr| Some(Recorder::new(&inner)))
            .expect("a port");
        let address = port.local_addr().expect("bound");
        let mut streams: Vec<_> = (0..3).map(|_| ground.plain(address)).collect();
        ground.turn_until(|| port.stats().expect("open").refused == 1);
        assert_eq!(count(&log, "made"), 2);
        let mut third = streams.pop().expect("three");
        assert_eq!(third.read(&mut [0]).unwrap_or(0), 0);
        drop(streams.pop());
        ground.turn_until(|| log.borrow().iter().any(|line| line == "lost: Done"));
        let _fourth = ground.plain(address);
        ground.turn_until(|| count(&log, "made") == 3);
    });
}

#[test]
fn many_at_once_are_all_served() {
    everywhere(|ground| {
        let port = ground
            .server()
            .listen_tcp(ground.any_port(), |_: PeerAddr| Some(greeter()))
            .expect("a port");
        let address = port.local_addr().expect("bound");
        ground.alongside(move |network| {
            for _ in 0..50 {
                let mut streams: Vec<_> = (0..20).map(|_| network.connect(address)).collect();
                for stream in &mut streams {
                    assert_eq!(read_all(stream), b"hello");
                }
            }
        });
        ground.turn_until(|| port.stats().expect("open").connections == 0);
        assert_eq!(port.stats().expect("open").accepted, 1000);
    });
}

#[test]
fn options_of_a_port_reach_its_connections() {
    everywhere(|ground| {
        let (log, seen) = (log(), Rc::new(RefCell::new(None)));
        let times = strand_reactor::KeepAlive {
            idle: Duration::from_secs(7),
            interval: Duration::from_secs(3),
            count: 4,
        };
        let inner = Rc::clone(&seen);
        let server = Recorder::new(&log).made(move |transport: &Transport| {
            *inner.borrow_mut() = Some((transport.nodelay()?, transport.keepalive()?));
            transport.set_nodelay(true)?;
            transport.set_keepalive(None)?;
            assert_eq!((transport.nodelay()?, transport.keepalive()?), (true, None));
            transport.set_recv_buffer_size(50_000)?;
            transport.set_send_buffer_size(50_000)?;
            assert!(transport.recv_buffer_size()? >= 50_000);
            assert!(transport.send_buffer_size()? >= 50_000);
            Ok(())
        });
        ground.against_with(ground.loopback().nodelay(false).keepalive(times), server, drop);
        assert_eq!(*seen.borrow(), Some((false, Some(times))));
    });
}

#[test]
fn two_loops_share_a_port_with_reuse_port() {
    // Two loops of one host need threads: a simulated host has one.
    on_the_system(|ground| {
        let first = ground.loopback().reuse_port(true);
        let port = match ground.server().listen_tcp(first, |_: PeerAddr| Some(greeter())) {
            Ok(port) => port,
            Err(error) => return println!("skipped: {error}"),
        };
        let address = port.local_addr().expect("bound");
        let (send, ready) = std::sync::mpsc::channel();
        let other = std::thread::spawn(move || {
            let other = Ground::new(Kind::System);
            let options = TcpOptions::new(address).reuse_port(true);
            let port = other.server().listen_tcp(options, |_: PeerAddr| Some(greeter()));
            let port = port.expect("shared");
            send.send(other.server().remote()).expect("waited for");
            other.run();
            port.stats().map_or(0, |stats| stats.accepted)
        });
        let remote = ready.recv().expect("listening");
        for _ in 0..100 {
            assert_eq!(greeting(&ground, address), b"hello");
        }
        remote.call_from_thread(|handle| handle.stop()).expect("running");
        other.join().expect("content");
        let own = port.stats().expect("open").accepted;
        assert!(own < 100, "the other loop was given none");
    });
}

#[test]
fn a_factory_that_panics_closes_that_connection_and_serves_the_next() {
    everywhere(|ground| {
        let mut first = true;
        let port = ground
            .server()
            .listen_tcp(ground.any_port(), move |_: PeerAddr| {
                assert!(!std::mem::take(&mut first), "on purpose");
                Some(greeter())
            })
            .expect("a port");
        let address = port.local_addr().expect("bound");
        ground.expect_panics(1);
        let hello = ground.alongside(move |network| {
            let mut all = Vec::new();
            let mut stream = network.connect(address);
            // Closed one way or the other.
            let _ = stream.read_to_end(&mut all);
            assert_eq!(all, b"");
            read_all(&mut network.connect(address))
        });
        assert_eq!(hello, b"hello");
        assert_eq!(ground.panics(), 1);
    });
}

#[test]
fn a_flood_on_one_connection_does_not_starve_another() {
    // Two peers that block at the same time need threads.
    on_the_system(|ground| {
        let log = log();
        let flooded = Rc::new(Cell::new(0_usize));
        let inner = Rc::clone(&flooded);
        let port = ground
            .server()
            .listen_tcp(ground.any_port(), move |_: PeerAddr| {
                let inner = Rc::clone(&inner);
                Some(Recorder::new(&log).data(move |transport, data| {
                    if data == b"?" {
                        transport.write(b"!")?;
                    }
                    inner.set(inner.get() + data.len());
                    Ok(())
                }))
            })
            .expect("a port");
        let address = port.local_addr().expect("bound");
        let mut flood = TcpStream::connect(address).expect("a connection");
        let flooder = std::thread::spawn(move || while flood.write_all(&[0; 1 << 20]).is_ok() {});
        ground.turn_until(|| flooded.get() > 1 << 20);
        let asker = std::thread::spawn(move || {
            let mut stream = TcpStream::connect(address).expect("a connection");
            for _ in 0..100 {
                stream.write_all(b"?").expect("sent");
                stream.read_exact(&mut [0]).expect("an answer");
            }
        });
        ground.turn_until(|| asker.is_finished());
        asker.join().expect("content");
        for stream in ground.streams() {
            stream.abort_connection();
        }
        ground.turn_until(|| flooder.is_finished());
        flooder.join().expect("ends");
    });
}
