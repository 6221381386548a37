//! The options of an open port: each setter has a getter, which asks the kernel.

use std::time::Duration;

use super::port::Port;
use super::{
    Capabilities, DatagramTransport, Family, Metadata, PathMtu, QueuePolicy, buffer_size,
    busy_poll, check_ttl, within,
};
use crate::error::OptionError;
use crate::net::SocketOption;

impl DatagramTransport {
    pub(super) fn setting<R>(
        &self,
        work: impl FnOnce(&mut Port) -> Result<R, OptionError>,
    ) -> Result<R, OptionError> {
        self.with(|port, _, _| work(port)).unwrap_or(Err(OptionError::Closed))
    }

    pub(super) fn get(&self, option: SocketOption, name: &'static str) -> Result<u32, OptionError> {
        self.setting(|port| {
            port.socket.option(option).map_err(|source| OptionError::from_io(name, source))
        })
    }

    pub(super) fn set(
        &self,
        option: SocketOption,
        name: &'static str,
        value: u32,
    ) -> Result<(), OptionError> {
        self.setting(|port| {
            port.socket
                .set_option(option, value)
                .map_err(|source| OptionError::from_io(name, source))
        })
    }

    /// Whether datagrams may be sent to broadcast addresses; off at first.
    ///
    /// # Errors
    /// [`OptionError`], as for every getter below: `Closed`, `Unsupported`, or `Io`.
    pub fn broadcast_allowed(&self) -> Result<bool, OptionError> {
        Ok(self.get(SocketOption::Broadcast, "broadcast_allowed")? != 0)
    }

    /// Allows or forbids datagrams to broadcast addresses (`SO_BROADCAST`). While it is off,
    /// writing to 255.255.255.255 is an error at the call, and the system refuses the broadcast
    /// addresses of its networks.
    ///
    /// # Errors
    /// [`OptionError`], as for every setter below; nothing was changed then.
    pub fn set_broadcast_allowed(&self, on: bool) -> Result<(), OptionError> {
        self.set(SocketOption::Broadcast, "broadcast_allowed", on.into())
    }

