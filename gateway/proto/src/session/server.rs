//! The server's end of one session.
//!
//! ```text
//!  Held ──client key fine──▶ Negotiating ──verdict──▶ Connecting ──establish──▶ Established ─┐
//!  (tls-crypt-v2-verify)     TLS, key method 2        address, hooks            ⟲ renegotiate │
//!        └───────────────────────────┴──────────────────────┴─────────────────────┴─▶ Closing ─▶ gone
//! ```
//!
//! Renegotiations repeat TLS, key method 2 and the login beside the running data channel, under the next key-id; the
//! certificate and the user name are those of the first login (with a user name) for the life of the session.

use super::agree::{Identity, agree, framing, offered_cipher, push_options, renegotiation_key, sha256};
use super::channel::{Channel, Progress};
use super::event::{
    Agreed, Attempt, AuthRequest, Authenticated, Close, CloseReason, Derivation, Event, PushConfig, Verdict,
};
use super::link::{Link, Packet, Protection};
use super::params::SessionParams;
use super::timer::{Timer, TimerTable};
use crate::data::{DataKey, Framing};
use crate::keys::{
    ClientMessage, EXPORT_DATA_KEYS, KeyMaterial, KeySource, Method2Error, Role, ServerMessage,
};
use crate::message::{self, AuthFailure, FromClient, Pending};
use crate::peer_info::{PeerInfo, iv_proto};
use crate::rng::{self, Rng};
use crate::time::{Instant, Now};
use crate::tls::{Tls, TlsError};
use crate::wrap::{Datagram, KeyDirection, Metadata, WrapError, Wrapper};
use crate::{Cipher, Secret};
use core::time::Duration;
use rustls::ServerConfig;
use std::collections::VecDeque;
use std::sync::Arc;
use tessera_wire::{KeyId, Opcode, SessionId};

/// How long a closed session lingers so that its last message is delivered; OpenVPN waits as long.
const CLOSE_LINGER: Duration = Duration::from_secs(5);
/// A login that nobody decides within this is given up: hooks have their own, shorter limits.
const LOGIN_LIMIT: Duration = Duration::from_secs(300);
/// A repeated PUSH_REQUEST is ignored for this long after the reply; the reliable stream delivers it anyway.
const PUSH_REPEAT: Duration = Duration::from_secs(30);
/// The TLS state behind a replaced key serves late acknowledgements only, and is large: it goes long before the key.
const LAME_CHANNEL: Duration = Duration::from_secs(60);
/// Old keys at a time: the data channel has room for so many beside the current one. More than one is left only when a
/// client keeps losing the end of negotiations.
const MAX_LAME_KEYS: usize = 3;
/// While the client has not confirmed the new key, its use is put off by so much at a time.
const UNCONFIRMED: Duration = Duration::from_secs(5);

/// Where the session stands.
#[derive(Debug)]
enum Phase {
    /// The client's tls-crypt-v2 key waits for its verdict; the first packet waits with it.
    Held(Vec<u8>),
    /// The first negotiation or its login is under way.
    Negotiating,
    /// Logged in; address and options are being found.
    Connecting { attempt: Attempt },
    /// Data flows.
    Established { agreed: Agreed, push: Vec<Secret<String>>, pushed_at: Option<Instant> },
    /// The last message is being delivered.
    Closing,
    /// Nothing is left to do.
    Closed,
}

/// A negotiation that has no keys yet.
#[derive(Debug)]
struct Negotiation {
    channel: Channel,
    stage: Stage,
    started: Instant,
}

/// How far a negotiation is.
#[derive(Debug)]
enum Stage {
    /// TLS, and then the client's key-method-2 message.
    Handshake,
    /// Key method 2 is through; the login is being decided.
    Login { attempt: Attempt, username: String, sources: Sources },
    /// Decided; keys wait for the configuration.
    Accepted { sources: Sources },
}

#[derive(Debug)]
struct Sources {
    client: KeySource,
    server: KeySource,
}

