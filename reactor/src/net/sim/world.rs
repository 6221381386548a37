//! The world: hosts, and the loop that lets time pass.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::addresses::HostAddresses;
use super::driver::SimDriver;
use super::error::HostError;
use super::host::{HostId, HostState};
use super::network::{Net, SharedNet};
use super::turn::{Buffers, Hook, Mail, Surroundings, Wants};
use crate::error::RunError;
use crate::{Handle, Reactor};

/// A simulated network, its hosts, and their time.
///
/// ```
/// use std::time::Duration;
/// use strand_reactor::sim::World;
/// use strand_reactor::{Datagram, DatagramProtocol, DatagramTransport};
///
/// struct Echo;
/// impl DatagramProtocol for Echo {
///     fn datagram_received(&mut self, t: &DatagramTransport, d: Datagram<'_>) -> anyhow::Result<()> {
///         Ok(t.write_to(d.payload(), d.source())?)
///     }
/// }
/// struct Client;
/// impl DatagramProtocol for Client {
///     fn start_protocol(&mut self, t: &DatagramTransport) -> anyhow::Result<()> {
///         Ok(t.write(b"hello")?)
///     }
///     fn datagram_received(&mut self, t: &DatagramTransport, d: Datagram<'_>) -> anyhow::Result<()> {
///         assert_eq!(d.payload(), b"hello");
///         Ok(t.stop_listening())
///     }
/// }
///
/// let world = World::new(1);
/// let server = world.host("server", "10.0.0.1")?;
/// let client = world.host("client", "10.0.0.2")?;
/// server.listen_udp(7, Echo)?;
/// client.connect_udp("10.0.0.1:7".parse()?, Client)?;
/// world.run_for(Duration::from_secs(1))?;
/// assert!(client.datagram_ports().is_empty());
/// # Ok::<(), anyhow::Error>(())
/// ```
pub struct World {
    seed: u64,
    pub(super) net: SharedNet,
    pub(super) slots: RefCell<Vec<Slot>>,
    pub(super) around: Rc<Surroundings>,
    mail: Arc<Mail>,
    buffers: RefCell<Buffers>,
    pub(super) running: Cell<bool>,
    pub(super) catch_panics: Cell<bool>,
}

/// What the world keeps of a host beside the network's view.
pub(super) struct Slot {
    /// `None` while the host is down.
    pub(super) reactor: Option<Rc<Reactor>>,
    pub(super) hook: Rc<Hook>,
    /// The network's time at which the reactor was made: its clock began there.
    pub(super) born: u64,
    /// A stop has come to its end: as if `run` had returned.
    pub(super) stopped: bool,
    /// Turns that it took without a pause, the last of them at `turned_at`.
    turns: u32,
    turned_at: u64,
}

/// Turns that a host may take while no time passes. From then on each takes [`TURN_NS`], as the turns
/// of a real one take time, until the host has nothing to do: a program that always has work does
/// not stop the clock.
const TURNS_AT_ONCE: u32 = 1_000;
const TURN_NS: u64 = 1_000;

/// Where time ends, 292 years after it began: what is set from there on, as the timers of a
/// connection are, still has a date.
const END_NS: u64 = u64::MAX / 2;

impl World {
    /// A world without hosts. All that is left to chance in it follows from the seed.
    pub fn new(seed: u64) -> Self {
        let net = Rc::new(RefCell::new(Net::new(seed)));
        Self {
            seed,
            around: Rc::new(Surroundings::new(&net)),
            net,
            slots: RefCell::default(),
            mail: Arc::default(),
            buffers: RefCell::default(),
            running: Cell::new(false),
            catch_panics: Cell::new(true),
        }
    }

    /// Makes a host, and gives the handle of its reactor.
    ///
    /// The handle carries the whole API of a [`Reactor`], and is good for as long as the world is.
    /// Other hosts find the host by its name, too: it is in the world's table of names. As in DNS,
    /// case does not matter in it, nor a full stop at its end (RFC 4343): here, in every other call
    /// that takes the name of a host, and when it is looked up.
    ///
    /// # Errors
    /// [`HostError`] when the name or an address is taken, or is none. Addresses of loopback belong
    /// to every host already.
    pub fn host<A>(&self, name: &str, addresses: A) -> Result<Handle, HostError>
    where
        A: TryInto<HostAddresses>,
        A::Error: Into<HostError>,
    {
        let addresses: HostAddresses = addresses.try_into().map_err(Into::into)?;
        if name.is_empty() || name == "." {
            let reason = "it is empty, and nobody could find it by that";
            return Err(HostError::Name { given: name.to_owned(), reason });
        }
        if let Some(other) = self.around.names.host(name) {
            let name = self.net.borrow().host(other).name.to_string();
            return Err(HostError::NameTaken { name });
        }
        if let Some((ip, _)) = addresses.list.iter().find(|(ip, _)| ip.is_loopback()) {
            let reason = "every host has the addresses of loopback anyway";
            return Err(HostError::Address { given: ip.to_string(), reason });
        }
        let name: Rc<str> = name.into();
        let id = self.add(&name, &addresses)?;
        self.around.names.add_host(&name, id);
        let (slot, handle) = self.boot(id);
        let slots = &mut *self.slots.borrow_mut();
        grow(slots);
        slots.push(slot);
        Ok(handle)
    }

