//! TCP: requests and answers, a stream, connections made and closed, connections that are idle.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use side_by_side::sys::{
    self, EAGAIN, EPOLLIN, Epoll, Fd, POLLIN, POLLOUT, epoll_event, now_ns, pollfd,
};
use side_by_side::{Reading, sys::errno};

use crate::Common;
use crate::meter::{Histogram, Meter, resident, server_cpu};

const WARM_UP_NS: u64 = 200_000_000;

#[derive(clap::Args)]
pub(crate) struct Echo {
    /// Connections
    #[arg(long)]
    conns: usize,
    /// Bytes of a request
    #[arg(long)]
    size: usize,
    /// Requests in flight on each
    #[arg(long, default_value_t = 1)]
    depth: usize,
    /// Further connections, on which nothing is ever sent
    #[arg(long, default_value_t = 0)]
    silent: usize,
}

struct Connection {
    fd: Fd,
    /// Bytes of an answer that is not whole yet.
    partial: usize,
    /// Bytes of requests for which there was no room yet.
    owed: usize,
    sent_at: VecDeque<u64>,
}

struct Requests {
    epoll: Epoll,
    connections: Vec<Connection>,
    size: usize,
    request: Vec<u8>,
    answer: Vec<u8>,
    times: Histogram,
    done: u64,
    busy_ns: u64,
}

pub(crate) fn echo(common: Common, mode: &Echo) -> anyhow::Result<Reading> {
    ensure!(mode.size > 0 && mode.depth > 0 && mode.conns > 0, "nothing to do");
    let silent = open_silent(common, mode)?;
    let mut requests = Requests::open(common, mode)?;
    requests.run_until(now_ns() + WARM_UP_NS)?;
    (requests.done, requests.busy_ns) = (0, 0);
    requests.times = Histogram::new();
    let meter = Meter::start(common.pid)?;
    requests.run_until(now_ns() + (common.secs * 1e9) as u64)?;
    let reading = meter.stop(requests.done, 1.0)?;
    if mode.silent > 0 {
        // To close them all takes the server a while, in which nobody else is to be measured.
        silent.into_iter().for_each(sys::close);
        settled(common.pid)?;
    }
    Ok(Reading {
        p50_us: requests.times.quantile_us(0.5),
        p99_us: requests.times.quantile_us(0.99),
        load_percent: requests.busy_ns as f64 / 1e7 / common.secs,
        ..reading
    })
}

fn open_silent(common: Common, mode: &Echo) -> anyhow::Result<Vec<Fd>> {
    if mode.silent == 0 {
        return Ok(Vec::new());
    }
    sys::allow_descriptors((mode.conns + mode.silent) as u64 + 64).context("RLIMIT_NOFILE")?;
    let to = sys::address(common.to);
    let silent = (0..mode.silent).map(|_| Ok(sys::tcp_connected(&to)?)).collect();
    settled(common.pid)?;
    silent
}

/// Waits until the server has nothing to do, for a second at most.
fn settled(pid: i32) -> anyhow::Result<()> {
    let mut before = server_cpu(pid)?;
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(20));
        let now = server_cpu(pid)?;
        if now == before {
            break;
        }
        before = now;
    }
    Ok(())
}

impl Requests {
    fn open(common: Common, mode: &Echo) -> anyhow::Result<Self> {
        let (to, epoll) = (sys::address(common.to), Epoll::new()?);
        let open = |number| -> anyhow::Result<Connection> {
            let fd = sys::tcp_connected(&to)?;
            epoll.add(fd, EPOLLIN, number as u64)?;
            Ok(Connection { fd, partial: 0, owed: 0, sent_at: VecDeque::new() })
        };
        let connections = (0..mode.conns).map(open).collect::<anyhow::Result<_>>()?;
        let mut this = Self {
            epoll,
            connections,
            size: mode.size,
            request: vec![0x5a; (mode.size * mode.depth).max(65_536)],
            answer: vec![0; 256 * 1024],
            times: Histogram::new(),
            done: 0,
            busy_ns: 0,
        };
        for number in 0..mode.conns {
            this.ask(number, mode.depth, now_ns())?;
        }
        Ok(this)
    }

    fn run_until(&mut self, end: u64) -> anyhow::Result<()> {
        let mut events = [epoll_event { events: 0, u64: 0 }; 256];
        let mut now = now_ns();
        while now < end {
            let started = now;
            let count = self.epoll.wait(&mut events, 0);
            now = now_ns();
            for event in &events[..count] {
                now = self.answered(event.u64 as usize)?;
            }
            if count > 0 {
                now = now_ns();
                self.busy_ns += now - started;
            }
        }
        Ok(())
    }

    /// Reads answers, and asks again as often.
    fn answered(&mut self, number: usize) -> anyhow::Result<u64> {
        let connection = &mut self.connections[number];
        let read = sys::receive(connection.fd, &mut self.answer);
        let now = now_ns();
        if read <= 0 {
            ensure!(read < 0 && errno() == EAGAIN, "the server closed a connection");
            return Ok(now);
        }
        connection.partial += read as usize;
        let answers = connection.partial / self.size;
        connection.partial %= self.size;
        for sent_at in connection.sent_at.drain(..answers.min(connection.sent_at.len())) {
            self.times.add(now - sent_at);
        }
        self.done += answers as u64;
        self.ask(number, answers, now)?;
        Ok(now)
    }

