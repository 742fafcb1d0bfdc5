//! One scratch CA for all simulations, Ed25519 throughout: signatures of fixed length keep schedules the same.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::{Arc, OnceLock};

/// Name in the server's certificate.
pub const SERVER_NAME: &str = "gateway.sim";

/// TLS configurations of both ends.
#[derive(Debug, Clone)]
pub struct Pki {
    /// The server's.
    pub server: Arc<ServerConfig>,
    /// The client's.
    pub client: Arc<ClientConfig>,
}

/// The configurations, made once per process.
///
/// # Panics
/// When certificates cannot be made, which no simulation survives.
pub fn pki() -> &'static Pki {
    static PKI: OnceLock<Pki> = OnceLock::new();
    PKI.get_or_init(|| make().expect("a scratch PKI"))
}

/// The server's name as TLS wants it.
///
/// # Panics
/// Never: the name is a constant.
#[must_use]
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from(SERVER_NAME).expect("a valid name")
}

fn make() -> Result<Pki, Box<dyn std::error::Error>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let ca_key = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "sim CA");
    let ca_cert = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);
    let issue = |name: &str, usage: ExtendedKeyUsagePurpose| -> Result<_, rcgen::Error> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let cert = params.signed_by(&key, &issuer)?;
        let key =
            PrivateKeyDer::try_from(key.serialize_der()).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
        Ok((vec![cert.der().clone()], key))
    };
    let mut roots = RootCertStore::empty();
    roots.add(ca_cert.der().clone())?;
    let roots = Arc::new(roots);
    let (chain, key) = issue(SERVER_NAME, ExtendedKeyUsagePurpose::ServerAuth)?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build()?;
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let (chain, key) = issue("client.sim", ExtendedKeyUsagePurpose::ClientAuth)?;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    client.resumption = rustls::client::Resumption::disabled();
    Ok(Pki { server: Arc::new(server), client: Arc::new(client) })
}
