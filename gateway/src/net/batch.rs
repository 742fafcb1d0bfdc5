//! Batches of datagrams for the data workers: `recvmmsg` and `sendmmsg` over buffers allocated once.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::cmsg::{self, CONTROL_LEN, Control, NAME_LEN, Name};
use super::path::Path;
use super::sys::{empty_header, path_of};

/// Datagrams per system call: large enough that the call is a few percent of the crypto, small enough (128 KiB of buffers)
/// for the L2 cache of a core.
pub const BATCH: usize = 64;

/// Bytes per datagram: an Ethernet MTU of 1500 with every header, and mildly larger ones; a power of two keeps slots aligned.
/// Longer datagrams (IP fragments of jumbo tunnels) are counted as truncated and dropped.
pub const SLOT_LEN: usize = 2048;

/// One datagram's bytes.
type Slot = [u8; SLOT_LEN];

/// What receiving has seen so far; plain counters of one thread.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RecvCounters {
    /// System calls that returned at least one datagram.
    pub calls: u64,
    /// Datagrams.
    pub packets: u64,
    /// Payload bytes.
    pub bytes: u64,
    /// Datagrams longer than a slot, dropped.
    pub truncated: u64,
    /// Datagrams whose source was no IP address, dropped.
    pub bad_source: u64,
    /// Errors other than an empty queue.
    pub errors: u64,
}

/// A preallocated batch of received datagrams.
pub struct RecvBatch {
    slots: Box<[Slot]>,
    names: Box<[Name]>,
    controls: Box<[Control]>,
    iovs: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    filled: usize,
    counters: RecvCounters,
}

// SAFETY: the raw pointers in `iovs` and `headers` are rewritten at the start of every system call from this value's own boxes
// and never read between calls, so they carry nothing from thread to thread.
unsafe impl Send for RecvBatch {}

impl std::fmt::Debug for RecvBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecvBatch").field("filled", &self.filled).field("counters", &self.counters).finish()
    }
}

impl Default for RecvBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl RecvBatch {
    /// Allocates the buffers; nothing is allocated afterwards.
    #[must_use]
    pub fn new() -> Self {
        Self {
            slots: slots(),
            names: vec![Name::EMPTY; BATCH].into(),
            controls: vec![Control::EMPTY; BATCH].into(),
            iovs: vec![NO_IOV; BATCH].into(),
            headers: (0..BATCH).map(|_| libc::mmsghdr { msg_hdr: empty_header(), msg_len: 0 }).collect(),
            filled: 0,
            counters: RecvCounters::default(),
        }
    }

    /// Forgets the previous batch and takes up to [`BATCH`] waiting datagrams without waiting. Returns how many there are; 0 if
    /// the queue is empty.
    ///
    /// # Errors
    /// The error of `recvmmsg`, also counted; the socket stays usable unless it is closed.
    pub fn recv(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.filled = 0;
        for i in 0..BATCH {
            self.iovs[i] = libc::iovec { iov_base: self.slots[i].as_mut_ptr().cast(), iov_len: SLOT_LEN };
            let header = &mut self.headers[i].msg_hdr;
            header.msg_name = self.names[i].0.as_mut_ptr().cast();
            header.msg_namelen = NAME_LEN as libc::socklen_t;
            header.msg_iov = &raw mut self.iovs[i];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[i].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_LEN as _;
            header.msg_flags = 0;
        }
        loop {
            // SAFETY: BATCH headers were just pointed at this value's own boxes, with their true lengths; `&mut self` makes the
            // kernel their only user during the call.
            let got = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    self.headers.as_mut_ptr(),
                    BATCH as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    ptr::null_mut(),
                )
            };
            if let Ok(got) = usize::try_from(got) {
                self.filled = got.min(BATCH);
                self.counters.calls += 1;
                return Ok(self.filled);
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

    /// The datagrams of the last [`RecvBatch::recv`], mutable so that they can be opened in place. Unusable ones are counted and
    /// left out.
    pub fn packets(&mut self) -> impl Iterator<Item = (&mut [u8], Path)> {
        let counters = &mut self.counters;
        let parts = self.slots.iter_mut().zip(&self.names).zip(&self.controls).zip(&self.headers);
        parts.take(self.filled).filter_map(|(((slot, name), control), header)| {
            let len = (header.msg_len as usize).min(SLOT_LEN);
            if let Ok(path) = path_of(&header.msg_hdr, name, control) {
                counters.packets += 1;
                counters.bytes += len as u64;
                return Some((&mut slot[..len], path));
            }
            if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
                counters.truncated += 1;
            } else {
                counters.bad_source += 1;
            }
            None
        })
    }

