//! Two ends of a connection under any interleaving of what can be done to them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;

use crate::{
    ConnectOptions, ConnectionLost, Flow, Handle, PeerAddr, Protocol, Reactor, StreamLayer,
    TcpOptions, Transport, WriteError,
};

#[derive(Clone, Debug)]
pub(super) enum Op {
    Write(usize),
    Owned(usize),
    Try(usize),
    Pause,
    Resume,
    LoseWrite,
    Lose,
    Abort,
    Turns(usize),
    /// Lets so many milliseconds pass, if nothing happens meanwhile.
    Wait(u64),
    /// What the next delivery does.
    InDelivery(Box<Self>),
    /// In a delivery: it fails.
    Fail,
}

/// What was done to an end while it was open.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    pub(super) lose: bool,
    pub(super) abort: bool,
    pub(super) pause: bool,
    pub(super) wait: bool,
    pub(super) fail: bool,
}

#[derive(Default)]
pub(super) struct End {
    pub(super) transport: RefCell<Option<Transport>>,
    /// Bytes accepted by writes, and what came in: each byte tells its place.
    pub(super) written: Cell<usize>,
    pub(super) received: Cell<usize>,
    pub(super) wrong: Cell<bool>,
    pub(super) completions: Cell<usize>,
    pub(super) completed: Rc<RefCell<Vec<bool>>>,
    pub(super) made: Cell<usize>,
    pub(super) lost: RefCell<Vec<ConnectionLost>>,
    pub(super) in_deliveries: RefCell<VecDeque<Op>>,
    pub(super) done: Cell<Done>,
    /// Whether writing was paused; told in turns.
    paused: Cell<bool>,
    pub(super) told_twice: Cell<bool>,
}

fn byte(at: usize) -> u8 {
    (at % 251) as u8
}

pub(super) struct Half {
    pub(super) end: Rc<End>,
    pub(super) layered: bool,
}

impl Half {
    fn check_open(&self) {
        self.end.wrong.set(self.end.wrong.get() || !self.end.lost.borrow().is_empty());
    }
}

/// Passes everything on, in pieces of its own.
struct Pieces(Vec<u8>);

impl StreamLayer for Pieces {
    fn written(&mut self, data: &[u8], flow: &mut Flow) -> anyhow::Result<()> {
        self.0.extend_from_slice(data);
        let whole = self.0.len() / 7 * 7;
        flow.send(&self.0[..whole]);
        self.0.drain(..whole);
        Ok(())
    }

    fn write_ended(&mut self, flow: &mut Flow) -> anyhow::Result<()> {
        flow.send(&self.0);
        flow.end_writing();
        Ok(())
    }
}

impl Protocol for Half {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        self.end.made.set(self.end.made.get() + 1);
        if self.layered {
            transport.push_layer(Pieces(Vec::new()))?;
        }
        self.end.transport.replace(Some(transport.clone()));
        Ok(())
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) -> anyhow::Result<()> {
        let from = self.end.received.get();
        let right = data.iter().enumerate().all(|(at, found)| *found == byte(from + at));
        self.end.wrong.set(self.end.wrong.get() || !right || data.is_empty());
        self.check_open();
        self.end.received.set(from + data.len());
        let op = self.end.in_deliveries.borrow_mut().pop_front();
        match op {
            Some(Op::Fail) => {
                self.end.note(&Op::Fail);
                anyhow::bail!("as the test wants it")
            }
            Some(op) => self.end.act(&op, None),
            None => {}
        }
        Ok(())
    }

    fn read_connection_lost(&mut self, _: &Transport) -> anyhow::Result<()> {
        self.check_open();
        Ok(())
    }

    fn write_connection_lost(&mut self, _: &Transport) -> anyhow::Result<()> {
        self.check_open();
        Ok(())
    }

    fn pause_writing(&mut self, _: &Transport) -> anyhow::Result<()> {
        self.end.told_twice.set(self.end.told_twice.get() || self.end.paused.replace(true));
        Ok(())
    }

    fn resume_writing(&mut self, _: &Transport) -> anyhow::Result<()> {
        self.end.told_twice.set(self.end.told_twice.get() || !self.end.paused.replace(false));
        Ok(())
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        self.end.lost.borrow_mut().push(reason);
    }
}

impl End {
    fn note(&self, op: &Op) {
        let mut done = self.done.get();
        if self.lost.borrow().is_empty() {
            done.lose |= matches!(op, Op::Lose);
            done.abort |= matches!(op, Op::Abort);
            done.pause |= matches!(op, Op::Pause);
            done.wait |= matches!(op, Op::Wait(_));
            done.fail |= matches!(op, Op::Fail);
        }
        self.done.set(done);
    }

