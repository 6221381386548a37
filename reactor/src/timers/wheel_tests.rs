use std::collections::HashMap;

use proptest::prelude::*;

use super::wheel::{TICK_SHIFT, TimerId, Wheel};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
const DAY: u64 = 86_400 * SECOND;
const TICK: u64 = 1 << TICK_SHIFT;

/// The values of a whole turn.
fn turn<T>(wheel: &mut Wheel<T>, now: u64) -> Vec<T> {
    wheel.begin_turn(now);
    std::iter::from_fn(|| wheel.pop_due()).map(|(_, _, value)| value).collect()
}

#[test]
fn empty() {
    let mut wheel = Wheel::<u8>::new();
    assert!(wheel.is_empty());
    assert_eq!(wheel.next_deadline(), None);
    assert!(wheel.pop_due().is_none(), "no turn under way");
    assert!(turn(&mut wheel, DAY).is_empty());
    assert_eq!(wheel.iter().count(), 0);
}

#[test]
fn equals_are_first_in_first_out_across_levels() {
    let mut wheel = Wheel::new();
    let at = 10 * SECOND;
    wheel.insert(at, "early");
    assert!(turn(&mut wheel, 5 * SECOND).is_empty());
    wheel.insert(at, "half way");
    assert!(turn(&mut wheel, 9_990 * MS).is_empty());
    wheel.insert(at, "last moment");
    assert!(turn(&mut wheel, at - 1).is_empty());
    wheel.insert(at, "late");
    wheel.insert(at, "later");
    assert_eq!(turn(&mut wheel, at), ["early", "half way", "last moment", "late", "later"]);
}

#[test]
fn never_before_the_nanosecond() {
    let mut wheel = Wheel::new();
    for at in [1, TICK - 1, TICK, TICK + 1, 64 * TICK, SECOND + 1, DAY + 123] {
        wheel.insert(at, at);
        assert_eq!(wheel.next_deadline(), Some(at));
        assert!(turn(&mut wheel, at - 1).is_empty());
        assert_eq!(wheel.next_deadline(), Some(at));
        assert_eq!(turn(&mut wheel, at), [at]);
        assert_eq!(wheel.next_deadline(), None);
    }
}

#[test]
fn next_deadline_of_one_timer_is_exact() {
    for at in [SECOND, 60 * SECOND, DAY] {
        let mut wheel = Wheel::new();
        let id = wheel.insert(at + 7, ());
        assert_eq!(wheel.next_deadline(), Some(at + 7));
        assert!(wheel.reset(id, at + 5));
        assert_eq!(wheel.next_deadline(), Some(at + 5));
        assert!(wheel.reset(id, at + 9));
        assert_eq!(wheel.next_deadline(), Some(at + 9));
        assert_eq!(wheel.deadline(id), Some(at + 9));
    }
}

#[test]
fn next_deadline_of_a_crowd_is_a_bound_and_then_exact() {
    let mut wheel = Wheel::new();
    let ids: Vec<_> = (0..100).map(|i| wheel.insert(60 * SECOND + i * 1_000, i)).collect();
    assert_eq!(wheel.remove(ids[0]), Some(0));
    let bound = wheel.next_deadline().unwrap();
    assert!(bound <= 60 * SECOND + 1_000);
    // Whoever sleeps until the bound comes to the exact answer in a few steps.
    let mut steps = 0;
    let mut now = bound;
    while now < 60 * SECOND + 1_000 {
        assert!(turn(&mut wheel, now).is_empty());
        let next = wheel.next_deadline().unwrap();
        assert!(next > now);
        now = next;
        steps += 1;
    }
    assert!(steps <= 8);
    assert_eq!(now, 60 * SECOND + 1_000);
    for id in &ids[1..70] {
        wheel.remove(*id);
    }
    assert_eq!(wheel.next_deadline(), Some(60 * SECOND + 70_000));
}

