//! Distinguished names: their text as OpenVPN prints it, and the field that names a user.

use x509_parser::asn1_rs::{Any, Oid, Tag};
use x509_parser::x509::X509Name;

use super::error::PkiError;

/// Most fields `x509-username-field` may join; OpenVPN's parser takes no more words on a line.
const MAX_USERNAME_FIELDS: usize = 15;

/// Attribute types: dotted OID, short name, long name, as OpenSSL knows them.
const ATTRIBUTES: &[(&str, &str, &str)] = &[
    ("2.5.4.3", "CN", "commonName"),
    ("2.5.4.4", "SN", "surname"),
    ("2.5.4.5", "serialNumber", "serialNumber"),
    ("2.5.4.6", "C", "countryName"),
    ("2.5.4.7", "L", "localityName"),
    ("2.5.4.8", "ST", "stateOrProvinceName"),
    ("2.5.4.9", "street", "streetAddress"),
    ("2.5.4.10", "O", "organizationName"),
    ("2.5.4.11", "OU", "organizationalUnitName"),
    ("2.5.4.12", "title", "title"),
    ("2.5.4.13", "description", "description"),
    ("2.5.4.15", "businessCategory", "businessCategory"),
    ("2.5.4.17", "postalCode", "postalCode"),
    ("2.5.4.18", "postOfficeBox", "postOfficeBox"),
    ("2.5.4.20", "telephoneNumber", "telephoneNumber"),
    ("2.5.4.41", "name", "name"),
    ("2.5.4.42", "GN", "givenName"),
    ("2.5.4.43", "initials", "initials"),
    ("2.5.4.44", "generationQualifier", "generationQualifier"),
    ("2.5.4.45", "x500UniqueIdentifier", "x500UniqueIdentifier"),
    ("2.5.4.46", "dnQualifier", "dnQualifier"),
    ("2.5.4.65", "pseudonym", "pseudonym"),
    ("2.5.4.72", "role", "role"),
    ("2.5.4.97", "organizationIdentifier", "organizationIdentifier"),
    ("0.9.2342.19200300.100.1.1", "UID", "userId"),
    ("0.9.2342.19200300.100.1.3", "mail", "rfc822Mailbox"),
    ("0.9.2342.19200300.100.1.25", "DC", "domainComponent"),
    ("1.2.840.113549.1.9.1", "emailAddress", "emailAddress"),
    ("1.2.840.113549.1.9.2", "unstructuredName", "unstructuredName"),
    ("1.2.840.113549.1.9.8", "unstructuredAddress", "unstructuredAddress"),
    ("1.3.6.1.4.1.311.60.2.1.1", "jurisdictionL", "jurisdictionLocalityName"),
    ("1.3.6.1.4.1.311.60.2.1.2", "jurisdictionST", "jurisdictionStateOrProvinceName"),
    ("1.3.6.1.4.1.311.60.2.1.3", "jurisdictionC", "jurisdictionCountryName"),
];

/// One attribute of a name, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attribute {
    /// Dotted.
    pub oid: String,
    /// `None` for a type OpenSSL has no name for.
    pub short: Option<&'static str>,
    /// `None` when the value cannot be turned into UTF-8.
    pub value: Option<String>,
    /// Belongs to the same relative name as the attribute before.
    pub joined: bool,
}

/// All attributes of a name, in the order of the certificate.
pub(super) fn attributes(name: &X509Name<'_>) -> Vec<Attribute> {
    let mut all = Vec::new();
    for rdn in name.iter() {
        for (index, attribute) in rdn.iter().enumerate() {
            let oid = attribute.attr_type().to_id_string();
            let short = ATTRIBUTES.iter().find(|known| known.0 == oid).map(|known| known.1);
            all.push(Attribute { oid, short, value: decode(attribute.attr_value()), joined: index > 0 });
        }
    }
    all
}

/// The name on one line: `C=DE, O=Example, CN=first + UID=u1`. Control characters and the backslash come escaped
/// (`\0A`, `\\`), so that the line can be taken apart again; a value that is no text comes as `_`.
pub(super) fn one_line(attributes: &[Attribute]) -> String {
    let mut line = String::new();
    for (index, attribute) in attributes.iter().enumerate() {
        match (index, attribute.joined) {
            (0, _) => {}
            (_, true) => line.push_str(" + "),
            (_, false) => line.push_str(", "),
        }
        line.push_str(attribute.short.unwrap_or(&attribute.oid));
        line.push('=');
        for c in attribute.value.as_deref().unwrap_or("_").chars() {
            match c {
                '\\' => line.push_str("\\\\"),
                '\0'..='\u{1f}' | '\u{7f}' => line.push_str(&format!("\\{:02X}", u32::from(c))),
                _ => line.push(c),
            }
        }
    }
    line
}

/// Text with every control character of ASCII replaced by `_`, as hooks get it.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_control() { '_' } else { c }).collect()
}

