//! UNIX sockets: their addresses, what they are opened with, and ports of datagrams. Streams over
//! them are those of the `stream` room.

mod address;
mod datagram;
pub(crate) mod options;

pub use address::{PeerCredentials, UnixAddr};
pub use datagram::{
    UnixDatagram, UnixDatagramKey, UnixDatagramProtocol, UnixDatagramTransport, UnixWriteFailure,
};
pub use options::{UnixConnectOptions, UnixDatagramOptions, UnixOptions};

pub(crate) use datagram::{UnixNotice, UnixPort, begin_shutdown, due, event, notice, ready};
