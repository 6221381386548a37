//! Behaviours written once and shown everywhere: over the sockets of the system, over adopted
//! ones, and over the simulated network, within a host and between two. Both ends are Strand's.
//! Where a stage differs from the system, the stage is wrong. The suites in `udp/` and `multicast/`
//! run over both as well; here is what has two ends, and what is shown between two hosts.

#[path = "../support/mod.rs"]
mod support;

mod datagrams;
mod groups;
mod refusals;
mod sending;
mod side;
mod stage;
mod streams;
