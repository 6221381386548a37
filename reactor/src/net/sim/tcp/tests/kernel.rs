//! The same calls on sockets of the kernel and on simulated ones: the same answers, and the same
//! events. Where they differ, the simulation is wrong.

use std::cell::RefCell;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;

use crate::datagram::Family;
use crate::net::os::OsDriver;
use crate::net::sim::driver::SimDriver;
use crate::net::sim::host::{HostId, HostState};
use crate::net::sim::network::{Net, SharedNet};
use crate::net::{
    Driver, Event, ListenSocket, ListenSpec, OpenError, StreamOption, StreamSocket, StreamSpec,
};

const LISTENER: usize = 1;
pub(super) const CLIENT: usize = 2;
pub(super) const SERVER: usize = 3;

/// One call, of the side that is named.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call {
    Listen,
    Connect,
    Accept,
    Write(usize, usize),
    /// Into a buffer of this size.
    Read(usize, usize),
    Shutdown(usize, Shutdown),
    Error(usize),
    ResetOnClose(usize),
    Close(usize),
    Peer(usize),
    NoDelay(usize),
    CloseListener,
    /// Writes until there is no room, and tells only that.
    Fill(usize),
    /// Reads until there is nothing, and tells the last answer.
    Drain(usize),
}

use Call::*;

/// Calls and what came of them.
pub(super) struct Rig {
    drivers: Vec<Box<dyn Driver>>,
    net: Option<SharedNet>,
    address: SocketAddr,
    listener: Option<Rc<dyn ListenSocket>>,
    streams: [Option<Rc<dyn StreamSocket>>; 2],
}

impl Rig {
    pub(super) fn kernel() -> Self {
        let driver = OsDriver::new(false, std::time::Duration::ZERO).expect("a driver");
        Self::new(vec![Box::new(driver)], None, "127.0.0.1:0")
    }

    /// Within a host, as over loopback.
    pub(super) fn one_host() -> Self {
        let mut net = Net::new(1);
        net.hosts.push(HostState::new("host".into(), &[]));
        let net = Rc::new(RefCell::new(net));
        let driver = SimDriver::new(Rc::clone(&net), HostId(0), Default::default());
        Self::new(vec![Box::new(driver)], Some(net), "127.0.0.1:7")
    }

    pub(super) fn simulated() -> Self {
        let mut net = Net::new(1);
        for (number, name) in [(1, "client"), (2, "server")] {
            let ip = std::net::Ipv4Addr::new(10, 0, 0, number).into();
            let id = HostId(net.hosts.len() as u32);
            net.hosts.push(HostState::new(name.into(), &[(ip, 24)]));
            net.addresses.insert(ip, id);
        }
        let net = Rc::new(RefCell::new(net));
        let driver = |host| {
            let driver = SimDriver::new(Rc::clone(&net), HostId(host), Default::default());
            Box::new(driver) as Box<dyn Driver>
        };
        Self::new(vec![driver(0), driver(1)], Some(Rc::clone(&net)), "10.0.0.2:7")
    }

    fn new(drivers: Vec<Box<dyn Driver>>, net: Option<SharedNet>, address: &str) -> Self {
        let address = address.parse().expect("an address");
        Self { drivers, net, address, listener: None, streams: [None, None] }
    }

    fn stream(&self, side: usize) -> Rc<dyn StreamSocket> {
        Rc::clone(self.streams[side - CLIENT].as_ref().expect("open"))
    }

    /// Makes a call, and notes its answer and the events that follow.
    pub(super) fn call(&mut self, call: Call, log: &mut Vec<String>) {
        let answer = self.answer(call);
        log.push(format!("{call:?} -> {answer}"));
        self.pass_time();
        let mut events = Vec::new();
        for driver in &mut self.drivers {
            driver.poll(Some(std::time::Duration::ZERO), &mut events).expect("events");
        }
        // How often both were told meanwhile depends on the sizes of buffers.
        match call {
            Fill(_) => events.clear(),
            Drain(_) => events.retain(|event| event.token == CLIENT),
            _ => {}
        }
        events.sort_by_key(|event| event.token);
        log.extend(events.iter().map(told));
    }

