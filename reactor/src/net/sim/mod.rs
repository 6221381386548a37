//! A network in a box: unmodified protocols under virtual time, from one seed always the same.

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
mod queue;
mod table;
mod tcp;
mod trace;
mod turn;
mod udp;
mod world;

pub use addresses::HostAddresses;
pub use error::HostError;
pub use kit::{Leftover, Pair, Recorder, SentDatagram, WrittenStream, pair, stream_pair};
pub use links::{Call, GilbertElliott, Guard, Hosts, Latency, Link, Loss, PacketView, Rule};
pub use world::World;

pub(crate) use turn::Hook;
