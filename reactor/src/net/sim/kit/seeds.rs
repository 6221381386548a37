//! A property tried with many seeds, and how to try it again with the one that broke it.

use std::backtrace::BacktraceStatus;
use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::super::world::World;
use crate::CallbackResult;
use crate::callback::panic_message;

/// The variable with the seeds to try instead of those of the test.
const SEED: &str = "STRAND_SEED";
/// The variable with the file that a seed is traced to.
const TRACE: &str = "STRAND_TRACE";

/// Tries a property with every seed, each in a world of its own: [`Seeds::check`] without a limit of
/// time.
///
/// ```
/// use std::time::Duration;
/// use strand_reactor::sim;
///
/// sim::for_each_seed(0..100, |world| {
///     let host = world.host("a", "10.0.0.1")?;
///     host.call_later(Duration::from_secs(1), |_| {});
///     world.run_for(Duration::from_secs(2))?;
///     world.assert_nothing_left();
///     anyhow::Ok(())
/// });
/// ```
///
/// # Panics
/// As [`Seeds::check`].
#[track_caller]
pub fn for_each_seed<F, R>(seeds: impl RangeBounds<u64>, property: F)
where
    F: FnMut(World) -> R,
    R: CallbackResult,
{
    Seeds::new(seeds).check(property);
}

/// Seeds to try a property with, and for how long.
///
/// The environment decides when something is to be tried again. `STRAND_SEED=17` has that seed tried
/// alone, `STRAND_SEED=17..25` these, whatever the test says; with one seed, `STRAND_TRACE=path` writes
/// what passes over the network of its world to a pcapng file ([`World::trace_to`]), too. A failure
/// tells the command.
///
/// ```
/// use std::time::Duration;
/// use strand_reactor::sim::{Seeds, World};
///
/// // As many as fit in 10 ms of the real clock, and three in any case.
/// let seeds = Seeds::new(1..).within(Duration::from_millis(10)).at_least(3);
/// let tried = seeds.check(|world: World| assert!(world.seed() > 0));
/// assert!(tried >= 3);
/// ```
#[must_use = "nothing is tried before `check`"]
#[derive(Clone, Debug)]
pub struct Seeds {
    first: u64,
    /// The last of them; `None` if there is none.
    last: Option<u64>,
    is_endless: bool,
    budget: Option<Duration>,
    least: u64,
}

impl Seeds {
    /// All seeds of a range. One without an end needs [`within`](Self::within).
    pub fn new(seeds: impl RangeBounds<u64>) -> Self {
        let (first, last) = bounds(&seeds);
        let is_endless = seeds.end_bound() == Bound::Unbounded;
        Self { first, last, is_endless, budget: None, least: 1 }
    }

    /// Takes no new seed once so much time of the real clock is over: as many of the seeds as fit.
    pub fn within(self, budget: Duration) -> Self {
        Self { budget: Some(budget), ..self }
    }

    /// Tries so many (one unless set), if there are as many, however long that takes.
    pub fn at_least(self, count: u64) -> Self {
        Self { least: count, ..self }
    }

    /// The one seed that the environment asks for, if it does: a test may tell more about it than
    /// about one of thousands.
    ///
    /// # Panics
    /// When `STRAND_SEED` holds anything else than `17` or `17..25`.
    #[track_caller]
    pub fn replayed() -> Option<u64> {
        let wanted = wanted()?;
        (wanted.last == Some(wanted.first)).then_some(wanted.first)
    }

    /// Tries the property with one seed after the other, and gives their number. It gets a world of
    /// that seed, in which no panic of a callback is caught ([`World::catch_panics`]), and may return
    /// nothing, or a `Result`.
    ///
    /// It must follow from the seed alone: what it remembers from one seed to the next is not there
    /// when one of them is tried again. A generator of its own may start from [`World::seed`].
    ///
    /// # Panics
    /// With the first seed with which it returns an error or panics. The message has the seed and
    /// the command that tries it again. Also when the seeds have no end and no limit of time, or a
    /// variable is not understood, or the file of the trace cannot be made.
    #[track_caller]
    pub fn check<F, R>(&self, mut property: F) -> u64
    where
        F: FnMut(World) -> R,
        R: CallbackResult,
    {
        let plan = Plan::new(self);
        while let Some(seed) = plan.take() {
            plan.try_with(seed, &mut property);
        }
        plan.end()
    }

