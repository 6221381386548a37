use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::net::sim::packet::{Body, Flags, Segment};

const MS: Duration = Duration::from_millis(1);
const A: HostId = HostId(0);
const B: HostId = HostId(1);
const C: HostId = HostId(2);

fn address(port: u16) -> SocketAddr {
    ([10, 0, 0, 1], port).into()
}

fn datagram(len: usize) -> Packet {
    let payload: Rc<[u8]> = vec![7; len].into();
    let (source, destination) = (address(1_000), address(53));
    Packet { source, destination, hop_limit: 64, tos: 0, body: Body::Udp(payload) }
}

fn segment(len: usize) -> Packet {
    let payload: Rc<[u8]> = vec![7; len].into();
    let flags = Flags::SYN;
    let body = Body::Tcp(Segment { seq: 1, ack: 0, flags, window: 9, payload, mss: None });
    Packet { body, ..datagram(0) }
}

/// Links, and what they are driven with.
struct Bench {
    links: Links,
    rng: Rng,
    now: Duration,
}

impl Bench {
    fn new() -> Self {
        Self { links: Links::default(), rng: Rng::with_seed(5), now: Duration::ZERO }
    }

    fn with(link: Link) -> Self {
        let mut bench = Self::new();
        bench.links.set_default(link);
        bench
    }

    fn rule(&mut self, rule: Rule) -> Guard {
        self.try_rule(rule).unwrap()
    }

    fn try_rule(&mut self, rule: Rule) -> Result<Guard, HostError> {
        let find = |host: &Host| match host {
            Host::Name(name) => ["a", "b", "c"].iter().position(|n| n == name),
            Host::Address(ip) => (*ip == address(0).ip()).then_some(0),
        };
        self.links.add_rule(rule, &|host| find(host).map(|index| HostId(index as u32)))
    }

    fn send(&mut self, from: HostId, to: HostId, packet: &Packet) -> Fate {
        self.links.transmit(&mut self.rng, nanos(self.now), from, to, packet)
    }

    /// When the copies of a packet from A to B arrive, in nanoseconds from now; none if dropped.
    fn times(&mut self, packet: &Packet) -> Vec<u64> {
        let now = nanos(self.now);
        self.arrivals(packet).iter().map(|arrival| arrival.at_ns - now).collect()
    }

    fn arrivals(&mut self, packet: &Packet) -> Vec<Arrival> {
        match self.send(A, B, packet) {
            Fate::Deliver(Arrivals { first, more }) => std::iter::once(first).chain(more).collect(),
            _ => Vec::new(),
        }
    }

    fn arrives(&mut self, from: HostId, to: HostId) -> bool {
        matches!(self.send(from, to, &datagram(1)), Fate::Deliver(_))
    }
}

#[test]
fn hosts_nothing_was_said_of_are_a_millisecond_apart_and_keep_no_state() {
    let mut bench = Bench::new();
    assert_eq!(bench.times(&datagram(65_507)), [1_000_000]);
    assert_eq!(bench.send(C, C, &datagram(1)), arriving(0), "loopback");
    let kept = format!("{:?}", bench.links.pairs);
    assert!(kept.starts_with("Pairs { by_sender: []"), "{kept}");
    assert_eq!(bench.rng.u64(..), Rng::with_seed(5).u64(..), "no dice were thrown");
}

fn arriving(at_ns: u64) -> Fate {
    let first = Arrival { at_ns, corrupted: None };
    Fate::Deliver(Arrivals { first, more: Vec::new() })
}

#[test]
fn each_direction_has_its_own_link() {
    let mut bench = Bench::new();
    bench.links.set(A, B, Link::new().latency(5 * MS));
    bench.links.set(B, A, Link::new().latency(7 * MS));
    bench.links.set(C, C, Link::new().loss(1.0));
    assert_eq!(bench.send(A, B, &datagram(1)), arriving(5_000_000));
    assert_eq!(bench.send(B, A, &datagram(1)), arriving(7_000_000));
    assert_eq!(bench.send(A, C, &datagram(1)), arriving(1_000_000));
    assert_eq!(bench.send(C, C, &datagram(1)), Fate::Dropped(Reason::Loss));
}

