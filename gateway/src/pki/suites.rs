//! Cipher suites, groups and TLS versions by the names OpenVPN's directives use.

use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring as provider};
use rustls::{CipherSuite, NamedGroup, SignatureScheme, SupportedCipherSuite, SupportedProtocolVersion};
use webpki::ring as algorithms;

use super::error::PkiError;
use super::options::{CertProfile, PkiOptions, TlsVersion};

/// What can be spoken: IANA name with `-`, OpenSSL name. TLS 1.3 names are the same in both worlds.
const SUITES: &[(CipherSuite, &str, &str)] = &[
    (CipherSuite::TLS13_AES_256_GCM_SHA384, "TLS-AES-256-GCM-SHA384", "TLS_AES_256_GCM_SHA384"),
    (CipherSuite::TLS13_AES_128_GCM_SHA256, "TLS-AES-128-GCM-SHA256", "TLS_AES_128_GCM_SHA256"),
    (
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        "TLS-CHACHA20-POLY1305-SHA256",
        "TLS_CHACHA20_POLY1305_SHA256",
    ),
    (
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        "TLS-ECDHE-ECDSA-WITH-AES-256-GCM-SHA384",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
    ),
    (
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        "TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
    ),
    (
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        "TLS-ECDHE-ECDSA-WITH-CHACHA20-POLY1305-SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    ),
    (
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        "TLS-ECDHE-RSA-WITH-AES-256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
    ),
    (
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        "TLS-ECDHE-RSA-WITH-AES-128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
    ),
    (
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        "TLS-ECDHE-RSA-WITH-CHACHA20-POLY1305-SHA256",
        "ECDHE-RSA-CHACHA20-POLY1305",
    ),
];

/// OpenSSL's words for groups of suites; each of them contains everything that can be spoken here.
const ALL_WORDS: &[&str] =
    &["DEFAULT", "ALL", "HIGH", "ECDHE", "EECDH", "kECDHE", "kEECDH", "ECDHE+AESGCM", "TLSv1.2"];

/// Signature algorithms of `tls-cert-profile suiteb`.
static SUITE_B: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[
        algorithms::ECDSA_P256_SHA256,
        algorithms::ECDSA_P256_SHA384,
        algorithms::ECDSA_P384_SHA256,
        algorithms::ECDSA_P384_SHA384,
    ],
    mapping: &[
        (
            SignatureScheme::ECDSA_NISTP384_SHA384,
            &[algorithms::ECDSA_P384_SHA384, algorithms::ECDSA_P256_SHA384],
        ),
        (
            SignatureScheme::ECDSA_NISTP256_SHA256,
            &[algorithms::ECDSA_P256_SHA256, algorithms::ECDSA_P384_SHA256],
        ),
    ],
};

/// The crypto provider, narrowed by the options.
pub(super) fn crypto_provider(
    options: &PkiOptions,
    warnings: &mut Vec<String>,
) -> Result<CryptoProvider, PkiError> {
    let mut narrowed = provider::default_provider();
    let (tls13, tls12): (Vec<_>, Vec<_>) = narrowed.cipher_suites.iter().partition(|s| s.tls13().is_some());
    let mut suites = choose_suites("tls-ciphersuites", options.tls_ciphersuites.as_deref(), tls13, warnings)?;
    suites.extend(choose_suites("tls-cipher", options.tls_cipher.as_deref(), tls12, warnings)?);
    narrowed.cipher_suites = suites;
    if let Some(list) = &options.tls_groups {
        let mut chosen = Vec::new();
        for name in list.split(':').filter(|n| !n.is_empty()) {
            let group = group(name).and_then(|wanted| narrowed.kx_groups.iter().find(|g| g.name() == wanted));
            match group {
                Some(group)
                    if !chosen
                        .iter()
                        .any(|g: &&dyn rustls::crypto::SupportedKxGroup| g.name() == group.name()) =>
                {
                    chosen.push(*group);
                }
                Some(_) => {}
                None => warnings.push(format!("tls-groups: {name:?} is not supported and left out")),
            }
        }
        if chosen.is_empty() {
            let reason =
                format!("none of {list:?} is supported; X25519, P-256 (secp256r1) and P-384 (secp384r1) are");
            return Err(PkiError::Option { directive: "tls-groups", reason });
        }
        narrowed.kx_groups = chosen;
    }
    match options.cert_profile {
        CertProfile::Preferred => {}
        CertProfile::Insecure | CertProfile::Legacy => warnings.push(
            "tls-cert-profile: SHA-1, MD5 and RSA under 2048 bits are never accepted; `preferred` is used"
                .into(),
        ),
        CertProfile::SuiteB => narrowed.signature_verification_algorithms = SUITE_B,
    }
    Ok(narrowed)
}

/// The TLS versions between minimum and maximum.
pub(super) fn versions(options: &PkiOptions) -> Result<Vec<&'static SupportedProtocolVersion>, PkiError> {
    let spoken = [(TlsVersion::Tls13, &rustls::version::TLS13), (TlsVersion::Tls12, &rustls::version::TLS12)];
    let chosen: Vec<_> = spoken
        .into_iter()
        .filter(|(version, _)| (options.tls_min..=options.tls_max).contains(version))
        .map(|(_, supported)| supported)
        .collect();
    if chosen.is_empty() {
        let reason = "tls-version-min is above tls-version-max".to_owned();
        return Err(PkiError::Option { directive: "tls-version-max", reason });
    }
    Ok(chosen)
}

