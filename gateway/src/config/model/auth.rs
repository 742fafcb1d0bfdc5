//! How clients prove who they are, and the programs that are asked.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::{Source, optional_seconds, seconds};
use crate::config::diagnostic::Place;

/// What is asked of clients' certificates (`verify-client-cert`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificatePolicy {
    /// Every client must have one.
    #[default]
    Require,
    /// It is checked if there is one.
    Optional,
    /// It is not asked for.
    None,
}

/// Accounts.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Auth {
    /// Certificates.
    pub certificates: CertificatePolicy,
    /// The user name takes the place of the common name.
    pub username_as_common_name: bool,
    /// Clients may come without user name and password (the hook then sees both empty).
    pub optional_credentials: bool,
    /// Directory of files by common name, with a file `DEFAULT` for the others.
    pub client_config_dir: Option<PathBuf>,
    /// Clients without a file of their own are turned away.
    pub ccd_exclusive: bool,
    /// File of users with password hashes and second factors (`auth-file`).
    pub users: Option<PathBuf>,
    /// PAM service that checks passwords (`auth-pam`).
    pub pam_service: Option<String>,
    /// Who stands as issuer in authenticator apps.
    pub otp_issuer: String,
    /// Tokens of the gateway's own making (`auth-gen-token`).
    pub gen_token: Option<GenToken>,
}

/// `auth-gen-token`.
#[derive(Debug, Clone, Serialize)]
pub struct GenToken {
    /// Since the first real login; `None`: no limit.
    #[serde(serialize_with = "optional_seconds")]
    pub lifetime: Option<Duration>,
    /// A token is renewed this often, and good for twice as long.
    #[serde(serialize_with = "seconds")]
    pub renewal: Duration,
    /// Whatever checks passwords is asked about tokens, too.
    pub external_auth: bool,
    /// Files of keys, in order: the first makes tokens, all check them. Empty: a key of the gateway's own.
    pub secrets: Vec<Source>,
    /// A token is good only with the certificate that it was given to.
    pub bind_certificate: bool,
}

/// `script-security`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScriptSecurity {
    /// 0: nothing is run.
    Nothing,
    /// 1: nothing that users wrote is run.
    #[default]
    System,
    /// 2: hooks are run.
    Hooks,
    /// 3: hooks are run, and may get passwords in their environment.
    Passwords,
}

/// A program with its arguments, split by the quoting rules; `argv[0]` is an absolute path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HookCommand {
    /// Program and arguments; never empty.
    pub argv: Vec<String>,
    /// The directive.
    pub place: Place,
}

/// How a hook gets user name and password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CredentialsVia {
    /// In the environment (`script-security 3`).
    Env,
    /// In a file that only the hook's user can read.
    File,
}

/// `auth-user-pass-verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuthHook {
    /// The program.
    pub command: HookCommand,
    /// How it gets the password.
    pub via: CredentialsVia,
}

/// `plugin FILE [ARGUMENT…]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PluginFile {
    /// The shared object; a bare name has been looked for among the system's plugins.
    pub file: PathBuf,
    /// Its arguments, split into words. They may hold a secret and are not shown.
    #[serde(skip)]
    pub args: Vec<String>,
    /// The directive.
    pub place: Place,
}

/// A variable for the environment of hooks (`setenv`). The value may be a secret of the hook and is not shown.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Variable {
    /// Name.
    pub name: String,
    /// Value.
    #[serde(serialize_with = "redacted")]
    pub value: String,
}

impl std::fmt::Debug for Variable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}=[redacted]", self.name)
    }
}

fn redacted<S: serde::Serializer>(_value: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("[redacted]")
}

/// Programs that are run.
#[derive(Debug, Clone, Serialize)]
pub struct Hooks {
    /// What may be run.
    pub script_security: ScriptSecurity,
    /// Checks user name and password (or the token in its place).
    pub auth_user_pass_verify: Option<AuthHook>,
    /// Configures a client that has logged in.
    pub client_connect: Option<HookCommand>,
    /// Is told that a client has gone.
    pub client_disconnect: Option<HookCommand>,
    /// Is told about every address behind a client.
    pub learn_address: Option<HookCommand>,
    /// Is given a client's answer to a question that was asked during the login.
    pub client_crresponse: Option<HookCommand>,
    /// Plugins, in order.
    pub plugins: Vec<PluginFile>,
    /// Checks each certificate of a client's chain.
    pub tls_verify: Option<HookCommand>,
    /// Checks the metadata of a client's wrapped `tls-crypt-v2` key.
    pub tls_crypt_v2_verify: Option<HookCommand>,
    /// Variables for all of them, in order; a later one of the same name wins.
    pub setenv: Vec<Variable>,
    /// Directory for files that are handed to hooks.
    pub tmp_dir: PathBuf,
}

impl Hooks {
    /// The programs that are configured, each with the name of its directive.
    pub fn commands(&self) -> impl Iterator<Item = (&'static str, &HookCommand)> {
        [
            ("auth-user-pass-verify", self.auth_user_pass_verify.as_ref().map(|hook| &hook.command)),
            ("client-connect", self.client_connect.as_ref()),
            ("client-crresponse", self.client_crresponse.as_ref()),
            ("client-disconnect", self.client_disconnect.as_ref()),
            ("learn-address", self.learn_address.as_ref()),
            ("tls-verify", self.tls_verify.as_ref()),
            ("tls-crypt-v2-verify", self.tls_crypt_v2_verify.as_ref()),
        ]
        .into_iter()
        .filter_map(|(name, command)| Some((name, command?)))
    }

    /// Whether anything of others runs here, a program or a plugin.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.plugins.is_empty() && self.commands().next().is_none()
    }
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            script_security: ScriptSecurity::System,
            auth_user_pass_verify: None,
            client_connect: None,
            client_crresponse: None,
            plugins: Vec::new(),
            client_disconnect: None,
            learn_address: None,
            tls_verify: None,
            tls_crypt_v2_verify: None,
            setenv: Vec::new(),
            tmp_dir: PathBuf::from("/tmp"),
        }
    }
}
