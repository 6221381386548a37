//! One worker: a thread, its reactor, its set-up and its run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender};

use super::WorkerFailure;
use super::pinning::Cores;
use super::workers::Workers;
use crate::Handle;
use crate::callback::into_message;
use crate::reactor::Builder;
use crate::threads::Remote;

/// What a worker tells the calling thread.
pub(super) enum Report {
    /// It has its reactor, and waits for its turn.
    Built(usize, Remote),
    /// Its set-up is done, and its loop begins.
    Running,
    /// Nothing is left of it.
    Ended(usize, Result<(), WorkerFailure>),
}

/// Where it tells that.
#[derive(Clone)]
pub(super) struct Reports {
    send: Sender<Report>,
    control: Remote,
}

impl Reports {
    pub(super) fn new(send: Sender<Report>, control: Remote) -> Self {
        Self { send, control }
    }

    fn send(&self, report: Report) {
        // The calling thread listens until the last worker has ended.
        let _ = self.send.send(report);
        // A call, not a wake alone: a wake that comes between two turns is over with the next.
        let _ = self.control.call_from_thread(|_| {});
    }
}

pub(super) struct Worker<'a, F> {
    pub(super) index: usize,
    pub(super) builder: Builder,
    pub(super) cores: &'a Cores,
    pub(super) set_up: &'a F,
    pub(super) started: Receiver<Workers>,
    pub(super) reports: Reports,
}

impl<F> Worker<'_, F>
where
    F: Fn(&Handle, usize) -> anyhow::Result<()>,
{
    /// The whole life of the thread.
    pub(super) fn work(self) {
        let (index, reports) = (self.index, self.reports.clone());
        let outcome = match catch_unwind(AssertUnwindSafe(|| self.run())) {
            Ok(outcome) => outcome,
            Err(panic) => Err(WorkerFailure::Panicked(into_message(panic))),
        };
        reports.send(Report::Ended(index, outcome));
    }

    fn run(self) -> Result<(), WorkerFailure> {
        // Before the reactor is made, so that its memory is near the core.
        self.cores.pin(self.index);
        let reactor = self.builder.one_of_many().build().map_err(WorkerFailure::Reactor)?;
        self.reports.send(Report::Built(self.index, reactor.remote()));
        // Otherwise another one failed before.
        let Ok(workers) = self.started.recv() else { return Ok(()) };
        // It was made above, without.
        let _ = reactor.inner.workers.set(workers);
        (self.set_up)(&reactor, self.index).map_err(WorkerFailure::SetUp)?;
        self.reports.send(Report::Running);
        reactor.run().map_err(WorkerFailure::Run)
    }
}

impl Builder {
    /// Signals are the calling thread's.
    #[cfg_attr(not(feature = "signals"), expect(unused_mut, reason = "nothing to change"))]
    fn one_of_many(mut self) -> Self {
        #[cfg(feature = "signals")]
        {
            self.stop_on_signals = false;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;
    use crate::Reactor;

    #[test]
    fn a_report_that_follows_another_wakes_the_calling_thread_too() {
        let control = Reactor::new().unwrap();
        let patience = control.call_later(Duration::from_secs(60), |_| {});
        let (send, received) = channel();
        let reports = Reports::new(send, control.remote());
        // The first comes in the middle of a turn, whose poll takes its wake.
        let first = reports.clone();
        control.call_later(Duration::ZERO, move |_| first.send(Report::Running));
        while received.try_recv().is_err() {
            control.iterate(None).unwrap();
        }
        // The second comes before the next turn: the loop must not sleep upon it.
        reports.send(Report::Running);
        control.iterate(None).unwrap();
        assert!(received.try_recv().is_ok());
        assert!(patience.deadline().is_some_and(|deadline| control.now() < deadline));
    }
}
