//! How connections end, in order and otherwise.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::sim::{Link, Rule, World, for_each_seed};
use strand_reactor::{
    ConnectOptions, Handle, KeepAlive, ListenError, PeerAddr, TcpOptions, Transport,
};

use super::support::{Client, Log, Side, lines, listen, pattern, two_hosts};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn lossy(loss: f64) -> Link {
    let latency = Duration::from_millis(20);
    Link::new()
        .latency(latency)
        .loss(loss)
        .duplication(0.1)
        .reordering(0.2, Duration::from_millis(70))
}

#[test]
fn all_that_was_written_before_a_close_arrives_under_loss() {
    for_each_seed(0..10, |world| {
        let server = world.host("server", "10.0.0.1")?;
        let client = world.host("client", "10.0.0.2")?;
        world.default_link(lossy(0.3));
        let (at_server, at_client) = (Log::default(), Log::default());
        let side = Side::new(&at_server);
        let received = Rc::clone(&side.received);
        listen(&server, "10.0.0.1:7", [side])?;
        let data = pattern(100_000);
        let options = ConnectOptions::parse("10.0.0.1:7")?.timeout(10 * MINUTE);
        client.connect_tcp(options, Client::new(Side::new(&at_client).sends(data.clone())))?;
        world.run_for(30 * MINUTE)?;
        assert_eq!(lines(&at_client).last().map(String::as_str), Some("lost: Done"));
        assert!(*received.borrow() == data, "{} bytes", received.borrow().len());
        assert_eq!(lines(&at_server), ["made", "data 100000", "read lost", "lost: Done"]);
        assert!(server.streams().is_empty() && client.streams().is_empty());
        anyhow::Ok(())
    });
}

#[test]
fn the_same_seed_gives_the_same_packets() -> anyhow::Result<()> {
    let trace = |seed| -> anyhow::Result<Vec<u8>> {
        let world = World::new(seed);
        let server = world.host("server", "10.0.0.1")?;
        let client = world.host("client", "10.0.0.2")?;
        world.default_link(lossy(0.2));
        world.trace_in_memory();
        let log = Log::default();
        let sides = (0..5).map(|_| Side::new(&log)).collect::<Vec<_>>();
        listen(&server, "10.0.0.1:7", sides)?;
        for len in [0, 1, 1_000, 30_000, 100_000] {
            let side = Side::new(&log).sends(pattern(len));
            client.connect_tcp("10.0.0.1:7", Client::new(side))?;
        }
        world.run_for(10 * MINUTE)?;
        Ok(world.end_trace()?)
    };
    let first = trace(7)?;
    assert!(first.len() > 200_000);
    assert!(first == trace(7)?);
    assert!(first != trace(8)?);
    Ok(())
}

#[test]
fn a_reset_that_is_lost_is_told_to_who_speaks_next() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    let at_server = Log::default();
    let transport = Rc::new(RefCell::new(None));
    let keep = Rc::clone(&transport);
    let side = Side::new(&at_server).made(move |transport| {
        *keep.borrow_mut() = Some(transport.clone());
        Ok(transport.write(b"hello")?)
    });
    listen(&server, "10.0.0.1:7", [side])?;
    let at_client = Log::default();
    // Later: what was received is acknowledged by then.
    let abort = |transport: &Transport| {
        let transport = transport.clone();
        transport.reactor().call_later(SECOND, move |_: &Handle| transport.abort_connection());
        Ok(())
    };
    let lost = world.rule(Rule::drop().when(|packet| packet.is_reset()).times(1))?;
    client.connect_tcp("10.0.0.1:7", Client::new(Side::new(&at_client).after(5, abort)))?;
    world.run_for(MINUTE)?;
    assert_eq!((lost.hits(), lines(&at_server)), (1, vec!["made".to_owned()]));
    assert_eq!(lines(&at_client), ["made", "data 5", "lost: Aborted"]);
    transport.borrow().as_ref().expect("made").write(b"are you there?")?;
    world.run_for(SECOND)?;
    assert_eq!(lines(&at_server), ["made", "lost: Reset"]);
    Ok(())
}

