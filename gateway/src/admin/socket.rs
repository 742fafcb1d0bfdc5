//! The socket's place in the file system. Whose it is, is settled by a lock beside it (`PATH.lock`), which dies with its process: a
//! socket that a killed gateway left is replaced, one that somebody serves is never touched.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Group};
use tracing::{info, warn};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;
/// Mode of the socket: its owner and its group.
const MODE: u32 = 0o660;
/// Mode of a parent directory that is made: the socket has its own mode.
const PARENT_MODE: u32 = 0o755;
/// How often a lock file may vanish under our hands, because another gateway is just stopping.
const LOCK_ATTEMPTS: usize = 16;

/// Where the socket is, and who may use it besides root and the gateway's own user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOptions {
    /// Its path; at most 107 bytes. The parent directory is made if it is missing and its own parent is there.
    pub path: PathBuf,
    /// Name or number of a group whose members may use it. Without one nobody else may: the group that a daemon happens to
    /// have (`nogroup`) often has unexpected members.
    pub group: Option<String>,
}

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody serves it.
    #[error("admin socket {0}: another gateway is serving it")]
    Live(PathBuf),
    /// There is something else.
    #[error("admin socket {0}: there is a file which is not a socket; remove it, or choose another path")]
    NotASocket(PathBuf),
    /// The parent directory is unsafe or missing.
    #[error("admin socket {path}: directory {}: {why}", parent.display())]
    Parent {
        /// The socket.
        path: PathBuf,
        /// Its directory.
        parent: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No such group.
    #[error("admin socket: there is no group '{0}'")]
    NoGroup(String),
    /// Something else has failed.
    #[error("admin socket {path}: {what}: {error}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What came of it.
        error: io::Error,
    },
}

/// A socket that is ours and listens. Dropped, it is removed, if it is still ours.
#[derive(Debug)]
pub struct AdminSocket {
    pub(super) listener: UnixListener,
    pub(super) group: Option<Gid>,
    path: PathBuf,
    /// Device and inode of what we have bound.
    identity: (u64, u64),
    /// Held until after the socket is removed.
    _lock: Lock,
}

impl AdminSocket {
    /// Makes the socket: mode 0660, of the group if there is one. Blocks on the file system and on the group database for a
    /// moment; needs the rights to change the group.
    ///
    /// # Errors
    /// [`SocketError`]; then nothing has been changed, except that a parent directory may have been made.
    pub fn bind(options: &SocketOptions) -> Result<Self, SocketError> {
        let path = std::path::absolute(&options.path).map_err(|error| SocketError::Io {
            path: options.path.clone(),
            what: "path",
            error,
        })?;
        let failed = |what| {
            let path = path.clone();
            move |error: io::Error| SocketError::Io { path, what, error }
        };
        let group = options.group.as_deref().map(group).transpose()?;
        let address = UnixAddr::new(&path).map_err(io::Error::from).map_err(failed("path"))?;
        check_parent(&path)?;
        let lock = Lock::take(&path)?;
        make_way(&path, &address)?;

        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)
            .map_err(io::Error::from)
            .map_err(failed("socket"))?;
        // The file takes its mode from the socket: it is never open to more than its owner before its group is set.
        fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR).map_err(io::Error::from).map_err(failed("mode"))?;
        socket::bind(fd.as_raw_fd(), &address).map_err(io::Error::from).map_err(failed("bind"))?;
        let identity = fs::symlink_metadata(&path).map(|file| identity(&file)).map_err(failed("bind"))?;
        // From here on an error drops this and so removes the file.
        let bound =
            Self { listener: UnixListener::from(fd), group, path: path.clone(), identity, _lock: lock };
        if let Some(group) = group {
            std::os::unix::fs::lchown(&path, None, Some(group.as_raw())).map_err(failed("group"))?;
        }
        fs::set_permissions(&path, Permissions::from_mode(MODE)).map_err(failed("mode"))?;
        let backlog = Backlog::new(BACKLOG).map_err(io::Error::from).map_err(failed("listen"))?;
        socket::listen(&bound.listener, backlog).map_err(io::Error::from).map_err(failed("listen"))?;
        info!("control socket {}", path.display());
        Ok(bound)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|file| identity(&file) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            // Without the rights that it was made with. The next start replaces it.
            warn!("control socket {}: it stays behind: {error}", self.path.display());
        }
    }
}

