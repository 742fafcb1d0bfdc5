//! One peer: its session, its socket, its keys.

use super::send;
use crate::engine::SystemRng;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tessera_proto::data::{DataChannel, DataKey, Framing, OpenError, Opened, PING};
use tessera_proto::keys::{KeyMaterial, Role};
use tessera_proto::session::{ClientConfig, ClientEvent, ClientSession, SessionParams};
use tessera_proto::wrap::Datagram;
use tessera_proto::{Cipher, Instant, Now, TlsError};
use tessera_wire::{KeyId, PeerId};

/// Keep-alives where the server pushes no `ping`.
const PING_EVERY: Duration = Duration::from_secs(10);
/// Room for a sealed keep-alive.
const PING_ROOM: usize = 64;

/// Where a peer stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// No PUSH_REPLY yet.
    Connecting,
    /// Data may flow.
    In,
    /// It has said goodbye.
    Leaving,
    /// Its session has ended, and why.
    Over(String),
}

/// A peer.
pub struct Peer {
    /// Connected to the server.
    pub socket: Arc<UdpSocket>,
    /// Its address in the tunnel.
    pub address: Option<Ipv4Addr>,
    /// Where it stands.
    pub state: State,
    /// None where there is no server.
    session: Option<ClientSession>,
    channel: Option<DataChannel>,
    peer_id: PeerId,
    limit: Instant,
    ping_every: Duration,
    next_ping: Instant,
    refused: Option<String>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer")
            .field("peer_id", &self.peer_id)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Peer {
    /// Begins a login, which fails when it takes longer than `limit`. [`Peer::turn`] sends its first packet.
    ///
    /// # Errors
    /// When the TLS configuration cannot be used.
    pub fn start(
        socket: Arc<UdpSocket>,
        config: ClientConfig,
        limit: Duration,
        now: Now,
    ) -> Result<Self, TlsError> {
        let session = ClientSession::new(config, Box::new(SystemRng::default()), now)?;
        Ok(Self {
            socket,
            address: None,
            state: State::Connecting,
            session: Some(session),
            channel: None,
            peer_id: PeerId::UNDEFINED,
            limit: now.mono + limit,
            ping_every: PING_EVERY,
            next_ping: now.mono,
            refused: None,
        })
    }

    /// A peer without a server: its keys are made up.
    #[must_use]
    pub fn made_up(socket: Arc<UdpSocket>, number: u32) -> Self {
        Self {
            socket,
            address: Some(Ipv4Addr::from(0x0a08_0002_u32.wrapping_add(number))),
            state: State::In,
            session: None,
            channel: Some(made_up_channel(number, Role::Client)),
            peer_id: PeerId::new(number).unwrap_or(PeerId::UNDEFINED),
            limit: Instant::default(),
            ping_every: PING_EVERY,
            next_ping: Instant::default(),
            refused: None,
        }
    }

    /// The number in its data packets.
    #[must_use]
    pub const fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// Bytes in front of the inner packets of its data packets.
    #[must_use]
    pub fn headroom(&self) -> usize {
        self.channel.as_ref().map_or(tessera_wire::data::OVERHEAD, DataChannel::headroom)
    }

    /// What seals and opens, once it is in.
    pub const fn channel(&mut self) -> Option<&mut DataChannel> {
        self.channel.as_mut()
    }

    /// Takes a control packet in. What is refused is noise.
    pub fn control(&mut self, bytes: &[u8], now: Now) {
        if let Some(session) = &mut self.session {
            let _ = session.handle_datagram(Datagram(bytes), now);
        }
    }

    /// Opens a data packet in place.
    ///
    /// # Errors
    /// As the data channel says; without keys, as for an unknown one.
    pub fn open<'a>(&mut self, datagram: &'a mut [u8], now: Now) -> Result<Opened<'a>, OpenError> {
        self.channel.as_mut().ok_or(OpenError::UnknownKey)?.open(datagram, now.mono)
    }

    /// Does what is due: timers, events, packets to be sent, a keep-alive if that `may_seal`.
    pub fn turn(&mut self, now: Now, may_seal: bool) {
        let Some(session) = &mut self.session else { return };
        if session.poll_timeout().is_some_and(|(at, _)| at <= now.mono) {
            session.handle_timeout(now);
        }
        while let Some(event) = self.session.as_mut().and_then(ClientSession::poll_event) {
            self.on_event(event, now);
        }
        while let Some(packet) = self.session.as_mut().and_then(ClientSession::poll_transmit) {
            // What is not sent is sent again by the reliable layer.
            let _ = send::send_whole(&self.socket, &packet);
        }
        match self.state {
            State::Connecting if self.limit <= now.mono => self.over("no PUSH_REPLY in time"),
            State::In if may_seal && self.next_ping <= now.mono => self.ping(now),
            State::Leaving if self.silent() || self.limit <= now.mono => self.over("left"),
            _ => {}
        }
    }

    /// When [`Peer::turn`] is to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let session = self.session.as_ref()?.poll_timeout().map(|(at, _)| at);
        let own = match self.state {
            State::Connecting | State::Leaving => self.limit,
            State::In => self.next_ping,
            State::Over(_) => return None,
        };
        Some(session.map_or(own, |at| at.min(own)))
    }

    /// Sends a keep-alive.
    pub fn ping(&mut self, now: Now) {
        self.next_ping = now.mono + self.ping_every;
        if let Some(ping) = self.sealed_ping() {
            // The next one is as good.
            let _ = send::send_whole(&self.socket, &ping);
        }
    }

    /// A keep-alive to be sent later, before anything that is sealed after it.
    pub fn sealed_ping(&mut self) -> Option<Vec<u8>> {
        let channel = self.channel.as_mut()?;
        let mut frame = Vec::with_capacity(PING_ROOM);
        frame.resize(channel.headroom(), 0);
        frame.extend_from_slice(&PING);
        channel.seal(&mut frame).ok()?;
        Some(frame)
    }

    /// Says goodbye; who has not come in is over at once.
    pub fn leave(&mut self, limit: Duration, now: Now) {
        match (&mut self.session, &self.state) {
            (Some(session), State::In) => {
                session.exit(now);
                self.state = State::Leaving;
                self.limit = now.mono + limit;
            }
            (_, State::Over(_)) => {}
            _ => self.over("left"),
        }
    }

    /// The server has acknowledged all that was sent.
    fn silent(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.poll_timeout().is_none())
    }

    fn over(&mut self, why: &str) {
        self.state = State::Over(why.to_owned());
    }

    fn on_event(&mut self, event: ClientEvent, now: Now) {
        match event {
            ClientEvent::Connected { options, peer_id, framing } => {
                self.read_options(&options);
                self.peer_id = peer_id;
                self.channel = Some(DataChannel::new(peer_id, framing));
                self.next_ping = now.mono + self.ping_every;
                self.state = State::In;
                if self.address.is_none() {
                    self.over("the server pushed no IPv4 address (ifconfig)");
                }
            }
            ClientEvent::InstallKey(key) => {
                if let Some(channel) = &mut self.channel {
                    channel.install(*key);
                }
            }
            ClientEvent::PromoteKey(key) => {
                if let Some(channel) = &mut self.channel {
                    channel.promote(key);
                }
            }
            ClientEvent::RetireKey(key) => {
                if let Some(channel) = &mut self.channel {
                    channel.retire(key);
                }
            }
            ClientEvent::AuthFailed(text) => {
                self.refused = Some(format!("AUTH_FAILED {text}").trim().to_owned());
            }
            ClientEvent::Dismissed(text) => self.refused = Some(text),
            ClientEvent::Closed(_) if self.state == State::Leaving => {}
            ClientEvent::Closed(why) => {
                let why = self.refused.take().unwrap_or_else(|| why.to_owned());
                self.over(&why);
            }
            ClientEvent::Credentials(_)
            | ClientEvent::Renegotiated(_)
            | ClientEvent::AuthPending(_)
            | ClientEvent::Info(_) => {}
        }
    }

    fn read_options(&mut self, options: &[String]) {
        for option in options {
            let mut words = option.split_ascii_whitespace();
            match (words.next(), words.next()) {
                (Some("ifconfig"), Some(address)) => self.address = address.parse().ok(),
                (Some("ping"), Some(seconds)) => {
                    let seconds = seconds.parse().unwrap_or_default();
                    if seconds > 0 {
                        self.ping_every = Duration::from_secs(seconds);
                    }
                }
                _ => {}
            }
        }
    }
}

/// The data channel of a peer that has no session: both ends make up the same key from its number.
#[must_use]
pub fn made_up_channel(number: u32, role: Role) -> DataChannel {
    let mut bytes = [0x6b; KeyMaterial::LEN];
    let salt = number.to_be_bytes();
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = salt[place % salt.len()] ^ (place as u8).wrapping_mul(37);
    }
    let window = SessionParams::default().replay_window;
    let peer_id = PeerId::new(number).unwrap_or(PeerId::UNDEFINED);
    let mut channel = DataChannel::new(peer_id, Framing::Plain);
    let material = KeyMaterial::new(bytes);
    if let Some(key) = DataKey::new(KeyId::FIRST, &material, role, Cipher::Aes256Gcm, window) {
        channel.install(key);
    }
    channel
}
