//! What links do to datagrams.

use std::time::Duration;

use strand_reactor::sim::{HostError, Latency, Link, Loss, Rule, World};
use strand_reactor::{PathMtu, UdpOptions};

use super::support::{MS, Pair, Seen, Witness};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn each_direction_takes_its_own_time() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    pair.world.default_link(Link::new().latency(7 * MS));
    pair.world.link_one_way("a", "10.0.0.2", Link::new().latency(30 * MS))?;
    pair.a_writes(b"1")?;
    pair.b_writes(b"2")?;
    pair.world.run_for(Duration::from_secs(1))?;
    assert_eq!(*pair.at_b.seen.borrow(), [(30 * MS, Seen::Datagram(b"1".to_vec()))]);
    assert_eq!(*pair.at_a.seen.borrow(), [(7 * MS, Seen::Datagram(b"2".to_vec()))]);
    Ok(())
}

#[test]
fn hosts_that_do_not_exist_have_no_links_and_no_rules() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    let unknown = |name: &str| Err(HostError::Unknown { name: name.to_owned() });
    assert_eq!(pair.world.link(["a", "c"], "b", Link::new()), unknown("c"));
    assert_eq!(
        pair.world.partition("a", "10.0.0.9").map(|_| ()),
        Err(unknown("10.0.0.9").unwrap_err())
    );
    assert_eq!(pair.exchange()?, [true, true]);
    Ok(())
}

/// So many datagrams of 10 bytes, a millisecond apart; the numbers of those that arrive.
fn send(pair: &Pair, count: u32) -> anyhow::Result<Vec<u32>> {
    for n in 0..count {
        pair.a_writes(&[&n.to_be_bytes()[..], &[0; 6]].concat())?;
        pair.world.run_for(MS)?;
    }
    pair.world.run_for(Duration::from_secs(10))?;
    let number = |seen| match seen {
        Seen::Datagram(payload) => u32::from_be_bytes(payload[..4].try_into().unwrap()),
        other => panic!("{other:?}"),
    };
    Ok(pair.at_b.take().into_iter().map(number).collect())
}

#[test]
fn loss_comes_by_chance_or_in_bursts() -> anyhow::Result<()> {
    let pair = Pair::new(3)?;
    let gaps = |arrived: &[u32]| arrived.windows(2).filter(|two| two[1] - two[0] > 1).count();
    pair.world.link("a", "b", Link::new().latency(MS).loss(0.2))?;
    let arrived = send(&pair, 10_000)?;
    assert!((7_800..8_200).contains(&arrived.len()), "{}", arrived.len());
    assert!((1_500..1_700).contains(&gaps(&arrived)), "{}", gaps(&arrived));
    pair.world.link("a", "b", Link::new().latency(MS).loss(Loss::bursts(0.2, 10.0)))?;
    let arrived = send(&pair, 10_000)?;
    assert!((7_500..8_500).contains(&arrived.len()), "{}", arrived.len());
    assert!((150..250).contains(&gaps(&arrived)), "{}", gaps(&arrived));
    Ok(())
}

#[test]
fn datagrams_are_duplicated_reordered_and_corrupted_when_asked_for() -> anyhow::Result<()> {
    let pair = Pair::new(4)?;
    let overtaken = |arrived: &[u32]| arrived.windows(2).filter(|two| two[1] < two[0]).count();
    let jitter = Link::new().latency(Latency::uniform(MS, 20 * MS));
    pair.world.default_link(jitter.clone());
    let arrived = send(&pair, 500)?;
    assert_eq!((arrived.len(), overtaken(&arrived)), (500, 0), "jitter alone keeps the order");
    pair.world.default_link(jitter.unordered());
    let arrived = send(&pair, 500)?;
    assert!(arrived.len() == 500 && overtaken(&arrived) > 100, "{}", overtaken(&arrived));
    pair.world.default_link(Link::new().latency(MS).duplication(0.5));
    let arrived = send(&pair, 500)?;
    assert!((700..800).contains(&arrived.len()), "{}", arrived.len());
    pair.world.default_link(Link::new().latency(MS).corruption(1.0));
    pair.a_writes(&[0; 100])?;
    pair.world.run_for(Duration::from_secs(1))?;
    let [Seen::Datagram(payload)] = &pair.at_b.take()[..] else { panic!("one datagram") };
    assert_eq!(payload.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1, "one bit flipped");
    Ok(())
}

