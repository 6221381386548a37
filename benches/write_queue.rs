//! What waits to be sent on a connection, and how it leaves: small writes gathered, large ones
//! handed over while the socket is full, and a queue that leaves in parts, as a slow peer makes
//! room. The socket plays a script, so no time of the kernel is in the figures; one copy of what is
//! sent is.

mod common;

use std::hint::black_box;
use std::time::{Duration, Instant};

use common::{Sink, Streaming, turn};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use strand_reactor::Transport;
use strand_reactor::testing::{StreamEvent, WriteStep};

/// Writes of a turn.
const WRITES: usize = 512;
const SMALL: [u8; 64] = [0x5a; 64];
const LARGE: usize = 16 * 1024;
static ZEROES: [u8; LARGE] = [0; LARGE];
/// Large buffers of a turn.
const BUFFERS: usize = 32;
/// What a queue holds that leaves in parts, and what the socket takes of it at once.
const QUEUED: usize = 1 << 20;
const PART: usize = 64 * 1024;

fn write_small(transport: &Transport) {
    for _ in 0..WRITES {
        transport.write(black_box(&SMALL)).expect("room");
    }
}

/// Times the writes, and the turn in which they leave if that is asked for.
fn timed(streaming: &Streaming, iterations: u64, flush: bool) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..iterations {
        let started = Instant::now();
        write_small(&streaming.transport);
        if flush {
            turn(&streaming.reactor);
        }
        spent += started.elapsed();
        turn(&streaming.reactor);
        streaming.script.forget_written();
    }
    spent
}

/// The socket has no room: what is written is queued, however large, and waits.
fn fill(streaming: &Streaming) {
    streaming.script.answer_write(WriteStep::WouldBlock);
    streaming.transport.write(&SMALL).expect("room");
    turn(&streaming.reactor);
    assert_eq!(streaming.transport.queued_bytes(), SMALL.len());
}

/// The socket has room again, and again; returns how often.
fn drain(streaming: &Streaming) -> usize {
    let mut turns = 0;
    while streaming.transport.queued_bytes() > 0 {
        streaming.script.raise(StreamEvent::WRITABLE);
        turn(&streaming.reactor);
        turns += 1;
    }
    turns
}

/// Times how large buffers, made before, are handed over to a queue; and how they leave it
/// together, if that is asked for.
fn handed_over(streaming: &Streaming, iterations: u64, flush: bool) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..iterations {
        let buffers = vec![vec![0x5a; LARGE]; BUFFERS];
        fill(streaming);
        let started = Instant::now();
        for buffer in buffers {
            streaming.transport.write_bytes(buffer).expect("room");
        }
        if flush {
            drain(streaming);
        }
        spent += started.elapsed();
        drain(streaming);
        streaming.script.forget_written();
    }
    spent
}

/// Times how a queue leaves of which the socket takes a part at a time.
fn in_parts(streaming: &Streaming, iterations: u64) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..iterations {
        fill(streaming);
        for _ in 1..QUEUED / PART {
            streaming.script.answer_write(WriteStep::Take(PART));
            streaming.script.answer_write(WriteStep::WouldBlock);
        }
        let rest = QUEUED - SMALL.len();
        let pieces = std::iter::repeat_n(LARGE, rest / LARGE).chain([rest % LARGE]);
        pieces.for_each(|len| streaming.transport.write(&ZEROES[..len]).expect("room"));
        assert_eq!(streaming.transport.queued_bytes(), QUEUED);
        let started = Instant::now();
        let turns = drain(streaming);
        spent += started.elapsed();
        assert_eq!(turns, QUEUED / PART);
        streaming.script.forget_written();
    }
    spent
}

fn write_queue(criterion: &mut Criterion) {
    let streaming = Streaming::new(Sink::default()).expect("a connection");
    let mut group = criterion.benchmark_group("write_queue");
    group.throughput(Throughput::Elements(WRITES as u64));
    for (name, flush) in [("write_64_bytes", false), ("write_64_bytes_and_flush", true)] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| timed(&streaming, iterations, flush));
        });
    }
    group.throughput(Throughput::Elements(BUFFERS as u64));
    for (name, flush) in [("hand_over_16_kib", false), ("hand_over_16_kib_and_flush", true)] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| handed_over(&streaming, iterations, flush));
        });
    }
    group.throughput(Throughput::Bytes(QUEUED as u64));
    group.bench_function("flush_1_mib_in_parts", |bencher| {
        bencher.iter_custom(|iterations| in_parts(&streaming, iterations));
    });
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = write_queue }
criterion_main!(benches);
