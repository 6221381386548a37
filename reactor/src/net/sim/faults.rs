//! What goes wrong in a world, and the record of it: links, rules, traces.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::error::HostError;
use super::host::HostId;
use super::links::{Guard, Host, Hosts, Link, Rule};
use super::names::NameTable;
use super::network::Net;
use super::table::AddressTable;
use super::world::World;

impl World {
    /// Sets the link between all hosts that have none of their own. A world begins with links of
    /// 1 ms that lose nothing and carry packets of any length. What a host sends to itself passes
    /// no link: it takes no time.
    ///
    /// ```
    /// use std::time::Duration;
    /// use strand_reactor::sim::{Link, World};
    ///
    /// let world = World::new(1);
    /// world.default_link(Link::new().latency(Duration::from_millis(20)).loss(0.01));
    /// ```
    pub fn default_link(&self, link: Link) {
        self.net.borrow_mut().links.set_default(link);
    }

    /// Gives two hosts a link of their own, the same in both directions: each has its own queue
    /// and its own losses. Hosts are told by name, or by one of their addresses; of several each
    /// on one side gets such a link to each on the other. A host on both sides gets one for what it
    /// sends to itself, too.
    ///
    /// # Errors
    /// [`HostError::Unknown`]: there is no such host.
    ///
    /// ```
    /// use std::time::Duration;
    /// use strand_reactor::sim::{Link, World};
    ///
    /// let world = World::new(1);
    /// world.host("earth", "10.0.0.1")?;
    /// world.host("moon", "10.0.0.2")?;
    /// world.link("earth", "moon", Link::new().latency(Duration::from_millis(1_280)))?;
    /// assert!(world.link("earth", "mars", Link::new()).is_err());
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn link(
        &self,
        one: impl Into<Hosts>,
        other: impl Into<Hosts>,
        link: Link,
    ) -> Result<(), HostError> {
        let (one, other) = (one.into(), other.into());
        self.link_one_way(one.clone(), other.clone(), link.clone())?;
        self.link_one_way(other, one, link)
    }

    /// Gives one direction between two hosts a link of its own, for a path that is not the same
    /// both ways.
    ///
    /// # Errors
    /// [`HostError::Unknown`]: there is no such host.
    ///
    /// ```
    /// use strand_reactor::sim::{Link, World};
    ///
    /// let world = World::new(1);
    /// world.host("home", "10.0.0.1")?;
    /// world.host("server", "10.0.0.2")?;
    /// // DSL: the way up is slower.
    /// world.link_one_way("server", "home", Link::new().bandwidth(16_000_000, 256_000))?;
    /// world.link_one_way("home", "server", Link::new().bandwidth(1_000_000, 64_000))?;
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn link_one_way(
        &self,
        from: impl Into<Hosts>,
        to: impl Into<Hosts>,
        link: Link,
    ) -> Result<(), HostError> {
        let (from, to): (Hosts, Hosts) = (from.into(), to.into());
        let names = &self.around.names;
        let Net { links, addresses, .. } = &mut *self.net.borrow_mut();
        let known = |host: &Host| find(host, names, addresses);
        let (from, to) = (from.resolve(&known)?, to.resolve(&known)?);
        for &from in &from {
            for &to in &to {
                links.set(from, to, link.clone());
            }
        }
        Ok(())
    }

    /// Puts a rule in force, until its guard is dropped.
    ///
    /// # Errors
    /// [`HostError::Unknown`]: it names a host that there is not.
    ///
    /// # Panics
    /// If the rule contradicts itself: one about calls cannot have `to`, `when` or `both_ways`,
    /// which are for packets, nor be about a protocol whose sockets do not make the call.
    ///
    /// ```
    /// use strand_reactor::sim::{Rule, World};
    ///
    /// let world = World::new(1);
    /// world.host("alice", "10.0.0.1")?;
    /// let deaf = world.rule(Rule::drop().to("alice"))?;
    /// assert_eq!(deaf.hits(), 0);
    /// deaf.lift();
    /// world.rule(Rule::drop().from("alice").port(53))?.keep();
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn rule(&self, rule: Rule) -> Result<Guard, HostError> {
        let names = &self.around.names;
        let Net { links, addresses, .. } = &mut *self.net.borrow_mut();
        links.add_rule(rule, &|host| find(host, names, addresses))
    }

    /// Lets nothing pass between the hosts of two sides, either way, until the guard is dropped.
    ///
    /// # Errors
    /// [`HostError::Unknown`]: there is no such host.
    ///
    /// ```
    /// use strand_reactor::sim::World;
    ///
    /// let world = World::new(1);
    /// for n in 1..=4 {
    ///     world.host(&format!("node{n}"), format!("10.0.0.{n}"))?;
    /// }
    /// let split = world.partition(["node1", "node2"], ["node3", "node4"])?;
    /// assert_eq!(split.hits(), 0);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn partition(
        &self,
        one: impl Into<Hosts>,
        other: impl Into<Hosts>,
    ) -> Result<Guard, HostError> {
        self.rule(Rule::partition(one, other))
    }

    /// Records from now on all packets in a pcapng file, which Wireshark opens: every host is an
    /// interface of its name. A packet appears where it was sent and again where it arrived, with
    /// the direction; what will not arrive has a comment that begins with `dropped` and says why.
    /// Times are those of the virtual clock, to the nanosecond.
    ///
    /// A record that was begun before ends. The file is whole once
    /// [`end_trace`](Self::end_trace) was called, or the world and its hosts are gone.
    ///
    /// # Errors
    /// What creating the file gives. An error of writing it comes from `end_trace`.
    pub fn trace_to(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.trace_to_writer(BufWriter::new(File::create(path)?));
        Ok(())
    }

    /// As [`trace_to`](Self::trace_to), to any writer. It is `Send` because it must not hold
    /// anything of the world. Its panic counts as an error of writing.
    pub fn trace_to_writer(&self, writer: impl Write + Send + 'static) {
        self.net.borrow_mut().trace.begin_to(Box::new(writer));
    }

    /// As [`trace_to`](Self::trace_to), in memory.
    ///
    /// ```
    /// use strand_reactor::sim::World;
    ///
    /// let world = World::new(1);
    /// world.trace_in_memory();
    /// let pcapng = world.end_trace()?;
    /// assert_eq!(pcapng[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn trace_in_memory(&self) {
        self.net.borrow_mut().trace.begin();
    }

    /// Ends the record and returns what of it is in memory: all, or nothing if it was written
    /// elsewhere.
    ///
    /// # Errors
    /// The first error of writing it; nothing was written after that.
    pub fn end_trace(&self) -> io::Result<Vec<u8>> {
        self.net.borrow_mut().trace.end()
    }
}

/// The host of this name or address.
fn find(host: &Host, names: &NameTable, addresses: &AddressTable) -> Option<HostId> {
    match host {
        Host::Name(name) => names.host(name).or_else(|| addresses.get(name.parse().ok()?)),
        Host::Address(address) => addresses.get(*address),
    }
}
