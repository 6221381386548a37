//! A reactor on each core, on one address.

#[path = "../common/watchdog.rs"]
mod watchdog;

mod ending;
mod sharing;
