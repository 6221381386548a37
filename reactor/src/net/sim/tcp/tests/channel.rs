//! Two connections over a channel that loses, repeats and reorders, under a clock of its own.

use std::collections::BTreeMap;
use std::io::IoSlice;

use fastrand::Rng;

use crate::net::sim::packet::{Flags, Segment};
use crate::net::sim::tcp::tcb::{Setup, State, Tcb};

pub(super) const A: usize = 0;
pub(super) const B: usize = 1;
pub(super) const SECOND: u64 = 1_000_000_000;

pub(super) fn setup(isn: u32) -> Setup {
    Setup { isn, mss: 1460, path_mss: None, recv_room: 65_536, send_room: 65_536 }
}

/// What the channel does to segments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    /// In percent.
    pub(super) loss: u8,
    pub(super) twice: u8,
    pub(super) latency: u64,
    /// Added at random: this reorders.
    pub(super) jitter: u64,
}

pub(super) const NONE: Faults = Faults { loss: 0, twice: 0, latency: 1_000_000, jitter: 0 };

pub(super) struct Channel {
    pub(super) now: u64,
    pub(super) rng: Rng,
    pub(super) faults: Faults,
    /// In the order of arrival; those of one instant in the order of sending.
    flying: BTreeMap<(u64, u64), (usize, Segment)>,
    count: u64,
    pub(super) ends: [Option<Tcb>; 2],
    pub(super) setups: [Setup; 2],
    /// Whether a SYN to this end is answered.
    pub(super) listens: [bool; 2],
    /// Everything that was sent: when, by whom.
    pub(super) log: Vec<(u64, usize, Segment)>,
    /// What each end has received.
    pub(super) received: [Vec<u8>; 2],
}

impl Channel {
    pub(super) fn new(seed: u64, faults: Faults, setups: [Setup; 2]) -> Self {
        Self {
            now: 0,
            rng: Rng::with_seed(seed),
            faults,
            flying: BTreeMap::new(),
            count: 0,
            ends: [None, None],
            setups,
            listens: [true; 2],
            log: Vec::new(),
            received: [Vec::new(), Vec::new()],
        }
    }

    /// Two ends that are connected.
    pub(super) fn connected(faults: Faults) -> Self {
        let mut channel = Self::new(1, NONE, [setup(u32::MAX - 5), setup(7)]);
        channel.connect(A);
        channel.run_for(SECOND);
        assert_eq!([channel.state(A), channel.state(B)], [State::Established; 2]);
        channel.faults = faults;
        channel.log.clear();
        channel
    }

    pub(super) fn connect(&mut self, end: usize) {
        self.ends[end] = Some(Tcb::connect(self.now, self.setups[end]));
        self.flush(end);
    }

    pub(super) fn end(&mut self, end: usize) -> &mut Tcb {
        self.ends[end].as_mut().expect("an end")
    }

    pub(super) fn state(&self, end: usize) -> State {
        self.ends[end].as_ref().map_or(State::Closed, Tcb::state)
    }

    /// Sends what an end has to send.
    pub(super) fn flush(&mut self, end: usize) {
        while let Some(segment) =
            self.ends[end].as_mut().and_then(|tcb| tcb.poll_transmit(self.now, true))
        {
            self.send(end, segment);
        }
    }

    fn send(&mut self, from: usize, segment: Segment) {
        self.log.push((self.now, from, segment.clone()));
        let copies = 1 + u64::from(self.rng.u8(..100) < self.faults.twice);
        for _ in 0..copies {
            if self.rng.u8(..100) < self.faults.loss {
                continue;
            }
            let at = self.now + self.faults.latency + self.rng.u64(..=self.faults.jitter);
            self.count += 1;
            self.flying.insert((at, self.count), (1 - from, segment.clone()));
        }
    }

    /// When something happens next.
    fn next(&self) -> Option<u64> {
        let arrival = self.flying.keys().next().map(|(at, _)| *at);
        let timers = self.ends.iter().flatten().filter_map(Tcb::next_timer);
        timers.chain(arrival).min()
    }

