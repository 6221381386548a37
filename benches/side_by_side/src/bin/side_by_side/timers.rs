//! Timer queues side by side: each run is a process of its own, and they take turns.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};

use crate::machine::Ticks;
use crate::pairs::{Pair, compare_values};
use crate::programs::{Programs, STRAND};
use crate::server::Setting;
use crate::workloads::{Figure, Workload};

/// The figures, by the names that the programs give them.
const OPERATIONS: [(&str, Figure); 6] = [
    ("first", Figure::First),
    ("schedule", Figure::Schedule),
    ("cancel", Figure::Cancel),
    ("fire", Figure::Fire),
    ("churn", Figure::Churn),
    ("push_back", Figure::PushBack),
];

/// Nanoseconds of an operation.
type Costs = BTreeMap<String, f64>;

/// Measures a pair. `None`: one of the two cannot be had here.
pub(crate) fn measure(
    programs: &Programs,
    workload: &Workload,
    peer: &str,
    rounds: usize,
    setting: Setting,
) -> anyhow::Result<Option<Pair>> {
    let command = |name| programs.timers(name, workload.load);
    let (Some(ours), Some(theirs)) = (command(STRAND), command(peer)) else { return Ok(None) };
    let commands = [ours, theirs];
    let mut readings: [Vec<Costs>; 2] = Default::default();
    let mut disturbed = 0;
    for round in 0..rounds {
        for which in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let (started, ticks) = (Instant::now(), Ticks::now());
            let output = Command::new("taskset")
                .args(["-c", &setting.server_core.to_string()])
                .args(&commands[which])
                .output()
                .context("taskset (of util-linux) pins the programs")?;
            ensure!(output.status.success(), "{:?}: {}", commands[which], output.status);
            readings[which].push(serde_json::from_slice(&output.stdout)?);
            let wall = started.elapsed().as_secs_f64();
            disturbed += usize::from(ticks.disturbed_since(wall, wall));
        }
    }
    let values = |which: usize, name: &str| -> Option<Vec<f64>> {
        readings[which].iter().map(|costs: &Costs| costs.get(name).copied()).collect()
    };
    let compared = OPERATIONS
        .iter()
        .filter_map(|(name, figure)| compare_values(*figure, &values(0, name)?, &values(1, name)?));
    let figures = compared.collect();
    let (workload, peer) = (workload.name.to_owned(), peer.to_owned());
    Ok(Some(Pair { workload, peer, rounds, secs: setting.secs, disturbed, figures }))
}
