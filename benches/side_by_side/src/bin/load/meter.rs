//! What is measured around a run, and times of answers.

use anyhow::Context;
use side_by_side::{Reading, sys};

/// Wall time, and the CPU time of the server.
pub(crate) struct Meter {
    pid: i32,
    started: u64,
    server: f64,
}

impl Meter {
    pub(crate) fn start(pid: i32) -> anyhow::Result<Self> {
        Ok(Self { pid, server: server_cpu(pid)?, started: sys::now_ns() })
    }

    /// `count` operations were done; one costs `scale` times what is counted.
    pub(crate) fn stop(&self, count: u64, scale: f64) -> anyhow::Result<Reading> {
        let wall = (sys::now_ns() - self.started) as f64 / 1e9;
        let server = server_cpu(self.pid)? - self.server;
        Ok(Reading {
            cost_ns: (count > 0).then(|| server * 1e9 / count as f64 * scale),
            per_second: count as f64 / wall,
            server_percent: server / wall * 100.0,
            ..Reading::default()
        })
    }
}

pub(crate) fn server_cpu(pid: i32) -> anyhow::Result<f64> {
    sys::process_cpu(pid).context("the server is gone")
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident(pid: i32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 =
        line.and_then(|line| line.split_whitespace().next()).context("VmRSS")?.parse()?;
    Ok(kib * 1024.0)
}

/// A histogram of nanoseconds: 64 steps an octave, so that it errs by less than 1.6 %.
pub(crate) struct Histogram {
    bins: Vec<u64>,
    count: u64,
}

const STEPS: u64 = 64;

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { bins: vec![0; STEPS as usize * 42], count: 0 }
    }

    #[inline]
    pub(crate) fn add(&mut self, ns: u64) {
        let bin = if ns < STEPS {
            ns
        } else {
            let exponent = u64::from(ns.ilog2());
            (exponent - 5) * STEPS + (ns >> (exponent - 6)) - STEPS
        };
        let last = self.bins.len() - 1;
        self.bins[(bin as usize).min(last)] += 1;
        self.count += 1;
    }

    /// The value at a quantile, in microseconds.
    pub(crate) fn quantile_us(&self, quantile: f64) -> Option<f64> {
        let wanted = (self.count as f64 * quantile).ceil() as u64;
        let mut seen = 0;
        let bin = self.bins.iter().position(|count| {
            seen += count;
            seen >= wanted && seen > 0
        })? as u64;
        let ns = match bin {
            0..STEPS => bin as f64,
            _ => ((bin % STEPS + STEPS) as f64 + 0.5) * 2_f64.powi((bin / STEPS) as i32 - 1),
        };
        Some(ns / 1_000.0)
    }
}
