//! Calling user code: what it may return, and how its errors and panics are kept from hurting
//! anybody else.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::stats::PortStats;

/// What a closure given to the reactor may return: nothing, or a `Result` whose error is logged
/// and counted.
///
/// A closure that uses `?` ends in `anyhow::Ok(())`, which names the error's type. One that never
/// returns needs a type, too, from edition 2024 on:
///
/// ```
/// let reactor = strand_reactor::Reactor::new()?;
/// reactor.call_when_running(|_| -> () { panic!("not written yet") });
/// reactor.run()?;
/// assert_eq!(reactor.stats().callback_panics, 1);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "a callback returns `()` or a `Result<(), E>`, not `{Self}`",
    note = "end the closure with `;`, or with `anyhow::Ok(())` if it uses `?`",
    note = "one that never returns, as with `panic!`, needs a type: `|_| -> () {{ ... }}`"
)]
pub trait CallbackResult: sealed::Sealed {
    #[doc(hidden)]
    fn into_result(self) -> anyhow::Result<()>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for () {}
    impl<E> Sealed for Result<(), E> {}
}

impl CallbackResult for () {
    fn into_result(self) -> anyhow::Result<()> {
        Ok(())
    }
}

impl<E: Into<anyhow::Error>> CallbackResult for Result<(), E> {
    fn into_result(self) -> anyhow::Result<()> {
        self.map_err(Into::into)
    }
}

/// A callback that did not return `Ok`.
pub(crate) enum Failure {
    Error(anyhow::Error),
    Panic(Box<dyn Any + Send>),
}

/// Calls user code. What a panic leaves behind in it is the user's own state: a callback that
/// can panic in the middle of a change must be ready to see that change half done.
#[inline]
pub(crate) fn guarded(call: impl FnOnce() -> anyhow::Result<()>) -> Result<(), Failure> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure::Error(error)),
        Err(panic) => Err(Failure::Panic(panic)),
    }
}

/// That a callback failed, for those who count.
pub(crate) struct Failed {
    pub(crate) panicked: bool,
    pub(crate) now: Instant,
}

impl Failed {
    pub(crate) fn count(&self, errors: &mut u64, panics: &mut u64) {
        *errors += u64::from(!self.panicked);
        *panics += u64::from(self.panicked);
    }

    /// Counts it on a port of datagrams; whether it is logged.
    pub(crate) fn of_port(&self, stats: &mut PortStats, log: &mut LogLimit) -> bool {
        self.count(&mut stats.callback_errors, &mut stats.callback_panics);
        let logged = log.admits(self.now);
        stats.unlogged_errors += u64::from(!logged);
        logged
    }
}

/// The message of a panic, where it has one.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is no text")
}

/// The same of a panic that is done with.
#[cold]
pub(crate) fn into_message(panic: Box<dyn Any + Send>) -> String {
    let message = panic_message(&*panic).to_owned();
    discard_panic(panic);
    message
}

/// Drops what a panic carried: a value of the user's, whose drop may panic as well.
#[cold]
pub(crate) fn discard_panic(panic: Box<dyn Any + Send>) {
    if let Err(next) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        // It could go on like this without end.
        std::mem::forget(next);
    }
}

/// Bounds what one port writes to the log: a peer that makes its protocol fail must not be able
/// to fill a disk. Ten records, then ten more each minute.
#[derive(Default)]
pub(crate) struct LogLimit {
    since: Option<Instant>,
    logged: u32,
}

const LOG_BURST: u32 = 10;
const LOG_INTERVAL: Duration = Duration::from_secs(60);

impl LogLimit {
    pub(crate) fn admits(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= LOG_INTERVAL) {
            self.since = Some(now);
            self.logged = 0;
        }
        self.logged += 1;
        self.logged <= LOG_BURST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_port_logs_ten_records_a_minute() {
        let mut limit = LogLimit::default();
        let start = Instant::now();
        assert_eq!((0..1000).filter(|_| limit.admits(start)).count(), 10);
        assert!(!limit.admits(start + Duration::from_secs(59)));
        assert!(limit.admits(start + Duration::from_secs(60)));
    }
}
