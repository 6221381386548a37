//! Nothing leaks a descriptor.
//!
//! Descriptors are counted for the whole process, so this is the one test of its binary.

#[path = "support/mod.rs"]
mod support;

use std::io::ErrorKind;

use strand_reactor::{PortState, Reactor, UdpOptions};

use support::{Lab, Recorder, Setup, Way};

/// What this process has open.
fn open_descriptors() -> usize {
    // One of them is the folder being read.
    std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

/// Runs `work` many times; it must leave as many descriptors open as it found.
#[track_caller]
fn leaves_nothing_open(what: &str, s: &Setup, mut work: impl FnMut()) {
    // The first round may open what is kept for good.
    work();
    let before = open_descriptors();
    for _ in 0..20 {
        work();
        assert_eq!(open_descriptors(), before, "{what}, {s}");
    }
}

fn close(lab: &Lab, port: &strand_reactor::DatagramTransport) {
    port.stop_listening();
    lab.until("the port closes", || port.state() == PortState::Closed);
}

#[test]
fn nothing_leaks_a_descriptor() {
    if std::fs::read_dir("/proc/self/fd").is_err() {
        println!("skipped: no /proc to count descriptors in");
        return;
    }
    for s in Setup::all() {
        let s = &s;
        leaves_nothing_open("a reactor", s, || drop(s.lab()));
        leaves_nothing_open("a reactor with ports, dropped", s, || {
            let lab = s.lab();
            let ports = [lab.open(Recorder::quiet()), lab.open(Recorder::echo())];
            ports[0].write_to(b"unsent", s.reach(&ports[1])).unwrap();
            drop(lab);
            // Handles that outlive it keep nothing open.
            assert!(ports.iter().all(|port| port.state() == PortState::Closed));
        });

        let lab = s.lab();
        leaves_nothing_open("a port, opened and stopped", s, || {
            let port = lab.open(Recorder::quiet());
            close(&lab, &port);
        });
        leaves_nothing_open("a protocol that fails to start", s, || {
            let failing = || Recorder::quiet().on_start(|_| anyhow::bail!("no"));
            match s.way {
                Way::Listen => assert!(lab.listen_udp(s.options(), failing()).is_err()),
                Way::Adopt => assert!(lab.adopt_datagram_port(s.socket(), failing()).is_err()),
                Way::Shared => {
                    assert!(lab.adopt_datagram_port_shared(s.socket(), failing()).is_err());
                }
            }
        });
        if s.way == Way::Listen {
            failed_listening(s, &lab);
        } else {
            failed_adoption(s, &lab);
        }
        leaves_nothing_open("a shutdown", s, || {
            let again = s.lab();
            let port = again.open(Recorder::quiet());
            again.stop();
            again.run();
            assert_eq!(port.state(), PortState::Closed);
        });
    }
    adopted_descriptors_are_closed_when_due();
    leaves_nothing_open("a default reactor", &Setup::plain(), || drop(Reactor::new().unwrap()));
}

fn failed_listening(s: &Setup, lab: &Lab) {
    let holder = lab.open(Recorder::quiet());
    let taken = holder.local_addr().unwrap();
    leaves_nothing_open("a bind to a taken port", s, || {
        let options = UdpOptions::new(taken).family(s.family);
        let error = lab.listen_udp(options, Recorder::quiet()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    });
    leaves_nothing_open("an option that is refused", s, || {
        assert!(lab.listen_udp(s.options().device("no-such-if"), Recorder::quiet()).is_err());
        assert!(lab.listen_udp(s.options().ttl(0), Recorder::quiet()).is_err());
        assert!(lab.listen_udp("no address", Recorder::quiet()).is_err());
    });
    leaves_nothing_open("a connect that is refused", s, || {
        let broadcast = "127.255.255.255:9".parse().unwrap();
        assert!(lab.connect_udp(broadcast, Recorder::quiet()).is_err());
    });
}

fn failed_adoption(s: &Setup, lab: &Lab) {
    leaves_nothing_open("a socket that cannot be adopted", s, || {
        let stream = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let unix = std::os::unix::net::UnixDatagram::unbound().unwrap();
        if s.way == Way::Shared {
            assert!(lab.adopt_datagram_port_shared(&stream, Recorder::quiet()).is_err());
            assert!(lab.adopt_datagram_port_shared(&unix, Recorder::quiet()).is_err());
        } else {
            assert!(lab.adopt_datagram_port(stream, Recorder::quiet()).is_err());
            assert!(lab.adopt_datagram_port(unix, Recorder::quiet()).is_err());
        }
    });
}

fn adopted_descriptors_are_closed_when_due() {
    let s = Setup::plain();
    let lab = s.lab();
    let before = open_descriptors();
    let socket = s.socket();
    let shared = lab.adopt_datagram_port_shared(&socket, Recorder::quiet()).unwrap();
    assert_eq!(open_descriptors(), before + 2, "the caller's and ours");
    close(&lab, &shared);
    assert_eq!(open_descriptors(), before + 1, "ours alone is closed");
    let owned = lab.adopt_datagram_port(socket, Recorder::quiet()).unwrap();
    assert_eq!(open_descriptors(), before + 1, "no duplicate is made");
    close(&lab, &owned);
    assert_eq!(open_descriptors(), before);
}
