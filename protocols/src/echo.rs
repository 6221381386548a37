//! RFC 862.

use strand_reactor::{Datagram, DatagramProtocol, DatagramTransport};

use crate::Guard;

/// Echo, RFC 862: every datagram goes back to its sender as it came, empty ones included.
///
/// The standard port is 7. On a port whose `max_datagram_size` is less than what arrives, the
/// part that was delivered goes back.
///
/// ```
/// # use std::net::UdpSocket;
/// # use strand_protocols::Echo;
/// # let reactor = strand_reactor::Reactor::new()?;
/// let port = reactor.listen_udp("127.0.0.1:0", Echo::new())?;
/// # let client = UdpSocket::bind("127.0.0.1:0")?;
/// client.send_to(b"as it came", port.local_addr()?)?;
/// # while port.stats()?.datagrams_out == 0 {
/// #     reactor.iterate(None)?;
/// # }
/// let mut answer = [0; 64];
/// let len = client.recv(&mut answer)?;
/// assert_eq!(&answer[..len], b"as it came");
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Echo {
    guard: Guard,
}

impl Echo {
    /// A service that answers no port under 1024.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether ports under 1024 are answered, too; see [`Guard`].
    pub fn allow_privileged_ports(mut self, on: bool) -> Self {
        self.guard = self.guard.allow_privileged_ports(on);
        self
    }
}

impl DatagramProtocol for Echo {
    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        if self.guard.admits(datagram.source()) {
            transport.write_with(datagram.payload(), &datagram.reply())?;
        }
        Ok(())
    }
}
