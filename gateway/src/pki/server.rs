//! The TLS side of the server: one configuration for all sessions, replaced when the CRL changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::crl::{CrlReload, CrlWatcher, Crls};
use super::error::PkiError;
use super::identity::{IdentityError, PeerIdentity};
use super::load::{self, Trust};
use super::options::{ClientCert, CrlSource, PkiOptions};
use super::remembered::GoodSignatures;
use super::suites;
use super::verifier::Verifier;

/// The wall clock, read where the whole daemon reads it.
#[derive(Clone, Copy, Debug, Default)]
pub struct WallClock;

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(crate::clock::unix_seconds())))
    }
}

/// Everything needed to speak TLS with clients.
#[derive(Debug)]
pub struct ServerTls {
    options: PkiOptions,
    provider: Arc<CryptoProvider>,
    key: Arc<CertifiedKey>,
    trust: Option<Arc<Trust>>,
    watcher: Option<CrlWatcher>,
    signatures: GoodSignatures,
    time: Arc<dyn TimeProvider>,
    verifier: Arc<Verifier>,
    config: Arc<ServerConfig>,
    warnings: Vec<String>,
}

impl ServerTls {
    /// Loads and checks everything, with the wall clock.
    ///
    /// # Errors
    /// [`PkiError`], naming the file and the way out.
    pub fn new(options: PkiOptions) -> Result<Self, PkiError> {
        Self::with_time(options, Arc::new(WallClock))
    }

