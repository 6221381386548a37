//! TCP on the loop: servers, clients, closing, back-pressure, against the system's own sockets.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use strand_reactor::{
    AcceptBudget, ClientFactory, ConnectError, ConnectOptions, ConnectionLost, Connector,
    ConnectorState, Factory, Family, Handle, KeepAlive, PeerAddr, Protocol, Reactor, SharedFactory,
    TcpOptions, Transport, WriteError,
};

/// Bounds every test: a hang is a failure.
const WATCHDOG: Duration = Duration::from_secs(60);

fn hang(handle: &Handle) {
    handle.stop();
    panic!("the test hangs");
}

fn reactor() -> Reactor {
    let reactor = Reactor::new().expect("a reactor");
    reactor.call_later(WATCHDOG, hang).unref();
    reactor
}

fn run(reactor: &Reactor) {
    reactor.run().expect("the loop runs");
    assert_eq!(reactor.stats().callback_panics, 0, "a callback panicked");
}

type Log = Rc<RefCell<Vec<String>>>;
type React = Box<dyn FnMut(&Transport) -> anyhow::Result<()>>;
type ReactToData = Box<dyn FnMut(&Transport, &[u8]) -> anyhow::Result<()>>;

/// Notes every callback, and does what the test says.
struct Recorder {
    log: Log,
    made: React,
    data: ReactToData,
    half_close: Option<React>,
}

impl Recorder {
    fn new(log: &Log) -> Self {
        Self {
            log: Rc::clone(log),
            made: Box::new(|_| Ok(())),
            data: Box::new(|_, _| Ok(())),
            half_close: None,
        }
    }

    fn made(mut self, made: impl FnMut(&Transport) -> anyhow::Result<()> + 'static) -> Self {
        self.made = Box::new(made);
        self
    }

    fn data(mut self, data: impl FnMut(&Transport, &[u8]) -> anyhow::Result<()> + 'static) -> Self {
        self.data = Box::new(data);
        self
    }

    fn half(mut self, half: impl FnMut(&Transport) -> anyhow::Result<()> + 'static) -> Self {
        self.half_close = Some(Box::new(half));
        self
    }

    fn note(&self, what: impl Into<String>) {
        self.log.borrow_mut().push(what.into());
    }
}

impl Protocol for Recorder {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        self.note("made");
        (self.made)(transport)
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
        (self.data)(transport, data)
    }

    fn read_connection_lost(&mut self, transport: &Transport) -> anyhow::Result<()> {
        self.note("read lost");
        match &mut self.half_close {
            Some(half) => half(transport),
            None => {
                transport.lose_connection();
                Ok(())
            }
        }
    }

    fn write_connection_lost(&mut self, _: &Transport) -> anyhow::Result<()> {
        self.note("write lost");
        Ok(())
    }

    fn pause_writing(&mut self, _: &Transport) -> anyhow::Result<()> {
        self.note("pause");
        Ok(())
    }

    fn resume_writing(&mut self, _: &Transport) -> anyhow::Result<()> {
        self.note("resume");
        Ok(())
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        let told = match &reason {
            ConnectionLost::Failed(error) => format!("lost: {error}"),
            other => format!("lost: {other:?}"),
        };
        self.note(told);
    }
}

/// One connection of a peer on a thread; the reactor's side is what `protocol` says.
fn against<R: Send + 'static>(
    protocol: Recorder,
    options: impl FnOnce(TcpOptions) -> TcpOptions,
    peer: impl FnOnce(TcpStream) -> R + Send + 'static,
) -> R {
    let reactor = reactor();
    let mut protocol = Some(protocol);
    let options = options(TcpOptions::parse("127.0.0.1:0").expect("an address"));
    let port = reactor.listen_tcp(options, move |_: PeerAddr| protocol.take()).expect("a port");
    let address = port.local_addr().expect("an address");
    port.unref().expect("open");
    // Keeps the loop until the peer is through.
    let remote = reactor.remote();
    let keep = reactor.call_later(WATCHDOG, hang);
    let peer: JoinHandle<R> = std::thread::spawn(move || {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(WATCHDOG)).expect("a timeout");
        let result = peer(stream);
        drop(remote);
        result
    });
    let done = Rc::new(Cell::new(false));
    while !done.get() {
        let alive = reactor.iterate(Some(Duration::from_millis(20))).expect("a turn");
        done.set(peer.is_finished() && reactor.streams().is_empty() || !alive);
    }
    keep.cancel().expect("in time");
    assert_eq!(reactor.stats().callback_panics, 0);
    peer.join().expect("the peer is content")
}

