//! A datagram as its receiver sees it.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::ops::Deref;
use std::time::SystemTime;

use super::{Ecn, SendOptions};
use crate::net::{Control, Meta};

/// A datagram being delivered. The payload lies in the reactor's buffers and is lent for the
/// call; everything else of interest is in [`DatagramInfo`], to which this dereferences.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    pub(crate) payload: &'a [u8],
    pub(crate) info: &'a DatagramInfo,
    pub(crate) kernel_drops: u32,
    pub(crate) truncated: bool,
}

impl<'a> Datagram<'a> {
    /// The payload; empty for an empty datagram.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Whether the datagram was longer than the port's
    /// [`max_datagram_size`](crate::UdpOptions::max_datagram_size), and cut.
    #[inline]
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Source, destination and metadata.
    #[inline]
    pub fn info(&self) -> &'a DatagramInfo {
        self.info
    }

    /// Datagrams that the kernel dropped on this port between the previous one and this, with
    /// [`Metadata::DROPS`](crate::Metadata::DROPS).
    pub fn kernel_drops(&self) -> Option<u32> {
        self.info.counts_drops.then_some(self.kernel_drops)
    }
}

impl Deref for Datagram<'_> {
    type Target = DatagramInfo;
    #[inline]
    fn deref(&self) -> &DatagramInfo {
        self.info
    }
}

/// Where a datagram came from, and what the port's metadata mask asked for. A value that was not
/// asked for, or that the system does not tell, is `None`.
#[derive(Clone, Debug)]
pub struct DatagramInfo {
    pub(crate) source: SocketAddr,
    pub(crate) meta: Meta,
    pub(crate) local_port: u16,
    pub(crate) counts_drops: bool,
}

impl DatagramInfo {
    /// The sender. IPv6 addresses keep their scope id; on a dual-stack port an IPv4 sender shows
    /// as `::ffff:a.b.c.d`, and writing to that address answers it.
    #[inline]
    pub fn source(&self) -> SocketAddr {
        self.source
    }

    /// The address and port it was sent to: an address of this host, a group, or a broadcast
    /// address. With [`Metadata::DESTINATION`](crate::Metadata::DESTINATION).
    pub fn destination(&self) -> Option<SocketAddr> {
        self.meta.destination.map(|ip| match ip {
            // Such an address means something on its link alone.
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                let scope = self.meta.interface.unwrap_or(0);
                SocketAddrV6::new(v6, self.local_port, 0, scope).into()
            }
            _ => SocketAddr::new(ip, self.local_port),
        })
    }

    /// The index of the interface it came in by. With
    /// [`Metadata::DESTINATION`](crate::Metadata::DESTINATION).
    pub fn interface(&self) -> Option<u32> {
        self.meta.interface
    }

    /// TTL or hop limit left. With [`Metadata::HOP_LIMIT`](crate::Metadata::HOP_LIMIT).
    pub fn hop_limit(&self) -> Option<u8> {
        self.meta.hop_limit
    }

    /// The congestion codepoint. With [`Metadata::ECN`](crate::Metadata::ECN).
    pub fn ecn(&self) -> Option<Ecn> {
        self.meta.ecn
    }

    /// When the kernel received it. With
    /// [`Metadata::RECEIVE_TIME`](crate::Metadata::RECEIVE_TIME).
    pub fn received_at(&self) -> Option<SystemTime> {
        self.meta.received_at
    }

    /// The options of an answer: to the sender, from the address that was asked, by the interface
    /// it came in by. A group or broadcast address is never used as the source; the system's
    /// choice for that interface takes its place. Without
    /// [`Metadata::DESTINATION`](crate::Metadata::DESTINATION) only the destination is set. On a
    /// connected port an answer may be written to the peer, although it names its destination.
    ///
    /// ```
    /// use std::net::UdpSocket;
    /// use strand_reactor::*;
    ///
    /// struct Pong;
    /// impl DatagramProtocol for Pong {
    ///     fn datagram_received(
    ///         &mut self,
    ///         transport: &DatagramTransport,
    ///         datagram: Datagram<'_>,
    ///     ) -> anyhow::Result<()> {
    ///         Ok(transport.write_with(b"pong", &datagram.reply())?)
    ///     }
    /// }
    ///
    /// let reactor = Reactor::new()?;
    /// let options = UdpOptions::parse("0.0.0.0:0")?.metadata(Metadata::DESTINATION);
    /// let port = reactor.listen_udp(options, Pong)?;
    /// // A connected socket hears only the address that it asked.
    /// let client = UdpSocket::bind("127.0.0.1:0")?;
    /// client.connect(("127.0.0.1", port.local_addr()?.port()))?;
    /// client.send(b"ping")?;
    /// while port.stats()?.datagrams_out == 0 {
    ///     reactor.iterate(None)?;
    /// }
    /// assert_eq!(client.recv(&mut [0; 8])?, 4);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn reply(&self) -> SendOptions {
        let own = |ip: &IpAddr| {
            let v4 = match ip {
                IpAddr::V4(v4) => Some(*v4),
                IpAddr::V6(v6) => v6.to_ipv4_mapped(),
            };
            !ip.is_multicast()
                && !ip.is_unspecified()
                && v4.is_none_or(|v4| {
                    !v4.is_multicast() && !v4.is_broadcast() && !v4.is_unspecified()
                })
        };
        // For IPv4 the kernel itself names the address to answer from; it differs from the
        // destination exactly when that is a group or broadcast (ip(7), IP_PKTINFO).
        let source = self.meta.specific_destination.or(self.meta.destination).filter(own);
        SendOptions {
            to: Some(self.source),
            is_reply: true,
            control: Control {
                source,
                interface: self.meta.interface.unwrap_or(0),
                hop_limit: None,
                ecn: None,
            },
        }
    }
}

/// A datagram taken by [`read_datagram`](crate::DatagramTransport::read_datagram): its payload is
/// in the caller's buffer.
#[derive(Clone, Debug)]
pub struct ReadDatagram {
    pub(crate) info: DatagramInfo,
    pub(crate) len: usize,
    pub(crate) size: usize,
    pub(crate) kernel_drops: u32,
    pub(crate) truncated: bool,
}

impl ReadDatagram {
    /// Bytes written to the buffer.
    #[allow(clippy::len_without_is_empty, reason = "a count of bytes, not a container")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of the payload; what exceeds [`len`](Self::len) is lost.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether the payload was longer than the buffer, or was cut before.
    pub fn is_truncated(&self) -> bool {
        self.truncated || self.size > self.len
    }

    /// As [`Datagram::kernel_drops`].
    pub fn kernel_drops(&self) -> Option<u32> {
        self.info.counts_drops.then_some(self.kernel_drops)
    }
}

impl Deref for ReadDatagram {
    type Target = DatagramInfo;
    fn deref(&self) -> &DatagramInfo {
        &self.info
    }
}
