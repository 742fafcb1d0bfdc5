//! System calls of the plugin hosts that no library wraps safely.

use std::ffi::c_int;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::socket::{SockType, getsockopt, setsockopt, sockopt};
use nix::unistd::ForkResult;

use super::wire::MAX_MESSAGE;

/// Signals that tell a gateway something. A whole service gets them; its plugins must live until the gateway ends them, as
/// it still calls them when it stops.
const FOR_THE_GATEWAY: [Signal; 5] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];

/// Takes over the socket that the gateway left open for this process.
///
/// # Errors
/// When the number is not of such a socket.
pub(super) fn adopt(number: RawFd) -> io::Result<UnixDatagram> {
    // SAFETY: a plain system call on a number; it fails if there is no such descriptor.
    let there = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if number < 3 || there < 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the gateway left no socket"));
    }
    // SAFETY: it is open, and this process has just begun: nothing else in it owns a descriptor but the standard three.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    if getsockopt(&socket, sockopt::SockType)? != SockType::SeqPacket {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the socket of a gateway"));
    }
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(socket.into())
}

/// The one descriptor that came with a message.
pub(super) fn received(number: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made it for us, in a message that the caller has read; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Gives a socket room for one message of the largest size.
///
/// # Errors
/// As the system has it.
pub(super) fn make_room(socket: &OwnedFd) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::SndBuf, &MAX_MESSAGE)?)
}

/// In a new process before it becomes a host: a session of its own, and of the gateway's descriptors only `socket`.
///
/// # Errors
/// As the system has it.
pub(super) fn prepare_host(socket: RawFd) -> io::Result<()> {
    nix::unistd::setsid()?;
    close_range(3, c_int::MAX, libc::CLOSE_RANGE_CLOEXEC)?;
    // SAFETY: a plain system call on a descriptor that is open in this process, a copy of the gateway's.
    if unsafe { libc::fcntl(socket, libc::F_SETFD, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Forks this process, which has one thread.
///
/// # Errors
/// As the system has it.
pub(super) fn fork() -> nix::Result<ForkResult> {
    // SAFETY: a supervisor has no threads but this, so that no lock is held and everything is as it looks in the child.
    unsafe { nix::unistd::fork() }
}

/// Closes all descriptors but the three standard ones and `keep`. Whatever owned one of them must never be dropped.
///
/// # Errors
/// As the system has it.
pub(super) fn close_all_but(keep: RawFd) -> io::Result<()> {
    if keep > 3 {
        close_range(3, keep - 1, 0)?;
    }
    close_range(keep + 1, c_int::MAX, 0)
}

/// Signals for the gateway do nothing here. With `SIG_IGN` what a plugin starts would inherit it; a handler is reset there.
///
/// # Errors
/// As the system has it.
pub(super) fn shrug_off_signals() -> io::Result<()> {
    extern "C" fn shrug(_: c_int) {}
    let action = SigAction::new(SigHandler::Handler(shrug), SaFlags::SA_RESTART, SigSet::empty());
    for signal in FOR_THE_GATEWAY {
        // SAFETY: the handler does nothing, so it is safe at any moment.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// Faults end the process at once, as in any program in C: Rust's own handler, which looks for stack overflows, lets the first
/// raised one pass.
///
/// # Errors
/// As the system has it.
pub(super) fn fault_as_c_does() -> io::Result<()> {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGSEGV, Signal::SIGBUS] {
        // SAFETY: the system's default action, in place of a handler that only makes messages.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

fn close_range(first: c_int, last: c_int, flags: u32) -> io::Result<()> {
    let (first, last) = (first.cast_unsigned(), last.cast_unsigned());
    // SAFETY: a plain system call on descriptor numbers; what that means for owners is the callers' to say.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
