//! Random programs of three hosts: the simulation tells them what the system does.
//!
//! Whatever a host is told is compared: the answer of every call, and every datagram with its
//! source, its destination, its interface and its hops.

use crate::network::Network;

/// A small generator (xorshift): the same numbers from the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most as u64) as usize
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }
}

struct Kind {
    any: &'static str,
    loopback: &'static str,
    /// The addresses of a host, with an `N` for its number.
    neighbours: &'static [&'static str],
    groups: &'static [&'static str],
    sources: &'static [&'static str],
    destinations: &'static [&'static str],
}

const V4: Kind = Kind {
    any: "0.0.0.0",
    loopback: "127.0.0.1",
    neighbours: &["192.0.2.N", "198.51.100.N"],
    groups: &["239.1.2.3", "224.0.0.77"],
    sources: &["192.0.2.1", "192.0.2.3", "198.51.100.1", "198.51.100.2", "198.51.100.3"],
    destinations: &[
        "239.1.2.3",
        "239.1.2.3",
        "224.0.0.77",
        "192.0.2.1",
        "192.0.2.2",
        "198.51.100.3",
        "192.0.2.255",
        "198.51.100.255",
        "255.255.255.255",
        "127.0.0.1",
    ],
};

const V6: Kind = Kind {
    any: "[::]",
    loopback: "[::1]",
    neighbours: &["[2001:db8:1::N]", "[2001:db8:2::N]"],
    groups: &["ff15::7", "ff15::77"],
    sources: &["2001:db8:1::1", "2001:db8:1::3", "2001:db8:2::3"],
    destinations: &[
        "[ff15::7]",
        "[ff15::7%eth1]",
        "[ff15::77]",
        "[2001:db8:1::1]",
        "[2001:db8:2::2]",
        "[2001:db8:1::3]",
        "[::1]",
    ],
};

const PORTS: [(&str, usize); 2] = [("p", 5000), ("q", 5001)];
const ON: [&str; 4] = ["eth0", "eth0", "eth1", "lo"];

/// The commands of a program, each with the number of the host that it is for.
fn program(kind: &Kind, seed: u64, length: usize) -> Vec<(usize, String)> {
    let random = &mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut commands = Vec::new();
    for host in 0..3 {
        for (port, number) in PORTS {
            let way = random.of(&["multicast", "udp"]);
            commands.push((host, format!("{way} {port} {}:{number}", kind.any)));
            commands.push((host, format!("out {port} eth0")));
        }
    }
    meet(kind, &mut commands);
    for step in 0..length {
        let (host, port) = (random.below(3), random.of(&["p", "q"]));
        let (group, on) = (random.of(kind.groups), random.of(&ON));
        let (source, bit) = (random.of(kind.sources), random.below(2));
        let (to, number) = (random.of(kind.destinations), 5000 + random.below(2));
        let command = match random.below(24) {
            0..3 => format!("join {port} {group} {on}"),
            3 => format!("leave {port} {group} {on}"),
            4 | 5 => format!("join_source {port} {group} {source} {on}"),
            6 => format!("leave_source {port} {group} {source} {on}"),
            7 => format!("block {port} {group} {source} {on}"),
            8 => format!("unblock {port} {group} {source} {on}"),
            9 => format!("filter {port} {group} {on}"),
            10 => format!("out {port} {on}"),
            // There is no router between the namespaces.
            11 => format!("ttl {port} {bit}"),
            12 => format!("loopback {port} {bit}"),
            13 => format!("broadcast {port} {}", random.below(4).min(1)),
            _ => format!("send {port} {to}:{number} m{step}"),
        };
        let sent = command.starts_with("send");
        commands.push((host, command));
        if sent && random.below(3) == 0 {
            listen(kind, step, &mut commands);
        }
    }
    listen(kind, length, &mut commands);
    commands
}

/// Every host hears every other at each of its addresses: from now on none looks for another first.
fn meet(kind: &Kind, commands: &mut Vec<(usize, String)>) {
    for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
        for (net, network) in kind.neighbours.iter().enumerate() {
            let address = network.replace('N', &(to + 1).to_string());
            let text = format!("meet{from}{net}");
            commands.push((from, format!("send p {address}:5000 {text}")));
            commands.push((to, format!("heard p {text}")));
        }
    }
}

/// What has come by now: up to a sentinel that each port is sent by its neighbour.
fn listen(kind: &Kind, step: usize, commands: &mut Vec<(usize, String)>) {
    for host in 0..3 {
        for (port, number) in PORTS {
            let other = if port == "p" { "q" } else { "p" };
            commands.push((host, format!("send {other} {}:{number} end{step}", kind.loopback)));
            commands.push((host, format!("heard {port} end{step}")));
        }
    }
}

fn told(network: &mut Network, commands: &[(usize, String)]) -> Vec<String> {
    let Network { a, b, c, .. } = network;
    let mut hosts = [a, b, c];
    let tell = |(host, command): &(usize, String)| {
        format!("{}: {command}: {}", ["a", "b", "c"][*host], hosts[*host].ask(command))
    };
    commands.iter().map(tell).collect()
}

/// Where the two differ for the first time.
fn difference(commands: &[(usize, String)]) -> Option<String> {
    let mut system = Network::of_the_system().next()?;
    let expected = told(&mut system, commands);
    let found = told(&mut Network::simulated(), commands);
    let at = (0..expected.len()).find(|at| expected[*at] != found[*at])?;
    let before = expected[..at].join("\n");
    Some(format!("{before}\nsystem:     {}\nsimulation: {}", expected[at], found[at]))
}

fn is_told_the_same(kind: &Kind, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let commands = program(kind, seed, 60);
        // A busy system may deliver late what goes from host to host: only what stays counts.
        let differences = (0..3).map_while(|_| difference(&commands));
        if let (3.., Some(difference)) = differences.fold((0, None), |(n, _), d| (n + 1, Some(d))) {
            panic!("seed {seed}:\n{difference}");
        }
    }
}

#[test]
fn random_programs_over_ipv4_are_told_the_same() {
    is_told_the_same(&V4, 1..11);
}

#[test]
fn random_programs_over_ipv6_are_told_the_same() {
    is_told_the_same(&V6, 1..11);
}
