//! Turns PEM into the server's own key pair and the trust store, with errors that name the file and the way out.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, UnixTime};
use x509_parser::certificate::X509Certificate;

use super::error::{CertProblem, PkiError};
use super::inspect;
use super::names;
use super::options::{KeyPem, Pem, PkiOptions};

/// A CA certificate that ends paths.
#[derive(Clone, Debug)]
pub(super) struct Anchor {
    pub der: CertificateDer<'static>,
    pub anchor: TrustAnchor<'static>,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
    pub key_problem: Option<CertProblem>,
}

impl Anchor {
    pub(super) fn valid_at(&self, now: UnixTime) -> bool {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        (self.not_before..=self.not_after).contains(&now)
    }
}

/// The CA file, sorted: certificates whose issuer is in the file too help to build paths but do not end them, so that
/// their revocation is checked.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust {
    pub anchors: Vec<Anchor>,
    pub intermediates: Vec<CertificateDer<'static>>,
    /// Raw subject and text of every CA, for the warning about missing CRLs.
    pub subjects: Vec<(Vec<u8>, String)>,
}

/// The server's certificate chain and key.
pub(super) fn server_key(
    options: &PkiOptions,
    provider: &CryptoProvider,
    now: UnixTime,
    warnings: &mut Vec<String>,
) -> Result<Arc<CertifiedKey>, PkiError> {
    let mut chain = certificates(&options.cert)?;
    check_own(&options.cert, &chain, now, warnings)?;
    if let Some(extra) = &options.extra_certs {
        let more = certificates(extra)?;
        check_own(extra, &more, now, warnings)?;
        chain.extend(more);
    }
    let key = provider
        .key_provider
        .load_private_key(private_key(&options.key)?)
        .map_err(|e| PkiError::KeyType { label: options.key.label.clone(), reason: e.to_string() })?;
    let pair = CertifiedKey::new(chain, key);
    pair.keys_match().map_err(|_| PkiError::KeyMismatch {
        key: options.key.label.clone(),
        cert: options.cert.label.clone(),
    })?;
    Ok(Arc::new(pair))
}

/// The certificates of a file, at least one.
pub(super) fn certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let certs = CertificateDer::pem_slice_iter(&pem.bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| PkiError::Pem { label: pem.label.clone(), reason: e.to_string() })?;
    if certs.is_empty() {
        return Err(PkiError::Missing { label: pem.label.clone(), what: "certificate" });
    }
    Ok(certs)
}

fn check_own(
    pem: &Pem,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
    warnings: &mut Vec<String>,
) -> Result<(), PkiError> {
    for (index, der) in chain.iter().enumerate() {
        let index = index + 1;
        let cert = inspect::parse(der).map_err(|reason| PkiError::Parse {
            label: pem.label.clone(),
            what: "certificate",
            index,
            reason,
        })?;
        let root = inspect::self_issued(&cert) && index > 1;
        if let Some(problem) = inspect::problem(&cert).filter(|_| !root) {
            return Err(PkiError::Unusable { label: pem.label.clone(), index, problem });
        }
        warn_validity(&pem.label, index, &cert, now, warnings);
    }
    Ok(())
}

fn warn_validity(
    label: &str,
    index: usize,
    cert: &X509Certificate<'_>,
    now: UnixTime,
    warnings: &mut Vec<String>,
) {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = cert.validity();
    if validity.not_after.timestamp() < now {
        warnings.push(format!("{label}: certificate number {index} has expired on {}", validity.not_after));
    } else if validity.not_before.timestamp() > now {
        warnings
            .push(format!("{label}: certificate number {index} is not valid before {}", validity.not_before));
    }
}

