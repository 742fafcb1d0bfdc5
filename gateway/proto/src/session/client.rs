//! The client's end of one session: for simulation, tests and load; stock clients judge the server.
//!
//! ```text
//!  Reset ──▶ Negotiating ──keys exchanged──▶ Pulling ──PUSH_REPLY──▶ Established ⟲ renegotiate ──▶ Closed
//! ```

use super::agree::renegotiation_key;
use super::channel::{Channel, Progress};
use super::link::{Link, Protection};
use super::params::SessionParams;
use super::timer::{Timer, TimerTable};
use crate::data::{DataKey, Framing};
use crate::keys::{ClientMessage, EXPORT_DATA_KEYS, KeyMaterial, KeySource, Role, ServerMessage};
use crate::message::{self, FromServer};
use crate::rng::{self, Rng};
use crate::time::{Instant, Now};
use crate::tls::{Tls, TlsError};
use crate::wrap::{Datagram, KeyDirection, RESEND_WKC, WrapError, Wrapper};
use crate::{Cipher, Secret};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use core::time::Duration;
use rustls::pki_types::ServerName;
use std::collections::VecDeque;
use std::sync::Arc;
use tessera_wire::{KeyId, Opcode, PeerId, SessionId};
use zeroize::Zeroizing;

/// A client repeats its PUSH_REQUEST this often until it is answered.
const PUSH_REQUEST_EVERY: Duration = Duration::from_secs(5);

/// What a client logs in with.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Empty when there is none.
    pub username: String,
    /// Password, or a token that an earlier session was given.
    pub password: Secret<String>,
}

/// How a client connects.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Numbers; `ciphers` is what it offers.
    pub params: Arc<SessionParams>,
    /// Certificates.
    pub tls: Arc<rustls::ClientConfig>,
    /// Name that the server's certificate must bear.
    pub server_name: ServerName<'static>,
    /// Control-channel keys.
    pub protection: Protection,
    /// The wrapped client key, under tls-crypt-v2.
    pub wkc: Option<Vec<u8>>,
    /// Login.
    pub credentials: Credentials,
    /// Abilities that it announces.
    pub iv_proto: u32,
    /// More peer-info lines, each with its newline.
    pub peer_info: String,
}

/// Something that the owner of a client session must act on.
#[derive(Debug)]
pub enum ClientEvent {
    /// The server's configuration is here; data may flow once a key was installed.
    Connected {
        /// Every pushed option but the token.
        options: Vec<String>,
        /// What to put into data packets.
        peer_id: PeerId,
        /// Of the data channel's plaintext.
        framing: Framing,
    },
    /// Use this in place of the password, now and at reconnects.
    Credentials(Credentials),
    /// Give this key to the data channel.
    InstallKey(Box<DataKey>),
    /// Seal with this key from now on.
    PromoteKey(KeyId),
    /// Forget this key.
    RetireKey(KeyId),
    /// A renegotiation is through.
    Renegotiated(KeyId),
    /// The login takes longer, as many seconds as are named.
    AuthPending(Option<u32>),
    /// Something for the person here: a question to be answered by [`ClientSession::respond`], or an address.
    Info(String),
    /// The login was refused, with the server's text.
    AuthFailed(String),
    /// The server sends us away, with its text (`RESTART`, `HALT` and `EXIT`).
    Dismissed(String),
    /// The session is over.
    Closed(&'static str),
}

#[derive(Debug)]
struct Negotiation {
    channel: Channel,
    stage: Stage,
    started: Instant,
}

#[derive(Debug)]
enum Stage {
    /// TLS handshake; our key-method-2 message follows it.
    Handshake,
    /// Ours is sent; the server's is awaited.
    Method2 { client: KeySource },
}

#[derive(Debug)]
enum Phase {
    Negotiating,
    Pulling { client: Box<KeySource>, server: Box<KeySource>, options: Vec<Secret<String>> },
    Established { agreed: Pulled },
    Closed,
}

#[derive(Debug, Clone, Copy)]
struct Pulled {
    cipher: Cipher,
    exporter: bool,
    framing: Framing,
    peer_id: PeerId,
}

/// One session with a server.
pub struct ClientSession {
    config: ClientConfig,
    rng: Box<dyn Rng>,
    link: Link,
    phase: Phase,
    negotiation: Option<Negotiation>,
    current: Option<Channel>,
    lame: Option<(Channel, KeyId)>,
    /// Of the latest attempt, whatever became of it.
    last_key_id: KeyId,
    timers: TimerTable,
    transmits: VecDeque<Vec<u8>>,
    events: VecDeque<ClientEvent>,
}

impl core::fmt::Debug for ClientSession {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ClientSession")
            .field("link", &self.link)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

impl ClientSession {
    /// Starts to connect.
    pub fn new(config: ClientConfig, mut rng: Box<dyn Rng>, now: Now) -> Result<Self, TlsError> {
        let key = Arc::clone(&config.protection.key);
        let (wrap, reset) = if config.wkc.is_some() {
            (Wrapper::with_early_negotiation(key, now.wall), Opcode::HardResetClientV3)
        } else {
            (Wrapper::new(key, 1, now.wall), Opcode::HardResetClientV2)
        };
        let local = SessionId(rng::bytes(rng.as_mut()));
        let mut link =
            Link::new(local, None, wrap, config.protection.source.clone(), config.params.max_packet);
        if let Some(wkc) = &config.wkc {
            link.carry_wkc(wkc.clone());
        }
        let tls = Tls::client(Arc::clone(&config.tls), config.server_name.clone())?;
        let channel = Channel::open(KeyId::FIRST, reset, tls, config.params.tls_timeout, now.mono);
        let mut timers = TimerTable::default();
        timers.set(Timer::Handshake, now.mono + config.params.handshake_window);
        let mut session = Self {
            config,
            rng,
            link,
            phase: Phase::Negotiating,
            negotiation: Some(Negotiation { channel, stage: Stage::Handshake, started: now.mono }),
            current: None,
            lame: None,
            last_key_id: KeyId::FIRST,
            timers,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        };
        session.flush(now);
        Ok(session)
    }

