//! Whether anything was left behind.

use std::fmt;
use std::time::Duration;

use super::super::error::HostError;
use super::super::world::{Slot, World};
use crate::Reactor;
use crate::datagram::{DatagramTransport, PortState};
use crate::stream::{ListeningPort, Transport};

/// Something that the programs of a host have left behind, as [`World::leftovers`] finds it.
///
/// ```
/// use std::time::Duration;
/// use strand_reactor::sim::World;
///
/// let world = World::new(1);
/// let host = world.host("a", "10.0.0.1")?;
/// host.call_later(Duration::from_secs(9), |_| {});
/// let left = world.leftovers_on("a")?;
/// assert_eq!(left[0].to_string(), "host a: 1 timer, the next in 9s");
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leftover {
    /// The name of the host.
    pub host: String,
    /// What is left, for people to read.
    pub what: String,
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {}: {}", self.host, self.what)
    }
}

impl World {
    /// What the programs of all hosts have left behind: open ports and connections, with what
    /// waits in their queues, and timers. Hosts that are down have nothing. What is still under
    /// way between hosts does not count, nor do connections that the system alone knows of any
    /// more (TIME-WAIT).
    pub fn leftovers(&self) -> Vec<Leftover> {
        let hosts = self.slots.borrow().len();
        (0..hosts).flat_map(|number| self.left_on(number)).collect()
    }

    /// What the programs of one host have left behind.
    ///
    /// # Errors
    /// [`HostError::Unknown`].
    pub fn leftovers_on(&self, host: &str) -> Result<Vec<Leftover>, HostError> {
        Ok(self.left_on(self.find(host)?.0 as usize))
    }

    /// Checks that [`leftovers`](Self::leftovers) is empty.
    ///
    /// ```should_panic
    /// # use strand_reactor::*;
    /// # struct P;
    /// # impl DatagramProtocol for P {
    /// #     fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>)
    /// #     -> anyhow::Result<()> { Ok(()) }
    /// # }
    /// use strand_reactor::sim::World;
    ///
    /// let world = World::new(1);
    /// world.assert_nothing_left();
    /// let host = world.host("a", "10.0.0.1").unwrap();
    /// host.listen_udp(9, P).unwrap();
    /// world.assert_nothing_left(); // host a: a UDP port at 0.0.0.0:9
    /// ```
    ///
    /// # Panics
    /// When something is left. The message lists it.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let left = self.leftovers();
        let list: String = left.iter().map(|one| format!("\n  {one}")).collect();
        assert!(left.is_empty(), "left behind after {:?}:{list}", self.elapsed());
    }

    fn left_on(&self, number: usize) -> Vec<Leftover> {
        let (host, reactor, born, now) = {
            let net = self.net.borrow();
            let Slot { reactor: Some(reactor), born, .. } = &self.slots.borrow()[number] else {
                return Vec::new();
            };
            (net.hosts[number].name.to_string(), reactor.clone(), *born, net.now)
        };
        let mut left = open_on(&reactor);
        left.extend(timers(&reactor, now - born));
        left.into_iter().map(|what| Leftover { host: host.clone(), what }).collect()
    }
}

/// Ports and connections of a reactor, with what waits in their queues. The network must not be
/// borrowed.
pub(in super::super) fn open_on(reactor: &Reactor) -> Vec<String> {
    let mut open = ports(reactor);
    open.extend(streams(reactor));
    open
}

fn ports(reactor: &Reactor) -> Vec<String> {
    let describe = |port: DatagramTransport| {
        let address = port.local_addr().map_or("no address".to_owned(), |a| a.to_string());
        let queued = queued(port.queued_datagrams(), "datagram");
        let paused = paused(port.state() == PortState::Paused);
        format!("a UDP port at {address}{queued}{paused}")
    };
    reactor.datagram_ports().into_iter().map(describe).collect()
}

fn streams(reactor: &Reactor) -> Vec<String> {
    let inner = &reactor.inner;
    let (listeners, connections): (Vec<_>, Vec<_>) = {
        let streams = &inner.core.borrow().streams;
        let listeners = streams.listeners.keys().map(|key| ListeningPort::new(inner, key));
        let connections = streams.connections.keys().map(|key| Transport::new(inner, key));
        (listeners.collect(), connections.collect())
    };
    let of_port = |port: ListeningPort| match port.local_addr() {
        Ok(address) => format!("a TCP port at {address}"),
        Err(_) => "a TCP port".to_owned(),
    };
    let of_connection = |stream: Transport| {
        let ends = match (stream.local_addr(), stream.peer_addr()) {
            (Ok(local), Ok(peer)) => format!("from {local} to {peer}"),
            (Ok(local), Err(_)) => format!("from {local}"),
            _ => "without addresses".to_owned(),
        };
        let queued = queued(stream.queued_bytes(), "byte");
        let paused = paused(stream.is_reading_paused());
        format!("a connection {ends}, {:?}{queued}{paused}", stream.state())
    };
    listeners.into_iter().map(of_port).chain(connections.into_iter().map(of_connection)).collect()
}

fn queued(count: usize, what: &str) -> String {
    match count {
        0 => String::new(),
        1 => format!(", 1 {what} to send"),
        _ => format!(", {count} {what}s to send"),
    }
}

fn paused(is_paused: bool) -> &'static str {
    if is_paused { ", reading is paused" } else { "" }
}

fn timers(reactor: &Reactor, now: u64) -> Option<String> {
    let core = reactor.inner.core.borrow();
    let deadlines: Vec<u64> = core.timers.iter().map(|(_, at, _)| at).collect();
    let next = *deadlines.iter().min()?;
    let (count, plural) = (deadlines.len(), if deadlines.len() == 1 { "" } else { "s" });
    let next = Duration::from_nanos(next.saturating_sub(now));
    Some(format!("{count} timer{plural}, the next in {next:?}"))
}
