//! Calls that fail by a rule.

use std::time::Duration;

use strand_reactor::sim::{Call, Link, Rule, World};
use strand_reactor::{ListenError, UdpOptions};

use super::support::{MS, Pair, Seen, Witness};
use super::watchdog::watchdog;

const SECOND: Duration = Duration::from_secs(1);
const EPERM: i32 = 1;
const ENOMEM: i32 = 12;
const EMFILE: i32 = 24;
const EADDRINUSE: i32 = 98;

#[test]
fn a_send_that_fails_is_told_and_the_next_goes_out() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    let refused = pair.world.rule(Rule::fail(Call::Send, EPERM).from("a").port(2_000).times(2))?;
    for n in 0..4 {
        pair.a_writes(&[n])?;
    }
    pair.b_writes(b"b")?;
    pair.world.run_for(SECOND)?;
    let failed = Seen::WriteFailed(Some(EPERM));
    assert_eq!(pair.at_a.take(), [failed.clone(), failed, Seen::Datagram(b"b".to_vec())]);
    assert_eq!(pair.at_b.numbers(), [2, 3]);
    assert_eq!(refused.hits(), 2);
    Ok(())
}

#[test]
fn the_second_of_a_batch_may_be_the_one_that_fails() -> anyhow::Result<()> {
    let pair = Pair::new(9)?;
    let half = pair.world.rule(Rule::fail(Call::Send, EPERM).probability(0.5))?;
    for n in 0..100 {
        pair.a_writes(&[n])?;
    }
    pair.world.run_for(SECOND)?;
    let failed = pair.at_a.take().len();
    assert!((30..70).contains(&failed), "{failed}");
    assert_eq!((pair.at_b.numbers().len(), half.hits()), (100 - failed, failed as u64));
    Ok(())
}

#[test]
fn full_send_buffers_push_back_until_the_rule_is_lifted() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    // So that the receiver hears them one after the other.
    pair.world.default_link(Link::new().latency(MS).bandwidth(100_000_000, 1 << 20));
    let full = pair.world.rule(Rule::full_send_buffers().from("a"))?;
    let count = 900;
    for n in 0..count {
        pair.a_writes(&[n as u8])?;
    }
    pair.world.run_for(60 * SECOND)?;
    assert_eq!(pair.at_a.take(), [Seen::Paused], "the queue is long, and nothing spins");
    assert_eq!(pair.at_b.numbers(), []);
    full.lift();
    pair.world.run_for(SECOND)?;
    assert_eq!(pair.at_a.take(), [Seen::Resumed]);
    assert_eq!(pair.at_b.numbers(), (0..count).map(|n| n as u8).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn full_send_buffers_push_back_until_their_schedule_ends() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    let full = Rule::full_send_buffers().between(Duration::ZERO, 20 * SECOND);
    pair.world.rule(full.every(10 * SECOND, 3 * SECOND))?.keep();
    pair.a_writes(b"1")?;
    pair.world.run_for(12 * SECOND)?;
    pair.a_writes(b"2")?;
    pair.world.run_for(12 * SECOND)?;
    let times: Vec<_> = pair.at_b.seen.borrow().iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [3 * SECOND + MS, 13 * SECOND + MS]);
    Ok(())
}

#[test]
fn a_receive_that_fails_is_told_and_nothing_is_lost() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    let sick = pair.world.rule(Rule::fail(Call::Receive, ENOMEM).from("b"))?;
    pair.a_writes(b"1")?;
    pair.world.run_for(5 * MS)?;
    // At its arrival after 1 ms, and again after each millisecond: time goes on.
    assert_eq!(pair.at_b.take(), vec![Seen::NetworkError(Some(ENOMEM)); 5]);
    drop(sick);
    pair.world.run_for(SECOND)?;
    assert_eq!(pair.at_b.take(), [Seen::Datagram(b"1".to_vec())]);
    Ok(())
}

#[test]
fn sockets_cannot_be_opened_without_descriptors_nor_bound_where_a_rule_forbids_it()
-> anyhow::Result<()> {
    let _watchdog = watchdog();
    let world = World::new(1);
    let (a, b) = (world.host("a", "10.0.0.1")?, world.host("b", "10.0.0.2")?);
    let none = world.rule(Rule::no_descriptors().from("a"))?;
    let errno = |error: ListenError| {
        let source = std::error::Error::source(&error)?;
        source.downcast_ref::<std::io::Error>()?.raw_os_error()
    };
    let refused = a.listen_udp(7, Witness::new(&a)).map(|_| ()).unwrap_err();
    assert_eq!(errno(refused), Some(EMFILE));
    b.listen_udp(7, Witness::new(&b))?;
    none.lift();
    let taken = world.rule(Rule::fail(Call::Bind, EADDRINUSE).port(7))?;
    let refused = a.listen_udp(7, Witness::new(&a)).map(|_| ()).unwrap_err();
    assert_eq!(errno(refused), Some(EADDRINUSE));
    a.listen_udp(UdpOptions::parse("10.0.0.1:8")?, Witness::new(&a))?;
    drop(taken);
    a.listen_udp(7, Witness::new(&a))?;
    Ok(())
}
