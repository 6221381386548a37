//! Ports of datagrams over UNIX sockets.
//!
//! The way of a datagram: [`delivery`] takes it from the socket and hands it to the [`protocol`];
//! what that writes through its [`transport`] goes to the socket at once, for the system has no
//! call that would take several to UNIX sockets faster, or waits in the [`port`] for the receiver
//! to have room. [`listen`] opens ports, [`closing`] is the end of them.

mod closing;
mod delivery;
mod listen;
mod port;
mod protocol;
mod transport;

use crate::error::WriteError;
use crate::slots::Key;

pub use protocol::{UnixDatagram, UnixDatagramProtocol, UnixWriteFailure};
pub use transport::{UnixDatagramKey, UnixDatagramTransport};

pub(crate) use closing::{begin_shutdown, notice};
pub(crate) use delivery::{due, event, ready};
pub(crate) use port::UnixPort;

/// Something that user code is told from the loop, in order.
pub(crate) enum UnixNotice {
    WriteFailed(Key, UnixWriteFailure),
    PauseWriting(Key),
    ResumeWriting(Key),
    /// A receiver has no room, and the system will not tell when it has.
    Retry(Key),
    /// Tell the protocol, then close the port.
    Close(Key),
}

/// What a write with a completion is told.
type Completion = Box<dyn FnOnce(Result<usize, WriteError>) -> anyhow::Result<()>>;
