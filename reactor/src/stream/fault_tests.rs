//! Two ends of a connection under any interleaving of what can be done to them, over sockets that
//! take and give in pieces, say too much or too little, and fail.

use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;

use super::property_tests::{End, Half, Op, op};
use crate::net::memory::{Chance, Memory, Net};
use crate::{ClientFactory, ConnectError, Connector, PeerAddr, Protocol, Reactor, TcpOptions};

/// The client, and whether its attempt failed.
struct Client(Rc<End>, Rc<std::cell::Cell<bool>>);

impl ClientFactory for Client {
    fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> {
        Some(Box::new(Half { end: Rc::clone(&self.0), layered: false }))
    }

    fn client_connection_failed(&mut self, _: &Connector, _: &ConnectError) -> anyhow::Result<()> {
        self.1.set(true);
        Ok(())
    }
}

#[derive(Clone, Debug)]
struct Case {
    script: Vec<(bool, Op)>,
    chance: Vec<u8>,
    /// Calls fail for good, too.
    breaks: bool,
    layered: bool,
    room: usize,
}

fn case() -> impl Strategy<Value = Case> {
    let op = prop_oneof![
        12 => op(),
        1 => (1..10_000_u64).prop_map(Op::Wait),
        3 => op().prop_map(|op| Op::InDelivery(Box::new(op))),
        1 => Just(Op::InDelivery(Box::new(Op::Fail))),
    ];
    (
        prop::collection::vec((any::<bool>(), op), 0..40),
        prop::collection::vec(any::<u8>(), 0..400),
        any::<bool>(),
        any::<bool>(),
        prop_oneof![1..100_usize, 1_000..100_000_usize],
    )
        .prop_map(|(mut script, chance, breaks, layered, room)| {
            // Enough for every way that a write can take; byte by byte much takes for ever.
            let most = if room < 1000 { 1000 } else { 40_000 };
            for (_, op) in &mut script {
                let op = if let Op::InDelivery(op) = op { op } else { op };
                if let Op::Write(len) | Op::Owned(len) | Op::Try(len) = op {
                    *len %= most;
                }
            }
            Case { script, chance, breaks, layered, room }
        })
}

struct Stage {
    ends: [Rc<End>; 2],
    net: Rc<Net>,
    failed: bool,
}

/// Plays a case to its end.
fn play(case: &Case) -> Stage {
    let net = Net::new(Chance::new(case.chance.clone(), case.breaks), case.room);
    let reactor = Reactor::with_driver(Box::new(Memory::new(&net)), true);
    let ends = [Rc::new(End::default()), Rc::new(End::default())];
    let (server, layered) = (Rc::clone(&ends[0]), case.layered);
    let port = reactor
        .listen_tcp(TcpOptions::parse("127.0.0.1:0").expect("an address"), move |_: PeerAddr| {
            Some(Half { end: Rc::clone(&server), layered })
        })
        .expect("a port");
    let failed = Rc::new(std::cell::Cell::new(false));
    let client = Client(Rc::clone(&ends[1]), Rc::clone(&failed));
    let _connector =
        reactor.connect_tcp(port.local_addr().expect("bound"), client).expect("an attempt");
    for _ in 0..50 {
        if failed.get() || ends.iter().all(|end| end.made.get() > 0) {
            break;
        }
        reactor.iterate(Some(Duration::from_secs(1))).expect("a turn");
    }
    port.stop_listening();
    for (second, op) in &case.script {
        ends[usize::from(*second)].act(op, Some(&reactor));
    }
    // From here on nobody pauses or fails.
    for end in &ends {
        end.in_deliveries.take();
    }
    for end in &ends {
        end.act(&Op::LoseWrite, Some(&reactor));
        end.act(&Op::Resume, Some(&reactor));
    }
    // Nothing keeps the loop but what is left to do; the clock is the test's own.
    reactor.run().expect("the loop ends");
    assert!(reactor.streams().is_empty() && reactor.listening_ports().is_empty());
    assert_eq!(reactor.stats().callback_panics, 0);
    Stage { ends, net, failed: failed.get() }
}

fn check(case: &Case, stage: &Stage) -> Result<(), TestCaseError> {
    let Stage { ends, net, failed } = stage;
    let done = ends.each_ref().map(|end| end.done.get());
    let made = ends.each_ref().map(|end| end.made.get());
    prop_assert!(made[1] == 1 || *failed, "the client was told nothing");
    prop_assert!(made == [1, 1] || net.is_broken(), "{:?}", made);
    for (at, end) in ends.iter().enumerate() {
        let other = &ends[1 - at];
        let lost = end.lost.borrow();
        prop_assert_eq!(lost.len(), end.made.get());
        prop_assert!(!end.wrong.get() && !end.told_twice.get());
        let completed = end.completed.borrow();
        prop_assert_eq!(completed.len(), end.completions.get());
        // Nothing is said to be sent after something was not.
        prop_assert!(completed.is_sorted_by(|before, after| before >= after), "{:?}", completed);
        prop_assert!(end.received.get() <= other.written.get());
        let peaceful =
            !net.is_broken() && done.iter().all(|done| !done.abort && !done.wait && !done.fail);
        if peaceful {
            prop_assert!(lost[0].is_clean(), "{:?}", lost);
            prop_assert!(completed.iter().all(|sent| *sent), "{:?}", completed);
            if !done[at].lose {
                prop_assert_eq!(end.received.get(), other.written.get());
            }
        }
        // What was read is delivered, whatever failed after it.
        let left_alone = !done[at].lose && !done[at].abort && !done[at].pause && !done[at].fail;
        prop_assert!(!left_alone || end.received.get() == net.bytes_read()[at]);
        // An end in order, unasked, is one after the last byte that the peer was promised.
        if let Some(lost) = lost.first()
            && lost.is_clean()
            && !done[at].lose
            && !done[at].abort
            && other.lost.borrow().first().is_some_and(|lost| lost.is_clean())
        {
            prop_assert_eq!(end.received.get(), other.written.get(), "{:?}", case);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn whatever_fails_no_byte_is_lost_or_doubled_and_each_end_is_lost_once(case in case()) {
        check(&case, &play(&case))?;
    }
}
