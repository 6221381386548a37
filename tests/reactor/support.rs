//! What the tests of the loop share.

use std::cell::{Cell, RefCell};
use std::fmt::{Debug, Write as _};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Once;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use strand_reactor::{Datagram, DatagramProtocol, DatagramTransport, Reactor, StopReason};
use tracing::field::{Field, Visit};
use tracing::{Dispatch, span};

/// Ends the process when a test hangs: a loop that never returns cannot be stopped from within.
pub(crate) struct Watchdog(#[expect(dead_code, reason = "its end is the message")] Sender<()>);

pub(crate) fn watchdog() -> Watchdog {
    let (alive, gone) = channel::<()>();
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    std::thread::spawn(move || {
        if gone.recv_timeout(Duration::from_secs(60)) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{test} hangs");
            std::process::exit(101);
        }
    });
    Watchdog(alive)
}

/// Turns the loop until `done`, with a bound on the number of turns.
#[track_caller]
pub(crate) fn turn_until(reactor: &Reactor, done: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if done() {
            return;
        }
        reactor.iterate(Some(Duration::from_secs(1))).unwrap();
    }
    panic!("10,000 turns did not bring it about");
}

/// What happened, in order.
#[derive(Clone)]
pub(crate) struct Log<T>(Rc<RefCell<Vec<T>>>);

impl<T: Clone + Debug + PartialEq> Log<T> {
    pub(crate) fn new() -> Self {
        Self(Rc::default())
    }

    pub(crate) fn push(&self, entry: T) {
        self.0.borrow_mut().push(entry);
    }

    pub(crate) fn entries(&self) -> Vec<T> {
        self.0.borrow().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

/// Calls a closure when it is dropped.
pub(crate) struct OnDrop<F: FnMut()>(pub(crate) F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A value to be captured, and whether it was dropped.
pub(crate) fn drop_flag() -> (OnDrop<impl FnMut()>, Rc<Cell<bool>>) {
    let flag = Rc::new(Cell::new(false));
    let set = Rc::clone(&flag);
    (OnDrop(move || set.set(true)), flag)
}

/// A protocol made of one closure.
pub(crate) struct OnDatagram<F>(pub(crate) F);

impl<F> DatagramProtocol for OnDatagram<F>
where
    F: FnMut(&DatagramTransport, &[u8]) -> anyhow::Result<()>,
{
    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        (self.0)(transport, datagram.payload())
    }
}

/// A protocol that has nothing to say.
pub(crate) struct Quiet;

impl DatagramProtocol for Quiet {
    fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Writes down how it ended.
pub(crate) struct Ending(pub(crate) Log<String>);

impl DatagramProtocol for Ending {
    fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>) -> anyhow::Result<()> {
        self.0.push("datagram".to_owned());
        Ok(())
    }
    fn stop_protocol(&mut self, _: &DatagramTransport, reason: StopReason) {
        self.0.push(reason.to_string());
    }
}

/// A port of this host on a number of the system's choice.
pub(crate) const ANY: &str = "127.0.0.1:0";

/// The errno of this kind, as this system numbers it.
pub(crate) fn errno(kind: io::ErrorKind) -> i32 {
    (1..1000).find(|errno| io::Error::from_raw_os_error(*errno).kind() == kind).unwrap()
}

/// The other end of a scripted port (RFC 5737: nobody's).
pub(crate) fn peer() -> SocketAddr {
    "192.0.2.1:7".parse().unwrap()
}

/// A socket that is no port of ours.
pub(crate) fn socket() -> UdpSocket {
    let socket = UdpSocket::bind(ANY).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

thread_local! {
    /// Where the events of this thread go, and what is called with each of them.
    static SINK: RefCell<Option<Sink>> = const { RefCell::new(None) };
}

#[derive(Clone)]
struct Sink {
    errors: Log<String>,
    hook: fn(),
}

/// The error events of this thread, each as text, while it lives.
pub(crate) struct Captured(Log<String>);

impl Captured {
    pub(crate) fn errors(&self) -> Vec<String> {
        self.0.entries()
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        SINK.take();
    }
}

/// Captures the error events of this thread, and calls `hook` with every event of any level.
pub(crate) fn capture(hook: fn()) -> Captured {
    // One subscriber for all threads, since whether anybody listens is remembered for all. While
    // there is but one, a place in the code that is reached for the first time asks the current
    // thread instead, and would remember the wrong answer: hence the second.
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let dispatch = Dispatch::new(Subscriber);
        std::mem::forget(Dispatch::new(Subscriber));
        tracing::dispatcher::set_global_default(dispatch).unwrap();
    });
    let errors = Log::new();
    SINK.set(Some(Sink { errors: errors.clone(), hook }));
    Captured(errors)
}

struct Subscriber;

impl tracing::Subscriber for Subscriber {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Fields(String);
        impl Visit for Fields {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                write!(self.0, "{}={value:?};", field.name()).unwrap();
            }
            fn record_str(&mut self, field: &Field, value: &str) {
                write!(self.0, "{}={value};", field.name()).unwrap();
            }
        }
        let Some(sink) = SINK.with_borrow(Clone::clone) else { return };
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        if *event.metadata().level() == tracing::Level::ERROR {
            sink.errors.push(fields.0);
        }
        (sink.hook)();
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
