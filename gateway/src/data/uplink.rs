//! From a client's datagram to the TUN, another client, or the shard.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::time::Duration;

use tessera_offload::{Merge, Offloads, Split, VNET_LEN, VnetHeader};
use tessera_proto::data::{InBand, OpenError};
use tessera_proto::{Instant, Now};
use tessera_wire::{PeerId, data, ip};

use super::counters::WorkerCounters;
use super::handover::Kind;
use super::message::{FromWorker, Via};
use super::mssfix;
use super::state::State;
use crate::net::tun::TunQueue;
use crate::net::{Path, Train};

/// After the TUN refused a super-packet, packets go one by one for so long before merging is tried again.
const MERGE_AGAIN: Duration = Duration::from_secs(60);

/// Where a datagram came in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) via: Via,
    pub(super) path: &'a Path,
}

impl State {
    /// Acts on every datagram of a train; how many there were. Inner packets for the TUN stay in `buf` until
    /// [`State::write_merged`].
    #[inline]
    pub(super) fn handle_train(&mut self, listener: usize, train: &Train, buf: &mut [u8], now: Now) -> usize {
        let (mut start, end) = (train.start, train.start + train.len);
        let mut count = 0;
        while start < end {
            let stop = end.min(start + train.segment);
            self.handle_datagram(
                Origin { via: Via::Udp(listener), path: &train.path },
                buf,
                start..stop,
                now,
            );
            start = stop;
            count += 1;
        }
        self.counters.received_trains.observe(count);
        count
    }

    /// Acts on the datagram that stands at `at` of `buf`.
    #[inline]
    pub(super) fn handle_datagram(&mut self, from: Origin<'_>, buf: &mut [u8], at: Range<usize>, now: Now) {
        let Some(datagram) = buf.get_mut(at.clone()) else { return };
        let Some(id) = data::peer_id_of(datagram) else {
            return self.pass_control(from, datagram);
        };
        let owner = self.layout.worker_of(id) as usize;
        if owner != self.index {
            let kind = Kind::Sealed { via: from.via, path: *from.path };
            return self.hand_over(owner, kind, datagram);
        }
        let Some(peer) = self.peers.lookup(id) else {
            return self.counters.unknown_peer.add(1);
        };
        if !self.up.admit(&mut peer.up_share, 1) {
            return self.counters.uplink_over_share.add(1);
        }
        peer.stats.received += datagram.len() as u64;
        let opened = match peer.channel.open(datagram, now.mono) {
            Ok(opened) => opened,
            Err(error) => return self.counters.count_refused(error),
        };
        peer.last_received = now.mono;
        let (newest, pending) = (opened.newest, opened.with_pending_key);
        let inner = match opened.payload {
            InBand::Packet(packet) => {
                peer.moved += packet.len() as u64;
                if let Some(mss) = peer.mss {
                    mssfix::clamp(packet, mss);
                }
                let start = at.start + peer.channel.headroom();
                Some(start..start + packet.len())
            }
            InBand::Exit => return self.tell_about(id, FromWorker::Exit(id)),
            InBand::Ping | InBand::Occ(_) => None,
        };
        if pending && let Some(header) = data::Header::parse(datagram) {
            // The peer has the new key for certain: it sealed with it.
            peer.channel.promote(header.key_id);
        }
        if newest && peer.may_move(from.via) && peer.wants_to_move(from.path, now.mono) {
            let shard = peer.spec.shard;
            self.tell(shard, FromWorker::Moved { id, path: *from.path });
        }
        if let Some(inner) = inner {
            self.forward(id, buf, inner, now.mono);
        }
    }

