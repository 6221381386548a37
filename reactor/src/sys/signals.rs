//! Signals: a handler that counts and wakes, installed while somebody watches.
//!
//! The handler may interrupt any code of the process, on any thread, so it touches nothing but
//! atomics and descriptors, and calls nothing but `write` (signal-safety(7)). Everything else,
//! above all the list of who watches what, belongs to the other side and is under a lock that the
//! handler never takes.
//!
//! A descriptor that the handler may write to must not be closed before it has written, or the
//! byte could reach a stranger's file that got the number. So whoever closes one first takes it
//! from the table, and then waits until no handler is inside: one that enters later cannot
//! find it.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::c_int;

/// Signals have numbers below this on every system; the highest is 127 (Linux on MIPS).
const SIGNALS: usize = 128;
/// Most reactors of a process that watch signals at a time.
const WAKERS: usize = 256;
const NOBODY: c_int = -1;

/// How often each signal came.
static COUNTS: [AtomicUsize; SIGNALS] = [const { AtomicUsize::new(0) }; SIGNALS];
/// How often any came.
static TOTAL: AtomicUsize = AtomicUsize::new(0);
/// Where the handler writes, to wake those who watch.
static WAKING: [AtomicI32; WAKERS] = [const { AtomicI32::new(NOBODY) }; WAKERS];
/// Handlers that have begun and not ended.
static INSIDE: AtomicUsize = AtomicUsize::new(0);

/// Whose handler was there before, and how many want ours.
static INSTALLED: Mutex<BTreeMap<c_int, Installed>> = Mutex::new(BTreeMap::new());

struct Installed {
    users: usize,
    previous: libc::sigaction,
}

extern "C" fn handler(signal: c_int) {
    INSIDE.fetch_add(1, SeqCst);
    if let Some(count) = usize::try_from(signal).ok().and_then(|signal| COUNTS.get(signal)) {
        count.fetch_add(1, SeqCst);
    }
    TOTAL.fetch_add(1, SeqCst);
    let errno = errno();
    // SAFETY: the pointer is that of this thread, and errno is an int for any thread to change.
    let saved = errno.map(|errno| unsafe { *errno });
    for waker in &WAKING {
        let fd = waker.load(SeqCst);
        if fd != NOBODY {
            // SAFETY: one byte is read from a static. The descriptor is open: it was found in the
            // table while INSIDE counted this handler, and `Waker` closes only afterwards. It does
            // not block, and its other end is open, so there is no SIGPIPE. A full buffer holds
            // earlier bytes that wake as well.
            unsafe { libc::write(fd, b"!".as_ptr().cast(), 1) };
        }
    }
    if let Some((errno, saved)) = errno.zip(saved) {
        // SAFETY: as above. What this thread was doing finds errno as it left it.
        unsafe { *errno = saved };
    }
    INSIDE.fetch_sub(1, SeqCst);
}

/// Where this thread's errno is; `None` where libc has no name for the place.
fn errno() -> Option<*mut c_int> {
    #[cfg(any(target_os = "linux", target_os = "hurd", target_os = "dragonfly"))]
    // SAFETY: has no condition; the place lives as long as the thread.
    return Some(unsafe { libc::__errno_location() });
    #[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
    // SAFETY: as above.
    return Some(unsafe { libc::__error() });
    #[cfg(any(target_os = "android", target_os = "netbsd", target_os = "openbsd"))]
    // SAFETY: as above.
    return Some(unsafe { libc::__errno() });
    #[cfg(any(target_os = "solaris", target_os = "illumos"))]
    // SAFETY: as above.
    return Some(unsafe { libc::___errno() });
    #[allow(unreachable_code, reason = "the systems above have returned")]
    None
}

fn installed() -> MutexGuard<'static, BTreeMap<c_int, Installed>> {
    // Nothing under this lock panics half way.
    INSTALLED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often the signal came since the process began to watch it, modulo the size of the number.
pub(crate) fn count(signal: c_int) -> usize {
    usize::try_from(signal)
        .ok()
        .and_then(|signal| COUNTS.get(signal))
        .map_or(0, |count| count.load(SeqCst))
}

/// How often any signal came that was watched.
pub(crate) fn total() -> usize {
    TOTAL.load(SeqCst)
}

/// Whether the signal would do what signal(7) says by default, or is ours already.
pub(crate) fn is_free(signal: c_int) -> io::Result<bool> {
    let present = examine(signal)?;
    Ok(present.sa_sigaction == libc::SIG_DFL || is_ours(&present))
}

fn is_ours(action: &libc::sigaction) -> bool {
    action.sa_sigaction == handler as *const () as libc::sighandler_t
}

fn examine(signal: c_int) -> io::Result<libc::sigaction> {
    // SAFETY: plain data for which all zeroes is valid.
    let mut present: libc::sigaction = unsafe { zeroed() };
    // SAFETY: nothing is changed, and `present` is ours to be written to.
    match unsafe { libc::sigaction(signal, ptr::null(), &raw mut present) } {
        0 => Ok(present),
        _ => Err(io::Error::last_os_error()),
    }
}

fn install(signal: c_int) -> io::Result<libc::sigaction> {
    // SAFETY: plain data for which all zeroes is valid.
    let (mut ours, mut previous): (libc::sigaction, libc::sigaction) =
        unsafe { (zeroed(), zeroed()) };
    ours.sa_sigaction = handler as *const () as libc::sighandler_t;
    // Calls of code that knows nothing of signals go on; and code that runs on small stacks may
    // have set one aside for handlers.
    ours.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: the set is ours. An empty one: the handler may be interrupted by any other signal.
    unsafe { libc::sigemptyset(&raw mut ours.sa_mask) };
    // SAFETY: the handler does only what may be done in one, and lives as long as the process; both
    // structures are ours.
    match unsafe { libc::sigaction(signal, &raw const ours, &raw mut previous) } {
        0 => Ok(previous),
        _ => Err(io::Error::last_os_error()),
    }
}