fn private_key(pem: &KeyPem) -> Result<PrivateKeyDer<'static>, PkiError> {
    let text = pem.bytes.expose();
    let holds = |needle: &[u8]| text.windows(needle.len()).any(|window| window == needle);
    if holds(b"BEGIN ENCRYPTED PRIVATE KEY") || holds(b"Proc-Type: 4,ENCRYPTED") {
        return Err(PkiError::EncryptedKey { label: pem.label.clone() });
    }
    // The library's words could quote a line of the file, which holds a key; only their kind is told.
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok(key),
        Err(rustls_pki_types::pem::Error::NoItemsFound) => {
            Err(PkiError::Missing { label: pem.label.clone(), what: "private key" })
        }
        Err(_) => {
            Err(PkiError::Pem { label: pem.label.clone(), reason: "broken private key section".into() })
        }
    }
}

/// Reads the CA file. What cannot issue is dropped with a warning; nothing left is an error.
pub(super) fn trust(pem: &Pem, now: UnixTime, warnings: &mut Vec<String>) -> Result<Trust, PkiError> {
    let mut ders = certificates(pem)?;
    let mut parsed = Vec::new();
    let mut seen: Vec<CertificateDer<'static>> = Vec::new();
    ders.retain(|der| {
        let new = !seen.contains(der);
        if new {
            seen.push(der.clone());
        }
        new
    });
    let mut dropped = String::new();
    for (index, der) in ders.iter().enumerate() {
        let index = index + 1;
        let verdict = inspect::parse(der)
            .and_then(|cert| if may_issue(&cert) { Ok(cert) } else { Err("not a CA certificate".into()) });
        match verdict {
            Ok(cert) => parsed.push((index, der, cert)),
            Err(reason) => {
                warnings.push(format!("{}: certificate number {index} is left out: {reason}", pem.label));
                dropped = reason;
            }
        }
    }
    let mut trust = Trust::default();
    for (index, der, cert) in &parsed {
        warn_validity(&pem.label, *index, cert, now, warnings);
        let subject = names::printable(&names::one_line(&names::attributes(cert.subject())));
        let issuer_here =
            parsed.iter().any(|(_, _, other)| other.subject().as_raw() == cert.issuer().as_raw());
        let key_problem = inspect::key_problem(cert.public_key());
        if let Some(problem) = &key_problem {
            warnings.push(format!("{}: nothing issued by {subject:?} can be verified: {problem}", pem.label));
        }
        trust.subjects.push((cert.subject().as_raw().to_vec(), subject));
        if issuer_here && !inspect::self_issued(cert) {
            trust.intermediates.push((*der).clone());
            continue;
        }
        match webpki::anchor_from_trusted_cert(der) {
            Ok(anchor) => trust.anchors.push(Anchor {
                der: (*der).clone(),
                anchor: anchor.to_owned(),
                not_before: cert.validity().not_before.timestamp(),
                not_after: cert.validity().not_after.timestamp(),
                key_problem,
            }),
            Err(e) => {
                warnings.push(format!("{}: certificate number {index} is left out: {e}", pem.label));
                dropped = e.to_string();
            }
        }
    }
    if let Some(problem) = trust.anchors.iter().map(|a| a.key_problem.clone()).reduce(Option::and).flatten() {
        dropped = problem.to_string();
        trust.anchors.clear();
    }
    if trust.anchors.is_empty() {
        return Err(PkiError::NoUsableCa { label: pem.label.clone(), reason: dropped });
    }
    Ok(trust)
}

/// Whether a certificate may issue others, by the rules OpenSSL goes by: CA:TRUE; or without basic constraints, a
/// self-issued version 1 certificate or a key usage with keyCertSign.
fn may_issue(cert: &X509Certificate<'_>) -> bool {
    let signs = match cert.key_usage() {
        Ok(Some(usage)) => Some(usage.value.key_cert_sign()),
        Ok(None) => None,
        Err(_) => return false,
    };
    match cert.basic_constraints() {
        Ok(Some(constraints)) => constraints.value.ca && signs != Some(false),
        Ok(None) => signs == Some(true) || (cert.version().0 == 0 && inspect::self_issued(cert)),
        Err(_) => false,
    }
}
