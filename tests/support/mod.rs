//! What tests of ports have in common.
//!
//! | file | what is in it |
//! |---|---|
//! | `mod.rs` | [`Setup`]: a way of opening, a family and a socket path; the matrix of them |
//! | `lab.rs` | [`Lab`]: a reactor that a test drives, with a watchdog |
//! | `simulation.rs` | [`Simulation`]: the simulated host that a lab and its peers may be on |
//! | `recorder.rs` | [`Recorder`]: a protocol that logs what it is told, with hooks |
//! | `peer.rs` | [`Peer`] and [`Deaf`]: the other end, on plain sockets |
//!
//! A test runs over the simulated network unless it says why it cannot: `everywhere`, `listening`
//! and `batched` include it.
#![allow(dead_code, unused_imports, reason = "each test binary uses its own part")]

mod lab;
mod peer;
mod recorder;
mod simulation;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use strand_reactor::{DatagramProtocol, DatagramTransport, Family, Handle, UdpOptions};

pub use lab::Lab;
pub use peer::{Deaf, Peer};
pub use recorder::{Event, Log, Recorder};
pub use simulation::Simulation;

/// A test that has waited for this long has failed. Nothing is ever timed by it.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How a port comes to its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `listen_udp`.
    Listen,
    /// `adopt_datagram_port`.
    Adopt,
    /// `adopt_datagram_port_shared`; the original is closed at once.
    Shared,
}

/// One combination of the matrix.
#[derive(Clone, Copy)]
pub struct Setup {
    pub way: Way,
    pub family: Family,
    /// Whether the reactor uses the sockets of systems without batched calls.
    pub portable: bool,
    /// Whether the reactor is that of a simulated host, which has no descriptors: ports only
    /// listen there, and never by the portable path.
    pub simulated: bool,
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match (self.simulated, self.portable) {
            (true, _) => "simulated",
            (_, true) => "portable",
            (_, false) => "batched",
        };
        write!(f, "{:?}/{:?}/{path}", self.way, self.family)
    }
}

/// Runs `behaviour` in every combination of way, family and path.
#[track_caller]
pub fn everywhere(behaviour: impl Fn(&Setup)) {
    in_each(Setup::all(), behaviour);
}

/// As [`everywhere`], over the sockets of the system alone: for what no simulated host has. The
/// caller says what that is.
#[track_caller]
pub fn everywhere_on_the_system(behaviour: impl Fn(&Setup)) {
    in_each(Setup::all().filter(|s| !s.simulated), behaviour);
}

/// Runs `behaviour` with `listen_udp` alone, over families and paths.
#[track_caller]
pub fn listening(behaviour: impl Fn(&Setup)) {
    in_each(Setup::all().filter(|s| s.way == Way::Listen), behaviour);
}

/// As [`listening`], over the sockets of the system alone.
#[track_caller]
pub fn listening_on_the_system(behaviour: impl Fn(&Setup)) {
    in_each(Setup::all().filter(|s| s.way == Way::Listen && !s.simulated), behaviour);
}

/// Runs `behaviour` with `listen_udp` over one family, on every path.
#[track_caller]
pub fn listening_over(family: Family, behaviour: impl Fn(&Setup)) {
    in_each(Setup::all().filter(|s| s.way == Way::Listen && s.family == family), behaviour);
}

/// Runs `behaviour` in the plainest combination, over the system and over the simulation: for what
/// depends on nothing else.
#[track_caller]
pub fn plainly(behaviour: impl Fn(&Setup)) {
    in_each([Setup::plain(), Setup::plain().in_simulation()].into_iter(), behaviour);
}

/// Runs `behaviour` with every way and family, on the batched path and in the simulation.
#[track_caller]
pub fn batched(behaviour: impl Fn(&Setup)) {
    in_each(Setup::all().filter(|s| !s.portable), behaviour);
}

/// Runs `behaviour` in every combination of `setups` and names those in which it fails.
#[track_caller]
pub fn in_each(setups: impl Iterator<Item = Setup>, behaviour: impl Fn(&Setup)) {
    let mut failed = Vec::new();
    for setup in setups {
        let shown = catch_unwind(AssertUnwindSafe(|| behaviour(&setup)));
        Simulation::forget();
        if shown.is_err() {
            eprintln!("that was {setup}");
            failed.push(setup.to_string());
            if failed.len() == 4 {
                failed.push("and perhaps more".to_owned());
                break;
            }
        }
    }
    assert!(failed.is_empty(), "fails with {}", failed.join(", "));
}

/// For a completion that must not run.
pub fn never<T>(_: T) {
    panic!("called");
}

/// While a child process is being made it has a copy of every descriptor, and closes none before
/// it runs its program: what a test closes meanwhile stays open. So whoever makes one takes this
/// for writing, and tests that need their sockets gone at once take it for reading.
static CHILDREN: RwLock<()> = RwLock::new(());

/// No child process is made as long as this is held: what is closed is gone.
pub fn without_children() -> RwLockReadGuard<'static, ()> {
    CHILDREN.read().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a child process.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let _alone = CHILDREN.write().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}

/// Whether IPv6 can be used on this host's loopback; says so if not.
pub fn has_ipv6() -> bool {
    match UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(_) => true,
        Err(error) => {
            println!("skipped for IPv6: ::1 cannot be bound: {error}");
            false
        }
    }
}

