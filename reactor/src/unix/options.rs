//! What UNIX sockets are opened with.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::UnixAddr;
use crate::datagram::{QueuePolicy, within};
use crate::error::{AddressError, ListenError, OptionError};
use crate::net::{UnixDatagramSpec, UnixListenSpec};
use crate::stream::{Accept, AcceptBudget, Common, Tuning, accept_setters, stream_setters};

/// How to open a UNIX port: a path or an abstract name, and options that have good defaults.
///
/// Wherever one is wanted, a path (`&str`, `&Path`, `PathBuf`, `String`) or a [`UnixAddr`] does
/// as well.
///
/// ```
/// use strand_reactor::{PeerAddr, Protocol, Reactor, Transport, UnixOptions};
/// # struct P;
/// # impl Protocol for P {
/// #     fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> { Ok(()) }
/// # }
/// let reactor = Reactor::new()?;
/// let path = std::env::temp_dir().join(format!("strand-options-{}.sock", std::process::id()));
/// let options = UnixOptions::new(&path).mode(0o600).backlog(64);
/// let port = reactor.listen_unix(options, |_: PeerAddr| Some(P))?;
/// assert_eq!(port.unix_addr()?.as_path(), Some(&*path));
/// port.stop_listening();
/// reactor.run()?;
/// assert!(!path.exists());
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct UnixOptions {
    address: UnixAddr,
    mode: Option<u32>,
    backlog: u32,
    accept: Accept,
    common: Common,
}

impl UnixOptions {
    /// A port at `address`.
    pub fn new(address: impl Into<UnixAddr>) -> Self {
        Self {
            address: address.into(),
            mode: None,
            backlog: 1024,
            accept: Accept::default(),
            common: Common::unix(),
        }
    }

    /// The mode bits of the path, exactly: who may connect is whoever may write. Unless set, they
    /// are what the process's umask leaves of 0777.
    ///
    /// At no moment can anybody connect whom these bits shut out: they are in force before the
    /// port listens. The umask of the process is left alone, which is common to all its threads.
    pub fn mode(mut self, bits: u32) -> Self {
        self.mode = Some(bits);
        self
    }

    /// Connections that may wait to be accepted: 1,024 by default. The system may clamp it
    /// (`net.core.somaxconn`).
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = connections;
        self
    }

    /// Most connections of one user ([`PeerCredentials::uid`](super::PeerCredentials)) at once;
    /// one more is closed as soon as it is accepted. Where the system does not tell the user, all
    /// count as one.
    pub fn max_connections_per_user(mut self, connections: usize) -> Self {
        self.accept.max_connections_per_peer = Some(connections);
        self
    }

    accept_setters!();
    stream_setters!();

    pub(crate) fn check(self) -> Result<(UnixListenSpec, Accept, Tuning), ListenError> {
        let address = self.address.check()?;
        check_mode(&address, self.mode)?;
        let accept = self.accept.check()?;
        let tuning = self.common.tuning.check()?;
        let (mode, backlog) = (self.mode, self.backlog);
        let options = self.common.check()?;
        Ok((UnixListenSpec { address, mode, backlog, options }, accept, tuning))
    }
}

fn check_mode(address: &UnixAddr, mode: Option<u32>) -> Result<(), OptionError> {
    let Some(bits) = mode else { return Ok(()) };
    within("mode", bits.into(), 0, 0o777)?;
    if address.as_path().is_none() {
        return Err(OptionError::Contradiction {
            reason: "mode bits for a socket without a path: ask who is there (peer_credentials) \
                     instead, or use a path",
        });
    }
    Ok(())
}

/// How to connect to a UNIX port: its path or abstract name, and options that have good defaults.
///
/// Wherever one is wanted, a path (`&str`, `&Path`, `PathBuf`, `String`) or a [`UnixAddr`] does
/// as well.
///
/// ```
/// use std::time::Duration;
/// use strand_reactor::UnixConnectOptions;
/// let options = UnixConnectOptions::new("/run/echo.sock").timeout(Duration::from_secs(3));
/// assert_eq!(options.address().to_string(), "/run/echo.sock");
/// ```
#[derive(Clone, Debug)]
pub struct UnixConnectOptions {
    address: UnixAddr,
    pub(crate) timeout: Duration,
    pub(crate) label: Option<String>,
    pub(crate) common: Common,
}

impl UnixConnectOptions {
    /// A connection to `address`.
    pub fn new(address: impl Into<UnixAddr>) -> Self {
        Self {
            address: address.into(),
            timeout: Duration::from_secs(30),
            label: None,
            common: Common::unix(),
        }
    }

    /// Where to connect to.
    pub fn address(&self) -> &UnixAddr {
        &self.address
    }

    /// How long the attempt may take: 30 s by default. It fails at once where nobody listens;
    /// what takes time is a server that does not accept as fast as others connect.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// The name of the connection in logs; by default its kind and the peer's address.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    stream_setters!();
}

