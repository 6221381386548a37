//! A reactor on each core, on one address.
//!
//! | file | what is in it |
//! |---|---|
//! | `mod.rs` | the calling thread: it starts the workers, waits for them, and stops all when one fails |
//! | `worker.rs` | one thread: pinned, with its reactor, its set-up and its run |
//! | `workers.rs` | the hand on all of them |
//! | `pinning.rs` | which core is whose |
//! | `error.rs` | which worker failed, and how |

mod error;
mod pinning;
mod worker;
mod workers;

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

pub use error::{PerCoreError, WorkerFailure};
pub(crate) use pinning::Cores;
pub use workers::Workers;

use self::worker::{Report, Reports, Worker};
use crate::error::RunError;
use crate::reactor::Builder;
use crate::threads::Remote;
use crate::{Handle, Reactor};

/// Runs reactors with default settings on `workers` threads; as [`Builder::run_per_core`].
///
/// # Errors
/// As [`Builder::run_per_core`].
pub fn run_per_core<F>(workers: usize, set_up: F) -> Result<(), PerCoreError>
where
    F: Fn(&Handle, usize) -> anyhow::Result<()> + Send + Sync,
{
    Reactor::builder().run_per_core(workers, set_up)
}

impl Builder {
    /// Runs one reactor of these settings on each of `workers` threads and returns when all have
    /// ended. There may be more workers than cores.
    ///
    /// `set_up` is called on each thread with that worker's reactor and its index, from 0 on: one
    /// after another, in order, each when the one before has returned. What it makes there stays
    /// on that thread and need not be `Send`. Then the worker [runs](Reactor::run), until it is
    /// stopped or has nothing left that could call it back, as when the set-up opened nothing; it
    /// ends alone then, which is no failure.
    ///
    /// To serve one address together, each worker opens it with `reuse_port(true)`
    /// ([`UdpOptions::reuse_port`](crate::UdpOptions::reuse_port),
    /// [`TcpOptions::reuse_port`](crate::TcpOptions::reuse_port)): Linux then gives all datagrams of a flow
    /// (source and destination address and port) to one of them, and each connection to one of
    /// them, evenly over many. With port number 0 each would get another number: let the first
    /// worker leave its own for those after it, as below.
    ///
    /// Each thread is pinned to one of the cores that the calling thread may run on, by turns
    /// (`sched_setaffinity`; Linux, Android, FreeBSD, DragonFly). Where that is not possible, the
    /// workers run unpinned, and a warning is logged. Threads that the reactor starts (for jobs and
    /// for names) may run on all of these cores; one that you start on a worker inherits its core.
    ///
    /// [`Handle::workers`] is the hand on all of them, for other threads, too. Its
    /// [`stop`](Workers::stop) stops all; [`Handle::stop`] stops one worker, and the others go on.
    /// With `stop_on_signals`, the calling thread watches, and a signal stops all.
    ///
    /// ```
    /// use std::net::{Ipv4Addr, UdpSocket};
    /// use std::sync::atomic::{AtomicU16, Ordering};
    /// use strand_reactor::{Datagram, DatagramProtocol, DatagramTransport, UdpOptions, run_per_core};
    ///
    /// struct Last;
    /// impl DatagramProtocol for Last {
    ///     fn datagram_received(
    ///         &mut self,
    ///         transport: &DatagramTransport,
    ///         _: Datagram<'_>,
    ///     ) -> anyhow::Result<()> {
    ///         transport.reactor().workers().stop();
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let port = AtomicU16::new(0);
    /// run_per_core(2, |handle, index| {
    ///     let address = (Ipv4Addr::LOCALHOST, port.load(Ordering::Relaxed));
    ///     let transport = handle.listen_udp(UdpOptions::from(address).reuse_port(true), Last)?;
    ///     let address = transport.local_addr()?;
    ///     port.store(address.port(), Ordering::Relaxed);
    ///     if index == 1 {
    ///         // One of them gets it.
    ///         UdpSocket::bind("127.0.0.1:0")?.send_to(b"stop", address)?;
    ///     }
    ///     Ok(())
    /// })?;
    /// # Ok::<(), strand_reactor::PerCoreError>(())
    /// ```
    ///
    /// # Errors
    /// [`PerCoreError::NoWorkers`] for 0. [`PerCoreError::Worker`] when a worker fails: its thread or
    /// reactor could not be made, `set_up` returned an error, its loop could not run, or a panic
    /// left `set_up` or, where panics are let through, a callback. The set-ups that have not begun
    /// are then left out, all other workers are stopped as by [`Workers::stop`], and the error comes
    /// when they have ended. Of several failures the first is returned, the others are logged.
    pub fn run_per_core<F>(self, workers: usize, set_up: F) -> Result<(), PerCoreError>
    where
        F: Fn(&Handle, usize) -> anyhow::Result<()> + Send + Sync,
    {
        if workers == 0 {
            return Err(PerCoreError::NoWorkers);
        }
        let control =
            Reactor::new().map_err(|source| PerCoreError::Supervisor(RunError::Poll(source)))?;
        // It waits as long as there are workers, whatever else it has to do.
        control.inner.core.borrow_mut().agenda.references += 1;
        let (send, received) = channel();
        let reports = Reports::new(send, control.remote());
        let cores = Cores::allowed();
        thread::scope(|scope| {
            let mut group = Group::new(&control, received, &self, workers);
            for index in 0..workers {
                group.take_reports();
                if group.failure.is_some() {
                    // There may be far more to come than the system has descriptors for.
                    break;
                }
                let (start, started) = channel();
                let worker = Worker {
                    index,
                    builder: self.clone(),
                    cores: &cores,
                    set_up: &set_up,
                    started,
                    reports: reports.clone(),
                };
                let thread = thread::Builder::new().name(format!("strand-{index}"));
                match thread.spawn_scoped(scope, move || worker.work()) {
                    Ok(_) => group.spawned(start),
                    Err(source) => {
                        group.fail(PerCoreError::worker(index, WorkerFailure::Thread(source)));
                        break;
                    }
                }
            }
            group.supervise()
        })
    }
}

