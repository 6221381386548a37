//! Links, faults and the trace of a simulated world, as unmodified protocols see them.

mod calls;
#[path = "../common/errno.rs"]
mod errno;
mod every_call;
mod links;
mod rules;
mod streams;
mod support;
mod trace;
#[path = "../common/watchdog.rs"]
mod watchdog;