    /// Lets the next thing happen. False: there is none.
    pub(super) fn step(&mut self) -> bool {
        let Some(at) = self.next() else { return false };
        self.now = self.now.max(at);
        if let Some(first) = self.flying.first_entry()
            && first.key().0 <= self.now
        {
            let (to, segment) = first.remove();
            self.arrive(to, &segment);
            return true;
        }
        for end in [A, B] {
            if let Some(tcb) = &mut self.ends[end] {
                tcb.on_timer(self.now);
            }
            self.flush(end);
        }
        true
    }

    fn arrive(&mut self, to: usize, segment: &Segment) {
        let is = |flags| segment.flags.contains(flags);
        if self.state(to) != State::Closed {
            let now = self.now;
            self.end(to).on_segment(now, segment);
        } else if self.ends[to].is_none() && self.listens[to] && segment.flags == Flags::SYN {
            self.ends[to] = Some(Tcb::answer(self.now, self.setups[to], segment));
        } else if !is(Flags::RST) {
            let (seq, flags) = match is(Flags::ACK) {
                true => (segment.ack, Flags::RST),
                false => (0, Flags::RST | Flags::ACK),
            };
            let len = segment.payload.len() as u32
                + u32::from(is(Flags::SYN))
                + u32::from(is(Flags::FIN));
            let ack = segment.seq.wrapping_add(len);
            self.send(to, Segment { seq, ack, flags, window: 0, payload: [].into(), mss: None });
        }
        self.flush(to);
    }

    pub(super) fn run_for(&mut self, time: u64) {
        let until = self.now + time;
        while self.next().is_some_and(|at| at <= until) {
            self.step();
        }
        self.now = until;
    }

    /// Until nothing happens any more.
    pub(super) fn run(&mut self) {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 1_000_000, "it never ends: {:?}", self.ends);
        }
    }

    pub(super) fn write(&mut self, end: usize, data: &[u8]) -> Result<usize, i32> {
        let written = self.end(end).write(&[IoSlice::new(data)]);
        self.flush(end);
        written
    }

    /// Reads all that is there. `Ok(true)`: the end of it.
    pub(super) fn read(&mut self, end: usize, chunk: usize) -> Result<bool, i32> {
        let mut buffer = vec![0; chunk];
        let result = loop {
            let Some(tcb) = &mut self.ends[end] else { break Ok(false) };
            match tcb.read(&mut buffer) {
                Ok(0) => break Ok(true),
                Ok(len) => self.received[end].extend_from_slice(&buffer[..len]),
                Err(libc::EAGAIN) => break Ok(false),
                Err(error) => break Err(error),
            }
        };
        self.flush(end);
        result
    }

    pub(super) fn shutdown(&mut self, end: usize) {
        self.end(end).shutdown_write().expect("a connection");
        self.flush(end);
    }

    pub(super) fn close(&mut self, end: usize) {
        let now = self.now;
        self.end(end).close(now);
        self.flush(end);
    }

    /// How many segments with these flags an end has sent.
    pub(super) fn sent(&self, end: usize, flags: Flags) -> usize {
        let of_end = self.log.iter().filter(|(_, from, _)| *from == end);
        of_end.filter(|(_, _, segment)| segment.flags.contains(flags)).count()
    }
}

/// Bytes in which a loss, a repetition or an exchange of parts shows.
pub(super) fn pattern(len: usize, salt: u8) -> Vec<u8> {
    (0..len).map(|at| ((at * 31) >> 3) as u8 ^ (at >> 16) as u8 ^ salt).collect()
}

impl Channel {
    /// Loses all that is under way, and says how many segments that were.
    pub(super) fn drop_flying(&mut self) -> usize {
        std::mem::take(&mut self.flying).len()
    }

    /// Loses the segment that would arrive next.
    pub(super) fn drop_first(&mut self) {
        self.flying.pop_first().expect("something is under way");
    }
}
