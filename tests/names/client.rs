//! What servers answer, and what becomes of it.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use strand_reactor::{AddressFamily, Datagram, DatagramProtocol, DatagramTransport};
use strand_reactor::{Reactor, ResolveError, ResolveOptions};

use crate::server::{
    A, AAAA, DnsServer, Log, NXDOMAIN, Question, Reply, SERVFAIL, a, aaaa, cname, message,
};
use crate::site::{Files, Site, Told, begin, both, ips, look_up, v4};

#[test]
fn addresses_of_both_families_come_in_one_answer_the_best_first() {
    let site = Site::new(both);
    let addresses = site.look_up("www.example.test").unwrap();
    // ::1 goes before 127.0.0.9, where there is IPv6 at all.
    match UdpSocket::bind("[::1]:0") {
        Ok(_) => assert_eq!(addresses, ips(&["::1", "127.0.0.9"])),
        Err(_) => assert_eq!(addresses, ips(&["127.0.0.9", "::1"])),
    }
    assert_eq!(site.log.borrow().len(), 2);
}

#[test]
fn one_family_alone_is_asked_for_if_one_is_wanted() {
    let site = Site::new(both);
    let only = |family| ResolveOptions::new().timeout(None).family(family);
    let v6 = look_up(&site.reactor, "a.test", only(AddressFamily::V6)).unwrap();
    assert_eq!(v6, ips(&["::1"]));
    let v4 = look_up(&site.reactor, "b.test", only(AddressFamily::V4)).unwrap();
    assert_eq!(v4, ips(&["127.0.0.9"]));
    assert_eq!(*site.log.borrow(), [("a.test.".into(), AAAA), ("b.test.".into(), A)]);
}

#[test]
fn a_name_that_does_not_exist_is_not_found() {
    let site = Site::new(|_| Reply::Code(NXDOMAIN));
    let error = site.look_up("nowhere.test").unwrap_err();
    assert!(matches!(&error, ResolveError::NotFound { name } if name == "nowhere.test"), "{error}");
}

#[test]
fn a_name_without_addresses_is_not_found() {
    let site = Site::new(|_| Reply::Records(vec![]));
    let error = site.look_up("empty.test").unwrap_err();
    assert!(matches!(error, ResolveError::NotFound { .. }), "{error}");
}

#[test]
fn numbers_and_labels_with_dots_are_no_names_to_ask_for() {
    let conf = "nameserver 127.0.0.1\nsearch one.test\n";
    let site = Site::configured(conf, "", both);
    for name in
        ["127.1", "256.1.1.1", "1.2.3.4.", "7", "\u{ff11}\u{ff12}\u{ff17}.0.0.1", "a.\u{ff11}"]
    {
        let error = site.look_up(name).unwrap_err();
        assert!(matches!(error, ResolveError::InvalidName { .. }), "{name}: {error}");
    }
    // One dot leader: compatible with a dot, and none.
    let error = site.look_up("a\u{2024}b").unwrap_err();
    assert!(matches!(error, ResolveError::InvalidName { .. }), "{error}");
    assert!(site.log.borrow().is_empty());
    for name in ["7.test", "1.2.3.4.in-addr.arpa", "3com", "x7"] {
        site.look_up(name).unwrap();
    }
}

#[test]
fn a_server_that_cannot_answer_is_a_failure_and_no_absence() {
    let site = Site::new(|_| Reply::Code(SERVFAIL));
    let error = site.look_up("broken.test").unwrap_err();
    assert!(matches!(error, ResolveError::Failed { .. }), "{error}");
    assert_eq!(error.name(), "broken.test");
}

#[test]
fn one_family_that_fails_does_not_hide_the_other() {
    let site = Site::new(|question| match question.kind {
        AAAA => Reply::Code(SERVFAIL),
        _ => v4(question),
    });
    assert_eq!(site.look_up("half.test").unwrap(), ips(&["127.0.0.9"]));
}

