//! Addresses, `client-connect`, peer-id, routes and push of a client whose login is accepted.

use std::ffi::OsString;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tessera_proto::session::{Authenticated, Close, PushConfig};
use tracing::{info, warn};

use super::{Login, Stop};
use crate::clock;
use crate::config::{Ifconfig4, TokenVerify};
use crate::data::{PeerSpec, PeerStats, Via};
use crate::directory::Claim;
use crate::hooks::{Answer, Assigned, Env, Farewell, Peer};
use crate::lease::{Lease, LeaseError, LeaseRequest, PeerHandle};
use crate::overlay::{self, CcdFile, Overlay};
use crate::plugins::PluginKind;
use crate::routes::Prefix;
use crate::shard::client::{Account, Alarm, Client, PushedToken};
use crate::shard::farewell::{Resources, learned};
use crate::shard::renewal::OwnTokens;
use crate::tokens::{Binding, Lineage, UnixSeconds};

/// Extra time that a client which takes over another's name waits for the other's farewell, beyond one hook.
const FAREWELL: Duration = Duration::from_secs(10);
/// How long a login waits for its token to be in the store. It takes well under a millisecond unless the disk is in trouble.
const WRITTEN: Duration = Duration::from_millis(250);
/// Lifetime of tokens when the configuration sets no limit.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

