//! A world as text, for whoever wonders why nothing comes.

use std::fmt::{self, Write};
use std::time::Duration;

use super::host::{HostId, interface_name};
use super::network::{Happening, Net};
use super::packet::{Body, Packet};
use super::turn::Wants;
use super::world::World;

impl World {
    /// The state of everything as text: hosts with their sockets, queues and next timers, and what
    /// is under way between them. For people to read; its form may change.
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
        let net = &*self.net.borrow();
        let now = Duration::from_nanos(net.now);
        writeln!(text, "world at {now:?}: {} hosts", net.hosts.len())?;
        for number in 0..net.hosts.len() {
            self.write_host(net, HostId(number as u32), text)?;
        }
        net.links.write_rules(net.now, text)?;
        write_flights(net, text)
    }

    fn write_host(&self, net: &Net, id: HostId, text: &mut String) -> fmt::Result {
        let host = net.host(id);
        let slots = self.slots.borrow();
        let slot = &slots[id.0 as usize];
        let state = match (&slot.reactor, slot.stopped) {
            (None, _) => "down",
            (Some(_), true) => "stopped",
            (Some(_), false) => "up",
        };
        write!(text, "host {}, {state}:", host.name)?;
        for own in &host.addresses {
            write!(text, " {}/{} on {}", own.ip, own.prefix_len, interface_name(own.interface))?;
        }
        writeln!(text)?;
        for socket in host.udp.iter() {
            writeln!(text, "  udp {socket}")?;
        }
        host.tcp.dump(text)?;
        let Some(reactor) = &slot.reactor else { return Ok(()) };
        let core = reactor.inner.core.borrow();
        let waiting = core.agenda.queued;
        let (ports, streams) = (core.ports.len(), core.streams.connections.len());
        let timers = core.timers.iter().count();
        drop(core);
        writeln!(
            text,
            "  reactor: {ports} ports, {streams} connections, {waiting} datagrams to send, \
             {timers} timers"
        )?;
        match reactor.wants() {
            Wants::Now => writeln!(text, "  wants a turn now"),
            Wants::At(at) => {
                let at = Duration::from_nanos(slot.born.saturating_add(at));
                writeln!(text, "  wants a turn at {at:?}")
            }
            Wants::Nothing => Ok(()),
        }
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