    /// True when nothing more will happen.
    pub const fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Takes a packet of the server in. What is refused is noise, and changes nothing.
    pub fn handle_datagram(&mut self, datagram: Datagram<'_>, now: Now) -> Result<(), WrapError> {
        let packet = self.link.open(datagram, now.mono)?;
        let key_id = packet.op.key_id;
        if self.link.remote().is_none() {
            if packet.op.opcode != Opcode::HardResetServerV2 {
                return Err(WrapError::WrongSession);
            }
            self.link.learn_remote(packet.from);
        }
        let in_use =
            self.current.iter().chain(self.lame.iter().map(|(c, _)| c)).any(|c| c.key_id() == key_id);
        let established = matches!(self.phase, Phase::Established { .. });
        let may_renegotiate = established && key_id != KeyId::FIRST && !in_use;
        if self.negotiation.is_none() && packet.op.opcode == Opcode::SoftReset && may_renegotiate {
            self.open_renegotiation(key_id, now);
        }
        if let Some(negotiation) = self.negotiation.as_mut().filter(|n| n.channel.key_id() == key_id) {
            let result = negotiation.channel.receive(&packet, now.mono);
            self.after_negotiation_packet(result, now);
        } else if let Some(channel) = self.current.as_mut().filter(|c| c.key_id() == key_id) {
            match channel.receive(&packet, now.mono) {
                Ok(progress) => {
                    let messages = channel.messages(&progress.records);
                    self.handle_messages(&messages, now);
                }
                Err(_) => self.finish("TLS failed"),
            }
        } else if let Some((channel, _)) = self.lame.as_mut().filter(|(c, _)| c.key_id() == key_id) {
            // Only its acknowledgements still matter.
            let _ = channel.receive(&packet, now.mono);
        } else {
            return Err(WrapError::NoSuchKey);
        }
        self.flush(now);
        Ok(())
    }

    /// Starts a renegotiation, unless one runs already or there is nothing to renegotiate.
    pub fn renegotiate(&mut self, now: Now) {
        if self.negotiation.is_none() && matches!(self.phase, Phase::Established { .. }) {
            let mut key_id = self.last_key_id.next();
            if self.current.as_ref().is_some_and(|current| current.key_id() == key_id) {
                key_id = key_id.next();
            }
            self.open_renegotiation(key_id, now);
            self.flush(now);
        }
    }