/// How to open a UNIX datagram port, and options that have good defaults.
///
/// Wherever one is wanted, a path (`&str`, `&Path`, `PathBuf`, `String`) or a [`UnixAddr`] does
/// as well; [`UnixDatagramOptions::unnamed`] is a port that others cannot send to by address.
#[derive(Clone, Debug)]
pub struct UnixDatagramOptions {
    address: UnixAddr,
    mode: Option<u32>,
    recv_buffer: Option<usize>,
    send_buffer: Option<usize>,
    pub(crate) tuning: DatagramTuning,
    pub(crate) label: Option<String>,
}

/// What a port of datagrams does above its socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DatagramTuning {
    pub(crate) queue_datagrams: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) queue_policy: QueuePolicy,
    pub(crate) start_paused: bool,
}

impl Default for DatagramTuning {
    fn default() -> Self {
        Self {
            queue_datagrams: 1024,
            queue_bytes: 1 << 20,
            queue_policy: QueuePolicy::default(),
            start_paused: false,
        }
    }
}

impl UnixDatagramOptions {
    /// A port at `address`.
    pub fn new(address: impl Into<UnixAddr>) -> Self {
        Self {
            address: address.into(),
            mode: None,
            recv_buffer: None,
            send_buffer: None,
            tuning: DatagramTuning::default(),
            label: None,
        }
    }

    /// A port without an address: it sends, and hears only what comes over a pair of sockets.
    ///
    /// ```
    /// # use strand_reactor::*;
    /// # struct P;
    /// # impl UnixDatagramProtocol for P {
    /// #     fn datagram_received(&mut self, _: &UnixDatagramTransport, _: UnixDatagram<'_>)
    /// #     -> anyhow::Result<()> { Ok(()) }
    /// # }
    /// let reactor = Reactor::new()?;
    /// let port = reactor.listen_unix_datagram(UnixDatagramOptions::unnamed(), P)?;
    /// assert!(port.local_addr()?.is_unnamed());
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn unnamed() -> Self {
        Self::new(UnixAddr::UNNAMED)
    }

    /// The mode bits of the path, exactly: who may send is whoever may write. Unless set, they are
    /// what the process's umask leaves of 0777. On Linux the path never is more open than these
    /// bits; elsewhere put it into a directory of its own, for it begins with what the umask
    /// leaves.
    pub fn mode(mut self, bits: u32) -> Self {
        self.mode = Some(bits);
        self
    }

    /// Asks for a receive buffer of this many bytes. What Linux counts instead is the sender's
    /// buffer, and the datagrams that wait (`net.unix.max_dgram_qlen`, unix(7)).
    pub fn recv_buffer_size(mut self, bytes: usize) -> Self {
        self.recv_buffer = Some(bytes);
        self
    }

    /// Asks for a send buffer of this many bytes, which also bounds the longest datagram.
    pub fn send_buffer_size(mut self, bytes: usize) -> Self {
        self.send_buffer = Some(bytes);
        self
    }

    /// Datagrams and bytes that may wait while a receiver has no room: 1,024 and 1 MiB by
    /// default.
    pub fn queue_limit(mut self, datagrams: usize, bytes: usize) -> Self {
        (self.tuning.queue_datagrams, self.tuning.queue_bytes) = (datagrams, bytes);
        self
    }

    /// What happens to a write when that queue is full; it fails, unless set.
    pub fn queue_policy(mut self, policy: QueuePolicy) -> Self {
        self.tuning.queue_policy = policy;
        self
    }

    /// Opens the port with reading paused.
    pub fn start_paused(mut self, on: bool) -> Self {
        self.tuning.start_paused = on;
        self
    }

    /// The name of the port in logs; by default its kind and address.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    pub(crate) fn check(&self) -> Result<UnixDatagramSpec, ListenError> {
        let address = match self.address.is_unnamed() {
            true => None,
            false => Some(self.address.clone().check()?),
        };
        check_mode(&self.address, self.mode)?;
        within("queue_limit (datagrams)", self.tuning.queue_datagrams as u64, 1, 1 << 30)?;
        within("queue_limit (bytes)", self.tuning.queue_bytes as u64, 1, 1 << 40)?;
        for (name, size) in
            [("recv_buffer_size", self.recv_buffer), ("send_buffer_size", self.send_buffer)]
        {
            within(name, size.unwrap_or(1) as u64, 1, i32::MAX as u64)?;
        }
        let (mode, recv_buffer, send_buffer) = (self.mode, self.recv_buffer, self.send_buffer);
        Ok(UnixDatagramSpec { address, mode, recv_buffer, send_buffer })
    }
}

impl UnixConnectOptions {
    pub(crate) fn check(&self) -> Result<(), AddressError> {
        self.address.clone().check().map(drop)
    }
}

macro_rules! conversions {
    ($options:ty: $($from:ty),*) => {$(
        impl From<$from> for $options {
            fn from(address: $from) -> Self {
                Self::new(address)
            }
        }
    )*};
}

conversions!(UnixOptions: UnixAddr, &UnixAddr, &str, String, &Path, PathBuf, &PathBuf);
conversions!(UnixConnectOptions: UnixAddr, &UnixAddr, &str, String, &Path, PathBuf, &PathBuf);
conversions!(UnixDatagramOptions: UnixAddr, &UnixAddr, &str, String, &Path, PathBuf, &PathBuf);