    /// Puts a host on the network.
    fn add(&self, name: &Rc<str>, addresses: &HostAddresses) -> Result<HostId, HostError> {
        let net = &mut *self.net.borrow_mut();
        for &(address, _) in &addresses.list {
            if let Some(other) = net.addresses.get(address) {
                let by = net.host(other).name.to_string();
                return Err(HostError::AddressTaken { address, by });
            }
        }
        let id = HostId(net.hosts.len() as u32);
        grow(&mut net.hosts);
        net.hosts.push(HostState::new(Rc::clone(name), &addresses.list));
        for &(address, _) in &addresses.list {
            net.addresses.insert(address, id);
        }
        Ok(id)
    }

    /// A reactor for a host that has none.
    pub(super) fn boot(&self, id: HostId) -> (Slot, Handle) {
        let driver = SimDriver::new(Rc::clone(&self.net), id, Arc::clone(&self.mail));
        let reactor = Reactor::with_driver(Box::new(driver), self.catch_panics.get());
        let hook = Rc::new(Hook::new(id, &self.around));
        reactor.inner.simulate(Rc::clone(&hook));
        let born = self.net.borrow().now;
        let handle = (*reactor).clone();
        let reactor = Some(Rc::new(reactor));
        (Slot { reactor, hook, born, stopped: false, turns: 0, turned_at: 0 }, handle)
    }

    /// The seed that it was made with. A program's own generator may start from it, and so be the
    /// same whenever the world is.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The virtual clock.
    pub fn now(&self) -> Instant {
        self.net.borrow().instant()
    }

    /// The virtual time that has passed since the world was made.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.net.borrow().now)
    }

    /// Lets this much virtual time pass; no more than is left of the 292 years that a world has.
    ///
    /// # Errors
    /// [`RunError::AlreadyRunning`] from inside a callback of one of its hosts.
    pub fn run_for(&self, duration: Duration) -> Result<(), RunError> {
        let _running = self.begin()?;
        let until = self.after(duration);
        while self.next(until)? {}
        self.pass_to(until);
        Ok(())
    }

    /// The network's time when so much more of it has passed.
    pub(super) fn after(&self, duration: Duration) -> u64 {
        let length = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.net.borrow().now.saturating_add(length).min(END_NS)
    }

    /// Moves the clock to where nothing is left before.
    pub(super) fn pass_to(&self, until: u64) {
        let net = &mut *self.net.borrow_mut();
        net.now = until;
        net.shrink();
    }

    /// Lets time pass until `condition` holds, which is asked before the first turn and after
    /// each. False when nothing is left that could happen and it does not hold.
    ///
    /// A timer that repeats always leaves something: [`run_until_within`](Self::run_until_within) has
    /// a limit. So has a condition that asks for the time:
    ///
    /// ```
    /// use std::time::Duration;
    /// use strand_reactor::sim::World;
    /// let world = World::new(1);
    /// let host = world.host("a", "10.0.0.1")?;
    /// let ticking = host.looping_call(Duration::from_secs(1), |_, _| {});
    /// let limit = Duration::from_secs(10);
    /// assert!(world.run_until(|| world.elapsed() >= limit)?);
    /// ticking.stop()?;
    /// assert!(!world.run_until(|| false)?);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`run_for`](Self::run_for).
    pub fn run_until(&self, mut condition: impl FnMut() -> bool) -> Result<bool, RunError> {
        let _running = self.begin()?;
        loop {
            if condition() {
                return Ok(true);
            }
            if !self.next(END_NS)? {
                return Ok(false);
            }
        }
    }

    /// One turn of one host, or one instant at which the network alone has something to do; time
    /// jumps to it if it lies ahead. False when nothing is left that could happen.
    ///
    /// ```
    /// use std::time::Duration;
    /// use strand_reactor::sim::World;
    /// let world = World::new(1);
    /// let host = world.host("a", "10.0.0.1")?;
    /// host.call_later(Duration::from_secs(7), |_| {});
    /// assert!(world.step()?);
    /// assert_eq!(world.elapsed().as_secs(), 7);
    /// assert!(!world.step()?);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`run_for`](Self::run_for).
    pub fn step(&self) -> Result<bool, RunError> {
        let _running = self.begin()?;
        self.next(END_NS)
    }

    pub(super) fn begin(&self) -> Result<Running<'_>, RunError> {
        if self.running.replace(true) {
            return Err(RunError::AlreadyRunning);
        }
        Ok(Running(self))
    }

    /// The next turn of a host, or the next instant of the network alone, no later than `until`;
    /// false if there is none.
    pub(super) fn next(&self, until: u64) -> Result<bool, RunError> {
        let result = self.pass(until);
        // A condition of a rule was asked in the midst of something; this is the end of it.
        let panic = self.net.borrow_mut().links.take_panic();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
        result
    }

    fn pass(&self, until: u64) -> Result<bool, RunError> {
        loop {
            self.look_at_touched();
            let ready = {
                let net = &mut *self.net.borrow_mut();
                net.notice_lifts();
                net.ready.pop_front()
            };
            match ready {
                Some(id) => {
                    if self.turn(id)? {
                        return Ok(true);
                    }
                }
                None => {
                    let net = &mut *self.net.borrow_mut();
                    if !net.advance(until) {
                        return Ok(false);
                    }
                    // The network may have things to do for ever that are no host's: probes of
                    // connections that nobody reads from.
                    if net.ready.is_empty() {
                        return Ok(true);
                    }
                }
            }
        }
    }

    /// Finds out what those hosts want that were called into outside of their turns.
    fn look_at_touched(&self) {
        for id in self.mail.take() {
            self.settle(id);
        }
        // In the order in which they were called; nothing here calls into one.
        let touched = &mut *self.around.touched.borrow_mut();
        for id in touched.drain(..) {
            self.slots.borrow()[id.0 as usize].hook.set_noted(false);
            self.settle(id);
        }
    }

    /// Sees to it that the host takes its next turn when it wants to.
    fn settle(&self, id: HostId) {
        let slots = self.slots.borrow();
        let slot = &slots[id.0 as usize];
        let Some(reactor) = slot.reactor.as_ref().filter(|_| !slot.stopped) else { return };
        reactor.reclaim(&mut self.buffers.borrow_mut());
        let wants = reactor.wants();
        let net = &mut *self.net.borrow_mut();
        match wants {
            Wants::Now => net.make_ready(id),
            Wants::At(at) => net.wake_at(id, slot.born.saturating_add(at)),
            Wants::Nothing => {}
        }
    }

    /// Has a host take a turn, if there is anything for it; tells whether there was.
    fn turn(&self, id: HostId) -> Result<bool, RunError> {
        let (now, has_events) = {
            let net = &mut *self.net.borrow_mut();
            let host = net.host_mut(id);
            host.on_ready = false;
            (net.now, !net.host(id).pending.is_empty())
        };
        let (reactor, hook) = {
            let slot = &mut self.slots.borrow_mut()[id.0 as usize];
            let Some(reactor) = slot.reactor.as_ref().filter(|_| !slot.stopped) else {
                return Ok(false);
            };
            if slot.turned_at.saturating_add(TURN_NS) < now {
                slot.turns = 0;
            }
            slot.turns = slot.turns.saturating_add(1);
            if slot.turns > TURNS_AT_ONCE && slot.turned_at == now {
                self.net.borrow_mut().wake_at(id, now + TURN_NS);
                return Ok(false);
            }
            slot.turned_at = now;
            (Rc::clone(reactor), Rc::clone(&slot.hook))
        };
        if !has_events && reactor.wants() != Wants::Now {
            self.settle(id);
            return Ok(false);
        }
        hook.set_noted(true);
        let turn = Turn { hook: &hook };
        reactor.lend(&mut self.buffers.borrow_mut());
        let left = reactor.simulated_turn()?;
        drop(turn);
        if left {
            reactor.reclaim(&mut self.buffers.borrow_mut());
            let slot = &mut self.slots.borrow_mut()[id.0 as usize];
            // In the turn it may have crashed, and another have come into its place.
            slot.stopped |= slot.reactor.as_ref().is_some_and(|now| Rc::ptr_eq(now, &reactor));
        }
        Ok(true)
    }
}

