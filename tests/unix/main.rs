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

#[path = "../stream/recorder.rs"]
mod recorder;
