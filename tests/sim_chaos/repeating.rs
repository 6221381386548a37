//! The same seed is the same run.

use std::io::Write;

use strand_reactor::sim::World;

use crate::chaos::{Outcome, run};
use crate::seeds;

/// Callbacks that do something, in each program.
const BUDGET: u32 = 100;

fn digest(bytes: &[u8]) -> u64 {
    let mix = |digest: u64, byte: &u8| (digest ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3);
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, mix)
}

fn differ(one: &Outcome, other: &Outcome) -> Option<String> {
    if one.trace != other.trace {
        let at = one.trace.iter().zip(&other.trace).take_while(|(one, other)| one == other).count();
        let (one, other) = (one.trace.len(), other.trace.len());
        return Some(format!("the traces ({one} and {other} bytes) differ at {at}"));
    }
    (one.digest != other.digest).then(|| "the callbacks differ".to_owned())
}

/// Programs with several hosts, datagrams, groups, connections, timers, faults and crashes: what
/// passed over the network is the same to the byte, and every callback came in the same order and
/// at the same time.
#[test]
fn a_thousand_seeds_repeat_to_the_byte() {
    seeds::each("the same again", 1_000, |world, alone| {
        let again = World::from(world.seed());
        let (one, other) = (run(world, BUDGET, true, false), run(again, BUDGET, true, alone));
        differ(&one, &other).into_iter().collect()
    });
}

/// Different seeds are different runs: or else the test above could not fail.
#[test]
fn every_seed_is_another_run() {
    let mut digests: Vec<u64> =
        (1..=50).map(|seed| digest(&run(World::new(seed), BUDGET, true, false).trace)).collect();
    digests.sort_unstable();
    digests.dedup();
    assert!(digests.len() > 45, "{} of 50", digests.len());
}

/// All that happens follows from the seed, and not from how the program was compiled: prints what
/// the runs were, and compares it with what another build printed, if that is given.
#[test]
fn debug_and_release_are_the_same_run() {
    let runs = (1..=200).map(|seed| run(World::new(seed), BUDGET, true, false));
    let all: Vec<u8> = runs
        .flat_map(|run| [digest(&run.trace), run.digest, run.happened])
        .flat_map(u64::to_le_bytes)
        .collect();
    let runs = format!("{:016x}", digest(&all));
    // Not by `println`, which the harness captures.
    let _ = writeln!(std::io::stdout(), "runs: {runs}");
    if let Ok(others) = std::env::var("STRAND_REPEAT_RUNS") {
        assert_eq!(runs, others, "another build ran otherwise");
    }
}
