//! The seam of a simulated host.

use std::io;
#[cfg(feature = "signals")]
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::faulty;
use super::host::HostId;
use super::network::SharedNet;
use super::turn::Mail;
use crate::error::AdoptError;
use crate::interfaces::NetworkInterface;
use crate::net::{
    DatagramSocket, DatagramSpec, Driver, Event, ListenSocket, ListenSpec, OpenError, Ownership,
    StreamSocket, StreamSpec, UnixDatagramSocket, UnixDatagramSpec, UnixListenSpec, UnixSpec, Wake,
};

/// The driver of a reactor on a simulated host.
pub(crate) struct SimDriver {
    net: SharedNet,
    host: HostId,
    mail: Arc<Mail>,
}

impl SimDriver {
    pub(crate) fn new(net: SharedNet, host: HostId, mail: Arc<Mail>) -> Self {
        Self { net, host, mail }
    }
}

impl Driver for SimDriver {
    fn now(&self) -> Instant {
        self.net.borrow().instant()
    }

    /// Never waits: the world turns a host when there is something for it.
    fn poll(&mut self, _timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let net = &mut *self.net.borrow_mut();
        let pending = &mut net.host_mut(self.host).pending;
        events.extend(pending.drain(..).map(|signal| signal.take()));
        Ok(())
    }

    fn wake(&self) -> Wake {
        let (mail, host) = (Arc::clone(&self.mail), self.host);
        Arc::new(move || {
            mail.post(host);
            Ok(())
        })
    }

    fn open_datagram(
        &mut self,
        spec: &DatagramSpec,
        token: usize,
    ) -> Result<Rc<dyn DatagramSocket>, OpenError> {
        faulty::open_datagram(&self.net, self.host, spec, token)
    }

    fn adopt_datagram(
        &mut self,
        _fd: OwnedFd,
        _ownership: Ownership,
        _token: usize,
    ) -> Result<Rc<dyn DatagramSocket>, AdoptError> {
        Err(AdoptError::Socket(no_descriptors()))
    }

    fn listen_stream(
        &mut self,
        spec: &ListenSpec,
        token: usize,
    ) -> Result<Rc<dyn ListenSocket>, OpenError> {
        faulty::listen_stream(&self.net, self.host, spec, token)
    }

    fn open_stream(
        &mut self,
        spec: &StreamSpec,
        token: usize,
    ) -> Result<Rc<dyn StreamSocket>, OpenError> {
        faulty::open_stream(&self.net, self.host, spec, token)
    }

    fn adopt_listener(
        &mut self,
        _fd: OwnedFd,
        _ownership: Ownership,
        _token: usize,
    ) -> Result<Rc<dyn ListenSocket>, AdoptError> {
        Err(AdoptError::Socket(no_descriptors()))
    }

    fn adopt_stream(
        &mut self,
        _fd: OwnedFd,
        _ownership: Ownership,
        _token: usize,
    ) -> Result<Rc<dyn StreamSocket>, AdoptError> {
        Err(AdoptError::Socket(no_descriptors()))
    }

    fn listen_unix(
        &mut self,
        _spec: &UnixListenSpec,
        _token: usize,
    ) -> Result<Rc<dyn ListenSocket>, OpenError> {
        Err(OpenError::Socket(no_unix_sockets()))
    }

    fn connect_unix(
        &mut self,
        _spec: &UnixSpec,
        _token: usize,
    ) -> Result<Rc<dyn StreamSocket>, OpenError> {
        Err(OpenError::Socket(no_unix_sockets()))
    }

    fn open_unix_datagram(
        &mut self,
        _spec: &UnixDatagramSpec,
        _token: usize,
    ) -> Result<Rc<dyn UnixDatagramSocket>, OpenError> {
        Err(OpenError::Socket(no_unix_sockets()))
    }

    fn adopt_unix_datagram(
        &mut self,
        _fd: OwnedFd,
        _token: usize,
    ) -> Result<Rc<dyn UnixDatagramSocket>, AdoptError> {
        Err(AdoptError::Socket(no_descriptors()))
    }

    #[cfg(feature = "signals")]
    fn watch_waker(&mut self, _fd: BorrowedFd<'_>) -> io::Result<()> {
        let reason = "a simulated host gets no signals: call what the signal would have called";
        Err(unsupported(reason))
    }

    fn interfaces(&self) -> io::Result<Vec<NetworkInterface>> {
        Ok(self.net.borrow().host(self.host).interfaces())
    }
}

fn no_descriptors() -> io::Error {
    let reason =
        "a simulated host has no descriptors: sockets of the system cannot join its network";
    unsupported(reason)
}

fn no_unix_sockets() -> io::Error {
    unsupported("a simulated host has no UNIX sockets: listen on and connect to 127.0.0.1 or ::1")
}

fn unsupported(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, reason)
}
