//! The protocols of strand-protocols, over real ports and over scripts.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, SystemTime};

use strand_protocols::{Chargen, Daytime, Discard, Echo, Time};
use strand_reactor::testing::Script;
use strand_reactor::{DatagramProtocol, DatagramTransport, Metadata, Reactor, UdpOptions};

const PATIENCE: Duration = Duration::from_secs(10);

/// Turns the loop until `done`, for a bounded time.
#[track_caller]
fn turn_until(reactor: &Reactor, mut done: impl FnMut() -> bool) {
    let deadline = reactor.now() + PATIENCE;
    while !done() {
        assert!(reactor.now() < deadline, "nothing came of it within {PATIENCE:?}");
        reactor.iterate(Some(Duration::from_millis(100))).unwrap();
    }
}

fn client(near: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind((near.ip(), 0)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect(near).unwrap();
    client
}

/// Asks a service and returns what it answers.
#[track_caller]
fn ask(
    reactor: &Reactor,
    port: &DatagramTransport,
    client: &UdpSocket,
    question: &[u8],
) -> Vec<u8> {
    let answered = port.stats().unwrap().datagrams_out;
    client.send(question).unwrap();
    turn_until(reactor, || port.stats().unwrap().datagrams_out > answered);
    let mut answer = vec![0; 65_536];
    let len = client.recv(&mut answer).unwrap();
    answer.truncate(len);
    answer
}

/// Both families, where the system has them.
fn loopbacks() -> Vec<&'static str> {
    let mut addresses = vec!["127.0.0.1:0"];
    if UdpSocket::bind("[::1]:0").is_ok() {
        addresses.push("[::1]:0");
    } else {
        println!("skipped over IPv6: [::1] cannot be bound");
    }
    addresses
}

#[test]
fn echo_returns_every_payload_as_it_came() {
    for (address, portable) in loopbacks().into_iter().flat_map(|a| [(a, false), (a, true)]) {
        let reactor = Reactor::builder().portable_sockets(portable).build().unwrap();
        let port = reactor.listen_udp(address, Echo::new()).unwrap();
        let client = client(port.local_addr().unwrap());
        let long: Vec<u8> = (0..65_507_u32).map(|n| (n % 251) as u8).collect();
        for payload in [&b"hello"[..], b"", b"\0", &long[..1472], &long] {
            assert_eq!(ask(&reactor, &port, &client, payload), payload);
        }
    }
}

#[test]
fn echo_returns_the_part_of_a_long_datagram_that_was_delivered() {
    let reactor = Reactor::new().unwrap();
    let options = UdpOptions::parse("127.0.0.1:0").unwrap().max_datagram_size(4);
    let port = reactor.listen_udp(options, Echo::new()).unwrap();
    let client = client(port.local_addr().unwrap());
    assert_eq!(ask(&reactor, &port, &client, b"shortened"), b"shor");
}

