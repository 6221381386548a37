//! A UDP echo server.
use strand_reactor::{Datagram, DatagramProtocol, DatagramTransport, Reactor};

struct Echo;

impl DatagramProtocol for Echo {
    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        transport.write_to(datagram.payload(), datagram.source())?;
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let reactor = Reactor::new()?;
    let port = reactor.listen_udp("127.0.0.1:9999", Echo)?;
    println!("echoing on {}", port.local_addr()?);
    reactor.run()?;
    Ok(())
}