    /// As [`check`](Self::check), on all processors: worlds are made, and the property is called, on
    /// as many threads at once. A failure of one ends all, each with the seed that it is at.
    ///
    /// ```
    /// use std::time::Duration;
    /// use strand_reactor::sim::{Seeds, World};
    ///
    /// let tried = Seeds::new(0..50).check_in_parallel(|world: World| {
    ///     world.host("a", "10.0.0.1")?;
    ///     world.run_for(Duration::from_secs(1))?;
    ///     anyhow::Ok(())
    /// });
    /// assert!(tried == 50 || Seeds::replayed().is_some());
    /// ```
    ///
    /// # Panics
    /// As [`check`](Self::check).
    #[track_caller]
    pub fn check_in_parallel<F, R>(&self, property: F) -> u64
    where
        F: Fn(World) -> R + Sync,
        R: CallbackResult,
    {
        let plan = Plan::new(self);
        let work = || {
            while let Some(seed) = plan.take() {
                plan.try_with(seed, &property);
            }
        };
        thread::scope(|scope| {
            // This thread is one of them: it works even where no others can be had.
            for _ in 1..thread::available_parallelism().map_or(1, usize::from) {
                let name = plan.again.test.clone().unwrap_or_default();
                let _ = thread::Builder::new().name(name).spawn_scoped(scope, work);
            }
            work();
        });
        plan.end()
    }
}

/// What is tried, and how far it is.
struct Plan {
    first: u64,
    last: Option<u64>,
    least: u64,
    /// When no new seed is taken any more.
    until: Option<Instant>,
    trace: Option<String>,
    taken: AtomicU64,
    tried: AtomicU64,
    has_failed: AtomicBool,
    failures: Mutex<Vec<(u64, String)>>,
    again: Again,
}

impl Plan {
    #[track_caller]
    fn new(seeds: &Seeds) -> Self {
        let wanted = wanted();
        let Seeds { first, last, is_endless, budget, least } = wanted.as_ref().unwrap_or(seeds);
        assert!(!is_endless || budget.is_some(), "the seeds have no end: limit them by `within`");
        let trace = std::env::var(TRACE).ok();
        assert!(
            trace.is_none() || wanted.as_ref().is_some_and(|one| one.last == Some(one.first)),
            "{TRACE} is for one seed: set {SEED} to it"
        );
        Self {
            first: *first,
            last: *last,
            least: *least,
            until: budget.and_then(|budget| now().checked_add(budget)),
            trace,
            taken: AtomicU64::new(0),
            tried: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
            failures: Mutex::default(),
            again: Again::here(),
        }
    }

    /// The next seed to try.
    fn take(&self) -> Option<u64> {
        if self.has_failed.load(Ordering::Relaxed) {
            return None;
        }
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        let seed = self.first.checked_add(number).filter(|seed| Some(*seed) <= self.last)?;
        let has_time = || self.until.is_none_or(|until| now() < until);
        (number < self.least || has_time()).then_some(seed)
    }

    fn try_with<R: CallbackResult>(&self, seed: u64, mut property: impl FnMut(World) -> R) {
        let outcome = catch_unwind(AssertUnwindSafe(|| property(self.world(seed)).into_result()));
        self.tried.fetch_add(1, Ordering::Relaxed);
        let told = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(error)) => self.again.tell_error(seed, &error),
            Err(panic) => self.again.tell(seed, panic_message(&*panic)),
        };
        self.has_failed.store(true, Ordering::Relaxed);
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push((seed, told));
    }

    fn world(&self, seed: u64) -> World {
        let world = World::new(seed);
        world.catch_panics(false);
        if let Some(path) = &self.trace
            && let Err(error) = world.trace_to(path)
        {
            panic!("{TRACE}={path}: {error}");
        }
        world
    }

    #[track_caller]
    fn end(self) -> u64 {
        let mut failures = self.failures.into_inner().unwrap_or_else(PoisonError::into_inner);
        failures.sort();
        let told: Vec<String> = failures.into_iter().map(|(_, told)| told).collect();
        assert!(told.is_empty(), "{}", told.join("\n"));
        self.tried.into_inner()
    }
}

#[allow(clippy::disallowed_methods, reason = "decides how many worlds are made, nothing in them")]
fn now() -> Instant {
    Instant::now()
}

