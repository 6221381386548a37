//! Multicast and broadcast: on loopback, and between hosts that are network namespaces.
//!
//! | file | what is in it |
//! |---|---|
//! | `loopback.rs` | what one host shows: options, errors, several members on one port |
//! | `groups.rs` | memberships, filters and TTL between hosts |
//! | `broadcast.rs` | broadcasts between hosts |
//! | `examples.rs` | the examples |
//! | `network.rs` | making three hosts on two networks, and their removal |
//! | `host.rs` | the process on a host: ports driven by lines of text |

mod broadcast;
mod examples;
mod groups;
mod host;
mod loopback;
mod network;
