//! Tokio's timers: `Sleep`, each in a box of its own, on a paused clock.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use anyhow::ensure;
use tokio::time::{Instant, Sleep, advance, sleep_until};

use crate::{CHURN, Costs, Random, SPAN_MS, cost};

/// Registered by its first poll.
fn registered(at: Instant) -> Pin<Box<Sleep>> {
    let mut sleep = Box::pin(sleep_until(at));
    let pending = sleep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending();
    assert!(pending, "it is in the future");
    sleep
}

pub(crate) fn measure(count: usize) -> anyhow::Result<Costs> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build()?.block_on(sleeps(count))
}

async fn sleeps(count: usize) -> anyhow::Result<Costs> {
    let mut random = Random::new();
    let order = random.order(count);
    let base = Instant::now();
    let deadline = |random: &mut Random| base + Duration::from_millis(random.deadline());
    let mut costs = Costs::new();
    let (spent, mut sleeps) = cost(count, || -> Vec<Option<Pin<Box<Sleep>>>> {
        (0..count).map(|_| Some(registered(deadline(&mut random)))).collect()
    });
    costs.insert("first", spent);
    while sleeps.pop().is_some() {}
    let (spent, ()) = cost(count, || {
        sleeps.extend((0..count).map(|_| Some(registered(deadline(&mut random)))));
    });
    costs.insert("schedule", spent);
    let (spent, ()) = cost(CHURN, || {
        for _ in 0..CHURN {
            let which = random.below(count);
            sleeps[which] = None;
            sleeps[which] = Some(registered(deadline(&mut random)));
        }
    });
    costs.insert("churn", spent);
    let (spent, ()) = cost(CHURN, || {
        for _ in 0..CHURN {
            let at = deadline(&mut random);
            if let Some(sleep) = &mut sleeps[random.below(count)] {
                sleep.as_mut().reset(at);
            }
        }
    });
    costs.insert("push_back", spent);
    let (cancelled, left) = order.split_at(count / 2);
    let (spent, ()) = cost(cancelled.len(), || {
        for &which in cancelled {
            sleeps[which as usize] = None;
        }
    });
    costs.insert("cancel", spent);
    let before = side_by_side::sys::own_cpu();
    advance(Duration::from_millis(SPAN_MS + 10)).await;
    let spent = side_by_side::sys::own_cpu() - before;
    ensure!(sleeps.iter().flatten().all(|sleep| sleep.is_elapsed()), "all are over");
    costs.insert("fire", spent * 1e9 / left.len() as f64);
    Ok(costs)
}
