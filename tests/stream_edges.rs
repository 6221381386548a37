//! Streams at their edges: marks of urgent data, and layers that wait, end early or call back.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram as UnixSocket, UnixStream};
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use strand_reactor::{
    ConnectionLost, Flow, Handle, PeerAddr, Protocol, StreamLayer, Transport, UnixDatagram,
    UnixDatagramProtocol, UnixDatagramTransport,
};

mod ground;

use ground::{Ground, Peer, everywhere, on_the_system};

type Log = Rc<RefCell<Vec<String>>>;
type Made = Box<dyn FnMut(&Transport) -> anyhow::Result<()>>;

/// Collects what it receives, and goes on when the peer has ended.
struct Collect {
    log: Log,
    got: Rc<RefCell<Vec<u8>>>,
    made: Made,
}

impl Protocol for Collect {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        (self.made)(transport)
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) -> anyhow::Result<()> {
        self.got.borrow_mut().extend_from_slice(data);
        Ok(())
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        self.log.borrow_mut().push(format!("{reason:?}"));
    }
}

struct Lab<'a> {
    ground: &'a Ground,
    log: Log,
    got: Rc<RefCell<Vec<u8>>>,
    port: strand_reactor::ListeningPort,
}

/// A port for one connection, which does not accept yet.
fn lab(ground: &Ground, made: impl FnMut(&Transport) -> anyhow::Result<()> + 'static) -> Lab<'_> {
    let (log, got) = (Log::default(), Rc::default());
    let protocol = Collect { log: Rc::clone(&log), got: Rc::clone(&got), made: Box::new(made) };
    let mut protocol = Some(protocol);
    let options = ground.loopback().start_paused(true);
    let port = ground.server().listen_tcp(options, move |_: PeerAddr| protocol.take());
    Lab { ground, log, got, port: port.expect("a port") }
}

impl Lab<'_> {
    fn address(&self) -> SocketAddr {
        self.port.local_addr().expect("bound")
    }

    fn connect(&self) -> Peer {
        self.ground.plain(self.address())
    }

    /// Accepts, while a peer that blocks does this.
    #[track_caller]
    fn against<R: Send + 'static>(&self, peer: impl FnOnce(Peer) -> R + Send + 'static) -> R {
        self.port.resume_accepting().expect("open");
        let result = self.ground.with_peer(self.address(), peer);
        self.ground.turn_until(|| !self.log.borrow().is_empty());
        result
    }
}

#[test]
fn what_follows_urgent_data_is_read_without_waiting_for_more() {
    // The simulated TCP has no urgent data.
    on_the_system(|ground| {
        for layered in [false, true] {
            let lab = lab(&ground, move |transport| {
                if layered {
                    transport.push_layer(Plain)?;
                }
                Ok(())
            });
            let mut stream = TcpStream::connect(lab.address()).expect("a connection");
            // All of it waits when the connection is accepted: no later event helps.
            stream.write_all(b"before").expect("sent");
            SockRef::from(&stream).send_out_of_band(b"!").expect("sent");
            stream.write_all(b"after").expect("sent");
            lab.port.resume_accepting().expect("open");
            ground.turn_until(|| *lab.got.borrow() == b"beforeafter");
        }
    });
}

#[test]
fn what_cuts_a_read_of_a_unix_stream_short_does_not_hide_the_rest_from_a_layer() {
    // A simulated host has no UNIX sockets.
    on_the_system(|ground| {
        let (reactor, got) = (ground.server(), Rc::default());
        let (mut near, far) = UnixStream::pair().expect("a pair");
        let protocol = Collect {
            log: Log::default(),
            got: Rc::clone(&got),
            made: Box::new(|transport| Ok(transport.push_layer(Plain)?)),
        };
        reactor.adopt_stream_connection(far, protocol).expect("adopted");
        let ticked = Rc::<Cell<bool>>::default();
        let tick = Rc::clone(&ticked);
        reactor.call_later(Duration::from_millis(1), move |_: &Handle| tick.set(true));
        ground.turn_until(|| ticked.get());
        near.write_all(b"before").expect("sent");
        if SockRef::from(&near).send_out_of_band(b"!").is_err() {
            return println!("skipped: no urgent data on UNIX sockets here");
        }
        near.write_all(b"after").expect("sent");
        ground.turn_until(|| *got.borrow() == b"beforeafter");
    });
}

