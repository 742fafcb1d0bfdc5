//! What a worker owns, apart from the buffers that packets arrive in: so that a packet in them can be acted on.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use tessera_ebpf_common::PeerIdLayout;
use tessera_offload::{Merge, Offloads};
use tessera_proto::Instant;
use tessera_wire::PeerId;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::Rung;
use super::counters::WorkerCounters;
use super::egress::Egress;
use super::fairness::Fairness;
use super::handover::{Handover, Kind};
use super::message::{FromWorker, ToWorker, Via};
use super::peer::Peers;
use super::streams::{CloseReason, StreamId, Streams};
use super::waker::Waker;
use super::worker::WorkerSetup;
use crate::config::MssFix;
use crate::net::ShareHandle;
use crate::net::tun::TunQueue;
use crate::routes::RouteTable;

/// See the module.
pub(super) struct State {
    pub(super) index: usize,
    pub(super) layout: PeerIdLayout,
    pub(super) egress: Egress,
    pub(super) tun: Option<TunQueue>,
    /// Shares of peers in the turn's packets.
    pub(super) up: Fairness,
    pub(super) down: Fairness,
    /// Inner packets that wait for the TUN, in the buffer that they were opened in.
    pub(super) merge: Box<Merge>,
    pub(super) offloads: Offloads,
    /// The TUN refused a super-packet: nothing is merged before this time.
    pub(super) merge_again: Option<Instant>,
    pub(super) messages: Receiver<ToWorker>,
    pub(super) shards: Vec<Sender<FromWorker>>,
    pub(super) waker: Waker,
    pub(super) client_to_client: bool,
    pub(super) mssfix: MssFix,
    pub(super) passtos: bool,
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) peers: Peers,
    pub(super) routes: RouteTable,
    pub(super) handover: Handover,
    /// Where connections go that are no client's.
    pub(super) share: Option<ShareHandle>,
    /// Messages that must not be lost and did not fit a shard's queue; bounded by the number of peers and connections.
    pub(super) backlog: Vec<(usize, FromWorker)>,
}

impl State {
    pub(super) fn new(setup: WorkerSetup, streams: Streams, handover: Handover) -> Self {
        Self {
            egress: Egress::new(setup.sockets, setup.rung != Rung::Basic, streams),
            share: setup.share,
            peers: Peers::new(setup.layout),
            routes: RouteTable::new(setup.max_routes),
            up: Fairness::new(),
            down: Fairness::new(),
            merge: Box::new(Merge::new(setup.offloads)),
            offloads: setup.offloads,
            merge_again: None,
            backlog: Vec::new(),
            handover,
            index: setup.index,
            layout: setup.layout,
            tun: setup.tun,
            messages: setup.messages,
            shards: setup.shards,
            waker: setup.waker,
            client_to_client: setup.client_to_client,
            mssfix: setup.mssfix,
            passtos: setup.passtos,
            counters: setup.counters,
        }
    }

    /// Gives a packet to another worker.
    pub(super) fn hand_over(&mut self, to: usize, kind: Kind, packet: &[u8]) {
        if self.handover.send(to, kind, packet) {
            self.counters.handed_over.add(1);
        } else {
            self.counters.handover_full.add(1);
        }
    }

    /// Tells the shard of a peer something.
    pub(super) fn tell_about(&mut self, id: PeerId, message: FromWorker) {
        if let Some(peer) = self.peers.lookup(id) {
            let shard = peer.spec.shard;
            self.tell(shard, message);
        }
    }

    /// Tells the shard of a connection that it is gone.
    pub(super) fn tell_closed(&mut self, id: StreamId, why: CloseReason) {
        let via = Via::Stream { worker: self.index, id };
        self.tell(self.shard_of(id), FromWorker::StreamClosed(via, why));
    }

    /// Where all control packets of a connection go, whatever session they are of: a connection that ends has one shard to
    /// be told.
    pub(super) fn shard_of(&self, id: StreamId) -> usize {
        id.slot as usize % self.shards.len().max(1)
    }

    /// Tells a shard something, without waiting.
    pub(super) fn tell(&mut self, shard: usize, message: FromWorker) {
        let Some(queue) = self.shards.get(shard) else {
            return;
        };
        if let Err(TrySendError::Full(message)) = queue.try_send(message) {
            self.counters.shard_full.add(1);
            if matches!(
                message,
                FromWorker::Removed { .. } | FromWorker::Exit(_) | FromWorker::StreamClosed(..)
            ) {
                self.backlog.push((shard, message));
            }
        }
    }
}
