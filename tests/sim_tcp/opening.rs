//! How connections come about, or do not.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::sim::{Rule, World};
use strand_reactor::{
    ConnectOptions, Family, Handle, ListenError, PeerAddr, TcpOptions, Transport,
};

use super::support::{Client, Log, Side, lines, listen, two_hosts};

const SECOND: Duration = Duration::from_secs(1);

fn close(transport: &Transport) -> anyhow::Result<()> {
    transport.lose_connection();
    Ok(())
}

/// A client of which nobody should hear; what it is told.
fn attempt(client: &Handle, options: ConnectOptions) -> anyhow::Result<Log> {
    let log = Log::default();
    client.connect_tcp(options, Client::new(Side::new(&log)))?;
    Ok(log)
}

/// When, in the time of the world, the log has this many lines.
fn when(world: &World, log: &Log, count: usize) -> anyhow::Result<Duration> {
    let begun = world.elapsed();
    assert!(world.run_until(|| log.borrow().len() >= count)?, "{:?}", lines(log));
    Ok(world.elapsed() - begun)
}

#[test]
fn a_closed_port_refuses_after_one_round_trip() -> anyhow::Result<()> {
    let (world, _server, client) = two_hosts();
    let log = attempt(&client, ConnectOptions::parse("10.0.0.1:9")?)?;
    assert_eq!(when(&world, &log, 1)?, Duration::from_millis(2));
    assert_eq!(lines(&log), ["failed: Connection refused (os error 111)"]);
    Ok(())
}

#[test]
fn an_address_that_nobody_has_is_unreachable() -> anyhow::Result<()> {
    let (world, _server, client) = two_hosts();
    // On the own network the host finds out by itself, as Linux does.
    let log = attempt(&client, ConnectOptions::parse("10.0.0.77:9")?)?;
    assert_eq!(when(&world, &log, 1)?, 3 * SECOND);
    assert_eq!(lines(&log), ["failed: No route to host (os error 113)"]);
    // Elsewhere nobody answers.
    let options = ConnectOptions::parse("192.0.2.1:9")?.timeout(1_000 * SECOND);
    let log = attempt(&client, options)?;
    assert_eq!(when(&world, &log, 1)?, 131 * SECOND);
    assert_eq!(lines(&log), ["failed: Connection timed out (os error 110)"]);
    Ok(())
}

#[test]
fn without_an_address_of_the_family_there_is_no_network() -> anyhow::Result<()> {
    let world = World::new(1);
    let host = world.host("v4", "10.0.0.1")?;
    let log = attempt(&host, ConnectOptions::parse("[fd00::1]:9")?)?;
    world.run_for(SECOND)?;
    assert_eq!(lines(&log), ["failed: Network is unreachable (os error 101)"]);
    Ok(())
}

#[test]
fn an_attempt_may_take_no_longer_than_allowed() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    listen(&server, "10.0.0.1:7", [])?;
    world.rule(Rule::drop().to("server"))?.keep();
    let log = attempt(&client, ConnectOptions::parse("10.0.0.1:7")?.timeout(5 * SECOND))?;
    assert_eq!(when(&world, &log, 1)?, 5 * SECOND);
    assert!(lines(&log)[0].starts_with("failed: "), "{:?}", lines(&log));
    Ok(())
}

#[test]
fn whatever_of_the_handshake_is_lost_comes_again() -> anyhow::Result<()> {
    // The SYN, the answer, and what acknowledges that.
    for lost in 0..3 {
        let (world, server, client) = two_hosts();
        let at_server = Log::default();
        listen(&server, "10.0.0.1:7", [Side::new(&at_server)])?;
        let rule = match lost {
            0 => Rule::drop().from("client").when(|packet| packet.is_syn()),
            1 => Rule::drop().from("server").when(|packet| packet.is_syn()),
            _ => Rule::drop().from("client").when(|packet| !packet.is_syn()),
        };
        let rule = world.rule(rule.times(1))?;
        let log = Log::default();
        let side = Side::new(&log).made(|transport| Ok(transport.write(b"hi")?)).after(2, close);
        client.connect_tcp("10.0.0.1:7", Client::new(side))?;
        when(&world, &at_server, 2)?;
        assert_eq!(rule.hits(), 1);
        assert_eq!(lines(&at_server), ["made", "data 2"], "without packet {lost}");
        assert!(world.elapsed() < 3 * SECOND);
    }
    Ok(())
}