/// A socket whose conversion looks at the reactor, and takes a place in it.
struct Curious<S>(S, Handle);

impl<S: Into<OwnedFd>> From<Curious<S>> for OwnedFd {
    fn from(curious: Curious<S>) -> Self {
        let Curious(socket, handle) = curious;
        let (one, two) = (UnixStream::pair().expect("a pair"), UnixSocket::pair().expect("a pair"));
        let collect =
            Collect { log: Log::default(), got: Rc::default(), made: Box::new(|_| Ok(())) };
        handle.adopt_stream_connection(one.0, collect).expect("adopted").unref().expect("open");
        handle.adopt_unix_datagram_port(two.0, Ignore).expect("adopted").unref().expect("open");
        socket.into()
    }
}

struct Ignore;

impl UnixDatagramProtocol for Ignore {
    fn datagram_received(
        &mut self,
        transport: &UnixDatagramTransport,
        _: UnixDatagram<'_>,
    ) -> anyhow::Result<()> {
        transport.reactor().stop();
        Ok(())
    }
}

#[test]
fn the_conversion_of_an_adopted_socket_may_use_the_reactor() {
    // A simulated host has no descriptors to adopt.
    on_the_system(|ground| {
        let reactor = ground.reactor();
        let (near, mut far) = UnixStream::pair().expect("a pair");
        let got = Rc::default();
        let collect =
            Collect { log: Log::default(), got: Rc::clone(&got), made: Box::new(|_| Ok(())) };
        reactor.adopt_stream_connection(Curious(near, ground.server()), collect).expect("adopted");
        far.write_all(b"hello").expect("sent");
        ground.turn_until(|| *got.borrow() == b"hello");
        let (near, far) = UnixSocket::pair().expect("a pair");
        reactor.adopt_unix_datagram_port(Curious(near, ground.server()), Ignore).expect("adopted");
        far.send(b"hello").expect("sent");
        reactor.run().expect("the loop runs");
        assert_eq!(reactor.stats().callback_panics, 0);
    });
}

struct Plain;

impl StreamLayer for Plain {}

/// Answers whatever comes.
struct Answers;

impl StreamLayer for Answers {
    fn received(&mut self, data: &[u8], flow: &mut Flow) -> anyhow::Result<()> {
        flow.send(b"seen");
        flow.deliver(data);
        Ok(())
    }
}

#[test]
fn what_a_layer_sends_after_its_end_of_writing_does_not_break_the_way_in() {
    everywhere(|ground| {
        let lab = lab(ground, |transport| {
            transport.push_layer(Answers)?;
            transport.write(b"hello")?;
            transport.lose_write();
            Ok(())
        });
        let greeting = lab.against(|mut stream| {
            let mut greeting = Vec::new();
            stream.read_to_end(&mut greeting).expect("an end");
            for _ in 0..3 {
                stream.write_all(&[7; 100_000]).expect("sent");
            }
            stream.shutdown(Shutdown::Write);
            greeting
        });
        assert_eq!(greeting, b"hello");
        assert_eq!(lab.got.borrow().len(), 300_000);
        assert_eq!(*lab.log.borrow(), ["Done"]);
    });
}

/// Keeps what is written until the peer has said "ok".
#[derive(Default)]
struct Handshake {
    agreed: bool,
    ended: bool,
    kept: Vec<u8>,
}

impl StreamLayer for Handshake {
    fn attached(&mut self, _: &Transport, flow: &mut Flow) -> anyhow::Result<()> {
        flow.send(b"?");
        Ok(())
    }

    fn received(&mut self, data: &[u8], flow: &mut Flow) -> anyhow::Result<()> {
        let first = !std::mem::replace(&mut self.agreed, true);
        let rest = if first { data.strip_prefix(b"ok").expect("the answer") } else { data };
        flow.deliver(rest);
        flow.send(&std::mem::take(&mut self.kept));
        if self.ended {
            flow.end_writing();
        }
        Ok(())
    }

    fn read_ended(&mut self, flow: &mut Flow) -> anyhow::Result<()> {
        flow.end_reading();
        // There will be no answer any more.
        flow.end_writing();
        Ok(())
    }

