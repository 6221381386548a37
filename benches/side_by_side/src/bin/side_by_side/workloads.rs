//! What is measured, beside whom, and the bars that Strand is to stay below.

use serde::{Deserialize, Serialize};

/// A load, and the kind of server that it is for.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) load: &'static str,
    /// The load of the peer, where that is another.
    pub(crate) peer_load: Option<&'static str>,
    pub(crate) title: &'static str,
    /// Options of Strand's server.
    pub(crate) options: &'static str,
    /// Rounds of a pair: streams vary more.
    pub(crate) rounds: usize,
}

const fn workload(
    name: &'static str,
    kind: &'static str,
    load: &'static str,
    title: &'static str,
) -> Workload {
    Workload { name, kind, load, peer_load: None, title, options: "", rounds: 16 }
}

/// The kind of workload that has no server: a timer queue, alone in its process.
pub(crate) const TIMERS: &str = "timers";

pub(crate) const WORKLOADS: [Workload; 22] = [
    workload(
        "udp64",
        "udp-echo",
        "udp-echo --size 64 --window 256 --flows 16",
        "echo, 64 bytes, 256 in flight from 16 peers",
    ),
    workload(
        "udp1200",
        "udp-echo",
        "udp-echo --size 1200 --window 256 --flows 16",
        "echo, 1,200 bytes, 256 in flight from 16 peers",
    ),
    workload(
        "udp1flow",
        "udp-echo",
        "udp-echo --size 64 --window 64 --flows 1",
        "echo, 64 bytes, 64 in flight from one peer",
    ),
    workload(
        "udp64b",
        "udp-echo",
        "udp-echo --size 64 --window 256 --flows 16 --gso",
        "echo, 64 bytes, 256 in flight from 16 peers that send in bursts",
    ),
    workload(
        "udp1200b",
        "udp-echo",
        "udp-echo --size 1200 --window 256 --flows 16 --gso",
        "echo, 1,200 bytes, 256 in flight from 16 peers that send in bursts",
    ),
    workload(
        "udpbulk",
        "udp-echo",
        "udp-echo --size 1200 --window 256 --flows 4 --gso --gro",
        "echo, 1,200 bytes, four peers that send and receive in bursts (as QUIC does)",
    ),
    workload(
        "udplat",
        "udp-echo",
        "udp-echo --size 64 --window 1 --flows 1",
        "echo, 64 bytes, one in flight",
    ),
    Workload {
        options: "--busy-poll 50",
        ..workload(
            "udplat-busy",
            "udp-echo",
            "udp-echo --size 64 --window 1 --flows 1",
            "the same, Strand polling busily for 50 µs",
        )
    },
    workload("sink64", "udp-sink", "udp-sink --size 64 --gso", "64 bytes at full blast, counted"),
    workload(
        "sink1200",
        "udp-sink",
        "udp-sink --size 1200 --gso",
        "1,200 bytes at full blast, counted",
    ),
    workload(
        "sinkrate",
        "udp-sink",
        "udp-sink --size 64 --rate 100000 --batch 4",
        "64 bytes, 100,000 a second, counted",
    ),
    workload(
        "tcp64",
        "tcp-echo",
        "tcp-echo --conns 64 --size 64",
        "64 connections, 64 bytes, one request in flight on each",
    ),
    workload(
        "tcp64d16",
        "tcp-echo",
        "tcp-echo --conns 64 --size 64 --depth 16",
        "64 connections, 64 bytes, 16 requests in flight on each",
    ),
    workload(
        "tcplat",
        "tcp-echo",
        "tcp-echo --conns 1 --size 64",
        "one connection, 64 bytes, one request in flight",
    ),
    Workload {
        rounds: 40,
        ..workload("stream", "tcp-echo", "tcp-stream", "one connection, a stream echoed")
    },
    workload("streamsink", "tcp-sink", "tcp-stream --sink", "one connection, a stream discarded"),
    workload(
        "accept",
        "tcp-echo",
        "tcp-accept --conns 32",
        "connect, a byte each way, close; 32 at a time",
    ),
    Workload {
        rounds: 20,
        ..workload("timers-1e5", TIMERS, "100000", "nothing: the queue alone, 100,000 timers")
    },
    Workload {
        rounds: 20,
        ..workload("timers-1e6", TIMERS, "1000000", "nothing: the queue alone, 1,000,000 timers")
    },
    Workload {
        rounds: 3,
        ..workload("idle", "tcp-echo", "idle --conns 10000", "10,000 idle connections")
    },
    Workload {
        peer_load: Some("tcp-echo --conns 100 --size 64"),
        ..workload(
            "crowd",
            "tcp-echo",
            "tcp-echo --conns 100 --size 64 --silent 9900",
            "one request of 64 bytes in flight on 100 of 10,000 connections, beside 100 of 100",
        )
    },
    Workload {
        options: "--workers 2",
        ..workload(
            "workers",
            "udp-echo",
            "udp-echo --size 64 --window 1024 --flows 64",
            "echo, 64 bytes, 1,024 in flight from 64 peers; two reactors on one core beside one",
        )
    },
];