    /// All that takes less than a second happens.
    fn pass_time(&self) {
        if let Some(net) = &self.net {
            let until = net.borrow().now + 1_000_000_000;
            while net.borrow_mut().advance(until) {}
        }
    }

    fn answer(&mut self, call: Call) -> String {
        let server = self.drivers.len() - 1;
        match call {
            Listen => {
                let spec = ListenSpec {
                    family: Family::V4,
                    bind: self.address,
                    backlog: 10,
                    reuse_address: true,
                    reuse_port: false,
                    device: None,
                    options: Vec::new(),
                };
                let listener = self.drivers[server].listen_stream(&spec, LISTENER).expect("a port");
                self.address = listener.local_addr().expect("bound");
                self.listener = Some(listener);
                "ok".to_owned()
            }
            Connect => {
                let options = vec![StreamOption::NoDelay(true)];
                let spec = StreamSpec { peer: self.address, bind: None, options };
                match self.drivers[0].open_stream(&spec, CLIENT) {
                    Ok(stream) => {
                        self.streams[0] = Some(stream);
                        "ok".to_owned()
                    }
                    Err(OpenError::Socket(error)) => error.to_string(),
                    Err(other) => format!("{other:?}"),
                }
            }
            Accept => match self.listener.as_ref().expect("open").accept(SERVER) {
                Ok((stream, _)) => {
                    self.streams[1] = Some(stream);
                    "ok".to_owned()
                }
                Err(error) => error.to_string(),
            },
            Write(side, len) => shown(self.stream(side).write(&vec![7; len])),
            Read(side, len) => shown(self.stream(side).read(&mut vec![0; len])),
            Shutdown(side, how) => shown(self.stream(side).shutdown(how)),
            Error(side) => shown(self.stream(side).take_error()),
            ResetOnClose(side) => shown(self.stream(side).reset_on_close()),
            NoDelay(side) => shown(self.stream(side).set_option(StreamOption::NoDelay(true))),
            Peer(side) => shown(self.stream(side).peer_addr().map(|_| "an address")),
            Close(side) => {
                drop(self.streams[side - CLIENT].take());
                "ok".to_owned()
            }
            CloseListener => {
                drop(self.listener.take());
                "ok".to_owned()
            }
            Fill(side) => self.until_twice(|rig| match rig.stream(side).write(&[7; 10_000]) {
                Ok(_) => None,
                refused => Some(shown(refused)),
            }),
            Drain(side) => self.until_twice(|rig| match rig.stream(side).read(&mut [0; 10_000]) {
                Ok(1..) => None,
                other => Some(shown(other)),
            }),
        }
    }
}

impl Rig {
    /// Closes everything; of that nothing may be left.
    pub(super) fn end(mut self, name: &str) {
        (self.listener, self.streams) = (None, [None, None]);
        let Some(net) = &self.net else { return };
        while net.borrow_mut().advance(u64::MAX) {}
        for host in &net.borrow().hosts {
            assert!(host.tcp.is_empty(), "{name}: something is left on {}", host.name);
        }
    }

    /// Repeats a call until it has an answer, and has it again after some time.
    fn until_twice(&self, call: impl Fn(&Self) -> Option<String>) -> String {
        loop {
            while call(self).is_none() {}
            self.pass_time();
            if let Some(answer) = call(self) {
                return answer;
            }
        }
    }
}

fn shown<T: std::fmt::Debug>(result: std::io::Result<T>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => error.to_string(),
    }
}

fn told(event: &Event) -> String {
    let side = match event.token {
        LISTENER => "  listener",
        CLIENT => "  client",
        _ => "  server",
    };
    let bits = [
        (event.readable, " readable"),
        (event.writable, " writable"),
        (event.error, " error"),
        (event.read_closed, " closed"),
    ];
    bits.iter().filter(|(on, _)| *on).fold(side.to_owned(), |text, (_, bit)| text + bit)
}

