//! Options, as they come.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use strand_reactor::{ConnectOptions, Metadata, QueuePolicy, TcpOptions, UdpOptions};

use crate::program::Program;
use crate::random::Random;

/// An address of a host with this number: one of its own, or all.
pub fn address(program: &Program, host: usize, number: u16) -> SocketAddr {
    let random = &program.random;
    let ip: IpAddr = match random.below(6) {
        0 => Ipv6Addr::UNSPECIFIED.into(),
        1..=3 => Ipv4Addr::UNSPECIFIED.into(),
        4 => Ipv4Addr::LOCALHOST.into(),
        _ => random.pick(&program.hosts[host].addresses),
    };
    SocketAddr::new(ip, number)
}

pub fn udp(random: &Random, address: SocketAddr) -> UdpOptions {
    const POLICIES: [QueuePolicy; 3] =
        [QueuePolicy::Error, QueuePolicy::DropOldest, QueuePolicy::DropNewest];
    let mut options = UdpOptions::new(address)
        .reuse_address(random.flip())
        .broadcast_allowed(random.flip())
        .start_paused(random.one_in(8));
    if random.one_in(4) {
        options = options.reuse_port(true);
    }
    if random.one_in(4) {
        options = options.queue_limit(1 + random.index(20), 200 + random.index(5_000));
        options = options.queue_policy(random.pick(&POLICIES));
    }
    if random.one_in(4) {
        options = options.recv_buffer_size(2_000 + random.index(10_000));
    }
    if random.one_in(4) {
        options = options.send_buffer_size(2_000 + random.index(10_000));
    }
    if random.one_in(4) {
        options = options.metadata(Metadata::DESTINATION | Metadata::DROPS);
    }
    if random.one_in(8) {
        options = options.error_queue(true);
    }
    if random.one_in(8) {
        options = options.max_datagram_size(16 + random.index(100));
    }
    if random.one_in(8) {
        options = options.ttl(1 + random.below(3) as u32);
    }
    options
}

/// Streams whose buffers are soon full, and which give up soon.
macro_rules! tune {
    ($random:expr, $options:expr) => {{
        let (random, mut options) = ($random, $options);
        if random.flip() {
            options = options.write_watermarks(random.index(100), 100 + random.index(2_000));
        }
        if random.one_in(4) {
            options = options.write_limit(3_000 + random.index(10_000));
        }
        if random.one_in(4) {
            options = options.recv_buffer_size(3_000).send_buffer_size(5_000);
        }
        if random.one_in(4) {
            options = options.close_timeout(Duration::from_millis(random.below(2_000)));
        }
        if random.one_in(4) {
            options = options.nodelay(true);
        }
        options
    }};
}

pub fn listen(random: &Random, address: SocketAddr) -> TcpOptions {
    let mut options = tune!(random, TcpOptions::new(address));
    if random.one_in(6) {
        options = options.max_connections(1 + random.index(3));
    }
    if random.one_in(6) {
        options = options.backlog(1 + random.below(3) as u32);
    }
    options.start_paused(random.one_in(10))
}

pub fn connect(random: &Random, options: ConnectOptions) -> ConnectOptions {
    let options = tune!(random, options);
    if random.flip() { options.timeout(random.time()) } else { options }
}
