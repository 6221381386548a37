//! The system's resolver on worker threads.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::CString;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::query::Failing;
use super::{AddressFamily, Answer, Query, QueryId, Resolve};
use crate::Handle;
use crate::slots::Key;
use crate::sys;
use crate::threads::{self, Remote};

/// Most threads of one resolver.
const THREADS: usize = 4;

/// The system's resolver, getaddrinfo(3), on at most four threads of its own: names mean what they
/// mean to every other program of this host (nsswitch.conf(5), multicast DNS, split DNS of a VPN).
///
/// The system cannot be interrupted. A lookup that is cancelled or takes too long ends at once, and
/// leaves the queue if no thread has begun it; otherwise the thread is busy until the system has
/// answered, and its answer is dropped. The threads start when they are needed and end after the
/// resolver was dropped; nobody waits for them.
///
/// ```
/// use strand_reactor::{Reactor, SystemResolver};
/// let reactor = Reactor::new()?;
/// reactor.set_resolver(SystemResolver::new());
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Default)]
pub struct SystemResolver {
    /// From the first query on.
    pool: Option<Pool>,
}

impl SystemResolver {
    /// Starts no thread yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl fmt::Debug for SystemResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemResolver").finish_non_exhaustive()
    }
}

impl Resolve for SystemResolver {
    fn resolve(&mut self, handle: &Handle, query: Query, answer: Answer) {
        // The length of names is checked before; a zero byte is not among the allowed ones.
        let Ok(name) = CString::new(query.name()) else { return answer.not_found() };
        let pool = self.pool.get_or_insert_with(|| Pool::new(handle.remote()));
        if let Err(error) = pool.prepare() {
            return answer.fail(error);
        }
        if let Some(key) = answer.into_key() {
            pool.push(query.id(), Job { name, family: query.family(), key });
        }
    }

    fn cancel(&mut self, _: &Handle, query: QueryId) {
        if let Some(pool) = &self.pool {
            pool.shared.state().queue.remove(&query);
        }
    }
}

impl Drop for SystemResolver {
    fn drop(&mut self) {
        let Some(pool) = &self.pool else { return };
        let keys = {
            let mut state = pool.shared.state();
            state.closed = true;
            let queued = std::mem::take(&mut state.queue).into_values().map(|job| job.key);
            queued.chain(state.running.drain(..)).collect::<Vec<_>>()
        };
        pool.shared.work.notify_all();
        // Answers owed. They go by the mailbox, since the drop may happen anywhere.
        for key in keys {
            pool.shared.answer(key, Err(io::Error::other("the resolver dropped the query")));
        }
    }
}

struct Job {
    name: CString,
    family: AddressFamily,
    key: Key,
}

struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    remote: Remote,
}

#[derive(Default)]
struct State {
    /// What no thread has begun, the oldest first: at most one for each lookup under way.
    queue: BTreeMap<QueryId, Job>,
    /// What the threads are at.
    running: VecDeque<Key>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Shared {
    /// Nothing foreign runs under this lock, so a poisoned one is as good as new.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, key: Key, result: io::Result<Vec<SocketAddr>>) {
        // Failing means that the reactor is gone, and whoever asked with it.
        let _ = self.remote.call_from_thread(move |handle| {
            if let Some(inner) = handle.upgrade() {
                inner.complete_lookup(key, result.map_err(|error| Failing::Failed(error.into())));
            }
        });
    }

    fn work(&self) {
        loop {
            let job = {
                let mut state = self.state();
                loop {
                    if state.closed {
                        return;
                    }
                    if let Some((_, job)) = state.queue.pop_first() {
                        state.running.push_back(job.key);
                        break job;
                    }
                    state.idle += 1;
                    state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.idle -= 1;
                }
            };
            let family = match job.family {
                AddressFamily::Any => libc::AF_UNSPEC,
                AddressFamily::V4 => libc::AF_INET,
                AddressFamily::V6 => libc::AF_INET6,
            };
            let result = sys::host_addresses(&job.name, family);
            let owed = {
                let mut state = self.state();
                let place = state.running.iter().position(|key| *key == job.key);
                place.map(|place| state.running.remove(place)).is_some()
            };
            if owed {
                self.answer(job.key, result);
            }
        }
    }
}

impl Pool {
    fn new(remote: Remote) -> Self {
        let shared = Shared { state: Mutex::default(), work: Condvar::new(), remote };
        Self { shared: Arc::new(shared) }
    }

    /// Sees to it that a thread will come to the next job.
    fn prepare(&self) -> io::Result<()> {
        let mut state = self.shared.state();
        if state.idle > state.queue.len() || state.threads == THREADS {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        match threads::start("resolver".into(), move || shared.work()) {
            Ok(_) => state.threads += 1,
            // Those that run will come to it.
            Err(_) if state.threads > 0 => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn push(&self, id: QueryId, job: Job) {
        self.shared.state().queue.insert(id, job);
        self.shared.work.notify_one();
    }
}
