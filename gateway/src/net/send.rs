//! Sends trains of datagrams for the data workers: `sendmmsg` with UDP GSO, over buffers that are allocated once.
//!
//! Datagrams are written (and sealed) where they will be sent from, one behind the other. Those that follow one another to the
//! same peer with the same length are one train, and the kernel takes a train as one packet (`UDP_SEGMENT`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::AddAssign;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tessera_proto::Instant;

use super::cmsg::{self, Control, Name};
use super::path::{LocalAddr, Path};
use super::sys::empty_header;
use crate::data::BatchSizes;

/// Trains per system call.
const TRAINS: usize = 64;
/// Datagrams of one train: what kernels take since GSO exists (UDP_MAX_SEGMENTS; later ones take more).
pub const SEGMENTS: usize = 64;
/// Bytes of one train. With all headers it has to stay below a device's `gso_max_size` (65,536), or the kernel cuts it up by
/// itself before the device sees it.
const TRAIN_LEN: usize = 65_536 - 136;
/// Bytes of all datagrams that can wait: four full trains stay inside the L2 cache of a core.
pub const QUEUE_LEN: usize = 4 * 65_536;
/// Trains that can wait: one for each datagram when each is for another peer, at 256 bytes on average.
const WAITING: usize = QUEUE_LEN / 256;
/// After the kernel could not segment for a socket, trains go out one by one for so long before they are tried again.
const PROBE_EVERY: Duration = Duration::from_secs(60);

/// What sending has seen so far; plain counters of one thread. Every queued datagram ends in exactly one of `packets` or a
/// drop class; `would_block` and `no_buffers` count attempts, after which the datagrams stay queued.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SendCounters {
    /// System calls that sent at least one train.
    pub calls: u64,
    /// Trains that the kernel took, by their number of datagrams (powers of two: 1, 2, up to 4, …, more than 32).
    pub sizes: [u64; BatchSizes::CLASSES],
    /// Datagrams the kernel took.
    pub packets: u64,
    /// Payload bytes the kernel took.
    pub bytes: u64,
    /// Flushes stopped by a full socket buffer (EAGAIN).
    pub would_block: u64,
    /// Flushes stopped by a full device queue or missing memory (ENOBUFS, ENOMEM).
    pub no_buffers: u64,
    /// Trains that the kernel refused to segment and that went out one by one.
    pub unsegmented: u64,
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

impl AddAssign for SendCounters {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        for (sum, count) in self.sizes.iter_mut().zip(other.sizes) {
            *sum += count;
        }
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.would_block += other.would_block;
        self.no_buffers += other.no_buffers;
        self.unsegmented += other.unsegmented;
        self.refused += other.refused;
        self.not_permitted += other.not_permitted;
        self.too_big += other.too_big;
        self.unreachable += other.unreachable;
        self.other += other.other;
    }
}

/// Datagrams of one peer that are sent together.
#[derive(Clone, Copy, Debug)]
struct Train {
    start: usize,
    len: usize,
    /// Bytes of each datagram but the last.
    segment: usize,
    count: usize,
    remote: SocketAddr,
    local: LocalAddr,
    tos: u8,
    /// A datagram shorter than the others ends a train.
    closed: bool,
    /// The kernel does not take it whole.
    split: bool,
}

impl Train {
    /// A train of nothing.
    const NONE: Self = Self {
        start: 0,
        len: 0,
        segment: 0,
        count: 0,
        remote: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        local: LocalAddr { ip: None, ifindex: 0 },
        tos: 0,
        closed: true,
        split: false,
    };

    /// What a new train begins from.
    const OPEN: Self = Self { closed: false, ..Self::NONE };

    /// The first `count` datagrams are gone.
    fn skip(&mut self, count: usize) {
        let bytes = (count * self.segment).min(self.len);
        self.start += bytes;
        self.len -= bytes;
        self.count -= count.min(self.count);
    }
}

/// A preallocated queue of datagrams to send, first in first out.
pub struct SendQueue {
    bytes: Box<[u8]>,
    /// Where the next datagram goes.
    tail: usize,
    trains: Box<[Train]>,
    /// The trains that wait: from `head` to `filled`.
    head: usize,
    filled: usize,
    queued: usize,
    segmentation: Segmentation,
    names: Box<[Name]>,
    controls: Box<[Control]>,
    iovs: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    counters: SendCounters,
}

/// Whether trains are given to the kernel whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Segmentation {
    /// Never: every train has one datagram.
    Never,
    /// Yes.
    On,
    /// Not again before this time.
    Failed(Instant),
}

