//! Waiting for something, with an end to the waiting.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::kit::Leftover;
use super::network::Happening;
use super::turn::Wants;
use super::world::{Slot, World};
use crate::error::RunError;

/// Why [`World::run_until_within`] did not get as far as it should.
#[derive(Debug)]
#[non_exhaustive]
pub enum UntilError {
    /// No time can pass, as the world's time is passing already.
    Run(RunError),
    /// The condition did not hold in that time.
    TimeOver {
        /// The time that it had.
        limit: Duration,
        /// The clock of the world when that was over.
        elapsed: Duration,
        /// Nothing is left that could happen: more time would change nothing.
        is_at_rest: bool,
        /// Packets that have left and not arrived.
        under_way: usize,
        /// What the programs of the hosts have open: ports, connections with their queues, timers.
        open: Vec<Leftover>,
    },
}

impl fmt::Display for UntilError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::TimeOver { limit, elapsed, is_at_rest, under_way, open } = self else {
            return f.write_str("no time can pass");
        };
        write!(f, "what was waited for did not happen within {limit:?}, until {elapsed:?}: ")?;
        match (is_at_rest, under_way) {
            (true, _) => f.write_str("nothing is left that could happen")?,
            (false, 1) => f.write_str("1 packet is under way")?,
            (false, count) => write!(f, "{count} packets are under way")?,
        }
        if !open.is_empty() {
            f.write_str(", and open are")?;
        }
        open.iter().try_for_each(|one| write!(f, "\n  {one}"))
    }
}

impl Error for UntilError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Run(error) => Some(error),
            Self::TimeOver { .. } => None,
        }
    }
}

impl World {
    /// Lets time pass until `condition` holds, but no more than `limit`. The condition is asked
    /// before the first turn, after each, and when the time is over.
    ///
    /// ```
    /// use std::time::Duration;
    /// use strand_reactor::sim::World;
    ///
    /// let world = World::new(1);
    /// let host = world.host("a", "10.0.0.1")?;
    /// host.looping_call(Duration::from_secs(7), |_, _| {});
    /// let minute = Duration::from_secs(60);
    /// world.run_until_within(minute, || world.elapsed().as_secs() >= 14)?;
    /// assert_eq!(world.elapsed().as_secs(), 14);
    ///
    /// let error = world.run_until_within(minute, || false).unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "what was waited for did not happen within 60s, until 74s: 0 packets are under way, \
    ///      and open are\n  host a: 1 timer, the next in 3s"
    /// );
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`UntilError::TimeOver`], with what is still to come; then `limit` has passed, also if
    /// nothing was left that could happen. [`UntilError::Run`] from inside a callback of one of its
    /// hosts.
    pub fn run_until_within(
        &self,
        limit: Duration,
        mut condition: impl FnMut() -> bool,
    ) -> Result<(), UntilError> {
        let running = self.begin().map_err(UntilError::Run)?;
        let until = self.after(limit);
        loop {
            if condition() {
                return Ok(());
            }
            if !self.next(until).map_err(UntilError::Run)? {
                break;
            }
        }
        self.pass_to(until);
        if condition() {
            return Ok(());
        }
        drop(running);
        let (is_at_rest, under_way) = self.still_to_come();
        let (elapsed, open) = (self.elapsed(), self.leftovers());
        Err(UntilError::TimeOver { limit, elapsed, is_at_rest, under_way, open })
    }

    /// Whether nothing is left that could happen; and how many packets are under way.
    fn still_to_come(&self) -> (bool, usize) {
        // Turns in the queue may be of timers that are gone: the hosts know better.
        let is_waited_for = |slot: &Slot| {
            let reactor = slot.reactor.as_ref().filter(|_| !slot.stopped);
            reactor.is_some_and(|reactor| reactor.wants() != Wants::Nothing)
        };
        let waits = self.slots.borrow().iter().any(is_waited_for);
        let net = self.net.borrow();
        let happens = net.queue.iter().any(|entry| !matches!(entry.event, Happening::Turn(_)));
        (!waits && !happens, net.flights.len())
    }
}
