use proptest::prelude::*;

use super::channel::*;
use crate::net::sim::tcp::tcb::{Setup, State};

#[derive(Clone, Debug)]
struct Program {
    seed: u64,
    faults: Faults,
    isns: [u32; 2],
    /// Bytes that each end sends, and how it reads.
    lens: [usize; 2],
    writes: usize,
    reads: usize,
    rooms: [usize; 2],
    mss: u16,
    /// Time between the readings.
    pause: u64,
}

fn programs() -> impl Strategy<Value = Program> {
    // With more loss than this, fifteen in a row are lost now and then: then TCP gives up.
    let faults = (0..15_u8, 0..30_u8, 1..50_000_000_u64, 0..100_000_000_u64)
        .prop_map(|(loss, twice, latency, jitter)| Faults { loss, twice, latency, jitter });
    let ends =
        (any::<[u32; 2]>(), [0..30_000_usize, 0..30_000_usize], [100..70_000_usize, 100..70_000]);
    let pace = (100..9_000_usize, 100..9_000_usize, 1_000_000..400_000_000_u64, 200..3_000_u16);
    (any::<u64>(), faults, ends, pace).prop_map(|(seed, faults, ends, pace)| {
        let ((isns, lens, rooms), (writes, reads, pause, mss)) = (ends, pace);
        Program { seed, faults, isns, lens, writes, reads, rooms, mss, pause }
    })
}

/// Runs until both ends have read the other's end, and nothing happens any more.
fn exchange(program: &Program) -> Channel {
    let setup = |end: usize| Setup {
        isn: program.isns[end],
        mss: program.mss,
        path_mss: None,
        recv_room: program.rooms[end],
        send_room: program.rooms[1 - end],
    };
    let mut channel = Channel::new(program.seed, program.faults, [setup(A), setup(B)]);
    let data = [pattern(program.lens[A], 1), pattern(program.lens[B], 2)];
    let (mut written, mut ended, mut read) = ([0; 2], [false; 2], [false; 2]);
    channel.connect(A);
    let mut rounds = 0;
    while !(ended[A] && ended[B] && read[A] && read[B]) {
        rounds += 1;
        assert!(rounds < 200_000, "no end: {:?}", channel.ends);
        for end in [A, B] {
            if channel.ends[end].is_none() {
                continue;
            }
            assert!(!channel.end(end).has_error(), "{:?}", channel.ends);
            if !matches!(channel.state(end), State::SynSent | State::SynReceived) {
                let to = (written[end] + program.writes).min(data[end].len());
                match channel.write(end, &data[end][written[end]..to]) {
                    Ok(len) => written[end] += len,
                    Err(error) => assert!(ended[end] || error == libc::EAGAIN, "{error}"),
                }
                if written[end] == data[end].len() && !ended[end] {
                    channel.shutdown(end);
                    ended[end] = true;
                }
            }
            read[end] |= channel.read(end, program.reads).expect("no error");
        }
        channel.run_for(program.pause);
    }
    channel
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_once_and_in_order_whatever_the_channel_does(program in programs()) {
        let mut channel = exchange(&program);
        prop_assert!(channel.received[A] == pattern(program.lens[B], 2));
        prop_assert!(channel.received[B] == pattern(program.lens[A], 1));
        channel.run();
        // An end that its peer forgot after its minute may be told so.
        prop_assert_eq!([channel.state(A), channel.state(B)], [State::Closed; 2]);
        for end in [A, B] {
            prop_assert_eq!(channel.end(end).next_timer(), None);
            prop_assert_eq!(channel.end(end).memory(), 0);
        }
    }

    #[test]
    fn nothing_that_arrives_upsets_a_connection(
        segments in prop::collection::vec(
            (any::<u8>(), -70_000..70_000_i64, -70_000..70_000_i64, any::<u8>(), any::<u16>(), 0..3000_usize),
            1..60,
        ),
        calls in any::<u64>(),
    ) {
        use crate::net::sim::packet::{Flags, Segment};
        let mut channel = Channel::connected(NONE);
        let mut calls = fastrand::Rng::with_seed(calls);
        channel.write(A, b"some").expect("room");
        for (flags, seq, ack, which, window, len) in segments {
            let end = usize::from(which & 1);
            let (next, expected) = channel.end(end).numbers();
            let number = |of: u32, delta: i64| of.wrapping_add(if which & 2 == 0 { 0 } else { delta as u32 });
            let segment = Segment {
                seq: number(expected, seq),
                ack: number(next, ack),
                flags: Flags(flags & 0x1f),
                window: window.into(),
                payload: vec![0; len].into(),
                mss: (flags & 0x40 != 0).then_some(window),
            };
            let now = channel.now;
            channel.end(end).on_segment(now, &segment);
            channel.flush(end);
            match calls.u8(..8) {
                0 => drop(channel.write(end, &[1; 5000])),
                1 => drop(channel.read(end, 1000)),
                2 => drop(channel.end(end).shutdown_write()),
                3 => channel.run_for(1_000_000),
                _ => {}
            }
        }
        channel.close(A);
        channel.close(B);
        channel.run();
        prop_assert_eq!([channel.state(A), channel.state(B)], [State::Closed; 2]);
    }
}
