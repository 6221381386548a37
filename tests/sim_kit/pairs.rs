//! Two protocols joined by a link.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::sim::{Link, pair, stream_pair};
use strand_reactor::{ConnectionLost, ListenError, Protocol, Transport};

use crate::support::Recorder as Port;
use crate::watchdog::watchdog;

/// Answers whatever comes.
fn echo() -> Port {
    Port::quiet().on_datagram(|transport, datagram| {
        Ok(transport.write_with(datagram.payload(), &datagram.reply())?)
    })
}

#[test]
fn a_step_is_one_turn_of_one_host_and_time_jumps_to_it() {
    let _watchdog = watchdog();
    let pair = pair(1, Port::quiet(), echo()).unwrap();
    pair.default_link(Link::new().latency(Duration::from_secs(3)));
    pair.client().write(b"ping").unwrap();
    assert!(pair.step().unwrap());
    assert_eq!(pair.elapsed(), Duration::ZERO);
    assert_eq!(pair.sent_by_client().payloads(), [b"ping"]);
    assert!(pair.step().unwrap());
    assert_eq!(pair.elapsed(), Duration::from_secs(3));
    assert_eq!(pair.sent_by_server().payloads(), [b"ping"]);
    assert_eq!(pair.client().stats().unwrap().datagrams_in, 0);
    assert!(pair.step().unwrap());
    assert_eq!(pair.client().stats().unwrap().datagrams_in, 1);
    assert!(!pair.step().unwrap());
    assert_eq!(pair.elapsed(), Duration::from_secs(6));
}

#[test]
#[should_panic(expected = "not what was asked for")]
fn a_failed_assertion_in_a_callback_fails_the_test() {
    let _watchdog = watchdog();
    let picky = Port::quiet().on_datagram(|_, _| panic!("not what was asked for"));
    let pair = pair(1, picky, echo()).unwrap();
    pair.client().write(b"ping").unwrap();
    let _ = pair.run_for(Duration::from_secs(1));
}

#[test]
fn a_protocol_that_does_not_start_makes_no_pair() {
    let _watchdog = watchdog();
    let refused = || Port::quiet().on_start(|_| anyhow::bail!("not today"));
    for made in [pair(1, refused(), echo()), pair(1, echo(), refused())] {
        assert!(
            matches!(made.unwrap_err(), ListenError::Protocol(error) if error.to_string() == "not today")
        );
    }
}

/// Notes what it is told, and ends its own way.
struct Side {
    log: Rc<RefCell<Vec<&'static str>>>,
    on_made: fn(&Transport),
    /// Written when the other side has ended.
    late: &'static [u8],
}

impl Protocol for Side {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        self.log.borrow_mut().push("made");
        (self.on_made)(transport);
        Ok(())
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> {
        self.log.borrow_mut().push("data");
        Ok(())
    }

    fn read_connection_lost(&mut self, transport: &Transport) -> anyhow::Result<()> {
        self.log.borrow_mut().push("read lost");
        if !self.late.is_empty() {
            transport.write(self.late)?;
        }
        transport.lose_connection();
        Ok(())
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        self.log.borrow_mut().push(match reason {
            ConnectionLost::Done => "done",
            ConnectionLost::Reset => "reset",
            ConnectionLost::Aborted => "aborted",
            _ => "otherwise",
        });
    }
}

fn side(on_made: fn(&Transport)) -> (Side, Rc<RefCell<Vec<&'static str>>>) {
    let log = Rc::default();
    (Side { log: Rc::clone(&log), on_made, late: b"" }, log)
}

#[test]
fn streams_are_joined_by_the_time_they_are_given_out_and_everything_is_passed_on() {
    let _watchdog = watchdog();
    let (client, client_log) = side(|_| {});
    let (server, server_log) = side(|_| {});
    let server = Side { late: b"late", ..server };
    let pair = stream_pair(1, client, server).unwrap();
    assert_eq!((&*client_log.borrow(), &*server_log.borrow()), (&vec!["made"], &vec!["made"]));
    assert_eq!(pair.server().peer_addr().unwrap(), pair.client().local_addr().unwrap());
    pair.client().write(b"hello").unwrap();
    pair.client().lose_write();
    while pair.step().unwrap() {}
    assert_eq!(*server_log.borrow(), ["made", "data", "read lost", "done"]);
    assert_eq!(*client_log.borrow(), ["made", "data", "read lost", "done"]);
    pair.assert_nothing_left();
}

#[test]
fn a_server_that_hangs_up_at_once_makes_a_pair_all_the_same() {
    let _watchdog = watchdog();
    let (client, client_log) = side(|_| {});
    let (server, server_log) = side(|transport| transport.abort_connection());
    let pair = stream_pair(1, client, server).unwrap();
    while pair.step().unwrap() {}
    assert_eq!(server_log.borrow().last(), Some(&"aborted"));
    assert_eq!(client_log.borrow().last(), Some(&"reset"));
    pair.assert_nothing_left();
}
