//! The reactor tested by its own box: random programs on random worlds, from one seed always the
//! same run.
//!
//! * `chaos`: programs that do anything from any callback, while the network, its hosts and their
//!   system calls fail; what is checked holds for each of them.
//! * `repeating`: the same seed is the same run, to the byte.
//!
//! A thousand seeds of each are tried, and of chaos as many as fit in the seconds that
//! STRAND_CHAOS_SECONDS tells: 60 in `.ci/run`. By hand, for an hour, with seeds of one's own, and one
//! alone with all that it does:
//!
//! ```text
//! STRAND_CHAOS_SECONDS=3600 cargo test --release --test sim_chaos breaks_nothing -- --nocapture
//! STRAND_SEED=100000..200000 cargo test --release --test sim_chaos breaks_nothing
//! STRAND_SEED=4711 cargo test --test sim_chaos breaks_nothing -- --nocapture
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