#[test]
fn a_family_that_fails_is_no_absence_where_the_other_has_no_addresses() {
    const REFUSED: u8 = 5;
    let conf = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n";
    for failing in [A, AAAA] {
        for code in [SERVFAIL, REFUSED] {
            let site = Site::configured(conf, "", move |question| match question.kind {
                kind if kind == failing => Reply::Code(code),
                _ => Reply::Records(vec![]),
            });
            let error = site.look_up("ill.test").unwrap_err();
            assert!(matches!(error, ResolveError::Failed { .. }), "{failing} {code}: {error}");
        }
        let site = Site::configured(conf, "", move |question| match question.kind {
            kind if kind == failing => Reply::Silence,
            _ => Reply::Records(vec![]),
        });
        let error = site.look_up("silent.test").unwrap_err();
        assert!(matches!(error, ResolveError::TimedOut { .. }), "{failing}: {error}");
    }
}

#[test]
fn a_family_that_fails_at_first_is_found_in_step_with_the_search_list() {
    let mut failures = 1;
    let conf = "nameserver 127.0.0.1\nsearch one.test two.test\noptions attempts:1\n";
    let site = Site::configured(conf, "", move |question| match question.kind {
        AAAA if question.name == "host.two.test." && failures > 0 => {
            failures -= 1;
            Reply::Code(SERVFAIL)
        }
        AAAA if question.name == "host.two.test." => {
            Reply::Records(vec![aaaa(&question.name, "::1")])
        }
        _ => Reply::Records(vec![]),
    });
    assert_eq!(site.look_up("host").unwrap(), ips(&["::1"]));
    assert_eq!(site.asked(), ["host.one.test.", "host.two.test.", "host."]);
}

#[test]
fn no_answer_in_time_ends_the_lookup_once_and_leaves_nothing_behind() {
    let site = Site::new(|_| Reply::Silence);
    let options = ResolveOptions::new().timeout(Some(Duration::from_millis(50)));
    let error = look_up(&site.reactor, "silent.test", options).unwrap_err();
    assert!(matches!(error, ResolveError::TimedOut { .. }), "{error}");
    let stats = site.reactor.stats();
    assert_eq!((stats.pending_lookups, stats.resolver_sockets), (0, 0));
    assert!(site.reactor.pending_timers().is_empty());
}

#[test]
fn the_timeout_of_resolv_conf_holds_without_one_of_the_lookup() {
    let conf = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n";
    let site = Site::configured(conf, "", |_| Reply::Silence);
    let error = site.look_up("silent.test").unwrap_err();
    assert!(matches!(error, ResolveError::TimedOut { .. }), "{error}");
    assert!(site.reactor.pending_timers().is_empty());
}

/// Keeps the first query's source, and answers it when told to.
struct Late {
    asked: Rc<RefCell<Option<(Question, SocketAddr)>>>,
}

impl DatagramProtocol for Late {
    fn datagram_received(
        &mut self,
        _: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        let question = Question::parse(datagram.payload());
        *self.asked.borrow_mut() = question.map(|question| (question, datagram.source()));
        Ok(())
    }
}

#[test]
fn an_answer_after_the_end_goes_nowhere() {
    let reactor = Reactor::new().unwrap();
    let asked = Rc::default();
    let server = reactor.listen_udp("127.0.0.1:0", Late { asked: Rc::clone(&asked) }).unwrap();
    let files = Files::new("nameserver 127.0.0.1\n", "");
    reactor.set_resolver(files.resolver(server.local_addr().unwrap().port()));
    let told = Told::default();
    let lookup = begin(&reactor, "late.test", ResolveOptions::new(), &told);
    crate::site::turn_until(&reactor, || asked.borrow().is_some());
    let (question, client) = asked.take().unwrap();
    // Answered, and cancelled before the loop has seen the answer.
    let answer = message(&question, 0, false, &[a(&question.name, [127, 0, 0, 9])]);
    server.write_to(&answer, client).unwrap();
    assert!(lookup.cancel());
    for _ in 0..5 {
        reactor.iterate(Some(Duration::ZERO)).unwrap();
    }
    assert!(matches!(told.borrow()[..], [Err(ResolveError::Cancelled { .. })]));
}

