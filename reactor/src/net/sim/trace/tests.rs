use std::io::ErrorKind;
use std::process::Command;
use std::sync::{Arc, Mutex};

use super::*;
use crate::net::sim::packet::{Body, Flags, IcmpError, IcmpKind, Segment, TCP, UDP};

const A: HostId = HostId(0);
const B: HostId = HostId(1);

fn hosts() -> Vec<HostState> {
    ["alice", "bob"].map(|name| HostState::new(name.into(), &[])).into()
}

fn udp(source: &str, destination: &str, payload: &[u8]) -> Packet {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    Packet { source, destination, hop_limit: 64, tos: 2, body: Body::Udp(payload.into()) }
}

fn tcp(flags: Flags, payload: &[u8], mss: Option<u16>) -> Packet {
    let payload = payload.into();
    let body = Body::Tcp(Segment { seq: 100, ack: 7, flags, window: 9_000, payload, mss });
    Packet { body, ..udp("10.0.0.1:4000", "10.0.0.2:80", b"") }
}

/// A report about `about`, from its destination's host.
fn icmp(kind: IcmpKind, about: &Packet, protocol: u8) -> Packet {
    let (about_source, about_destination) = (about.source, about.destination);
    let body = Body::Icmp(Box::new(IcmpError { kind, about_source, about_destination, protocol }));
    let at = |address: std::net::SocketAddr| std::net::SocketAddr::new(address.ip(), 0);
    Packet {
        source: at(about_destination),
        destination: at(about_source),
        hop_limit: 64,
        tos: 0,
        body,
    }
}

fn bytes(packet: &Packet) -> Vec<u8> {
    let mut out = Vec::new();
    headers::append(packet, &mut out);
    assert_eq!(out.len(), packet.wire_len(), "{packet:?}");
    out
}

#[test]
fn a_datagram_has_the_bytes_of_a_real_one() {
    let packet = udp("10.0.0.1:1000", "10.0.0.2:53", b"abc");
    let expected = [
        0x45, 2, 0, 31, 0, 0, 0x40, 0, 64, 17, 0x26, 0xca, 10, 0, 0, 1, 10, 0, 0, 2, // IPv4
        0x03, 0xe8, 0, 53, 0, 11, 0x23, 0x56, b'a', b'b', b'c',
    ];
    assert_eq!(bytes(&packet), expected);
}

#[test]
fn every_kind_of_packet_is_as_long_as_the_links_count_it() {
    let v6 = udp("[fd00::1]:1000", "[fd00::2]:53", b"odd");
    assert_eq!(bytes(&v6)[..8], [0x60, 0x20, 0, 0, 0, 11, 17, 64]);
    let syn = tcp(Flags::SYN, b"", Some(1_460));
    assert_eq!(bytes(&syn)[40..], [2, 4, 5, 0xb4, 1, 3, 3, 7]);
    let data = bytes(&tcp(Flags::ACK | Flags::PSH, b"hello", None));
    assert_eq!(data[34..36], [0, 71], "a window of 9,000, in units of 128");
    for kind in [IcmpKind::PortUnreachable, IcmpKind::TooBig { mtu: 1_280 }] {
        bytes(&icmp(kind, &v6, UDP));
        bytes(&icmp(kind, &syn, TCP));
    }
    bytes(&udp("10.0.0.1:1", "10.0.0.2:1", &[0; 65_507]));
    bytes(&udp("[fd00::1]:1", "[fd00::2]:1", &[0; 65_527]));
}

#[test]
fn a_checksum_of_udp_is_never_zero_which_would_say_that_there_is_none() {
    let at = 20 + 6;
    let zeros = bytes(&udp("10.0.0.1:1000", "10.0.0.2:53", &[0, 0]));
    // With its own checksum for a payload the sum of the packet is 0xffff, of which 0 is the
    // complement.
    let packet = udp("10.0.0.1:1000", "10.0.0.2:53", &zeros[at..at + 2]);
    assert_eq!(bytes(&packet)[at..at + 2], [0xff, 0xff]);
}

/// The blocks of a file: type and body, after a look at their lengths.
fn blocks(mut file: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().unwrap());
    let mut blocks = Vec::new();
    while !file.is_empty() {
        let len = word(&file[4..]) as usize;
        assert!(len.is_multiple_of(4) && word(&file[len - 4..]) as usize == len);
        blocks.push((word(file), file[8..len - 4].to_vec()));
        file = &file[len..];
    }
    blocks
}

