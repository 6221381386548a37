//! Where a test of streams is shown: over the sockets of the system, and over the simulated
//! network, within a host and between two. Where a simulated ground differs from the system, the
//! simulation is wrong.
//!
//! | file | what is in it |
//! |---|---|
//! | `mod.rs` | [`Ground`]: reactors, and how to let them take turns |
//! | `peer.rs` | [`Peer`], [`Held`]: the other end, on plain sockets that block |
#![allow(dead_code, unused_imports, reason = "each suite uses its own part")]

mod peer;

use std::cell::{Cell, OnceCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use strand_reactor::sim::World;
use strand_reactor::{
    ConnectOptions, Handle, ListeningPort, PeerAddr, Protocol, Reactor, TcpOptions, Transport,
};

pub use peer::{Held, Network, Peer};

/// Bounds every test: a hang is a failure. Nothing is ever timed by it.
pub const WATCHDOG: Duration = Duration::from_secs(120);
/// `net.ipv4.tcp_wmem`: what loopback gives to send.
const ROOM: usize = 4 << 20;
/// Bounds the virtual time of what never ends by itself.
const VIRTUAL: Duration = Duration::from_secs(600);
/// How long a world goes on for what does not keep a loop going. Longer than any timer of a test.
const UNREFERENCED: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sockets of the system, over loopback.
    System,
    /// The simulated network, within one host.
    OneHost,
    /// The same, between two hosts.
    TwoHosts,
}

/// A server's place and a client's, which may be the same.
pub struct Ground {
    site: Site,
    /// Callbacks that may panic.
    panics: Cell<u64>,
}

enum Site {
    System(Reactor),
    Simulated(Rc<Simulated>),
}

pub struct Simulated {
    kind: Kind,
    world: World,
    /// Of the server, and of the client.
    names: [&'static str; 2],
    handles: [Handle; 2],
    ips: [IpAddr; 2],
    begun: Instant,
}

/// Says on a panic where it was.
pub struct Here(Kind);

impl Drop for Here {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("on the ground {:?}", self.0);
        }
    }
}

/// Shows a test on every ground.
#[track_caller]
pub fn everywhere(test: impl FnMut(&Ground)) {
    on(&[Kind::System, Kind::OneHost, Kind::TwoHosts], test);
}

#[track_caller]
fn on(kinds: &[Kind], mut test: impl FnMut(&Ground)) {
    for &kind in kinds {
        let ground = Ground::new(kind);
        let _here = ground.here();
        test(&ground);
    }
}

/// Shows a test on every ground where an answer is there as soon as it was caused.
#[track_caller]
pub fn over_loopback(test: impl FnMut(&Ground)) {
    on(&[Kind::System, Kind::OneHost], test);
}

/// Shows a test over the sockets of the system alone. Why, is said there.
#[track_caller]
pub fn on_the_system(test: impl FnOnce(Ground)) {
    test(Ground::new(Kind::System));
}

fn hang(handle: &Handle) {
    handle.stop();
    panic!("the test hangs");
}

impl Simulated {
    fn new(kind: Kind) -> Self {
        let world = World::new(1);
        let server = world.host("server", "10.0.0.1, fd00::1").expect("a host");
        let ip = |text: &str| text.parse().expect("an address");
        let (names, handles, ips) = if kind == Kind::TwoHosts {
            let client = world.host("client", "10.0.0.2, fd00::2").expect("a host");
            (["server", "client"], [server, client], [ip("10.0.0.1"), ip("10.0.0.2")])
        } else {
            (["server"; 2], [server.clone(), server], [ip("127.0.0.1"); 2])
        };
        Self { kind, world, names, handles, ips, begun: Instant::now() }
    }

    /// Lets time pass until this holds; false if nothing is left that could happen, or virtual
    /// time runs on and on.
    #[track_caller]
    fn wait(&self, mut done: impl FnMut() -> bool) -> bool {
        let until = self.world.elapsed() + VIRTUAL;
        let mut held = false;
        let over = || {
            assert!(self.begun.elapsed() < WATCHDOG, "the test hangs");
            held = done();
            held || self.world.elapsed() > until
        };
        self.world.run_until(over).expect("not from a callback");
        held
    }

