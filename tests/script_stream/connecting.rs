//! How attempts to connect may go.

use std::rc::Rc;
use std::time::Duration;

use strand_reactor::testing::{ScriptedStream, StreamEvent};
use strand_reactor::{
    ClientFactory, ConnectError, ConnectOptions, ConnectionLost, Connector, ConnectorState,
    PeerAddr, Protocol, Reactor,
};

use crate::support::errno::*;
use crate::support::{Log, Recorder, peer, reactor, turn, turn_until};
use crate::watchdog::watchdog;

struct Client(Log);

impl ClientFactory for Client {
    fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> {
        Some(Box::new(Recorder::new(&self.0)))
    }

    fn client_connection_failed(
        &mut self,
        _: &Connector,
        error: &ConnectError,
    ) -> anyhow::Result<()> {
        let note = match error {
            ConnectError::Io(error) => format!("failed {:?}", error.raw_os_error()),
            error => format!("failed {error:?}"),
        };
        self.0.borrow_mut().push(note);
        Ok(())
    }

    fn client_connection_lost(
        &mut self,
        _: &Connector,
        reason: &ConnectionLost,
    ) -> anyhow::Result<()> {
        self.0.borrow_mut().push(format!("client lost: {reason:?}"));
        Ok(())
    }
}

fn connect(script: &ScriptedStream) -> (Reactor, Connector, Log) {
    let (reactor, log) = (reactor(), Log::default());
    script.answer_connect(&reactor);
    let connector = reactor.connect_tcp(peer(), Client(Rc::clone(&log))).expect("an attempt");
    turn(&reactor);
    (reactor, connector, log)
}

fn turns(reactor: &Reactor) {
    (0..4).for_each(|_| turn(reactor));
}

#[test]
fn events_before_the_outcome_say_nothing() {
    let _watchdog = watchdog();
    let script = ScriptedStream::new(peer());
    let (reactor, connector, log) = connect(&script);
    for event in [StreamEvent::NOTHING, StreamEvent::WRITABLE, StreamEvent::END] {
        script.raise(event);
        turn(&reactor);
        assert_eq!(connector.state(), ConnectorState::Connecting);
    }
    assert!(log.borrow().is_empty() && script.reads() == 0);
    script.connected();
    turns(&reactor);
    assert_eq!(connector.state(), ConnectorState::Connected);
    assert_eq!(*log.borrow(), ["made"]);
}

#[test]
fn what_arrives_with_the_connection_is_delivered_after_it_is_made() {
    let _watchdog = watchdog();
    let script = ScriptedStream::new(peer());
    let (reactor, _connector, log) = connect(&script);
    script.receive(b"welcome");
    script.receive(b", and goodbye");
    script.receive_end();
    script.connected();
    script.raise(StreamEvent::END);
    turns(&reactor);
    assert_eq!(*log.borrow(), ["made", "data welcome", "data , and goodbye", "read lost"]);
}

#[test]
fn an_attempt_fails_once_with_the_systems_error() {
    let _watchdog = watchdog();
    for errno in [ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, ENOBUFS] {
        let script = ScriptedStream::new(peer());
        let (reactor, connector, log) = connect(&script);
        script.connect_failed(errno);
        turns(&reactor);
        assert_eq!(*log.borrow(), [format!("failed Some({errno})")]);
        assert_eq!(connector.state(), ConnectorState::Disconnected);
        assert!(script.is_closed());
    }
}

#[test]
fn an_attempt_that_cannot_begin_is_told_from_the_loop() {
    let _watchdog = watchdog();
    let script = ScriptedStream::new(peer());
    script.fail_connect_at_once(ENETUNREACH);
    let (reactor, log) = (reactor(), Log::default());
    script.answer_connect(&reactor);
    let _connector = reactor.connect_tcp(peer(), Client(Rc::clone(&log))).expect("an attempt");
    assert!(log.borrow().is_empty());
    turns(&reactor);
    assert_eq!(*log.borrow(), ["failed Some(101)"]);
}

#[test]
fn a_connection_that_is_reset_as_it_is_made_is_made_and_lost() {
    let _watchdog = watchdog();
    let script = ScriptedStream::new(peer());
    let (reactor, _connector, log) = connect(&script);
    script.receive_error(ECONNRESET);
    script.connected();
    script.raise(StreamEvent::END.and(StreamEvent::ERROR));
    turns(&reactor);
    assert_eq!(*log.borrow(), ["made", "lost: Reset", "client lost: Reset"]);
}

#[test]
fn an_attempt_that_is_not_answered_is_closed_at_its_timeout() {
    let _watchdog = watchdog();
    let (reactor, log) = (reactor(), Log::default());
    let script = ScriptedStream::new(peer());
    script.answer_connect(&reactor);
    let options = ConnectOptions::new(peer()).timeout(Duration::from_millis(20));
    let _connector = reactor.connect_tcp(options, Client(Rc::clone(&log))).expect("an attempt");
    turn_until(&reactor, || !log.borrow().is_empty());
    assert_eq!(*log.borrow(), ["failed TimedOut"]);
    assert!(script.is_closed());
    // An answer that comes too late is nobody's.
    script.connected();
    turns(&reactor);
    assert_eq!(log.borrow().len(), 1);
}

#[test]
fn the_next_address_is_tried_at_once_when_one_fails_and_losers_are_closed() {
    let _watchdog = watchdog();
    let (reactor, log) = (reactor(), Log::default());
    let addresses = [1, 2, 3].map(|last| ([192, 0, 2, last], 7).into());
    let scripts = addresses.map(ScriptedStream::new);
    for script in &scripts {
        script.answer_connect(&reactor);
    }
    let options = ConnectOptions::any_of(addresses);
    let _connector = reactor.connect_tcp(options, Client(Rc::clone(&log))).expect("an attempt");
    turn(&reactor);
    scripts[0].connect_failed(ECONNREFUSED);
    turn(&reactor);
    assert!(scripts[0].is_closed());
    // The second hangs, and the third begins 250 ms later (RFC 8305).
    scripts[2].connected();
    turn_until(&reactor, || {
        scripts[2].raise(StreamEvent::WRITABLE);
        !log.borrow().is_empty()
    });
    assert_eq!(*log.borrow(), ["made"]);
    assert!(scripts[1].is_closed() && !scripts[2].is_closed());
}
