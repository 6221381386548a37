//! Spinning before sleeping: what comes meanwhile is served at once, and whatever else ends a
//! wait ends it, too.

#[path = "common/watchdog.rs"]
mod watchdog;

use std::cell::Cell;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::mpsc::channel;
use std::time::Duration;

use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, ListenError, OptionError, Reactor, Signal,
    UdpOptions,
};
use watchdog::watchdog;

/// So long that what happens in a test happens while the loop spins.
const FOR_EVER: Duration = Duration::MAX;

fn spinning() -> Reactor {
    Reactor::builder().busy_poll(FOR_EVER).build().unwrap()
}

struct Echo;

impl DatagramProtocol for Echo {
    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        Ok(transport.write_to(datagram.payload(), datagram.source())?)
    }
}

/// Sends a datagram, and another when it is answered.
struct PingPong {
    peer: SocketAddr,
    left: usize,
}

impl DatagramProtocol for PingPong {
    fn start_protocol(&mut self, transport: &DatagramTransport) -> anyhow::Result<()> {
        Ok(transport.write_to(b"ping", self.peer)?)
    }

    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        _: Datagram<'_>,
    ) -> anyhow::Result<()> {
        self.left -= 1;
        if self.left == 0 {
            transport.reactor().stop();
            return Ok(());
        }
        Ok(transport.write_to(b"ping", self.peer)?)
    }
}

#[test]
fn datagrams_are_served_while_the_loop_spins() {
    let _watchdog = watchdog();
    // The peer lives in a loop of its own, which sleeps: every answer is waited for.
    let (send, ready) = channel();
    let other = std::thread::spawn(move || {
        let reactor = Reactor::new().unwrap();
        let echo = reactor.listen_udp("127.0.0.1:0", Echo).unwrap();
        send.send((echo.local_addr().unwrap(), reactor.remote())).unwrap();
        reactor.run().unwrap();
        assert_eq!(reactor.stats().busy_polls, 0, "off unless asked for");
    });
    let (peer, remote) = ready.recv().unwrap();
    let reactor = spinning();
    reactor.listen_udp("127.0.0.1:0", PingPong { peer, left: 100 }).unwrap();
    reactor.run().unwrap();
    remote.stop();
    other.join().unwrap();
    let stats = reactor.stats();
    assert!(stats.busy_polls >= 100, "{stats:?}");
    assert_eq!(stats.busy_poll_hits, stats.busy_polls, "it never slept");
}

#[test]
fn a_loop_that_spins_sees_what_other_threads_post() {
    let _watchdog = watchdog();
    let reactor = spinning();
    let keep = reactor.call_later(Duration::from_secs(600), |_| {});
    let remote = reactor.remote();
    let other = std::thread::spawn(move || {
        // Each waits until the one before was served.
        for _ in 0..50 {
            let (send, served) = channel();
            remote.call_from_thread(move |_| send.send(())).unwrap();
            served.recv().unwrap();
        }
        remote.stop();
    });
    reactor.run().unwrap();
    other.join().unwrap();
    assert!(keep.active());
    assert_eq!(reactor.stats().calls, 50);
}

#[test]
fn timers_are_called_while_the_loop_spins() {
    let _watchdog = watchdog();
    let reactor = spinning();
    let told = Rc::new(Cell::new(0));
    for microseconds in [1, 50, 300, 2_500, 20_000] {
        let told = Rc::clone(&told);
        let begin = reactor.now();
        reactor.call_later(Duration::from_micros(microseconds), move |handle| {
            assert!(handle.now() - begin >= Duration::from_micros(microseconds), "not early");
            told.set(told.get() + 1);
        });
    }
    reactor.run().unwrap();
    assert_eq!(told.get(), 5);
    assert_eq!(reactor.stats().callback_panics, 0);
}

#[test]
fn a_signal_ends_the_spin() {
    let _watchdog = watchdog();
    let reactor = spinning();
    let keep = reactor.call_later(Duration::from_secs(600), |_| {});
    let watch = reactor.on_signal(Signal::USR2, |handle| handle.stop()).unwrap();
    let (send, spins) = channel::<()>();
    let other = std::thread::spawn(move || {
        spins.recv().unwrap();
        let id = std::process::id().to_string();
        let status = std::process::Command::new("kill").args(["-USR2", &id]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill");
    });
    reactor.call_when_running(move |_| send.send(()));
    reactor.run().unwrap();
    other.join().unwrap();
    assert!(keep.active());
    drop(watch);
}

#[test]
fn after_the_spin_the_loop_sleeps_and_hears_still() {
    let _watchdog = watchdog();
    let reactor = Reactor::builder().busy_poll(Duration::from_micros(1)).build().unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let echo = reactor.listen_udp("127.0.0.1:0", Echo).unwrap();
    // Nothing comes: the spin is over long before the wait is, and no hit is counted.
    let begin = reactor.now();
    reactor.iterate(Some(Duration::from_millis(5))).unwrap();
    assert!(reactor.now() - begin >= Duration::from_millis(5), "the rest was slept");
    assert_eq!((reactor.stats().busy_polls, reactor.stats().busy_poll_hits), (1, 0));
    client.send_to(b"hello", echo.local_addr().unwrap()).unwrap();
    while echo.stats().unwrap().datagrams_out == 0 {
        reactor.iterate(None).unwrap();
    }
    let mut answer = [0; 8];
    assert_eq!(client.recv(&mut answer).unwrap(), 5);
}

#[test]
fn a_turn_that_must_not_wait_does_not_spin() {
    let _watchdog = watchdog();
    let reactor = spinning();
    let _echo = reactor.listen_udp("127.0.0.1:0", Echo).unwrap();
    reactor.iterate(Some(Duration::ZERO)).unwrap();
    reactor.call_when_running(|handle| handle.call_when_running(|_| {}));
    reactor.iterate(None).unwrap();
    assert_eq!(reactor.stats().busy_polls, 0);
}

/// `SO_BUSY_POLL` as the kernel has it, if it has it.
#[cfg(target_os = "linux")]
#[test]
fn the_busy_poll_of_a_port_is_the_kernels_or_a_refusal_that_says_how() {
    let reactor = Reactor::new().unwrap();
    let plain = reactor.listen_udp("127.0.0.1:0", Echo).unwrap();
    let before = match plain.busy_poll() {
        Err(OptionError::Unsupported { name: "busy_poll" }) => {
            return println!("skipped: this kernel has no SO_BUSY_POLL");
        }
        other => other.unwrap(),
    };
    let wanted = before + Duration::from_nanos(49_001);
    let options = UdpOptions::parse("127.0.0.1:0").unwrap().busy_poll(wanted);
    match reactor.listen_udp(options, Echo) {
        Ok(port) => {
            assert_eq!(port.busy_poll().unwrap(), before + Duration::from_micros(50));
            port.set_busy_poll(Duration::ZERO).unwrap();
            assert_eq!(port.busy_poll().unwrap(), Duration::ZERO);
        }
        Err(ListenError::Option(error)) => {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
        }
        Err(error) => panic!("{error}"),
    }
    let error = plain.set_busy_poll(Duration::from_secs(3600)).unwrap_err();
    assert!(matches!(error, OptionError::OutOfRange { value: 3_600_000_000, .. }), "{error}");
    let endless = UdpOptions::parse("127.0.0.1:0").unwrap().busy_poll(Duration::MAX);
    assert_eq!(reactor.listen_udp(endless, Echo).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(plain.busy_poll().unwrap(), before, "nothing was changed");
}
