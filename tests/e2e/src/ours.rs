//! Our own client, one session at a time: for what stock clients do not send, and for more logins than they are quick
//! enough for.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use ring::rand::SecureRandom as _;
use tessera_harness::{Deadline, Identity, PORT};
use tessera_load::{clock, tls};
use tessera_proto::peer_info::iv_proto;
use tessera_proto::session::{
    ClientConfig, ClientEvent, ClientSession, Credentials, Protection, SessionParams,
};
use tessera_proto::wrap::{Datagram, WrapKey};
use tessera_proto::{Rng, Secret};

use crate::Site;

/// How long one `recv` waits: short beside the timers of the protocol.
const TURN: Duration = Duration::from_millis(20);
/// No control datagram is larger.
const MAX_DATAGRAM: usize = 2048;

/// Everything that clients of one certificate have in common.
#[derive(Debug, Clone)]
pub struct OurClient {
    namespace: usize,
    config: ClientConfig,
    server: SocketAddr,
}

/// What became of a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// PUSH_REPLY is here.
    In,
    /// AUTH_FAILED, with the server's text.
    Refused(String),
    /// The session ended in another way.
    Over(String),
    /// None of these within the time given.
    Open,
}

/// One session.
pub struct OurSession {
    socket: UdpSocket,
    session: ClientSession,
    /// What the client logs in with from now on, if the server has pushed something else than it came with.
    pub token: Option<Credentials>,
    /// What was pushed with the first PUSH_REPLY, but the token.
    pub options: Vec<String>,
    /// Completed PUSH_REPLYs with options.
    pub replies: usize,
    /// Completed renegotiations.
    pub renegotiations: usize,
    outcome: Outcome,
}

impl std::fmt::Debug for OurSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OurSession").field("outcome", &self.outcome).finish_non_exhaustive()
    }
}

impl OurClient {
    /// In the namespace of client `index`, with this certificate.
    #[must_use]
    pub fn new(site: &Site, index: usize, identity: &Identity) -> Self {
        let tls = tls::client_config(
            site.pki.ca.as_bytes(),
            identity.certificate.as_bytes(),
            identity.key.as_bytes(),
        )
        .expect("a TLS configuration");
        let server: SocketAddr = format!("10.91.{index}.1:{PORT}").parse().expect("an address");
        let params = SessionParams { renegotiate_after: None, ..SessionParams::default() };
        let config = ClientConfig {
            params: Arc::new(params),
            tls,
            server_name: rustls::pki_types::ServerName::from(server.ip()),
            protection: Protection { key: Arc::new(WrapKey::None), source: None },
            wkc: None,
            credentials: Credentials::default(),
            iv_proto: iv_proto::DATA_V2
                | iv_proto::REQUEST_PUSH
                | iv_proto::TLS_KEY_EXPORT
                | iv_proto::CC_EXIT_NOTIFY
                | iv_proto::AUTH_FAIL_TEMP,
            peer_info: String::new(),
        };
        Self { namespace: index, config, server }
    }

    /// Says this about itself as well: lines of peer-info, each with its newline.
    #[must_use]
    pub fn peer_info(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.config.peer_info);
        self
    }

    /// Begins a login.
    #[must_use]
    pub fn start(&self, site: &Site, user: &str, password: &str) -> OurSession {
        let socket = self.sockets(site, 1).pop().expect("one socket");
        self.start_on(socket, user, password)
    }

    /// Sockets for [`OurClient::start_on`].
    #[must_use]
    pub fn sockets(&self, site: &Site, count: usize) -> Vec<UdpSocket> {
        let namespace = site.net.clients.get(self.namespace).expect("that many clients");
        let server = self.server;
        namespace.within(move || {
            let one = || {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                socket.connect(server).expect("a connected socket");
                socket
            };
            (0..count).map(|_| one()).collect()
        })
    }

    /// Begins a login from this socket.
    #[must_use]
    pub fn start_on(&self, socket: UdpSocket, user: &str, password: &str) -> OurSession {
        socket.set_read_timeout(Some(TURN)).expect("a time limit");
        let mut config = self.config.clone();
        config.credentials =
            Credentials { username: user.to_owned(), password: Secret::new(password.to_owned()) };
        let session = ClientSession::new(config, Box::new(SystemRng), clock::read()).expect("a session");
        let (options, replies, renegotiations) = (Vec::new(), 0, 0);
        OurSession { socket, session, token: None, options, replies, renegotiations, outcome: Outcome::Open }
    }

    /// Logs in and gives what became of it, within `limit`.
    #[must_use]
    pub fn login(&self, site: &Site, user: &str, password: &str, limit: Duration) -> (OurSession, Outcome) {
        let mut session = self.start(site, user, password);
        let outcome = session.outcome(limit);
        (session, outcome)
    }
}

