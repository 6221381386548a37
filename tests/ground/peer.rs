//! The other end, as a program has it that is not Strand's: a socket whose calls block. On the
//! system it is one on a thread; in a world each call lets time pass until it can be answered.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use strand_reactor::testing::{PlainListener, PlainStream};
use strand_reactor::{Handle, Remote};

use super::{Ground, Simulated, Site, WATCHDOG};

/// Longer than anything is under way on a simulated ground.
const ARRIVES: Duration = Duration::from_millis(10);

pub struct Peer(End);

enum End {
    System(TcpStream, Remote),
    Simulated(PlainStream, Rc<Simulated>),
}

fn system(stream: TcpStream, remote: Remote) -> Peer {
    stream.set_read_timeout(Some(WATCHDOG)).expect("a timeout");
    Peer(End::System(stream, remote))
}

impl Simulated {
    /// Repeats a call until it would no longer block.
    #[track_caller]
    fn block<T>(&self, mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let mut result = None;
        self.turn_until(|| {
            result = match call() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                other => Some(other),
            };
            result.is_some()
        });
        result.expect("an answer")
    }

    #[track_caller]
    fn let_in(&self) {
        self.world.run_for(ARRIVES).expect("not from a callback");
        accept_all(&self.handles[0]);
    }

    #[track_caller]
    fn connect(self: &Rc<Self>, to: SocketAddr) -> Peer {
        let stream = PlainStream::connect(&self.world, self.names[1], to).expect("an attempt");
        self.turn_until(|| stream.is_connected());
        Peer(End::Simulated(stream, Rc::clone(self)))
    }
}

fn accept_all(handle: &Handle) {
    for port in handle.listening_ports() {
        port.resume_accepting().expect("open");
    }
}

impl Peer {
    pub fn local_addr(&self) -> SocketAddr {
        match &self.0 {
            End::System(stream, _) => stream.local_addr(),
            End::Simulated(stream, _) => stream.local_addr(),
        }
        .expect("bound")
    }

    #[track_caller]
    pub fn shutdown(&self, how: Shutdown) {
        match &self.0 {
            End::System(stream, _) => stream.shutdown(how),
            End::Simulated(stream, _) => stream.shutdown(how),
        }
        .expect("an end");
    }

    /// Closes with a reset.
    pub fn reset(self) {
        match self.0 {
            End::System(stream, _) => {
                socket2::Socket::from(stream).set_linger(Some(Duration::ZERO)).expect("an option");
            }
            End::Simulated(stream, _) => stream.reset().expect("an option"),
        }
    }

    /// Waits until there is something to read, and leaves it there.
    #[track_caller]
    pub fn peek(&self) {
        match &self.0 {
            End::System(stream, _) => {
                stream.peek(&mut [0]).expect("something");
            }
            End::Simulated(stream, simulated) => {
                simulated.turn_until(|| stream.unread().expect("open") > 0);
            }
        }
    }

    /// Waits for what a callback sends.
    #[track_caller]
    pub fn wait_for<T>(&self, told: &Receiver<T>) -> T {
        match &self.0 {
            End::System(..) => told.recv().expect("told"),
            End::Simulated(_, simulated) => {
                let mut result = None;
                simulated.turn_until(|| {
                    result = match told.try_recv() {
                        Err(TryRecvError::Disconnected) => panic!("nobody tells any more"),
                        other => other.ok(),
                    };
                    result.is_some()
                });
                result.expect("told")
            }
        }
    }

    /// Has the ports of the server accept, which began paused, when what this end did has
    /// arrived there.
    #[track_caller]
    pub fn be_let_in(&self) {
        match &self.0 {
            End::System(_, remote) => remote.call_from_thread(accept_all).expect("running"),
            End::Simulated(_, simulated) => simulated.let_in(),
        }
    }

    /// Sends all of `data` and its end, and reads what comes meanwhile and then.
    #[track_caller]
    pub fn exchange(&mut self, data: &[u8]) -> Vec<u8> {
        let mut back = Vec::new();
        match &mut self.0 {
            End::System(stream, _) => {
                let mut sender = stream.try_clone().expect("a clone");
                std::thread::scope(|scope| {
                    scope.spawn(move || {
                        sender.write_all(data).expect("sent");
                        sender.shutdown(Shutdown::Write).expect("an end");
                    });
                    stream.read_to_end(&mut back).expect("an orderly end");
                });
            }
            End::Simulated(stream, simulated) => {
                let (mut at, mut ended, mut piece) = (0, false, vec![0; 65_536]);
                simulated.turn_until(|| {
                    match stream.write(&data[at..]) {
                        Ok(count) => at += count,
                        Err(_) if ended => {}
                        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
                    }
                    if at == data.len() && !std::mem::replace(&mut ended, true) {
                        stream.shutdown(Shutdown::Write).expect("an end");
                    }
                    match stream.read(&mut piece) {
                        Ok(count) => {
                            back.extend_from_slice(&piece[..count]);
                            count == 0 && ended
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                            false
                        }
                    }
                });
            }
        }
        back
    }
}

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            End::System(stream, _) => stream.read(buffer),
            End::Simulated(stream, simulated) => simulated.block(|| stream.read(buffer)),
        }
    }
}

