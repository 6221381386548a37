//! Layers between a connection and its protocol.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::{ConnectionLost, Flow, Handle, Protocol, StreamLayer, Transport, WriteError};

mod ground;

use ground::{Ground, everywhere};

type Log = Rc<RefCell<Vec<String>>>;
type Push = Box<dyn FnMut(&Transport) -> anyhow::Result<()>>;

/// Echoes through the layers that `push` makes.
struct Echo {
    log: Log,
    push: Push,
}

impl Protocol for Echo {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        (self.push)(transport)
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
        transport.write(data)?;
        Ok(())
    }

    fn read_connection_lost(&mut self, transport: &Transport) -> anyhow::Result<()> {
        self.log.borrow_mut().push("read lost".into());
        transport.lose_connection();
        Ok(())
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        self.log.borrow_mut().push(format!("lost: {reason}"));
    }
}

/// Sends `data` to an echo behind layers, and returns what comes back.
#[track_caller]
fn echoed(
    ground: &Ground,
    log: &Log,
    data: Vec<u8>,
    push: impl FnMut(&Transport) -> anyhow::Result<()> + 'static,
) -> Vec<u8> {
    let echo = Echo { log: Rc::clone(log), push: Box::new(push) };
    ground.against(echo, move |mut peer| peer.exchange(&data))
}

/// Counts what passes.
struct Count {
    received: Rc<Cell<usize>>,
    written: Rc<Cell<usize>>,
    log: Log,
}

impl StreamLayer for Count {
    fn received(&mut self, data: &[u8], flow: &mut Flow) -> anyhow::Result<()> {
        self.received.set(self.received.get() + data.len());
        flow.deliver(data);
        Ok(())
    }

    fn written(&mut self, data: &[u8], flow: &mut Flow) -> anyhow::Result<()> {
        self.written.set(self.written.get() + data.len());
        flow.send(data);
        Ok(())
    }

    fn lost(&mut self, reason: &ConnectionLost) {
        self.log.borrow_mut().push(format!("layer {reason}"));
    }
}

/// Adds one to each byte on its way in, takes it off on the way out, and lets go of bytes in
/// blocks of 1,000 only; what is left of a block comes with the end.
#[derive(Default)]
struct Blocks {
    inward: Vec<u8>,
    outward: Vec<u8>,
}

const BLOCK: usize = 1000;

impl StreamLayer for Blocks {
    fn attached(&mut self, _: &Transport, flow: &mut Flow) -> anyhow::Result<()> {
        flow.send(b"<");
        Ok(())
    }

    fn received(&mut self, data: &[u8], flow: &mut Flow) -> anyhow::Result<()> {
        self.inward.extend(data.iter().map(|byte| byte.wrapping_add(1)));
        let whole = self.inward.len() / BLOCK * BLOCK;
        flow.deliver(&self.inward[..whole]);
        self.inward.drain(..whole);
        Ok(())
    }

    fn read_ended(&mut self, flow: &mut Flow) -> anyhow::Result<()> {
        flow.deliver(&self.inward);
        flow.end_reading();
        Ok(())
    }

    fn written(&mut self, data: &[u8], flow: &mut Flow) -> anyhow::Result<()> {
        self.outward.extend(data.iter().map(|byte| byte.wrapping_sub(1)));
        let whole = self.outward.len() / BLOCK * BLOCK;
        flow.send(&self.outward[..whole]);
        self.outward.drain(..whole);
        Ok(())
    }

    fn write_ended(&mut self, flow: &mut Flow) -> anyhow::Result<()> {
        flow.send(&self.outward);
        flow.send(b">");
        flow.end_writing();
        Ok(())
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| ((at * 31) >> 3) as u8).collect()
}

#[test]
fn a_layer_that_counts_sees_every_byte_both_ways() {
    everywhere(|ground| {
        let (log, received, written) =
            (Log::default(), Rc::<Cell<usize>>::default(), Rc::<Cell<usize>>::default());
        let (inward, outward) = (Rc::clone(&received), Rc::clone(&written));
        let seen = Rc::clone(&log);
        let back = echoed(ground, &log, pattern(3_000_000), move |transport| {
            let (received, written) = (Rc::clone(&inward), Rc::clone(&outward));
            transport.push_layer(Count { received, written, log: Rc::clone(&seen) })?;
            Ok(())
        });
        assert!(back == pattern(3_000_000));
        assert_eq!((received.get(), written.get()), (3_000_000, 3_000_000));
        assert_eq!(*log.borrow(), ["read lost", "layer closed in order", "lost: closed in order"]);
    });
}

#[test]
fn a_layer_that_transforms_and_holds_back_loses_nothing() {
    everywhere(|ground| {
        for len in [0, 1, 999, 1000, 1001, 2_000_001] {
            let log = Log::default();
            let back = echoed(ground, &log, pattern(len), |transport| {
                transport.push_layer(Blocks::default())?;
                Ok(())
            });
            assert!(back == [b"<", &pattern(len)[..], b">"].concat(), "{len}: {}", back.len());
            assert_eq!(*log.borrow(), ["read lost", "lost: closed in order"]);
        }
    });
}

