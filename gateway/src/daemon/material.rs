//! Keys, certificates and rights: what the configuration names, read and turned into what the parts want.

use std::io;
use std::sync::Arc;

use nix::unistd::{Group, User, setgid, setgroups, setuid};
use tessera_proto::Secret;
use tessera_proto::endpoint::{PerClient, Protections};
use tessera_proto::session::Protection;
use tessera_proto::wrap::{self, ServerKey, StaticKey, TlsAuthKey, TlsCryptKey, WrapKey};

use crate::config::{
    CertificatePolicy, Config, CookieMode, KeyDirection, NameField, Process, Source, TlsVersion, Wrap,
    X509Match,
};
use crate::pki::{
    self, ClientCert, CrlSource, Eku, KeyPem, KeyUsageRule, LeafRules, NameRule, Pem, PkiError, PkiOptions,
    ServerTls, UsernameFields,
};

/// Largest key file.
const MAX_KEY_FILE: u64 = 64 * 1024;

/// Control-channel protection.
pub(super) fn protections(config: &Config) -> Result<Protections, String> {
    let shared = |key, source| Protections {
        shared: Some(Protection { key: Arc::new(key), source }),
        per_client: None,
    };
    match &config.wrap {
        Wrap::None => Ok(shared(WrapKey::None, None)),
        Wrap::TlsAuth { key, direction } => {
            let key = static_key("tls-auth", key)?;
            let direction = match direction {
                KeyDirection::Bidirectional => wrap::KeyDirection::Bidirectional,
                KeyDirection::Normal => wrap::KeyDirection::Normal,
                KeyDirection::Inverse => wrap::KeyDirection::Inverse,
            };
            let auth = TlsAuthKey::new(&key, direction, config.crypto.auth);
            Ok(shared(WrapKey::TlsAuth(auth), Some(key)))
        }
        Wrap::TlsCrypt { key } => {
            let key = static_key("tls-crypt", key)?;
            let crypt =
                TlsCryptKey::new(&key, wrap::KeyDirection::Normal).ok_or("tls-crypt: the key is unusable")?;
            Ok(shared(WrapKey::TlsCrypt(crypt), Some(key)))
        }
        Wrap::TlsCryptV2 { key, cookie, max_age } => {
            let text = text("tls-crypt-v2", key)?;
            let server_key =
                ServerKey::parse(text.expose()).map_err(|error| named("tls-crypt-v2", key, &error))?;
            let per_client = PerClient {
                server_key: Arc::new(server_key),
                allow_noncookie: *cookie == CookieMode::AllowNoncookie,
                max_age: *max_age,
            };
            Ok(Protections { shared: None, per_client: Some(per_client) })
        }
    }
}

fn static_key(directive: &str, source: &Source) -> Result<StaticKey, String> {
    let text = text(directive, source)?;
    StaticKey::parse(text.expose()).map_err(|error| named(directive, source, &error))
}

fn text(directive: &str, source: &Source) -> Result<Secret<String>, String> {
    let bytes = source.read(MAX_KEY_FILE).map_err(|error| named(directive, source, &error))?;
    let text = String::from_utf8(bytes.expose().clone())
        .map_err(|_| named(directive, source, &"not a text file"))?;
    Ok(Secret::new(text))
}

fn named(directive: &str, source: &Source, error: &dyn std::fmt::Display) -> String {
    match source.path() {
        Some(path) => format!("{directive} {}: {error}", path.display()),
        None => format!("{directive} (inline): {error}"),
    }
}

/// Certificates and everything about TLS.
pub(super) fn server_tls(config: &Config) -> Result<ServerTls, PkiError> {
    let tls = &config.tls;
    let missing = |directive| PkiError::Option { directive, reason: "is missing".to_owned() };
    let cert = pem("cert", tls.cert.as_ref().ok_or_else(|| missing("cert"))?)?;
    let key = match tls.key.as_ref().ok_or_else(|| missing("key"))? {
        Source::Inline(text) => KeyPem::inline(text.expose().clone()),
        Source::File(path) => KeyPem::from_file(path)?,
    };
    let mut options = PkiOptions::new(cert, key);
    options.ca = tls.ca.as_ref().map(|source| pem("ca", source)).transpose()?;
    options.extra_certs = tls.extra_certs.as_ref().map(|source| pem("extra-certs", source)).transpose()?;
    options.crl = match &tls.crl {
        None => CrlSource::None,
        Some(Source::Inline(text)) => CrlSource::Inline(Pem::inline("crl-verify", text.expose().clone())),
        Some(Source::File(path)) => CrlSource::File(path.clone()),
    };
    options.client_cert = match config.auth.certificates {
        CertificatePolicy::Require => ClientCert::Require,
        CertificatePolicy::Optional => ClientCert::Optional,
        CertificatePolicy::None => ClientCert::None,
    };
    options.fingerprints = tls.peer_fingerprints.iter().map(|fingerprint| fingerprint.0).collect();
    options.rules = LeafRules {
        key_usage: match &tls.remote_cert_ku {
            None => KeyUsageRule::Any,
            Some(values) if values.is_empty() => KeyUsageRule::Present,
            Some(values) => KeyUsageRule::OneOf(values.clone()),
        },
        eku: tls.remote_cert_eku.as_deref().map(Eku::parse).transpose()?,
        name: tls.verify_name.as_ref().map(|rule| {
            let name = rule.name.clone();
            match rule.kind {
                X509Match::Subject => NameRule::Subject(name),
                X509Match::Name => NameRule::Name(name),
                X509Match::NamePrefix => NameRule::NamePrefix(name),
            }
        }),
    };
    options.username = match &tls.name_field {
        NameField::Subject(name) => UsernameFields::parse(&[name.as_str()])?,
        NameField::SubjectAltName => UsernameFields::parse(&["ext:subjectAltName"])?,
        NameField::Serial => UsernameFields::parse(&["serialNumber"])?,
    };
    let version = |version| match version {
        TlsVersion::V12 => pki::TlsVersion::Tls12,
        TlsVersion::V13 => pki::TlsVersion::Tls13,
    };
    options.tls_min = version(tls.version_min);
    options.tls_max = version(tls.version_max);
    let list = |names: &[String]| (!names.is_empty()).then(|| names.join(":"));
    options.tls_cipher = list(&tls.ciphers);
    options.tls_ciphersuites = list(&tls.ciphersuites);
    options.tls_groups = list(&tls.groups);
    ServerTls::new(options)
}

fn pem(directive: &str, source: &Source) -> Result<Pem, PkiError> {
    match source {
        Source::Inline(text) => Ok(Pem::inline(directive, text.expose().clone())),
        Source::File(path) => Pem::from_file(path),
    }
}

/// Becomes the configured user and group, once everything that needs more is open.
pub(super) fn drop_privileges(process: &Process) -> io::Result<()> {
    let unknown =
        |what: &str, name: &str| io::Error::new(io::ErrorKind::NotFound, format!("{what} {name}: unknown"));
    let group = match &process.group {
        Some(name) => Some(Group::from_name(name)?.ok_or_else(|| unknown("group", name))?.gid),
        None => None,
    };
    let user = match &process.user {
        Some(name) => Some(User::from_name(name)?.ok_or_else(|| unknown("user", name))?.uid),
        None => None,
    };
    if let Some(gid) = group {
        setgroups(&[gid])?;
        setgid(gid)?;
    }
    if let Some(uid) = user {
        setuid(uid)?;
    }
    Ok(())
}
