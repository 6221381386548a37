//! Signals, raised against this very process by a child (`kill`), and against copies of it that
//! are to be ended by them.
//!
//! Every watcher of a process hears every signal, so the tests take turns; each also has signals
//! of its own where it counts.
#![cfg(unix)]

use std::cell::{Cell, RefCell};
use std::net::UdpSocket;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Handle, Reactor, Signal, SignalError,
    SignalWatch, StopReason,
};

mod copies;
#[path = "../common/watchdog.rs"]
mod watchdog;
use watchdog::{Watchdog, watchdog};

/// The turn of one test. A signal that the system delivers only after the test has ended finds a
/// handler: what the signal does by default would end the process.
fn alone() -> (MutexGuard<'static, ()>, Watchdog) {
    static TURN: Mutex<()> = Mutex::new(());
    static KEPT: Once = Once::new();
    KEPT.call_once(|| {
        let reactor = Reactor::new().unwrap();
        for signal in [Signal::USR1, Signal::USR2] {
            std::mem::forget(reactor.on_signal(signal, |_| {}).unwrap());
        }
        std::mem::forget(reactor);
    });
    (TURN.lock().unwrap_or_else(PoisonError::into_inner), watchdog())
}

/// `kill` of the shell, which is there wherever a shell is.
fn kill(signal: Signal, pid: u32) {
    let command = format!("kill -{} {pid}", signal.as_raw());
    assert!(Command::new("sh").arg("-c").arg(command).status().unwrap().success());
}

/// The process gets the signal: when this returns, some thread has run the handler or will. A
/// second one that comes before it has is lost (signal(7)), so who counts waits for the first.
fn raise(signal: Signal) {
    kill(signal, std::process::id());
}

/// A watch and the number of its calls.
type Counter = (SignalWatch, Rc<Cell<u32>>);

fn counter(handle: &Handle, signal: Signal) -> Counter {
    let count = Rc::new(Cell::new(0));
    let counting = Rc::clone(&count);
    let watch = handle.on_signal(signal, move |_| counting.set(counting.get() + 1)).unwrap();
    (watch, count)
}

/// Turns the loop until the condition holds; the watchdog ends what never does.
fn turn_until(reactor: &Reactor, condition: impl Fn() -> bool) {
    while !condition() {
        reactor.iterate(Some(Duration::from_millis(50))).unwrap();
    }
}

#[test]
fn ten_signals_one_after_the_other_give_ten_calls_to_every_watcher() {
    let _alone = alone();
    let (one, other) = (Reactor::new().unwrap(), Reactor::new().unwrap());
    let watches: Vec<_> = [&one, &one, &other].map(|reactor| counter(reactor, Signal::USR1)).into();
    let (stopped, calls_of_stopped) = counter(&one, Signal::USR1);
    stopped.stop();
    for nth in 1..=10 {
        raise(Signal::USR1);
        for (reactor, (_, count)) in [&one, &one, &other].into_iter().zip(&watches) {
            turn_until(reactor, || count.get() >= nth);
        }
    }
    for (_, count) in &watches {
        assert_eq!(count.get(), 10);
    }
    assert_eq!(calls_of_stopped.get(), 0);
    // A watch begun anew hears the next, and none of those before.
    let (_again, count) = counter(&one, Signal::USR1);
    raise(Signal::USR1);
    turn_until(&one, || count.get() > 0);
    assert_eq!(count.get(), 1);
}

#[test]
fn a_signal_wakes_a_sleeping_loop() {
    let _alone = alone();
    let reactor = Reactor::new().unwrap();
    let watch = reactor.on_signal(Signal::USR1, |handle| handle.stop()).unwrap();
    let keep = reactor.call_later(Duration::from_secs(3600), |_| {});
    reactor.call_when_running(|_| {
        std::thread::spawn(|| raise(Signal::USR1));
    });
    reactor.run().unwrap();
    assert!(keep.active());
    drop(watch);
}