#[test]
fn a_query_that_is_lost_is_sent_again() {
    let seen = Cell::new(0);
    let site = Site::new(move |question| {
        seen.set(seen.get() + 1);
        if seen.get() <= 2 { Reply::Silence } else { v4(question) }
    });
    assert_eq!(site.look_up("lossy.test").unwrap(), ips(&["127.0.0.9"]));
    assert!(site.log.borrow().len() > 2);
}

#[test]
fn a_truncated_answer_is_asked_for_again_by_tcp() {
    // A port that is free for both.
    let (site, listener) = std::iter::repeat_with(|| Site::new(|_| Reply::Truncated))
        .take(100)
        .find_map(|site| {
            let listener = TcpListener::bind(("127.0.0.1", site.port())).ok()?;
            Some((site, listener))
        })
        .expect("a free port");
    let address = listener.local_addr().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let thread = std::thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let mut served = Vec::new();
            for stream in listener.incoming() {
                if over.load(Ordering::Acquire) {
                    break;
                }
                served.push(std::thread::spawn(move || serve_many_addresses(stream.unwrap())));
            }
            served.into_iter().map(|thread| thread.join().unwrap()).sum::<u32>()
        }
    });
    let addresses = site.look_up("big.test").unwrap();
    assert_eq!(addresses.len(), 200);
    assert!(addresses.contains(&IpAddr::V4(Ipv4Addr::new(127, 0, 1, 199))));
    // The connections close with the client.
    drop(site);
    over.store(true, Ordering::Release);
    drop(TcpStream::connect(address).unwrap());
    assert_eq!(thread.join().unwrap(), 2);
}

/// Answers the queries of one connection with 200 addresses, which do not fit into a datagram of
/// 512 bytes, and tells how many there were.
fn serve_many_addresses(mut stream: TcpStream) -> u32 {
    let mut served = 0;
    let mut len = [0; 2];
    while stream.read_exact(&mut len).is_ok() {
        let mut query = vec![0; usize::from(u16::from_be_bytes(len))];
        stream.read_exact(&mut query).unwrap();
        let question = Question::parse(&query).unwrap();
        let records: Vec<_> = match question.kind {
            A => (0..200).map(|last| a(&question.name, [127, 0, 1, last])).collect(),
            _ => vec![],
        };
        let answer = message(&question, 0, false, &records);
        let mut framed = (answer.len() as u16).to_be_bytes().to_vec();
        framed.extend(answer);
        // In two pieces, so that the length arrives apart from the rest.
        stream.set_nodelay(true).unwrap();
        stream.write_all(&framed[..1]).unwrap();
        stream.write_all(&framed[1..]).unwrap();
        served += 1;
    }
    served
}

#[test]
fn a_truncated_answer_without_tcp_is_a_failure_and_no_half_answer() {
    let site = Site::configured("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n", "", |_| {
        Reply::Truncated
    });
    let error = site.look_up("big.test").unwrap_err();
    assert!(
        matches!(error, ResolveError::Failed { .. } | ResolveError::TimedOut { .. }),
        "{error}"
    );
}

#[test]
fn garbage_does_not_keep_the_answer_away() {
    let site = Site::new(|question| {
        let mut other = question.clone();
        other.id = !question.id;
        let genuine = message(question, 0, false, &v4_records(question));
        Reply::Raw(vec![
            b"".to_vec(),
            b"x".to_vec(),
            vec![0xff; 1400],
            // Another identifier; a question that was not asked.
            message(&other, 0, false, &[a(&question.name, [6, 6, 6, 6])]),
            genuine,
        ])
    });
    assert_eq!(site.look_up("noisy.test").unwrap(), ips(&["127.0.0.9"]));
}

fn v4_records(question: &Question) -> Vec<crate::server::Record> {
    match question.kind {
        A => vec![a(&question.name, [127, 0, 0, 9])],
        _ => vec![],
    }
}

