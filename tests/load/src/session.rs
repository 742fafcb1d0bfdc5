//! One client, from its reset to its goodbye.
//!
//! ```text
//!  Connecting ── PUSH_REPLY ──▶ Leaving (EXIT is sent) ── acknowledged, or given up ──▶ Over
//!      └── refused, failed, too slow ──▶ Over
//! ```

use std::time::Duration;
use tessera_proto::session::{ClientConfig, ClientEvent, ClientSession, Credentials};
use tessera_proto::wrap::Datagram;
use tessera_proto::{Instant, Now, Rng, TlsError};
use tessera_wire::{Opcode, OpcodeByte};

/// How long the acknowledgement of a goodbye is awaited: one repetition's time and a round trip. A server that forgot us
/// at once, and whose acknowledgement was lost, never answers.
const LEAVE_LIMIT: Duration = Duration::from_secs(3);

/// What the owner is told.
#[derive(Debug)]
pub enum Happened {
    /// PUSH_REPLY is here.
    Connected {
        /// Since the first packet.
        latency: Duration,
        /// What to log in with the next time: user name and pushed token, if one was pushed.
        token: Option<Credentials>,
    },
    /// There was no PUSH_REPLY, and why.
    Failed(String),
    /// Nothing more happens; `true` when the server has acknowledged our goodbye.
    Over(bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Leaving,
    Over,
}

/// One client.
#[derive(Debug)]
pub struct Session {
    client: ClientSession,
    stage: Stage,
    started: Instant,
    /// The stage at hand ends then, whatever the protocol says.
    limit: Instant,
    token: Option<Credentials>,
    refused: Option<String>,
}

impl Session {
    /// Starts; the first packet is waiting in [`Session::transmit`]. `limit` is the time until PUSH_REPLY.
    ///
    /// # Errors
    /// When the TLS configuration cannot be used.
    pub fn start(
        config: ClientConfig,
        rng: Box<dyn Rng>,
        limit: Duration,
        now: Now,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            client: ClientSession::new(config, rng, now)?,
            stage: Stage::Connecting,
            started: now.mono,
            limit: now.mono + limit,
            token: None,
            refused: None,
        })
    }

    /// Takes a datagram in. What is no control packet of this session changes nothing.
    pub fn receive(&mut self, bytes: &[u8], now: Now) {
        let opcode = bytes.first().and_then(|first| OpcodeByte::parse(*first)).map(|op| op.opcode);
        if !matches!(opcode, None | Some(Opcode::DataV1 | Opcode::DataV2)) {
            // Strays of the port's last session are refused in there.
            let _ = self.client.handle_datagram(Datagram(bytes), now);
        }
    }

    /// Acts on whatever is due. Harmless when nothing is.
    pub fn timeout(&mut self, now: Now) {
        if self.client.poll_timeout().is_some_and(|(at, _)| at <= now.mono) {
            self.client.handle_timeout(now);
        }
    }

    /// The next packet to send.
    pub fn transmit(&mut self) -> Option<Vec<u8>> {
        self.client.poll_transmit()
    }

    /// The next thing that happened. Ask until there is nothing more, and after that for packets to send: who is
    /// connected says goodbye.
    pub fn poll(&mut self, now: Now) -> Option<Happened> {
        while let Some(event) = self.client.poll_event() {
            if let Some(happened) = self.on_event(event, now) {
                return Some(happened);
            }
        }
        match self.stage {
            Stage::Connecting if self.limit <= now.mono => {
                Some(self.fail("no PUSH_REPLY in time".to_owned()))
            }
            Stage::Connecting => None,
            Stage::Leaving => {
                let acknowledged = self.client.poll_timeout().is_none();
                (acknowledged || self.limit <= now.mono).then(|| {
                    self.stage = Stage::Over;
                    Happened::Over(acknowledged)
                })
            }
            Stage::Over => None,
        }
    }

    /// When [`Session::timeout`] and [`Session::poll`] are to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let limit = (self.stage != Stage::Over).then_some(self.limit)?;
        Some(self.client.poll_timeout().map_or(limit, |(at, _)| at.min(limit)))
    }

    fn on_event(&mut self, event: ClientEvent, now: Now) -> Option<Happened> {
        match event {
            ClientEvent::Credentials(credentials) => self.token = Some(credentials),
            ClientEvent::Connected { .. } if self.stage == Stage::Connecting => {
                self.stage = Stage::Leaving;
                self.limit = now.mono + LEAVE_LIMIT;
                let latency = now.mono.saturating_since(self.started);
                self.client.exit(now);
                return Some(Happened::Connected { latency, token: self.token.take() });
            }
            ClientEvent::AuthFailed(text) if text.is_empty() => self.refused = Some("AUTH_FAILED".to_owned()),
            ClientEvent::AuthFailed(text) => self.refused = Some(format!("AUTH_FAILED,{text}")),
            ClientEvent::Dismissed(text) => self.refused = Some(text),
            ClientEvent::Closed(why) if self.stage == Stage::Connecting => {
                let text = self.refused.take().unwrap_or_else(|| why.to_owned());
                return Some(self.fail(text));
            }
            // No data is sent, so that keys are of no use, and there is nobody who could answer a question.
            ClientEvent::InstallKey(_)
            | ClientEvent::AuthPending(_)
            | ClientEvent::Info(_)
            | ClientEvent::PromoteKey(_)
            | ClientEvent::RetireKey(_)
            | ClientEvent::Renegotiated(_)
            | ClientEvent::Connected { .. }
            | ClientEvent::Closed(_) => {}
        }
        None
    }

    fn fail(&mut self, why: String) -> Happened {
        self.stage = Stage::Over;
        Happened::Failed(why)
    }
}
