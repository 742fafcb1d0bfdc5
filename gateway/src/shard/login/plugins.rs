//! Plugins in a login. Each has files of its own for an answer that comes later, so that none answers for another.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use tessera_proto::Secret;
use tracing::warn;

use super::deciders::Asked;
use super::{Login, Stop};
use crate::hooks::{Answer, AuthAnswer, ConnectFile, Deferral, Env, Returned};
use crate::overlay::Overlay;
use crate::plugins::{PluginKind, PluginOutcome, PluginReply, Verdict};

/// How often a plugin is asked again that has put off its answer to client-connect.
const CONNECT_POLL: Duration = Duration::from_millis(500);
/// The name under which a plugin returns directives.
const CONFIG: &str = "config";

impl Login<'_> {
    /// A call that only says yes or no: to plugins that want it, all of which must say yes.
    pub(super) async fn require_plugins(
        &self,
        kind: PluginKind,
        argv: Vec<OsString>,
        env: &Env,
    ) -> Result<(), Stop> {
        let replies = self.shard.backends.plugins.call(kind, argv, env, self.client_key()).await;
        self.check()?;
        match Verdict::of(&replies) {
            Verdict::Allow => Ok(()),
            Verdict::Deny => Err(self.refused(&format!("plugin ({})", kind.name()), None)),
            // What cannot be put off has no later.
            Verdict::Deferred | Verdict::NoAnswer => {
                Err(self.no_answer(&format!("plugin ({})", kind.name())))
            }
        }
    }

    /// `auth-user-pass-verify` of all plugins.
    pub(super) async fn ask_plugins(&self, asked: Asked<'_>) -> Result<(), Stop> {
        let (plugins, kind) = (&self.shard.backends.plugins, PluginKind::AuthUserPassVerify);
        let mut deferrals = Vec::new();
        for (place, stats) in plugins.stats().enumerate() {
            if stats.wants(kind) {
                let files = self.shard.hooks.deferral().await.map_err(|error| {
                    warn!(remote = %self.path.remote, "no files for a plugin: {error}");
                    self.no_answer(&stats.name)
                })?;
                deferrals.push((place, files));
            }
        }
        let mut env = asked.env.clone();
        env.set("username", asked.username).set("password", asked.request.password.expose().clone());
        let each = |place: usize| {
            let mut env = env.clone();
            if let Some((_, files)) = deferrals.iter().find(|(of, _)| *of == place) {
                files.export(&mut env);
            }
            (Vec::new(), Arc::new(env))
        };
        // Files took time; a client that has left meanwhile is forgotten, and must not be called for again.
        self.check()?;
        let places: Vec<usize> = deferrals.iter().map(|(place, _)| *place).collect();
        let replies = plugins.call_at(&places, kind, self.client_key(), each).await;
        self.check()?;
        let concluded: FuturesUnordered<_> = replies
            .into_iter()
            .zip(deferrals)
            .map(|(reply, (_, files))| self.conclude(reply, files, asked))
            .collect();
        self.all_say_yes(concluded).await
    }

    async fn conclude(&self, reply: PluginReply, files: Deferral, asked: Asked<'_>) -> Result<(), Stop> {
        let name = &*reply.plugin;
        let returned = match reply.outcome {
            PluginOutcome::Success { .. } => Returned::Success,
            PluginOutcome::Deferred => Returned::Deferred,
            PluginOutcome::Error => Returned::Error,
            PluginOutcome::NoAnswer(why) => {
                warn!(remote = %self.path.remote, "plugin {name}: {why}");
                return Err(self.no_answer(name));
            }
        };
        match files.conclude(returned).await {
            AuthAnswer::Allow => Ok(()),
            AuthAnswer::Deny { reason } => Err(self.refused(name, reason)),
            AuthAnswer::NoAnswer => Err(self.no_answer(name)),
            AuthAnswer::Deferred(files) => {
                let respond = async |answer: &Secret<String>, files: &Deferral| {
                    let mut env = asked.env.clone();
                    env.set("username", asked.username).set("crresponse", answer.expose().clone());
                    files.export(&mut env);
                    let (plugins, kind) = (&self.shard.backends.plugins, PluginKind::ClientCrResponse);
                    let replies = plugins.call(kind, Vec::new(), &env, self.client_key()).await;
                    match Verdict::of(&replies) {
                        Verdict::Allow => Answer::Allow,
                        Verdict::Deny => Answer::Deny,
                        Verdict::Deferred | Verdict::NoAnswer => Answer::NoAnswer,
                    }
                };
                self.wait_for(name, asked.request, files, respond).await
            }
        }
    }

    /// `client-connect` of all plugins, by file and by value; what they say about the client.
    pub(super) async fn connect_plugins(&self, env: &Env) -> Result<Overlay, Stop> {
        let mut own = Overlay::default();
        if self.shard.backends.plugins.wants(PluginKind::ClientConnect) {
            for written in self.connect_by_file(env).await? {
                own.merge(self.read_overlay("plugin", &written));
            }
        }
        let (first, again) = (PluginKind::ClientConnectV2, PluginKind::ClientConnectDeferV2);
        let replies = self.shard.backends.plugins.call(first, Vec::new(), env, self.client_key()).await;
        let shared = Arc::new(env.clone());
        let each = |_| (Vec::new(), Arc::clone(&shared));
        for reply in self.settle_connect(replies, again, each).await? {
            let PluginOutcome::Success { returned } = reply.outcome else { continue };
            for entry in returned.iter().filter(|entry| entry.name == CONFIG) {
                own.merge(self.read_overlay(&reply.plugin, entry.value.expose()));
            }
        }
        Ok(own)
    }

    /// Plugins of the first interface write into a file, each into its own.
    async fn connect_by_file(&self, env: &Env) -> Result<Vec<zeroize::Zeroizing<Vec<u8>>>, Stop> {
        let (plugins, kind) = (&self.shard.backends.plugins, PluginKind::ClientConnect);
        let mut files: Vec<(usize, ConnectFile)> = Vec::new();
        for (place, stats) in plugins.stats().enumerate() {
            if stats.wants(kind) {
                let file = self.shard.hooks.connect_file().await.map_err(|error| {
                    warn!(remote = %self.path.remote, "no file for a plugin: {error}");
                    self.no_answer(&stats.name)
                })?;
                files.push((place, file));
            }
        }
        let each = |place: usize| {
            let mut env = env.clone();
            let file = files.iter().find(|(of, _)| *of == place).map(|(_, file)| file.path());
            let argv: Vec<OsString> = file.iter().map(|path| (*path).into()).collect();
            if let Some(path) = file {
                env.set("client_connect_config_file", path.display().to_string());
            }
            (argv, Arc::new(env))
        };
        let places: Vec<usize> = files.iter().map(|(place, _)| *place).collect();
        let replies = plugins.call_at(&places, kind, self.client_key(), each).await;
        self.settle_connect(replies, PluginKind::ClientConnectDefer, each).await?;
        let mut written = Vec::new();
        for (_, file) in files {
            written.push(file.take().await.map_err(|error| {
                warn!(remote = %self.path.remote, "what a plugin wrote cannot be used: {error}");
                Stop::plain()
            })?);
        }
        Ok(written)
    }

    /// Asks those again who put their answer off, until nobody does; all must say yes. What is returned is the last of each, in
    /// the order of the configuration.
    async fn settle_connect(
        &self,
        mut replies: Vec<PluginReply>,
        again: PluginKind,
        each: impl Fn(usize) -> (Vec<OsString>, Arc<Env>),
    ) -> Result<Vec<PluginReply>, Stop> {
        let limit = crate::clock::now() + self.config().tessera.hook_timeout;
        let mut settled = Vec::new();
        loop {
            self.check()?;
            match Verdict::of(&replies) {
                Verdict::Allow => {
                    settled.extend(replies);
                    settled.sort_by_key(|reply| reply.place);
                    return Ok(settled);
                }
                Verdict::Deny => return Err(self.refused("plugin (client-connect)", None)),
                Verdict::NoAnswer => return Err(self.no_answer("plugin (client-connect)")),
                Verdict::Deferred if crate::clock::now() >= limit => {
                    return Err(self.no_answer("plugin (client-connect, put off)"));
                }
                Verdict::Deferred => {
                    let put_off = |reply: &PluginReply| matches!(reply.outcome, PluginOutcome::Deferred);
                    let places: Vec<usize> = replies.iter().filter(|r| put_off(r)).map(|r| r.place).collect();
                    settled.extend(replies.into_iter().filter(|reply| !put_off(reply)));
                    tokio::time::sleep(CONNECT_POLL).await;
                    self.check()?;
                    let plugins = &self.shard.backends.plugins;
                    replies = plugins.call_at(&places, again, self.client_key(), &each).await;
                }
            }
        }
    }
}
