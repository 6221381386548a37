//! Groups of multicast, on loopback: within a host, that is.

use std::net::IpAddr;

use strand_reactor::{DatagramTransport, MulticastError, SourceFilter};

use crate::stage::{Stage, behaviours};
use crate::support::{Log, Recorder};

/// A port that hears groups, and the group to join on loopback; none between two hosts, whose
/// loopbacks do not meet, nor for IPv6, which no system routes from `::1`.
fn member(stage: &dyn Stage, log: &Log) -> Option<(DatagramTransport, IpAddr)> {
    if stage.here_ip() != stage.there_ip() || stage.here_ip().is_ipv6() {
        return None;
    }
    let port = stage.there().listen_multicast("0.0.0.0:0", Recorder::new(log)).unwrap();
    Some((port, "239.255.77.1".parse().unwrap()))
}

/// A port that sends to groups on loopback.
fn sender(stage: &dyn Stage) -> DatagramTransport {
    let port = stage.port_here(Recorder::quiet());
    port.set_multicast_interface(1).unwrap();
    port
}

fn number(port: &DatagramTransport) -> u16 {
    port.local_addr().unwrap().port()
}

behaviours! {
    fn a_member_hears_its_group(stage) {
        let log = Log::default();
        let Some((port, group)) = member(stage, &log) else { return };
        port.join_group(group, 1).unwrap();
        sender(stage).write_to(b"all", (group, number(&port)).into()).unwrap();
        stage.until(|| log.has_payload("all"));
    }

    fn who_has_left_hears_no_more(stage) {
        let log = Log::default();
        let Some((port, group)) = member(stage, &log) else { return };
        let other: IpAddr = "239.255.77.2".parse().unwrap();
        port.join_group(group, 1).unwrap();
        port.join_group(other, 1).unwrap();
        port.leave_group(group, 1).unwrap();
        let from = sender(stage);
        from.write_to(b"left", (group, number(&port)).into()).unwrap();
        from.write_to(b"sentinel", (other, number(&port)).into()).unwrap();
        stage.until(|| log.has_payload("sentinel"));
        assert_eq!(log.datagrams(), 1);
    }

    fn a_group_of_another_port_is_not_heard(stage) {
        let (log, other) = (Log::default(), Log::default());
        let Some((port, group)) = member(stage, &log) else { return };
        let deaf = stage.there().listen_multicast(port.local_addr().unwrap(), Recorder::new(&other));
        let deaf = deaf.unwrap();
        port.join_group(group, 1).unwrap();
        sender(stage).write_to(b"all", (group, number(&port)).into()).unwrap();
        stage.until(|| log.has_payload("all"));
        assert_eq!(other.datagrams(), 0);
        drop(deaf);
    }

    fn each_member_gets_its_own(stage) {
        let (log, other) = (Log::default(), Log::default());
        let Some((port, group)) = member(stage, &log) else { return };
        let second = stage.there().listen_multicast(port.local_addr().unwrap(), Recorder::new(&other));
        second.unwrap().join_group(group, 1).unwrap();
        port.join_group(group, 1).unwrap();
        sender(stage).write_to(b"all", (group, number(&port)).into()).unwrap();
        stage.until(|| log.has_payload("all") && other.has_payload("all"));
    }

    fn joining_twice_is_refused(stage) {
        let Some((port, group)) = member(stage, &Log::default()) else { return };
        port.join_group(group, 1).unwrap();
        let error = port.join_group(group, 1).unwrap_err();
        assert!(matches!(error, MulticastError::AlreadyJoined { .. }), "{error:?}");
        port.leave_group(group, 1).unwrap();
        let error = port.leave_group(group, 1).unwrap_err();
        assert!(matches!(error, MulticastError::NotJoined { .. }), "{error:?}");
    }

    fn a_blocked_source_is_not_heard(stage) {
        let log = Log::default();
        let Some((port, group)) = member(stage, &log) else { return };
        let from = sender(stage);
        let source = stage.here_ip();
        port.join_group(group, 1).unwrap();
        port.block_source(group, source, 1).unwrap();
        let filter = port.source_filter(group, 1).unwrap();
        assert_eq!(filter, Some(SourceFilter::Exclude(vec![source])));
        from.write_to(b"blocked", (group, number(&port)).into()).unwrap();
        from.write_to(b"direct", (source, number(&port)).into()).unwrap();
        stage.until(|| log.has_payload("direct"));
        port.unblock_source(group, source, 1).unwrap();
        from.write_to(b"again", (group, number(&port)).into()).unwrap();
        stage.until(|| log.has_payload("again"));
        assert_eq!(log.datagrams(), 2);
    }

    fn a_chosen_source_is_heard(stage) {
        let log = Log::default();
        let Some((port, group)) = member(stage, &log) else { return };
        let source = stage.here_ip();
        port.join_source(group, source, 1).unwrap();
        let filter = port.source_filter(group, 1).unwrap();
        assert_eq!(filter, Some(SourceFilter::Include(vec![source])));
        sender(stage).write_to(b"chosen", (group, number(&port)).into()).unwrap();
        stage.until(|| log.has_payload("chosen"));
        let error = port.block_source(group, source, 1).unwrap_err();
        assert!(matches!(error, MulticastError::FilterConflict { .. }), "{error:?}");
    }
}