/// One client's session.
pub struct ServerSession {
    params: Arc<SessionParams>,
    tls: Arc<ServerConfig>,
    rng: Box<dyn Rng>,
    link: Link,
    phase: Phase,
    identity: Option<Identity>,
    push_requested: bool,
    attempts: u64,
    negotiation: Option<Negotiation>,
    current: Option<Channel>,
    lame: Option<Channel>,
    /// Keys before the current one that still open packets.
    lame_keys: Vec<KeyId>,
    /// The client has acknowledged everything of the current negotiation: it has the key.
    confirmed: bool,
    /// Of the latest attempt, whatever became of it.
    last_key_id: KeyId,
    timers: TimerTable,
    transmits: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
}

impl core::fmt::Debug for ServerSession {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ServerSession")
            .field("link", &self.link)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

/// How a session begins.
#[derive(Debug)]
pub struct Opening {
    /// Our session id: the cookie, or random where no cookie was possible.
    pub local: SessionId,
    /// The client's.
    pub remote: SessionId,
    /// How its packets are protected.
    pub protection: Protection,
    /// Resets were exchanged without state; otherwise the session answers the client's reset itself.
    pub by_cookie: bool,
    /// Wait for [`ServerSession::client_key_verdict`], holding this packet back.
    pub hold: Option<Vec<u8>>,
}

impl ServerSession {
    /// Opens a session. Fails only when the TLS configuration is unusable.
    pub fn new(
        params: Arc<SessionParams>,
        tls: Arc<ServerConfig>,
        rng: Box<dyn Rng>,
        opening: Opening,
        now: Now,
    ) -> Result<Self, TlsError> {
        // Packet id 1 was spent by the stateless answer to the reset.
        let first_id = if opening.by_cookie { 2 } else { 1 };
        let wrap = Wrapper::new(opening.protection.key, first_id, now.wall);
        let link = Link::new(
            opening.local,
            Some(opening.remote),
            wrap,
            opening.protection.source,
            params.max_packet,
        );
        let connection = Tls::server(Arc::clone(&tls))?;
        let channel = if opening.by_cookie {
            Channel::after_cookie(KeyId::FIRST, connection, params.tls_timeout)
        } else {
            Channel::open(KeyId::FIRST, Opcode::HardResetServerV2, connection, params.tls_timeout, now.mono)
        };
        let mut timers = TimerTable::default();
        timers.set(Timer::Handshake, now.mono + params.handshake_window);
        Ok(Self {
            params,
            tls,
            rng,
            link,
            phase: opening.hold.map_or(Phase::Negotiating, Phase::Held),
            identity: None,
            push_requested: false,
            attempts: 0,
            negotiation: Some(Negotiation { channel, stage: Stage::Handshake, started: now.mono }),
            current: None,
            lame: None,
            lame_keys: Vec::new(),
            confirmed: false,
            last_key_id: KeyId::FIRST,
            timers,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        })
    }

    /// Our session id.
    pub const fn local_id(&self) -> SessionId {
        self.link.local()
    }

    /// False until the first login was accepted: such a session may be evicted.
    pub const fn is_authenticated(&self) -> bool {
        matches!(self.phase, Phase::Connecting { .. } | Phase::Established { .. })
    }

    /// True when the session can be forgotten.
    pub const fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Uses `tls` for negotiations to come (certificates or revocation lists were reloaded).
    pub fn set_tls(&mut self, tls: Arc<ServerConfig>) {
        self.tls = tls;
    }

    /// Takes a packet of the client in, without its WKc. What is refused is noise, and changes nothing.
    pub fn handle_datagram(&mut self, datagram: Datagram<'_>, now: Now) -> Result<(), WrapError> {
        if matches!(self.phase, Phase::Held(_) | Phase::Closed) {
            return Err(WrapError::NoSuchKey);
        }
        if datagram.key_id().is_some_and(|id| id != KeyId::FIRST) {
            self.prepare_renegotiation(now);
        }
        let packet = self.link.open(datagram, now.mono)?;
        let key_id = packet.op.key_id;
        if self.negotiation.is_none() && packet.op.opcode == Opcode::SoftReset && self.may_renegotiate(key_id)
        {
            self.open_renegotiation(key_id, now);
        }
        if let Some(negotiation) = self.negotiation.as_mut().filter(|n| n.channel.key_id() == key_id) {
            let result = negotiation.channel.receive(&packet, now.mono);
            self.after_negotiation_packet(result, now);
        } else {
            self.handle_established_packet(&packet, now)?;
        }
        self.flush(now);
        Ok(())
    }

