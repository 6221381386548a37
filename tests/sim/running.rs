//! How time passes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::sim::World;

use super::support::{Echo, Listener};

#[test]
fn two_hosts_exchange_datagrams_at_the_pace_of_the_link() -> anyhow::Result<()> {
    let world = World::new(1);
    let server = world.host("server", "10.0.0.1")?;
    let client = world.host("client", "10.0.0.2")?;
    server.listen_udp(7, Echo)?;
    let listener = Listener::default();
    let heard = Rc::clone(&listener.heard);
    let port = client.listen_udp(9, listener)?;
    port.write_to(b"hello", "10.0.0.1:7".parse()?)?;
    assert!(world.run_until(|| !heard.borrow().is_empty())?);
    assert_eq!(*heard.borrow(), [("hello".to_owned(), "10.0.0.1:7".parse()?)]);
    assert_eq!(world.elapsed(), Duration::from_millis(2));
    Ok(())
}

#[test]
fn time_jumps_from_timer_to_timer() -> anyhow::Result<()> {
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1")?;
    let start = host.now();
    let calls = Rc::new(RefCell::new(Vec::new()));
    for seconds in [3_600, 1, 60] {
        let calls = Rc::clone(&calls);
        host.call_later(Duration::from_secs(seconds), move |handle| {
            calls.borrow_mut().push(handle.now() - start);
        });
    }
    world.run_for(Duration::from_secs(3_600))?;
    assert_eq!(*calls.borrow(), [1, 60, 3_600].map(Duration::from_secs));
    assert_eq!(host.now() - start, Duration::from_secs(3_600));
    Ok(())
}

#[test]
fn a_stop_shuts_the_host_down_in_the_time_of_the_world() -> anyhow::Result<()> {
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1")?;
    host.listen_udp(9, Listener::default())?;
    let late = Rc::new(Cell::new(false));
    let told = Rc::clone(&late);
    host.call_later(Duration::from_secs(2), move |_| told.set(true));
    host.call_later(Duration::from_secs(1), |handle| handle.stop());
    world.run_for(Duration::from_secs(5))?;
    assert!(host.datagram_ports().is_empty());
    assert!(!late.get(), "a program that has stopped is called no more");
    Ok(())
}