#[test]
fn a_narrow_link_sends_one_after_the_other_and_drops_what_has_no_room() -> anyhow::Result<()> {
    let pair = Pair::new(5)?;
    // 1,000 bytes on the wire take 10 ms; 5 fit in the queue.
    pair.world.default_link(Link::new().latency(MS).bandwidth(800_000, 5_000));
    for n in 0..8 {
        let mut payload = [0; 972];
        payload[0] = n;
        pair.a_writes(&payload)?;
    }
    pair.world.run_for(Duration::from_secs(1))?;
    assert_eq!(pair.at_b.numbers(), [0, 1, 2, 3, 4]);
    let times: Vec<_> = pair.at_b.seen.borrow().iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [11, 21, 31, 41, 51].map(|ms| ms * MS));
    Ok(())
}

#[test]
fn what_a_host_sends_to_itself_passes_no_link_but_one_of_its_own() -> anyhow::Result<()> {
    let pair = Pair::new(6)?;
    pair.world.default_link(Link::new().loss(1.0));
    let _storm = pair.world.rule(Rule::drop())?;
    let own = "10.0.0.1:1000".parse()?;
    pair.a.write_to(b"1", own)?;
    pair.world.run_for(MS)?;
    assert_eq!(*pair.at_a.seen.borrow(), [(Duration::ZERO, Seen::Datagram(b"1".to_vec()))]);
    pair.world.link("a", "a", Link::new().latency(5 * MS))?;
    pair.a.write_to(b"2", own)?;
    pair.world.run_for(10 * MS)?;
    assert_eq!(pair.at_a.seen.borrow()[1..], [(6 * MS, Seen::Datagram(b"2".to_vec()))]);
    Ok(())
}

#[test]
fn a_narrow_link_with_a_long_queue_fills_the_send_buffer_and_pushes_back() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    // 1,000 bytes on the wire take 1 ms; the queue is longer than the send buffer.
    pair.world.default_link(Link::new().latency(MS).bandwidth(8_000_000, 10 << 20));
    let count = 1_000_u32;
    for n in 0..count {
        pair.a_writes(&[&n.to_be_bytes()[..], &[0; 968]].concat())?;
    }
    pair.world.run_for(MS)?;
    assert_eq!(pair.at_a.take(), [Seen::Paused]);
    let waiting = pair.a.queued_datagrams();
    assert!((800..950).contains(&waiting), "{waiting}");
    pair.world.run_for(Duration::from_secs(2))?;
    assert_eq!(pair.at_a.take(), [Seen::Resumed]);
    let times: Vec<_> = pair.at_b.seen.borrow().iter().map(|(at, _)| *at).collect();
    assert!(times.windows(2).all(|two| two[1] - two[0] == MS), "the link is never idle");
    assert_eq!(times.len(), count as usize);
    Ok(())
}

#[test]
fn what_meets_no_queue_takes_no_room_in_the_send_buffer() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    // A minute for each.
    pair.world.default_link(Link::new().bandwidth(140, 10 << 20));
    let options = UdpOptions::parse("10.0.0.1:1001")?.send_buffer_size(4_000);
    let port = pair.at_a.handle.listen_udp(options, Witness::new(&pair.at_a.handle))?;
    for _ in 0..3 {
        port.write_to(&[1; 1_000], "10.0.0.2:2000".parse()?)?;
        pair.world.run_for(MS)?;
        for _ in 0..100 {
            port.try_write_to(b"2", "10.0.0.1:1000".parse()?)?;
            pair.world.run_for(MS)?;
        }
    }
    assert_eq!(pair.at_a.numbers(), [b'2'; 300]);
    Ok(())
}

/// A port of A that is connected to B's, over a path with an MTU of 1,280 bytes: what it saw, and
/// the lengths that arrived.
fn narrow(mode: PathMtu, lengths: [usize; 3]) -> anyhow::Result<(Vec<Seen>, Vec<usize>, u32)> {
    let pair = Pair::new(1)?;
    pair.world.link("a", "b", Link::new().latency(MS).mtu(1_280))?;
    let options = UdpOptions::parse("10.0.0.1:1001")?.path_mtu(mode);
    let at_a = Witness::new(&pair.at_a.handle);
    let a = pair.at_a.handle.listen_udp(options, at_a.clone())?;
    a.connect("10.0.0.2:2000".parse()?)?;
    for len in lengths {
        a.write(&vec![0; len])?;
        pair.world.run_for(Duration::from_secs(1))?;
    }
    let len = |seen| match seen {
        Seen::Datagram(payload) => payload.len(),
        other => panic!("{other:?}"),
    };
    Ok((at_a.take(), pair.at_b.take().into_iter().map(len).collect(), a.path_mtu()?))
}

