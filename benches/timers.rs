//! Timers through the public API, at 100,000 and at 1,000,000: schedule, cancel, push back
//! (churn) and fire. Deadlines are spread over 60 s; those that are to fire, over 20 ms. Freed
//! and made with them is what the API promises: a closure, and a handle to it.

mod common;

use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::turn;
use criterion::{
    BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use strand_reactor::{DelayedCall, Reactor};

const SPAN: Duration = Duration::from_secs(60);
const DUE_AFTER: Duration = Duration::from_millis(20);
/// Timers pushed back in one measurement, whatever the number that stands by.
const CHURN: usize = 100_000;

/// Numbers without a pattern, the same in every run (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn delay(&mut self, most: Duration) -> Duration {
        Duration::from_micros(1 + self.next() % most.as_micros() as u64)
    }

    fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }
}

fn reactor() -> Reactor {
    Reactor::new().expect("a reactor")
}

fn schedule(reactor: &Reactor, delays: &[Duration]) -> Vec<DelayedCall> {
    delays.iter().map(|delay| reactor.call_later(*delay, |_| {})).collect()
}

fn delays(count: usize, most: Duration) -> Vec<Duration> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    (0..count).map(|_| random.delay(most)).collect()
}

/// The sum of `iterations` times.
fn times(iterations: u64, once: impl Fn() -> Duration) -> Duration {
    (0..iterations).map(|_| once()).sum()
}

/// The time of one call.
fn timed<R>(work: impl FnOnce() -> R) -> (Duration, R) {
    let started = Instant::now();
    let result = work();
    (started.elapsed(), result)
}

/// Cancels all of them, in an order that has nothing to do with their deadlines.
fn cancel(delays: &[Duration]) -> Duration {
    let reactor = reactor();
    let mut calls = schedule(&reactor, delays);
    let mut random = Random(7);
    (1..calls.len()).rev().for_each(|last| calls.swap(last, random.below(last + 1)));
    timed(|| calls.iter().for_each(|call| call.cancel().expect("a waiting call"))).0
}

/// Fires all of them, in one turn: they are due when it begins.
fn fire(delays: &[Duration]) -> Duration {
    let (reactor, fired) = (reactor(), Rc::new(Cell::new(0)));
    let first = Instant::now();
    for delay in delays {
        let fired = Rc::clone(&fired);
        reactor.call_later(*delay, move |_| fired.set(fired.get() + 1));
    }
    let all_due = Instant::now() + DUE_AFTER;
    while Instant::now() < all_due {
        std::thread::sleep(DUE_AFTER);
    }
    let (spent, ()) = timed(|| turn(&reactor));
    assert_eq!(fired.get(), delays.len(), "after {:?}", first.elapsed());
    spent
}

fn measure<M: criterion::measurement::Measurement<Value = Duration>>(
    group: &mut BenchmarkGroup<'_, M>,
    count: usize,
) {
    let (spread, soon) = (delays(count, SPAN), delays(count, DUE_AFTER));
    group.throughput(Throughput::Elements(count as u64));
    group.bench_function("schedule", |bencher| {
        bencher.iter_custom(|iterations| {
            times(iterations, || {
                let reactor = reactor();
                timed(|| schedule(&reactor, &spread)).0
            })
        });
    });
    group.bench_function("cancel", |bencher| {
        bencher.iter_custom(|iterations| times(iterations, || cancel(&spread)));
    });
    group.bench_function("fire", |bencher| {
        bencher.iter_custom(|iterations| times(iterations, || fire(&soon)));
    });
    group.throughput(Throughput::Elements(CHURN as u64));
    group.bench_function("push_back", |bencher| {
        let reactor = reactor();
        let calls = schedule(&reactor, &spread);
        let mut random = Random(3);
        bencher.iter(|| {
            for _ in 0..CHURN {
                let call = &calls[random.below(count)];
                black_box(call.reset(random.delay(SPAN))).expect("a waiting call");
            }
        });
    });
}

fn timers(criterion: &mut Criterion) {
    for count in [100_000, 1_000_000] {
        let mut group = criterion.benchmark_group(format!("timers/{count}"));
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
        measure(&mut group, count);
        group.finish();
    }
}

criterion_group! { name = benches; config = common::criterion(); targets = timers }
criterion_main!(benches);
