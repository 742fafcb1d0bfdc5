//! The operator's demands on a client's own certificate, beyond a good chain.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::KeyUsage;

use super::error::{CertRefusal, PkiError};
use super::names::is_dotted_oid;

/// Extended key usages by the names OpenVPN takes.
const EKU_NAMES: &[(&str, &str)] = &[
    ("TLS Web Server Authentication", "1.3.6.1.5.5.7.3.1"),
    ("TLS Web Client Authentication", "1.3.6.1.5.5.7.3.2"),
    ("Code Signing", "1.3.6.1.5.5.7.3.3"),
    ("E-mail Protection", "1.3.6.1.5.5.7.3.4"),
    ("IPSec End System", "1.3.6.1.5.5.7.3.5"),
    ("IPSec Tunnel", "1.3.6.1.5.5.7.3.6"),
    ("IPSec User", "1.3.6.1.5.5.7.3.7"),
    ("Time Stamping", "1.3.6.1.5.5.7.3.8"),
    ("OCSP Signing", "1.3.6.1.5.5.7.3.9"),
    ("ipsec Internet Key Exchange", "1.3.6.1.5.5.7.3.17"),
    ("Any Extended Key Usage", "2.5.29.37.0"),
    ("Microsoft Smartcard Login", "1.3.6.1.4.1.311.20.2.2"),
];

/// An extended key usage, by its dotted OID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eku(String);

impl Eku {
    /// `clientAuth`.
    #[must_use]
    pub fn client_auth() -> Self {
        Self("1.3.6.1.5.5.7.3.2".into())
    }

    /// Reads the argument of `remote-cert-eku`: a dotted OID or the long name.
    ///
    /// # Errors
    /// [`PkiError::Option`] for anything else.
    pub fn parse(text: &str) -> Result<Self, PkiError> {
        if let Some((_, oid)) = EKU_NAMES.iter().find(|known| known.0 == text) {
            Ok(Self((*oid).to_owned()))
        } else if is_dotted_oid(text) {
            Ok(Self(text.to_owned()))
        } else {
            let reason = format!("no extended key usage is called {text:?}; give its OID");
            Err(PkiError::Option { directive: "remote-cert-eku", reason })
        }
    }
}

/// What `remote-cert-ku` demands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeyUsageRule {
    /// Nothing.
    #[default]
    Any,
    /// The extension must be there (`remote-cert-tls`, or `remote-cert-ku` without values).
    Present,
    /// All bits of at least one value must be set (the first byte of the extension; `0x80` is digitalSignature).
    OneOf(Vec<u16>),
}

/// `verify-x509-name NAME type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// The whole subject line is equal.
    Subject(String),
    /// The user's name (see `x509-username-field`) is equal.
    Name(String),
    /// The user's name begins so.
    NamePrefix(String),
}

impl NameRule {
    fn fits(&self, subject: &str, name: &str) -> bool {
        match self {
            Self::Subject(wanted) => subject == wanted,
            Self::Name(wanted) => name == wanted,
            Self::NamePrefix(prefix) => name.starts_with(prefix),
        }
    }
}

/// Demands on the client's own certificate. The default demands nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeafRules {
    /// `remote-cert-ku`.
    pub key_usage: KeyUsageRule,
    /// `remote-cert-eku`.
    pub eku: Option<Eku>,
    /// `verify-x509-name`.
    pub name: Option<NameRule>,
}

impl LeafRules {
    /// Adds what `remote-cert-tls client` stands for: a key usage extension, and clientAuth as extended key usage.
    #[must_use]
    pub fn remote_cert_tls_client(mut self) -> Self {
        if self.key_usage == KeyUsageRule::Any {
            self.key_usage = KeyUsageRule::Present;
        }
        self.eku = Some(Eku::client_auth());
        self
    }

    /// Checks a leaf whose chain is already good.
    pub(super) fn check(
        &self,
        leaf: &X509Certificate<'_>,
        subject: &str,
        name: &str,
    ) -> Result<(), CertRefusal> {
        let usage = leaf.key_usage().map_err(|_| CertRefusal::Parse)?.map(|extension| extension.value);
        match (&self.key_usage, usage) {
            (KeyUsageRule::Any, _) | (KeyUsageRule::Present, Some(_)) => {}
            (KeyUsageRule::Present | KeyUsageRule::OneOf(_), None) => return Err(CertRefusal::NoKeyUsage),
            (KeyUsageRule::OneOf(accepted), Some(usage)) => {
                let bits = usage_byte(usage);
                if !accepted.iter().any(|&value| value != 0 && bits & value == value) {
                    return Err(CertRefusal::KeyUsageValue(bits));
                }
            }
        }
        if let Some(Eku(wanted)) = &self.eku {
            let present = leaf.extended_key_usage().map_err(|_| CertRefusal::Parse)?;
            if !present.is_some_and(|extension| eku_oids(extension.value).any(|oid| oid == *wanted)) {
                return Err(CertRefusal::Eku(wanted.clone()));
            }
        }
        match &self.name {
            Some(rule) if !rule.fits(subject, name) => Err(CertRefusal::Name),
            _ => Ok(()),
        }
    }
}

/// The first byte of the key usage bit string as it stands in DER: bit 0 of the standard is the top bit.
fn usage_byte(usage: &KeyUsage) -> u16 {
    (0..8).filter(|bit| usage.flags >> bit & 1 == 1).map(|bit| 0x80_u16 >> bit).sum()
}

fn eku_oids(eku: &x509_parser::extensions::ExtendedKeyUsage<'_>) -> impl Iterator<Item = String> {
    let named = [
        (eku.any, "2.5.29.37.0"),
        (eku.server_auth, "1.3.6.1.5.5.7.3.1"),
        (eku.client_auth, "1.3.6.1.5.5.7.3.2"),
        (eku.code_signing, "1.3.6.1.5.5.7.3.3"),
        (eku.email_protection, "1.3.6.1.5.5.7.3.4"),
        (eku.time_stamping, "1.3.6.1.5.5.7.3.8"),
        (eku.ocsp_signing, "1.3.6.1.5.5.7.3.9"),
    ];
    let named = named.into_iter().filter(|known| known.0).map(|known| known.1.to_owned());
    named.chain(eku.other.iter().map(x509_parser::asn1_rs::Oid::to_id_string))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_usage_reads_as_the_first_der_byte() {
        assert_eq!(usage_byte(&KeyUsage { flags: 1 }), 0x80);
        assert_eq!(usage_byte(&KeyUsage { flags: 0b101 }), 0xa0);
        assert_eq!(usage_byte(&KeyUsage { flags: 0b1_0001_0001 }), 0x88);
    }

    #[test]
    fn extended_key_usages_go_by_name_or_number() {
        assert_eq!(Eku::parse("TLS Web Client Authentication"), Ok(Eku::client_auth()));
        assert_eq!(Eku::parse("1.3.6.1.5.5.7.3.2"), Ok(Eku::client_auth()));
        assert!(Eku::parse("clientauth").is_err());
    }

    #[test]
    fn names_are_compared_whole_or_by_their_beginning() {
        assert!(NameRule::Name("alice".into()).fits("CN=alice", "alice"));
        assert!(!NameRule::Name("alic".into()).fits("CN=alice", "alice"));
        assert!(NameRule::NamePrefix("ali".into()).fits("CN=alice", "alice"));
        assert!(NameRule::Subject("CN=alice".into()).fits("CN=alice", "alice"));
        assert!(!NameRule::Subject("alice".into()).fits("CN=alice", "alice"));
    }
}