impl OurSession {
    /// Waits until the login is decided.
    pub fn outcome(&mut self, limit: Duration) -> Outcome {
        self.run_until(limit, |this| this.outcome != Outcome::Open);
        self.outcome.clone()
    }

    /// Lets time pass; the session answers meanwhile.
    pub fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// What was decided so far.
    #[must_use]
    pub const fn decided(&self) -> &Outcome {
        &self.outcome
    }

    /// Asks for its options once more.
    pub fn request_push(&mut self) {
        self.session.request_push(clock::read());
        self.flush();
    }

    /// Renegotiates with what it logs in with now; true when that came through within `limit`.
    pub fn renegotiate(&mut self, limit: Duration) -> bool {
        let before = self.renegotiations;
        self.session.renegotiate(clock::read());
        self.run_until(limit, |this| this.renegotiations > before);
        self.renegotiations > before
    }

    /// Sends this in place of the password at renegotiations to come.
    pub fn log_in_with(&mut self, user: &str, password: &str) {
        let password = Secret::new(password.to_owned());
        self.session.set_credentials(Credentials { username: user.to_owned(), password });
    }

    /// The token that the server pushed last.
    #[must_use]
    pub fn token(&self) -> String {
        self.token.as_ref().expect("a pushed token").password.expose().clone()
    }

    /// Says goodbye, and waits until that was acknowledged.
    pub fn leave(mut self) {
        self.session.exit(clock::read());
        self.flush();
        self.run_until(Duration::from_secs(3), |this| this.session.poll_timeout().is_none());
    }

    fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) {
        let deadline = Deadline::after(limit);
        let mut buf = [0; MAX_DATAGRAM];
        self.flush();
        while !done(self) && !deadline.passed() {
            // Nothing yet, or "port unreachable": the reliable layer goes on.
            if let Ok(len) = self.socket.recv(&mut buf) {
                // Strays are refused in there.
                let _ = self.session.handle_datagram(Datagram(&buf[..len]), clock::read());
            }
            let now = clock::read();
            if self.session.poll_timeout().is_some_and(|(at, _)| at <= now.mono) {
                self.session.handle_timeout(now);
            }
            self.flush();
        }
    }

    fn flush(&mut self) {
        while let Some(packet) = self.session.poll_transmit() {
            // What an earlier packet met comes up here.
            let _ = self.socket.send(&packet);
        }
        while let Some(event) = self.session.poll_event() {
            match event {
                ClientEvent::Connected { options, .. } => {
                    self.replies += 1;
                    self.options = options;
                    self.outcome = Outcome::In;
                }
                ClientEvent::Credentials(credentials) => self.token = Some(credentials),
                ClientEvent::Renegotiated(_) => self.renegotiations += 1,
                ClientEvent::AuthFailed(text) => self.outcome = Outcome::Refused(text),
                ClientEvent::Dismissed(text) => self.outcome = Outcome::Over(text),
                ClientEvent::Closed(why)
                    if !matches!(self.outcome, Outcome::Refused(_) | Outcome::Over(_)) =>
                {
                    self.outcome = Outcome::Over(why.to_owned());
                }
                _ => {}
            }
        }
    }
}

/// The operating system's randomness.
struct SystemRng;

impl Rng for SystemRng {
    fn fill(&mut self, out: &mut [u8]) {
        ring::rand::SystemRandom::new().fill(out).expect("randomness");
    }
}
