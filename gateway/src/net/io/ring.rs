//! Receives through io_uring together with packet info, which tokio-uring's own `recvmsg` does not pass on.
//!
//! One `RECVMSG` at a time is in flight on a small ring of the socket's own; the runtime watches that ring's descriptor, exactly as
//! tokio-uring watches its own. One request keeps the datagrams in order, and costs one system call per datagram: when one
//! is waiting, the request completes within its submission. The kernel writes into memory of the ring, so a caller that drops
//! its future loses nothing: the datagram is there for the next call.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use io_uring::{IoUring, opcode, types};
use tokio::io::unix::AsyncFd;

use crate::net::cmsg::{CONTROL_LEN, Control, NAME_LEN, Name};
use crate::net::path::Path;
use crate::net::sys::{empty_header, path_of};

/// Longest datagram: control packets are far below; a tls-crypt-v2 reset with the largest client key is about 2 KiB.
const SLOT_LEN: usize = 4096;
/// The receive and its cancellation, rounded up to a power of two.
const ENTRIES: u32 = 2;
/// `user_data` of the receive.
const RECEIVE: u64 = 1;
/// `user_data` of its cancellation.
const CANCEL: u64 = 2;

/// The receiving side of one socket.
pub(super) struct RecvRing {
    /// A duplicate of the ring's descriptor, readable when completions are there.
    ready: AsyncFd<OwnedFd>,
    ring: RefCell<IoUring>,
    /// Owned. The kernel may write to it whenever `armed` is set; nothing of ours touches it then.
    slot: NonNull<Slot>,
    armed: Cell<bool>,
    socket: UdpSocket,
}

/// What the kernel works on during a receive.
struct Slot {
    bytes: [u8; SLOT_LEN],
    name: Name,
    control: Control,
    iov: libc::iovec,
    header: libc::msghdr,
}

impl RecvRing {
    /// Takes a socket in blocking mode: io_uring answers EAGAIN for a non-blocking one in place of waiting.
    ///
    /// # Errors
    /// When the ring cannot be made or watched.
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        let ring = IoUring::new(ENTRIES)?;
        // SAFETY: the ring is alive, and so its descriptor open, for the duration of the duplication.
        let descriptor = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
        let watched = descriptor.try_clone_to_owned()?;
        // SAFETY: the duplicate is owned by the registration, so it stays open for as long as that.
        let ready = unsafe { AsyncFd::register(watched) }?;
        let slot = Box::new(Slot {
            bytes: [0; SLOT_LEN],
            name: Name::EMPTY,
            control: Control::EMPTY,
            iov: libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 },
            header: empty_header(),
        });
        let slot = NonNull::from(Box::leak(slot));
        Ok(Self { ready, ring: RefCell::new(ring), slot, armed: Cell::new(false), socket })
    }

    /// The next datagram, copied into `buf`.
    ///
    /// # Errors
    /// Those of the socket; a datagram longer than `buf` (or than 4096 bytes) is `InvalidData` and lost.
    pub(super) async fn recv(&self, buf: &mut [u8]) -> io::Result<(usize, Path)> {
        loop {
            if let Some(done) = self.turn(buf) {
                return done;
            }
            // A completion that comes after the check above raises readiness anew, so clearing it cannot lose a wakeup.
            self.ready.readable().await?.clear_ready();
        }
    }

    /// Keeps a receive in flight and takes its completion, if it is there.
    fn turn(&self, buf: &mut [u8]) -> Option<io::Result<(usize, Path)>> {
        loop {
            if !self.armed.get()
                && let Err(error) = self.arm()
            {
                return Some(Err(error));
            }
            let result = self.ring.borrow_mut().completion().next()?.result();
            self.armed.set(false);
            match result {
                code if code == -libc::EINTR || code == -libc::EAGAIN => {}
                code if code < 0 => return Some(Err(io::Error::from_raw_os_error(-code))),
                len => return Some(self.take(len as usize, buf)),
            }
        }
    }

    /// Submits the receive. Only called while none is in flight.
    fn arm(&self) -> io::Result<()> {
        let slot = self.slot.as_ptr();
        // SAFETY: no receive is in flight, so the slot, which lives until drop, is ours alone.
        let s = unsafe { &mut *slot };
        s.iov = libc::iovec { iov_base: s.bytes.as_mut_ptr().cast(), iov_len: SLOT_LEN };
        s.header.msg_name = s.name.0.as_mut_ptr().cast();
        s.header.msg_namelen = NAME_LEN as libc::socklen_t;
        s.header.msg_iov = &raw mut s.iov;
        s.header.msg_iovlen = 1;
        s.header.msg_control = s.control.0.as_mut_ptr().cast();
        s.header.msg_controllen = CONTROL_LEN as _;
        s.header.msg_flags = 0;
        let fd = types::Fd(self.socket.as_raw_fd());
        let entry = opcode::RecvMsg::new(fd, &raw mut s.header).build().user_data(RECEIVE);
        let mut ring = self.ring.borrow_mut();
        // SAFETY: the descriptor and all memory of the request outlive it: drop waits for its end before freeing either.
        let pushed = unsafe { ring.submission().push(&entry) };
        pushed.map_err(|_| io::Error::other("the receive ring is full"))?;
        // From here on the entry is in the ring, and a later submission would start it even if this one fails.
        self.armed.set(true);
        match ring.submit() {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Copies a completed receive out of the slot.
    fn take(&self, len: usize, buf: &mut [u8]) -> io::Result<(usize, Path)> {
        // SAFETY: the receive has completed and the next is not submitted yet, so the slot is ours alone.
        let s = unsafe { self.slot.as_ref() };
        let path = path_of(&s.header, &s.name, &s.control)?;
        match (buf.get_mut(..len), s.bytes.get(..len)) {
            (Some(to), Some(from)) => to.copy_from_slice(from),
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "datagram longer than the receive buffer",
                ));
            }
        }
        Ok((len, path))
    }

    /// Ends the receive in flight; false if the kernel may still write to the slot.
    fn disarm(&self) -> bool {
        let mut ring = self.ring.borrow_mut();
        let cancel = opcode::AsyncCancel::new(RECEIVE).build().user_data(CANCEL);
        // SAFETY: a cancellation refers to no memory.
        let pushed = unsafe { ring.submission().push(&cancel) };
        if pushed.is_err() {
            return false;
        }
        while self.armed.get() {
            if let Err(error) = ring.submit_and_wait(1)
                && error.kind() != io::ErrorKind::Interrupted
            {
                return false;
            }
            if ring.completion().any(|done| done.user_data() == RECEIVE) {
                self.armed.set(false);
            }
        }
        true
    }
}

impl Drop for RecvRing {
    fn drop(&mut self) {
        if self.armed.get() && !self.disarm() {
            // The slot is left to the kernel: leaking 4 KiB is better than freeing memory it may write to.
            return;
        }
        // SAFETY: the slot came from a leaked box, no receive is in flight, and nothing uses it after drop.
        drop(unsafe { Box::from_raw(self.slot.as_ptr()) });
    }
}