#[test]
fn echo_answers_on_a_connected_port() {
    let reactor = Reactor::new().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = reactor.connect_udp(socket.local_addr().unwrap(), Echo::new()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(("127.0.0.1", port.local_addr().unwrap().port())).unwrap();
    assert_eq!(ask(&reactor, &port, &socket, b"from the peer"), b"from the peer");
}

#[test]
fn echo_answers_from_the_address_that_was_asked() {
    let reactor = Reactor::new().unwrap();
    let options = UdpOptions::parse("0.0.0.0:0").unwrap().metadata(Metadata::DESTINATION);
    let port = reactor.listen_udp(options, Echo::new()).unwrap();
    if !port.capabilities().unwrap().metadata.contains(Metadata::DESTINATION) {
        println!("skipped: the system does not tell the destination of a datagram");
        return;
    }
    // Left to its routes the system would answer from 127.0.0.1, and a connected client of
    // 127.0.0.2 would not hear it.
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect(("127.0.0.2", port.local_addr().unwrap().port())).unwrap();
    assert_eq!(ask(&reactor, &port, &client, b"who is there"), b"who is there");
}

#[test]
fn discard_takes_everything_and_answers_nothing() {
    for address in loopbacks() {
        let reactor = Reactor::new().unwrap();
        let port = reactor.listen_udp(address, Discard).unwrap();
        let client = client(port.local_addr().unwrap());
        for payload in [&b"one"[..], b"", b"three"] {
            client.send(payload).unwrap();
        }
        turn_until(&reactor, || port.stats().unwrap().datagrams_in == 3);
        let stats = port.stats().unwrap();
        assert_eq!((stats.bytes_in, stats.datagrams_out, stats.callback_errors), (8, 0, 0));
    }
}

#[test]
fn chargen_ignores_the_question_and_answers_with_up_to_512_characters() {
    for address in loopbacks() {
        let reactor = Reactor::new().unwrap();
        let port = reactor.listen_udp(address, Chargen::new()).unwrap();
        let client = client(port.local_addr().unwrap());
        let long = [b'x'; 1000];
        let mut lengths = Vec::new();
        for line in 0..6 {
            let answer = ask(&reactor, &port, &client, &long[..line * 200]);
            assert!(answer.len() <= 512);
            assert_eq!(answer.first().copied(), Some(b' ' + line as u8), "each starts a line on");
            lengths.push(answer.len());
        }
        lengths.dedup();
        assert_eq!(lengths.len(), 6, "no two answers in a row are of one length");
    }
}

#[test]
fn daytime_and_time_tell_what_the_clock_says() {
    let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_262_400);
    for address in loopbacks() {
        let reactor = Reactor::new().unwrap();
        let port = reactor.listen_udp(address, Daytime::new().clock(move || noon)).unwrap();
        let socket = client(port.local_addr().unwrap());
        let answer = ask(&reactor, &port, &socket, b"");
        assert_eq!(answer, b"Saturday, November 21, 2026 12:00:00-UTC\r\n");

        let port = reactor.listen_udp(address, Time::new().clock(move || noon)).unwrap();
        let socket = client(port.local_addr().unwrap());
        let answer = ask(&reactor, &port, &socket, b"whatever");
        assert_eq!(answer, (1_795_262_400_u32 + 2_208_988_800).to_be_bytes());
    }
}

#[test]
fn time_follows_the_clock_of_the_system() {
    let reactor = Reactor::new().unwrap();
    let port = reactor.listen_udp("127.0.0.1:0", Time::new()).unwrap();
    let socket = client(port.local_addr().unwrap());
    let now = || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        (now.as_secs() + 2_208_988_800) as u32
    };
    let before = now();
    let answer = u32::from_be_bytes(ask(&reactor, &port, &socket, b"").try_into().unwrap());
    assert!(answer.wrapping_sub(before) <= now().wrapping_sub(before), "{before} {answer}");
}

/// Sends a service datagrams from ports on both sides of the border and returns the ports that
/// were answered.
fn answered(protocol: impl DatagramProtocol + 'static) -> Vec<u16> {
    let reactor = Reactor::new().unwrap();
    let script = Script::new();
    let port = script.listen(&reactor, "192.0.2.7:7", protocol).unwrap();
    for source in [0, 1, 7, 13, 19, 37, 1023, 1024, 65_535] {
        script.receive(SocketAddr::from(([192, 0, 2, 1], source)), b"x");
    }
    turn_until(&reactor, || port.stats().unwrap().datagrams_in == 9);
    assert_eq!(port.stats().unwrap().callback_errors, 0);
    script.sent().iter().map(|sent| sent.to.unwrap().port()).collect()
}

#[test]
fn source_ports_under_1024_get_no_answer_unless_allowed() {
    let unprivileged = [1024, 65_535];
    assert_eq!(answered(Echo::new()), unprivileged);
    assert_eq!(answered(Chargen::new()), unprivileged);
    assert_eq!(answered(Daytime::new()), unprivileged);
    assert_eq!(answered(Time::new()), unprivileged);

    let all = [1, 7, 13, 19, 37, 1023, 1024, 65_535];
    assert_eq!(answered(Echo::new().allow_privileged_ports(true)), all);
    assert_eq!(answered(Chargen::new().allow_privileged_ports(true)), all);
    assert_eq!(answered(Daytime::new().allow_privileged_ports(true)), all);
    assert_eq!(answered(Time::new().allow_privileged_ports(true)), all);

    assert_eq!(
        answered(Echo::new().allow_privileged_ports(true).allow_privileged_ports(false)),
        [1024, 65_535]
    );
}

