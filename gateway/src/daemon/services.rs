//! What logins lean on: plugins, accounts, PAM, the vault and the generator of tokens. Some of it must be started while the
//! gateway still has the rights that it was started with.

use std::ffi::OsString;
use std::sync::Arc;

use ring::rand::SystemRandom;
use tessera_proto::Secret;
use tessera_proto::auth_token::TokenKey;
use tracing::{info, warn};

use super::StartError;
use crate::accounts::{Accounts, AccountsOptions, Lockout, OtpLedger, Refresh};
use crate::clock;
use crate::config::{CertificatePolicy, Config};
use crate::hooks::Env;
use crate::pam::{Pam, PamOptions};
use crate::plugins::{ClientKey, PluginKind, PluginOptions, PluginSpec, Plugins, Verdict};
use crate::shard::Backends;
use crate::tokens::{SigningKey, TokenGenerator, TokenLimits, UnixSeconds, Vault, secrets};

/// Calls that wait for one plugin. It takes one at a time, so a longer queue would only be waited for in vain.
const PLUGIN_QUEUE: usize = 1024;

/// What must be started before the gateway drops its rights. Dropping it ends all of it.
pub(super) struct Privileged {
    pub(super) plugins: Plugins,
    pub(super) pam: Option<Arc<Pam>>,
}

impl Privileged {
    pub(super) fn start(config: &Config, env: &Env) -> Result<Self, StartError> {
        let process = &config.process;
        let specs: Vec<PluginSpec> = config
            .hooks
            .plugins
            .iter()
            .map(|plugin| PluginSpec {
                file: plugin.file.clone(),
                args: plugin.args.iter().map(OsString::from).collect(),
                place: plugin.place.to_string(),
            })
            .collect();
        let options = PluginOptions {
            env: env.clone(),
            user: process.user.clone(),
            group: process.group.clone(),
            open_timeout: PluginOptions::OPEN_TIMEOUT,
            call_timeout: config.tessera.hook_timeout,
            queue: PLUGIN_QUEUE,
            host: PluginOptions::SELF.into(),
        };
        let plugins = Plugins::start(&specs, &options).map_err(StartError::config)?;
        for plugin in plugins.handle().stats() {
            info!("plugin {} is open", plugin.name);
        }
        let pam = config.auth.pam_service.as_ref().map(|service| {
            let options = PamOptions { timeout: config.tessera.hook_timeout, ..PamOptions::new(service) };
            Pam::start(options).map(Arc::new).map_err(StartError::config)
        });
        Ok(Self { plugins, pam: pam.transpose()? })
    }

    /// Tells plugins about the device; whether all that want to know have said yes.
    pub(super) async fn device(&self, kind: PluginKind, config: &Config, dev: &str, env: &Env) -> Verdict {
        let own = config.network.ifconfig;
        let argv = [
            dev.to_owned(),
            config.device.mtu.to_string(),
            "0".to_owned(),
            own.map(|own| own.local.to_string()).unwrap_or_default(),
            own.map(|own| own.netmask().to_string()).unwrap_or_default(),
            "init".to_owned(),
        ];
        let argv = argv.into_iter().map(OsString::from).collect();
        Verdict::of(&self.plugins.handle().call(kind, argv, env, ClientKey::SERVER).await)
    }
}

/// Used codes are kept in the vault.
impl OtpLedger for Vault {
    fn last(&self, key: &str) -> Option<u64> {
        self.otp_used(key)
    }

    fn use_counter(&self, key: &str, counter: u64) -> bool {
        self.use_otp(key, counter)
    }
}

/// Opens what is remembered about tokens and logins. Blocks on the disk.
pub(super) fn vault(config: &Config) -> Result<Arc<Vault>, StartError> {
    let (limits, random) = (TokenLimits::default(), SystemRandom::new());
    let Some(directory) = &config.tessera.store else {
        let vault = Vault::in_memory(limits, &random)
            .map_err(|_| StartError::config("the system gives no randomness"))?;
        return Ok(Arc::new(vault));
    };
    let now = UnixSeconds(clock::unix_seconds());
    let (vault, report) = Vault::open(directory, limits, &random, now)
        .map_err(|error| StartError::config(format!("store: {error}")))?;
    match &report.trouble {
        Some(trouble) => warn!("store: {report}; it cannot be written now: {trouble}"),
        None => info!("store: {report}"),
    }
    Ok(Arc::new(vault))
}

