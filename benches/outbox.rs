//! The sends of a turn: writes to many peers and to one, and the flush that takes them to the
//! socket, which plays a script.

mod common;

use std::hint::black_box;
use std::time::{Duration, Instant};

use common::{Scripted, Sink, peer, turn};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use strand_reactor::testing::SendStep;

/// Datagrams of a turn; fewer than a port may have waiting.
const DATAGRAMS: usize = 512;
const PAYLOAD: [u8; 64] = [0x5a; 64];
/// `EAGAIN` of Linux: the socket has no room.
const NO_ROOM: SendStep = SendStep::Fail(11);

fn write(scripted: &Scripted, peers: usize) {
    for number in 0..DATAGRAMS {
        scripted.port.write_to(black_box(&PAYLOAD), peer(number % peers)).expect("room");
    }
}

/// Times `work`, and then empties the record of the script.
fn timed(scripted: &Scripted, iterations: u64, work: impl Fn()) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..iterations {
        let started = Instant::now();
        work();
        spent += started.elapsed();
        scripted.script.forget_sent();
    }
    spent
}

fn outbox(criterion: &mut Criterion) {
    let scripted = Scripted::new(Sink::default()).expect("a scripted port");
    let mut group = criterion.benchmark_group("outbox");
    group.throughput(Throughput::Elements(DATAGRAMS as u64));
    for peers in [1, 16, DATAGRAMS] {
        group.bench_function(BenchmarkId::new("write_and_flush/peers", peers), |bencher| {
            bencher.iter_custom(|iterations| {
                timed(&scripted, iterations, || {
                    write(&scripted, peers);
                    turn(&scripted.reactor);
                })
            });
        });
    }
    group.bench_function("write_then", |bencher| {
        bencher.iter_custom(|iterations| {
            timed(&scripted, iterations, || {
                for number in 0..DATAGRAMS {
                    let done = |result| drop(black_box(result));
                    scripted.port.write_then(&PAYLOAD, peer(number), done).expect("room");
                }
                turn(&scripted.reactor);
            })
        });
    });
    group.bench_function("queued_without_room", |bencher| {
        bencher.iter_custom(|iterations| {
            timed(&scripted, iterations, || {
                scripted.script.answer_send(NO_ROOM);
                write(&scripted, 16);
                turn(&scripted.reactor);
                scripted.script.make_writable();
                turn(&scripted.reactor);
            })
        });
        assert_eq!(scripted.port.queued_datagrams(), 0);
    });
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = outbox }
criterion_main!(benches);
