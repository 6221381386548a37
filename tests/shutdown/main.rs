//! The phases of a shutdown: who is called when, and what holds it back.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Handle, ListenError, Reactor, ShutdownError,
    ShutdownHold, ShutdownPhase, StopReason,
};

use ShutdownPhase::{After, Before, During};

mod streams;
#[path = "../common/watchdog.rs"]
mod watchdog;
use watchdog::watchdog;

/// What happened, in order.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    fn note(&self, what: impl Display) {
        self.0.borrow_mut().push(what.to_string());
    }

    fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

/// Notes its stop.
struct Port {
    log: Log,
    name: &'static str,
}

impl DatagramProtocol for Port {
    fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>) -> anyhow::Result<()> {
        self.log.note(format!("{} received", self.name));
        Ok(())
    }

    fn stop_protocol(&mut self, transport: &DatagramTransport, reason: StopReason) {
        assert!(matches!(reason, StopReason::Shutdown));
        self.log.note(format!("{} stopped", self.name));
        // Stopping again, from the inside, changes nothing.
        transport.reactor().stop();
        transport.stop_listening();
    }
}

fn open(handle: &Handle, log: &Log, name: &'static str) -> DatagramTransport {
    handle.listen_udp("127.0.0.1:0", Port { log: log.clone(), name }).unwrap()
}

/// A hook in each phase, registered in the opposite order.
fn hooks(handle: &Handle, log: &Log) {
    for phase in [After, During, Before] {
        let log = log.clone();
        handle.on_shutdown(phase, move |_| log.note(format!("{phase:?}"))).unwrap();
    }
}

#[test]
fn stop_runs_the_phases_in_order_after_the_calling_code_and_then_run_returns() {
    let _watchdog = watchdog();
    let (reactor, log) = (Reactor::new().unwrap(), Log::default());
    hooks(&reactor, &log);
    open(&reactor, &log, "port");
    let noting = log.clone();
    reactor.call_when_running(move |handle| {
        handle.stop();
        assert!(!handle.is_shutting_down(), "the caller comes first");
        noting.note("called");
    });
    let noting = log.clone();
    reactor.call_when_running(move |_| noting.note("never, in this run"));
    reactor.run().unwrap();
    assert_eq!(log.take(), ["called", "Before", "During", "port stopped", "After"]);
    assert!(!reactor.is_shutting_down());
}

#[test]
fn hooks_of_one_phase_run_in_the_order_of_their_registration_and_once() {
    let _watchdog = watchdog();
    let (reactor, log) = (Reactor::new().unwrap(), Log::default());
    for number in 0..5 {
        let log = log.clone();
        reactor.on_shutdown(During, move |_| log.note(number)).unwrap();
    }
    for expected in [vec!["0", "1", "2", "3", "4"], vec![]] {
        reactor.stop();
        reactor.run().unwrap();
        assert_eq!(log.take(), expected);
    }
}

#[test]
fn every_open_port_is_stopped_exactly_once() {
    let _watchdog = watchdog();
    let (reactor, log) = (Reactor::new().unwrap(), Log::default());
    for name in ["a", "b", "c"] {
        open(&reactor, &log, name);
    }
    // Stopped already when the shutdown comes to the ports.
    let gone = reactor.listen_udp("127.0.0.1:0", Quiet).unwrap();
    reactor.call_when_running(move |handle| {
        gone.stop_listening();
        handle.stop();
    });
    reactor.run().unwrap();
    let mut stopped = log.take();
    stopped.sort();
    assert_eq!(stopped, ["a stopped", "b stopped", "c stopped"]);
}

struct Quiet;

impl DatagramProtocol for Quiet {
    fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>) -> anyhow::Result<()> {
        Ok(())
    }
}

