//! Which core is whose.

/// The cores that the workers are spread over.
pub(super) struct Cores(Vec<usize>);

impl Cores {
    /// Those that the calling thread may run on; none where that cannot be told.
    pub(super) fn allowed() -> Self {
        Self(system::allowed().unwrap_or_else(|error| {
            tracing::warn!(%error, "workers are not pinned: the system does not tell the cores");
            Vec::new()
        }))
    }

    /// Pins the calling thread to the core of this worker.
    pub(super) fn pin(&self, worker: usize) {
        let Some(core) = self.core_of(worker) else { return };
        if let Err(error) = system::pin(core) {
            tracing::warn!(worker, core, %error, "the worker is not pinned");
        }
    }

    fn core_of(&self, worker: usize) -> Option<usize> {
        // Without cores, the remainder has no value.
        let turn = worker.checked_rem(self.0.len())?;
        Some(self.0[turn])
    }
}

#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "dragonfly"
))]
mod system {
    use std::io;

    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    pub(super) fn allowed() -> io::Result<Vec<usize>> {
        let set = sched_getaffinity(None)?;
        Ok((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
    }

    pub(super) fn pin(core: usize) -> io::Result<()> {
        let mut set = CpuSet::new();
        set.set(core);
        Ok(sched_setaffinity(None, &set)?)
    }
}

#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "dragonfly"
)))]
mod system {
    use std::io;

    pub(super) fn allowed() -> io::Result<Vec<usize>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn pin(_core: usize) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_take_the_cores_by_turns() {
        let cores = Cores(vec![2, 5]);
        assert_eq!([0, 1, 2, 3].map(|worker| cores.core_of(worker)), [2, 5, 2, 5].map(Some));
        assert_eq!(Cores(Vec::new()).core_of(3), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pinned_thread_runs_on_its_core_alone() {
        let cores = Cores::allowed();
        assert!(!cores.0.is_empty());
        let (last, index) = (*cores.0.last().unwrap(), cores.0.len() - 1);
        let allowed = std::thread::spawn(move || {
            cores.pin(index);
            system::allowed().unwrap()
        });
        assert_eq!(allowed.join().unwrap(), [last]);
    }
}
