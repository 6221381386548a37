//! Signals and workers. A process of its own: a signal disturbs whatever else waits in it.

#[path = "common/watchdog.rs"]
mod watchdog;

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::time::Duration;

use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Reactor, ShutdownPhase, StopReason,
};
use watchdog::watchdog;

/// Ports that were stopped in order.
static STOPPED: AtomicUsize = AtomicUsize::new(0);

struct Idle;

impl DatagramProtocol for Idle {
    fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>) -> anyhow::Result<()> {
        Ok(())
    }

    fn stop_protocol(&mut self, _: &DatagramTransport, reason: StopReason) {
        assert!(matches!(reason, StopReason::Shutdown));
        STOPPED.fetch_add(1, SeqCst);
    }
}

fn signal_to_this_process(signal: &str) {
    let id = std::process::id().to_string();
    let status = Command::new("kill").args([signal, &id]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill");
}

#[test]
fn a_signal_stops_all_of_them_in_order_and_a_second_ends_their_waiting() {
    let _watchdog = watchdog();
    let (send, events) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..3 {
                events.recv().unwrap();
            }
            // All of them hold their shutdown now.
            signal_to_this_process("-TERM");
        });
        Reactor::builder()
            .stop_on_signals()
            .shutdown_limit(Duration::MAX)
            .run_per_core(3, |handle, index| {
                handle.listen_udp("127.0.0.1:0", Idle)?;
                let send = send.clone();
                handle.on_shutdown(ShutdownPhase::Before, move |handle| {
                    // Held for ever, but for a second signal.
                    std::mem::forget(handle.hold_shutdown()?);
                    send.send(())?;
                    anyhow::Ok(())
                })?;
                if index == 2 {
                    handle.call_when_running(|_| signal_to_this_process("-TERM"));
                }
                Ok(())
            })
            .unwrap();
    });
    assert_eq!(STOPPED.load(SeqCst), 3);
}
