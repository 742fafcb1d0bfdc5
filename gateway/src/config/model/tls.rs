//! Identity, trust, and what protects the two channels.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};
use tessera_proto::{Cipher, Digest};

use super::{Source, display, display_list, optional_display, optional_seconds};

/// TLS versions that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    V12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V13,
}

/// The SHA-256 of a certificate's DER.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let colon = if index == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What `verify-x509-name` compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum X509Match {
    /// The whole subject.
    Subject,
    /// The common name (the field of `x509-username-field`).
    Name,
    /// The beginning of the common name.
    NamePrefix,
}

/// `verify-x509-name`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct X509Name {
    /// What must be there.
    pub name: String,
    /// Where.
    pub kind: X509Match,
}

/// Which field of the client's certificate is its common name (`x509-username-field`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NameField {
    /// An attribute of the subject: `CN`, `emailAddress`, `serialNumber`, `UID`…
    Subject(String),
    /// The subject's alternative name: its first e-mail address.
    SubjectAltName,
    /// The certificate's serial number, in hexadecimal.
    Serial,
}

/// Identity, trust and the limits of TLS.
#[derive(Debug, Clone, Serialize)]
pub struct Tls {
    /// Certificates that clients' chains must lead to.
    pub ca: Option<Source>,
    /// The gateway's certificate (with its chain).
    pub cert: Option<Source>,
    /// Its private key.
    pub key: Option<Source>,
    /// More certificates for the gateway's chain.
    pub extra_certs: Option<Source>,
    /// Revoked certificates.
    pub crl: Option<Source>,
    /// Certificates that are trusted by themselves (`peer-fingerprint`); empty: no such list.
    pub peer_fingerprints: Vec<Fingerprint>,
    /// `verify-x509-name`.
    pub verify_name: Option<X509Name>,
    /// The field that is the common name.
    pub name_field: NameField,
    /// Key usages of the client's certificate, any one of which must be there bit for bit (`remote-cert-ku`);
    /// `Some` and empty: some key usage must be there.
    pub remote_cert_ku: Option<Vec<u16>>,
    /// Extended key usage that the client's certificate must have: an OID in dots (`remote-cert-eku`,
    /// `remote-cert-tls client`).
    pub remote_cert_eku: Option<String>,
    /// Oldest version.
    pub version_min: TlsVersion,
    /// Newest version.
    pub version_max: TlsVersion,
    /// TLS 1.2 suites by OpenVPN's (IANA with dashes) or OpenSSL's names that were asked for and exist here, by their
    /// IANA names; empty: all.
    pub ciphers: Vec<String>,
    /// TLS 1.3 suites by their IANA names; empty: all.
    pub ciphersuites: Vec<String>,
    /// Groups in order, by their names (`X25519`, `secp256r1`, `secp384r1`); empty: all.
    pub groups: Vec<String>,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            ca: None,
            cert: None,
            key: None,
            extra_certs: None,
            crl: None,
            peer_fingerprints: Vec::new(),
            verify_name: None,
            name_field: NameField::Subject("CN".to_owned()),
            remote_cert_ku: None,
            remote_cert_eku: None,
            version_min: TlsVersion::V12,
            version_max: TlsVersion::V13,
            ciphers: Vec::new(),
            ciphersuites: Vec::new(),
            groups: Vec::new(),
        }
    }
}

/// Which of a static key's halves is used for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyDirection {
    /// The same key both ways.
    #[default]
    Bidirectional,
    /// 0: usual for servers.
    Normal,
    /// 1: usual for clients.
    Inverse,
}

/// How `tls-crypt-v2` treats clients that cannot do the cookie handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CookieMode {
    /// They are not served.
    #[default]
    ForceCookie,
    /// They are, at the price of state before their address is proven.
    AllowNoncookie,
}

/// What protects the control channel.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wrap {
    /// Nothing but TLS.
    #[default]
    None,
    /// `tls-auth`: an HMAC on every packet.
    TlsAuth {
        /// The static key (2048 bits in PEM-like hexadecimal).
        key: Source,
        /// Which halves are used.
        direction: KeyDirection,
    },
    /// `tls-crypt`: encryption with a key that all share.
    TlsCrypt {
        /// The static key.
        key: Source,
    },
    /// `tls-crypt-v2`: encryption with a key for each client.
    TlsCryptV2 {
        /// The server key, which opens the clients' wrapped keys.
        key: Source,
        /// Clients without the cookie handshake.
        cookie: CookieMode,
        /// Oldest wrapped key that is taken (needs a timestamp in its metadata); `None`: any age.
        #[serde(serialize_with = "optional_seconds")]
        max_age: Option<Duration>,
    },
}

/// What is done about clients that speak of compression. Nothing is ever compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// No compression framing; a client that insists on framing is told to stop if it can be told.
    #[default]
    None,
    /// The old framing without compression for everybody (`comp-lzo no`): a byte 0xFA leads each packet.
    CompLzoNo,
    /// The v1 stub framing for everybody (`compress`, `compress stub`): a byte 0xFB leads, the packet's own first byte
    /// moves to the end.
    Stub,
    /// The v2 stub framing for everybody (`compress stub-v2`).
    StubV2,
    /// Each client is moved to no framing, or to the stub if it cannot (`compress migrate`).
    Migrate,
}

/// The data channel's ciphers.
#[derive(Debug, Clone, Serialize)]
pub struct Crypto {
    /// Ciphers to negotiate, best first; never empty.
    #[serde(serialize_with = "display_list")]
    pub data_ciphers: Vec<Cipher>,
    /// For clients that cannot negotiate; `None`: they are turned away.
    #[serde(serialize_with = "optional_display")]
    pub fallback: Option<Cipher>,
    /// The `cipher` directive as written, for the options string that old clients compare.
    pub cipher: Option<String>,
    /// Digest of `tls-auth`.
    #[serde(serialize_with = "display")]
    pub auth: Digest,
    /// Compression.
    pub compression: Compression,
    /// Turn away clients that cannot derive data keys by the TLS exporter.
    pub force_key_material_export: bool,
}

impl Default for Crypto {
    fn default() -> Self {
        Self {
            data_ciphers: vec![Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305],
            fallback: None,
            cipher: None,
            auth: Digest::Sha1,
            compression: Compression::None,
            force_key_material_export: false,
        }
    }
}