#[test]
fn jitter_keeps_the_order_unless_the_link_is_unordered() {
    let jitter = Link::new().latency(Latency::uniform(MS, 50 * MS));
    let overtaken = |link: Link| {
        let mut bench = Bench::with(link);
        let times: Vec<_> = (0..1_000)
            .map(|_| {
                bench.now += MS;
                nanos(bench.now) + bench.times(&datagram(1))[0]
            })
            .collect();
        times.windows(2).filter(|pair| pair[1] < pair[0]).count()
    };
    assert_eq!(overtaken(jitter.clone()), 0);
    assert!(overtaken(jitter.clone().unordered()) > 300);
    let some = overtaken(Link::new().latency(MS).reordering(0.1, 10 * MS));
    assert!((70..130).contains(&some), "{some}");
}

#[test]
fn bandwidth_counts_headers_and_the_tail_is_dropped() {
    // 1,000 bytes on the wire, a microsecond each; two fit.
    let mut bench = Bench::with(Link::new().latency(MS).bandwidth(8_000_000, 2_000));
    assert_eq!(bench.times(&datagram(972)), [2_000_000]);
    assert_eq!(bench.times(&datagram(972)), [3_000_000]);
    assert_eq!(bench.send(A, B, &datagram(972)), Fate::Dropped(Reason::QueueFull));
    assert_eq!(bench.send(B, A, &datagram(972)), arriving(2_000_000), "the other way is free");
    bench.now = MS;
    assert_eq!(bench.times(&datagram(972)), [3_000_000]);
}

#[test]
fn loss_duplication_and_corruption_have_their_shares() {
    let link = Link::new().latency(MS).loss(0.2).duplication(0.1).corruption(0.05);
    let mut bench = Bench::with(link);
    let (mut none, mut two, mut flipped) = (0, 0, 0);
    for _ in 0..100_000 {
        let arrivals = bench.arrivals(&datagram(10));
        none += usize::from(arrivals.is_empty());
        two += usize::from(arrivals.len() == 2);
        flipped +=
            arrivals.iter().filter_map(|a| a.corrupted).inspect(|bit| assert!(*bit < 80)).count();
    }
    assert!((19_500..20_500).contains(&none), "{none}");
    assert!((7_700..8_300).contains(&two), "{two}");
    assert!((4_200..4_600).contains(&flipped), "{flipped} of 88,000");
}

#[test]
fn corruption_spares_tcp_and_what_has_no_payload() {
    let mut bench = Bench::with(Link::new().corruption(1.0));
    assert_eq!(bench.arrivals(&segment(9))[0].corrupted, None);
    assert_eq!(bench.arrivals(&datagram(0))[0].corrupted, None);
    assert!(bench.arrivals(&datagram(1))[0].corrupted.is_some());
}

#[test]
fn a_packet_longer_than_the_mtu_is_too_big_headers_included() {
    let mut bench = Bench::with(Link::new().mtu(1_280));
    assert!(bench.arrives(A, B));
    assert_eq!(bench.send(A, B, &datagram(1_253)), Fate::TooBig { mtu: 1_280 });
    assert_eq!(bench.times(&datagram(1_252)), [0]);
    let _tunnel = bench.rule(Rule::through(Link::new().mtu(1_000)));
    assert_eq!(bench.send(A, B, &datagram(1_253)), Fate::TooBig { mtu: 1_000 });
}

#[test]
fn a_rule_lifts_when_its_guard_is_dropped_and_not_when_it_is_kept() {
    let mut bench = Bench::new();
    let guard = bench.rule(Rule::drop());
    assert_eq!(bench.send(A, B, &datagram(1)), Fate::Dropped(Reason::Rule));
    assert_eq!((guard.hits(), bench.links.lifts()), (1, 0));
    drop(guard);
    assert!(bench.arrives(A, B));
    assert_eq!(bench.links.lifts(), 1);
    assert!(bench.links.rules.has_no_packets(), "and it is forgotten");
    bench.rule(Rule::drop().from("a")).keep();
    assert!(!bench.arrives(A, B));
    assert!(bench.arrives(B, A));
}

