//! Three hosts on two networks: network namespaces, joined by veth and two bridges, or hosts of a
//! simulated network.
//!
//! ```text
//!   a  eth0 ──┐         ┌── eth1  c
//!             red     blue
//!   b  eth0 ──┘         └── eth1  b
//! ```
//!
//! `a` and `b` meet on red by their `eth0`, `b` and `c` on blue by their `eth1`; `a` has an `eth1`
//! on blue, too, and `c` an `eth0` on red. Red is 192.0.2.0/24 and 2001:db8:1::/64, blue is
//! 198.51.100.0/24 and 2001:db8:2::/64; the hosts are 1, 2 and 3 in each, and fe80::1 to fe80::3.
//!
//! Fixed numbers of ports are safe: the namespaces are this test's alone.

use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use strand_reactor::sim::World;

use crate::host::Host;

pub struct Network {
    /// Before the namespaces in the order of dropping.
    pub a: Host,
    pub b: Host,
    pub c: Host,
    /// `None` on a simulated network.
    namespaces: Option<Namespaces>,
}

struct Namespaces {
    prefix: String,
}

const HOSTS: [&str; 3] = ["a", "b", "c"];

fn ip(args: &str) -> Result<(), String> {
    let output = match Command::new("ip").args(args.split_whitespace()).output() {
        Ok(output) => output,
        Err(error) => return Err(format!("ip: {error}")),
    };
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {args}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

impl Network {
    /// One of each kind, one after the other. That of the system is left out, with a printed
    /// reason, where the rights or the program for it are missing.
    pub fn each() -> impl Iterator<Item = Self> {
        Self::of_the_system().chain(std::iter::once_with(Self::simulated))
    }

    /// That of the system alone.
    pub fn of_the_system() -> impl Iterator<Item = Self> {
        std::iter::once_with(Self::in_namespaces).flatten()
    }

    fn in_namespaces() -> Option<Self> {
        let namespaces = match Namespaces::make() {
            Ok(namespaces) => namespaces,
            Err(reason) => {
                println!("skipped: no network namespaces here: {reason}");
                return None;
            }
        };
        let [a, b, c] = HOSTS.map(|name| Host::start(&namespaces.name(name), name));
        Some(Self { a, b, c, namespaces: Some(namespaces) })
    }

    pub fn simulated() -> Self {
        let world = Rc::new(World::new(1));
        let [a, b, c] = [1, 2, 3].map(|number| {
            let name = HOSTS[number - 1];
            let addresses = [
                format!("192.0.2.{number}"),
                format!("198.51.100.{number}"),
                format!("2001:db8:1::{number}"),
                format!("2001:db8:2::{number}"),
            ];
            let handle = world.host(name, addresses.join(", ")).unwrap();
            Host::simulated(&world, handle, name)
        });
        Self { a, b, c, namespaces: None }
    }

    pub fn is_simulated(&self) -> bool {
        self.namespaces.is_none()
    }

    #[track_caller]
    fn namespaces(&self) -> &Namespaces {
        self.namespaces.as_ref().expect("interfaces of simulated hosts neither come nor go")
    }

    /// Switches an interface on (`up`) or off (`down`).
    #[track_caller]
    pub fn link(&self, host: &str, interface: &str, state: &str) {
        let namespace = self.namespaces().name(host);
        ip(&format!("-n {namespace} link set {interface} {state}")).unwrap();
    }

    /// Removes an interface.
    #[track_caller]
    pub fn remove(&self, host: &str, interface: &str) {
        let namespace = self.namespaces().name(host);
        ip(&format!("-n {namespace} link del {interface}")).unwrap();
    }

    /// Gives an interface its IPv6 addresses, which it loses when it is switched off.
    #[track_caller]
    pub fn address(&self, host: &str, interface: &str) {
        self.namespaces().addresses_v6(host, interface).unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let kind = if self.is_simulated() { "the simulated network" } else { "the system" };
            eprintln!("that was {kind}");
        }
    }
}

impl Namespaces {
    fn make() -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        if !std::path::Path::new("/proc/net/if_inet6").exists() {
            return Err("this system has no IPv6".to_owned());
        }
        // Dropped on failure, which removes what was made.
        let made = Self { prefix: format!("strand-{}-{count}", std::process::id()) };
        let hub = made.name("hub");
        ip(&format!("netns add {hub}"))?;
        for bridge in ["red", "blue"] {
            // Without snooping: the bridge delivers to everybody, the host must choose.
            ip(&format!("-n {hub} link add {bridge} type bridge mcast_snooping 0"))?;
            ip(&format!("-n {hub} link set {bridge} up"))?;
        }
        // Whoever may do this may do the rest.
        if let Err(reason) = made.connect(&hub) {
            panic!("{reason}");
        }
        Ok(made)
    }

    /// Makes the hosts, and joins them to the bridges of the hub.
    fn connect(&self, hub: &str) -> Result<(), String> {
        for (number, host) in HOSTS.iter().enumerate() {
            let namespace = self.name(host);
            ip(&format!("netns add {namespace}"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
            for (interface, bridge, net) in
                [("eth0", "red", "192.0.2"), ("eth1", "blue", "198.51.100")]
            {
                let there = format!("{host}-{bridge}");
                ip(&format!(
                    "-n {namespace} link add {interface} type veth peer name {there} netns {hub}"
                ))?;
                ip(&format!("-n {hub} link set {there} master {bridge} up"))?;
                // Addresses of our own at once, instead of one that is tried for a second first.
                ip(&format!("-n {namespace} link set {interface} addrgenmode none up"))?;
                let number = number + 1;
                ip(&format!(
                    "-n {namespace} addr add {net}.{number}/24 broadcast {net}.255 dev {interface}"
                ))?;
                self.addresses_v6(host, interface)?;
            }
            // Where groups and 255.255.255.255 go unless an interface is chosen.
            ip(&format!("-n {namespace} route add default dev eth0"))?;
            ip(&format!("-n {namespace} -6 route add multicast ff15::/16 dev eth0 table local"))?;
        }
        Ok(())
    }

    fn name(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    fn addresses_v6(&self, host: &str, interface: &str) -> Result<(), String> {
        let namespace = self.name(host);
        let number = HOSTS.iter().position(|name| *name == host).unwrap_or(0) + 1;
        let net = if interface == "eth0" { 1 } else { 2 };
        for address in [format!("fe80::{number}"), format!("2001:db8:{net}::{number}")] {
            ip(&format!("-n {namespace} addr add {address}/64 dev {interface} nodad"))?;
        }
        Ok(())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for host in HOSTS.iter().chain(&["hub"]) {
            let name = self.name(host);
            // What was never made cannot be removed.
            let _ = ip(&format!("netns del {name}"));
        }
    }
}
