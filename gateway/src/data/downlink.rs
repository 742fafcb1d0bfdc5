//! From the TUN, or another client, to a client's socket.

use std::net::IpAddr;

use tessera_offload::{Split, VnetHeader};
use tessera_proto::Instant;
use tessera_wire::{PeerId, ip};

use super::egress::Unsent;
use super::handover::Kind;
use super::mssfix;
use super::state::State;

impl State {
    /// Sends a packet of the TUN to the client that its destination belongs to.
    #[inline]
    pub(super) fn route(&mut self, header: VnetHeader, packet: &[u8], now: Instant) {
        let Some(addresses) = ip::addresses(packet) else {
            return self.counters.malformed.add(1);
        };
        let dst: IpAddr = addresses.dst;
        match self.routes.lookup(dst) {
            Some(id) => self.deliver(id, header, packet, now),
            None => self.counters.no_route.add(1),
        }
    }

    /// Sends an inner packet to a client, whoever owns it.
    #[inline]
    pub(super) fn deliver(&mut self, to: PeerId, header: VnetHeader, packet: &[u8], now: Instant) {
        let owner = self.layout.worker_of(to) as usize;
        if owner == self.index {
            self.seal(to, header, packet, now);
        } else {
            self.hand_over(owner, Kind::Plain(to, header), packet);
        }
    }

    /// Seals an inner packet for a client of this worker, each of its segments where it will be sent from.
    #[inline]
    pub(super) fn seal(&mut self, to: PeerId, header: VnetHeader, packet: &[u8], now: Instant) {
        let Some(peer) = self.peers.lookup(to) else {
            return self.counters.unknown_peer.add(1);
        };
        let Ok(split) = Split::new(header, packet) else {
            return self.counters.malformed.add(1);
        };
        let count = split.count();
        if !self.down.admit(&mut peer.down_share, count as u32) {
            return self.counters.downlink_over_share.add(count as u64);
        }
        self.counters.tun_reads.observe(count);
        let mss = peer.mss;
        let tos = if self.passtos { ip::traffic_class(packet) } else { 0 };
        for index in 0..count {
            let inner = split.segment_len(index);
            let sent = self.egress.send(peer, inner, tos, now, |out| {
                split.write(index, out);
                if let Some(mss) = mss {
                    mssfix::clamp(out, mss);
                }
            });
            match sent {
                Ok(()) => {}
                // Those behind it would overtake it.
                Err(Unsent::Full) => return self.counters.send_dropped.add((count - index) as u64),
                Err(Unsent::Stalled) => return self.counters.stream_full.add((count - index) as u64),
                Err(Unsent::NoKey) => return self.counters.no_key.add((count - index) as u64),
            }
            peer.moved += inner as u64;
            self.counters.downlink_packets.add(1);
            self.counters.downlink_bytes.add(inner as u64);
        }
    }
}
