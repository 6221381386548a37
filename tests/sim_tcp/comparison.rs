//! The same protocols over the loopback of the system and over the simulated network: each side
//! is told the same, in the same order. Where they differ, the simulation is wrong.

use std::cell::OnceCell;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::{Handle, ListeningPort, PeerAddr, Reactor, TcpOptions};

use super::scenarios::{SCENARIOS, Scenario};
use super::support::{Client, Log, lines, two_hosts};
use super::watchdog::watchdog;

/// Has the sides meet. The port closes once it has taken one connection.
fn begin(
    scenario: &Scenario,
    server: &Handle,
    client: &Handle,
    address: SocketAddr,
    logs: &[Log; 2],
) -> anyhow::Result<()> {
    let (server_side, client_side) = (scenario.sides)(&logs[0], &logs[1]);
    let mut address = address;
    if scenario.listens {
        let own = Rc::new(OnceCell::<ListeningPort>::new());
        let (mut side, this) = (server_side, Rc::clone(&own));
        let port = server.listen_tcp(TcpOptions::new(address), move |_: PeerAddr| {
            this.get().expect("open").stop_listening();
            side.take()
        })?;
        address = port.local_addr()?;
        own.set(port).expect("set once");
    }
    client.connect_tcp(address, Client::new(client_side))?;
    Ok(())
}

fn over_the_system(scenario: &Scenario) -> anyhow::Result<[Vec<String>; 2]> {
    let reactor = Reactor::new()?;
    let logs = [Log::default(), Log::default()];
    let address = match scenario.listens {
        true => "127.0.0.1:0".parse()?,
        // Where nobody listens any more.
        false => TcpListener::bind("127.0.0.1:0")?.local_addr()?,
    };
    begin(scenario, &reactor, &reactor, address, &logs)?;
    reactor.run()?;
    Ok(logs.map(|log| lines(&log)))
}

fn in_simulation(scenario: &Scenario, address: &str) -> anyhow::Result<[Vec<String>; 2]> {
    let (world, server, client) = two_hosts();
    let logs = [Log::default(), Log::default()];
    begin(scenario, &server, &client, address.parse()?, &logs)?;
    world.run_for(Duration::from_secs(60))?;
    let logs = logs.map(|log| lines(&log));
    let left = (server.streams().len(), client.streams().len());
    assert_eq!(left, (0, 0), "{}: {logs:?}", scenario.name);
    Ok(logs)
}

#[test]
fn both_sides_are_told_the_same_as_over_the_system() -> anyhow::Result<()> {
    let _watchdog = watchdog();
    let mut wrong = Vec::new();
    for scenario in SCENARIOS {
        let real = over_the_system(scenario)?;
        assert!(!real[1].is_empty(), "{}: the client is told something", scenario.name);
        for address in ["10.0.0.1:7", "[fd00::1]:7"] {
            let simulated = in_simulation(scenario, address)?;
            if real != simulated {
                wrong.push(format!(
                    "{} ({address}), server and client\n  system:     {real:?}\n  simulation: {simulated:?}",
                    scenario.name
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
