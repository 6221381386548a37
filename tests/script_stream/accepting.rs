//! What accepting may fail with.

use std::cell::{Cell, RefCell};
use std::fmt::{Debug, Write};
use std::io;
use std::rc::Rc;
use std::sync::Once;
use std::time::Duration;

use strand_reactor::testing::{ScriptedListener, ScriptedStream, StreamEvent};
use strand_reactor::{
    AcceptBudget, Factory, Handle, ListeningPort, PeerAddr, PortState, Protocol, Reactor,
    TcpOptions,
};
use tracing::field::{Field, Visit};
use tracing::span;

use crate::support::errno::*;
use crate::support::{Log, Recorder, peer, reactor, turn, turn_until};
use crate::watchdog::watchdog;

/// Errors that accept(2) passes on from the connection that it would have taken.
const OF_THE_CONNECTION: [i32; 11] = [
    ECONNABORTED,
    ECONNRESET,
    EPERM,
    EPROTO,
    ENETDOWN,
    ENOPROTOOPT,
    EHOSTDOWN,
    EHOSTUNREACH,
    EOPNOTSUPP,
    ENETUNREACH,
    ETIMEDOUT,
];

/// Notes the errors of accepting, and its end.
struct Server {
    errors: Rc<RefCell<Vec<Option<i32>>>>,
    log: Log,
}

impl Factory for Server {
    fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> {
        Some(Box::new(Recorder::new(&self.log)))
    }

    fn stop_factory(&mut self) -> anyhow::Result<()> {
        self.log.borrow_mut().push("stopped".to_owned());
        Ok(())
    }

    fn accept_error(&mut self, error: &io::Error) {
        self.errors.borrow_mut().push(error.raw_os_error());
    }
}

struct Stage {
    reactor: Reactor,
    script: ScriptedListener,
    port: ListeningPort,
    errors: Rc<RefCell<Vec<Option<i32>>>>,
    log: Log,
}

impl Stage {
    fn new() -> Self {
        Self::with(TcpOptions::parse("192.0.2.2:80").expect("an address"))
    }

    fn with(options: TcpOptions) -> Self {
        let (reactor, script) = (reactor(), ScriptedListener::new());
        let (errors, log) = (Rc::default(), Log::default());
        let server = Server { errors: Rc::clone(&errors), log: Rc::clone(&log) };
        let port = script.listen(&reactor, options, server).expect("a port");
        Self { reactor, script, port, errors, log }
    }

    /// One more that waits.
    fn wait(&self) -> ScriptedStream {
        let stream = ScriptedStream::new(peer());
        self.script.connection(&stream);
        stream
    }

    /// An event, and a turn.
    fn ready(&self) {
        self.script.raise(StreamEvent::READABLE);
        turn(&self.reactor);
    }

    fn accepted(&self) -> u64 {
        self.port.stats().expect("open").accepted
    }
}

#[test]
fn what_befell_a_connection_that_waits_is_skipped_and_the_next_is_taken() {
    let _watchdog = watchdog();
    for errno in OF_THE_CONNECTION {
        let stage = Stage::new();
        stage.wait();
        stage.script.accept_error(errno);
        stage.wait();
        stage.ready();
        let stats = stage.port.stats().expect("open");
        assert_eq!((stats.accepted, stats.skipped, stats.accept_errors), (2, 1, 0), "{errno}");
        assert!(stage.errors.borrow().is_empty(), "{errno}");
        assert_eq!(stage.port.state(), PortState::Open);
    }
}

#[test]
fn errors_that_are_skipped_use_up_the_budget() {
    let _watchdog = watchdog();
    let options = TcpOptions::parse("192.0.2.2:80").expect("an address");
    let stage = Stage::with(options.accept_budget(AcceptBudget::Fixed(5)));
    stage.script.accept_always_fails(Some(EPERM));
    let others = Rc::new(Cell::new(0));
    for _ in 0..3 {
        let others = Rc::clone(&others);
        stage.reactor.call_when_running(move |_: &Handle| others.set(others.get() + 1));
    }
    stage.ready();
    assert_eq!((stage.script.accepts(), others.get()), (5, 3));
    // It goes on by itself, until nobody waits.
    turn(&stage.reactor);
    assert_eq!(stage.script.accepts(), 10);
    stage.script.accept_always_fails(None);
    turn(&stage.reactor);
    assert_eq!(stage.script.accepts(), 11);
    turn(&stage.reactor);
    assert_eq!(stage.script.accepts(), 11);
}

#[test]
fn a_port_that_cannot_accept_refrains_tells_it_once_and_comes_back_by_itself() {
    let _watchdog = watchdog();
    for errno in [ENOBUFS, ENOMEM, EMFILE, ENFILE, EIO, EINVAL] {
        let stage = Stage::new();
        stage.script.accept_error(errno);
        stage.ready();
        stage.wait();
        // Events are no reason to try again.
        stage.ready();
        stage.ready();
        assert_eq!(*stage.errors.borrow(), [Some(errno)]);
        assert_eq!((stage.script.accepts(), stage.accepted()), (1, 0), "{errno}");
        let turns = stage.reactor.stats().turns;
        turn_until(&stage.reactor, || stage.accepted() == 1);
        assert!(stage.reactor.stats().turns - turns < 5, "the loop spins on {errno}");
        assert_eq!(stage.errors.borrow().len(), 1);
        assert_eq!(*stage.log.borrow(), ["made"]);
    }
}

