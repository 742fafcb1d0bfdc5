//! Puts messages back in order.

use std::collections::BTreeMap;
use tessera_wire::MessageId;

/// How far ahead of the next expected message one is accepted; OpenVPN's receive window.
pub const RECV_WINDOW: u32 = 12;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Stored; acknowledge it.
    New,
    /// Had it already; acknowledge it again, the first acknowledgement was lost.
    Duplicate,
    /// Outside the window; do not acknowledge.
    OutOfWindow,
}

/// Messages received ahead of their turn.
#[derive(Debug)]
pub struct RecvWindow {
    next: MessageId,
    early: BTreeMap<MessageId, Vec<u8>>,
}

impl RecvWindow {
    /// Expects `first` next.
    pub const fn new(first: MessageId) -> Self {
        Self { next: first, early: BTreeMap::new() }
    }

    /// Takes a message in.
    pub fn insert(&mut self, id: MessageId, payload: &[u8]) -> Received {
        if id < self.next || self.early.contains_key(&id) {
            // Far below the window nobody retransmits any more: that is no lost acknowledgement but noise.
            let ancient = self.next.0.saturating_sub(id.0) > RECV_WINDOW;
            return if ancient { Received::OutOfWindow } else { Received::Duplicate };
        }
        if id.0.saturating_sub(self.next.0) >= RECV_WINDOW {
            return Received::OutOfWindow;
        }
        self.early.insert(id, payload.to_vec());
        Received::New
    }

    /// The next message in order, if it is here.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        let payload = self.early.remove(&self.next)?;
        self.next = self.next.next()?;
        Some(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn window_edges() {
        let mut w = RecvWindow::new(MessageId(1));
        assert_eq!(w.insert(MessageId(13), b"x"), Received::OutOfWindow);
        assert_eq!(w.insert(MessageId(12), b"x"), Received::New);
        assert_eq!(w.insert(MessageId(12), b"x"), Received::Duplicate);
        assert_eq!(w.insert(MessageId(0), b"x"), Received::Duplicate);
        assert_eq!(w.pop(), None);
        assert_eq!(w.insert(MessageId(1), b"a"), Received::New);
        assert_eq!(w.pop(), Some(b"a".to_vec()));
        assert_eq!(w.insert(MessageId(u32::MAX), b"x"), Received::OutOfWindow);
    }

    proptest! {
        /// Any arrival order with duplicates: each message comes out once, in order.
        #[test]
        fn exactly_once_in_order(order in prop::collection::vec(0u32..40, 0..600)) {
            let mut w = RecvWindow::new(MessageId(0));
            let mut out = 0u32;
            for id in order {
                w.insert(MessageId(id), &id.to_be_bytes());
                while let Some(payload) = w.pop() {
                    prop_assert_eq!(payload, out.to_be_bytes().to_vec());
                    out += 1;
                }
            }
        }
    }
}