/// The first of a range, and the last if there is one.
fn bounds(seeds: &impl RangeBounds<u64>) -> (u64, Option<u64>) {
    let first = match seeds.start_bound() {
        Bound::Included(first) => Some(*first),
        Bound::Excluded(before) => before.checked_add(1),
        Bound::Unbounded => Some(0),
    };
    let last = match seeds.end_bound() {
        Bound::Included(last) => Some(*last),
        Bound::Excluded(end) => end.checked_sub(1),
        Bound::Unbounded => Some(u64::MAX),
    };
    (first.unwrap_or(u64::MAX), last.filter(|_| first.is_some()))
}

/// The seeds that the environment asks for.
#[track_caller]
fn wanted() -> Option<Seeds> {
    let text = std::env::var(SEED).ok()?;
    let Some(seeds) = parse(&text) else { panic!("{SEED}={text}: write 17, or 17..25") };
    Some(seeds)
}

fn parse(text: &str) -> Option<Seeds> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    Some(match text.split_once("..") {
        Some((first, end)) => Seeds::new(number(first)?..number(end)?),
        None => Seeds::new(number(text)?..=number(text)?),
    })
}

/// How this test is run again.
#[derive(Clone, Debug)]
struct Again {
    /// `None` where the thread does not tell: with one test thread they run on the main one.
    test: Option<String>,
    package: Option<String>,
    is_release: bool,
}

impl Again {
    fn here() -> Self {
        let thread = thread::current();
        Self {
            test: thread.name().filter(|name| *name != "main").map(ToOwned::to_owned),
            // Cargo sets it for the tests that it runs.
            package: std::env::var("CARGO_PKG_NAME").ok(),
            is_release: !cfg!(debug_assertions),
        }
    }

    fn tell(&self, seed: u64, why: &str) -> String {
        format!(
            "seed {seed} fails: {why}\n  again: {SEED}={seed} {self}\n  \
             with {TRACE}=seed{seed}.pcapng before it, for Wireshark, too"
        )
    }

    /// The command comes before the backtrace, which is long.
    fn tell_error(&self, seed: u64, error: &anyhow::Error) -> String {
        let told = self.tell(seed, &format!("{error:#}"));
        match error.backtrace().status() {
            BacktraceStatus::Captured => format!("{told}\n{}", error.backtrace()),
            _ => told,
        }
    }
}

impl fmt::Display for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cargo test")?;
        if self.is_release {
            f.write_str(" --release")?;
        }
        if let Some(package) = &self.package {
            write!(f, " -p {package}")?;
        }
        match &self.test {
            Some(test) => write!(f, " -- --exact {test}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_range_has_its_first_and_its_last() {
        assert_eq!(bounds(&(3..7)), (3, Some(6)));
        assert_eq!(bounds(&(3..=7)), (3, Some(7)));
        assert_eq!(bounds(&..), (0, Some(u64::MAX)));
        assert_eq!(bounds(&(0..0)).1, None);
        assert_eq!(bounds(&(Bound::Excluded(u64::MAX), Bound::Unbounded)).1, None);
        assert_eq!(Seeds::new(3..3).check(|_| ()), 0);
        assert_eq!(Seeds::new(u64::MAX..).within(Duration::MAX).check(|_| ()), 1);
    }

    #[test]
    fn a_seed_or_a_range_is_understood_and_nothing_else() {
        let seeds = |text: &str| parse(text).map(|seeds| (seeds.first, seeds.last));
        assert_eq!(seeds("17"), Some((17, Some(17))));
        assert_eq!(seeds(" 17 .. 25"), Some((17, Some(24))));
        assert_eq!(seeds(&u64::MAX.to_string()), Some((u64::MAX, Some(u64::MAX))));
        for wrong in ["", "a", "1..", "-1", "1..2..3", "0x10"] {
            assert_eq!(seeds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_command_has_what_is_known_of_the_test() {
        let test = Some("module::name".to_owned());
        let all = Again { test, package: Some("mine".to_owned()), is_release: true };
        assert_eq!(all.to_string(), "cargo test --release -p mine -- --exact module::name");
        let least = Again { test: None, package: None, is_release: false };
        assert_eq!(least.to_string(), "cargo test");
        let told = least.tell(5, "why");
        assert!(
            told.starts_with("seed 5 fails: why\n  again: STRAND_SEED=5 cargo test\n"),
            "{told}"
        );
    }
}