#[test]
fn next_deadline_is_exact_when_a_crowd_has_left() {
    let mut wheel = Wheel::new();
    let ids: Vec<_> = (0..100).map(|i| wheel.insert(60 * SECOND + i, i)).collect();
    assert!(wheel.next_deadline() < Some(60 * SECOND));
    for id in &ids[..68] {
        wheel.remove(*id);
    }
    assert_eq!(wheel.next_deadline(), Some(60 * SECOND + 68));
}

#[test]
fn a_crowd_in_the_nearest_ticks_is_exact() {
    let mut wheel = Wheel::new();
    let ids: Vec<_> = (0..100).map(|i| wheel.insert(5 * TICK + i, i)).collect();
    wheel.remove(ids[0]);
    assert_eq!(wheel.next_deadline(), Some(5 * TICK + 1));
    // Sorted ahead of time: still movable, and what comes later finds its place.
    assert!(wheel.reset(ids[1], 5 * TICK + 3));
    wheel.insert(3 * TICK, 1_000);
    wheel.insert(5 * TICK + 2, 1_001);
    assert_eq!(wheel.next_deadline(), Some(3 * TICK));
    assert_eq!(turn(&mut wheel, 4 * TICK), [1_000]);
    assert_eq!(turn(&mut wheel, 5 * TICK + 3), [2, 1_001, 3, 1]);
}

#[test]
fn what_is_scheduled_in_a_turn_waits_for_the_next() {
    let mut wheel = Wheel::new();
    let now = 10 * SECOND;
    wheel.insert(now, "a");
    wheel.insert(now, "b");
    wheel.begin_turn(now);
    assert_eq!(wheel.pop_due().map(|due| due.2), Some("a"));
    wheel.insert(now, "now");
    wheel.insert(0, "past");
    assert_eq!(wheel.next_deadline(), Some(0));
    assert_eq!(wheel.pop_due().map(|due| due.2), Some("b"));
    assert!(wheel.pop_due().is_none());
    assert!(wheel.pop_due().is_none());
    assert_eq!(wheel.next_deadline(), Some(0));
    // In the next turn the earlier is first, whenever it was scheduled.
    wheel.insert(now - 1, "between");
    assert_eq!(turn(&mut wheel, now), ["past", "between", "now"]);
}

#[test]
fn a_turn_may_be_left_unfinished() {
    let mut wheel = Wheel::new();
    for i in 0..4 {
        wheel.insert(SECOND + i, i);
    }
    wheel.begin_turn(SECOND + 10);
    assert_eq!(wheel.pop_due().map(|due| due.2), Some(0));
    wheel.insert(SECOND + 1, 11);
    wheel.insert(SECOND, 10);
    assert_eq!(turn(&mut wheel, SECOND + 10), [10, 1, 11, 2, 3]);
}

#[test]
fn cancel_and_reset_of_what_is_due() {
    let mut wheel = Wheel::new();
    let ids: Vec<_> = (0..6).map(|i| wheel.insert(SECOND, i)).collect();
    wheel.begin_turn(SECOND);
    let (id, deadline, value) = wheel.pop_due().unwrap();
    assert_eq!((id, deadline, value), (ids[0], SECOND, 0));
    assert_eq!(wheel.remove(ids[0]), None);
    assert!(!wheel.reset(ids[0], 1));
    assert_eq!(wheel.remove(ids[2]), Some(2));
    assert!(wheel.reset(ids[1], SECOND));
    assert!(wheel.reset(ids[4], 2 * SECOND));
    // Takes the node of a timer whose entry is still in the run.
    let reused = wheel.insert(SECOND, 20);
    assert_eq!(reused.index, ids[2].index);
    assert_eq!((wheel.get(ids[2]), wheel.get(reused)), (None, Some(&20)));
    assert_eq!(wheel.pop_due().map(|due| due.2), Some(3));
    assert_eq!(wheel.pop_due().map(|due| due.2), Some(5));
    assert!(wheel.pop_due().is_none());
    assert_eq!(turn(&mut wheel, SECOND), [1, 20]);
    assert_eq!(turn(&mut wheel, 2 * SECOND), [4]);
}