#[test]
fn nothing_but_garbage_ends_in_an_error() {
    let site =
        Site::configured("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n", "", |question| {
            let mut cut = message(question, 0, false, &[a(&question.name, [127, 0, 0, 9])]);
            cut.truncate(cut.len() - 3);
            Reply::Raw(vec![cut])
        });
    let error = site.look_up("garbage.test").unwrap_err();
    assert!(
        matches!(error, ResolveError::Failed { .. } | ResolveError::TimedOut { .. }),
        "{error}"
    );
}

#[test]
fn an_endless_flood_from_the_server_does_not_hold_the_loop() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let over = Arc::new(AtomicBool::new(false));
    let thread = std::thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let (_, client) = server.recv_from(&mut [0; 512]).unwrap();
            while !over.load(Ordering::Acquire) {
                let _ = server.send_to(b"flood", client);
            }
        }
    });
    let reactor = Reactor::new().unwrap();
    let files = Files::new("nameserver 127.0.0.1\n", "");
    reactor.set_resolver(files.resolver(port));
    let options =
        ResolveOptions::new().family(AddressFamily::V4).timeout(Some(Duration::from_millis(100)));
    let error = look_up(&reactor, "flood.test", options).unwrap_err();
    over.store(true, Ordering::Release);
    thread.join().unwrap();
    assert!(matches!(error, ResolveError::TimedOut { .. }), "{error}");
}

/// Answers from another port first, with all else right.
struct Spoofed {
    impostor: UdpSocket,
}

impl DatagramProtocol for Spoofed {
    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        let question = Question::parse(datagram.payload()).unwrap();
        let forged = message(&question, 0, false, &[a(&question.name, [6, 6, 6, 6])]);
        self.impostor.send_to(&forged, datagram.source())?;
        let genuine = message(&question, 0, false, &v4_records(&question));
        transport.write_to(&genuine, datagram.source())?;
        Ok(())
    }
}

#[test]
fn an_answer_from_another_address_is_not_believed() {
    let reactor = Reactor::new().unwrap();
    let impostor = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = reactor.listen_udp("127.0.0.1:0", Spoofed { impostor }).unwrap();
    let files = Files::new("nameserver 127.0.0.1\n", "");
    reactor.set_resolver(files.resolver(server.local_addr().unwrap().port()));
    let outcome = look_up(&reactor, "spoofed.test", ResolveOptions::new());
    assert_eq!(outcome.unwrap(), ips(&["127.0.0.9"]));
}

#[test]
fn queries_come_from_ports_and_with_identifiers_of_their_own() {
    struct Collect(Rc<RefCell<Vec<(u16, u16)>>>);
    impl DatagramProtocol for Collect {
        fn datagram_received(
            &mut self,
            transport: &DatagramTransport,
            datagram: Datagram<'_>,
        ) -> anyhow::Result<()> {
            let question = Question::parse(datagram.payload()).unwrap();
            self.0.borrow_mut().push((question.id, datagram.source().port()));
            let answer = message(&question, 0, false, &v4_records(&question));
            Ok(transport.write_to(&answer, datagram.source())?)
        }
    }
    let reactor = Reactor::new().unwrap();
    let seen = Rc::default();
    let server = reactor.listen_udp("127.0.0.1:0", Collect(Rc::clone(&seen))).unwrap();
    let files = Files::new("nameserver 127.0.0.1\n", "");
    reactor.set_resolver(files.resolver(server.local_addr().unwrap().port()));
    for number in 0..20 {
        look_up(&reactor, &format!("h{number}.test"), ResolveOptions::new()).unwrap();
    }
    let distinct = |pick: fn(&(u16, u16)) -> u16| {
        seen.borrow().iter().map(pick).collect::<std::collections::HashSet<_>>().len()
    };
    assert_eq!(seen.borrow().len(), 40);
    // Chance may let some of 65,536 coincide, but not many.
    assert!(distinct(|seen| seen.0) > 35);
    assert!(distinct(|seen| seen.1) > 35);
}

