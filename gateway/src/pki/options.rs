//! What the operator says about certificates and TLS, in plain types.

use std::path::{Path, PathBuf};

use tessera_proto::Secret;

use super::error::PkiError;
use super::names::UsernameFields;
use super::rules::LeafRules;

/// Largest certificate, key or CA file that is read; a bundle of every public CA is about 250 KiB.
pub(super) const MAX_PEM_BYTES: u64 = 4 << 20;

/// PEM text and where it came from (a path, or `inline <ca>`), which every error repeats.
#[derive(Clone, Debug)]
pub struct Pem {
    /// The place to name in errors.
    pub label: String,
    /// The PEM text.
    pub bytes: Vec<u8>,
}

impl Pem {
    /// PEM text given inside the configuration, under `<directive>`.
    pub fn inline(directive: &str, text: impl Into<Vec<u8>>) -> Self {
        Self { label: format!("inline <{directive}>"), bytes: text.into() }
    }

    /// Reads `path`, at most 4 MiB.
    ///
    /// # Errors
    /// [`PkiError::Read`] with the path when the file cannot be read or is larger.
    pub fn from_file(path: &Path) -> Result<Self, PkiError> {
        Ok(Self { label: path.display().to_string(), bytes: read_capped(path, MAX_PEM_BYTES)? })
    }
}

/// PEM text of a private key; redacted when printed, wiped when dropped.
#[derive(Clone, Debug)]
pub struct KeyPem {
    /// The place to name in errors.
    pub label: String,
    /// The PEM text.
    pub bytes: Secret<Vec<u8>>,
}

impl KeyPem {
    /// A key given inside the configuration, under `<key>`.
    pub fn inline(text: impl Into<Vec<u8>>) -> Self {
        Self { label: "inline <key>".into(), bytes: Secret::new(text.into()) }
    }

    /// Reads `path`, at most 4 MiB.
    ///
    /// # Errors
    /// [`PkiError::Read`] with the path when the file cannot be read or is larger.
    pub fn from_file(path: &Path) -> Result<Self, PkiError> {
        let bytes = Secret::new(read_capped(path, MAX_PEM_BYTES)?);
        Ok(Self { label: path.display().to_string(), bytes })
    }
}

/// Reads a whole file of at most `cap` bytes.
pub(super) fn read_capped(path: &Path, cap: u64) -> Result<Vec<u8>, PkiError> {
    use std::io::Read as _;
    let failed = |reason: String| PkiError::Read { label: path.display().to_string(), reason };
    let file = std::fs::File::open(path).map_err(|e| failed(e.to_string()))?;
    let mut bytes = Vec::new();
    file.take(cap + 1).read_to_end(&mut bytes).map_err(|e| failed(e.to_string()))?;
    if bytes.len() as u64 > cap {
        return Err(failed(format!("the file is larger than {cap} bytes")));
    }
    Ok(bytes)
}

/// `verify-client-cert`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCert {
    /// A client without a certificate is refused.
    #[default]
    Require,
    /// A certificate may be missing, but one that is shown must be good.
    Optional,
    /// No certificate is asked for.
    None,
}

/// `crl-verify`.
#[derive(Clone, Debug, Default)]
pub enum CrlSource {
    /// No revocation check.
    #[default]
    None,
    /// CRLs given inside the configuration; they never change.
    Inline(Pem),
    /// A PEM file of one or more CRLs, read again when it changes.
    File(PathBuf),
    /// `crl-verify DIR dir`: a certificate is revoked while a file named by its decimal serial exists in the directory.
    Dir(PathBuf),
}

/// What an out-of-date CRL means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CrlExpiry {
    /// Clients of its issuer are refused until a fresh CRL is there (what OpenVPN does).
    #[default]
    Refuse,
    /// It is used as if it were fresh.
    Ignore,
}

/// A TLS version that can be spoken. The order is the protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl TlsVersion {
    /// The argument of `tls-version-min`: `1.0` and `1.1` are raised to 1.2, with the warning to print. `None` for
    /// anything that is no TLS version.
    pub fn parse_min(text: &str) -> Option<(Self, Option<String>)> {
        match text {
            "1.0" | "1.1" => {
                let warning =
                    format!("tls-version-min {text} is raised to 1.2: older versions are not spoken");
                Some((Self::Tls12, Some(warning)))
            }
            "1.2" => Some((Self::Tls12, None)),
            "1.3" => Some((Self::Tls13, None)),
            _ => None,
        }
    }

    /// The argument of `tls-version-max`. `None` for anything but `1.2` and `1.3`: a server capped below 1.2 could speak
    /// nothing.
    pub fn parse_max(text: &str) -> Option<Self> {
        match text {
            "1.2" => Some(Self::Tls12),
            "1.3" => Some(Self::Tls13),
            _ => None,
        }
    }
}

