//! One gateway, one client, one network, one clock.

use crate::net::{Faults, Net, Side};
use crate::pki;
use crate::random::Seeded;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tessera_proto::data::{DataChannel, Framing, InBand};
use tessera_proto::endpoint::{
    CookieKey, Endpoint, EndpointConfig, Handle, Handled, PerClient, Protections, ReplyRate,
};
use tessera_proto::message::{AuthFailure, Pending};
use tessera_proto::peer_info::iv_proto;
use tessera_proto::session::{
    ClientConfig, ClientEvent, ClientSession, CloseReason, Credentials, Event, Protection, PushConfig,
    SessionParams, Verdict,
};
use tessera_proto::wrap::{
    Datagram, KeyDirection, Metadata, ServerKey, StaticKey, TlsAuthKey, TlsCryptKey, WrapKey,
};
use tessera_proto::{Digest, Instant, Now, Rng, Secret, UnixTime};
use tessera_wire::{Opcode, OpcodeByte, PeerId};

/// The password that logs in.
pub const PASSWORD: &str = "correct horse";
/// The token that a login is given.
pub const TOKEN: &str = "sim-token-0001";
/// Wall-clock time at the start of every run.
const EPOCH: u64 = 1_790_000_000;
/// Monotonic time at the start of every run; not 0, so that nothing may take 0 for "long ago".
const START: Duration = Duration::from_secs(1_000_000);

/// Control-channel protection of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// No protection.
    None,
    /// tls-auth.
    TlsAuth(Digest),
    /// tls-crypt.
    TlsCrypt,
    /// tls-crypt-v2 with the cookie handshake.
    TlsCryptV2,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Everything random follows from it.
    pub seed: u64,
    /// Protection.
    pub mode: Mode,
    /// Network.
    pub faults: Faults,
    /// Both sides' numbers.
    pub params: SessionParams,
    /// What the client announces.
    pub iv_proto: u32,
    /// The login hook answers after up to this.
    pub hook_delay: Duration,
    /// What the client logs in with at first.
    pub password: String,
    /// A login by password asks a question first; this is the right answer.
    pub question: Option<String>,
}

impl Options {
    /// A clean network and a client of today.
    #[must_use]
    pub fn new(seed: u64, mode: Mode) -> Self {
        Self {
            seed,
            mode,
            faults: Faults::default(),
            params: SessionParams { renegotiate_after: None, ..SessionParams::default() },
            iv_proto: iv_proto::DATA_V2
                | iv_proto::REQUEST_PUSH
                | iv_proto::TLS_KEY_EXPORT
                | iv_proto::CC_EXIT_NOTIFY
                | iv_proto::AUTH_FAIL_TEMP
                | iv_proto::DYN_TLS_CRYPT,
            hook_delay: Duration::ZERO,
            password: PASSWORD.to_owned(),
            question: None,
        }
    }
}

/// A session as the gateway sees it.
#[derive(Debug)]
struct Peer {
    data: DataChannel,
}

/// What happened in a run.
#[derive(Debug, Default)]
pub struct Journal {
    /// The client got its configuration.
    pub connected: u32,
    /// Renegotiations that the client finished.
    pub renegotiated: u32,
    /// Passwords that the login hook saw, in order.
    pub passwords: Vec<String>,
    /// `AUTH_FAILED` texts that the client saw.
    pub refused: Vec<String>,
    /// Questions that the client was asked.
    pub questions: Vec<String>,
    /// How long the client was told to wait, in seconds.
    pub waits: Vec<Option<u32>>,
    /// Tokens that the client was given, in order.
    pub tokens: Vec<String>,
    /// Where the server sent the client.
    pub dismissed: Vec<String>,
    /// Why sessions ended, by the server.
    pub server_closed: Vec<String>,
    /// Why the client's session ended.
    pub client_closed: Vec<&'static str>,
    /// Data packets that arrived, by direction.
    pub delivered: (u64, u64),
    /// Datagrams that the server sent in answer to an address without a session.
    pub stateless_replies: u64,
}