#[test]
fn huge_deadlines() {
    let mut wheel = Wheel::new();
    let far = (1_u64 << 48).saturating_mul(MS);
    wheel.insert(u64::MAX, "never");
    wheel.insert(far, "saturated");
    wheel.insert(u64::MAX - 1, "last");
    wheel.insert(1 << 62, "far");
    assert_eq!(wheel.next_deadline(), Some(1 << 62));
    assert!(turn(&mut wheel, (1 << 62) - 1).is_empty());
    assert_eq!(turn(&mut wheel, 1 << 62), ["far"]);
    assert_eq!(wheel.next_deadline(), Some(u64::MAX - 1));
    assert_eq!(turn(&mut wheel, u64::MAX), ["last"]);
    assert!(turn(&mut wheel, u64::MAX).is_empty());
    wheel.insert(u64::MAX, "never, late");
    assert!(turn(&mut wheel, u64::MAX).is_empty());
    assert_eq!(wheel.len(), 3);
    assert_eq!(wheel.next_deadline(), Some(u64::MAX));
}

#[test]
fn long_idle_jumps() {
    let mut wheel = Wheel::new();
    let mut now = 0;
    for step in (0..63).map(|bits| 1_u64 << bits) {
        now += step;
        assert!(turn(&mut wheel, now - 1).is_empty());
        wheel.insert(now, now);
        wheel.insert(now + step / 2 + 1, now);
        assert_eq!(turn(&mut wheel, now), [now]);
        now += step / 2 + 1;
        assert_eq!(turn(&mut wheel, now).len(), 1);
    }
}

#[test]
fn time_that_goes_back_finds_nothing_new() {
    let mut wheel = Wheel::new();
    wheel.insert(SECOND, 1);
    assert_eq!(turn(&mut wheel, DAY), [1]);
    wheel.insert(SECOND + 1, 2);
    assert!(turn(&mut wheel, SECOND).is_empty());
    assert_eq!(wheel.next_deadline(), Some(SECOND + 1));
    assert_eq!(turn(&mut wheel, SECOND + 1), [2]);
}

#[test]
fn nothing_grows_beyond_the_peak() {
    let mut wheel = Wheel::new();
    let mut ids: Vec<_> = (0..10).map(|i| wheel.insert(i * SECOND, i)).collect();
    let capacities = (wheel.nodes.capacity(), wheel.late.capacity(), wheel.run.capacity());
    for i in 0..1_000_000_u64 {
        // Every third is for a tick that has come, which is the heap.
        let deadline = if i % 3 == 0 { 0 } else { i * 1_000 };
        let id = &mut ids[i as usize % 10];
        if i % 2 == 0 {
            assert!(wheel.reset(*id, deadline));
        }
        assert!(wheel.remove(*id).is_some());
        *id = wheel.insert(deadline, i);
    }
    assert_eq!(wheel.len(), 10);
    assert_eq!(capacities, (wheel.nodes.capacity(), wheel.late.capacity(), wheel.run.capacity()));
    assert_eq!(wheel.nodes.len(), 10);
}

#[test]
fn the_run_stays_small_under_endless_overload() {
    let mut wheel = Wheel::new();
    for i in 0..100_000 {
        wheel.insert(i * TICK, i);
        wheel.insert(i * TICK, i);
        // One of two is taken, then both of the second half.
        wheel.begin_turn(i * TICK);
        assert!(wheel.pop_due().is_some());
        if i > 100 {
            assert!(wheel.pop_due().is_some());
        }
    }
    assert!(wheel.run.capacity() < 2_000);
}

