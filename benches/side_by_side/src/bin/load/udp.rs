//! UDP: a window of datagrams in flight, and datagrams at full blast to a server that counts.

use std::time::Duration;

use anyhow::{Context, ensure};
use side_by_side::sys::{self, Address, BATCH, Fd, POLLIN, Receiver, Sender, pollfd};
use side_by_side::{Reading, sys::now_ns};

use crate::Common;
use crate::meter::{Histogram, Meter};

/// After so long without an answer a datagram counts as lost.
const LOST_AFTER_NS: u64 = 200_000_000;
const CHECK_EVERY_NS: u64 = 20_000_000;
const WARM_UP_NS: u64 = 200_000_000;

#[derive(clap::Args)]
pub(crate) struct Echo {
    /// Bytes of a datagram
    #[arg(long)]
    size: usize,
    /// Datagrams in flight, over all flows
    #[arg(long)]
    window: usize,
    /// Sockets
    #[arg(long)]
    flows: usize,
    /// Sends bursts merged (UDP_SEGMENT)
    #[arg(long)]
    gso: bool,
    /// Receives merged (UDP_GRO)
    #[arg(long)]
    gro: bool,
}

/// A datagram in flight. It carries the number of its slot and the slot's generation, `u32` each:
/// an answer counts only if its generation is the slot's present one.
#[derive(Clone, Copy, Default)]
struct Slot {
    sent: u64,
    generation: u32,
}

struct Flow {
    fd: Fd,
    slots: Vec<Slot>,
}

struct Window {
    flows: Vec<Flow>,
    receiver: Receiver,
    sender: Sender,
    size: usize,
    /// Slots to be sent again.
    free: Vec<u32>,
    times: Histogram,
    echoed: u64,
    lost: u64,
    busy_ns: u64,
}

pub(crate) fn echo(common: Common, mode: &Echo) -> anyhow::Result<Reading> {
    let per_flow = mode.window / mode.flows.max(1);
    ensure!(mode.size >= 8, "--size: at least 8");
    ensure!((1..=BATCH).contains(&per_flow), "--window over --flows: 1 to {BATCH}");
    let to = sys::address(common.to);
    let mut window = Window::open(mode, &to, per_flow)?;
    window.sweep_until(now_ns() + WARM_UP_NS);
    (window.echoed, window.lost, window.busy_ns) = (0, 0, 0);
    window.times = Histogram::new();
    let meter = Meter::start(common.pid)?;
    window.sweep_until(now_ns() + (common.secs * 1e9) as u64);
    let reading = meter.stop(window.echoed, 1.0)?;
    Ok(Reading {
        p50_us: window.times.quantile_us(0.5),
        p99_us: window.times.quantile_us(0.99),
        lost_percent: percent(window.lost, window.lost + window.echoed),
        load_percent: window.busy_ns as f64 / 1e7 / common.secs,
        ..reading
    })
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64 * 100.0
}

impl Window {
    /// Opens the sockets and sends the first window.
    fn open(mode: &Echo, to: &Address, per_flow: usize) -> anyhow::Result<Self> {
        let open = |_| -> anyhow::Result<Flow> {
            let fd = sys::udp_socket(mode.gro)?;
            Ok(Flow { fd, slots: vec![Slot::default(); per_flow] })
        };
        let mut this = Self {
            flows: (0..mode.flows).map(open).collect::<anyhow::Result<_>>()?,
            receiver: Receiver::new(mode.size, mode.gro),
            sender: Sender::new(mode.size, to, mode.gso),
            size: mode.size,
            free: Vec::with_capacity(BATCH * BATCH),
            times: Histogram::new(),
            echoed: 0,
            lost: 0,
            busy_ns: 0,
        };
        for flow in 0..this.flows.len() {
            this.free.extend(0..per_flow as u32);
            this.refill(flow, now_ns());
        }
        Ok(this)
    }

    /// Answers answers with new datagrams until it is `end`.
    fn sweep_until(&mut self, end: u64) {
        let mut now = now_ns();
        let mut next_check = now + CHECK_EVERY_NS;
        while now < end {
            let mut any = false;
            for flow in 0..self.flows.len() {
                let started = now;
                let count = self.receiver.receive(self.flows[flow].fd);
                now = now_ns();
                if count > 0 {
                    any = true;
                    self.answered(flow, count, now);
                    self.refill(flow, now);
                    now = now_ns();
                    self.busy_ns += now - started;
                }
            }
            if !any {
                now = now_ns();
            }
            if now >= next_check {
                next_check = now + CHECK_EVERY_NS;
                self.give_up(now);
            }
        }
    }

