//! A protocol that writes down what it is told.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::Result;
use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, NetworkError, StopReason, WriteFailure,
};

/// What a protocol was told, and notes of the test's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Start,
    Datagram(Vec<u8>),
    Refused,
    NetworkError,
    WriteFailed,
    PauseWriting,
    ResumeWriting,
    /// With the `Display` of the reason.
    Stop(String),
    Note(&'static str),
}

/// A log that protocols, closures and the test share.
#[derive(Clone, Default)]
pub struct Log(Rc<RefCell<Vec<Event>>>);

impl Log {
    pub fn push(&self, event: Event) {
        self.0.borrow_mut().push(event);
    }

    pub fn note(&self, text: &'static str) {
        self.push(Event::Note(text));
    }

    pub fn events(&self) -> Vec<Event> {
        self.0.borrow().clone()
    }

    /// Empties the log.
    pub fn take(&self) -> Vec<Event> {
        self.0.take()
    }

    pub fn count(&self, event: &Event) -> usize {
        self.0.borrow().iter().filter(|seen| *seen == event).count()
    }

    pub fn has(&self, event: &Event) -> bool {
        self.0.borrow().contains(event)
    }

    pub fn has_note(&self, text: &'static str) -> bool {
        self.has(&Event::Note(text))
    }

    /// Datagrams delivered so far.
    pub fn datagrams(&self) -> usize {
        self.0.borrow().iter().filter(|seen| matches!(seen, Event::Datagram(_))).count()
    }

    /// Whether a datagram of this payload was delivered.
    pub fn has_payload(&self, payload: impl AsRef<[u8]>) -> bool {
        let payload = payload.as_ref();
        self.0.borrow().iter().any(|seen| matches!(seen, Event::Datagram(data) if data == payload))
    }

    /// The payloads delivered so far, in order.
    pub fn payloads(&self) -> Vec<Vec<u8>> {
        let payload = |event: &Event| match event {
            Event::Datagram(payload) => Some(payload.clone()),
            _ => None,
        };
        self.0.borrow().iter().filter_map(payload).collect()
    }
}

type Hook = Box<dyn FnMut(&DatagramTransport) -> Result<()>>;
type DatagramHook = Box<dyn FnMut(&DatagramTransport, &Datagram<'_>) -> Result<()>>;
type ErrorHook = Box<dyn FnMut(&DatagramTransport, &NetworkError) -> Result<()>>;
type FailureHook = Box<dyn FnMut(&DatagramTransport, &WriteFailure) -> Result<()>>;
type StopHook = Box<dyn FnMut(&DatagramTransport, &StopReason)>;

/// Logs every callback, then runs the hook for it, if there is one.
#[derive(Default)]
pub struct Recorder {
    log: Log,
    start: Option<Hook>,
    datagram: Option<DatagramHook>,
    refused: Option<Hook>,
    network_error: Option<ErrorHook>,
    write_failed: Option<FailureHook>,
    stop: Option<StopHook>,
}

impl Recorder {
    pub fn new(log: &Log) -> Self {
        Self { log: log.clone(), ..Self::default() }
    }

    /// One whose log nobody reads.
    pub fn quiet() -> Self {
        Self::default()
    }

    /// Answers every datagram with its payload.
    pub fn echo() -> Self {
        Self::default().on_datagram(|transport, datagram| {
            transport.write_to(datagram.payload(), datagram.source())?;
            Ok(())
        })
    }

    pub fn on_start(
        mut self,
        hook: impl FnMut(&DatagramTransport) -> Result<()> + 'static,
    ) -> Self {
        self.start = Some(Box::new(hook));
        self
    }

    pub fn on_datagram(
        mut self,
        hook: impl FnMut(&DatagramTransport, &Datagram<'_>) -> Result<()> + 'static,
    ) -> Self {
        self.datagram = Some(Box::new(hook));
        self
    }

    pub fn on_refused(
        mut self,
        hook: impl FnMut(&DatagramTransport) -> Result<()> + 'static,
    ) -> Self {
        self.refused = Some(Box::new(hook));
        self
    }

    pub fn on_network_error(
        mut self,
        hook: impl FnMut(&DatagramTransport, &NetworkError) -> Result<()> + 'static,
    ) -> Self {
        self.network_error = Some(Box::new(hook));
        self
    }

    pub fn on_write_failed(
        mut self,
        hook: impl FnMut(&DatagramTransport, &WriteFailure) -> Result<()> + 'static,
    ) -> Self {
        self.write_failed = Some(Box::new(hook));
        self
    }

    pub fn on_stop(mut self, hook: impl FnMut(&DatagramTransport, &StopReason) + 'static) -> Self {
        self.stop = Some(Box::new(hook));
        self
    }
}

fn run(hook: &mut Option<Hook>, transport: &DatagramTransport) -> Result<()> {
    hook.as_mut().map_or(Ok(()), |hook| hook(transport))
}

impl DatagramProtocol for Recorder {
    fn start_protocol(&mut self, transport: &DatagramTransport) -> Result<()> {
        self.log.push(Event::Start);
        run(&mut self.start, transport)
    }

    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> Result<()> {
        self.log.push(Event::Datagram(datagram.payload().to_vec()));
        self.datagram.as_mut().map_or(Ok(()), |hook| hook(transport, &datagram))
    }

    fn connection_refused(&mut self, transport: &DatagramTransport) -> Result<()> {
        self.log.push(Event::Refused);
        run(&mut self.refused, transport)
    }

    fn network_error(&mut self, transport: &DatagramTransport, error: &NetworkError) -> Result<()> {
        self.log.push(Event::NetworkError);
        self.network_error.as_mut().map_or(Ok(()), |hook| hook(transport, error))
    }

    fn write_failed(
        &mut self,
        transport: &DatagramTransport,
        failure: &WriteFailure,
    ) -> Result<()> {
        self.log.push(Event::WriteFailed);
        self.write_failed.as_mut().map_or(Ok(()), |hook| hook(transport, failure))
    }

    fn pause_writing(&mut self, _: &DatagramTransport) -> Result<()> {
        self.log.push(Event::PauseWriting);
        Ok(())
    }

    fn resume_writing(&mut self, _: &DatagramTransport) -> Result<()> {
        self.log.push(Event::ResumeWriting);
        Ok(())
    }

    fn stop_protocol(&mut self, transport: &DatagramTransport, reason: StopReason) {
        self.log.push(Event::Stop(reason.to_string()));
        if let Some(hook) = &mut self.stop {
            hook(transport, &reason);
        }
    }
}
