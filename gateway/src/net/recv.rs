//! Receives trains of datagrams for the data workers: `recvmmsg` with UDP GRO, over buffers that are allocated once.
//!
//! A train is what the kernel hands over as one message: with GRO up to 64 datagrams of one peer, all of the same length but
//! the last, one behind the other; without it a single datagram. Where a train stands is plain arithmetic on one buffer, so
//! that inner packets of several trains can be gathered from it without being copied.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use nix::sys::socket::{setsockopt, sockopt};

use super::cmsg::{self, CONTROL_LEN, Control, NAME_LEN, Name};
use super::path::Path;
use super::sys::{empty_header, path_of};

/// Most messages per system call: large enough that the call is a few percent of the crypto.
pub const MESSAGES: usize = 32;

/// Bytes for one message with GRO: the largest UDP payload there is.
const GRO_LEN: usize = 65_535;

/// Bytes that one system call should bring at most. What it brings is looked at again, packet by packet, and twice more on
/// its way out: as long as it is in the L2 cache of a core that costs little.
const BATCH_BYTES: usize = 256 * 1024;
/// Least messages per system call, however long they are.
const LEAST_MESSAGES: usize = 4;

/// What the starts of neighbouring messages are kept apart beyond their length. Small datagrams touch only the first lines of
/// their places: at an even 64 KiB these would all fall into the same cache set.
const STAGGER: usize = 17 * 64;

/// What receiving has seen so far; plain counters of one thread.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RecvCounters {
    /// System calls that returned at least one message.
    pub calls: u64,
    /// Messages longer than their place, dropped.
    pub truncated: u64,
    /// Messages whose source was no IP address, dropped.
    pub bad_source: u64,
    /// Errors other than an empty queue.
    pub errors: u64,
}

/// Datagrams of one peer that the kernel handed over together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Train {
    /// Where they start in [`RecvBatch::bytes_mut`].
    pub start: usize,
    /// Bytes of all of them.
    pub len: usize,
    /// Bytes of each but the last, which may be shorter; at least 1.
    pub segment: usize,
    /// Where they came from.
    pub path: Path,
}

/// A preallocated batch of received trains.
pub struct RecvBatch {
    bytes: Box<[u8]>,
    /// Longest message.
    room: usize,
    names: Box<[Name]>,
    controls: Box<[Control]>,
    iovs: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    /// So many headers carry what the kernel wrote, or nothing yet.
    stale: usize,
    /// Messages that the next call takes.
    most: usize,
    counters: RecvCounters,
}

// SAFETY: the raw pointers in `iovs` and `headers` only ever refer to this value's own boxes, which are never exchanged, and
// are only used by the system call that borrows the value mutably.
unsafe impl Send for RecvBatch {}

impl std::fmt::Debug for RecvBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecvBatch").field("room", &self.room).field("counters", &self.counters).finish()
    }
}

/// Lets the kernel hand a socket's datagrams over in trains ([`RecvBatch::with_gro`] must receive from it then).
///
/// # Errors
/// When the kernel does not know UDP GRO (before Linux 5.0).
pub fn enable_gro(socket: BorrowedFd<'_>) -> io::Result<()> {
    Ok(setsockopt(&socket, sockopt::UdpGroSegment, &true)?)
}

impl RecvBatch {
    /// For sockets without GRO: messages of up to `room` bytes.
    #[must_use]
    pub fn new(room: usize) -> Self {
        Self {
            bytes: vec![0; MESSAGES * (room + STAGGER)].into(),
            room,
            names: vec![Name::EMPTY; MESSAGES].into(),
            controls: vec![Control::EMPTY; MESSAGES].into(),
            iovs: vec![NO_IOV; MESSAGES].into(),
            headers: (0..MESSAGES).map(|_| libc::mmsghdr { msg_hdr: empty_header(), msg_len: 0 }).collect(),
            stale: MESSAGES,
            most: MESSAGES,
            counters: RecvCounters::default(),
        }
    }

    /// For sockets with [`enable_gro`]. Four MiB of addresses, of which only those pages are ever real that a message reached.
    #[must_use]
    pub fn with_gro() -> Self {
        Self::new(GRO_LEN)
    }

    /// Forgets the previous batch and takes up to [`RecvBatch::most`] waiting messages without waiting. Returns how many there
    /// are; 0 if the queue is empty.
    ///
    /// # Errors
    /// The error of `recvmmsg`, also counted; the socket stays usable unless it is closed.
    pub fn recv(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let places = self.bytes.chunks_exact_mut(self.room + STAGGER);
        for (i, place) in places.take(self.stale).enumerate() {
            self.iovs[i] = libc::iovec { iov_base: place.as_mut_ptr().cast(), iov_len: self.room };
            let header = &mut self.headers[i].msg_hdr;
            header.msg_name = self.names[i].0.as_mut_ptr().cast();
            header.msg_namelen = NAME_LEN as libc::socklen_t;
            header.msg_iov = &raw mut self.iovs[i];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[i].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_LEN as _;
            header.msg_flags = 0;
        }
        self.stale = 0;
        loop {
            // SAFETY: `most` is at most MESSAGES, and all those headers point at this value's own boxes, with their true lengths; `&mut self` makes
            // the kernel their only user during the call.
            let got = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    self.headers.as_mut_ptr(),
                    self.most as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    ptr::null_mut(),
                )
            };
            if let Ok(got) = usize::try_from(got) {
                self.counters.calls += 1;
                self.stale = got.min(MESSAGES);
                self.choose_most();
                return Ok(self.stale);
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Ok(0),
                _ => {
                    self.counters.errors += 1;
                    return Err(error);
                }
            }
        }
    }

    /// How many messages the next [`RecvBatch::recv`] takes at most: fewer when messages are long.
    #[must_use]
    pub const fn most(&self) -> usize {
        self.most
    }

    /// Chooses the size of the next call by the last one's messages.
    fn choose_most(&mut self) {
        let bytes: usize = self.headers[..self.stale].iter().map(|header| header.msg_len as usize).sum();
        let mean = bytes / self.stale.max(1);
        self.most = (BATCH_BYTES / mean.max(1)).clamp(LEAST_MESSAGES, MESSAGES);
    }

    /// Message `index` of the last [`RecvBatch::recv`], to be asked for once. `None`, counted, when it cannot be used; an empty
    /// datagram is one of length 0.
    pub fn train(&mut self, index: usize) -> Option<Train> {
        let header = self.headers.get(index)?;
        let (name, control) = (&self.names[index], &self.controls[index]);
        let Ok(path) = path_of(&header.msg_hdr, name, control) else {
            if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
                self.counters.truncated += 1;
            } else {
                self.counters.bad_source += 1;
            }
            return None;
        };
        let len = (header.msg_len as usize).min(self.room);
        let control_len = header.msg_hdr.msg_controllen.min(CONTROL_LEN);
        let segment = cmsg::decode_segment(&control.0[..control_len]).map_or(len, usize::from).max(1);
        Some(Train { start: index * (self.room + STAGGER), len, segment, path })
    }

    /// All bytes: trains say where they stand in it. Mutable, so that packets are opened in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// What this batch has seen since it was made.
    #[must_use]
    pub fn counters(&self) -> RecvCounters {
        self.counters
    }
}

/// An iovec that refers to nothing.
const NO_IOV: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
