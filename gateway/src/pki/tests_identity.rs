//! Names in certificates against the `openssl` tool's printing, and the corpus of names that must not pass.

use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SerialNumber};
use rustls_pki_types::CertificateDer;

use super::fixtures::{LEAF, Pki};
use super::*;

/// A self-signed certificate with these subject attributes.
fn named(attributes: Vec<(DnType, DnValue)>) -> CertificateDer<'static> {
    let mut name = DistinguishedName::new();
    for (kind, value) in attributes {
        name.push(kind, value);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.serial_number = Some(SerialNumber::from(vec![1]));
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
}

fn cn(value: DnValue) -> Result<PeerIdentity, IdentityError> {
    PeerIdentity::from_chain(&[named(vec![(DnType::CommonName, value)])], &UsernameFields::default())
}

fn utf8(text: &str) -> Result<PeerIdentity, IdentityError> {
    cn(DnValue::Utf8String(text.into()))
}

#[test]
fn rich_subjects_read_as_the_reference_prints_them() {
    let pki = Pki::new();
    let subject = "/DC=org/DC=example/C=DE/ST=Bay\\\\ern/L=Köln/street=S 1/O=Ex;ample <x>, \"y\"/OU=A/OU=B=C/title=Dr/GN=Al/SN=Ice\
                   /initials=AI/serialNumber=42/description=d/businessCategory=b/postalCode=1/postOfficeBox=2/telephoneNumber=3\
                   /generationQualifier=g/x500UniqueIdentifier=x/dnQualifier=q/pseudonym=p/role=r/organizationIdentifier=oi\
                   /mail=m@e/unstructuredName=u/unstructuredAddress=ua/jurisdictionL=l/jurisdictionST=s/jurisdictionC=DE\
                   /CN=first+UID=u1/CN= alice#1 Ω/name=nm/emailAddress=alice@example.org";
    let ext = format!("{LEAF}subjectAltName=email:a@example.org,DNS:x,email:b@example.org\n");
    pki.openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "rich.key"]);
    pki.openssl(&[
        "req",
        "-new",
        "-utf8",
        "-multivalue-rdn",
        "-key",
        "rich.key",
        "-subj",
        subject,
        "-out",
        "rich.csr",
    ]);
    pki.sign("rich", "ca", &ext, &["-set_serial", "0xff0000000000000a"]);
    let chain = pki.chain(&["rich.crt", "ca.crt"]);
    let identity = PeerIdentity::from_chain(&chain, &UsernameFields::default()).unwrap();
    let printed = pki.openssl(&[
        "x509",
        "-in",
        "rich.crt",
        "-noout",
        "-subject",
        "-nameopt",
        "sep_comma_plus_space,sname,utf8,esc_ctrl",
    ]);
    assert_eq!(identity.leaf().subject, printed.trim_end_matches('\n').trim_start_matches("subject="));
    assert_eq!(identity.common_name(), " alice#1 Ω");
    let env = identity.env();
    let value = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    assert_eq!(value("X509_0_CN"), Some("first"));
    assert_eq!(value("X509_0_CN_1"), Some(" alice#1 Ω"));
    assert_eq!(value("X509_0_DC_1"), Some("example"));
    assert_eq!(value("X509_0_OU_1"), Some("B=C"));
    assert_eq!(value("X509_0_ST"), Some("Bay\\ern"));
    assert_eq!(value("X509_0_emailAddress"), Some("alice@example.org"));
    assert_eq!(value("X509_1_CN"), Some("Test CA"));
    assert_eq!(value("tls_id_1"), Some("CN=Test CA"));
    assert_eq!(value("tls_serial_0"), Some("18374686479671623690"));
    assert_eq!(value("tls_serial_hex_0"), Some("ff:00:00:00:00:00:00:0a"));
    for (variable, digest) in [("tls_digest_0", "-sha1"), ("tls_digest_sha256_0", "-sha256")] {
        let printed = pki.openssl(&["x509", "-in", "rich.crt", "-noout", "-fingerprint", digest]);
        assert_eq!(value(variable), printed.trim().split('=').nth(1).map(str::to_ascii_lowercase).as_deref());
    }
    let by = |fields: &[&str]| {
        let fields = UsernameFields::parse(fields).unwrap();
        PeerIdentity::from_chain(&chain, &fields).map(|i| i.common_name().to_owned())
    };
    // As seen from the reference server.
    assert_eq!(by(&["serialNumber"]).unwrap(), "0xFF0000000000000A");
    assert_eq!(by(&["ext:subjectAltName"]).unwrap(), "b@example.org");
    assert_eq!(by(&["UID", "DC"]).unwrap(), "u1_example");
    assert_eq!(by(&["CN", "emailAddress"]).unwrap(), " alice#1 Ω_alice@example.org");
    assert!(matches!(by(&["ext:issuerAltName"]), Err(IdentityError::NoName(_))));
    assert!(matches!(
        by(&["CN", "UID", "DC", "emailAddress", "OU", "O", "title", "L", "street"]),
        Err(IdentityError::TooLong(_))
    ));
}