#[test]
fn the_first_datagram_too_long_for_the_path_is_lost_and_its_mtu_learned() -> anyhow::Result<()> {
    const EMSGSIZE: i32 = 90;
    let told = Seen::NetworkError(Some(EMSGSIZE));
    let (seen, arrived, mtu) = narrow(PathMtu::Want, [1_252, 1_253, 1_253])?;
    assert_eq!((seen, arrived, mtu), (vec![told.clone()], vec![1_252, 1_253], 1_280));
    let (seen, arrived, mtu) = narrow(PathMtu::DontFragment, [1_252, 1_253, 1_253])?;
    assert_eq!((&seen[..1], arrived, mtu), (&[told][..], vec![1_252], 1_280));
    assert!(seen[1..].contains(&Seen::WriteFailed(Some(EMSGSIZE))), "{seen:?}");
    let (seen, arrived, _) = narrow(PathMtu::Fragment, [1_252, 1_253, 65_507])?;
    assert_eq!((seen, arrived), (vec![], vec![1_252, 1_253, 65_507]));
    Ok(())
}

#[test]
fn what_is_longer_than_the_interface_takes_is_cut_for_groups_and_broadcasts_too()
-> anyhow::Result<()> {
    for mtu in [1_500, 1_400] {
        let pair = Pair::new(1)?;
        pair.world.default_link(Link::new().mtu(mtu));
        pair.b.join_group([239, 0, 0, 1], "eth0")?;
        pair.a.set_broadcast_allowed(true)?;
        for to in ["239.0.0.1:2000", "10.0.0.255:2000", "10.0.0.2:2000"] {
            pair.a.write_to(&[7; 3_000], to.parse()?)?;
            // A router between may not cut what fits the interface; of groups it does not tell.
            pair.a.write_to(&[1; 1_450], to.parse()?)?;
        }
        pair.world.run_for(SECOND)?;
        let whole = if mtu == 1_500 { vec![7, 1, 7, 1, 7, 1] } else { vec![7, 7, 7] };
        assert_eq!(pair.at_b.numbers(), whole, "an MTU of {mtu}");
    }
    Ok(())
}

#[test]
fn routers_of_ipv6_cut_nothing_and_tell_the_sender_at_once() -> anyhow::Result<()> {
    let world = World::new(1);
    let (a, b) = (world.host("a", "fd00::1")?, world.host("b", "fd00::2")?);
    world.default_link(Link::new().mtu(1_400));
    let (at_a, at_b) = (Witness::new(&a), Witness::new(&b));
    b.listen_udp("[fd00::2]:9", at_b.clone())?;
    let port = a.connect_udp("[fd00::2]:9".parse()?, at_a.clone())?;
    for n in 1..=2 {
        // Cut by the host into pieces of 1,500 bytes, until it knows better.
        port.write(&[n; 3_000])?;
        world.run_for(SECOND)?;
    }
    const EMSGSIZE: i32 = 90;
    assert_eq!(at_a.take(), [Seen::NetworkError(Some(EMSGSIZE))]);
    assert_eq!((at_b.numbers(), port.path_mtu()?), (vec![2], 1_400));
    Ok(())
}

#[test]
fn pieces_pass_links_and_rules_once_and_the_narrowest_cuts_them() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    pair.world.default_link(Link::new().mtu(1_000));
    // A megabyte in a second: the pieces of 60,000 bytes take 61 ms and a half with their headers.
    let uplink = Link::new().mtu(1_400).bandwidth(8_000_000, 1 << 20);
    let uplink = pair.world.rule(Rule::through(uplink).from("a"))?;
    pair.a_writes(&[1; 60_000])?;
    pair.world.run_for(SECOND)?;
    let (at, seen) = pair.at_b.seen.borrow()[0].clone();
    assert_eq!(seen, Seen::Datagram(vec![1; 60_000]));
    assert_eq!(uplink.hits(), 60_008_u64.div_ceil(976), "as many as there are pieces");
    assert!((60 * MS..63 * MS).contains(&at), "{at:?}");
    Ok(())
}
