//! Addresses of UNIX sockets, and who is at the other end of one.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::AddressError;

/// Bytes of a path, less the zero byte that ends it (unix(7)): 107 on Linux.
const PATH_MAX: usize = NAME_MAX - 1;
/// Bytes of an abstract name and the zero byte before it.
const NAME_MAX: usize =
    size_of::<libc::sockaddr_un>() - std::mem::offset_of!(libc::sockaddr_un, sun_path);

/// The address of a UNIX socket: a path, a name in Linux's abstract namespace, or none.
///
/// Cheap to clone. Text that begins with a zero byte is an abstract name, as for Python and
/// Twisted; any other text is a path. Nothing is checked before the address is used.
///
/// ```
/// use std::path::Path;
/// use strand_reactor::UnixAddr;
/// let address = UnixAddr::from("/run/echo.sock");
/// assert_eq!(address.as_path(), Some(Path::new("/run/echo.sock")));
/// assert_eq!(address.to_string(), "/run/echo.sock");
/// let name = UnixAddr::abstract_name("echo");
/// assert_eq!(name, UnixAddr::from("\0echo"));
/// assert_eq!((name.as_abstract_name(), name.to_string().as_str()), (Some(&b"echo"[..]), "@echo"));
/// assert!(UnixAddr::UNNAMED.is_unnamed());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixAddr(Repr);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Repr {
    Unnamed,
    Path(Arc<Path>),
    Abstract(Arc<[u8]>),
}

impl UnixAddr {
    /// The address of a socket that was never bound, as that of most clients.
    pub const UNNAMED: Self = Self(Repr::Unnamed);

    /// A name in the abstract namespace of Linux: it has no file, no mode bits, and is gone with
    /// its socket. Every program of the same network namespace can take or connect to it.
    pub fn abstract_name(name: impl AsRef<[u8]>) -> Self {
        Self(Repr::Abstract(name.as_ref().into()))
    }

    /// The path, if it is one.
    pub fn as_path(&self) -> Option<&Path> {
        match &self.0 {
            Repr::Path(path) => Some(path),
            _ => None,
        }
    }

    /// The abstract name, without the zero byte before it, if it is one.
    pub fn as_abstract_name(&self) -> Option<&[u8]> {
        match &self.0 {
            Repr::Abstract(name) => Some(name),
            _ => None,
        }
    }

    /// Whether there is no address.
    pub fn is_unnamed(&self) -> bool {
        matches!(self.0, Repr::Unnamed)
    }

    /// As [`Clone`], but for what the system says again and again: keeps the memory of `last`.
    pub(crate) fn from_path_or(last: &Self, path: &Path) -> Self {
        match &last.0 {
            Repr::Path(known) if **known == *path => last.clone(),
            _ => path.into(),
        }
    }

    /// The address, if a socket can be bound or connected to it.
    pub(crate) fn check(self) -> Result<Self, AddressError> {
        let reason = match &self.0 {
            Repr::Unnamed => "a UNIX socket needs a path or an abstract name here",
            Repr::Path(path) if path.as_os_str().is_empty() => "the path is empty",
            Repr::Path(path) if path.as_os_str().as_bytes().contains(&0) => {
                "a path has no zero byte in it"
            }
            Repr::Path(path) if path.as_os_str().len() > PATH_MAX => {
                "the path is too long for a UNIX socket (107 bytes on Linux, see unix(7)): choose \
                 a shorter one, or one relative to the current directory"
            }
            Repr::Abstract(_) if !cfg!(any(target_os = "linux", target_os = "android")) => {
                "only Linux has abstract names: use a path"
            }
            Repr::Abstract(name) if name.is_empty() => "the abstract name is empty",
            Repr::Abstract(name) if name.len() > NAME_MAX - 1 => {
                "the abstract name is too long (107 bytes at most, see unix(7))"
            }
            _ => return Ok(self),
        };
        Err(AddressError { text: self.to_string(), reason })
    }
}

impl fmt::Display for UnixAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Unnamed => f.write_str("unnamed"),
            Repr::Path(path) => path.display().fmt(f),
            Repr::Abstract(name) => write!(f, "@{}", name.escape_ascii()),
        }
    }
}

impl fmt::Debug for UnixAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Unnamed => f.write_str("UnixAddr(unnamed)"),
            Repr::Path(path) => write!(f, "UnixAddr({path:?})"),
            Repr::Abstract(name) => write!(f, "UnixAddr(@\"{}\")", name.escape_ascii()),
        }
    }
}

impl From<&Path> for UnixAddr {
    fn from(path: &Path) -> Self {
        match path.as_os_str().as_bytes() {
            [0, name @ ..] => Self::abstract_name(name),
            _ => Self(Repr::Path(path.into())),
        }
    }
}

impl From<&OsStr> for UnixAddr {
    fn from(path: &OsStr) -> Self {
        Path::new(path).into()
    }
}

impl From<&Self> for UnixAddr {
    fn from(address: &Self) -> Self {
        address.clone()
    }
}

macro_rules! from_path {
    ($($path:ty),*) => {$(
        impl From<$path> for UnixAddr {
            fn from(path: $path) -> Self {
                Path::new(&path).into()
            }
        }
    )*};
}

from_path!(&str, String, &String, PathBuf, &PathBuf);

/// Who opened the other end of a UNIX stream, as the system vouches for it (`SO_PEERCRED`,
/// unix(7)): for a client, whoever called `listen`; for a server, whoever called `connect`.
///
/// ```
/// use std::os::unix::net::UnixStream;
/// # use strand_reactor::*;
/// # struct P;
/// # impl Protocol for P {
/// #     fn data_received(&mut self, _: &Transport, _: &[u8]) -> anyhow::Result<()> { Ok(()) }
/// # }
/// let reactor = Reactor::new()?;
/// let (one, _other) = UnixStream::pair()?;
/// let transport = reactor.adopt_stream_connection(one, P)?;
/// match transport.peer_credentials() {
///     Ok(peer) => assert_eq!(peer.pid.unwrap_or(std::process::id()), std::process::id()),
///     Err(error) => assert!(matches!(error, OptionError::Unsupported { .. })),
/// }
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PeerCredentials {
    /// The process; `None` where the system does not say (the BSDs), and for a process of a
    /// namespace that this one cannot see into. It may have ended since.
    pub pid: Option<u32>,
    /// The effective user.
    pub uid: u32,
    /// The effective group.
    pub gid: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_socket_can_have_is_refused_with_a_reason() {
        for (address, reason) in [
            (UnixAddr::UNNAMED, "needs a path"),
            ("".into(), "empty"),
            ("a\0b".into(), "zero byte"),
            ("/".repeat(PATH_MAX + 1).into(), "too long"),
            ("\0".into(), "empty"),
            (UnixAddr::abstract_name([b'n'; NAME_MAX]), "too long"),
        ] {
            let error = address.check().expect_err("refused").to_string();
            let known = cfg!(any(target_os = "linux", target_os = "android"));
            assert!(error.contains(reason) || (!known && error.contains("abstract")), "{error}");
        }
        UnixAddr::from("/".repeat(PATH_MAX)).check().expect("as long as it may be");
    }
}
