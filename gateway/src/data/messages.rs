//! What shards tell a worker.

use std::sync::mpsc::TryRecvError;

use tessera_proto::Now;

use super::message::{FromWorker, PeerStats, ToWorker, Via};
use super::peer::Peer;
use super::state::State;
use super::uplink::Origin;

/// Messages of shards that are handled in one turn.
const MESSAGE_BUDGET: usize = 256;

impl State {
    /// Acts on what waits; false when the worker is to stop.
    pub(super) fn handle_messages(&mut self, now: Now) -> bool {
        self.waker.clear();
        for _ in 0..MESSAGE_BUDGET {
            match self.messages.try_recv() {
                Ok(ToWorker::Stop) | Err(TryRecvError::Disconnected) => return false,
                Ok(message) => self.handle_message(message, now),
                Err(TryRecvError::Empty) => return true,
            }
        }
        // More may wait: come back at once after the packets had their turn.
        self.waker.wake();
        true
    }

    fn handle_message(&mut self, message: ToWorker, now: Now) {
        match message {
            ToWorker::Add(spec) => self.peers.insert(Peer::new(*spec, self.mssfix, now.mono)),
            ToWorker::InstallKey(id, key) => {
                if let Some(peer) = self.peers.lookup(id) {
                    peer.install(*key);
                }
            }
            ToWorker::PromoteKey(id, key_id) => {
                if let Some(peer) = self.peers.lookup(id) {
                    peer.channel.promote(key_id);
                }
            }
            ToWorker::RetireKey(id, key_id) => {
                if let Some(peer) = self.peers.lookup(id) {
                    peer.channel.retire(key_id);
                }
            }
            ToWorker::SetPath(id, path) => {
                let mssfix = self.mssfix;
                if let Some(peer) = self.peers.lookup(id) {
                    peer.set_path(path, mssfix);
                }
            }
            ToWorker::Remove { id, generation } => {
                if let Some(peer) = self.peers.remove(id, generation) {
                    let stats: PeerStats = peer.stats;
                    self.tell(peer.spec.shard, FromWorker::Removed { id, generation, stats });
                }
            }
            ToWorker::Stats(id, reply) => {
                if let Some(peer) = self.peers.lookup(id) {
                    // Whoever asked may have given up waiting.
                    let _ = reply.send(peer.stats);
                }
            }
            ToWorker::AddRoute(prefix, id) => {
                // The directory has refused conflicts already; a second answer here changes nothing.
                let _ = self.routes.insert(prefix, id);
            }
            ToWorker::RemoveRoutes(id) => {
                self.routes.remove_owner(id);
            }
            ToWorker::Datagram { listener, path, mut bytes } => {
                let whole = 0..bytes.len();
                self.handle_datagram(Origin { via: Via::Udp(listener), path: &path }, &mut bytes, whole, now);
                self.write_merged(&mut bytes, now.mono);
            }
            ToWorker::StreamEstablished(id) => {
                // If it is gone, its shard has been told.
                self.egress.streams.established(id);
            }
            ToWorker::StreamControl(id, bytes) => {
                // Without a connection there is nobody to hear it.
                self.egress.streams.queue_control(id, &bytes);
            }
            ToWorker::CloseStream(id) => self.egress.streams.close(id, true),
            ToWorker::Stop => {}
        }
    }
}