// SAFETY: the raw pointers in `iovs` and `headers` are written before every system call and never read between calls.
unsafe impl Send for SendQueue {}

impl std::fmt::Debug for SendQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendQueue").field("queued", &self.queued).field("counters", &self.counters).finish()
    }
}

/// Whether the kernel segments for this socket.
///
/// # Errors
/// When the kernel does not know UDP GSO (before Linux 4.18).
pub fn probe_gso(socket: BorrowedFd<'_>) -> io::Result<()> {
    // Segment size 0 changes nothing but is refused where the option does not exist.
    Ok(setsockopt(&socket, sockopt::UdpGsoSegment, &0)?)
}

impl SendQueue {
    /// Allocates the buffers; nothing is allocated afterwards. With `gso` datagrams are sent in trains.
    #[must_use]
    pub fn new(gso: bool) -> Self {
        Self {
            bytes: vec![0; QUEUE_LEN].into(),
            tail: 0,
            trains: vec![Train::NONE; WAITING].into(),
            head: 0,
            filled: 0,
            queued: 0,
            segmentation: if gso { Segmentation::On } else { Segmentation::Never },
            names: vec![Name::EMPTY; TRAINS].into(),
            controls: vec![Control::EMPTY; TRAINS].into(),
            iovs: vec![NO_IOV; TRAINS].into(),
            headers: (0..TRAINS).map(|_| libc::mmsghdr { msg_hdr: empty_header(), msg_len: 0 }).collect(),
            counters: SendCounters::default(),
        }
    }

    /// Where the next datagram of `len` bytes (at least 1) is to be written; it holds leftovers of earlier ones. Queue it with
    /// [`SendQueue::commit`]. `None` when there is no room: flush first.
    #[inline]
    pub fn place(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.filled == self.trains.len() {
            return None;
        }
        self.bytes.get_mut(self.tail..self.tail + len)
    }

    /// Queues the datagram of `len` bytes that was written to the place last given out, with a TOS (0: the socket's). False, and
    /// nothing is queued, when that place was never given out or `len` is 0.
    #[inline]
    pub fn commit(&mut self, len: usize, path: &Path, tos: u8) -> bool {
        if len == 0 || self.tail + len > self.bytes.len() || self.filled == self.trains.len() {
            return false;
        }
        let start = self.tail;
        self.tail += len;
        self.queued += 1;
        if self.segmentation != Segmentation::Never
            && self.filled > self.head
            && let Some(last) = self.trains.get_mut(self.filled - 1)
            && !last.closed
            && len <= last.segment
            && last.count < SEGMENTS
            && last.len + len <= TRAIN_LEN
            && last.remote == path.remote
            && last.local == path.local
            && last.tos == tos
        {
            last.len += len;
            last.count += 1;
            last.closed = len < last.segment;
            return true;
        }
        self.trains[self.filled] = Train {
            start,
            len,
            segment: len,
            count: 1,
            remote: path.remote,
            local: path.local,
            tos,
            ..Train::OPEN
        };
        self.filled += 1;
        true
    }

    /// Sends what is queued, in order, without waiting. Returns how many datagrams stay queued: 0, or more when the kernel's
    /// buffers are full (EAGAIN, ENOBUFS). A datagram the kernel rejects is counted by class and dropped; the rest go on.
    ///
    /// # Errors
    /// Only for a socket that cannot be used at all (EBADF, ENOTSOCK, EFAULT); the queue is kept.
    pub fn flush(&mut self, socket: BorrowedFd<'_>, now: Instant) -> io::Result<usize> {
        if let Segmentation::Failed(until) = self.segmentation
            && until <= now
        {
            self.segmentation = Segmentation::On;
        }
        while self.head < self.filled {
            let whole = self.goes_whole(&self.trains[self.head]);
            let sent = if whole { self.send_trains(socket) } else { self.send_datagrams(socket) };
            let Err(error) = sent else { continue };
            let segmented = whole && self.trains[self.head].count > 1;
            match error.raw_os_error().unwrap_or(0) {
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
                // The device cannot checksum, or something on the way cannot segment: no train of this socket will pass.
                libc::EIO if segmented => {
                    self.counters.unsegmented += 1;
                    self.segmentation = Segmentation::Failed(now + PROBE_EVERY);
                }
                // These datagrams are longer than the path takes at once: one by one they are fragmented.
                libc::EINVAL | libc::EMSGSIZE if segmented => {
                    self.counters.unsegmented += 1;
                    self.trains[self.head].split = true;
                }
                errno => {
                    let dropped = if whole { self.trains[self.head].count } else { 1 };
                    *self.drop_class(errno) += dropped as u64;
                    self.advance(dropped);
                }
            }
        }
        if self.head == self.filled {
            (self.tail, self.head, self.filled, self.queued) = (0, 0, 0, 0);
        }
        Ok(self.queued)
    }