impl Login<'_> {
    /// Addresses, hooks, peer-id, push.
    pub(super) async fn connect(
        &self,
        account: Rc<Account>,
        tokens: Option<OwnTokens>,
        proof: Authenticated,
    ) -> Result<(), Stop> {
        self.take_name(&account.common_name).await?;
        let mut resources = Resources::new(
            self.shard,
            self.handle,
            Rc::clone(&account),
            self.connect_env(&account, clock::unix_seconds()),
        );
        match self.configure(account, tokens, proof, &mut resources).await {
            Ok(()) => {
                resources.keep();
                Ok(())
            }
            Err(stop) => {
                resources.give_back().await;
                Err(stop)
            }
        }
    }

    /// Ends an older session of the same name, and waits for its farewell.
    async fn take_name(&self, name: &str) -> Result<(), Stop> {
        let limit = self.config().tessera.hook_timeout + FAREWELL;
        loop {
            match self.shard.directory.claim_name(name, self.shard.session_ref(self.handle)) {
                Claim::Taken => return Ok(()),
                Claim::Held { by, mut gone } => {
                    info!(name, "an older session of the same name is ended");
                    self.shard.ask_to_leave(by, "the same client connected again");
                    let waited = tokio::time::timeout(limit, gone.changed()).await;
                    self.check()?;
                    if waited.is_err() {
                        return Err(Stop::temporary("an older session is still ending"));
                    }
                }
            }
        }
    }

    async fn configure(
        &self,
        account: Rc<Account>,
        tokens: Option<OwnTokens>,
        proof: Authenticated,
        resources: &mut Resources<'_>,
    ) -> Result<(), Stop> {
        let (shard, config) = (self.shard, self.config());
        let mut own = self.read_ccd(&account.common_name).await?;
        self.refuse_disabled(&own)?;
        resources.lease = Some(self.lease(&account.common_name, &own)?);
        let from_file = (own.ifconfig, own.ifconfig_ipv6);
        let since = clock::unix_seconds();
        let mut env = self.connect_env(&account, since);
        env.set_assigned(&self.assigned(resources.lease.as_ref(), &own));
        own.merge(self.connect_plugins(&env).await?);
        resources.plugins_connected = true;
        self.refuse_disabled(&own)?;
        if let Some(command) = &config.hooks.client_connect {
            let disconnect = config.hooks.client_disconnect.as_ref();
            let mut connecting = shard.hooks.start_client_connect(command, env.clone(), disconnect);
            // Also when the client leaves meanwhile: its name is given on only when the books are closed.
            match connecting.answer().await {
                Ok(connected) => {
                    resources.farewell = connected.farewell;
                    let source = format!("client-connect {}", command.argv[0]);
                    own.merge(self.read_overlay(&source, &connected.written));
                }
                Err(answer) => {
                    self.check()?;
                    self.require(answer, "client-connect")?;
                }
            }
            self.check()?;
            self.refuse_disabled(&own)?;
        }
        if own.ifconfig != from_file.0 || own.ifconfig_ipv6 != from_file.1 {
            if let Some(lease) = resources.lease.take() {
                shard.directory.release_lease(lease);
            }
            resources.lease = Some(self.lease(&account.common_name, &own)?);
            env.set_assigned(&self.assigned(resources.lease.as_ref(), &own));
        }
        if let Some(farewell) = &mut resources.farewell {
            farewell.set_env(env.clone());
        }
        let token = self.remember_token(&account, &mut own).await?;
        resources.env = env.clone();
        let assigned = self.assigned(resources.lease.as_ref(), &own);
        let via = shard.via(self.handle).ok_or(Stop::Left)?;
        let lease = resources.lease.as_ref();
        let peer = shard.directory.allocate_peer(via.worker(), lease, clock::now()).map_err(|error| {
            warn!(remote = %self.path.remote, "{error}");
            Stop::temporary("the gateway is full")
        })?;
        resources.peer = Some(peer);
        let learned = &mut resources.learned;
        let (routes, iroutes) = self.take_routes(peer, &account, &env, &assigned, &own, learned).await?;
        // From here on nothing waits: the client is either admitted whole or not at all.
        self.refuse_locked(&account)?;
        self.recheck_token(&account)?;
        let tokens = self.first_token(tokens, &mut own);
        self.admit(account, proof, resources, peer, &assigned, own, routes, &iroutes, since)?;
        if let Some(client) = shard.state.borrow_mut().clients.get_mut(&self.handle) {
            client.token = token;
        }
        if let Some(tokens) = tokens {
            shard.hold_token(self.handle, tokens);
        }
        Ok(())
    }

    fn connect_env(&self, account: &Account, since: u64) -> Env {
        let mut env = self.shard.base_env.clone();
        env.set_peer(Peer::Untrusted(self.path.remote))
            .set_peer(Peer::Trusted(self.path.remote))
            .set_peer_info(&account.peer_info);
        for (name, value) in &account.cert_env {
            env.set(name, value.clone());
        }
        env.set("common_name", account.common_name.clone());
        if !account.username.is_empty() {
            env.set("username", account.username.clone());
        }
        env.set_time(since);
        env
    }

    async fn read_ccd(&self, name: &str) -> Result<Overlay, Stop> {
        let found = self.find_ccd(name, self.config().auth.ccd_exclusive).await?;
        let read = |file: CcdFile| self.read_overlay(&file.path.display().to_string(), &file.content);
        Ok(found.map(read).unwrap_or_default())
    }

    pub(super) fn read_overlay(&self, source: &str, content: &[u8]) -> Overlay {
        let (overlay, left_out) = overlay::parse(source, content);
        for line in left_out {
            warn!(remote = %self.path.remote, "left out: {line}");
        }
        overlay
    }

    fn refuse_disabled(&self, own: &Overlay) -> Result<(), Stop> {
        let remote = self.path.remote;
        if let Some(fault) = &own.fault {
            warn!(%remote, "client refused: {fault}");
            return Err(Stop::temporary("the client's configuration is not usable"));
        }
        if own.disable {
            info!(%remote, "client refused: disabled by its configuration");
            return Err(Stop::denied("disabled by configuration"));
        }
        Ok(())
    }

    fn lease(&self, name: &str, own: &Overlay) -> Result<Lease, Stop> {
        let request = LeaseRequest {
            worker: self.shard.via(self.handle).and_then(Via::worker),
            common_name: (!name.is_empty()).then_some(name),
            static_v4: own.ifconfig.map(|(address, _)| address),
            static_v6: own.ifconfig_ipv6.map(|(address, ..)| address),
        };
        self.shard.directory.lease(request).map_err(|error| {
            warn!(remote = %self.path.remote, name, "{error}");
            match error {
                LeaseError::PoolExhausted(_) => Stop::temporary("no address is free"),
                LeaseError::AddressInUse(_) => Stop::temporary("the client's address is in use"),
            }
        })
    }

    fn assigned(&self, lease: Option<&Lease>, own: &Overlay) -> Assigned {
        let network = &self.config().network;
        let pool_mask = network.pool.map(|pool| pool.netmask).or(network.ifconfig.map(Ifconfig4::netmask));
        let v4 = lease
            .and_then(Lease::v4)
            .and_then(|address| Some((address, own.ifconfig.map(|(_, mask)| mask).or(pool_mask)?)));
        let v6 = lease.and_then(Lease::v6).and_then(|address| {
            let local = network.ifconfig6.map(|i| i.local);
            let (gateway, bits) = match own.ifconfig_ipv6 {
                Some((_, bits, gateway)) => (gateway.or(local)?, bits),
                None => (local?, network.pool6.map(|pool| pool.prefix)?),
            };
            Some((address, gateway, bits))
        });
        Assigned { v4, v6 }
    }

    /// The cache takes the token before the client can: there is no moment at which it holds one that we do not know.
    async fn remember_token(
        &self,
        account: &Account,
        own: &mut Overlay,
    ) -> Result<Option<PushedToken>, Stop> {
        let Some(token) = &own.token else { return Ok(None) };
        let username = own.token_user.as_ref().unwrap_or(&account.username);
        let now = UnixSeconds(clock::unix_seconds());
        let lifetime = self.config().tessera.token_lifetime.unwrap_or(FOREVER);
        let lineage = Lineage(now.0);
        let id = self.shard.vault.id_of(token);
        let taken = Binding::new(username, account.owner.certificate, &account.common_name)
            .and_then(|binding| self.shard.vault.insert(token, binding, lineage, now, lifetime));
        match (taken, self.config().tessera.token_verify) {
            (Ok(info), _) => {
                // A disk that is slow or full holds up no login: then the token may not outlive the process.
                let _ = tokio::time::timeout(WRITTEN, self.shard.vault.written()).await;
                self.check()?;
                let pushed = |id| PushedToken { id, issued: info.issued, expires: info.expires };
                Ok(id.map(pushed))
            }
            // The hook judges tokens by itself; the cache is only a witness.
            (Err(error), TokenVerify::Hook) => {
                info!(name = account.common_name, "token is not cached: {error}");
                Ok(None)
            }
            // A client that holds it would be refused with it: it stays with its password.
            (Err(error), TokenVerify::Cache) => {
                warn!(name = account.common_name, "the pushed auth-token is left out: {error}");
                (own.token, own.token_user) = (None, None);
                Ok(None)
            }
        }
    }

    /// Without a `client-connect`, `client-disconnect` is owed from here on.
    fn lone_farewell(&self, env: &Env) -> Option<Farewell> {
        let hooks = &self.config().hooks;
        let command = hooks.client_disconnect.as_ref().filter(|_| hooks.client_connect.is_none())?;
        Some(self.shard.hooks.owe_client_disconnect(command, env.clone()))
    }

    /// The first generated token of the session. It takes the place of one that a hook has pushed: a client has one.
    fn first_token(&self, tokens: Option<OwnTokens>, own: &mut Overlay) -> Option<OwnTokens> {
        let mut tokens = tokens?;
        let token = tokens.mint(self.shard.generator.as_ref()?, &self.shard.vault, clock::read())?;
        if own.token.replace(token).is_some() {
            warn!(remote = %self.path.remote, "the pushed auth-token gives way to a generated one");
        }
        if own.token_user.is_none() && !tokens.username.is_empty() {
            own.token_user = Some(tokens.username.clone());
        }
        Some(tokens)
    }

    /// The client's own addresses and the networks behind it, as far as nobody else has them and `learn-address` agrees. What
    /// has been said to that is in `told`, also when the login ends here.
    async fn take_routes(
        &self,
        peer: PeerHandle,
        account: &Account,
        env: &Env,
        assigned: &Assigned,
        own: &Overlay,
        told: &mut Vec<Prefix>,
    ) -> Result<(Vec<Prefix>, Vec<Prefix>), Stop> {
        let hosts = [assigned.v4.map(|(a, _)| IpAddr::V4(a)), assigned.v6.map(|(a, ..)| IpAddr::V6(a))];
        let hosts: Vec<Prefix> = hosts.into_iter().flatten().map(Prefix::host).collect();
        let most = own.max_routes.unwrap_or(self.config().limits.max_routes_per_client) as usize;
        let iroutes = own.iroutes.iter().copied().take(most);
        let (mut taken, mut behind) = (Vec::new(), Vec::new());
        for (is_host, prefix) in hosts.iter().map(|p| (true, *p)).chain(iroutes.map(|p| (false, p))) {
            if let Err(error) = self.shard.directory.add_route(prefix, peer.id) {
                warn!(remote = %self.path.remote, %prefix, "route refused: {error}");
                continue;
            }
            told.push(prefix);
            let (address, name) = (learned(prefix), Some(account.common_name.as_str()));
            if self.shard.backends.plugins.wants(PluginKind::LearnAddress) {
                let argv = ["add", &address, name.unwrap_or_default()].map(OsString::from).to_vec();
                let said = self.require_plugins(PluginKind::LearnAddress, argv, env).await;
                self.check()?;
                if said.is_err() {
                    warn!(remote = %self.path.remote, %prefix, "route refused by a plugin");
                    told.pop();
                    continue;
                }
            }
            if let Some(command) = &self.config().hooks.learn_address {
                let answer =
                    self.shard.hooks.learn_address(command, env.clone(), "add", &address, name).await;
                self.check()?;
                if answer != Answer::Allow {
                    warn!(remote = %self.path.remote, %prefix, "route refused by learn-address");
                    told.pop();
                    continue;
                }
            }
            taken.push(prefix);
            if !is_host {
                behind.push(prefix);
            }
        }
        Ok((taken, behind))
    }

    #[expect(clippy::too_many_arguments, reason = "everything that was found out about one client")]
    fn admit(
        &self,
        account: Rc<Account>,
        proof: Authenticated,
        resources: &mut Resources<'_>,
        peer: PeerHandle,
        assigned: &Assigned,
        own: Overlay,
        routes: Vec<Prefix>,
        iroutes: &[Prefix],
        since: u64,
    ) -> Result<(), Stop> {
        let (shard, config) = (self.shard, self.config());
        let remote = self.path.remote;
        let timers = &config.timers;
        let push = PushConfig {
            options: overlay::apply(&config.push, &own.push, iroutes),
            ifconfig: assigned.v4,
            ifconfig_ipv6: assigned.v6.map(|(address, gateway, bits)| (address, bits, gateway)),
            peer_id: Some(peer.id),
            auth_token: own.token,
            auth_token_user: own.token_user,
            ciphers: own.ciphers,
        };
        let client = Client {
            peer,
            lease: resources.lease.take(),
            v4: assigned.v4.map(|(a, _)| a),
            v6: assigned.v6.map(|(a, ..)| a),
            iroutes: routes.clone(),
            plugins_connected: resources.plugins_connected,
            token: None,
            cipher: None,
            farewell: resources.farewell.take().or_else(|| self.lone_farewell(&resources.env)),
            env: resources.env.clone(),
            since,
            control: PeerStats::default(),
            leaving: None,
            alarm: None,
            account,
        };
        let name = client.name().to_owned();
        let (v4, v6, owner) = (client.v4, client.v6, client.account.owner.clone());
        // The worker knows the peer before it gets the key, and the key before the client can use it.
        let spec = PeerSpec {
            id: peer.id,
            generation: peer.generation,
            shard: shard.index,
            via: shard.via(self.handle).ok_or(Stop::Left)?,
            path: self.path,
            framing: shard.with_session(self.handle, |s| s.framing()).unwrap_or_default(),
            ping: own.ping.or(timers.ping),
            ping_restart: own.ping_restart.or(timers.ping_restart),
            inactive: own.inactive.or(timers.inactive.map(|time| (time, timers.inactive_bytes))),
            reneg_bytes: timers.reneg_bytes,
            reneg_packets: timers.reneg_packets,
        };
        shard.admit(self.handle, client);
        resources.handed_over = true;
        for prefix in routes {
            shard.data.add_route(prefix, peer.id);
        }
        shard.data.add_peer(Box::new(spec));
        shard.directory.place(remote, shard.session_ref(self.handle), owner);
        let agreed = shard.with_session(self.handle, |s| s.establish(proof, push, clock::read())).flatten();
        let Some(agreed) = agreed else {
            return Err(Stop::Left);
        };
        {
            let state = &mut *shard.state.borrow_mut();
            state.logins.remove(&self.handle);
            if let Some(client) = state.clients.get_mut(&self.handle) {
                client.cipher = Some(agreed.cipher);
            }
        }
        let address = |a: Option<String>| a.unwrap_or_else(|| "none".into());
        info!(
            %remote,
            name,
            peer_id = peer.id.get(),
            cipher = %agreed.cipher,
            derivation = ?agreed.derivation,
            dynamic_tls_crypt = agreed.dynamic_tls_crypt,
            v6 = address(v6.map(|a| a.to_string())),
            "MULTI: primary virtual IP for {name}/{remote}: {}",
            address(v4.map(|a| a.to_string()))
        );
        if let Some(limit) = own.session_timeout.or(timers.session_timeout) {
            let (strong, handle) = (Rc::clone(shard), self.handle);
            let alarm = tokio::task::spawn_local(async move {
                tokio::time::sleep(limit).await;
                strong.close(handle, Close::Restart("Session timeout".into()));
            });
            if let Some(client) = shard.state.borrow_mut().clients.get_mut(&self.handle) {
                client.alarm = Some(Alarm(alarm.abort_handle()));
            }
        }
        Ok(())
    }
}