#[test]
fn a_chain_of_aliases_is_followed() {
    let site = Site::new(|question| {
        let mut chain: Vec<_> = (0..5)
            .map(|step| cname(&format!("a{step}.test"), &format!("a{}.test", step + 1)))
            .collect();
        chain.push(match question.kind {
            AAAA => aaaa("a5.test", "2001:db8::9"),
            _ => a("a5.test", [127, 0, 0, 9]),
        });
        Reply::Records(chain)
    });
    let addresses = site.look_up("a0.test").unwrap();
    assert_eq!(addresses.len(), 2);
    assert!(addresses.contains(&ips(&["127.0.0.9"])[0]));
    // All of it was in the answer.
    assert_eq!(site.asked(), ["a0.test."]);
}

#[test]
fn an_alias_alone_is_asked_for_again() {
    let site = Site::new(|question| match question.host() {
        "alias" => Reply::Records(vec![cname("alias.test", "real.test")]),
        _ => v4(question),
    });
    assert_eq!(site.look_up("alias.test").unwrap(), ips(&["127.0.0.9"]));
    assert_eq!(site.asked(), ["alias.test.", "real.test."]);
}

#[test]
fn addresses_of_other_names_in_an_answer_are_left_out() {
    let conf = "nameserver 127.0.0.1\nsearch one.test\n";
    let site = Site::configured(conf, "", |question| {
        let name = question.name.as_str();
        Reply::Records(match (question.kind, question.host()) {
            // From the end of the chain to its start, and in capitals.
            (A, "alias") => vec![
                a("evil.test", [6, 6, 6, 6]),
                a("C.Test", [127, 0, 0, 9]),
                cname("B.test", "c.test"),
                cname(name, "b.test"),
                cname("evil.test", "b.test"),
            ],
            (A, _) => vec![a(name, [127, 0, 0, 9]), a("evil.test", [6, 6, 6, 6])],
            _ => vec![aaaa("evil.test", "2001:db8::6")],
        })
    });
    for name in ["a.test", "A.TEST.", "short", "alias.test"] {
        assert_eq!(site.look_up(name).unwrap(), ips(&["127.0.0.9"]), "{name}");
        // What was kept of it is no different.
        assert_eq!(site.look_up(name).unwrap(), ips(&["127.0.0.9"]), "{name}");
    }
}

#[test]
fn each_family_may_have_an_alias_of_its_own() {
    let site = Site::new(|question| {
        let name = question.name.as_str();
        Reply::Records(match (question.kind, question.host()) {
            (A, "alias") => vec![cname(name, "four.test")],
            (A, "four") => vec![a(name, [127, 0, 0, 9])],
            (AAAA, "alias") => vec![cname(name, "six.test")],
            (AAAA, "six") => vec![aaaa(name, "::1")],
            _ => vec![],
        })
    });
    for _ in 0..2 {
        let mut addresses = site.look_up("alias.test").unwrap();
        addresses.sort();
        assert_eq!(addresses, ips(&["127.0.0.9", "::1"]));
    }
}

#[test]
fn a_circle_of_aliases_has_an_end() {
    let site = Site::new(|question| {
        let other = if question.host() == "x" { "y.test" } else { "x.test" };
        Reply::Records(vec![cname(&question.name, other)])
    });
    let error = site.look_up("x.test").unwrap_err();
    assert!(
        matches!(error, ResolveError::Failed { .. } | ResolveError::NotFound { .. }),
        "{error}"
    );
    assert!(site.log.borrow().len() < 100);
}

#[test]
fn a_port_where_nobody_listens_fails_at_once() {
    let reactor = Reactor::new().unwrap();
    // An address of this host that no other test binds.
    let files = Files::new("nameserver 127.77.0.1\noptions timeout:30\n", "");
    reactor.set_resolver(files.resolver(53));
    let error = look_up(&reactor, "any.test", ResolveOptions::new()).unwrap_err();
    assert!(matches!(error, ResolveError::Failed { .. }), "{error}");
}