    /// What this batch has seen since it was made.
    #[must_use]
    pub fn counters(&self) -> RecvCounters {
        self.counters
    }
}

/// What sending has seen so far; plain counters of one thread. Every queued datagram ends in exactly one of `packets` or a
/// drop class; `would_block` and `no_buffers` count attempts, after which the datagrams stay queued.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SendCounters {
    /// System calls that sent at least one datagram.
    pub calls: u64,
    /// Datagrams the kernel took.
    pub packets: u64,
    /// Payload bytes the kernel took.
    pub bytes: u64,
    /// Flushes stopped by a full socket buffer (EAGAIN).
    pub would_block: u64,
    /// Flushes stopped by a full device queue or missing memory (ENOBUFS, ENOMEM).
    pub no_buffers: u64,
    /// Datagrams refused by [`SendBatch`] because every slot was taken, dropped.
    pub full: u64,
    /// Dropped: ECONNREFUSED.
    pub refused: u64,
    /// Dropped: EPERM or EACCES (firewall).
    pub not_permitted: u64,
    /// Dropped: EMSGSIZE.
    pub too_big: u64,
    /// Dropped: EHOSTUNREACH, ENETUNREACH, EADDRNOTAVAIL, ENETDOWN, ENODEV, EHOSTDOWN.
    pub unreachable: u64,
    /// Dropped: any other error.
    pub other: u64,
}

/// A preallocated queue of datagrams to send, first in first out. Slots are written (and sealed) in place.
pub struct SendBatch {
    slots: Box<[Slot]>,
    lens: Box<[usize]>,
    names: Box<[Name]>,
    name_lens: Box<[usize]>,
    controls: Box<[Control]>,
    control_lens: Box<[usize]>,
    iovs: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    /// Slot of the oldest queued datagram; the queue runs round the ring from here.
    head: usize,
    queued: usize,
    counters: SendCounters,
}

// SAFETY: as for RecvBatch: the raw pointers are written before every system call and never read between calls.
unsafe impl Send for SendBatch {}

impl std::fmt::Debug for SendBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendBatch").field("queued", &self.queued).field("counters", &self.counters).finish()
    }
}

impl Default for SendBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl SendBatch {
    /// Allocates the buffers; nothing is allocated afterwards.
    #[must_use]
    pub fn new() -> Self {
        Self {
            slots: slots(),
            lens: vec![0; BATCH].into(),
            names: vec![Name::EMPTY; BATCH].into(),
            name_lens: vec![0; BATCH].into(),
            controls: vec![Control::EMPTY; BATCH].into(),
            control_lens: vec![0; BATCH].into(),
            iovs: vec![NO_IOV; BATCH].into(),
            headers: (0..BATCH).map(|_| libc::mmsghdr { msg_hdr: empty_header(), msg_len: 0 }).collect(),
            head: 0,
            queued: 0,
            counters: SendCounters::default(),
        }
    }

    /// The next free slot ([`SLOT_LEN`] bytes with leftovers of earlier datagrams), for callers who learn the path only from the
    /// packet they read into it; queue it with [`SendBatch::commit`]. `None` when full: flush first.
    pub fn slot(&mut self) -> Option<&mut [u8]> {
        if self.is_full() {
            return None;
        }
        let tail = self.tail();
        Some(&mut self.slots[tail])
    }

    /// Queues the first `len` bytes of the slot last handed out by [`SendBatch::slot`]. `false`, counted as `full`, when there is
    /// no free slot; a `len` of 0 or over [`SLOT_LEN`] queues nothing and is `false` too.
    pub fn commit(&mut self, len: usize, path: &Path) -> bool {
        if self.is_full() {
            self.counters.full += 1;
            return false;
        }
        if len == 0 || len > SLOT_LEN {
            return false;
        }
        let tail = self.tail();
        self.lens[tail] = len;
        self.name_lens[tail] = cmsg::encode_name(path.remote, &mut self.names[tail]);
        self.control_lens[tail] = cmsg::encode_local(path, &mut self.controls[tail]);
        self.queued += 1;
        true
    }

    /// Lets `fill` write a datagram in place (it returns the length, 0 for none) and queues it. `false` when nothing was queued;
    /// if every slot is taken `fill` is not called and the drop is counted as `full`.
    pub fn push(&mut self, path: &Path, fill: impl FnOnce(&mut [u8]) -> usize) -> bool {
        let Some(slot) = self.slot() else {
            self.counters.full += 1;
            return false;
        };
        let len = fill(slot);
        self.commit(len, path)
    }

