//! Protocols of these tests.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use strand_reactor::{Datagram, DatagramProtocol, DatagramTransport};

/// Sends back what comes.
pub struct Echo;

impl DatagramProtocol for Echo {
    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        Ok(transport.write_to(datagram.payload(), datagram.source())?)
    }
}

/// What a [`Listener`] heard.
pub type Heard = Rc<RefCell<Vec<(String, SocketAddr)>>>;

/// Keeps what comes.
#[derive(Default)]
pub struct Listener {
    pub heard: Heard,
}

impl DatagramProtocol for Listener {
    fn datagram_received(
        &mut self,
        _: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        let text = String::from_utf8_lossy(datagram.payload()).into_owned();
        self.heard.borrow_mut().push((text, datagram.source()));
        Ok(())
    }
}