#[test]
fn a_stop_sends_what_was_written() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    let (at_server, at_client) = (Log::default(), Log::default());
    let data = pattern(3 << 20);
    let send = data.clone();
    let side = Side::new(&at_server).made(move |transport| {
        transport.write(&send)?;
        transport.reactor().stop();
        Ok(())
    });
    listen(&server, "10.0.0.1:7", [side])?;
    let side = Side::new(&at_client);
    let received = Rc::clone(&side.received);
    client.connect_tcp("10.0.0.1:7", Client::new(side))?;
    world.run_for(MINUTE)?;
    assert!(*received.borrow() == data);
    assert_eq!(lines(&at_client), ["made", "data 3145728", "read lost", "lost: Done"]);
    assert_eq!(lines(&at_server).last().map(String::as_str), Some("lost: Done"));
    Ok(())
}

#[test]
fn a_peer_that_is_gone_is_noticed_by_who_asks() -> anyhow::Result<()> {
    for keepalive in [false, true] {
        let (world, server, client) = two_hosts();
        let (at_server, at_client) = (Log::default(), Log::default());
        listen(&server, "10.0.0.1:7", [Side::new(&at_server)])?;
        let mut options = ConnectOptions::parse("10.0.0.1:7")?;
        if keepalive {
            options =
                options.keepalive(KeepAlive { idle: MINUTE, interval: 10 * SECOND, count: 3 });
        }
        client.connect_tcp(options, Client::new(Side::new(&at_client)))?;
        world.run_for(60 * MINUTE)?;
        assert_eq!(lines(&at_client), ["made"], "an idle connection lasts");
        let cut = world.partition("server", "client")?;
        world.run_for(2 * MINUTE)?;
        match keepalive {
            true => assert_eq!(lines(&at_client), ["made", "lost: TimedOut"]),
            false => assert_eq!(lines(&at_client), ["made"]),
        }
        drop(cut);
        assert_eq!(lines(&at_server), ["made"]);
    }
    Ok(())
}

#[test]
fn what_a_partition_held_up_arrives_when_it_heals_or_never() -> anyhow::Result<()> {
    for (minutes, end) in [(5, "data 7"), (60, "lost: TimedOut")] {
        let (world, server, client) = two_hosts();
        let (at_server, at_client) = (Log::default(), Log::default());
        listen(&server, "10.0.0.1:7", [Side::new(&at_server)])?;
        let transport = Rc::new(RefCell::new(None));
        let keep = Rc::clone(&transport);
        let side = Side::new(&at_client).made(move |transport| {
            *keep.borrow_mut() = Some(transport.clone());
            Ok(())
        });
        client.connect_tcp("10.0.0.1:7", Client::new(side))?;
        world.run_for(SECOND)?;
        let cut = world.partition("server", "client")?;
        transport.borrow().as_ref().expect("made").write(b"waiting")?;
        world.run_for(minutes * MINUTE)?;
        drop(cut);
        world.run_for(10 * MINUTE)?;
        let log = if end.starts_with("data") { at_server } else { at_client };
        assert_eq!(lines(&log).last().map(String::as_str), Some(end));
    }
    Ok(())
}

#[test]
fn a_port_rests_after_a_close_unless_it_may_be_reused() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    let options = TcpOptions::parse("10.0.0.1:7")?.reuse_address(false);
    let side = Side::default().sends(b"bye".to_vec());
    let port = server.listen_tcp(options.clone(), super::support::server([side]))?;
    client.connect_tcp("10.0.0.1:7", Client::new(Side::default()))?;
    world.run_for(SECOND)?;
    port.stop_listening();
    world.run_for(SECOND)?;
    assert!(server.streams().is_empty());
    match server.listen_tcp(options.clone(), |_: PeerAddr| None::<Side>) {
        Err(ListenError::Bind { source, .. }) => assert_eq!(source.raw_os_error(), Some(98)),
        other => panic!("{other:?}"),
    }
    world.run_for(MINUTE)?;
    server.listen_tcp(options, |_: PeerAddr| None::<Side>)?;
    Ok(())
}

#[test]
fn a_listener_that_closes_resets_who_waits_in_its_backlog() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    let options = TcpOptions::parse("10.0.0.1:7")?.start_paused(true);
    let port = server.listen_tcp(options, |_: PeerAddr| None::<Side>)?;
    let log = Log::default();
    client.connect_tcp("10.0.0.1:7", Client::new(Side::new(&log)))?;
    world.run_for(SECOND)?;
    port.stop_listening();
    world.run_for(SECOND)?;
    assert_eq!(lines(&log), ["made", "lost: Reset"]);
    Ok(())
}
