//! Much data, and readers that are slow.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use strand_reactor::sim::{Link, Rule};
use strand_reactor::{
    ConnectOptions, ConnectionLost, Handle, PeerAddr, Protocol, TcpOptions, Transport,
};

use super::support::{Client, Log, Side, lines, listen, pattern, two_hosts};

const MINUTE: Duration = Duration::from_secs(60);

/// A side that writes as long as it is not held back, in pieces, and then closes. Keeps how much
/// waited at most, and how often it was held back.
fn sender(log: &Log, data: Vec<u8>, most: &Rc<Cell<usize>>, pauses: &Rc<Cell<u32>>) -> Side {
    struct Source {
        data: Vec<u8>,
        at: usize,
        held: bool,
    }
    let source = Rc::new(RefCell::new(Source { data, at: 0, held: false }));
    let most = Rc::clone(most);
    let go = move |source: &Rc<RefCell<Source>>, transport: &Transport| {
        loop {
            let piece = {
                let source = &mut *source.borrow_mut();
                let to = (source.at + 16 * 1024).min(source.data.len());
                if source.held || source.at == to {
                    break;
                }
                let piece = source.data[source.at..to].to_vec();
                source.at = to;
                piece
            };
            transport.write(&piece)?;
            // Offers it now, so that being held back is told soon.
            let _ = transport.flush();
            most.set(most.get().max(transport.queued_bytes()));
            if transport.queued_bytes() > 64 * 1024 {
                break;
            }
        }
        if source.borrow().at == source.borrow().data.len() {
            transport.lose_connection();
        }
        Ok(())
    };
    let (begin, resume, pauses) = (go.clone(), go, Rc::clone(pauses));
    let (one, two, three) = (Rc::clone(&source), Rc::clone(&source), source);
    Side::new(log)
        .made(move |transport| begin(&one, transport))
        .paused(move |_| {
            two.borrow_mut().held = true;
            pauses.set(pauses.get() + 1);
            Ok(())
        })
        .resumed(move |transport| {
            three.borrow_mut().held = false;
            resume(&three, transport)
        })
}

/// A side that takes a rest after everything it is given.
fn slow_reader(log: &Log, rest: Duration) -> Side {
    Side::new(log).data(move |transport| {
        transport.pause_reading()?;
        let again = transport.clone();
        transport.reactor().call_later(rest, move |_: &Handle| {
            // It may have ended meanwhile.
            let _ = again.resume_reading();
        });
        Ok(())
    })
}

#[test]
fn ten_mebibytes_reach_a_slow_reader_without_piling_up() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    let (at_server, at_client) = (Log::default(), Log::default());
    let (most, pauses) = (Rc::default(), Rc::default());
    let side = slow_reader(&at_server, Duration::from_millis(50));
    let received = Rc::clone(&side.received);
    listen(&server, "10.0.0.1:7", [side])?;
    let data = pattern(10 << 20);
    let side = sender(&at_client, data.clone(), &most, &pauses);
    client.connect_tcp("10.0.0.1:7", Client::new(side))?;
    world.run_for(10 * MINUTE)?;
    assert_eq!(lines(&at_server), ["made", "data 10485760", "read lost", "lost: Done"]);
    assert_eq!(lines(&at_client), ["made", "lost: Done"]);
    assert!(*received.borrow() == data);
    assert!(most.get() <= 96 * 1024, "{} bytes waited", most.get());
    assert!(pauses.get() > 50, "held back {} times", pauses.get());
    Ok(())
}

#[test]
fn a_narrow_link_is_filled_and_takes_its_time() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    world
        .default_link(Link::new().latency(Duration::from_millis(10)).bandwidth(8_000_000, 100_000));
    let (at_server, at_client) = (Log::default(), Log::default());
    let side = Side::new(&at_server);
    let received = Rc::clone(&side.received);
    listen(&server, "10.0.0.1:7", [side])?;
    let data = pattern(5_000_000);
    client.connect_tcp("10.0.0.1:7", Client::new(Side::new(&at_client).sends(data.clone())))?;
    assert!(world.run_until(|| lines(&at_server).len() == 4)?);
    assert!(*received.borrow() == data);
    let seconds = world.elapsed().as_secs_f64();
    // A megabyte in a second, less what headers and losses take.
    assert!((5.0..8.0).contains(&seconds), "{seconds}");
    Ok(())
}

#[test]
fn a_path_with_a_small_mtu_is_found_out() -> anyhow::Result<()> {
    for address in ["10.0.0.1:7", "[fd00::1]:7"] {
        let (world, server, client) = two_hosts();
        world.default_link(Link::new().latency(Duration::from_millis(5)).mtu(1_280));
        let at_server = Log::default();
        let side = Side::new(&at_server);
        let received = Rc::clone(&side.received);
        listen(&server, address, [side])?;
        let data = pattern(500_000);
        client.connect_tcp(address, Client::new(Side::default().sends(data.clone())))?;
        assert!(world.run_until(|| lines(&at_server).len() == 4)?);
        assert!(*received.borrow() == data);
        assert!(world.elapsed() < Duration::from_secs(5), "{:?}", world.elapsed());
    }
    Ok(())
}

