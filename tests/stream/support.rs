//! What these tests have in common.

pub use crate::ground::{Ground, Kind, Peer, WATCHDOG, everywhere, on_the_system, over_loopback};
pub use crate::recorder::*;
