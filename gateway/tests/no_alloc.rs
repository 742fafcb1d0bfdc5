//! Receiving and sending allocates nothing after construction.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::UdpSocket;
use std::os::fd::AsFd;

use tessera_proto::Instant;
use tesserad::net::recv::enable_gro;
use tesserad::net::{Path, RecvBatch, SendQueue, try_send_now};

/// Datagrams of a round: they fit the send queue.
const ROUND: usize = 64;

thread_local! {
    /// Allocations of this thread; the test runner's other threads must not disturb the count.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system allocator, counting.
struct Counting;

// SAFETY: every call is handed to the system allocator unchanged; counting touches a const-initialised thread local without drop,
// which does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's contract is passed on.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn packet_path_does_not_allocate() {
    let a = UdpSocket::bind("127.0.0.1:0").unwrap();
    let b = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = Path::to(b.local_addr().unwrap());
    enable_gro(b.as_fd()).unwrap();
    let (mut out, mut batch) = (SendQueue::new(true), RecvBatch::with_gro());

    let before = ALLOCATIONS.get();
    assert!(before > 0, "the counter counts");
    let (mut sent, mut got, mut sum) = (0, 0, 0u64);
    for round in 0..100usize {
        for i in 0..ROUND {
            let place = out.place(1400).unwrap();
            place.fill((round + i) as u8);
            sent += usize::from(out.commit(1400, &to));
        }
        while out.flush(a.as_fd(), Instant::default()).unwrap() > 0 {}
        try_send_now(a.as_fd(), &[1; 50], &to).unwrap();
        sent += 1;
        loop {
            let messages = batch.recv(b.as_fd()).unwrap();
            for index in 0..messages {
                let train = batch.train(index).unwrap();
                got += train.len.div_ceil(train.segment);
                sum += u64::from(batch.bytes_mut()[train.start]) + u64::from(train.path.remote.port());
            }
            if messages == 0 {
                break;
            }
        }
    }
    let allocated = ALLOCATIONS.get() - before;
    assert_eq!(allocated, 0, "the packet path allocated");
    assert_eq!((sent, got), (100 * (ROUND + 1), sent));
    assert!(sum > 0);
}