const OPEN: [Call; 3] = [Listen, Connect, Accept];

/// What is called once a connection is open; or from the beginning, if that is named.
const TABLE: &[(&str, &[Call])] = &[
    ("nothing to read", &[Read(CLIENT, 10), Read(SERVER, 10)]),
    (
        "data, in one piece and in two",
        &[
            Write(CLIENT, 5),
            Read(SERVER, 100),
            Read(SERVER, 100),
            Write(CLIENT, 5),
            Write(CLIENT, 6),
            Read(SERVER, 3),
            Read(SERVER, 100),
            Read(SERVER, 100),
        ],
    ),
    (
        "data comes while old waits",
        &[Write(CLIENT, 5), Write(CLIENT, 5), Read(SERVER, 3), Write(CLIENT, 5), Read(SERVER, 100)],
    ),
    (
        "an end, then the other's",
        &[
            Write(CLIENT, 5),
            Shutdown(CLIENT, Shutdown::Write),
            Write(CLIENT, 1),
            Read(SERVER, 100),
            Read(SERVER, 100),
            Read(SERVER, 100),
            Write(SERVER, 9),
            Read(CLIENT, 100),
            Close(SERVER),
            Read(CLIENT, 100),
            Peer(CLIENT),
            Error(CLIENT),
            Write(CLIENT, 1),
            Close(CLIENT),
        ],
    ),
    (
        "both ends at once",
        &[
            Shutdown(CLIENT, Shutdown::Write),
            Shutdown(SERVER, Shutdown::Write),
            Read(CLIENT, 10),
            Read(SERVER, 10),
            Shutdown(CLIENT, Shutdown::Write),
            Shutdown(SERVER, Shutdown::Write),
            Peer(SERVER),
        ],
    ),
    (
        "a close without unread input",
        &[
            Close(SERVER),
            Read(CLIENT, 10),
            Write(CLIENT, 10),
            Write(CLIENT, 10),
            Read(CLIENT, 10),
            Peer(CLIENT),
            Error(CLIENT),
        ],
    ),
    (
        "a close with unread input",
        &[
            Write(CLIENT, 10),
            Close(SERVER),
            Read(CLIENT, 10),
            Read(CLIENT, 10),
            Write(CLIENT, 10),
            Error(CLIENT),
            Peer(CLIENT),
        ],
    ),
    (
        "a close with unread input, met by a write",
        &[Write(CLIENT, 10), Close(SERVER), Write(CLIENT, 10), Write(CLIENT, 10), Read(CLIENT, 10)],
    ),
    (
        "a reset, asked for its error",
        &[
            ResetOnClose(SERVER),
            Close(SERVER),
            Error(CLIENT),
            Error(CLIENT),
            Read(CLIENT, 10),
            Write(CLIENT, 10),
            Shutdown(CLIENT, Shutdown::Write),
        ],
    ),
    (
        "a reset while data waits",
        &[
            Write(SERVER, 10),
            ResetOnClose(SERVER),
            Close(SERVER),
            Read(CLIENT, 4),
            Read(CLIENT, 10),
            Read(CLIENT, 10),
            Read(CLIENT, 10),
        ],
    ),
    (
        "a reset after an end",
        &[
            Shutdown(SERVER, Shutdown::Write),
            ResetOnClose(SERVER),
            Close(SERVER),
            Read(CLIENT, 10),
            Error(CLIENT),
            Write(CLIENT, 10),
            Write(CLIENT, 10),
        ],
    ),
    (
        "a reset after the own end",
        &[
            Shutdown(CLIENT, Shutdown::Write),
            ResetOnClose(SERVER),
            Close(SERVER),
            Write(CLIENT, 1),
            Read(CLIENT, 10),
            Read(CLIENT, 10),
        ],
    ),
    (
        "the reading side ends its reading",
        &[
            Shutdown(SERVER, Shutdown::Read),
            Read(SERVER, 10),
            Write(CLIENT, 10),
            Read(SERVER, 10),
            Read(SERVER, 10),
        ],
    ),
    (
        "both directions at once",
        &[
            Shutdown(SERVER, Shutdown::Both),
            Read(SERVER, 10),
            Write(SERVER, 10),
            Read(CLIENT, 10),
            Write(CLIENT, 10),
            Write(CLIENT, 10),
            Read(CLIENT, 10),
        ],
    ),
    (
        "a full buffer, and room again",
        &[
            Fill(CLIENT),
            Write(CLIENT, 1),
            Drain(SERVER),
            Drain(SERVER),
            Write(CLIENT, 1),
            Drain(SERVER),
        ],
    ),
    ("a close of a full buffer", &[Fill(CLIENT), Close(CLIENT), Drain(SERVER), Drain(SERVER)]),
    (
        "data waits with the end",
        &[
            Write(SERVER, 10),
            Close(SERVER),
            Read(CLIENT, 4),
            Read(CLIENT, 4),
            Read(CLIENT, 4),
            Read(CLIENT, 4),
            Close(CLIENT),
        ],
    ),
];

