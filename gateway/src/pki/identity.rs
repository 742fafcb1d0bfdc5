//! Who a client certificate says it is, and what hooks are told about its chain.

use std::fmt::Write as _;

use ring::digest;
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};

use super::inspect;
use super::names::{self, Attribute, UsernameField, UsernameFields};

/// Longest name of a user, in bytes; OpenVPN's own limit for a common name.
pub(super) const MAX_COMMON_NAME_BYTES: usize = 64;

/// Why a certificate gives no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// There is no certificate.
    #[error("no certificate")]
    Empty,
    /// Not X.509.
    #[error("certificate at depth {0} cannot be parsed")]
    Parse(usize),
    /// The field that names the user is missing or empty.
    #[error("certificate has no {0} to name the user by")]
    NoName(String),
    /// The name is over 64 bytes.
    #[error("the user's name in the certificate has {0} bytes; at most 64 are accepted")]
    TooLong(usize),
    /// The subject holds NUL or a control character, which could forge another name in a log or a hook.
    #[error("certificate's {0} holds a NUL or control character")]
    Control(String),
    /// The subject holds text that is no text.
    #[error("certificate's {0} cannot be converted to UTF-8")]
    NotText(String),
    /// The chain leads to no CA any more.
    #[error("certificate chain does not verify: {0}")]
    Chain(String),
}

/// What is told about one certificate of a chain. Text has control characters replaced by `_`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertInfo {
    /// The subject on one line: `C=DE, O=Example, CN=alice`.
    pub subject: String,
    /// Serial number, decimal.
    pub serial: String,
    /// Serial number, lower-case hexadecimal bytes separated by colons.
    pub serial_hex: String,
    /// SHA-1 of the DER.
    pub sha1: [u8; 20],
    /// SHA-256 of the DER.
    pub sha256: [u8; 32],
    /// Subject attributes that have a name, in order; a repeated one is numbered (`OU`, `OU_1`).
    pub fields: Vec<(String, String)>,
}

/// A verified client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    common_name: String,
    chain: Vec<CertInfo>,
}

impl PeerIdentity {
    /// Reads the identity from a verified path: the client's own certificate first, the trust anchor last.
    ///
    /// # Errors
    /// [`IdentityError`] when the leaf's subject cannot name a user, or a certificate cannot be parsed.
    pub fn from_chain(path: &[CertificateDer<'_>], fields: &UsernameFields) -> Result<Self, IdentityError> {
        let leaf = path.first().ok_or(IdentityError::Empty)?;
        let parsed = inspect::parse(leaf).map_err(|_| IdentityError::Parse(0))?;
        let common_name = user_name(&parsed, fields)?;
        let mut chain = vec![CertInfo::new(&parsed, leaf)];
        for (depth, der) in path.iter().enumerate().skip(1) {
            let parsed = inspect::parse(der).map_err(|_| IdentityError::Parse(depth))?;
            chain.push(CertInfo::new(&parsed, der));
        }
        Ok(Self { common_name, chain })
    }

    /// The user's name by `x509-username-field`: 1 to 64 bytes without control characters.
    #[must_use]
    pub fn common_name(&self) -> &str {
        &self.common_name
    }

    /// The client's own certificate.
    #[must_use]
    pub fn leaf(&self) -> &CertInfo {
        // A value is only built from a chain that has a first certificate.
        #[expect(clippy::indexing_slicing, reason = "never empty by construction")]
        &self.chain[0]
    }

    /// SHA-256 of the client's own certificate, to lock a session to it.
    #[must_use]
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.leaf().sha256
    }

    /// The whole path; the index is the depth.
    #[must_use]
    pub fn chain(&self) -> &[CertInfo] {
        &self.chain
    }

    /// Whether a file named after the user has the very same name: no `/`, not `.` or `..`. Where files decide about
    /// rights (`ccd-exclusive`, token binding), a name that is not so must be refused, or two users share one file.
    #[must_use]
    pub fn names_a_file(&self) -> bool {
        !self.common_name.contains('/') && self.common_name != "." && self.common_name != ".."
    }