#[test]
fn a_port_that_fails_for_ever_does_not_spin() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    stage.script.accept_always_fails(Some(EIO));
    stage.ready();
    // 50 ms, then twice as long each time.
    turn_until(&stage.reactor, || stage.errors.borrow().len() == 4);
    assert_eq!(stage.script.accepts(), 4);
    assert!(stage.reactor.stats().turns < 20, "{}", stage.reactor.stats().turns);
    assert_eq!(stage.port.state(), PortState::Open);
    assert_eq!(stage.port.stats().expect("open").accept_errors, 4);
}

#[test]
fn those_who_wait_are_shed_for_want_of_descriptors_and_not_for_want_of_memory() {
    let _watchdog = watchdog();
    for (errno, shed) in [(EMFILE, true), (ENFILE, true), (ENOBUFS, false), (ENOMEM, false)] {
        let stage = Stage::new();
        stage.script.accept_always_fails(Some(errno));
        let waiting = [stage.wait(), stage.wait()];
        stage.ready();
        stage.script.accept_always_fails(None);
        assert_eq!(waiting.each_ref().map(ScriptedStream::is_closed), [shed; 2], "{errno}");
        assert_eq!(stage.port.stats().expect("open").shed, if shed { 2 } else { 0 });
        let last = stage.wait();
        let all = if shed { 1 } else { 3 };
        turn_until(&stage.reactor, || stage.accepted() == all);
        assert!(!last.is_closed());
    }
}

#[test]
fn a_port_that_refrains_can_be_paused_resumed_and_stopped() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    stage.script.accept_error(ENOBUFS);
    stage.wait();
    stage.ready();
    stage.port.pause_accepting().expect("open");
    stage.port.resume_accepting().expect("open");
    turn(&stage.reactor);
    assert_eq!(stage.accepted(), 0, "resuming ends no want of memory");
    stage.port.pause_accepting().expect("open");
    let waited = Rc::new(Cell::new(false));
    let told = Rc::clone(&waited);
    stage.reactor.call_later(Duration::from_millis(100), move |_: &Handle| told.set(true));
    turn_until(&stage.reactor, || waited.get());
    assert_eq!(stage.accepted(), 0, "nor does the end of that resume a port");
    stage.port.resume_accepting().expect("open");
    turn(&stage.reactor);
    assert_eq!(stage.accepted(), 1);

    stage.script.accept_always_fails(Some(ENOBUFS));
    stage.ready();
    stage.port.stop_listening();
    turn(&stage.reactor);
    assert!(stage.script.is_closed());
    assert_eq!(*stage.log.borrow(), ["made", "stopped"]);
}

#[test]
fn a_listener_whose_descriptor_is_gone_closes_its_port() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    stage.script.accept_error(EBADF);
    stage.ready();
    turn(&stage.reactor);
    assert_eq!(stage.port.state(), PortState::Closed);
    assert!(stage.script.is_closed());
    assert_eq!(*stage.log.borrow(), ["stopped"]);
    assert!(stage.errors.borrow().is_empty());
}

#[test]
fn an_event_without_a_connection_costs_one_look() {
    let _watchdog = watchdog();
    let stage = Stage::new();
    for event in [StreamEvent::READABLE, StreamEvent::NOTHING, StreamEvent::ERROR] {
        let before = (stage.script.accepts(), stage.reactor.stats().turns);
        stage.script.raise(event);
        turn(&stage.reactor);
        turn(&stage.reactor);
        assert!(stage.script.accepts() - before.0 <= 1, "{event:?}");
    }
    stage.script.accept_error(EAGAIN);
    stage.ready();
    assert!(stage.errors.borrow().is_empty());
}

type Hook = Rc<dyn Fn(String)>;

thread_local! {
    /// What to do with the text of a warning.
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

struct Subscriber;

impl tracing::Subscriber for Subscriber {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, _: &Field, value: &dyn Debug) {
                write!(self.0, "{value:?} ").expect("text");
            }
        }
        let hook = HOOK.with_borrow(Clone::clone);
        if let Some(hook) = hook {
            let mut text = Text(String::new());
            event.record(&mut text);
            hook(text.0);
        }
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[test]
fn the_want_of_descriptors_is_logged_once_it_was_dealt_with() {
    let _watchdog = watchdog();
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| tracing::subscriber::set_global_default(Subscriber).expect("the only"));
    let stage = Stage::new();
    let waiting = stage.wait();
    let said = Rc::new(RefCell::new(Vec::new()));
    let (lines, sought) = (Rc::clone(&said), waiting.clone());
    // A subscriber may open files: it may be called only once there is room again.
    HOOK.set(Some(Rc::new(move |text| lines.borrow_mut().push((sought.is_closed(), text)))));
    stage.script.accept_always_fails(Some(EMFILE));
    stage.ready();
    HOOK.set(None);
    let said = said.borrow();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].0, "logged before those who waited were shed");
    assert!(said[0].1.contains("Too many open files"), "{said:?}");
}
