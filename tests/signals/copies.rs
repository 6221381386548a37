//! What ends a process is tried on a copy of this one: the test runs itself again, alone, with
//! the name of a role in its environment. The copy says where it is; the test answers by signals.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::{Reactor, ShutdownPhase, Signal};

use crate::{Count, alone, counter, kill, raise, turn_until, watchdog};

const ROLE: &str = "STRAND_SIGNALS_ROLE";

/// Says something to the test that started this copy.
pub(crate) fn say(what: &str) {
    if std::env::var_os(ROLE).is_some() {
        println!("\n@{what}");
        std::io::stdout().flush().unwrap();
    }
}

struct Replica {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Replica {
    /// `before`: what the shell does before the copy takes its place.
    fn start(role: &str, before: &str) -> Self {
        let program = std::env::current_exe().unwrap();
        // Whoever runs the tests in the background may have SIGINT ignored, and a child inherits
        // that.
        let reset = "reset='env --default-signal=INT'; $reset true 2>/dev/null || reset=;";
        let before = if before.is_empty() { reset } else { before };
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "{before} exec $reset \"$0\" --exact copies::the_copy --nocapture --test-threads=1"
            ))
            .arg(program)
            .env(ROLE, role)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// Reads what the copy says next; `None` when it has ended.
    fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.output.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some(said) = line.strip_prefix('@') {
                return Some(said.trim().to_owned());
            }
        }
    }

    #[track_caller]
    fn hears(&mut self, expected: &str) {
        match self.hear() {
            Some(said) => assert_eq!(said, expected),
            None => panic!("ended ({:?}) before {expected:?}", self.child.wait()),
        }
    }

    fn kill(&self, signal: Signal) {
        kill(signal, self.child.id());
    }

    /// The signal that ended it, if one did.
    fn ended_by(mut self) -> Option<Signal> {
        while self.hear().is_some() {}
        self.child.wait().unwrap().signal().map(Signal::from_raw)
    }
}

/// A reactor with a port and hooks that say what happens.
fn server(stop_on_signals: bool) -> Reactor {
    let mut builder = Reactor::builder();
    if stop_on_signals {
        builder = builder.stop_on_signals();
    }
    let reactor = builder.build().unwrap();
    reactor.listen_udp("127.0.0.1:0", Count(Rc::default())).unwrap();
    for phase in [ShutdownPhase::Before, ShutdownPhase::During, ShutdownPhase::After] {
        reactor.on_shutdown(phase, move |_| say(&format!("{phase:?}"))).unwrap();
    }
    reactor.call_when_running(|_| say("running"));
    reactor
}

/// Keeps the copy alive until the test ends it.
fn linger() {
    let reactor = Reactor::new().unwrap();
    reactor.call_when_running(|_| say("lingering"));
    let _keep = reactor.call_later(Duration::from_secs(50), |_| {});
    reactor.run().unwrap();
}

#[test]
fn the_copy() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let _watchdog = watchdog();
    match &*role {
        "stops" => {
            server(true).run().unwrap();
            say("returned");
            linger();
        }
        "held" => {
            let reactor = server(true);
            let hold = reactor.hold_shutdown().unwrap();
            let _keep = reactor.call_later(Duration::from_secs(50), |_| {});
            reactor.run().unwrap();
            say("returned");
            drop(hold);
        }
        "held twice" => {
            let reactor = server(true);
            let hold = reactor.hold_shutdown().unwrap();
            let _keep = reactor.call_later(Duration::from_secs(50), |_| {});
            // Both come while the loop is busy with one callback.
            reactor.call_when_running(|_| {
                raise(Signal::TERM);
                raise(Signal::INT);
            });
            reactor.run().unwrap();
            say("returned");
            drop(hold);
        }
        "works" => {
            let reactor = server(true);
            // A job that never ends.
            let (never, work) = std::sync::mpsc::channel::<()>();
            let (begun, begins) = std::sync::mpsc::channel();
            reactor.call_in_thread(move || {
                begun.send(()).unwrap();
                let _ = work.recv();
            });
            // One that waits would be cancelled.
            begins.recv().unwrap();
            reactor.run().unwrap();
            say("returned");
            drop(never);
        }
        "iterates" => {
            let reactor = server(true);
            while reactor.iterate(None).unwrap() {}
            say("returned");
        }
        "made" => {
            // Made, but never run: no handler is there.
            let _reactor = server(true);
            linger();
        }
        "watches" => {
            let (one, other) = (Reactor::new().unwrap(), Reactor::new().unwrap());
            let (first, _) = counter(&one, Signal::USR1);
            let (second, count) = counter(&other, Signal::USR1);
            drop(first);
            say("one is left");
            turn_until(&other, || count.get() == 1);
            drop(other);
            drop(second);
            say("none is left");
            linger();
        }
        other => panic!("no such role: {other}"),
    }
}

