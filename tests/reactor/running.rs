//! Running and stopping.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use strand_reactor::testing::Script;
use strand_reactor::{
    AdoptError, Datagram, DatagramProtocol, DatagramTransport, ListenError, PortState, Reactor,
    StopReason,
};

use crate::support::{
    ANY, Ending, Log, OnDatagram, Quiet, errno, peer, socket, turn_until, watchdog,
};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn several_reactors_of_one_thread_take_turns() {
    let _watchdog = watchdog();
    let (here, there) = (Reactor::new().unwrap(), Reactor::new().unwrap());
    let echo = here
        .listen_udp(
            ANY,
            OnDatagram(|transport: &DatagramTransport, payload: &[u8]| {
                assert_eq!(payload, b"ping");
                transport.stop_listening();
                Ok(())
            }),
        )
        .unwrap();
    let ping = there.listen_udp(ANY, Quiet).unwrap();
    ping.write_to(b"ping", echo.local_addr().unwrap()).unwrap();
    assert!(there.iterate(Some(Duration::ZERO)).unwrap());
    turn_until(&here, || echo.state() == PortState::Closed);
    // The end of one reactor's work is no end of the other's.
    assert!(!here.iterate(Some(Duration::ZERO)).unwrap());
    assert!(there.iterate(Some(Duration::ZERO)).unwrap());
    drop(here);
    assert_eq!(ping.state(), PortState::Open);
    assert!(there.datagram(ping.key().unwrap()).is_some());
}

#[test]
fn a_callback_of_one_reactor_may_run_another() {
    let _watchdog = watchdog();
    let (outer, inner) = (Reactor::new().unwrap(), Reactor::new().unwrap());
    let order = Log::new();
    let seen = order.clone();
    outer.call_when_running(move |_| {
        let called = seen.clone();
        inner.call_later(Duration::ZERO, move |_| called.push("inner"));
        inner.run().unwrap();
        seen.push("outer");
    });
    outer.run().unwrap();
    assert_eq!(order.entries(), ["inner", "outer"]);
}

#[test]
fn each_thread_may_have_a_reactor() {
    let _watchdog = watchdog();
    let threads: Vec<_> = (0..4_u8)
        .map(|number| {
            thread::spawn(move || {
                let reactor = Reactor::new().unwrap();
                let heard = Rc::new(Cell::new(0));
                let count = Rc::clone(&heard);
                let port = reactor
                    .listen_udp(
                        ANY,
                        OnDatagram(move |transport: &DatagramTransport, payload: &[u8]| {
                            assert_eq!(payload, [number]);
                            count.set(count.get() + 1);
                            if count.get() == 100 {
                                transport.reactor().stop();
                            } else {
                                transport.write_to(payload, transport.local_addr()?)?;
                            }
                            Ok(())
                        }),
                    )
                    .unwrap();
                port.write_to(&[number], port.local_addr().unwrap()).unwrap();
                reactor.run().unwrap();
                heard.get()
            })
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), 100);
    }
}

#[test]
fn run_returns_when_nothing_is_left() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    reactor.run().unwrap();

    let order = Log::new();
    let log = order.clone();
    reactor.call_later(Duration::from_millis(2), move |handle| {
        log.push("timer");
        handle.call_when_running(move |handle| {
            log.push("call");
            let port = handle.listen_udp(ANY, Quiet).unwrap();
            port.stop_listening_then(move |_| log.push("closed")).unwrap();
        });
    });
    reactor.run().unwrap();
    assert_eq!(order.entries(), ["timer", "call", "closed"]);
    assert!(!reactor.iterate(None).unwrap(), "nothing could end a wait");
}

#[test]
fn run_goes_on_while_a_port_is_open() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let done = Rc::new(Cell::new(false));
    let seen = Rc::clone(&done);
    let port = reactor
        .listen_udp(
            ANY,
            OnDatagram(move |transport: &DatagramTransport, _: &[u8]| {
                seen.set(true);
                transport.stop_listening();
                Ok(())
            }),
        )
        .unwrap();
    let to = port.local_addr().unwrap();
    let sender = thread::spawn(move || socket().send_to(b"end", to).unwrap());
    reactor.run().unwrap();
    assert!(done.get());
    sender.join().unwrap();
}

