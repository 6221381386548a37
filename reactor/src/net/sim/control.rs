//! What a program does to its world while time stands still: crashes, names, settings.

use std::time::Duration;

use super::addresses::HostAddresses;
use super::error::HostError;
use super::host::HostId;
use super::tcp;
use super::world::World;
use crate::Handle;
use crate::inner::Stop;

impl World {
    pub(super) fn find(&self, name: &str) -> Result<HostId, HostError> {
        self.around.names.host(name).ok_or_else(|| HostError::Unknown { name: name.to_owned() })
    }

    /// The handle of a host that is up, as [`host`](Self::host) and [`restart`](Self::restart) gave
    /// it.
    ///
    /// # Errors
    /// [`HostError::Unknown`]; [`HostError::Down`].
    pub fn handle(&self, name: &str) -> Result<Handle, HostError> {
        let id = self.find(name)?;
        let slots = self.slots.borrow();
        match &slots[id.0 as usize].reactor {
            Some(reactor) => Ok((***reactor).clone()),
            None => Err(HostError::Down { name: name.to_owned() }),
        }
    }

    /// Pulls the plug of a host: its reactor is dropped with everything in it, without callbacks.
    /// Peers are told nothing. What is sent to it from now on vanishes; after a
    /// [`restart`](Self::restart) it is refused. Nothing happens to a host that is down.
    ///
    /// From a callback of the host itself, the turn under way is its last, and calls nothing more.
    ///
    /// ```
    /// use strand_reactor::sim::World;
    /// let world = World::new(1);
    /// let old = world.host("a", "10.0.0.1")?;
    /// world.crash("a")?;
    /// assert!(old.is_closed() && !world.is_up("a")?);
    /// let new = world.restart("a")?;
    /// assert!(!new.is_closed());
    /// # Ok::<(), strand_reactor::sim::HostError>(())
    /// ```
    ///
    /// # Errors
    /// [`HostError::Unknown`].
    pub fn crash(&self, name: &str) -> Result<(), HostError> {
        let id = self.find(name)?;
        let reactor = self.slots.borrow_mut()[id.0 as usize].reactor.take();
        let forgotten = {
            let net = &mut *self.net.borrow_mut();
            let host = net.host_mut(id);
            host.up = false;
            host.incarnation += 1;
            host.pending = Vec::new();
            host.forget_mtus();
            let sockets = host.udp.clear();
            tcp::crash(net, id);
            sockets
        };
        if let Some(reactor) = &reactor
            && reactor.inner.running.get()
        {
            reactor.inner.request_stop(Stop::Crash);
            // Calls even what a shutdown or the end of a connection has still to tell: nothing.
            reactor.end();
        }
        // The sockets and the user's values go with nothing borrowed.
        drop((reactor, forgotten));
        Ok(())
    }

    /// Starts a host anew, after a crash or out of full life, which is crashed first. It has the
    /// addresses it had, and nothing else.
    ///
    /// # Errors
    /// [`HostError::Unknown`].
    pub fn restart(&self, name: &str) -> Result<Handle, HostError> {
        self.crash(name)?;
        let id = self.find(name)?;
        self.net.borrow_mut().host_mut(id).up = true;
        let (slot, handle) = self.boot(id);
        let before = std::mem::replace(&mut self.slots.borrow_mut()[id.0 as usize], slot);
        // With nothing borrowed: what the crash dropped may have restarted the host itself.
        drop(before);
        Ok(handle)
    }

    /// Whether a host has not crashed.
    ///
    /// # Errors
    /// [`HostError::Unknown`].
    pub fn is_up(&self, name: &str) -> Result<bool, HostError> {
        let id = self.find(name)?;
        Ok(self.net.borrow().host(id).up)
    }

    /// Whether a [`Handle::stop`] (or `crash`) of this host has come to its end. Where
    /// [`Reactor::run`](crate::Reactor::run) would have returned, the host takes no more turns,
    /// until [`run_again`](Self::run_again).
    ///
    /// # Errors
    /// [`HostError::Unknown`].
    pub fn has_stopped(&self, name: &str) -> Result<bool, HostError> {
        let id = self.find(name)?;
        Ok(self.slots.borrow()[id.0 as usize].stopped)
    }

    /// Lets a host that has stopped take turns again, as a second
    /// [`Reactor::run`](crate::Reactor::run) would.
    ///
    /// ```
    /// use std::time::Duration;
    /// use strand_reactor::sim::World;
    /// let world = World::new(1);
    /// let host = world.host("a", "10.0.0.1")?;
    /// host.stop();
    /// world.run_for(Duration::from_secs(1))?;
    /// assert!(world.has_stopped("a")?);
    /// world.run_again("a")?;
    /// assert!(!world.has_stopped("a")?);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`HostError::Unknown`].
    pub fn run_again(&self, name: &str) -> Result<(), HostError> {
        let id = self.find(name)?;
        let slot = &mut self.slots.borrow_mut()[id.0 as usize];
        slot.stopped = false;
        slot.hook.touch();
        Ok(())
    }

    /// Gives a name addresses, in the place of any that it had, for [`Handle::resolve`] and
    /// `connect_tcp` on every host. Names that are not in the table do not exist. An address of
    /// loopback is that of the host that asks.
    ///
    /// ```
    /// use std::time::Duration;
    /// use strand_reactor::sim::World;
    /// let world = World::new(1);
    /// let host = world.host("a", "10.0.0.1")?;
    /// world.name("db.example", "10.0.0.7, 10.0.0.8")?;
    /// host.resolve("db.example", |found| {
    ///     assert_eq!(found?.len(), 2);
    ///     anyhow::Ok(())
    /// });
    /// host.resolve("nowhere.example", |found| assert!(found.is_err()));
    /// world.run_for(Duration::from_secs(1))?;
    /// assert_eq!((host.stats().callback_errors, host.stats().callback_panics), (0, 0));
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`HostError::Address`].
    pub fn name<A>(&self, name: &str, addresses: A) -> Result<(), HostError>
    where
        A: TryInto<HostAddresses>,
        A::Error: Into<HostError>,
    {
        let addresses: HostAddresses = addresses.try_into().map_err(Into::into)?;
        self.around.names.set(name, addresses.list.iter().map(|(ip, _)| *ip).collect());
        Ok(())
    }

    /// Takes a name away: from now on it does not exist.
    pub fn unname(&self, name: &str) {
        self.around.names.set(name, Vec::new());
    }

    /// How long lookups take from now on, whatever their answer. A millisecond unless set.
    pub fn set_lookup_time(&self, time: Duration) {
        self.around.names.lookup_time.set(time);
    }

    /// How long each job of `defer_to_thread` takes from now on. A millisecond unless set. The
    /// work itself is done on the spot when that time is over, and takes none.
    pub fn set_job_time(&self, time: Duration) {
        self.around.job_time.set(time);
    }

    /// Whether panics of callbacks are caught, logged and counted, as by a
    /// [`Reactor`](crate::Reactor) (the default). Otherwise they leave
    /// [`run_for`](Self::run_for) and its like, which a failed assertion of a test should. For
    /// hosts that are made from now on.
    pub fn catch_panics(&self, on: bool) {
        self.catch_panics.set(on);
    }
}