#[test]
fn a_signal_shuts_down_in_order_and_afterwards_is_what_it_was_before() {
    let _alone = alone();
    for signal in [Signal::INT, Signal::TERM] {
        let mut copy = Replica::start("stops", "");
        copy.hears("running");
        copy.kill(signal);
        for said in ["Before", "During", "stopped", "After", "returned", "lingering"] {
            copy.hears(said);
        }
        copy.kill(signal);
        assert_eq!(copy.ended_by(), Some(signal));
    }
}

#[test]
fn a_second_signal_ends_the_waiting() {
    let _alone = alone();
    let mut copy = Replica::start("held", "");
    copy.hears("running");
    copy.kill(Signal::TERM);
    copy.hears("Before");
    copy.kill(Signal::INT);
    for said in ["During", "stopped", "After", "returned"] {
        copy.hears(said);
    }
    assert_eq!(copy.ended_by(), None);
}

#[test]
fn a_second_signal_before_the_loop_saw_the_first_ends_the_waiting_too() {
    let _alone = alone();
    let mut copy = Replica::start("held twice", "");
    for said in ["running", "Before", "During", "stopped", "After", "returned"] {
        copy.hears(said);
    }
    assert_eq!(copy.ended_by(), None);
}

#[test]
fn a_second_signal_leaves_a_job_that_does_not_end() {
    let _alone = alone();
    let mut copy = Replica::start("works", "");
    copy.hears("running");
    copy.kill(Signal::TERM);
    for said in ["Before", "During", "stopped"] {
        copy.hears(said);
    }
    copy.kill(Signal::TERM);
    for said in ["After", "returned"] {
        copy.hears(said);
    }
    assert_eq!(copy.ended_by(), None);
}

#[test]
fn a_loop_driven_by_iterate_is_stopped_by_a_signal_too() {
    let _alone = alone();
    let mut copy = Replica::start("iterates", "");
    copy.hears("running");
    copy.kill(Signal::TERM);
    for said in ["Before", "During", "stopped", "After", "returned"] {
        copy.hears(said);
    }
    assert_eq!(copy.ended_by(), None);
}

#[test]
fn no_handler_is_there_before_the_run() {
    let _alone = alone();
    let mut copy = Replica::start("made", "");
    copy.hears("lingering");
    copy.kill(Signal::TERM);
    assert_eq!(copy.ended_by(), Some(Signal::TERM));
}

#[test]
fn an_ignored_interrupt_stays_ignored() {
    let _alone = alone();
    let mut copy = Replica::start("stops", "trap '' INT;");
    copy.hears("running");
    copy.kill(Signal::INT);
    copy.kill(Signal::TERM);
    copy.hears("Before");
    for said in ["During", "stopped", "After", "returned", "lingering"] {
        copy.hears(said);
    }
    copy.kill(Signal::INT);
    copy.kill(Signal::TERM);
    assert_eq!(copy.ended_by(), Some(Signal::TERM));
}

#[test]
fn the_last_user_of_the_process_puts_the_previous_handler_back() {
    let _alone = alone();
    let mut copy = Replica::start("watches", "");
    copy.hears("one is left");
    copy.kill(Signal::USR1);
    copy.hears("none is left");
    copy.hears("lingering");
    copy.kill(Signal::USR1);
    assert_eq!(copy.ended_by(), Some(Signal::USR1));
}
