//! The same seed and the same program are the same run.

use std::cell::RefCell;
use std::fmt::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::sim::World;

use crate::support::Recorder;

/// Hosts that pass numbers around; everything that they are told, with the time.
fn run(seed: u64) -> String {
    let world = World::new(seed);
    let log = Rc::new(RefCell::new(String::new()));
    for number in 0_u8..20 {
        let host = world.host(&format!("h{number}"), format!("10.0.0.{}", number + 1)).unwrap();
        let (log, start) = (Rc::clone(&log), host.now());
        let recorder = Recorder::quiet().on_datagram(move |transport, datagram| {
            let now = transport.reactor().now() - start;
            let (source, payload) = (datagram.source(), datagram.payload());
            writeln!(log.borrow_mut(), "{now:?} h{number} < {source} {payload:?}")?;
            let [count, step] = [payload[0], payload[1]];
            if count > 0 {
                let next = SocketAddr::from(([10, 0, 0, (number + step) % 20 + 1], 9));
                transport.write_to(&[count - 1, step], next)?;
            }
            Ok(())
        });
        let port = host.listen_udp(9, recorder).unwrap();
        for step in 1..4 {
            let port = port.clone();
            host.call_later(Duration::from_micros(number.into()), move |_| {
                port.write_to(&[10, step], SocketAddr::from(([10, 0, 0, 1], 9)))
            });
        }
    }
    world.run_for(Duration::from_secs(1)).unwrap();
    let dump = world.dump();
    format!("{}{dump}", log.borrow())
}

#[test]
fn a_run_repeats_to_the_byte() {
    let first = run(7);
    assert!(first.lines().count() > 600, "{first}");
    assert_eq!(first, run(7));
}
