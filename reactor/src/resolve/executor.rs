//! Futures on the reactor's own loop, for a DNS client that is written as futures.
//!
//! A turn polls each task that was woken since the last one, with nothing borrowed. Tasks and
//! their sockets lie in slots of the reactor. The futures hold keys: that makes them `Send`, as
//! the client wants them, although they never leave the thread. While one is polled,
//! [`current`] names the reactor it belongs to; what a future gives up is put on a list and freed
//! by [`Executor::run`], since a future may be dropped anywhere.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::ThreadId;
use std::time::Duration;

use super::sockets::Socket;
use crate::callback::guarded;
use crate::inner::Inner;
use crate::slots::{Key, Slots};
use crate::threads::Mailbox;
use crate::timers::DelayedCall;

pub(super) type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Reads that one task may make in one turn: a flood of datagrams must not hold the loop.
const READS: u32 = 64;

/// The executor of a reactor; made with its first task, for most reactors look no name up.
pub(crate) struct Executor {
    made: OnceCell<Box<Tasks>>,
    mailbox: Arc<Mailbox>,
}

impl Deref for Executor {
    type Target = Tasks;

    fn deref(&self) -> &Tasks {
        self.made.get_or_init(|| Box::new(Tasks::new(&self.mailbox)))
    }
}

impl Executor {
    pub(crate) fn new(mailbox: &Arc<Mailbox>) -> Self {
        Self { made: OnceCell::new(), mailbox: Arc::clone(mailbox) }
    }

    /// Whether the next poll must not sleep.
    pub(crate) fn is_pressing(&self) -> bool {
        self.made.get().is_some_and(|tasks| tasks.shared.pressing.load(Ordering::Acquire))
    }

    /// Tasks that have not ended, and sockets they have open.
    pub(crate) fn gauges(&self) -> (u64, u64) {
        self.made.get().map_or((0, 0), |tasks| {
            (tasks.tasks.borrow().len() as u64, tasks.sockets.borrow().len() as u64)
        })
    }

    /// The phase of a turn: polls what was woken before it began.
    pub(crate) fn run(inner: &Rc<Inner>) {
        let Some(tasks) = inner.executor.made.get() else { return };
        // Cleared before the lists are emptied, so that nothing put there meanwhile is overlooked.
        if !tasks.shared.pressing.swap(false, Ordering::AcqRel) {
            return;
        }
        let due = std::mem::take(&mut tasks.shared.lists().runnable);
        for key in due {
            tasks.poll(inner, key);
        }
        tasks.sweep();
    }

    /// The end of the reactor. What is returned is to be dropped with nothing borrowed.
    pub(crate) fn close(&self) -> impl Sized + use<> {
        self.made.get().map(|tasks| {
            (
                tasks.tasks.borrow_mut().drain(),
                tasks.sockets.borrow_mut().drain(),
                tasks.sleeps.borrow_mut().drain(),
            )
        })
    }
}

pub(crate) struct Tasks {
    tasks: RefCell<Slots<Slot>>,
    pub(super) sockets: RefCell<Slots<Socket>>,
    sleeps: RefCell<Slots<DelayedCall>>,
    shared: Arc<Shared>,
    /// Reads left to the task being polled.
    reads: Cell<u32>,
}

struct Slot {
    /// Out while it is polled.
    task: Option<Task>,
    wakes: Arc<Wakes>,
}

/// What wakers, and futures that are dropped, reach without the reactor.
pub(super) struct Shared {
    lists: Mutex<Lists>,
    /// The lists are not empty.
    pressing: AtomicBool,
    thread: ThreadId,
    mailbox: Arc<Mailbox>,
}

#[derive(Default)]
struct Lists {
    runnable: VecDeque<Key>,
    given_up: Vec<GivenUp>,
}

/// Something a future had and needs no more.
pub(super) enum GivenUp {
    Socket(Key),
    Sleep(Key),
}

struct Wakes {
    key: Key,
    queued: AtomicBool,
    shared: Arc<Shared>,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.shared.make_runnable(self.key);
            if std::thread::current().id() != self.shared.thread {
                self.shared.mailbox.ring();
            }
        }
    }
}

impl Shared {
    /// Nothing foreign runs under this lock, so a poisoned one is as good as new.
    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_runnable(&self, key: Key) {
        self.lists().runnable.push_back(key);
        self.pressing.store(true, Ordering::Release);
    }

    pub(super) fn give_up(&self, what: GivenUp) {
        self.lists().given_up.push(what);
        self.pressing.store(true, Ordering::Release);
    }
}

thread_local! {
    static CURRENT: RefCell<Weak<Inner>> = const { RefCell::new(Weak::new()) };
}

/// The reactor whose task is being polled.
pub(super) fn current() -> Option<Rc<Inner>> {
    CURRENT.with_borrow(Weak::upgrade)
}

