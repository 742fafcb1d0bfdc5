//! What a worker does by the clock: pings, silence, worn keys, and telling what it could not tell before.

use tessera_proto::Instant;
use tessera_proto::data::PING;
use tokio::sync::mpsc::Sender;

use super::message::FromWorker;
use super::state::State;

impl State {
    /// Looks through all peers.
    pub(super) fn tick(&mut self, now: Instant) {
        self.try_merging(now);
        for (shard, message) in std::mem::take(&mut self.backlog) {
            self.tell(shard, message);
        }
        for peer in self.peers.iter_mut() {
            let (id, shard) = (peer.spec.id, peer.spec.shard);
            let queue = self.shards.get(shard);
            let tell =
                |message| queue.is_some_and(|queue: &Sender<FromWorker>| queue.try_send(message).is_ok());
            if peer.spec.ping_restart.is_some_and(|limit| now.saturating_since(peer.last_received) >= limit) {
                // Repeated until the shard has room for it.
                peer.reported_gone = peer.reported_gone || tell(FromWorker::Silent(id));
            }
            if let Some((period, least)) = peer.spec.inactive
                && now.saturating_since(peer.inactive_since) >= period
            {
                if peer.moved <= least {
                    peer.reported_gone = peer.reported_gone || tell(FromWorker::Inactive(id));
                }
                (peer.moved, peer.inactive_since) = (0, now);
            }
            if !peer.reported_worn && peer.is_worn() {
                peer.reported_worn = tell(FromWorker::RenegotiationDue(id));
            }
            if peer.spec.ping.is_some_and(|every| now.saturating_since(peer.last_sent) >= every) {
                // A ping that cannot be sent now is due again in a second.
                let _ = self.egress.send(peer, PING.len(), 0, now, |out| out.copy_from_slice(&PING));
            }
        }
        self.egress.streams.tick(now);
        self.publish();
    }

    /// Makes what the send queues have counted visible.
    fn publish(&self) {
        let mut sent = crate::net::SendCounters::default();
        for link in &self.egress.links {
            sent += link.queue.counters();
        }
        self.counters.publish_sent(&sent);
    }
}
