//! Whole handshakes against the verifier: every mode, every refusal.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};
use rustls::{Error, HandshakeKind};
use rustls_pki_types::CertificateDer;

use super::fixtures::{At, CA, LEAF, Pki, SERVER, client, handshake};
use super::*;

const BOTH: &[&rustls::SupportedProtocolVersion] = &[&TLS13, &TLS12];

fn try_client(pki: &Pki, options: PkiOptions, name: &str) -> Result<PeerIdentity, String> {
    try_chain(pki, options, &[&format!("{name}.crt")], name)
}

fn try_chain(pki: &Pki, options: PkiOptions, files: &[&str], key: &str) -> Result<PeerIdentity, String> {
    let tls = ServerTls::new(options).unwrap();
    let client = client(Some((pki.chain(files), &pki.text(&format!("{key}.key")))), BOTH);
    let done = handshake(&tls, &client).map_err(|e| explain(&e))?;
    Ok(tls.peer_identity(done.server.peer_certificates().unwrap()).unwrap())
}

fn refused(result: Result<PeerIdentity, String>, words: &str) {
    match result {
        Ok(identity) => panic!("accepted {}, expected {words:?}", identity.common_name()),
        Err(text) => {
            assert!(text.contains(words), "{text:?} lacks {words:?}");
            assert!(!text.contains('\n'));
        }
    }
}

#[test]
fn a_good_client_is_known_by_both_tls_versions() {
    let pki = Pki::new();
    pki.issue("alice", "ca", "/CN=alice", LEAF);
    for version in [&TLS12, &TLS13] {
        let tls = ServerTls::new(pki.options()).unwrap();
        let client = client(Some((pki.chain(&["alice.crt"]), &pki.text("alice.key"))), &[version]);
        let done = handshake(&tls, &client).unwrap();
        let identity = tls.peer_identity(done.server.peer_certificates().unwrap()).unwrap();
        assert_eq!(identity.common_name(), "alice");
        assert_eq!(identity.chain().len(), 2);
        assert_eq!(identity.chain()[1].subject, "CN=Test CA");
    }
}

#[test]
fn modes_decide_about_clients_without_certificate() {
    let pki = Pki::new();
    let anonymous = client(None, BOTH);
    let with = |mode| ServerTls::new(PkiOptions { client_cert: mode, ..pki.options() }).unwrap();
    let error = handshake(&with(ClientCert::Require), &anonymous).err().unwrap();
    assert!(explain(&error).contains("sent no certificate"), "{error}");
    assert!(handshake(&with(ClientCert::Optional), &anonymous).is_ok());
    assert!(handshake(&with(ClientCert::None), &anonymous).is_ok());
    // A bad certificate stays bad where none would do.
    pki.root("other", "/CN=Other");
    pki.issue("mallory", "other", "/CN=mallory", LEAF);
    let options = PkiOptions { client_cert: ClientCert::Optional, ..pki.options() };
    refused(try_client(&pki, options, "mallory"), "CA that is not in");
    let nothing = PkiOptions { ca: None, ..pki.options() };
    assert_eq!(ServerTls::new(nothing).unwrap_err(), PkiError::NoTrust);
}

