//! Datagram sockets under rules.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::super::host::HostId;
use super::super::links::Call;
use super::super::network::SharedNet;
use super::super::packet::UDP;
use super::super::udp::{UdpSocket, option_name};
use super::{Faulty, check_opening};
use crate::datagram::{Capabilities, Family, Metadata, SourceFilter};
use crate::net::{
    DatagramSocket, DatagramSpec, GroupRequest, Membership, OpenError, Outgoing, QueuedError,
    RecvBatch, SendBatch, SocketOption,
};

/// Opens a UDP socket, as far as the rules let it.
pub(crate) fn open_datagram(
    net: &SharedNet,
    host: HostId,
    spec: &DatagramSpec,
    token: usize,
) -> Result<Rc<dyn DatagramSocket>, OpenError> {
    let check = |call| check_opening(net, host, (call, UDP), (spec.bind, None));
    check(Call::Open).map_err(OpenError::Socket)?;
    for &(option, _) in &spec.options {
        check(Call::SetOption).map_err(|error| OpenError::Option(option_name(option), error))?;
    }
    if spec.bind.is_some() {
        check(Call::Bind).map_err(OpenError::Bind)?;
    }
    let inner = UdpSocket::open(net, host, spec, token)?;
    Ok(Rc::new(Faulty::new(net, host, UDP, token, inner)))
}

impl Faulty<UdpSocket> {
    /// Sends those of the batch that come before the first that is refused. Of each the rules are
    /// asked once.
    fn send_under_rules(&self, batch: &SendBatch<'_>) -> io::Result<usize> {
        let (local, peer) = (self.inner.local_addr().ok(), self.inner.peer_addr().ok());
        let (mut free, mut refused) = self.faults().asked.take();
        let queue: Vec<Outgoing> = batch.datagrams().collect();
        while let Some(datagram) = queue.get(free)
            && refused.is_none()
        {
            let attempt = self.attempt(Call::Send, local, datagram.to.or(peer));
            refused = self.check_sending(&attempt).err().and_then(|error| error.raw_os_error());
            free += usize::from(refused.is_none());
        }
        if free == 0
            && let Some(errno) = refused
        {
            let error = io::Error::from_raw_os_error(errno);
            if matches!(errno, libc::ECONNREFUSED | libc::ECONNRESET) {
                self.put_off();
            }
            return Err(error);
        }
        let end = free.min(queue.len());
        let result = self.inner.send(&SendBatch { queue: &queue[..end], ..*batch });
        let gone = match &result {
            Ok(sent) => *sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => 1,
        };
        // What was refused for want of room is to be asked about when there may be some.
        self.faults().asked.set((free - gone, refused.filter(|errno| *errno != libc::EAGAIN)));
        result
    }
}

impl Faulty<UdpSocket> {
    /// Asks the rules about a call that gives nothing and takes nothing.
    fn ask(&self, call: Call) -> io::Result<()> {
        if self.is_spared() {
            return Ok(());
        }
        let (local, peer) = (self.inner.local_addr().ok(), self.inner.peer_addr().ok());
        self.check(&self.attempt(call, local, peer))
    }

    /// For those who record what the host sends.
    #[inline]
    fn record(&self, batch: &SendBatch<'_>, sent: usize) {
        if !self.net.borrow().tapes.is_empty()
            && let Ok(from) = self.inner.local_addr()
        {
            let ends = (from, self.inner.peer_addr().ok());
            let net = &mut *self.net.borrow_mut();
            net.tapes.datagrams((net.now, self.host), ends, batch, sent);
        }
    }
}

impl DatagramSocket for Faulty<UdpSocket> {
    fn family(&self) -> Family {
        self.inner.family()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.ask(Call::Name)?;
        self.inner.local_addr()
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.ask(Call::Name)?;
        self.inner.peer_addr()
    }

    fn bind(&self, address: SocketAddr) -> io::Result<()> {
        self.check(&self.attempt(Call::Bind, Some(address), self.inner.peer_addr().ok()))?;
        self.inner.bind(address)
    }

    fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        self.check(&self.attempt(Call::Connect, self.inner.local_addr().ok(), Some(peer)))?;
        self.inner.connect(peer)
    }

    fn disconnect(&self) -> io::Result<()> {
        self.ask(Call::Connect)?;
        self.inner.disconnect()
    }

    fn receive(&self, slots: usize, batch: &mut RecvBatch) -> io::Result<bool> {
        if !self.is_spared() {
            batch.messages.clear();
            let (local, peer) = (self.inner.local_addr().ok(), self.inner.peer_addr().ok());
            self.check_taking(&self.attempt(Call::Receive, local, peer))?;
        }
        self.inner.receive(slots, batch)
    }

    fn send(&self, batch: &SendBatch<'_>) -> io::Result<usize> {
        let sent =
            if self.is_spared() { self.inner.send(batch) } else { self.send_under_rules(batch) }?;
        self.record(batch, sent);
        Ok(sent)
    }

    fn next_error(&self) -> io::Result<Option<QueuedError>> {
        self.ask(Call::ReceiveError)?;
        self.inner.next_error()
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.inner.take_error()
    }

    fn watch_writable(&self, on: bool) -> io::Result<()> {
        self.inner.watch_writable(on)
    }

    fn option(&self, option: SocketOption) -> io::Result<u32> {
        self.ask(Call::GetOption)?;
        self.inner.option(option)
    }

    fn set_option(&self, option: SocketOption, value: u32) -> io::Result<()> {
        self.ask(Call::SetOption)?;
        self.inner.set_option(option, value)
    }

    fn device(&self) -> io::Result<Option<String>> {
        self.ask(Call::GetOption)?;
        self.inner.device()
    }

    fn set_device(&self, name: Option<&str>) -> io::Result<()> {
        self.ask(Call::SetOption)?;
        self.inner.set_device(name)
    }

    fn set_metadata(&self, wanted: Metadata) -> io::Result<Metadata> {
        self.ask(Call::SetOption)?;
        self.inner.set_metadata(wanted)
    }

    fn change_membership(&self, request: GroupRequest, at: &Membership) -> io::Result<()> {
        self.ask(Call::SetOption)?;
        self.inner.change_membership(request, at)
    }

    fn source_filter(&self, group: IpAddr, interface: u32) -> io::Result<Option<SourceFilter>> {
        self.ask(Call::GetOption)?;
        self.inner.source_filter(group, interface)
    }

    fn multicast_interface(&self) -> io::Result<u32> {
        self.ask(Call::GetOption)?;
        self.inner.multicast_interface()
    }

    fn set_multicast_interface(&self, interface: u32, source: Option<Ipv4Addr>) -> io::Result<()> {
        self.ask(Call::SetOption)?;
        self.inner.set_multicast_interface(interface, source)
    }

    fn drops(&self) -> Option<u32> {
        self.inner.drops()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fd()
    }
}
