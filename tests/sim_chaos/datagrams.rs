//! Ports of datagrams that do something in every callback, and what must hold for each of them.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::Result;
use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Handle, NetworkError, PortState, StopReason,
    WriteError, WriteFailure,
};

use crate::actions::{Scene, act};
use crate::ledger::{HEADER, Life, PortBook, Sent, bump, number_of, payload};
use crate::options;
use crate::program::{Alive, GROUPS, PORTS, Program};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    Started,
    /// `start_protocol` failed: nothing may follow.
    Failed,
    Stopped,
}

pub struct Port {
    alive: Alive,
    book: Rc<PortBook>,
    phase: Phase,
    /// Between `pause_writing` and `resume_writing`.
    held_back: bool,
}

/// Opens a port of some kind.
pub fn open(program: &Rc<Program>, life: &Rc<Life>, handle: &Handle) {
    let random = &program.random;
    let number = if random.flip() { random.pick(&PORTS) } else { 0 };
    let kind = random.below(8);
    let peer = (kind < 2).then(|| program.somewhere());
    let multicast = kind == 2 || kind == 3;
    let book = Rc::new(PortBook {
        life: Rc::clone(life),
        transport: Default::default(),
        multicast,
        peer: Cell::new(peer),
        accepted: Cell::default(),
        tried: Cell::default(),
        tried_in_vain: Cell::default(),
        groups: Default::default(),
        received: Default::default(),
    });
    let alive = Alive::new(program);
    let port = Port { alive, book: Rc::clone(&book), phase: Phase::New, held_back: false };
    program.ports.borrow_mut().push(Rc::clone(&book));
    let opened = match peer {
        Some(peer) => handle.connect_udp(peer, port),
        None if multicast => {
            let any = if random.one_in(4) { "[::]" } else { "0.0.0.0" };
            let at: SocketAddr = format!("{any}:{number}").parse().expect("an address");
            handle.listen_multicast(options::udp(random, at), port)
        }
        None => {
            let at = options::address(program, life.host, number);
            handle.listen_udp(options::udp(random, at), port)
        }
    };
    program.note("open udp", life.host, u64::from(opened.is_ok()));
    if opened.is_err() {
        program.ports.borrow_mut().retain(|other| !Rc::ptr_eq(other, &book));
    }
}

impl Port {
    fn program(&self) -> &Rc<Program> {
        &self.alive.0
    }

    fn enter(&self, what: &'static str, transport: &DatagramTransport) {
        let (program, life) = (self.program(), &self.book.life);
        program.note(what, life.host, 0);
        program.expect(!life.crashed.get(), || format!("{what} on a host that crashed"));
        program.expect(self.phase == Phase::Started, || format!("{what} while {:?}", self.phase));
        let state = transport.state();
        program.expect(state != PortState::Closed, || format!("{what} on a closed port"));
    }

    fn act(&self) -> Result<()> {
        act(self.program(), &self.book.life, Scene::Port(&self.book))
    }

    /// What is delivered was sent, to here, and once.
    fn check(&self, transport: &DatagramTransport, datagram: &Datagram<'_>) {
        let (program, book) = (self.program(), &self.book);
        let state = transport.state();
        program.expect(state == PortState::Open, || format!("delivered while {state:?}"));
        if let Some(peer) = book.peer.get() {
            let source = datagram.source();
            program.expect(source == peer, || format!("{source} is heard, not the peer {peer}"));
        }
        if program.corrupts.get() || datagram.payload().len() < HEADER {
            return;
        }
        let sent = number_of(datagram.payload())
            .and_then(|number| Some((number, *program.sent.borrow().get(number)?)));
        let Some((number, sent)) = sent else {
            return program.violated("a datagram that nobody sent");
        };
        let got = datagram.payload().len();
        program.expect(sent.accepted, || format!("datagram {number} was delivered, but refused"));
        program.expect(got == sent.len || (got < sent.len && datagram.is_truncated()), || {
            format!("datagram {number} of {} bytes came with {got}", sent.len)
        });
        let again = !book.received.borrow_mut().insert(number);
        // A host with two interfaces on one network hears a group by each.
        let may_repeat = program.duplicates.get() || sent.destination.ip().is_multicast();
        program.expect(!again || may_repeat, || format!("datagram {number} again"));
        let own = transport.local_addr().ok().map(|own| own.port());
        program.expect(own == Some(sent.destination.port()), || {
            format!("datagram {number} to {} came to {own:?}", sent.destination)
        });
        self.check_host(number, &sent);
    }

