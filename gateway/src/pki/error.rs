//! What can be wrong with our own material, and why a client's certificate is refused.

use std::sync::Arc;

use super::identity::IdentityError;

/// Why the TLS side cannot be set up. Every variant names the place and, where there is one, the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// A file cannot be read.
    #[error("cannot read {label}: {reason}")]
    Read {
        /// The file.
        label: String,
        /// What the system said.
        reason: String,
    },
    /// Not PEM, or a section of it is broken.
    #[error("{label}: not valid PEM: {reason}")]
    Pem {
        /// The file or inline block.
        label: String,
        /// What is wrong.
        reason: String,
    },
    /// There is no section of the kind that belongs there.
    #[error("{label}: no {what} in it")]
    Missing {
        /// The file or inline block.
        label: String,
        /// What was looked for.
        what: &'static str,
    },
    /// A certificate or CRL is not what X.509 says.
    #[error("{label}: {what} number {index} cannot be parsed: {reason}")]
    Parse {
        /// The file or inline block.
        label: String,
        /// `certificate` or `CRL`.
        what: &'static str,
        /// Place in the file, from 1.
        index: usize,
        /// What is wrong.
        reason: String,
    },
    /// A certificate of ours that no TLS client could be served with.
    #[error("{label}: certificate number {index}: {problem}")]
    Unusable {
        /// The file or inline block.
        label: String,
        /// Place in the file, from 1.
        index: usize,
        /// What is wrong.
        problem: CertProblem,
    },
    /// No certificate of the CA file can be used as an issuer.
    #[error("{label}: no usable CA certificate in it: {reason}")]
    NoUsableCa {
        /// The file or inline block.
        label: String,
        /// Why the last one was dropped.
        reason: String,
    },
    /// The private key is protected by a passphrase.
    #[error(
        "{label}: the private key is encrypted; decrypt it with `openssl pkey -in KEY -out PLAINKEY` and protect the file by its mode"
    )]
    EncryptedKey {
        /// The file or inline block.
        label: String,
    },
    /// The private key is of a kind that cannot sign here.
    #[error(
        "{label}: the private key cannot be used (RSA of 2048 to 8192 bits, ECDSA P-256 or P-384, or Ed25519 is needed): {reason}"
    )]
    KeyType {
        /// The file or inline block.
        label: String,
        /// What the library said.
        reason: String,
    },
    /// Key and certificate are not of one pair.
    #[error("{key}: the private key does not belong to the certificate in {cert}")]
    KeyMismatch {
        /// Where the key is.
        key: String,
        /// Where the certificate is.
        cert: String,
    },
    /// A CRL that cannot be used.
    #[error("{label}: CRL number {index}: {reason}")]
    Crl {
        /// The file or inline block.
        label: String,
        /// Place in the file, from 1.
        index: usize,
        /// What is wrong and the way out.
        reason: String,
    },
    /// Nothing to verify clients with.
    #[error("client certificates are asked for, but there is neither `ca` nor `peer-fingerprint`")]
    NoTrust,
    /// An option asks for nothing that can be spoken.
    #[error("{directive}: {reason}")]
    Option {
        /// The directive.
        directive: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The TLS library refused the sum of it.
    #[error("TLS: {0}")]
    Tls(String),
}

/// A property of a certificate that the TLS library cannot work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertProblem {
    /// Not version 3.
    #[error(
        "X.509 version {0} certificate; only version 3 is accepted: issue it again with an extension section (`openssl x509 -req -extfile …`)"
    )]
    Version(u32),
    /// A signature algorithm that is too weak or not implemented.
    #[error("signed with {0}, which is not accepted: issue it again with SHA-256 (ECDSA, RSA) or Ed25519")]
    Signature(String),
    /// An RSA key of a size out of bounds.
    #[error("RSA key of {0} bits; 2048 to 8192 are accepted: make a new key")]
    RsaSize(usize),
    /// An elliptic curve that is not implemented.
    #[error("key on the curve {0}, which is not supported: use P-256 (prime256v1) or P-384")]
    Curve(String),
    /// A kind of key that is not implemented.
    #[error(
        "key of the type {0}, which is not supported: use RSA (rsaEncryption), ECDSA P-256 or P-384, or Ed25519"
    )]
    KeyType(String),
}

/// Why a client certificate is refused, where the TLS library has no word of its own for it. Travels in
/// `rustls::Error::InvalidCertificate(CertificateError::Other(_))`; [`super::explain`] prints it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertRefusal {
    /// More bytes or certificates than any real chain has.
    #[error("client sent {certs} certificates of {bytes} bytes; at most {max_certs} of {max_bytes} bytes are accepted", max_certs = super::verifier::MAX_CHAIN_CERTS, max_bytes = super::verifier::MAX_CHAIN_BYTES)]
    TooLarge {
        /// Certificates shown.
        certs: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// Not X.509.
    #[error("client certificate cannot be parsed")]
    Parse,
    /// The certificate at this depth cannot be worked with.
    #[error("certificate at depth {depth}: {problem}")]
    Problem {
        /// 0 is the client's own.
        depth: usize,
        /// What is wrong.
        problem: CertProblem,
    },
    /// The name in it cannot be an identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A CA certificate used as a client's.
    #[error(
        "client certificate is a CA certificate (CA:TRUE): issue one with basicConstraints CA:FALSE, or pin it with peer-fingerprint"
    )]
    CaAsLeaf,
    /// A critical extension nobody here understands.
    #[error("certificate has a critical extension that is not understood ({0})")]
    CriticalExtension(String),
    /// Key usage forbids signing a handshake.
    #[error("client certificate's key usage allows neither digitalSignature nor keyAgreement")]
    KeyUsage,
    /// `remote-cert-tls` or `remote-cert-ku` wants a key usage extension.
    #[error("client certificate has no key usage extension, which remote-cert-tls or remote-cert-ku demands")]
    NoKeyUsage,
    /// `remote-cert-ku` fits no value.
    #[error("client certificate's key usage {0:02x} fits none of remote-cert-ku")]
    KeyUsageValue(u16),
    /// The extended key usage that is demanded is missing.
    #[error(
        "client certificate lacks the extended key usage {0}, which remote-cert-tls or remote-cert-eku demands"
    )]
    Eku(String),
    /// `verify-x509-name` does not fit.
    #[error("client certificate's name does not fit verify-x509-name")]
    Name,
    /// Not in `peer-fingerprint`.
    #[error("client certificate is not in the peer-fingerprint list (SHA-256 {0})")]
    NotPinned(String),
    /// An intermediate may not sign certificates.
    #[error("an intermediate certificate may not sign certificates (key usage without keyCertSign)")]
    IssuerKeyUsage,
    /// The CRL is not signed by the CA it names.
    #[error("the CRL's signature does not fit its CA: issue the CRL again with the CA in use")]
    CrlSignature,
    /// Anything else the path builder said.
    #[error("client certificate refused: {0}")]
    Path(String),
}

impl From<CertRefusal> for rustls::Error {
    fn from(refusal: CertRefusal) -> Self {
        let other = rustls::OtherError(Arc::new(refusal));
        Self::InvalidCertificate(rustls::CertificateError::Other(other))
    }
}