#[test]
fn run_does_not_wait_for_what_was_unreferenced() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let port = reactor.listen_udp(ANY, Quiet).unwrap();
    let timer = reactor.call_later(HOUR, |_| {});
    let ticks = reactor.looping_call(HOUR, |_, _| {});
    port.unref().unwrap();
    timer.unref();
    ticks.unref();
    // Twice is as good as once.
    port.unref().unwrap();
    timer.unref();
    reactor.run().unwrap();
    assert!(timer.active() && ticks.running());
    assert_eq!(port.state(), PortState::Open);
    assert!(!reactor.iterate(None).unwrap());

    // Taken back, each of them counts again.
    let rerefs: [(&str, &dyn Fn()); 3] = [
        ("port", &|| port.reref().unwrap()),
        ("timer", &|| timer.reref()),
        ("looping call", &|| ticks.reref()),
    ];
    for (what, reref) in rerefs {
        reref();
        assert!(reactor.iterate(Some(Duration::ZERO)).unwrap(), "{what}");
        port.unref().unwrap();
        timer.unref();
        ticks.unref();
        assert!(!reactor.iterate(Some(Duration::ZERO)).unwrap(), "{what}");
    }
}

#[test]
fn an_unreferenced_port_with_a_send_under_way_is_waited_for() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let port = reactor.listen_udp(ANY, Quiet).unwrap();
    port.unref().unwrap();
    let completions = Log::new();
    let done = completions.clone();
    let to = port.local_addr().unwrap();
    port.write_then(b"four", to, move |sent| done.push(sent.unwrap())).unwrap();
    reactor.run().unwrap();
    assert_eq!(completions.entries(), [4]);
}

#[test]
fn an_unreferenced_timer_still_runs_while_something_else_goes_on() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let order = Log::new();
    let (first, second) = (order.clone(), order.clone());
    reactor.call_later(Duration::from_millis(1), move |_| first.push("unreferenced")).unref();
    reactor.call_later(Duration::from_millis(5), move |_| second.push("other"));
    reactor.run().unwrap();
    assert_eq!(order.entries(), ["unreferenced", "other"]);
}

#[test]
fn stop_before_run_makes_the_next_run_return_at_once() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let order = Log::new();
    reactor.listen_udp(ANY, Ending(order.clone())).unwrap();
    let (timer, call) = (order.clone(), order.clone());
    reactor.call_later(Duration::ZERO, move |_| timer.push("timer".to_owned()));
    reactor.call_when_running(move |_| call.push("call".to_owned()));
    reactor.stop();
    reactor.stop();
    reactor.run().unwrap();
    assert_eq!(order.entries(), ["the reactor shuts down"]);
    assert!(reactor.datagram_ports().is_empty());

    // It is used up by that: what was left runs in the next.
    reactor.run().unwrap();
    assert_eq!(order.entries(), ["the reactor shuts down", "call", "timer"]);
}

#[test]
fn stop_lets_the_callback_end_and_closes_the_ports_before_run_returns() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let order = Log::new();
    for _ in 0..2 {
        reactor.listen_udp(ANY, Ending(order.clone())).unwrap();
    }
    let (first, second) = (order.clone(), order.clone());
    reactor.call_later(Duration::ZERO, move |handle| {
        handle.stop();
        first.push("the rest of the callback".to_owned());
    });
    reactor.call_later(Duration::ZERO, move |_| second.push("another".to_owned()));
    reactor.run().unwrap();
    let ends = "the reactor shuts down";
    assert_eq!(order.entries(), ["the rest of the callback", ends, ends]);
}

