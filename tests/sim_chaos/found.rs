//! What chaos has found, each by itself.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use strand_reactor::sim::World;
use strand_reactor::{
    ConnectionLost, Flow, Handle, PeerAddr, Protocol, ShutdownPhase, StreamLayer, TcpOptions,
    Transport,
};

const SECOND: Duration = Duration::from_secs(1);

type Log = Rc<RefCell<Vec<String>>>;
type Act = Box<dyn FnMut(&Transport) -> Result<()>>;

/// Writes down its life; does something when it is made and with the first data.
struct Side {
    log: Log,
    made: Option<Act>,
    data: Option<Act>,
}

impl Side {
    fn new(log: &Log) -> Self {
        Self { log: Rc::clone(log), made: None, data: None }
    }

    fn made(mut self, act: impl FnMut(&Transport) -> Result<()> + 'static) -> Self {
        self.made = Some(Box::new(act));
        self
    }

    fn data(mut self, act: impl FnMut(&Transport) -> Result<()> + 'static) -> Self {
        self.data = Some(Box::new(act));
        self
    }
}

impl Protocol for Side {
    fn connection_made(&mut self, transport: &Transport) -> Result<()> {
        self.log.borrow_mut().push("made".to_owned());
        self.made.as_mut().map_or(Ok(()), |act| act(transport))
    }

    fn data_received(&mut self, transport: &Transport, _: &[u8]) -> Result<()> {
        self.data.take().map_or(Ok(()), |mut act| act(transport))
    }

    fn read_connection_lost(&mut self, transport: &Transport) -> Result<()> {
        self.log.borrow_mut().push("end".to_owned());
        transport.lose_connection();
        Ok(())
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        self.log.borrow_mut().push(reason.to_string());
    }
}

/// A server at 10.0.0.1:7 and a client that connects to it at once.
fn meet(world: &World, server: Side, client: Side) -> (Handle, Handle) {
    let one = world.host("server", "10.0.0.1").expect("a host");
    let other = world.host("client", "10.0.0.2").expect("a host");
    let mut server = Some(server);
    one.listen_tcp(TcpOptions::parse("0.0.0.0:7").expect("an address"), move |_: PeerAddr| {
        server.take()
    })
    .expect("a free port");
    let mut client = Some(client);
    let to: std::net::SocketAddr = "10.0.0.1:7".parse().expect("an address");
    other.connect_tcp(to, move |_: PeerAddr| client.take()).expect("an attempt");
    (one, other)
}

fn lines(log: &Log) -> Vec<String> {
    log.borrow().clone()
}

/// The loss of a connection was still told when the completion before it, or a hook of the
/// shutdown, had crashed the host.
#[test]
fn a_host_that_crashes_in_a_shutdown_is_called_no_more() {
    let world = Rc::new(World::new(1));
    let (here, there) = (Log::default(), Log::default());
    let (host, _) = meet(&world, Side::new(&here), Side::new(&there));
    world.run_for(SECOND).expect("not from a callback");
    assert_eq!(lines(&here), ["made"]);
    let own = Rc::clone(&world);
    host.on_shutdown(ShutdownPhase::During, move |_| {
        own.crash("server").expect("a host");
    })
    .map(drop)
    .expect("not shutting down");
    host.stop();
    world.run_for(SECOND).expect("not from a callback");
    assert_eq!(lines(&here), ["made"], "called after the crash");
    assert!(host.is_closed());
}

/// `step` passed by every instant that was nobody's turn: with a reader that never reads the
/// network probes for ever, and it did not return.
#[test]
fn a_step_ends_while_the_network_never_rests() {
    let world = World::new(1);
    let log = Log::default();
    let deaf = Side::new(&log).made(|transport| Ok(transport.pause_reading()?));
    let talker = Side::new(&log).made(|transport| Ok(transport.write(&[7; 4 << 20])?));
    meet(&world, deaf, talker);
    for _ in 0..5_000 {
        assert!(world.step().expect("not from a callback"));
    }
    assert!(world.elapsed() > 60 * SECOND, "{:?}", world.elapsed());
    let until = world.elapsed() + 600 * SECOND;
    assert!(world.run_until(|| world.elapsed() > until).expect("not from a callback"));
}

/// A reactor that stopped before all was sent closed the connection in order: its peer took what
/// had come for the whole.
#[test]
fn what_a_shutdown_cuts_off_ends_with_a_reset() {
    let world = World::new(1);
    let (here, there) = (Log::default(), Log::default());
    let slow = Side::new(&here).made(|transport| Ok(transport.pause_reading()?));
    let talker = Side::new(&there).made(|transport| Ok(transport.write(&[7; 4 << 20])?));
    let (_, client) = meet(&world, slow, talker);
    world.run_for(SECOND).expect("not from a callback");
    client.stop();
    // It is held back until the shutdown has waited long enough.
    world.run_for(60 * SECOND).expect("not from a callback");
    assert_eq!(lines(&there), ["made", "aborted"]);
    assert_eq!(lines(&here), ["made", "the peer reset the connection"]);
}

struct Through;

impl StreamLayer for Through {
    fn received(&mut self, data: &[u8], flow: &mut Flow) -> Result<()> {
        flow.deliver(data);
        Ok(())
    }

    fn written(&mut self, data: &[u8], flow: &mut Flow) -> Result<()> {
        flow.send(data);
        Ok(())
    }
}

/// Where a write had met the reset first, reading found an end, and through a layer the protocol
/// was told of it as one in order.
#[test]
fn a_reset_is_no_end_in_order_through_a_layer() {
    let world = World::new(1);
    let (here, there) = (Log::default(), Log::default());
    let server = Side::new(&here).made(|transport| {
        transport.push_layer(Through)?;
        // So much that some waits: it is offered again, and so meets the reset, before the read.
        transport.write(&[7; 4 << 20])?;
        Ok(())
    });
    let client = Side::new(&there)
        .made(|transport| {
            transport.pause_reading()?;
            let own = transport.clone();
            transport.reactor().call_later(SECOND, move |_| own.abort_connection());
            Ok(())
        })
        .data(|_| Ok(()));
    meet(&world, server, client);
    world.run_for(10 * SECOND).expect("not from a callback");
    assert_eq!(lines(&there), ["made", "aborted"]);
    assert_eq!(lines(&here), ["made", "the peer reset the connection"]);
}
