//! Peers that come and go: who is told of which report, and who is answered.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;

use strand_reactor::{DatagramTransport, Family, Metadata, UdpOptions};

use crate::support::{Deaf, Event, Log, Recorder, Setup};

/// Reports that waited when a port connected were told as refusals by its new peer.
#[test]
fn a_report_from_before_connect_is_no_refusal_of_the_peer() {
    let setup = Setup::plain();
    let (lab, live, log) = (setup.lab(), setup.peer(), Log::default());
    let deaf = Deaf::bind(setup.peer_ip());
    let port = lab.open(Recorder::new(&log));
    port.set_error_queue(true).unwrap();
    port.try_write_to(b"x", deaf.addr()).unwrap();
    port.connect(live.addr()).unwrap();
    log.take();
    lab.settle();
    assert_eq!(log.events(), [Event::NetworkError]);
}

/// `disconnect` read the portion of a turn from the error queue and lost the rest.
#[test]
fn disconnecting_loses_no_report_however_many_wait() {
    const COUNT: usize = 100;
    let setup = Setup::plain();
    let (lab, log) = (setup.lab(), Log::default());
    let deaf = Deaf::bind(setup.peer_ip());
    let port = lab.open(Recorder::new(&log));
    port.connect(deaf.addr()).unwrap();
    let other: UdpSocket = port.with_fd(|fd| fd.try_clone_to_owned().unwrap()).unwrap().into();
    let mut sent = 0;
    for _ in 0..4 * COUNT {
        // Every second send or so meets the refusal of one before, and sends nothing.
        sent += usize::from(other.send(b"x").is_ok());
        if sent == COUNT {
            break;
        }
    }
    assert_eq!(sent, COUNT);
    port.disconnect().unwrap();
    lab.until("every report", || log.count(&Event::NetworkError) == COUNT);
    lab.settle();
    assert_eq!(log.count(&Event::NetworkError), COUNT);
    assert_eq!(log.count(&Event::Refused), 0, "by a peer that was left");
}

/// Reports take room in the receive buffer. One that found it full left only the pending error,
/// which was read and dropped because the queue was to tell the same.
#[test]
fn a_refusal_is_told_although_the_receive_buffer_is_full() {
    for portable in [false, true] {
        let setup = Setup { portable, ..Setup::plain() };
        let (lab, log) = (setup.lab(), Log::default());
        let peer = UdpSocket::bind((setup.peer_ip(), 0)).unwrap();
        let address = peer.local_addr().unwrap();
        let options = setup.options().recv_buffer_size(1).start_paused(true);
        let port = lab.connect_udp_from(options, address, Recorder::new(&log)).unwrap();
        for size in [1400, 900, 600, 300, 100, 1] {
            for _ in 0..50 {
                peer.send_to(&vec![0; size], port.local_addr().unwrap()).unwrap();
            }
        }
        // From here on nobody listens at that address.
        peer.connect(address).unwrap();
        for count in 1..=3 {
            port.write(b"knock").unwrap();
            lab.until("the refusal", || log.count(&Event::Refused) == count);
        }
        lab.settle();
        assert_eq!(log.count(&Event::Refused), 3, "{setup}");
    }
}

/// `disconnect` put back the interface that the port was confined to when it connected, whatever
/// was chosen in between.
#[test]
fn a_device_that_is_set_while_connected_survives_disconnecting() {
    let setup = Setup::plain();
    let (lab, peer) = (setup.lab(), setup.peer());
    let port = lab.open(Recorder::quiet());
    port.connect(peer.addr()).unwrap();
    if !confine(&port, Some("lo")) {
        return;
    }
    port.disconnect().unwrap();
    assert_eq!(port.device().unwrap().as_deref(), Some("lo"));

    port.connect(peer.addr()).unwrap();
    if !confine(&port, None) {
        return;
    }
    port.disconnect().unwrap();
    assert_eq!(port.device().unwrap(), None);
}

/// Tells whether that was allowed: Linux lets everybody confine a socket, but not free it again.
fn confine(port: &DatagramTransport, device: Option<&str>) -> bool {
    match port.set_device(device) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            println!("skipped: no right to confine a socket to {device:?}: {error}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

/// An unbound port loses its number with its peer, and is given another by its next send;
/// `destination` went on to tell the first.
#[test]
fn destination_tells_the_number_that_the_port_has_now() {
    let setup = Setup::plain();
    let (lab, peer) = (setup.lab(), setup.peer());
    let seen: Rc<RefCell<Vec<SocketAddr>>> = Rc::default();
    let sink = Rc::clone(&seen);
    let options = UdpOptions::unbound(Family::V4).metadata(Metadata::DESTINATION);
    let protocol = Recorder::quiet().on_datagram(move |_, datagram| {
        sink.borrow_mut().extend(datagram.destination());
        Ok(())
    });
    let port = lab.listen_udp(options, protocol).unwrap();
    port.connect(peer.addr()).unwrap();
    let first = port.local_addr().unwrap();
    peer.send("x", first);
    lab.until("the first datagram", || seen.borrow().len() == 1);
    assert_eq!(seen.borrow()[0], first);

    port.disconnect().unwrap();
    // Held here or by somebody else: the port is not given this number again.
    let _held = UdpSocket::bind(("0.0.0.0", first.port()));
    port.try_write_to(b"y", peer.addr()).unwrap();
    let second = SocketAddr::new(setup.peer_ip(), port.local_addr().unwrap().port());
    assert_ne!(first.port(), second.port());
    peer.send("x", second);
    lab.until("the second datagram", || seen.borrow().len() == 2);
    assert_eq!(seen.borrow()[1], second);
}

/// `reply` named the asker or not by what the port was when its batch was received: an answer
/// after `connect` in the callback was refused as addressed.
#[test]
fn a_reply_may_follow_connecting_to_the_asker() {
    let setup = Setup::plain();
    let (lab, peer) = (setup.lab(), setup.peer());
    let port = lab.open(Recorder::quiet().on_datagram(|transport, datagram| {
        if datagram.payload() == b"1" {
            transport.connect(datagram.source())?;
        }
        transport.write_with(datagram.payload(), &datagram.reply())?;
        Ok(())
    }));
    for payload in ["1", "2", "3"] {
        peer.send(payload, setup.reach(&port));
    }
    lab.settle();
    assert_eq!(peer.payloads(3), [b"1", b"2", b"3"]);
    assert_eq!(lab.stats().callback_errors, 0);
}

/// What a stranger had sent before `connect` was delivered after it, and the answer, which named
/// no destination, went to the peer.
#[test]
fn a_reply_to_a_stranger_never_goes_to_the_peer() {
    let setup = Setup::plain();
    let (lab, peer, stranger) = (setup.lab(), setup.peer(), setup.peer());
    let log = Log::default();
    let port = lab.open(Recorder::new(&log).on_datagram(|transport, datagram| {
        transport.write_with(b"not for the peer", &datagram.reply())?;
        Ok(())
    }));
    stranger.send("x", setup.reach(&port));
    port.connect(peer.addr()).unwrap();
    lab.until("the stranger's datagram", || log.datagrams() == 1);
    assert_eq!(lab.stats().callback_errors, 1, "there is no way to the stranger");
    port.write(b"for the peer").unwrap();
    assert_eq!(lab.receive(&peer).0, b"for the peer");
}