#[test]
fn a_file_has_a_header_an_interface_per_host_and_a_block_per_event() {
    let (mut trace, hosts) = (Trace::default(), hosts());
    let packet = udp("10.0.0.1:1000", "10.0.0.2:53", b"abc");
    trace.record(0, &hosts, (A, B), &packet, TraceEvent::Sent);
    trace.begin();
    trace.record(5, &hosts, (A, B), &packet, TraceEvent::Sent);
    trace.record(1_000_005, &hosts, (A, B), &packet, TraceEvent::Received);
    trace.record(2_000_000, &hosts, (A, B), &packet, TraceEvent::Dropped(Reason::Loss));
    let file = trace.end().unwrap();
    let blocks = blocks(&file);
    let kinds: Vec<_> = blocks.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [0x0a0d_0d0a, 1, 6, 1, 6, 6]);
    assert_eq!(blocks[1].1[8..20], [2, 0, 5, 0, b'a', b'l', b'i', b'c', b'e', 0, 0, 0]);
    let (_, sent) = &blocks[2];
    let ns = (EPOCH_SECONDS * 1_000_000_000 + 5).to_le_bytes();
    assert_eq!((&sent[..4], &sent[4..8], &sent[8..12]), (&[0; 4][..], &ns[4..], &ns[..4]));
    assert_eq!((sent[12], sent[16]), (31, 31));
    assert_eq!(sent[20..51], bytes(&packet));
    assert_eq!(sent[51..], [0, 2, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0], "outwards");
    assert_eq!(blocks[4].1[..4], [1, 0, 0, 0], "at bob's");
    assert_eq!(blocks[4].1[52..60], [2, 0, 4, 0, 1, 0, 0, 0], "inwards");
    let comment = &blocks[5].1[60..];
    assert_eq!(comment[..17], *b"\x01\0\x0d\0dropped: lost");
    assert_eq!(trace.end().unwrap(), [], "it has ended");
}

/// Fails from the second call on.
struct Full(Arc<Mutex<Vec<u8>>>);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = self.0.lock().unwrap();
        if !written.is_empty() {
            return Err(ErrorKind::StorageFull.into());
        }
        written.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_error_of_writing_ends_the_record_and_is_told_at_its_end() {
    let (mut trace, hosts, written) = (Trace::default(), hosts(), Arc::default());
    trace.begin_to(Box::new(Full(Arc::clone(&written))));
    for _ in 0..3 {
        let packet = tcp(Flags::SYN, b"", None);
        trace.record(0, &hosts, (A, B), &packet, TraceEvent::Sent);
    }
    assert_eq!(trace.end().unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(blocks(&written.lock().unwrap()).len(), 1);
}

/// What tshark says of a file: a line per packet, with these fields. `None` without it.
fn tshark(file: &[u8], fields: &[&str]) -> Option<Vec<String>> {
    let path = std::env::temp_dir().join(format!("strand-trace-{}.pcapng", std::process::id()));
    let mut command = Command::new("tshark");
    command.arg("-r").arg(&path).args(["-T", "fields", "-E", "separator=/s"]);
    for check in ["ip.check_checksum", "udp.check_checksum", "tcp.check_checksum"] {
        command.args(["-o", &format!("{check}:TRUE")]);
    }
    for field in fields {
        command.args(["-e", field]);
    }
    std::fs::write(&path, file).unwrap();
    let output = command.output();
    std::fs::remove_file(&path).unwrap();
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            println!("skipped: there is no tshark here");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}

#[test]
fn tshark_reads_it_back_and_finds_every_checksum_right() {
    let (mut trace, hosts) = (Trace::default(), hosts());
    trace.begin();
    let v4 = udp("10.0.0.1:1000", "10.0.0.2:5300", b"odd");
    let v6 = udp("[fd00::1]:1000", "[fd00::2]:5300", b"even");
    let syn = tcp(Flags::SYN, b"", Some(1_460));
    let data = tcp(Flags::ACK | Flags::PSH, b"hello", None);
    let packets = [
        icmp(IcmpKind::PortUnreachable, &v4, UDP),
        icmp(IcmpKind::TooBig { mtu: 1_280 }, &v6, UDP),
        icmp(IcmpKind::HostUnreachable, &syn, TCP),
        v4,
        v6,
        syn,
        data,
    ];
    for (index, packet) in packets.iter().enumerate() {
        let event = if index == 3 { TraceEvent::Dropped(Reason::Loss) } else { TraceEvent::Sent };
        trace.record(index as u64, &hosts, (A, B), packet, event);
    }
    let file = trace.end().unwrap();
    let fields = ["frame.interface_name", "frame.time_epoch", "frame.comment"];
    let Some(lines) = tshark(&file, &fields) else { return };
    assert_eq!(lines.len(), packets.len());
    assert_eq!(lines[3], "alice 946684800.000000003 dropped: lost");
    let checks = ["ip.checksum.status", "udp.checksum.status", "tcp.checksum.status"];
    let more = ["icmp.checksum.status", "icmpv6.checksum.status", "_ws.malformed"];
    for line in tshark(&file, &[&checks[..], &more].concat()).unwrap() {
        // 1: good. Of what a report quotes the checksum is not known.
        assert!(line.contains('1') && !line.contains('0'), "{line}");
    }
    let icmp =
        ["icmp.type", "icmp.code", "icmpv6.type", "icmpv6.mtu", "udp.dstport", "tcp.dstport"];
    let reports = tshark(&file, &icmp).unwrap();
    assert_eq!(reports[..3], ["3 3   5300 ", "  2 1280 5300 ", "3 1    80"]);
}
