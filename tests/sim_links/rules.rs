//! Rules about packets: how they begin and end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use strand_reactor::sim::{Call, Link, Rule, World, stream_pair};
use strand_reactor::{Interface, Protocol, Transport};

use super::support::{MS, Pair, Witness};
use super::watchdog::watchdog;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_partition_lasts_as_long_as_its_guard() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    let split = pair.world.partition("a", "b")?;
    assert_eq!(pair.exchange()?, [false, false]);
    assert_eq!(split.hits(), 2);
    drop(split);
    assert_eq!(pair.exchange()?, [true, true]);
    let one_way = pair.world.rule(Rule::partition_one_way("b", "a"))?;
    assert_eq!(pair.exchange()?, [true, false]);
    one_way.keep();
    assert_eq!(pair.exchange()?, [true, false]);
    Ok(())
}

#[test]
fn a_guard_may_be_dropped_in_a_callback() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    let split = pair.world.partition("a", "b")?;
    pair.at_a.handle.call_later(3 * SECOND, move |_| drop(split));
    let mut arrived = Vec::new();
    for _ in 0..5 {
        arrived.push(pair.exchange()?[0]);
    }
    assert_eq!(arrived, [false, false, false, true, true]);
    Ok(())
}

#[test]
fn a_schedule_begins_and_ends_by_virtual_time() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    pair.world.rule(Rule::drop().from("a").between(2 * SECOND, 4 * SECOND))?.keep();
    pair.world.rule(Rule::drop().from("b").every(3 * SECOND, SECOND))?.keep();
    let mut arrived = Vec::new();
    for _ in 0..6 {
        arrived.push(pair.exchange()?);
    }
    let [from_a, from_b] =
        [0, 1].map(|way| arrived.iter().map(|both| both[way]).collect::<Vec<_>>());
    assert_eq!(from_a, [true, true, false, false, true, true]);
    assert_eq!(from_b, [false, true, true, false, true, true]);
    Ok(())
}

#[test]
fn a_rule_picks_packets_by_what_is_in_them_and_only_so_many() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    let odd = Rule::drop().udp().port(2_000).to("b").when(|packet| packet.payload()[0] % 2 == 1);
    let guard = pair.world.rule(odd.times(2))?;
    for n in 0..8 {
        pair.a_writes(&[n])?;
    }
    pair.world.run_for(SECOND)?;
    assert_eq!(pair.at_b.numbers(), [0, 2, 4, 5, 6, 7]);
    assert_eq!(guard.hits(), 2);
    Ok(())
}

#[test]
fn what_is_under_way_is_not_affected_by_a_rule() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    pair.world.default_link(Link::new().latency(100 * MS));
    pair.a_writes(b"1")?;
    pair.world.run_for(50 * MS)?;
    let _split = pair.world.partition("a", "b")?;
    pair.world.run_for(SECOND)?;
    assert_eq!(pair.at_b.numbers(), [b'1']);
    Ok(())
}

#[test]
fn a_delay_holds_up_one_port_and_not_the_other() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    let _slow = pair.world.rule(Rule::delay(50 * MS).port(2_000))?;
    pair.at_b.handle.listen_udp(2_001, pair.at_b.clone())?;
    pair.a_writes(b"1")?;
    pair.a.write_to(b"2", "10.0.0.2:2001".parse()?)?;
    pair.world.run_for(SECOND)?;
    assert_eq!(pair.at_b.numbers(), *b"21");
    Ok(())
}

#[test]
fn a_dump_of_the_world_shows_the_rules_in_force() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    let _split = pair.world.partition("a", "b")?;
    pair.world.rule(Rule::drop().between(SECOND, 2 * SECOND))?.keep();
    let _deaf = pair.world.rule(Rule::fail(Call::Receive, 12).from("b"))?;
    pair.exchange()?;
    let dump = pair.world.dump();
    let rules: Vec<_> = dump.lines().filter(|line| line.starts_with("rule: ")).collect();
    assert_eq!(rules[..2], ["rule: partition; applies, 2 hits", "rule: drop; applies, 0 hits"]);
    assert!(rules[2].starts_with("rule: [Receive] fails: "), "{}", rules[2]);
    Ok(())
}

#[test]
fn of_a_group_only_those_hear_whom_no_rule_parts_from_the_sender() -> anyhow::Result<()> {
    let _watchdog = watchdog();
    let world = World::new(1);
    let mut members = Vec::new();
    for (name, address) in [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")] {
        let host = world.host(name, address)?;
        let witness = Witness::new(&host);
        let port = host.listen_multicast(9, witness.clone())?;
        port.join_group([239, 1, 2, 3], Interface::Default)?;
        members.push((port, witness));
    }
    let split = world.partition("a", "10.0.0.3")?;
    members[0].0.write_to(b"1", "239.1.2.3:9".parse()?)?;
    world.run_for(SECOND)?;
    split.lift();
    members[0].0.write_to(b"2", "239.1.2.3:9".parse()?)?;
    world.run_for(SECOND)?;
    let heard: Vec<_> = members.iter().map(|(_, witness)| witness.numbers()).collect();
    assert_eq!(heard, [&b"12"[..], b"12", b"2"]);
    Ok(())
}

/// Lets time pass, and gives the message of the panic that comes out of it.
fn panics(world: &World) -> Option<String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run_for(SECOND)));
    let message = outcome.err()?.downcast::<&str>().ok()?;
    Some((*message).to_owned())
}

#[test]
fn a_condition_that_panics_leaves_the_world_as_good_as_it_was() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    let guard = pair.world.rule(Rule::drop().when(|packet| match packet.payload()[0] {
        b'!' => panic!("not this one"),
        first => first == b'-',
    }))?;
    for payload in [b"1", b"!", b"-", b"2", b"!", b"3"] {
        pair.a_writes(payload)?;
    }
    assert_eq!(panics(&pair.world).as_deref(), Some("not this one"));
    // Nothing is left in the queue, and a second panic of one turn is not told again.
    assert_eq!(panics(&pair.world), None);
    assert_eq!((pair.a.queued_datagrams(), guard.hits()), (0, 1));
    assert_eq!(pair.at_b.numbers(), *b"1!2!3");
    pair.at_b.take();

    // The rule is still asked, in a call outside of a turn, too.
    pair.a.try_write_to(b"!", "10.0.0.2:2000".parse()?)?;
    assert_eq!(panics(&pair.world).as_deref(), Some("not this one"));
    pair.a_writes(b"-")?;
    pair.a_writes(b"4")?;
    assert_eq!(panics(&pair.world), None);
    assert_eq!((pair.at_b.numbers(), guard.hits()), (b"!4".to_vec(), 2));
    Ok(())
}

#[test]
fn a_condition_that_panics_costs_a_stream_nothing() -> anyhow::Result<()> {
    let _watchdog = watchdog();
    let pair = stream_pair(1, Silent, Silent)?;
    let mut asked = 0;
    let rule = Rule::drop().tcp().when(move |_| {
        asked += 1;
        assert!(asked != 3, "the third");
        false
    });
    pair.rule(rule)?.keep();
    pair.client().write(&[7; 200_000])?;
    pair.client().lose_connection();
    let outcome = catch_unwind(AssertUnwindSafe(|| while pair.step().unwrap() {}));
    assert!(outcome.is_err());
    while pair.step()? {}
    assert_eq!(pair.sent_by_client().written().len(), 200_000);
    pair.assert_nothing_left();
    Ok(())
}

/// Takes what comes.
struct Silent;

impl Protocol for Silent {
    fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }
}
