//! Streams at their edges: marks of urgent data, and layers that wait, end early or call back.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram as UnixSocket, UnixStream};
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use strand_reactor::{
    ConnectionLost, Flow, Handle, PeerAddr, Protocol, Reactor, StreamLayer, TcpOptions, Transport,
    UnixDatagram, UnixDatagramProtocol, UnixDatagramTransport,
};

type Log = Rc<RefCell<Vec<String>>>;
type Made = Box<dyn FnMut(&Transport) -> anyhow::Result<()>>;

fn hang(handle: &Handle) {
    handle.stop();
    panic!("the test hangs");
}

fn reactor() -> Reactor {
    let reactor = Reactor::new().expect("a reactor");
    reactor.call_later(Duration::from_secs(30), hang).unref();
    reactor
}

fn turn_until(reactor: &Reactor, mut done: impl FnMut() -> bool) {
    while !done() {
        reactor.iterate(Some(Duration::from_millis(20))).expect("a turn");
        assert_eq!(reactor.stats().callback_panics, 0, "a callback panicked, or the test hangs");
    }
}

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

struct Lab {
    reactor: Reactor,
    log: Log,
    got: Rc<RefCell<Vec<u8>>>,
    port: strand_reactor::ListeningPort,
}

/// A port for one connection, which does not accept yet.
fn lab(made: impl FnMut(&Transport) -> anyhow::Result<()> + 'static) -> Lab {
    let reactor = reactor();
    let (log, got) = (Log::default(), Rc::default());
    let protocol = Collect { log: Rc::clone(&log), got: Rc::clone(&got), made: Box::new(made) };
    let mut protocol = Some(protocol);
    let options = TcpOptions::parse("127.0.0.1:0").expect("an address").start_paused(true);
    let port = reactor.listen_tcp(options, move |_: PeerAddr| protocol.take()).expect("a port");
    Lab { reactor, log, got, port }
}

impl Lab {
    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.port.local_addr().expect("bound")).expect("a connection")
    }
}

#[test]
fn what_follows_urgent_data_is_read_without_waiting_for_more() {
    for layered in [false, true] {
        let lab = lab(move |transport| {
            if layered {
                transport.push_layer(Plain)?;
            }
            Ok(())
        });
        let mut stream = lab.connect();
        // All of it waits when the connection is accepted: no later event helps.
        stream.write_all(b"before").expect("sent");
        SockRef::from(&stream).send_out_of_band(b"!").expect("sent");
        stream.write_all(b"after").expect("sent");
        lab.port.resume_accepting().expect("open");
        turn_until(&lab.reactor, || *lab.got.borrow() == b"beforeafter");
    }
}

#[test]
fn what_cuts_a_read_of_a_unix_stream_short_does_not_hide_the_rest_from_a_layer() {
    let (reactor, got) = (reactor(), Rc::default());
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
    turn_until(&reactor, || ticked.get());
    near.write_all(b"before").expect("sent");
    if SockRef::from(&near).send_out_of_band(b"!").is_err() {
        return println!("skipped: no urgent data on UNIX sockets here");
    }
    near.write_all(b"after").expect("sent");
    turn_until(&reactor, || *got.borrow() == b"beforeafter");
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
    let reactor = reactor();
    let (near, mut far) = UnixStream::pair().expect("a pair");
    let got = Rc::default();
    let collect = Collect { log: Log::default(), got: Rc::clone(&got), made: Box::new(|_| Ok(())) };
    reactor.adopt_stream_connection(Curious(near, reactor.clone()), collect).expect("adopted");
    far.write_all(b"hello").expect("sent");
    turn_until(&reactor, || *got.borrow() == b"hello");
    let (near, far) = UnixSocket::pair().expect("a pair");
    reactor.adopt_unix_datagram_port(Curious(near, reactor.clone()), Ignore).expect("adopted");
    far.send(b"hello").expect("sent");
    reactor.run().expect("the loop runs");
    assert_eq!(reactor.stats().callback_panics, 0);
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
    let lab = lab(|transport| {
        transport.push_layer(Answers)?;
        transport.write(b"hello")?;
        transport.lose_write();
        Ok(())
    });
    lab.port.resume_accepting().expect("open");
    let mut stream = lab.connect();
    let peer = std::thread::spawn(move || {
        let mut greeting = Vec::new();
        stream.read_to_end(&mut greeting).expect("an end");
        for _ in 0..3 {
            stream.write_all(&[7; 100_000]).expect("sent");
        }
        stream.shutdown(Shutdown::Write).expect("an end");
        greeting
    });
    turn_until(&lab.reactor, || !lab.log.borrow().is_empty());
    assert_eq!(peer.join().expect("the peer is content"), b"hello");
    assert_eq!(lab.got.borrow().len(), 300_000);
    assert_eq!(*lab.log.borrow(), ["Done"]);
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
    let lab = lab(closes_during_a_handshake);
    lab.port.resume_accepting().expect("open");
    let mut stream = lab.connect();
    let peer = std::thread::spawn(move || {
        let mut all = vec![0];
        stream.read_exact(&mut all).expect("a question");
        stream.write_all(b"ok and more than that").expect("sent");
        stream.read_to_end(&mut all).expect("an end");
        all
    });
    turn_until(&lab.reactor, || !lab.log.borrow().is_empty());
    assert_eq!(peer.join().expect("the peer is content"), b"?hello");
    assert_eq!(*lab.log.borrow(), ["Done"]);
    assert!(lab.got.borrow().is_empty(), "delivered after lose_connection");
}

