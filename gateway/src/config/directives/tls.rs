//! TLS and ciphers.

use super::{LATER, Spec, client, no, off, on};
use crate::config::build::tls as run;

const TOKENS: &str = "tokens of the gateway's own making are not in this release";
const TOKENS_HINT: &str = "push one from client-connect: push \"auth-token …\"";
const HARDWARE: &str = "keys in hardware are not supported";
const HARDWARE_HINT: &str = "use 'key FILE'";
const STATIC: &str = "static-key mode has no forward secrecy and is not served";

pub(super) const TABLE: &[Spec] = &[
    on("ca", 1, 1, run::ca).inline(),
    no("capath", LATER, "put the certificates into one file for 'ca'"),
    on("extra-certs", 1, 1, run::extra_certs).inline(),
    on("cert", 1, 1, run::cert).inline(),
    on("key", 1, 1, run::key).inline(),
    no(
        "pkcs12",
        LATER,
        "openssl pkcs12 splits it into 'ca', 'cert' and 'key'",
    ),
    no(
        "askpass",
        "keys with a passphrase are not in this release",
        "openssl pkey takes the passphrase off",
    ),
    on("dh", 1, 1, run::dh).inline(),
    no("ecdh-curve", "it was replaced in OpenVPN 2.7", "use 'tls-groups'"),
    on("tls-groups", 1, 1, run::tls_groups),
    on("crl-verify", 1, 2, run::crl_verify).inline(),
    on("verify-x509-name", 1, 2, run::verify_x509_name),
    no(
        "tls-remote",
        "it was removed from OpenVPN",
        "use 'verify-x509-name'",
    ),
    on("remote-cert-tls", 1, 1, run::remote_cert_tls),
    on("remote-cert-ku", 0, 14, run::remote_cert_ku),
    on("remote-cert-eku", 1, 1, run::remote_cert_eku),
    no(
        "ns-cert-type",
        "Netscape's certificate types are not checked",
        "use 'remote-cert-tls client'",
    ),
    on("peer-fingerprint", 1, 1, run::peer_fingerprint)
        .inline()
        .list(),
    no(
        "verify-hash",
        LATER,
        "use 'peer-fingerprint', or a 'ca' of its own",
    ),
    no(
        "tls-export-cert",
        LATER,
        "tls-verify gets subject, serial and digests in its environment",
    ),
    on("x509-username-field", 1, 15, run::x509_username_field),
    off(
        "x509-track",
        "all fields of the subject are in the hooks' environment anyway",
    ),
    on("tls-auth", 1, 2, run::tls_auth).inline().list(),
    on("key-direction", 1, 1, run::key_direction),
    on("tls-crypt", 1, 1, run::tls_crypt).inline(),
    on("tls-crypt-v2", 1, 2, run::tls_crypt_v2).inline(),
    on("tls-crypt-v2-max-age", 1, 1, run::tls_crypt_v2_max_age),
    on("tls-version-min", 1, 2, run::tls_version_min),
    on("tls-version-max", 1, 1, run::tls_version_max),
    on("tls-cipher", 1, 1, run::tls_cipher),
    on("tls-ciphersuites", 1, 1, run::tls_ciphersuites),
    on("tls-cert-profile", 1, 1, run::tls_cert_profile),
    on("data-ciphers", 1, 1, run::data_ciphers),
    on("ncp-ciphers", 1, 1, run::data_ciphers),
    on("data-ciphers-fallback", 1, 1, run::data_ciphers_fallback),
    on("cipher", 1, 1, run::cipher),
    no(
        "ncp-disable",
        "it was removed from OpenVPN",
        "leave it out and name the ciphers by 'data-ciphers'",
    ),
    on("auth", 1, 1, run::auth),
    off("keysize", "the cipher's name settles the size of its key"),
    on("compress", 0, 1, run::compress),
    on("comp-lzo", 0, 1, run::comp_lzo),
    off("comp-noadapt", "nothing is ever compressed"),
    on("allow-compression", 1, 1, run::allow_compression),
    on(
        "force-tls-key-material-export",
        0,
        0,
        run::force_tls_key_material_export,
    ),
    no("keying-material-exporter", LATER, "leave it out"),
    on("token-lifetime", 1, 1, run::token_lifetime),
    no("auth-gen-token", TOKENS, TOKENS_HINT),
    no("auth-gen-token-secret", TOKENS, TOKENS_HINT),
    no("secret", STATIC, "use certificates, or 'peer-fingerprint'"),
    no(
        "allow-deprecated-insecure-static-crypto",
        STATIC,
        "use certificates, or 'peer-fingerprint'",
    ),
    client("tls-client"),
    no("engine", HARDWARE, HARDWARE_HINT),
    off("providers", "OpenSSL is not used"),
    no("pkcs11-providers", HARDWARE, HARDWARE_HINT),
    no("pkcs11-id", HARDWARE, HARDWARE_HINT),
    no("pkcs11-id-management", HARDWARE, HARDWARE_HINT),
    no("pkcs11-pin-cache", HARDWARE, HARDWARE_HINT),
    no("pkcs11-protected-authentication", HARDWARE, HARDWARE_HINT),
    no("pkcs11-private-mode", HARDWARE, HARDWARE_HINT),
    no("pkcs11-cert-private", HARDWARE, HARDWARE_HINT),
    no("cryptoapicert", HARDWARE, HARDWARE_HINT),
    off("prng", "random numbers come from the system"),
    off("use-prediction-resistance", "random numbers come from the system"),
    off(
        "single-session",
        "a restarted client takes its place again only after it has proven who it is",
    ),
    off(
        "tls-exit",
        "it ends a client after a TLS fault, and concerns only clients",
    ),
    off(
        "auth-nocache",
        "the gateway keeps no password after it was checked",
    ),
    off(
        "opt-verify",
        "options are never compared that way since OpenVPN 2.5",
    ),
    off("disable-occ", "differing options of clients are only logged"),
    off("occ-disable", "it is the old name of disable-occ"),
    no("no-iv", "it was removed from OpenVPN", "leave it out"),
    no("key-method", "only key method 2 is spoken", "leave it out"),
    no(
        "compat-names",
        "it was removed from OpenVPN",
        "leave it out; names may hold all that can be printed",
    ),
    no("no-name-remapping", "it was removed from OpenVPN", "leave it out"),
    no(
        "compat-mode",
        "looser defaults for old clients are not taken over",
        "name them: data-ciphers, tls-version-min",
    ),
    off("ssl-flags", "OpenSSL is not used"),
    no(
        "verify-tls-name",
        "OpenVPN has no such directive",
        "use 'verify-x509-name'",
    ),
];
