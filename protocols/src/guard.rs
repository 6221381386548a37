//! Who gets an answer.

use std::net::SocketAddr;

/// Decides which sources are answered, to keep services from answering each other for ever.
///
/// A datagram with the forged source of another service is answered to that service, which
/// answers the answer. Standard services live on ports under 1024 and clients do not, so by
/// default such ports are not answered. Port 0 never is: it means that no answer is wanted
/// (RFC 768).
///
/// For protocols of your own that answer whatever arrives.
///
/// ```
/// use strand_protocols::Guard;
/// let guard = Guard::new();
/// assert!(guard.admits("192.0.2.1:1024".parse().unwrap()));
/// assert!(!guard.admits("192.0.2.1:19".parse().unwrap()));
///
/// let open = guard.allow_privileged_ports(true);
/// assert!(open.admits("192.0.2.1:19".parse().unwrap()));
/// assert!(!open.admits("192.0.2.1:0".parse().unwrap()));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    privileged: bool,
}

impl Guard {
    /// A guard that refuses ports under 1024.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether ports 1 to 1023 are answered, too. For networks where nobody forges sources.
    pub fn allow_privileged_ports(mut self, on: bool) -> Self {
        self.privileged = on;
        self
    }

    /// Whether a datagram from `source` may be answered.
    pub fn admits(&self, source: SocketAddr) -> bool {
        source.port() >= if self.privileged { 1 } else { 1024 }
    }
}
