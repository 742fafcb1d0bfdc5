//! Handlers of identity, trust, wrapping and ciphers.

use tessera_proto::{Cipher, Digest};

use super::{Draft, Effect, GenTokenTimes, MAX_SECONDS, Outcome, Placed, bad, seconds_or_never, text, word};
use crate::config::diagnostic::Diagnostic;
use crate::config::lex::Directive;
use crate::config::model::{
    Compression, CookieMode, Fingerprint, KeyDirection, NameField, TlsVersion, X509Match, X509Name,
};

/// Most pinned certificates: they are searched at each handshake.
const MAX_FINGERPRINTS: usize = 65_536;
/// Most secrets of tokens: each is tried on every token.
const MAX_TOKEN_SECRETS: usize = 8;
/// The OID of "TLS web client authentication".
const EKU_CLIENT: &str = "1.3.6.1.5.5.7.3.2";
/// The OID of "TLS web server authentication".
const EKU_SERVER: &str = "1.3.6.1.5.5.7.3.1";

/// TLS 1.2 suites: IANA name, OpenVPN's name is the same with dashes; OpenSSL's name.
const SUITES_12: [(&str, &str); 6] = [
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "ECDHE-RSA-AES256-GCM-SHA384"),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-CHACHA20-POLY1305"),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
];
/// TLS 1.3 suites by their IANA names.
const SUITES_13: [&str; 3] =
    ["TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"];
/// Groups: our name, then what else they are called.
const GROUPS: [(&str, &[&str]); 3] =
    [("X25519", &["x25519"]), ("secp256r1", &["prime256v1", "P-256"]), ("secp384r1", &["P-384"])];

pub(crate) fn ca(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.tls.ca = Some(draft.source(d)?);
    Ok(Effect::Honoured)
}

pub(crate) fn cert(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.tls.cert = Some(draft.source(d)?);
    Ok(Effect::Honoured)
}

pub(crate) fn key(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.tls.key = Some(draft.source(d)?);
    Ok(Effect::Honoured)
}

pub(crate) fn extra_certs(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.tls.extra_certs = Some(draft.source(d)?);
    Ok(Effect::Honoured)
}

pub(crate) fn dh(_: &mut Draft, d: &Directive) -> Outcome {
    if d.arg(0) == Some("none") {
        return Ok(Effect::Honoured);
    }
    Ok(Effect::Ignored("key exchange is by elliptic curves only, as with 'dh none'".to_owned()))
}

pub(crate) fn crl_verify(draft: &mut Draft, d: &Directive) -> Outcome {
    if d.arg(1).is_some() {
        return Err(bad(d, 1, "a directory of revoked serials is not in this release")
            .hint("name one CRL file; it is read again when it changes"));
    }
    draft.config.tls.crl = Some(draft.source(d)?);
    Ok(Effect::Honoured)
}

pub(crate) fn verify_x509_name(draft: &mut Draft, d: &Directive) -> Outcome {
    let kind = if d.args.len() > 1 {
        let kinds = [
            ("subject", X509Match::Subject),
            ("name", X509Match::Name),
            ("name-prefix", X509Match::NamePrefix),
        ];
        word(d, 1, &kinds)?
    } else {
        X509Match::Subject
    };
    let name = text(d, 0)?;
    if name.is_empty() {
        return Err(bad(d, 0, "the name is empty: everybody would pass"));
    }
    draft.config.tls.verify_name = Some(X509Name { name: name.to_owned(), kind });
    Ok(Effect::Honoured)
}

pub(crate) fn x509_username_field(draft: &mut Draft, d: &Directive) -> Outcome {
    if d.args.len() > 1 {
        return Err(bad(d, 1, "only one field can be the name").hint("keep the field that names one person"));
    }
    let field = text(d, 0)?;
    draft.config.tls.name_field = match field {
        "serialNumber" => NameField::Serial,
        "ext:subjectAltName" => NameField::SubjectAltName,
        _ if field.starts_with("ext:") => {
            return Err(bad(d, 0, format!("the extension of '{field}' is not supported"))
                .hint("ext:subjectAltName is"));
        }
        _ if !field.is_empty() && field.chars().all(|c| c.is_ascii_alphanumeric()) => {
            NameField::Subject(field.to_owned())
        }
        _ => {
            return Err(bad(d, 0, format!("'{field}' is not a field of a certificate's subject")));
        }
    };
    Ok(Effect::Honoured)
}