/// A whole simulation.
pub struct World {
    options: Options,
    now: Now,
    net: Net,
    rng: Seeded,
    endpoint: Endpoint,
    client_config: ClientConfig,
    client: ClientSession,
    client_data: Option<DataChannel>,
    client_addr: SocketAddr,
    peers: BTreeMap<Handle, Peer>,
    pending: BTreeMap<(Instant, u64), (Handle, tessera_proto::session::Attempt, bool)>,
    pending_count: u64,
    asked: BTreeMap<Handle, tessera_proto::session::Attempt>,
    sequence: u64,
    in_flight: BTreeSet<Vec<u8>>,
    /// What happened so far.
    pub journal: Journal,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("seed", &self.options.seed)
            .field("journal", &self.journal)
            .finish_non_exhaustive()
    }
}

impl World {
    /// Builds both ends; the client's first packet is on its way.
    ///
    /// # Panics
    /// When TLS cannot be set up.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let now = Now { mono: Instant::from_epoch(START), wall: UnixTime(EPOCH) };
        let mut rng = Seeded::new(options.seed);
        let (protections, protection, wkc) = protections(options.mode, &mut rng);
        let mut session_seed = Seeded::new(options.seed ^ 1);
        let cookies = CookieKey::new(tessera_proto::rng::bytes(&mut rng), options.params.handshake_window);
        let endpoint = Endpoint::new(EndpointConfig {
            params: Arc::new(options.params.clone()),
            tls: Arc::clone(&pki::pki().server),
            protections,
            cookies,
            reply_rate: ReplyRate::default(),
            max_half_open: 64,
            verify_client_keys: false,
            rng: Box::new(move || Box::new(Seeded::new(session_seed.next()))),
        });
        let client_config = ClientConfig {
            params: Arc::new(options.params.clone()),
            tls: Arc::clone(&pki::pki().client),
            server_name: pki::server_name(),
            protection,
            wkc,
            credentials: Credentials {
                username: "alice".into(),
                password: Secret::new(options.password.clone()),
            },
            iv_proto: options.iv_proto,
            peer_info: String::new(),
        };
        let client =
            ClientSession::new(client_config.clone(), Box::new(Seeded::new(rng.next())), now).expect("TLS");
        Self {
            net: Net::new(options.faults, Seeded::new(rng.next())),
            now,
            rng,
            endpoint,
            client_config,
            client,
            client_data: None,
            client_addr: SocketAddr::from(([192, 0, 2, 7], 40_000)),
            peers: BTreeMap::new(),
            pending: BTreeMap::new(),
            pending_count: 0,
            asked: BTreeMap::new(),
            sequence: 0,
            in_flight: BTreeSet::new(),
            journal: Journal::default(),
            options,
        }
    }

    /// Both clocks.
    #[must_use]
    pub const fn now(&self) -> Now {
        self.now
    }

    /// The gateway.
    pub const fn endpoint(&mut self) -> &mut Endpoint {
        &mut self.endpoint
    }

    /// The client.
    pub const fn client(&mut self) -> &mut ClientSession {
        &mut self.client
    }

    /// For messages about failed runs.
    #[must_use]
    pub fn journal_summary(&mut self) -> String {
        let j = &self.journal;
        let server: Vec<String> =
            self.peers.keys().filter_map(|h| self.endpoint.with(*h, |s| format!("{s:?}"))).collect();
        format!(
            "{:?} connected {} renegotiated {} server closed {:?} client closed {:?} dismissed {:?} {:?} {:?} peers {}",
            self.options,
            j.connected,
            j.renegotiated,
            j.server_closed,
            j.client_closed,
            j.dismissed,
            self.client,
            server,
            self.peers.len()
        )
    }

    /// The network.
    pub const fn net(&mut self) -> &mut Net {
        &mut self.net
    }

    /// The server's sessions that have a data channel.
    #[must_use]
    pub fn peers(&self) -> Vec<Handle> {
        self.peers.keys().copied().collect()
    }

    /// The client starts over from a new port, with the credentials that it has by now.
    ///
    /// # Panics
    /// When TLS cannot be set up.
    pub fn reconnect(&mut self) {
        self.client_addr.set_port(self.client_addr.port() + 1);
        let rng = Box::new(Seeded::new(self.rng.next()));
        self.client_data = None;
        self.client = ClientSession::new(self.client_config.clone(), rng, self.now).expect("TLS");
    }

    /// The gateway loses everything, as after a crash.
    pub fn forget_server(&mut self) {
        for handle in self.endpoint.handles() {
            self.endpoint.with(handle, |s| {
                s.close(tessera_proto::session::Close::Silent("gone"), self.now);
            });
        }
        while self.endpoint.poll_event().is_some() {}
        while self.endpoint.poll_transmit().is_some() {}
        self.endpoint.poll_timeout();
        self.peers.clear();
    }

    /// Runs until `done` or until `limit` has passed; true when `done`.
    pub fn run(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now.mono + limit;
        loop {
            self.drain();
            if done(self) {
                return true;
            }
            let server = self.endpoint.poll_timeout().map(|(at, _)| at);
            let client = self.client.poll_timeout().map(|(at, _)| at);
            let hook = self.pending.first_key_value().map(|((at, _), _)| *at);
            let Some(next) = [server, client, hook, self.net.next_arrival()].into_iter().flatten().min()
            else {
                return false;
            };
            if next > end {
                self.advance_to(end);
                return false;
            }
            self.advance_to(next.max(self.now.mono));
            self.step();
        }
    }

    /// Lets time pass and both ends act.
    pub fn idle(&mut self, time: Duration) {
        self.run(time, |_| false);
    }

    /// Sends a data packet each way; they arrive or get lost, but never wrong.
    pub fn exchange_data(&mut self) {
        let handles: Vec<Handle> = self.peers.keys().copied().collect();
        for handle in handles {
            let plain = self.next_plain(b'S');
            if let Some(peer) = self.peers.get_mut(&handle)
                && let Some(frame) = seal(&mut peer.data, &plain)
            {
                self.in_flight.insert(plain);
                self.net.send(Side::Client, &frame, self.now.mono);
            }
        }
        let plain = self.next_plain(b'C');
        if let Some(frame) = self.client_data.as_mut().and_then(|data| seal(data, &plain)) {
            self.in_flight.insert(plain);
            self.net.send(Side::Server, &frame, self.now.mono);
        }
    }

    fn next_plain(&mut self, from: u8) -> Vec<u8> {
        self.sequence += 1;
        let mut plain = vec![0x45, from];
        plain.extend_from_slice(&self.sequence.to_be_bytes());
        plain
    }

    fn advance_to(&mut self, at: Instant) {
        self.now.wall = UnixTime(EPOCH + at.saturating_since(Instant::from_epoch(START)).as_secs());
        self.now.mono = at;
    }

    fn step(&mut self) {
        let now = self.now;
        while let Some((to, bytes)) = self.net.receive(now.mono) {
            match to {
                Side::Server => self.server_receives(bytes),
                Side::Client => self.client_receives(bytes),
            }
            self.drain();
        }
        while let Some(entry) = self.pending.first_entry() {
            if entry.key().0 > now.mono {
                break;
            }
            let (handle, attempt, ok) = entry.remove();
            self.decide(handle, attempt, ok);
            self.drain();
        }
        self.endpoint.handle_timeout(now);
        if self.client.poll_timeout().is_some_and(|(at, _)| at <= now.mono) {
            self.client.handle_timeout(now);
        }
        self.drain();
    }

    fn server_receives(&mut self, mut bytes: Vec<u8>) {
        let now = self.now;
        if bytes.first().and_then(|b| OpcodeByte::parse(*b)).is_some_and(|op| op.opcode == Opcode::DataV2) {
            let mut got = None;
            for peer in self.peers.values_mut() {
                if let Ok(opened) = peer.data.open(&mut bytes.clone(), now.mono)
                    && let InBand::Packet(plain) = opened.payload
                {
                    got = Some(plain.to_vec());
                    if opened.with_pending_key {
                        let id = OpcodeByte::parse(bytes[0]).map(|op| op.key_id);
                        id.map(|id| peer.data.promote(id));
                    }
                }
            }
            if let Some(plain) = got {
                assert!(self.in_flight.contains(&plain), "wrong plaintext at the server");
                self.journal.delivered.0 += 1;
            }
            return;
        }
        bytes.shrink_to_fit();
        if let Handled::Reply(reply) = self.endpoint.handle_datagram(&bytes, self.client_addr, now) {
            self.journal.stateless_replies += 1;
            self.net.send(Side::Client, &reply, now.mono);
        }
    }

    fn client_receives(&mut self, mut bytes: Vec<u8>) {
        let now = self.now;
        if bytes.first().and_then(|b| OpcodeByte::parse(*b)).is_some_and(|op| op.opcode == Opcode::DataV2) {
            if let Some(data) = &mut self.client_data
                && let Ok(opened) = data.open(&mut bytes, now.mono)
                && let InBand::Packet(plain) = opened.payload
            {
                assert!(self.in_flight.contains(&*plain), "wrong plaintext at the client");
                self.journal.delivered.1 += 1;
            }
            return;
        }
        let _ = self.client.handle_datagram(Datagram(&bytes), now);
    }

    fn drain(&mut self) {
        let now = self.now;
        while let Some((handle, event)) = self.endpoint.poll_event() {
            self.server_event(handle, event);
        }
        let most = self.options.params.max_packet;
        while let Some((_, _, bytes)) = self.endpoint.poll_transmit() {
            assert!(bytes.len() <= most, "a control packet of {} bytes", bytes.len());
            self.net.send(Side::Client, &bytes, now.mono);
        }
        self.endpoint.poll_timeout();
        while let Some(event) = self.client.poll_event() {
            self.client_event(event);
        }
        while let Some(bytes) = self.client.poll_transmit() {
            // A wrapped client key may stand behind the packet.
            assert!(bytes.len() <= most + 1024, "a control packet of {} bytes", bytes.len());
            self.net.send(Side::Server, &bytes, now.mono);
        }
    }

    fn server_event(&mut self, handle: Handle, event: Event) {
        match event {
            Event::AuthRequest(request) => {
                let password = request.password.expose().clone();
                let ok = request.username == "alice" && (password == PASSWORD || password == TOKEN);
                let by_password = password == PASSWORD;
                self.journal.passwords.push(password);
                assert_eq!(request.certificates.len(), 1, "the client's certificate is there");
                if by_password && self.options.question.is_some() {
                    return self.ask(handle, request.attempt);
                }
                let delay = self.rng.below(self.options.hook_delay.as_millis() as u64 + 1);
                self.pending_count += 1;
                let at = self.now.mono + Duration::from_millis(delay);
                self.pending.insert((at, self.pending_count), (handle, request.attempt, ok));
            }
            Event::InstallKey(key) => {
                let peer = PeerId::new(handle_number(handle)).unwrap_or(PeerId::UNDEFINED);
                let peer = self
                    .peers
                    .entry(handle)
                    .or_insert_with(|| Peer { data: DataChannel::new(peer, Framing::Plain) });
                peer.data.install(*key);
            }
            Event::PromoteKey(id) => {
                if let Some(peer) = self.peers.get_mut(&handle) {
                    peer.data.promote(id);
                }
            }
            Event::RetireKey(id) => {
                if let Some(peer) = self.peers.get_mut(&handle) {
                    peer.data.retire(id);
                }
            }
            Event::Closed(reason) => {
                self.peers.remove(&handle);
                self.journal.server_closed.push(match reason {
                    CloseReason::AuthFailed(_) => "auth".into(),
                    other => other.to_string(),
                });
            }
            Event::CrResponse(answer) => {
                if let Some(attempt) = self.asked.remove(&handle) {
                    let right = self.options.question.as_ref().map(|text| STANDARD.encode(text));
                    self.decide(handle, attempt, right.as_ref() == Some(answer.expose()));
                }
            }
            Event::ClientKey(_) | Event::UnknownMessage(_) => {}
        }
    }

    fn ask(&mut self, handle: Handle, attempt: tessera_proto::session::Attempt) {
        let now = self.now;
        let info = Some(Secret::new("CR_TEXT:R,E:the word?".to_owned()));
        let pending = Pending { timeout: Duration::from_secs(600), info };
        let granted = self.endpoint.with(handle, |s| s.login_pending(attempt, &pending, now)).flatten();
        assert!(granted.is_some_and(|time| time <= Duration::from_secs(60)), "{granted:?}");
        self.asked.insert(handle, attempt);
    }

    fn decide(&mut self, handle: Handle, attempt: tessera_proto::session::Attempt, ok: bool) {
        let now = self.now;
        let verdict =
            if ok { Verdict::Accept } else { Verdict::Refuse(AuthFailure::Denied(Some("go away".into()))) };
        let proof = self.endpoint.with(handle, |s| s.auth_verdict(attempt, verdict, now)).flatten();
        if let Some(proof) = proof {
            let peer_id = PeerId::new(handle_number(handle));
            self.peers.insert(
                handle,
                Peer { data: DataChannel::new(peer_id.unwrap_or(PeerId::UNDEFINED), Framing::Plain) },
            );
            let push = PushConfig {
                options: vec!["topology subnet".into(), "route-gateway 10.8.0.1".into()],
                ifconfig: Some(([10, 8, 0, 2].into(), [255, 255, 255, 0].into())),
                peer_id,
                auth_token: Some(Secret::new(TOKEN.to_owned())),
                ..PushConfig::default()
            };
            let agreed = self.endpoint.with(handle, |s| s.establish(proof, push, now)).flatten();
            assert!(agreed.is_some(), "both sides share a cipher");
        }
    }

    fn client_event(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Connected { peer_id, framing, .. } => {
                self.journal.connected += 1;
                self.client_data = Some(DataChannel::new(peer_id, framing));
            }
            ClientEvent::Credentials(credentials) => {
                self.journal.tokens.push(credentials.password.expose().clone());
                self.client_config.credentials = credentials;
            }
            ClientEvent::AuthPending(seconds) => self.journal.waits.push(seconds),
            ClientEvent::Info(text) => self.journal.questions.push(text),
            ClientEvent::InstallKey(key) => {
                if let Some(data) = &mut self.client_data {
                    data.install(*key);
                }
            }
            ClientEvent::PromoteKey(id) => {
                self.client_data.as_mut().map(|data| data.promote(id));
            }
            ClientEvent::RetireKey(id) => {
                if let Some(data) = &mut self.client_data {
                    data.retire(id);
                }
            }
            ClientEvent::Renegotiated(_) => self.journal.renegotiated += 1,
            ClientEvent::AuthFailed(text) => self.journal.refused.push(text),
            ClientEvent::Dismissed(text) => self.journal.dismissed.push(text),
            ClientEvent::Closed(why) => self.journal.client_closed.push(why),
        }
    }
}

