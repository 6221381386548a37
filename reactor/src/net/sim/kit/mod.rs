//! For tests of protocols: two of them joined, a record of what a host sends, and the question
//! whether anything was left behind.

mod leftovers;
mod pair;
mod recorder;

pub use leftovers::Leftover;
pub use pair::{Pair, pair, stream_pair};
pub use recorder::{Recorder, SentDatagram, WrittenStream};

pub(super) use recorder::{StreamName, Tapes};