    fn written(&mut self, data: &[u8], flow: &mut Flow) -> anyhow::Result<()> {
        match self.agreed {
            true => flow.send(data),
            false => self.kept.extend_from_slice(data),
        }
        Ok(())
    }

    fn write_ended(&mut self, flow: &mut Flow) -> anyhow::Result<()> {
        self.ended = true;
        if self.agreed {
            flow.end_writing();
        }
        Ok(())
    }
}

fn closes_during_a_handshake(transport: &Transport) -> anyhow::Result<()> {
    transport.push_layer(Handshake::default())?;
    transport.write(b"hello")?;
    transport.lose_connection();
    Ok(())
}

#[test]
fn closing_waits_for_a_layer_that_waits_for_the_peer() {
    everywhere(|ground| {
        let lab = lab(ground, closes_during_a_handshake);
        let all = lab.against(|mut stream| {
            let mut all = vec![0];
            stream.read_exact(&mut all).expect("a question");
            stream.write_all(b"ok and more than that").expect("sent");
            stream.read_to_end(&mut all).expect("an end");
            all
        });
        assert_eq!(all, b"?hello");
        assert_eq!(*lab.log.borrow(), ["Done"]);
        assert!(lab.got.borrow().is_empty(), "delivered after lose_connection");
    });
}

#[test]
fn a_peer_that_leaves_a_layer_waiting_does_not_hold_a_closing_connection() {
    everywhere(|ground| {
        for reset in [false, true] {
            let lab = lab(ground, closes_during_a_handshake);
            lab.port.resume_accepting().expect("open");
            let mut stream = lab.connect();
            ground.turn_until(|| !ground.streams().is_empty());
            stream.read_exact(&mut [0]).expect("a question");
            match reset {
                true => stream.reset(),
                false => drop(stream),
            }
            ground.turn_until(|| !lab.log.borrow().is_empty());
            assert_eq!(*lab.log.borrow(), [if reset { "Reset" } else { "Done" }]);
        }
    });
}

/// Wakes itself whenever it is woken.
struct Restless(Option<Transport>, Rc<Cell<usize>>);

impl StreamLayer for Restless {
    fn attached(&mut self, transport: &Transport, _: &mut Flow) -> anyhow::Result<()> {
        self.0 = Some(transport.clone());
        transport.wake_layers();
        Ok(())
    }

    fn woken(&mut self, _: &mut Flow) -> anyhow::Result<()> {
        self.1.set(self.1.get() + 1);
        assert!(self.1.get() < 1_000_000, "nobody else has a turn");
        if let Some(transport) = &self.0 {
            transport.wake_layers();
        }
        Ok(())
    }
}

#[test]
fn a_layer_that_wakes_itself_leaves_others_their_turn() {
    everywhere(|ground| {
        let woken = Rc::<Cell<usize>>::default();
        let count = Rc::clone(&woken);
        let lab = lab(ground, move |transport| {
            Ok(transport.push_layer(Restless(None, Rc::clone(&count)))?)
        });
        let _stream = lab.connect();
        lab.port.resume_accepting().expect("open");
        let ticks = Rc::<Cell<usize>>::default();
        let tick = Rc::clone(&ticks);
        ground
            .server()
            .looping_call(Duration::from_millis(1), move |_: &Handle, _| tick.set(tick.get() + 1))
            .unref();
        ground.turn_until(|| ticks.get() > 3 && woken.get() > 10);
    });
}

#[test]
fn a_shutdown_sends_what_was_written_through_layers() {
    everywhere(|ground| {
        let lab = lab(ground, |transport| {
            transport.push_layer(Plain)?;
            transport.write(b"goodbye")?;
            transport.reactor().stop();
            Ok(())
        });
        let mut stream = lab.connect();
        lab.port.resume_accepting().expect("open");
        ground.run();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("an end");
        assert_eq!(all, b"goodbye");
        assert_eq!(*lab.log.borrow(), ["Done"]);
    });
}

/// Fails when it is dropped.
struct Bomb(Rc<Cell<usize>>);

impl Drop for Bomb {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
        panic!("a drop that panics");
    }
}

impl StreamLayer for Bomb {}

struct Bombs {
    _bomb: Bomb,
}

impl Protocol for Bombs {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        transport.push_layer(Bomb(Rc::clone(&self._bomb.0)))?;
        transport.lose_connection();
        Ok(())
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }
}

