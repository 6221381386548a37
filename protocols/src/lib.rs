//! Small standard protocols for the Strand reactor.
//!
//! The services that every host once offered, over UDP: [`Echo`] (RFC 862), [`Discard`]
//! (RFC 863), [`Chargen`] (RFC 864), [`Daytime`] (RFC 867) and [`Time`] (RFC 868). They are of
//! use for measuring, for testing, and as the shortest complete protocols to read.
//!
//! Each is a [`DatagramProtocol`](strand_reactor::DatagramProtocol): give it to `listen_udp` or
//! to `adopt_datagram_port`.
//!
//! ```
//! use std::net::UdpSocket;
//! use strand_protocols::Echo;
//! use strand_reactor::Reactor;
//!
//! let reactor = Reactor::new()?;
//! let port = reactor.listen_udp("127.0.0.1:0", Echo::new())?;
//!
//! let client = UdpSocket::bind("127.0.0.1:0")?;
//! client.send_to(b"hello", port.local_addr()?)?;
//! while port.stats()?.datagrams_out == 0 {
//!     reactor.iterate(None)?;
//! }
//! let mut answer = [0; 16];
//! let (len, from) = client.recv_from(&mut answer)?;
//! assert_eq!((&answer[..len], from), (&b"hello"[..], port.local_addr()?));
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! # Bouncing, and amplification
//!
//! Two such services answer each other for ever, once a forged datagram has shown each the
//! other's address. So the four that answer at all have a [`Guard`]: a datagram from a port under
//! 1024, where such services live, gets no answer unless
//! `allow_privileged_ports(true)` says so. What the guard cannot see is a service on a
//! port of 1024 or more: do not put two of them there in reach of strangers.
//!
//! [`Chargen`], [`Daytime`] and [`Time`] answer with more bytes than they were asked with, and UDP
//! sources can be forged: on an open network they amplify (RFC 4732, section 2.3).
//!
//! # Several addresses
//!
//! Answers are sent with [`DatagramInfo::reply`](strand_reactor::DatagramInfo::reply): on a port
//! opened with [`Metadata::DESTINATION`](strand_reactor::Metadata::DESTINATION) they come from the
//! address that was asked.

#![doc(test(attr(deny(warnings))))]

mod chargen;
mod clocked;
mod daytime;
mod discard;
mod echo;
mod guard;
mod time;

pub use chargen::Chargen;
pub use daytime::{Daytime, daytime};
pub use discard::Discard;
pub use echo::Echo;
pub use guard::Guard;
pub use time::{Time, time};

/// The code of the README, compiled and run with the doc tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