fn log() -> Log {
    Log::default()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| ((at * 31) >> 3) as u8).collect()
}

fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("an orderly end");
    all
}

#[test]
fn what_a_client_sends_is_echoed_to_the_byte() {
    let log = log();
    let echo = Recorder::new(&log).data(|transport, data| Ok(transport.write(data)?));
    let len = 20 << 20;
    let back = against(
        echo,
        |options| options,
        move |mut stream| {
            let mut sender = stream.try_clone().expect("a clone");
            let writer = std::thread::spawn(move || {
                sender.write_all(&pattern(len)).expect("sent");
                sender.shutdown(Shutdown::Write).expect("an end");
            });
            let back = read_all(&mut stream);
            writer.join().expect("the writer is content");
            back
        },
    );
    assert!(back == pattern(len), "{} of {len} bytes", back.len());
    let log = log.borrow();
    assert_eq!(log.first().map(String::as_str), Some("made"));
    assert_eq!(log.last().map(String::as_str), Some("lost: Done"));
}

#[test]
fn sixty_mebibytes_written_in_one_turn_arrive_after_the_peer_ended_its_side() {
    let log = log();
    let len = 60 << 20;
    let answer = Recorder::new(&log).data(move |transport, _| {
        transport.write(&pattern(len))?;
        transport.lose_connection();
        assert!(matches!(transport.write(b"too late"), Err(WriteError::Closed)));
        Ok(())
    });
    let got = against(
        answer,
        |options| options,
        |mut stream| {
            stream.write_all(b"give").expect("sent");
            stream.shutdown(Shutdown::Write).expect("an end");
            read_all(&mut stream)
        },
    );
    assert!(got == pattern(len), "{} of {len} bytes", got.len());
    let log = log.borrow();
    assert_eq!(log.last().map(String::as_str), Some("lost: Done"));
    assert_eq!(log.iter().filter(|what| what.starts_with("lost")).count(), 1);
}

#[test]
fn closing_does_not_reset_away_what_the_peer_has_not_read() {
    let log = log();
    let len = 4 << 20;
    let answer = Recorder::new(&log).made(move |transport| {
        transport.write_bytes(pattern(len))?;
        transport.lose_connection();
        Ok(())
    });
    let got = against(
        answer,
        |options| options,
        |mut stream| {
            // Unread input makes a kernel answer close() with a reset.
            stream.write_all(&[1; 100_000]).expect("sent");
            read_all(&mut stream)
        },
    );
    assert!(got == pattern(len), "{} of {len} bytes", got.len());
}

#[test]
fn a_reset_is_noticed_while_reading_is_paused() {
    let log = log();
    let paused = Recorder::new(&log).made(|transport| Ok(transport.pause_reading()?));
    against(
        paused,
        |options| options,
        |mut stream| {
            stream.write_all(b"never read").expect("sent");
            let socket = socket2::Socket::from(stream);
            socket.set_linger(Some(Duration::ZERO)).expect("an option");
        },
    );
    assert_eq!(*log.borrow(), ["made", "lost: Reset"]);
}

#[test]
fn an_abort_resets_and_is_told_from_the_loop() {
    let log = log();
    let seen = Rc::clone(&log);
    let abort = Recorder::new(&log).made(move |transport| {
        transport.write(b"never sent")?;
        transport.abort_connection();
        transport.abort_connection();
        transport.lose_connection();
        seen.borrow_mut().push("aborted".into());
        Ok(())
    });
    let end = against(
        abort,
        |options| options,
        |mut stream| {
            let mut all = Vec::new();
            (stream.read_to_end(&mut all).map_err(|error| error.kind()), all)
        },
    );
    assert_eq!(end, (Err(ErrorKind::ConnectionReset), Vec::new()));
    assert_eq!(*log.borrow(), ["made", "aborted", "lost: Aborted"]);
}