impl Setup {
    /// Every combination that this host allows.
    pub fn all() -> impl Iterator<Item = Self> {
        let families: &[Family] = match has_ipv6() {
            true => &[Family::V4, Family::V6Only, Family::Dual],
            false => &[Family::V4],
        };
        let mut all = Vec::new();
        for way in [Way::Listen, Way::Adopt, Way::Shared] {
            for family in families {
                all.extend([false, true].map(|portable| Self {
                    way,
                    family: *family,
                    portable,
                    simulated: false,
                }));
            }
        }
        for family in [Family::V4, Family::V6Only, Family::Dual] {
            all.push(Self { family, ..Self::plain().in_simulation() });
        }
        all.into_iter()
    }

    /// The plainest combination, for what does not depend on any of the three.
    pub fn plain() -> Self {
        Self { way: Way::Listen, family: Family::V4, portable: false, simulated: false }
    }

    /// The same family on a simulated host.
    pub fn in_simulation(self) -> Self {
        Self { way: Way::Listen, portable: false, simulated: true, ..self }
    }

    /// Whether there are descriptors, which the kernel can be asked about.
    pub fn has_descriptors(&self) -> bool {
        !self.simulated
    }

    /// The same combination on the other way.
    pub fn by(self, way: Way) -> Self {
        Self { way, ..self }
    }

    /// Where ports are bound: a dual-stack one to every address.
    pub fn bind_ip(&self) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6Only => Ipv6Addr::LOCALHOST.into(),
            Family::Dual => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// Where peers are, and where they reach a port: a dual-stack one is met over IPv4.
    pub fn peer_ip(&self) -> IpAddr {
        match self.family {
            Family::V4 | Family::Dual => Ipv4Addr::LOCALHOST.into(),
            Family::V6Only => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// Where peers reach `port`.
    #[track_caller]
    pub fn reach(&self, port: &DatagramTransport) -> SocketAddr {
        SocketAddr::new(self.peer_ip(), port.local_addr().unwrap().port())
    }

    /// An address as the port shows it.
    pub fn shown(&self, address: SocketAddr) -> SocketAddr {
        match (self.family, address.ip()) {
            (Family::Dual, IpAddr::V4(ip)) => {
                SocketAddr::new(ip.to_ipv6_mapped().into(), address.port())
            }
            _ => address,
        }
    }

    /// A free address whose number the system gives to nobody who asks for any: it stays free when
    /// a test lets go of it, whatever runs beside.
    #[track_caller]
    pub fn lasting_address(&self) -> SocketAddr {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Below the range of numbers that Linux and the BSDs choose from by default.
        let first = (std::process::id() % 10_000) as u16;
        for _ in 0..1_000 {
            let next = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = 20_000 + first.wrapping_add(next) % 10_000;
            let address = SocketAddr::new(self.bind_ip(), number);
            if self.simulated || self.unbound_socket().bind(&address.into()).is_ok() {
                return address;
            }
        }
        panic!("no number is free");
    }

    pub fn options(&self) -> UdpOptions {
        self.options_at((self.bind_ip(), 0).into())
    }

    pub fn options_at(&self, address: SocketAddr) -> UdpOptions {
        UdpOptions::new(address).family(self.family)
    }

    /// A reactor of the right path, with nothing in it.
    pub fn lab(&self) -> Lab {
        Lab::new(*self)
    }

    /// A peer of the right family.
    #[track_caller]
    pub fn peer(&self) -> Peer {
        self.peer_at(self.peer_ip())
    }

    /// A peer at this address of the host.
    #[track_caller]
    pub fn peer_at(&self, ip: impl Into<IpAddr>) -> Peer {
        match self.simulated {
            true => Peer::simulated(ip.into()),
            false => Peer::bind(ip.into()),
        }
    }

    /// An address of the right family at which nobody listens.
    #[track_caller]
    pub fn deaf(&self) -> Deaf {
        match self.simulated {
            true => Deaf::simulated(self.peer_ip()),
            false => Deaf::bind(self.peer_ip()),
        }
    }

    /// Fails unless the address can be bound: whoever had it is gone.
    #[track_caller]
    pub fn assert_free(&self, address: SocketAddr) {
        if self.simulated {
            let port = Simulation::current()
                .running()
                .listen_udp(self.options_at(address), Recorder::quiet());
            port.expect("the address is free").stop_listening();
        } else {
            self.unbound_socket().bind(&address.into()).expect("the address is free");
        }
    }

    /// A bound blocking socket such as another program would leave behind.
    pub fn socket(&self) -> Socket {
        self.socket_at(SocketAddr::new(self.bind_ip(), 0))
    }

    fn socket_at(&self, address: SocketAddr) -> Socket {
        let socket = self.unbound_socket();
        socket.bind(&address.into()).unwrap();
        socket
    }

    pub fn unbound_socket(&self) -> Socket {
        assert!(!self.simulated, "a simulated host has no descriptors");
        let domain = if self.family == Family::V4 { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        if self.family != Family::V4 {
            socket.set_only_v6(self.family == Family::V6Only).unwrap();
        }
        socket
    }

    /// Opens a port in this way.
    #[track_caller]
    pub fn open(
        &self,
        handle: &Handle,
        protocol: impl DatagramProtocol + 'static,
    ) -> DatagramTransport {
        self.open_at(handle, SocketAddr::new(self.bind_ip(), 0), protocol)
    }

    /// Opens a port in this way, at an address of its own choice.
    #[track_caller]
    pub fn open_at(
        &self,
        handle: &Handle,
        address: SocketAddr,
        protocol: impl DatagramProtocol + 'static,
    ) -> DatagramTransport {
        let socket = || self.socket_at(address);
        match self.way {
            Way::Listen => handle.listen_udp(self.options_at(address), protocol).unwrap(),
            Way::Adopt => handle.adopt_datagram_port(socket(), protocol).unwrap(),
            Way::Shared => handle.adopt_datagram_port_shared(socket(), protocol).unwrap(),
        }
    }
}
