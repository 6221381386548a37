//! Datagrams whose receiver has no room: they wait, in bounds, and hold nobody else back.

use std::cell::RefCell;
use std::os::unix::net::UnixDatagram as Peer;
use std::path::Path;
use std::rc::Rc;

use strand_reactor::{
    QueuePolicy, Reactor, UnixDatagramOptions, UnixDatagramTransport, WriteError,
};

use crate::datagrams::Port;
use crate::support::{Folder, Log, WATCHDOG, count, log, note, reactor, run, turn_until};

/// A receiver that never read, and how many datagrams it had room for.
fn full(path: &Path) -> (Peer, usize) {
    let receiver = Peer::bind(path).expect("a socket");
    receiver.set_read_timeout(Some(WATCHDOG)).expect("a timeout");
    let sender = Peer::unbound().expect("a socket");
    sender.set_nonblocking(true).expect("an option");
    let mut room = 0;
    while sender.send_to(b"filler", path).is_ok() {
        room += 1;
    }
    (receiver, room)
}

fn receive(peer: &Peer) -> Vec<u8> {
    let mut buffer = [0; 64];
    let len = peer.recv(&mut buffer).expect("a datagram");
    buffer[..len].to_vec()
}

fn open(reactor: &Reactor, options: UnixDatagramOptions, log: &Log) -> UnixDatagramTransport {
    reactor.listen_unix_datagram(options, Port::new(log)).expect("a port")
}

fn numbered(number: usize) -> Vec<u8> {
    number.to_string().into_bytes()
}

/// Reads until the last of `count` numbered datagrams, which come in order.
fn assert_in_order(receiver: &Peer, count: usize) {
    let mut next = 0;
    while next < count {
        let datagram = receive(receiver);
        if datagram != b"filler" {
            assert_eq!(datagram, numbered(next));
            next += 1;
        }
    }
}

#[test]
fn what_waits_for_a_receiver_arrives_whole_and_in_order() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let (receiver, _) = full(&folder.join("receiver"));
    let port = open(&reactor, UnixDatagramOptions::unnamed(), &log);
    for number in 0..600 {
        port.write_to(&numbered(number), folder.join("receiver")).unwrap();
    }
    assert_eq!(port.queued_datagrams(), 600);
    assert!(matches!(
        port.try_write(b"x", Some(folder.join("receiver").into())),
        Err(WriteError::WouldBlock)
    ));
    let reader = std::thread::spawn(move || assert_in_order(&receiver, 600));
    turn_until(&reactor, || port.queued_datagrams() == 0);
    reader.join().expect("in order");
    reactor.iterate(Some(std::time::Duration::ZERO)).unwrap();
    assert_eq!((count(&log, "pause"), count(&log, "resume")), (1, 1), "{log:?}");
    assert_eq!(port.stats().unwrap().queue_high_water, 600);
}

#[test]
fn the_peer_of_a_connected_port_is_waited_for_by_the_poller() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let (receiver, _) = full(&folder.join("receiver"));
    let port = open(&reactor, UnixDatagramOptions::unnamed(), &log);
    port.connect(folder.join("receiver")).unwrap();
    for number in 0..50 {
        port.write(&numbered(number)).unwrap();
    }
    assert_eq!(port.queued_datagrams(), 50);
    // Nothing spins while there is no room.
    let before = reactor.stats().wakeups;
    for _ in 0..3 {
        reactor.iterate(Some(std::time::Duration::from_millis(1))).unwrap();
    }
    assert!(reactor.stats().wakeups <= before + 1);
    let reader = std::thread::spawn(move || assert_in_order(&receiver, 50));
    turn_until(&reactor, || port.queued_datagrams() == 0);
    reader.join().expect("in order");
}

#[test]
fn a_receiver_without_room_holds_back_nobody_else() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let (receiver, _) = full(&folder.join("full"));
    let other = Peer::bind(folder.join("other")).unwrap();
    other.set_read_timeout(Some(WATCHDOG)).unwrap();
    let port = open(&reactor, UnixDatagramOptions::unnamed(), &log);
    port.write_to(b"0", folder.join("full")).unwrap();
    port.write_to(b"at once", folder.join("other")).unwrap();
    assert_eq!(receive(&other), b"at once");
    port.write_to(b"1", folder.join("full")).unwrap();
    assert_eq!(port.queued_datagrams(), 2);
    // A receiver that goes away while it is waited for fails its own.
    drop(receiver);
    turn_until(&reactor, || count(&log, "failed: ConnectionRefused") == 2);
    assert_eq!(port.queued_datagrams(), 0);
}

