//! Finds out whether io_uring may be used here.

use std::fmt;
use std::io;

use io_uring::{IoUring, Probe, opcode};

use crate::config::IoChoice;

/// How the control plane's sockets are driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoBackend {
    /// tokio-uring.
    Uring,
    /// Plain tokio.
    Epoll,
}

impl fmt::Display for IoBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "io_uring",
            Self::Epoll => "epoll",
        })
    }
}

/// Picks the back end, and says why.
///
/// # Errors
/// When io_uring is demanded and not to be had.
pub fn probe(choice: IoChoice) -> io::Result<(IoBackend, String)> {
    if choice == IoChoice::Epoll {
        return Ok((IoBackend::Epoll, "as configured".to_owned()));
    }
    match (try_ring(), choice) {
        (Ok(()), _) => Ok((IoBackend::Uring, "the kernel offers it".to_owned())),
        (Err(error), IoChoice::Uring) => {
            let text = format!("io uring: the host refuses io_uring: {}", explain(&error));
            Err(io::Error::new(error.kind(), text))
        }
        (Err(error), _) => Ok((IoBackend::Epoll, format!("io_uring is refused: {}", explain(&error)))),
    }
}

/// Sets up the smallest ring, asks for the operations the control plane uses, and lets it go.
fn try_ring() -> io::Result<()> {
    let ring = IoUring::new(1)?;
    let mut known = Probe::new();
    ring.submitter().register_probe(&mut known)?;
    for (code, name) in [
        (opcode::RecvMsg::CODE, "RECVMSG"),
        (opcode::SendMsg::CODE, "SENDMSG"),
        (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
    ] {
        if !known.is_supported(code) {
            let text = format!("the kernel's io_uring has no {name}");
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
    }
    Ok(())
}

fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            format!("{error} (kernel.io_uring_disabled, or a seccomp filter of the container)")
        }
        Some(libc::ENOSYS) => format!("{error} (the kernel, or a seccomp filter, does not have it)"),
        Some(libc::ENOMEM) => format!("{error} (the limit of locked memory is too small)"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoll_is_always_there() {
        assert_eq!(probe(IoChoice::Epoll).unwrap().0, IoBackend::Epoll);
    }
}
