//! Batches, segmentation, coalescing; and one datagram at a time.

use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};

use super::*;
use crate::net::Ownership;

/// Datagrams of a run share size, destination and control.
fn run(payloads: usize, len: usize, to: SocketAddr) -> Letters {
    let mut letters = Letters::default();
    for index in 0..payloads {
        letters.add(&vec![index as u8; len], Some(to), Control::default());
    }
    letters
}

#[test]
fn forty_datagrams_cross_in_order_and_back() {
    for portable in [false, true] {
        for (family, bind) in FAMILIES {
            let mut bench = Bench::with(portable);
            let (a, b) = (bench.open(&spec(family, bind)), bench.open(&spec(family, bind)));
            let host = if family == Family::Dual { "[::1]:0" } else { bind };
            let mut to: SocketAddr = host.parse().unwrap();
            to.set_port(b.local_addr().unwrap().port());
            let mut letters = Letters::default();
            for index in 0..40_u8 {
                // Lengths that rise, so that no run forms.
                letters.add(&vec![index; usize::from(index)], Some(to), Control::default());
            }
            assert_eq!(a.send(&letters.batch()).unwrap(), 40);
            let arrived = bench.arrivals(&*b, 40);
            let mut answers = Letters::default();
            for (index, datagram) in arrived.iter().enumerate() {
                assert_eq!(datagram.payload, vec![index as u8; index]);
                assert_eq!(datagram.source.port(), a.local_addr().unwrap().port());
                answers.add(&datagram.payload, Some(datagram.source), Control::default());
            }
            assert_eq!(b.send(&answers.batch()).unwrap(), 40);
            assert_eq!(bench.arrivals(&*a, 40)[39].payload, [39; 39]);
        }
    }
}

#[test]
fn more_messages_than_one_system_call_takes() {
    for portable in [false, true] {
        let mut bench = Bench::with(portable);
        let (a, b) = (bench.bound("127.0.0.1:0"), bench.bound("127.0.0.1:0"));
        let to = b.local_addr().unwrap();
        let mut letters = Letters::default();
        for index in 0..150_u8 {
            // Short, long, short, long: no run of more than two.
            letters.add(&[index; 2][..1 + usize::from(index % 2)], Some(to), Control::default());
        }
        assert_eq!(a.send(&letters.batch()).unwrap(), 150);
        let arrived = bench.arrivals(&*b, 150);
        assert!(arrived.iter().enumerate().all(|(index, d)| d.payload[0] == index as u8));
    }
}

#[test]
fn drained_is_told() {
    for portable in [false, true] {
        let mut bench = Bench::with(portable);
        let (a, b) = (bench.bound("127.0.0.1:0"), bench.bound("127.0.0.1:0"));
        assert_eq!(a.send(&run(5, 3, b.local_addr().unwrap()).batch()).unwrap(), 5);
        bench.poll();
        assert!(!bench.receive(&*b, 4).unwrap());
        assert_eq!(bench.batch.messages.len(), 4);
        assert!(bench.receive(&*b, 4).unwrap());
        assert_eq!(bench.batch.messages.len(), 1);
        let error = b.receive(4, &mut bench.batch).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(bench.batch.messages.is_empty());
    }
}

#[test]
fn empty_datagrams_stay_single() {
    for portable in [false, true] {
        let mut bench = Bench::with(portable);
        let (a, b) = (bench.bound("127.0.0.1:0"), bench.bound("127.0.0.1:0"));
        let to = Some(b.local_addr().unwrap());
        let mut letters = Letters::default();
        for payload in [&b""[..], b"", b"x", b"", b"yy", b"zz", b""] {
            letters.add(payload, to, Control::default());
        }
        assert_eq!(a.send(&letters.batch()).unwrap(), 7);
        let arrived = bench.arrivals(&*b, 7);
        let payloads: Vec<_> = arrived.iter().map(|datagram| &datagram.payload[..]).collect();
        assert_eq!(payloads, [&b""[..], b"", b"x", b"", b"yy", b"zz", b""]);
    }
}

