//! Random calls on both ends of a connection: the kernel, the simulation between two hosts and that
//! within one give the same answers and raise the same events.

use std::net::Shutdown;

use fastrand::Rng;

use super::kernel::Call::{self, *};
use super::kernel::{CLIENT, OPEN, Rig, SERVER};

fn program(seed: u64) -> Vec<Call> {
    let mut rng = Rng::with_seed(seed);
    let mut calls = OPEN.to_vec();
    // Nagle's algorithm is not simulated.
    calls.push(NoDelay(SERVER));
    let mut open = vec![CLIENT, SERVER];
    for _ in 0..rng.usize(4..20) {
        if open.is_empty() {
            break;
        }
        let at = rng.usize(..open.len());
        let side = open[at];
        let call = match rng.u8(..100) {
            0..30 => Write(side, rng.usize(1..3000)),
            30..60 => Read(side, rng.usize(1..4000)),
            60..75 => {
                let how = [Shutdown::Write, Shutdown::Read, Shutdown::Both];
                Shutdown(side, how[rng.usize(..3)])
            }
            75..83 => Error(side),
            83..88 => Peer(side),
            88..97 => {
                open.remove(at);
                Close(side)
            }
            _ => {
                open.remove(at);
                calls.push(ResetOnClose(side));
                Close(side)
            }
        };
        calls.push(call);
    }
    calls
}

fn run(mut rig: Rig, calls: &[Call]) -> Vec<String> {
    let mut log = Vec::new();
    calls.iter().for_each(|&call| rig.call(call, &mut log));
    rig.end("random");
    log
}

#[test]
fn random_calls_are_answered_as_by_the_kernel() {
    let mut wrong = Vec::new();
    for seed in 0..2_000 {
        let calls = program(seed);
        let real = run(Rig::kernel(), &calls);
        for (place, rig) in [("one host", Rig::one_host as fn() -> Rig), ("two hosts", Rig::simulated)] {
            let simulated = run(rig(), &calls);
            // A busy kernel may tell later than at once: then it is asked again.
            let mut real = real.clone();
            for _ in 0..20 {
                if real == simulated {
                    break;
                }
                real = run(Rig::kernel(), &calls);
            }
            if real != simulated {
                let same = real.iter().zip(&simulated).take_while(|(one, other)| one == other).count();
                wrong.push(format!(
                    "seed {seed}, {place}\n  {}\n kernel\n  {}\n simulation\n  {}",
                    real[..same].join("\n  "),
                    real[same..].iter().take(4).cloned().collect::<Vec<_>>().join("\n  "),
                    simulated[same..].iter().take(4).cloned().collect::<Vec<_>>().join("\n  "),
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong[..wrong.len().min(8)].join("\n"));
}
