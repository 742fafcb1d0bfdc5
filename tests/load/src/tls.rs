//! The clients' TLS configuration: TLS 1.3, a certificate of their own, nothing resumed.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, TrustAnchor, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use std::sync::{Arc, Mutex};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

/// A server certificate that was verified is taken for good this long: every login shows the same one, and building its
/// path again would only make the client dearer. The handshake's own signature is verified each time.
const CHAIN_GOOD_FOR: u64 = 10;

/// Why certificates or the key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// The file is not PEM, or holds nothing of the kind.
    #[error("{what}: {error}")]
    Pem {
        /// Which of the three.
        what: &'static str,
        /// The reason.
        error: rustls::pki_types::pem::Error,
    },
    /// No certificate in it.
    #[error("{0}: no certificate in it")]
    Empty(&'static str),
    /// A CA certificate that cannot be one.
    #[error("ca: {0}")]
    Anchor(webpki::Error),
    /// Certificate and key do not go together, or are of an unknown kind.
    #[error(transparent)]
    Tls(#[from] Error),
}

/// A configuration from the text of three PEM files. The server must show a certificate for TLS servers that the CA has
/// issued; its name is not looked at, as with a stock client that has `remote-cert-tls server`.
///
/// # Errors
/// When one of the files cannot be used.
pub fn client_config(ca: &[u8], cert: &[u8], key: &[u8]) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let anchors = certificates("ca", ca)?
        .iter()
        .map(|der| anchor_from_trusted_cert(der).map(|anchor| anchor.to_owned()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(TlsSetupError::Anchor)?;
    let chain = certificates("cert", cert)?;
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsSetupError::Pem { what: "key", error })?;
    let verifier =
        Arc::new(ChainVerifier { anchors, provider: Arc::clone(&provider), last: Mutex::new(None) });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain, key)?;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let all = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsSetupError::Pem { what, error })?;
    if all.is_empty() { Err(TlsSetupError::Empty(what)) } else { Ok(all) }
}

/// Verifies the path to the CA and the purpose, as stock clients do.
#[derive(Debug)]
struct ChainVerifier {
    anchors: Vec<TrustAnchor<'static>>,
    provider: Arc<CryptoProvider>,
    /// The leaf that was verified last, and when (seconds since 1970).
    last: Mutex<Option<(Vec<u8>, u64)>>,
}

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut last = self.last.lock().map_err(|_| Error::General("a verifier has panicked".into()))?;
        let known = last.as_ref().is_some_and(|(der, at)| {
            der.as_slice() == &**leaf && now.as_secs().saturating_sub(*at) < CHAIN_GOOD_FOR
        });
        if !known {
            *last = None;
            let algorithms = self.provider.signature_verification_algorithms.all;
            EndEntityCert::try_from(leaf)
                .and_then(|end| {
                    let usage = KeyUsage::server_auth();
                    end.verify_for_usage(algorithms, &self.anchors, intermediates, now, usage, None, None)
                        .map(|_| ())
                })
                .map_err(refusal)?;
            *last = Some((leaf.to_vec(), now.as_secs()));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn refusal(error: webpki::Error) -> Error {
    match error {
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        webpki::Error::CertExpired { .. } => CertificateError::Expired.into(),
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose.into(),
        other => Error::General(format!("server certificate: {other}")),
    }
}