    /// The environment of hooks: `tls_id_{n}`, `tls_serial_{n}`, `tls_serial_hex_{n}`, `tls_digest_{n}`,
    /// `tls_digest_sha256_{n}` and `X509_{n}_{field}` for every depth.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        self.chain.iter().enumerate().flat_map(|(depth, info)| info.env(depth)).collect()
    }
}

impl CertInfo {
    fn new(cert: &X509Certificate<'_>, der: &[u8]) -> Self {
        let attributes = names::attributes(cert.subject());
        let (serial, serial_hex) = serial_texts(cert.raw_serial());
        Self {
            subject: subject_line(&attributes),
            serial,
            serial_hex,
            sha1: fixed(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der)),
            sha256: sha256(der),
            fields: env_fields(&attributes),
        }
    }

    /// This certificate's part of the environment of hooks, at `depth`.
    #[must_use]
    pub fn env(&self, depth: usize) -> Vec<(String, String)> {
        let mut env = vec![
            (format!("tls_id_{depth}"), self.subject.clone()),
            (format!("tls_serial_{depth}"), self.serial.clone()),
            (format!("tls_serial_hex_{depth}"), self.serial_hex.clone()),
            (format!("tls_digest_{depth}"), colon_hex(&self.sha1)),
            (format!("tls_digest_sha256_{depth}"), colon_hex(&self.sha256)),
        ];
        env.extend(self.fields.iter().map(|(name, value)| (format!("X509_{depth}_{name}"), value.clone())));
        env
    }
}

/// Lower-case hexadecimal bytes separated by colons.
pub(super) fn colon_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 3);
    for (index, byte) in bytes.iter().enumerate() {
        let colon = if index == 0 { "" } else { ":" };
        // Writing to a String cannot fail.
        let _ = write!(text, "{colon}{byte:02x}");
    }
    text
}

pub(super) fn sha256(der: &[u8]) -> [u8; 32] {
    fixed(digest::digest(&digest::SHA256, der))
}

fn fixed<const N: usize>(digest: digest::Digest) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

/// The subject as hooks and `verify-x509-name subject` see it; a leading `-` could pass for an option and becomes `_`.
pub(super) fn subject_line(attributes: &[Attribute]) -> String {
    let line = names::printable(&names::one_line(attributes));
    match line.strip_prefix('-') {
        Some(rest) => format!("_{rest}"),
        None => line,
    }
}

/// The user's name, once every attribute of the subject has proved harmless.
pub(super) fn user_name(
    leaf: &X509Certificate<'_>,
    fields: &UsernameFields,
) -> Result<String, IdentityError> {
    let attributes = names::attributes(leaf.subject());
    for attribute in &attributes {
        let field = || attribute.short.unwrap_or(&attribute.oid).to_owned();
        match &attribute.value {
            None => return Err(IdentityError::NotText(field())),
            Some(value) if value.chars().any(char::is_control) => {
                return Err(IdentityError::Control(field()));
            }
            Some(_) => {}
        }
    }
    let mut joined = String::new();
    for (index, field) in fields.fields().iter().enumerate() {
        if index > 0 {
            joined.push('_');
        }
        joined.push_str(&one_field(leaf, &attributes, field)?);
    }
    if joined.len() > MAX_COMMON_NAME_BYTES {
        return Err(IdentityError::TooLong(joined.len()));
    }
    Ok(joined)
}

fn one_field(
    leaf: &X509Certificate<'_>,
    attributes: &[Attribute],
    field: &UsernameField,
) -> Result<String, IdentityError> {
    let (value, called) = match field {
        UsernameField::Attribute(oid) => {
            let last = attributes.iter().rfind(|a| a.oid == *oid);
            (last.and_then(|a| a.value.clone()), oid.as_str())
        }
        UsernameField::Serial => {
            let hex = serial_texts(leaf.raw_serial()).1.replace(':', "").to_ascii_uppercase();
            (Some(format!("0x{hex}")), "serialNumber")
        }
        UsernameField::SubjectAltEmail => (alternative_email(leaf, true)?, "e-mail in subjectAltName"),
        UsernameField::IssuerAltEmail => (alternative_email(leaf, false)?, "e-mail in issuerAltName"),
    };
    let called = if called == "2.5.4.3" { "CN" } else { called };
    value.filter(|v| !v.is_empty()).ok_or_else(|| IdentityError::NoName(called.to_owned()))
}

