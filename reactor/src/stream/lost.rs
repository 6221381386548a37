//! Why a connection ended.

use std::error::Error;
use std::fmt;
use std::rc::Rc;

use crate::error::Causes;

/// Why a connection ended; what [`connection_lost`](crate::Protocol::connection_lost) is told.
///
/// ```
/// use strand_reactor::ConnectionLost;
/// assert!(ConnectionLost::Done.is_clean());
/// assert_eq!(ConnectionLost::Reset.to_string(), "the peer reset the connection");
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConnectionLost {
    /// In order: both directions were closed.
    Done,
    /// The peer, or something on the way, reset the connection (`ECONNRESET`, `EPIPE`).
    Reset,
    /// [`abort_connection`](crate::Transport::abort_connection) was called, or the reactor
    /// stopped before all was sent.
    Aborted,
    /// The peer did not answer for too long (`ETIMEDOUT`).
    TimedOut,
    /// A callback failed with this error, or the system said something else.
    Failed(Rc<anyhow::Error>),
}

impl ConnectionLost {
    /// Whether the connection was closed in order.
    pub fn is_clean(&self) -> bool {
        matches!(self, Self::Done)
    }
}

impl fmt::Display for ConnectionLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("closed in order"),
            Self::Reset => f.write_str("the peer reset the connection"),
            Self::Aborted => f.write_str("aborted"),
            Self::TimedOut => f.write_str("the peer did not answer in time"),
            Self::Failed(error) => Causes(error).fmt(f),
        }
    }
}

impl Error for ConnectionLost {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed(error) => error.source(),
            _ => None,
        }
    }
}
