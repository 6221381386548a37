//! Multicast and broadcast: on loopback, and between hosts that are network namespaces. Both over
//! the system and over the simulated network.
//!
//! | file | what is in it |
//! |---|---|
//! | `loopback.rs` | what one host shows: options, errors, several members on one port |
//! | `groups.rs` | memberships, filters and TTL between hosts |
//! | `broadcast.rs` | broadcasts between hosts |
//! | `random.rs` | random programs, over the system and over the simulation |
//! | `examples.rs` | the examples |
//! | `network.rs` | making three hosts on two networks, and their removal |
//! | `host.rs` | the program on a host: ports driven by lines of text |

#[path = "../support/mod.rs"]
mod support;

mod broadcast;
mod examples;
mod groups;
mod host;
mod loopback;
mod network;
mod random;