#[test]
fn a_port_is_bound_once() -> anyhow::Result<()> {
    let (world, server, _client) = two_hosts();
    let taken = |address: &str| {
        let options = TcpOptions::parse(address).expect("an address").reuse_address(true);
        match server.listen_tcp(options, |_: PeerAddr| None::<Side>) {
            Err(ListenError::Bind { source, .. }) => source.raw_os_error(),
            other => panic!("{address}: {other:?}"),
        }
    };
    let port = listen(&server, "0.0.0.0:7", [])?;
    assert_eq!(taken("10.0.0.1:7"), Some(98));
    assert_eq!(taken("[::]:7"), Some(98));
    assert_eq!(taken("10.0.0.9:7"), Some(99), "an address of another");
    let alone = TcpOptions::parse("[::]:7")?.family(Family::V6Only);
    server.listen_tcp(alone, |_: PeerAddr| None::<Side>)?;
    let (one, other) = (listen(&server, "10.0.0.1:0", [])?, listen(&server, "10.0.0.1:0", [])?);
    assert_ne!(one.local_addr()?, other.local_addr()?);
    port.stop_listening();
    world.run_for(SECOND)?;
    listen(&server, "10.0.0.1:7", [])?;
    Ok(())
}

#[test]
fn ports_that_share_an_address_share_the_connections() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    let counts: [Rc<RefCell<usize>>; 2] = Default::default();
    for count in &counts {
        let count = Rc::clone(count);
        let options = TcpOptions::parse("10.0.0.1:7")?.reuse_port(true);
        server.listen_tcp(options, move |_: PeerAddr| {
            *count.borrow_mut() += 1;
            None::<Side>
        })?;
    }
    for _ in 0..40 {
        attempt(&client, ConnectOptions::parse("10.0.0.1:7")?)?;
    }
    world.run_for(SECOND)?;
    let counts = counts.map(|count| *count.borrow());
    assert_eq!(counts[0] + counts[1], 40);
    assert!(counts.iter().all(|count| *count >= 5), "{counts:?}");
    Ok(())
}

#[test]
fn connections_that_nobody_accepts_wait_or_try_again() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    let at_server = Log::default();
    let sides = (0..10).map(|_| Side::new(&at_server)).collect::<Vec<_>>();
    let options = TcpOptions::parse("10.0.0.1:7")?.backlog(3).start_paused(true);
    let port = server.listen_tcp(options, super::support::server(sides))?;
    let at_clients: Vec<Log> = (0..10)
        .map(|_| attempt(&client, ConnectOptions::parse("10.0.0.1:7")?.timeout(60 * SECOND)))
        .collect::<Result<_, _>>()?;
    world.run_for(SECOND / 2)?;
    let connected = || at_clients.iter().filter(|log| lines(log) == ["made"]).count();
    assert!(connected() >= 4, "Linux takes one more than the backlog");
    assert_eq!(lines(&at_server), [""; 0]);
    port.resume_accepting()?;
    world.run_for(30 * SECOND)?;
    assert_eq!((connected(), at_server.borrow().len()), (10, 10));
    Ok(())
}

#[test]
fn a_port_forgets_those_for_whom_its_backlog_never_had_room() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    let at_server = Log::default();
    let sides = (0..10).map(|_| Side::new(&at_server)).collect::<Vec<_>>();
    let options = TcpOptions::parse("10.0.0.1:7")?.backlog(3).start_paused(true);
    let port = server.listen_tcp(options, super::support::server(sides))?;
    for _ in 0..10 {
        attempt(&client, ConnectOptions::parse("10.0.0.1:7")?)?;
    }
    // Longer than the server repeats its answers.
    world.run_for(100 * SECOND)?;
    port.resume_accepting()?;
    world.run_for(SECOND)?;
    assert_eq!(lines(&at_server), ["made"; 4]);
    // The clients believe that they are connected, and are told better when they speak.
    let transports = client.streams();
    assert_eq!(transports.len(), 10);
    for transport in &transports {
        transport.write(b"x")?;
    }
    world.run_for(SECOND)?;
    assert_eq!(client.streams().len(), 4);
    Ok(())
}

#[test]
fn a_connection_is_not_taken_while_descriptors_are_wanting() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    let at_server = Log::default();
    let port = listen(&server, "10.0.0.1:7", [Side::new(&at_server)])?;
    let wanting = world.rule(Rule::no_descriptors().from("server"))?;
    let log = attempt(&client, ConnectOptions::parse("10.0.0.1:7")?)?;
    when(&world, &log, 3)?;
    assert_eq!(lines(&log), ["made", "read lost", "lost: Done"]);
    assert_eq!(port.stats()?.shed, 1);
    wanting.lift();
    attempt(&client, ConnectOptions::parse("10.0.0.1:7")?)?;
    when(&world, &at_server, 1)?;
    Ok(())
}

