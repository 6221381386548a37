//! A property is tried with many seeds, and one that fails says how it is tried again.

use std::cell::Cell;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use strand_reactor::sim::{Link, Seeds, World, for_each_seed, pair};

use crate::support::Recorder as Port;
use crate::watchdog::watchdog;

/// Set in the processes in which tests of this file try something.
const ROLE: &str = "STRAND_TEST_SEEDS";

/// What a test does in a process of its own: there variables may be set, and it may fail.
struct Child(Command);

impl Child {
    /// The test of this name, as cargo runs it.
    fn of(test: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([test, "--exact", "--nocapture", "--test-threads=2"]);
        command.env_remove("STRAND_SEED").env_remove("STRAND_TRACE");
        command.env(ROLE, test).env("CARGO_PKG_NAME", "some-package");
        Self(command)
    }

    fn is(test: &str) -> bool {
        std::env::var(ROLE).is_ok_and(|role| role == test)
    }

    fn with(mut self, variable: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.0.env(variable, value);
        self
    }

    fn fails(mut self) -> String {
        let Output { status, stdout, stderr } = self.0.output().unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(!status.success() && text.contains("1 failed"), "{text}");
        text
    }

    fn passes(mut self) -> String {
        let Output { status, stdout, stderr } = self.0.output().unwrap();
        let text = String::from_utf8_lossy(&stdout).into_owned();
        let errors = String::from_utf8_lossy(&stderr);
        assert!(status.success() && text.contains("1 passed"), "{text}{errors}");
        text
    }
}

fn is_replayed() -> bool {
    Seeds::replayed().is_some()
}

#[test]
fn every_seed_has_a_world_of_its_own_in_order() {
    let _watchdog = watchdog();
    let mut seen = Vec::new();
    for_each_seed(3..=6, |world| {
        world.host("a", "10.0.0.1").unwrap();
        seen.push(world.seed());
    });
    assert!(seen == [3, 4, 5, 6] || is_replayed(), "{seen:?}");
}

/// The command in the message is the one that runs the test again, with that seed alone.
#[test]
fn a_seed_that_fails_is_told_with_the_command_that_tries_it_again() {
    const SELF: &str = "seeds::a_seed_that_fails_is_told_with_the_command_that_tries_it_again";
    let _watchdog = watchdog();
    if Child::is(SELF) {
        let seen = Cell::new(0);
        for_each_seed(10..1_000, |world| {
            seen.set(seen.get() + 1);
            let small = || {
                anyhow::ensure!(world.seed() < 17, "number {}", seen.get());
                Ok(())
            };
            small().context("it is too large")
        });
        return;
    }
    let profile = if cfg!(debug_assertions) { "" } else { " --release" };
    let told = Child::of(SELF).fails();
    assert!(told.contains("seed 17 fails: it is too large: number 8\n"), "{told}");
    let again =
        format!("again: STRAND_SEED=17 cargo test{profile} -p some-package -- --exact {SELF}\n");
    assert!(told.contains(&again), "{told}");
    let told = Child::of(SELF).with("STRAND_SEED", "17").fails();
    assert!(told.contains("seed 17 fails: it is too large: number 1\n"), "{told}");
    let told = Child::of(SELF).with("STRAND_SEED", "14..99").fails();
    assert!(told.contains("seed 17 fails: it is too large: number 4\n"), "{told}");
    Child::of(SELF).with("STRAND_SEED", "16").passes();
    let told = Child::of(SELF).with("STRAND_SEED", "sixteen").fails();
    assert!(told.contains("STRAND_SEED=sixteen: write 17, or 17..25"), "{told}");
}

#[test]
#[should_panic(expected = "seed 2 fails: not with this one\n  again: STRAND_SEED=2 cargo test")]
fn a_failed_assertion_in_a_callback_fails_its_seed() {
    let _watchdog = watchdog();
    for_each_seed(0..5, |world| {
        let (seed, host) = (world.seed(), world.host("a", "10.0.0.1")?);
        host.call_later(Duration::from_secs(1), move |_| {
            assert!(seed != 2, "not with this one");
        });
        world.run_for(Duration::from_secs(2))?;
        anyhow::Ok(())
    });
}

#[test]
#[should_panic(
    expected = "seed 1 fails: left behind after 0ns:\n  host a: 1 timer, the next in 1s"
)]
fn what_is_left_behind_fails_its_seed() {
    let _watchdog = watchdog();
    for_each_seed(0..5, |world| {
        let host = world.host("a", "10.0.0.1").unwrap();
        if world.seed() == 1 {
            host.call_later(Duration::from_secs(1), |_| {});
        }
        world.assert_nothing_left();
    });
}

