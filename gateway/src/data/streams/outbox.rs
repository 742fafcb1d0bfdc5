//! What waits to be written to one connection, in chunks that all connections of a worker take from one pool.

use std::collections::VecDeque;
use std::io::IoSlice;

use tessera_wire::stream::length_bytes;

/// Smallest chunk: a page, which holds two data packets of usual size.
const CHUNK: usize = 4096;
/// Free chunks that a pool keeps: 4 MiB, the queues of thirty busy clients. Beyond it memory goes back to the system.
const KEPT: usize = 1024;
/// Chunks written by one system call.
pub(super) const SLICES: usize = 32;

/// Chunks that nobody needs at the moment.
#[derive(Debug)]
pub(super) struct ChunkPool {
    free: Vec<Box<[u8]>>,
    chunk: usize,
}

impl ChunkPool {
    /// A pool of chunks that each can hold `least` bytes.
    pub(super) fn new(least: usize) -> Self {
        Self { free: Vec::with_capacity(KEPT), chunk: least.max(CHUNK) }
    }

    pub(super) fn take(&mut self) -> Box<[u8]> {
        self.free.pop().unwrap_or_else(|| vec![0; self.chunk].into())
    }

    pub(super) fn give(&mut self, chunk: Box<[u8]>) {
        if self.free.len() < KEPT {
            self.free.push(chunk);
        }
    }
}

/// A packet that is not wholly written yet.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    /// Bytes with the length in front, at most 65,537.
    len: u32,
    left: u32,
    control: bool,
}

/// Packets of one connection in the order they will be written, framed. Without any it holds no chunk.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    chunks: VecDeque<Box<[u8]>>,
    /// Bytes of the first chunk that are written already.
    head: usize,
    /// Bytes of the last chunk that are used; without meaning when there is none.
    tail: usize,
    packets: VecDeque<Waiting>,
    bytes: usize,
    data_packets: usize,
    control_bytes: usize,
}

impl Outbox {
    /// Appends a packet; false, and nothing happens, for one that no frame can hold.
    pub(super) fn push(&mut self, packet: &[u8], control: bool, pool: &mut ChunkPool) -> bool {
        let Some(length) = length_bytes(packet.len()) else { return false };
        self.append(&length, pool);
        self.append(packet, pool);
        let len = length.len() + packet.len();
        self.packets.push_back(Waiting { len: len as u32, left: len as u32, control });
        self.bytes += len;
        if control {
            self.control_bytes += len;
        } else {
            self.data_packets += 1;
        }
        true
    }

    fn append(&mut self, mut bytes: &[u8], pool: &mut ChunkPool) {
        while !bytes.is_empty() {
            if self.chunks.back().is_none_or(|chunk| self.tail == chunk.len()) {
                self.chunks.push_back(pool.take());
                self.tail = 0;
            }
            let Some(chunk) = self.chunks.back_mut() else { return };
            let room = &mut chunk[self.tail..];
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            self.tail += now.len();
            bytes = later;
        }
    }

    /// Puts what waits into `slices`, as far as they go; returns how many are used.
    pub(super) fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        let last = self.chunks.len().saturating_sub(1);
        let mut used = 0;
        for (slice, (number, chunk)) in slices.iter_mut().zip(self.chunks.iter().enumerate()) {
            let from = if number == 0 { self.head } else { 0 };
            let to = if number == last { self.tail } else { chunk.len() };
            *slice = IoSlice::new(&chunk[from..to]);
            used += 1;
        }
        used
    }

    /// The first `written` bytes are written.
    pub(super) fn consume(&mut self, written: usize, pool: &mut ChunkPool) {
        let written = written.min(self.bytes);
        self.bytes -= written;
        let mut left = written;
        while left > 0
            && let Some(packet) = self.packets.front_mut()
        {
            let part = left.min(packet.left as usize);
            packet.left -= part as u32;
            left -= part;
            if packet.left == 0 {
                if packet.control {
                    self.control_bytes -= packet.len as usize;
                } else {
                    self.data_packets -= 1;
                }
                self.packets.pop_front();
            }
        }
        self.head += written;
        while let Some(chunk) = self.chunks.pop_front_if(|chunk| self.bytes == 0 || self.head >= chunk.len())
        {
            self.head = self.head.saturating_sub(chunk.len());
            pool.give(chunk);
        }
        if self.bytes == 0 {
            self.head = 0;
        }
    }

    /// Throws away what waits.
    pub(super) fn clear(&mut self, pool: &mut ChunkPool) {
        self.consume(self.bytes, pool);
    }

    /// Bytes that wait, lengths included.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Data packets that wait, one that is partly written among them.
    pub(super) fn data_packets(&self) -> usize {
        self.data_packets
    }

    /// Bytes of control packets that wait, likewise.
    pub(super) fn control_bytes(&self) -> usize {
        self.control_bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gathered(outbox: &Outbox) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let used = outbox.gather(&mut slices);
        slices[..used].iter().flat_map(|slice| slice.to_vec()).collect()
    }

    proptest! {
        /// Packets come out as they went in, however they are written, and no chunk stays behind.
        #[test]
        fn nothing_is_lost_or_doubled(
            steps in proptest::collection::vec((0usize..9000, any::<bool>(), 0usize..12_000), 1..60),
        ) {
            let (mut pool, mut outbox) = (ChunkPool::new(100), Outbox::default());
            let (mut expected, mut written) = (Vec::new(), Vec::new());
            for (number, (len, control, write)) in steps.into_iter().enumerate() {
                let packet = vec![number as u8; len];
                prop_assert_eq!(outbox.push(&packet, control, &mut pool), len > 0);
                if let Some(length) = length_bytes(len) {
                    expected.extend(length);
                    expected.extend(packet);
                }
                let mut bytes = gathered(&outbox);
                bytes.truncate(write);
                outbox.consume(bytes.len(), &mut pool);
                written.extend(bytes);
                prop_assert_eq!(outbox.bytes(), expected.len() - written.len());
                let counted: u32 =
                    outbox.packets.iter().filter(|packet| packet.control).map(|packet| packet.len).sum();
                prop_assert_eq!(outbox.control_bytes(), counted as usize);
                let data = outbox.packets.iter().filter(|packet| !packet.control).count();
                prop_assert_eq!(outbox.data_packets(), data);
            }
            while outbox.bytes() > 0 {
                let bytes = gathered(&outbox);
                prop_assert!(!bytes.is_empty());
                outbox.consume(bytes.len(), &mut pool);
                written.extend(bytes);
            }
            prop_assert_eq!(written, expected);
            prop_assert!(outbox.chunks.is_empty());
            prop_assert_eq!((outbox.data_packets(), outbox.control_bytes()), (0, 0));
        }
    }
}
