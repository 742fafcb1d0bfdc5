//! The way up: runs of packets of one flow, which the device takes as one.

use std::io::IoSlice;
use std::ops::Range;

use crate::checksum::Sum;
use crate::packet::{Class, Flow, Kind, Offloads, PSH, Segment, classify, same_headers};
use crate::vnet::{NEEDS_CSUM, VnetHeader};

/// Packets between two drains: four full receive batches of 64.
pub const MAX_PACKETS: usize = 256;

/// Most packets in a run: older kernels take no more UDP segments in one packet.
pub const MAX_RUN: usize = 64;

/// An IP packet's length must fit its field; and with a link header (Ethernet's and two VLAN tags) it has to stay within a
/// device's `gso_max_size` (65,536), or the kernel cuts it up by itself before the device sees it.
const MAX_LEN: usize = 65_536 - 22;

/// Flows that are looked up together, and how many share a set. 128 flows may have a run open at the same time; a further one ends
/// another's.
const SETS: usize = 32;
const WAYS: usize = 4;

/// No packet follows in the run.
const NONE: u16 = u16::MAX;

/// Finds runs among packets that stand in one buffer: [`Merge::add`] each, then [`Merge::drain`].
///
/// About 18 KiB of fixed arrays, one per worker.
#[derive(Debug)]
pub struct Merge {
    offloads: Offloads,
    packets: Table<Packet, MAX_PACKETS>,
    /// In the order of their first packets.
    runs: Table<Run, MAX_PACKETS>,
    /// Runs that the next packet of their flow may join.
    open: [[Open; WAYS]; SETS],
    /// Which one of a full set goes next.
    victim: usize,
}

/// What a write is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunInfo {
    /// How many packets were added that this write carries.
    pub packets: usize,
    /// How many bytes they had together.
    pub bytes: usize,
    /// Whether it is a super-packet.
    pub gso: bool,
}

/// A fixed array and how much of it is in use.
#[derive(Debug)]
struct Table<T, const N: usize> {
    entries: [T; N],
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    start: usize,
    len: usize,
    next: u16,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    kind: Kind,
    first: u16,
    last: u16,
    count: u16,
    /// Length of each packet's headers.
    header: usize,
    /// Payload of each packet but the last.
    size: usize,
    /// Length of the super-packet.
    total: usize,
    /// TCP: where the next packet must go on.
    sequence: u32,
    /// PSH of the last packet.
    push: bool,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    flow: Flow,
    protocol: u8,
    run: u16,
}

impl Open {
    /// No flow hashes to 0.
    const FREE: Self = Self { flow: Flow { pair: 0, flow: 0 }, protocol: 0, run: 0 };
}

impl Merge {
    /// Merges only what the device takes; of the rest every packet is a run by itself.
    #[must_use]
    pub const fn new(offloads: Offloads) -> Self {
        const PACKET: Packet = Packet { start: 0, len: 0, next: NONE };
        const RUN: Run = Run {
            kind: Kind::Tcp4,
            first: 0,
            last: 0,
            count: 0,
            header: 0,
            size: 0,
            total: 0,
            sequence: 0,
            push: false,
        };
        Self {
            offloads,
            packets: Table { entries: [PACKET; MAX_PACKETS], len: 0 },
            runs: Table { entries: [RUN; MAX_PACKETS], len: 0 },
            open: [[Open::FREE; WAYS]; SETS],
            victim: 0,
        }
    }

