//! A server on a loopback port: the protocol's server role with the smallest owner that logs clients in.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tessera_load::clock;
use tessera_proto::endpoint::{CookieKey, Endpoint, EndpointConfig, Handled, Protections, ReplyRate};
use tessera_proto::message::AuthFailure;
use tessera_proto::session::{CloseReason, Event, Protection, PushConfig, SessionParams, Verdict};
use tessera_proto::wrap::WrapKey;
use tessera_proto::{Rng, Secret};
use tessera_wire::PeerId;

/// The password that logs in.
pub(super) const PASSWORD: &str = "correct horse";

/// How the server behaves.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Manners {
    /// The token that it pushes and takes; none is pushed without.
    pub(super) token: Option<&'static str>,
    /// Takes the token only that many times.
    pub(super) token_uses: usize,
    /// Loses every so-many-th datagram, each way.
    pub(super) loses_every: Option<usize>,
    /// Accepts logins and never configures them.
    pub(super) never_pushes: bool,
}

/// What it has seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Passwords of the login attempts.
    pub(super) passwords: Vec<String>,
    /// Addresses that logged in.
    pub(super) addresses: Vec<SocketAddr>,
    /// Sessions that ended by the client's goodbye.
    pub(super) goodbyes: usize,
    /// Datagrams that were lost.
    pub(super) lost: usize,
}

impl Seen {
    /// Distinct addresses that logged in.
    pub(super) fn distinct_addresses(&self) -> usize {
        self.addresses.iter().collect::<BTreeSet<_>>().len()
    }
}

/// Certificates of both sides, PEM: CA, client certificate, client key.
#[derive(Debug)]
pub(super) struct Pki {
    pub(super) ca: String,
    pub(super) cert: String,
    pub(super) key: String,
    server: Arc<rustls::ServerConfig>,
}

impl Pki {
    pub(super) fn new(server_usage: ExtendedKeyUsagePurpose) -> Self {
        let ca_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, "load CA");
        let ca_cert = ca.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(ca, ca_key);
        // No alternative name, as the certificates of many a VPN.
        let issue = |name: &str, usage| {
            let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![usage];
            (params.signed_by(&key, &issuer).unwrap(), key)
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(ca_cert.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .unwrap();
        let (cert, key) = issue("server", server_usage);
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let (cert, key) = issue("client", ExtendedKeyUsagePurpose::ClientAuth);
        Self { ca: ca_cert.pem(), cert: cert.pem(), key: key.serialize_pem(), server: Arc::new(server) }
    }
}

/// The running server; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(pki: &Pki, manners: Manners) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let address = socket.local_addr().unwrap();
        let (seen, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let mut inside = Inside {
            socket,
            endpoint: endpoint(Arc::clone(&pki.server)),
            manners,
            seen: Arc::clone(&seen),
            datagrams: 0,
            peers: 0,
        };
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                inside.turn();
            }
        });
        Self { address, seen, stop, thread: Some(thread) }
    }

    /// What it has seen so far.
    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_some_and(|ended| ended.is_ok()), "the server panicked");
    }
}

struct Inside {
    socket: UdpSocket,
    endpoint: Endpoint,
    manners: Manners,
    seen: Arc<Mutex<Seen>>,
    datagrams: usize,
    peers: u32,
}

impl Inside {
    fn turn(&mut self) {
        let mut buf = [0; 2048];
        if let Ok((len, from)) = self.socket.recv_from(&mut buf)
            && !self.loses()
            && let Handled::Reply(reply) = self.endpoint.handle_datagram(&buf[..len], from, clock::read())
        {
            self.send(&reply, from);
        }
        self.endpoint.handle_timeout(clock::read());
        while let Some((handle, event)) = self.endpoint.poll_event() {
            self.on_event(handle, event);
        }
        while let Some((_, to, bytes)) = self.endpoint.poll_transmit() {
            self.send(&bytes, to);
        }
        self.endpoint.poll_timeout();
        while self.endpoint.poll_removed().is_some() {}
    }

    fn loses(&mut self) -> bool {
        self.datagrams += 1;
        let lost = self.manners.loses_every.is_some_and(|every| self.datagrams.is_multiple_of(every));
        self.seen.lock().unwrap().lost += usize::from(lost);
        lost
    }

    fn send(&mut self, bytes: &[u8], to: SocketAddr) {
        if !self.loses() {
            self.socket.send_to(bytes, to).unwrap();
        }
    }

    fn on_event(&mut self, handle: tessera_proto::endpoint::Handle, event: Event) {
        let now = clock::read();
        let mut seen = self.seen.lock().unwrap();
        match event {
            Event::AuthRequest(request) => {
                assert_eq!(request.certificates.len(), 1, "the client's certificate is there");
                assert_eq!(request.tls.version, "TLSv1_3");
                let password = request.password.expose().clone();
                let used = seen.passwords.iter().filter(|p| Some(p.as_str()) == self.manners.token).count();
                let good = password == PASSWORD
                    || (Some(password.as_str()) == self.manners.token && used < self.manners.token_uses);
                seen.passwords.push(password);
                let verdict = if good {
                    Verdict::Accept
                } else {
                    Verdict::Refuse(AuthFailure::Denied(Some("go away".into())))
                };
                let proof = self.endpoint.with(handle, |s| s.auth_verdict(request.attempt, verdict, now));
                let (Some(Some(proof)), false) = (proof, self.manners.never_pushes) else { return };
                seen.addresses.extend(self.endpoint.remote(handle));
                self.peers += 1;
                let push = PushConfig {
                    options: vec!["topology subnet".into()],
                    ifconfig: Some(([10, 8, 0, 2].into(), [255, 255, 0, 0].into())),
                    peer_id: PeerId::new(self.peers),
                    auth_token: self.manners.token.map(|token| Secret::new(token.to_owned())),
                    ..PushConfig::default()
                };
                assert!(self.endpoint.with(handle, |s| s.establish(proof, push, now)).flatten().is_some());
            }
            Event::Closed(CloseReason::PeerExit) => seen.goodbyes += 1,
            _ => {}
        }
    }
}

fn endpoint(tls: Arc<rustls::ServerConfig>) -> Endpoint {
    let params = SessionParams { renegotiate_after: None, ..SessionParams::default() };
    Endpoint::new(EndpointConfig {
        cookies: CookieKey::new([7; 16], params.handshake_window),
        params: Arc::new(params),
        tls,
        protections: Protections {
            shared: Some(Protection { key: Arc::new(WrapKey::None), source: None }),
            per_client: None,
        },
        reply_rate: ReplyRate { burst: 100_000, per: Duration::from_secs(1) },
        max_half_open: 1024,
        verify_client_keys: false,
        rng: Box::new(|| Box::new(SystemRng)),
    })
}

struct SystemRng;

impl Rng for SystemRng {
    fn fill(&mut self, out: &mut [u8]) {
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), out).unwrap();
    }
}
