//! Other threads: calls from them, and work on them.

mod jobs;
mod remote;
#[path = "../common/watchdog.rs"]
mod watchdog;