pub(crate) fn remote_cert_tls(draft: &mut Draft, d: &Directive) -> Outcome {
    match text(d, 0)? {
        "client" => {
            draft.remote_cert_tls = true;
            draft.config.tls.remote_cert_eku = Some(EKU_CLIENT.to_owned());
            // Some key usage must be there; which one is the TLS library's business.
            draft.config.tls.remote_cert_ku = Some(Vec::new());
            Ok(Effect::Honoured)
        }
        "server" => Err(bad(d, 0, "'server' is what clients ask for: no client would pass")
            .hint("write 'remote-cert-tls client'")),
        other => Err(bad(d, 0, format!("'{other}' is not 'client'"))),
    }
}

pub(crate) fn remote_cert_ku(draft: &mut Draft, d: &Directive) -> Outcome {
    let mut usages = Vec::new();
    for (index, arg) in d.args.iter().enumerate() {
        let digits = arg.as_str().trim_start_matches("0x");
        let usage = u16::from_str_radix(digits, 16)
            .map_err(|_| bad(d, index, format!("'{}' is not a hexadecimal key usage", arg.as_str())))?;
        usages.push(usage);
    }
    draft.config.tls.remote_cert_ku = Some(usages);
    Ok(Effect::Honoured)
}

pub(crate) fn remote_cert_eku(draft: &mut Draft, d: &Directive) -> Outcome {
    let name = text(d, 0)?;
    let oid = match name {
        "TLS Web Client Authentication" | "clientAuth" => EKU_CLIENT,
        "TLS Web Server Authentication" | "serverAuth" => EKU_SERVER,
        _ if name.contains('.') && name.split('.').all(|arc| arc.parse::<u32>().is_ok()) => name,
        _ => {
            return Err(bad(d, 0, format!("'{name}' is not an extended key usage that is known by name"))
                .hint("write its OID in dots, such as 1.3.6.1.5.5.7.3.2"));
        }
    };
    draft.config.tls.remote_cert_eku = Some(oid.to_owned());
    Ok(Effect::Honoured)
}

pub(crate) fn peer_fingerprint(draft: &mut Draft, d: &Directive) -> Outcome {
    let lines: Vec<&str> = match &d.inline {
        Some(body) => body.expose().lines().collect(),
        None => vec![text(d, 0)?],
    };
    for line in lines {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let fingerprint = parse_fingerprint(line).ok_or_else(|| {
            let message = "a fingerprint has 32 bytes in hexadecimal with colons (SHA-256)";
            bad(d, 0, message).hint("openssl x509 -noout -fingerprint -sha256 -in CERT")
        })?;
        if draft.config.tls.peer_fingerprints.len() >= MAX_FINGERPRINTS {
            return Err(bad(d, 0, format!("more than {MAX_FINGERPRINTS} fingerprints")));
        }
        draft.config.tls.peer_fingerprints.push(fingerprint);
    }
    if draft.config.tls.peer_fingerprints.is_empty() {
        return Err(bad(d, 0, "the list is empty: nobody would pass"));
    }
    Ok(Effect::Honoured)
}

fn parse_fingerprint(text: &str) -> Option<Fingerprint> {
    let mut bytes = [0; 32];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(Fingerprint(bytes))
}

pub(crate) fn tls_auth(draft: &mut Draft, d: &Directive) -> Outcome {
    if d.args.len() > 1 {
        draft.tls_auth_direction = Some(direction(d, 1)?);
    }
    if d.arg(0) != Some("[inline]") {
        draft.tls_auth = Some(draft.source(d)?);
    }
    Ok(Effect::Honoured)
}

pub(crate) fn key_direction(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.key_direction = Some(direction(d, 0)?);
    Ok(Effect::Honoured)
}

fn direction(d: &Directive, index: usize) -> Result<KeyDirection, Diagnostic> {
    word(
        d,
        index,
        &[
            ("0", KeyDirection::Normal),
            ("1", KeyDirection::Inverse),
            ("bidirectional", KeyDirection::Bidirectional),
        ],
    )
}

pub(crate) fn tls_crypt(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.tls_crypt = Some(draft.source(d)?);
    Ok(Effect::Honoured)
}

