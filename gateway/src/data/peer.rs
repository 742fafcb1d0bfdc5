//! One peer of a worker, and the table of them.

use std::time::Duration;

use tessera_ebpf_common::PeerIdLayout;
use tessera_proto::Instant;
use tessera_proto::data::{DataChannel, DataKey};
use tessera_wire::PeerId;

use super::fairness::Share;
use super::message::{PeerSpec, PeerStats, Via};
use super::mssfix;
use crate::config::MssFix;
use crate::net::Path;

/// A peer that moves is asked about at most this often: an attacker that replays packets cannot make it flap faster.
const MOVE_EVERY: Duration = Duration::from_secs(1);

/// Everything that a worker owns of a peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) spec: PeerSpec,
    pub(super) channel: DataChannel,
    pub(super) mss: Option<u16>,
    pub(super) stats: PeerStats,
    pub(super) up_share: Share,
    pub(super) down_share: Share,
    /// Inner bytes in the running `inactive` period.
    pub(super) moved: u64,
    pub(super) inactive_since: Instant,
    pub(super) last_received: Instant,
    pub(super) last_sent: Instant,
    asked_to_move: Option<Instant>,
    /// Said once for each: the shard acts, and may be slow.
    pub(super) reported_worn: bool,
    pub(super) reported_gone: bool,
}

impl Peer {
    pub(super) fn new(spec: PeerSpec, mssfix: MssFix, now: Instant) -> Self {
        Self {
            channel: DataChannel::new(spec.id, spec.framing),
            mss: mssfix::limit(mssfix, spec.path.remote, spec.via, spec.framing.overhead()),
            spec,
            stats: PeerStats::default(),
            up_share: Share::default(),
            down_share: Share::default(),
            moved: 0,
            inactive_since: now,
            last_received: now,
            last_sent: now,
            asked_to_move: None,
            reported_worn: false,
            reported_gone: false,
        }
    }

    pub(super) fn install(&mut self, key: DataKey) {
        self.channel.install(key);
        self.reported_worn = false;
    }

    /// Only between addresses of one protocol: a connection stays where it is.
    #[inline]
    pub(super) const fn may_move(&self, via: Via) -> bool {
        matches!((self.spec.via, via), (Via::Udp(_), Via::Udp(_)))
    }

    /// True when the shard should be asked whether the peer may move to where its packets come from.
    pub(super) fn wants_to_move(&mut self, path: &Path, now: Instant) -> bool {
        if path.remote == self.spec.path.remote {
            // The same peer spoke to another of our addresses: answer from there.
            self.spec.path.local = path.local;
            return false;
        }
        if self.asked_to_move.is_some_and(|at| now.saturating_since(at) < MOVE_EVERY) {
            return false;
        }
        self.asked_to_move = Some(now);
        true
    }

    pub(super) fn set_path(&mut self, path: Path, mssfix: MssFix) {
        self.spec.path = path;
        self.mss = mssfix::limit(mssfix, path.remote, self.spec.via, self.spec.framing.overhead());
    }

    /// True when the key in use should be replaced.
    pub(super) fn is_worn(&self) -> bool {
        self.channel.current().is_some_and(|key| {
            key.is_worn()
                || self.spec.reneg_bytes.is_some_and(|limit| key.bytes() >= limit)
                || self.spec.reneg_packets.is_some_and(|limit| u64::from(key.sealed_packets()) >= limit)
        })
    }
}

/// Peers by slot: the index is arithmetic on the peer-id, and a lookup touches one entry.
#[derive(Debug)]
pub(super) struct Peers {
    layout: PeerIdLayout,
    slots: Vec<Option<Box<Peer>>>,
}

impl Peers {
    pub(super) const fn new(layout: PeerIdLayout) -> Self {
        Self { layout, slots: Vec::new() }
    }

    pub(super) fn insert(&mut self, peer: Peer) {
        let slot = self.layout.slot_of(peer.spec.id) as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        self.slots[slot] = Some(Box::new(peer));
    }

    #[inline]
    pub(super) fn lookup(&mut self, id: PeerId) -> Option<&mut Peer> {
        let slot = self.layout.slot_of(id) as usize;
        self.slots.get_mut(slot)?.as_deref_mut().filter(|peer| peer.spec.id == id)
    }

    /// Removes a peer if that generation still holds the id: a late writer loses.
    pub(super) fn remove(&mut self, id: PeerId, generation: u64) -> Option<Box<Peer>> {
        let slot = self.slots.get_mut(self.layout.slot_of(id) as usize)?;
        slot.take_if(|peer| peer.spec.id == id && peer.spec.generation == generation)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.slots.iter_mut().filter_map(|slot| slot.as_deref_mut())
    }
}