    /// Logs in with these at renegotiations to come.
    pub fn set_credentials(&mut self, credentials: Credentials) {
        self.config.credentials = credentials;
    }

    /// Answers a question that was asked during the login.
    pub fn respond(&mut self, answer: &Secret<String>, now: Now) {
        if let Some(channel) = &mut self.current {
            let text = Zeroizing::new(STANDARD.encode(answer.expose()));
            channel.send_message(&Zeroizing::new(format!("CR_RESPONSE,{}", *text)));
        }
        self.flush(now);
    }

    /// Says goodbye on the control channel.
    pub fn exit(&mut self, now: Now) {
        if let Some(channel) = &mut self.current {
            channel.send_message("EXIT");
        }
        self.flush(now);
        self.finish("we left");
    }

    /// Acts on whatever is due.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(timer) = self.timers.expire(now.mono) {
            match timer {
                Timer::Handshake => {
                    if self.current.is_none() {
                        self.finish("handshake timed out");
                    } else {
                        self.negotiation = None;
                        self.timers.set(Timer::Renegotiate, now.mono + self.config.params.handshake_window);
                    }
                }
                Timer::Renegotiate => self.renegotiate(now),
                Timer::Promote => {
                    if let Some(channel) = &self.current {
                        self.events.push_back(ClientEvent::PromoteKey(channel.key_id()));
                    }
                }
                Timer::LameKey => {
                    if let Some((_, key_id)) = self.lame.take() {
                        self.events.push_back(ClientEvent::RetireKey(key_id));
                    }
                }
                Timer::PushRequest => self.ask_for_push(now),
                Timer::Close | Timer::LameChannel | Timer::Login => {}
            }
        }
        self.flush(now);
    }

