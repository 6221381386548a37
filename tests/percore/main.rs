//! A reactor on each core, on one address.

#[path = "../common/watchdog.rs"]
mod watchdog;

#[path = "../program/mod.rs"]
mod program;

mod ending;
mod programs;
mod sharing;
