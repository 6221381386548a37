//! Connections without a network around them.

mod channel;
mod ends;
mod flow;
mod opening;
mod properties;