/// Makes room for one more, and for an eighth beyond: doubling would leave half of the memory of a
/// hundred thousand hosts unused.
fn grow<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact(list.len() / 8 + 4);
    }
}

/// A world of this seed.
impl From<u64> for World {
    fn from(seed: u64) -> Self {
        Self::new(seed)
    }
}

/// While it lives, time passes.
pub(super) struct Running<'a>(&'a World);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(false);
    }
}

/// The turn of a host; its end, also by a panic, has the world look at it again.
struct Turn<'a> {
    hook: &'a Hook,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.hook.set_noted(false);
        self.hook.touch();
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("seed", &self.seed)
            .field("hosts", &self.slots.borrow().len())
            .field("elapsed", &self.elapsed())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_but_its_world_runs_a_simulated_reactor() {
        let world = World::new(1);
        world.host("a", "10.0.0.1").unwrap();
        let reactor = world.slots.borrow()[0].reactor.clone().unwrap();
        let refused = reactor.run().unwrap_err();
        assert!(matches!(refused, RunError::Simulated));
        assert!(refused.to_string().contains("World::run_for"), "{refused}");
        assert!(matches!(reactor.iterate(None), Err(RunError::Simulated)));
    }

    #[test]
    fn hosts_that_were_called_take_their_turns_in_that_order() {
        let world = World::new(1);
        let told = Rc::new(RefCell::new(Vec::new()));
        for name in ["a", "b", "c"] {
            let (told, address) = (Rc::clone(&told), format!("10.0.0.{}", name.as_bytes()[0]));
            let host = world.host(name, address).unwrap();
            host.call_when_running(move |_| told.borrow_mut().push(name));
        }
        world.run_for(Duration::ZERO).unwrap();
        assert_eq!(*told.borrow(), ["a", "b", "c"]);
    }
}