    /// The TTL or hop limit of unicast datagrams.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn ttl(&self) -> Result<u32, OptionError> {
        self.get(SocketOption::Ttl, "ttl")
    }

    /// Sets the TTL or hop limit of unicast datagrams, 1 to 255; of both families on a dual-stack
    /// port. On a port opened by [`listen_multicast`](crate::Handle::listen_multicast) it sets that
    /// of datagrams to groups, too.
    ///
    /// ```
    /// # use strand_reactor::*;
    /// # struct P;
    /// # impl DatagramProtocol for P {
    /// #     fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>)
    /// #     -> anyhow::Result<()> { Ok(()) }
    /// # }
    /// let reactor = Reactor::new()?;
    /// let port = reactor.listen_udp("127.0.0.1:0", P)?;
    /// port.set_ttl(3)?;
    /// assert!(port.set_ttl(0).is_err() && port.set_ttl(256).is_err());
    /// assert_eq!(port.ttl()?, 3);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`OptionError::OutOfRange`], and as every setter.
    pub fn set_ttl(&self, hops: u32) -> Result<(), OptionError> {
        self.set(SocketOption::Ttl, "ttl", check_ttl(hops)?)?;
        if self.setting(|port| Ok(port.multicast))? {
            self.set_multicast_ttl(hops)?;
        }
        Ok(())
    }

    /// The TOS byte or traffic class.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn tos(&self) -> Result<u8, OptionError> {
        Ok(self.get(SocketOption::Tos, "tos")? as u8)
    }

    /// Sets the TOS byte or traffic class: DSCP in the upper six bits, ECN in the lower two.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn set_tos(&self, byte: u8) -> Result<(), OptionError> {
        self.set(SocketOption::Tos, "tos", byte.into())
    }

    /// The differentiated services codepoint: the upper six bits of [`tos`](Self::tos).
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn dscp(&self) -> Result<u8, OptionError> {
        Ok(self.tos()? >> 2)
    }

    /// Sets the differentiated services codepoint, 0 to 63, and leaves the ECN bits.
    ///
    /// # Errors
    /// [`OptionError::OutOfRange`], and as every setter.
    pub fn set_dscp(&self, codepoint: u8) -> Result<(), OptionError> {
        within("dscp", codepoint.into(), 0, 63)?;
        self.set_tos(codepoint << 2 | (self.tos()? & 3))
    }

    /// Bytes of the system's receive buffer, as granted: Linux doubles what was asked for
    /// (socket(7)).
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn recv_buffer_size(&self) -> Result<usize, OptionError> {
        Ok(self.get(SocketOption::RecvBuffer, "recv_buffer_size")? as usize)
    }

    /// Asks for a receive buffer of this many bytes. A system may grant less without an error
    /// (`net.core.rmem_max`): read it back.
    ///
    /// # Errors
    /// [`OptionError::OutOfRange`] for 0 and for more than 2^31 - 1, and as every setter.
    pub fn set_recv_buffer_size(&self, bytes: usize) -> Result<(), OptionError> {
        let bytes = buffer_size("recv_buffer_size", bytes)?;
        self.set(SocketOption::RecvBuffer, "recv_buffer_size", bytes)
    }

    /// Bytes of the system's send buffer, as granted.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn send_buffer_size(&self) -> Result<usize, OptionError> {
        Ok(self.get(SocketOption::SendBuffer, "send_buffer_size")? as usize)
    }

    /// Asks for a send buffer of this many bytes, as
    /// [`set_recv_buffer_size`](Self::set_recv_buffer_size) does.
    ///
    /// # Errors
    /// As [`set_recv_buffer_size`](Self::set_recv_buffer_size).
    pub fn set_send_buffer_size(&self, bytes: usize) -> Result<(), OptionError> {
        let bytes = buffer_size("send_buffer_size", bytes)?;
        self.set(SocketOption::SendBuffer, "send_buffer_size", bytes)
    }

    /// How the port treats datagrams longer than the path's MTU.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn path_mtu_mode(&self) -> Result<PathMtu, OptionError> {
        const NAME: &str = "path_mtu_mode";
        let raw = self.get(SocketOption::PathMtuMode, NAME)?;
        PathMtu::from_raw(raw).ok_or(OptionError::Unsupported { name: NAME })
    }

    /// Sets how the port treats datagrams longer than the path's MTU.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn set_path_mtu_mode(&self, mode: PathMtu) -> Result<(), OptionError> {
        self.set(SocketOption::PathMtuMode, "path_mtu_mode", mode as u32)
    }

    /// The MTU of the path to the port's peer as the system knows it, in bytes with headers
    /// (`IP_MTU`).
    ///
    /// # Errors
    /// [`OptionError::NotConnected`] without a peer, and as every getter.
    pub fn path_mtu(&self) -> Result<u32, OptionError> {
        self.peer_addr()?;
        self.get(SocketOption::PathMtu, "path_mtu")
    }

    /// The interface that the port is confined to, if any.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn device(&self) -> Result<Option<String>, OptionError> {
        self.setting(|port| {
            port.socket.device().map_err(|source| OptionError::from_io("device", source))
        })
    }

    /// Confines the port to an interface, or frees it (`SO_BINDTODEVICE`).
    ///
    /// # Errors
    /// [`OptionError::NoSuchDevice`]; [`OptionError::Io`] without the right to change it (`PermissionDenied`).
    pub fn set_device(&self, name: Option<&str>) -> Result<(), OptionError> {
        self.setting(|port| {
            port.socket.set_device(name).map_err(|source| OptionError::of_device(name, source))
        })
    }

    /// Whether the address is shared ([`UdpOptions::reuse_address`](crate::UdpOptions::reuse_address)).
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn reuse_address(&self) -> Result<bool, OptionError> {
        Ok(self.get(SocketOption::ReuseAddress, "reuse_address")? != 0)
    }

    /// Whether the load is shared ([`UdpOptions::reuse_port`](crate::UdpOptions::reuse_port)).
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn reuse_port(&self) -> Result<bool, OptionError> {
        Ok(self.get(SocketOption::ReusePort, "reuse_port")? != 0)
    }

    /// The address family.
    ///
    /// # Errors
    /// [`OptionError::Closed`].
    pub fn family(&self) -> Result<Family, OptionError> {
        self.setting(|port| Ok(port.family))
    }

    /// What the system granted to this port.
    ///
    /// # Errors
    /// [`OptionError::Closed`].
    pub fn capabilities(&self) -> Result<Capabilities, OptionError> {
        self.setting(|port| Ok(Capabilities { metadata: port.metadata, ..port.capabilities }))
    }

    /// Whether reports of the network are taken from the error queue.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn error_queue(&self) -> Result<bool, OptionError> {
        Ok(self.get(SocketOption::ErrorQueue, "error_queue")? != 0)
    }

    /// Asks for the reports of the network, or asks no more; see
    /// [`UdpOptions::error_queue`](crate::UdpOptions::error_queue). A connected port keeps its
    /// own in any case.
    ///
    /// # Errors
    /// [`OptionError::Unsupported`] where there is no such queue, and as every setter.
    pub fn set_error_queue(&self, on: bool) -> Result<(), OptionError> {
        self.setting(|port| {
            let effective = on || port.peer.is_some();
            port.socket
                .set_option(SocketOption::ErrorQueue, effective.into())
                .map_err(|source| OptionError::from_io("error_queue", source))?;
            port.wants_error_queue = on;
            port.error_queue = effective;
            Ok(())
        })
    }

    /// How long the system may spin for datagrams, as granted; see
    /// [`UdpOptions::busy_poll`](crate::UdpOptions::busy_poll).
    ///
    /// # Errors
    /// [`OptionError::Unsupported`] where there is no such option, and as every getter.
    pub fn busy_poll(&self) -> Result<Duration, OptionError> {
        let microseconds = self.get(SocketOption::BusyPoll, "busy_poll")?;
        Ok(Duration::from_micros(microseconds.into()))
    }

    /// Sets how long the system may spin for datagrams. To lower it takes no right.
    ///
    /// # Errors
    /// [`OptionError::OutOfRange`] for 2^31 microseconds or more; [`OptionError::Io`] with
    /// `PermissionDenied` for more than before, without the right; `Unsupported`; and as every
    /// setter.
    pub fn set_busy_poll(&self, spin: Duration) -> Result<(), OptionError> {
        self.set(SocketOption::BusyPoll, "busy_poll", busy_poll(spin)?)
    }

    /// What is learned with every datagram.
    ///
    /// # Errors
    /// [`OptionError::Closed`].
    pub fn metadata(&self) -> Result<Metadata, OptionError> {
        self.setting(|port| Ok(port.metadata))
    }

    /// Sets what to learn with every datagram, and returns the part that the system grants.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn set_metadata(&self, wanted: Metadata) -> Result<Metadata, OptionError> {
        self.setting(|port| {
            let granted = port.socket.set_metadata(wanted);
            let granted = granted.map_err(|source| OptionError::from_io("metadata", source))?;
            if !port.metadata.contains(Metadata::DROPS) {
                // Drops are counted from when they are asked for.
                port.drops_seen = port.socket.drops();
            }
            port.metadata = granted;
            Ok(granted)
        })
    }

    /// The bound of the send queue: datagrams and bytes.
    ///
    /// # Errors
    /// [`OptionError::Closed`].
    pub fn queue_limit(&self) -> Result<(usize, usize), OptionError> {
        self.setting(|port| Ok((port.queue_datagrams, port.queue_bytes)))
    }

    /// Sets the bound of the send queue; what waits already is kept.
    ///
    /// # Errors
    /// [`OptionError::OutOfRange`] for 0; `Closed`.
    pub fn set_queue_limit(&self, datagrams: usize, bytes: usize) -> Result<(), OptionError> {
        within("queue_limit (datagrams)", datagrams as u64, 1, 1 << 30)?;
        within("queue_limit (bytes)", bytes as u64, 1, 1 << 40)?;
        self.setting(|port| {
            (port.queue_datagrams, port.queue_bytes) = (datagrams, bytes);
            Ok(())
        })
    }

    /// What happens at that bound.
    ///
    /// # Errors
    /// [`OptionError::Closed`].
    pub fn queue_policy(&self) -> Result<QueuePolicy, OptionError> {
        self.setting(|port| Ok(port.queue_policy))
    }

    /// Sets what happens at the bound of the send queue.
    ///
    /// # Errors
    /// [`OptionError::Closed`].
    pub fn set_queue_policy(&self, policy: QueuePolicy) -> Result<(), OptionError> {
        self.setting(|port| {
            port.queue_policy = policy;
            Ok(())
        })
    }

    /// Longest payload delivered whole, in bytes.
    ///
    /// # Errors
    /// [`OptionError::Closed`].
    pub fn max_datagram_size(&self) -> Result<usize, OptionError> {
        self.setting(|port| Ok(port.max_datagram_size))
    }

    /// Sets the longest payload to deliver whole, 1 to 65,535 bytes.
    ///
    /// # Errors
    /// [`OptionError::OutOfRange`]; `Closed`.
    pub fn set_max_datagram_size(&self, bytes: usize) -> Result<(), OptionError> {
        within("max_datagram_size", bytes as u64, 1, 65_535)?;
        self.setting(|port| {
            port.max_datagram_size = bytes;
            Ok(())
        })
    }

    /// Most messages taken from the system by one call.
    ///
    /// # Errors
    /// [`OptionError::Closed`].
    pub fn batch_size(&self) -> Result<usize, OptionError> {
        self.setting(|port| Ok(port.batch_size))
    }
}
