//! Unmodified protocols in a simulated world.

#[path = "../support/mod.rs"]
mod support;

mod against_the_kernel;
mod crashing;
mod dumping;
#[path = "../common/errno.rs"]
mod errno;
mod groups;
mod limits;
mod members;
mod memory;
mod names_and_jobs;
mod repeating;
mod running;
mod udp;
mod waiting;
mod zones;
