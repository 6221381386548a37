//! What one timer queue costs, alone in its process: `timer_queue STRUCTURE COUNT`. Prints the
//! nanoseconds of CPU time of an operation, as JSON.
//!
//! `schedule` finds the memory that `first` has got from the system.
//!
//! Deadlines are spread over a minute in whole milliseconds; cancelled and moved is in random
//! order, and what is due is fired in one turn, as after a long callback. Every timer carries what
//! a call that can be cancelled needs: a pointer of two words to it.

mod hand_made;
mod sleeps;

/// Strand's queue, of the very source that the reactor is built of: it is no part of its API.
#[allow(dead_code, unreachable_pub, clippy::disallowed_types)]
#[path = "../../../../../reactor/src/timers/wheel/mod.rs"]
mod strand;

use std::collections::BTreeMap;
use std::hint::black_box;

use anyhow::{Context, bail};
use side_by_side::sys;

const SPAN_MS: u64 = 60_000;
/// Timers cancelled and made anew, or pushed back, whatever the number that stands by.
const CHURN: usize = 1_000_000;
const NS_PER_MS: u64 = 1_000_000;

/// What a timer carries.
type Value = &'static str;
const VALUE: Value = "call";

/// Numbers without a pattern, the same in every run (xorshift).
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn deadline(&mut self) -> u64 {
        1 + self.next() % (SPAN_MS - 1)
    }

    fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }

    fn order(&mut self, count: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..count as u32).collect();
        (1..count).rev().for_each(|last| order.swap(last, self.below(last + 1)));
        order
    }
}

/// What a reactor needs of its timers. Deadlines are milliseconds; a handle names one timer.
trait Queue {
    type Handle: Copy;
    fn schedule(&mut self, deadline: u64, value: Value) -> Self::Handle;
    fn cancel(&mut self, handle: Self::Handle) -> Option<Value>;
    /// Moves the timer: what a timeout costs that every message pushes back.
    fn push_back(&mut self, handle: Self::Handle, deadline: u64);
    /// Hands out what is due.
    fn fire(&mut self, now: u64, due: impl FnMut(Value));
}

impl Queue for strand::Wheel<Value> {
    type Handle = strand::TimerId;

    fn schedule(&mut self, deadline: u64, value: Value) -> strand::TimerId {
        self.insert(deadline * NS_PER_MS, value)
    }

    fn cancel(&mut self, handle: strand::TimerId) -> Option<Value> {
        self.remove(handle)
    }

    fn push_back(&mut self, handle: strand::TimerId, deadline: u64) {
        self.reset(handle, deadline * NS_PER_MS);
    }

    fn fire(&mut self, now: u64, mut due: impl FnMut(Value)) {
        self.begin_turn(now * NS_PER_MS);
        while let Some((_, _, value)) = self.pop_due() {
            due(value);
        }
    }
}

/// Nanoseconds of an operation, by its name.
type Costs = BTreeMap<&'static str, f64>;

/// The CPU time of each of `count` operations.
fn cost<R>(count: usize, work: impl FnOnce() -> R) -> (f64, R) {
    let before = sys::own_cpu();
    let result = work();
    ((sys::own_cpu() - before) * 1e9 / count as f64, result)
}

fn measure<Q: Queue>(mut queue: Q, count: usize) -> Costs {
    let mut random = Random::new();
    let order = random.order(count);
    let mut costs = Costs::new();
    let (spent, mut handles) = cost(count, || -> Vec<Q::Handle> {
        (0..count).map(|_| queue.schedule(random.deadline(), VALUE)).collect()
    });
    costs.insert("first", spent);
    for handle in handles.drain(..).rev() {
        black_box(queue.cancel(handle));
    }
    let (spent, ()) = cost(count, || {
        handles.extend((0..count).map(|_| queue.schedule(random.deadline(), VALUE)));
    });
    costs.insert("schedule", spent);
    let (spent, ()) = cost(CHURN, || {
        for _ in 0..CHURN {
            let handle = &mut handles[random.below(count)];
            black_box(queue.cancel(*handle));
            *handle = queue.schedule(random.deadline(), VALUE);
        }
    });
    costs.insert("churn", spent);
    let (spent, ()) = cost(CHURN, || {
        for _ in 0..CHURN {
            queue.push_back(handles[random.below(count)], random.deadline());
        }
    });
    costs.insert("push_back", spent);
    let (cancelled, left) = order.split_at(count / 2);
    let (spent, ()) = cost(cancelled.len(), || {
        for &which in cancelled {
            black_box(queue.cancel(handles[which as usize]));
        }
    });
    costs.insert("cancel", spent);
    let mut fired = 0;
    let (spent, ()) = cost(left.len(), || {
        queue.fire(SPAN_MS + 1, |value| {
            black_box(value);
            fired += 1;
        });
    });
    assert_eq!(fired, left.len());
    costs.insert("fire", spent);
    costs
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [structure, count] = &arguments[..] else {
        bail!("usage: timer_queue strand|hand-made|tokio COUNT")
    };
    let count = count.parse().context("a number of timers")?;
    let costs = match structure.as_str() {
        "strand" => measure(strand::Wheel::new(), count),
        "hand-made" => measure(hand_made::Wheel::new(), count),
        "tokio" => sleeps::measure(count)?,
        other => bail!("{other}? There are strand, hand-made and tokio"),
    };
    println!("{}", serde_json::to_string(&costs)?);
    Ok(())
}
