//! The loop itself: running and stopping, timers, other threads, failing callbacks.

mod ending;
mod errors;
mod looping;
mod remote;
mod running;
mod support;
mod timers;
mod turns;
mod user_code;
