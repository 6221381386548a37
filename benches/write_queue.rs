//! What waits to be sent on a connection, and how it leaves: small writes gathered, large ones
//! handed over, and a queue that leaves in parts, as a slow peer makes room. The socket plays a
//! script, so no time of the kernel is in the figures; one copy of what is sent is.

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
/// What a queue holds that leaves in parts, and what the socket takes of it at once.
const QUEUED: usize = 1 << 20;
const PART: usize = 64 * 1024;

fn small(transport: &Transport) {
    for _ in 0..WRITES {
        transport.write(black_box(&SMALL)).expect("room");
    }
}

fn large(transport: &Transport) {
    for _ in 0..WRITES / 16 {
        transport.write_bytes(vec![0x5a; LARGE]).expect("room");
    }
}

type Write = fn(&Transport);

/// Times the writes, and the turn in which they leave if that is asked for.
fn timed(streaming: &Streaming, iterations: u64, write: Write, flush: bool) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..iterations {
        let started = Instant::now();
        write(&streaming.transport);
        if flush {
            turn(&streaming.reactor);
        }
        spent += started.elapsed();
        turn(&streaming.reactor);
        streaming.script.forget_written();
    }
    spent
}

/// Times how a queue leaves of which the socket takes a part at a time.
fn in_parts(streaming: &Streaming, iterations: u64) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..iterations {
        for _ in 0..QUEUED / PART {
            streaming.script.answer_write(WriteStep::Take(PART));
            streaming.script.answer_write(WriteStep::WouldBlock);
        }
        (0..QUEUED / LARGE).for_each(|_| streaming.transport.write(&[0; LARGE]).expect("room"));
        let started = Instant::now();
        turn(&streaming.reactor);
        while streaming.transport.queued_bytes() > 0 {
            streaming.script.raise(StreamEvent::WRITABLE);
            turn(&streaming.reactor);
        }
        spent += started.elapsed();
        streaming.script.forget_written();
    }
    spent
}

fn write_queue(criterion: &mut Criterion) {
    let streaming = Streaming::new(Sink::default()).expect("a connection");
    let mut group = criterion.benchmark_group("write_queue");
    let cases: [(&str, Write, usize, bool); 4] = [
        ("write_64_bytes", small, WRITES, false),
        ("write_64_bytes_and_flush", small, WRITES, true),
        ("hand_over_16_kib", large, WRITES / 16, false),
        ("hand_over_16_kib_and_flush", large, WRITES / 16, true),
    ];
    for (name, write, writes, flush) in cases {
        group.throughput(Throughput::Elements(writes as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| timed(&streaming, iterations, write, flush));
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
