//! An echo server on a UNIX socket: what a client sends comes back, and who it is, as the system
//! vouches for it, is printed. The path is removed when the server ends (ctrl-c).
//!
//! ```text
//! cargo run --release --example unix_echo -- --listen echo.sock --mode 600
//! socat - UNIX-CONNECT:echo.sock
//! cargo run --release --example unix_echo -- --listen @echo
//! socat - ABSTRACT-CONNECT:echo
//! cargo run --release --example unix_echo -- --listen echo.sock --datagrams
//! socat - UNIX-SENDTO:echo.sock,bind=client.sock
//! ```

use clap::Parser;
use strand_reactor::{
    PeerAddr, Protocol, Reactor, Transport, UnixAddr, UnixDatagram, UnixDatagramOptions,
    UnixDatagramProtocol, UnixDatagramTransport, UnixOptions,
};

/// Sends everything back to the client that sent it.
#[derive(Parser)]
struct Arguments {
    /// Path to listen on; @NAME is a name in Linux's abstract namespace
    #[arg(long, value_name = "PATH", default_value = "unix_echo.sock", value_parser = address)]
    listen: UnixAddr,
    /// Mode bits of the path, octal: who may write may connect
    #[arg(long, value_name = "BITS", value_parser = mode)]
    mode: Option<u32>,
    /// Echo datagrams to their senders instead
    #[arg(long)]
    datagrams: bool,
}

fn address(text: &str) -> Result<UnixAddr, String> {
    match text.strip_prefix('@') {
        Some(name) => Ok(UnixAddr::abstract_name(name)),
        None => Ok(UnixAddr::from(text)),
    }
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(bits) if bits <= 0o777 => Ok(bits),
        _ => Err("mode bits are an octal number from 0 to 777".to_owned()),
    }
}

struct Echo;

impl Protocol for Echo {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        let peer = transport.peer_credentials()?;
        println!("a client of user {}, process {:?}", peer.uid, peer.pid);
        Ok(())
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) -> anyhow::Result<()> {
        transport.write(data)?;
        Ok(())
    }

    fn pause_writing(&mut self, transport: &Transport) -> anyhow::Result<()> {
        transport.pause_reading()?;
        Ok(())
    }

    fn resume_writing(&mut self, transport: &Transport) -> anyhow::Result<()> {
        transport.resume_reading()?;
        Ok(())
    }
}

impl UnixDatagramProtocol for Echo {
    fn datagram_received(
        &mut self,
        transport: &UnixDatagramTransport,
        datagram: UnixDatagram<'_>,
    ) -> anyhow::Result<()> {
        if !datagram.source().is_unnamed() {
            transport.write_to(datagram.payload(), datagram.source())?;
        }
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let Arguments { listen, mode, datagrams } = Arguments::parse();
    let reactor = Reactor::builder().stop_on_signals().build()?;
    if datagrams {
        let mut options = UnixDatagramOptions::new(&listen);
        if let Some(bits) = mode {
            options = options.mode(bits);
        }
        reactor.listen_unix_datagram(options, Echo)?;
    } else {
        let mut options = UnixOptions::new(&listen);
        if let Some(bits) = mode {
            options = options.mode(bits);
        }
        reactor.listen_unix(options, |_: PeerAddr| Some(Echo))?;
    }
    println!("echoing on {listen}");
    reactor.run()?;
    Ok(())
}
