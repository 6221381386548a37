//! Forwards connections to another address: what comes in on one side goes out on the other.
//!
//! The two connections are coupled by back-pressure: while one cannot write, the other is not
//! read, so that a slow receiver slows its sender down and memory does not grow. Ends of a
//! direction and resets are passed on as well.
//!
//! ```text
//! cargo run --release --example port_forward -- --to 127.0.0.1:9999
//! ```

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::rc::Rc;

use clap::Parser;
use strand_reactor::{
    ClientFactory, ConnectError, ConnectionLost, Connector, PeerAddr, Protocol, Reactor, Transport,
    parse_address,
};

/// Forwards every connection to another address.
#[derive(Parser)]
struct Arguments {
    /// Address and port to listen on; [::]:PORT takes both families
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9998", value_parser = parse_address)]
    listen: SocketAddr,
    /// Address and port to forward to
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    to: SocketAddr,
}

/// Where a connection will be, once it is made.
type Slot = Rc<OnceCell<Transport>>;

/// One of the two connections.
struct Side {
    own: Slot,
    other: Slot,
    /// On the side that was accepted: where to connect the other one to.
    to: Option<SocketAddr>,
    connector: Option<Connector>,
}

impl Side {
    fn with_other(&self, work: impl FnOnce(&Transport)) {
        if let Some(other) = self.other.get() {
            work(other);
        }
    }
}

impl Protocol for Side {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        // Never set before: a connection is made once.
        let _ = self.own.set(transport.clone());
        match self.to {
            Some(to) => {
                transport.pause_reading()?;
                let (near, far) = (Rc::clone(&self.own), Rc::clone(&self.other));
                let connector = transport.reactor().connect_tcp(to, Far { near, far })?;
                self.connector = Some(connector);
            }
            // The accepted side may be gone by now.
            None => match self.other.get().map(Transport::resume_reading) {
                Some(Ok(())) => {}
                _ => transport.abort_connection(),
            },
        }
        Ok(())
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
        match self.other.get().map(|other| other.write(data)) {
            Some(Ok(())) => {}
            _ => transport.abort_connection(),
        }
        Ok(())
    }

    fn pause_writing(&mut self, _: &Transport) -> anyhow::Result<()> {
        self.with_other(|other| {
            let _ = other.pause_reading();
        });
        Ok(())
    }

    fn resume_writing(&mut self, _: &Transport) -> anyhow::Result<()> {
        self.with_other(|other| {
            let _ = other.resume_reading();
        });
        Ok(())
    }

    fn read_connection_lost(&mut self, _: &Transport) -> anyhow::Result<()> {
        self.with_other(Transport::lose_write);
        Ok(())
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        self.with_other(|other| {
            if reason.is_clean() {
                other.lose_connection();
            } else {
                other.abort_connection();
            }
        });
        if let Some(connector) = self.connector.take() {
            // An error if it is connected, or has failed: then there is nothing to stop.
            let _ = connector.stop_connecting();
        }
    }
}

/// Builds the connection to the other address.
struct Far {
    near: Slot,
    far: Slot,
}

impl ClientFactory for Far {
    fn build_protocol(&mut self, _: PeerAddr) -> Option<Box<dyn Protocol>> {
        let (own, other) = (Rc::clone(&self.far), Rc::clone(&self.near));
        Some(Box::new(Side { own, other, to: None, connector: None }))
    }

    fn client_connection_failed(
        &mut self,
        connector: &Connector,
        error: &ConnectError,
    ) -> anyhow::Result<()> {
        eprintln!("{}: {error}", connector.label());
        if let Some(near) = self.near.get() {
            near.abort_connection();
        }
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let Arguments { listen, to } = Arguments::parse();
    let reactor = Reactor::new()?;
    let port = reactor.listen_tcp(listen, move |_: PeerAddr| {
        let (own, other) = (Slot::default(), Slot::default());
        Some(Side { own, other, to: Some(to), connector: None })
    })?;
    println!("forwarding from {} to {to}", port.local_addr()?);
    reactor.run()?;
    Ok(())
}