    fn handle_established_packet(&mut self, packet: &Packet, now: Now) -> Result<(), WrapError> {
        let key_id = packet.op.key_id;
        if let Some(channel) = self.current.as_mut().filter(|c| c.key_id() == key_id) {
            match channel.receive(packet, now.mono) {
                Ok(progress) => {
                    self.confirmed |= channel.is_drained();
                    let messages = channel.messages(&progress.records);
                    self.handle_messages(&messages, now);
                }
                Err(error) => self.finish(CloseReason::Tls(error), now),
            }
            return Ok(());
        }
        match self.lame.as_mut().filter(|c| c.key_id() == key_id) {
            // Only its acknowledgements still matter; a fault in it harms nobody.
            Some(channel) => drop(channel.receive(packet, now.mono)),
            None => return Err(WrapError::NoSuchKey),
        }
        Ok(())
    }

    /// Asks the owner to verify the client key that this session is held for.
    pub(crate) fn announce_client_key(&mut self, metadata: Option<Metadata>) {
        self.events.extend(metadata.map(Event::ClientKey));
    }

    /// Framing that the client's options demand, before anything is agreed on: the data channel is set up with it.
    pub fn framing(&self) -> Framing {
        self.identity.as_ref().map(framing).unwrap_or_default()
    }

    /// Lets a session with an unverified tls-crypt-v2 client key go on, or forgets it without a word.
    pub fn client_key_verdict(&mut self, accept: bool, now: Now) {
        let Phase::Held(first) = core::mem::replace(&mut self.phase, Phase::Negotiating) else {
            return;
        };
        if accept {
            // A replay or a malformed packet here is the client's loss: it sends again.
            let _ = self.handle_datagram(Datagram(&first), now);
        } else {
            self.finish(CloseReason::Ordered("tls-crypt-v2 client key refused".into()), now);
            self.phase = Phase::Closed;
        }
    }

    /// Decides a login. The first acceptance gives the proof that [`ServerSession::establish`] wants; a late or
    /// repeated verdict does nothing.
    pub fn auth_verdict(&mut self, attempt: Attempt, verdict: Verdict, now: Now) -> Option<Authenticated> {
        let negotiation = self.negotiation.as_mut()?;
        if !matches!(&negotiation.stage, Stage::Login { attempt: asked, .. } if *asked == attempt) {
            return None;
        }
        if let Verdict::Refuse(failure) = verdict {
            self.close(Close::AuthFailed(failure), now);
            return None;
        }
        let Stage::Login { username, sources, .. } =
            core::mem::replace(&mut negotiation.stage, Stage::Handshake)
        else {
            return None;
        };
        if let Some(identity) = &mut self.identity {
            identity.adopt(&username);
        }
        negotiation.stage = Stage::Accepted { sources };
        let proof = match &self.phase {
            Phase::Negotiating => {
                self.phase = Phase::Connecting { attempt };
                Some(Authenticated { attempt })
            }
            Phase::Established { agreed, .. } => {
                let agreed = *agreed;
                self.generate_keys(agreed, now);
                None
            }
            Phase::Held(_) | Phase::Connecting { .. } | Phase::Closing | Phase::Closed => None,
        };
        self.flush(now);
        proof
    }