/// What two servers are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Figure {
    /// CPU time of the server for an operation.
    Cost,
    /// Median time to the answer.
    P50,
    /// 99th percentile of it.
    P99,
    /// Memory of a connection.
    Memory,
    /// CPU time of an operation of a timer queue: making a timer, with memory that is new,
    First,
    /// or was used before,
    Schedule,
    /// cancelling it,
    Cancel,
    /// handing it out when it is due,
    Fire,
    /// cancelling one and making another,
    Churn,
    /// moving it.
    PushBack,
}

/// The most that a figure of Strand may be.
#[derive(Clone, Copy)]
pub(crate) enum Limit {
    /// Times the peer's.
    Ratio(f64),
    /// Less than the peer's.
    Less,
    /// So many bytes.
    Bytes(f64),
    /// No bar: shown beside the others.
    None,
}

pub(crate) struct Bar {
    pub(crate) workload: &'static str,
    pub(crate) peer: &'static str,
    pub(crate) figure: Figure,
    pub(crate) limit: Limit,
}

use Figure::{Cancel, Churn, Cost, Fire, First, Memory, P50, P99, PushBack, Schedule};
use Limit::{Bytes, Less, None as NoBar, Ratio};

const fn bar(workload: &'static str, peer: &'static str, figure: Figure, limit: Limit) -> Bar {
    Bar { workload, peer, figure, limit }
}