    /// The next packet for the server.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmits.pop_front()
    }

    /// The next thing that the owner must act on.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// When [`ClientSession::handle_timeout`] is to be called, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let channels = self.negotiation.iter().map(|n| &n.channel).chain(&self.current);
        let channels = channels.chain(self.lame.iter().map(|(c, _)| c));
        let resend = channels.filter_map(Channel::next_due).min().map(|at| (at, "retransmission"));
        self.timers.next().into_iter().chain(resend).min()
    }

    fn open_renegotiation(&mut self, key_id: KeyId, now: Now) {
        self.last_key_id = key_id;
        // The server keeps two keys, as we do: see its side.
        self.events.extend(self.current.as_ref().map(|current| ClientEvent::PromoteKey(current.key_id())));
        self.timers.stop(Timer::Promote);
        if let Some((_, old)) = self.lame.take() {
            self.events.push_back(ClientEvent::RetireKey(old));
        }
        self.timers.stop(Timer::LameKey);
        self.timers.stop(Timer::Renegotiate);
        match Tls::client(Arc::clone(&self.config.tls), self.config.server_name.clone()) {
            Ok(tls) => {
                let rto = self.config.params.tls_timeout;
                let channel = Channel::open(key_id, Opcode::SoftReset, tls, rto, now.mono);
                self.negotiation = Some(Negotiation { channel, stage: Stage::Handshake, started: now.mono });
                self.timers.set(Timer::Handshake, now.mono + self.config.params.handshake_window);
            }
            Err(_) => self.finish("TLS is unusable"),
        }
    }

    fn after_negotiation_packet(&mut self, result: Result<Progress, TlsError>, now: Now) {
        let Ok(progress) = result else {
            return self.finish("TLS failed");
        };
        if progress.reset_payload.is_some_and(|payload| payload.starts_with(&RESEND_WKC)) {
            self.link.resend_wkc();
        }
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        if let (Stage::Handshake, false) = (&negotiation.stage, negotiation.channel.tls().is_handshaking()) {
            let source = KeySource::client(self.rng.as_mut());
            let peer_info = peer_info(&self.config);
            let cipher = self.config.params.ciphers.first().copied().unwrap_or(Cipher::Aes256Gcm);
            let bits = cipher.key_len() * 8;
            let params = &self.config.params;
            let options =
                message::options_string(Role::Client, params.tun_mtu, cipher.name(), bits, params.tls_auth);
            let Credentials { username, password } = self.config.credentials.clone();
            let ours = ClientMessage { source, options, username, password, peer_info };
            negotiation.channel.send_bytes(&ours.encode());
            negotiation.stage = Stage::Method2 { client: ours.source };
        }
        let (Stage::Method2 { .. }, Some((method2, rest))) =
            (&negotiation.stage, progress.records.split_first())
        else {
            return;
        };
        let Ok(server) = ServerMessage::parse(method2) else {
            return self.finish("malformed key method 2 message");
        };
        let Some(Negotiation { channel, stage: Stage::Method2 { client }, started }) =
            self.negotiation.take()
        else {
            return;
        };
        self.timers.stop(Timer::Handshake);
        match self.phase {
            Phase::Negotiating => {
                self.current = Some(channel);
                self.phase = Phase::Pulling {
                    client: Box::new(client),
                    server: Box::new(server.source),
                    options: Vec::new(),
                };
                self.timers.set(Timer::PushRequest, now.mono + PUSH_REQUEST_EVERY);
                self.ask_for_push(now);
            }
            Phase::Established { agreed } => {
                let key_id = channel.key_id();
                let delay = self.config.params.promotion_delay();
                self.timers.set(Timer::Promote, now.mono + delay);
                self.timers.set(Timer::LameKey, started + self.config.params.transition_window);
                let installed = self.install_key(&channel, &client, &server.source, agreed, now);
                self.lame = self.current.replace(channel).map(|old| {
                    let id = old.key_id();
                    (old, id)
                });
                if installed {
                    self.events.push_back(ClientEvent::Renegotiated(key_id));
                }
            }
            Phase::Pulling { .. } | Phase::Closed => {}
        }
        if let Some(channel) = &mut self.current {
            let messages = channel.messages(rest);
            self.handle_messages(&messages, now);
        }
    }

    /// Asks for the configuration once more, if it has not come yet.
    pub fn request_push(&mut self, now: Now) {
        self.ask_for_push(now);
        self.flush(now);
    }

    fn ask_for_push(&mut self, now: Now) {
        if let (Phase::Pulling { .. }, Some(channel)) = (&self.phase, &mut self.current) {
            channel.send_message("PUSH_REQUEST");
            self.timers.set(Timer::PushRequest, now.mono + PUSH_REQUEST_EVERY);
        }
    }

    fn handle_messages(&mut self, messages: &[Secret<String>], now: Now) {
        for text in messages {
            match FromServer::parse(text.expose()) {
                FromServer::PushReply { options, more } => self.handle_push(options, more, now),
                FromServer::AuthFailed(text) => {
                    self.events.push_back(ClientEvent::AuthFailed(text));
                    self.finish("authentication failed");
                }
                FromServer::Restart(text) => self.dismissed(format!("RESTART,{text}")),
                FromServer::Halt(text) => self.dismissed(format!("HALT,{text}")),
                FromServer::Exit => self.dismissed(String::from("EXIT")),
                FromServer::AuthPending(timeout) => self.events.push_back(ClientEvent::AuthPending(timeout)),
                FromServer::Info(text) => self.events.push_back(ClientEvent::Info(text)),
                FromServer::Unknown(_) => {}
            }
        }
    }

    fn dismissed(&mut self, text: String) {
        self.events.push_back(ClientEvent::Dismissed(text));
        self.finish("the server sent us away");
    }

    fn handle_push(&mut self, new: Vec<Secret<String>>, more: bool, now: Now) {
        for option in &new {
            self.take_token(option.expose());
        }
        let Phase::Pulling { options, .. } = &mut self.phase else {
            return;
        };
        options.extend(new);
        if more {
            return;
        }
        let Phase::Pulling { client, server, options } = core::mem::replace(&mut self.phase, Phase::Closed)
        else {
            return;
        };
        let Some(pulled) = read_pushed(&options, &self.config.params) else {
            return self.finish("the server pushed no usable peer-id or cipher");
        };
        let flags = |flag: &str| {
            options
                .iter()
                .filter_map(|o| o.expose().strip_prefix("protocol-flags "))
                .any(|list| list.split(' ').any(|f| f == flag))
        };
        let dynamic = flags("dyn-tls-crypt");
        self.phase = Phase::Established { agreed: pulled };
        self.timers.stop(Timer::PushRequest);
        let (peer_id, framing) = (pulled.peer_id, pulled.framing);
        let options = options.iter().map(Secret::expose).filter(|o| !o.starts_with("auth-token")).cloned();
        self.events.push_back(ClientEvent::Connected { options: options.collect(), peer_id, framing });
        let Some(channel) = self.current.take() else {
            return;
        };
        self.install_key(&channel, &client, &server, pulled, now);
        if dynamic
            && let Some(key) = renegotiation_key(channel.tls(), self.link.source(), KeyDirection::Inverse)
        {
            self.link.wrap_renegotiations(key, now.wall);
        }
        self.current = Some(channel);
    }

    fn take_token(&mut self, option: &str) {
        if let Some(token) = option.strip_prefix("auth-token ") {
            self.config.credentials.password = Secret::new(token.to_owned());
            self.events.push_back(ClientEvent::Credentials(self.config.credentials.clone()));
        }
    }

    fn install_key(
        &mut self,
        channel: &Channel,
        client: &KeySource,
        server: &KeySource,
        agreed: Pulled,
        now: Now,
    ) -> bool {
        let material = if agreed.exporter {
            channel.tls().export(EXPORT_DATA_KEYS).ok().map(|bytes| KeyMaterial::new(*bytes.expose()))
        } else {
            let remote = self.link.remote();
            remote.and_then(|remote| KeyMaterial::from_prf(client, server, self.link.local(), remote))
        };
        let window = self.config.params.replay_window;
        let key =
            material.and_then(|m| DataKey::new(channel.key_id(), &m, Role::Client, agreed.cipher, window));
        let Some(key) = key else {
            self.finish("no data key could be derived");
            return false;
        };
        self.events.push_back(ClientEvent::InstallKey(Box::new(key)));
        if let Some(every) = self.config.params.renegotiate_after {
            let spread = every.max.saturating_sub(every.min).as_millis() as u64;
            let jitter = Duration::from_millis(rng::below(self.rng.as_mut(), spread));
            self.timers.set(Timer::Renegotiate, now.mono + every.min + jitter);
        }
        true
    }

    fn finish(&mut self, why: &'static str) {
        if !self.is_closed() {
            self.events.push_back(ClientEvent::Closed(why));
        }
        self.phase = Phase::Closed;
        self.timers.stop_all();
    }

    fn flush(&mut self, now: Now) {
        let channels = self.negotiation.iter_mut().map(|n| &mut n.channel);
        let lame = self.lame.iter_mut().map(|(channel, _)| channel);
        for channel in channels.chain(&mut self.current).chain(lame) {
            channel.flush(&mut self.link, now.mono, &mut self.transmits);
        }
    }
}

