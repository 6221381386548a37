//! Paths of UNIX sockets: taken with the mode bits asked for, cleared of what a dead program left
//! behind, and removed at the end if they are still ours.
//!
//! The umask would be the wrong tool for the mode: it is common to all threads of the process, and
//! a file that another thread makes meanwhile would get it, too. Linux gives a path the mode bits
//! of its socket, less the umask, so they are set on the socket before the bind; what the umask
//! took is added afterwards. Elsewhere the path begins with what the umask leaves and gets its bits
//! before the socket listens: until then nobody can connect.

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{SockAddr, Socket, Type};

use super::unix;
use crate::net::OpenError;
use crate::sys;
use crate::unix::UnixAddr;

/// A path that was bound to; removed when this goes, if it still is what was bound.
pub(super) struct Claim {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// A socket that has its address.
pub(super) struct Bound {
    pub(super) claim: Option<Claim>,
    /// Kept until the socket listens, so that nobody who honours it takes us for dead.
    _lock: Option<File>,
}

/// Binds the socket to `address`.
pub(super) fn bind(
    socket: &Socket,
    address: &UnixAddr,
    mode: Option<u32>,
) -> Result<Bound, OpenError> {
    let name = unix::name(address).map_err(OpenError::Bind)?;
    let Some(path) = address.as_path() else {
        socket.bind(&name).map_err(OpenError::Bind)?;
        return Ok(Bound { claim: None, _lock: None });
    };
    if let Some(bits) = mode {
        // Systems that refuse get theirs below.
        let _ = set_mode_of(socket, bits);
    }
    let lock = Lock::take(path);
    match socket.bind(&name) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if matches!(lock, Lock::Busy) {
                return Err(OpenError::Bind(error));
            }
            remove_stale(path, &name).map_err(OpenError::Bind)?;
            socket.bind(&name).map_err(OpenError::Bind)?;
        }
        other => other.map_err(OpenError::Bind)?,
    }
    let (found, metadata) = look(path).map_err(OpenError::Bind)?;
    let claim = Claim {
        // The current directory may change.
        path: std::path::absolute(path).map_err(OpenError::Bind)?,
        device: metadata.dev(),
        inode: metadata.ino(),
    };
    if let Some(bits) = mode
        && metadata.permissions().mode() & 0o777 != bits
    {
        widen(&found, bits).map_err(|error| OpenError::Option("mode", error))?;
    }
    let lock = if let Lock::Held(lock) = lock { Some(lock) } else { None };
    Ok(Bound { claim: Some(claim), _lock: lock })
}

/// Sets the mode bits of a socket without a name yet.
fn set_mode_of(socket: &Socket, bits: u32) -> io::Result<()> {
    let duplicate: OwnedFd = socket.try_clone()?.into();
    File::from(duplicate).set_permissions(Permissions::from_mode(bits))
}

/// The file at a path, by which its mode is changed, and what is known of it; no link is followed.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn look(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    Ok((file, metadata))
}

/// By its descriptor, so that a file or a link put in its place meanwhile is not touched.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn widen(file: &File, bits: u32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::set_permissions(path, Permissions::from_mode(bits))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn look(path: &Path) -> io::Result<(PathBuf, Metadata)> {
    Ok((path.to_owned(), fs::symlink_metadata(path)?))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn widen(path: &Path, bits: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(bits))
}

/// The advisory lock of a directory, by which two programs that find the same dead socket take
/// turns. It is no promise: who cannot read the directory does without.
enum Lock {
    Held(File),
    Busy,
    Unavailable,
}

impl Lock {
    fn take(path: &Path) -> Self {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // Whatever it may be, opening it must not block.
        let flags = libc::O_DIRECTORY | libc::O_NONBLOCK;
        let opened = File::options().read(true).custom_flags(flags).open(directory);
        let Ok(directory) = opened else { return Self::Unavailable };
        match sys::try_lock(directory.as_fd()) {
            Ok(()) => Self::Held(directory),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Self::Busy,
            Err(_) => Self::Unavailable,
        }
    }
}

/// Removes a socket that nobody answers on; anything else is left alone, and an error.
fn remove_stale(path: &Path, name: &SockAddr) -> io::Result<()> {
    let in_use = |why| io::Error::new(io::ErrorKind::AddrInUse, why);
    let found = fs::symlink_metadata(path)?;
    if !found.file_type().is_socket() {
        return Err(in_use("there is a file that is no socket: remove it, or choose another path"));
    }
    if answers(name) {
        return Err(in_use("address in use: somebody has a socket open there"));
    }
    let now = fs::symlink_metadata(path)?;
    if (now.dev(), now.ino()) != (found.dev(), found.ino()) {
        return Err(in_use("address in use: somebody has just taken it"));
    }
    fs::remove_file(path)
}

/// Whether somebody has a socket open at this address. In doubt, somebody has.
fn answers(name: &SockAddr) -> bool {
    for kind in [Type::STREAM, Type::DGRAM, Type::from(libc::SOCK_SEQPACKET)] {
        let Ok(probe) = unix::socket(kind) else { return true };
        match probe.connect(name) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return false,
            Err(error) if error.raw_os_error() == Some(libc::EPROTOTYPE) => {}
            _ => return true,
        }
    }
    true
}

impl Drop for Claim {
    fn drop(&mut self) {
        // The socket is still open, and its inode so not another's.
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}
