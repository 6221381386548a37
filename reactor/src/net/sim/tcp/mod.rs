//! TCP between simulated hosts.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;

use super::host::HostId;
use super::network::{Net, SharedNet};
use super::packet::{IcmpError, Packet};
use crate::net::{ListenSocket, ListenSpec, OpenError, StreamSocket, StreamSpec};

/// The sockets of a host.
#[derive(Default)]
pub(crate) struct Table {}

impl Table {
    /// A line for each socket, for `World::dump`.
    pub(crate) fn dump(&self, _text: &mut String) -> std::fmt::Result {
        Ok(())
    }
}

/// The host goes down: everything is forgotten, nobody is told.
pub(crate) fn crash(_net: &mut Net, _host: HostId) {}

/// A segment has come to a host.
pub(crate) fn deliver(_net: &mut Net, _from: HostId, _to: HostId, _packet: Packet) {}

/// A report about a segment of this host has come.
pub(crate) fn report(_net: &mut Net, _to: HostId, _by: IpAddr, _report: &IcmpError) {}

/// A timer that was set with [`Net::set_timer`] has come; `what` is what was given there. A timer
/// cannot be taken back: one that nobody needs any more is to be recognised.
pub(crate) fn timer(_net: &mut Net, _host: HostId, _what: u64) {}

pub(crate) fn listen(
    _net: &SharedNet,
    _host: HostId,
    _spec: &ListenSpec,
    _token: usize,
) -> Result<Rc<dyn ListenSocket>, OpenError> {
    Err(OpenError::Socket(io::ErrorKind::Unsupported.into()))
}

pub(crate) fn open(
    _net: &SharedNet,
    _host: HostId,
    _spec: &StreamSpec,
    _token: usize,
) -> Result<Rc<dyn StreamSocket>, OpenError> {
    Err(OpenError::Socket(io::ErrorKind::Unsupported.into()))
}
