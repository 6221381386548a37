//! The reactor tested by its own box: random programs on random worlds, from one seed always the
//! same run.
//!
//! * `chaos`: programs that do anything from any callback, while the network, its hosts and their
//!   system calls fail; what is checked holds for each of them.
//! * `repeating`: the same seed is the same run, to the byte.
//!
//! By hand, as long as one likes, and one seed alone with all that it does:
//!
//! ```text
//! STRAND_CHAOS_SEEDS=100000..200000 cargo test --release --test sim_chaos chaos
//! STRAND_CHAOS_SEEDS=4711 cargo test --test sim_chaos chaos -- --nocapture
//! ```

mod actions;
mod chaos;
mod check;
mod datagrams;
mod faults;
mod found;
mod ledger;
mod options;
mod program;
mod random;
mod repeating;
mod seeds;
mod streams;
