//! What a client holds, and how it is given back: when a login fails half way, and when a client leaves.

use std::ffi::OsString;
use std::rc::Rc;

use tessera_proto::endpoint::Handle;
use tracing::info;

use super::backends::client_key;
use super::client::{Account, Client};
use super::state::Shared;
use crate::clock;
use crate::data::PeerStats;
use crate::hooks::{Env, Farewell, Totals};
use crate::lease::{Lease, PeerHandle};
use crate::plugins::PluginKind;
use crate::routes::Prefix;

/// What a login holds before its client is admitted.
pub(super) struct Resources<'a> {
    shard: &'a Shared,
    handle: Handle,
    account: Rc<Account>,
    pub(super) lease: Option<Lease>,
    pub(super) peer: Option<PeerHandle>,
    /// `client-connect` succeeded: whatever happens, `client-disconnect` runs.
    pub(super) farewell: Option<Farewell>,
    /// Plugins said yes: they are told when it is gone.
    pub(super) plugins_connected: bool,
    /// What `learn-address` was told of.
    pub(super) learned: Vec<Prefix>,
    pub(super) env: Env,
    /// The client record owns everything now; its removal gives it back.
    pub(super) handed_over: bool,
}

impl<'a> Resources<'a> {
    pub(super) fn new(shard: &'a Shared, handle: Handle, account: Rc<Account>, env: Env) -> Self {
        Self {
            shard,
            handle,
            account,
            lease: None,
            peer: None,
            farewell: None,
            plugins_connected: false,
            learned: Vec::new(),
            env,
            handed_over: false,
        }
    }

    pub(super) fn keep(self) {
        debug_assert!(self.handed_over, "an admitted client owns its resources");
    }

    pub(super) async fn give_back(mut self) {
        if self.handed_over {
            return;
        }
        if let Some(lease) = self.lease.take() {
            self.shard.directory.release_lease(lease);
        }
        if let Some(peer) = self.peer.take() {
            self.shard.directory.remove_routes(peer.id);
            self.shard.directory.release_peer(peer, clock::now());
        }
        unlearn(self.shard, self.handle, &self.env, &self.learned).await;
        let totals = Totals::default();
        if self.plugins_connected {
            tell_plugins(self.shard, self.handle, self.env.clone(), &totals).await;
        }
        if let Some(farewell) = self.farewell.take() {
            farewell.run(&totals).await;
        }
        self.shard.directory.release_name(&self.account.common_name, self.shard.session_ref(self.handle));
    }
}

/// The end of an established client, after its worker has let go of it.
pub(super) async fn logout(shard: &Shared, handle: Handle, mut client: Box<Client>, data: PeerStats) {
    let stats = PeerStats {
        received: data.received + client.control.received,
        sent: data.sent + client.control.sent,
    };
    let duration = clock::unix_seconds().saturating_sub(client.since);
    info!(
        name = client.name(),
        username = client.account.username,
        v4 = client.v4.map(tracing::field::display),
        v6 = client.v6.map(tracing::field::display),
        received = stats.received,
        sent = stats.sent,
        duration,
        reason = client.leaving.as_deref().unwrap_or(""),
        "client left"
    );
    shard.directory.remove_routes(client.peer.id);
    shard.directory.release_peer(client.peer, clock::now());
    if let Some(lease) = client.lease.take() {
        shard.directory.release_lease(lease);
    }
    let key = client_key(shard.index, handle);
    unlearn(shard, handle, &client.env, &client.iroutes).await;
    let totals = Totals { received: stats.received, sent: stats.sent, duration };
    if client.plugins_connected {
        tell_plugins(shard, handle, client.env.clone(), &totals).await;
    }
    if let Some(farewell) = client.farewell.take() {
        farewell.run(&totals).await;
    }
    shard.backends.plugins.forget(key);
    shard.directory.release_name(&client.account.common_name, shard.session_ref(handle));
}

/// `learn-address delete`, of plugins and of the program.
async fn unlearn(shard: &Shared, handle: Handle, env: &Env, prefixes: &[Prefix]) {
    let key = client_key(shard.index, handle);
    for prefix in prefixes {
        let address = learned(*prefix);
        let argv = ["delete", &address].map(OsString::from).to_vec();
        shard.backends.plugins.call(PluginKind::LearnAddress, argv, env, key).await;
        if let Some(command) = &shard.config.hooks.learn_address {
            shard.hooks.learn_address(command, env.clone(), "delete", &address, None).await;
        }
    }
}

/// `client-disconnect` of plugins; what they say changes nothing.
async fn tell_plugins(shard: &Shared, handle: Handle, mut env: Env, totals: &Totals) {
    totals.export(&mut env);
    let key = client_key(shard.index, handle);
    shard.backends.plugins.call(PluginKind::ClientDisconnect, Vec::new(), &env, key).await;
}

/// A prefix as `learn-address` names it: hosts without a length.
pub(super) fn learned(prefix: Prefix) -> String {
    let host = if prefix.addr().is_ipv4() { 32 } else { 128 };
    if prefix.len() == host { prefix.addr().to_string() } else { prefix.to_string() }
}