    fn check_host(&self, number: usize, sent: &Sent) {
        let (program, book) = (self.program(), &self.book);
        let (to, host) = (sent.destination.ip().to_canonical(), book.life.host);
        if to.is_multicast() {
            let own = book.groups.borrow().contains(&to);
            let hosts = book.life.groups.borrow().contains(&to);
            program.expect(own || (hosts && !book.multicast), || {
                format!("datagram {number} to {to}, which was not joined")
            });
        } else if !to.is_loopback() && to.to_string() != "10.0.0.255" {
            program.expect(program.hosts[host].addresses.contains(&to), || {
                format!("datagram {number} to {to} came to h{host}")
            });
        }
    }

    /// Every datagram that was taken has left, failed, was dropped, or waits.
    pub fn check_account(program: &Program, book: &PortBook) {
        let Some(transport) = book.transport.borrow().clone() else { return };
        let Ok(stats) = transport.stats() else { return };
        let (waiting, bytes) = (transport.queued_datagrams(), transport.queued_bytes());
        let taken = book.accepted.get() + book.tried.get() + book.tried_in_vain.get();
        let gone = stats.datagrams_out + stats.write_failures + stats.queue_dropped;
        program.expect(taken == gone + waiting as u64, || {
            format!("{taken} datagrams were taken; {waiting} wait, the rest: {stats:?}")
        });
        program.expect(waiting > 0 || bytes == 0, || format!("{bytes} bytes wait of nothing"));
    }
}

impl DatagramProtocol for Port {
    fn start_protocol(&mut self, transport: &DatagramTransport) -> Result<()> {
        let program = Rc::clone(self.program());
        program.note("start", self.book.life.host, 0);
        program.expect(self.phase == Phase::New, || format!("start while {:?}", self.phase));
        self.phase = Phase::Started;
        *self.book.transport.borrow_mut() = Some(transport.clone());
        if self.book.multicast || program.random.one_in(4) {
            join(&program, &self.book);
        }
        // Which it stays if this panics.
        self.phase = Phase::Failed;
        act(&program, &self.book.life, Scene::Start(&self.book))?;
        self.phase = Phase::Started;
        Ok(())
    }

    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> Result<()> {
        self.enter("datagram", transport);
        self.check(transport, &datagram);
        if self.program().random.flip() {
            write(self.program(), &self.book, Some(datagram.source()));
        }
        self.act()
    }

    fn connection_refused(&mut self, transport: &DatagramTransport) -> Result<()> {
        self.enter("refused", transport);
        self.act()
    }

    fn network_error(&mut self, transport: &DatagramTransport, _: &NetworkError) -> Result<()> {
        self.enter("network error", transport);
        self.act()
    }

    fn write_failed(&mut self, transport: &DatagramTransport, _: &WriteFailure) -> Result<()> {
        self.enter("write failed", transport);
        self.act()
    }

    fn pause_writing(&mut self, transport: &DatagramTransport) -> Result<()> {
        self.enter("pause writing", transport);
        self.program().expect(!self.held_back, || "paused twice".to_owned());
        self.held_back = true;
        self.act()
    }

    fn resume_writing(&mut self, transport: &DatagramTransport) -> Result<()> {
        self.enter("resume writing", transport);
        self.program().expect(self.held_back, || "resumed without a pause".to_owned());
        self.held_back = false;
        self.act()
    }

    fn stop_protocol(&mut self, transport: &DatagramTransport, _: StopReason) {
        self.enter("stop", transport);
        let state = transport.state();
        self.program().expect(state == PortState::Closing, || format!("stop while {state:?}"));
        Self::check_account(self.program(), &self.book);
        self.phase = Phase::Stopped;
        let _ = self.act();
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let (program, life) = (self.program(), &self.book.life);
        let over = life.crashed.get() || program.world().is_none();
        program.expect(over || self.phase != Phase::Started, || {
            "a port was dropped without its end".to_owned()
        });
        program.ports.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.book));
    }
}

/// The next datagram: its number and its payload.
fn next(program: &Program, to: SocketAddr) -> (usize, Vec<u8>) {
    let random = &program.random;
    let number = program.sent.borrow().len();
    let len = match random.below(40) {
        0 => 3_000,
        1 => 65_507,
        _ => HEADER + random.index(200),
    };
    program.sent.borrow_mut().push(Sent { destination: to, len, accepted: true });
    (number, payload(number, len))
}

fn refused(program: &Program, number: usize) {
    program.sent.borrow_mut()[number].accepted = false;
}