#[test]
fn a_peer_that_leaves_a_layer_waiting_does_not_hold_a_closing_connection() {
    for reset in [false, true] {
        let lab = lab(closes_during_a_handshake);
        lab.port.resume_accepting().expect("open");
        let mut stream = lab.connect();
        turn_until(&lab.reactor, || !lab.reactor.streams().is_empty());
        stream.read_exact(&mut [0]).expect("a question");
        if reset {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option");
        }
        drop(stream);
        turn_until(&lab.reactor, || !lab.log.borrow().is_empty());
        assert_eq!(*lab.log.borrow(), [if reset { "Reset" } else { "Done" }]);
    }
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
    let woken = Rc::<Cell<usize>>::default();
    let count = Rc::clone(&woken);
    let lab = lab(move |transport| Ok(transport.push_layer(Restless(None, Rc::clone(&count)))?));
    let _stream = lab.connect();
    lab.port.resume_accepting().expect("open");
    let ticks = Rc::<Cell<usize>>::default();
    let tick = Rc::clone(&ticks);
    lab.reactor
        .looping_call(Duration::from_millis(1), move |_: &Handle, _| tick.set(tick.get() + 1))
        .unref();
    turn_until(&lab.reactor, || ticks.get() > 3 && woken.get() > 10);
}

#[test]
fn a_shutdown_sends_what_was_written_through_layers() {
    let lab = lab(|transport| {
        transport.push_layer(Plain)?;
        transport.write(b"goodbye")?;
        transport.reactor().stop();
        Ok(())
    });
    lab.port.resume_accepting().expect("open");
    let mut stream = lab.connect();
    lab.reactor.run().expect("the loop runs");
    drop(lab.reactor);
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("an end");
    assert_eq!(all, b"goodbye");
    assert_eq!(*lab.log.borrow(), ["Done"]);
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
    let (reactor, count) = (reactor(), Rc::<Cell<usize>>::default());
    let (of_server, own) = (Rc::clone(&count), Bomb(Rc::clone(&count)));
    let port = reactor
        .listen_tcp("127.0.0.1:0", move |_: PeerAddr| {
            let _keep = &own;
            Some(Bombs { _bomb: Bomb(Rc::clone(&of_server)) })
        })
        .expect("a port");
    let address = port.local_addr().expect("bound");
    for _ in 0..2 {
        // The factory of each client goes with its connector.
        let (inner, own) = (Rc::clone(&count), Bomb(Rc::clone(&count)));
        reactor
            .connect_tcp(address, move |_: PeerAddr| {
                let _keep = &own;
                Some(Bombs { _bomb: Bomb(Rc::clone(&inner)) })
            })
            .map(drop)
            .expect("an attempt");
    }
    let done = || count.get() == 4 * 2 + 2 && reactor.streams().is_empty();
    while !done() {
        reactor.iterate(Some(Duration::from_millis(20))).expect("a turn");
    }
    port.stop_listening();
    reactor.run().expect("the loop runs");
    assert_eq!(count.get(), 11);
    assert_eq!(reactor.stats().callback_panics, 11);
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
    let log = Rc::<RefCell<Vec<&'static str>>>::default();
    let note = Rc::clone(&log);
    let lab = lab(move |transport| {
        transport.push_layer(Plain)?;
        transport.wake_layers();
        transport.push_layer(Ordered(Rc::clone(&note)))?;
        transport.wake_layers();
        Ok(())
    });
    lab.port.resume_accepting().expect("open");
    let _stream = lab.connect();
    turn_until(&lab.reactor, || log.borrow().len() >= 2);
    assert_eq!(*log.borrow(), ["attached", "woken"]);
}

#[test]
fn times_without_end_are_no_error() {
    let reactor = reactor();
    let options =
        TcpOptions::parse("127.0.0.1:0").expect("an address").close_timeout(Duration::MAX);
    let log = Log::default();
    let (got, note) = (Rc::default(), Rc::clone(&log));
    let port = reactor
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
    reactor
        .connect_tcp(target, move |_: PeerAddr| {
            Some(Collect {
                log: Rc::clone(&note),
                got: Rc::clone(&got),
                made: Box::new(|_| Ok(())),
            })
        })
        .expect("an attempt");
    turn_until(&reactor, || log.borrow().len() == 2);
    assert_eq!(*log.borrow(), ["Done", "Done"]);
}

#[test]
fn a_shutdown_waits_for_a_layer_that_waits_for_the_peer() {
    let lab = lab(|transport| {
        transport.push_layer(Handshake::default())?;
        transport.write(b"hello")?;
        transport.reactor().stop();
        Ok(())
    });
    lab.port.resume_accepting().expect("open");
    let mut stream = lab.connect();
    let peer = std::thread::spawn(move || {
        let mut all = vec![0];
        stream.read_exact(&mut all).expect("a question");
        stream.write_all(b"ok").expect("sent");
        stream.read_to_end(&mut all).expect("an end");
        all
    });
    lab.reactor.run().expect("the loop runs");
    assert_eq!(peer.join().expect("the peer is content"), b"?hello");
    assert_eq!(*lab.log.borrow(), ["Done"]);
}
