//! The hand on all workers.

use std::fmt;
use std::sync::Arc;

use crate::Handle;
use crate::callback::CallbackResult;
use crate::threads::Remote;

/// A hand on the reactors that [`run_per_core`](crate::run_per_core) runs, for any thread: a
/// [`Remote`] to each. Cheap to clone, and it keeps none of them going. Made by
/// [`Handle::workers`].
///
/// ```
/// use std::sync::mpsc::channel;
/// use strand_reactor::run_per_core;
/// let (send, workers) = channel();
/// let others = std::thread::spawn(move || {
///     let workers: strand_reactor::Workers = workers.recv().unwrap();
///     assert_eq!(workers.remotes().len(), 2);
///     workers.stop();
/// });
/// run_per_core(2, |handle, index| {
///     handle.call_later(std::time::Duration::from_secs(60), |_| {});
///     if index == 0 {
///         send.send(handle.workers())?;
///     }
///     Ok(())
/// })?;
/// others.join().unwrap();
/// # Ok::<(), strand_reactor::PerCoreError>(())
/// ```
#[derive(Clone)]
pub struct Workers {
    remotes: Arc<[Remote]>,
}

impl Workers {
    pub(super) fn new(remotes: impl IntoIterator<Item = Remote>) -> Self {
        Self { remotes: remotes.into_iter().collect() }
    }

    /// The reactors, by the index of their worker.
    pub fn remotes(&self) -> &[Remote] {
        &self.remotes
    }

    /// Posts `call` to each worker, to be run there once with its reactor and its index, as
    /// [`Remote::call_from_thread`] does; returns to how many: those whose reactor is gone are left
    /// out. One that ends before its next turn drops it uncalled.
    ///
    /// ```
    /// use strand_reactor::run_per_core;
    /// run_per_core(2, |handle, index| {
    ///     handle.call_later(std::time::Duration::from_secs(60), |_| {});
    ///     if index == 1 {
    ///         let posted = handle.workers().call_on_each(|handle, _| handle.stop());
    ///         assert_eq!(posted, 2);
    ///     }
    ///     Ok(())
    /// })?;
    /// # Ok::<(), strand_reactor::PerCoreError>(())
    /// ```
    pub fn call_on_each<F, R>(&self, call: F) -> usize
    where
        F: Fn(&Handle, usize) -> R + Send + Sync + 'static,
        R: CallbackResult + 'static,
    {
        let call = Arc::new(call);
        let posted = |(index, remote): (usize, &Remote)| {
            let call = Arc::clone(&call);
            remote.call_from_thread(move |handle| call(handle, index)).is_ok()
        };
        self.remotes.iter().enumerate().map(posted).filter(|posted| *posted).count()
    }

    /// Stops every worker, each as [`Handle::stop`] does. One whose set-up has not ended stops as
    /// soon as it runs.
    pub fn stop(&self) {
        self.remotes.iter().for_each(Remote::stop);
    }

    /// A signal asks for the end of all, or insists.
    #[cfg(feature = "signals")]
    pub(super) fn stop_by_signal(&self) {
        self.call_on_each(|handle, _| {
            if let Some(inner) = handle.upgrade() {
                inner.stop_by_signal();
            }
        });
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("len", &self.remotes.len()).finish_non_exhaustive()
    }
}

impl Handle {
    /// The reactors that this one runs beside, itself included, in
    /// [`run_per_core`](crate::run_per_core). Any other reactor is the only one of its kind.
    ///
    /// ```
    /// let reactor = strand_reactor::Reactor::new()?;
    /// assert_eq!(reactor.workers().remotes().len(), 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn workers(&self) -> Workers {
        let workers = self.upgrade().and_then(|inner| inner.workers.get().cloned());
        workers.unwrap_or_else(|| Workers::new([self.remote()]))
    }
}