#[test]
fn both_halves_closed_one_after_the_other_is_the_end() {
    let log = log();
    let half = Recorder::new(&log).half(|transport| {
        transport.write(b"last words")?;
        transport.lose_write();
        assert!(!transport.writable());
        Ok(())
    });
    let got = against(
        half,
        |options| options,
        |mut stream| {
            stream.shutdown(Shutdown::Write).expect("an end");
            read_all(&mut stream)
        },
    );
    assert_eq!(got, b"last words");
    assert_eq!(*log.borrow(), ["made", "read lost", "write lost", "lost: Done"]);
}

#[test]
fn a_connection_goes_on_receiving_after_it_ended_what_it_sends() {
    let log = log();
    let seen = Rc::clone(&log);
    let half = Recorder::new(&log)
        .made(|transport| {
            transport.write(b"that is all")?;
            transport.lose_write();
            Ok(())
        })
        .data(move |_, data| {
            seen.borrow_mut().push(String::from_utf8_lossy(data).into_owned());
            Ok(())
        })
        .half(|_| Ok(()));
    against(
        half,
        |options| options,
        |mut stream| {
            assert_eq!(read_all(&mut stream), b"that is all");
            stream.write_all(b"thanks").expect("sent");
        },
    );
    // The answer may come in before the end of our own words is told.
    let mut told = log.borrow().clone();
    let ended = told.iter().position(|what| what == "write lost").expect("told");
    assert!(ended < 4, "{told:?}");
    told.remove(ended);
    assert_eq!(told, ["made", "thanks", "read lost", "lost: Done"]);
}

#[test]
fn a_failing_callback_closes_the_connection_with_its_error() {
    let made = log();
    let failing = Recorder::new(&made).made(|transport| {
        transport.write(b"sorry")?;
        anyhow::bail!("no more room")
    });
    let got = against(failing, |options| options, |mut stream| read_all(&mut stream));
    assert_eq!(got, b"sorry");
    assert_eq!(*made.borrow(), ["made", "lost: no more room"]);

    let data = log();
    let failing = Recorder::new(&data).data(|_, _| anyhow::bail!("no such command"));
    against(
        failing,
        |options| options,
        |mut stream| {
            stream.write_all(b"nonsense").expect("sent");
            assert_eq!(read_all(&mut stream), b"");
        },
    );
    assert_eq!(*data.borrow(), ["made", "lost: no such command"]);
}

#[test]
fn data_that_came_before_a_reset_is_delivered_before_it() {
    let log = log();
    let (seen, received) = (Rc::clone(&log), Rc::new(Cell::new(0)));
    let count = Rc::clone(&received);
    let protocol = Recorder::new(&log).made(|transport| {
        transport.write(b"x")?;
        Ok(())
    });
    let protocol = protocol.data(move |_, data| {
        count.set(count.get() + data.len());
        seen.borrow_mut().push("data".into());
        Ok(())
    });
    against(
        protocol,
        |options| options,
        |mut stream| {
            // Closed with our byte unread: a reset follows the data.
            stream.peek(&mut [0]).expect("the byte");
            stream.write_all(b"before").expect("sent");
        },
    );
    assert_eq!(received.get(), 6);
    assert_eq!(log.borrow().last().map(String::as_str), Some("lost: Reset"));
}

