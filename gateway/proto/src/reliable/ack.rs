//! What we have received and must tell the peer.

use std::collections::VecDeque;
use tessera_wire::MessageId;
use tessera_wire::control::{Acks, MAX_ACKS};

/// Most acknowledgements that ride on a control packet; the rest of it belongs to TLS.
pub const MAX_PIGGYBACK: usize = 4;
/// Most ids that wait: the peer cannot have more outstanding than our receive window, and each is asked for once.
const MAX_PENDING: usize = super::RECV_WINDOW as usize;
/// Acknowledgements already sent that ride along again, in case the packet that carried them was lost.
const MAX_RECENT: usize = MAX_ACKS;

/// Acknowledgements to send, oldest first, and those sent last.
#[derive(Debug, Default)]
pub struct AckQueue {
    pending: VecDeque<MessageId>,
    recent: VecDeque<MessageId>,
}

impl AckQueue {
    /// Notes that `id` was received. A repeated one is acknowledged again.
    pub fn push(&mut self, id: MessageId) {
        if self.pending.len() < MAX_PENDING && !self.pending.contains(&id) {
            self.pending.push_back(id);
        }
    }

    /// True when the peer waits for an acknowledgement that has not been sent yet.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Acknowledgements for a control packet: pending ones first, then recent ones again.
    pub fn take_for_control(&mut self) -> Acks {
        self.take(MAX_PIGGYBACK)
    }

    /// Acknowledgements for a P_ACK_V1.
    pub fn take_for_ack(&mut self) -> Acks {
        self.take(MAX_ACKS)
    }

    fn take(&mut self, most: usize) -> Acks {
        let mut acks = Acks::NONE;
        let fresh = self.pending.len().min(most);
        for id in self.recent.iter().take(most.saturating_sub(fresh)) {
            if !self.pending.contains(id) {
                acks.push(*id);
            }
        }
        for id in self.pending.drain(..fresh) {
            acks.push(id);
            self.recent.retain(|known| *known != id);
            self.recent.push_front(id);
        }
        self.recent.truncate(MAX_RECENT);
        acks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(acks: Acks) -> Vec<u32> {
        acks.as_slice().iter().map(|id| id.0).collect()
    }

    #[test]
    fn pending_acks_leave_once_and_ride_along_again() {
        let mut q = AckQueue::default();
        for id in 0..6 {
            q.push(MessageId(id));
        }
        assert_eq!(ids(q.take_for_control()), [0, 1, 2, 3]);
        assert!(q.is_pending());
        let mut all = ids(q.take_for_control());
        all.sort_unstable();
        assert_eq!(all, [2, 3, 4, 5], "two fresh and the two most recent");
        assert!(!q.is_pending());
    }

    #[test]
    fn bounded_whatever_the_peer_sends() {
        let mut q = AckQueue::default();
        for id in 0..10_000 {
            q.push(MessageId(id));
        }
        let mut sent = 0;
        while q.is_pending() {
            sent += q.take_for_ack().len();
        }
        assert!(sent <= MAX_PENDING + MAX_RECENT * 2);
    }
}
