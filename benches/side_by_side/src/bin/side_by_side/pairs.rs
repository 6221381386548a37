//! Two servers side by side: both alive, loaded in turn (A B, B A, ...), and the ratio of what
//! they cost with its uncertainty. What changes on the machine in the course of minutes meets
//! both alike, so that differences of a few per cent show.

use anyhow::Context;
use serde::{Deserialize, Serialize};
use side_by_side::Reading;

use crate::programs::{Programs, STRAND};
use crate::server::{Server, Setting};
use crate::timers;
use crate::workloads::{Figure, TIMERS, Workload};

/// What is kept of a pair.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pair {
    pub(crate) workload: String,
    pub(crate) peer: String,
    pub(crate) rounds: usize,
    pub(crate) secs: f64,
    /// Runs in which other processes had a part.
    pub(crate) disturbed: usize,
    pub(crate) figures: Vec<Compared>,
}

/// A figure of both: medians, and the ratio of Strand's to the peer's with the ends of its 95 %
/// interval.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Compared {
    pub(crate) figure: Figure,
    pub(crate) ours: f64,
    pub(crate) theirs: f64,
    pub(crate) ratio: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Measures a pair. `None`: one of the two cannot be had here.
pub(crate) fn measure(
    programs: &Programs,
    workload: &Workload,
    peer: &str,
    rounds: usize,
    setting: Setting,
) -> anyhow::Result<Option<Pair>> {
    if workload.kind == TIMERS {
        return timers::measure(programs, workload, peer, rounds, setting);
    }
    // Strand's server may be beside itself, under other options or another load.
    let sides = [
        (STRAND, workload.options, workload.load),
        (peer, "", workload.peer_load.unwrap_or(workload.load)),
    ];
    let mut readings = [Vec::new(), Vec::new()];
    let mut disturbed = 0;
    let mut servers = None;
    for round in 0..rounds {
        // Memory that a server was given once stays with it: a fresh one for every round.
        if servers.is_none() || workload.name == "idle" {
            drop(servers.take());
            let start = |side: usize| {
                let (name, options, _) = sides[side];
                Server::start(programs, name, options, workload.kind, setting)
            };
            let (Some(ours), Some(theirs)) = (start(0)?, start(1)?) else {
                return Ok(None);
            };
            servers = Some([ours, theirs]);
        }
        let running = servers.as_mut().context("both were started")?;
        for which in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let (name, _, load) = sides[which];
            let (reading, others) = running[which]
                .load(programs, load, setting)
                .with_context(|| format!("{} of {name}", workload.name))?;
            readings[which].push(reading);
            disturbed += usize::from(others);
        }
    }
    let [ours, theirs] = readings;
    let figures = [Figure::Cost, Figure::P50, Figure::P99, Figure::Memory];
    let figures = figures.iter().filter_map(|figure| compare(*figure, &ours, &theirs)).collect();
    let (workload, peer) = (workload.name.to_owned(), peer.to_owned());
    Ok(Some(Pair { workload, peer, rounds, secs: setting.secs, disturbed, figures }))
}

fn value(figure: Figure, reading: &Reading) -> Option<f64> {
    match figure {
        Figure::Cost => reading.cost_ns,
        Figure::P50 => reading.p50_us,
        Figure::P99 => reading.p99_us,
        Figure::Memory => reading.bytes_per_connection,
        _ => None,
    }
}

/// The figure in both; `None` if a run of either lacks it.
fn compare(figure: Figure, ours: &[Reading], theirs: &[Reading]) -> Option<Compared> {
    let values = |readings: &[Reading]| -> Option<Vec<f64>> {
        readings.iter().map(|reading| value(figure, reading).filter(|value| *value > 0.0)).collect()
    };
    compare_values(figure, &values(ours)?, &values(theirs)?)
}

/// The values of the same rounds.
pub(crate) fn compare_values(figure: Figure, ours: &[f64], theirs: &[f64]) -> Option<Compared> {
    let logs: Vec<f64> =
        ours.iter().zip(theirs).map(|(ours, theirs)| (ours / theirs).ln()).collect();
    let middle = median(&logs)?;
    // The median of a normal distribution varies 1.25 times as much as its mean.
    let half = 1.96 * 1.25 * deviation(&logs) / (logs.len() as f64).sqrt();
    Some(Compared {
        figure,
        ours: median(ours)?,
        theirs: median(theirs)?,
        ratio: middle.exp(),
        low: (middle - half).exp(),
        high: (middle + half).exp(),
    })
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get((sorted.len() - 1) / 2)?;
    Some((lower + upper) / 2.0)
}

/// The standard deviation of a sample; 0 of a single value.
fn deviation(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (count - 1.0).max(1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(costs: &[f64]) -> Vec<Reading> {
        let reading = |cost: &f64| Reading { cost_ns: Some(*cost), ..Reading::default() };
        costs.iter().map(reading).collect()
    }

    #[test]
    fn the_ratio_is_that_of_rounds_not_of_medians() {
        // Both slow down together in the second round.
        let (ours, theirs) = (readings(&[100.0, 400.0]), readings(&[200.0, 800.0]));
        let compared = compare(Figure::Cost, &ours, &theirs).unwrap();
        assert!((compared.ratio - 0.5).abs() < 1e-9);
        assert!((compared.high - compared.low).abs() < 1e-9);
        assert_eq!((compared.ours, compared.theirs), (250.0, 500.0));
        assert!(compare(Figure::P50, &ours, &theirs).is_none());
    }

    #[test]
    fn what_varies_has_a_wide_interval() {
        let (ours, theirs) = (readings(&[100.0, 120.0, 80.0, 100.0]), readings(&[100.0; 4]));
        let compared = compare(Figure::Cost, &ours, &theirs).unwrap();
        assert!(compared.low < 0.9 && compared.high > 1.1, "{compared:?}");
    }
}