/// Two services on scripts, and a network between them that carries at most `limit` datagrams
/// after the forged one. Returns how many it carried.
fn bounce(
    chargen: impl DatagramProtocol + 'static,
    echo: impl DatagramProtocol + 'static,
    limit: usize,
) -> usize {
    let reactor = Reactor::new().unwrap();
    let addresses: [SocketAddr; 2] =
        ["192.0.2.1:19".parse().unwrap(), "192.0.2.2:7".parse().unwrap()];
    let scripts = [Script::new(), Script::new()];
    let ports = [
        scripts[0].listen(&reactor, addresses[0], chargen).unwrap(),
        scripts[1].listen(&reactor, addresses[1], echo).unwrap(),
    ];
    scripts[1].receive(addresses[0], b"forged");
    let (mut carried, mut delivered) = (0, [0, 1]);
    loop {
        turn_until(&reactor, || {
            (0..2).all(|n| ports[n].stats().unwrap().datagrams_in == delivered[n])
        });
        let before = carried;
        for (from, to) in [(0, 1), (1, 0)] {
            let sent = scripts[from].sent();
            // What came back answers what was delivered: the last one sent, if there is one more.
            if sent.len() as u64 > delivered[to] - u64::from(to == 1) {
                let last = sent.last().unwrap();
                assert_eq!(last.to, Some(addresses[to]));
                scripts[to].receive(addresses[from], &last.payload);
                delivered[to] += 1;
                carried += 1;
            }
        }
        if carried == before || carried >= limit {
            return carried;
        }
    }
}

#[test]
fn two_services_shown_to_each_other_by_a_forged_datagram_fall_silent_at_once() {
    assert_eq!(bounce(Chargen::new(), Echo::new(), 100), 0);
    // One that answers is enough to be bounced once; the guarded one ends it.
    assert_eq!(bounce(Chargen::new(), Echo::new().allow_privileged_ports(true), 100), 1);
}

#[test]
fn without_the_guard_they_go_on_for_ever() {
    let open =
        (Chargen::new().allow_privileged_ports(true), Echo::new().allow_privileged_ports(true));
    assert_eq!(bounce(open.0, open.1, 100), 100);
}

/// A service on some free port under 1024, if this process may have one.
fn listen_low(
    reactor: &Reactor,
    protocol: impl Fn() -> Chargen,
) -> Result<DatagramTransport, strand_reactor::ListenError> {
    let mut candidates = 600..1024;
    loop {
        let number = candidates.next().expect("a free port under 1024");
        match reactor.listen_udp((std::net::Ipv4Addr::LOCALHOST, number), protocol()) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            result => return result,
        }
    }
}

#[test]
fn two_chargens_on_low_ports_of_one_host_fall_silent_at_once() {
    let reactor = Reactor::new().unwrap();
    let (first, second) = match listen_low(&reactor, Chargen::new) {
        Ok(first) => (first, listen_low(&reactor, Chargen::new).unwrap()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            println!("skipped: ports under 1024 are not ours to bind");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    // It is sent by the first service itself, so that its source is as forgery would have it.
    first.try_write_to(b"forged", second.local_addr().unwrap()).unwrap();
    // The sentinel comes after it, is answered, and is the only one that is.
    let client = client(second.local_addr().unwrap());
    ask(&reactor, &second, &client, b"sentinel");
    let (first, second) = (first.stats().unwrap(), second.stats().unwrap());
    assert_eq!((second.datagrams_in, second.datagrams_out), (2, 1));
    assert_eq!((first.datagrams_in, first.datagrams_out), (0, 1));
}

#[test]
fn two_unguarded_chargens_on_one_host_do_bounce() {
    // On high ports the guard sees no service: what the test above would look like without it.
    let reactor = Reactor::new().unwrap();
    let first = reactor.listen_udp("127.0.0.1:0", Chargen::new()).unwrap();
    let second = reactor.listen_udp("127.0.0.1:0", Chargen::new()).unwrap();
    first.try_write_to(b"forged", second.local_addr().unwrap()).unwrap();
    turn_until(&reactor, || first.stats().unwrap().datagrams_in >= 100);
}
