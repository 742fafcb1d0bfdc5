//! A ring with buffers that the kernel picks from (a provided-buffer ring).

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use io_uring_07::{IoUring, squeue};

/// Completions that wait: more than one turn of any row brings.
const COMPLETIONS: u32 = 1024;
/// Submissions that wait, likewise.
const SUBMISSIONS: u32 = 256;
/// Most buffers of a group.
const MOST: usize = 256;
/// As `net::recv` keeps the starts of its places apart, and for the same reason.
const STAGGER: usize = 17 * 64;

/// A ring as a worker would have it: one thread submits, and completions are made when that thread asks for them.
pub(crate) fn ring(files: &[RawFd]) -> IoUring {
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_cqsize(COMPLETIONS)
        .build(SUBMISSIONS)
        .expect("DEFER_TASKRUN (kernel 6.1)");
    ring.submitter().register_files(files).expect("registered files");
    ring
}

/// Queues a request.
///
/// # Safety
/// What the request points at must live, and not move, until its completion.
pub(crate) unsafe fn push(ring: &mut IoUring, request: &squeue::Entry) {
    // SAFETY: the caller's promise.
    unsafe { ring.submission().push(request) }.expect("room for a submission");
}

/// `struct io_uring_buf`. The kernel reads it at any time; the first one's last field is where we have got to.
#[repr(C)]
#[derive(Default)]
struct Slot {
    address: AtomicU64,
    len: AtomicU32,
    id: AtomicU16,
    tail: AtomicU16,
}

/// The kernel wants a whole page.
#[repr(C, align(4096))]
struct Page([Slot; MOST]);

/// A group of equal buffers. They are never freed: a ring that was closed winds down later, and may still write to them.
pub(crate) struct Buffers {
    page: &'static Page,
    bytes: *mut u8,
    room: usize,
    count: u16,
    tail: u16,
}

impl Buffers {
    /// Makes `count` (a power of two) buffers of `room` bytes, all of which the kernel may use at once.
    pub(crate) fn new(ring: &IoUring, group: u16, count: u16, room: usize) -> io::Result<Self> {
        assert!(count.is_power_of_two() && usize::from(count) <= MOST, "{count} buffers");
        let page: &'static Page = Box::leak(Box::new(Page(std::array::from_fn(|_| Slot::default()))));
        let bytes =
            Box::leak(vec![0u8; usize::from(count) * (room + STAGGER)].into_boxed_slice()).as_mut_ptr();
        // SAFETY: the page is aligned, lives forever, and has at least `count` entries.
        unsafe { ring.submitter().register_buf_ring_with_flags((&raw const *page) as u64, count, group, 0) }?;
        let mut buffers = Self { page, bytes, room, count, tail: 0 };
        for id in 0..count {
            buffers.give_back(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// The first `len` bytes of a buffer that a completion named and that was not given back since.
    pub(crate) fn bytes(&self, id: u16, len: usize) -> &[u8] {
        assert!(id < self.count && len <= self.room, "{len} bytes in buffer {id}");
        let start = self.bytes.wrapping_add(usize::from(id) * (self.room + STAGGER));
        // SAFETY: the range is inside the leaked, initialised allocation, and until it is given back the kernel does not touch it.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// The kernel may use a buffer again, from the next [`Buffers::publish`] on.
    pub(crate) fn give_back(&mut self, id: u16) {
        let slot = &self.page.0[usize::from(self.tail & (self.count - 1))];
        let start = self.bytes.wrapping_add(usize::from(id) * (self.room + STAGGER));
        slot.address.store(start as u64, Ordering::Relaxed);
        slot.len.store(self.room as u32, Ordering::Relaxed);
        slot.id.store(id, Ordering::Relaxed);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel what was given back.
    pub(crate) fn publish(&self) {
        self.page.0[0].tail.store(self.tail, Ordering::Release);
    }
}