    /// Whether there is nothing to drain.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.packets.len == 0
    }

    /// How many packets wait for the drain.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.packets.len
    }

    /// Notes the packet that stands in `buf` at `at`, and looks whether it goes on in a run. Changes nothing in `buf`, which must stay
    /// as it is until the drain. `false` if there is no room: drain, then add it again.
    ///
    /// # Panics
    /// When `at` is not inside of `buf`.
    #[inline]
    pub fn add(&mut self, buf: &[u8], at: Range<usize>) -> bool {
        let packet = &buf[at.clone()];
        if self.packets.len == MAX_PACKETS {
            return false;
        }
        match classify(packet, self.offloads) {
            Class::Segment(segment) => self.add_segment(buf, at, &segment),
            Class::Foreign => self.add_alone(at),
            Class::Alone(flow) => {
                self.close_flow(flow);
                self.add_alone(at);
            }
            Class::Odd { pair, protocol } => {
                self.close_pair(pair, protocol);
                self.add_alone(at);
            }
        }
        true
    }

    /// Hands each run to `write`: as slices, which together are what the device takes in one write. The first is the header, the second the
    /// first packet (with its lengths, flags and checksums changed in `buf` if others follow), then come the payloads of the others. A
    /// packet that is alone is written as it was added, behind [`VnetHeader::PLAIN`]. Every flow keeps its order. Afterwards this is empty.
    ///
    /// # Panics
    /// When `buf` is shorter than it was for [`Merge::add`].
    pub fn drain(&mut self, buf: &mut [u8], mut write: impl FnMut(&[IoSlice<'_>], RunInfo)) {
        for run in self.runs.used() {
            let vnet = self.patch_head(run, buf).to_bytes();
            let mut slices = [IoSlice::new(&[]); MAX_RUN + 1];
            slices[0] = IoSlice::new(&vnet);
            let (mut used, mut bytes) = (1, 0);
            let mut at = run.first;
            // The first with its headers, the others without.
            let mut skip = 0;
            while let Some(packet) = self.packets.entries.get(usize::from(at)) {
                slices[used] = IoSlice::new(&buf[packet.start + skip..packet.start + packet.len]);
                used += 1;
                bytes += packet.len;
                skip = run.header;
                at = packet.next;
            }
            write(&slices[..used], RunInfo { packets: used - 1, bytes, gso: run.count > 1 });
        }
        self.clear();
    }

    #[inline]
    fn add_alone(&mut self, at: Range<usize>) {
        let index = self.push_packet(at);
        self.runs.push(Run {
            kind: Kind::Tcp4,
            first: index,
            last: index,
            count: 1,
            header: 0,
            size: 0,
            total: 0,
            sequence: 0,
            push: false,
        });
    }

    #[inline]
    fn add_segment(&mut self, buf: &[u8], at: Range<usize>, segment: &Segment) {
        let set = &mut self.open[segment.flow.flow as usize / 2 % SETS];
        let way = set.iter().position(|open| open.flow.flow == segment.flow.flow);
        if let Some(way) = way {
            let run = &mut self.runs.entries[usize::from(set[way].run)];
            let first = self.packets.entries[usize::from(run.first)];
            let head = &buf[first.start..first.start + first.len];
            let goes_on = run.kind == segment.kind
                && run.header == segment.header
                && run.sequence == segment.sequence
                && segment.payload <= run.size
                && usize::from(run.count) < MAX_RUN
                && run.total + segment.payload <= MAX_LEN
                && same_headers(run.kind, head, &buf[at.clone()], run.count);
            if goes_on {
                let index = self.packets.len as u16;
                self.packets.entries[usize::from(run.last)].next = index;
                run.last = index;
                run.count += 1;
                run.total += segment.payload;
                run.push = segment.is_last;
                if segment.kind.is_tcp() {
                    run.sequence = run.sequence.wrapping_add(segment.payload as u32);
                }
                if segment.is_last || segment.payload < run.size {
                    set[way] = Open::FREE;
                }
                self.push_packet(at);
                return;
            }
        }
        // The flow's run, if it has one, ends here; the place is the new one's.
        if segment.is_last {
            if let Some(way) = way {
                set[way] = Open::FREE;
            }
        } else {
            let way = way.or_else(|| set.iter().position(|open| open.flow.flow == 0)).unwrap_or_else(|| {
                self.victim = self.victim.wrapping_add(1);
                self.victim % WAYS
            });
            set[way] =
                Open { flow: segment.flow, protocol: segment.kind.protocol(), run: self.runs.len as u16 };
        }
        let sequence =
            if segment.kind.is_tcp() { segment.sequence.wrapping_add(segment.payload as u32) } else { 0 };
        let index = self.push_packet(at);
        self.runs.push(Run {
            kind: segment.kind,
            first: index,
            last: index,
            count: 1,
            header: segment.header,
            size: segment.payload,
            total: segment.header + segment.payload,
            sequence,
            push: segment.is_last,
        });
    }

    #[inline]
    fn push_packet(&mut self, at: Range<usize>) -> u16 {
        let index = self.packets.len as u16;
        self.packets.push(Packet { start: at.start, len: at.len(), next: NONE });
        index
    }

    #[inline]
    fn close_flow(&mut self, flow: Flow) {
        for open in &mut self.open[flow.flow as usize / 2 % SETS] {
            if open.flow.flow == flow.flow {
                *open = Open::FREE;
            }
        }
    }

    fn close_pair(&mut self, pair: u32, protocol: Option<u8>) {
        for open in self.open.as_flattened_mut() {
            if open.flow.pair == pair && protocol.is_none_or(|protocol| protocol == open.protocol) {
                *open = Open::FREE;
            }
        }
    }

    /// Makes the first packet of a run the header of a super-packet, and says what stands in front.
    #[inline]
    fn patch_head(&self, run: &Run, buf: &mut [u8]) -> VnetHeader {
        if run.count < 2 {
            return VnetHeader::PLAIN;
        }
        let first = self.packets.entries[usize::from(run.first)];
        let transport = run.kind.transport();
        let (ip, rest) = buf[first.start..first.start + run.header].split_at_mut(transport);
        // Bounded by MAX_LEN.
        let total = run.total as u16;
        let length = (run.total - transport) as u16;
        let addresses = if run.kind.is_v4() {
            ip[2..4].copy_from_slice(&total.to_be_bytes());
            ip[10..12].fill(0);
            let sum = Sum::of(ip).checksum();
            ip[10..12].copy_from_slice(&sum);
            Sum::of(&ip[12..20])
        } else {
            ip[4..6].copy_from_slice(&length.to_be_bytes());
            Sum::of(&ip[8..40])
        };
        if !run.kind.is_tcp() {
            rest[4..6].copy_from_slice(&length.to_be_bytes());
        } else if run.push {
            rest[13] |= PSH;
        }
        let place = run.kind.checksum();
        let partial = addresses.word(u16::from(run.kind.protocol())).word(length).partial();
        rest[place.clone()].copy_from_slice(&partial);
        VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: run.kind.gso_type(),
            hdr_len: run.header as u16,
            gso_size: run.size as u16,
            csum_start: transport as u16,
            csum_offset: place.start as u16,
        }
    }

    fn clear(&mut self) {
        self.packets.len = 0;
        self.runs.len = 0;
        self.open = [[Open::FREE; WAYS]; SETS];
    }
}

impl<T, const N: usize> Table<T, N> {
    #[inline]
    fn push(&mut self, entry: T) {
        if let Some(place) = self.entries.get_mut(self.len) {
            *place = entry;
            self.len += 1;
        }
    }

    #[inline]
    fn used(&self) -> &[T] {
        &self.entries[..self.len]
    }
}