pub(crate) fn tls_crypt_v2(draft: &mut Draft, d: &Directive) -> Outcome {
    let modes = [("force-cookie", CookieMode::ForceCookie), ("allow-noncookie", CookieMode::AllowNoncookie)];
    let cookie = if d.args.len() > 1 { word(d, 1, &modes)? } else { CookieMode::default() };
    draft.tls_crypt_v2 = Some((draft.source(d)?, cookie));
    if d.args.len() > 1 {
        return Ok(Effect::Honoured);
    }
    Ok(Effect::Noted(
        "as with force-cookie: clients before 2.6 need 'allow-noncookie' after the file".to_owned(),
    ))
}

pub(crate) fn tls_crypt_v2_max_age(draft: &mut Draft, d: &Directive) -> Outcome {
    const DAY: u64 = 86_400;
    let days = super::number(d, 0, 1..=MAX_SECONDS / DAY)?;
    draft.tls_crypt_v2_max_age = Some(std::time::Duration::from_secs(days * DAY));
    Ok(Effect::Honoured)
}

pub(crate) fn tls_version_min(draft: &mut Draft, d: &Directive) -> Outcome {
    if d.args.len() > 1 {
        word(d, 1, &[("or-highest", ())])?;
    }
    match text(d, 0)? {
        "1.0" | "1.1" => {
            draft.config.tls.version_min = TlsVersion::V12;
            Ok(Effect::Noted("versions before 1.2 are never spoken: the minimum is 1.2".to_owned()))
        }
        _ => {
            draft.config.tls.version_min = word(d, 0, &[("1.2", TlsVersion::V12), ("1.3", TlsVersion::V13)])?;
            Ok(Effect::Honoured)
        }
    }
}

pub(crate) fn tls_version_max(draft: &mut Draft, d: &Directive) -> Outcome {
    if let old @ ("1.0" | "1.1") = text(d, 0)? {
        return Err(bad(d, 0, format!("TLS {old} is never spoken")).hint("write 1.2 or 1.3"));
    }
    draft.config.tls.version_max = word(d, 0, &[("1.2", TlsVersion::V12), ("1.3", TlsVersion::V13)])?;
    Ok(Effect::Honoured)
}

pub(crate) fn tls_cipher(draft: &mut Draft, d: &Directive) -> Outcome {
    let known = |name: &str| {
        let iana = name.replace('-', "_");
        SUITES_12.iter().find(|(ours, openssl)| *ours == iana || *openssl == name).map(|(ours, _)| *ours)
    };
    let (found, note) = choose(d, &SUITES_12.map(|(ours, _)| ours), known)?;
    draft.config.tls.ciphers = found;
    Ok(note)
}

pub(crate) fn tls_ciphersuites(draft: &mut Draft, d: &Directive) -> Outcome {
    let known = |name: &str| {
        let iana = name.replace('-', "_");
        SUITES_13.into_iter().find(|ours| *ours == iana)
    };
    let (found, note) = choose(d, &SUITES_13, known)?;
    draft.config.tls.ciphersuites = found;
    Ok(note)
}

pub(crate) fn tls_groups(draft: &mut Draft, d: &Directive) -> Outcome {
    let known = |name: &str| {
        GROUPS
            .iter()
            .find(|(ours, others)| ours.eq_ignore_ascii_case(name) || others.contains(&name))
            .map(|(ours, _)| *ours)
    };
    let (found, note) = choose(d, &GROUPS.map(|(ours, _)| ours), known)?;
    draft.config.tls.groups = found;
    Ok(note)
}