#[test]
fn a_watch_does_not_keep_run_going_and_a_callback_may_end_its_own() {
    let _alone = alone();
    let reactor = Reactor::new().unwrap();
    let (_normal, normal_calls) = counter(&reactor, Signal::USR2);
    reactor.run().unwrap();

    let own: Rc<RefCell<Option<SignalWatch>>> = Rc::default();
    let calls = Rc::new(Cell::new(0));
    let (ending, counting) = (Rc::clone(&own), Rc::clone(&calls));
    let one_shot = reactor.on_signal(Signal::USR2, move |_| {
        counting.set(counting.get() + 1);
        drop(ending.borrow_mut().take());
    });
    *own.borrow_mut() = Some(one_shot.unwrap());
    for nth in 1..=3 {
        raise(Signal::USR2);
        turn_until(&reactor, || normal_calls.get() == nth);
    }
    assert_eq!(calls.get(), 1);
    assert_eq!(Rc::strong_count(&calls), 1, "what the callback captured is gone");
}

#[test]
fn a_callback_may_end_another_watch_and_begin_one() {
    let _alone = alone();
    let reactor = Reactor::new().unwrap();
    let victim: Rc<RefCell<Option<SignalWatch>>> = Rc::default();
    let begun: Rc<RefCell<Option<Counter>>> = Rc::default();
    let (ending, beginning) = (Rc::clone(&victim), Rc::clone(&begun));
    let _first = reactor
        .on_signal(Signal::USR2, move |handle| {
            drop(ending.borrow_mut().take());
            beginning.borrow_mut().get_or_insert_with(|| counter(handle, Signal::USR2));
        })
        .unwrap();
    let (watch, calls_of_victim) = counter(&reactor, Signal::USR2);
    *victim.borrow_mut() = Some(watch);
    raise(Signal::USR2);
    turn_until(&reactor, || begun.borrow().is_some());
    let calls = Rc::clone(&begun.borrow().as_ref().unwrap().1);
    assert_eq!((calls_of_victim.get(), calls.get()), (0, 0));
    raise(Signal::USR2);
    turn_until(&reactor, || calls.get() == 1);
    assert_eq!(calls_of_victim.get(), 0);
}

#[test]
fn signals_that_come_before_the_loop_turns_are_not_lost() {
    let _alone = alone();
    let reactor = Reactor::new().unwrap();
    let (_watch, count) = counter(&reactor, Signal::USR1);
    let observer = Reactor::new().unwrap();
    let (_observing, observed) = counter(&observer, Signal::USR1);
    for nth in 1..=5 {
        raise(Signal::USR1);
        turn_until(&observer, || observed.get() == nth);
    }
    assert_eq!(count.get(), 0, "never outside the loop");
    reactor.iterate(Some(Duration::ZERO)).unwrap();
    assert_eq!(count.get(), 5);
}

#[test]
fn a_callback_that_fails_or_panics_stays_and_hurts_no_other() {
    let _alone = alone();
    let reactor = Reactor::new().unwrap();
    let _failing =
        reactor.on_signal(Signal::USR1, |_| Err::<(), _>(anyhow::anyhow!("no"))).unwrap();
    let _panicking = reactor.on_signal(Signal::USR1, |_| -> () { panic!("no") }).unwrap();
    let (_watch, count) = counter(&reactor, Signal::USR1);
    for nth in 1..=2 {
        raise(Signal::USR1);
        turn_until(&reactor, || count.get() == nth);
    }
    assert_eq!((reactor.stats().callback_errors, reactor.stats().callback_panics), (2, 2));
}

#[test]
fn after_a_crash_the_rest_of_the_watchers_is_told_by_the_next_run() {
    let _alone = alone();
    let reactor = Reactor::new().unwrap();
    let _crash = reactor.on_signal(Signal::USR1, |handle| handle.crash()).unwrap();
    let (_watch, count) = counter(&reactor, Signal::USR1);
    let keep = reactor.call_later(Duration::from_secs(3600), |_| {});
    raise(Signal::USR1);
    reactor.run().unwrap();
    assert_eq!(count.get(), 0);
    turn_until(&reactor, || count.get() == 1);
    keep.cancel().unwrap();
}