#[test]
fn hostile_names_are_refused() {
    for bad in ["alice\0.evil", "al\nice", "al\rice", "\u{7f}", "tab\t", "c1\u{85}"] {
        assert!(matches!(utf8(bad), Err(IdentityError::Control(_))), "{bad:?}");
    }
    assert!(matches!(utf8(""), Err(IdentityError::NoName(_))));
    assert!(utf8(&"a".repeat(64)).is_ok());
    assert_eq!(utf8(&"a".repeat(65)), Err(IdentityError::TooLong(65)));
    // 64 bytes, not characters.
    assert!(matches!(utf8(&"Ω".repeat(33)), Err(IdentityError::TooLong(66))));
    let control = named(vec![
        (DnType::OrganizationName, DnValue::Utf8String("x\0y".into())),
        (DnType::CommonName, DnValue::Utf8String("alice".into())),
    ]);
    assert_eq!(
        PeerIdentity::from_chain(&[control], &UsernameFields::default()),
        Err(IdentityError::Control("O".into()))
    );
    assert_eq!(PeerIdentity::from_chain(&[], &UsernameFields::default()), Err(IdentityError::Empty));
}

#[test]
fn odd_names_stay_themselves() {
    for (name, file) in [
        ("..", false),
        (".", false),
        ("a/b", false),
        ("DEFAULT", true),
        ("$(id)", true),
        ("👋", true),
        ("שלום", true),
    ] {
        let identity = utf8(name).unwrap();
        assert_eq!(identity.common_name(), name);
        assert_eq!(identity.names_a_file(), file, "{name}");
    }
}

#[test]
fn every_string_type_becomes_utf8() {
    let name = |value| cn(value).map(|i| i.common_name().to_owned());
    assert_eq!(name(DnValue::BmpString("Köln".try_into().unwrap())).as_deref(), Ok("Köln"));
    assert_eq!(name(DnValue::UniversalString("Köln".try_into().unwrap())).as_deref(), Ok("Köln"));
    assert_eq!(name(DnValue::PrintableString("Koeln".try_into().unwrap())).as_deref(), Ok("Koeln"));
    assert_eq!(name(DnValue::TeletexString("Koeln".try_into().unwrap())).as_deref(), Ok("Koeln"));
    // Bytes over 0x7f in a T61 string are Latin-1; broken UTF-8 is refused.
    let swap = |tag: u8, from: &[u8], to: &[u8]| {
        let mut der = named(vec![(DnType::CommonName, DnValue::Utf8String("K??ln".into()))]).to_vec();
        for at in 0..der.len() - from.len() {
            if der[at..].starts_with(from) {
                der[at - 2] = tag;
                der[at..at + to.len()].copy_from_slice(to);
            }
        }
        PeerIdentity::from_chain(&[CertificateDer::from(der)], &UsernameFields::default())
            .map(|i| i.common_name().to_owned())
    };
    assert_eq!(swap(0x14, b"K??ln", b"K\xf6\xdfln").as_deref(), Ok("Kößln"));
    assert_eq!(swap(0x0c, b"K??ln", b"K\xf6\xdfln"), Err(IdentityError::NotText("CN".into())));
    assert_eq!(swap(0x1e, b"K??ln", b"K??ln"), Err(IdentityError::NotText("CN".into())));
    assert_eq!(swap(0x04, b"K??ln", b"K??ln"), Err(IdentityError::NotText("CN".into())));
}
