//! Single-datagram system calls with packet info: the epoll path and stateless replies.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::cmsg::{self, CONTROL_LEN, Control, NAME_LEN, Name};
use super::path::Path;

/// Sends one datagram from a borrowed buffer without ever waiting or queueing: for stateless replies, which may be lost.
///
/// # Errors
/// `WouldBlock` when the socket buffer is full (the datagram is dropped), else the error of `sendmsg`.
pub fn try_send_now(socket: BorrowedFd<'_>, bytes: &[u8], path: &Path) -> io::Result<()> {
    let mut name = Name::EMPTY;
    let mut control = Control::EMPTY;
    let name_len = cmsg::encode_name(path.remote, &mut name);
    let control_len = cmsg::encode_local(path, &mut control);
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut header = empty_header();
    header.msg_name = name.0.as_mut_ptr().cast();
    header.msg_namelen = name_len as libc::socklen_t;
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    if control_len > 0 {
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = control_len as _;
    }
    loop {
        // SAFETY: every pointer in `header` refers to a live local or to `bytes`, with its true length; sendmsg only reads them.
        let sent = unsafe {
            libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
        };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Receives one datagram without waiting. Returns its length and path; a datagram longer than `buf` is an `InvalidData` error
/// (it has left the queue).
///
/// # Errors
/// `WouldBlock` when the queue is empty, `InvalidData` for a truncated datagram or one without an IP source, else the error of
/// `recvmsg`.
pub fn recv_now(socket: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<(usize, Path)> {
    let mut name = Name::EMPTY;
    let mut control = Control::EMPTY;
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let mut header = empty_header();
    header.msg_name = name.0.as_mut_ptr().cast();
    header.msg_namelen = NAME_LEN as libc::socklen_t;
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_LEN as _;
    loop {
        // SAFETY: every pointer in `header` refers to a live, exclusively borrowed local or to `buf`, with its true length.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
        if let Ok(len) = usize::try_from(got) {
            let path = path_of(&header, &name, &control)?;
            return Ok((len, path));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// How full a socket's receive buffer is, in percent of its bound.
///
/// # Errors
/// That of `getsockopt`.
pub fn receive_fill(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // SK_MEMINFO_VARS numbers: the first is what is held, the second what may be.
    let mut info = [0u32; 9];
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: `info` and `len` live across the call, and `len` is the true length of `info`.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    let [held, bound, ..] = info;
    Ok(u32::try_from(u64::from(held) * 100 / u64::from(bound.max(1))).unwrap_or(u32::MAX))
}

/// Reads the path out of a completed receive.
///
/// # Errors
/// `InvalidData` for a truncated datagram or one without an IP source address.
pub(super) fn path_of(header: &libc::msghdr, name: &Name, control: &Control) -> io::Result<Path> {
    if header.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "datagram longer than the receive buffer"));
    }
    let name_len = (header.msg_namelen as usize).min(NAME_LEN);
    let remote = cmsg::decode_name(&name.0[..name_len])
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "datagram without an IP source address"))?;
    let control_len = header.msg_controllen.min(CONTROL_LEN);
    Ok(Path { remote, local: cmsg::decode_local(&control.0[..control_len]) })
}

/// A message header that refers to nothing.
pub(super) fn empty_header() -> libc::msghdr {
    // SAFETY: all-zero is a valid msghdr: null pointers with zero lengths.
    unsafe { std::mem::zeroed() }
}
