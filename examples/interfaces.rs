//! Lists the network interfaces of this host, as multicast calls name them.

use clap::Parser;
use strand_reactor::{NetworkInterface, Reactor};

/// Lists the network interfaces of this host.
#[derive(Parser)]
struct Arguments {
    /// Only those that are up and carry multicast: what `--interface all` means elsewhere
    #[arg(long)]
    multicast: bool,
}

fn flags(interface: &NetworkInterface) -> String {
    let flags = [
        (interface.is_up(), "up"),
        (interface.is_loopback(), "loopback"),
        (interface.is_multicast(), "multicast"),
        (interface.is_broadcast(), "broadcast"),
    ];
    let set: Vec<_> = flags.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect();
    set.join(", ")
}

fn main() -> anyhow::Result<()> {
    let Arguments { multicast } = Arguments::parse();
    let reactor = Reactor::new()?;
    for interface in reactor.interfaces()? {
        if multicast && !(interface.is_up() && interface.is_multicast()) {
            continue;
        }
        println!("{}: {} ({})", interface.index(), interface.name(), flags(&interface));
        for address in interface.addresses() {
            print!("    {}/{}", address.ip(), address.prefix_len());
            if let Some(broadcast) = address.broadcast() {
                print!(", broadcast {broadcast}");
            }
            println!();
        }
    }
    Ok(())
}
