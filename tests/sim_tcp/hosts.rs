//! Hosts that crash and come back, and hosts known by name.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::{ConnectOptions, KeepAlive, Transport};

use super::support::{Client, Log, Side, lines, listen, two_hosts};

const SECOND: Duration = Duration::from_secs(1);

type Kept = Rc<RefCell<Option<Transport>>>;

fn keep(kept: &Kept) -> impl FnMut(&Transport) -> anyhow::Result<()> + use<> {
    let kept = Rc::clone(kept);
    move |transport| {
        *kept.borrow_mut() = Some(transport.clone());
        Ok(())
    }
}

#[test]
fn a_host_that_crashes_is_silent_and_once_it_is_back_resets() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    let (at_server, at_client, kept) = (Log::default(), Log::default(), Kept::default());
    listen(&server, "10.0.0.1:7", [Side::new(&at_server)])?;
    client.connect_tcp("10.0.0.1:7", Client::new(Side::new(&at_client).made(keep(&kept))))?;
    world.run_for(SECOND)?;
    world.crash("server")?;
    world.run_for(60 * SECOND)?;
    kept.borrow().as_ref().expect("made").write(b"anybody?")?;
    world.run_for(5 * SECOND)?;
    assert_eq!(lines(&at_client), ["made"], "silence");
    world.restart("server")?;
    world.run_for(30 * SECOND)?;
    assert_eq!(lines(&at_client), ["made", "lost: Reset"]);
    assert_eq!(lines(&at_server), ["made"], "a crash is told to nobody");
    Ok(())
}

#[test]
fn the_address_of_a_host_that_came_back_serves_again() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    let at_client = Log::default();
    listen(&server, "10.0.0.1:7", [])?;
    world.run_for(SECOND)?;
    world.crash("server")?;
    let options = ConnectOptions::parse("10.0.0.1:7")?.timeout(600 * SECOND);
    client.connect_tcp(options, Client::new(Side::new(&at_client)))?;
    world.run_for(10 * SECOND)?;
    assert_eq!(lines(&at_client), [""; 0], "a host that is down answers nothing");
    let server = world.restart("server")?;
    listen(&server, "10.0.0.1:7", [Side::default().sends(b"back".to_vec())])?;
    world.run_for(60 * SECOND)?;
    assert_eq!(lines(&at_client), ["made", "data 4", "read lost", "lost: Done"]);
    Ok(())
}

#[test]
fn a_client_that_crashed_is_noticed_by_probes() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    let at_server = Log::default();
    let side = Side::new(&at_server).made(|transport| {
        let times = KeepAlive { idle: 60 * SECOND, interval: 10 * SECOND, count: 3 };
        Ok(transport.set_keepalive(Some(times))?)
    });
    listen(&server, "10.0.0.1:7", [side])?;
    client.connect_tcp("10.0.0.1:7", Client::new(Side::default()))?;
    world.run_for(SECOND)?;
    world.crash("client")?;
    world.run_for(80 * SECOND)?;
    assert_eq!(lines(&at_server), ["made"]);
    world.run_for(20 * SECOND)?;
    assert_eq!(lines(&at_server), ["made", "lost: TimedOut"]);
    Ok(())
}

#[test]
fn a_host_is_reached_by_the_first_of_its_addresses_that_answers() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    let at_client = Log::default();
    // Nobody has the first.
    world.name("server.test", "fd00::77, 10.0.0.1")?;
    listen(&server, "10.0.0.1:7", [Side::default().sends(b"hello".to_vec())])?;
    let options = ConnectOptions::host("server.test", 7);
    client.connect_tcp(options, Client::new(Side::new(&at_client)))?;
    world.run_for(2 * SECOND)?;
    assert_eq!(lines(&at_client), ["made", "data 5", "read lost", "lost: Done"]);
    assert!(client.streams().is_empty());
    Ok(())
}

#[test]
fn the_text_of_a_world_shows_connections_and_ports() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    listen(&server, "10.0.0.1:7", [Side::default()])?;
    client.connect_tcp("10.0.0.1:7", Client::new(Side::default()))?;
    world.run_for(SECOND)?;
    let text = world.dump();
    assert!(text.contains("tcp 10.0.0.1:7 listens, 0 wait"), "{text}");
    assert!(text.contains("tcp 10.0.0.1:7 > 10.0.0.2:32768 Established"), "{text}");
    Ok(())
}
