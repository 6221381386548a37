//! Datagram ports: UDP.
//!
//! The way of a datagram, file by file: [`delivery`] takes a batch from the socket and hands it,
//! one by one, to the [`protocol`]; what that writes through its [`transport`] ([`writing`])
//! collects in the port's [`outbox`], which [`port`] flushes to the socket. [`listen`] opens ports,
//! [`options`] and [`settings`] say how they behave, [`received`] is what a protocol sees.
//! [`multicast`] opens ports for groups and joins them: [`groups`] minds the memberships, and
//! [`interface`] says where.

mod closing;
mod delivery;
mod family;
mod groups;
mod interface;
mod listen;
mod metadata;
mod multicast;
mod options;
mod outbox;
mod port;
mod protocol;
mod received;
mod send_options;
mod settings;
mod transport;
mod writing;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

pub use family::Family;
pub use interface::Interface;
pub use metadata::{Capabilities, Ecn, Metadata};
pub use multicast::SourceFilter;
pub use options::{PathMtu, QueuePolicy, UdpOptions};
pub use port::PortState;
pub use protocol::{DatagramProtocol, ProtocolBorrowed};
pub use received::{Datagram, DatagramInfo, ReadDatagram};
pub use send_options::SendOptions;
pub use transport::{DatagramKey, DatagramTransport};

pub(crate) use closing::close_port;
pub(crate) use delivery::service;
pub(crate) use listen::StartError;
#[cfg(feature = "testing")]
pub(crate) use listen::start;
pub(crate) use listen::vacancy;
pub(crate) use options::{Tuning, buffer_size, busy_poll, check_ttl, within};
pub(crate) use outbox::{Completion, Storage};
pub(crate) use port::{Port, Readiness, is_descriptor_gone};

/// The place of a source that is not known yet.
const UNSPECIFIED: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