#[test]
fn every_session_is_a_full_handshake() {
    let pki = Pki::new();
    pki.issue("alice", "ca", "/CN=alice", LEAF);
    for version in [&TLS12, &TLS13] {
        let tls = ServerTls::new(pki.options()).unwrap();
        // One client configuration with its default session cache, twice.
        let client = client(Some((pki.chain(&["alice.crt"]), &pki.text("alice.key"))), &[version]);
        for _ in 0..2 {
            let done = handshake(&tls, &client).unwrap();
            assert_eq!(done.server.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(done.client.tls13_tickets_received(), 0);
            assert!(done.client.peer_certificates().is_some());
        }
    }
}

#[test]
fn purposes_are_told_apart() {
    let pki = Pki::new();
    pki.issue("srv", "ca", "/CN=srv", SERVER);
    pki.issue("noeku", "ca", "/CN=noeku", "basicConstraints=CA:FALSE\n");
    pki.issue("alice", "ca", "/CN=alice", LEAF);
    pki.issue("encipher", "ca", "/CN=encipher", "keyUsage=keyEncipherment\nextendedKeyUsage=clientAuth\n");
    let strict = || PkiOptions { rules: LeafRules::default().remote_cert_tls_client(), ..pki.options() };
    refused(try_client(&pki, pki.options(), "srv"), "clientAuth");
    assert!(try_client(&pki, pki.options(), "noeku").is_ok());
    refused(try_client(&pki, strict(), "noeku"), "key usage");
    assert!(try_client(&pki, strict(), "alice").is_ok());
    refused(try_client(&pki, pki.options(), "encipher"), "digitalSignature");
    let rules = |rules| PkiOptions { rules, ..pki.options() };
    let usage = |values: &[u16]| LeafRules {
        key_usage: KeyUsageRule::OneOf(values.to_vec()),
        ..LeafRules::default()
    };
    assert!(try_client(&pki, rules(usage(&[0xa0, 0x80])), "alice").is_ok());
    refused(try_client(&pki, rules(usage(&[0xa0])), "alice"), "remote-cert-ku");
    let name = |rule| LeafRules { name: Some(rule), ..LeafRules::default() };
    assert!(try_client(&pki, rules(name(NameRule::Subject("CN=alice".into()))), "alice").is_ok());
    refused(try_client(&pki, rules(name(NameRule::NamePrefix("bob".into()))), "alice"), "verify-x509-name");
    let eku = LeafRules { eku: Some(Eku::parse("Code Signing").unwrap()), ..LeafRules::default() };
    refused(try_client(&pki, rules(eku), "alice"), "1.3.6.1.5.5.7.3.3");
}

#[test]
fn what_cannot_be_verified_is_named() {
    let pki = Pki::new();
    pki.issue_with("v1", "ca", "/CN=v1", "", &[]);
    refused(try_client(&pki, pki.options(), "v1"), "version 1");
    pki.issue_with("sha1", "ca", "/CN=sha1", LEAF, &["-sha1"]);
    refused(try_client(&pki, pki.options(), "sha1"), "SHA-1");
    pki.issue_with("old", "ca", "/CN=old", LEAF, &["-days", "1"]);
    let (day, now) = (86_400, crate::clock::unix_seconds());
    let later = |days: u64| ServerTls::with_time(pki.options(), Arc::new(At(now + days * day))).unwrap();
    let old = client(Some((pki.chain(&["old.crt"]), &pki.text("old.key"))), BOTH);
    assert!(handshake(&later(0), &old).is_ok());
    let expired = explain(&handshake(&later(2), &old).err().unwrap());
    assert!(expired.contains("expired"), "{expired}");
    // The CA has 3650 days; the client's certificate would be good for longer.
    pki.issue_with("long", "ca", "/CN=long", LEAF, &["-days", "9000"]);
    let chain = pki.chain(&["long.crt"]);
    assert!(later(3600).recheck(&chain).is_ok());
    let error = later(3700).recheck(&chain).unwrap_err();
    assert_eq!(error, Error::InvalidCertificate(rustls::CertificateError::Expired));
    let early = ServerTls::with_time(pki.options(), Arc::new(At(now - 2 * day))).unwrap();
    assert!(early.recheck(&chain).is_err());
    pki.issue("subca", "ca", "/CN=subca", CA);
    refused(try_client(&pki, pki.options(), "subca"), "CA:TRUE");
    pki.issue("crit", "ca", "/CN=crit", &format!("{LEAF}1.2.3.4=critical,DER:0500\n"));
    refused(try_client(&pki, pki.options(), "crit"), "1.2.3.4");
    // Clients with keys that the test client cannot use sign with another key: the certificate comes first.
    pki.key("p521", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"]);
    pki.issue("p521", "ca", "/CN=p521", LEAF);
    refused(try_chain(&pki, pki.options(), &["p521.crt"], "v1"), "P-521");
    pki.key("rsa1024", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]);
    pki.issue("rsa1024", "ca", "/CN=rsa1024", LEAF);
    refused(try_chain(&pki, pki.options(), &["rsa1024.crt"], "v1"), "1024 bits");
    let many: Vec<&str> = vec!["v1.crt"; 11];
    refused(try_chain(&pki, pki.options(), &many, "v1"), "11 certificates");
}

#[test]
fn pins_stand_in_for_a_ca() {
    let pki = Pki::new();
    for (name, extensions) in [("self", LEAF), ("selfca", CA), ("stranger", LEAF)] {
        pki.self_signed(name, &format!("/CN={name}"), extensions, &["-sha256"]);
    }
    let pin = |name: &str| {
        let file = format!("{name}.crt");
        let text = pki.openssl(&["x509", "-in", &file, "-noout", "-fingerprint", "-sha256"]);
        parse_fingerprint(text.split('=').nth(1).unwrap()).unwrap()
    };
    let options = || PkiOptions { ca: None, fingerprints: vec![pin("self"), pin("selfca")], ..pki.options() };
    assert_eq!(try_client(&pki, options(), "self").unwrap().chain().len(), 1);
    assert_eq!(try_client(&pki, options(), "selfca").unwrap().fingerprint(), &pin("selfca"));
    refused(try_client(&pki, options(), "stranger"), "peer-fingerprint");
    // The certificate without its key is worth nothing.
    refused(try_chain(&pki, options(), &["self.crt"], "stranger"), "may not match");
    // With a CA, both must fit.
    let both = PkiOptions { ca: Some(pki.pem("ca.crt")), ..options() };
    refused(try_client(&pki, both, "self"), "CA that is not in");
    let chain = pki.chain(&["self.crt"]);
    let late = ServerTls::with_time(options(), Arc::new(At(4_000_000_000))).unwrap();
    assert!(explain(&late.recheck(&chain).unwrap_err()).contains("expired"));
}

#[test]
fn crls_refuse_and_missing_crls_warn() {
    let pki = Pki::new();
    pki.issue_with("alice", "ca", "/CN=alice", LEAF, &["-set_serial", "11"]);
    pki.issue_with("bob", "ca", "/CN=bob", LEAF, &["-set_serial", "12"]);
    pki.root("second", "/CN=Second CA");
    pki.issue("carol", "second", "/CN=carol", LEAF);
    let crl = pki.crl("ca", &["bob"], &[]);
    let bundle = pki.text("ca.crt") + &pki.text("second.crt");
    let options = || PkiOptions {
        ca: Some(Pem::inline("ca", bundle.clone())),
        crl: CrlSource::Inline(Pem::inline("crl-verify", crl.clone())),
        ..pki.options()
    };
    assert!(try_client(&pki, options(), "alice").is_ok());
    refused(try_client(&pki, options(), "bob"), "revoked");
    assert!(try_client(&pki, options(), "carol").is_ok());
    let warnings = ServerTls::new(options()).unwrap().warnings().join("\n");
    assert!(warnings.contains("Second CA") && !warnings.contains("Test CA"), "{warnings}");
    // Out of date: refused, unless told otherwise, and then still revoking.
    let stale = pki.crl(
        "ca",
        &["bob"],
        &["-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", "20200201000000Z"],
    );
    let stale = |expiry| PkiOptions {
        crl: CrlSource::Inline(Pem::inline("crl-verify", stale.clone())),
        crl_expiry: expiry,
        ..pki.options()
    };
    refused(try_client(&pki, stale(CrlExpiry::Refuse), "alice"), "out of date");
    assert!(try_client(&pki, stale(CrlExpiry::Ignore), "alice").is_ok());
    refused(try_client(&pki, stale(CrlExpiry::Ignore), "bob"), "revoked");
    // A directory of serials.
    pki.write("12", "");
    let dir = PkiOptions { crl: CrlSource::Dir(pki.path("")), ..pki.options() };
    assert!(try_client(&pki, dir.clone(), "alice").is_ok());
    refused(try_client(&pki, dir, "bob"), "revoked");
}

#[test]
fn a_revoked_intermediate_in_the_ca_file_is_seen() {
    let pki = Pki::new();
    pki.issue_with("inter", "ca", "/CN=Inter", CA, &["-set_serial", "77"]);
    pki.issue("alice", "inter", "/CN=alice", LEAF);
    let bundle = pki.text("inter.crt") + &pki.text("ca.crt");
    let options = PkiOptions { ca: Some(Pem::inline("ca", bundle)), ..pki.options() };
    assert_eq!(try_client(&pki, options.clone(), "alice").unwrap().chain().len(), 3);
    let crl = CrlSource::Inline(Pem::inline("crl-verify", pki.crl("ca", &["inter"], &[])));
    refused(try_client(&pki, PkiOptions { crl, ..options }, "alice"), "revoked");
    // Shown by the client in any order, with duplicates.
    assert!(
        try_chain(&pki, pki.options(), &["alice.crt", "ca.crt", "inter.crt", "inter.crt"], "alice").is_ok()
    );
    refused(try_client(&pki, pki.options(), "alice"), "intermediate");
}

#[test]
fn a_changed_crl_file_is_taken_and_a_broken_one_is_not() {
    let pki = Pki::new();
    pki.issue("alice", "ca", "/CN=alice", LEAF);
    let path = pki.write("live.crl", &pki.crl("ca", &[], &[]));
    let mut tls = ServerTls::new(PkiOptions { crl: CrlSource::File(path), ..pki.options() }).unwrap();
    let client = client(Some((pki.chain(&["alice.crt"]), &pki.text("alice.key"))), BOTH);
    let start = crate::clock::now();
    let at = |seconds| -> Instant { start + Duration::from_secs(seconds) };
    assert_eq!(tls.reload_crl(at(0)), CrlReload::Unchanged);
    assert!(handshake(&tls, &client).is_ok());
    pki.write("live.crl", "garbage");
    assert_eq!(tls.reload_crl(at(0)), CrlReload::NotDue);
    assert!(matches!(tls.reload_crl(at(1)), CrlReload::KeptOld(PkiError::Missing { .. })));
    assert_eq!(tls.reload_crl(at(2)), CrlReload::Unchanged);
    assert!(handshake(&tls, &client).is_ok());
    std::fs::remove_file(pki.path("live.crl")).unwrap();
    assert!(matches!(tls.reload_crl(at(3)), CrlReload::KeptOld(PkiError::Read { .. })));
    pki.write("live.crl", &pki.crl("ca", &["alice"], &[]));
    assert_eq!(tls.reload_crl(at(4)), CrlReload::Reloaded(vec![]));
    assert_eq!(
        handshake(&tls, &client).err(),
        Some(Error::InvalidCertificate(rustls::CertificateError::Revoked))
    );
    assert!(tls.recheck(&pki.chain(&["alice.crt"])).is_err());
}

#[test]
fn many_cas_do_not_make_the_flight_grow() {
    let pki = Pki::new();
    pki.issue("alice", "ca", "/CN=alice", LEAF);
    let client = client(Some((pki.chain(&["alice.crt"]), &pki.text("alice.key"))), BOTH);
    let one = handshake(&ServerTls::new(pki.options()).unwrap(), &client).unwrap().from_server;
    let mut bundle = String::new();
    for n in 0..50 {
        let name = format!("many{n}");
        pki.root(&name, &format!("/O=A rather long organisation name to send/CN=CA number {n}"));
        bundle += &pki.text(&format!("{name}.crt"));
    }
    bundle += &pki.text("ca.crt");
    let tls = ServerTls::new(PkiOptions { ca: Some(Pem::inline("ca", bundle)), ..pki.options() }).unwrap();
    let many = handshake(&tls, &client).unwrap().from_server;
    // Only the signature's length varies by a few bytes.
    assert!(many <= one + 16, "{many} > {one}");
}

#[test]
fn bad_material_is_named() {
    let pki = Pki::new();
    let fails = |options: PkiOptions, words: &str| {
        let text = ServerTls::new(options).unwrap_err().to_string();
        assert!(text.contains(words), "{text:?} lacks {words:?}");
    };
    let with_server = |name: &str| PkiOptions {
        cert: pki.pem(&format!("{name}.crt")),
        key: KeyPem::from_file(&pki.path(&format!("{name}.key"))).unwrap(),
        ..pki.options()
    };
    pki.issue("two", "ca", "/CN=two", SERVER);
    fails(PkiOptions { cert: pki.pem("two.crt"), ..pki.options() }, "does not belong");
    pki.key("p521", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"]);
    pki.issue("p521", "ca", "/CN=p521", SERVER);
    fails(with_server("p521"), "P-521");
    pki.key("weak", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]);
    pki.issue("weak", "ca", "/CN=weak", SERVER);
    fails(with_server("weak"), "1024");
    pki.issue("v1", "ca", "/CN=v1", "");
    fails(with_server("v1"), "version 1");
    pki.issue_with("sha1", "ca", "/CN=sha1", SERVER, &["-sha1"]);
    fails(with_server("sha1"), "SHA-1");
    pki.openssl(&["pkcs8", "-topk8", "-in", "server.key", "-out", "enc.key", "-passout", "pass:x"]);
    fails(PkiOptions { key: KeyPem::from_file(&pki.path("enc.key")).unwrap(), ..pki.options() }, "encrypted");
    fails(PkiOptions { key: KeyPem::inline("hello"), ..pki.options() }, "no private key");
    fails(PkiOptions { ca: Some(Pem::inline("ca", "")), ..pki.options() }, "inline <ca>: no certificate");
    fails(PkiOptions { ca: Some(pki.pem("two.crt")), ..pki.options() }, "not a CA");
    fails(PkiOptions { crl: CrlSource::Inline(Pem::inline("crl-verify", "x")), ..pki.options() }, "no CRL");
    let missing = CrlSource::File("/nonexistent/crl.pem".into());
    fails(PkiOptions { crl: missing, ..pki.options() }, "/nonexistent/crl.pem");
    let v1 = pki.crl("ca", &[], &[]);
    // Take the extensions away to get a version 1 CRL.
    pki.write(
        "ca.cnf",
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\ndefault_md=sha256\ndefault_crl_days=30\n",
    );
    pki.openssl(&[
        "ca", "-config", "ca.cnf", "-cert", "ca.crt", "-keyfile", "ca.key", "-gencrl", "-out", "v1.crl",
    ]);
    assert_ne!(v1, pki.text("v1.crl"));
    fails(PkiOptions { crl: CrlSource::File(pki.path("v1.crl")), ..pki.options() }, "version 1");
    pki.issue_with("gone", "ca", "/CN=gone", SERVER, &["-days", "1"]);
    let late = Arc::new(At(crate::clock::unix_seconds() + 200_000));
    let expired = ServerTls::with_time(with_server("gone"), late).unwrap();
    assert!(expired.warnings().iter().any(|w| w.contains("has expired")), "{:?}", expired.warnings());
}

#[test]
fn no_common_suite_is_explained() {
    let pki = Pki::new();
    let options = PkiOptions {
        client_cert: ClientCert::None,
        tls_cipher: Some("ECDHE-RSA-AES256-GCM-SHA384".into()),
        tls_max: TlsVersion::Tls12,
        ..pki.options()
    };
    let tls = ServerTls::new(options).unwrap();
    let error = handshake(&tls, &client(None, &[&TLS12])).err().unwrap();
    assert!(explain(&error).contains("cipher suite"), "{error}");
    let error = handshake(&tls, &client(None, &[&TLS13])).err().unwrap();
    assert!(explain(&error).contains("TLS version"), "{error}");
}

#[test]
fn broken_der_never_panics() {
    use proptest::prelude::*;
    let pki = Pki::new();
    pki.issue("alice", "ca", "/C=DE/O=Ex/CN=alice", &format!("{LEAF}subjectAltName=email:a@b\n"));
    let good = pki.chain(&["alice.crt"])[0].to_vec();
    let tls = ServerTls::new(pki.options()).unwrap();
    let pinless = PkiOptions { ca: None, fingerprints: vec![[0; 32]], ..pki.options() };
    let pinned = ServerTls::new(pinless).unwrap();
    proptest!(ProptestConfig::with_cases(2000), |(
        edits in proptest::collection::vec((0..good.len(), any::<u8>()), 1..4),
        cut in 0..=good.len(),
        whole in any::<bool>(),
    )| {
        let mut der = good.clone();
        for (at, value) in edits {
            der[at] = value;
        }
        if !whole {
            der.truncate(cut);
        }
        let changed = der != good;
        let cert = CertificateDer::from(der);
        let chain = [cert];
        prop_assert!(tls.recheck(&chain).is_err() == changed);
        prop_assert!(pinned.recheck(&chain).is_err());
        let _ = PeerIdentity::from_chain(&chain, &UsernameFields::parse(&["CN", "ext:subjectAltName"]).unwrap());
    });
}
