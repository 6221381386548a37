//! A DNS server in few lines, written by hand so that it shares no code with the client: it reads
//! the question of a query and writes what the test says.

use std::cell::RefCell;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use strand_reactor::{Datagram, DatagramProtocol, DatagramTransport};

pub const A: u16 = 1;
pub const CNAME: u16 = 5;
pub const AAAA: u16 = 28;
pub const NXDOMAIN: u8 = 3;
pub const SERVFAIL: u8 = 2;

/// The question of a query.
#[derive(Clone, Debug)]
pub struct Question {
    pub id: u16,
    /// With the final dot, in lower case.
    pub name: String,
    pub kind: u16,
    /// As it stood in the query.
    raw: Vec<u8>,
}

impl Question {
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let id = u16::from_be_bytes([*packet.first()?, *packet.get(1)?]);
        let mut name = String::new();
        let mut at = 12;
        loop {
            let len = usize::from(*packet.get(at)?);
            at += 1;
            if len == 0 {
                break;
            }
            name.push_str(&String::from_utf8_lossy(packet.get(at..at + len)?));
            name.push('.');
            at += len;
        }
        let kind = u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]);
        let raw = packet.get(12..at + 4)?.to_vec();
        Some(Self { id, name: name.to_lowercase(), kind, raw })
    }

    /// The part of the name before its first dot.
    pub fn host(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }
}

/// A record: of whom, its type, its data.
pub type Record = (String, u16, Vec<u8>);

pub fn a(name: &str, address: [u8; 4]) -> Record {
    (name.into(), A, Ipv4Addr::from(address).octets().to_vec())
}

pub fn aaaa(name: &str, address: &str) -> Record {
    (name.into(), AAAA, address.parse::<Ipv6Addr>().unwrap().octets().to_vec())
}

pub fn cname(name: &str, target: &str) -> Record {
    (name.into(), CNAME, encode_name(target))
}

fn encode_name(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out
}

/// What to answer.
pub enum Reply {
    Silence,
    Records(Vec<Record>),
    Code(u8),
    Truncated,
    /// Datagrams as they are, in order.
    Raw(Vec<Vec<u8>>),
}

impl Reply {
    pub fn encode(self, question: &Question) -> Vec<Vec<u8>> {
        match self {
            Self::Silence => Vec::new(),
            Self::Records(records) => vec![message(question, 0, false, &records)],
            Self::Code(code) => vec![message(question, code, false, &[])],
            Self::Truncated => vec![message(question, 0, true, &[])],
            Self::Raw(datagrams) => datagrams,
        }
    }
}

pub fn message(question: &Question, code: u8, truncated: bool, records: &[Record]) -> Vec<u8> {
    let mut out = question.id.to_be_bytes().to_vec();
    // A response to a standard query, recursion desired and available.
    out.extend([0x81 | if truncated { 0x02 } else { 0 }, 0x80 | code]);
    for count in [1, records.len() as u16, 0, 0] {
        out.extend(count.to_be_bytes());
    }
    out.extend(&question.raw);
    for (name, kind, data) in records {
        out.extend(encode_name(name));
        out.extend(kind.to_be_bytes());
        // Class IN, 60 seconds.
        out.extend([0, 1, 0, 0, 0, 60]);
        out.extend((data.len() as u16).to_be_bytes());
        out.extend(data);
    }
    out
}

/// What was asked: names and types.
pub type Log = Rc<RefCell<Vec<(String, u16)>>>;

/// The server as a protocol of the reactor.
pub struct DnsServer<F> {
    pub answer: F,
    pub log: Log,
}

impl<F: FnMut(&Question) -> Reply> DatagramProtocol for DnsServer<F> {
    fn datagram_received(
        &mut self,
        transport: &DatagramTransport,
        datagram: Datagram<'_>,
    ) -> anyhow::Result<()> {
        let Some(question) = Question::parse(datagram.payload()) else { return Ok(()) };
        self.log.borrow_mut().push((question.name.clone(), question.kind));
        for packet in (self.answer)(&question).encode(&question) {
            transport.write_to(&packet, datagram.source())?;
        }
        Ok(())
    }
}
