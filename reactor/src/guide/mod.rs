//! The pages of the guide: one subject each, with examples that run.

#[doc = include_str!("protocols.md")]
pub mod protocols {}

#[doc = include_str!("connections.md")]
pub mod connections {}

#[doc = include_str!("addresses_and_options.md")]
pub mod addresses_and_options {}

#[doc = include_str!("errors.md")]
pub mod errors {}

#[doc = include_str!("life_of_a_port.md")]
pub mod life_of_a_port {}

#[doc = include_str!("timers.md")]
pub mod timers {}

#[doc = include_str!("threads_and_shutdown.md")]
#[cfg(all(feature = "threads", feature = "signals"))]
pub mod threads_and_shutdown {}

#[doc = include_str!("cores.md")]
#[cfg(all(feature = "per-core", feature = "signals"))]
pub mod cores {}

#[doc = include_str!("names.md")]
pub mod names {}

#[doc = include_str!("unix_sockets.md")]
pub mod unix_sockets {}

#[doc = include_str!("testing.md")]
pub mod testing {}
