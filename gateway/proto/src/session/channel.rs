//! One negotiation: the reliable stream of one key-id with the TLS connection on top of it.
//!
//! ```text
//!  Opening ── both resets exchanged and acknowledged ──▶ Running ── TLS fault ──▶ Failed (alert still delivered)
//! ```

use super::link::{Link, Packet};
use crate::Secret;
use crate::message::{Splitter, encode};
use crate::reliable::{AckQueue, Received, RecvWindow, SendWindow};
use crate::time::Instant;
use crate::tls::{Tls, TlsError};
use core::time::Duration;
use std::collections::VecDeque;
use tessera_wire::control::{Acks, Tail};
use tessera_wire::{KeyId, MessageId, Opcode};
use zeroize::Zeroizing;

/// Packets that wait for the caller to send them; one turn makes a window of messages and a few acknowledgements.
const MAX_QUEUED: usize = 64;

/// How far the negotiation is.
#[derive(Debug)]
enum Stage {
    /// Resets are being exchanged; TLS output waits.
    Opening {
        /// The peer's reset is here.
        peer_reset: bool,
    },
    /// TLS flows.
    Running,
    /// TLS is broken: its alert is delivered, nothing is read any more.
    Failed,
}

/// What a received packet led to.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// What stood behind the peer's reset.
    pub(super) reset_payload: Option<Vec<u8>>,
    /// Decrypted records, in order.
    pub(super) records: Vec<Zeroizing<Vec<u8>>>,
}

/// One negotiation.
#[derive(Debug)]
pub(super) struct Channel {
    key_id: KeyId,
    stage: Stage,
    send: SendWindow,
    recv: RecvWindow,
    acks: AckQueue,
    tls: Tls,
    splitter: Splitter,
}

impl Channel {
    /// Starts by sending a reset (and expects the peer's).
    pub(super) fn open(key_id: KeyId, reset: Opcode, tls: Tls, rto: Duration, now: Instant) -> Self {
        let mut send = SendWindow::new(MessageId::RESET, rto);
        send.push(reset, Vec::new(), now);
        Self::new(key_id, Stage::Opening { peer_reset: false }, send, RecvWindow::new(MessageId::RESET), tls)
    }

    /// Continues behind resets that were exchanged without state.
    pub(super) fn after_cookie(key_id: KeyId, tls: Tls, rto: Duration) -> Self {
        let first = MessageId(1);
        Self::new(key_id, Stage::Running, SendWindow::new(first, rto), RecvWindow::new(first), tls)
    }

    fn new(key_id: KeyId, stage: Stage, send: SendWindow, recv: RecvWindow, tls: Tls) -> Self {
        let (acks, splitter) = (AckQueue::default(), Splitter::default());
        Self { key_id, stage, send, recv, acks, tls, splitter }
    }

    pub(super) const fn key_id(&self) -> KeyId {
        self.key_id
    }

    pub(super) const fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Everything sent was acknowledged and nothing waits to be sent.
    pub(super) fn is_drained(&self) -> bool {
        self.send.is_empty()
    }

    /// Takes an authenticated packet of this key-id in.
    pub(super) fn receive(&mut self, packet: &Packet, now: Instant) -> Result<Progress, TlsError> {
        let mut progress = Progress::default();
        self.send.acknowledge(&packet.acks, now);
        if let Some(id) = packet.message_id {
            let is_reset = matches!(
                packet.op.opcode,
                Opcode::SoftReset
                    | Opcode::HardResetServerV2
                    | Opcode::HardResetClientV2
                    | Opcode::HardResetClientV3
            );
            // Only a reset is message 0, and message 0 is only a reset: anything else is a stray of another stream.
            if is_reset != (id == MessageId::RESET) {
                return Ok(progress);
            }
            match self.recv.insert(id, &packet.payload) {
                Received::New | Received::Duplicate => self.acks.push(id),
                Received::OutOfWindow => {}
            }
        }
        if let Stage::Opening { peer_reset: false } = self.stage
            && let Some(payload) = self.recv.pop()
        {
            self.stage = Stage::Opening { peer_reset: true };
            progress.reset_payload = Some(payload);
        }
        if let Stage::Opening { peer_reset: true } = self.stage
            && self.send.is_empty()
        {
            self.stage = Stage::Running;
        }
        while matches!(self.stage, Stage::Running)
            && let Some(bytes) = self.recv.pop()
        {
            if let Err(error) = self.tls.feed(&bytes) {
                self.stage = Stage::Failed;
                return Err(error);
            }
            progress.records.extend(self.tls.take_records());
        }
        Ok(progress)
    }

    /// Splits decrypted records into messages.
    pub(super) fn messages(&mut self, records: &[Zeroizing<Vec<u8>>]) -> Vec<Secret<String>> {
        records.iter().flat_map(|record| self.splitter.push(record)).collect()
    }

    /// Sends raw application data as one record.
    pub(super) fn send_bytes(&mut self, bytes: &[u8]) {
        if !matches!(self.stage, Stage::Failed) {
            self.tls.send(bytes);
        }
    }

    /// Sends a message as one record.
    pub(super) fn send_message(&mut self, text: &str) {
        self.send_bytes(encode(text).expose());
    }

    /// Puts everything that is due into `out`: new TLS bytes, retransmissions, acknowledgements.
    pub(super) fn flush(&mut self, link: &mut Link, now: Instant, out: &mut VecDeque<Vec<u8>>) {
        if !matches!(self.stage, Stage::Opening { .. }) {
            while self.send.has_room() {
                let (opcode, room) = link.opcode_and_room(self.key_id, self.send.next_id());
                let Some(bytes) = self.tls.take_outgoing(room) else {
                    break;
                };
                self.send.push(opcode, bytes, now);
            }
        }
        while let Some(next) = self.send.poll(now) {
            let acks = self.acks.take_for_control();
            let tail = Tail {
                acks,
                remote_session_id: link.ack_address(&acks),
                message_id: Some(next.id),
                payload: &next.payload,
            };
            if let Some(packet) = link.seal(next.opcode, self.key_id, &tail) {
                push_bounded(out, packet);
            }
        }
        while self.acks.is_pending() {
            let acks: Acks = self.acks.take_for_ack();
            let tail =
                Tail { acks, remote_session_id: link.ack_address(&acks), message_id: None, payload: &[] };
            if let Some(packet) = link.seal(Opcode::Ack, self.key_id, &tail) {
                push_bounded(out, packet);
            }
        }
    }

    /// When something must be sent again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.send.next_due()
    }
}

/// Outgoing packets beyond this are dropped: they are retransmitted anyway.
fn push_bounded(out: &mut VecDeque<Vec<u8>>, packet: Vec<u8>) {
    if out.len() < MAX_QUEUED {
        out.push_back(packet);
    }
}
