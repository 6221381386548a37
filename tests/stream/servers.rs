//! Ports: listening, accepting, limits, stopping.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
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

fn greeting(address: SocketAddr) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || read_all(&mut TcpStream::connect(address).expect("a connection")))
}

#[test]
fn a_number_alone_means_every_ipv4_address() {
    let reactor = reactor();
    let port = reactor.listen_tcp(0, |_: PeerAddr| Some(greeter())).expect("a port");
    let address = port.local_addr().expect("bound");
    assert_eq!(address.ip(), Ipv4Addr::UNSPECIFIED);
    assert_ne!(address.port(), 0);
}

#[test]
fn reuse_address_is_on_but_for_a_port_that_the_system_chooses() {
    let reactor = reactor();
    let reuses = |options: TcpOptions| {
        let port = reactor.listen_tcp(options, |_: PeerAddr| Some(greeter())).expect("a port");
        let reuses = port.with_fd(|fd| SockRef::from(&fd).reuse_address().expect("an option"));
        port.stop_listening();
        reuses.expect("open")
    };
    assert!(!reuses(loopback()));
    assert!(reuses(TcpOptions::new(nobody())));
    assert!(!reuses(TcpOptions::new(nobody()).reuse_address(false)));
}

#[test]
fn a_taken_or_foreign_address_is_reported_at_the_call() {
    let reactor = reactor();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr();
    let holder = TcpListener::bind(taken.expect("bound")).expect("a port");
    let address = holder.local_addr().expect("bound");
    let error = reactor.listen_tcp(address, |_: PeerAddr| Some(greeter())).expect_err("taken");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&address.to_string()), "{error}");

    let own = reactor.listen_tcp("127.0.0.1:0", |_: PeerAddr| Some(greeter())).expect("a port");
    let again = TcpOptions::new(own.local_addr().expect("bound"));
    let error = reactor.listen_tcp(again, |_: PeerAddr| Some(greeter())).expect_err("taken");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);

    let foreign = reactor.listen_tcp("192.0.2.1:0", |_: PeerAddr| Some(greeter()));
    let error = foreign.expect_err("not ours");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrNotAvailable);
    assert_eq!(reactor.listening_ports().len(), 1);
}

#[test]
fn contradictions_of_options_are_errors_at_the_call() {
    let reactor = reactor();
    let v4 = loopback().family(Family::V6Only);
    let v6 = TcpOptions::parse("[::1]:0").expect("an address").family(Family::V4);
    let marks = loopback().write_watermarks(2, 1);
    let budget = loopback().accept_budget(AcceptBudget::Fixed(0));
    for options in [v4, v6, marks, budget, loopback().write_limit(0), loopback().max_connections(0)]
    {
        let result = reactor.listen_tcp(options.clone(), |_: PeerAddr| Some(greeter()));
        assert!(matches!(result, Err(ListenError::Option(_))), "{options:?}: {result:?}");
    }
    let name = reactor.listen_tcp("localhost:80", |_: PeerAddr| Some(greeter()));
    assert!(name.expect_err("a name").to_string().contains("localhost"));
}

#[test]
fn a_factory_is_told_the_address_of_each_peer() {
    let mut addresses = vec!["127.0.0.1:0"];
    match TcpListener::bind("[::1]:0") {
        Ok(_) => addresses.extend(["[::1]:0", "[::]:0"]),
        Err(error) => println!("skipped over IPv6: {error}"),
    }
    for address in addresses {
        let (reactor, peers) = (reactor(), Rc::new(RefCell::new(Vec::new())));
        let inner = Rc::clone(&peers);
        let port = reactor
            .listen_tcp(address, move |peer: PeerAddr| {
                let (inner, told) = (Rc::clone(&inner), peer.ip());
                Some(Recorder::new(&log()).made(move |transport| {
                    assert_eq!(transport.peer_addr().ok(), told);
                    inner.borrow_mut().push((told, transport.local_addr()?, transport.family()?));
                    Ok(())
                }))
            })
            .expect("a port");
        let bound = port.local_addr().expect("bound");
        let to = if address == "[::]:0" { "127.0.0.1" } else { bound.ip().to_string().leak() };
        let stream = TcpStream::connect((to, bound.port())).expect("a connection");
        turn_until(&reactor, || peers.borrow().len() == 1);
        let (peer, local, family) = peers.borrow()[0];
        let peer = peer.expect("of IP");
        let own = stream.local_addr().expect("bound");
        assert_eq!((peer.ip().to_canonical(), peer.port()), (own.ip(), own.port()));
        assert_eq!(local.port(), bound.port());
        let expected = match address {
            "127.0.0.1:0" => Family::V4,
            "[::1]:0" => Family::V6Only,
            _ => Family::Dual,
        };
        assert_eq!(family, expected);
    }
}

