//! Streams: what is promised of ports, clients and connections, line by line.

mod clients;
mod closing;
mod forwarding;
mod idle;
mod interleaving;
mod programs;
mod recorder;
mod rules;
mod servers;
mod support;
mod writing;

#[path = "../ground/mod.rs"]
mod ground;
#[path = "../program/mod.rs"]
mod program;
