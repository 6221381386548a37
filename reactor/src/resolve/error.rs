//! Why a name has no addresses.

use std::error::Error;
use std::fmt;
use std::io;

/// Why a lookup brought no addresses.
///
/// ```
/// use strand_reactor::{Reactor, ResolveError};
/// let reactor = Reactor::new()?;
/// reactor.resolve("no..name", |result| {
///     assert!(matches!(result, Err(ResolveError::InvalidName { .. })));
/// });
/// reactor.run()?;
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum ResolveError {
    /// The name does not exist, or has no addresses of the family asked for.
    NotFound {
        /// The name.
        name: String,
    },
    /// No host can have this name; nothing was asked.
    InvalidName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No answer came in time: ask again, or with a longer
    /// [`timeout`](crate::ResolveOptions::timeout).
    TimedOut {
        /// The name.
        name: String,
    },
    /// [`Resolution::cancel`](crate::Resolution::cancel) was called.
    Cancelled {
        /// The name.
        name: String,
    },
    /// The resolver could not find out: no server answers, or none is willing.
    Failed {
        /// The name.
        name: String,
        /// What the resolver said.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl ResolveError {
    /// The name that was looked up, as it was given.
    pub fn name(&self) -> &str {
        match self {
            Self::NotFound { name }
            | Self::InvalidName { name, .. }
            | Self::TimedOut { name }
            | Self::Cancelled { name }
            | Self::Failed { name, .. } => name,
        }
    }

    /// The kind of `std` that fits best.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::NotFound { .. } => io::ErrorKind::NotFound,
            Self::InvalidName { .. } => io::ErrorKind::InvalidInput,
            Self::TimedOut { .. } => io::ErrorKind::TimedOut,
            Self::Cancelled { .. } => io::ErrorKind::Interrupted,
            Self::Failed { source, .. } => {
                source.downcast_ref::<io::Error>().map_or(io::ErrorKind::Other, io::Error::kind)
            }
        }
    }
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { name } => write!(f, "{name:?} has no addresses: check the spelling"),
            Self::InvalidName { name, reason } => write!(f, "{name:?} cannot be a name: {reason}"),
            Self::TimedOut { name } => {
                write!(f, "no answer for {name:?} in time: ask again, or wait longer")
            }
            Self::Cancelled { name } => write!(f, "the lookup of {name:?} was cancelled"),
            Self::Failed { name, source } => write!(f, "cannot look {name:?} up: {source}"),
        }
    }
}

impl Error for ResolveError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed { source, .. } => Some(&**source),
            _ => None,
        }
    }
}
