//! Connections without a network around them, and sockets beside those of the kernel.

mod channel;
mod ends;
mod flow;
#[cfg(target_os = "linux")]
mod kernel;
mod opening;
mod properties;
#[cfg(target_os = "linux")]
mod random_calls;
