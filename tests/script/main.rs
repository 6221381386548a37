//! What a kernel does rarely or never on demand, played to a port by a scripted socket: errors in
//! the middle of batches, full send buffers, counters that wrap.

mod receiving;
mod sending;

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use strand_reactor::testing::{Script, SendStep};
use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Metadata, NetworkError, PortState, QueuePolicy,
    Reactor, StopReason, UdpOptions, WriteError, WriteFailure,
};

const EAGAIN: i32 = 11;
const EBADF: i32 = 9;
const ENOBUFS: i32 = 105;
const EHOSTUNREACH: i32 = 113;
const ECONNREFUSED: i32 = 111;
const EPERM: i32 = 1;

fn peer() -> SocketAddr {
    (Ipv4Addr::new(192, 0, 2, 1), 7).into()
}

/// What happened, in order.
type Log = Rc<RefCell<Vec<String>>>;

type Reaction = Box<dyn FnMut(&DatagramTransport, &Datagram<'_>) -> anyhow::Result<()>>;

/// Notes every callback, and does what the test says with a datagram.
struct Recorder {
    log: Log,
    react: Reaction,
}

impl Recorder {
    fn note(&self, what: impl Into<String>) -> anyhow::Result<()> {
        self.log.borrow_mut().push(what.into());
        Ok(())
    }
}

impl DatagramProtocol for Recorder {
    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        let payload = String::from_utf8_lossy(datagram.payload()).into_owned();
        let cut = if datagram.is_truncated() { " cut" } else { "" };
        self.note(format!("{payload}{cut}"))?;
        (self.react)(transport, &datagram)
    }

    fn connection_refused(&mut self, _: &DatagramTransport) -> anyhow::Result<()> {
        self.note("refused")
    }

    fn network_error(&mut self, _: &DatagramTransport, error: &NetworkError) -> anyhow::Result<()> {
        self.note(format!("network {:?}", error.error.kind()))
    }

    fn write_failed(
        &mut self,
        _: &DatagramTransport,
        failure: &WriteFailure,
    ) -> anyhow::Result<()> {
        self.note(format!("failed {} {:?}", failure.len, failure.error.kind()))
    }

    fn pause_writing(&mut self, _: &DatagramTransport) -> anyhow::Result<()> {
        self.note("pause")
    }

    fn resume_writing(&mut self, _: &DatagramTransport) -> anyhow::Result<()> {
        self.note("resume")
    }

    fn stop_protocol(&mut self, _: &DatagramTransport, reason: StopReason) {
        let reason = match reason {
            StopReason::Failed(_) => "failed",
            StopReason::Stopped => "stopped",
            _ => "other",
        };
        let _ = self.note(format!("stop {reason}"));
    }
}

struct Stage {
    reactor: Reactor,
    script: Script,
    port: DatagramTransport,
    log: Log,
}

impl Stage {
    fn new() -> Self {
        Self::with(Script::new(), options(), |_, _| Ok(()))
    }

    fn connected() -> Self {
        let stage = Self::new();
        stage.port.connect(peer()).unwrap();
        stage
    }

    fn reacting(
        react: impl FnMut(&DatagramTransport, &Datagram<'_>) -> anyhow::Result<()> + 'static,
    ) -> Self {
        Self::with(Script::new(), options(), react)
    }

    fn with(
        script: Script,
        options: UdpOptions,
        react: impl FnMut(&DatagramTransport, &Datagram<'_>) -> anyhow::Result<()> + 'static,
    ) -> Self {
        let reactor = Reactor::new().unwrap();
        let log = Log::default();
        let protocol = Recorder { log: Rc::clone(&log), react: Box::new(react) };
        let port = script.listen(&reactor, options, protocol).unwrap();
        Self { reactor, script, port, log }
    }

    fn receive(&self, payload: &str) {
        self.script.receive(peer(), payload.as_bytes());
    }

    fn turn(&self) {
        self.reactor.iterate(Some(std::time::Duration::ZERO)).unwrap();
    }

    /// Turns until nothing is left to do at once, and returns what was noted since the last time.
    #[track_caller]
    fn settle(&self) -> Vec<String> {
        for _ in 0..4 {
            self.turn();
        }
        std::mem::take(&mut *self.log.borrow_mut())
    }

    fn sent(&self) -> Vec<String> {
        let text = |payload: Vec<u8>| String::from_utf8(payload).unwrap();
        self.script.sent().into_iter().map(|sent| text(sent.payload)).collect()
    }
}

fn options() -> UdpOptions {
    UdpOptions::parse("127.0.0.1:9").unwrap()
}

fn block() -> SendStep {
    SendStep::Fail(EAGAIN)
}
