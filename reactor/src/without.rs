//! What the loop asks of rooms that a build without their feature does not have.

#[cfg(not(feature = "threads"))]
impl crate::inner::Inner {
    pub(crate) fn has_jobs(&self) -> bool {
        false
    }

    pub(crate) fn jobs_under_way(&self) -> (u64, u64) {
        (0, 0)
    }

    pub(crate) fn cancel_waiting_jobs(&self) {}

    pub(crate) fn end_threads(&self) {}

    pub(crate) fn end_idle_threads(&self) {}

    pub(crate) fn take_jobs(&self) -> impl Sized {}
}

#[cfg(not(feature = "signals"))]
impl crate::inner::Inner {
    pub(crate) fn has_signals(&self) -> bool {
        false
    }

    pub(crate) fn deliver_signals(&self) {}

    pub(crate) fn watch_stop_signals(&self) -> Result<impl Sized, crate::RunError> {
        Ok(())
    }

    pub(crate) fn keep_stop_signals(&self) -> Result<(), crate::RunError> {
        Ok(())
    }

    pub(crate) fn take_signals(&self) -> impl Sized {}
}