/// Cipher, derivation, framing and peer-id among the pushed options. `None` without a peer-id, or with a cipher that
/// we do not speak.
fn read_pushed(options: &[Secret<String>], params: &SessionParams) -> Option<Pulled> {
    let mut pulled = Pulled {
        cipher: params.ciphers.first().copied()?,
        exporter: false,
        framing: Framing::Plain,
        peer_id: PeerId::UNDEFINED,
    };
    for option in options {
        let (word, rest) = option.expose().split_once(' ').unwrap_or((option.expose(), ""));
        match word {
            "cipher" => pulled.cipher = Cipher::from_name(rest)?,
            "comp-lzo" => pulled.framing = Framing::Stub,
            "key-derivation" => pulled.exporter = rest == "tls-ekm",
            "peer-id" => pulled.peer_id = PeerId::new(rest.parse().ok()?)?,
            "protocol-flags" => pulled.exporter = rest.split(' ').any(|flag| flag == "tls-ekm"),
            _ => {}
        }
    }
    (pulled.peer_id != PeerId::UNDEFINED).then_some(pulled)
}

fn peer_info(config: &ClientConfig) -> String {
    let ciphers: Vec<&str> = config.params.ciphers.iter().map(|cipher| cipher.name()).collect();
    format!(
        "IV_VER=tessera\nIV_PLAT=linux\nIV_TCPNL=1\nIV_MTU=1600\nIV_NCP=2\nIV_CIPHERS={}\nIV_PROTO={}\n{}",
        ciphers.join(":"),
        config.iv_proto,
        config.peer_info,
    )
}
