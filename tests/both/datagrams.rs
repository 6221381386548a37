//! Datagrams that arrive, and the life of their ports.

use std::net::SocketAddr;

use strand_reactor::{Metadata, PortState};

use crate::stage::behaviours;
use crate::support::{Event, Log, Recorder};

behaviours! {
    fn a_datagram_arrives_with_its_source(stage) {
        let log = Log::default();
        let told = log.clone();
        let to = stage.port_there(Recorder::new(&log).on_datagram(move |_, datagram| {
            assert_ne!(datagram.source().port(), 0);
            told.note("heard");
            Ok(())
        }));
        let from = stage.port_here(Recorder::quiet());
        from.write_to(b"hello", to.local_addr().unwrap()).unwrap();
        stage.until(|| log.has_note("heard"));
        assert!(log.has_payload("hello"));
    }

    fn an_answer_comes_back(stage) {
        let log = Log::default();
        let to = stage.port_there(Recorder::echo());
        let from = stage.port_here(Recorder::new(&log));
        from.write_to(b"ping", to.local_addr().unwrap()).unwrap();
        stage.until(|| log.has_payload("ping"));
    }

    fn an_empty_datagram_is_delivered(stage) {
        let log = Log::default();
        let to = stage.port_there(Recorder::new(&log));
        stage.port_here(Recorder::quiet()).write_to(b"", to.local_addr().unwrap()).unwrap();
        stage.until(|| log.datagrams() == 1);
        assert_eq!(log.payloads(), [b""]);
    }

    fn many_arrive_in_order(stage) {
        let log = Log::default();
        let to = stage.port_there(Recorder::new(&log));
        let from = stage.port_here(Recorder::quiet());
        for number in 0_u8..100 {
            from.write_to(&[number], to.local_addr().unwrap()).unwrap();
        }
        stage.until(|| log.datagrams() == 100);
        assert!(log.payloads().iter().map(|data| data[0]).eq(0..100));
    }

    fn a_long_datagram_is_whole(stage) {
        let log = Log::default();
        let to = stage.port_there(Recorder::new(&log));
        let payload: Vec<u8> = (0..60_000).map(|at| at as u8).collect();
        stage.port_here(Recorder::quiet()).write_to(&payload, to.local_addr().unwrap()).unwrap();
        stage.until(|| log.datagrams() == 1);
        assert!(log.has_payload(&payload));
    }

    fn what_exceeds_the_limit_is_cut_and_says_so(stage) {
        let log = Log::default();
        let told = log.clone();
        let protocol = Recorder::new(&log).on_datagram(move |_, datagram| {
            told.note(if datagram.is_truncated() { "cut" } else { "whole" });
            Ok(())
        });
        let options = stage.options_there().max_datagram_size(4);
        let to = stage.there().listen_udp(options, protocol).unwrap();
        let from = stage.port_here(Recorder::quiet());
        from.write_to(b"12345", to.local_addr().unwrap()).unwrap();
        from.write_to(b"1234", to.local_addr().unwrap()).unwrap();
        stage.until(|| log.datagrams() == 2);
        assert_eq!(log.payloads(), [b"1234", b"1234"]);
        assert!(log.has_note("cut") && log.has_note("whole"));
        assert_eq!(to.stats().unwrap().truncated, 1);
    }

    fn a_port_may_send_to_itself(stage) {
        let log = Log::default();
        let port = stage.port_here(Recorder::new(&log));
        port.write_to(b"self", port.local_addr().unwrap()).unwrap();
        stage.until(|| log.has_payload("self"));
    }

    fn a_paused_port_delivers_after_resuming_and_in_order(stage) {
        let log = Log::default();
        let to = stage.port_there(Recorder::new(&log));
        to.pause_reading().unwrap();
        assert_eq!(to.state(), PortState::Paused);
        let other = Log::default();
        let sentinel = stage.port_there(Recorder::new(&other));
        let from = stage.port_here(Recorder::quiet());
        from.write_to(b"one", to.local_addr().unwrap()).unwrap();
        from.write_to(b"two", to.local_addr().unwrap()).unwrap();
        from.write_to(b"now", sentinel.local_addr().unwrap()).unwrap();
        stage.until(|| other.has_payload("now"));
        assert_eq!(log.datagrams(), 0);
        to.resume_reading().unwrap();
        stage.until(|| log.datagrams() == 2);
        assert_eq!(log.payloads(), [b"one", b"two"]);
    }

    fn a_paused_port_can_be_pulled_from(stage) {
        let to = stage.port_there(Recorder::quiet());
        to.pause_reading().unwrap();
        let from = stage.port_here(Recorder::quiet());
        from.write_to(b"pulled", to.local_addr().unwrap()).unwrap();
        stage.until(|| to.pending_datagram_size().unwrap().is_some());
        let mut buffer = [0; 3];
        let datagram = to.read_datagram(&mut buffer).unwrap().unwrap();
        assert_eq!((&buffer, datagram.size(), datagram.is_truncated()), (b"pul", 6, true));
        assert!(to.read_datagram(&mut buffer).unwrap().is_none());
    }

    fn pausing_in_a_batch_keeps_the_rest(stage) {
        let log = Log::default();
        let protocol = Recorder::new(&log).on_datagram(|port, _| Ok(port.pause_reading()?));
        let to = stage.port_there(protocol);
        let from = stage.port_here(Recorder::quiet());
        for number in 0_u8..5 {
            from.write_to(&[number], to.local_addr().unwrap()).unwrap();
        }
        for seen in 1..=5 {
            stage.until(|| log.datagrams() >= seen);
            assert_eq!(log.datagrams(), seen);
            to.resume_reading().unwrap();
        }
        assert!(log.payloads().iter().map(|data| data[0]).eq(0..5));
    }

    fn stopping_in_a_callback_ends_delivery_at_once(stage) {
        let log = Log::default();
        let protocol = Recorder::new(&log).on_datagram(|port, _| {
            port.stop_listening();
            Ok(())
        });
        let to = stage.port_there(protocol);
        let from = stage.port_here(Recorder::quiet());
        for _ in 0..5 {
            from.write_to(b"x", to.local_addr().unwrap()).unwrap();
        }
        stage.until(|| to.state() == PortState::Closed);
        assert_eq!(log.datagrams(), 1);
        assert_eq!(log.events().last(), Some(&Event::Stop("stopped".to_owned())));
    }

    fn a_goodbye_still_leaves(stage) {
        let log = Log::default();
        let to = stage.port_there(Recorder::new(&log)).local_addr().unwrap();
        let protocol = Recorder::quiet().on_stop(move |port, _| port.write_to(b"bye", to).unwrap());
        stage.port_here(protocol).stop_listening();
        stage.until(|| log.has_payload("bye"));
    }

    fn the_number_is_free_when_the_end_is_told(stage) {
        let port = stage.port_here(Recorder::quiet());
        let (at, log) = (port.local_addr().unwrap(), Log::default());
        let told = log.clone();
        port.stop_listening_then(move |handle| {
            handle.listen_udp(at, Recorder::quiet()).unwrap();
            told.note("opened");
        })
        .unwrap();
        stage.until(|| log.has_note("opened"));
    }

    fn a_taken_number_is_refused(stage) {
        let port = stage.port_here(Recorder::quiet());
        let error = stage.here().listen_udp(port.local_addr().unwrap(), Recorder::quiet());
        assert_eq!(error.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    }

    fn an_address_of_nobody_here_is_refused(stage) {
        let ip = if stage.here_ip().is_ipv4() { "203.0.113.9:0" } else { "[2001:db8::9]:0" };
        let at: SocketAddr = ip.parse().unwrap();
        let error = stage.here().listen_udp(at, Recorder::quiet()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrNotAvailable);
    }

    fn a_failing_start_closes_the_port(stage) {
        let options = stage.options_here();
        let protocol = Recorder::quiet().on_start(|_| anyhow::bail!("not today"));
        let error = stage.here().listen_udp(options, protocol).unwrap_err();
        assert!(error.to_string().contains("not today"));
        assert!(stage.here().datagram_ports().is_empty());
    }

    fn an_error_of_a_callback_hurts_nothing(stage) {
        let log = Log::default();
        let protocol = Recorder::new(&log).on_datagram(|_, _| anyhow::bail!("one of many"));
        let to = stage.port_there(protocol);
        let from = stage.port_here(Recorder::quiet());
        for number in 0_u8..3 {
            from.write_to(&[number], to.local_addr().unwrap()).unwrap();
        }
        stage.until(|| log.datagrams() == 3);
        assert_eq!(to.stats().unwrap().callback_errors, 3);
    }

    fn the_destination_is_told_on_request(stage) {
        let (log, ip) = (Log::default(), stage.there_ip());
        let told = log.clone();
        let protocol = Recorder::new(&log).on_datagram(move |_, datagram| {
            if datagram.info().destination().map(|to| to.ip()) == Some(ip) {
                told.note("here");
            }
            Ok(())
        });
        let options = stage.options_there().metadata(Metadata::DESTINATION);
        let to = stage.there().listen_udp(options, protocol).unwrap();
        stage.port_here(Recorder::quiet()).write_to(b"x", to.local_addr().unwrap()).unwrap();
        stage.until(|| log.has_note("here"));
    }

    fn the_hop_limit_is_told_on_request(stage) {
        let log = Log::default();
        let told = log.clone();
        let protocol = Recorder::new(&log).on_datagram(move |_, datagram| {
            if datagram.info().hop_limit() == Some(9) {
                told.note("nine");
            }
            Ok(())
        });
        let options = stage.options_there().metadata(Metadata::HOP_LIMIT);
        let to = stage.there().listen_udp(options, protocol).unwrap();
        let from = stage.port_here(Recorder::quiet());
        from.set_ttl(9).unwrap();
        assert_eq!(from.ttl().unwrap(), 9);
        from.write_to(b"x", to.local_addr().unwrap()).unwrap();
        stage.until(|| log.has_note("nine"));
    }

    fn shutdown_stops_every_port_and_says_why(stage) {
        let log = Log::default();
        let port = stage.port_here(Recorder::new(&log));
        stage.here().stop();
        stage.until(|| port.state() == PortState::Closed);
        let last = Event::Stop("the reactor shuts down".to_owned());
        assert_eq!(log.events(), [Event::Start, last]);
    }
}
