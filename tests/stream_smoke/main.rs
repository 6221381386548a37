//! TCP on the loop: servers, clients, closing, back-pressure, against plain sockets.

mod clients;
mod data;
#[path = "../stream/recorder.rs"]
mod recorder;
mod servers;

#[path = "../ground/mod.rs"]
mod ground;

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use strand_reactor::{
    AcceptBudget, ConnectOptions, ConnectionLost, Factory, Family, Handle, KeepAlive, PeerAddr,
    Protocol, SharedFactory, TcpOptions, Transport, WriteError,
};

use ground::{Ground, Peer, everywhere};
use recorder::*;

/// One connection of a peer that blocks; the reactor's side is what `protocol` says.
#[track_caller]
fn against<R: Send + 'static>(
    ground: &Ground,
    protocol: Recorder,
    options: impl FnOnce(TcpOptions) -> TcpOptions,
    peer: impl FnOnce(Peer) -> R + Send + 'static,
) -> R {
    ground.against_with(options(ground.loopback()), protocol, peer)
}
