//! Runs what is given for many seeds, on all processors.

use std::io::Write;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long one seed may take before its loop is taken to be without end.
const MOST: Duration = Duration::from_secs(60);

/// Calls `run` with every seed of `seeds`, and with more until `time` is over; both from the
/// environment's `variable` if it is set: `5`, or `5..500`. Fails with all that it returned, and
/// with the command that repeats it.
pub fn each<F>(variable: &str, test: &str, seeds: Range<u64>, time: Duration, run: F)
where
    F: Fn(u64, bool) -> Vec<String> + Sync,
{
    let wanted = std::env::var(variable).ok().map(|text| parse(&text, variable));
    let begun = Instant::now();
    let alone = wanted.as_ref().is_some_and(|wanted| wanted.end - wanted.start == 1);
    let next = AtomicU64::new(wanted.as_ref().map_or(seeds.start, |wanted| wanted.start));
    let failed = Mutex::new(Vec::new());
    let goes_on = |seed: u64| match &wanted {
        Some(wanted) => seed < wanted.end,
        None => seed < seeds.end || begun.elapsed() < time,
    };
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if !goes_on(seed) || failed.lock().expect("no panic").len() >= 3 {
            return;
        }
        let watched = watch(format!("{test} with seed {seed}"));
        let violations = catch_unwind(AssertUnwindSafe(|| run(seed, alone)))
            .unwrap_or_else(|_| vec!["it panicked".to_owned()]);
        drop(watched);
        if let Some(first) = violations.first() {
            failed.lock().expect("no panic").push((seed, first.clone()));
        }
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(2, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    let failed = failed.into_inner().expect("no panic");
    let tell = |(seed, violation): &(u64, String)| {
        let again = format!("{variable}={seed} cargo test --test sim_chaos {test} -- --nocapture");
        format!("seed {seed}: {violation}\n  again: {again}")
    };
    let told: Vec<String> = failed.iter().map(tell).collect();
    assert!(told.is_empty(), "{}", told.join("\n"));
    println!("{test}: up to seed {} in {:?}", next.into_inner(), begun.elapsed());
}

fn parse(text: &str, variable: &str) -> Range<u64> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let range = match text.split_once("..") {
        Some((from, to)) => number(from).zip(number(to)),
        None => number(text).map(|seed| (seed, seed + 1)),
    };
    let (from, to) = range.unwrap_or_else(|| panic!("{variable}={text}: write 5 or 5..500"));
    from..to
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