/// Rows of the table, in order. Where the bar is the best of two peers, it stands at both.
pub(crate) const BARS: &[Bar] = &[
    bar("udp64", "raw-gso", Cost, Ratio(1.06)),
    bar("udp64", "uv-plain", Cost, Ratio(0.86)),
    bar("udp64", "uv-mmsg", Cost, Less),
    bar("udp64", "tokio-try", Cost, Less),
    bar("udp64", "quinn-udp", Cost, Less),
    bar("udp64", "mio", Cost, Less),
    bar("udp64", "uv-plain", P99, Ratio(1.10)),
    bar("udp1200", "raw-gso", Cost, Ratio(1.05)),
    bar("udp1200", "uv-plain", Cost, Ratio(0.90)),
    bar("udp1flow", "raw-gso", Cost, Ratio(1.10)),
    bar("udp1flow", "uv-plain", Cost, Ratio(0.68)),
    bar("udp64b", "raw-gro", Cost, Ratio(1.05)),
    bar("udp64b", "quinn-udp", Cost, Ratio(1.03)),
    bar("udp64b", "uv-plain", Cost, Ratio(0.35)),
    bar("udp1200b", "raw-gro", Cost, Ratio(1.05)),
    bar("udp1200b", "quinn-udp", Cost, Ratio(1.03)),
    bar("udp1200b", "uv-plain", Cost, Ratio(0.35)),
    bar("udpbulk", "raw-gro", Cost, Ratio(1.06)),
    bar("udpbulk", "uv-plain", Cost, Ratio(0.11)),
    bar("udplat", "raw-epoll", P50, Ratio(1.03)),
    bar("udplat", "uv-plain", P50, Ratio(1.00)),
    bar("udplat-busy", "raw-epoll", P50, Ratio(0.65)),
    bar("sink64", "raw-gro", Cost, Ratio(1.18)),
    bar("sink64", "uv-plain", Cost, Ratio(0.07)),
    bar("sink1200", "raw-gro", Cost, Ratio(1.06)),
    bar("sink1200", "uv-plain", Cost, Ratio(0.23)),
    bar("sinkrate", "raw-epoll", Cost, Ratio(1.10)),
    bar("sinkrate", "uv-plain", Cost, Ratio(1.03)),
    bar("tcp64", "raw-epoll", Cost, Ratio(1.02)),
    bar("tcp64", "mio", Cost, Ratio(1.02)),
    bar("tcp64", "uv-plain", Cost, Ratio(1.00)),
    bar("tcp64", "uv-plain", P99, Ratio(1.10)),
    bar("tcp64", "tokio-try", Cost, NoBar),
    bar("tcp64d16", "raw-epoll", Cost, Ratio(1.02)),
    bar("tcp64d16", "mio", Cost, Ratio(1.02)),
    bar("tcp64d16", "uv-plain", Cost, Ratio(1.00)),
    bar("tcplat", "raw-epoll", P50, Ratio(1.02)),
    bar("tcplat", "mio", P50, Ratio(1.02)),
    bar("tcplat", "uv-plain", P50, Ratio(1.00)),
    bar("stream", "raw-epoll", Cost, Ratio(1.04)),
    bar("stream", "mio", Cost, Ratio(1.04)),
    bar("stream", "uv-plain", Cost, Ratio(1.02)),
    bar("stream", "tokio-try", Cost, NoBar),
    bar("streamsink", "raw-epoll", Cost, Ratio(1.04)),
    bar("streamsink", "mio", Cost, Ratio(1.04)),
    bar("streamsink", "uv-plain", Cost, Ratio(1.02)),
    bar("accept", "raw-epoll", Cost, Ratio(1.04)),
    bar("accept", "mio", Cost, Ratio(1.04)),
    bar("accept", "uv-plain", Cost, Ratio(1.02)),
    bar("accept", "tokio-await", Cost, NoBar),
    bar("idle", "uv-plain", Memory, Bytes(180.0)),
    bar("crowd", "strand", Cost, Ratio(1.10)),
    bar("workers", "strand", Cost, Ratio(1.05)),
    bar("timers-1e5", "hand-made", First, Ratio(1.15)),
    bar("timers-1e5", "hand-made", Schedule, Ratio(1.15)),
    bar("timers-1e5", "hand-made", Cancel, Ratio(1.15)),
    bar("timers-1e5", "hand-made", Fire, Ratio(1.15)),
    bar("timers-1e5", "hand-made", Churn, Ratio(1.15)),
    bar("timers-1e5", "hand-made", PushBack, Ratio(1.15)),
    bar("timers-1e5", "libuv", First, Ratio(0.30)),
    bar("timers-1e5", "libuv", Schedule, Ratio(0.30)),
    bar("timers-1e5", "libuv", Cancel, Ratio(0.30)),
    bar("timers-1e5", "libuv", Fire, Ratio(0.30)),
    bar("timers-1e5", "libuv", Churn, Ratio(0.30)),
    bar("timers-1e5", "libuv", PushBack, Ratio(0.30)),
    bar("timers-1e5", "tokio", First, Ratio(0.50)),
    bar("timers-1e5", "tokio", Schedule, Ratio(0.50)),
    bar("timers-1e5", "tokio", Cancel, Ratio(0.50)),
    bar("timers-1e5", "tokio", Fire, Ratio(0.50)),
    bar("timers-1e5", "tokio", Churn, Ratio(0.50)),
    bar("timers-1e5", "tokio", PushBack, Ratio(0.50)),
    bar("timers-1e6", "hand-made", First, Ratio(1.15)),
    bar("timers-1e6", "hand-made", Schedule, Ratio(1.15)),
    bar("timers-1e6", "hand-made", Cancel, Ratio(1.15)),
    bar("timers-1e6", "hand-made", Fire, Ratio(1.15)),
    bar("timers-1e6", "hand-made", Churn, Ratio(1.15)),
    bar("timers-1e6", "hand-made", PushBack, Ratio(1.15)),
    bar("timers-1e6", "libuv", First, Ratio(0.30)),
    bar("timers-1e6", "libuv", Schedule, Ratio(0.30)),
    bar("timers-1e6", "libuv", Cancel, Ratio(0.30)),
    bar("timers-1e6", "libuv", Fire, Ratio(0.30)),
    bar("timers-1e6", "libuv", Churn, Ratio(0.30)),
    bar("timers-1e6", "libuv", PushBack, Ratio(0.30)),
    bar("timers-1e6", "tokio", First, Ratio(0.50)),
    bar("timers-1e6", "tokio", Schedule, Ratio(0.50)),
    bar("timers-1e6", "tokio", Cancel, Ratio(0.50)),
    bar("timers-1e6", "tokio", Fire, Ratio(0.50)),
    bar("timers-1e6", "tokio", Churn, Ratio(0.50)),
    bar("timers-1e6", "tokio", PushBack, Ratio(0.50)),
];

impl Figure {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Cost => "CPU time",
            P50 => "median latency",
            P99 => "p99 latency",
            Memory => "memory",
            First => "schedule, memory new",
            Schedule => "schedule",
            Cancel => "cancel",
            Fire => "fire",
            Churn => "cancel and schedule",
            PushBack => "push back",
        }
    }

    /// The unit, in one workload.
    pub(crate) fn unit(self, workload: &str) -> &'static str {
        match self {
            Cost if workload.starts_with("stream") => "ns a kB",
            Cost | First | Schedule | Cancel | Fire | Churn | PushBack => "ns",
            P50 | P99 => "µs",
            Memory => "bytes",
        }
    }
}

impl Limit {
    /// Whether what was measured keeps to it: the middle of the interval decides.
    pub(crate) fn holds(self, ours: f64, ratio: f64) -> Option<bool> {
        match self {
            Ratio(most) => Some(ratio <= most),
            Less => Some(ratio < 1.0),
            Bytes(most) => Some(ours <= most),
            NoBar => None,
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ratio(most) => write!(f, "{most:.2}"),
            Less => f.write_str("below 1"),
            Bytes(most) => write!(f, "{most:.0} bytes"),
            NoBar => f.write_str("none"),
        }
    }
}
