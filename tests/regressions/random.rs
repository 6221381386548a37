//! Random programs over scripted sockets and over timers. What is checked holds for each of them:
//! every datagram is accounted for, and nothing keeps the loop going that has ended.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::testing::{Script, SendStep};
use strand_reactor::{DelayedCall, LoopingCall, QueuePolicy, Reactor, UdpOptions};

use crate::support::{Recorder, Setup};
use crate::{nowhere, turn};

/// Numbers that look random (xorshift), the same for the same seed.
#[derive(Clone)]
pub(crate) struct Random(Rc<Cell<u64>>);

impl Random {
    fn new(seed: u64) -> Self {
        Self(Rc::new(Cell::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))))
    }

    pub(crate) fn below(&self, end: u64) -> u64 {
        let mut state = self.0.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.0.set(state);
        state % end
    }

    pub(crate) fn flip(&self) -> bool {
        self.below(2) == 0
    }

    fn pick<T: Copy, const N: usize>(&self, from: [T; N]) -> T {
        from[self.below(N as u64) as usize]
    }

    fn micros(&self, end: u64) -> Duration {
        Duration::from_micros(self.below(end))
    }
}

/// Runs `program` with the seeds from 1 to `count`, and names the one that fails.
#[track_caller]
pub(crate) fn seeds(count: u64, program: impl Fn(&Random)) {
    for seed in 1..=count {
        if catch_unwind(AssertUnwindSafe(|| program(&Random::new(seed)))).is_err() {
            panic!("fails with seed {seed}");
        }
    }
}

/// What was sent and what has to come of it.
#[derive(Default)]
struct Sends {
    /// The payloads that were accepted, in order.
    accepted: Vec<Vec<u8>>,
    /// Of them those without a completion that did not fail in the call, and those of `try_write`.
    plain: usize,
    tried: usize,
    /// The numbers of those with a completion.
    completing: Vec<usize>,
}

/// Each accepted datagram is sent in its order or told as failed, to its completion or to
/// `write_failed`, exactly once; and the queue empties, whatever the system answers meanwhile.
#[test]
fn every_send_is_accounted_for() {
    const ERRORS: [i32; 6] = [11, 1, 105, 111, 90, 113];
    const POLICIES: [QueuePolicy; 3] =
        [QueuePolicy::Error, QueuePolicy::DropOldest, QueuePolicy::DropNewest];
    seeds(200, |random| {
        let (reactor, script) = (Reactor::new().unwrap(), Script::new());
        if random.flip() {
            script.without_error_queue();
        }
        let failed = Rc::new(Cell::new(0));
        let count = Rc::clone(&failed);
        let protocol = Recorder::quiet().on_write_failed(move |_, _| {
            count.set(count.get() + 1);
            Ok(())
        });
        let options = UdpOptions::parse("127.0.0.1:9")
            .unwrap()
            .queue_policy(random.pick(POLICIES))
            .queue_limit(8, 4000);
        let port = script.listen(&reactor, options, protocol).unwrap();
        let completed: Rc<RefCell<HashMap<usize, Vec<bool>>>> = Rc::default();
        let mut sends = Sends::default();
        let mut connected = false;
        for number in 0..150_usize {
            let to = (!connected).then(nowhere);
            let mut payload = vec![0; 8 + random.below(300) as usize];
            payload[..8].copy_from_slice(&number.to_le_bytes());
            match random.below(12) {
                0..=3 => {
                    let result = match to {
                        Some(to) => port.write_to(&payload, to),
                        None => port.write(&payload),
                    };
                    if result.is_ok() {
                        sends.plain += 1;
                        sends.accepted.push(payload);
                    }
                }
                4 | 5 => {
                    let told = Rc::clone(&completed);
                    let done = move |result: Result<usize, _>| {
                        told.borrow_mut().entry(number).or_default().push(result.is_ok());
                    };
                    if port.write_then(&payload, to, done).is_ok() {
                        sends.completing.push(number);
                        sends.accepted.push(payload);
                    }
                }
                6 => {
                    let result = match to {
                        Some(to) => port.try_write_to(&payload, to),
                        None => port.try_write(&payload),
                    };
                    if result.is_ok() {
                        sends.tried += 1;
                        sends.accepted.push(payload);
                    }
                }
                7 => script.answer_send(SendStep::Fail(random.pick(ERRORS))),
                8 => script.answer_send(SendStep::Take(1 + random.below(3) as usize)),
                9 => {
                    match connected {
                        true => port.disconnect().unwrap(),
                        false => port.connect(nowhere()).unwrap(),
                    }
                    connected = !connected;
                }
                10 => script.make_writable(),
                _ => turn(&reactor, 1),
            }
        }
        for _ in 0..500 {
            script.make_writable();
            turn(&reactor, 1);
        }
        assert_eq!((port.queued_datagrams(), port.queued_bytes()), (0, 0));

        let completed = completed.borrow();
        assert_eq!(completed.len(), sends.completing.len());
        assert!(sends.completing.iter().all(|number| completed[number].len() == 1));
        let succeeded = completed.values().filter(|results| results[0]).count();
        let sent = script.sent();
        assert_eq!(sent.len(), sends.plain - failed.get() + sends.tried + succeeded);
        let mut accepted = sends.accepted.iter();
        assert!(sent.iter().all(|sent| accepted.any(|payload| *payload == sent.payload)), "order");

        port.stop_listening();
        reactor.run().unwrap();
        assert_eq!(reactor.stats().callback_panics, 0);
    });
}

