//! Decides about client certificates during the handshake.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use subtle::{Choice, ConstantTimeEq as _};
use webpki::{EndEntityCert, ExpirationPolicy, KeyUsage, RevocationOptionsBuilder, UnknownStatusPolicy};
use x509_parser::certificate::X509Certificate;

use super::crl::Crls;
use super::error::CertRefusal;
use super::identity::{self, serial_texts};
use super::inspect;
use super::load::{Anchor, Trust};
use super::names::{self, UsernameFields};
use super::options::CrlExpiry;
use super::remembered::Remembering;
use super::rules::LeafRules;

/// Most certificates a client may show; the path builder uses six intermediates at most.
pub(super) const MAX_CHAIN_CERTS: usize = 10;

/// Most bytes they may have; a chain of RSA-4096 certificates has about 6 KiB.
pub(super) const MAX_CHAIN_BYTES: usize = 16 << 10;

/// The verifier. Holds nothing that its answers depend on: the same input at the same time always gets the same one.
#[derive(Debug)]
pub(super) struct Verifier {
    pub trust: Option<Arc<Trust>>,
    pub crls: Crls,
    pub crl_dir: Option<PathBuf>,
    pub crl_expiry: CrlExpiry,
    pub pins: Vec<[u8; 32]>,
    pub rules: LeafRules,
    pub username: UsernameFields,
    /// For what a client signs in the handshake.
    pub algorithms: WebPkiSupportedAlgorithms,
    /// The same, for certificates and revocation lists.
    pub path_algorithms: Vec<Remembering>,
    pub mandatory: bool,
}

impl Verifier {
    /// The verified path for a chain: leaf, intermediates, trust anchor. Only the leaf when pins stand in for the CA.
    /// `revocation` is off when a chain that was accepted is only to be described.
    pub(super) fn path(
        &self,
        leaf: &CertificateDer<'_>,
        shown: &[CertificateDer<'_>],
        now: UnixTime,
        revocation: bool,
    ) -> Result<Vec<CertificateDer<'static>>, Error> {
        let Some(trust) = &self.trust else {
            return Ok(vec![leaf.clone().into_owned()]);
        };
        let usable: Vec<&Anchor> = trust.anchors.iter().filter(|a| a.valid_at(now)).collect();
        match self.path_to(&usable, trust, leaf, shown, now, revocation) {
            Err(webpki::Error::UnknownIssuer) if usable.len() < trust.anchors.len() => {
                let all: Vec<&Anchor> = trust.anchors.iter().collect();
                match self.path_to(&all, trust, leaf, shown, now, revocation) {
                    Ok(_) => Err(CertificateError::Expired.into()),
                    Err(error) => Err(self.refusal(&error, trust, leaf, shown)),
                }
            }
            Err(error) => Err(self.refusal(&error, trust, leaf, shown)),
            Ok(path) => Ok(path),
        }
    }

    fn path_to(
        &self,
        usable: &[&Anchor],
        trust: &Trust,
        leaf: &CertificateDer<'_>,
        shown: &[CertificateDer<'_>],
        now: UnixTime,
        revocation: bool,
    ) -> Result<Vec<CertificateDer<'static>>, webpki::Error> {
        let anchors: Vec<TrustAnchor<'_>> = usable.iter().map(|a| a.anchor.clone()).collect();
        let intermediates: Vec<CertificateDer<'_>> =
            shown.iter().chain(&trust.intermediates).cloned().collect();
        let lists: Vec<_> = self.crls.lists.iter().collect();
        let expiry = match self.crl_expiry {
            CrlExpiry::Refuse => ExpirationPolicy::Enforce,
            CrlExpiry::Ignore => ExpirationPolicy::Ignore,
        };
        // An issuer without a CRL is let through, as OpenVPN does; the start has warned about it.
        let check = RevocationOptionsBuilder::new(&lists).ok().filter(|_| revocation).map(|builder| {
            builder.with_status_policy(UnknownStatusPolicy::Allow).with_expiration_policy(expiry).build()
        });
        let algorithms: Vec<&dyn SignatureVerificationAlgorithm> =
            self.path_algorithms.iter().map(|algorithm| algorithm as _).collect();
        let end_entity = EndEntityCert::try_from(leaf)?;
        let verified = end_entity.verify_for_usage(
            &algorithms,
            &anchors,
            &intermediates,
            now,
            KeyUsage::client_auth(),
            check,
            Some(&|path| {
                let signs = path.intermediate_certificates().all(|cert| may_sign(&cert.der()));
                if signs { Ok(()) } else { Err(webpki::Error::EndEntityUsedAsCa) }
            }),
        )?;
        let mut path = vec![leaf.clone().into_owned()];
        path.extend(verified.intermediate_certificates().map(|cert| cert.der().into_owned()));
        let end = verified.anchor();
        let same = |a: &&&Anchor| {
            a.anchor.subject == end.subject && a.anchor.subject_public_key_info == end.subject_public_key_info
        };
        path.extend(usable.iter().find(same).map(|a| a.der.clone()));
        Ok(path)
    }

