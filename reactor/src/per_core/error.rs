//! Which worker failed, and how.

use std::error::Error;
use std::fmt;
use std::io;

use crate::error::{Causes, ListenError, RunError};

/// Why [`run_per_core`](crate::run_per_core) did not end in order. No worker runs any more.
///
/// ```
/// use strand_reactor::{PerCoreError, WorkerFailure, run_per_core};
/// let error = run_per_core(2, |_, index| {
///     anyhow::ensure!(index == 0, "no licence for more");
///     Ok(())
/// }).unwrap_err();
/// assert_eq!(error.to_string(), "worker 1: the set-up failed: no licence for more");
/// assert!(matches!(error, PerCoreError::Worker { index: 1, failure: WorkerFailure::SetUp(_) }));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum PerCoreError {
    /// No worker was asked for.
    NoWorkers,
    /// A worker failed; the others were stopped.
    Worker {
        /// Which one, from 0 on.
        index: usize,
        /// How.
        failure: WorkerFailure,
    },
    /// The calling thread cannot watch over the workers: it has no poller, or cannot watch the
    /// signals that are to stop them.
    Supervisor(RunError),
}

/// How a worker failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum WorkerFailure {
    /// The system gave it no thread.
    Thread(io::Error),
    /// The system gave it no poller.
    Reactor(io::Error),
    /// The set-up returned this error. What it had opened is closed.
    SetUp(anyhow::Error),
    /// Its loop could not run, or broke.
    Run(RunError),
    /// A panic with this message left the set-up or the run.
    Panicked(String),
}

impl PerCoreError {
    pub(super) fn worker(index: usize, failure: WorkerFailure) -> Self {
        Self::Worker { index, failure }
    }
}

impl fmt::Display for PerCoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWorkers => f.write_str("0 workers cannot run anything: ask for at least 1"),
            Self::Worker { index, failure } => {
                write!(f, "worker {index}: {failure}")?;
                if *index > 0 && failure.is_address_in_use() {
                    f.write_str(" (workers that share an address open it with reuse_port(true))")?;
                }
                Ok(())
            }
            Self::Supervisor(error) => write!(f, "the workers cannot be watched over: {error}"),
        }
    }
}

impl WorkerFailure {
    fn is_address_in_use(&self) -> bool {
        let Self::SetUp(error) = self else { return false };
        let listening = error.downcast_ref::<ListenError>();
        listening.is_some_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    }
}

impl fmt::Display for WorkerFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Thread(source) => write!(f, "cannot start a thread: {source}"),
            Self::Reactor(source) => write!(f, "cannot make a reactor: {source}"),
            Self::SetUp(error) => write!(f, "the set-up failed: {}", Causes(error)),
            Self::Run(error) => error.fmt(f),
            Self::Panicked(message) => write!(f, "panicked: {message}"),
        }
    }
}

impl Error for PerCoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NoWorkers => None,
            Self::Worker { failure, .. } => failure.source(),
            Self::Supervisor(error) => error.source(),
        }
    }
}

impl Error for WorkerFailure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Thread(source) | Self::Reactor(source) => Some(source),
            Self::SetUp(error) => Some(&**error),
            Self::Run(error) => error.source(),
            Self::Panicked(_) => None,
        }
    }
}
