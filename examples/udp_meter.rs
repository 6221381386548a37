//! Measures what arrives on a port: each second the rate, the sizes, what the kernel dropped for
//! lack of room, and how many sources there were.

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use strand_reactor::{
    Datagram, DatagramProtocol, DatagramTransport, Metadata, Reactor, StopReason, UdpOptions,
    parse_address,
};

/// Prints, each second, what arrived on a UDP port.
#[derive(Parser)]
struct Arguments {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9999", value_parser = parse_address)]
    listen: SocketAddr,
    /// End after this many seconds instead of running for ever
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    seconds: Option<u64>,
    /// Count at most this many different sources each second
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 10_000)]
    max_sources: usize,
}

#[derive(Default)]
struct Meter {
    datagrams: u64,
    bytes: u64,
    min: Option<usize>,
    max: usize,
    drops: Option<u64>,
    /// Bounded: sources can be forged.
    sources: HashSet<SocketAddr>,
    max_sources: usize,
    more_sources: bool,
}

impl DatagramProtocol for Meter {
    fn datagram_received(
        &mut self,
        _: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        let len = datagram.payload().len();
        self.datagrams += 1;
        self.bytes += len as u64;
        self.min = Some(self.min.map_or(len, |min| min.min(len)));
        self.max = self.max.max(len);
        if let Some(drops) = datagram.kernel_drops() {
            *self.drops.get_or_insert(0) += u64::from(drops);
        }
        if self.sources.len() < self.max_sources {
            self.sources.insert(datagram.source());
        } else if !self.sources.contains(&datagram.source()) {
            self.more_sources = true;
        }
        Ok(())
    }

    fn stop_protocol(&mut self, transport: &DatagramTransport, _: StopReason) {
        if let Ok(stats) = transport.stats() {
            println!("{} datagrams in all, {} bytes", stats.datagrams_in, stats.bytes_in);
        }
    }
}

impl Meter {
    /// Prints the figures of a span of time and begins anew.
    fn report(&mut self, span: Duration) {
        let rate = self.datagrams as f64 / span.as_secs_f64();
        let bits = self.bytes as f64 * 8e-6 / span.as_secs_f64();
        print!("{rate:.0} datagrams/s, {bits:.3} Mbit/s of payload");
        if let Some(min) = self.min {
            let mean = self.bytes as f64 / self.datagrams as f64;
            print!(", sizes {min}/{mean:.1}/{} min/mean/max", self.max);
        }
        match self.drops {
            Some(drops) => print!(", {drops} dropped by the kernel"),
            None if self.datagrams > 0 => print!(", drops unknown"),
            None => {}
        }
        let more = if self.more_sources { "+" } else { "" };
        println!(", {}{more} sources", self.sources.len());
        *self = Self { max_sources: self.max_sources, ..Self::default() };
    }
}

fn main() -> anyhow::Result<()> {
    let Arguments { listen, seconds, max_sources } = Arguments::parse();
    let reactor = Reactor::new()?;
    let meter = Rc::new(RefCell::new(Meter { max_sources, ..Meter::default() }));
    let options = UdpOptions::new(listen).metadata(Metadata::DROPS);
    let port = reactor.listen_udp(options, Rc::clone(&meter))?;
    println!("metering {}", port.local_addr()?);

    let (mut last, mut left) = (reactor.now(), seconds);
    reactor.looping_call(Duration::from_secs(1), move |handle, _| {
        // By the clock, not by the tick: a late one covers more than a second.
        let now = handle.now();
        meter.borrow_mut().report(now - last);
        last = now;
        left = left.map(|left| left.saturating_sub(1));
        if left == Some(0) {
            handle.stop();
        }
    });
    reactor.run()?;
    Ok(())
}
