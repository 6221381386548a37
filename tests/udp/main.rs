//! The behaviour of UDP ports against the kernel.
//!
//! Each behaviour is written once and run over every way to open a port, every family, and both
//! socket paths; see `support::Setup`. `tests/BEHAVIOURS.md` is the record of what they prove.

#[path = "../support/mod.rs"]
mod support;

mod adoption;
mod connected;
mod fairness;
mod icmp;
mod life;
mod metadata;
mod opening;
mod options;
mod processes;
mod pulling;
mod receiving;
mod reentrancy;
mod replying;
mod sending;
mod sharing;
mod stopping;
