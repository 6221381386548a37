//! Every system call of a socket can be made to fail, and what the reactor tries again it tries
//! until it succeeds.

use std::time::Duration;

use strand_reactor::sim::{Call, Rule, World, stream_pair};
use strand_reactor::{KeepAlive, PeerAddr, Protocol, TcpOptions, Transport, UdpOptions};

use super::errno::errno;
use super::support::{MS, Pair, Seen, Witness};
use super::watchdog::watchdog;

const SECOND: Duration = Duration::from_secs(1);
const EINTR: i32 = 4;
const EAGAIN: i32 = 11;
const EACCES: i32 = 13;
const ECONNREFUSED: i32 = 111;

struct Quiet;

impl Protocol for Quiet {
    fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }
}

#[test]
fn a_datagram_is_sent_when_the_send_buffer_was_full_for_some_calls_alone() -> anyhow::Result<()> {
    for full in [
        Rule::full_send_buffers().times(1),
        Rule::full_send_buffers().times(10),
        Rule::full_send_buffers().probability(0.8),
    ] {
        let pair = Pair::new(1)?;
        let name = format!("{full:?}");
        let full = pair.world.rule(full)?;
        for n in 0..20 {
            pair.a_writes(&[n])?;
        }
        pair.world.run_for(SECOND)?;
        assert_eq!(pair.at_b.numbers(), (0..20).collect::<Vec<u8>>(), "{name}");
        assert!(full.hits() > 0);
    }
    Ok(())
}

#[test]
fn a_datagram_is_received_when_the_socket_was_not_ready_for_some_calls() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    let late = pair.world.rule(Rule::fail(Call::Receive, EAGAIN).times(3))?;
    pair.a_writes(&[1])?;
    pair.world.run_for(SECOND)?;
    assert_eq!((pair.at_b.numbers(), late.hits()), (vec![1], 3));
    Ok(())
}

#[test]
fn a_stream_is_written_when_the_send_buffer_was_full_for_some_calls_alone() -> anyhow::Result<()> {
    let _watchdog = watchdog();
    for full in [Rule::full_send_buffers().times(5), Rule::full_send_buffers().probability(0.8)] {
        let pair = stream_pair(1, Quiet, Quiet)?;
        let name = format!("{full:?}");
        let full = pair.rule(full)?;
        pair.client().write(b"hello")?;
        pair.run_for(SECOND)?;
        assert_eq!(pair.sent_by_client().written(), b"hello", "{name}");
        assert!(full.hits() > 0);
    }
    Ok(())
}

#[test]
fn a_refused_send_keeps_its_datagram_until_the_rule_ends() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    pair.a.connect("10.0.0.2:2000".parse()?)?;
    let refused = pair.world.rule(Rule::fail(Call::Send, ECONNREFUSED).from("a"))?;
    pair.a.write(&[1])?;
    pair.world.run_for(5 * MS)?;
    assert!((5..=6).contains(&refused.hits()), "once a millisecond: {}", refused.hits());
    assert_eq!((pair.at_b.numbers(), pair.a.queued_datagrams()), (vec![], 1));
    refused.lift();
    pair.world.run_for(SECOND)?;
    assert_eq!((pair.at_b.numbers(), pair.a.queued_datagrams()), (vec![1], 0));
    Ok(())
}

#[test]
fn an_interrupted_call_is_made_again_and_nobody_is_told() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    let signals: Vec<_> = [Call::Send, Call::Receive, Call::Write, Call::Read]
        .into_iter()
        .map(|call| pair.world.rule(Rule::fail(call, EINTR)))
        .collect::<Result<_, _>>()?;
    pair.a_writes(&[1])?;
    pair.world.run_for(SECOND)?;
    assert_eq!((pair.at_b.take(), pair.at_a.take()), (vec![Seen::Datagram(vec![1])], vec![]));
    assert!(signals[0].hits() > 0 && signals[1].hits() > 0);
    Ok(())
}

#[test]
fn calls_about_options_names_and_groups_fail_by_a_rule() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    let group = [239, 0, 0, 1];
    let rule = pair.world.rule(Rule::fail(Call::SetOption, EACCES).from("a"))?;
    assert_eq!(errno(pair.a.set_ttl(9)), EACCES);
    assert_eq!(errno(pair.a.set_broadcast_allowed(true)), EACCES);
    assert_eq!(errno(pair.a.join_group(group, "eth0")), EACCES);
    let options = UdpOptions::parse("10.0.0.1:9")?.ttl(7);
    assert_eq!(
        errno(pair.at_a.handle.listen_udp(options, Witness::new(&pair.at_a.handle))),
        EACCES
    );
    pair.b.set_ttl(9)?;
    drop(rule);
    pair.a.join_group(group, "eth0")?;

    let rule = pair.world.rule(Rule::fail(Call::GetOption, EACCES).from("a").udp())?;
    assert_eq!(errno(pair.a.ttl()), EACCES);
    drop(rule);
    let rule = pair.world.rule(Rule::fail(Call::Name, EACCES).port(1_000))?;
    assert_eq!(errno(pair.a.local_addr()), EACCES);
    assert!(pair.b.local_addr().is_ok());
    drop(rule);
    assert_eq!(pair.a.ttl()?, 64, "nothing was changed");
    Ok(())
}

#[test]
fn a_port_cannot_listen_nor_a_stream_shut_down_when_a_rule_forbids_it() -> anyhow::Result<()> {
    let _watchdog = watchdog();
    let world = World::new(1);
    let host = world.host("a", "10.0.0.1")?;
    let quiet = |_: PeerAddr| Some(Quiet);
    let rule = world.rule(Rule::fail(Call::Listen, EACCES).port(80))?;
    assert_eq!(errno(host.listen_tcp(80, quiet)), EACCES);
    host.listen_tcp(81, quiet)?;
    drop(rule);
    host.listen_tcp(TcpOptions::parse("10.0.0.1:80")?, quiet)?;

    let pair = stream_pair(1, Quiet, Quiet)?;
    let rule = pair.rule(Rule::fail(Call::SetOption, EACCES).tcp())?;
    let times = KeepAlive { idle: SECOND, interval: SECOND, count: 3 };
    assert_eq!(errno(pair.client().set_keepalive(Some(times))), EACCES);
    drop(rule);
    let rule = pair.rule(Rule::fail(Call::Shutdown, EACCES).from("client"))?;
    pair.client().lose_write();
    pair.run_for(SECOND)?;
    assert_eq!(rule.hits(), 1);
    assert!(!pair.sent_by_client().streams().iter().any(|stream| stream.is_ended));

    Ok(())
}

#[test]
#[should_panic(expected = "no socket of that protocol makes the call")]
fn a_rule_about_calls_that_its_protocol_does_not_have_is_refused() {
    let _ = World::new(1).rule(Rule::fail(Call::Accept, EACCES).udp());
}

#[test]
#[should_panic(expected = "an errno of 0")]
fn a_failure_without_an_errno_is_refused() {
    let _ = Rule::fail(Call::Send, 0);
}
