//! Accounts and hooks.

use super::{LATER, Spec, no, off, on};
use crate::config::build::access as run;

const DEVICE_HOOK: &str = "programs for the device are not run in this release";
const DEVICE_HINT: &str = "use the service manager (ExecStartPost, ExecStopPost of systemd)";
const MANAGEMENT: &str = "the management interface is not in this release";
const MANAGEMENT_HINT: &str = "leave it out; the log tells what clients do";

pub(super) const TABLE: &[Spec] = &[
    on("verify-client-cert", 0, 1, run::verify_client_cert),
    on("client-cert-not-required", 0, 0, run::client_cert_not_required),
    on("username-as-common-name", 0, 0, run::username_as_common_name),
    on("auth-user-pass-optional", 0, 0, run::auth_user_pass_optional),
    on("client-config-dir", 1, 1, run::client_config_dir),
    on("ccd-exclusive", 0, 0, run::ccd_exclusive),
    on("script-security", 1, 2, run::script_security),
    on("auth-user-pass-verify", 2, 2, run::auth_user_pass_verify),
    on("client-connect", 1, 1, run::client_connect),
    on("client-disconnect", 1, 1, run::client_disconnect),
    on("learn-address", 1, 1, run::learn_address),
    on("tls-verify", 1, 1, run::tls_verify),
    on("tls-crypt-v2-verify", 1, 1, run::tls_crypt_v2_verify),
    on("client-crresponse", 1, 1, run::client_crresponse),
    on("setenv", 1, 2, run::setenv).list(),
    on("setenv-safe", 1, 2, run::setenv_safe).list(),
    on("tmp-dir", 1, 1, run::tmp_dir),
    on("plugin", 1, 64, run::plugin).list(),
    on("auth-file", 1, 1, run::auth_file),
    on("auth-pam", 1, 1, run::auth_pam),
    on("otp-issuer", 1, 1, run::otp_issuer),
    no("up", DEVICE_HOOK, DEVICE_HINT),
    no("down", DEVICE_HOOK, DEVICE_HINT),
    no("route-up", DEVICE_HOOK, DEVICE_HINT),
    no("route-pre-down", DEVICE_HOOK, DEVICE_HINT),
    no("ipchange", DEVICE_HOOK, DEVICE_HINT),
    off("down-pre", "it only orders 'down', which is refused by itself"),
    off("up-restart", "it only concerns 'up', which is refused by itself"),
    off("up-delay", "it only concerns 'up', which is refused by itself"),
    no("management", MANAGEMENT, MANAGEMENT_HINT),
    no("management-client-auth", MANAGEMENT, "use auth-user-pass-verify"),
    no("management-client-user", MANAGEMENT, MANAGEMENT_HINT),
    no("management-client-group", MANAGEMENT, MANAGEMENT_HINT),
    no("management-client", MANAGEMENT, MANAGEMENT_HINT),
    no("management-client-pf", MANAGEMENT, MANAGEMENT_HINT),
    no("management-hold", MANAGEMENT, MANAGEMENT_HINT),
    no("management-signal", MANAGEMENT, MANAGEMENT_HINT),
    no("management-up-down", MANAGEMENT, MANAGEMENT_HINT),
    no("management-query-passwords", MANAGEMENT, MANAGEMENT_HINT),
    no("management-query-proxy", MANAGEMENT, MANAGEMENT_HINT),
    no("management-query-remote", MANAGEMENT, MANAGEMENT_HINT),
    no("management-external-key", MANAGEMENT, "use 'key FILE'"),
    no("management-external-cert", MANAGEMENT, "use 'cert FILE'"),
    no("management-forget-disconnect", MANAGEMENT, MANAGEMENT_HINT),
    off("management-log-cache", "it only concerns 'management', which is refused by itself"),
    no("pf", "packet filter files were removed from OpenVPN", "use the host's packet filter"),
    no("bypass-auth", LATER, "every client logs in"),
];
