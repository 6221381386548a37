//! What can be asked of one datagram.

use std::net::{IpAddr, SocketAddr};

use super::Ecn;
use crate::net::Control;

/// What is asked of one datagram: where to, and what the port's options say otherwise.
///
/// [`reply`](crate::DatagramInfo::reply) makes the one that answers a datagram.
///
/// ```
/// use strand_reactor::{Ecn, SendOptions};
/// let options = SendOptions::to("192.0.2.7:4433".parse().unwrap()).ecn(Ecn::Ect0).hop_limit(3);
/// assert_eq!(options.destination().unwrap().port(), 4433);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendOptions {
    pub(crate) to: Option<SocketAddr>,
    /// Made by `reply`: the destination may be the peer of the port.
    pub(crate) is_reply: bool,
    pub(crate) control: Control,
}

impl SendOptions {
    /// Options for a connected port: nothing chosen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Options for a datagram to `destination`.
    pub fn to(destination: SocketAddr) -> Self {
        Self { to: Some(destination), ..Self::default() }
    }

    /// The destination, unless the port's peer is meant.
    pub fn destination(&self) -> Option<SocketAddr> {
        self.to
    }

    /// Sends from this address of the host (`ipi_spec_dst` of `IP_PKTINFO`).
    pub fn source(mut self, address: IpAddr) -> Self {
        self.control.source = Some(address);
        self
    }

    /// The source address chosen.
    pub fn source_address(&self) -> Option<IpAddr> {
        self.control.source
    }

    /// Sends by the interface of this index, whatever the routes say; 0 leaves it to them.
    pub fn interface(mut self, index: u32) -> Self {
        self.control.interface = index;
        self
    }

    /// The index of the interface chosen.
    pub fn interface_index(&self) -> Option<u32> {
        (self.control.interface != 0).then_some(self.control.interface)
    }

    /// Sends with this TTL or hop limit, 1 to 255 (0 is taken as 1).
    pub fn hop_limit(mut self, hops: u8) -> Self {
        self.control.hop_limit = Some(hops.max(1));
        self
    }

    /// Marks the datagram with this codepoint; the DSCP becomes 0.
    pub fn ecn(mut self, codepoint: Ecn) -> Self {
        self.control.ecn = Some(codepoint);
        self
    }
}