/// Each datagram is delivered or pulled once and in order, whatever comes between: errors of the
/// socket and of callbacks, pauses, ends of the loop, answers from the receive buffer.
#[test]
fn every_datagram_received_is_delivered_once_and_in_order() {
    seeds(300, |random| {
        let (reactor, script) = (Reactor::new().unwrap(), Script::new());
        let got: Rc<RefCell<Vec<u32>>> = Rc::default();
        let (sink, inside) = (Rc::clone(&got), random.clone());
        let protocol = Recorder::quiet().on_datagram(move |transport, datagram| {
            sink.borrow_mut().push(u32::from_le_bytes(datagram.payload().try_into()?));
            match inside.below(12) {
                0 => transport.pause_reading()?,
                1 => {
                    transport.pause_reading()?;
                    transport.resume_reading()?;
                }
                2 => transport.reactor().crash(),
                3 => anyhow::bail!("one of many"),
                4 => transport.write_to(&datagram.payload()[1..], nowhere())?,
                _ => {}
            }
            Ok(())
        });
        let port = script.listen(&reactor, "127.0.0.1:9", protocol).unwrap();
        let mut next = 0_u32;
        let mut number = || {
            next += 1;
            (next - 1).to_le_bytes()
        };
        for _ in 0..100 {
            match random.below(10) {
                0..=2 => script.receive(nowhere(), &number()),
                3 | 4 => {
                    let merged: Vec<u8> = (0..=random.below(20)).flat_map(|_| number()).collect();
                    script.receive_merged(nowhere(), &merged, 4);
                }
                5 => script.receive_error(random.pick([111, 113, 105])),
                6 => port.resume_reading().unwrap(),
                7 => port.pause_reading().unwrap(),
                8 => {
                    let mut buffer = [0; 4];
                    // An error unless the port is paused.
                    if let Ok(Some(pulled)) = port.read_datagram(&mut buffer) {
                        assert_eq!(pulled.len(), 4);
                        got.borrow_mut().push(u32::from_le_bytes(buffer));
                    }
                }
                _ => turn(&reactor, 1),
            }
        }
        let count = u32::from_le_bytes(number());
        for _ in 0..3000 {
            if got.borrow().len() as u32 >= count {
                break;
            }
            port.resume_reading().unwrap();
            turn(&reactor, 1);
        }
        assert!(got.borrow().iter().copied().eq(0..count), "{count}: {:?}", got.borrow());
        assert_eq!(port.stats().unwrap().datagrams_in, u64::from(count));
    });
}

/// A looping call that resets itself on the way and ends at its fourth call by `stop`, by an error,
/// or by both.
fn looping(reactor: &Reactor, random: &Random) -> LoopingCall {
    let (called, end) = (Cell::new(0), random.below(3));
    let itself: Rc<RefCell<Option<LoopingCall>>> = Rc::default();
    let inside = Rc::clone(&itself);
    let call = reactor.looping_call(random.micros(1500), move |_, _| {
        let call = inside.borrow().clone().unwrap();
        called.set(called.get() + 1);
        match called.get() {
            2 => {
                call.unref();
                call.reset()?;
                call.reref();
            }
            4.. => {
                if end != 1 {
                    call.stop()?;
                }
                anyhow::ensure!(end == 0, "the end");
            }
            _ => {}
        }
        Ok(())
    });
    *itself.borrow_mut() = Some(call.clone());
    call
}

/// Timers that end in whatever way leave nothing that keeps `run` going, and take nothing away
/// from others.
#[test]
fn run_returns_after_any_timers() {
    seeds(60, |random| {
        let lab = Setup::plain().lab();
        let mut timers: VecDeque<DelayedCall> = VecDeque::new();
        let mut loops = Vec::new();
        for _ in 0..60 {
            match random.below(8) {
                0 | 1 => timers.push_back(lab.call_later(random.micros(3000), |_| {})),
                // Errors where the timer was called already.
                2 => drop(timers.pop_front().map(|timer| timer.cancel())),
                3 => drop(timers.back().map(|timer| timer.reset(random.micros(3000)))),
                4 => {
                    if let Some(timer) = timers.back() {
                        timer.unref();
                        if random.flip() {
                            timer.reref();
                        }
                    }
                }
                5 => loops.push(looping(lab.reactor(), random)),
                _ => drop(lab.reactor().iterate(Some(Duration::from_micros(500))).unwrap()),
            }
        }
        lab.run();
        assert!(loops.iter().all(|call| !call.running()));
        assert_eq!(lab.stats().callback_panics, 0);
        for timer in lab.pending_timers() {
            timer.cancel().unwrap();
        }
        assert!(!lab.reactor().iterate(Some(Duration::ZERO)).unwrap(), "something is left");
    });
}
