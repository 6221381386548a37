//! How the workers end: together, alone, or because one of them failed.

use std::error::Error;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::Context;
use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Handle, ListenError, PerCoreError, Reactor,
    ShutdownPhase, StopReason, WorkerFailure, run_per_core,
};

use crate::watchdog::watchdog;

/// Counts the ports that were stopped in order.
struct Stopped(&'static AtomicUsize);

impl DatagramProtocol for Stopped {
    fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>) -> anyhow::Result<()> {
        Ok(())
    }

    fn stop_protocol(&mut self, _: &DatagramTransport, reason: StopReason) {
        assert!(matches!(reason, StopReason::Shutdown));
        self.0.fetch_add(1, SeqCst);
    }
}

/// A counter that protocols may hold, one for each test.
fn counter() -> &'static AtomicUsize {
    Box::leak(Box::default())
}

fn fails(message: &str) {
    panic!("{message}");
}

fn open(handle: &Handle, stopped: &'static AtomicUsize) -> anyhow::Result<()> {
    handle.listen_udp("127.0.0.1:0", Stopped(stopped))?;
    Ok(())
}

#[test]
fn no_workers_are_an_error() {
    let error = run_per_core(0, |_, _| unreachable!()).unwrap_err();
    assert!(matches!(error, PerCoreError::NoWorkers));
    assert!(error.to_string().contains("at least 1"));
}

