//! Which core is whose.

use std::cell::RefCell;
use std::sync::Arc;

thread_local! {
    /// Of a pinned thread: the cores that it was pinned to one of.
    static PINNED: RefCell<Option<Cores>> = const { RefCell::new(None) };
}

/// The cores that the workers are spread over.
#[derive(Clone)]
pub(crate) struct Cores(Arc<[usize]>);

impl Cores {
    /// Those that the calling thread may run on; none where that cannot be told.
    pub(super) fn allowed() -> Self {
        Self(system::allowed().unwrap_or_else(|error| {
            tracing::warn!(%error, "workers are not pinned: the system does not tell the cores");
            Vec::new()
        }).into())
    }

    /// Those that the calling thread was pinned to one of; none if it is not pinned.
    pub(crate) fn of_pinned() -> Option<Self> {
        PINNED.with_borrow(Clone::clone)
    }

    #[cfg(feature = "threads")]
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Lets the calling thread run on all of them. It has inherited the one core of the worker that
    /// started it, whose loop it would keep waiting.
    pub(crate) fn spread(&self) {
        if let Err(error) = system::pin(&self.0) {
            tracing::warn!(%error, "a thread stays on the core of the worker that started it");
        }
    }

    /// Pins the calling thread to the core of this worker.
    pub(super) fn pin(&self, worker: usize) {
        let Some(core) = self.core_of(worker) else { return };
        match system::pin(&[core]) {
            Ok(()) => PINNED.set(Some(self.clone())),
            Err(error) => tracing::warn!(worker, core, %error, "the worker is not pinned"),
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

    pub(super) fn pin(cores: &[usize]) -> io::Result<()> {
        let mut set = CpuSet::new();
        cores.iter().for_each(|core| set.set(*core));
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

    pub(super) fn pin(_cores: &[usize]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_take_the_cores_by_turns() {
        let cores = Cores([2, 5].into());
        assert_eq!([0, 1, 2, 3].map(|worker| cores.core_of(worker)), [2, 5, 2, 5].map(Some));
        assert_eq!(Cores([].into()).core_of(3), None);
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