/// While it lives, the signal is counted and wakes; the last one of the process puts the
/// previous handler back.
pub(crate) struct Watched {
    signal: c_int,
}

impl Watched {
    pub(crate) fn new(signal: c_int) -> io::Result<Self> {
        if usize::try_from(signal).map_or(true, |signal| signal == 0 || signal >= SIGNALS) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut installed = installed();
        match installed.get_mut(&signal) {
            Some(entry) => entry.users += 1,
            None => {
                let previous = install(signal)?;
                installed.insert(signal, Installed { users: 1, previous });
            }
        }
        Ok(Self { signal })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut installed = installed();
        let Some(entry) = installed.get_mut(&self.signal) else { return };
        entry.users -= 1;
        if entry.users > 0 {
            return;
        }
        let Some(entry) = installed.remove(&self.signal) else { return };
        // Somebody who put a handler over ours keeps it.
        if examine(self.signal).is_ok_and(|present| is_ours(&present)) {
            // SAFETY: the kernel handed this structure out as the handler in place before ours.
            unsafe { libc::sigaction(self.signal, &raw const entry.previous, ptr::null_mut()) };
        }
    }
}

/// A descriptor that becomes readable whenever a watched signal comes.
pub(crate) struct Waker {
    slot: &'static AtomicI32,
    reader: UnixStream,
    /// The handler's end: closed with this, after `drop` has waited for the handler.
    _writer: UnixStream,
}

impl Waker {
    /// Fails with `QuotaExceeded` when the table is full.
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        let fd = writer.as_raw_fd();
        let free = |slot: &&AtomicI32| slot.compare_exchange(NOBODY, fd, SeqCst, SeqCst).is_ok();
        let slot = WAKING.iter().find(free).ok_or(io::ErrorKind::QuotaExceeded)?;
        Ok(Self { slot, reader, _writer: writer })
    }

    /// Takes what the handler wrote. Signals that come later will write again.
    pub(crate) fn drain(&self) {
        let mut bytes = [0; 256];
        while (&self.reader).read(&mut bytes).is_ok_and(|read| read == bytes.len()) {}
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        self.slot.store(NOBODY, SeqCst);
        // A handler takes a microsecond, and waits for nobody.
        while INSIDE.load(SeqCst) != 0 {
            std::thread::yield_now();
        }
    }
}

/// Tests that need a place in the table take turns with the one that takes them all.
#[cfg(test)]
pub(crate) fn turn_at_the_table() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what the system does when the signal comes that often, and nobody looks meanwhile.
#[cfg(test)]
pub(crate) fn pretend(signal: c_int, times: usize) {
    for _ in 0..times {
        handler(signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_errno(value: c_int) {
        // SAFETY: the place is this thread's.
        unsafe { *errno().unwrap() = value };
    }

    #[test]
    fn the_handler_keeps_errno_and_never_blocks() {
        let _turn = turn_at_the_table();
        let waker = Waker::new().unwrap();
        for _ in 0..1 << 20 {
            set_errno(libc::ENOTTY);
            handler(libc::SIGURG);
            assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::ENOTTY));
            // Long after the buffer is full: the write fails with EAGAIN, and nobody knows.
            if count(libc::SIGURG) == 5000 {
                break;
            }
        }
        assert!(count(libc::SIGURG) >= 5000);
        waker.drain();
    }

    #[test]
    fn a_number_that_no_signal_has_changes_nothing() {
        for signal in [i32::MIN, -1, 0, 128, i32::MAX] {
            let refused = Watched::new(signal).err().and_then(|error| error.raw_os_error());
            assert_eq!(refused, Some(libc::EINVAL), "{signal}");
            assert_eq!(count(signal), 0);
            handler(signal);
        }
    }

    #[test]
    fn the_last_of_several_users_puts_the_previous_handler_back() {
        assert!(is_free(libc::SIGWINCH).unwrap());
        let before = examine(libc::SIGWINCH).unwrap().sa_sigaction;
        let users: Vec<_> = (0..3).map(|_| Watched::new(libc::SIGWINCH).unwrap()).collect();
        for user in users {
            assert!(is_ours(&examine(libc::SIGWINCH).unwrap()));
            drop(user);
        }
        assert_eq!(examine(libc::SIGWINCH).unwrap().sa_sigaction, before);
    }

    #[test]
    fn a_handler_put_over_ours_stays() {
        let watched = Watched::new(libc::SIGCONT).unwrap();
        // SAFETY: ignoring a signal runs no code.
        unsafe { libc::signal(libc::SIGCONT, libc::SIG_IGN) };
        drop(watched);
        assert_eq!(examine(libc::SIGCONT).unwrap().sa_sigaction, libc::SIG_IGN);
        assert!(!is_free(libc::SIGCONT).unwrap());
        // SAFETY: as above.
        unsafe { libc::signal(libc::SIGCONT, libc::SIG_DFL) };
    }

    #[test]
    fn a_full_table_is_an_error_and_a_freed_place_is_used_again() {
        let _turn = turn_at_the_table();
        let mut wakers = Vec::new();
        let error = loop {
            match Waker::new() {
                Ok(waker) => wakers.push(waker),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
        assert_eq!(wakers.len(), WAKERS);
        wakers.pop();
        assert!(Waker::new().is_ok());
    }
}