#[test]
fn pausing_and_resuming_loses_nothing() {
    let log = log();
    let received = Rc::new(RefCell::new(Vec::new()));
    let (all, len) = (Rc::clone(&received), 1 << 20);
    let protocol = Recorder::new(&log).data(move |transport, data| {
        all.borrow_mut().extend_from_slice(data);
        transport.pause_reading()?;
        let again = transport.clone();
        transport.reactor().call_later(Duration::ZERO, move |_: &Handle| again.resume_reading());
        Ok(())
    });
    against(
        protocol,
        |options| options.recv_buffer_size(16 * 1024),
        move |mut stream| {
            stream.write_all(&pattern(len)).expect("sent");
            stream.shutdown(Shutdown::Write).expect("an end");
            read_all(&mut stream)
        },
    );
    assert!(*received.borrow() == pattern(len));
    assert_eq!(*log.borrow(), ["made", "read lost", "lost: Done"]);
}

#[test]
fn writing_is_paused_and_resumed_once_per_crossing() {
    let log = log();
    let protocol = Recorder::new(&log).made(|transport| {
        for _ in 0..64 {
            transport.write(&[7; 100_000])?;
        }
        Ok(())
    });
    let got = against(
        protocol,
        |options| options.send_buffer_size(32 * 1024),
        |mut stream| {
            let mut all = vec![0; 6_400_000];
            stream.read_exact(&mut all).expect("all of it");
            all.len()
        },
    );
    assert_eq!(got, 6_400_000);
    assert_eq!(*log.borrow(), ["made", "pause", "resume", "read lost", "lost: Done"]);
}

#[test]
fn a_write_beyond_the_limit_is_refused_and_harmless() {
    let log = log();
    let refused = Rc::new(Cell::new(0));
    let count = Rc::clone(&refused);
    let protocol = Recorder::new(&log).made(move |transport| {
        // The first is admitted whatever its length, the queue being empty.
        transport.write(&pattern(20 << 20))?;
        while count.get() == 0 {
            match transport.write(&[0; 1000]) {
                Err(WriteError::BufferFull { limit: 65_536, .. }) => count.set(1),
                other => panic!("{other:?}"),
            }
        }
        transport.lose_connection();
        Ok(())
    });
    let got = against(
        protocol,
        |options| options.write_limit(65_536),
        |mut stream| read_all(&mut stream),
    );
    assert!(got == pattern(20 << 20));
    assert_eq!(refused.get(), 1);
}

#[test]
fn completions_come_in_order_and_once() {
    let log = log();
    let (done, seen) = (Rc::new(RefCell::new(Vec::new())), Rc::clone(&log));
    let completed = Rc::clone(&done);
    let protocol = Recorder::new(&log).made(move |transport| {
        for index in 0..1000_usize {
            let done = Rc::clone(&completed);
            let data = vec![1; index];
            transport.write_then(&data, move |result| done.borrow_mut().push(result.ok()))?;
        }
        seen.borrow_mut().push("written".into());
        transport.lose_connection();
        Ok(())
    });
    let got = against(protocol, |options| options, |mut stream| read_all(&mut stream));
    assert_eq!(got.len(), 999 * 1000 / 2);
    assert_eq!(*done.borrow(), (0..1000).map(Some).collect::<Vec<_>>());
    assert_eq!(*log.borrow(), ["made", "written", "lost: Done"]);
}

#[test]
fn the_writes_of_a_callback_leave_as_one() {
    let log = log();
    let writes = Rc::new(Cell::new(0));
    let (count, first) = (Rc::clone(&writes), Cell::new(true));
    let protocol = Recorder::new(&log).data(move |transport, _| {
        if first.take() {
            for byte in b"hello" {
                transport.write(&[*byte])?;
            }
        } else {
            count.set(transport.stats()?.writes);
        }
        Ok(())
    });
    against(
        protocol,
        |options| options,
        |mut stream| {
            stream.write_all(b"?").expect("sent");
            let mut five = [0; 5];
            stream.read_exact(&mut five).expect("five");
            assert_eq!(&five, b"hello");
            stream.write_all(b"?").expect("sent");
        },
    );
    assert_eq!(writes.get(), 1);
}

/// A factory that notes what it is told.
struct Client {
    log: Log,
    protocol: Box<dyn FnMut() -> Option<Recorder>>,
    again: u32,
}

impl ClientFactory for Client {
    fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> {
        (self.protocol)().map(|protocol| Box::new(protocol) as Box<dyn Protocol>)
    }