#[test]
fn a_connection_that_the_factory_refuses_is_closed_and_the_next_is_served() {
    let reactor = reactor();
    let mut first = true;
    let port = reactor
        .listen_tcp("127.0.0.1:0", move |_: PeerAddr| (!std::mem::take(&mut first)).then(greeter))
        .expect("a port");
    let address = port.local_addr().expect("bound");
    for expected in [&b""[..], b"hello"] {
        let client = greeting(address);
        turn_until(&reactor, || client.is_finished());
        assert_eq!(client.join().expect("content"), expected);
    }
    let stats = port.stats().expect("open");
    assert_eq!((stats.accepted, stats.refused), (2, 1));
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
    let (reactor, log) = (reactor(), log());
    let address = nobody();
    let factory = Hooks { log: Rc::clone(&log), start: false, stop: true };
    let error = reactor.listen_tcp(address, factory).expect_err("not started");
    assert!(format!("{error:?}").contains("not today"), "{error:?}");
    assert_eq!(*log.borrow(), ["start"]);
    TcpListener::bind(address).expect("the address is free");
    run(&reactor);
}

#[test]
fn a_failing_stop_is_counted_and_the_address_serves_again() {
    let (reactor, log) = (reactor(), log());
    let factory = Hooks { log: Rc::clone(&log), start: true, stop: false };
    let port = reactor.listen_tcp("127.0.0.1:0", factory).expect("a port");
    let address = port.local_addr().expect("bound");
    let done = Rc::new(Cell::new(0));
    for _ in 0..2 {
        let done = Rc::clone(&done);
        port.stop_listening_then(move |_: &Handle| done.set(done.get() + 1)).expect("told");
    }
    assert_eq!(port.state(), PortState::Closing);
    run(&reactor);
    assert_eq!((done.get(), reactor.stats().callback_errors), (2, 1));
    assert_eq!(*log.borrow(), ["start", "stop"]);
    let inner = Rc::clone(&done);
    port.stop_listening_then(move |_: &Handle| inner.set(9)).expect("told");
    run(&reactor);
    assert_eq!(done.get(), 9);

    let factory = Hooks { log: Rc::clone(&log), start: true, stop: true };
    let port = reactor.listen_tcp(address, factory).expect("a port again");
    let client = greeting(address);
    turn_until(&reactor, || client.is_finished());
    assert_eq!(client.join().expect("content"), b"hello");
    port.stop_listening();
    run(&reactor);
}

#[test]
fn stopping_a_port_leaves_its_connections_alone() {
    let (reactor, log) = (reactor(), log());
    let server = Recorder::new(&log).data(|transport, data| Ok(transport.write(data)?));
    let mut server = Some(server);
    let port = reactor.listen_tcp("127.0.0.1:0", move |_: PeerAddr| server.take()).expect("a port");
    let address = port.local_addr().expect("bound");
    let mut stream = TcpStream::connect(address).expect("a connection");
    turn_until(&reactor, || count(&log, "made") == 1);
    port.stop_listening();
    turn_until(&reactor, || port.state() == PortState::Closed);
    assert!(TcpStream::connect(address).is_err());
    let client = std::thread::spawn(move || {
        stream.write_all(b"still there?").expect("sent");
        let mut back = [0; 12];
        stream.read_exact(&mut back).expect("an echo");
        back
    });
    run(&reactor);
    assert_eq!(&client.join().expect("content"), b"still there?");
    assert_eq!(*log.borrow(), ["made", "read lost", "lost: Done"]);
}

#[test]
fn a_paused_port_leaves_connections_in_the_backlog() {
    let reactor = reactor();
    let options = loopback().start_paused(true);
    let port = reactor.listen_tcp(options, |_: PeerAddr| Some(greeter())).expect("a port");
    let client = greeting(port.local_addr().expect("bound"));
    for _ in 0..5 {
        reactor.iterate(Some(Duration::from_millis(5))).expect("a turn");
    }
    assert_eq!((port.state(), port.stats().expect("open").accepted), (PortState::Paused, 0));
    port.resume_accepting().expect("open");
    turn_until(&reactor, || client.is_finished());
    assert_eq!(client.join().expect("content"), b"hello");
}

#[test]
fn a_fixed_budget_takes_so_many_in_a_turn_and_loses_none() {
    let reactor = reactor();
    let options = loopback().accept_budget(AcceptBudget::Fixed(3)).backlog(64);
    let port = reactor.listen_tcp(options, |_: PeerAddr| Some(greeter())).expect("a port");
    let address = port.local_addr().expect("bound");
    let mut streams: Vec<_> =
        (0..20).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    let mut before = 0;
    turn_until(&reactor, || {
        let accepted = port.stats().expect("open").accepted;
        assert!(accepted - before <= 3, "{before} then {accepted}");
        before = accepted;
        accepted == 20
    });
    for stream in &mut streams {
        let mut hello = [0; 5];
        stream.set_read_timeout(Some(WATCHDOG)).expect("a timeout");
        stream.read_exact(&mut hello).expect("a greeting");
    }
}