#[test]
fn a_pair_is_joined_in_the_world_of_a_seed() {
    let _watchdog = watchdog();
    let mut arrived = 0;
    let seeds = Seeds::new(0..200);
    let tried = seeds.check(|world| {
        let seed = world.seed();
        let pair = pair(world, Port::quiet(), Port::echo())?;
        assert_eq!(pair.seed(), seed);
        pair.default_link(Link::new().loss(0.5));
        pair.client().write(b"ping")?;
        while pair.step()? {}
        arrived += pair.server().stats()?.datagrams_in;
        anyhow::Ok(())
    });
    assert!(is_replayed() || tried == 200 && (60..140).contains(&arrived), "{tried} {arrived}");
}

#[test]
#[should_panic(expected = "no place for a pair: there is a host 'server'")]
fn a_pair_finds_no_place_where_its_hosts_are() {
    let world = World::new(1);
    world.host("server", "10.0.0.3").unwrap();
    let _ = pair(world, Port::quiet(), Port::echo());
}

#[test]
fn no_seed_is_begun_when_the_time_is_over_but_those_that_are_wanted_in_any_case() {
    let _watchdog = watchdog();
    let none = Seeds::new(5..).within(Duration::ZERO);
    assert!(none.check(|_| ()) == 1 || is_replayed());
    assert!(none.clone().at_least(40).check(|_| ()) == 40 || is_replayed());
    assert!(none.at_least(40).check_in_parallel(|_| ()) == 40 || is_replayed());
    let few = Seeds::new(5..10).within(Duration::ZERO).at_least(40);
    assert!(few.check(|_| ()) == 5 || is_replayed(), "there are no more");
    // As long as there is time, there is another.
    let (begun, time) = (Instant::now(), Duration::from_millis(20));
    let tried = Seeds::new(0..).within(time).check(|_| ());
    assert!(is_replayed() || tried > 1 && begun.elapsed() >= time, "{tried}");
}

#[test]
#[should_panic(expected = "the seeds have no end: limit them by `within`")]
fn seeds_without_an_end_are_refused() {
    Seeds::new(0..).check(|_| ());
}

#[test]
fn all_processors_try_each_seed_once() {
    let _watchdog = watchdog();
    let seen = Mutex::new(Vec::new());
    let tried = Seeds::new(0..300).check_in_parallel(|world: World| {
        seen.lock().unwrap().push(world.seed());
    });
    let mut seen = seen.into_inner().unwrap();
    seen.sort_unstable();
    assert!(tried == 300 && seen.iter().copied().eq(0..300) || is_replayed(), "{tried} {seen:?}");
}

#[test]
fn the_first_failure_ends_all_threads() {
    let _watchdog = watchdog();
    let tried = Mutex::new(0);
    let outcome = std::panic::catch_unwind(|| {
        Seeds::new(0..1_000_000).check_in_parallel(|world: World| {
            *tried.lock().unwrap() += 1;
            anyhow::ensure!(world.seed() != 3, "three");
            Ok(())
        })
    });
    let told = *outcome.unwrap_err().downcast::<String>().unwrap();
    assert!(told.contains("seed 3 fails: three\n  again: STRAND_SEED=3 cargo test"), "{told}");
    assert!(told.contains("seeds::the_first_failure_ends_all_threads") || is_on_main(), "{told}");
    let tried = *tried.lock().unwrap();
    assert!(tried < 500_000, "{tried}");
}

/// With one test thread, tests have no names.
fn is_on_main() -> bool {
    std::thread::current().name() == Some("main")
}

/// A file that goes with it.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn one_seed_is_traced_to_a_file_and_no_more_are() {
    const SELF: &str = "seeds::one_seed_is_traced_to_a_file_and_no_more_are";
    let _watchdog = watchdog();
    if Child::is(SELF) {
        for_each_seed(0..10, |world| {
            let pair = pair(world, Port::quiet(), Port::echo())?;
            pair.client().write(b"is in the file")?;
            pair.run_for(Duration::from_secs(1))?;
            anyhow::bail!("for the sake of the trace")
        });
        return;
    }
    let name = format!("strand-seeds-{}.pcapng", std::process::id());
    let file = Temporary(std::env::temp_dir().join(name));
    let told = Child::of(SELF).with("STRAND_TRACE", &file.0).fails();
    assert!(told.contains("STRAND_TRACE is for one seed: set STRAND_SEED to it"), "{told}");
    assert!(!file.0.exists());
    let told = Child::of(SELF).with("STRAND_TRACE", &file.0).with("STRAND_SEED", "7").fails();
    assert!(told.contains("seed 7 fails: for the sake of the trace"), "{told}");
    let trace = std::fs::read(&file.0).unwrap();
    assert_eq!(trace[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
    let sent = trace.windows(14).filter(|bytes| *bytes == b"is in the file").count();
    assert_eq!(sent, 4, "there and back, as sent and as received");
    let nowhere = file.0.join("no/such/folder");
    let told = Child::of(SELF).with("STRAND_TRACE", nowhere).with("STRAND_SEED", "7").fails();
    assert!(told.contains("seed 7 fails: STRAND_TRACE="), "{told}");
}