impl Write for Peer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            End::System(stream, _) => stream.write(data),
            End::Simulated(stream, simulated) => simulated.block(|| stream.write(data)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A port of the server's that accepts nothing by itself.
pub struct Held(Port);

enum Port {
    System(TcpListener),
    Simulated(PlainListener),
}

impl Held {
    pub fn local_addr(&self) -> SocketAddr {
        match &self.0 {
            Port::System(listener) => listener.local_addr(),
            Port::Simulated(listener) => listener.local_addr(),
        }
        .expect("bound")
    }

    /// Whether nobody waits to be accepted.
    pub fn is_empty(&self) -> bool {
        let accepted = match &self.0 {
            Port::System(listener) => {
                listener.set_nonblocking(true).expect("an option");
                listener.accept().map(drop)
            }
            Port::Simulated(listener) => listener.accept().map(drop),
        };
        accepted.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

/// The network, for a program without a reactor.
pub struct Network(Plug);

enum Plug {
    System(Remote),
    Simulated(Rc<Simulated>),
}

impl Network {
    /// A plain socket of the client's, connected.
    #[track_caller]
    pub fn connect(&self, to: SocketAddr) -> Peer {
        match &self.0 {
            Plug::System(remote) => {
                system(TcpStream::connect(to).expect("a connection"), remote.clone())
            }
            Plug::Simulated(simulated) => simulated.connect(to),
        }
    }
}

impl Ground {
    /// A port that accepts nothing by itself.
    #[track_caller]
    pub fn held(&self) -> Held {
        self.held_with(128)
    }

    /// The same, with one connection and what fits into `backlog` before it is full.
    #[track_caller]
    pub fn held_with(&self, backlog: u32) -> Held {
        self.held_at(0, backlog)
    }

    /// The same where the clients are.
    #[track_caller]
    pub fn held_at_client(&self) -> Held {
        self.held_at(1, 128)
    }

    /// The same at an address of the client.
    #[track_caller]
    pub fn held_at_client_on(&self, address: SocketAddr) -> Held {
        self.held_to(1, address, 128)
    }

    #[track_caller]
    fn held_at(&self, end: usize, backlog: u32) -> Held {
        self.held_to(end, SocketAddr::new(self.ip(end), 0), backlog)
    }

    /// The same at an address of the server.
    #[track_caller]
    pub fn held_on(&self, address: SocketAddr) -> Held {
        self.held_to(0, address, 128)
    }

    #[track_caller]
    fn held_to(&self, end: usize, at: SocketAddr, backlog: u32) -> Held {
        match &self.site {
            Site::System(_) => {
                use socket2::{Domain, Socket, Type};
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
                socket.bind(&at.into()).expect("bound");
                socket.listen(backlog as i32).expect("listening");
                Held(Port::System(socket.into()))
            }
            Site::Simulated(simulated) => {
                let (world, host) = (&simulated.world, simulated.names[end]);
                let listener = PlainListener::bind(world, host, at, backlog);
                Held(Port::Simulated(listener.expect("a port")))
            }
        }
    }

    fn network(&self) -> Network {
        match &self.site {
            Site::System(reactor) => Network(Plug::System(reactor.remote())),
            Site::Simulated(simulated) => Network(Plug::Simulated(Rc::clone(simulated))),
        }
    }

    /// A plain socket of the client's, connected.
    #[track_caller]
    pub fn plain(&self, to: SocketAddr) -> Peer {
        self.network().connect(to)
    }

    /// Has the ports of the server accept, which began paused, when all that is under way has
    /// arrived there.
    #[track_caller]
    pub fn let_in(&self) {
        match &self.site {
            Site::System(reactor) => accept_all(reactor),
            Site::Simulated(simulated) => simulated.let_in(),
        }
    }

    /// Whether a plain socket of the client's is refused there.
    #[track_caller]
    pub fn is_refused(&self, to: SocketAddr) -> bool {
        match &self.site {
            Site::System(_) => TcpStream::connect(to).is_err(),
            Site::Simulated(simulated) => {
                let name = simulated.names[1];
                let stream = PlainStream::connect(&simulated.world, name, to).expect("an attempt");
                let answer = simulated.block(|| stream.read(&mut [0]));
                answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
            }
        }
    }

    /// Turns until a plain socket that is connected there has done this.
    #[track_caller]
    pub fn with_peer<R: Send + 'static>(
        &self,
        to: SocketAddr,
        peer: impl FnOnce(Peer) -> R + Send + 'static,
    ) -> R {
        self.alongside(move |network| peer(network.connect(to)))
    }

    /// Turns until another program has done this.
    #[track_caller]
    pub fn alongside<R: Send + 'static>(
        &self,
        program: impl FnOnce(Network) -> R + Send + 'static,
    ) -> R {
        match &self.site {
            Site::System(reactor) => {
                let remote = reactor.remote();
                self.on_a_thread(move || program(Network(Plug::System(remote))))
            }
            Site::Simulated(_) => program(self.network()),
        }
    }

    /// Turns until the next that a held port accepts has done this.
    #[track_caller]
    pub fn with_accepted<R: Send + 'static>(
        &self,
        held: Held,
        peer: impl FnOnce(Peer) -> R + Send + 'static,
    ) -> R {
        match (&self.site, held.0) {
            (Site::System(reactor), Port::System(listener)) => {
                let remote = reactor.remote();
                self.on_a_thread(move || {
                    peer(system(listener.accept().expect("a connection").0, remote))
                })
            }
            (Site::Simulated(simulated), Port::Simulated(listener)) => {
                let stream = simulated.block(|| listener.accept()).expect("a connection");
                peer(Peer(End::Simulated(stream, Rc::clone(simulated))))
            }
            _ => unreachable!("of another ground"),
        }
    }

    #[track_caller]
    fn on_a_thread<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        let thread = std::thread::spawn(work);
        self.turn_until(|| thread.is_finished());
        thread.join().expect("the peer is content")
    }
}
