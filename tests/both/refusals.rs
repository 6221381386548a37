//! Connected ports, and what they are told when nobody listens.

use strand_reactor::{ConnectError, DatagramTransport, OptionError, PortState, WriteError};

use crate::stage::{Stage, behaviours};
use crate::support::{Event, Log, Recorder};

/// Where nobody listens any more.
fn nobody(stage: &dyn Stage) -> std::net::SocketAddr {
    let port = stage.port_there(Recorder::quiet());
    let at = port.local_addr().unwrap();
    port.stop_listening();
    stage.until(|| port.state() == PortState::Closed);
    at
}

fn connected(stage: &dyn Stage, log: &Log, to: std::net::SocketAddr) -> DatagramTransport {
    let port = stage.port_here(Recorder::new(log));
    port.connect(to).unwrap();
    port
}

behaviours! {
    fn a_refusal_is_told(stage) {
        let log = Log::default();
        let port = connected(stage, &log, nobody(stage));
        port.write(b"anybody?").unwrap();
        stage.until(|| log.has(&Event::Refused));
        assert_eq!(log.events(), [Event::Start, Event::Refused]);
        assert_eq!(port.stats().unwrap().refusals, 1);
    }

    fn each_refused_datagram_is_told_once(stage) {
        let log = Log::default();
        let port = connected(stage, &log, nobody(stage));
        for _ in 0..5 {
            port.write(b"anybody?").unwrap();
        }
        stage.until(|| log.count(&Event::Refused) == 5);
    }

    fn a_write_after_a_refusal_leaves(stage) {
        let (log, heard) = (Log::default(), Log::default());
        let at = nobody(stage);
        let port = connected(stage, &log, at);
        port.write(b"anybody?").unwrap();
        stage.until(|| log.has(&Event::Refused));
        let _later = stage.there().listen_udp(at, Recorder::new(&heard)).unwrap();
        port.write(b"now?").unwrap();
        stage.until(|| heard.has_payload("now?"));
        assert_eq!(log.count(&Event::WriteFailed), 0);
    }

    fn nobody_is_told_on_a_port_without_a_peer(stage) {
        let (log, heard) = (Log::default(), Log::default());
        let at = nobody(stage);
        let port = stage.port_here(Recorder::new(&log));
        port.write_to(b"anybody?", at).unwrap();
        let to = stage.port_there(Recorder::new(&heard));
        port.write_to(b"sentinel", to.local_addr().unwrap()).unwrap();
        stage.until(|| heard.has_payload("sentinel"));
        assert_eq!(log.events(), [Event::Start]);
    }

    fn a_refusal_after_disconnecting_is_an_error_of_the_network(stage) {
        let log = Log::default();
        let port = connected(stage, &log, nobody(stage));
        port.write(b"anybody?").unwrap();
        stage.until(|| log.has(&Event::Refused));
        port.disconnect().unwrap();
        assert!(matches!(port.peer_addr(), Err(OptionError::NotConnected)));
        assert_eq!(log.count(&Event::Refused), 1);
    }

    fn a_connected_port_hears_its_peer_alone(stage) {
        let log = Log::default();
        let (peer, other) = (stage.port_there(Recorder::quiet()), stage.port_there(Recorder::quiet()));
        let port = connected(stage, &log, peer.local_addr().unwrap());
        let to = port.local_addr().unwrap();
        other.write_to(b"stranger", to).unwrap();
        peer.write_to(b"peer", to).unwrap();
        stage.until(|| log.has_payload("peer"));
        assert_eq!(log.payloads(), [b"peer"]);
    }

    fn what_was_queued_before_connecting_is_delivered(stage) {
        let log = Log::default();
        let (peer, other) = (stage.port_there(Recorder::quiet()), stage.port_there(Recorder::quiet()));
        let port = stage.port_here(Recorder::new(&log));
        port.pause_reading().unwrap();
        other.write_to(b"before", port.local_addr().unwrap()).unwrap();
        stage.until(|| port.pending_datagram_size().unwrap().is_some());
        port.connect(peer.local_addr().unwrap()).unwrap();
        port.resume_reading().unwrap();
        stage.until(|| log.has_payload("before"));
    }

    fn a_disconnected_port_hears_everybody_again(stage) {
        let log = Log::default();
        let (peer, other) = (stage.port_there(Recorder::quiet()), stage.port_there(Recorder::quiet()));
        let port = connected(stage, &log, peer.local_addr().unwrap());
        let to = port.local_addr().unwrap();
        port.disconnect().unwrap();
        assert_eq!(port.local_addr().unwrap().port(), to.port());
        other.write_to(b"stranger", to).unwrap();
        stage.until(|| log.has_payload("stranger"));
    }

    fn a_peer_is_taken_once(stage) {
        let log = Log::default();
        let peer = stage.port_there(Recorder::quiet()).local_addr().unwrap();
        let port = connected(stage, &log, peer);
        assert!(matches!(port.connect(peer), Err(ConnectError::IsConnected { .. })));
        assert_eq!(port.peer_addr().unwrap(), peer);
        assert!(matches!(port.write_to(b"x", peer), Err(WriteError::IsConnected { .. })));
        port.disconnect().unwrap();
        assert!(matches!(port.disconnect(), Err(ConnectError::NotConnected)));
        assert!(matches!(port.write(b"x"), Err(WriteError::DestinationRequired)));
    }

    fn connect_udp_writes_from_its_start(stage) {
        let log = Log::default();
        let to = stage.port_there(Recorder::new(&log)).local_addr().unwrap();
        let protocol = Recorder::quiet().on_start(|port| Ok(port.write(b"first")?));
        let port = stage.here().connect_udp(to, protocol).unwrap();
        stage.until(|| log.has_payload("first"));
        assert_eq!(port.local_addr().unwrap().ip(), stage.here_ip());
    }
}