#[test]
fn a_drop_that_panics_hurts_nobody_else() {
    everywhere(|ground| {
        ground.expect_panics(11);
        let count = Rc::<Cell<usize>>::default();
        let (of_server, own) = (Rc::clone(&count), Bomb(Rc::clone(&count)));
        let port = ground
            .server()
            .listen_tcp(ground.any_port(), move |_: PeerAddr| {
                let _keep = &own;
                Some(Bombs { _bomb: Bomb(Rc::clone(&of_server)) })
            })
            .expect("a port");
        let address = port.local_addr().expect("bound");
        for _ in 0..2 {
            // The factory of each client goes with its connector.
            let (inner, own) = (Rc::clone(&count), Bomb(Rc::clone(&count)));
            ground
                .client()
                .connect_tcp(address, move |_: PeerAddr| {
                    let _keep = &own;
                    Some(Bombs { _bomb: Bomb(Rc::clone(&inner)) })
                })
                .map(drop)
                .expect("an attempt");
        }
        ground.turn_until(|| count.get() == 4 * 2 + 2 && ground.streams().is_empty());
        port.stop_listening();
        ground.run();
        assert_eq!(count.get(), 11);
        assert_eq!(ground.panics(), 11);
    });
}

/// Notes what it is told before it is attached.
#[derive(Default)]
struct Ordered(Rc<RefCell<Vec<&'static str>>>);

impl StreamLayer for Ordered {
    fn attached(&mut self, _: &Transport, _: &mut Flow) -> anyhow::Result<()> {
        self.0.borrow_mut().push("attached");
        Ok(())
    }

    fn woken(&mut self, _: &mut Flow) -> anyhow::Result<()> {
        self.0.borrow_mut().push("woken");
        Ok(())
    }
}

#[test]
fn a_layer_is_attached_before_it_is_woken() {
    everywhere(|ground| {
        let log = Rc::<RefCell<Vec<&'static str>>>::default();
        let note = Rc::clone(&log);
        let lab = lab(ground, move |transport| {
            transport.push_layer(Plain)?;
            transport.wake_layers();
            transport.push_layer(Ordered(Rc::clone(&note)))?;
            transport.wake_layers();
            Ok(())
        });
        lab.port.resume_accepting().expect("open");
        let _stream = lab.connect();
        ground.turn_until(|| log.borrow().len() >= 2);
        assert_eq!(*log.borrow(), ["attached", "woken"]);
    });
}

#[test]
fn times_without_end_are_no_error() {
    everywhere(|ground| {
        let options = ground.loopback().close_timeout(Duration::MAX);
        let log = Log::default();
        let (got, note) = (Rc::default(), Rc::clone(&log));
        let port = ground
            .server()
            .listen_tcp(options, move |_: PeerAddr| {
                Some(Collect {
                    log: Rc::clone(&note),
                    got: Rc::clone(&got),
                    made: Box::new(|transport| {
                        transport.lose_connection();
                        Ok(())
                    }),
                })
            })
            .expect("a port");
        let target = strand_reactor::ConnectOptions::new(port.local_addr().expect("bound"))
            .timeout(Duration::MAX)
            .close_timeout(Duration::MAX);
        let (got, note) = (Rc::default(), Rc::clone(&log));
        ground
            .client()
            .connect_tcp(target, move |_: PeerAddr| {
                Some(Collect {
                    log: Rc::clone(&note),
                    got: Rc::clone(&got),
                    made: Box::new(|_| Ok(())),
                })
            })
            .expect("an attempt");
        ground.turn_until(|| log.borrow().len() == 2);
        assert_eq!(*log.borrow(), ["Done", "Done"]);
    });
}

#[test]
fn a_shutdown_waits_for_a_layer_that_waits_for_the_peer() {
    everywhere(|ground| {
        let lab = lab(ground, |transport| {
            transport.push_layer(Handshake::default())?;
            transport.write(b"hello")?;
            transport.reactor().stop();
            Ok(())
        });
        let all = lab.against(|mut stream| {
            let mut all = vec![0];
            stream.read_exact(&mut all).expect("a question");
            stream.write_all(b"ok").expect("sent");
            stream.read_to_end(&mut all).expect("an end");
            all
        });
        ground.run();
        assert_eq!(all, b"?hello");
        assert_eq!(*lab.log.borrow(), ["Done"]);
    });
}