    /// Sends so many more requests. The rest of what the system does not take leaves with the
    /// next answer.
    fn ask(&mut self, number: usize, count: usize, now: u64) -> anyhow::Result<()> {
        let connection = &mut self.connections[number];
        connection.sent_at.extend(std::iter::repeat_n(now, count));
        connection.owed += count * self.size;
        while connection.owed > 0 {
            let len = connection.owed.min(self.request.len());
            match usize::try_from(sys::send(connection.fd, &self.request[..len])) {
                Ok(sent) => connection.owed -= sent,
                Err(_) if errno() == EAGAIN => return Ok(()),
                Err(_) => bail!("send: {}", std::io::Error::last_os_error()),
            }
        }
        Ok(())
    }
}

#[derive(clap::Args)]
pub(crate) struct Stream {
    /// The server discards what it gets, instead of sending it back
    #[arg(long)]
    sink: bool,
}

/// The most bytes that are on their way to the server and back.
const IN_FLIGHT: u64 = 4 << 20;

/// To a sink: bytes sent until the server has read them all and closed. Echoed: bytes that came
/// back, which are thrown away in the kernel, so that reading costs no copy here.
pub(crate) fn stream(common: Common, mode: &Stream) -> anyhow::Result<Reading> {
    let fd = sys::tcp_connected(&sys::address(common.to))?;
    let chunk = vec![0x5a; 256 * 1024];
    let (mut sent, mut back) = (0_u64, 0_u64);
    let meter = Meter::start(common.pid)?;
    let own = sys::own_cpu();
    let started = now_ns();
    let end = started + (common.secs * 1e9) as u64;
    while now_ns() < end {
        let mut any = false;
        let may_send = mode.sink || sent - back < IN_FLIGHT;
        if may_send {
            let taken = sys::send(fd, &chunk);
            ensure!(taken > 0 || errno() == EAGAIN, "the server closed the connection");
            sent += taken.max(0) as u64;
            any |= taken > 0;
        }
        if !mode.sink {
            let read = sys::discard(fd, 1 << 20);
            ensure!(read != 0, "the server closed the connection");
            back += read.max(0) as u64;
            any |= read > 0;
        }
        if !any {
            let sending = if may_send { POLLOUT } else { 0 };
            let receiving = if mode.sink { 0 } else { POLLIN };
            sys::poll(&mut [pollfd { fd, events: sending | receiving, revents: 0 }], 100);
        }
    }
    let bytes = if mode.sink {
        sys::end_sending(fd);
        let closed = sys::poll(&mut [pollfd { fd, events: POLLIN, revents: 0 }], 10_000);
        ensure!(closed == 1, "the server does not read what it got");
        sent
    } else {
        back
    };
    let own = (sys::own_cpu() - own) / ((now_ns() - started) as f64 / 1e9);
    Ok(Reading { load_percent: own * 100.0, ..meter.stop(bytes, 1_000.0)? })
}

#[derive(clap::Args)]
pub(crate) struct Accept {
    /// Connections at a time
    #[arg(long)]
    conns: usize,
}

/// Connect, send a byte, get it back, close. On loopback `connect` is done at once: the handshake
/// runs in the caller's context.
pub(crate) fn accept(common: Common, mode: &Accept) -> anyhow::Result<Reading> {
    let to = sys::address(common.to);
    let mut times = Histogram::new();
    let mut open: Vec<(Fd, u64)> = Vec::with_capacity(mode.conns);
    let (mut done, mut failed, mut busy_ns) = (0_u64, 0_u64, 0_u64);
    let meter = Meter::start(common.pid)?;
    let mut now = now_ns();
    let end = now + (common.secs * 1e9) as u64;
    while now < end {
        let started = now;
        let mut any = open.len() < mode.conns;
        while open.len() < mode.conns {
            let began = now_ns();
            match sys::connect_and_send(&to) {
                Ok(fd) => open.push((fd, began)),
                Err(_) => {
                    failed += 1;
                    break;
                }
            }
        }
        open.retain(|&(fd, began)| {
            let read = sys::receive(fd, &mut [0; 8]);
            if read < 0 && errno() == EAGAIN {
                return true;
            }
            any = true;
            if read == 1 {
                done += 1;
                times.add(now_ns() - began);
            } else {
                failed += 1;
            }
            sys::close(fd);
            false
        });
        now = now_ns();
        busy_ns += if any { now - started } else { 0 };
    }
    Ok(Reading {
        p50_us: times.quantile_us(0.5),
        p99_us: times.quantile_us(0.99),
        lost_percent: failed as f64 / (failed + done).max(1) as f64 * 100.0,
        load_percent: busy_ns as f64 / 1e7 / common.secs,
        ..meter.stop(done, 1.0)?
    })
}

#[derive(clap::Args)]
pub(crate) struct Idle {
    /// Connections
    #[arg(long)]
    conns: usize,
}

/// Opens connections, has a byte echoed on each, and compares the memory of the server.
pub(crate) fn idle(common: Common, mode: &Idle) -> anyhow::Result<Reading> {
    sys::allow_descriptors(mode.conns as u64 + 64).context("RLIMIT_NOFILE")?;
    let to = sys::address(common.to);
    let before = resident(common.pid)?;
    let meter = Meter::start(common.pid)?;
    for number in 0..mode.conns {
        let fd = sys::tcp_connected(&to)?;
        let touched = sys::send(fd, b"x") == 1
            && sys::poll(&mut [pollfd { fd, events: POLLIN, revents: 0 }], 5_000) == 1
            && sys::receive(fd, &mut [0; 8]) == 1;
        ensure!(touched, "connection {number} was not answered");
    }
    let reading = meter.stop(mode.conns as u64, 1.0)?;
    std::thread::sleep(Duration::from_secs_f64(common.secs));
    let grown = resident(common.pid)? - before;
    Ok(Reading { bytes_per_connection: Some(grown / mode.conns as f64), ..reading })
}
