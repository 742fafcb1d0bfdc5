//! Splitting and merging allocate nothing.

mod packets;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use packets::Spec;
use tessera_offload::{Merge, Offloads, Split};

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
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_packet_costs_no_allocation() {
    let (header, packet) = Spec::new(false, true, 46 * 1348).build_super(1348);
    let mut buf = vec![0; 46 * 1400];
    let before = ALLOCATIONS.get();
    assert!(before > 0, "the counter counts");
    let mut merge = Merge::new(Offloads { tso4: true, ..Offloads::default() });
    let (mut writes, mut bytes) = (0, 0);
    for _ in 0..100 {
        let split = Split::new(header, &packet).unwrap();
        for index in 0..split.count() {
            let at = index * 1400..index * 1400 + split.segment_len(index);
            split.write(index, &mut buf[at.clone()]);
            assert!(merge.add(&buf, at));
        }
        merge.drain(&mut buf, |slices, info| {
            writes += 1;
            bytes += slices.iter().map(|slice| slice.len()).sum::<usize>();
            assert_eq!(info.packets, 46);
        });
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    assert_eq!((writes, bytes), (100, 100 * (packet.len() + 10)));
}