/// Writes a datagram in one of the ways there are.
pub fn write(program: &Rc<Program>, book: &Rc<PortBook>, to: Option<SocketAddr>) {
    let Some(transport) = book.transport.borrow().clone() else { return };
    let peer = transport.peer_addr().ok();
    let (to, explicit) = match peer {
        Some(peer) if !program.random.one_in(10) => (peer, None),
        _ => {
            let to = to.unwrap_or_else(|| program.somewhere());
            (to, Some(to))
        }
    };
    let (number, payload) = next(program, to);
    let taken = match program.random.below(4) {
        0 => {
            let (token, fate) = program.promise("completion of a datagram", &book.life);
            let (inner, book) = (Rc::clone(program), Rc::clone(book));
            let done = move |result: Result<usize, WriteError>| {
                token.called();
                if result.is_err() {
                    refused(&inner, number);
                }
                act(&inner, &book.life, Scene::Port(&book))
            };
            let result = transport.write_then(&payload, explicit, done);
            if result.is_err() {
                program.unpromise(&fate);
            }
            result.is_ok()
        }
        1 => return try_write(program, book, &transport, explicit, number, &payload),
        _ => match explicit {
            Some(to) => transport.write_to(&payload, to).is_ok(),
            None => transport.write(&payload).is_ok(),
        },
    };
    program.note("write", book.life.host, u64::from(taken));
    if taken {
        bump(&book.accepted, 1);
    } else {
        refused(program, number);
    }
}

fn try_write(
    program: &Program,
    book: &PortBook,
    transport: &DatagramTransport,
    to: Option<SocketAddr>,
    number: usize,
    payload: &[u8],
) {
    let result = match to {
        Some(to) => transport.try_write_to(payload, to),
        None => transport.try_write(payload),
    };
    program.note("try_write", book.life.host, u64::from(result.is_ok()));
    match result {
        Ok(_) => bump(&book.tried, 1),
        Err(error) => {
            bump(&book.tried_in_vain, usize::from(matches!(error, WriteError::Io(_))));
            refused(program, number);
        }
    }
}

/// Joins or leaves something.
pub fn join(program: &Rc<Program>, book: &Rc<PortBook>) {
    let Some(transport) = book.transport.borrow().clone() else { return };
    let random = &program.random;
    let group = random.pick(&GROUPS).parse().expect("an address");
    let interface = [0, 0, 1, 2, 3][random.index(5)];
    let host = &program.hosts[random.index(program.hosts.len())];
    let source = random.pick(&host.addresses);
    let result = match random.below(8) {
        0 => transport.leave_group(group, interface),
        1 => transport.join_source(group, source, interface),
        2 => transport.leave_source(group, source, interface),
        3 => transport.block_source(group, source, interface),
        4 => transport.unblock_source(group, source, interface),
        _ => transport.join_group(group, interface),
    };
    if result.is_ok() {
        book.groups.borrow_mut().insert(group);
        book.life.groups.borrow_mut().insert(group);
    }
    program.note("group", book.life.host, u64::from(result.is_ok()));
}

/// Something else that can be done to a port.
pub fn meddle(program: &Rc<Program>, book: &Rc<PortBook>) {
    let Some(transport) = book.transport.borrow().clone() else { return };
    let random = &program.random;
    let what = random.below(18);
    program.note("meddle udp", book.life.host, what);
    match what {
        0 => transport.stop_listening(),
        1 => stop_then(program, book, &transport),
        2 => drop(transport.pause_reading()),
        3..=5 => drop(transport.resume_reading()),
        6 => connect(program, book, &transport),
        7 => {
            book.peer.set(None);
            drop(transport.disconnect());
        }
        8 => drop(transport.read_datagram(&mut [0; 2])),
        9 => drop(transport.set_broadcast_allowed(random.flip())),
        10 => drop(transport.set_multicast_ttl(random.below(3) as u32)),
        11 => drop(transport.set_multicast_loopback(random.flip())),
        12 => drop(transport.set_multicast_interface([0, 1, 2, 3][random.index(4)])),
        13 => drop(transport.set_error_queue(random.flip())),
        14 => drop(if random.flip() { transport.unref() } else { transport.reref() }),
        15 => drop(transport.flush()),
        16 => drop(transport.set_queue_limit(1 + random.index(8), 100 + random.index(4_000))),
        _ => drop(transport.bind(options::address(program, book.life.host, 0))),
    }
}

fn stop_then(program: &Rc<Program>, book: &Rc<PortBook>, transport: &DatagramTransport) {
    let (token, fate) = program.promise("stop_listening_then", &book.life);
    let (inner, life) = (Rc::clone(program), Rc::clone(&book.life));
    let own = transport.clone();
    let done = move |_: &Handle| {
        token.called();
        inner.expect(own.state() == PortState::Closed, || "told of the end too early".to_owned());
        act(&inner, &life, Scene::Free)
    };
    if transport.stop_listening_then(done).is_err() {
        program.unpromise(&fate);
    }
}

fn connect(program: &Program, book: &PortBook, transport: &DatagramTransport) {
    // What came from others before is still delivered.
    book.peer.set(None);
    drop(transport.connect(program.somewhere()));
}