/// Walks one colon list in its order: names add, `!NAME` and `-NAME` take away, OpenSSL's group words add everything.
fn choose_suites(
    directive: &'static str,
    list: Option<&str>,
    spoken: Vec<SupportedCipherSuite>,
    warnings: &mut Vec<String>,
) -> Result<Vec<SupportedCipherSuite>, PkiError> {
    let Some(list) = list else { return Ok(spoken) };
    let named = |name: &str| {
        let id = SUITES.iter().find(|s| s.1 == name || s.2 == name || s.1.replace('-', "_") == name)?.0;
        spoken.iter().copied().find(|s| s.suite() == id)
    };
    let mut chosen: Vec<SupportedCipherSuite> = Vec::new();
    let mut banned: Vec<CipherSuite> = Vec::new();
    for name in list.split([':', ',', ' ']).filter(|n| !n.is_empty()) {
        if let Some(unwanted) = name.strip_prefix(['!', '-']) {
            // Taking away what is never spoken (`!aNULL`, `!kRSA`) is already done.
            banned.extend(named(unwanted).map(|s| s.suite()));
        } else if ALL_WORDS.contains(&name) {
            chosen.extend(&spoken);
        } else if let Some(suite) = named(name) {
            chosen.push(suite);
        } else {
            warnings.push(format!("{directive}: {name:?} is not supported and left out"));
        }
    }
    let mut seen: Vec<CipherSuite> = Vec::new();
    chosen.retain(|s| {
        let keep = !banned.contains(&s.suite()) && !seen.contains(&s.suite());
        seen.push(s.suite());
        keep
    });
    if chosen.is_empty() {
        let names: Vec<_> =
            spoken.iter().filter_map(|s| SUITES.iter().find(|k| k.0 == s.suite())).map(|k| k.1).collect();
        let reason = format!("none of {list:?} is supported; these are: {}", names.join(":"));
        return Err(PkiError::Option { directive, reason });
    }
    Ok(chosen)
}

fn group(name: &str) -> Option<NamedGroup> {
    match name.to_ascii_lowercase().as_str() {
        "x25519" => Some(NamedGroup::X25519),
        "p-256" | "secp256r1" | "prime256v1" => Some(NamedGroup::secp256r1),
        "p-384" | "secp384r1" => Some(NamedGroup::secp384r1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{KeyPem, Pem};

    fn options() -> PkiOptions {
        PkiOptions::new(Pem::inline("cert", ""), KeyPem::inline(""))
    }

    #[test]
    fn names_of_both_worlds_choose_in_their_order() {
        let mut warnings = Vec::new();
        let mut options = options();
        options.tls_cipher = Some(
            "ECDHE-RSA-CHACHA20-POLY1305:TLS-ECDHE-RSA-WITH-AES-128-GCM-SHA256:AES256-SHA:!aNULL".into(),
        );
        options.tls_ciphersuites = Some("TLS_AES_128_GCM_SHA256".into());
        options.tls_groups = Some("secp521r1:P-384:X25519:P-384".into());
        let provider = crypto_provider(&options, &mut warnings).unwrap();
        let suites: Vec<_> = provider.cipher_suites.iter().map(SupportedCipherSuite::suite).collect();
        assert_eq!(
            suites,
            [
                CipherSuite::TLS13_AES_128_GCM_SHA256,
                CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
                CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
            ]
        );
        let groups: Vec<_> = provider.kx_groups.iter().map(|g| g.name()).collect();
        assert_eq!(groups, [NamedGroup::secp384r1, NamedGroup::X25519]);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
    }

    #[test]
    fn lists_that_leave_nothing_are_errors() {
        for (set, directive) in [
            (
                (|o| o.tls_cipher = Some("TLS-DHE-RSA-WITH-AES-256-CBC-SHA".into())) as fn(&mut PkiOptions),
                "tls-cipher",
            ),
            (|o| o.tls_ciphersuites = Some("TLS_AES_128_CCM_SHA256".into()), "tls-ciphersuites"),
            (|o| o.tls_groups = Some("secp521r1".into()), "tls-groups"),
        ] {
            let mut options = options();
            set(&mut options);
            let error = crypto_provider(&options, &mut Vec::new()).unwrap_err();
            assert!(matches!(&error, PkiError::Option { directive: d, .. } if *d == directive), "{error}");
        }
        let mut options = options();
        (options.tls_min, options.tls_max) = (TlsVersion::Tls13, TlsVersion::Tls12);
        assert!(versions(&options).is_err());
    }

    #[test]
    fn group_words_and_bans_work_together() {
        let mut options = options();
        options.tls_cipher = Some("DEFAULT:!ECDHE-RSA-AES128-GCM-SHA256".into());
        let provider = crypto_provider(&options, &mut Vec::new()).unwrap();
        assert_eq!(provider.cipher_suites.len(), 8);
    }
}
