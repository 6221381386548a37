//! TCP of the simulated network, by the ordinary API.

mod closing;
mod comparison;
mod hosts;
mod opening;
mod random;
mod scenarios;
mod support;
mod transfer;
#[path = "../common/watchdog.rs"]
mod watchdog;
