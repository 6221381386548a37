//! Stream sockets made elsewhere.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::{AdoptError, ConnectionLost, Handle, PeerAddr, Protocol, Reactor, Transport};

fn hang(handle: &Handle) {
    handle.stop();
    panic!("the test hangs");
}

fn reactor() -> Reactor {
    let reactor = Reactor::new().expect("a reactor");
    reactor.call_later(Duration::from_secs(60), hang).unref();
    reactor
}

type Log = Rc<RefCell<Vec<String>>>;

struct Echo(Log);

impl Protocol for Echo {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        self.0.borrow_mut().push(format!("made {}", transport.peer_addr()?));
        Ok(())
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
        self.0.borrow_mut().push(String::from_utf8_lossy(data).into_owned());
        transport.write(data)?;
        transport.lose_connection();
        Ok(())
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        self.0.borrow_mut().push(format!("{reason:?}"));
    }
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
    (near, listener.accept().expect("the other end").0)
}

#[test]
fn an_adopted_connection_is_made_from_the_loop_and_gets_what_came_before() {
    let (reactor, log) = (reactor(), Log::default());
    let (near, mut far) = pair();
    far.write_all(b"early").expect("sent");
    near.peek(&mut [0]).expect("it is there");
    let transport = reactor.adopt_stream_connection(near, Echo(Rc::clone(&log))).expect("adopted");
    assert!(log.borrow().is_empty());
    assert_eq!(transport.peer_addr().ok(), far.local_addr().ok());
    let peer = std::thread::spawn(move || {
        let mut back = Vec::new();
        far.read_to_end(&mut back).expect("an orderly end");
        (back, far.local_addr().expect("bound"))
    });
    reactor.run().expect("the loop runs");
    let (back, address) = peer.join().expect("the peer is content");
    assert_eq!(back, b"early");
    assert_eq!(*log.borrow(), [format!("made {address}"), "early".into(), "Done".into()]);
}

#[test]
fn an_adopted_connection_that_is_aborted_at_once_is_made_and_lost() {
    let (reactor, log) = (reactor(), Log::default());
    let (near, far) = pair();
    let transport = reactor.adopt_stream_connection(near, Echo(Rc::clone(&log))).expect("adopted");
    transport.abort_connection();
    reactor.run().expect("the loop runs");
    assert_eq!(log.borrow().last().map(String::as_str), Some("Aborted"));
    assert_eq!(reactor.stats().callback_panics, 0);
    drop(far);
}

#[test]
fn an_adopted_listener_serves_those_who_waited() {
    let (reactor, log) = (reactor(), Log::default());
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut waiting = TcpStream::connect(listener.local_addr().expect("bound")).expect("one");
    waiting.write_all(b"hello").expect("sent");
    let shared = Rc::clone(&log);
    let port = reactor
        .adopt_stream_port(listener, move |_: PeerAddr| Some(Echo(Rc::clone(&shared))))
        .expect("adopted");
    port.unref().expect("open");
    let peer = std::thread::spawn(move || {
        let mut back = Vec::new();
        waiting.read_to_end(&mut back).expect("an orderly end");
        back
    });
    while log.borrow().len() < 3 {
        reactor.iterate(None).expect("a turn");
    }
    assert_eq!(peer.join().expect("the peer is content"), b"hello");
    assert_eq!(log.borrow()[1..], ["hello", "Done"]);
}

#[test]
fn what_cannot_be_adopted_is_an_error_that_says_so() {
    let reactor = reactor();
    let found = |error| match error {
        AdoptError::NotStream { found, .. } => found,
        other => panic!("{other}"),
    };
    let echo = || Echo(Log::default());
    let factory = |_: PeerAddr| None::<Echo>;
    let datagrams = || UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let listener = || TcpListener::bind("127.0.0.1:0").expect("a socket");
    let unconnected =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("one");

    let error = reactor.adopt_stream_port(datagrams(), factory).unwrap_err();
    assert_eq!(found(error), "a datagram socket");
    let error = reactor.adopt_stream_connection(datagrams(), echo()).unwrap_err();
    assert_eq!(found(error), "a datagram socket");
    let error = reactor.adopt_stream_connection(listener(), echo()).unwrap_err();
    assert_eq!(found(error), "a listening stream socket");
    let error = reactor.adopt_stream_connection(unconnected, echo()).unwrap_err();
    assert_eq!(found(error), "a stream socket without a peer");
    let error = reactor.adopt_stream_port(pair().0, factory).unwrap_err();
    assert_eq!(found(error), "a stream socket that does not listen");
    let file = std::fs::File::open("/dev/null").expect("a file");
    let error = reactor.adopt_stream_connection(file, echo()).unwrap_err();
    assert!(matches!(error, AdoptError::BadDescriptor(_)), "{error}");
    assert!(reactor.streams().is_empty() && reactor.listening_ports().is_empty());
}
