//! A network in a box: unmodified protocols under virtual time, from one seed always the same.

#![allow(dead_code, reason = "what links and TCP use is laid out before they are there")]

mod addresses;
mod control;
mod driver;
mod dump;
mod error;
mod faults;
mod faulty;
mod host;
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
pub use links::{Call, GilbertElliott, Guard, Hosts, Latency, Link, Loss, PacketView, Rule};
pub use world::World;

pub(crate) use turn::Hook;