#[test]
fn one_address_has_no_more_connections_than_allowed() {
    let (reactor, log) = (reactor(), log());
    let inner = Rc::clone(&log);
    let options = loopback().max_connections_per_peer(2);
    let port = reactor
        .listen_tcp(options, move |_: PeerAddr| Some(Recorder::new(&inner)))
        .expect("a port");
    let address = port.local_addr().expect("bound");
    let mut streams: Vec<_> =
        (0..3).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    turn_until(&reactor, || port.stats().expect("open").refused == 1);
    assert_eq!(count(&log, "made"), 2);
    let mut third = streams.pop().expect("three");
    assert_eq!(third.read(&mut [0]).unwrap_or(0), 0);
    drop(streams.pop());
    turn_until(&reactor, || log.borrow().iter().any(|line| line == "lost: Done"));
    let _fourth = TcpStream::connect(address).expect("a connection");
    turn_until(&reactor, || count(&log, "made") == 3);
}

#[test]
fn many_at_once_are_all_served() {
    let reactor = reactor();
    let port = reactor.listen_tcp("127.0.0.1:0", |_: PeerAddr| Some(greeter())).expect("a port");
    let address = port.local_addr().expect("bound");
    let clients = std::thread::spawn(move || {
        for _ in 0..50 {
            let mut streams: Vec<_> =
                (0..20).map(|_| TcpStream::connect(address).expect("a connection")).collect();
            for stream in &mut streams {
                assert_eq!(read_all(stream), b"hello");
            }
        }
    });
    turn_until(&reactor, || clients.is_finished());
    clients.join().expect("content");
    turn_until(&reactor, || port.stats().expect("open").connections == 0);
    assert_eq!(port.stats().expect("open").accepted, 1000);
}

#[test]
fn options_of_a_port_reach_its_connections() {
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
    against_with(loopback().nodelay(false).keepalive(times), server, drop);
    assert_eq!(*seen.borrow(), Some((false, Some(times))));
}

#[test]
fn two_loops_share_a_port_with_reuse_port() {
    let holder = reactor();
    let first = loopback().reuse_port(true);
    let port = match holder.listen_tcp(first, |_: PeerAddr| Some(greeter())) {
        Ok(port) => port,
        Err(error) => return println!("skipped: {error}"),
    };
    let address = port.local_addr().expect("bound");
    let (send, ready) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || {
        let reactor = reactor();
        let options = TcpOptions::new(address).reuse_port(true);
        let port = reactor.listen_tcp(options, |_: PeerAddr| Some(greeter())).expect("shared");
        send.send(reactor.remote()).expect("waited for");
        reactor.run().expect("the loop runs");
        port.stats().map_or(0, |stats| stats.accepted)
    });
    let remote = ready.recv().expect("listening");
    let clients = std::thread::spawn(move || {
        for _ in 0..100 {
            assert_eq!(greeting(address).join().expect("content"), b"hello");
        }
    });
    turn_until(&holder, || clients.is_finished());
    clients.join().expect("content");
    remote.call_from_thread(|handle| handle.stop()).expect("running");
    other.join().expect("content");
    let own = port.stats().expect("open").accepted;
    assert!(own < 100, "the other loop was given none");
}

#[test]
fn a_factory_that_panics_closes_that_connection_and_serves_the_next() {
    let reactor = reactor();
    let mut first = true;
    let port = reactor
        .listen_tcp("127.0.0.1:0", move |_: PeerAddr| {
            assert!(!std::mem::take(&mut first), "on purpose");
            Some(greeter())
        })
        .expect("a port");
    let address = port.local_addr().expect("bound");
    let client = std::thread::spawn(move || {
        let mut all = Vec::new();
        let mut stream = TcpStream::connect(address).expect("a connection");
        // Closed one way or the other.
        let _ = stream.read_to_end(&mut all);
        assert_eq!(all, b"");
        read_all(&mut TcpStream::connect(address).expect("a connection"))
    });
    while !client.is_finished() {
        reactor.iterate(Some(Duration::from_millis(20))).expect("a turn");
    }
    assert_eq!(client.join().expect("content"), b"hello");
    assert_eq!(reactor.stats().callback_panics, 1);
}

#[test]
fn a_flood_on_one_connection_does_not_starve_another() {
    let (reactor, log) = (reactor(), log());
    let flooded = Rc::new(Cell::new(0_usize));
    let inner = Rc::clone(&flooded);
    let port = reactor
        .listen_tcp("127.0.0.1:0", move |_: PeerAddr| {
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
    turn_until(&reactor, || flooded.get() > 1 << 20);
    let asker = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).expect("a connection");
        for _ in 0..100 {
            stream.write_all(b"?").expect("sent");
            stream.read_exact(&mut [0]).expect("an answer");
        }
    });
    turn_until(&reactor, || asker.is_finished());
    asker.join().expect("content");
    for stream in reactor.streams() {
        stream.abort_connection();
    }
    turn_until(&reactor, || flooder.is_finished());
    flooder.join().expect("ends");
}