#[test]
fn stop_inside_a_delivery_ends_it() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let order = Log::new();
    let log = order.clone();
    let script = Script::new();
    let protocol = OnDatagram(move |transport: &DatagramTransport, payload: &[u8]| {
        log.push(payload.to_vec());
        transport.reactor().stop();
        Ok(())
    });
    script.listen(&reactor, ANY, protocol).unwrap();
    for payload in [b"1", b"2", b"3"] {
        script.receive(peer(), payload);
    }
    reactor.run().unwrap();
    assert_eq!(order.entries(), [b"1"]);
    assert!(script.is_closed());
}

/// `stop` promises that no other callback begins, and that holds for reports, too.
#[test]
fn stop_inside_a_report_ends_the_reports() {
    struct Refused(Log<String>);
    impl DatagramProtocol for Refused {
        fn datagram_received(
            &mut self,
            _: &DatagramTransport,
            _: Datagram<'_>,
        ) -> anyhow::Result<()> {
            Ok(())
        }
        fn connection_refused(&mut self, transport: &DatagramTransport) -> anyhow::Result<()> {
            self.0.push("refused".to_owned());
            transport.reactor().stop();
            Ok(())
        }
        fn stop_protocol(&mut self, _: &DatagramTransport, reason: StopReason) {
            self.0.push(reason.to_string());
        }
    }
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let (order, script) = (Log::new(), Script::new());
    let port = script.listen(&reactor, ANY, Refused(order.clone())).unwrap();
    port.connect(peer()).unwrap();
    for _ in 0..3 {
        script.report(errno(io::ErrorKind::ConnectionRefused), peer(), peer().ip(), (3, 3), 0);
    }
    reactor.run().unwrap();
    assert_eq!(order.entries(), ["refused", "the reactor shuts down"]);
}

#[test]
fn a_reactor_runs_again_after_stop() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    for round in 1..=5_u64 {
        let order = Log::new();
        let port = reactor.listen_udp(ANY, Ending(order.clone())).unwrap();
        port.write_to(b"x", port.local_addr().unwrap()).unwrap();
        let seen = order.clone();
        reactor.looping_call(Duration::ZERO, move |handle, _| {
            if seen.len() == 1 {
                handle.stop();
                anyhow::bail!("ends the loop");
            }
            Ok(())
        });
        reactor.run().unwrap();
        assert_eq!(order.entries(), ["datagram", "the reactor shuts down"]);
        assert_eq!(port.state(), PortState::Closed);
        assert_eq!(reactor.stats().callback_errors, round);
    }
}

#[test]
fn stop_is_forgotten_once_the_ports_are_closed() {
    struct Stubborn;
    impl DatagramProtocol for Stubborn {
        fn datagram_received(
            &mut self,
            _: &DatagramTransport,
            _: Datagram<'_>,
        ) -> anyhow::Result<()> {
            Ok(())
        }
        fn stop_protocol(&mut self, transport: &DatagramTransport, _: StopReason) {
            let handle = transport.reactor();
            handle.stop();
            // No port outlives the shutdown it was opened in.
            assert!(matches!(handle.listen_udp(ANY, Quiet), Err(ListenError::ShuttingDown)));
            assert!(matches!(
                handle.adopt_datagram_port(socket(), Quiet),
                Err(AdoptError::ShuttingDown)
            ));
        }
    }
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    reactor.listen_udp(ANY, Stubborn).unwrap();
    reactor.stop();
    reactor.run().unwrap();
    assert_eq!(reactor.stats().callback_panics, 0);
    let called = Rc::new(Cell::new(false));
    let set = Rc::clone(&called);
    reactor.call_when_running(move |_| set.set(true));
    reactor.run().unwrap();
    assert!(called.get());
}

