//! The figures as they are kept, and the page made of them.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::pairs::{Compared, Pair};
use crate::workloads::{BARS, Bar, Figure, Limit, WORKLOADS};

/// Everything that the page and the charts are made of.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Results {
    /// When, on what, with which settings of the system, of which commit, by which command.
    pub(crate) date: String,
    pub(crate) machine: String,
    pub(crate) settings: String,
    pub(crate) commit: String,
    pub(crate) command: String,
    pub(crate) pairs: Vec<Pair>,
    /// What could not be measured, and why.
    pub(crate) missing: Vec<String>,
}

impl Results {
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("{}: nothing was measured yet", file.display()))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Keeps a pair in place of what was measured of it before.
    pub(crate) fn add(&mut self, pair: Pair) {
        self.pairs.retain(|old| (&old.workload, &old.peer) != (&pair.workload, &pair.peer));
        self.pairs.push(pair);
    }

    pub(crate) fn find(&self, workload: &str, peer: &str) -> Option<&Pair> {
        self.pairs.iter().find(|pair| (&*pair.workload, &*pair.peer) == (workload, peer))
    }

    fn compared(&self, bar: &Bar) -> Option<&Compared> {
        let pair = self.find(bar.workload, bar.peer)?;
        pair.figures.iter().find(|compared| compared.figure == bar.figure)
    }

    /// One line a pair.
    pub(crate) fn to_json(&self) -> anyhow::Result<String> {
        let text = serde_json::to_string(self)?;
        Ok(text
            .replace("{\"workload\"", "\n{\"workload\"")
            .replace("],\"missing\"", "\n],\"missing\"")
            + "\n")
    }

    pub(crate) fn to_markdown(&self) -> anyhow::Result<String> {
        let mut page = String::new();
        self.head(&mut page)?;
        page.push_str(COLUMNS);
        for bar in BARS {
            row(&mut page, bar, self.compared(bar))?;
        }
        page.push_str(READING);
        writeln!(page, "\n## Workloads\n\n| name | server | what is sent |\n|---|---|---|")?;
        for workload in &WORKLOADS {
            writeln!(page, "| {} | {} | {} |", workload.name, workload.kind, workload.title)?;
        }
        if !self.missing.is_empty() {
            writeln!(page, "\n## Not measured\n")?;
            self.missing.iter().try_for_each(|reason| writeln!(page, "* {reason}"))?;
        }
        Ok(page)
    }

    /// Runs, and those of them in which other processes had a part.
    fn runs(&self) -> (usize, usize) {
        let runs = self.pairs.iter().map(|pair| 2 * pair.rounds).sum();
        (runs, self.pairs.iter().map(|pair| pair.disturbed).sum())
    }

    /// Why the figures prove little, if so.
    pub(crate) fn doubt(&self) -> Option<&'static str> {
        let (runs, disturbed) = self.runs();
        let asked = |name: &str| WORKLOADS.iter().find(|workload| workload.name == name);
        let short = self.pairs.iter().any(|pair| {
            asked(&pair.workload).is_some_and(|workload| pair.rounds < workload.rounds)
        });
        match (short, disturbed * 10 > runs) {
            (true, true) => Some("a short run on a busy machine"),
            (true, false) => Some("a short run"),
            (false, true) => Some("a busy machine"),
            (false, false) => None,
        }
    }

    fn head(&self, page: &mut String) -> anyhow::Result<()> {
        let (runs, disturbed) = self.runs();
        let spread = |value: fn(&Pair) -> f64| {
            let least = self.pairs.iter().map(value).fold(f64::INFINITY, f64::min);
            let most = self.pairs.iter().map(value).fold(0.0, f64::max);
            if least < most { format!("{least} to {most}") } else { most.to_string() }
        };
        writeln!(page, "# Strand beside others\n")?;
        writeln!(page, "Made by this command, on {}, of commit {}:\n", self.date, self.commit)?;
        writeln!(page, "```text\n{}\n```\n", self.command)?;
        if let Some(doubt) = self.doubt() {
            writeln!(page, "**These figures prove little: {doubt}.**\n")?;
        }
        writeln!(page, "* Machine: {}; {}.", self.machine, self.settings)?;
        writeln!(
            page,
            "* Each pair: both servers alive, loaded in turn; {} rounds of {} s.",
            spread(|pair| pair.rounds as f64),
            spread(|pair| pair.secs),
        )?;
        writeln!(
            page,
            "* Runs in which other processes had a part (and still had after two repeats): \
             {disturbed} of {runs}.\n"
        )?;
        Ok(())
    }
}