#[test]
fn the_address_that_answers_wins() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    let at_server = Log::default();
    listen(&server, "10.0.0.1:7", [Side::new(&at_server)])?;
    let both = ["[fd00::77]:7".parse()?, "10.0.0.1:7".parse()?];
    let log = attempt(&client, ConnectOptions::any_of(both))?;
    // RFC 8305: the second address is tried a quarter of a second after the first.
    let delay = when(&world, &log, 1)?;
    assert_eq!(lines(&log), ["made"]);
    assert!(delay < SECOND, "{delay:?}");
    assert_eq!(client.streams().len(), 1);
    Ok(())
}

#[test]
fn a_connection_to_itself_is_noticed() -> anyhow::Result<()> {
    let (world, server, _client) = two_hosts();
    let here: std::net::SocketAddr = "10.0.0.1:5000".parse()?;
    let log = attempt(&server, ConnectOptions::new(here).local_addr(here))?;
    world.run_for(SECOND)?;
    assert!(lines(&log)[0].contains("itself"), "{:?}", lines(&log));
    assert!(server.streams().is_empty());
    Ok(())
}

#[test]
fn both_ends_know_the_addresses() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    for (bind, to, shown) in [
        ("10.0.0.1:7", "10.0.0.1:7", "10.0.0.1:7 10.0.0.2:4000"),
        ("[::]:8", "10.0.0.1:8", "[::ffff:10.0.0.1]:8 [::ffff:10.0.0.2]:4000"),
        ("[::]:9", "[fd00::1]:9", "[fd00::1]:9 [fd00::2]:4000"),
    ] {
        let seen = Log::default();
        let told = Rc::clone(&seen);
        let side = Side::default().made(move |transport| {
            let (local, peer) = (transport.local_addr()?, transport.peer_addr()?);
            told.borrow_mut().push(format!("{local} {peer}"));
            transport.abort_connection();
            Ok(())
        });
        listen(&server, bind, [side])?;
        let from = if to.starts_with('[') { "[fd00::2]:4000" } else { "10.0.0.2:4000" };
        let options = ConnectOptions::parse(to)?.local_addr(from.parse::<std::net::SocketAddr>()?);
        attempt(&client, options)?;
        world.run_for(SECOND)?;
        assert_eq!(lines(&seen), [shown]);
    }
    Ok(())
}

#[test]
fn a_thousand_clients_find_ports_of_their_own() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    let at_server = Log::default();
    let sides = (0..1_000).map(|_| Side::new(&at_server).sends(b"x".to_vec())).collect::<Vec<_>>();
    let options = TcpOptions::parse("10.0.0.1:7")?.backlog(10_000);
    server.listen_tcp(options, super::support::server(sides))?;
    let log = Log::default();
    for _ in 0..1_000 {
        client.connect_tcp("10.0.0.1:7", Client::new(Side::new(&log)))?;
    }
    world.run_for(10 * SECOND)?;
    let ended = lines(&log).iter().filter(|line| *line == "lost: Done").count();
    assert_eq!(ended, 1_000);
    assert!(server.streams().is_empty() && client.streams().is_empty());
    Ok(())
}

#[test]
fn a_port_on_one_interface_hears_of_nobody_on_another() -> anyhow::Result<()> {
    let world = World::new(1);
    let gateway = world.host("gateway", "10.0.0.1, 10.1.0.1")?;
    let client = world.host("client", "10.0.0.2, 10.1.0.2")?;
    let on = |device: &str| {
        let options = TcpOptions::parse("0.0.0.0:80").expect("an address").device(device);
        gateway.listen_tcp(options, move |_: PeerAddr| Some(Side::default()))
    };
    let unknown = on("eth7").map(|_| ()).unwrap_err().to_string();
    assert!(unknown.contains("eth7") || unknown.contains("device"), "{unknown}");
    on("eth1")?;
    assert!(on("eth1").is_err(), "taken");
    let ends = |address: &str| -> anyhow::Result<Vec<String>> {
        let log = attempt(&client, ConnectOptions::parse(address)?)?;
        world.run_for(SECOND)?;
        Ok(lines(&log))
    };
    assert_eq!(ends("10.0.0.1:80")?, ["failed: Connection refused (os error 111)"]);
    assert_eq!(ends("10.1.0.1:80")?, ["made"]);
    on("eth0")?;
    assert_eq!(ends("10.0.0.1:80")?, ["made"]);
    Ok(())
}

#[test]
fn what_comes_from_loopback_does_not_leave_the_host() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    listen(&server, "0.0.0.0:7", [])?;
    let options = ConnectOptions::parse("10.0.0.1:7")?.local_addr(([127, 0, 0, 1], 0));
    let log = attempt(&client, options)?;
    assert_eq!(when(&world, &log, 1)?, Duration::ZERO);
    assert_eq!(lines(&log), ["failed: Invalid argument (os error 22)"]);
    Ok(())
}
