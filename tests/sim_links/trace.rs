//! The record of a world.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use strand_reactor::sim::{Latency, Link, Rule};

use super::streams;
use super::support::{MS, Pair};

/// A world with a bit of everything; its record.
fn record(seed: u64) -> anyhow::Result<Vec<u8>> {
    let pair = Pair::new(seed)?;
    pair.world.trace_in_memory();
    let latency = Latency::log_normal(5 * MS, 0.5);
    pair.world.default_link(Link::new().latency(latency).loss(0.2).duplication(0.2));
    let _rule = pair.world.rule(Rule::drop().from("b").probability(0.1))?;
    for n in 0..100 {
        pair.a_writes(&[n])?;
        pair.b_writes(&[n])?;
        pair.world.run_for(MS)?;
    }
    pair.world.run_for(Duration::from_secs(1))?;
    Ok(pair.world.end_trace()?)
}

#[test]
fn the_same_seed_makes_the_same_record_byte_for_byte() -> anyhow::Result<()> {
    let first = record(8)?;
    assert!(first.len() > 10_000);
    assert_eq!(first, record(8)?);
    assert_ne!(first, record(9)?);
    Ok(())
}

#[test]
fn a_packet_is_recorded_where_it_was_sent_and_where_it_arrived_or_why_not() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    let path = file("datagrams");
    pair.world.trace_to(&path)?;
    pair.a_writes(b"1")?;
    pair.world.run_for(5 * MS)?;
    let split = pair.world.partition("a", "b")?;
    pair.b_writes(b"2")?;
    pair.world.run_for(5 * MS)?;
    drop(split);
    pair.a_writes(b"3")?;
    pair.world.crash("b")?;
    pair.world.run_for(5 * MS)?;
    pair.world.end_trace()?;
    let fields = ["frame.interface_name", "frame.time_epoch", "udp.srcport", "frame.comment"];
    let Some(lines) = tshark(&path, "udp", &fields)? else { return Ok(()) };
    assert_eq!(
        lines,
        [
            "a 946684800.000000000 1000",
            "b 946684800.001000000 1000",
            "b 946684800.005000000 2000 dropped: a partition",
            "a 946684800.010000000 1000",
            "b 946684800.011000000 1000 dropped: the host is down",
        ]
    );
    Ok(())
}

/// A place for a record; [`tshark`] removes it.
fn file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("strand-{name}-{}.pcapng", std::process::id()))
}

/// What tshark says of those packets of a file that it shows by `filter`, a line for each. `None`
/// where there is no tshark.
fn tshark(path: &Path, filter: &str, fields: &[&str]) -> anyhow::Result<Option<Vec<String>>> {
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(path).args(["-Y", filter, "-T", "fields", "-E", "separator=/s"]);
    for check in ["ip.check_checksum:TRUE", "tcp.check_checksum:TRUE"] {
        tshark.args(["-o", check]);
    }
    for field in fields {
        tshark.args(["-e", field]);
    }
    let output = match tshark.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: there is no tshark here");
            std::fs::remove_file(path)?;
            return Ok(None);
        }
        output => output?,
    };
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::remove_file(path)?;
    let lines = std::str::from_utf8(&output.stdout)?.lines();
    Ok(Some(lines.map(|line| line.trim_end().to_owned()).collect()))
}

#[test]
fn tshark_finds_every_byte_of_a_stream_and_every_checksum_right() -> anyhow::Result<()> {
    let pair = streams::Pair::new(1)?;
    let path = file("streams");
    pair.world.trace_to(&path)?;
    pair.connect()?;
    pair.world.run_for(Duration::from_secs(1))?;
    pair.client.write(&streams::data(100_000))?;
    pair.world.run_for(Duration::from_secs(1))?;
    let transport = pair.client.end.borrow().transport.clone();
    transport.expect("a connection").lose_connection();
    pair.world.run_for(Duration::from_secs(10))?;
    pair.world.end_trace()?;
    let fields = ["frame.interface_name", "tcp.checksum.status", "ip.checksum.status", "tcp.len"];
    let more = ["tcp.options.wscale.shift", "_ws.malformed"];
    let Some(lines) = tshark(&path, "tcp", &[&fields[..], &more].concat())? else { return Ok(()) };
    assert_eq!(lines[..4], ["a 1 1 0 7", "b 1 1 0 7", "b 1 1 0 7", "a 1 1 0 7"], "both SYNs");
    // Good checksums, a length, and nothing else.
    let bytes = |line: &str, end| line.strip_prefix(end)?.strip_prefix(" 1 1 ")?.parse().ok();
    let of = |end| lines[4..].iter().filter_map(|line| bytes(line, end)).collect::<Vec<usize>>();
    let (at_a, at_b) = (of("a"), of("b"));
    assert_eq!(at_a.len() + at_b.len(), lines.len() - 4, "{lines:?}");
    assert_eq!((at_a.iter().sum(), at_b.iter().sum()), (100_000, 100_000));
    Ok(())
}

/// Panics at the third block.
struct Broken(u32);

impl std::io::Write for Broken {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += 1;
        assert!(self.0 != 3, "no more room");
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_writer_that_panics_ends_the_record_and_nothing_else() -> anyhow::Result<()> {
    let pair = Pair::new(1)?;
    pair.world.trace_to_writer(Broken(0));
    assert_eq!(pair.exchange()?, [true, true]);
    assert_eq!(pair.exchange()?, [true, true]);
    let error = pair.world.end_trace().unwrap_err();
    assert_eq!(error.to_string(), "the writer of the record panicked");
    Ok(())
}