#[test]
fn layers_stack_and_what_was_written_before_a_push_does_not_pass_it() {
    everywhere(|ground| {
        let (log, seen) = (Log::default(), Log::default());
        let (count, deep) = (Rc::<Cell<usize>>::default(), Rc::<Cell<usize>>::default());
        let (upper, lower, notes) = (Rc::clone(&count), Rc::clone(&deep), Rc::clone(&seen));
        let back = echoed(ground, &log, pattern(10), move |transport| {
            let counting = |written: &Rc<Cell<usize>>| Count {
                received: Rc::default(),
                written: Rc::clone(written),
                log: Rc::clone(&notes),
            };
            transport.write(b"plain")?;
            transport.push_layer(counting(&lower))?;
            transport.write(b"lower")?;
            transport.push_layer(Blocks::default())?;
            transport.push_layer(counting(&upper))?;
            assert!(matches!(transport.try_write(b"x"), Err(WriteError::WouldBlock)));
            Ok(())
        });
        assert!(back == [b"plainlower<", &pattern(10)[..], b">"].concat(), "{back:?}");
        assert_eq!((count.get(), deep.get()), (10, "lower<".len() + 10 + ">".len()));
    });
}

struct Broken;

impl StreamLayer for Broken {
    fn received(&mut self, _: &[u8], _: &mut Flow) -> anyhow::Result<()> {
        anyhow::bail!("bad record")
    }
}

#[test]
fn a_failing_layer_closes_the_connection_with_its_error() {
    everywhere(|ground| {
        let log = Log::default();
        let done = Rc::new(RefCell::new(Vec::new()));
        let result = Rc::clone(&done);
        let back = echoed(ground, &log, pattern(10), move |transport| {
            transport.push_layer(Broken)?;
            let done = Rc::clone(&result);
            transport.write_then(b"hello", move |result| done.borrow_mut().push(result.ok()))?;
            Ok(())
        });
        assert_eq!(back, b"hello");
        assert_eq!(*log.borrow(), ["lost: bad record"]);
        assert_eq!(*done.borrow(), [Some(5)]);
    });
}

/// Keeps what is written until it is woken.
#[derive(Default)]
struct Late {
    kept: Vec<u8>,
    ended: bool,
}

impl StreamLayer for Late {
    fn attached(&mut self, transport: &Transport, _: &mut Flow) -> anyhow::Result<()> {
        let transport = transport.clone();
        let again = transport.reactor();
        again
            .looping_call(Duration::from_millis(1), move |_: &Handle, _| transport.wake_layers())
            .unref();
        Ok(())
    }

    fn written(&mut self, data: &[u8], _: &mut Flow) -> anyhow::Result<()> {
        self.kept.extend_from_slice(data);
        Ok(())
    }

    fn write_ended(&mut self, _: &mut Flow) -> anyhow::Result<()> {
        self.ended = true;
        Ok(())
    }

    fn woken(&mut self, flow: &mut Flow) -> anyhow::Result<()> {
        let now = self.kept.len().min(100);
        flow.send(&self.kept[..now]);
        self.kept.drain(..now);
        if self.kept.is_empty() && self.ended {
            flow.end_writing();
        }
        Ok(())
    }
}

#[test]
fn the_connection_is_not_closed_before_a_layer_has_let_go() {
    everywhere(|ground| {
        let log = Log::default();
        let back = echoed(ground, &log, pattern(1234), |transport| {
            transport.push_layer(Late::default())?;
            Ok(())
        });
        assert!(back == pattern(1234), "{}", back.len());
        assert_eq!(*log.borrow(), ["read lost", "lost: closed in order"]);
    });
}

/// Sends an alert and fails when it sees a `!`.
struct Strict;

impl StreamLayer for Strict {
    fn received(&mut self, data: &[u8], flow: &mut Flow) -> anyhow::Result<()> {
        flow.deliver(data);
        if data.contains(&b'!') {
            flow.send(b"alert");
            anyhow::bail!("not allowed");
        }
        Ok(())
    }
}

/// Counts up every byte that is sent.
struct Shift;

impl StreamLayer for Shift {
    fn written(&mut self, data: &[u8], flow: &mut Flow) -> anyhow::Result<()> {
        flow.send(&data.iter().map(|byte| byte + 1).collect::<Vec<_>>());
        Ok(())
    }
}

#[test]
fn what_a_layer_sends_before_it_fails_leaves_through_the_layers_below() {
    everywhere(|ground| {
        let log = Log::default();
        let back = echoed(ground, &log, b"!".to_vec(), |transport| {
            transport.push_layer(Shift)?;
            transport.push_layer(Strict)?;
            Ok(())
        });
        assert_eq!(back, b"bmfsu");
        assert_eq!(*log.borrow(), ["lost: not allowed"]);
    });
}