#[test]
fn a_worker_stops_all_of_them_in_order() {
    let _watchdog = watchdog();
    let stopped = counter();
    run_per_core(3, |handle, index| {
        open(handle, stopped)?;
        if index == 1 {
            handle.call_when_running(|handle| handle.workers().stop());
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(stopped.load(SeqCst), 3);
}

#[test]
fn another_thread_stops_all_of_them_in_order() {
    let _watchdog = watchdog();
    let stopped = counter();
    let (send, workers) = channel::<strand_reactor::Workers>();
    let other = std::thread::spawn(move || workers.recv().unwrap().stop());
    run_per_core(3, |handle, index| {
        open(handle, stopped)?;
        if index == 2 {
            // From inside the loop: all of them run by then, or are about to.
            let (send, workers) = (send.clone(), handle.workers());
            handle.call_when_running(move |_| send.send(workers));
        }
        Ok(())
    })
    .unwrap();
    other.join().unwrap();
    assert_eq!(stopped.load(SeqCst), 3);
}

#[test]
fn a_worker_that_stops_itself_leaves_the_others() {
    let _watchdog = watchdog();
    let stopped = counter();
    run_per_core(2, |handle, index| {
        open(handle, stopped)?;
        if index == 0 {
            handle.call_when_running(|handle| handle.stop());
            return Ok(());
        }
        // Once the other is gone, this one still runs, and stops when it likes.
        handle.looping_call(Duration::from_millis(1), move |handle, _| {
            if handle.workers().remotes()[0].call_from_thread(|_| {}).is_err() {
                assert_eq!(stopped.load(SeqCst), 1);
                handle.stop();
            }
        });
        Ok(())
    })
    .unwrap();
    assert_eq!(stopped.load(SeqCst), 2);
}

#[test]
fn a_failing_set_up_names_its_worker_and_stops_the_others() {
    let _watchdog = watchdog();
    let stopped = counter();
    let begun = AtomicUsize::new(0);
    let error = run_per_core(4, |handle, index| {
        begun.fetch_add(1, SeqCst);
        open(handle, stopped)?;
        anyhow::ensure!(index < 2, "no room for worker {index}");
        Ok(())
    })
    .unwrap_err();
    assert_eq!(error.to_string(), "worker 2: the set-up failed: no room for worker 2");
    assert_eq!(error.source().unwrap().to_string(), "no room for worker 2");
    let PerCoreError::Worker { index: 2, failure: WorkerFailure::SetUp(_) } = error else {
        panic!("{error:?}");
    };
    assert_eq!(begun.load(SeqCst), 3, "the fourth was not begun");
    assert_eq!(stopped.load(SeqCst), 2, "both that ran were stopped in order");
}

#[test]
fn an_address_that_is_not_shared_tells_how_it_would_be() {
    let _watchdog = watchdog();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    drop(taken);
    let stopped = counter();
    let error = run_per_core(2, |handle, _| {
        handle.listen_udp(address, Stopped(stopped))?;
        Ok(())
    })
    .unwrap_err();
    let text = error.to_string();
    let PerCoreError::Worker { index, failure: WorkerFailure::SetUp(error) } = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.downcast_ref::<ListenError>().unwrap().kind(), ErrorKind::AddrInUse);
    // Somebody else may have taken the number before the first worker did.
    if index == 1 {
        assert!(text.contains(&address.to_string()) && text.contains("reuse_port(true)"), "{text}");
    }
}

#[test]
fn a_panic_in_a_set_up_names_its_worker_and_stops_the_others() {
    let _watchdog = watchdog();
    let stopped = counter();
    let error = run_per_core(3, |handle, index| {
        open(handle, stopped)?;
        assert!(index < 1, "worker {index} panics on purpose");
        Ok(())
    })
    .unwrap_err();
    assert_eq!(error.to_string(), "worker 1: panicked: worker 1 panics on purpose");
    assert_eq!(stopped.load(SeqCst), 1);
}

#[test]
fn a_panic_that_is_let_through_names_its_worker_and_stops_the_others() {
    let _watchdog = watchdog();
    let stopped = counter();
    let error = Reactor::builder()
        .catch_panics(false)
        .run_per_core(3, |handle, index| {
            open(handle, stopped)?;
            if index == 2 {
                handle.call_when_running(|_| fails("a bug, on purpose"));
            }
            Ok(())
        })
        .unwrap_err();
    let PerCoreError::Worker { index: 2, failure: WorkerFailure::Panicked(message) } = error else {
        panic!("{error:?}");
    };
    assert_eq!(message, "a bug, on purpose");
    assert_eq!(stopped.load(SeqCst), 2);
}

#[test]
fn a_panic_that_is_caught_ends_nobody() {
    let _watchdog = watchdog();
    let stopped = counter();
    run_per_core(2, |handle, index| {
        open(handle, stopped)?;
        if index == 1 {
            handle.call_when_running(|_| fails("on purpose"));
            handle.call_when_running(|handle| handle.workers().stop());
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(stopped.load(SeqCst), 2);
}

#[test]
fn of_two_failures_one_is_returned_when_all_have_ended() {
    let _watchdog = watchdog();
    let ended = AtomicUsize::new(0);
    let error = Reactor::builder()
        .catch_panics(false)
        .run_per_core(2, |handle, index| {
            handle.on_shutdown(ShutdownPhase::During, |_| fails("on purpose"))?;
            if index == 1 {
                handle.call_when_running(|handle| handle.workers().stop());
            }
            handle.call_later(Duration::from_secs(600), |_| {});
            ended.fetch_add(1, SeqCst);
            Ok(())
        })
        .unwrap_err();
    assert!(matches!(error, PerCoreError::Worker { failure: WorkerFailure::Panicked(_), .. }));
    assert_eq!(ended.load(SeqCst), 2);
}

/// What a panic may carry at worst.
struct Spiteful;

impl Drop for Spiteful {
    fn drop(&mut self) {
        panic!("dropped, on purpose");
    }
}

#[test]
fn a_panic_whose_value_panics_when_dropped_is_reported_as_any_other() {
    let _watchdog = watchdog();
    let stopped = counter();
    let error = run_per_core(2, |handle, index| {
        open(handle, stopped)?;
        if index == 1 {
            std::panic::panic_any(Spiteful);
        }
        Ok(())
    })
    .unwrap_err();
    assert_eq!(error.to_string(), "worker 1: panicked: a value that is no text");
    assert_eq!(stopped.load(SeqCst), 1);
}

/// Does not start, for a reason that has one.
struct Unstartable;

impl DatagramProtocol for Unstartable {
    fn start_protocol(&mut self, _: &DatagramTransport) -> anyhow::Result<()> {
        Err(anyhow::anyhow!("no such file").context("cannot load the map"))
    }

    fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>) -> anyhow::Result<()> {
        Ok(())
    }
}

#[test]
fn the_text_of_a_failure_tells_every_cause_and_none_twice() {
    let error = run_per_core(1, |handle, _| {
        handle.listen_udp("127.0.0.1:0", Unstartable).context("cannot open the game")?;
        Ok(())
    })
    .unwrap_err();
    let text = "worker 0: the set-up failed: cannot open the game: start_protocol failed: \
                cannot load the map: no such file";
    assert_eq!(error.to_string(), text);
}
