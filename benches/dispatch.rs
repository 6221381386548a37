//! The way of a batch through the reactor: from the socket to the protocol, and back with what it
//! answers. The socket plays a script, so no time of the kernel is in the figures; that of the
//! script (two copies a datagram) is.

mod common;

use std::hint::black_box;
use std::time::{Duration, Instant};

use common::{Echo, Scripted, Sink, peer, turn};
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};

/// Datagrams of a turn: sixteen batches.
const DATAGRAMS: usize = 256;

/// Measures the turn in which what `arrive` brought is delivered and answered.
fn measure<M: criterion::measurement::Measurement<Value = Duration>>(
    group: &mut BenchmarkGroup<'_, M>,
    name: &str,
    scripted: &Scripted,
    arrive: impl Fn(&Scripted),
) {
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            let delivered = || scripted.port.stats().expect("an open port").datagrams_in;
            let before = delivered();
            for _ in 0..iterations {
                arrive(scripted);
                let started = Instant::now();
                turn(black_box(&scripted.reactor));
                spent += started.elapsed();
                scripted.script.forget_sent();
            }
            assert_eq!(delivered() - before, iterations * DATAGRAMS as u64);
            spent
        });
    });
}

fn dispatch(criterion: &mut Criterion) {
    let echo = Scripted::new(Echo).expect("a scripted port");
    let sink = Scripted::new(Sink::default()).expect("a scripted port");
    let mut group = criterion.benchmark_group("dispatch");
    group.throughput(Throughput::Elements(DATAGRAMS as u64));
    let payload = [0x5a; 64];
    measure(&mut group, "echo/1_peer", &echo, |it| it.receive(DATAGRAMS, 1, &payload));
    measure(&mut group, "echo/16_peers", &echo, |it| it.receive(DATAGRAMS, 16, &payload));
    measure(&mut group, "sink", &sink, |it| it.receive(DATAGRAMS, 16, &payload));
    let merged = [0x5a; 64 * 64];
    let arrive = |it: &Scripted| {
        for message in 0..DATAGRAMS / 64 {
            it.script.receive_merged(peer(message), &merged, 64);
        }
    };
    measure(&mut group, "echo/merged_by_64", &echo, arrive);
    measure(&mut group, "sink/merged_by_64", &sink, arrive);
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = dispatch }
criterion_main!(benches);