    /// Drops everything queued (the socket is gone); returns how many datagrams that were.
    pub fn clear(&mut self) -> usize {
        (self.tail, self.head, self.filled) = (0, 0, 0);
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

    /// What this queue has seen since it was made.
    #[must_use]
    pub fn counters(&self) -> SendCounters {
        self.counters
    }

    /// Whether a train is given to the kernel as it is.
    fn goes_whole(&self, train: &Train) -> bool {
        train.count == 1 || (self.segmentation == Segmentation::On && !train.split)
    }

    /// One system call over the oldest trains, up to one that does not go whole.
    fn send_trains(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let mut run = 0;
        for index in self.head..self.filled.min(self.head + TRAINS) {
            let train = self.trains[index];
            if !self.goes_whole(&train) {
                break;
            }
            let segment = if train.count > 1 { train.segment } else { 0 };
            self.point(run, train.start, train.len, index, segment);
            run += 1;
        }
        let sent = send(&mut self.headers[..run], socket)?;
        self.counters.calls += 1;
        for _ in 0..sent {
            let count = self.trains[self.head].count;
            self.counters.sizes[BatchSizes::class_of(count)] += 1;
            self.sent(count);
        }
        Ok(())
    }

    /// One system call over the datagrams of the oldest train.
    fn send_datagrams(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let train = self.trains[self.head];
        for i in 0..train.count {
            let start = train.start + i * train.segment;
            let len = train.segment.min(train.start + train.len - start);
            self.point(i, start, len, self.head, 0);
        }
        let sent = send(&mut self.headers[..train.count], socket)?;
        self.counters.calls += 1;
        self.counters.sizes[0] += sent as u64;
        self.sent(sent);
        Ok(())
    }

    /// Makes message `i` send `len` bytes to where `train` goes, in segments if `segment` is not 0.
    fn point(&mut self, i: usize, start: usize, len: usize, train: usize, segment: usize) {
        let train = &self.trains[train];
        let bytes = &mut self.bytes[start..start + len];
        self.iovs[i] = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: len };
        let path = Path { remote: train.remote, local: train.local };
        let name_len = cmsg::encode_name(path.remote, &mut self.names[i]);
        let control_len = cmsg::encode_train(&path, segment as u16, train.tos, &mut self.controls[i]);
        let header = &mut self.headers[i].msg_hdr;
        header.msg_name = self.names[i].0.as_mut_ptr().cast();
        header.msg_namelen = name_len as libc::socklen_t;
        header.msg_iov = &raw mut self.iovs[i];
        header.msg_iovlen = 1;
        let control = self.controls[i].0.as_mut_ptr();
        header.msg_control = if control_len > 0 { control.cast() } else { ptr::null_mut() };
        header.msg_controllen = control_len as _;
    }

    /// The kernel took the first `count` datagrams of the oldest train.
    fn sent(&mut self, count: usize) {
        self.counters.packets += count as u64;
        self.counters.bytes += self.advance(count) as u64;
    }

    /// The first `count` datagrams of the oldest train are done with; how many bytes that were.
    fn advance(&mut self, count: usize) -> usize {
        let train = &mut self.trains[self.head];
        let before = train.len;
        train.skip(count);
        let bytes = before - train.len;
        self.queued = self.queued.saturating_sub(count);
        if train.count == 0 {
            self.head += 1;
        }
        bytes
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
}

/// One `sendmmsg` over messages that point at a queue's own buffers. Returns at least 1 or the error of the first message.
fn send(headers: &mut [libc::mmsghdr], socket: BorrowedFd<'_>) -> io::Result<usize> {
    // SAFETY: every header was pointed at the queue's own boxes, with their true lengths, right before this call, and the
    // queue is borrowed mutably by the caller until it returns; sendmmsg only writes `msg_len`.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
        )
    };
    usize::try_from(sent).map(|n| n.min(headers.len())).map_err(|_| io::Error::last_os_error())
}

/// An iovec that refers to nothing.
const NO_IOV: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