    /// Words for a path that was not found; looks through the chain for what the builder only calls unknown.
    fn refusal(
        &self,
        error: &webpki::Error,
        trust: &Trust,
        leaf: &CertificateDer<'_>,
        shown: &[CertificateDer<'_>],
    ) -> Error {
        use webpki::Error as E;
        match error {
            E::CertExpired { time, not_after } => {
                return CertificateError::ExpiredContext { time: *time, not_after: *not_after }.into();
            }
            E::CertNotValidYet { time, not_before } => {
                return CertificateError::NotValidYetContext { time: *time, not_before: *not_before }.into();
            }
            E::CertRevoked => return CertificateError::Revoked.into(),
            E::CrlExpired { time, next_update } => {
                return CertificateError::ExpiredRevocationListContext {
                    time: *time,
                    next_update: *next_update,
                }
                .into();
            }
            E::InvalidCrlSignatureForPublicKey => return CertRefusal::CrlSignature.into(),
            E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => {
                return CertificateError::InvalidPurpose.into();
            }
            E::CaUsedAsEndEntity => return CertRefusal::CaAsLeaf.into(),
            E::EndEntityUsedAsCa => return CertRefusal::IssuerKeyUsage.into(),
            _ => {}
        }
        for (depth, der) in std::iter::once(leaf).chain(shown).enumerate() {
            let Ok(cert) = inspect::parse(der) else {
                return CertRefusal::Parse.into();
            };
            let used = depth == 0 || !inspect::self_issued(&cert);
            if let Some(problem) = inspect::problem(&cert).filter(|_| used) {
                return CertRefusal::Problem { depth, problem }.into();
            }
            if matches!(error, E::UnsupportedCriticalExtension) {
                let mut critical =
                    cert.extensions().iter().filter(|e| e.critical).map(|e| e.oid.to_id_string());
                // The path builder knows basic constraints, key usage, both alternative names, name constraints, EKU and
                // distribution points.
                let known = ["2.5.29.19", "2.5.29.15", "2.5.29.17", "2.5.29.30", "2.5.29.37", "2.5.29.31"];
                if let Some(oid) = critical.rfind(|oid| !known.contains(&oid.as_str())) {
                    return CertRefusal::CriticalExtension(oid).into();
                }
            }
        }
        let last = shown.last().unwrap_or(leaf);
        if let Ok(cert) = inspect::parse(last) {
            let issuers = trust.subjects.iter().any(|(raw, _)| raw.as_slice() == cert.issuer().as_raw());
            let problem = trust.anchors.iter().find_map(|a| {
                let same =
                    inspect::parse(&a.der).is_ok_and(|ca| ca.subject().as_raw() == cert.issuer().as_raw());
                a.key_problem.clone().filter(|_| same)
            });
            if let Some(problem) = problem.filter(|_| issuers) {
                return CertRefusal::Problem { depth: shown.len() + 1, problem }.into();
            }
        }
        match error {
            E::UnknownIssuer => CertificateError::UnknownIssuer.into(),
            E::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus.into(),
            E::InvalidSignatureForPublicKey => CertificateError::BadSignature.into(),
            other => CertRefusal::Path(other.to_string()).into(),
        }
    }

    fn pinned(&self, leaf: &CertificateDer<'_>) -> Result<(), CertRefusal> {
        if self.pins.is_empty() {
            return Ok(());
        }
        let digest = identity::sha256(leaf);
        // Every pin is compared, so that time tells nothing about which one fits.
        let fits = self.pins.iter().fold(Choice::from(0), |fits, pin| fits | pin.ct_eq(&digest));
        if bool::from(fits) { Ok(()) } else { Err(CertRefusal::NotPinned(identity::colon_hex(&digest))) }
    }
}

/// With a CRL directory, a certificate is revoked while a file named by its serial exists. Anything but a clear "not there"
/// counts as revoked.
fn in_crl_dir(dir: &Path, cert: &X509Certificate<'_>) -> bool {
    let file = dir.join(serial_texts(cert.raw_serial()).0);
    !matches!(std::fs::symlink_metadata(file), Err(e) if e.kind() == std::io::ErrorKind::NotFound)
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    /// No hints: a bundle of many CAs would make the server's flight grow by all their names, and OpenVPN clients have
    /// one certificate to show anyway.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let certs = intermediates.len() + 1;
        let bytes = leaf.len() + intermediates.iter().map(|c| c.len()).sum::<usize>();
        if certs > MAX_CHAIN_CERTS || bytes > MAX_CHAIN_BYTES {
            return Err(CertRefusal::TooLarge { certs, bytes }.into());
        }
        let cert = inspect::parse(leaf).map_err(|_| CertRefusal::Parse)?;
        self.pinned(leaf)?;
        // The leaf's own signature matters only where a CA stands behind it.
        let problem = match self.trust {
            Some(_) => inspect::problem(&cert),
            None => inspect::key_problem(cert.public_key()),
        };
        if let Some(problem) = problem {
            return Err(CertRefusal::Problem { depth: 0, problem }.into());
        }
        if self.trust.is_none() {
            // Nothing but the pin vouches for it, and a CA:TRUE leaf is what home-made pins look like.
            check_validity(&cert, now)?;
        } else {
            check_key_usage(&cert)?;
        }
        let path = self.path(leaf, intermediates, now, true)?;
        if let Some(dir) = &self.crl_dir {
            for der in path {
                if in_crl_dir(dir, &inspect::parse(&der).map_err(|_| CertRefusal::Parse)?) {
                    return Err(CertificateError::Revoked.into());
                }
            }
        }
        let name = identity::user_name(&cert, &self.username).map_err(CertRefusal::from)?;
        let subject = identity::subject_line(&names::attributes(cert.subject()));
        self.rules.check(&cert, &subject, &name)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Without a path nothing else looks at the dates.
fn check_validity(cert: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = cert.validity();
    let at = |time: i64| {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(time).unwrap_or(0)))
    };
    if seconds < validity.not_before.timestamp() {
        let not_before = at(validity.not_before.timestamp());
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if seconds > validity.not_after.timestamp() {
        let not_after = at(validity.not_after.timestamp());
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    Ok(())
}

/// The path builder looks at extended key usage only; OpenSSL also wants a key usage that can take part in a handshake.
fn check_key_usage(cert: &X509Certificate<'_>) -> Result<(), CertRefusal> {
    if cert.is_ca() {
        return Err(CertRefusal::CaAsLeaf);
    }
    match cert.key_usage() {
        Ok(None) => Ok(()),
        Ok(Some(usage)) if usage.value.digital_signature() || usage.value.key_agreement() => Ok(()),
        Ok(Some(_)) => Err(CertRefusal::KeyUsage),
        Err(_) => Err(CertRefusal::Parse),
    }
}

fn may_sign(der: &CertificateDer<'_>) -> bool {
    inspect::parse(der).is_ok_and(|cert| match cert.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
        Err(_) => false,
    })
}
