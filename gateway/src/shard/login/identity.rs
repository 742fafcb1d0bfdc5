//! Who a client is: its certificate, `tls-verify`, and its file in `client-config-dir` where it must have one.

use tessera_proto::session::AuthRequest;
use tracing::{info, warn};

use super::{Login, Stop};
use crate::clock;
use crate::config::CertificatePolicy;
use crate::directory::Owner;
use crate::hooks::{Env, printable};
use crate::overlay::{self, CcdFile};
use crate::plugins::PluginKind;
use crate::shard::client::Account;

/// Longest name that `username-as-common-name` makes.
const MAX_COMMON_NAME: usize = 64;

impl Login<'_> {
    /// Who the certificate (or, without one, the user name) says it is. `username` is what counts as the client's: what it sent,
    /// or nothing where its token stands for a client without user name.
    pub(super) fn identify(&self, request: &AuthRequest, username: &str) -> Result<Account, Stop> {
        let config = self.config();
        let (mut common_name, mut cert_env, mut certificate) = (String::new(), Vec::new(), None);
        let mut subjects = Vec::new();
        if !request.certificates.is_empty() && config.auth.certificates != CertificatePolicy::None {
            // Issuers are told to hooks and plugins only.
            let told = self.shard.base_env.is_read();
            let identity = {
                let tls = &self.shard.state.borrow().tls;
                let chain = &request.certificates;
                if told { tls.peer_identity(chain) } else { tls.peer_leaf(chain) }
            };
            let identity = identity.map_err(|error| {
                warn!(remote = %self.path.remote, "TLS Auth Error: {error}");
                Stop::plain()
            })?;
            identity.common_name().clone_into(&mut common_name);
            certificate = Some(*identity.fingerprint());
            if told {
                cert_env = identity.env();
                subjects = identity.chain().iter().map(|cert| cert.subject.clone()).collect();
            }
        }
        if config.auth.username_as_common_name && !username.is_empty() {
            common_name = username.chars().map(|c| if c.is_control() { '_' } else { c }).collect();
            if common_name.len() > MAX_COMMON_NAME {
                return Err(Stop::denied("user name too long to be a common name"));
            }
        }
        Ok(Account {
            common_name,
            username: username.to_owned(),
            owner: Owner { username: username.to_owned(), certificate },
            cert_env,
            subjects,
            since: clock::unix_seconds(),
            chain: request.certificates.clone(),
            peer_info: request.peer_info.clone(),
        })
    }

    /// `tls-verify`, from the CA down.
    pub(super) async fn verify_chain(&self, account: &Account, env: &Env) -> Result<(), Stop> {
        if let Some(leaf) = account.subjects.first() {
            info!(remote = %self.path.remote, "VERIFY OK: depth=0, {leaf}");
        }
        let plugins = self.shard.backends.plugins.wants(PluginKind::TlsVerify);
        for (depth, subject) in account.subjects.iter().enumerate().rev() {
            if plugins {
                let argv = vec![depth.to_string().into(), printable(subject).into()];
                self.require_plugins(PluginKind::TlsVerify, argv, env).await?;
            }
            let Some(command) = &self.config().hooks.tls_verify else { continue };
            let answer = self.shard.hooks.tls_verify(command, env.clone(), depth, subject).await;
            self.check()?;
            self.require(answer, "tls-verify")?;
        }
        Ok(())
    }

    pub(super) async fn own_ccd_file(&self, name: &str) -> Result<(), Stop> {
        if self.config().auth.client_config_dir.is_none() || self.find_ccd(name, true).await?.is_some() {
            return Ok(());
        }
        warn!(remote = %self.path.remote, name, "TLS Auth Error: no file of its own in client-config-dir");
        Err(Stop::plain())
    }

    /// The client's file in `client-config-dir`, read on a thread that may wait for the disk.
    pub(super) async fn find_ccd(&self, name: &str, exclusive: bool) -> Result<Option<CcdFile>, Stop> {
        let Some(directory) = self.config().auth.client_config_dir.clone() else { return Ok(None) };
        let wanted = name.to_owned();
        let find =
            move || overlay::find_ccd(&directory, &wanted, exclusive).map_err(|error| error.to_string());
        let found = tokio::task::spawn_blocking(find).await.unwrap_or_else(|error| Err(error.to_string()));
        self.check()?;
        found.map_err(|error| {
            warn!(name, "client-config-dir: {error}");
            Stop::temporary("the client's configuration cannot be read")
        })
    }
}
