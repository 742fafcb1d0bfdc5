//! Who checks passwords besides programs: plugins, accounts, PAM. Shared by all shards.

use std::sync::Arc;

use tessera_proto::endpoint::Handle;

use crate::accounts::{Accounts, Lockout};
use crate::pam::Pam;
use crate::plugins::{ClientKey, PluginHandle, PluginKind};

/// Everybody who is asked about logins.
#[derive(Debug, Clone)]
pub struct Backends {
    /// Plugins; also for all else that plugins are called for.
    pub plugins: PluginHandle,
    /// `auth-file`.
    pub accounts: Option<Arc<Accounts>>,
    /// `auth-pam`.
    pub pam: Option<Arc<Pam>>,
    /// Who guessed too often at PAM; accounts keep their own.
    pub lockout: Arc<Lockout>,
}

impl Backends {
    /// True when one of them checks passwords.
    #[must_use]
    pub fn check_passwords(&self) -> bool {
        self.accounts.is_some() || self.pam.is_some() || self.plugins.wants(PluginKind::AuthUserPassVerify)
    }
}

/// Handles count sessions of one shard; this many of them are told apart in a client's number for plugins.
const HANDLE_BITS: u32 = 56;

/// A session as plugins know it.
pub(super) const fn client_key(shard: usize, handle: Handle) -> ClientKey {
    ClientKey(((shard as u64) << HANDLE_BITS) | (handle.number() & ((1 << HANDLE_BITS) - 1)))
}
