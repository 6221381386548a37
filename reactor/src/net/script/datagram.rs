//! A datagram socket that plays a script: these datagrams, this errno.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::SystemTime;

use crate::Handle;
use crate::datagram::{
    Capabilities, DatagramProtocol, DatagramTransport, Ecn, Family, Metadata, Port, Readiness,
    Tuning, UdpOptions, start, vacancy,
};
use crate::error::ListenError;
use crate::net::{
    DatagramSocket, GroupRequest, Membership, Message, Meta, Origin, QueuedError, RecvBatch,
    SLOT_LEN, SendBatch, SocketOption,
};

/// A script and a record: what the socket of a port receives and answers, and what was sent
/// through it. Clones are the same script.
///
/// ```
/// use strand_reactor::testing::Script;
/// # use strand_reactor::*;
/// # struct Echo;
/// # impl DatagramProtocol for Echo {
/// #     fn datagram_received(&mut self, t: &DatagramTransport, d: Datagram<'_>)
/// #     -> anyhow::Result<()> { Ok(t.write_to(d.payload(), d.source())?) }
/// # }
/// let reactor = Reactor::new()?;
/// let script = Script::new();
/// script.listen(&reactor, "127.0.0.1:9", Echo)?;
/// script.receive("192.0.2.1:7".parse()?, b"ping");
/// reactor.iterate(None)?;
/// assert_eq!(script.sent()[0].payload, b"ping");
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Script {
    state: Rc<State>,
}

/// A datagram that a script was given to send.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sent {
    /// The destination; `None` for the peer of a connected port.
    pub to: Option<SocketAddr>,
    /// The payload.
    pub payload: Vec<u8>,
}

/// A change of a group membership that a script was asked for.
///
/// ```
/// use strand_reactor::testing::Script;
/// # use strand_reactor::*;
/// # struct P;
/// # impl DatagramProtocol for P {
/// #     fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>)
/// #     -> anyhow::Result<()> { Ok(()) }
/// # }
/// let reactor = Reactor::new()?;
/// let script = Script::new();
/// let port = script.listen(&reactor, "0.0.0.0:9", P)?;
/// port.join_group([239, 1, 2, 3], Interface::Default)?;
/// let change = &script.group_changes()[0];
/// assert_eq!((change.request, change.interface), ("join_group", 0));
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupChange {
    /// What the call is named on [`DatagramTransport`]: `"join_group"` and so on.
    pub request: &'static str,
    /// The group.
    pub group: IpAddr,
    /// The source, in calls about one.
    pub source: Option<IpAddr>,
    /// The index of the interface; 0 for the system's choice.
    pub interface: u32,
}

/// What a script's next send answers. Without an answer everything is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendStep {
    /// Takes at most this many datagrams, at least one.
    Take(usize),
    /// Fails with this errno; nothing is sent.
    Fail(i32),
}

#[derive(Default)]
struct State {
    incoming: RefCell<VecDeque<Incoming>>,
    answers: RefCell<VecDeque<SendStep>>,
    errors: RefCell<VecDeque<QueuedError>>,
    /// The pending error of a connected socket (`SO_ERROR`).
    pending: Cell<Option<i32>>,
    sent: RefCell<Vec<Sent>>,
    sends: Cell<usize>,
    receives: Cell<usize>,
    watching: Cell<bool>,
    closed: Cell<bool>,
    no_error_queue: Cell<bool>,
    local: Cell<Option<SocketAddr>>,
    peer: Cell<Option<SocketAddr>>,
    options: RefCell<Vec<(SocketOption, u32)>>,
    port: RefCell<Option<DatagramTransport>>,
    group_changes: RefCell<Vec<GroupChange>>,
    group_answers: RefCell<VecDeque<i32>>,
}

enum Incoming {
    /// Payload, bytes of each merged datagram, and the rest.
    Message {
        payload: Vec<u8>,
        message: Message,
    },
    Fail(i32),
    /// Ends a batch here.
    Short,
}

impl Script {
    /// An empty script.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a port that plays this script. The options are checked as for a real one.
    ///
    /// # Errors
    /// As [`Handle::listen_udp`], save for what only a system finds.
    pub fn listen<O, P>(
        &self,
        handle: &Handle,
        options: O,
        protocol: P,
    ) -> Result<DatagramTransport, ListenError>
    where
        O: TryInto<UdpOptions>,
        O::Error: Into<ListenError>,
        P: DatagramProtocol + 'static,
    {
        let (spec, mut tuning): (_, Tuning) = options.try_into().map_err(Into::into)?.check()?;
        let inner = handle.upgrade().ok_or(ListenError::Closed)?;
        let key = vacancy(&inner)?;
        self.state.local.set(spec.bind);
        self.state.options.borrow_mut().clone_from(&spec.options);
        let socket = self.socket(spec.family, spec.metadata);
        let error_queue = spec.options.contains(&(SocketOption::ErrorQueue, 1));
        let label = tuning.label.take().unwrap_or_else(|| "script".to_owned());
        let port = Port::new(key, socket, None, error_queue, tuning, label.into(), Some(0));
        let transport: DatagramTransport = start::<ListenError>(&inner, port, Box::new(protocol))?;
        *self.state.port.borrow_mut() = Some(transport.clone());
        if !self.state.incoming.borrow().is_empty() {
            self.event(true, false, false);
        }
        Ok(transport)
    }