#[test]
fn a_generation_never_comes_twice() {
    let mut wheel = Wheel::new();
    let id = wheel.insert(1, 'a');
    wheel.remove(id);
    wheel.nodes[0].generation = u32::MAX - 1;
    let last = wheel.insert(1, 'b');
    assert_eq!((last.index, wheel.remove(last)), (0, Some('b')));
    assert_eq!(wheel.remove(last), None);
    let next = wheel.insert(1, 'c');
    assert_eq!(next.index, 1);
    let retired = TimerId { index: 0, generation: u32::MAX };
    assert_eq!(wheel.get(retired), None);
    assert_eq!(turn(&mut wheel, 1), ['c']);
}

#[test]
fn drops_no_value_but_with_the_wheel() {
    use std::rc::Rc;
    let mut wheel = Wheel::new();
    let value = Rc::new(());
    let ids: Vec<_> = (0..5).map(|i| wheel.insert(i * SECOND, Rc::clone(&value))).collect();
    wheel.reset(ids[0], 7 * SECOND);
    let removed = wheel.remove(ids[1]);
    let due = turn(&mut wheel, 2 * SECOND);
    assert_eq!((removed.iter().count(), due.len(), Rc::strong_count(&value)), (1, 1, 6));
    drop(wheel);
    assert_eq!(Rc::strong_count(&value), 3);
}

#[test]
fn late_timers_are_sorted() {
    // Exercises the heap with removals from anywhere.
    let mut wheel = Wheel::new();
    wheel.begin_turn(SECOND);
    assert!(wheel.pop_due().is_none());
    let mut state = 1_u64;
    let mut expected = Vec::new();
    let mut ids = Vec::new();
    for i in 0..5_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let deadline = (state >> 33) % 1_000;
        ids.push((wheel.insert(deadline, i), deadline, i));
    }
    for (k, (id, deadline, i)) in ids.into_iter().enumerate() {
        match k % 3 {
            0 => assert_eq!(wheel.remove(id), Some(i)),
            _ => expected.push((deadline, i)),
        }
        if k % 100 == 0 {
            let first = wheel.iter().map(|timer| timer.1).min();
            assert_eq!(wheel.next_deadline(), first);
        }
    }
    expected.sort_unstable();
    let values: Vec<_> = expected.into_iter().map(|timer| timer.1).collect();
    assert_eq!(turn(&mut wheel, SECOND), values);
}

#[test]
fn a_crowd_that_is_due_at_once_is_sorted() {
    // Whole slots of several levels: spread, close together, and with many equals.
    for (spread, unit) in [(60 * SECOND, 1), (60 * SECOND, MS), (DAY, 1), (TICK, 1), (9, 1)] {
        let mut wheel = Wheel::new();
        let mut state = 1_u64;
        let mut expected = Vec::new();
        for i in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let deadline = SECOND + (state >> 16) % spread / unit * unit;
            let id = wheel.insert(deadline, i);
            if i % 7 == 0 {
                assert_eq!(wheel.remove(id), Some(i));
            } else {
                expected.push((deadline, i));
            }
        }
        expected.sort_unstable();
        let values: Vec<_> = expected.into_iter().map(|timer| timer.1).collect();
        // In two turns: the second finds slots that are due in part.
        let mut found = turn(&mut wheel, SECOND + spread / 3);
        assert!(!found.is_empty() && found.len() < values.len());
        found.extend(turn(&mut wheel, SECOND + spread));
        assert_eq!(found, values, "spread over {spread} in steps of {unit}");
    }
}

/// How far ahead of the clock a deadline lies or the clock moves.
fn span() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => 0..4_u64,
        3 => 0..2 * TICK,
        3 => 0..200 * TICK,
        2 => 0..100 * SECOND,
        1 => 0..400 * DAY,
        1 => 0..u64::MAX / 16,
        // The edges of ticks and slots, and equal deadlines.
        4 => (0..20_u64, 0..44_u32, 0..3_u64).prop_map(|(n, bits, nudge)| {
            (n << bits).saturating_mul(TICK).saturating_add(nudge).saturating_sub(1)
        }),
        1 => (0..6_u64).prop_map(|n| n * 5 * MS),
    ]
}

