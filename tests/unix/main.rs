//! UNIX sockets: paths and names, streams, datagrams.

mod adoption;
mod clients;
mod datagrams;
mod paths;
mod programs;
mod queues;
mod rules;
mod servers;
mod support;

#[path = "../program/mod.rs"]
mod program;
#[path = "../common/watchdog.rs"]
mod watchdog;

#[path = "../stream/support.rs"]
#[allow(dead_code, reason = "what opens TCP ports is of no use here")]
mod recorder;