#[test]
fn cancelling_frees_the_sockets_and_tells_once() {
    let site = Site::new(|_| Reply::Silence);
    let told = Told::default();
    let lookup = site.begin("slow.test", &told);
    site.turn_until(|| site.log.borrow().len() == 2);
    assert_eq!(site.reactor.stats().resolver_sockets, 2);
    assert!(lookup.active());
    assert!(lookup.cancel());
    assert!(!lookup.cancel() && !lookup.active());
    assert!(told.borrow().is_empty(), "told inside the call");
    site.turn_until(|| !told.borrow().is_empty());
    site.turn_until(|| site.reactor.stats().resolver_sockets == 0);
    assert!(matches!(told.borrow()[..], [Err(ResolveError::Cancelled { .. })]));
}

#[test]
fn a_client_that_is_replaced_fails_what_it_owes_and_closes_its_sockets() {
    let site = Site::new(|_| Reply::Silence);
    let told = Told::default();
    for number in 0..100 {
        site.begin(&format!("h{number}.test"), &told);
    }
    site.turn_until(|| !site.log.borrow().is_empty());
    site.reactor.set_resolver(site.files.resolver(site.port()));
    site.turn_until(|| told.borrow().len() == 100);
    assert!(told.borrow().iter().all(|told| matches!(told, Err(ResolveError::Failed { .. }))));
    site.turn_until(|| site.reactor.stats().resolver_sockets == 0);
    site.turn_until(|| site.reactor.stats().resolver_tasks == 0);
}

#[test]
fn a_server_may_have_an_ipv6_address() {
    let reactor = Reactor::new().unwrap();
    let protocol = DnsServer { answer: v4, log: Log::default() };
    let Ok(server) = reactor.listen_udp("[::1]:0", protocol) else {
        println!("skipped: there is no IPv6 here");
        return;
    };
    let files = Files::new("nameserver ::1\n", "");
    reactor.set_resolver(files.resolver(server.local_addr().unwrap().port()));
    let outcome = look_up(&reactor, "www.test", ResolveOptions::new());
    assert_eq!(outcome.unwrap(), ips(&["127.0.0.9"]));
}

#[test]
fn run_waits_for_lookups_and_not_for_the_housekeeping_of_the_client() {
    let (port_sender, port) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let reactor = Reactor::new().unwrap();
        let protocol = DnsServer { answer: v4, log: Log::default() };
        let server = reactor.listen_udp("127.0.0.1:0", protocol).unwrap();
        port_sender.send((server.local_addr().unwrap().port(), reactor.remote())).unwrap();
        reactor.run().unwrap();
    });
    let (port, server) = port.recv().unwrap();
    let reactor = Reactor::new().unwrap();
    let files = Files::new("nameserver 127.0.0.1\n", "");
    reactor.set_resolver(files.resolver(port));
    let told = Told::default();
    begin(&reactor, "www.test", ResolveOptions::new(), &told);
    reactor.run().unwrap();
    assert_eq!(told.borrow()[0].as_ref().unwrap(), &ips(&["127.0.0.9"]));
    assert!(reactor.stats().resolver_tasks > 0);
    // One that does not count ends with the reactor.
    begin(&reactor, "other.test", ResolveOptions::new(), &told).unref();
    reactor.run().unwrap();
    drop(reactor);
    assert!(told.borrow().len() <= 2);
    server.stop();
    thread.join().unwrap();
}

#[test]
fn dig_finds_the_server_of_these_tests_a_fair_one() {
    let site = Site::new(both);
    let (port, remote) = (site.port(), site.reactor.remote());
    let thread = std::thread::spawn(move || {
        let ask = |kind: &str| {
            std::process::Command::new("dig")
                .args(["@127.0.0.1", "-p", &port.to_string(), "+tries=2", "+time=5", "+noedns"])
                .args(["+nocookie", "+noall", "+answer", "+comments", "www.example.test", kind])
                .output()
        };
        let outputs = (ask("A"), ask("AAAA"));
        remote.stop();
        outputs
    });
    site.reactor.run().unwrap();
    let (Ok(v4), Ok(v6)) = thread.join().unwrap() else {
        println!("skipped: there is no program called dig");
        return;
    };
    for (output, address) in [(v4, "127.0.0.9"), (v6, "::1")] {
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("status: NOERROR") && text.contains(address), "{text}");
        assert!(!text.contains("WARNING") && !text.contains("malformed"), "{text}");
    }
}
