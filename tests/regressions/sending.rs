//! What was written and did not leave, or left at too high a price.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use strand_reactor::testing::{Script, SendStep};
use strand_reactor::{QueuePolicy, Reactor, UdpOptions};

use crate::support::{Deaf, Event, Log, Recorder, Setup, has_ipv6};
use crate::{nowhere, turn};

const EPERM: i32 = 1;
const EAGAIN: i32 = 11;
const EMSGSIZE: i32 = 90;
const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

/// A queue that emptied by a failure left the port waiting for room: with nothing under way no
/// event came any more, and everything written later stayed where it was.
#[test]
fn a_port_whose_last_waiting_datagram_fails_sends_again() {
    let (reactor, script, log) = (Reactor::new().unwrap(), Script::new(), Log::default());
    let port = script.listen(&reactor, "127.0.0.1:9", Recorder::new(&log)).unwrap();
    script.answer_send(SendStep::Fail(EAGAIN));
    script.answer_send(SendStep::Fail(EPERM));
    port.write_to(b"fails", nowhere()).unwrap();
    turn(&reactor, 2);
    script.make_writable();
    turn(&reactor, 2);
    assert!(log.has(&Event::WriteFailed));
    assert_eq!(port.queued_datagrams(), 0);

    port.write_to(b"next", nowhere()).unwrap();
    turn(&reactor, 2);
    assert_eq!(script.sent().len(), 1);
    assert!(!script.is_watching_writable());
}

/// A send was tried twice, and the second refusal it met was taken for an error of the datagram.
#[test]
fn refusals_in_a_row_cost_no_datagram() {
    for error_queue in [true, false] {
        let (reactor, script, log) = (Reactor::new().unwrap(), Script::new(), Log::default());
        if !error_queue {
            script.without_error_queue();
        }
        let port = script.listen(&reactor, "127.0.0.1:9", Recorder::new(&log)).unwrap();
        port.connect(nowhere()).unwrap();
        script.answer_send(SendStep::Fail(ECONNREFUSED));
        script.answer_send(SendStep::Fail(ECONNREFUSED));
        port.write(b"data").unwrap();
        turn(&reactor, 3);
        assert!(!log.has(&Event::WriteFailed), "{:?}", log.events());
        assert_eq!(script.sent().len(), 1);
    }
}

/// The same against the kernel: refusals may come in between two system calls of one send.
#[test]
fn refusals_that_another_thread_causes_cost_no_datagram() {
    for portable in [false, true] {
        let setup = Setup { portable, ..Setup::plain() };
        let (lab, deaf) = (setup.lab(), Deaf::bind(setup.peer_ip()));
        let port = lab.connect_udp(deaf.addr(), Recorder::quiet()).unwrap();
        let other: UdpSocket = port.with_fd(|fd| fd.try_clone_to_owned().unwrap()).unwrap().into();
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let flood = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                let _ = other.send(b"a refusal, please");
            }
        });
        let mut failed = Vec::new();
        for _ in 0..200 {
            for _ in 0..50 {
                failed.extend(port.try_write(b"at once").err());
            }
            port.write(b"with the turn").unwrap();
            lab.turn();
        }
        stop.store(true, Ordering::Relaxed);
        flood.join().unwrap();
        assert!(failed.is_empty(), "{setup}: {failed:?}");
        assert_eq!(port.stats().unwrap().write_failures, 0, "{setup}");
    }
}

/// Without an error queue, the pending error that the first try met was forgotten when the second
/// failed by the datagram's own fault.
#[test]
fn a_pending_error_met_by_a_send_that_fails_is_told_as_well() {
    let (reactor, script, log) = (Reactor::new().unwrap(), Script::new(), Log::default());
    script.without_error_queue();
    let port = script.listen(&reactor, "127.0.0.1:9", Recorder::new(&log)).unwrap();
    port.connect(nowhere()).unwrap();
    script.answer_send(SendStep::Fail(EHOSTUNREACH));
    // An error of the datagram comes again; a pending one, only once.
    script.answer_send(SendStep::Fail(EMSGSIZE));
    script.answer_send(SendStep::Fail(EMSGSIZE));
    port.write(b"data").unwrap();
    turn(&reactor, 3);
    assert_eq!(log.count(&Event::NetworkError), 1, "{:?}", log.events());
    assert_eq!(log.count(&Event::WriteFailed), 1, "{:?}", log.events());
}

/// What had left a queue gave its memory back only after 256 datagrams: with long ones, many times
/// the limit of the queue.
#[test]
fn a_queue_takes_little_more_memory_than_its_limit() {
    const LIMIT: usize = 1 << 20;
    let (reactor, script) = (Reactor::new().unwrap(), Script::new());
    let options = UdpOptions::parse("127.0.0.1:9")
        .unwrap()
        .queue_policy(QueuePolicy::DropOldest)
        .queue_limit(1024, LIMIT);
    let port = script.listen(&reactor, options, Recorder::quiet()).unwrap();
    script.answer_send(SendStep::Fail(EAGAIN));
    port.write_to(&[1; 60_000], nowhere()).unwrap();
    turn(&reactor, 1);
    let memory = allocation_counter::measure(|| {
        for _ in 0..250 {
            port.write_to(&[1; 60_000], nowhere()).unwrap();
        }
    });
    assert!(port.queued_bytes() <= LIMIT);
    assert!(port.queued_datagrams() > 1, "nothing waits");
    assert!(memory.bytes_current < 4 * LIMIT as i64, "{memory:?}");
}

/// A dual-stack port that was connected to an IPv4 peer merged its sends into messages of the
/// length that IPv6 allows, was refused, and sent every datagram by itself from then on.
#[test]
fn a_dual_port_sends_to_an_ipv4_peer_in_batches_as_large_as_an_ipv4_port_does() {
    if !has_ipv6() {
        return;
    }
    let [v4, dual] = ["0.0.0.0:0", "[::]:0"].map(|address| {
        let setup = Setup::plain();
        let (lab, log) = (setup.lab(), Log::default());
        let sink = lab.listen_udp(setup.options().recv_buffer_size(1 << 20), Recorder::new(&log));
        let sink = sink.unwrap();
        let peer = sink.local_addr().unwrap();
        let port = lab.connect_udp_from(address, peer, Recorder::quiet()).unwrap();
        // A port merges once it has reason to believe in its peer, and takes what was merged as
        // one message once it has seen bursts.
        for _ in 0..400 {
            port.try_write(b"x").unwrap();
        }
        lab.until("the first", || log.datagrams() == 400);
        let mut batches = 0;
        for round in 0..40 {
            log.take();
            let before = sink.stats().unwrap().batches_in;
            for _ in 0..52 {
                port.write(&[0; 1260]).unwrap();
            }
            port.flush().unwrap();
            lab.until("the burst", || log.datagrams() == 52);
            if round >= 20 {
                batches += sink.stats().unwrap().batches_in - before;
            }
        }
        batches
    });
    assert_eq!(dual, v4, "messages of the kernel were of other lengths");
}
