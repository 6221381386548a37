//! Random programs over random links: whatever they do, what each side is told makes sense.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::sim::{Link, Seeds, World, for_each_seed};
use strand_reactor::{ConnectionLost, Handle, PeerAddr, Protocol, TcpOptions, Transport};

use super::watchdog::watchdog;

const MINUTE: Duration = Duration::from_secs(60);

/// Numbers that follow from a seed (SplitMix64).
#[derive(Clone)]
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % most
    }
}

/// What is known of one side of a connection.
#[derive(Default)]
struct Told {
    made: bool,
    ended: bool,
    shut: bool,
    lost: Option<ConnectionLost>,
    received: Vec<u8>,
    written: usize,
    transport: Option<Transport>,
}

/// The sides of a connection, the server's first.
type Pair = [Rc<RefCell<Told>>; 2];

/// Acts at random whenever it is called.
struct Program {
    told: Rc<RefCell<Told>>,
    chance: Rc<RefCell<Chance>>,
    /// Tells the bytes of one side from those of another.
    salt: u8,
}

/// The bytes that a side writes, from the `at`th on.
fn bytes(salt: u8, at: usize, len: usize) -> Vec<u8> {
    (at..at + len).map(|at| ((at * 31) >> 3) as u8 ^ (at >> 11) as u8 ^ salt).collect()
}

fn act(told: &Rc<RefCell<Told>>, chance: &Rc<RefCell<Chance>>, salt: u8, transport: &Transport) {
    let (what, amount) = {
        let chance = &mut *chance.borrow_mut();
        (chance.below(40), chance.below(30_000) as usize)
    };
    match what {
        0..10 => {
            let at = told.borrow().written;
            if transport.write(&bytes(salt, at, amount)).is_ok() {
                told.borrow_mut().written += amount;
            }
        }
        10..13 => transport.lose_connection(),
        13 => transport.abort_connection(),
        14..16 => transport.lose_write(),
        16..19 => {
            // It may be closed.
            let _ = transport.pause_reading();
            let again = transport.clone();
            let delay = Duration::from_millis(amount as u64);
            transport.reactor().call_later(delay, move |_: &Handle| {
                let _ = again.resume_reading();
            });
        }
        19..26 => {
            let (told, chance) = (Rc::clone(told), Rc::clone(chance));
            let transport = transport.clone();
            let delay = Duration::from_micros(amount as u64);
            transport.reactor().clone().call_later(delay, move |_: &Handle| {
                act(&told, &chance, salt, &transport);
            });
        }
        _ => {}
    }
}

impl Program {
    fn act(&self, transport: &Transport) -> anyhow::Result<()> {
        act(&self.told, &self.chance, self.salt, transport);
        Ok(())
    }

    /// Whether the protocol is on a connection.
    fn is_live(&self) -> bool {
        let told = self.told.borrow();
        told.made && told.lost.is_none()
    }
}

impl Protocol for Program {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        let told = &mut *self.told.borrow_mut();
        assert!(!std::mem::replace(&mut told.made, true));
        told.transport = Some(transport.clone());
        act_later(self, transport);
        Ok(())
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
        assert!(self.is_live() && !self.told.borrow().ended && !data.is_empty());
        self.told.borrow_mut().received.extend_from_slice(data);
        self.act(transport)
    }

    fn read_connection_lost(&mut self, transport: &Transport) -> anyhow::Result<()> {
        assert!(self.is_live());
        assert!(!std::mem::replace(&mut self.told.borrow_mut().ended, true), "one end");
        if self.chance.borrow_mut().below(2) == 0 {
            transport.lose_connection();
        }
        self.act(transport)
    }

    fn write_connection_lost(&mut self, transport: &Transport) -> anyhow::Result<()> {
        assert!(self.is_live());
        assert!(!std::mem::replace(&mut self.told.borrow_mut().shut, true), "one end");
        self.act(transport)
    }

    fn pause_writing(&mut self, transport: &Transport) -> anyhow::Result<()> {
        assert!(self.is_live());
        self.act(transport)
    }

    fn resume_writing(&mut self, transport: &Transport) -> anyhow::Result<()> {
        assert!(self.is_live());
        self.act(transport)
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        assert!(self.is_live(), "one loss, and the last that is told");
        self.told.borrow_mut().lost = Some(reason);
    }
}

