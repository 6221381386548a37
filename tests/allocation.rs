//! The steady state allocates nothing: not for a datagram in either direction, nor for a timer
//! that is pushed back.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use strand_reactor::{Datagram, DatagramProtocol, DatagramTransport, DelayedCall, Reactor};

/// Answers with what it got, and once more with a copy of its own making; pushes its idle timeout
/// back each time.
struct Echo {
    copy: [u8; 16],
    idle: Option<DelayedCall>,
}

impl DatagramProtocol for Echo {
    fn start_protocol(&mut self, transport: &DatagramTransport) -> anyhow::Result<()> {
        self.idle = Some(transport.reactor().call_later(Duration::from_secs(60), |_| {}));
        Ok(())
    }

    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        transport.write_to(datagram.payload(), datagram.source())?;
        self.copy.copy_from_slice(datagram.payload());
        transport.write_to(&self.copy, datagram.source())?;
        if let Some(idle) = &self.idle {
            idle.reset(Duration::from_secs(60))?;
        }
        Ok(())
    }
}

/// Thirty rounds of twenty datagrams: more than one batch each.
fn exchange(reactor: &Reactor, client: &UdpSocket, server: SocketAddr) {
    let mut buffer = [0; 64];
    for round in 0..30_u8 {
        for number in 0..20_u8 {
            client.send_to(&[round ^ number; 16], server).unwrap();
        }
        let mut answers = 0;
        while answers < 40 {
            reactor.iterate(Some(Duration::from_secs(10))).unwrap();
            while let Ok(len) = client.recv(&mut buffer) {
                assert_eq!(len, 16);
                answers += 1;
            }
        }
    }
}

#[test]
fn neither_datagrams_nor_a_timer_pushed_back_allocate_in_the_steady_state() {
    let counts = allocation_counter::measure(|| drop(std::hint::black_box(Box::new([0; 64]))));
    assert_eq!(counts.count_total, 1, "the counter counts");
    for portable in [false, true] {
        let reactor = Reactor::builder().portable_sockets(portable).build().unwrap();
        let port = reactor.listen_udp("127.0.0.1:0", Echo { copy: [0; 16], idle: None }).unwrap();
        let server = port.local_addr().unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_nonblocking(true).unwrap();
        exchange(&reactor, &client, server);
        let before = port.stats().unwrap().datagrams_in;
        let measured = allocation_counter::measure(|| exchange(&reactor, &client, server));
        assert_eq!(port.stats().unwrap().datagrams_in - before, 600);
        assert_eq!(measured.count_total, 0, "portable: {portable}, {measured:?}");
    }
}
