//! Any interleaving of what both ends can do, over real sockets: nothing that was promised is lost
//! or repeated, and each end is told its end once.

use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use strand_reactor::{
    ConnectionLost, ConnectionState, Flow, Handle, PeerAddr, Protocol, StreamLayer, Transport,
};

use crate::support::*;

/// A small generator, so that a seed names a run (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}

/// What one end did and saw.
#[derive(Default)]
struct End {
    transport: Option<Transport>,
    written: Vec<u8>,
    received: Vec<u8>,
    /// Ended what it sends, in order.
    ended: bool,
    aborted: bool,
    /// Closed, so that it no longer takes what comes.
    closed: bool,
    completions: Vec<(usize, bool)>,
    asked: usize,
    log: Log,
}

type Shared = Rc<RefCell<End>>;

fn recorder(end: &Shared) -> Recorder {
    let (made, data) = (Rc::clone(end), Rc::clone(end));
    Recorder::new(&end.borrow().log)
        .made(move |transport| {
            made.borrow_mut().transport = Some(transport.clone());
            Ok(())
        })
        .data(move |_, piece| {
            let end = &mut *data.borrow_mut();
            assert!(!end.closed, "data after the end");
            end.received.extend_from_slice(piece);
            Ok(())
        })
        .half(|_| Ok(()))
}

fn step(end: &Shared, random: &mut Random) {
    let Some(transport) = end.borrow().transport.clone() else { return };
    let what = random.below(100);
    match what {
        0..60 => {
            let len = [0, 1, 100, 5000, 70_000, 300_000][random.below(6) as usize];
            let at = end.borrow().written.len();
            let data: Vec<u8> = (at..at + len).map(|at| ((at * 7) >> 2) as u8).collect();
            let taken = match random.below(4) {
                0 => transport.write(&data).map(|()| len),
                1 => transport.write_bytes(data.clone()).map(|()| len),
                2 => transport.try_write(&data),
                _ => {
                    let number = end.borrow().asked;
                    let inner = Rc::clone(end);
                    let written = transport.write_then(&data, move |result| {
                        inner.borrow_mut().completions.push((number, result.is_ok()));
                    });
                    end.borrow_mut().asked += usize::from(written.is_ok());
                    written.map(|()| len)
                }
            };
            if let Ok(taken) = taken {
                let end = &mut *end.borrow_mut();
                assert!(!end.ended && !end.aborted, "taken after the end");
                end.written.extend_from_slice(&data[..taken]);
            }
        }
        60..75 => {
            let _ = transport.pause_reading();
        }
        75..94 => {
            let _ = transport.resume_reading();
        }
        94..96 => {
            transport.lose_write();
            end.borrow_mut().ended = true;
        }
        96..98 => {
            transport.lose_connection();
            let end = &mut *end.borrow_mut();
            (end.ended, end.closed) = (true, true);
        }
        98 => {
            if random.below(3) == 0 && transport.state() != ConnectionState::Closed {
                transport.abort_connection();
                let end = &mut *end.borrow_mut();
                (end.aborted, end.closed) = (true, true);
            }
        }
        _ => {
            let _ = transport.flush();
        }
    }
}

fn lost(end: &Shared) -> bool {
    end.borrow().log.borrow().iter().any(|line| line.starts_with("lost"))
}

fn check(seed: u64, from: &Shared, to: &Shared) {
    let (sender, receiver) = (from.borrow(), to.borrow());
    assert!(sender.written.starts_with(&receiver.received), "seed {seed}: not what was written");
    let clean = !sender.aborted && !receiver.aborted && !receiver.closed;
    if clean {
        let (got, sent) = (receiver.received.len(), sender.written.len());
        assert_eq!(got, sent, "seed {seed}: lost bytes; {:?} {:?}", sender.log, receiver.log);
    }
    for end in [&sender, &receiver] {
        let log = end.log.borrow();
        if !sender.aborted && !receiver.aborted {
            let last = log.last().map(String::as_str);
            assert_eq!(last, Some("lost: Done"), "seed {seed}: {log:?}");
        }
        let ends = log.iter().filter(|line| line.starts_with("lost")).count();
        assert_eq!(ends, 1, "seed {seed}: {log:?}");
        assert!(log.last().is_some_and(|line| line.starts_with("lost")), "seed {seed}: {log:?}");
        for what in ["made", "read lost", "write lost"] {
            let times = log.iter().filter(|line| *line == what).count();
            assert!(times <= 1, "seed {seed}: {log:?}");
        }
        let (mut paused, mut balance) = (false, true);
        for line in log.iter() {
            match line.as_str() {
                "pause" => balance &= !std::mem::replace(&mut paused, true),
                "resume" => balance &= std::mem::replace(&mut paused, false),
                _ => {}
            }
        }
        assert!(balance, "seed {seed}: {log:?}");
        let numbers = end.completions.iter().map(|(number, _)| *number);
        assert!(numbers.eq(0..end.asked), "seed {seed}: {:?}", end.completions);
    }
}

/// Connects both ends. Mostly with small buffers, so that much waits and is sent in parts.
type Connect = fn(&Ground, bool, Recorder, Recorder);

fn over_tcp(ground: &Ground, small: bool, server: Recorder, client: Recorder) {
    let options = match small {
        false => ground.loopback(),
        true => ground.loopback().send_buffer_size(8 * 1024).recv_buffer_size(8 * 1024),
    };
    let address = ground.once(options, server);
    let mut protocol = Some(client);
    ground.client().connect_tcp(address, move |_: PeerAddr| protocol.take()).expect("an attempt");
}