#[test]
fn rules_match_hosts_ports_protocols_and_conditions() {
    let mut bench = Bench::new();
    let (long, syn) = (datagram(9), segment(0));
    let mut dropped = |rule: Rule, from, to, packet: &Packet| {
        let _guard = bench.rule(rule);
        bench.send(from, to, packet) == Fate::Dropped(Reason::Rule)
    };
    assert!(dropped(Rule::drop().from(["c", "a"]).to("b"), A, B, &long));
    assert!(!dropped(Rule::drop().from(["c", "a"]).to("b"), B, A, &long));
    assert!(dropped(Rule::drop().from(["c", "a"]).to("b").both_ways(), B, A, &long));
    assert!(!dropped(Rule::drop().from(["c", "a"]).to("b").both_ways(), C, A, &long));
    assert!(dropped(Rule::drop().from(long.source.ip()), A, B, &long));
    assert!(dropped(Rule::drop().port(53), A, B, &long));
    assert!(dropped(Rule::drop().port(1_000), A, B, &long));
    assert!(!dropped(Rule::drop().port(54), A, B, &long));
    assert!(dropped(Rule::drop().udp(), A, B, &long) && !dropped(Rule::drop().udp(), A, B, &syn));
    assert!(dropped(Rule::drop().tcp(), A, B, &syn) && !dropped(Rule::drop().icmp(), A, B, &syn));
    let nine = || Rule::drop().when(|packet| packet.payload().len() == 9);
    assert!(dropped(nine(), A, B, &long) && !dropped(nine(), A, B, &datagram(8)));
    assert!(dropped(Rule::drop().when(|packet| packet.is_syn()), A, B, &syn));
    assert!(!dropped(Rule::drop().when(|packet| packet.is_reset()), A, B, &syn));
    assert!(!dropped(Rule::drop(), A, A, &long), "what it sends to itself is spared");
    assert!(!dropped(Rule::drop().from("a"), A, A, &long));
    assert!(dropped(Rule::drop().from("a").to(["a", "b"]), A, A, &long), "unless it is named");
}

#[test]
fn a_rule_applies_so_many_times_or_with_a_probability() {
    let mut bench = Bench::new();
    let guard = bench.rule(Rule::drop().times(2));
    let arrive: Vec<_> = (0..4).map(|_| bench.arrives(A, B)).collect();
    assert_eq!(arrive, [false, false, true, true]);
    assert_eq!(guard.hits(), 2);
    let half = bench.rule(Rule::drop().probability(0.5));
    let lost = (0..10_000).filter(|_| !bench.arrives(A, B)).count();
    assert!((4_850..5_150).contains(&lost), "{lost}");
    assert_eq!(half.hits(), lost as u64);
}

#[test]
fn a_partition_is_whole_and_one_way_only_if_asked() {
    let mut bench = Bench::new();
    let open = |bench: &mut Bench| {
        [(A, B), (B, A), (A, C), (C, B)].map(|(from, to)| bench.arrives(from, to))
    };
    let split = bench.rule(Rule::partition("a", ["b", "c"]));
    assert_eq!(bench.send(B, A, &datagram(1)), Fate::Dropped(Reason::Partition));
    assert_eq!(open(&mut bench), [false, false, false, true]);
    split.lift();
    let _one_way = bench.rule(Rule::partition_one_way("a", ["b", "c"]));
    assert_eq!(open(&mut bench), [false, true, false, true]);
}

#[test]
fn schedules_begin_end_and_repeat() {
    let mut bench = Bench::new();
    bench.rule(Rule::drop().between(10 * MS, 20 * MS)).keep();
    bench.rule(Rule::drop().from("b").between(100 * MS, 145 * MS).every(20 * MS, 5 * MS)).keep();
    let mut lost = |from, to, at: u32| {
        bench.now = at * MS;
        !bench.arrives(from, to)
    };
    assert_eq!([9, 10, 19, 20].map(|at| lost(A, B, at)), [false, true, true, false]);
    let periodic = [99, 100, 104, 105, 119, 120, 125, 140, 145].map(|at| lost(B, A, at));
    assert_eq!(periodic, [false, true, true, false, false, true, false, true, false]);
}

#[test]
fn a_delay_holds_up_those_it_matches_and_no_others() {
    let mut bench = Bench::new();
    let _slow = bench.rule(Rule::delay(100 * MS).port(53));
    assert_eq!(bench.times(&datagram(1)), [101_000_000]);
    let other = Packet { destination: address(80), ..datagram(1) };
    assert_eq!(bench.times(&other), [1_000_000]);
}