#[derive(Clone, Copy, Debug)]
enum When {
    /// From the clock.
    In(u64),
    /// From the clock rounded up to a unit of 2^n ticks, so that deadlines coincide.
    Edge(u32, u64),
    Past(u64),
    Never,
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![
        6 => span().prop_map(When::In),
        4 => (0..30_u32, 0..3_u64).prop_map(|(bits, nudge)| When::Edge(bits, nudge)),
        1 => span().prop_map(When::Past),
        1 => Just(When::Never),
    ]
}

impl When {
    fn from(self, now: u64) -> u64 {
        match self {
            Self::In(span) => now.saturating_add(span),
            Self::Edge(bits, nudge) => {
                let unit = TICK << bits;
                (now / unit + 1).saturating_mul(unit).saturating_add(nudge) - 1
            }
            Self::Past(span) => now.saturating_sub(span),
            Self::Never => u64::MAX,
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert(When),
    /// Many at once, so that slots are crowded.
    Crowd(u8, When),
    Remove(usize),
    Reset(usize, When),
    Advance(u64),
    /// To the earliest deadline, or a nanosecond before.
    AdvanceToNext(bool),
    Back(u64),
    /// Takes so many, and leaves the turn under way.
    Pop(u8),
    Next,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => when().prop_map(Op::Insert),
        1 => (0..60_u8, when()).prop_map(|(n, at)| Op::Crowd(n, at)),
        3 => any::<usize>().prop_map(Op::Remove),
        3 => (any::<usize>(), when()).prop_map(|(which, at)| Op::Reset(which, at)),
        2 => span().prop_map(Op::Advance),
        2 => any::<bool>().prop_map(Op::AdvanceToNext),
        1 => (0..3 * TICK).prop_map(Op::Back),
        6 => (1..20_u8).prop_map(Op::Pop),
        2 => Just(Op::Next),
    ]
}

/// A timer of the model.
#[derive(Clone, Copy, Debug)]
struct Timer {
    deadline: u64,
    sequence: u64,
    value: u64,
}

/// The same, with a sequence number for everything and a search for every question.
#[derive(Default)]
struct Model {
    timers: HashMap<TimerId, Timer>,
    gone: Vec<TimerId>,
    sequence: u64,
    /// Clock and first sequence number that does not belong to the turn.
    turn: Option<(u64, u64)>,
}

impl Model {
    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn pop(&mut self) -> Option<(TimerId, u64, u64)> {
        let (now, limit) = self.turn?;
        let due = self.timers.iter().filter(|(_, timer)| {
            timer.deadline <= now && timer.sequence <= limit && timer.deadline < u64::MAX
        });
        let first = due.min_by_key(|(_, timer)| (timer.deadline, timer.sequence));
        let Some((&id, &timer)) = first else {
            self.turn = None;
            return None;
        };
        self.timers.remove(&id);
        self.gone.push(id);
        Some((id, timer.deadline, timer.value))
    }

