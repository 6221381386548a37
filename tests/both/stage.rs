//! Where a behaviour is shown.

use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use strand_reactor::sim::World;
use strand_reactor::{DatagramProtocol, DatagramTransport, Handle, Reactor, UdpOptions};

use crate::support::PATIENCE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sockets of the system, over loopback.
    System,
    /// The same, but that ports of datagrams adopt theirs.
    Adopted,
    /// The simulated network, within one host.
    OneHost,
    /// The same, between two hosts.
    TwoHosts,
}

/// Two ends, `here` and `there`, on one reactor or on two.
pub trait Stage {
    fn kind(&self) -> Kind;
    fn here(&self) -> Handle;
    fn there(&self) -> Handle;
    fn here_ip(&self) -> IpAddr;
    fn there_ip(&self) -> IpAddr;
    /// Lets both take turns until this holds; false if that takes too long.
    fn wait(&self, condition: &mut dyn FnMut() -> bool) -> bool;
}

impl dyn Stage + '_ {
    /// Lets both ends take turns until this holds.
    #[track_caller]
    pub fn until(&self, mut condition: impl FnMut() -> bool) {
        assert!(self.wait(&mut condition), "it never comes true");
    }

    /// Opens a port here, at a free number.
    #[track_caller]
    pub fn port_here(&self, protocol: impl DatagramProtocol + 'static) -> DatagramTransport {
        self.open(&self.here(), self.here_ip(), protocol)
    }

    /// Opens a port there, at a free number.
    #[track_caller]
    pub fn port_there(&self, protocol: impl DatagramProtocol + 'static) -> DatagramTransport {
        self.open(&self.there(), self.there_ip(), protocol)
    }

    #[track_caller]
    fn open(
        &self,
        handle: &Handle,
        ip: IpAddr,
        protocol: impl DatagramProtocol + 'static,
    ) -> DatagramTransport {
        let at = SocketAddr::new(ip, 0);
        if self.kind() == Kind::Adopted {
            let socket = UdpSocket::bind(at).expect("a free port");
            return handle.adopt_datagram_port(OwnedFd::from(socket), protocol).expect("adopted");
        }
        handle.listen_udp(UdpOptions::new(at), protocol).expect("a free port")
    }

    pub fn options_here(&self) -> UdpOptions {
        UdpOptions::new(SocketAddr::new(self.here_ip(), 0))
    }

    pub fn options_there(&self) -> UdpOptions {
        UdpOptions::new(SocketAddr::new(self.there_ip(), 0))
    }
}

impl fmt::Debug for dyn Stage + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} from {} to {}", self.kind(), self.here_ip(), self.there_ip())
    }
}

struct System {
    reactor: Reactor,
    kind: Kind,
    ip: IpAddr,
}

impl Stage for System {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn here(&self) -> Handle {
        Handle::clone(&self.reactor)
    }

    fn there(&self) -> Handle {
        self.here()
    }

    fn here_ip(&self) -> IpAddr {
        self.ip
    }

    fn there_ip(&self) -> IpAddr {
        self.ip
    }

    fn wait(&self, condition: &mut dyn FnMut() -> bool) -> bool {
        let begun = Instant::now();
        while !condition() {
            if begun.elapsed() > PATIENCE {
                return false;
            }
            self.reactor.iterate(Some(Duration::from_millis(10))).expect("not from a callback");
        }
        true
    }
}

struct Simulated {
    world: World,
    ends: [Handle; 2],
    ips: [IpAddr; 2],
}

impl Stage for Simulated {
    fn kind(&self) -> Kind {
        if self.ips[0] == self.ips[1] { Kind::OneHost } else { Kind::TwoHosts }
    }

    fn here(&self) -> Handle {
        self.ends[0].clone()
    }

    fn there(&self) -> Handle {
        self.ends[1].clone()
    }

    fn here_ip(&self) -> IpAddr {
        self.ips[0]
    }

    fn there_ip(&self) -> IpAddr {
        self.ips[1]
    }

    fn wait(&self, condition: &mut dyn FnMut() -> bool) -> bool {
        let until = self.world.elapsed() + Duration::from_secs(600);
        let mut held = false;
        let over = || {
            held = condition();
            held || self.world.elapsed() > until
        };
        self.world.run_until(over).expect("not from a callback");
        held
    }
}

fn simulated(family: &str, hosts: usize) -> Simulated {
    let world = World::new(1);
    let end = |name: &str, addresses: &str| world.host(name, addresses).expect("a host");
    let one = end("one", "10.0.0.1, fd00::1");
    let two = end("two", "10.0.0.2, fd00::2");
    let ip = |text: &str| text.parse().expect("an address");
    let (ends, ips) = match (hosts, family) {
        (1, "v4") => ([one.clone(), one], [ip("127.0.0.1"), ip("127.0.0.1")]),
        (1, _) => ([one.clone(), one], [ip("::1"), ip("::1")]),
        (_, "v4") => ([one, two], [ip("10.0.0.1"), ip("10.0.0.2")]),
        _ => ([one, two], [ip("fd00::1"), ip("fd00::2")]),
    };
    Simulated { world, ends, ips }
}

fn system(kind: Kind, ip: &str) -> System {
    let reactor = Reactor::new().expect("a poller");
    System { reactor, kind, ip: ip.parse().expect("an address") }
}

/// Shows a behaviour on every stage, and says which one failed.
#[track_caller]
pub fn on_every(families: &[&str], behaviour: fn(&dyn Stage)) {
    let mut stages: Vec<Box<dyn Stage>> = Vec::new();
    for family in families {
        let loopback = if *family == "v4" { "127.0.0.1" } else { "::1" };
        stages.push(Box::new(system(Kind::System, loopback)));
        stages.push(Box::new(system(Kind::Adopted, loopback)));
        stages.push(Box::new(simulated(family, 1)));
        stages.push(Box::new(simulated(family, 2)));
    }
    for stage in stages {
        let shown = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| behaviour(&*stage)));
        assert!(shown.is_ok(), "on {stage:?}");
        for handle in [stage.here(), stage.there()] {
            assert_eq!(handle.stats().callback_panics, 0, "on {stage:?}");
        }
    }
}

/// Tests that are shown on every stage, each in both families.
macro_rules! behaviours {
    ($($(#[$doc:meta])* fn $name:ident($stage:ident) $body:block)*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            let _watchdog = $crate::side::watchdog::watchdog();
            $crate::stage::on_every(&["v4", "v6"], |$stage: &dyn $crate::stage::Stage| $body);
        }
    )*};
}
pub(crate) use behaviours;