#[test]
fn a_rule_with_bandwidth_is_a_bottleneck_that_all_share() {
    let mut bench = Bench::new();
    // 1,000 bytes a millisecond.
    let _uplink = bench.rule(Rule::through(Link::new().bandwidth(8_000_000, 3_000)).from("a"));
    assert_eq!(bench.send(A, B, &datagram(972)), arriving(2_000_000));
    assert_eq!(bench.send(A, C, &datagram(972)), arriving(3_000_000));
    assert_eq!(bench.send(B, C, &datagram(972)), arriving(1_000_000), "not its uplink");
    assert_eq!(bench.send(A, C, &datagram(972)), arriving(4_000_000));
    assert_eq!(bench.send(A, B, &datagram(972)), Fate::Dropped(Reason::QueueFull));
}

#[test]
fn queues_in_a_row_are_as_slow_as_the_slowest_and_latencies_add_up() {
    let mut bench = Bench::with(Link::new().latency(MS).bandwidth(8_000_000, 1 << 20));
    let _first =
        bench.rule(Rule::through(Link::new().latency(5 * MS).bandwidth(80_000_000, 1 << 20)));
    // 0.1 ms in the first, 1 ms in the second, 6 ms under way.
    assert_eq!(bench.times(&datagram(972)), [7_100_000]);
    assert_eq!(bench.times(&datagram(972)), [8_100_000]);
}

#[test]
fn copies_are_bounded_whatever_duplicates() {
    let mut bench = Bench::with(Link::new().duplication(1.0));
    for _ in 0..10 {
        bench.rule(Rule::through(Link::new().duplication(1.0))).keep();
    }
    assert_eq!(bench.times(&datagram(1)).len(), 16);
}

#[test]
fn calls_fail_on_the_host_that_is_named_and_say_when_to_try_again() {
    let mut bench = Bench::new();
    let attempt = |host, call| Attempt {
        host,
        call,
        protocol: 17,
        local: Some(address(9)),
        peer: Some(address(53)),
    };
    let errno = |bench: &mut Bench, host, call| {
        bench.links.refuses(&mut Rng::with_seed(1), nanos(bench.now), &attempt(host, call))
    };
    assert_eq!(errno(&mut bench, A, Call::Send), None);
    let refusal = |errno, is_lasting| Some(Refusal { errno, until_ns: None, is_lasting });
    let down = bench.rule(Rule::fail(Call::Send, libc::ENETDOWN).from("a").port(53).times(1));
    assert_eq!(errno(&mut bench, B, Call::Send), None);
    assert_eq!(errno(&mut bench, A, Call::Receive), None);
    assert_eq!(errno(&mut bench, A, Call::Send), refusal(libc::ENETDOWN, false));
    assert_eq!(errno(&mut bench, A, Call::Send), None, "it was for one call");
    assert_eq!(down.hits(), 1);
    let _none = bench.rule(Rule::no_descriptors());
    assert_eq!(errno(&mut bench, B, Call::Open), refusal(libc::EMFILE, true));
    bench.rule(Rule::full_send_buffers().between(Duration::ZERO, 3 * MS)).keep();
    let full = Some(Refusal { errno: libc::EAGAIN, until_ns: Some(3_000_000), is_lasting: true });
    assert_eq!(errno(&mut bench, A, Call::Write), full);
    bench.now = 3 * MS;
    assert_eq!(errno(&mut bench, A, Call::Write), None);
    assert!(bench.arrives(A, B), "packets are not calls");
}

#[test]
fn an_unknown_host_is_named() {
    let refused = Bench::new().try_rule(Rule::drop().to(["a", "dave"])).map(|_| ());
    assert_eq!(refused, Err(HostError::Unknown { name: "dave".to_owned() }));
}

#[test]
#[should_panic(expected = "a rule about calls")]
fn a_call_has_no_destination() {
    let _guard = Bench::new().rule(Rule::fail(Call::Open, 1).to("a"));
}

#[test]
fn the_same_seed_makes_the_same_fates() {
    let run = |seed| {
        let latency = Latency::log_normal(10 * MS, 0.7);
        let link = Link::new().latency(latency).loss(Loss::bursts(0.1, 3.0)).duplication(0.1);
        let mut bench = Bench::with(link.reordering(0.1, Latency::pareto(MS, 2.0)));
        bench.rng = Rng::with_seed(seed);
        bench.rule(Rule::drop().probability(0.01)).keep();
        (0..1_000).map(|_| bench.send(A, B, &datagram(10))).collect::<Vec<_>>()
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}
