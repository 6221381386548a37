//! RFC 863.

use strand_reactor::{Datagram, DatagramProtocol, DatagramTransport};

/// Discard, RFC 863: every datagram is thrown away, and nothing is answered.
///
/// The standard port is 9. What arrived is counted in the port's
/// [`PortStats`](strand_reactor::PortStats).
///
/// ```
/// # use std::net::UdpSocket;
/// # use strand_protocols::Discard;
/// # let reactor = strand_reactor::Reactor::new()?;
/// let port = reactor.listen_udp("127.0.0.1:0", Discard)?;
/// # let client = UdpSocket::bind("127.0.0.1:0")?;
/// client.send_to(b"into the void", port.local_addr()?)?;
/// while port.stats()?.datagrams_in == 0 {
///     reactor.iterate(None)?;
/// }
/// assert_eq!(port.stats()?.bytes_in, 13);
/// assert_eq!(port.stats()?.datagrams_out, 0);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Discard;

impl DatagramProtocol for Discard {
    fn datagram_received(&mut self, _: &DatagramTransport, _: Datagram<'_>) -> anyhow::Result<()> {
        Ok(())
    }
}