/// A peer-id for a session: handles count from 0.
fn handle_number(handle: Handle) -> u32 {
    let digits: String = format!("{handle:?}").chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

fn seal(data: &mut DataChannel, plain: &[u8]) -> Option<Vec<u8>> {
    let mut frame = vec![0; data.headroom()];
    frame.extend_from_slice(plain);
    data.seal(&mut frame).ok().map(|()| frame)
}

fn protections(mode: Mode, rng: &mut Seeded) -> (Protections, Protection, Option<Vec<u8>>) {
    let random: [u8; 256] = {
        let mut out = [0; 256];
        rng.fill(&mut out);
        out
    };
    let key = StaticKey::new(random);
    let pair = |server: WrapKey, client: WrapKey, source: Option<StaticKey>| {
        let client = Protection { key: Arc::new(client), source: source.clone() };
        let shared = Some(Protection { key: Arc::new(server), source });
        (Protections { shared, per_client: None }, client, None)
    };
    let crypt = |direction| WrapKey::TlsCrypt(TlsCryptKey::new(&key, direction).expect("32-byte halves"));
    match mode {
        Mode::None => pair(WrapKey::None, WrapKey::None, None),
        Mode::TlsAuth(digest) => {
            let auth = |direction| WrapKey::TlsAuth(TlsAuthKey::new(&key, direction, digest));
            pair(auth(KeyDirection::Normal), auth(KeyDirection::Inverse), Some(key.clone()))
        }
        Mode::TlsCrypt => pair(crypt(KeyDirection::Normal), crypt(KeyDirection::Inverse), Some(key.clone())),
        Mode::TlsCryptV2 => {
            let server_key = Arc::new(ServerKey::new([7; 128]).expect("128 bytes"));
            let wkc = server_key.wrap(&key, &Metadata::Timestamp(EPOCH as i64)).expect("fits");
            let per_client = PerClient { server_key, allow_noncookie: false, max_age: None };
            let protections = Protections { shared: None, per_client: Some(per_client) };
            let client =
                Protection { key: Arc::new(crypt(KeyDirection::Inverse)), source: Some(key.clone()) };
            (protections, client, Some(wkc))
        }
    }
}
