//! For tests of protocols: two of them joined, a record of what a host sends, the question whether
//! anything was left behind, and one property with many seeds.

mod leftovers;
mod pair;
mod recorder;
mod seeds;

pub use leftovers::Leftover;
pub use pair::{Pair, pair, stream_pair};
pub use recorder::{Recorder, SentDatagram, WrittenStream};
pub use seeds::{Seeds, for_each_seed};

pub(super) use leftovers::open_on;
pub(super) use recorder::{StreamName, Tapes};