#[test]
fn runs_with_a_short_tail_arrive_as_they_were() {
    let mut bench = Bench::new();
    let (a, b) = (bench.bound("127.0.0.1:0"), bench.bound("127.0.0.1:0"));
    let to = b.local_addr().unwrap();
    let mut letters = run(70, 100, to);
    letters.add(&[70; 40], Some(to), Control::default());
    letters.add(&[71; 40], Some(to), Control::default());
    assert_eq!(a.send(&letters.batch()).unwrap(), 72);
    for (index, datagram) in bench.arrivals(&*b, 72).iter().enumerate() {
        assert_eq!(datagram.payload, vec![index as u8; if index < 70 { 100 } else { 40 }]);
    }
}

#[test]
fn runs_of_great_datagrams_are_cut_to_what_one_message_holds() {
    for (family, bind) in [(Family::V4, "127.0.0.1:0"), (Family::V6Only, "[::1]:0")] {
        let mut bench = Bench::new();
        let (a, b) = (bench.open(&spec(family, bind)), bench.open(&spec(family, bind)));
        b.set_option(SocketOption::RecvBuffer, 1 << 22).unwrap();
        let to = b.local_addr().unwrap();
        let letters = run(6, family.max_payload(Some(to)) / 2, to);
        assert_eq!(a.send(&letters.batch()).unwrap(), 6);
        assert_eq!(bench.arrivals(&*b, 6).len(), 6);
        // The longest there is, and one byte more.
        let longest = run(1, family.max_payload(Some(to)), to);
        assert_eq!(a.send(&longest.batch()).unwrap(), 1);
        bench.arrivals(&*b, 1);
        let too_long = run(1, family.max_payload(Some(to)) + 1, to);
        let error = a.send(&too_long.batch()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    }
}

#[test]
fn a_run_refused_for_its_destination_does_not_end_segmentation() {
    let mut bench = Bench::new();
    let a = bench.bound("127.0.0.1:0");
    // Port 0 is EINVAL, as a segment above the path's MTU may be.
    let letters = run(3, 10, "127.0.0.1:0".parse().unwrap());
    let error = a.send(&letters.batch()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    assert!(a.capabilities().segmentation);
}

#[test]
fn segments_above_the_mtu_are_sent_singly_and_shorter_ones_still_together() {
    let mut bench = Bench::new();
    let receiver = UdpSocket::bind("[::1]:0").unwrap();
    let to = receiver.local_addr().unwrap();
    let fd = OwnedFd::from(receiver);
    crate::sys::set_option(fd.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).unwrap();
    let b = bench.driver.adopt_datagram(fd, Ownership::Owned, 99).unwrap();
    let a = bench.bound("[::1]:0");
    let mtu = (libc::IPPROTO_IPV6, libc::IPV6_MTU);
    crate::sys::set_option(a.fd().unwrap(), mtu.0, mtu.1, 1280).unwrap();
    if !a.capabilities().segmentation || !b.capabilities().coalescing {
        eprintln!("skipped: no UDP_SEGMENT and UDP_GRO here");
        return;
    }
    for (len, messages) in [(1400, 6), (1300, 6), (1000, 1), (1300, 6), (1000, 1)] {
        assert_eq!(a.send(&run(6, len, to).batch()).unwrap(), 6);
        let (mut bytes, mut seen) = (0, 0);
        while bytes < 6 * len {
            bench.receive(&*b, RECV_SLOTS).unwrap();
            assert!(bench.batch.messages.iter().all(|message| message.segment == len));
            bytes += bench.batch.messages.iter().map(|message| message.len).sum::<usize>();
            seen += bench.batch.messages.len();
        }
        assert_eq!(seen, messages, "{len}");
    }
}

#[test]
fn runs_that_the_kernel_refuses_are_sent_singly() {
    let mut bench = Bench::new();
    let (a, b) = (bench.bound("127.0.0.1:0"), bench.bound("127.0.0.1:0"));
    // Without checksums there is no segmentation: EINVAL or EIO, for runs alone.
    let no_check = |on| {
        crate::sys::set_option(a.fd().unwrap(), libc::SOL_SOCKET, libc::SO_NO_CHECK, on).unwrap();
    };
    no_check(1);
    let mut letters = run(5, 1000, b.local_addr().unwrap());
    letters.add(b"tail", letters.queue[0].to, Control::default());
    for _ in 0..2 {
        assert_eq!(a.send(&letters.batch()).unwrap(), 6);
        let arrived = bench.arrivals(&*b, 6);
        assert_eq!(arrived[4].payload, [4; 1000]);
        assert_eq!(arrived[5].payload, b"tail");
    }
}

#[test]
fn an_error_in_the_middle_is_returned_by_the_next_call() {
    for portable in [false, true] {
        let mut bench = Bench::with(portable);
        let (a, b) = (bench.bound("127.0.0.1:0"), bench.bound("127.0.0.1:0"));
        let mut letters = run(2, 1, b.local_addr().unwrap());
        letters.add(b"?", Some("127.0.0.1:0".parse().unwrap()), Control::default());
        letters.add(b"!", Some(b.local_addr().unwrap()), Control::default());
        assert_eq!(a.send(&letters.batch()).unwrap(), 2);
        let rest = SendBatch { queue: &letters.queue[2..], ..letters.batch() };
        assert_eq!(a.send(&rest).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        let rest = SendBatch { queue: &letters.queue[3..], ..letters.batch() };
        assert_eq!(a.send(&rest).unwrap(), 1);
        assert_eq!(bench.arrivals(&*b, 3)[2].payload, b"!");
    }
}

#[test]
fn payloads_come_from_two_places() {
    let mut bench = Bench::new();
    let (a, b) = (bench.bound("127.0.0.1:0"), bench.bound("127.0.0.1:0"));
    let to = Some(b.local_addr().unwrap());
    let outgoing = |start, lent| Outgoing { lent, ..Outgoing::one(start, 2, to) };
    let queue = [outgoing(0, false), outgoing(2, false), outgoing(4, true), outgoing(0, true)];
    let batch = SendBatch { queue: &queue, own: b"aabb", lent: b"ddxxcc", merge: true };
    assert_eq!(a.send(&batch).unwrap(), 4);
    let payloads: Vec<_> = bench.arrivals(&*b, 4).into_iter().map(|d| d.payload).collect();
    assert_eq!(payloads, [b"aa", b"bb", b"cc", b"dd"]);
}

#[test]
fn runs_are_sent_in_order_whatever_messages_they_make() {
    for portable in [false, true] {
        let mut bench = Bench::with(portable);
        let (a, b) = (bench.bound("127.0.0.1:0"), bench.bound("127.0.0.1:0"));
        let to = Some(b.local_addr().unwrap());
        let run = |start, len, count| Outgoing { count, ..Outgoing::one(start, len, to) };
        // More than one message takes; a longer one; shorter ones, of which one joins; empty ones,
        // which never do; one that lies elsewhere; one that begins in the middle of a message.
        let queue = [run(0, 3, 70), run(210, 4, 2), run(218, 2, 3), run(0, 0, 2), run(4, 5, 50)];
        let queue = [&queue[..], &[run(1, 5, 60)]].concat();
        let own: Vec<u8> = (0..=u8::MAX).cycle().take(400).collect();
        let batch = SendBatch { queue: &queue, own: &own, lent: &[], merge: true };
        let expected: Vec<_> = batch.datagrams().map(|one| batch.payload(&one).to_vec()).collect();
        assert_eq!(expected.len(), 70 + 2 + 3 + 2 + 50 + 60);
        assert_eq!(
            expected[70..75],
            [&own[210..214], &own[214..218], &own[218..220], &own[220..222], &own[222..224]]
        );
        assert_eq!(a.send(&batch).unwrap(), expected.len());
        let arrived: Vec<_> =
            bench.arrivals(&*b, expected.len()).into_iter().map(|one| one.payload).collect();
        assert_eq!(arrived, expected);
    }
}

#[test]
fn bursts_of_one_peer_are_merged_once_they_are_seen() {
    let mut bench = Bench::new();
    let (a, b) = (bench.bound("127.0.0.1:0"), bench.bound("127.0.0.1:0"));
    if !b.capabilities().coalescing {
        eprintln!("skipped: no UDP_GRO here");
        return;
    }
    let to = b.local_addr().unwrap();
    let merges = || super::super::batched::merges(b.fd().unwrap());
    // Eight full batches; more if one was taken before all of it had arrived.
    for _ in 0..100 {
        if merges() {
            break;
        }
        assert_eq!(a.send(&run(64, 100, to).batch()).unwrap(), 64);
        bench.arrivals(&*b, 64);
    }
    assert!(merges());
    let mut letters = run(30, 100, to);
    letters.add(&[30; 7], Some(to), Control::default());
    assert_eq!(a.send(&letters.batch()).unwrap(), 31);
    assert!(bench.receive(&*b, RECV_SLOTS).unwrap());
    assert_eq!(bench.batch.messages.len(), 1);
    let message = &bench.batch.messages[0];
    assert_eq!((message.len, message.segment), (3007, 100));
    assert_eq!(bench.batch.data[3000..3007], [30; 7]);
    // A datagram alone is its own segment, empty ones included.
    send(&*a, b"alone", to).unwrap();
    send(&*a, b"", to).unwrap();
    let arrived = bench.arrivals(&*b, 2);
    assert_eq!((&arrived[0].payload[..], &arrived[1].payload[..]), (&b"alone"[..], &b""[..]));
}

#[test]
fn sources_that_take_turns_are_not_merged() {
    let mut bench = Bench::new();
    let b = bench.bound("127.0.0.1:0");
    let peers = [bench.bound("127.0.0.1:0"), bench.bound("127.0.0.1:0")];
    let to = b.local_addr().unwrap();
    for index in 0..160 {
        send(&*peers[index % 2], b"x", to).unwrap();
    }
    for _ in 0..10 {
        bench.receive(&*b, RECV_SLOTS).unwrap();
    }
    assert!(!super::super::batched::merges(b.fd().unwrap()));
}

#[test]
fn an_adopted_socket_that_merges_is_understood() {
    let mut bench = Bench::new();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = socket.local_addr().unwrap();
    let fd = OwnedFd::from(socket);
    crate::sys::set_option(fd.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).unwrap();
    let b = bench.driver.adopt_datagram(fd, Ownership::Owned, 99).unwrap();
    assert!(b.capabilities().coalescing);
    let a = bench.bound("127.0.0.1:0");
    assert_eq!(a.send(&run(10, 50, to).batch()).unwrap(), 10);
    assert_eq!(bench.arrivals(&*b, 10)[9].payload, [9; 50]);
}

#[test]
fn what_one_at_a_time_cannot_do_is_said() {
    let mut bench = Bench::with(true);
    let a = bench.bound("127.0.0.1:0");
    let granted = a.capabilities();
    assert!(!granted.batching && !granted.send_options && !granted.error_queue);
    assert_eq!(a.set_metadata(Metadata::ALL).unwrap(), Metadata::NONE);
    let error = a.set_option(SocketOption::ErrorQueue, 1).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    let control = Control { hop_limit: Some(3), ..Control::default() };
    let error = send_with(&*a, b"x", "127.0.0.1:9".parse().unwrap(), control).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
}

#[test]
fn an_error_met_after_the_first_datagram_waits_for_the_next_call() {
    for portable in [false, true] {
        let mut bench = Bench::with(portable);
        let peer = bench.bound("127.0.0.1:0");
        let a = bench.bound("127.0.0.1:0");
        a.connect(peer.local_addr().unwrap()).unwrap();
        send(&*peer, b"one", a.local_addr().unwrap()).unwrap();
        send(&*peer, b"two", a.local_addr().unwrap()).unwrap();
        drop(peer);
        // Its refusal comes back at once; the pending error hides what was received before.
        send_connected(&*a, b"x").unwrap();
        let error = bench.receive(&*a, 4).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(bench.arrivals(&*a, 2)[1].payload, b"two");
    }
}
