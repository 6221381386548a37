//! Streams over sockets that play a script: what a kernel does rarely, or never on demand.

#[path = "../common/watchdog.rs"]
mod watchdog;

mod accepting;
mod connecting;
mod ending;
mod reading;
mod support;
mod writing;
