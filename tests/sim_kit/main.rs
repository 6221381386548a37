//! What tests of protocols are made with: pairs, recorders, seeds, and the question what was left
//! behind.

#[path = "../support/mod.rs"]
mod support;
#[path = "../common/watchdog.rs"]
mod watchdog;

mod leftovers;
mod pairs;
mod recorders;
mod seeds;
