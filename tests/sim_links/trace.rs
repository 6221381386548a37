//! The record of a world.

use std::process::Command;
use std::time::Duration;

use strand_reactor::sim::{Latency, Link, Rule};

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
    let path = std::env::temp_dir().join(format!("strand-sim-{}.pcapng", std::process::id()));
    pair.world.trace_to(&path)?;
    pair.a_writes(b"1")?;
    pair.world.run_for(5 * MS)?;
    let split = pair.world.partition("a", "b")?;
    pair.b_writes(b"2")?;
    pair.world.run_for(5 * MS)?;
    drop(split);
    pair.world.end_trace()?;
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(&path).args(["-T", "fields", "-E", "separator=/s"]);
    for field in ["frame.interface_name", "frame.time_epoch", "udp.srcport", "frame.comment"] {
        tshark.args(["-e", field]);
    }
    let output = tshark.output();
    std::fs::remove_file(&path)?;
    let output = match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: there is no tshark here");
            return Ok(());
        }
        output => output?,
    };
    let lines: Vec<_> = std::str::from_utf8(&output.stdout)?.lines().map(str::trim_end).collect();
    assert_eq!(
        lines,
        [
            "a 946684800.000000000 1000",
            "b 946684800.001000000 1000",
            "b 946684800.005000000 2000 dropped: a partition",
        ]
    );
    Ok(())
}
