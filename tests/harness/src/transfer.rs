//! TCP transfers with a checksum at both ends.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use ring::digest::{Context, SHA256};

use crate::clock::{Deadline, eventually, pause};
use crate::netns::Namespace;

/// Written and read at once.
const CHUNK: usize = 64 * 1024;
/// No byte for so long means a dead connection.
const STALL: Duration = Duration::from_secs(20);

type Digest = Vec<u8>;

/// A transfer under way from one namespace to another.
#[derive(Debug)]
pub struct TcpSink {
    sender: JoinHandle<Digest>,
    receiver: JoinHandle<Digest>,
    received: Arc<AtomicU64>,
}

impl TcpSink {
    /// Starts to send `bytes` bytes from `from` to `address`, which must be one of `to`'s; evenly over `spread` (zero:
    /// as fast as it goes).
    #[must_use]
    pub fn start(from: &Namespace, to: &Namespace, address: &str, bytes: u64, spread: Duration) -> Self {
        let ip = address.parse().unwrap_or_else(|e| panic!("{address} is no address: {e}"));
        let (ready, port) = mpsc::channel();
        let received = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&received);
        let receiver = to.spawn(move || {
            let listener = TcpListener::bind(SocketAddr::new(ip, 0)).expect("listen");
            ready.send(listener.local_addr().expect("own address").port()).expect("the starter waits");
            receive(&accept(&listener), &counter)
        });
        let port = port.recv_timeout(STALL).expect("the receiver listens");
        let sender = from.spawn(move || {
            let stream = TcpStream::connect_timeout(&SocketAddr::new(ip, port), STALL)
                .unwrap_or_else(|e| panic!("cannot connect to {ip}: {e}"));
            send(&stream, bytes, spread)
        });
        Self { sender, receiver, received }
    }

    /// Bytes received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until so many bytes were received.
    pub fn wait_received(&self, bytes: u64, limit: Duration) {
        eventually(&format!("{bytes} bytes received"), limit, || (self.received() >= bytes).then_some(()));
    }

    /// Waits for the end and compares the checksums.
    pub fn finish(self) {
        let sent = self.sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let received = self.receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert_eq!(sent, received, "the receiver's checksum differs from the sender's");
    }
}

/// Sends `bytes` bytes from `from` to `to` at `address` and compares the checksums. Gives the seconds it took.
pub fn transfer(from: &Namespace, to: &Namespace, address: &str, bytes: u64) -> f64 {
    let deadline = Deadline::after(STALL);
    TcpSink::start(from, to, address, bytes, Duration::ZERO).finish();
    deadline.elapsed().as_secs_f64()
}

/// [`transfer`] from `a` to `b`, then from `b` to `a`.
pub fn both_ways(a: &Namespace, a_address: &str, b: &Namespace, b_address: &str, bytes: u64) {
    transfer(a, b, b_address, bytes);
    transfer(b, a, a_address, bytes);
}

fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).expect("non-blocking");
    let stream = eventually("incoming connection", STALL, || listener.accept().ok()).0;
    stream.set_nonblocking(false).expect("blocking");
    stream
}

fn send(mut stream: &TcpStream, bytes: u64, spread: Duration) -> Digest {
    stream.set_write_timeout(Some(STALL)).expect("a timeout");
    stream.set_read_timeout(Some(STALL)).expect("a timeout");
    let mut digest = Context::new(&SHA256);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ bytes;
    let mut chunk = vec![0_u8; CHUNK];
    let deadline = Deadline::after(spread);
    let mut sent = 0_u64;
    while sent < bytes {
        for word in chunk.chunks_exact_mut(8) {
            // xorshift64: no compressible or repeating content, the same in every run.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let length = usize::try_from((bytes - sent).min(CHUNK as u64)).expect("at most a chunk");
        let part = chunk.get(..length).expect("at most a chunk");
        digest.update(part);
        stream.write_all(part).unwrap_or_else(|e| panic!("sending stopped after {sent} bytes: {e}"));
        sent += length as u64;
        if !spread.is_zero() {
            let due = spread.mul_f64(sent as f64 / bytes as f64);
            pause(due.saturating_sub(deadline.elapsed()));
        }
    }
    stream.shutdown(Shutdown::Write).expect("end of data");
    // The receiver closes when it has everything.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap_or_else(|e| panic!("the receiver did not finish: {e}"));
    digest.finish().as_ref().to_vec()
}

fn receive(mut stream: &TcpStream, counter: &AtomicU64) -> Digest {
    stream.set_read_timeout(Some(STALL)).expect("a timeout");
    let mut digest = Context::new(&SHA256);
    let mut chunk = vec![0_u8; CHUNK];
    loop {
        let total = counter.load(Ordering::Relaxed);
        let length =
            stream.read(&mut chunk).unwrap_or_else(|e| panic!("receiving stopped after {total} bytes: {e}"));
        if length == 0 {
            return digest.finish().as_ref().to_vec();
        }
        digest.update(chunk.get(..length).expect("what was read"));
        counter.store(total + length as u64, Ordering::Relaxed);
    }
}