/// An exclusive lock on a file; the file is removed when it is dropped.
#[derive(Debug)]
struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    fn take(socket: &Path) -> Result<Self, SocketError> {
        let mut name = socket.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        let failed = |error| SocketError::Io { path: socket.to_owned(), what: "lock file", error };
        for _ in 0..LOCK_ATTEMPTS {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(&path)
                .map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(SocketError::Live(socket.to_owned())),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            let lock = Self { file, path: path.clone() };
            // A lock on a file that its holder has just removed is worth nothing.
            if lock.is_in_place() {
                return Ok(lock);
            }
        }
        Err(failed(io::Error::other("it keeps vanishing")))
    }

    fn is_in_place(&self) -> bool {
        match (self.file.metadata(), fs::symlink_metadata(&self.path)) {
            (Ok(held), Ok(there)) => identity(&held) == identity(&there),
            _ => false,
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.is_in_place() {
            // If it stays, it is in nobody's way: the lock itself ends here.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

fn group(name: &str) -> Result<Gid, SocketError> {
    if let Ok(Some(group)) = Group::from_name(name) {
        return Ok(group.gid);
    }
    name.parse().map(Gid::from_raw).map_err(|_| SocketError::NoGroup(name.to_owned()))
}

/// Others must not be able to put something else in the socket's place.
fn check_parent(path: &Path) -> Result<(), SocketError> {
    let Some(parent) = path.parent() else {
        return Err(SocketError::NotASocket(path.to_owned()));
    };
    let refuse =
        |why: String| Err(SocketError::Parent { path: path.to_owned(), parent: parent.to_owned(), why });
    let found = match fs::metadata(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match DirBuilder::new().mode(PARENT_MODE).create(parent) {
                Ok(()) => info!("made the directory {}", parent.display()),
                Err(error) => return refuse(format!("it is missing, and cannot be made: {error}")),
            }
            fs::metadata(parent)
        }
        found => found,
    };
    let directory = match found {
        Ok(directory) => directory,
        Err(error) => return refuse(error.to_string()),
    };
    let (owner, mode) = (directory.uid(), directory.mode());
    if !directory.is_dir() {
        return refuse("it is not a directory".to_owned());
    }
    if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        return refuse(format!("it belongs to uid {owner}, who could replace the socket"));
    }
    let (writable, sticky) = (mode & 0o022 != 0, mode & libc::S_ISVTX != 0);
    if writable && !sticky {
        return refuse(format!(
            "others may write to it (mode {:04o}) and could replace the socket",
            mode & 0o7777
        ));
    }
    Ok(())
}

/// Removes a socket that nobody serves. The caller holds the lock.
fn make_way(path: &Path, address: &UnixAddr) -> Result<(), SocketError> {
    let failed = |what, error| SocketError::Io { path: path.to_owned(), what, error };
    let there = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("stat", error)),
        Ok(there) => there,
    };
    if !there.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .map_err(|error| failed("socket", error.into()))?;
    match socket::connect(probe.as_raw_fd(), address) {
        // EAGAIN: it listens, and its queue is full.
        Ok(()) | Err(Errno::EAGAIN) => Err(SocketError::Live(path.to_owned())),
        Err(Errno::ECONNREFUSED) => {
            info!("control socket {}: replacing what a gateway left that is gone", path.display());
            fs::remove_file(path).map_err(|error| failed("the old socket cannot be removed", error))
        }
        Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(failed("it is there, and its owner cannot be found out", error.into())),
    }
}