#[test]
fn while_a_hold_lives_the_loop_goes_on_as_usual() {
    let _watchdog = watchdog();
    let (reactor, log) = (Reactor::new().unwrap(), Log::default());
    hooks(&reactor, &log);
    let port = open(&reactor, &log, "port");
    let address = port.local_addr().unwrap();
    let noting = log.clone();
    reactor
        .on_shutdown(Before, move |handle| {
            let hold = handle.hold_shutdown()?;
            assert!(handle.is_shutting_down());
            // A new port, a timer, a datagram: all as ever.
            let late = open(handle, &noting, "late");
            late.write_to(b"still here?", address)?;
            let noting = noting.clone();
            handle.call_later(Duration::from_millis(5), move |handle| {
                noting.note("timer");
                handle.stop(); // harmless
                drop(hold);
            });
            anyhow::Ok(())
        })
        .unwrap();
    reactor.stop();
    reactor.run().unwrap();
    let seen = log.take();
    assert_eq!(seen[0], "Before");
    assert_eq!(seen[1..4].iter().filter(|what| *what == "port received").count(), 1, "{seen:?}");
    assert_eq!(seen[3..], ["During", "port stopped", "late stopped", "After"]);
    assert_eq!(reactor.stats().callback_errors, 0);
}

#[test]
fn a_shutdown_waits_for_all_holds_even_for_one_taken_long_before() {
    let _watchdog = watchdog();
    let (reactor, log) = (Reactor::new().unwrap(), Log::default());
    hooks(&reactor, &log);
    let early = reactor.hold_shutdown().unwrap();
    let holds: Rc<RefCell<Vec<ShutdownHold>>> = Rc::default();
    let filling = Rc::clone(&holds);
    reactor
        .on_shutdown(Before, move |handle| {
            filling.borrow_mut().push(handle.hold_shutdown()?);
            anyhow::Ok(())
        })
        .unwrap();
    reactor.stop();
    assert!(reactor.iterate(Some(Duration::ZERO)).unwrap());
    assert_eq!(log.take(), ["Before"]);
    drop(early);
    assert!(reactor.iterate(Some(Duration::ZERO)).unwrap());
    assert!(log.take().is_empty());
    holds.borrow_mut().clear();
    assert!(!reactor.iterate(Some(Duration::ZERO)).unwrap());
    assert_eq!(log.take(), ["During", "After"]);
}

#[test]
fn a_hold_alone_does_not_keep_run_going() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let _hold = reactor.hold_shutdown().unwrap();
    reactor.run().unwrap();
}

#[test]
fn the_shutdowns_of_two_reactors_do_not_wait_for_each_other() {
    let _watchdog = watchdog();
    let (one, other) = (Reactor::new().unwrap(), Reactor::new().unwrap());
    let (log_one, log_other) = (Log::default(), Log::default());
    hooks(&one, &log_one);
    hooks(&other, &log_other);
    let hold = one.hold_shutdown().unwrap();
    for reactor in [&one, &other] {
        reactor.stop();
    }
    assert!(one.iterate(Some(Duration::ZERO)).unwrap());
    assert!(!other.iterate(Some(Duration::ZERO)).unwrap());
    assert_eq!(log_one.take(), ["Before"]);
    assert_eq!(log_other.take(), ["Before", "During", "After"]);
    drop(hold);
    assert!(!one.iterate(Some(Duration::ZERO)).unwrap());
    assert_eq!(log_one.take(), ["During", "After"]);
}

#[test]
fn a_hold_past_the_limit_is_overruled() {
    let _watchdog = watchdog();
    let reactor = Reactor::builder().shutdown_limit(Duration::from_millis(5)).build().unwrap();
    let log = Log::default();
    hooks(&reactor, &log);
    let hold = reactor.hold_shutdown().unwrap();
    reactor.stop();
    reactor.run().unwrap();
    assert_eq!(log.take(), ["Before", "During", "After"]);
    drop(hold);
}

#[test]
fn a_limit_without_end_is_none() {
    let _watchdog = watchdog();
    let reactor = Reactor::builder().shutdown_limit(Duration::MAX).build().unwrap();
    let hold = reactor.hold_shutdown().unwrap();
    reactor.call_later(Duration::from_millis(5), move |_| drop(hold));
    reactor.stop();
    reactor.run().unwrap();
    assert_eq!(reactor.stats().timers_called, 1);
}