#[test]
fn one_signal_reaches_every_loop_of_every_thread_while_others_come_and_go() {
    let _alone = alone();
    const LOOPS: usize = 24;
    let ready = Arc::new(Barrier::new(LOOPS + 1));
    let told = Arc::new(AtomicUsize::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let coming_and_going: Vec<_> = (0..10)
        .map(|_| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let reactor = Reactor::new().unwrap();
                    let _watch = reactor.on_signal(Signal::USR1, |_| {}).unwrap();
                    reactor.iterate(Some(Duration::ZERO)).unwrap();
                }
            })
        })
        .collect();
    let loops: Vec<_> = (0..LOOPS)
        .map(|_| {
            let (ready, told) = (Arc::clone(&ready), Arc::clone(&told));
            std::thread::spawn(move || {
                let reactor = Reactor::new().unwrap();
                let _keep = reactor.call_later(Duration::from_secs(3600), |_| {});
                let telling = move |_: &Handle| {
                    told.fetch_add(1, Ordering::SeqCst);
                };
                let _told = reactor.on_signal(Signal::USR1, telling).unwrap();
                let _stop = reactor.on_signal(Signal::USR2, |handle| handle.stop()).unwrap();
                ready.wait();
                reactor.run().unwrap();
            })
        })
        .collect();
    ready.wait();
    for nth in 1..=5 {
        raise(Signal::USR1);
        while told.load(Ordering::SeqCst) < nth * LOOPS {
            std::thread::yield_now();
        }
    }
    raise(Signal::USR2);
    for thread in loops {
        thread.join().unwrap();
    }
    over.store(true, Ordering::Relaxed);
    for thread in coming_and_going {
        thread.join().unwrap();
    }
    assert_eq!(told.load(Ordering::SeqCst), 5 * LOOPS);
}

#[cfg(target_os = "linux")]
#[test]
fn reactors_that_watched_leave_no_descriptor_behind() {
    let _alone = alone();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for round in 0..300 {
        // More than can watch at a time.
        let reactor = Reactor::new().unwrap();
        let (watch, _) = counter(&reactor, Signal::USR1);
        match round % 3 {
            0 => watch.stop(),
            1 => drop(reactor),
            _ => {
                let again = counter(&reactor, Signal::USR2);
                drop((watch, again));
            }
        }
    }
    assert_eq!(open(), before);
}

/// Counts what it gets.
struct Count(Rc<Cell<u32>>);

impl DatagramProtocol for Count {
    fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>) -> anyhow::Result<()> {
        self.0.set(self.0.get() + 1);
        Ok(())
    }

    fn stop_protocol(&mut self, _: &DatagramTransport, reason: StopReason) {
        if matches!(reason, StopReason::Shutdown) {
            copies::say("stopped");
        }
    }
}

#[test]
fn interrupted_system_calls_surface_nowhere() {
    let _alone = alone();
    let reactor = Reactor::new().unwrap();
    let (_watch, signals) = counter(&reactor, Signal::USR1);
    let datagrams = Rc::new(Cell::new(0));
    let port = reactor.listen_udp("127.0.0.1:0", Count(Rc::clone(&datagrams))).unwrap();
    let address = port.local_addr().unwrap();
    let pid = std::process::id();
    let script = format!("i=0; while [ $i -lt 500 ]; do kill -USR1 {pid}; i=$((i+1)); done");
    let mut raising = Command::new("sh").arg("-c").arg(script).spawn().unwrap();
    let sending = std::thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        loop {
            socket.send_to(b"datagram", address).unwrap();
            std::thread::yield_now();
            if raising.try_wait().unwrap().is_some() {
                return;
            }
        }
    });
    // `iterate` fails if its poll does, and the port counts what its system calls say.
    turn_until(&reactor, || sending.is_finished() && signals.get() > 0 && datagrams.get() > 0);
    sending.join().unwrap();
    assert_eq!(port.stats().unwrap().network_errors, 0);
}

#[test]
fn signals_that_no_loop_survives_are_refused_and_nothing_is_changed() {
    let _alone = alone();
    let reactor = Reactor::new().unwrap();
    // KILL, STOP, SEGV, FPE, ILL, BUS as Linux numbers them.
    if cfg!(target_os = "linux") {
        for number in [9, 19, 11, 8, 4, 7] {
            let signal = Signal::from_raw(number);
            let refused = reactor.on_signal(signal, |_| {}).unwrap_err();
            assert!(matches!(refused, SignalError::Unwatchable(which) if which == signal));
        }
    }
    for number in [i32::MIN, -1, 0, 127, 128, 100_000] {
        let refused = reactor.on_signal(Signal::from_raw(number), |_| {}).unwrap_err();
        assert!(matches!(refused, SignalError::Unknown(_)), "{number}: {refused:?}");
        assert!(refused.to_string().contains(&number.to_string()));
    }
    let handle = (*reactor).clone();
    let (watch, _) = counter(&reactor, Signal::USR1);
    drop(reactor);
    assert!(matches!(handle.on_signal(Signal::USR1, |_| {}), Err(SignalError::Closed)));
    watch.stop();
}
