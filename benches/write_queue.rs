//! What waits to be sent on a connection, and how it leaves: small writes gathered, large ones
//! handed over, and a queue behind a peer that does not read. The connection is one over
//! loopback, so the system's share is in the figures of `flush`, and in those of nothing else.

mod common;

use std::hint::black_box;
use std::io::Read;
use std::time::{Duration, Instant};

use common::{Connected, Sink, turn};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use strand_reactor::Transport;

/// What the queue takes in a measurement; less than what makes the reactor ask for a pause.
const WRITES: usize = 512;
const SMALL: [u8; 64] = [0x5a; 64];
const LARGE: usize = 16 * 1024;

/// Takes everything to the other end; the queue is empty then.
fn drain(connected: &mut Connected, buffer: &mut [u8]) {
    loop {
        turn(&connected.reactor);
        let mut read = 0;
        while let Ok(len @ 1..) = connected.other.read(buffer) {
            read += len;
        }
        if read == 0 && connected.transport.queued_bytes() == 0 {
            return;
        }
    }
}

/// Times `write`, then `flush`, of each iteration.
fn timed(
    connected: &mut Connected,
    buffer: &mut [u8],
    iterations: u64,
    write: impl Fn(&Transport),
    flush: bool,
) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..iterations {
        let started = Instant::now();
        write(&connected.transport);
        if flush {
            turn(&connected.reactor);
        }
        spent += started.elapsed();
        drain(connected, buffer);
    }
    spent
}

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

fn write_queue(criterion: &mut Criterion) {
    let mut connected = Connected::new(Sink::default()).expect("a connection");
    let mut buffer = vec![0; 1 << 20];
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
            bencher.iter_custom(|iterations| {
                timed(&mut connected, &mut buffer, iterations, write, flush)
            });
        });
    }
    group.throughput(Throughput::Bytes(8 << 20));
    group.bench_function("drain_8_mib_as_the_peer_reads", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            for _ in 0..iterations {
                let data = vec![0x5a; 8 << 20];
                let started = Instant::now();
                connected.transport.write_bytes(data).expect("room");
                drain(&mut connected, &mut buffer);
                spent += started.elapsed();
            }
            spent
        });
    });
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = write_queue }
criterion_main!(benches);