    /// Lets time pass until nothing is left that could happen. What is unref'd does not count, as
    /// far as that is known: without a port or a connection it is left a while.
    #[track_caller]
    fn run(&self) {
        let mut since = self.world.elapsed();
        self.wait(|| {
            let idle = |one: &Handle| one.streams().is_empty() && one.listening_ports().is_empty();
            if !self.handles.iter().all(idle) {
                since = self.world.elapsed();
            }
            self.world.elapsed() > since + UNREFERENCED
        });
    }

    #[track_caller]
    fn turn_until(&self, done: impl FnMut() -> bool) {
        assert!(self.wait(done), "the test hangs: {}", self.world.dump());
    }
}

impl Ground {
    pub fn new(kind: Kind) -> Self {
        if kind != Kind::System {
            return Self::of(Site::Simulated(Rc::new(Simulated::new(kind))));
        }
        let reactor = Reactor::new().expect("a reactor");
        reactor.call_later(WATCHDOG, hang).unref();
        Self::of(Site::System(reactor))
    }

    /// Says on a panic that it was here.
    #[must_use]
    pub fn here(&self) -> Here {
        Here(self.kind())
    }

    fn of(site: Site) -> Self {
        Self { site, panics: Cell::new(0) }
    }

    /// So many callbacks are to panic.
    pub fn expect_panics(&self, count: u64) {
        self.panics.set(count);
    }

    #[track_caller]
    fn check(&self) {
        let (panics, expected) = (self.panics(), self.panics.get());
        assert!(panics <= expected, "{panics} callbacks panicked, or the test hangs");
    }

    pub fn kind(&self) -> Kind {
        match &self.site {
            Site::System(_) => Kind::System,
            Site::Simulated(simulated) => simulated.kind,
        }
    }

    /// That of the system.
    pub fn reactor(&self) -> &Reactor {
        let Site::System(reactor) = &self.site else { panic!("simulated") };
        reactor
    }

    fn handle(&self, end: usize) -> Handle {
        match &self.site {
            Site::System(reactor) => Handle::clone(reactor),
            Site::Simulated(simulated) => simulated.handles[end].clone(),
        }
    }

    /// Where ports are.
    pub fn server(&self) -> Handle {
        self.handle(0)
    }

    /// Where clients are.
    pub fn client(&self) -> Handle {
        self.handle(1)
    }

    fn ip(&self, end: usize) -> IpAddr {
        match &self.site {
            Site::System(_) => IpAddr::from([127, 0, 0, 1]),
            Site::Simulated(simulated) => simulated.ips[end],
        }
    }

    /// Any port of the server. Between two hosts with the room to send that loopback gives
    /// unasked.
    pub fn loopback(&self) -> TcpOptions {
        let options = TcpOptions::new(self.any_port());
        match self.kind() {
            Kind::TwoHosts => options.send_buffer_size(ROOM),
            _ => options,
        }
    }

    /// The way there for a client, with the same room.
    pub fn way_to(&self, address: SocketAddr) -> ConnectOptions {
        let options = ConnectOptions::new(address);
        match self.kind() {
            Kind::TwoHosts => options.send_buffer_size(ROOM),
            _ => options,
        }
    }

    /// The same as an address.
    pub fn any_port(&self) -> SocketAddr {
        SocketAddr::new(self.ip(0), 0)
    }

    /// An address of IPv6 of the server, where there is one.
    pub fn v6(&self) -> Option<IpAddr> {
        let v6 = match self.kind() {
            Kind::System => {
                std::net::TcpListener::bind("[::1]:0").ok()?;
                "::1"
            }
            Kind::OneHost => "::1",
            Kind::TwoHosts => "fd00::1",
        };
        Some(v6.parse().expect("an address"))
    }

    /// An address of the server where nobody listens.
    pub fn nobody(&self) -> SocketAddr {
        self.free(0)
    }

    /// An address of the client that nobody has.
    pub fn free_at_client(&self) -> SocketAddr {
        self.free(1)
    }

    fn free(&self, end: usize) -> SocketAddr {
        let any = SocketAddr::new(self.ip(end), 0);
        let port = self.handle(end).listen_tcp(any, |_: PeerAddr| None::<Nothing>).expect("a port");
        let address = port.local_addr().expect("bound");
        port.stop_listening();
        self.turn_until(|| port.local_addr().is_err());
        address
    }