/// The same, from the beginning.
const FROM_THE_BEGINNING: &[(&str, &[Call])] = &[
    ("nothing to accept", &[Listen, Accept]),
    ("a connection waits", &[Listen, Connect, Write(CLIENT, 3), Accept, Accept, Read(SERVER, 9)]),
    (
        "a connection that was closed waits",
        &[
            Listen,
            Connect,
            Write(CLIENT, 3),
            Close(CLIENT),
            Accept,
            Read(SERVER, 9),
            Read(SERVER, 9),
        ],
    ),
    (
        "a connection that was reset waits",
        &[
            Listen,
            Connect,
            Write(CLIENT, 3),
            ResetOnClose(CLIENT),
            Close(CLIENT),
            Accept,
            Peer(SERVER),
            Read(SERVER, 9),
            Read(SERVER, 9),
            Write(SERVER, 9),
        ],
    ),
    (
        "the port closes on who waits",
        &[Listen, Connect, CloseListener, Read(CLIENT, 9), Error(CLIENT)],
    ),
    (
        "the port closes on an open connection",
        &[Listen, Connect, Accept, CloseListener, Write(CLIENT, 9), Read(SERVER, 9)],
    ),
    (
        "nobody listens",
        &[
            Listen,
            CloseListener,
            Connect,
            Peer(CLIENT),
            Write(CLIENT, 9),
            Error(CLIENT),
            Read(CLIENT, 9),
            Write(CLIENT, 9),
            Shutdown(CLIENT, Shutdown::Write),
        ],
    ),
];

#[test]
fn every_call_is_answered_as_by_the_kernel_and_raises_the_same_events() {
    let opened = TABLE.iter().map(|(name, calls)| (name, [&OPEN[..], calls].concat()));
    let other = FROM_THE_BEGINNING.iter().map(|(name, calls)| (name, calls.to_vec()));
    let mut wrong = Vec::new();
    for (name, calls) in opened.chain(other) {
        let run = |mut rig: Rig| {
            let mut log = Vec::new();
            calls.iter().for_each(|&call| rig.call(call, &mut log));
            rig.end(name);
            log
        };
        let simulated = run(Rig::simulated());
        // A busy kernel may tell later than at once: then it is asked again.
        let mut real = run(Rig::kernel());
        for _ in 0..20 {
            if real == simulated {
                break;
            }
            real = run(Rig::kernel());
        }
        if real != simulated {
            let (real, simulated) = (real.join("\n  "), simulated.join("\n  "));
            wrong.push(format!("{name}\n kernel\n  {real}\n simulation\n  {simulated}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
}