#[test]
fn a_removed_hook_is_not_called_also_when_one_of_an_earlier_phase_removes_it() {
    let _watchdog = watchdog();
    let (reactor, log) = (Reactor::new().unwrap(), Log::default());
    let token = Rc::new(());
    let captured = Rc::clone(&token);
    let hook = reactor.on_shutdown(Before, move |_| drop(captured)).unwrap();
    assert_eq!(hook.phase(), Before);
    hook.remove().unwrap();
    assert_eq!(Rc::strong_count(&token), 1, "released at once");
    assert_eq!(hook.remove(), Err(ShutdownError::AlreadyRemoved));

    let noting = log.clone();
    let later = reactor.on_shutdown(After, move |_| noting.note("After")).unwrap();
    let noting = log.clone();
    let same: Rc<RefCell<Option<strand_reactor::ShutdownHook>>> = Rc::default();
    let removing = Rc::clone(&same);
    reactor
        .on_shutdown(Before, move |_| {
            later.remove().unwrap();
            if let Some(same) = &*removing.borrow() {
                same.remove().unwrap();
            }
        })
        .unwrap();
    *same.borrow_mut() =
        Some(reactor.on_shutdown(Before, move |_| noting.note("same phase")).unwrap());
    reactor.stop();
    reactor.run().unwrap();
    assert!(log.take().is_empty());
    assert_eq!(reactor.stats().callback_panics, 0);
}

#[test]
fn a_hook_cannot_be_removed_once_it_runs_nor_after_the_reactor() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let own: Rc<RefCell<Option<strand_reactor::ShutdownHook>>> = Rc::default();
    let seen = Rc::clone(&own);
    let hook = reactor.on_shutdown(Before, move |_| {
        let own = seen.borrow_mut().take().unwrap();
        assert_eq!(own.remove(), Err(ShutdownError::AlreadyCalled));
    });
    *own.borrow_mut() = Some(hook.unwrap());
    reactor.stop();
    reactor.run().unwrap();
    assert_eq!(reactor.stats().callback_panics, 0);

    let hook = reactor.on_shutdown(Before, |_| {}).unwrap();
    let handle = (*reactor).clone();
    let hold = reactor.hold_shutdown().unwrap();
    drop(reactor);
    assert_eq!(hook.remove(), Err(ShutdownError::Closed));
    assert_eq!(handle.on_shutdown(After, |_| {}).unwrap_err(), ShutdownError::Closed);
    assert_eq!(handle.hold_shutdown().unwrap_err(), ShutdownError::Closed);
    drop(hold);
}

#[test]
fn it_is_too_late_to_register_for_a_phase_that_has_begun() {
    let _watchdog = watchdog();
    let (reactor, log) = (Reactor::new().unwrap(), Log::default());
    let noting = log.clone();
    reactor
        .on_shutdown(Before, move |handle| {
            assert_eq!(handle.on_shutdown(Before, |_| {}).unwrap_err(), ShutdownError::TooLate);
            let inner = noting.clone();
            handle.on_shutdown(During, move |handle| {
                let late = handle.hold_shutdown().unwrap_err();
                inner.note(format!("During {late:?}"));
            })?;
            anyhow::Ok(())
        })
        .unwrap();
    reactor.stop();
    reactor.run().unwrap();
    assert_eq!(log.take(), ["During TooLate"]);
    assert_eq!((reactor.stats().callback_errors, reactor.stats().callback_panics), (0, 0));
}

#[test]
fn nothing_can_be_opened_from_the_second_phase_on_until_run_has_returned() {
    let _watchdog = watchdog();
    let (reactor, log) = (Reactor::new().unwrap(), Log::default());
    for phase in [Before, During, After] {
        let log = log.clone();
        reactor
            .on_shutdown(phase, move |handle| {
                let opened = handle.listen_udp("127.0.0.1:0", Quiet);
                let refused = matches!(opened, Err(ListenError::ShuttingDown));
                log.note(format!("{phase:?} refused: {refused}"));
            })
            .unwrap();
    }
    reactor.stop();
    reactor.run().unwrap();
    assert_eq!(
        log.take(),
        ["Before refused: false", "During refused: true", "After refused: true"]
    );
    assert!(reactor.datagram_ports().is_empty());
    assert!(reactor.listen_udp("127.0.0.1:0", Quiet).is_ok());
}

