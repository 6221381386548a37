//! What connections have to send is sent before the loop ends.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use strand_reactor::{ConnectionLost, PeerAddr, Protocol, Reactor, Transport};

use crate::Log;
use crate::watchdog::watchdog;

/// Says much at once, and then stops the reactor.
struct Speech {
    log: Log,
    len: usize,
}

impl Protocol for Speech {
    fn connection_made(&mut self, transport: &Transport) -> anyhow::Result<()> {
        transport.write_bytes(vec![b'x'; self.len])?;
        transport.reactor().stop();
        Ok(())
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }

    fn connection_lost(&mut self, reason: ConnectionLost) {
        self.log.note(format!("lost: {reason}"));
    }
}

/// More than the buffers of both ends take.
const MUCH: usize = 32 << 20;

#[test]
fn connections_flush_before_the_loop_ends() {
    let _watchdog = watchdog();
    let (reactor, log) = (Reactor::new().unwrap(), Log::default());
    let inner = log.clone();
    let factory = move |_: PeerAddr| Some(Speech { log: inner.clone(), len: MUCH });
    let port = reactor.listen_tcp("127.0.0.1:0", factory).unwrap();
    let address = port.local_addr().unwrap();
    let reader = std::thread::spawn(move || {
        let mut heard = Vec::new();
        TcpStream::connect(address).unwrap().read_to_end(&mut heard).unwrap();
        heard.len()
    });
    reactor.run().unwrap();
    assert_eq!(reader.join().unwrap(), MUCH);
    assert_eq!(log.take(), ["lost: closed in order"]);
    assert!(reactor.streams().is_empty() && reactor.listening_ports().is_empty());
}

#[test]
fn a_connection_that_nobody_reads_is_waited_for_within_the_limit() {
    let _watchdog = watchdog();
    let limit = Duration::from_millis(50);
    let reactor = Reactor::builder().shutdown_limit(limit).build().unwrap();
    let log = Log::default();
    let inner = log.clone();
    let factory = move |_: PeerAddr| Some(Speech { log: inner.clone(), len: MUCH });
    let port = reactor.listen_tcp("127.0.0.1:0", factory).unwrap();
    let silent = TcpStream::connect(port.local_addr().unwrap()).unwrap();
    reactor.run().unwrap();
    assert_eq!(log.take(), ["lost: aborted"]);
    drop(silent);
}
