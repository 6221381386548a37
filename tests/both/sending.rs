//! Datagrams that are sent, and what their writers are told.

use strand_reactor::{PortState, SendOptions, WriteError};

use crate::stage::behaviours;
use crate::support::{Event, Log, Recorder};

behaviours! {
    fn a_completion_tells_the_length(stage) {
        let log = Log::default();
        let told = log.clone();
        let to = stage.port_there(Recorder::quiet()).local_addr().unwrap();
        let from = stage.port_here(Recorder::quiet());
        from.write_then(b"hello", to, move |result| {
            assert_eq!(result.unwrap(), 5);
            told.note("sent");
        })
        .unwrap();
        assert!(!log.has_note("sent"), "inside of the call");
        stage.until(|| log.has_note("sent"));
    }

    fn try_write_is_at_once(stage) {
        let log = Log::default();
        let to = stage.port_there(Recorder::new(&log)).local_addr().unwrap();
        let from = stage.port_here(Recorder::quiet());
        assert_eq!(from.try_write_to(b"at once", to).unwrap(), 7);
        assert_eq!(from.stats().unwrap().datagrams_out, 1);
        stage.until(|| log.has_payload("at once"));
    }

    fn a_batch_leaves_in_order(stage) {
        let log = Log::default();
        let to = Some(stage.port_there(Recorder::new(&log)).local_addr().unwrap());
        let from = stage.port_here(Recorder::quiet());
        let batch: Vec<(&[u8], _)> = vec![(b"a", to), (b"bb", to), (b"ccc", to)];
        assert_eq!(from.try_write_batch(&batch).unwrap(), 3);
        stage.until(|| log.datagrams() == 3);
        assert_eq!(log.payloads(), [&b"a"[..], b"bb", b"ccc"]);
    }

    fn pieces_are_one_datagram(stage) {
        use std::io::IoSlice;
        let log = Log::default();
        let to = stage.port_there(Recorder::new(&log)).local_addr().unwrap();
        let pieces = [IoSlice::new(b"one "), IoSlice::new(b"datagram")];
        stage.port_here(Recorder::quiet()).write_vectored_to(&pieces, to).unwrap();
        stage.until(|| log.has_payload("one datagram"));
    }

    fn flushing_leaves_nothing_queued(stage) {
        let to = stage.port_there(Recorder::quiet()).local_addr().unwrap();
        let from = stage.port_here(Recorder::quiet());
        from.write_to(b"12345", to).unwrap();
        assert_eq!((from.queued_datagrams(), from.queued_bytes()), (1, 5));
        from.flush().unwrap();
        assert_eq!((from.queued_datagrams(), from.queued_bytes()), (0, 0));
    }

    fn the_hop_limit_of_one_datagram(stage) {
        use strand_reactor::Metadata;
        let log = Log::default();
        let told = log.clone();
        let protocol = Recorder::new(&log).on_datagram(move |_, datagram| {
            told.note(if datagram.info().hop_limit() == Some(3) { "three" } else { "usual" });
            Ok(())
        });
        let options = stage.options_there().metadata(Metadata::HOP_LIMIT);
        let to = stage.there().listen_udp(options, protocol).unwrap().local_addr().unwrap();
        let from = stage.port_here(Recorder::quiet());
        from.write_with(b"x", &SendOptions::to(to).hop_limit(3)).unwrap();
        from.write_to(b"y", to).unwrap();
        stage.until(|| log.datagrams() == 2);
        assert!(log.has_note("three") && log.has_note("usual"));
    }

    fn what_is_too_long_is_refused_at_the_call(stage) {
        let to = stage.port_there(Recorder::quiet()).local_addr().unwrap();
        let from = stage.port_here(Recorder::quiet());
        let error = from.write_to(&[0; 65_528], to).unwrap_err();
        assert!(matches!(error, WriteError::TooLong { len: 65_528, .. }), "{error:?}");
    }

    fn another_family_is_refused_at_the_call(stage) {
        let other = if stage.here_ip().is_ipv4() { "[::1]:9" } else { "127.0.0.1:9" };
        let from = stage.port_here(Recorder::quiet());
        let error = from.write_to(b"x", other.parse().unwrap()).unwrap_err();
        assert!(matches!(error, WriteError::WrongFamily { .. }), "{error:?}");
    }

    fn port_zero_fails_from_the_loop(stage) {
        let log = Log::default();
        let from = stage.port_here(Recorder::new(&log));
        from.write_to(b"x", (stage.there_ip(), 0).into()).unwrap();
        stage.until(|| log.has(&Event::WriteFailed));
        assert_eq!(from.stats().unwrap().write_failures, 1);
    }

    fn a_closed_port_takes_nothing(stage) {
        let to = stage.port_there(Recorder::quiet()).local_addr().unwrap();
        let from = stage.port_here(Recorder::quiet());
        from.stop_listening();
        stage.until(|| from.state() == PortState::Closed);
        assert!(matches!(from.write_to(b"x", to), Err(WriteError::Closed)));
        assert!(from.pause_reading().is_err() && from.stats().is_err());
    }

    fn options_are_as_they_were_set(stage) {
        let port = stage.port_here(Recorder::quiet());
        port.set_ttl(33).unwrap();
        port.set_tos(0x48).unwrap();
        port.set_multicast_ttl(5).unwrap();
        port.set_multicast_loopback(false).unwrap();
        assert_eq!((port.ttl().unwrap(), port.tos().unwrap()), (33, 0x48));
        assert_eq!(port.multicast_ttl().unwrap(), 5);
        assert!(!port.multicast_loopback().unwrap());
        assert!(port.set_ttl(0).is_err() && port.set_ttl(256).is_err());
        assert_eq!(port.ttl().unwrap(), 33);
    }

    fn buffers_are_doubled(stage) {
        let port = stage.port_here(Recorder::quiet());
        port.set_recv_buffer_size(20_000).unwrap();
        port.set_send_buffer_size(30_000).unwrap();
        assert_eq!(port.recv_buffer_size().unwrap(), 40_000);
        assert_eq!(port.send_buffer_size().unwrap(), 60_000);
    }
}