/// So that a connection on which nobody speaks first is acted on, too.
fn act_later(program: &Program, transport: &Transport) {
    for milliseconds in [0, 7, 400, 3_000] {
        let (told, chance) = (Rc::clone(&program.told), Rc::clone(&program.chance));
        let (transport, salt) = (transport.clone(), program.salt);
        let delay = Duration::from_millis(milliseconds);
        transport.reactor().clone().call_later(delay, move |_: &Handle| {
            act(&told, &chance, salt, &transport);
        });
    }
}

/// Ten connections between two hosts; gives what was told, by side, and the packets.
fn run(world: World) -> anyhow::Result<(Vec<Pair>, Vec<u8>)> {
    let seed = world.seed();
    let mut chance = Chance(seed);
    let (server, client) = (world.host("server", "10.0.0.1")?, world.host("client", "10.0.0.2")?);
    world.default_link(
        Link::new()
            .latency(Duration::from_micros(10 + chance.below(40_000)))
            .loss(chance.below(25) as f64 / 100.0)
            .duplication(chance.below(20) as f64 / 100.0)
            .reordering(chance.below(30) as f64 / 100.0, Duration::from_millis(chance.below(80))),
    );
    world.trace_in_memory();
    let shared = Rc::new(RefCell::new(Chance(seed ^ 0xfeed)));
    let mut pairs = Vec::new();
    for number in 0..10 {
        let pair = Pair::default();
        let program = |side: usize| Program {
            told: Rc::clone(&pair[side]),
            chance: Rc::clone(&shared),
            salt: (2 * number + side) as u8,
        };
        let (mut at_server, mut at_client) = (Some(program(0)), Some(program(1)));
        let address = format!("10.0.0.1:{}", 7 + number);
        let options = TcpOptions::parse(&address)?.close_timeout(MINUTE);
        server.listen_tcp(options, move |_: PeerAddr| at_server.take())?;
        client.connect_tcp(&*address, move |_: PeerAddr| at_client.take())?;
        pairs.push(pair);
    }
    world.run_for(10 * MINUTE)?;
    // Those that nobody has ended.
    for told in pairs.iter().flatten() {
        if let Some(transport) = &told.borrow().transport {
            transport.lose_connection();
        }
    }
    world.run_for(60 * MINUTE)?;
    assert!(server.streams().is_empty() && client.streams().is_empty());
    for host in [&server, &client] {
        assert_eq!(host.stats().callback_panics, 0);
    }
    Ok((pairs, world.end_trace()?))
}

#[test]
fn whatever_programs_do_each_side_is_told_what_happened_in_order() {
    let _watchdog = watchdog();
    let (mut ends, mut losses) = (0, 0);
    for_each_seed(0..60, |world| {
        let (pairs, _) = run(world)?;
        for (number, pair) in pairs.iter().enumerate() {
            for side in [0, 1] {
                let (told, other) = (pair[side].borrow(), pair[1 - side].borrow());
                assert_eq!(told.made, told.lost.is_some(), "lost once");
                let salt = (2 * number + 1 - side) as u8;
                let sent = bytes(salt, 0, other.written);
                assert!(sent.starts_with(&told.received), "connection {number}");
                if told.ended {
                    // The end comes after everything, whoever closed.
                    assert_eq!(told.received.len(), sent.len(), "connection {number}");
                    ends += 1;
                }
                losses += usize::from(told.made);
            }
        }
        anyhow::Ok(())
    });
    let is_alone = Seeds::replayed().is_some();
    assert!(is_alone || ends > 200 && losses > 900, "{ends} ends, {losses} losses");
}

#[test]
fn every_run_of_a_seed_sends_the_same_packets() {
    let _watchdog = watchdog();
    for_each_seed(1_000..1_010, |world| {
        let again = World::new(world.seed());
        assert!(run(world)?.1 == run(again)?.1);
        anyhow::Ok(())
    });
}