/// What the calling thread knows of the workers.
struct Group<'a> {
    control: &'a Reactor,
    reports: Receiver<Report>,
    stop_on_signals: bool,
    /// Threads that have not ended.
    alive: usize,
    /// What begins the set-up of those whose turn has not come. Without its own, a worker ends.
    starts: VecDeque<Sender<Workers>>,
    /// How many workers there are to be.
    wanted: usize,
    /// Those of workers that have a reactor, by index.
    remotes: BTreeMap<usize, Remote>,
    /// There when every worker has a reactor.
    workers: Option<Workers>,
    failure: Option<PerCoreError>,
    #[cfg(feature = "signals")]
    watches: Vec<crate::SignalWatch>,
}

impl<'a> Group<'a> {
    fn new(
        control: &'a Reactor,
        reports: Receiver<Report>,
        builder: &Builder,
        workers: usize,
    ) -> Self {
        #[cfg(feature = "signals")]
        let stop_on_signals = builder.stop_on_signals;
        #[cfg(not(feature = "signals"))]
        let stop_on_signals = {
            let _ = builder;
            false
        };
        Self {
            control,
            reports,
            stop_on_signals,
            alive: 0,
            starts: VecDeque::new(),
            wanted: workers,
            remotes: BTreeMap::new(),
            workers: None,
            failure: None,
            #[cfg(feature = "signals")]
            watches: Vec::new(),
        }
    }

    fn spawned(&mut self, start: Sender<Workers>) {
        self.alive += 1;
        self.starts.push_back(start);
    }

    /// Waits until every worker has ended.
    fn supervise(mut self) -> Result<(), PerCoreError> {
        while self.alive > 0 {
            if let Err(error) = self.control.iterate(None) {
                self.fail(PerCoreError::Supervisor(error));
                // Deaf to signals, but not to the workers.
                while self.alive > 0
                    && let Ok(report) = self.reports.recv()
                {
                    self.take(report);
                }
                break;
            }
            self.take_reports();
        }
        self.failure.map_or(Ok(()), Err)
    }

    fn take_reports(&mut self) {
        while let Ok(report) = self.reports.try_recv() {
            self.take(report);
        }
    }

    fn take(&mut self, report: Report) {
        match report {
            Report::Built(index, remote) => {
                self.remotes.insert(index, remote);
                if self.failure.is_none() && self.remotes.len() == self.wanted {
                    self.begin();
                }
            }
            Report::Running => self.start_next(),
            Report::Ended(index, outcome) => {
                self.alive -= 1;
                if let Err(failure) = outcome {
                    self.fail(PerCoreError::worker(index, failure));
                }
            }
        }
    }

    /// Every worker has its reactor: they may know each other.
    fn begin(&mut self) {
        let workers = Workers::new(std::mem::take(&mut self.remotes).into_values());
        self.workers = Some(workers.clone());
        if let Err(error) = self.watch_signals(&workers) {
            return self.fail(PerCoreError::Supervisor(error));
        }
        self.start_next();
    }

    fn start_next(&mut self) {
        if let (Some(start), Some(workers)) = (self.starts.pop_front(), &self.workers) {
            // A worker that is gone has reported why.
            let _ = start.send(workers.clone());
        }
    }

    #[cfg(feature = "signals")]
    fn watch_signals(&mut self, workers: &Workers) -> Result<(), RunError> {
        if self.stop_on_signals {
            let workers = workers.clone();
            let stop = move || workers.stop_by_signal();
            self.watches = self.control.inner.watch_stopping(stop)?;
        }
        Ok(())
    }

    #[cfg(not(feature = "signals"))]
    fn watch_signals(&self, _: &Workers) -> Result<(), RunError> {
        debug_assert!(!self.stop_on_signals);
        Ok(())
    }

    fn fail(&mut self, error: PerCoreError) {
        self.starts.clear();
        if let Some(workers) = &self.workers {
            workers.stop();
        }
        if self.failure.is_some() {
            tracing::error!("a worker failed after another: {error}");
        } else {
            self.failure = Some(error);
        }
    }
}