/// While it lives, [`current`] names a reactor.
struct Entered(Weak<Inner>);

impl Entered {
    fn new(inner: &Rc<Inner>) -> Self {
        Self(CURRENT.replace(Rc::downgrade(inner)))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.replace(std::mem::take(&mut self.0));
    }
}

impl Tasks {
    fn new(mailbox: &Arc<Mailbox>) -> Self {
        Self {
            tasks: RefCell::new(Slots::new()),
            sockets: RefCell::new(Slots::new()),
            sleeps: RefCell::new(Slots::new()),
            shared: Arc::new(Shared {
                lists: Mutex::default(),
                pressing: AtomicBool::new(false),
                thread: std::thread::current().id(),
                mailbox: Arc::clone(mailbox),
            }),
            reads: Cell::new(0),
        }
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Starts a task: it is polled for the first time in this turn or the next.
    pub(super) fn spawn(&self, task: Task) -> Key {
        let key = {
            let mut tasks = self.tasks.borrow_mut();
            let key = tasks.next_key();
            let shared = Arc::clone(&self.shared);
            let wakes = Arc::new(Wakes { key, queued: AtomicBool::new(true), shared });
            tasks.insert(Slot { task: Some(task), wakes })
        };
        self.shared.make_runnable(key);
        key
    }

    /// Ends a task where it stands, and frees what it had.
    pub(super) fn abort(&self, key: Key) {
        let slot = self.tasks.borrow_mut().remove(key);
        drop(slot);
        self.sweep();
    }

    fn poll(&self, inner: &Rc<Inner>, key: Key) {
        let taken = self
            .tasks
            .borrow_mut()
            .get_mut(key)
            .and_then(|slot| Some((slot.task.take()?, Arc::clone(&slot.wakes))));
        let Some((mut task, wakes)) = taken else { return };
        wakes.queued.store(false, Ordering::Release);
        self.reads.set(READS);
        let waker = Waker::from(wakes);
        let mut ended = true;
        let outcome = {
            let _entered = Entered::new(inner);
            guarded(|| {
                ended = task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
                Ok(())
            })
        };
        let mut task = Some(task);
        if ended {
            let slot = self.tasks.borrow_mut().remove(key);
            drop(slot);
        } else if let Some(slot) = self.tasks.borrow_mut().get_mut(key) {
            slot.task = task.take();
        }
        drop(task);
        if let Err(failure) = outcome {
            inner.report(None, "task of the resolver", failure);
        }
    }

    /// Frees what futures gave up.
    fn sweep(&self) {
        let given_up = std::mem::take(&mut self.shared.lists().given_up);
        for what in given_up {
            match what {
                GivenUp::Socket(key) => {
                    let socket = self.sockets.borrow_mut().remove(key);
                    drop(socket);
                }
                GivenUp::Sleep(key) => {
                    let sleep = self.sleeps.borrow_mut().remove(key);
                    if let Some(sleep) = sleep {
                        // Failing means that it has rung already.
                        let _ = sleep.cancel();
                    }
                }
            }
        }
    }

    /// Counts a read of the task being polled; false when it has had its share of this turn.
    pub(super) fn may_read(&self) -> bool {
        let left = self.reads.get();
        self.reads.set(left.saturating_sub(1));
        left > 0
    }
}

/// A future that is ready after a while.
pub(super) struct Sleep {
    duration: Duration,
    bell: Arc<Bell>,
    /// Once it was polled.
    set: Option<(Key, Arc<Shared>)>,
}

#[derive(Default)]
struct Bell {
    rung: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Bell {
    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        let waker = self.waker().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Sleep {
    pub(super) fn new(duration: Duration) -> Self {
        Self { duration, bell: Arc::default(), set: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.bell.rung.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        let former = self.bell.waker().replace(cx.waker().clone());
        drop(former);
        if self.set.is_none() {
            // Only the executor polls it, so there is a reactor; a sleep without one is over.
            let Some(inner) = current() else { return Poll::Ready(()) };
            let bell = Arc::clone(&self.bell);
            let call = inner.handle().call_later(self.duration, move |_| bell.ring());
            // The lookup is what keeps `run` going, not the client's housekeeping.
            call.unref();
            let key = inner.executor.sleeps.borrow_mut().insert(call);
            self.set = Some((key, inner.executor.shared()));
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((key, shared)) = self.set.take() {
            shared.give_up(GivenUp::Sleep(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::mpsc;

    use super::super::sockets::Udp;
    use super::*;
    use crate::Reactor;

    fn inner(reactor: &Reactor) -> Rc<Inner> {
        reactor.upgrade().unwrap()
    }

    #[test]
    fn a_waker_rings_the_loop_from_another_thread() {
        let reactor = Reactor::new().unwrap();
        // Keeps the loop sleeping rather than going.
        let watchdog = reactor.call_later(Duration::from_secs(60), |handle| handle.stop());
        let (sender, receiver) = mpsc::channel::<Waker>();
        let thread = std::thread::spawn(move || receiver.recv().unwrap().wake());
        let mut sender = Some(sender);
        let handle = reactor.clone();
        inner(&reactor).executor.spawn(Box::pin(async move {
            poll_fn(|cx| match sender.take() {
                Some(sender) => {
                    sender.send(cx.waker().clone()).unwrap();
                    Poll::Pending
                }
                None => Poll::Ready(()),
            })
            .await;
            handle.stop();
        }));
        reactor.run().unwrap();
        thread.join().unwrap();
        assert!(watchdog.active());
        assert_eq!(inner(&reactor).executor.gauges().0, 0);
    }

    #[test]
    fn a_task_woken_by_itself_is_polled_once_a_turn() {
        let reactor = Reactor::new().unwrap();
        // There is something to sleep for; a turn that did would ring it.
        let watchdog = reactor.call_later(Duration::from_secs(60), |_| {});
        let polls = Rc::new(Cell::new(0));
        let counted = Rc::clone(&polls);
        let key = inner(&reactor).executor.spawn(Box::pin(poll_fn(move |cx| {
            counted.set(counted.get() + 1);
            cx.waker().wake_by_ref();
            cx.waker().wake_by_ref();
            Poll::Pending
        })));
        for turn in 1..=5 {
            reactor.iterate(None).unwrap();
            assert_eq!(polls.get(), turn);
        }
        assert!(watchdog.active());
        inner(&reactor).executor.abort(key);
        reactor.iterate(Some(Duration::ZERO)).unwrap();
        assert_eq!(polls.get(), 5);
    }

    #[test]
    fn a_task_that_panics_ends_and_hurts_no_other() {
        let reactor = Reactor::new().unwrap();
        let inner = inner(&reactor);
        inner.executor.spawn(Box::pin(async { panic!("on purpose") }));
        let ended = Rc::new(Cell::new(false));
        let told = Rc::clone(&ended);
        inner.executor.spawn(Box::pin(async move { told.set(true) }));
        reactor.iterate(None).unwrap();
        assert!(ended.get());
        assert_eq!(inner.executor.gauges().0, 0);
        assert_eq!(reactor.stats().callback_panics, 1);
    }

    #[test]
    fn a_sleep_wakes_its_task_and_an_abandoned_one_leaves_no_timer() {
        let reactor = Reactor::new().unwrap();
        let inner = inner(&reactor);
        let ended = Rc::new(Cell::new(false));
        let told = Rc::clone(&ended);
        inner.executor.spawn(Box::pin(async move {
            let mut abandoned = Sleep::new(Duration::from_secs(60));
            poll_fn(|cx| {
                assert!(Pin::new(&mut abandoned).poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            drop(abandoned);
            Sleep::new(Duration::from_millis(1)).await;
            told.set(true);
        }));
        while !ended.get() {
            reactor.iterate(None).unwrap();
        }
        assert!(reactor.pending_timers().is_empty());
        assert!(inner.executor.sleeps.borrow().is_empty());
    }

    #[test]
    fn tasks_and_their_sleeps_do_not_keep_run_going() {
        let reactor = Reactor::new().unwrap();
        inner(&reactor).executor.spawn(Box::pin(Sleep::new(Duration::from_secs(60))));
        assert!(!reactor.iterate(Some(Duration::ZERO)).unwrap());
        assert_eq!(reactor.pending_timers().len(), 1);
        reactor.run().unwrap();
        assert_eq!(inner(&reactor).executor.gauges().0, 1);
    }

    #[test]
    fn a_flood_of_datagrams_is_read_in_portions() {
        const FLOOD: usize = 100;
        let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let reactor = Reactor::new().unwrap();
        let read = Rc::new(Cell::new(0));
        let counted = Rc::clone(&read);
        inner(&reactor).executor.spawn(Box::pin(async move {
            let socket = Udp::open("127.0.0.1:0".parse().unwrap(), address).unwrap();
            poll_fn(|cx| socket.poll_send(cx, b"begin")).await.unwrap();
            loop {
                poll_fn(|cx| socket.poll_receive(cx, &mut [0; 16])).await.unwrap();
                counted.set(counted.get() + 1);
            }
        }));
        reactor.iterate(Some(Duration::ZERO)).unwrap();
        let (_, client) = server.recv_from(&mut [0; 16]).unwrap();
        for _ in 0..FLOOD {
            server.send_to(b"flood", client).unwrap();
        }
        // The event of the first turn wakes the task for the second.
        reactor.iterate(Some(Duration::ZERO)).unwrap();
        let mut most = 0;
        while read.get() < FLOOD {
            let before = read.get();
            reactor.iterate(Some(Duration::from_secs(10))).unwrap();
            most = most.max(read.get() - before);
        }
        assert!(most < FLOOD, "all of it in one turn");
    }
}