    /// A datagram arrives.
    pub fn receive(&self, source: SocketAddr, payload: &[u8]) {
        self.receive_merged(source, payload, payload.len().max(1));
    }

    /// Datagrams of `segment` bytes each arrive as one message of the kernel (`UDP_GRO`).
    pub fn receive_merged(&self, source: SocketAddr, payload: &[u8], segment: usize) {
        self.push(source, payload, segment, false, Meta::default());
    }

    /// A datagram arrives that the kernel has cut.
    pub fn receive_truncated(&self, source: SocketAddr, payload: &[u8]) {
        self.push(source, payload, payload.len().max(1), true, Meta::default());
    }

    /// A datagram arrives, with the kernel's running count of drops (`SO_RXQ_OVFL`).
    pub fn receive_after_drops(&self, source: SocketAddr, payload: &[u8], total: u32) {
        let meta = Meta { drops: Some(total), ..Meta::default() };
        self.push(source, payload, payload.len().max(1), false, meta);
    }

    /// A datagram arrives with all metadata: sent to `destination`, for which the host would
    /// answer from `answer_from`, on interface `interface`.
    pub fn receive_at(
        &self,
        source: SocketAddr,
        payload: &[u8],
        destination: IpAddr,
        answer_from: Option<IpAddr>,
        interface: u32,
    ) {
        let meta = Meta {
            destination: Some(destination),
            specific_destination: answer_from,
            interface: Some(interface),
            hop_limit: Some(64),
            ecn: Some(Ecn::Ect0),
            received_at: Some(SystemTime::UNIX_EPOCH),
            drops: None,
        };
        self.push(source, payload, payload.len().max(1), false, meta);
    }

    /// The next receive fails with this errno (after the datagrams queued before, in the call
    /// after theirs).
    pub fn receive_error(&self, errno: i32) {
        self.state.incoming.borrow_mut().push_back(Incoming::Fail(errno));
        self.event(true, false, false);
    }

    /// A batch ends here, although more was asked for.
    pub fn short_batch(&self) {
        self.state.incoming.borrow_mut().push_back(Incoming::Short);
    }

    /// Appends an answer of a send.
    pub fn answer_send(&self, step: SendStep) {
        self.state.answers.borrow_mut().push_back(step);
    }

    /// Puts a report on the error queue, and raises an error event: this errno, caused by a
    /// datagram to `destination`, reported by `offender`.
    pub fn report(
        &self,
        errno: i32,
        destination: SocketAddr,
        offender: IpAddr,
        icmp: (u8, u8),
        mtu: u32,
    ) {
        self.state.errors.borrow_mut().push_back(QueuedError {
            error: io::Error::from_raw_os_error(errno),
            origin: Origin::Icmp,
            icmp_type: icmp.0,
            icmp_code: icmp.1,
            info: mtu,
            offender: Some(offender),
            destination: Some(destination),
        });
        self.event(false, false, true);
    }

    /// Sets the pending error (`SO_ERROR`), as a system without an error queue does, and raises an
    /// error event.
    pub fn pending_error(&self, errno: i32) {
        self.state.pending.set(Some(errno));
        self.event(false, false, true);
    }

    /// Offers no error queue from now on; to be called before [`listen`](Self::listen).
    pub fn without_error_queue(&self) {
        self.state.no_error_queue.set(true);
    }

    /// The system has room to send again: raises the event, if it was asked for.
    pub fn make_writable(&self) {
        if self.state.watching.get() {
            self.event(false, true, false);
        }
    }

    /// What was sent, in order.
    pub fn sent(&self) -> Vec<Sent> {
        self.state.sent.borrow().clone()
    }

    /// Empties the record of what was sent: for benches, which send without end.
    pub fn forget_sent(&self) {
        self.state.sent.borrow_mut().clear();
    }

    /// The next change of a group membership is answered so: with this errno, or 0 for success.
    /// Without an answer everything succeeds.
    pub fn answer_group_change(&self, errno: i32) {
        self.state.group_answers.borrow_mut().push_back(errno);
    }

    /// The changes of group memberships that were asked for, in order, whatever was answered.
    pub fn group_changes(&self) -> Vec<GroupChange> {
        self.state.group_changes.borrow().clone()
    }

    /// Calls of send made, whatever they answered.
    pub fn sends(&self) -> usize {
        self.state.sends.get()
    }

    /// Calls of receive made.
    pub fn receives(&self) -> usize {
        self.state.receives.get()
    }

    /// Whether the port asked to be told when there is room to send.
    pub fn is_watching_writable(&self) -> bool {
        self.state.watching.get()
    }

    /// Whether the port has dropped its socket.
    pub fn is_closed(&self) -> bool {
        self.state.closed.get()
    }

