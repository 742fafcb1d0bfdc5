//! Who is at the other end of a Unix socket, by the kernel's word.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Gid;

/// Groups that are asked for at first; more are asked for when the kernel says so.
const SOME_GROUPS: usize = 64;
/// Most groups of a process (`NGROUPS_MAX`).
const MOST_GROUPS: usize = 65_536;

/// A process that has connected, as it was at that moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// The process; 0 when it is not of our pid namespace.
    pub pid: i32,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {} pid {}", self.uid, self.pid)
    }
}

impl Peer {
    /// Who has connected.
    pub(super) fn of(stream: &impl AsFd) -> io::Result<Self> {
        let credentials = getsockopt(stream, sockopt::PeerCredentials)?;
        Ok(Self { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() })
    }

    /// Root, or the user that the gateway runs as.
    pub(super) fn is_owner(&self) -> bool {
        self.uid == 0 || self.uid == nix::unistd::geteuid().as_raw()
    }

    /// Whether it is in a group, be it by a supplementary one.
    pub(super) fn is_member(&self, stream: &impl AsFd, group: Gid) -> io::Result<bool> {
        Ok(self.gid == group.as_raw() || groups(stream.as_fd())?.contains(&group.as_raw()))
    }
}

/// The supplementary groups of whoever has connected.
fn groups(stream: BorrowedFd<'_>) -> io::Result<Vec<libc::gid_t>> {
    let mut groups = vec![0; SOME_GROUPS];
    loop {
        let room = groups.len() * size_of::<libc::gid_t>();
        let mut len = libc::socklen_t::try_from(room).map_err(io::Error::other)?;
        // SAFETY: `groups` has room for `len` bytes, which are valid as group ids whatever they are; both live on.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let found = len as usize / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(found);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // `len` says how many there are.
        if error.raw_os_error() != Some(libc::ERANGE) || found <= groups.len() || found > MOST_GROUPS {
            return Err(error);
        }
        groups.resize(found, 0);
    }
}
