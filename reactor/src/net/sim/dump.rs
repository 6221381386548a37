//! A world as text, for whoever wonders why nothing comes.

use std::fmt::{self, Write};
use std::time::Duration;

use super::host::{HostId, HostState, interface_name};
use super::kit::open_on;
use super::network::{Happening, Net};
use super::packet::{Body, Packet};
use super::turn::Wants;
use super::world::World;
use crate::Reactor;

impl World {
    /// The state of everything as text. Of each host: the sockets of its system, with what waits to
    /// be read, accepted or acknowledged; the ports and connections of its programs, with what waits
    /// to be sent; and every timer, with the moment of the world's time at which it is due. Then the
    /// rules in force, and each packet under way with its arrival. For people to read; its form may
    /// change.
    ///
    /// ```
    /// # use strand_reactor::*;
    /// # struct P;
    /// # impl DatagramProtocol for P {
    /// #     fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>)
    /// #     -> anyhow::Result<()> { Ok(()) }
    /// # }
    /// use std::time::Duration;
    /// use strand_reactor::sim::World;
    /// let world = World::new(1);
    /// let a = world.host("a", "10.0.0.1")?;
    /// world.host("b", "10.0.0.2")?;
    /// a.listen_udp(9, P)?.write_to(b"hello", "10.0.0.2:9".parse()?)?;
    /// world.run_for(Duration::ZERO)?;
    /// let text = world.dump();
    /// assert!(text.contains("udp 0.0.0.0:9"), "{text}");
    /// assert!(text.contains("a -> b udp 10.0.0.1:9 > 10.0.0.2:9, 5 bytes"), "{text}");
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn dump(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> fmt::Result {
        let hosts = self.slots.borrow().len();
        writeln!(text, "world at {:?}: {hosts} hosts", self.elapsed())?;
        for number in 0..hosts {
            self.write_host(number, text)?;
        }
        let net = &*self.net.borrow();
        net.links.write_rules(net.now, text)?;
        write_flights(net, text)
    }

    fn write_host(&self, number: usize, text: &mut String) -> fmt::Result {
        let (reactor, is_stopped, born) = {
            let slot = &self.slots.borrow()[number];
            (slot.reactor.clone(), slot.stopped, slot.born)
        };
        let state = match (&reactor, is_stopped) {
            (None, _) => "down",
            (Some(_), true) => "stopped",
            (Some(_), false) => "up",
        };
        write_system(&self.net.borrow().hosts[number], state, text)?;
        let Some(reactor) = reactor else { return Ok(()) };
        write_reactor(&reactor, born, text)?;
        match reactor.wants() {
            // It takes no more turns.
            _ if is_stopped => Ok(()),
            Wants::Now => writeln!(text, "  wants a turn now"),
            Wants::At(at) => writeln!(text, "  wants a turn at {:?}", moment(born, at)),
            Wants::Nothing => Ok(()),
        }
    }
}

/// A moment of a host's own clock, on that of the world.
fn moment(born: u64, at: u64) -> Duration {
    Duration::from_nanos(born.saturating_add(at))
}

/// What the system of a host knows: its addresses, and its sockets.
fn write_system(host: &HostState, state: &str, text: &mut String) -> fmt::Result {
    write!(text, "host {}, {state}:", host.name)?;
    for own in &host.addresses {
        write!(text, " {}/{} on {}", own.ip, own.prefix_len, interface_name(own.interface))?;
    }
    writeln!(text)?;
    for socket in host.udp.iter() {
        writeln!(text, "  udp {socket}")?;
    }
    host.tcp.dump(text)
}

/// What its programs have open, and the timers that they wait for, the next one first. The network
/// is not borrowed: ports ask it for their addresses.
fn write_reactor(reactor: &Reactor, born: u64, text: &mut String) -> fmt::Result {
    let mut timers: Vec<(u64, bool)> = {
        let core = reactor.inner.core.borrow();
        core.timers.iter().map(|(_, at, timer)| (at, timer.is_referenced())).collect()
    };
    timers.sort_unstable();
    let open = open_on(reactor);
    let deadline = reactor.inner.shutdown_deadline();
    if open.is_empty() && timers.is_empty() && deadline.is_none() {
        return Ok(());
    }
    writeln!(text, "  open in its reactor:")?;
    for one in open {
        writeln!(text, "    {one}")?;
    }
    for (at, is_referenced) in timers {
        let alone = if is_referenced { "" } else { ", unreferenced" };
        writeln!(text, "    a timer at {:?}{alone}", moment(born, at))?;
    }
    match deadline {
        Some(at) => writeln!(text, "    a shutdown, over at {:?} at the latest", moment(born, at)),
        None => Ok(()),
    }
}

fn write_flights(net: &Net, text: &mut String) -> fmt::Result {
    let mut arrivals: Vec<(u64, HostId, u32)> = net
        .queue
        .iter()
        .filter_map(|entry| match entry.event {
            Happening::Arrival { to, flight } => Some((entry.at, to, flight)),
            _ => None,
        })
        .collect();
    arrivals.sort_unstable();
    writeln!(text, "under way: {} packets", arrivals.len())?;
    for (at, to, flight) in arrivals {
        let Some(flight) = net.flights.get(flight as usize) else { continue };
        let (from, to) = (&net.host(flight.from).name, &net.host(to).name);
        let at = Duration::from_nanos(at);
        writeln!(text, "  arrives at {at:?}: {from} -> {to} {}", Summary(&flight.packet))?;
    }
    Ok(())
}

/// A packet in one line.
struct Summary<'a>(&'a Packet);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Packet { source, destination, body, .. } = self.0;
        match body {
            Body::Udp(payload) => {
                write!(f, "udp {source} > {destination}, {} bytes", payload.len())
            }
            Body::Tcp(segment) => write!(
                f,
                "tcp {source} > {destination}, {:?} seq {} ack {} window {}, {} bytes",
                segment.flags,
                segment.seq,
                segment.ack,
                segment.window,
                segment.payload.len()
            ),
            Body::Icmp(report) => write!(
                f,
                "icmp {} > {}, {:?} about {} > {}",
                source.ip(),
                destination.ip(),
                report.kind,
                report.about_source,
                report.about_destination
            ),
        }
    }
}
