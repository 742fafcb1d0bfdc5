//! Keeps messages until the peer has acknowledged them.

use crate::time::Instant;
use core::time::Duration;
use std::collections::VecDeque;
use tessera_wire::control::Acks;
use tessera_wire::{MessageId, Opcode};

/// Messages in flight at most; OpenVPN's send window.
pub const SEND_WINDOW: usize = 6;
/// Acknowledgements of later messages after which one is sent again at once.
const FAST_RETRANSMIT_ACKS: u8 = 3;
/// Longest wait between two attempts. Doubling without a cap would leave a lossy handshake silent for minutes; with this
/// one every handshake of the simulated networks, up to 30 % loss either way, is through within `hand-window`.
pub const RTO_MAX: Duration = Duration::from_secs(4);

/// A message that the peer has not acknowledged.
#[derive(Debug)]
pub struct Outgoing {
    /// Its place in the stream.
    pub id: MessageId,
    /// Opcode it is sent under.
    pub opcode: Opcode,
    /// TLS bytes, or what follows a reset.
    pub payload: Vec<u8>,
    due: Instant,
    rto: Duration,
    later_acks: u8,
}

/// The messages in flight, in order.
#[derive(Debug)]
pub struct SendWindow {
    next: Option<MessageId>,
    rto: Duration,
    in_flight: VecDeque<Outgoing>,
}

impl SendWindow {
    /// Numbers messages from `first`; the first retransmission comes after `rto` (`tls-timeout`).
    pub const fn new(first: MessageId, rto: Duration) -> Self {
        Self { next: Some(first), rto, in_flight: VecDeque::new() }
    }

    /// True when another message may be pushed. Like OpenVPN, the window spans ids: one lost message at its start
    /// holds back everything more than [`SEND_WINDOW`] ahead of it.
    pub fn has_room(&self) -> bool {
        let Some(next) = self.next else { return false };
        self.in_flight
            .front()
            .is_none_or(|oldest| (next.0.saturating_sub(oldest.id.0) as usize) < SEND_WINDOW)
    }

    /// The id that the next message will have.
    pub const fn next_id(&self) -> Option<MessageId> {
        self.next
    }

    /// True when everything was acknowledged.
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Queues a message, due at once. The caller asks [`SendWindow::has_room`] first; without room it is refused.
    pub fn push(&mut self, opcode: Opcode, payload: Vec<u8>, now: Instant) -> bool {
        let (true, Some(id)) = (self.has_room(), self.next) else {
            return false;
        };
        self.next = id.next();
        self.in_flight.push_back(Outgoing { id, opcode, payload, due: now, rto: self.rto, later_acks: 0 });
        true
    }

    /// Takes acknowledgements in. Ids that are not in flight are ignored and move nothing.
    pub fn acknowledge(&mut self, acks: &Acks, now: Instant) {
        for id in acks.as_slice() {
            let before = self.in_flight.len();
            self.in_flight.retain(|out| out.id != *id);
            if self.in_flight.len() == before {
                continue;
            }
            for out in self.in_flight.iter_mut().filter(|out| out.id < *id) {
                out.later_acks = out.later_acks.saturating_add(1);
                if out.later_acks == FAST_RETRANSMIT_ACKS {
                    out.due = now;
                }
            }
        }
    }

    /// The oldest message that is due; its next attempt is scheduled.
    pub fn poll(&mut self, now: Instant) -> Option<&Outgoing> {
        let out = self.in_flight.iter_mut().find(|out| out.due <= now)?;
        out.due = now + out.rto;
        out.rto = out.rto.saturating_mul(2).min(RTO_MAX);
        out.later_acks = 0;
        Some(out)
    }

    /// When something is due next.
    pub fn next_due(&self) -> Option<Instant> {
        self.in_flight.iter().map(|out| out.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Instant = Instant::from_epoch(Duration::from_secs(10));
    const RTO: Duration = Duration::from_secs(2);

    fn acks(ids: &[u32]) -> Acks {
        let mut acks = Acks::NONE;
        for id in ids {
            acks.push(MessageId(*id));
        }
        acks
    }

    fn window(messages: usize) -> SendWindow {
        let mut w = SendWindow::new(MessageId(0), RTO);
        for _ in 0..messages {
            assert!(w.push(Opcode::Control, vec![1], T0));
        }
        while w.poll(T0).is_some() {}
        w
    }

    #[test]
    fn six_in_flight_and_no_more() {
        let mut w = window(SEND_WINDOW);
        assert!(!w.push(Opcode::Control, vec![], T0));
        w.acknowledge(&acks(&[3]), T0);
        assert!(!w.has_room(), "the oldest still holds the window");
        w.acknowledge(&acks(&[0]), T0);
        assert!(w.has_room());
    }

    #[test]
    fn backs_off_up_to_the_cap() {
        let mut w = window(1);
        let (mut at, mut gaps) = (T0, Vec::new());
        for _ in 0..6 {
            let due = w.next_due().unwrap();
            gaps.push(due.saturating_since(at).as_secs());
            at = due;
            assert!(w.poll(at).is_some());
            assert!(w.poll(at).is_none());
        }
        assert_eq!(gaps, [2, 4, 4, 4, 4, 4]);
    }

    #[test]
    fn three_later_acks_resend_at_once() {
        let mut w = window(5);
        w.acknowledge(&acks(&[1, 2]), T0);
        assert!(w.poll(T0).is_none());
        w.acknowledge(&acks(&[3]), T0);
        assert_eq!(w.poll(T0).unwrap().id, MessageId(0));
        assert!(w.poll(T0).is_none());
    }

    #[test]
    fn bogus_acks_change_nothing() {
        let mut w = window(2);
        let due = w.next_due();
        w.acknowledge(&acks(&[2, 1000, u32::MAX]), T0);
        assert_eq!(w.next_due(), due);
        assert!(!w.is_empty());
        w.acknowledge(&acks(&[0, 1, 0, 1]), T0);
        assert!(w.is_empty());
        w.acknowledge(&acks(&[0]), T0);
        assert!(w.has_room());
    }

    #[test]
    fn the_last_id_is_not_wrapped() {
        let mut w = SendWindow::new(MessageId(u32::MAX), RTO);
        assert!(w.push(Opcode::Control, vec![], T0));
        assert!(!w.has_room());
        w.acknowledge(&acks(&[u32::MAX]), T0);
        assert!(!w.push(Opcode::Control, vec![], T0));
    }
}