/// `tls-cert-profile`. What is never accepted (SHA-1, RSA under 2048 bits) stays refused in every profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CertProfile {
    /// Asks for less than is ever accepted: warned about, then as [`CertProfile::Preferred`].
    Insecure,
    /// Likewise.
    Legacy,
    /// RSA of 2048 bits or more, ECDSA P-256 or P-384, Ed25519; SHA-256 or better.
    #[default]
    Preferred,
    /// ECDSA with P-256 or P-384 only.
    SuiteB,
}

/// Everything certificates and TLS depend on.
#[derive(Clone, Debug)]
pub struct PkiOptions {
    /// `ca`: the certificates clients are verified against. May be missing only with [`Self::fingerprints`], or when no
    /// client certificate is asked for.
    pub ca: Option<Pem>,
    /// `cert`: the server's certificate first, then its intermediates.
    pub cert: Pem,
    /// `extra-certs`: more intermediates to send.
    pub extra_certs: Option<Pem>,
    /// `key`.
    pub key: KeyPem,
    /// `crl-verify`.
    pub crl: CrlSource,
    /// What an out-of-date CRL means.
    pub crl_expiry: CrlExpiry,
    /// `verify-client-cert`.
    pub client_cert: ClientCert,
    /// `peer-fingerprint`: SHA-256 of the accepted client certificates. Without `ca` they replace the chain; with `ca`
    /// both must fit. Empty: no pinning.
    pub fingerprints: Vec<[u8; 32]>,
    /// `remote-cert-tls`, `remote-cert-ku`, `remote-cert-eku`, `verify-x509-name`.
    pub rules: LeafRules,
    /// `x509-username-field`.
    pub username: UsernameFields,
    /// `tls-version-min`.
    pub tls_min: TlsVersion,
    /// `tls-version-max`.
    pub tls_max: TlsVersion,
    /// `tls-cipher` (TLS 1.2), names separated by `:`.
    pub tls_cipher: Option<String>,
    /// `tls-ciphersuites` (TLS 1.3), names separated by `:`.
    pub tls_ciphersuites: Option<String>,
    /// `tls-groups` or `ecdh-curve`, names separated by `:`.
    pub tls_groups: Option<String>,
    /// `tls-cert-profile`.
    pub cert_profile: CertProfile,
}

impl PkiOptions {
    /// The defaults of everything but the server's own certificate and key: client certificates required, TLS 1.2 and 1.3.
    #[must_use]
    pub fn new(cert: Pem, key: KeyPem) -> Self {
        Self {
            ca: None,
            cert,
            extra_certs: None,
            key,
            crl: CrlSource::None,
            crl_expiry: CrlExpiry::Refuse,
            client_cert: ClientCert::Require,
            fingerprints: Vec::new(),
            rules: LeafRules::default(),
            username: UsernameFields::default(),
            tls_min: TlsVersion::Tls12,
            tls_max: TlsVersion::Tls13,
            tls_cipher: None,
            tls_ciphersuites: None,
            tls_groups: None,
            cert_profile: CertProfile::Preferred,
        }
    }
}

/// Reads one `peer-fingerprint` line: 32 hexadecimal bytes separated by colons, in either case. `None` if it is not that.
pub fn parse_fingerprint(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0_u8; 32];
    let mut parts = text.trim().split(':');
    for byte in &mut digest {
        let part = parts.next()?;
        if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_whole_or_not_at_all() {
        let good = ["aB"; 32].join(":");
        assert_eq!(parse_fingerprint(&good), Some([0xab; 32]));
        assert_eq!(parse_fingerprint(&["ab"; 31].join(":")), None);
        assert_eq!(parse_fingerprint(&["ab"; 33].join(":")), None);
        assert_eq!(parse_fingerprint(&["+b"; 32].join(":")), None);
        assert_eq!(parse_fingerprint(&"ab".repeat(32)), None);
    }

    #[test]
    fn old_minimum_versions_are_raised_with_a_warning() {
        assert_eq!(TlsVersion::parse_min("1.2"), Some((TlsVersion::Tls12, None)));
        assert!(
            matches!(TlsVersion::parse_min("1.0"), Some((TlsVersion::Tls12, Some(w))) if w.contains("1.0"))
        );
        assert_eq!(TlsVersion::parse_min("2"), None);
        assert_eq!(TlsVersion::parse_max("1.1"), None);
    }
}
