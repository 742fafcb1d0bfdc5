//! The packet path allocates nothing: batches after construction, TCP connections once their buffers exist.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;

use tessera_proto::Instant;
use tesserad::config::Config;
use tesserad::data::streams::{StreamEvent, StreamIntake, StreamOptions, Streams};
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
            sent += usize::from(out.commit(1400, &to, 0));
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

#[test]
fn packets_of_tcp_connections_do_not_allocate() {
    const PACKET: usize = 1400;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_nonblocking(true).unwrap();
    let mut streams = Streams::new(vec![(0, listener)], StreamOptions::new(&Config::default())).unwrap();
    let mut intake = StreamIntake::new(&streams).unwrap();
    let now = Instant::default();
    let burst = [&(PACKET as u16).to_be_bytes()[..], &[7; PACKET]].concat().repeat(40);
    let (mut got, mut back, mut sink) = (0, 0, vec![0; 1 << 16]);
    let mut unsent = &burst[..0];
    let mut round = |rounds: usize| {
        for _ in 0..rounds {
            if unsent.is_empty() {
                unsent = &burst;
            }
            match client.write(unsent) {
                Ok(len) => unsent = &unsent[len..],
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            intake.poll(&mut streams, now, 256);
            while let Some(event) = intake.next(&mut streams, now) {
                let StreamEvent::Frame { id, bytes, .. } = event else { panic!("{event:?}") };
                got += 1;
                streams.queue_data(id, bytes);
            }
            streams.flush(now);
            while let Ok(len) = client.read(&mut sink) {
                back += len;
            }
        }
        (got, back)
    };
    let (before_got, before_back) = round(500);
    let before = ALLOCATIONS.get();
    let (got, back) = round(2000);
    let allocated = ALLOCATIONS.get() - before;
    assert_eq!(allocated, 0, "the packet path allocated");
    assert!(
        got - before_got > 1000 && back - before_back > 1000 * PACKET,
        "{got} packets, {back} bytes back"
    );
}