#[test]
fn routers_tell_of_a_small_mtu_and_connections_after_that_know_it() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    let latency = Duration::from_millis(5);
    world.default_link(Link::new().latency(latency).mtu(1_280));
    let reports = world.rule(Rule::through(Link::new()).icmp())?;
    let long = world.rule(Rule::through(Link::new()).when(|packet| packet.wire_len() > 1_280))?;
    let data = pattern(20_000);
    let send = |address: &str| -> anyhow::Result<Duration> {
        let at_server = Log::default();
        listen(&server, address, [Side::new(&at_server)])?;
        let begun = world.elapsed();
        client.connect_tcp(address, Client::new(Side::default().sends(data.clone())))?;
        assert!(world.run_until(|| lines(&at_server).len() == 4)?);
        Ok(world.elapsed() - begun)
    };
    let first = send("10.0.0.1:7")?;
    assert!(reports.hits() > 0 && reports.hits() == long.hits(), "{reports:?} {long:?}");
    let before = long.hits();
    let second = send("10.0.0.1:8")?;
    assert_eq!(long.hits(), before, "the host remembers the path");
    assert_eq!(first - second, latency, "the report takes its time");
    Ok(())
}

#[test]
fn a_path_that_swallows_reports_is_a_black_hole() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    world.default_link(Link::new().mtu(1_280));
    let swallowed = world.rule(Rule::drop().icmp())?;
    let at_server = Log::default();
    let side = Side::new(&at_server);
    let received = Rc::clone(&side.received);
    listen(&server, "10.0.0.1:7", [side])?;
    client.connect_tcp("10.0.0.1:7", Client::new(Side::default().sends(pattern(20_000))))?;
    world.run_for(Duration::from_secs(3))?;
    assert!(received.borrow().is_empty(), "what is too long never arrives");
    swallowed.lift();
    assert!(world.run_until(|| lines(&at_server).len() == 4)?);
    assert_eq!(received.borrow().len(), 20_000);
    Ok(())
}

/// One end of a forwarded connection: what it hears the other says.
struct Half {
    other: Weak<RefCell<Half>>,
    transport: Option<Transport>,
    most: Rc<Cell<usize>>,
}

impl Half {
    fn other(&self) -> Option<Transport> {
        self.other.upgrade()?.borrow().transport.clone()
    }
}

/// The protocol of a half; the halves know each other, and each keeps the other alive.
struct Coupled(Rc<RefCell<Half>>, #[expect(dead_code, reason = "kept")] Rc<RefCell<Half>>);

impl Protocol for Coupled {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        self.0.borrow_mut().transport = Some(transport.clone());
        match self.0.borrow().other() {
            Some(other) => Ok(other.resume_reading()?),
            None => Ok(transport.pause_reading()?),
        }
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) -> anyhow::Result<()> {
        if let Some(other) = self.0.borrow().other() {
            other.write(data)?;
            let most = &self.0.borrow().most;
            most.set(most.get().max(other.queued_bytes()));
        }
        Ok(())
    }

    fn read_connection_lost(&mut self, _: &Transport) -> anyhow::Result<()> {
        if let Some(other) = self.0.borrow().other() {
            other.lose_write();
        }
        Ok(())
    }

    fn pause_writing(&mut self, _: &Transport) -> anyhow::Result<()> {
        Ok(self.0.borrow().other().map_or(Ok(()), |other| other.pause_reading())?)
    }

    fn resume_writing(&mut self, _: &Transport) -> anyhow::Result<()> {
        Ok(self.0.borrow().other().map_or(Ok(()), |other| other.resume_reading())?)
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        if !reason.is_clean()
            && let Some(other) = self.0.borrow().other()
        {
            other.abort_connection();
        }
    }
}

#[test]
fn a_forwarder_holds_back_who_is_faster_than_the_other() -> anyhow::Result<()> {
    let (world, server, client) = two_hosts();
    let forwarder = world.host("forwarder", "10.0.0.3")?;
    let (at_server, at_client) = (Log::default(), Log::default());
    let side = slow_reader(&at_server, Duration::from_millis(20)).half(|transport| {
        transport.write(b"got it")?;
        transport.lose_connection();
        Ok(())
    });
    let received = Rc::clone(&side.received);
    listen(&server, "10.0.0.1:7", [side])?;
    let most = Rc::new(Cell::new(0));
    let (handle, kept) = (forwarder.clone(), Rc::clone(&most));
    forwarder.listen_tcp(TcpOptions::parse("10.0.0.3:7")?, move |_: PeerAddr| {
        let half = || {
            let most = Rc::clone(&kept);
            Rc::new(RefCell::new(Half { other: Weak::new(), transport: None, most }))
        };
        let (near, far) = (half(), half());
        near.borrow_mut().other = Rc::downgrade(&far);
        far.borrow_mut().other = Rc::downgrade(&near);
        let mut onward = Some(Coupled(Rc::clone(&far), Rc::clone(&near)));
        let options = ConnectOptions::parse("10.0.0.1:7").expect("an address");
        handle.connect_tcp(options, move |_: PeerAddr| onward.take()).expect("an attempt");
        Some(Coupled(near, far))
    })?;
    let data = pattern(4 << 20);
    let send = data.clone();
    let side = Side::new(&at_client).made(move |transport| {
        transport.write(&send)?;
        transport.lose_write();
        Ok(())
    });
    client.connect_tcp("10.0.0.3:7", Client::new(side))?;
    world.run_for(10 * MINUTE)?;
    assert!(*received.borrow() == data);
    assert_eq!(lines(&at_client), ["made", "write lost", "data 6", "read lost", "lost: Done"]);
    assert_eq!(lines(&at_server).last().map(String::as_str), Some("lost: Done"));
    assert!(most.get() < 1 << 20, "{} bytes waited in the forwarder", most.get());
    for host in [&server, &client, &forwarder] {
        assert!(host.streams().is_empty());
    }
    Ok(())
}