    /// As [`Self::new`], with the time from `time`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_time(options: PkiOptions, time: Arc<dyn TimeProvider>) -> Result<Self, PkiError> {
        let mut warnings = Vec::new();
        let now = wall(&*time);
        let provider = Arc::new(suites::crypto_provider(&options, &mut warnings)?);
        let key = load::server_key(&options, &provider, now, &mut warnings)?;
        let trust =
            options.ca.as_ref().map(|ca| load::trust(ca, now, &mut warnings)).transpose()?.map(Arc::new);
        if options.client_cert != ClientCert::None && trust.is_none() && options.fingerprints.is_empty() {
            return Err(PkiError::NoTrust);
        }
        let watcher = CrlWatcher::new(&options.crl);
        let crls = Crls::load(&options.crl, now, &mut warnings)?;
        warn_uncovered(trust.as_deref(), &options.crl, &crls, &mut warnings);
        let signatures = GoodSignatures::new();
        let verifier = Arc::new(verifier(&options, &provider, &signatures, trust.clone(), crls));
        let config = build(&options, &provider, &key, &verifier, &time)?;
        Ok(Self { options, provider, key, trust, watcher, signatures, time, verifier, config, warnings })
    }

    /// The configuration for the next TLS session: full handshakes only, no tickets, no early data, no key log.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// What was odd at load but no error, one line each, to log once.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The earliest `nextUpdate` of the CRLs in use, seconds since 1970, for an alarm before clients are refused.
    #[must_use]
    pub fn crl_next_update(&self) -> Option<u64> {
        self.verifier.crls.next_update
    }

    /// Looks at the CRL file (at most once a second) and takes it into use if it has changed. Call it before each new TLS
    /// session, and again [`Self::server_config`] after it. A file that cannot be used leaves everything as it was.
    pub fn reload_crl(&mut self, now: Instant) -> CrlReload {
        let Some(watcher) = &mut self.watcher else {
            return CrlReload::NotDue;
        };
        let mut warnings = Vec::new();
        let crls = match watcher.poll(now, wall(&*self.time), &mut warnings) {
            Ok(Some(crls)) => crls,
            Ok(None) => return CrlReload::Unchanged,
            Err(None) => return CrlReload::NotDue,
            Err(Some(error)) => return CrlReload::KeptOld(error),
        };
        warn_uncovered(self.trust.as_deref(), &self.options.crl, &crls, &mut warnings);
        let verifier =
            Arc::new(verifier(&self.options, &self.provider, &self.signatures, self.trust.clone(), crls));
        match build(&self.options, &self.provider, &self.key, &verifier, &self.time) {
            Ok(config) => {
                self.verifier = verifier;
                self.config = config;
                CrlReload::Reloaded(warnings)
            }
            Err(error) => CrlReload::KeptOld(error),
        }
    }

    /// Checks again, with the CRLs in use now, a chain that was accepted before: to end the sessions of certificates that
    /// have been revoked or have expired since.
    ///
    /// # Errors
    /// Why the certificate would be refused now; see [`super::explain`].
    pub fn recheck(&self, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        use rustls::server::danger::ClientCertVerifier as _;
        let (leaf, rest) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        self.verifier.verify_client_cert(leaf, rest, wall(&*self.time)).map(drop)
    }

    /// Who the client of a finished handshake is. `chain` is what the client showed, its own certificate first; the path
    /// up to the CA is built from it and the CA file.
    ///
    /// # Errors
    /// [`IdentityError`]; not expected right after a handshake that the configuration of this value accepted.
    pub fn peer_identity(&self, chain: &[CertificateDer<'_>]) -> Result<PeerIdentity, IdentityError> {
        let (leaf, rest) = chain.split_first().ok_or(IdentityError::Empty)?;
        let path = self
            .verifier
            .path(leaf, rest, wall(&*self.time), false)
            .map_err(|e| IdentityError::Chain(super::explain(&e)))?;
        PeerIdentity::from_chain(&path, &self.options.username)
    }

    /// As [`Self::peer_identity`], of the client's own certificate alone: for those who tell nobody about its issuers. The
    /// handshake has verified the chain; the path is not built again.
    ///
    /// # Errors
    /// As [`Self::peer_identity`].
    pub fn peer_leaf(&self, chain: &[CertificateDer<'_>]) -> Result<PeerIdentity, IdentityError> {
        PeerIdentity::from_chain(chain.get(..1).unwrap_or_default(), &self.options.username)
    }
}

/// A clock that cannot be read counts as 1970, when no certificate is valid yet.
fn wall(time: &dyn TimeProvider) -> UnixTime {
    time.current_time().unwrap_or_else(|| UnixTime::since_unix_epoch(Duration::ZERO))
}

fn verifier(
    options: &PkiOptions,
    provider: &CryptoProvider,
    signatures: &GoodSignatures,
    trust: Option<Arc<Trust>>,
    crls: Crls,
) -> Verifier {
    let crl_dir = if let CrlSource::Dir(path) = &options.crl { Some(path.clone()) } else { None };
    Verifier {
        trust,
        crls,
        crl_dir,
        crl_expiry: options.crl_expiry,
        pins: options.fingerprints.clone(),
        rules: options.rules.clone(),
        username: options.username.clone(),
        algorithms: provider.signature_verification_algorithms,
        path_algorithms: signatures.with(provider.signature_verification_algorithms.all),
        mandatory: options.client_cert == ClientCert::Require,
    }
}

fn build(
    options: &PkiOptions,
    provider: &Arc<CryptoProvider>,
    key: &Arc<CertifiedKey>,
    verifier: &Arc<Verifier>,
    time: &Arc<dyn TimeProvider>,
) -> Result<Arc<ServerConfig>, PkiError> {
    let versions = suites::versions(options)?;
    let builder = ServerConfig::builder_with_details(Arc::clone(provider), Arc::clone(time))
        .with_protocol_versions(&versions)
        .map_err(|e| PkiError::Tls(e.to_string()))?;
    let builder = match options.client_cert {
        ClientCert::None => builder.with_client_cert_verifier(WebPkiClientVerifier::no_client_auth()),
        ClientCert::Require | ClientCert::Optional => {
            builder.with_client_cert_verifier(Arc::<Verifier>::clone(verifier))
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key))));
    // Every session runs the full handshake, so that revocation and hooks see it. The ticketer stays the builder's, which
    // never makes tickets.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.key_log = Arc::new(rustls::NoKeyLog {});
    config.cert_compressors = Vec::new();
    config.cert_decompressors = Vec::new();
    Ok(Arc::new(config))
}

fn warn_uncovered(trust: Option<&Trust>, source: &CrlSource, crls: &Crls, warnings: &mut Vec<String>) {
    if !matches!(source, CrlSource::Inline(_) | CrlSource::File(_)) {
        return;
    }
    let Some(trust) = trust else { return };
    for (raw, subject) in &trust.subjects {
        if !crls.covers(raw) {
            warnings.push(format!("crl-verify: there is no CRL of the CA {subject:?}; its certificates are not checked for revocation"));
        }
    }
}