/// Reads a list with colons: what is known stays in order; OpenSSL's `!X`, `-X` and `@X` only take away what is not spoken
/// anyway, unless they name what is. At least one must be left.
fn choose(
    d: &Directive,
    all: &[&'static str],
    known: impl Fn(&str) -> Option<&'static str>,
) -> Result<(Vec<String>, Effect), Diagnostic> {
    let list = text(d, 0)?;
    let mut chosen: Vec<&'static str> = Vec::new();
    let mut unknown = Vec::new();
    let mut removed = Vec::new();
    for name in list.split(':').filter(|name| !name.is_empty()) {
        if matches!(name, "DEFAULT" | "HIGH" | "ALL" | "SECURE") {
            chosen.extend(all);
        } else if let Some(name) = name.strip_prefix(['!', '-']) {
            removed.extend(known(name));
        } else if name.starts_with('@') {
            // @STRENGTH and @SECLEVEL concern what is not spoken.
        } else {
            match known(name) {
                Some(ours) => chosen.push(ours),
                None => unknown.push(name),
            }
        }
    }
    let mut seen = Vec::new();
    for name in chosen {
        if !removed.contains(&name) && !seen.contains(&name) {
            seen.push(name);
        }
    }
    if seen.is_empty() {
        return Err(bad(d, 0, format!("nothing in '{list}' is supported"))
            .hint(format!("supported are {}", all.join(":"))));
    }
    let found = seen.into_iter().map(str::to_owned).collect();
    if unknown.is_empty() {
        return Ok((found, Effect::Honoured));
    }
    Ok((found, Effect::Noted(format!("not supported and left out: {}", unknown.join(":")))))
}

pub(crate) fn tls_cert_profile(_: &mut Draft, d: &Directive) -> Outcome {
    match text(d, 0)? {
        "preferred" => Ok(Effect::Honoured),
        loose @ ("legacy" | "insecure") => Ok(Effect::Ignored(format!(
            "'{loose}' would also take SHA-1 and short RSA keys, which are never taken"
        ))),
        "suiteb" => Err(bad(d, 0, "the profile 'suiteb' is not supported").hint("use 'preferred'")),
        other => Err(bad(d, 0, format!("'{other}' is not one of: legacy, preferred, suiteb, insecure"))),
    }
}

/// Ciphers that OpenVPN knows and Tessera does not speak.
fn is_foreign_cipher(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let families = ["AES-", "BF-", "CAMELLIA-", "ARIA-", "DES-", "CAST5-", "SEED-", "RC2-", "SM4-"];
    let modes = ["-CBC", "-CFB", "-CFB1", "-CFB8", "-OFB", "-GCM", "-CTR"];
    families.iter().any(|family| upper.starts_with(family)) && modes.iter().any(|mode| upper.ends_with(mode))
}

pub(crate) fn data_ciphers(draft: &mut Draft, d: &Directive) -> Outcome {
    let list = text(d, 0)?;
    let mut ciphers = Vec::new();
    let mut dropped = Vec::new();
    for item in list.split(':') {
        let (name, optional) = item.strip_prefix('?').map_or((item, false), |name| (name, true));
        if name == "DEFAULT" {
            for cipher in super::Config::default().crypto.data_ciphers {
                if !ciphers.contains(&cipher) {
                    ciphers.push(cipher);
                }
            }
        } else if name.eq_ignore_ascii_case("none") {
            return Err(bad(d, 0, "'none' would send everything in clear").hint("name AEAD ciphers only"));
        } else if let Some(cipher) = Cipher::from_name(name) {
            if !ciphers.contains(&cipher) {
                ciphers.push(cipher);
            }
        } else if optional || is_foreign_cipher(name) {
            dropped.push(name);
        } else {
            return Err(bad(d, 0, format!("'{name}' is not a cipher"))
                .hint("AES-256-GCM, AES-128-GCM and CHACHA20-POLY1305 are spoken"));
        }
    }
    if ciphers.is_empty() {
        return Err(bad(d, 0, format!("none of '{list}' is spoken"))
            .hint("AES-256-GCM, AES-128-GCM and CHACHA20-POLY1305 are"));
    }
    draft.config.crypto.data_ciphers = ciphers;
    if dropped.is_empty() {
        return Ok(Effect::Honoured);
    }
    Ok(Effect::Noted(format!("not spoken and left out: {}", dropped.join(":"))))
}

pub(crate) fn data_ciphers_fallback(draft: &mut Draft, d: &Directive) -> Outcome {
    let name = text(d, 0)?;
    if let Some(cipher) = Cipher::from_name(name) {
        draft.config.crypto.fallback = Some(cipher);
        return Ok(Effect::Honoured);
    }
    if name.eq_ignore_ascii_case("none") {
        return Err(bad(d, 0, "'none' would send everything in clear").hint("leave the directive out"));
    }
    if is_foreign_cipher(name) {
        return Ok(Effect::Ignored(format!(
            "{name} is not spoken: clients before 2.4, which cannot negotiate, are turned away"
        )));
    }
    Err(bad(d, 0, format!("'{name}' is not a cipher")))
}

pub(crate) fn cipher(draft: &mut Draft, d: &Directive) -> Outcome {
    let name = text(d, 0)?;
    if name.eq_ignore_ascii_case("none") {
        return Err(bad(d, 0, "'none' would send everything in clear").hint("use data-ciphers"));
    }
    if Cipher::from_name(name).is_none() && !is_foreign_cipher(name) {
        return Err(bad(d, 0, format!("'{name}' is not a cipher")));
    }
    draft.config.crypto.cipher = Some(name.to_ascii_uppercase());
    Ok(Effect::Noted("only told to old clients; what is spoken is settled by data-ciphers".to_owned()))
}

pub(crate) fn auth(draft: &mut Draft, d: &Directive) -> Outcome {
    let name = text(d, 0)?;
    let bare = name.get(..4).filter(|head| head.eq_ignore_ascii_case("RSA-")).map_or(name, |_| &name[4..]);
    match Digest::from_name(bare) {
        Some(digest) => {
            draft.config.crypto.auth = digest;
            draft.unusable_auth = None;
            Ok(Effect::Honoured)
        }
        // It concerns only tls-auth (data ciphers carry their own tag): whether that is in use is known at the end.
        None => {
            draft.unusable_auth = Some(Placed { value: name.to_owned(), place: d.arg_place(0).clone() });
            Ok(Effect::Ignored(
                "it concerns only tls-auth, as all data ciphers authenticate by themselves".to_owned(),
            ))
        }
    }
}

pub(crate) fn compress(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.crypto.compression = match d.arg(0) {
        None | Some("stub") => Compression::Stub,
        Some("stub-v2") => Compression::StubV2,
        Some("migrate") => Compression::Migrate,
        Some(real @ ("lzo" | "lz4" | "lz4-v2")) => {
            return Err(bad(d, 0, format!("compression ({real}) leaks what is encrypted and is not spoken"))
                .hint("'compress migrate' moves clients off it"));
        }
        Some(other) => {
            return Err(bad(d, 0, format!("'{other}' is not one of: stub, stub-v2, migrate")));
        }
    };
    Ok(Effect::Noted("framing only: nothing is ever compressed".to_owned()))
}

pub(crate) fn comp_lzo(draft: &mut Draft, d: &Directive) -> Outcome {
    if d.arg(0) == Some("no") {
        draft.config.crypto.compression = Compression::CompLzoNo;
        return Ok(Effect::Noted("framing only: nothing is ever compressed".to_owned()));
    }
    Err(bad(d, 0, "compression (comp-lzo) leaks what is encrypted and is not spoken")
        .hint("'compress migrate' moves clients off it; 'comp-lzo no' keeps the framing"))
}

pub(crate) fn allow_compression(_: &mut Draft, d: &Directive) -> Outcome {
    match text(d, 0)? {
        "no" => Ok(Effect::Honoured),
        more @ ("asym" | "yes") => {
            Ok(Effect::Ignored(format!("'{more}' allows, it does not ask for: nothing is ever compressed")))
        }
        other => Err(bad(d, 0, format!("'{other}' is not one of: no, asym, yes"))),
    }
}

pub(crate) fn force_tls_key_material_export(draft: &mut Draft, _: &Directive) -> Outcome {
    draft.config.crypto.force_key_material_export = true;
    Ok(Effect::Honoured)
}

/// Kept beside the others: the lifetime of pushed tokens belongs to the token cache.
/// `auth-gen-token [lifetime [renewal-time]] [external-auth]`, in OpenVPN's order.
pub(crate) fn auth_gen_token(draft: &mut Draft, d: &Directive) -> Outcome {
    let external_auth = d.args.last().is_some_and(|arg| arg.as_str() == "external-auth");
    let numbers = d.args.len() - usize::from(external_auth);
    if numbers > 2 {
        return Err(bad(d, 2, "'external-auth' is the only word behind the two times"));
    }
    let time = |index| if index < numbers { seconds_or_never(d, index) } else { Ok(None) };
    let times = GenTokenTimes { lifetime: time(0)?, renewal: time(1)?, external_auth };
    draft.gen_token = Some(Placed { value: times, place: d.place.clone() });
    Ok(Effect::Honoured)
}

pub(crate) fn auth_gen_token_secret(draft: &mut Draft, d: &Directive) -> Outcome {
    if draft.gen_token_secrets.len() >= MAX_TOKEN_SECRETS {
        return Err(bad(d, 0, format!("more than {MAX_TOKEN_SECRETS} secrets")));
    }
    let source = draft.source(d)?;
    draft.gen_token_secrets.push(source);
    Ok(Effect::Honoured)
}

pub(crate) fn token_bind(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.bind_certificate = word(d, 0, &[("user", false), ("certificate", true)])?;
    Ok(Effect::Honoured)
}

pub(crate) fn token_lifetime(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.tessera.token_lifetime = seconds_or_never(d, 0)?;
    Ok(Effect::Honoured)
}
