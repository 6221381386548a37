//! The socket of a connection, as the connection keeps it.

use std::io;
use std::ops::Deref;
use std::rc::Rc;

use super::StreamSocket;
use super::os::OsStream;

/// What a connection reads from and writes to.
pub(crate) enum StreamLink {
    /// A socket of the system, in place: a server may have a hundred thousand, most of them idle.
    System(OsStream),
    /// One of another network, or one that was lent out.
    Shared(Box<Shared>),
}

/// As many owners as wish to keep it open.
pub(crate) struct Shared(Rc<dyn StreamSocket>);

impl StreamLink {
    /// A second owner, for as long as it is needed.
    pub(crate) fn share(&mut self) -> Rc<dyn StreamSocket> {
        let shared: Rc<dyn StreamSocket> = match self {
            Self::Shared(shared) => return Rc::clone(&shared.0),
            Self::System(socket) => Rc::new(socket.take()),
        };
        *self = Rc::clone(&shared).into();
        shared
    }

    /// As [`StreamSocket::read`]; what is called with every event is found without a table.
    #[inline]
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::System(socket) => socket.read(buffer),
            Self::Shared(shared) => shared.0.read(buffer),
        }
    }

    /// As [`StreamSocket::write`].
    #[inline]
    pub(crate) fn write(&self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::System(socket) => socket.write(data),
            Self::Shared(shared) => shared.0.write(data),
        }
    }
}

impl From<Rc<dyn StreamSocket>> for StreamLink {
    fn from(socket: Rc<dyn StreamSocket>) -> Self {
        Self::Shared(Box::new(Shared(socket)))
    }
}

impl Deref for StreamLink {
    type Target = dyn StreamSocket;

    fn deref(&self) -> &(dyn StreamSocket + 'static) {
        match self {
            Self::System(socket) => socket,
            Self::Shared(shared) => &*shared.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_the_system_takes_16_bytes_in_its_connection() {
        assert!(size_of::<StreamLink>() <= 16, "{}", size_of::<StreamLink>());
    }
}
