//! Process, logs, tools, and Tessera's own.

use super::{Class, LATER, Spec, client, no, off, on, windows};
use crate::config::build::process as run;

const TOOL: &str = "this is a tool of the openvpn program";
const STATIC_FORM: &str = "log lines have one form, for people and programs";

/// A directive that is taken while files are read.
const fn reading(name: &'static str, min: usize, max: usize) -> Spec {
    Spec { name, args: (min, max), inline: false, list: true, class: Class::Reading }
}

pub(super) const TABLE: &[Spec] = &[
    reading("config", 1, 1),
    reading("ignore-unknown-option", 1, usize::MAX),
    on("user", 1, 1, run::user),
    on("group", 1, 1, run::group),
    no("chroot", LATER, "let the service manager confine the gateway (RootDirectory= of systemd)"),
    no("setcon", LATER, "let the service manager set the context (SELinuxContext= of systemd)"),
    no("mlock", LATER, "turn swap off, or encrypt it"),
    on("nice", 1, 1, run::nice),
    on("cd", 1, 1, run::cd).list(),
    off("daemon", "the gateway stays in the foreground: the service manager puts it in the background"),
    off("inetd", "it was removed from OpenVPN; the gateway opens its own socket"),
    on("writepid", 1, 1, run::writepid),
    off("syslog", "the log goes to standard error, which systemd hands on to the journal"),
    on("log", 1, 1, run::log),
    on("log-append", 1, 1, run::log_append),
    on("verb", 1, 1, run::verb),
    off("mute", "repeated lines are not left out"),
    on("suppress-timestamps", 0, 0, run::suppress_timestamps),
    off("machine-readable-output", STATIC_FORM),
    off("errors-to-stderr", "the log goes to standard error unless 'log' says otherwise"),
    off("echo", "it only writes to OpenVPN's own log"),
    off("parameter", "it means something only to plugins"),
    on("status", 1, 2, run::status),
    on("status-version", 0, 1, run::status_version),
    off("remap-usr1", "SIGUSR1 does not restart the gateway"),
    off("show-net-up", "it concerns only Windows"),
    on("workers", 1, 1, run::workers),
    on("session-shards", 1, 1, run::session_shards),
    on("datapath", 1, 1, run::datapath),
    on("io", 1, 1, run::io),
    on("token-verify", 1, 1, run::token_verify),
    on("hook-timeout", 1, 1, run::hook_timeout),
    on("hook-concurrency", 1, 1, run::hook_concurrency),
    on("max-half-open", 1, 1, run::max_half_open),
    no("genkey", "key files are made from the command line only", "tesserad --genkey KIND FILE"),
    no("show-ciphers", TOOL, "data-ciphers takes AES-256-GCM, AES-128-GCM and CHACHA20-POLY1305"),
    no("show-digests", TOOL, "auth takes SHA1, SHA256, SHA384 and SHA512"),
    no("show-tls", TOOL, "tls-cipher with a wrong name lists what is supported"),
    no("show-groups", TOOL, "tls-groups takes X25519, secp256r1 and secp384r1"),
    no("show-curves", TOOL, "tls-groups takes X25519, secp256r1 and secp384r1"),
    no("show-engines", TOOL, "keys in hardware are not supported"),
    no("show-gateway", TOOL, "use 'ip route get'"),
    no("show-pkcs11-ids", TOOL, "keys in hardware are not supported"),
    no("show-adapters", TOOL, "use 'ip link'"),
    no("show-valid-subnets", TOOL, "it concerns only Windows"),
    no("show-net", TOOL, "use 'ip route'"),
    no("test-crypto", TOOL, "leave it out"),
    no("tls-crypt-v2-genkey", TOOL, "tesserad --genkey tls-crypt-v2-server FILE"),
    no("gremlin", "faults are not made on purpose", "leave it out"),
    client("service"),
    client("pause-exit"),
    windows("ip-win32"),
    windows("win-sys"),
    windows("windows-driver"),
    windows("dhcp-renew"),
    windows("dhcp-release"),
    windows("dhcp-pre-release"),
    windows("dhcp-internal"),
    windows("tap-sleep"),
    windows("route-method"),
    windows("allow-nonadmin"),
    windows("msg-channel"),
    windows("rdns-internal"),
];