    /// Tells the client that its login takes longer, and what its person has to do for it. Gives the time that it has been
    /// granted: no more than `hand-window` and half of `reneg-sec` allow, counted from the client's first packet of this
    /// negotiation, so that keys never overlap. `None` when this attempt is not the one under way.
    pub fn login_pending(&mut self, attempt: Attempt, pending: &Pending, now: Now) -> Option<Duration> {
        let understands =
            self.identity.as_ref().is_some_and(|id| id.peer_info.can(iv_proto::AUTH_PENDING_KW));
        let limit = self.params.longest_login();
        let negotiation = self.negotiation.as_mut()?;
        if !matches!(&negotiation.stage, Stage::Login { attempt: asked, .. } if *asked == attempt) {
            return None;
        }
        let left = limit.saturating_sub(now.mono.saturating_since(negotiation.started));
        let granted = Pending { timeout: pending.timeout.min(left), info: pending.info.clone() };
        for message in granted.messages(understands) {
            negotiation.channel.send_message(message.expose());
        }
        self.timers.set(Timer::Login, now.mono + granted.timeout.max(LOGIN_LIMIT));
        self.flush(now);
        Some(granted.timeout)
    }

    /// Gives the client a new token in place of the one it has. False when it has not been configured yet: then the push
    /// that configures it is still to come.
    pub fn push_token(&mut self, token: &Secret<String>, now: Now) -> bool {
        let (Phase::Established { pushed_at: Some(_), .. }, Some(channel)) = (&self.phase, &mut self.current)
        else {
            return false;
        };
        channel.send_message(message::token_update(token).expose());
        self.flush(now);
        true
    }

    /// Configures an authenticated session: agrees on the cipher, makes the first keys, and pushes. `None` when the
    /// client cannot be served (it is told why) or the session is gone.
    #[expect(clippy::needless_pass_by_value, reason = "the proof is used up")]
    pub fn establish(&mut self, proof: Authenticated, push: PushConfig, now: Now) -> Option<Agreed> {
        if !matches!(self.phase, Phase::Connecting { attempt } if attempt == proof.attempt) {
            return None;
        }
        let identity = self.identity.as_mut()?;
        let agreed = match agree(&self.params, identity, push.ciphers.as_deref()) {
            Ok(agreed) => agreed,
            Err(reason) => {
                self.close(Close::AuthFailed(AuthFailure::Denied(Some(reason.to_owned()))), now);
                return None;
            }
        };
        identity.token_user.clone_from(&push.auth_token_user);
        let wants_push = self.push_requested || identity.peer_info.can(iv_proto::REQUEST_PUSH);
        let options = push_options(&self.params, identity, agreed, &push);
        self.phase = Phase::Established { agreed, push: options, pushed_at: None };
        self.timers.stop(Timer::Login);
        self.generate_keys(agreed, now);
        if wants_push {
            self.send_push(now);
        }
        self.flush(now);
        matches!(self.phase, Phase::Established { .. }).then_some(agreed)
    }

    /// Starts a renegotiation, unless one runs already or there is nothing to renegotiate.
    pub fn renegotiate(&mut self, now: Now) {
        if self.negotiation.is_none() && matches!(self.phase, Phase::Established { .. }) {
            self.open_renegotiation(self.next_key_id(), now);
            self.flush(now);
        }
    }

    /// Ends the session: data stops at once, the message (if any) is still delivered. Ending it again changes nothing
    /// and never extends its life.
    pub fn close(&mut self, how: Close, now: Now) {
        let understands_temp =
            self.identity.as_ref().is_some_and(|id| id.peer_info.can(iv_proto::AUTH_FAIL_TEMP));
        let (text, reason) = match how {
            Close::AuthFailed(failure) => {
                (failure.message(understands_temp), CloseReason::AuthFailed(failure))
            }
            Close::Restart(text) => (Some(message::restart(&text)), CloseReason::Ordered(text)),
            Close::Halt(text) => (Some(message::halt(&text)), CloseReason::Ordered(text)),
            Close::Silent(text) => (None, CloseReason::Ordered(text.to_owned())),
        };
        if matches!(self.phase, Phase::Closing | Phase::Closed) {
            return;
        }
        let channel = match self.negotiation.as_mut().filter(|n| !matches!(n.stage, Stage::Handshake)) {
            Some(negotiation) => Some(&mut negotiation.channel),
            None => self.current.as_mut(),
        };
        let told = match (text, channel) {
            (Some(text), Some(channel)) => {
                channel.send_message(&text);
                true
            }
            _ => false,
        };
        self.finish(reason, now);
        if !told {
            self.phase = Phase::Closed;
        }
        self.flush(now);
    }

