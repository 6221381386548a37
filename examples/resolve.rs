//! The addresses of hosts: `resolve NAME...`.
use std::cell::Cell;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use strand_reactor::{AddressFamily, Reactor, ResolveOptions, SystemResolver};

/// Prints the addresses of hosts, the one to try first in front.
#[derive(Parser)]
struct Arguments {
    /// Names or addresses.
    #[arg(required = true)]
    names: Vec<String>,
    /// Addresses of this family alone.
    #[arg(long, value_enum)]
    family: Option<Family>,
    /// Seconds to wait for the answers.
    #[arg(long, default_value_t = 10)]
    timeout: u64,
    /// Ask the system's resolver instead of DNS.
    #[arg(long)]
    system: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Family {
    V4,
    V6,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let reactor = Reactor::new()?;
    if arguments.system {
        reactor.set_resolver(SystemResolver::new());
    }
    let family = match arguments.family {
        None => AddressFamily::Any,
        Some(Family::V4) => AddressFamily::V4,
        Some(Family::V6) => AddressFamily::V6,
    };
    let timeout = Duration::from_secs(arguments.timeout);
    let options = ResolveOptions::new().family(family).timeout(Some(timeout));
    let failed = Rc::new(Cell::new(false));
    for name in arguments.names {
        let (shown, failed) = (name.clone(), Rc::clone(&failed));
        reactor.resolve_with(&name, options, move |result| match result {
            Ok(addresses) => {
                for address in addresses {
                    println!("{shown} {address}");
                }
            }
            Err(error) => {
                eprintln!("{error}");
                failed.set(true);
            }
        });
    }
    reactor.run()?;
    Ok(if failed.get() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