#[test]
fn a_hook_that_fails_or_panics_keeps_no_other_from_being_called() {
    let _watchdog = watchdog();
    let (reactor, log) = (Reactor::new().unwrap(), Log::default());
    reactor.on_shutdown(Before, |_| Err::<(), _>(anyhow::anyhow!("no"))).unwrap();
    reactor.on_shutdown(Before, |_| -> () { panic!("no") }).unwrap();
    hooks(&reactor, &log);
    open(&reactor, &log, "port");
    reactor.stop();
    reactor.run().unwrap();
    assert_eq!(log.take(), ["Before", "During", "port stopped", "After"]);
    assert_eq!((reactor.stats().callback_errors, reactor.stats().callback_panics), (1, 1));
}

#[test]
fn a_panic_that_is_let_through_leaves_the_rest_of_the_shutdown_to_the_next_run() {
    let _watchdog = watchdog();
    let reactor = Reactor::builder().catch_panics(false).build().unwrap();
    let log = Log::default();
    open(&reactor, &log, "port");
    for phase in [Before, During, After] {
        reactor.on_shutdown(phase, |_| -> () { panic!("let through") }).unwrap();
    }
    hooks(&reactor, &log);
    reactor.stop();
    for expected in [vec![], vec!["Before"], vec!["During", "port stopped"]] {
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| reactor.run()));
        assert!(run.is_err());
        assert_eq!(log.take(), expected);
    }
    reactor.run().unwrap();
    assert_eq!(log.take(), ["After"]);
    assert!(reactor.datagram_ports().is_empty());
}

#[test]
fn crash_calls_no_hook_and_leaves_them_to_a_later_stop() {
    let _watchdog = watchdog();
    let (reactor, log) = (Reactor::new().unwrap(), Log::default());
    hooks(&reactor, &log);
    open(&reactor, &log, "port");
    reactor.call_when_running(|handle| handle.crash());
    reactor.run().unwrap();
    assert!(log.take().is_empty());
    assert_eq!(reactor.datagram_ports().len(), 1);
    reactor.stop();
    reactor.run().unwrap();
    assert_eq!(log.take(), ["Before", "During", "port stopped", "After"]);
}

#[test]
fn crash_while_a_hold_holds_back_gives_the_shutdown_up() {
    let _watchdog = watchdog();
    let (reactor, log) = (Reactor::new().unwrap(), Log::default());
    hooks(&reactor, &log);
    open(&reactor, &log, "port");
    let hold = reactor.hold_shutdown().unwrap();
    reactor.call_later(Duration::from_millis(5), |handle| handle.crash());
    reactor.stop();
    reactor.run().unwrap();
    assert!(!reactor.is_shutting_down());
    drop(hold);
    assert_eq!(log.take(), ["Before"]);
    assert_eq!(reactor.datagram_ports().len(), 1);
    reactor.stop();
    reactor.run().unwrap();
    assert_eq!(log.take(), ["During", "port stopped", "After"]);
}

#[test]
fn running_out_of_work_is_no_shutdown() {
    let _watchdog = watchdog();
    let (reactor, log) = (Reactor::new().unwrap(), Log::default());
    hooks(&reactor, &log);
    reactor.call_later(Duration::ZERO, |_| {});
    reactor.run().unwrap();
    assert!(log.take().is_empty());
}

#[test]
fn dropping_the_reactor_drops_hooks_uncalled() {
    let (reactor, log) = (Reactor::new().unwrap(), Log::default());
    hooks(&reactor, &log);
    let witness = Rc::new(Cell::new(false));
    struct Dropped(Rc<Cell<bool>>, Handle);
    impl Drop for Dropped {
        fn drop(&mut self) {
            // A value of the user's may look at the reactor while it goes.
            self.0.set(self.1.is_closed());
        }
    }
    let value = Dropped(Rc::clone(&witness), (*reactor).clone());
    reactor.on_shutdown(Before, move |_| drop(value)).unwrap();
    drop(reactor);
    assert!(witness.get());
    assert!(log.take().is_empty());
}

#[test]
fn stop_from_another_thread_runs_the_phases_too() {
    let _watchdog = watchdog();
    let (reactor, log) = (Reactor::new().unwrap(), Log::default());
    hooks(&reactor, &log);
    open(&reactor, &log, "port");
    let remote = reactor.remote();
    let thread = std::thread::spawn(move || remote.stop());
    reactor.run().unwrap();
    thread.join().unwrap();
    assert_eq!(log.take(), ["Before", "During", "port stopped", "After"]);
}