    fn started_connecting(&mut self, _: &Connector) -> anyhow::Result<()> {
        self.log.borrow_mut().push("started".into());
        Ok(())
    }

    fn client_connection_failed(
        &mut self,
        connector: &Connector,
        error: &ConnectError,
    ) -> anyhow::Result<()> {
        assert_eq!(connector.state(), ConnectorState::Disconnected);
        self.log.borrow_mut().push(format!("failed: {:?}", error.kind()));
        if self.again > 0 {
            self.again -= 1;
            connector.connect()?;
        }
        Ok(())
    }

    fn client_connection_lost(
        &mut self,
        connector: &Connector,
        reason: &ConnectionLost,
    ) -> anyhow::Result<()> {
        self.log.borrow_mut().push(format!("client lost: {reason:?}"));
        if self.again > 0 {
            self.again -= 1;
            connector.connect()?;
        }
        Ok(())
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

#[test]
fn a_refused_client_is_told_from_the_loop_and_may_try_again() {
    let (reactor, log) = (reactor(), log());
    let factory = Client { log: Rc::clone(&log), protocol: Box::new(|| None), again: 1 };
    reactor.connect_tcp(free_address(), factory).expect("an attempt");
    assert_eq!(*log.borrow(), ["started"]);
    run(&reactor);
    let refused = "failed: ConnectionRefused";
    assert_eq!(*log.borrow(), ["started", refused, "started", refused]);
}

#[test]
fn a_client_reconnects_from_its_lost_callback() {
    let (reactor, log) = (reactor(), log());
    let server = log.clone();
    let port = reactor
        .listen_tcp("127.0.0.1:0", move |_: PeerAddr| {
            Some(Recorder::new(&Log::default()).made({
                let server = server.clone();
                move |transport| {
                    server.borrow_mut().push("served".into());
                    transport.lose_connection();
                    Ok(())
                }
            }))
        })
        .expect("a port");
    port.unref().expect("open");
    let inner = log.clone();
    let factory = Client {
        log: Rc::clone(&log),
        protocol: Box::new(move || Some(Recorder::new(&inner))),
        again: 1,
    };
    reactor.connect_tcp(port.local_addr().expect("bound"), factory).expect("an attempt");
    run(&reactor);
    let log: Vec<String> =
        log.borrow().iter().filter(|what| !what.starts_with("served")).cloned().collect();
    let round = ["started", "made", "read lost", "lost: Done", "client lost: Done"];
    assert_eq!(log, [round, round].concat());
    assert!(reactor.streams().is_empty());
}

#[test]
fn an_attempt_is_stopped_and_ends_once() {
    let (reactor, log) = (reactor(), log());
    let factory = Client { log: Rc::clone(&log), protocol: Box::new(|| None), again: 0 };
    let port = reactor.listen_tcp("127.0.0.1:0", |_: PeerAddr| None::<Recorder>).expect("a port");
    port.unref().expect("open");
    let connector =
        reactor.connect_tcp(port.local_addr().expect("bound"), factory).expect("an attempt");
    connector.stop_connecting().expect("connecting");
    connector.stop_connecting().expect("still connecting");
    run(&reactor);
    assert_eq!(*log.borrow(), ["started", "failed: Interrupted"]);
    assert!(matches!(connector.stop_connecting(), Err(ConnectError::NotConnecting)));
}

#[test]
fn a_local_address_that_is_taken_is_told_through_the_factory() {
    let (reactor, log) = (reactor(), log());
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let factory = Client { log: Rc::clone(&log), protocol: Box::new(|| None), again: 0 };
    let options =
        ConnectOptions::new(free_address()).local_addr(taken.local_addr().expect("bound"));
    reactor.connect_tcp(options, factory).expect("an attempt");
    run(&reactor);
    assert_eq!(*log.borrow(), ["started", "failed: AddrInUse"]);
}

#[test]
fn a_connect_that_meets_itself_is_an_error() {
    let (reactor, log) = (reactor(), log());
    let factory = Client { log: Rc::clone(&log), protocol: Box::new(|| None), again: 0 };
    let address = free_address();
    let options = ConnectOptions::new(address).local_addr(address);
    let seen = reactor.connect_tcp(options, factory).expect("an attempt");
    run(&reactor);
    assert_eq!(seen.state(), ConnectorState::Disconnected);
    assert_eq!(*log.borrow(), ["started", "failed: ConnectionRefused"]);
}

#[test]
fn an_attempt_that_nobody_answers_times_out() {
    let (reactor, log) = (reactor(), log());
    // A backlog that is full answers no further attempt.
    let full =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("one");
    full.bind(&"127.0.0.1:0".parse::<SocketAddr>().expect("an address").into()).expect("bound");
    full.listen(0).expect("listening");
    let address = full.local_addr().expect("bound").as_socket().expect("of IP");
    let _first = TcpStream::connect(address).expect("the one that fits");
    let factory = Client { log: Rc::clone(&log), protocol: Box::new(|| None), again: 0 };
    let options = ConnectOptions::new(address).timeout(Duration::from_millis(50));
    reactor.connect_tcp(options, factory).expect("an attempt");
    run(&reactor);
    assert_eq!(*log.borrow(), ["started", "failed: TimedOut"]);
}

struct Counting {
    log: Log,
}

impl Factory for Counting {
    fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> {
        None
    }
    fn start_factory(&mut self) -> anyhow::Result<()> {
        self.log.borrow_mut().push("start".into());
        Ok(())
    }
    fn stop_factory(&mut self) -> anyhow::Result<()> {
        self.log.borrow_mut().push("stop".into());
        Ok(())
    }
}

#[test]
fn a_shared_factory_starts_with_its_first_port_and_stops_with_its_last() {
    let (reactor, log) = (reactor(), log());
    let factory = SharedFactory::new(Counting { log: Rc::clone(&log) });
    let first = reactor.listen_tcp("127.0.0.1:0", factory.clone()).expect("a port");
    let second = reactor.listen_tcp("127.0.0.1:0", factory.clone()).expect("a port");
    first.stop_listening();
    first.stop_listening();
    reactor.iterate(Some(Duration::ZERO)).expect("a turn");
    assert_eq!((factory.ports(), &log.borrow()[..]), (1, &["start".to_owned()][..]));
    second.stop_listening();
    run(&reactor);
    assert_eq!(*log.borrow(), ["start", "stop"]);
}

#[test]
fn stopping_the_reactor_ends_every_connection_once() {
    let (reactor, log) = (reactor(), log());
    let inner = log.clone();
    let port = reactor
        .listen_tcp("127.0.0.1:0", move |_: PeerAddr| {
            Some(Recorder::new(&inner).made(|transport| {
                transport.write(b"bye")?;
                transport.reactor().stop();
                Ok(())
            }))
        })
        .expect("a port");
    let mut stream = TcpStream::connect(port.local_addr().expect("bound")).expect("a connection");
    run(&reactor);
    assert_eq!(*log.borrow(), ["made", "lost: Done"]);
    assert_eq!(read_all(&mut stream), b"bye");
    assert!(port.local_addr().is_err());
}

#[test]
fn a_refused_connection_is_closed_and_no_other() {
    let reactor = reactor();
    let port = reactor.listen_tcp("127.0.0.1:0", |_: PeerAddr| None::<Recorder>).expect("a port");
    let mut stream = TcpStream::connect(port.local_addr().expect("bound")).expect("a connection");
    while port.stats().expect("open").refused == 0 {
        reactor.iterate(None).expect("a turn");
    }
    assert_eq!(read_all(&mut stream), b"");
    assert_eq!(port.stats().expect("open").connections, 0);
}

#[test]
fn the_limits_on_connections_hold() {
    let reactor = reactor();
    let held: Rc<RefCell<Vec<Transport>>> = Rc::default();
    let all = Rc::clone(&held);
    let options = TcpOptions::parse("127.0.0.1:0").expect("an address").max_connections(2);
    let port = reactor
        .listen_tcp(options, move |_: PeerAddr| {
            let all = Rc::clone(&all);
            Some(Recorder::new(&Log::default()).made(move |transport| {
                all.borrow_mut().push(transport.clone());
                Ok(())
            }))
        })
        .expect("a port");
    let address = port.local_addr().expect("bound");
    let streams: Vec<_> =
        (0..3).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    while held.borrow().len() < 2 {
        reactor.iterate(None).expect("a turn");
    }
    reactor.iterate(Some(Duration::ZERO)).expect("a turn");
    assert_eq!(port.stats().expect("open").connections, 2);
    held.borrow()[0].abort_connection();
    while held.borrow().len() < 3 {
        reactor.iterate(None).expect("a turn");
    }
    assert_eq!(port.stats().expect("open").accepted, 3);
    drop(streams);
}

#[test]
fn a_completion_of_what_left_at_once_or_was_empty_is_told() {
    let log = log();
    let done = Rc::new(RefCell::new(Vec::new()));
    let (empty, large) = (Rc::clone(&done), Rc::clone(&done));
    let protocol = Recorder::new(&log).made(move |transport| {
        let (empty, large) = (Rc::clone(&empty), Rc::clone(&large));
        transport.write_then(&[], move |result| empty.borrow_mut().push(result.ok()))?;
        transport.write_then(&[1; 20_000], move |result| large.borrow_mut().push(result.ok()))?;
        Ok(())
    });
    against(
        protocol,
        |options| options,
        |mut stream| {
            stream.read_exact(&mut [0; 20_000]).expect("all of it");
        },
    );
    assert_eq!(*done.borrow(), [Some(0), Some(20_000)]);
}

#[test]
fn a_broken_write_before_a_pause_still_ends_the_connection() {
    let log = log();
    let protocol = Recorder::new(&log).data(|transport, _| {
        // The peer is gone by the second of these; the pause must not hide that.
        while transport.writable() {
            let _ = transport.try_write(&[0; 100]);
        }
        Ok(transport.pause_reading()?)
    });
    against(
        protocol,
        |options| options,
        |mut stream| {
            stream.write_all(b"x").expect("sent");
            let socket = socket2::Socket::from(stream);
            socket.set_linger(Some(Duration::ZERO)).expect("an option");
        },
    );
    assert_eq!(*log.borrow(), ["made", "lost: Reset"]);
}

#[test]
fn the_first_of_several_addresses_to_answer_is_taken() {
    let (reactor, log) = (reactor(), log());
    let port = reactor
        .listen_tcp("127.0.0.1:0", |_: PeerAddr| Some(Recorder::new(&Log::default())))
        .expect("a port");
    port.unref().expect("open");
    let answering = port.local_addr().expect("bound");
    let inner = log.clone();
    let factory = Client {
        log: Rc::clone(&log),
        protocol: Box::new(move || {
            Some(Recorder::new(&inner).made(|transport| {
                transport.lose_connection();
                Ok(())
            }))
        }),
        again: 0,
    };
    let options = ConnectOptions::any_of([free_address(), answering, free_address()]);
    let connector = reactor.connect_tcp(options, factory).expect("an attempt");
    while connector.state() == ConnectorState::Connecting {
        reactor.iterate(None).expect("a turn");
    }
    assert_eq!(connector.peer_addr(), Some(answering));
    run(&reactor);
    assert_eq!(*log.borrow(), ["started", "made", "lost: Done", "client lost: Done"]);
}

#[test]
fn when_no_address_answers_the_first_error_is_told_once() {
    let (reactor, log) = (reactor(), log());
    let factory = Client { log: Rc::clone(&log), protocol: Box::new(|| None), again: 1 };
    let options = ConnectOptions::any_of([free_address(), free_address(), free_address()]);
    reactor.connect_tcp(options, factory).expect("an attempt");
    run(&reactor);
    let refused = "failed: ConnectionRefused";
    assert_eq!(*log.borrow(), ["started", refused, "started", refused]);
    assert!(reactor.streams().is_empty());

    let none = ConnectOptions::any_of([]);
    let factory = |_: PeerAddr| None::<Recorder>;
    assert!(matches!(reactor.connect_tcp(none, factory), Err(ConnectError::NoAddress)));
}

#[test]
fn the_options_of_a_port_hold_for_its_connections_and_can_be_changed() {
    let log = log();
    let times =
        KeepAlive { idle: Duration::from_secs(60), interval: Duration::from_secs(7), count: 3 };
    let protocol = Recorder::new(&log).made(move |transport| {
        assert_eq!((transport.nodelay()?, transport.keepalive()?), (true, Some(times)));
        assert!(transport.recv_buffer_size()? >= 20_000);
        transport.set_nodelay(false)?;
        transport.set_keepalive(None)?;
        assert_eq!((transport.nodelay()?, transport.keepalive()?), (false, None));
        assert!(transport.set_keepalive(Some(KeepAlive { count: 0, ..times })).is_err());
        assert!(transport.set_write_watermarks(2, 1).is_err());
        transport.set_write_watermarks(1, 2)?;
        assert_eq!(transport.write_watermarks()?, (1, 2));
        let key = transport.key()?;
        assert!(transport.reactor().stream(key).is_some_and(|t| t.is_same_connection(transport)));
        transport.lose_connection();
        Ok(())
    });
    let options = |options: TcpOptions| options.keepalive(times).recv_buffer_size(20_000);
    against(protocol, options, |mut stream| read_all(&mut stream));
    assert_eq!(*log.borrow(), ["made", "lost: Done"]);
}

#[test]
fn contradicting_options_are_an_error_at_the_call() {
    let reactor = reactor();
    let address = || TcpOptions::parse("127.0.0.1:0").expect("an address");
    for options in [
        address().family(Family::Dual),
        address().write_watermarks(2, 1),
        address().max_connections(0),
        address().accept_budget(AcceptBudget::Fixed(0)),
        address().write_limit(0),
    ] {
        let error = reactor.listen_tcp(options, |_: PeerAddr| None::<Recorder>).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    let text = reactor.listen_tcp("example.com:80", |_: PeerAddr| None::<Recorder>);
    assert!(text.is_err_and(|error| error.to_string().contains("resolve")));
    let from = ConnectOptions::new(free_address()).local_addr((std::net::Ipv6Addr::LOCALHOST, 0));
    let error = reactor.connect_tcp(from, |_: PeerAddr| None::<Recorder>).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[test]
fn a_peer_that_never_closes_is_not_waited_for_longer_than_the_close_timeout() {
    let log = log();
    let protocol = Recorder::new(&log).made(|transport| {
        transport.write(b"bye")?;
        transport.lose_connection();
        Ok(())
    });
    let (told, wait) = std::sync::mpsc::channel();
    let lost = Rc::clone(&log);
    let protocol = Telling { inner: protocol, told };
    let reactor = reactor();
    let mut protocol = Some(protocol);
    let options = TcpOptions::parse("127.0.0.1:0")
        .expect("an address")
        .close_timeout(Duration::from_millis(20));
    let port = reactor.listen_tcp(options, move |_: PeerAddr| protocol.take()).expect("a port");
    let address = port.local_addr().expect("bound");
    let peer = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).expect("a connection");
        let got = read_all(&mut stream);
        wait.recv_timeout(WATCHDOG).expect("the connection is lost while this end is open");
        got
    });
    while lost.borrow().len() < 2 {
        reactor.iterate(None).expect("a turn");
    }
    assert_eq!(*log.borrow(), ["made", "lost: Done"]);
    assert_eq!(peer.join().expect("the peer is content"), b"bye");
}

/// Tells another thread that the connection is lost.
struct Telling {
    inner: Recorder,
    told: std::sync::mpsc::Sender<()>,
}

impl Protocol for Telling {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        self.inner.connection_made(transport)
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
        self.inner.data_received(transport, data)
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        self.inner.connection_lost(reason);
        let _ = self.told.send(());
    }
}