/// Turns one of the ASN.1 string types into UTF-8. Types of one byte per character are read as Latin-1, as OpenSSL does.
pub(super) fn decode(value: &Any<'_>) -> Option<String> {
    let bytes = value.as_bytes();
    match value.tag() {
        Tag::Utf8String => String::from_utf8(bytes.to_vec()).ok(),
        Tag::PrintableString
        | Tag::Ia5String
        | Tag::T61String
        | Tag::VisibleString
        | Tag::NumericString
        | Tag::GeneralString => Some(bytes.iter().map(|&b| char::from(b)).collect()),
        Tag::BmpString => {
            let (pairs, rest) = bytes.as_chunks::<2>();
            let text = char::decode_utf16(pairs.iter().map(|&pair| u16::from_be_bytes(pair)));
            rest.is_empty().then(|| text.collect::<Result<String, _>>().ok())?
        }
        Tag::UniversalString => {
            let (quads, rest) = bytes.as_chunks::<4>();
            let text = quads.iter().map(|&quad| char::from_u32(u32::from_be_bytes(quad)));
            rest.is_empty().then(|| text.collect::<Option<String>>())?
        }
        _ => None,
    }
}

/// One place a user's name is taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsernameField {
    /// An attribute of the subject, by its dotted OID; the last one counts if there are several.
    Attribute(String),
    /// The serial number of the certificate, as `0x` and upper-case hexadecimal.
    Serial,
    /// The last e-mail address in the subject alternative name.
    SubjectAltEmail,
    /// The last e-mail address in the issuer alternative name.
    IssuerAltEmail,
}

/// `x509-username-field`: the fields whose values, joined by `_`, name the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsernameFields(Vec<UsernameField>);

impl Default for UsernameFields {
    /// The common name.
    fn default() -> Self {
        Self(vec![UsernameField::Attribute("2.5.4.3".into())])
    }
}

impl UsernameFields {
    /// Reads the arguments of the directive: attribute names (short, long or dotted), `serialNumber`,
    /// `ext:subjectAltName`, `ext:issuerAltName`. A name all in lower case is taken in upper case if it is only known so.
    ///
    /// # Errors
    /// [`PkiError::Option`] for no argument, too many, or a field that does not exist. A comma list is no list in OpenVPN
    /// either: the error says to use spaces.
    pub fn parse<S: AsRef<str>>(arguments: &[S]) -> Result<Self, PkiError> {
        let failed = |reason: String| PkiError::Option { directive: "x509-username-field", reason };
        if arguments.is_empty() || arguments.len() > MAX_USERNAME_FIELDS {
            return Err(failed(format!("1 to {MAX_USERNAME_FIELDS} fields are expected")));
        }
        let field = |argument: &S| {
            let name = argument.as_ref();
            match name {
                "serialNumber" => return Ok(UsernameField::Serial),
                "ext:subjectAltName" => return Ok(UsernameField::SubjectAltEmail),
                "ext:issuerAltName" => return Ok(UsernameField::IssuerAltEmail),
                _ => {}
            }
            let upper = name.to_ascii_uppercase();
            let known =
                |wanted: &str| ATTRIBUTES.iter().find(|a| a.1 == wanted || a.2 == wanted).map(|a| a.0);
            if let Some(oid) = known(name).or_else(|| known(&upper)) {
                Ok(UsernameField::Attribute(oid.to_owned()))
            } else if is_dotted_oid(name) {
                Ok(UsernameField::Attribute(name.to_owned()))
            } else if name.contains(',') {
                Err(failed(format!("fields are separated by spaces, not commas: {name:?}")))
            } else {
                Err(failed(format!("no certificate field is called {name:?}")))
            }
        };
        Ok(Self(arguments.iter().map(field).collect::<Result<_, _>>()?))
    }

    /// The fields, in order, never empty.
    #[must_use]
    pub fn fields(&self) -> &[UsernameField] {
        &self.0
    }
}

/// Whether the text is an object identifier in dotted form.
pub(super) fn is_dotted_oid(text: &str) -> bool {
    let numbers: Option<Vec<u64>> = text.split('.').map(|n| n.parse().ok()).collect();
    numbers.is_some_and(|numbers| numbers.len() >= 2 && Oid::from(&numbers).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn username_fields_are_read_as_openvpn_reads_them() {
        let attribute = |oid: &str| UsernameField::Attribute(oid.into());
        let fields = |args: &[&str]| UsernameFields::parse(args).map(|f| f.fields().to_vec());
        assert_eq!(fields(&["CN"]), Ok(vec![attribute("2.5.4.3")]));
        assert_eq!(fields(&["cn"]), Ok(vec![attribute("2.5.4.3")]));
        assert_eq!(
            fields(&["emailAddress", "serialNumber", "ext:subjectAltName"]),
            Ok(vec![
                attribute("1.2.840.113549.1.9.1"),
                UsernameField::Serial,
                UsernameField::SubjectAltEmail
            ])
        );
        assert_eq!(fields(&["1.2.3.4"]), Ok(vec![attribute("1.2.3.4")]));
        for bad in ["CN,emailAddress", "nosuch", "ext:keyUsage", "9.9.9", ""] {
            assert!(fields(&[bad]).is_err(), "{bad}");
        }
        assert!(fields(&[]).is_err());
        assert!(fields(&["CN"; 16]).is_err());
    }
}
