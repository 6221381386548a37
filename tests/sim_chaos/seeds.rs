//! Seeds on all processors, and a watch over each.

use std::io::Write;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use strand_reactor::sim::{Seeds, World};

/// How long one seed may take before its loop is taken to be without end.
const MOST: Duration = Duration::from_secs(60);

/// The variable with the seconds that are to be filled with more and more seeds.
const SECONDS: &str = "STRAND_CHAOS_SECONDS";

/// Calls `run` with the world of every seed from 1 to `least`, and tells whether it is the only one.
/// Fails with what it returned, and with the command that repeats it.
pub fn each<F>(test: &str, least: u64, run: F)
where
    F: Fn(World, bool) -> Vec<String> + Sync,
{
    check(test, Seeds::new(1..=least), run);
}

/// As `each`, and goes on for as long as the environment says.
pub fn as_many_as_fit<F>(test: &str, least: u64, run: F)
where
    F: Fn(World, bool) -> Vec<String> + Sync,
{
    let seconds = std::env::var(SECONDS).map_or(0, |text| {
        text.parse().unwrap_or_else(|_| panic!("{SECONDS}={text}: write a number of seconds"))
    });
    check(test, Seeds::new(1..).at_least(least).within(Duration::from_secs(seconds)), run);
}

fn check<F>(test: &str, seeds: Seeds, run: F)
where
    F: Fn(World, bool) -> Vec<String> + Sync,
{
    let begun = Instant::now();
    let alone = Seeds::replayed().is_some();
    let count = seeds.check_in_parallel(|world: World| {
        // Panics of callbacks are part of it.
        world.catch_panics(true);
        let _watched = watch(format!("{test} with seed {}", world.seed()));
        let violations = run(world, alone);
        anyhow::ensure!(violations.is_empty(), violations.join("\n"));
        Ok(())
    });
    // Not by `println`, which the harness captures.
    let told = format!("{test}: {count} seeds in {:?}", begun.elapsed());
    let _ = writeln!(std::io::stdout(), "{told}");
}

/// Ends the process when what it guards takes too long, and says which it was.
fn watch(what: String) -> Sender<()> {
    let (alive, ended) = channel();
    thread::spawn(move || {
        if ended.recv_timeout(MOST) == Err(RecvTimeoutError::Timeout) {
            let _ = writeln!(std::io::stderr(), "{what} hangs");
            std::process::abort();
        }
    });
    alive
}
