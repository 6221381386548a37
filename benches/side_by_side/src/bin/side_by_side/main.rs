//! Strand beside others: bare mio, tokio, quinn-udp, libuv (where its headers are) and loops of
//! plain system calls, each under the same load on loopback. From the folder of the repository:
//!
//! ```text
//! cargo run --release --manifest-path benches/side_by_side/Cargo.toml
//! ```
//!
//! It builds the servers, measures for about half an hour, and writes `benches/RESULTS.md`, the
//! charts in `benches/charts`, and the figures that both are made of. Let nothing else run.

mod charts;
mod machine;
mod pairs;
mod programs;
mod report;
mod server;
mod timers;
mod workloads;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Parser;
use programs::Programs;
use report::Results;
use server::Setting;
use workloads::{BARS, TIMERS, WORKLOADS, Workload};

/// Measures Strand beside other event loops, and writes a table and charts.
///
/// Two servers at a time are alive and loaded in turn; what is compared is the CPU time of the
/// server for an operation, or the time to its answers.
#[derive(Parser)]
struct Arguments {
    /// Only these workloads, separated by commas
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
    /// Only these peers, separated by commas
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Rounds of a pair, instead of 16 (40 of `stream`)
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds that a run measures
    #[arg(long, default_value_t = 0.3)]
    secs: f64,
    /// Begins no pair after so many minutes
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// The core of the servers
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The core of the load generator
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Strand's server, with {kind} and {port} to be filled in; otherwise examples/bench_server
    #[arg(long)]
    server: Option<String>,
    /// Sets net.core.rmem_default and net.ipv4.tcp_max_tw_buckets for the run, as root
    #[arg(long)]
    tune: bool,
    /// Adds to the figures that are there, in place of those of the same pairs
    #[arg(long)]
    keep: bool,
    /// Measures nothing: makes the page and the charts anew of the figures that are there
    #[arg(long)]
    render: bool,
    /// Where RESULTS.md, results.json and charts/ are written; otherwise benches/
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let benches = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let out = arguments.out.clone().unwrap_or(benches);
    let file = out.join("results.json");
    let results = if arguments.render {
        Results::read(&file)?
    } else {
        let known = if arguments.keep { Results::read(&file)? } else { Results::default() };
        measure(&arguments, known)?
    };
    std::fs::create_dir_all(&out)?;
    std::fs::write(&file, results.to_json()?)?;
    std::fs::write(out.join("RESULTS.md"), results.to_markdown()?)?;
    let charts = charts::draw(&results, &out.join("charts"))?;
    println!("written to {}: RESULTS.md, results.json, charts {charts:?}", out.display());
    Ok(())
}

/// The pairs to measure: those of the bars, each once, as far as they are asked for.
fn wanted(arguments: &Arguments) -> anyhow::Result<Vec<(&'static Workload, &'static str)>> {
    let named = |name: &str| WORKLOADS.iter().any(|workload| workload.name == name);
    for name in &arguments.workloads {
        ensure!(named(name), "no workload {name:?}: {}", WORKLOADS.map(|it| it.name).join(", "));
    }
    for name in &arguments.peers {
        let mut peers: Vec<_> = BARS.iter().map(|bar| bar.peer).collect();
        peers.sort_unstable();
        peers.dedup();
        ensure!(peers.contains(&name.as_str()), "no peer {name:?}: {}", peers.join(", "));
    }
    let asked = |list: &[String], name: &str| list.is_empty() || list.iter().any(|it| it == name);
    let mut pairs: Vec<(&Workload, &str)> = Vec::new();
    for workload in WORKLOADS.iter().filter(|it| asked(&arguments.workloads, it.name)) {
        for bar in BARS.iter().filter(|bar| bar.workload == workload.name) {
            let known = pairs.iter().any(|pair| (pair.0.name, pair.1) == (bar.workload, bar.peer));
            if asked(&arguments.peers, bar.peer) && !known {
                pairs.push((workload, bar.peer));
            }
        }
    }
    ensure!(!pairs.is_empty(), "there is no such pair");
    Ok(pairs)
}

fn measure(arguments: &Arguments, mut results: Results) -> anyhow::Result<Results> {
    let pairs = wanted(arguments)?;
    let serves = pairs.iter().any(|(workload, _)| workload.kind != TIMERS);
    let programs = Programs::build(arguments.server.clone(), serves)?;
    let _tuned = arguments.tune.then(machine::Tuned::apply).transpose()?;
    // Of the idle connections; the servers inherit it. Where it may not be raised, that fails.
    let _ = side_by_side::sys::allow_descriptors(20_000);
    let setting = Setting {
        server_core: arguments.server_core,
        load_core: arguments.load_core,
        secs: arguments.secs,
    };
    results.missing.clear();
    if let Some(reason) = &programs.without_libuv {
        results.missing.push(format!("libuv: {reason}"));
    }
    let end = Instant::now() + Duration::from_secs(60 * arguments.minutes);
    let mut measured = 0;
    for (workload, peer) in pairs {
        let what = format!("{} beside {peer}", workload.name);
        if Instant::now() > end {
            results.missing.push(format!("{what}: the time was over"));
            continue;
        }
        let rounds = arguments.rounds.map_or(workload.rounds, |given| given.min(workload.rounds));
        match pairs::measure(&programs, workload, peer, rounds.max(1), setting) {
            Ok(Some(pair)) => {
                println!("{what}: {}", summary(&pair));
                results.add(pair);
                measured += 1;
            }
            Ok(None) => results.missing.push(format!("{what}: not to be had here")),
            Err(error) => results.missing.push(format!("{what}: {error:#}")),
        }
    }
    results.missing.iter().for_each(|reason| println!("not measured: {reason}"));
    ensure!(measured > 0, "nothing was measured, and nothing written");
    let folder = programs.repository().to_string_lossy().into_owned();
    results.commit =
        machine::first_line("git", &["-C", &folder, "describe", "--always", "--dirty"]);
    results.date = machine::first_line("date", &["-u", "+%Y-%m-%d"]);
    results.machine = machine::describe();
    results.settings = machine::settings();
    let given: Vec<String> = std::env::args().skip(1).collect();
    let separator = if given.is_empty() { "" } else { " -- " };
    results.command = format!("{COMMAND}{separator}{}", given.join(" "));
    Ok(results)
}

const COMMAND: &str = "cargo run --release --manifest-path benches/side_by_side/Cargo.toml";

fn summary(pair: &pairs::Pair) -> String {
    let part = |it: &pairs::Compared| {
        format!("{} {:.3} ({:.3} to {:.3})", it.figure.title(), it.ratio, it.low, it.high)
    };
    pair.figures.iter().map(part).collect::<Vec<_>>().join(", ")
}