    /// Turns until `done`.
    #[track_caller]
    pub fn turn_until(&self, mut done: impl FnMut() -> bool) {
        match &self.site {
            Site::Simulated(simulated) => {
                simulated.turn_until(done);
                self.check();
            }
            Site::System(reactor) => {
                while !done() {
                    reactor.iterate(Some(Duration::from_millis(20))).expect("a turn");
                    self.check();
                }
            }
        }
    }

    /// Turns `times`, each of which may wait so long.
    #[track_caller]
    pub fn turns(&self, times: u32, wait: Duration) {
        for _ in 0..times {
            match &self.site {
                Site::System(reactor) => {
                    reactor.iterate(Some(wait)).expect("a turn");
                }
                Site::Simulated(simulated) => {
                    simulated.world.run_for(wait).expect("not from a callback");
                }
            }
        }
    }

    /// Runs until nothing is left that could call back.
    #[track_caller]
    pub fn run(&self) {
        match &self.site {
            Site::System(reactor) => reactor.run().expect("the loop runs"),
            Site::Simulated(simulated) => {
                // As `run` begins anew after a stop.
                for name in simulated.names {
                    if simulated.world.has_stopped(name).expect("a host") {
                        simulated.world.run_again(name).expect("a host");
                    }
                }
                simulated.run();
            }
        }
        self.check();
    }

    /// Callbacks that panicked.
    pub fn panics(&self) -> u64 {
        match &self.site {
            Site::System(reactor) => reactor.stats().callback_panics,
            Site::Simulated(simulated) => {
                let hosts = if simulated.kind == Kind::TwoHosts { 2 } else { 1 };
                simulated.handles[..hosts].iter().map(|one| one.stats().callback_panics).sum()
            }
        }
    }

    pub fn streams(&self) -> Vec<Transport> {
        let mut all = self.server().streams();
        if self.kind() == Kind::TwoHosts {
            all.extend(self.client().streams());
        }
        all
    }

    /// A port of the server that accepts one connection, for `protocol`, and closes.
    #[track_caller]
    pub fn once(&self, options: TcpOptions, protocol: impl Protocol + 'static) -> SocketAddr {
        let own = Rc::new(OnceCell::<ListeningPort>::new());
        let (mut protocol, this) = (Some(protocol), Rc::clone(&own));
        let listening = self.server().listen_tcp(options, move |_: PeerAddr| {
            this.get().expect("open").stop_listening();
            protocol.take()
        });
        let port = listening.expect("a port");
        let address = port.local_addr().expect("bound");
        own.set(port).expect("set once");
        address
    }

    /// A server and a client, until both are lost.
    #[track_caller]
    pub fn pair(&self, server: impl Protocol + 'static, client: impl Protocol + 'static) {
        self.pair_with(self.loopback(), server, client);
    }

    #[track_caller]
    pub fn pair_with(
        &self,
        options: TcpOptions,
        server: impl Protocol + 'static,
        client: impl Protocol + 'static,
    ) {
        let address = self.once(options, server);
        let mut client = Some(client);
        let attempt =
            self.client().connect_tcp(self.way_to(address), move |_: PeerAddr| client.take());
        attempt.expect("an attempt");
        self.run();
        assert!(self.streams().is_empty());
    }

    /// A server, and a plain socket that blocks.
    #[track_caller]
    pub fn against<R: Send + 'static>(
        &self,
        server: impl Protocol + 'static,
        peer: impl FnOnce(Peer) -> R + Send + 'static,
    ) -> R {
        self.against_with(self.loopback(), server, peer)
    }

    #[track_caller]
    pub fn against_with<R: Send + 'static>(
        &self,
        options: TcpOptions,
        server: impl Protocol + 'static,
        peer: impl FnOnce(Peer) -> R + Send + 'static,
    ) -> R {
        let address = self.once(options, server);
        let result = self.with_peer(address, peer);
        // The port closes once it has accepted.
        self.turn_until(|| self.server().listening_ports().is_empty() && self.streams().is_empty());
        // What is still to be told.
        self.run();
        result
    }
}

/// Of a connection that nobody makes.
struct Nothing;

impl Protocol for Nothing {
    fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }
}