    pub(crate) fn socket(&self, family: Family, metadata: Metadata) -> Rc<dyn DatagramSocket> {
        Rc::new(Socket { state: Rc::clone(&self.state), family, metadata })
    }

    fn push(
        &self,
        source: SocketAddr,
        payload: &[u8],
        segment: usize,
        truncated: bool,
        meta: Meta,
    ) {
        let message = Message { len: payload.len(), segment, truncated, source, meta };
        let payload = payload.to_vec();
        self.state.incoming.borrow_mut().push_back(Incoming::Message { payload, message });
        self.event(true, false, false);
    }

    /// Raises an event for the port.
    fn event(&self, readable: bool, writable: bool, error: bool) {
        if let Some(port) = &*self.state.port.borrow() {
            port.with(|port, agenda, _| {
                port.make_ready(Readiness { readable, writable, error }, agenda);
            });
        }
    }
}

struct Socket {
    state: Rc<State>,
    family: Family,
    metadata: Metadata,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.state.closed.set(true);
    }
}

impl DatagramSocket for Socket {
    fn family(&self) -> Family {
        self.family
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            batching: true,
            segmentation: false,
            coalescing: true,
            error_queue: !self.state.no_error_queue.get(),
            send_options: true,
            metadata: self.metadata,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.state.local.get().unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into()))
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.state.peer.get().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn bind(&self, address: SocketAddr) -> io::Result<()> {
        self.state.local.set(Some(address));
        Ok(())
    }

    fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        self.state.peer.set(Some(peer));
        Ok(())
    }

    fn disconnect(&self) -> io::Result<()> {
        self.state.peer.set(None);
        Ok(())
    }

    fn receive(&self, slots: usize, batch: &mut RecvBatch) -> io::Result<bool> {
        self.state.receives.set(self.state.receives.get() + 1);
        batch.messages.clear();
        let mut incoming = self.state.incoming.borrow_mut();
        let data = Rc::get_mut(&mut batch.data).ok_or(io::ErrorKind::ResourceBusy)?;
        while batch.messages.len() < slots {
            let start = batch.messages.len() * SLOT_LEN;
            match incoming.pop_front() {
                Some(Incoming::Message { payload, message }) => {
                    data[start..start + payload.len()].copy_from_slice(&payload);
                    batch.messages.push(message);
                }
                Some(Incoming::Fail(errno)) if batch.messages.is_empty() => {
                    return Err(io::Error::from_raw_os_error(errno));
                }
                Some(Incoming::Short) if batch.messages.is_empty() => {}
                Some(Incoming::Short) => return Ok(false),
                Some(error @ Incoming::Fail(_)) => {
                    incoming.push_front(error);
                    return Ok(false);
                }
                None if batch.messages.is_empty() => return Err(io::ErrorKind::WouldBlock.into()),
                None => return Ok(true),
            }
        }
        Ok(false)
    }

    fn send(&self, batch: &SendBatch<'_>) -> io::Result<usize> {
        self.state.sends.set(self.state.sends.get() + 1);
        let count = match self.state.answers.borrow_mut().pop_front() {
            Some(SendStep::Fail(errno)) => return Err(io::Error::from_raw_os_error(errno)),
            Some(SendStep::Take(count)) => count.max(1),
            None => usize::MAX,
        };
        let sent = &mut *self.state.sent.borrow_mut();
        let before = sent.len();
        let taken = batch.datagrams().take(count);
        sent.extend(taken.map(|one| Sent { to: one.to, payload: batch.payload(&one).to_vec() }));
        Ok(sent.len() - before)
    }

    fn next_error(&self) -> io::Result<Option<QueuedError>> {
        Ok(self.state.errors.borrow_mut().pop_front())
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.state.pending.take().map(io::Error::from_raw_os_error))
    }

    fn watch_writable(&self, on: bool) -> io::Result<()> {
        self.state.watching.set(on);
        Ok(())
    }

    fn option(&self, option: SocketOption) -> io::Result<u32> {
        let options = self.state.options.borrow();
        Ok(options.iter().find(|(name, _)| *name == option).map_or(0, |(_, value)| *value))
    }

    fn set_option(&self, option: SocketOption, value: u32) -> io::Result<()> {
        let mut options = self.state.options.borrow_mut();
        options.retain(|(name, _)| *name != option);
        options.push((option, value));
        Ok(())
    }

    fn device(&self) -> io::Result<Option<String>> {
        Ok(None)
    }

    fn set_device(&self, _: Option<&str>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_metadata(&self, wanted: Metadata) -> io::Result<Metadata> {
        Ok(wanted)
    }

    fn change_membership(&self, request: GroupRequest, at: &Membership) -> io::Result<()> {
        let &Membership { group, source, interface } = at;
        let change = GroupChange { request: request.name(), group, source, interface };
        self.state.group_changes.borrow_mut().push(change);
        match self.state.group_answers.borrow_mut().pop_front() {
            None | Some(0) => Ok(()),
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