    /// Checks the source of the inner packet at `at` and sends it on.
    #[inline]
    fn forward(&mut self, from: PeerId, buf: &mut [u8], at: Range<usize>, now: Instant) {
        let Some(packet) = buf.get(at.clone()) else { return };
        let Some(addresses) = ip::addresses(packet) else {
            return self.counters.malformed.add(1);
        };
        if !self.routes.owner_allows(from, addresses.src) {
            return self.counters.spoofed.add(1);
        }
        self.counters.uplink_packets.add(1);
        self.counters.uplink_bytes.add(packet.len() as u64);
        if self.client_to_client
            && let Some(to) = self.routes.lookup(addresses.dst)
            && to != from
        {
            return self.deliver(to, VnetHeader::PLAIN, packet, now);
        }
        if self.tun.is_some() && !self.merge.add(buf, at.clone()) {
            // The table is full; an empty one takes any packet.
            self.write_merged(buf, now);
            self.merge.add(buf, at);
        }
    }

    /// Writes the inner packets that wait in `buf` to the TUN, as few super-packets as they make.
    pub(super) fn write_merged(&mut self, buf: &mut [u8], now: Instant) {
        let Some(tun) = &self.tun else { return };
        if self.merge.is_empty() {
            return;
        }
        let counters = &self.counters;
        let mut refused = false;
        self.merge.drain(buf, |parts, run| {
            counters.tun_writes.observe(run.packets);
            let Err(error) = tun.write(parts) else { return };
            if run.gso && error.kind() == io::ErrorKind::InvalidInput {
                refused = true;
                write_apart(tun, parts, counters);
            } else {
                counters.tun_refused.add(run.packets as u64);
            }
        });
        if refused {
            *self.merge = Merge::new(Offloads::NONE);
            self.merge_again = Some(now + MERGE_AGAIN);
        }
    }

    /// Merges again, when it is time to.
    pub(super) fn try_merging(&mut self, now: Instant) {
        if self.merge.is_empty() && self.merge_again.take_if(|at| *at <= now).is_some() {
            *self.merge = Merge::new(self.offloads);
        }
    }

    /// Passes a packet that carries no data on to the shard of its session.
    fn pass_control(&mut self, from: Origin<'_>, datagram: &[u8]) {
        let Some(last) = datagram.get(8) else {
            return self.counters.malformed.add(1);
        };
        let shard = match from.via {
            Via::Udp(_) => usize::from(*last) % self.shards.len().max(1),
            Via::Stream { id, .. } => self.shard_of(id),
        };
        let Some(queue) = self.shards.get(shard) else {
            return;
        };
        // Copying is paid only for a packet that has a place.
        match queue.try_reserve() {
            Ok(place) => {
                self.counters.control_passed.add(1);
                let (via, path) = (from.via, *from.path);
                place.send(FromWorker::Control { via, path, bytes: datagram.to_vec() });
            }
            Err(_) => self.counters.shard_full.add(1),
        }
    }
}

/// Writes a super-packet that the kernel did not take segment by segment. It allocates: this happens once a minute at most.
fn write_apart(tun: &TunQueue, parts: &[IoSlice<'_>], counters: &WorkerCounters) {
    let whole: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
    let Some((header, packet)) = VnetHeader::parse(&whole).zip(whole.get(VNET_LEN..)) else { return };
    let Ok(split) = Split::new(header, packet) else { return counters.tun_refused.add(1) };
    for index in 0..split.count() {
        let mut segment = vec![0; split.segment_len(index)];
        split.write(index, &mut segment);
        let plain = VnetHeader::PLAIN.to_bytes();
        if tun.write(&[IoSlice::new(&plain), IoSlice::new(&segment)]).is_err() {
            counters.tun_refused.add(1);
        }
    }
}

impl WorkerCounters {
    fn count_refused(&self, error: OpenError) {
        match error {
            OpenError::BadTag | OpenError::ForgeryLimit => self.bad_tag.add(1),
            OpenError::Compressed | OpenError::Malformed => self.malformed.add(1),
            OpenError::Replay(_) => self.replayed.add(1),
            OpenError::UnknownKey => self.unknown_key.add(1),
        }
    }
}