/// What makes tokens, if they are made here.
pub(super) fn generator(config: &Config, vault: &Vault) -> Result<Option<Arc<TokenGenerator>>, StartError> {
    let Some(token) = &config.auth.gen_token else { return Ok(None) };
    let mut keys = secrets::load(&token.secrets).map_err(StartError::config)?;
    if keys.is_empty() {
        if vault.signing_keys().is_empty() {
            add_signing_key(vault)?;
        }
        if config.tessera.store.is_none() {
            info!(
                "auth-gen-token without a secret file and without a store: its tokens end with this process"
            );
        }
        keys = vault_keys(vault);
    }
    let generator = TokenGenerator::new(keys, token.lifetime, token.renewal, token.bind_certificate);
    Ok(Some(Arc::new(generator)))
}

/// The keys that the vault holds, the one that makes tokens first.
pub(super) fn vault_keys(vault: &Vault) -> Vec<TokenKey> {
    vault.signing_keys().iter().map(|key| TokenKey::from_key(&key.key)).collect()
}

/// Makes a key that the vault holds; it makes tokens from now on.
pub(super) fn add_signing_key(vault: &Vault) -> Result<(), StartError> {
    let mut key = Secret::new([0; 32]);
    ring::rand::SecureRandom::fill(&SystemRandom::new(), key.expose_mut())
        .map_err(|_| StartError::config("the system gives no randomness"))?;
    vault.add_signing_key(SigningKey { key, made: UnixSeconds(clock::unix_seconds()) });
    Ok(())
}

/// Everybody who checks passwords besides programs.
pub(super) fn backends(
    config: &Config,
    privileged: &Privileged,
    vault: &Arc<Vault>,
) -> Result<Backends, StartError> {
    let auth = &config.auth;
    let accounts = auth.users.as_ref().map(|file| {
        let options = AccountsOptions { issuer: auth.otp_issuer.clone(), ..AccountsOptions::new(file) };
        let ledger: Arc<dyn OtpLedger> = Arc::<Vault>::clone(vault);
        Accounts::open(options, ledger).map(Arc::new)
    });
    let accounts = accounts.transpose().map_err(|error| StartError::config(format!("auth-file: {error}")))?;
    if let Some(accounts) = &accounts {
        info!("auth-file: {} users", accounts.list().len());
        if config.tessera.store.is_none() && accounts.list().iter().any(|user| user.otp.is_some()) {
            warn!("one-time codes without a store: a restart forgets which are used up");
        }
    }
    let lockout = Lockout::new().map(Arc::new).map_err(StartError::config)?;
    let plugins = privileged.plugins.handle();
    let backends = Backends { plugins, accounts, pam: privileged.pam.clone(), lockout };
    let checked = config.hooks.auth_user_pass_verify.is_some() || backends.check_passwords();
    if !checked {
        let needs = [
            (
                auth.certificates != CertificatePolicy::Require,
                "clients without a certificate need a password",
            ),
            (auth.username_as_common_name, "username-as-common-name needs somebody who checks user names"),
            (auth.optional_credentials, "auth-user-pass-optional needs somebody who checks passwords"),
            (auth.gen_token.is_some(), "auth-gen-token needs somebody who checks passwords"),
        ];
        if let Some((_, what)) = needs.into_iter().find(|(needed, _)| *needed) {
            return Err(StartError::config(format!("{what}, and no plugin checks one")));
        }
    }
    Ok(backends)
}

/// Follows a changed file of users. Blocks on the disk.
pub(super) fn follow_accounts(accounts: &Accounts) {
    match accounts.refresh(clock::read().mono) {
        Refresh::NotDue | Refresh::Unchanged => {}
        Refresh::Reloaded { users, problems } => {
            info!("auth-file: reloaded, {users} users");
            for problem in problems {
                warn!("auth-file: {}:{}: {}", problem.line, problem.column, problem.reason);
            }
        }
        Refresh::Kept(error) => warn!("auth-file: the old users are kept: {error}"),
    }
}
