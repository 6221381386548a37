//! The machine: what it is, what else runs on it, and the settings of the system that matter.

use std::path::PathBuf;
use std::process::Command;

/// A sentence on the machine.
pub(crate) fn describe() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let mut models = processors.lines().filter_map(|line| line.strip_prefix("model name"));
    let model = models.next().unwrap_or("unknown processor").trim_start_matches(['\t', ' ', ':']);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let virtual_one = if processors.contains(" hypervisor") { ", a virtual machine" } else { "" };
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{model}, {cores} cores{virtual_one}, Linux {}", kernel.trim())
}

/// What a command prints first; empty if it cannot be run.
pub(crate) fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

/// Seconds that all cores were busy, and that the host took away from them.
#[derive(Clone, Copy)]
pub(crate) struct Ticks {
    busy: f64,
    stolen: f64,
}

impl Ticks {
    pub(crate) fn now() -> Self {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let first = text.lines().next().unwrap_or_default();
        // user, nice, system, idle, iowait, irq, softirq, steal; in hundredths of a second.
        let ticks: Vec<f64> =
            first.split_whitespace().skip(1).filter_map(|tick| tick.parse().ok()).collect();
        let sum = |fields: &[usize]| -> f64 {
            fields.iter().map(|&field| ticks.get(field).copied().unwrap_or(0.0)).sum()
        };
        Self { busy: sum(&[0, 1, 2, 5, 6]) / 100.0, stolen: sum(&[7]) / 100.0 }
    }

    /// Whether others than those who took `ours` seconds had a part in the last `wall` seconds.
    pub(crate) fn disturbed_since(self, wall: f64, ours: f64) -> bool {
        let now = Self::now();
        let foreign = now.busy - self.busy - ours;
        foreign / wall > 0.08 || (now.stolen - self.stolen) / wall > 0.02
    }
}

/// The same receive buffer for every server, and no pile of closed connections in `accept`.
const SETTINGS: [(&str, &str); 2] =
    [("net.core.rmem_default", "4194304"), ("net.ipv4.tcp_max_tw_buckets", "64")];

/// Settings of the system that were changed; dropping it puts them back.
pub(crate) struct Tuned(Vec<(PathBuf, String)>);

impl Tuned {
    /// Changes them, which root may.
    pub(crate) fn apply() -> anyhow::Result<Self> {
        let mut tuned = Self(Vec::new());
        for (name, value) in SETTINGS {
            let file = PathBuf::from("/proc/sys").join(name.replace('.', "/"));
            let before = std::fs::read_to_string(&file)?;
            std::fs::write(&file, value)
                .map_err(|error| anyhow::anyhow!("--tune: {name}: {error}; are you root?"))?;
            tuned.0.push((file, before));
        }
        Ok(tuned)
    }
}

impl Drop for Tuned {
    fn drop(&mut self) {
        for (file, before) in &self.0 {
            if let Err(error) = std::fs::write(file, before.trim()) {
                eprintln!("{} stays changed, it was {}: {error}", file.display(), before.trim());
            }
        }
    }
}

/// Those settings as they are now.
pub(crate) fn settings() -> String {
    let value = |name: &str| {
        let file = PathBuf::from("/proc/sys").join(name.replace('.', "/"));
        let value = std::fs::read_to_string(file).unwrap_or_default();
        format!("{name} = {}", value.trim())
    };
    SETTINGS.map(|(name, _)| value(name)).join(", ")
}
