//! A client as its shard knows it, from the first login on.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use rustls::pki_types::CertificateDer;
use tessera_proto::Cipher;
use tessera_proto::peer_info::PeerInfo;
use tokio::task::AbortHandle;

use crate::data::PeerStats;
use crate::directory::Owner;
use crate::hooks::{Env, Farewell};
use crate::lease::{Lease, PeerHandle};
use crate::routes::Prefix;
use crate::tokens::{TokenId, UnixSeconds};

/// What the first login of a session found out; later logins must agree with it.
#[derive(Debug, Clone)]
pub(super) struct Account {
    /// What hooks, files and logs call it. Empty without certificate and user name.
    pub(super) common_name: String,
    /// As the client sent it.
    pub(super) username: String,
    /// What an address or a token is bound to.
    pub(super) owner: Owner,
    /// `tls_*` and `X509_*` variables, if anybody reads them.
    pub(super) cert_env: Vec<(String, String)>,
    /// Subjects of its chain by depth, for `tls-verify`; likewise.
    pub(super) subjects: Vec<String>,
    /// When it logged in first, in seconds since 1970.
    pub(super) since: u64,
    /// What it showed, to be judged again when a revocation list changes.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// What the client says about itself.
    pub(super) peer_info: PeerInfo,
}

impl Account {
    /// Takes a user name if it has none. `owner` stays: by it the session was placed.
    pub(super) fn adopt_username(&mut self, username: &str) {
        if self.username.is_empty() {
            username.clone_into(&mut self.username);
        }
    }
}

/// A token of the cache, as its session remembers it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PushedToken {
    /// Its public name.
    pub(super) id: TokenId,
    pub(super) issued: UnixSeconds,
    pub(super) expires: UnixSeconds,
}

/// An established client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) account: Rc<Account>,
    pub(super) peer: PeerHandle,
    /// Given back when the client is gone.
    pub(super) lease: Option<Lease>,
    pub(super) v4: Option<Ipv4Addr>,
    pub(super) v6: Option<Ipv6Addr>,
    /// Networks behind it.
    pub(super) iroutes: Vec<Prefix>,
    /// The token that a hook has pushed to it, if it is in the cache.
    pub(super) token: Option<PushedToken>,
    /// Of its data channel.
    pub(super) cipher: Option<Cipher>,
    /// Plugins are told that it has gone.
    pub(super) plugins_connected: bool,
    /// Owed since its `client-connect` said yes.
    pub(super) farewell: Option<Farewell>,
    /// The environment of its hooks.
    pub(super) env: Env,
    /// Seconds since 1970.
    pub(super) since: u64,
    /// Control packets, when it left.
    pub(super) control: PeerStats,
    /// Why it is being removed, once it is.
    pub(super) leaving: Option<String>,
    /// Ends it after `session-timeout`.
    pub(super) alarm: Option<Alarm>,
}

/// A task that goes when its client does: else each client that comes and goes would leave one behind for the whole limit.
#[derive(Debug)]
pub(super) struct Alarm(pub(super) AbortHandle);

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// The name in log lines.
    pub(super) fn name(&self) -> &str {
        if self.account.common_name.is_empty() { "UNDEF" } else { &self.account.common_name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_alarm_goes_with_its_client() {
        let task = tokio::spawn(std::future::pending::<()>());
        drop(Alarm(task.abort_handle()));
        assert!(task.await.unwrap_err().is_cancelled());
    }
}