    /// Acts on whatever is due.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(timer) = self.timers.expire(now.mono) {
            match timer {
                Timer::Handshake => self.handshake_timeout(now),
                Timer::Login => self.finish_silently(CloseReason::LoginTimeout, now),
                Timer::Renegotiate => self.renegotiate(now),
                Timer::Promote if !self.confirmed => self.timers.set(Timer::Promote, now.mono + UNCONFIRMED),
                Timer::LameChannel if !self.confirmed => {
                    self.timers.set(Timer::LameChannel, now.mono + UNCONFIRMED);
                }
                Timer::Promote => {
                    if let Some(channel) = &self.current {
                        self.events.push_back(Event::PromoteKey(channel.key_id()));
                    }
                }
                Timer::LameChannel => self.lame = None,
                Timer::LameKey => self.retire_lame_keys(),
                Timer::Close => self.phase = Phase::Closed,
                Timer::PushRequest => {}
            }
        }
        self.flush(now);
    }

    /// The next packet for the client; owned bytes, nothing of the session.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmits.pop_front()
    }

    /// The next thing that the owner must act on.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`ServerSession::handle_timeout`] is to be called, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let channels = self.negotiation.iter().map(|n| &n.channel).chain(&self.current).chain(&self.lame);
        let resend = channels.filter_map(Channel::next_due).min().map(|at| (at, "retransmission"));
        self.timers.next().into_iter().chain(resend).min()
    }

    fn is_key_in_use(&self, key_id: KeyId) -> bool {
        self.lame_keys.contains(&key_id)
            || self.current.as_ref().is_some_and(|current| current.key_id() == key_id)
    }

    /// Any key-id that is not in use: a peer whose last attempt got lost may be an id ahead of us.
    fn may_renegotiate(&self, key_id: KeyId) -> bool {
        matches!(self.phase, Phase::Established { .. })
            && key_id != KeyId::FIRST
            && !self.is_key_in_use(key_id)
    }

    /// The id of our next attempt: every attempt has its own, so that strays of a lost one meet nothing.
    fn next_key_id(&self) -> KeyId {
        let mut next = self.last_key_id.next();
        while self.is_key_in_use(next) {
            next = next.next();
        }
        next
    }

    fn retire_lame_keys(&mut self) {
        self.events.extend(self.lame_keys.drain(..).map(Event::RetireKey));
    }

    /// Makes the key that wraps renegotiations, before the first of their packets either way. Many sessions end without one,
    /// and it costs as much as a data key.
    fn prepare_renegotiation(&mut self, now: Now) {
        if let (Phase::Established { agreed, .. }, Some(first)) = (&self.phase, &self.current)
            && agreed.dynamic_tls_crypt
            && !self.link.has_renegotiation_wrap()
            && let Some(key) = renegotiation_key(first.tls(), self.link.source(), KeyDirection::Normal)
        {
            self.link.wrap_renegotiations(key, now.wall);
        }
    }

    fn open_renegotiation(&mut self, key_id: KeyId, now: Now) {
        self.prepare_renegotiation(now);
        self.last_key_id = key_id;
        for timer in [Timer::Promote, Timer::LameChannel, Timer::LameKey, Timer::Renegotiate] {
            self.timers.stop(timer);
        }
        // A client that has the current key keeps that and the next one: ours must not seal with an older one any longer.
        // One that never heard the end of the last negotiation goes on with the key before it, and so do we.
        if self.confirmed {
            self.events.extend(self.current.as_ref().map(|current| Event::PromoteKey(current.key_id())));
            self.retire_lame_keys();
            self.lame = None;
        }
        match Tls::server(Arc::clone(&self.tls)) {
            Ok(tls) => {
                let channel =
                    Channel::open(key_id, Opcode::SoftReset, tls, self.params.tls_timeout, now.mono);
                self.negotiation = Some(Negotiation { channel, stage: Stage::Handshake, started: now.mono });
                self.timers.set(Timer::Handshake, now.mono + self.params.handshake_window);
            }
            Err(error) => self.finish(CloseReason::Tls(error), now),
        }
    }

    fn after_negotiation_packet(&mut self, result: Result<Progress, TlsError>, now: Now) {
        let progress = match result {
            Ok(progress) => progress,
            Err(error) => return self.finish(CloseReason::Tls(error), now),
        };
        let mut records = progress.records.as_slice();
        if let Some(Negotiation { stage: Stage::Handshake, .. }) = self.negotiation
            && let Some((method2, rest)) = records.split_first()
        {
            self.handle_method2(method2, now);
            records = rest;
        }
        if let Some(negotiation) = &mut self.negotiation {
            let messages = negotiation.channel.messages(records);
            self.handle_messages(&messages, now);
        }
    }

    /// The client's key-method-2 message: answer it, and ask the owner to decide the login.
    fn handle_method2(&mut self, bytes: &[u8], now: Now) {
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        let client = match ClientMessage::parse(bytes) {
            Ok(client) => client,
            Err(error) => return self.refuse_method2(error, now),
        };
        let server = KeySource::server(self.rng.as_mut());
        let cipher = self.params.ciphers.first().copied().unwrap_or(Cipher::Aes256Gcm);
        let options = message::options_string(
            Role::Server,
            self.params.tun_mtu,
            cipher.name(),
            cipher.key_len() * 8,
            self.params.tls_auth,
        );
        let reply = ServerMessage { source: server, options };
        negotiation.channel.send_bytes(&reply.encode());
        self.attempts = self.attempts.saturating_add(1);
        let attempt = Attempt(self.attempts);
        let sources = Sources { client: client.source, server: reply.source };
        negotiation.stage = Stage::Login { attempt, username: client.username.clone(), sources };
        self.timers.stop(Timer::Handshake);
        self.timers.set(Timer::Login, now.mono + LOGIN_LIMIT);
        let certificates = negotiation.channel.tls().peer_certificates();
        let request = AuthRequest {
            attempt,
            key_id: negotiation.channel.key_id(),
            renegotiation: self.identity.is_some(),
            username: client.username,
            password: client.password,
            peer_info: PeerInfo::parse(&client.peer_info),
            tls: negotiation.channel.tls().summary(),
            certificates,
        };
        let certificate = request.certificates.first().map(|der| sha256(der));
        match &self.identity {
            None => {
                self.identity = Some(Identity {
                    username: request.username.clone(),
                    token_user: None,
                    certificate,
                    peer_info: request.peer_info.clone(),
                    uses_compression: client.options.contains(",comp-lzo"),
                    offered_cipher: offered_cipher(&client.options),
                });
            }
            Some(first) => {
                if !first.is_of(&request.username, certificate) {
                    let text = "user name or certificate changed during the session";
                    return self.close(Close::AuthFailed(AuthFailure::Denied(Some(text.into()))), now);
                }
            }
        }
        self.events.push_back(Event::AuthRequest(Box::new(request)));
    }

    fn refuse_method2(&mut self, error: Method2Error, now: Now) {
        if error != Method2Error::CredentialTooLong {
            return self.finish_silently(CloseReason::PeerMisbehaved("malformed key method 2 message"), now);
        }
        // The client reads our refusal only behind our own key-method-2 message.
        if let Some(negotiation) = &mut self.negotiation {
            let source = KeySource::server(self.rng.as_mut());
            let reply = ServerMessage { source, options: String::from("V4") };
            negotiation.channel.send_bytes(&reply.encode());
            negotiation.channel.send_message(&format!("AUTH_FAILED,{error}"));
        }
        self.finish(CloseReason::AuthFailed(AuthFailure::Denied(Some(error.to_string()))), now);
    }

    fn handle_messages(&mut self, messages: &[Secret<String>], now: Now) {
        for text in messages {
            match FromClient::parse(text.expose()) {
                FromClient::PushRequest => {
                    self.push_requested = true;
                    self.send_push(now);
                }
                FromClient::CrResponse(response) => self.events.push_back(Event::CrResponse(response)),
                FromClient::Exit => self.finish_silently(CloseReason::PeerExit, now),
                FromClient::Unknown(name) => self.events.push_back(Event::UnknownMessage(name)),
            }
        }
    }

    fn send_push(&mut self, now: Now) {
        let (Phase::Established { push, pushed_at, .. }, Some(channel)) =
            (&mut self.phase, &mut self.current)
        else {
            return;
        };
        if pushed_at.is_some_and(|at| now.mono.saturating_since(at) < PUSH_REPEAT) {
            return;
        }
        *pushed_at = Some(now.mono);
        for part in push.iter() {
            channel.send_message(part.expose());
        }
    }

    /// Turns an accepted negotiation into the current one.
    fn generate_keys(&mut self, agreed: Agreed, now: Now) {
        let Some(Negotiation { channel, stage: Stage::Accepted { sources }, started }) =
            self.negotiation.take()
        else {
            return;
        };
        match self.derive(&channel, &sources, agreed) {
            Ok(key) => self.events.push_back(Event::InstallKey(Box::new(key))),
            Err(error) => return self.finish(CloseReason::Tls(error), now),
        }
        self.timers.stop(Timer::Login);
        self.confirmed = channel.is_drained();
        if let Some(old) = self.current.replace(channel) {
            if self.lame_keys.len() >= MAX_LAME_KEYS {
                self.events.push_back(Event::RetireKey(self.lame_keys.remove(0)));
            }
            self.lame_keys.push(old.key_id());
            self.lame = Some(old);
            self.timers.set(Timer::LameChannel, now.mono + LAME_CHANNEL.min(self.params.transition_window));
            self.timers.set(Timer::LameKey, started + self.params.transition_window);
            self.timers.set(Timer::Promote, now.mono + self.params.promotion_delay());
        }
        if let Some(every) = self.params.renegotiate_after {
            let spread = every.max.saturating_sub(every.min).as_millis() as u64;
            let jitter = Duration::from_millis(rng::below(self.rng.as_mut(), spread));
            self.timers.set(Timer::Renegotiate, now.mono + every.min + jitter);
        }
    }

    fn derive(&self, channel: &Channel, sources: &Sources, agreed: Agreed) -> Result<DataKey, TlsError> {
        let unusable = || TlsError::Protocol(rustls::Error::General("no data key could be derived".into()));
        let material = match agreed.derivation {
            Derivation::Exporter => KeyMaterial::new(*channel.tls().export(EXPORT_DATA_KEYS)?.expose()),
            Derivation::Prf => {
                let remote = self.link.remote().ok_or_else(unusable)?;
                KeyMaterial::from_prf(&sources.client, &sources.server, remote, self.link.local())
                    .ok_or_else(unusable)?
            }
        };
        DataKey::new(channel.key_id(), &material, Role::Server, agreed.cipher, self.params.replay_window)
            .ok_or_else(unusable)
    }

    fn handshake_timeout(&mut self, now: Now) {
        if self.current.is_none() {
            return self.finish_silently(CloseReason::HandshakeTimeout, now);
        }
        // A renegotiation that got lost harms nobody yet: the running key is still good. Try again.
        self.negotiation = None;
        self.timers.set(Timer::Renegotiate, now.mono + self.params.handshake_window);
    }

    fn finish_silently(&mut self, reason: CloseReason, now: Now) {
        self.finish(reason, now);
        self.flush(now);
        self.phase = Phase::Closed;
    }

    fn finish(&mut self, reason: CloseReason, now: Now) {
        if matches!(self.phase, Phase::Closing | Phase::Closed) {
            return;
        }
        self.phase = Phase::Closing;
        self.timers.stop_all();
        self.timers.set(Timer::Close, now.mono + CLOSE_LINGER);
        self.events.push_back(Event::Closed(reason));
    }

    fn flush(&mut self, now: Now) {
        let channels = self.negotiation.iter_mut().map(|n| &mut n.channel);
        for channel in channels.chain(&mut self.current).chain(&mut self.lame) {
            channel.flush(&mut self.link, now.mono, &mut self.transmits);
        }
        if matches!(self.phase, Phase::Closing) {
            let mut channels = self.negotiation.iter().map(|n| &n.channel).chain(&self.current);
            if channels.all(Channel::is_drained) {
                self.phase = Phase::Closed;
            }
        }
    }
}