#[test]
fn crash_leaves_ports_and_timers() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let order = Log::new();
    let port = reactor.listen_udp(ANY, Ending(order.clone())).unwrap();
    let timer = reactor.call_later(HOUR, |_| {});
    reactor.call_when_running(|handle| handle.crash());
    reactor.run().unwrap();
    assert_eq!(port.state(), PortState::Open);
    assert!(timer.active());
    assert!(order.entries().is_empty());

    // Before `run` it is as sticky as `stop`, and used up in the same way.
    reactor.crash();
    reactor.run().unwrap();
    assert!(order.entries().is_empty());

    port.write_to(b"x", port.local_addr().unwrap()).unwrap();
    turn_until(&reactor, || order.len() == 1);
    reactor.stop();
    reactor.run().unwrap();
    assert_eq!(order.entries(), ["datagram", "the reactor shuts down"]);
}

#[test]
fn a_stop_is_not_weakened_by_a_crash() {
    let _watchdog = watchdog();
    let reactor = Reactor::new().unwrap();
    let port = reactor.listen_udp(ANY, Quiet).unwrap();
    reactor.crash();
    reactor.stop();
    reactor.crash();
    reactor.run().unwrap();
    assert_eq!(port.state(), PortState::Closed);
}

/// epoll_wait(2) is interrupted by a stop and a continuation even where no handler is installed
/// (signal(7)); nothing of that surfaces.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_does_not_disturb_a_sleeping_loop() {
    use std::io::Read as _;
    use std::process::{Command, Stdio};

    const ROLE: &str = "STRAND_TEST_SLEEPER";
    const ROUNDS: u64 = 20;
    let _watchdog = watchdog();
    if std::env::var_os(ROLE).is_some() {
        let reactor = Reactor::new().unwrap();
        let echo = OnDatagram(|transport: &DatagramTransport, payload: &[u8]| {
            if payload == b"stop" {
                transport.reactor().stop();
            }
            // The peer is known from the environment: no other traffic comes here.
            transport.write(payload)?;
            Ok(())
        });
        let peer = std::env::var(ROLE).unwrap().parse().unwrap();
        let port = reactor.connect_udp_from(ANY, peer, echo).unwrap();
        port.write(b"here").unwrap();
        println!("run: {:?}, turns: {}", reactor.run(), reactor.stats().turns);
        return;
    }

    struct Child(std::process::Child);
    impl Drop for Child {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let peer = socket();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["running::a_signal_does_not_disturb_a_sleeping_loop", "--exact", "--nocapture"])
        .env(ROLE, peer.local_addr().unwrap().to_string())
        .stdout(Stdio::piped());
    let mut child = Child(child.spawn().unwrap());
    let pid = child.0.id();
    let mut buffer = [0; 16];
    let (len, from) = peer.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"here");
    peer.connect(from).unwrap();
    let signal = |name: &str| {
        let kill = ["-c", "kill \"$0\" \"$1\"", name];
        assert!(Command::new("sh").args(kill).arg(pid.to_string()).status().unwrap().success());
    };
    // The states of its threads, as proc_pid_stat(5) writes them after the name in parentheses.
    let until_every_thread = |is: fn(char) -> bool| loop {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let all = tasks.flatten().all(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            assert_ne!(state, Some('Z'), "the child has ended");
            state.is_some_and(is)
        });
        if all {
            break;
        }
        thread::yield_now();
    };
    for _ in 0..ROUNDS {
        until_every_thread(|state| state == 'S');
        signal("-STOP");
        until_every_thread(|state| state == 'T');
        signal("-CONT");
        until_every_thread(|state| state != 'T');
    }
    peer.send(b"ping").unwrap();
    let len = peer.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"ping");
    peer.send(b"stop").unwrap();
    let len = peer.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"stop");
    let mut output = String::new();
    child.0.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert!(child.0.wait().unwrap().success(), "{output}");
    let line = output.lines().find(|line| line.contains("run: ")).unwrap();
    let (_, turns) = line.split_once("run: Ok(()), turns: ").unwrap_or_else(|| panic!("{line}"));
    // Each interruption ended a poll, or the test would prove nothing.
    assert!(turns.trim().parse::<u64>().unwrap() >= ROUNDS, "{line}");
}
