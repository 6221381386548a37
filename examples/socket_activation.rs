//! Serves on sockets that the service manager opened, as sd_listen_fds(3) describes: the program
//! needs no privilege for low ports, and no datagram is lost while it restarts.
//!
//! A unit for systemd:
//!
//! ```text
//! # echo.socket                        # echo.service
//! [Socket]                             [Service]
//! ListenDatagram=7                     ExecStart=/usr/local/bin/socket_activation
//! FileDescriptorName=echo              DynamicUser=yes
//! ```

use anyhow::Context;
use clap::Parser;
use strand_protocols::{Discard, Echo};
use strand_reactor::{DatagramProtocol, Reactor, os::take_listen_fds};

/// Serves on sockets handed over by the service manager: Discard on those named `discard`, Echo
/// on all others.
#[derive(Parser)]
struct Arguments {}

fn main() -> anyhow::Result<()> {
    // First of all, while the descriptors are what the manager left.
    let sockets = take_listen_fds()?;
    Arguments::parse();
    anyhow::ensure!(
        !sockets.is_empty(),
        "no sockets were handed over (LISTEN_FDS): start this from a socket unit, or by \
         `systemd-socket-activate --datagram --listen 9999 PROGRAM`"
    );
    let reactor = Reactor::new()?;
    for (index, socket) in sockets.into_iter().enumerate() {
        let name = socket.name.unwrap_or_else(|| format!("number {}", index + 1));
        let (service, protocol): (_, Box<dyn DatagramProtocol>) = match name.as_str() {
            "discard" => ("discard", Box::new(Discard)),
            _ => ("echo", Box::new(Echo::new())),
        };
        let port = reactor
            .adopt_datagram_port(socket.fd, protocol)
            .with_context(|| format!("socket {name}"))?;
        port.set_label(&name)?;
        println!("{service} on {} (socket {name})", port.local_addr()?);
    }
    reactor.run()?;
    Ok(())
}
