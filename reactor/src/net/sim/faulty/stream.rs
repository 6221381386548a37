//! Listening and stream sockets under rules.

use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::super::host::HostId;
use super::super::kit::{StreamName, Tapes};
use super::super::links::{Attempt, Call};
use super::super::network::SharedNet;
use super::super::packet::TCP;
use super::super::tcp;
use super::{Faulty, check_opening};
use crate::net::{ListenSocket, ListenSpec, OpenError, StreamOption, StreamSocket, StreamSpec};
use crate::stream::KeepAlive;

/// Opens a listening socket, as far as the rules let it.
pub(crate) fn listen_stream(
    net: &SharedNet,
    host: HostId,
    spec: &ListenSpec,
    token: usize,
) -> Result<Rc<dyn ListenSocket>, OpenError> {
    let check = |call| check_opening(net, host, (call, TCP), (Some(spec.bind), None));
    check(Call::Open).map_err(OpenError::Socket)?;
    for option in &spec.options {
        check(Call::SetOption).map_err(|error| OpenError::Option(option_name(*option), error))?;
    }
    check(Call::Bind).map_err(OpenError::Bind)?;
    // Those of the system tell it so, too: most of what listen(2) refuses is about the address.
    check(Call::Listen).map_err(OpenError::Bind)?;
    let inner: Rc<dyn ListenSocket> = tcp::listen(net, host, spec, token)?;
    Ok(Rc::new(Faulty::new(net, host, TCP, token, inner)))
}

/// Opens a stream socket and begins to connect it, as far as the rules let it.
pub(crate) fn open_stream(
    net: &SharedNet,
    host: HostId,
    spec: &StreamSpec,
    token: usize,
) -> Result<Rc<dyn StreamSocket>, OpenError> {
    let check = |call| check_opening(net, host, (call, TCP), (spec.bind, Some(spec.peer)));
    check(Call::Open).map_err(OpenError::Socket)?;
    for option in &spec.options {
        check(Call::SetOption).map_err(|error| OpenError::Option(option_name(*option), error))?;
    }
    if spec.bind.is_some() {
        check(Call::Bind).map_err(OpenError::Bind)?;
    }
    check(Call::Connect).map_err(OpenError::Socket)?;
    let inner: Rc<dyn StreamSocket> = tcp::open(net, host, spec, token)?;
    Ok(Rc::new(Faulty::new(net, host, TCP, token, inner)))
}

/// What a user calls the options that can be set before a socket listens or connects.
fn option_name(option: StreamOption) -> &'static str {
    match option {
        StreamOption::NoDelay(_) => "nodelay",
        StreamOption::KeepAlive(_) => "keepalive",
        StreamOption::RecvBuffer(_) => "recv_buffer_size",
        StreamOption::SendBuffer(_) => "send_buffer_size",
    }
}

impl ListenSocket for Faulty<Rc<dyn ListenSocket>> {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        if !self.is_spared() {
            self.check(&self.attempt(Call::Name, self.inner.local_addr().ok(), None))?;
        }
        self.inner.local_addr()
    }

    fn accept(&self, token: usize) -> io::Result<(Rc<dyn StreamSocket>, SocketAddr)> {
        if !self.is_spared() {
            self.check_taking(&self.attempt(Call::Accept, self.inner.local_addr().ok(), None))?;
        }
        let (stream, peer) = self.inner.accept(token)?;
        Ok((Rc::new(Faulty::new(&self.net, self.host, TCP, token, stream)), peer))
    }

    fn shed(&self, most: usize) -> usize {
        self.inner.shed(most)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fd()
    }
}

impl Faulty<Rc<dyn StreamSocket>> {
    fn transfer(&self, call: Call) -> Attempt {
        self.attempt(call, self.inner.local_addr().ok(), self.inner.peer_addr().ok())
    }

    /// Asks the rules about a call that takes nothing.
    #[inline]
    fn ask(&self, call: Call) -> io::Result<()> {
        if self.is_spared() { Ok(()) } else { self.check(&self.transfer(call)) }
    }

    /// For those who record what the host sends.
    #[inline]
    fn record(&self, note: impl FnOnce(&mut Tapes, &StreamName)) {
        if !self.net.borrow().tapes.is_empty()
            && let (Ok(from), Ok(to)) = (self.inner.local_addr(), self.inner.peer_addr())
        {
            let name = StreamName { token: self.token, from, to };
            note(&mut self.net.borrow_mut().tapes, &name);
        }
    }
}

impl StreamSocket for Faulty<Rc<dyn StreamSocket>> {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.ask(Call::Name)?;
        self.inner.local_addr()
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.ask(Call::Name)?;
        self.inner.peer_addr()
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.is_spared() {
            self.check_taking(&self.transfer(Call::Read))?;
        }
        self.inner.read(buffer)
    }

    fn write(&self, data: &[u8]) -> io::Result<usize> {
        self.ask(Call::Write)?;
        let written = self.inner.write(data)?;
        self.record(|tapes, name| tapes.bytes(self.host, name, &[IoSlice::new(data)], written));
        Ok(written)
    }

    fn write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.ask(Call::Write)?;
        let written = self.inner.write_vectored(pieces)?;
        self.record(|tapes, name| tapes.bytes(self.host, name, pieces, written));
        Ok(written)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.ask(Call::Shutdown)?;
        self.inner.shutdown(how)?;
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            self.record(|tapes, name| tapes.end(self.host, name));
        }
        Ok(())
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.inner.take_error()
    }

    fn reset_on_close(&self) -> io::Result<()> {
        self.inner.reset_on_close()
    }

    fn set_option(&self, option: StreamOption) -> io::Result<()> {
        self.ask(Call::SetOption)?;
        self.inner.set_option(option)
    }

    fn nodelay(&self) -> io::Result<bool> {
        self.ask(Call::GetOption)?;
        self.inner.nodelay()
    }

    fn keepalive(&self) -> io::Result<Option<KeepAlive>> {
        self.ask(Call::GetOption)?;
        self.inner.keepalive()
    }

    fn recv_buffer_size(&self) -> io::Result<usize> {
        self.ask(Call::GetOption)?;
        self.inner.recv_buffer_size()
    }

    fn send_buffer_size(&self) -> io::Result<usize> {
        self.ask(Call::GetOption)?;
        self.inner.send_buffer_size()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fd()
    }
}
