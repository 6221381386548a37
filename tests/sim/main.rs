//! Unmodified protocols in a simulated world.

mod running;
mod support;