    fn answered(&mut self, flow: usize, count: usize, now: u64) {
        let slots = &mut self.flows[flow].slots;
        for message in 0..count {
            self.receiver.each(message, |datagram| {
                if datagram.len() != self.size {
                    return;
                }
                let number = |at: usize| {
                    u32::from_le_bytes([0, 1, 2, 3].map(|byte: usize| datagram[at + byte]))
                };
                let (slot, generation) = (number(0), number(4));
                if let Some(found) = slots.get_mut(slot as usize)
                    && found.generation == generation
                    && found.sent != 0
                {
                    self.times.add(now.saturating_sub(found.sent));
                    found.sent = 0;
                    self.echoed += 1;
                    self.free.push(slot);
                }
            });
        }
    }

    /// Sends every free slot under a new generation. What could not be sent keeps its time, and is
    /// given up later.
    fn refill(&mut self, flow: usize, now: u64) {
        let Flow { fd, slots } = &mut self.flows[flow];
        for part in self.free.chunks(BATCH) {
            for (nth, &slot) in part.iter().enumerate() {
                let refilled = &mut slots[slot as usize];
                refilled.generation = refilled.generation.wrapping_add(1);
                refilled.sent = now;
                let datagram = self.sender.slot(nth);
                datagram[..4].copy_from_slice(&slot.to_le_bytes());
                datagram[4..8].copy_from_slice(&refilled.generation.to_le_bytes());
            }
            self.sender.send(*fd, part.len());
        }
        self.free.clear();
    }

    fn give_up(&mut self, now: u64) {
        for flow in 0..self.flows.len() {
            for (slot, in_flight) in self.flows[flow].slots.iter().enumerate() {
                if now.saturating_sub(in_flight.sent) > LOST_AFTER_NS {
                    self.lost += 1;
                    self.free.push(slot as u32);
                }
            }
            self.refill(flow, now);
        }
    }
}

#[derive(clap::Args)]
pub(crate) struct Sink {
    /// Bytes of a datagram
    #[arg(long)]
    size: usize,
    /// Sockets
    #[arg(long, default_value_t = 16)]
    flows: usize,
    /// Sends bursts merged (UDP_SEGMENT)
    #[arg(long)]
    gso: bool,
    /// Datagrams a second; without limit otherwise
    #[arg(long)]
    rate: Option<f64>,
    /// Datagrams of a burst
    #[arg(long, default_value_t = BATCH)]
    batch: usize,
}

pub(crate) fn sink(common: Common, mode: &Sink) -> anyhow::Result<Reading> {
    ensure!(mode.size >= 8 && mode.flows > 0, "--size: at least 8; --flows: at least 1");
    ensure!((1..=BATCH).contains(&mode.batch), "--batch: 1 to {BATCH}");
    let to = sys::address(common.to);
    let control = sys::udp_socket(false)?;
    sys::connect(control, &to)?;
    let flows = (0..mode.flows).map(|_| sys::udp_socket(false)).collect::<Result<Vec<_>, _>>()?;
    let mut sender = Sender::new(mode.size, &to, mode.gso);
    let before = ask_count(control)?;
    let own = sys::own_cpu();
    let meter = Meter::start(common.pid)?;
    let started = now_ns();
    let (mut sent, mut sequence) = (0_u64, 0_u64);
    for flow in flows.iter().cycle() {
        let passed = loop {
            let passed = (now_ns() - started) as f64 / 1e9;
            let ahead = mode.rate.is_some_and(|rate| sent as f64 > passed * rate);
            if !ahead || passed >= common.secs {
                break passed;
            }
            std::hint::spin_loop();
        };
        if passed >= common.secs {
            break;
        }
        for nth in 0..mode.batch {
            sender.slot(nth)[..8].copy_from_slice(&sequence.to_le_bytes());
            sequence += 1;
        }
        sent += sender.send(*flow, mode.batch) as u64;
    }
    let blast = (now_ns() - started) as f64 / 1e9;
    let own = sys::own_cpu() - own;
    // The server empties its queue; its time for that belongs to the datagrams.
    std::thread::sleep(Duration::from_millis(200));
    let received = ask_count(control)? - before;
    let reading = meter.stop(received, 1.0)?;
    Ok(Reading {
        per_second: received as f64 / blast,
        lost_percent: percent(sent.saturating_sub(received), sent),
        load_percent: own / blast * 100.0,
        ..reading
    })
}

/// Asks the server how many it got.
fn ask_count(fd: Fd) -> anyhow::Result<u64> {
    let mut count = [0; 8];
    for _ in 0..20 {
        sys::send(fd, b"STAT");
        let mut watched = [pollfd { fd, events: POLLIN, revents: 0 }];
        if sys::poll(&mut watched, 500) == 1 && sys::receive(fd, &mut count) == 8 {
            return Ok(u64::from_le_bytes(count));
        }
    }
    None.context("no answer to STAT")
}
