//! What can be learned with a datagram, and what a system grants.

use std::fmt;
use std::ops::{BitAnd, BitOr};

/// What to learn with every datagram, as a set. Nothing is asked for by default, and what is not
/// asked for costs nothing.
///
/// ```
/// use strand_reactor::Metadata;
/// let wanted = Metadata::DESTINATION | Metadata::ECN;
/// assert!(wanted.contains(Metadata::ECN));
/// assert!(!wanted.contains(Metadata::DROPS));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Metadata(u8);

impl Metadata {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// The address the datagram was sent to and the interface it came in by (`IP_PKTINFO`,
    /// RFC 3542).
    pub const DESTINATION: Self = Self(1);
    /// TTL or hop limit (`IP_RECVTTL`).
    pub const HOP_LIMIT: Self = Self(2);
    /// The two bits of explicit congestion notification (RFC 3168).
    pub const ECN: Self = Self(4);
    /// When the kernel received it (`SO_TIMESTAMPNS`).
    pub const RECEIVE_TIME: Self = Self(8);
    /// How many datagrams the kernel dropped for lack of room (`SO_RXQ_OVFL`).
    pub const DROPS: Self = Self(16);
    /// Everything.
    pub const ALL: Self = Self(31);

    /// Whether every member of `other` is in this set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the set is empty.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Metadata {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Metadata {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::DESTINATION, "DESTINATION"),
            (Self::HOP_LIMIT, "HOP_LIMIT"),
            (Self::ECN, "ECN"),
            (Self::RECEIVE_TIME, "RECEIVE_TIME"),
            (Self::DROPS, "DROPS"),
        ];
        f.debug_set()
            .entries(names.iter().filter(|(bit, _)| self.contains(*bit)).map(|(_, name)| name))
            .finish()
    }
}

/// What the system granted to a port; asked once when it opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Several datagrams cross to and from the kernel in one system call.
    pub batching: bool,
    /// Runs of equal size to one peer leave as one message (`UDP_SEGMENT`).
    pub segmentation: bool,
    /// Datagrams that arrive in bursts may be taken as one message (`UDP_GRO`).
    pub coalescing: bool,
    /// ICMP errors are reported one by one, with their destination (`IP_RECVERR`).
    pub error_queue: bool,
    /// Source address, interface, hop limit and ECN can be chosen per datagram.
    pub send_options: bool,
    /// The part of the metadata mask that will be filled in.
    pub metadata: Metadata,
}

/// The codepoint of explicit congestion notification (RFC 3168, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ecn {
    /// 00: the transport does not take part.
    NotEct = 0,
    /// 01: capable, as used by L4S (RFC 9331).
    Ect1 = 1,
    /// 10: capable.
    Ect0 = 2,
    /// 11: a router met congestion.
    Ce = 3,
}

impl Ecn {
    /// The codepoint in the lowest two bits of a TOS or traffic class byte.
    pub const fn from_bits(byte: u8) -> Self {
        match byte & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }
}