    /// Without a reactor, no turns are made.
    pub(super) fn act(&self, op: &Op, reactor: Option<&Reactor>) {
        let Some(transport) = self.transport.borrow().clone() else { return };
        self.note(op);
        let from = self.written.get();
        let data = |len: usize| (from..from + len).map(byte).collect::<Vec<_>>();
        match op {
            Op::Write(len) => {
                let completed = Rc::clone(&self.completed);
                let done = move |result: Result<usize, WriteError>| {
                    completed.borrow_mut().push(result.is_ok());
                };
                if transport.write_then(&data(*len), done).is_ok() {
                    self.written.set(from + len);
                    self.completions.set(self.completions.get() + 1);
                }
            }
            Op::Owned(len) => {
                if transport.write_bytes(data(*len)).is_ok() {
                    self.written.set(from + len);
                }
            }
            Op::Try(len) => {
                if let Ok(taken) = transport.try_write(&data(*len)) {
                    self.written.set(from + taken);
                }
            }
            Op::Pause => drop(transport.pause_reading()),
            Op::Resume => drop(transport.resume_reading()),
            Op::LoseWrite => transport.lose_write(),
            Op::Lose => transport.lose_connection(),
            Op::Abort => transport.abort_connection(),
            Op::Turns(turns) => {
                for reactor in (0..*turns).filter_map(|_| reactor) {
                    reactor.iterate(Some(Duration::ZERO)).expect("a turn");
                }
            }
            Op::Wait(milliseconds) => {
                let limit = Some(Duration::from_millis(*milliseconds));
                reactor.map(|reactor| reactor.iterate(limit).expect("a turn"));
            }
            Op::InDelivery(op) => self.in_deliveries.borrow_mut().push_back((**op).clone()),
            Op::Fail => {}
        }
    }
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..200_000_usize).prop_map(Op::Write),
        2 => (0..3_000_usize).prop_map(Op::Write),
        2 => (0..100_000_usize).prop_map(Op::Owned),
        2 => (0..100_000_usize).prop_map(Op::Try),
        2 => Just(Op::Pause),
        3 => Just(Op::Resume),
        1 => Just(Op::LoseWrite),
        1 => Just(Op::Lose),
        1 => Just(Op::Abort),
        6 => (1..4_usize).prop_map(Op::Turns),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_byte_is_lost_or_doubled_and_each_end_is_lost_once(
        script in prop::collection::vec((any::<bool>(), op()), 0..40),
        layered in any::<bool>(),
    ) {
        let reactor = Reactor::new().expect("a reactor");
        let hang = reactor.call_later(Duration::from_secs(60), |handle: &Handle| handle.stop());
        hang.unref();
        let ends = [Rc::new(End::default()), Rc::new(End::default())];
        let server = Rc::clone(&ends[0]);
        // Small buffers: everything happens in pieces.
        let options = TcpOptions::parse("127.0.0.1:0").expect("an address")
            .recv_buffer_size(8192).send_buffer_size(8192);
        let port = reactor.listen_tcp(options, move |_: PeerAddr| {
            Some(Half { end: Rc::clone(&server), layered })
        }).expect("a port");
        let client = Rc::clone(&ends[1]);
        let options = ConnectOptions::new(port.local_addr().expect("bound"))
            .recv_buffer_size(8192).send_buffer_size(8192);
        reactor.connect_tcp(options, move |_: PeerAddr| {
            Some(Half { end: Rc::clone(&client), layered: false })
        }).expect("an attempt");
        while ends.iter().any(|end| end.made.get() == 0) {
            reactor.iterate(None).expect("a turn");
        }
        port.stop_listening();

        let (mut lose, mut abort) = ([false; 2], false);
        for (second, op) in &script {
            let end = &ends[usize::from(*second)];
            if end.transport.borrow().as_ref().is_some_and(|transport| transport.key().is_ok()) {
                lose[usize::from(*second)] |= matches!(op, Op::Lose);
                abort |= matches!(op, Op::Abort);
            }
            end.act(op, Some(&reactor));
        }
        for end in &ends {
            end.act(&Op::LoseWrite, Some(&reactor));
            end.act(&Op::Resume, Some(&reactor));
        }
        reactor.run().expect("the loop runs");
        prop_assert!(hang.active(), "it hangs");

        for (at, end) in ends.iter().enumerate() {
            let other = &ends[1 - at];
            prop_assert_eq!((end.made.get(), end.lost.borrow().len()), (1, 1));
            prop_assert!(!end.wrong.get() && !end.told_twice.get());
            prop_assert_eq!(end.completed.borrow().len(), end.completions.get());
            prop_assert!(end.received.get() <= other.written.get());
            if !abort {
                prop_assert!(end.lost.borrow()[0].is_clean(), "{:?}", end.lost.borrow());
                if !lose[at] {
                    prop_assert_eq!(end.received.get(), other.written.get());
                }
            }
        }
        prop_assert!(reactor.streams().is_empty());
        prop_assert_eq!(reactor.stats().callback_panics, 0);
    }
}