fn row(page: &mut String, bar: &Bar, compared: Option<&Compared>) -> std::fmt::Result {
    let Bar { workload, peer, figure, limit } = bar;
    write!(page, "| {workload} | {peer} | {} | {limit} | ", figure.title())?;
    let Some(compared) = compared else { return writeln!(page, "not measured | | | | |") };
    let Compared { ours, theirs, ratio, low, high, .. } = *compared;
    match limit {
        Limit::Bytes(_) => write!(page, "{ours:.0} bytes | | ")?,
        _ => write!(page, "{ratio:.3} | {low:.3} to {high:.3} | ")?,
    }
    let holds = match limit.holds(ours, ratio) {
        Some(true) => "yes",
        Some(false) => "**no**",
        None => "",
    };
    let unit = figure.unit(workload);
    writeln!(page, "{holds} | {} {unit} | {} {unit} |", rounded(ours), rounded(theirs))
}

const COLUMNS: &str = "\
| workload | beside | figure | at most | measured | 95 % interval | holds | Strand | peer |
|---|---|---|---|---|---|---|---|---|
";

/// Three digits.
fn rounded(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

const READING: &str = "
`measured` is Strand's figure divided by the peer's, the median of the rounds; the bar holds if it \
is no more than `at most`. CPU time is that of the server process for an operation, user and \
system together: it holds even where the load generator is the slower one. A server beside itself \
comes out within about 3 %, so a ratio nearer to 1 than that says nothing. Where a bar is meant \
for the better of two peers, it stands at both.

The peers: `raw-...` is a loop of plain system calls, written by hand (`epoll`: one call a \
datagram; `gso`, `gro`: batches, merged on the way out, and in); `mio` is mio alone; \
`tokio-await` and `tokio-try` are tokio with one thread, by `recv_from().await` and by \
`try_recv_from()`; `uv-...` is libuv (`mmsg`: with `UV_UDP_RECVMMSG`); `quinn-udp` is the crate \
beneath quinn.

What this does not show: a network card and its driver (everything is loopback, where the sender's \
core also does the receiver's share of the protocol, so sending looks dear and receiving cheap); \
more than one core; TLS; work of your own in the callbacks. Latency is mostly the time that a \
sleeping core takes to wake. Compare ratios, never absolute figures of two machines or days.

`timers-...` is the queue beneath the timers alone, without closures and handles; what those take \
with them is measured by `cargo bench --bench timers`. `hand-made` is a wheel of 5 levels of 64 \
slots, with ticks of a millisecond, in which what is due comes in no order; `tokio` is its `Sleep` \
in a box; `libuv` is `uv_timer_t`, whose memory is the program's. Where memory is new, most of the \
time is the system's, which brings the pages.
";

/// What a chart shows: this figure of these workloads.
pub(crate) struct Chart {
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
    pub(crate) shows: &'static [(&'static str, Figure)],
}

pub(crate) const CHARTS: [Chart; 4] = [
    Chart {
        file: "udp.svg",
        title: "UDP: CPU time of the server for a datagram",
        shows: &[
            ("udp64", Figure::Cost),
            ("udp1200", Figure::Cost),
            ("udp1flow", Figure::Cost),
            ("udp64b", Figure::Cost),
            ("udp1200b", Figure::Cost),
            ("udpbulk", Figure::Cost),
            ("sink64", Figure::Cost),
            ("sink1200", Figure::Cost),
            ("sinkrate", Figure::Cost),
        ],
    },
    Chart {
        file: "tcp.svg",
        title: "TCP: CPU time of the server for an operation",
        shows: &[
            ("tcp64", Figure::Cost),
            ("tcp64d16", Figure::Cost),
            ("stream", Figure::Cost),
            ("streamsink", Figure::Cost),
            ("accept", Figure::Cost),
        ],
    },
    Chart {
        file: "latency.svg",
        title: "Latency: from a request to its answer",
        shows: &[
            ("udplat", Figure::P50),
            ("udplat-busy", Figure::P50),
            ("tcplat", Figure::P50),
            ("udp64", Figure::P99),
            ("tcp64", Figure::P99),
        ],
    },
    Chart {
        file: "timers.svg",
        title: "Timers: CPU time of the queue for an operation",
        shows: &[
            ("timers-1e5", Figure::Schedule),
            ("timers-1e5", Figure::Cancel),
            ("timers-1e5", Figure::Fire),
            ("timers-1e5", Figure::Churn),
            ("timers-1e5", Figure::PushBack),
            ("timers-1e6", Figure::Schedule),
            ("timers-1e6", Figure::Cancel),
            ("timers-1e6", Figure::Fire),
            ("timers-1e6", Figure::Churn),
            ("timers-1e6", Figure::PushBack),
        ],
    },
];
