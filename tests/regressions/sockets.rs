//! Sockets that live longer than their port or are somebody else's as well, and what is received
//! through them.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use strand_reactor::testing::Script;
use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Metadata, Reactor, UdpOptions, WriteError,
};

use crate::support::{Deaf, Event, Log, Peer, Recorder, Setup};
use crate::turn;

/// The poller forgets a socket with its last descriptor. A port that merely closed its own left
/// the socket registered, if somebody had another, and every datagram woke the loop for nothing.
#[test]
fn a_closed_port_whose_socket_lives_elsewhere_wakes_the_loop_no_more() {
    let setup = Setup::plain();
    let (lab, peer, log) = (setup.lab(), setup.peer(), Log::default());
    let adopted = UdpSocket::bind("127.0.0.1:0").unwrap();
    let kept = adopted.try_clone().unwrap();
    let adopted = lab.adopt_datagram_port(adopted, Recorder::quiet()).unwrap();
    let listening = lab.open(Recorder::quiet());
    let lent: UdpSocket = listening.with_fd(|fd| fd.try_clone_to_owned().unwrap()).unwrap().into();
    adopted.stop_listening();
    listening.stop_listening();
    lab.run();

    let sentinel = lab.open(Recorder::new(&log));
    for count in 1..=5 {
        for socket in [&kept, &lent] {
            peer.send("nobody's", socket.local_addr().unwrap());
        }
        peer.send("x", setup.reach(&sentinel));
        lab.until("the sentinel", || log.datagrams() == count);
    }
    assert_eq!(lab.stats().stale_events, 0);
}

/// For the same reason the socket could not be adopted again, where its descriptor was given the
/// number of the closed one.
#[test]
fn the_socket_of_a_closed_port_can_be_adopted_again() {
    let reactor = Reactor::new().unwrap();
    for _ in 0..200 {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (number, kept) = (socket.as_raw_fd(), socket.try_clone().unwrap());
        let port = reactor.adopt_datagram_port(socket, Recorder::quiet()).unwrap();
        port.stop_listening();
        turn(&reactor, 2);
        let again = kept.try_clone().unwrap();
        let same = again.as_raw_fd() == number;
        reactor.adopt_datagram_port(again, Recorder::quiet()).unwrap().stop_listening();
        turn(&reactor, 2);
        // Another test may have been given the number in between.
        if same {
            return;
        }
    }
    panic!("no descriptor was given its number again");
}

/// A shared socket that its port had connected kept its error queue, which nobody read any more.
#[test]
fn a_shared_socket_is_given_back_without_an_error_queue() {
    let reactor = Reactor::new().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = reactor.adopt_datagram_port_shared(&socket, Recorder::quiet()).unwrap();
    let witness = reactor.adopt_datagram_port_shared(&socket, Recorder::quiet()).unwrap();
    assert!(!witness.error_queue().unwrap());
    port.connect("127.0.0.1:9".parse().unwrap()).unwrap();
    assert!(witness.error_queue().unwrap());
    port.stop_listening();
    turn(&reactor, 2);
    assert!(!witness.error_queue().unwrap());
}

/// A socket that queues its errors was trusted to tell refusals by the queue, which the portable
/// path does not read.
#[test]
fn an_adopted_socket_with_an_error_queue_tells_refusals_on_the_portable_path() {
    let setup = Setup { portable: true, ..Setup::plain() };
    let (lab, log) = (setup.lab(), Log::default());
    let deaf = Deaf::bind(setup.peer_ip());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(deaf.addr()).unwrap();
    let batched = Reactor::new().unwrap();
    let before = batched.adopt_datagram_port_shared(&socket, Recorder::quiet()).unwrap();
    before.set_error_queue(true).unwrap();
    drop(batched);

    let port = lab.adopt_datagram_port(socket, Recorder::new(&log)).unwrap();
    port.write(b"knock").unwrap();
    lab.until("the refusal", || log.has(&Event::Refused));
    lab.settle();
    assert_eq!(log.count(&Event::Refused), 1);
}

/// The kernel does not tell the peer of a raw socket, and nothing said that a port over one that
/// was connected therefore needs destinations.
#[test]
fn an_adopted_raw_socket_needs_destinations_even_where_it_was_connected() {
    let raw = match Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(253))) {
        Ok(raw) => raw,
        Err(error) => {
            println!("skipped: no right to make a raw socket: {error}");
            return;
        }
    };
    // Other tests use another address: each packet goes to every raw socket of its address.
    let peer = SocketAddr::from(([127, 0, 0, 253], 0));
    raw.bind(&peer.into()).unwrap();
    raw.connect(&peer.into()).unwrap();
    let (lab, log) = (Setup::plain().lab(), Log::default());
    let port = lab.adopt_datagram_port(raw, Recorder::new(&log)).unwrap();
    let without = port.write(b"experiment");
    assert!(matches!(without, Err(WriteError::DestinationRequired)), "{without:?}");
    port.write_to(b"experiment", peer).unwrap();
    lab.until("the packet", || log.datagrams() == 1);
    assert!(log.payloads()[0].ends_with(b"experiment"));
}

