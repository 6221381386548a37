//! What the load generator, the peers and the program that runs them share.

pub mod peer;
pub mod sys;

use serde::{Deserialize, Serialize};

/// What a run of the load generator found: its one line of output, as JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reading {
    /// CPU time of the server for one operation (of a stream: for a thousand bytes), user and
    /// system, in nanoseconds.
    pub cost_ns: Option<f64>,
    /// Operations (of a stream: bytes) a second.
    pub per_second: f64,
    /// Time from a request to its answer, in microseconds.
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    /// Operations that came to nothing, in per cent.
    pub lost_percent: f64,
    /// Growth of the server's memory (RSS) for a connection.
    pub bytes_per_connection: Option<f64>,
    /// CPU time the server took, in per cent of a core.
    pub server_percent: f64,
    /// Time in which the generator had something to do, in per cent.
    pub load_percent: f64,
    /// CPU seconds of the generator.
    pub load_cpu: f64,
}
