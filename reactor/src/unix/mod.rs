//! UNIX sockets: their addresses, what they are opened with, and ports of datagrams. Streams over
//! them are those of the `stream` room.

mod address;
mod options;

pub use address::{PeerCredentials, UnixAddr};
pub use options::{UnixConnectOptions, UnixDatagramOptions, UnixOptions};