    /// Sends what is queued, in order, without waiting. Returns how many datagrams stay queued: 0, or more when the kernel's
    /// buffers are full (EAGAIN, ENOBUFS). A datagram the kernel rejects is counted by class and dropped; the rest go on.
    ///
    /// # Errors
    /// Only for a socket that cannot be used at all (EBADF, ENOTSOCK, EFAULT); the queue is kept.
    pub fn flush(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        while self.queued > 0 {
            match self.send_run(socket) {
                Ok(sent) => {
                    self.counters.calls += 1;
                    for _ in 0..sent {
                        self.counters.packets += 1;
                        self.counters.bytes += self.lens[self.head] as u64;
                        self.advance();
                    }
                }
                Err(error) => match error.raw_os_error().unwrap_or(0) {
                    libc::EINTR => {}
                    libc::EAGAIN => {
                        self.counters.would_block += 1;
                        break;
                    }
                    libc::ENOBUFS | libc::ENOMEM => {
                        self.counters.no_buffers += 1;
                        break;
                    }
                    libc::EBADF | libc::ENOTSOCK | libc::EFAULT => return Err(error),
                    errno => {
                        *self.drop_class(errno) += 1;
                        self.advance();
                    }
                },
            }
        }
        Ok(self.queued)
    }

    /// Drops everything queued (the peer or the socket is gone); returns how many datagrams that were.
    pub fn clear(&mut self) -> usize {
        self.head = 0;
        std::mem::take(&mut self.queued)
    }

    /// Datagrams queued.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queued
    }

    /// True if nothing is queued.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queued == 0
    }

    /// True if every slot is taken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.queued == BATCH
    }

    /// What this batch has seen since it was made.
    #[must_use]
    pub fn counters(&self) -> SendCounters {
        self.counters
    }

    /// One system call over the queued slots up to the end of the ring. Returns at least 1 or the error of the first datagram.
    fn send_run(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let run = self.queued.min(BATCH - self.head);
        for i in self.head..self.head + run {
            self.iovs[i] = libc::iovec { iov_base: self.slots[i].as_mut_ptr().cast(), iov_len: self.lens[i] };
            let header = &mut self.headers[i].msg_hdr;
            header.msg_name = self.names[i].0.as_mut_ptr().cast();
            header.msg_namelen = self.name_lens[i] as libc::socklen_t;
            header.msg_iov = &raw mut self.iovs[i];
            header.msg_iovlen = 1;
            let control = self.controls[i].0.as_mut_ptr();
            header.msg_control = if self.control_lens[i] > 0 { control.cast() } else { ptr::null_mut() };
            header.msg_controllen = self.control_lens[i] as _;
        }
        let headers = &mut self.headers[self.head..self.head + run];
        // SAFETY: `run` headers were just pointed at this value's own boxes, with their true lengths; `&mut self` keeps them
        // unchanged during the call.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                run as libc::c_uint,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        };
        usize::try_from(sent).map(|n| n.min(run)).map_err(|_| io::Error::last_os_error())
    }

    /// The counter of the class of a datagram's error.
    fn drop_class(&mut self, errno: i32) -> &mut u64 {
        let counters = &mut self.counters;
        match errno {
            libc::ECONNREFUSED => &mut counters.refused,
            libc::EPERM | libc::EACCES => &mut counters.not_permitted,
            libc::EMSGSIZE => &mut counters.too_big,
            libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EADDRNOTAVAIL
            | libc::ENETDOWN
            | libc::ENODEV
            | libc::EHOSTDOWN => &mut counters.unreachable,
            _ => &mut counters.other,
        }
    }

    /// The slot after the newest queued datagram.
    fn tail(&self) -> usize {
        (self.head + self.queued) % BATCH
    }

    /// Takes the oldest datagram off the queue.
    fn advance(&mut self) {
        self.head = (self.head + 1) % BATCH;
        self.queued -= 1;
        if self.queued == 0 {
            // An empty queue starts over, so that the next batch is one run.
            self.head = 0;
        }
    }
}

/// An iovec that refers to nothing.
const NO_IOV: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };

/// The datagram buffers of a batch, made on the heap.
fn slots() -> Box<[Slot]> {
    vec![[0; SLOT_LEN]; BATCH].into()
}
