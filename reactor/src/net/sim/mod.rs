//! A network in a box: unmodified protocols under virtual time, from one seed always the same. What
//! users are told is in `page.md`.
//!
//! | file | what is in it |
//! |---|---|
//! | `world.rs` | [`World`]: hosts, and the loop that lets time pass |
//! | `until.rs` | waiting with a limit |
//! | `control.rs` | crashes, restarts, names and settings |
//! | `dump.rs` | a world as text |
//! | `turn.rs` | how a reactor is driven turn by turn, and what reactors of a world share |
//! | `driver.rs` | the seam of a host: the [`Driver`](crate::net::Driver) of its reactor |
//! | `network.rs` | what hosts share: clock, happenings, the way of a packet |
//! | `host.rs` | addresses, interfaces, events of sockets |
//! | `packet.rs` | the one type that sockets, links and the trace share |
//! | `queue.rs`, `table.rs` | what happens when; hosts by address |
//! | `names.rs` | the table of names, and its resolver |
//! | `udp/`, `tcp/` | sockets |
//! | `plain.rs` | sockets without a reactor, for tests |
//! | `links/`, `trace.rs` | what becomes of packets under way; the record of them |
//!
//! A world drives ordinary reactors: one [`SimDriver`](driver::SimDriver) each over a shared
//! [`Net`](network::Net). The net is borrowed for the length of one call of a socket or driver, never
//! while a reactor runs; it knows no reactor. Between turns the world asks a reactor when it wants
//! the next. Who calls into a reactor outside of its turns passes `Inner::touch`, which has the
//! world ask again.

mod addresses;
mod control;
mod driver;
mod dump;
mod error;
mod faults;
mod faulty;
mod host;
mod kit;
mod links;
mod names;
mod network;
mod packet;
#[cfg(feature = "testing")]
mod plain;
mod queue;
mod table;
mod tcp;
mod trace;
mod turn;
mod udp;
mod until;
mod world;

pub use addresses::HostAddresses;
pub use error::HostError;
pub use kit::{
    Leftover, Pair, Recorder, Seeds, SentDatagram, WrittenStream, for_each_seed, pair, stream_pair,
};
pub use links::{Call, GilbertElliott, Guard, Hosts, Latency, Link, Loss, PacketView, Rule};
#[cfg(feature = "testing")]
pub use plain::{PlainListener, PlainStream};
pub use until::UntilError;
pub use world::World;

pub(crate) use turn::Hook;
