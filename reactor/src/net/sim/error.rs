//! What the calls of a world refuse.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::net::IpAddr;

/// Why a host could not be made, or not be found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostError {
    /// This is no address of a host.
    Address {
        /// What was given.
        given: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// This is no name of a host.
    Name {
        /// What was given.
        given: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is a host of this name.
    NameTaken {
        /// The name.
        name: String,
    },
    /// Another host has this address.
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// The name of that host.
        by: String,
    },
    /// The host has crashed.
    Down {
        /// The name.
        name: String,
    },
    /// There is no host of this name.
    Unknown {
        /// The name.
        name: String,
    },
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { given, reason } => {
                write!(f, "'{given}' cannot be an address of a host: {reason}")
            }
            Self::Name { given, reason } => {
                write!(f, "'{given}' cannot be the name of a host: {reason}")
            }
            Self::NameTaken { name } => {
                write!(f, "there is a host '{name}': choose another name, or restart that host")
            }
            Self::AddressTaken { address, by } => {
                write!(f, "{address} belongs to host '{by}': choose another address")
            }
            Self::Down { name } => write!(f, "the host '{name}' is down: restart it"),
            Self::Unknown { name } => write!(f, "there is no host '{name}': make it first"),
        }
    }
}

impl Error for HostError {}

impl From<Infallible> for HostError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}