fn alternative_email(leaf: &X509Certificate<'_>, of_subject: bool) -> Result<Option<String>, IdentityError> {
    let names = leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(san) if of_subject => Some(&san.general_names),
        ParsedExtension::IssuerAlternativeName(ian) if !of_subject => Some(&ian.general_names),
        _ => None,
    });
    let mut emails = names.into_iter().flatten().filter_map(|name| match name {
        GeneralName::RFC822Name(email) => Some((*email).to_owned()),
        _ => None,
    });
    let Some(email) = emails.next_back() else {
        return Ok(None);
    };
    if email.chars().any(char::is_control) {
        return Err(IdentityError::Control("alternative name".into()));
    }
    Ok(Some(email))
}

/// `X509_{n}_*` without the prefix. Types without a name are left out, as OpenVPN does.
fn env_fields(attributes: &[Attribute]) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for attribute in attributes {
        let (Some(short), Some(value)) = (attribute.short, &attribute.value) else {
            continue;
        };
        let same = attributes.iter().take_while(|a| !std::ptr::eq(*a, attribute));
        let before = same.filter(|a| a.short == Some(short) && a.value.is_some()).count();
        let name = if before == 0 { short.to_owned() } else { format!("{short}_{before}") };
        fields.push((name, names::printable(value)));
    }
    fields
}

/// Decimal and colon-separated hexadecimal text of a DER integer's content.
pub(super) fn serial_texts(content: &[u8]) -> (String, String) {
    let negative = content.first().is_some_and(|b| b & 0x80 != 0);
    let mut magnitude = content.to_vec();
    if negative {
        let mut carry = true;
        for byte in magnitude.iter_mut().rev() {
            let (sum, over) = (!*byte).overflowing_add(u8::from(carry));
            (*byte, carry) = (sum, over);
        }
    }
    let first = magnitude.iter().position(|&b| b != 0).unwrap_or(magnitude.len().saturating_sub(1));
    magnitude.drain(..first);
    if magnitude.is_empty() {
        magnitude.push(0);
    }
    // Schoolbook division: digits of 10^9, least significant first. Serials have some 20 bytes.
    let mut digits: Vec<u32> = vec![0];
    for &byte in &magnitude {
        let mut carry = u64::from(byte);
        for digit in &mut digits {
            let value = u64::from(*digit) << 8 | carry;
            *digit = (value % 1_000_000_000) as u32;
            carry = value / 1_000_000_000;
        }
        if carry > 0 {
            digits.push(carry as u32);
        }
    }
    let mut decimal = String::from(if negative { "-" } else { "" });
    for (index, digit) in digits.iter().rev().enumerate() {
        // Writing to a String cannot fail.
        let _ = if index == 0 { write!(decimal, "{digit}") } else { write!(decimal, "{digit:09}") };
    }
    (decimal, colon_hex(&magnitude))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_printed_as_openvpn_prints_them() {
        // Values seen from the reference server.
        let mut big = [0; 17];
        big[1] = 0xff;
        big[16] = 0x0a;
        assert_eq!(serial_texts(&big).0, "338953138925153547590470800371487866890");
        assert_eq!(serial_texts(&big).1, "ff:00:00:00:00:00:00:00:00:00:00:00:00:00:00:0a");
        assert_eq!(serial_texts(&[0x03, 0xe8]), ("1000".into(), "03:e8".into()));
        assert_eq!(serial_texts(&[0]), ("0".into(), "00".into()));
        assert_eq!(serial_texts(&[0, 0xa1, 0xb2, 0xc3, 0xd4, 0xe5, 0xf6, 7, 0x18]).0, "11651590505119483672");
        assert_eq!(serial_texts(&[0xff]), ("-1".into(), "01".into()));
        assert_eq!(serial_texts(&[0x80]), ("-128".into(), "80".into()));
        assert_eq!(serial_texts(&[]), ("0".into(), "00".into()));
    }
}