    /// In a fixed order, for a reproducible choice.
    fn pick(&self, which: usize) -> Option<TimerId> {
        let mut ids: Vec<_> = self.timers.iter().map(|(&id, timer)| (timer.value, id)).collect();
        ids.sort_unstable_by_key(|&(value, _)| value);
        (!ids.is_empty()).then(|| ids[which % ids.len()].1)
    }
}

fn check(wheel: &mut Wheel<u64>, model: &mut Model, now: &mut u64, op: &Op) {
    let insert = |wheel: &mut Wheel<u64>, model: &mut Model, deadline| {
        let sequence = model.next();
        let value = sequence;
        let id = wheel.insert(deadline, value);
        let known = model.timers.insert(id, Timer { deadline, sequence, value });
        assert!(known.is_none() && !model.gone.contains(&id), "an id came twice");
    };
    let begin = |wheel: &mut Wheel<u64>, model: &mut Model, now: u64| {
        wheel.begin_turn(now);
        model.turn = Some((now, model.sequence));
    };
    let first = model.timers.values().map(|timer| timer.deadline).min();
    match *op {
        Op::Insert(when) => insert(wheel, model, when.from(*now)),
        Op::Crowd(n, when) => {
            for i in 0..n {
                insert(wheel, model, when.from(*now).saturating_add(u64::from(i / 4)));
            }
        }
        Op::Remove(which) => {
            if let Some(id) = model.pick(which) {
                let timer = model.timers.remove(&id).unwrap();
                assert_eq!(wheel.remove(id), Some(timer.value));
                model.gone.push(id);
            }
        }
        Op::Reset(which, when) => {
            if let Some(id) = model.pick(which) {
                let deadline = when.from(*now);
                assert!(wheel.reset(id, deadline));
                let sequence = model.next();
                let timer = model.timers.get_mut(&id).unwrap();
                (timer.deadline, timer.sequence) = (deadline, sequence);
            }
        }
        Op::Advance(span) => {
            *now = now.saturating_add(span);
            begin(wheel, model, *now);
        }
        Op::AdvanceToNext(before) => {
            if let Some(first) = first {
                *now = (*now).max(first.saturating_sub(u64::from(before)));
                begin(wheel, model, *now);
            }
        }
        Op::Back(span) => begin(wheel, model, now.saturating_sub(span)),
        Op::Pop(n) => {
            for _ in 0..n {
                let expected = model.pop();
                assert_eq!(wheel.pop_due(), expected);
                if expected.is_none() {
                    break;
                }
            }
        }
        Op::Next => match (wheel.next_deadline(), first) {
            (Some(next), Some(first)) => {
                assert!(next <= first, "{next} is after {first}");
                assert!(next == first || model.timers.len() > 32, "{next} is not {first}");
                assert_eq!(wheel.next_deadline(), Some(next));
            }
            (next, first) => assert_eq!(next, first),
        },
    }
}

/// That everything in the model is in the wheel, and nothing else.
fn compare(wheel: &Wheel<u64>, model: &Model) {
    assert_eq!(wheel.len(), model.timers.len());
    assert_eq!(wheel.is_empty(), model.timers.is_empty());
    assert_eq!(wheel.iter().count(), wheel.len());
    for (id, deadline, value) in wheel.iter() {
        let timer = model.timers[&id];
        assert_eq!((deadline, *value), (timer.deadline, timer.value));
        assert_eq!((wheel.deadline(id), wheel.get(id)), (Some(deadline), Some(value)));
    }
    for &id in &model.gone {
        assert_eq!((wheel.deadline(id), wheel.get(id)), (None, None));
    }
}

proptest! {
    #[test]
    fn behaves_like_a_sorted_list(
        start in prop_oneof![Just(0), span()],
        asks in any::<bool>(),
        ops in proptest::collection::vec(op(), 1..200),
    ) {
        let mut wheel = Wheel::new();
        let mut model = Model::default();
        let mut now = start;
        for op in &ops {
            check(&mut wheel, &mut model, &mut now, op);
            if asks {
                check(&mut wheel, &mut model, &mut now, &Op::Next);
            }
        }
        compare(&wheel, &model);
        check(&mut wheel, &mut model, &mut now, &Op::Advance(u64::MAX));
        check(&mut wheel, &mut model, &mut now, &Op::Pop(u8::MAX));
        while !wheel.is_empty() && model.turn.is_some() {
            check(&mut wheel, &mut model, &mut now, &Op::Pop(u8::MAX));
        }
        compare(&wheel, &model);
    }
}