#[test]
fn a_full_queue_refuses_or_drops_as_its_policy_says() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let path = folder.join("receiver");
    let (_receiver, _) = full(&path);
    for policy in [QueuePolicy::Error, QueuePolicy::DropNewest, QueuePolicy::DropOldest] {
        let options = UnixDatagramOptions::unnamed().queue_limit(2, 1000).queue_policy(policy);
        let port = open(&reactor, options, &log);
        let told: Rc<RefCell<Vec<String>>> = Rc::default();
        let write = |name: &'static str| {
            let told = Rc::clone(&told);
            port.write_then(name.as_bytes(), Some((&path).into()), move |result| {
                let outcome = result.map_err(|error| error.to_string());
                told.borrow_mut().push(format!("{name} {}", outcome.unwrap_err()));
            })
        };
        write("a").unwrap();
        write("b").unwrap();
        let third = write("c");
        let (full, dropped) = match policy {
            QueuePolicy::Error => (true, None),
            QueuePolicy::DropNewest => (false, Some("c")),
            QueuePolicy::DropOldest => (false, Some("a")),
        };
        assert_eq!(matches!(third, Err(WriteError::QueueFull { datagrams: 2, bytes: 2 })), full);
        assert_eq!((port.queued_datagrams(), port.queued_bytes()), (2, 2));
        assert_eq!(port.stats().unwrap().queue_dropped, u64::from(dropped.is_some()));
        port.stop_listening();
        run(&reactor);
        let told = told.borrow();
        assert_eq!(told.len(), if full { 2 } else { 3 }, "{told:?}");
        if let Some(dropped) = dropped {
            assert!(told[0].starts_with(dropped) && told[0].contains("dropped"), "{told:?}");
        }
        assert_eq!(told.iter().filter(|line| line.contains("closed before")).count(), 2);
    }
}

#[test]
fn what_waits_keeps_the_loop_running() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let (receiver, room) = full(&folder.join("receiver"));
    let port = open(&reactor, UnixDatagramOptions::unnamed(), &log);
    let notes = Rc::clone(&log);
    let to = Some(folder.join("receiver").into());
    port.write_then(b"0", to, move |result| note(&notes, format!("{result:?}"))).unwrap();
    port.unref().unwrap();
    assert!(reactor.iterate(Some(std::time::Duration::ZERO)).unwrap());
    let reader = std::thread::spawn(move || {
        (0..room).for_each(|_| drop(receive(&receiver)));
        receiver
    });
    run(&reactor);
    let receiver = reader.join().unwrap();
    assert_eq!(receive(&receiver), b"0");
    assert_eq!(count(&log, "Ok(1)"), 1);
}

#[test]
fn what_was_written_by_address_goes_before_what_is_written_to_the_same_peer() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let path = folder.join("receiver");
    let (receiver, _) = full(&path);
    let port = open(&reactor, UnixDatagramOptions::unnamed(), &log);
    port.write_to(&numbered(0), &path).unwrap();
    port.connect(&path).unwrap();
    // There is room now, for whoever comes first.
    assert_eq!(receive(&receiver), b"filler");
    port.write(&numbered(1)).unwrap();
    let reader = std::thread::spawn(move || assert_in_order(&receiver, 2));
    turn_until(&reactor, || port.queued_datagrams() == 0);
    reader.join().expect("in order");
}

#[test]
fn what_was_written_before_a_disconnect_still_goes_to_the_peer() {
    let (folder, log) = (Folder::new(), log());
    let reactor = reactor();
    let (receiver, _) = full(&folder.join("receiver"));
    let port = open(&reactor, UnixDatagramOptions::unnamed(), &log);
    port.connect(folder.join("receiver")).unwrap();
    for number in 0..5 {
        port.write(&numbered(number)).unwrap();
    }
    port.disconnect().unwrap();
    assert_eq!(port.queued_datagrams(), 5);
    let reader = std::thread::spawn(move || assert_in_order(&receiver, 5));
    turn_until(&reactor, || port.queued_datagrams() == 0);
    reader.join().expect("in order");
}