fn over_unix(ground: &Ground, small: bool, server: Recorder, client: Recorder) {
    let (near, far) = UnixStream::pair().expect("a pair");
    for (socket, protocol) in [(near, server), (far, client)] {
        if small {
            socket2::SockRef::from(&socket).set_send_buffer_size(8 * 1024).expect("an option");
        }
        ground.server().adopt_stream_connection(socket, protocol).expect("adopted");
    }
}

/// Turns every bit, and keeps the last byte of each way until the next or the end.
#[derive(Default)]
struct Kept {
    inward: Option<u8>,
    outward: Option<u8>,
}

fn pass(kept: &mut Option<u8>, data: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = kept.take().into_iter().chain(data.iter().map(|byte| !byte)).collect();
    *kept = out.pop();
    out
}

impl StreamLayer for Kept {
    fn received(&mut self, data: &[u8], flow: &mut Flow) -> anyhow::Result<()> {
        flow.deliver(&pass(&mut self.inward, data));
        Ok(())
    }

    fn read_ended(&mut self, flow: &mut Flow) -> anyhow::Result<()> {
        flow.deliver(self.inward.take().as_slice());
        flow.end_reading();
        Ok(())
    }

    fn written(&mut self, data: &[u8], flow: &mut Flow) -> anyhow::Result<()> {
        flow.send(&pass(&mut self.outward, data));
        Ok(())
    }

    fn write_ended(&mut self, flow: &mut Flow) -> anyhow::Result<()> {
        flow.send(self.outward.take().as_slice());
        flow.end_writing();
        Ok(())
    }
}

/// A recorder above two layers.
struct Layered(Recorder);

fn over_layered_tcp(ground: &Ground, small: bool, server: Recorder, client: Recorder) {
    let options = match small {
        false => ground.loopback(),
        true => ground.loopback().send_buffer_size(8 * 1024),
    };
    let address = ground.once(options, Layered(server));
    let mut protocol = Some(Layered(client));
    ground.client().connect_tcp(address, move |_: PeerAddr| protocol.take()).expect("an attempt");
}

impl Protocol for Layered {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        transport.push_layer(Kept::default())?;
        transport.push_layer(Kept::default())?;
        self.0.connection_made(transport)
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
        self.0.data_received(transport, data)
    }

    fn read_connection_lost(&mut self, transport: &Transport) -> anyhow::Result<()> {
        self.0.read_connection_lost(transport)
    }

    fn write_connection_lost(&mut self, transport: &Transport) -> anyhow::Result<()> {
        self.0.write_connection_lost(transport)
    }

    fn pause_writing(&mut self, transport: &Transport) -> anyhow::Result<()> {
        self.0.pause_writing(transport)
    }

    fn resume_writing(&mut self, transport: &Transport) -> anyhow::Result<()> {
        self.0.resume_writing(transport)
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        self.0.connection_lost(reason);
    }
}

fn over_layers(ground: &Ground, small: bool, server: Recorder, client: Recorder) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let near = std::net::TcpStream::connect(listener.local_addr().expect("bound"));
    let (near, far) = (near.expect("a connection"), listener.accept().expect("the other end").0);
    for (socket, protocol) in [(near, server), (far, client)] {
        socket.set_nodelay(true).expect("an option");
        if small {
            socket2::SockRef::from(&socket).set_send_buffer_size(8 * 1024).expect("an option");
        }
        ground.server().adopt_stream_connection(socket, Layered(protocol)).expect("adopted");
    }
}

fn interleave(kind: Kind, seed: u64, connect: Connect) {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let ground = Ground::new(kind);
    let _here = ground.here();
    let (server, client) = (Shared::default(), Shared::default());
    let small = random.below(3) != 0;
    connect(&ground, small, recorder(&server), recorder(&client));
    let made = |end: &Shared| end.borrow().transport.is_some();
    ground.turn_until(|| made(&server) && made(&client));
    for _ in 0..random.below(120) {
        let end = if random.below(2) == 0 { &server } else { &client };
        if random.below(3) == 0 {
            // From a callback of the loop rather than from outside.
            let (end, seed) = (Rc::clone(end), random.below(1 << 30) | 1);
            ground.server().call_when_running(move |_: &Handle| step(&end, &mut Random(seed)));
        } else {
            step(end, &mut random);
        }
        if random.below(2) == 0 {
            ground.turns(1, std::time::Duration::ZERO);
        }
    }
    // Posted steps, too, are done before the ends are.
    ground.turns(1, std::time::Duration::ZERO);
    for end in [&server, &client] {
        let transport = end.borrow().transport.clone().expect("made");
        let _ = transport.resume_reading();
        transport.lose_write();
        end.borrow_mut().ended = true;
    }
    ground.turn_until(|| lost(&server) && lost(&client));
    ground.run();
    check(seed, &server, &client);
    check(seed, &client, &server);
}

/// A run over the simulated network costs as much as one over the system, and shows the same
/// every time: these are fewer.
const SIMULATED: u64 = 30;

#[test]
fn any_interleaving_keeps_what_was_promised_and_ends_once() {
    for seed in 1..=200 {
        interleave(Kind::System, seed, over_tcp);
    }
    for seed in 1..=SIMULATED {
        interleave(Kind::OneHost, seed, over_tcp);
        interleave(Kind::TwoHosts, seed, over_tcp);
    }
}

#[test]
fn any_interleaving_over_unix_sockets_keeps_the_same_promises() {
    // A simulated host has no UNIX sockets.
    for seed in 1..=200 {
        interleave(Kind::System, seed, over_unix);
    }
}

#[test]
fn any_interleaving_over_layers_keeps_the_same_promises() {
    for seed in 1..=100 {
        interleave(Kind::System, seed, over_layers);
    }
    for seed in 1..=SIMULATED / 2 {
        interleave(Kind::OneHost, seed, over_layered_tcp);
        interleave(Kind::TwoHosts, seed, over_layered_tcp);
    }
}