/// A socket that its other owner shut down reads as ended for ever, and must not spin the loop.
#[test]
fn a_socket_that_its_other_owner_shut_down_spins_nothing() {
    for portable in [false, true] {
        let setup = Setup { portable, ..Setup::plain() };
        let (lab, peer, log) = (setup.lab(), Peer::bind(setup.peer_ip()), Log::default());
        let socket = Socket::from(UdpSocket::bind("127.0.0.1:0").unwrap());
        socket.connect(&peer.addr().into()).unwrap();
        lab.adopt_datagram_port_shared(&socket, Recorder::new(&log)).unwrap();
        lab.settle();
        socket.shutdown(Shutdown::Both).unwrap();
        let before = lab.stats().turns;
        lab.call_later(Duration::from_millis(50), |handle| handle.crash());
        lab.run();
        assert!(lab.stats().turns - before < 10, "{setup}");
        assert_eq!(log.datagrams(), 0, "{setup}");
    }
}

/// A datagram from before the question says nothing of drops, which was taken for "none ever": the
/// next one told all that the kernel had dropped before.
#[test]
fn drops_from_before_the_question_are_not_told_although_datagrams_wait() {
    let setup = Setup::plain();
    let (lab, peer) = (setup.lab(), setup.peer());
    let drops: Rc<RefCell<Vec<Option<u32>>>> = Rc::default();
    let sink = Rc::clone(&drops);
    let port = lab.open(Recorder::quiet().on_datagram(move |_, datagram| {
        sink.borrow_mut().push(datagram.kernel_drops());
        Ok(())
    }));
    port.set_recv_buffer_size(1).unwrap();
    for _ in 0..200 {
        peer.send([0; 200], setup.reach(&port));
    }
    port.set_metadata(Metadata::DROPS).unwrap();
    lab.settle();
    let before = drops.borrow().len();
    assert!((1..200).contains(&before), "{before} of 200 found room");
    peer.send("x", setup.reach(&port));
    lab.until("the last datagram", || drops.borrow().len() == before + 1);
    assert!(drops.borrow().iter().all(|told| *told == Some(0)), "{:?}", drops.borrow());
}

/// An address of one link is none without the link: `destination` left the interface out.
#[test]
fn a_link_local_destination_names_its_interface() {
    let (reactor, script) = (Reactor::new().unwrap(), Script::new());
    let seen: Rc<Cell<Option<SocketAddr>>> = Rc::default();
    let sink = Rc::clone(&seen);
    let options = UdpOptions::parse("[::]:9").unwrap().metadata(Metadata::DESTINATION);
    let protocol = Recorder::quiet().on_datagram(move |_, datagram| {
        sink.set(datagram.destination());
        Ok(())
    });
    script.listen(&reactor, options, protocol).unwrap();
    let link_local: Ipv6Addr = "fe80::1".parse().unwrap();
    for (destination, scope) in [(link_local, 3), (Ipv6Addr::LOCALHOST, 0)] {
        let source = SocketAddr::new(destination.into(), 7);
        script.receive_at(source, b"x", destination.into(), Some(IpAddr::V6(destination)), 3);
        turn(&reactor, 1);
        let Some(SocketAddr::V6(told)) = seen.take() else { panic!("no destination") };
        assert_eq!((*told.ip(), told.scope_id()), (destination, scope));
    }
}

/// While a delivery had the receive buffers, pulling from another port made a second set, a
/// megabyte each time.
#[test]
fn pulling_inside_a_delivery_allocates_no_buffers() {
    struct Puller(DatagramTransport, Rc<Cell<usize>>);
    impl DatagramProtocol for Puller {
        fn datagram_received(
            &mut self,
            _: &DatagramTransport,
            _: Datagram<'_>,
        ) -> anyhow::Result<()> {
            while self.0.read_datagram(&mut [0; 64])?.is_some() {
                self.1.set(self.1.get() + 1);
            }
            Ok(())
        }
    }
    let setup = Setup::plain();
    let (lab, peer, pulled) = (setup.lab(), setup.peer(), Rc::new(Cell::new(0)));
    let paused = lab.listen_udp(setup.options().start_paused(true), Recorder::quiet()).unwrap();
    let port = lab.open(Puller(paused.clone(), Rc::clone(&pulled)));
    let round = || {
        peer.send("x", setup.reach(&paused));
        peer.send("x", setup.reach(&port));
        turn(lab.reactor(), 2);
    };
    for _ in 0..5 {
        round();
    }
    let memory = allocation_counter::measure(|| {
        for _ in 0..10 {
            round();
        }
    });
    assert_eq!(pulled.get(), 15);
    assert!(memory.bytes_total < 100_000, "{memory:?}");
}
