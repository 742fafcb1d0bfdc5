//! What operators ask over the control socket, answered.

use std::sync::Arc;
use std::time::Duration;

use tessera_api::{
    ApiError, Changes, Credentials, ErrorCode, Fingerprint, HookKindStats, HookStats, KillHow, KillTarget,
    Moment, OtpKind, OtpProvisioning, PluginState, PluginStats, Request, Response, RevokeTarget, Rotation,
    Sensitive, Session, SessionKill, Status, StoreStats, Token, TokenCacheStats, TokenKind, TokenList,
    TokenRevoke, TokenState, User,
};
use tessera_proto::Secret;
use tessera_proto::auth_token::TokenSession;
use tokio::sync::{mpsc, oneshot};

use super::datapath::Datapath;
use super::{metrics, services};
use crate::accounts::{Accounts, AccountsError, Added, OtpKind as Otp};
use crate::admin::{Backend, Peer};
use crate::clock;
use crate::config::{Config, Source};
use crate::data::DataHandle;
use crate::directory::Directory;
use crate::hooks::Hook;
use crate::net::port_share::ShareCounters;
use crate::shard::{Backends, Command, Ending, Target};
use crate::tokens::{
    MAX_KEYS, RevokeError, Scope, TokenFilter, TokenGenerator, TokenId, TokenLimits, UnixSeconds, Vault,
    secrets,
};

/// How long shards may take to answer; they do so between two packets.
const SHARDS: Duration = Duration::from_secs(5);

/// Everything that an operator may look at or change.
pub(super) struct Admin {
    pub(super) config: Arc<Config>,
    pub(super) shards: Vec<mpsc::Sender<Command>>,
    pub(super) directory: Arc<Directory>,
    pub(super) vault: Arc<Vault>,
    pub(super) generator: Option<Arc<TokenGenerator>>,
    pub(super) backends: Backends,
    pub(super) hooks: Hook,
    pub(super) data: DataHandle,
    /// What `port-share` has seen.
    pub(super) share: Option<Arc<ShareCounters>>,
    pub(super) datapath: Datapath,
    /// Seconds since 1970.
    pub(super) started: u64,
}

type Answer = Result<Response, ApiError>;

impl Backend for Admin {
    async fn handle(&self, request: Request, _peer: Peer) -> Answer {
        match request {
            Request::SessionList(list) => {
                let mut sessions = self.sessions().await?;
                sessions.retain(|session| list.filter.matches(session));
                for session in &mut sessions {
                    session.peer_info.clear();
                }
                Ok(Response::Sessions(sessions))
            }
            Request::SessionShow(show) => {
                let mut sessions = self.sessions().await?;
                sessions.retain(|session| session.id == show.id);
                if sessions.is_empty() {
                    return Err(ApiError::not_found("there is no such session"));
                }
                Ok(Response::Sessions(sessions))
            }
            Request::SessionKill(kill) => self.kill(kill).await,
            Request::TokenList(list) => Ok(self.tokens(&list)),
            Request::TokenRevoke(revoke) => self.revoke(revoke).await,
            Request::TokenRotateSecret(_) => self.rotate().await,
            Request::UserAdd(add) => {
                let password = add.password.as_ref().map(secret);
                let (name, otp) = (add.name.clone(), add.otp.map(factor));
                let added = self.accounts(move |accounts| accounts.add(&name, password, otp)).await?;
                Ok(Response::Credentials(credentials(add.name, &added, add.otp)))
            }
            Request::UserList(_) => Ok(Response::Users(self.users())),
            Request::UserRemove(user) => {
                let name = user.name.clone();
                self.accounts(move |accounts| accounts.remove(&name)).await?;
                let (tokens, sessions) = self.turn_out(user.name).await?;
                Ok(Response::Changes(Changes { sessions, tokens, users: 1 }))
            }
            Request::UserOtp(change) => {
                let (name, kind) = (change.name.clone(), change.otp.kind());
                let added = self.accounts(move |accounts| accounts.set_otp(&name, kind.map(factor))).await?;
                Ok(Response::Credentials(credentials(change.name, &added, kind)))
            }
            Request::UserPassword(change) => {
                let (name, password) = (change.name.clone(), change.password.as_ref().map(secret));
                let made = self.accounts(move |accounts| accounts.set_password(&name, password)).await?;
                let password = made.map(|made| Sensitive::new(made.expose().clone()));
                Ok(Response::Credentials(Credentials { name: change.name, password, otp: None }))
            }
            Request::UserLock(user) => {
                let now = UnixSeconds(clock::unix_seconds());
                // Locked first: whatever logs in from here on finds it so.
                let fresh = self.vault.lock_user(&user.name, now).map_err(refused)?;
                let (tokens, sessions) = self.turn_out(user.name).await?;
                Ok(Response::Changes(Changes { sessions, tokens, users: fresh.into() }))
            }
            Request::UserUnlock(user) => {
                let users = self.vault.unlock_user(&user.name).into();
                Ok(Response::Changes(Changes { users, ..Changes::default() }))
            }
            Request::Status(_) => Ok(Response::Status(Box::new(self.status().await?))),
            Request::Metrics(_) => {
                let sessions = self.sessions().await?.len() as u64;
                metrics::render(self, sessions)
                    .map(Response::Metrics)
                    .map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))
            }
        }
    }
}

impl Admin {
    async fn sessions(&self) -> Result<Vec<Session>, ApiError> {
        let mut answers = Vec::new();
        for shard in &self.shards {
            let (reply, answer) = oneshot::channel();
            shard.send(Command::Sessions(reply)).await.map_err(|_| stopping())?;
            answers.push(answer);
        }
        let mut sessions = Vec::new();
        for answer in answers {
            sessions.extend(in_time(answer).await?);
        }
        sessions.sort_by_key(|session: &Session| (session.connected_since.0, session.id.clone()));
        Ok(sessions)
    }

    /// Ends sessions on all shards; how many.
    async fn end(&self, target: Target, ending: Ending) -> Result<u64, ApiError> {
        let mut answers = Vec::new();
        for shard in &self.shards {
            let (done, answer) = oneshot::channel();
            let command = Command::End { target: target.clone(), ending: ending.clone(), done };
            shard.send(command).await.map_err(|_| stopping())?;
            answers.push(answer);
        }
        let mut ended = 0;
        for answer in answers {
            ended += in_time(answer).await?;
        }
        Ok(ended)
    }

    async fn kill(&self, kill: SessionKill) -> Answer {
        let reason = kill.reason.unwrap_or_else(|| "ended by the operator".to_owned());
        let ending = match kill.how {
            KillHow::Restart => Ending::Restart(reason),
            KillHow::Halt => Ending::Halt(reason),
            KillHow::AuthFailed => Ending::AuthFailed(Some(reason)),
        };
        let target = match kill.target {
            KillTarget::Id(id) => Target::Id(id),
            KillTarget::CommonName(name) => Target::CommonName(name),
            KillTarget::Username(name) => Target::Username(name),
        };
        match self.end(target, ending).await? {
            0 => Err(ApiError::not_found("there is no such session")),
            sessions => Ok(Response::Changes(Changes { sessions, ..Changes::default() })),
        }
    }

    fn tokens(&self, list: &TokenList) -> Response {
        let filter = TokenFilter { username: list.user.as_deref(), common_name: None };
        let after = list.after.as_deref().and_then(TokenId::parse);
        let limit = list.limit as usize;
        let now = UnixSeconds(clock::unix_seconds());
        let page = self.vault.list(&filter, limit, after);
        let next = page.last().filter(|_| page.len() == limit).map(|token| token.id.to_string());
        let token = |listed: crate::tokens::ListedToken| Token {
            id: listed.id.to_string(),
            kind: TokenKind::Pushed,
            state: match (listed.revoked, now >= listed.info.expires) {
                (true, _) => TokenState::Revoked,
                (false, true) => TokenState::Expired,
                (false, false) => TokenState::Valid,
            },
            username: listed.info.binding.username().to_owned(),
            common_name: listed.info.binding.common_name().to_owned(),
            certificate_fingerprint: listed.info.binding.certificate().map(|bytes| Fingerprint(*bytes)),
            session_id: None,
            issued: Moment(listed.info.issued.0),
            expires: Moment(listed.info.expires.0),
        };
        Response::Tokens { tokens: page.into_iter().map(token).collect(), next }
    }

    async fn revoke(&self, revoke: TokenRevoke) -> Answer {
        let before = revoke.before;
        let (scope, target) = match revoke.target {
            RevokeTarget::Id(id) => {
                if !self.vault.revoke_id(&id) {
                    return Err(ApiError::not_found("there is no such token, or it was revoked before"));
                }
                let sessions = match TokenId::parse(&id) {
                    Some(id) => self.end(Target::Token(id), Ending::TokenRevoked).await?,
                    None => 0,
                };
                return Ok(Response::Changes(Changes { sessions, tokens: 1, users: 0 }));
            }
            RevokeTarget::SessionId(id) => {
                let session = TokenSession::parse(&id)
                    .ok_or_else(|| ApiError::bad_request("a session id has 16 characters of base64"))?;
                (Scope::Session(session.0), Target::TokenSession(session))
            }
            RevokeTarget::Username(name) => (Scope::User(name.clone()), Target::Username(name)),
            RevokeTarget::Certificate(Fingerprint(bytes)) => {
                (Scope::Certificate(bytes), Target::Certificate(bytes))
            }
            RevokeTarget::Everything => (Scope::Everything, Target::Everything),
        };
        let tokens = self.revoke_scope(scope, before)?;
        // Who logged in after that time has a token that is not concerned.
        let sessions = match before {
            None => self.end(target, Ending::TokenRevoked).await?,
            Some(_) => 0,
        };
        Ok(Response::Changes(Changes { sessions, tokens, users: 0 }))
    }

    /// Kills a user's tokens and ends the sessions; how many. Sessions end also where revocations have no room left: they are
    /// what is urgent.
    async fn turn_out(&self, name: String) -> Result<(u64, u64), ApiError> {
        let tokens = self.revoke_scope(Scope::User(name.clone()), None);
        let sessions = self.end(Target::Username(name), Ending::AuthFailed(None)).await?;
        Ok((tokens?, sessions))
    }

    /// Kills the tokens of a scope; how many of the cache.
    fn revoke_scope(&self, scope: Scope, before: Option<u64>) -> Result<u64, ApiError> {
        let now = UnixSeconds(clock::unix_seconds());
        let pushed = self.config.tessera.token_lifetime;
        let generated = self.generator.as_ref().map(|generator| generator.longest_life());
        // Remembered until the longest-lived token that it concerns is over; without any limit, for ever.
        let longest = match (pushed, generated) {
            (Some(pushed), generated) => Some(pushed.max(generated.unwrap_or_default())),
            (None, _) => None,
        };
        let expires = longest.filter(|longest| *longest < Duration::MAX).map(|longest| now.after(longest));
        let before = before.map(UnixSeconds);
        self.vault.revoke(scope, before, expires, now).map(|tokens| tokens as u64).map_err(refused)
    }

    /// A new key makes tokens from now on; the older ones check as long as there is room for them.
    async fn rotate(&self) -> Answer {
        let (Some(generator), Some(token)) = (&self.generator, &self.config.auth.gen_token) else {
            return Err(ApiError::refused("tokens are not generated here: there is no auth-gen-token"));
        };
        let internal = |error: String| ApiError::new(ErrorCode::Internal, error);
        let file = match token.secrets.first() {
            None => {
                services::add_signing_key(&self.vault).map_err(|error| internal(error.message))?;
                generator.set_keys(services::vault_keys(&self.vault));
                None
            }
            Some(Source::Inline(_)) => {
                return Err(ApiError::refused(
                    "the secret stands in the configuration itself: put it into a file",
                ));
            }
            Some(Source::File(file)) => {
                let (file, sources) = (file.clone(), token.secrets.clone());
                let written = tokio::task::spawn_blocking(move || rotate_file(&file, &sources)).await;
                let keys = written.map_err(|error| internal(error.to_string()))?.map_err(internal)?;
                generator.set_keys(keys);
                token.secrets.first().and_then(Source::path).map(|path| path.display().to_string())
            }
        };
        let secrets = u32::try_from(generator.keys().len()).unwrap_or(u32::MAX);
        Ok(Response::Rotation(Rotation { secrets, file }))
    }

    /// Something about accounts, on a thread that may wait for the disk and compute hashes.
    async fn accounts<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Accounts) -> Result<T, AccountsError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let Some(accounts) = self.backends.accounts.clone() else {
            return Err(ApiError::refused("the gateway keeps no users: there is no auth-file"));
        };
        let done = tokio::task::spawn_blocking(move || work(&accounts)).await;
        done.map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))?
            .map_err(|error| account_error(&error))
    }

    /// Users of the file, and whoever else is locked.
    fn users(&self) -> Vec<User> {
        let mut locked: Vec<String> =
            self.vault.locked_users().into_iter().map(|user| user.username).collect();
        let listed = self.backends.accounts.iter().flat_map(|accounts| accounts.list());
        let mut users: Vec<User> = listed
            .map(|user| {
                let is_locked = locked.iter().position(|name| *name == user.name).map(|at| locked.remove(at));
                User {
                    name: user.name,
                    in_auth_file: true,
                    otp: user.otp.map(|kind| match kind {
                        Otp::Totp => OtpKind::Totp,
                        Otp::Hotp => OtpKind::Hotp,
                    }),
                    locked: is_locked.is_some() || user.disabled,
                    locked_out_until: None,
                    created: None,
                }
            })
            .collect();
        users.extend(locked.into_iter().map(|name| User {
            name,
            in_auth_file: false,
            otp: None,
            locked: true,
            locked_out_until: None,
            created: None,
        }));
        users
    }

    async fn status(&self) -> Result<Status, ApiError> {
        let kinds = self.hooks.stats().kinds();
        let kinds: Vec<HookKindStats> = kinds
            .map(|(kind, stats)| HookKindStats {
                kind: kind.to_owned(),
                runs: stats.runs(),
                failures: stats.failures(),
                timeouts: stats.timeouts(),
                total_ms: u64::try_from(stats.total_duration().as_millis()).unwrap_or(u64::MAX),
            })
            .collect();
        let all = || self.hooks.stats().kinds().map(|(_, stats)| stats);
        let workers = u32::try_from(self.data.counters().len()).unwrap_or(u32::MAX);
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: Moment(self.started),
            uptime: clock::unix_seconds().saturating_sub(self.started),
            clients: self.directory.clients().into(),
            sessions: self.sessions().await?.len() as u64,
            rung: self.datapath.rung().name().to_owned(),
            rung_reason: self.datapath.why().to_owned(),
            workers,
            shards: u32::try_from(self.shards.len()).unwrap_or(u32::MAX),
            hooks: HookStats {
                in_queue: all().map(|stats| stats.queued() + stats.running()).sum(),
                rejected: all().map(crate::hooks::KindStats::rejected).sum(),
                kinds,
            },
            tokens: self.token_stats(),
            store: self.config.tessera.store.as_ref().map(|directory| {
                let stats = self.vault.store_stats();
                StoreStats {
                    path: directory.display().to_string(),
                    healthy: !stats.failing,
                    bytes: stats.size,
                    records: stats.records,
                    pending: stats.waiting,
                    written: stats.writes,
                    failed: stats.failures,
                    dropped: stats.dropped,
                    last_error: None,
                }
            }),
            plugins: self.backends.plugins.stats().map(plugin_stats).collect(),
        })
    }

    fn token_stats(&self) -> TokenCacheStats {
        let stats = self.vault.stats();
        TokenCacheStats {
            entries: stats.entries,
            capacity: TokenLimits::default().entries as u64,
            inserted: stats.inserted,
            refreshed: stats.refreshed,
            refused: stats.refused,
            evicted: stats.evicted,
            expired: stats.expired,
            revoked: stats.revoked,
            valid: stats.valid,
            unknown: stats.unknown,
            wrong_client: stats.wrong_client,
            found_expired: stats.found_expired,
            found_revoked: stats.found_revoked,
        }
    }
}

/// Puts a new key in front of those of a file; gives all keys that are in use then.
fn rotate_file(
    file: &std::path::Path,
    sources: &[Source],
) -> Result<Vec<tessera_proto::auth_token::TokenKey>, String> {
    let named = |error: &dyn std::fmt::Display| format!("auth-gen-token-secret {}: {error}", file.display());
    let mut own = secrets::load(&[Source::File(file.to_owned())])?;
    own.insert(0, secrets::generate().map_err(|error| named(&error))?);
    // The others stay where they are: the file gets what room there is beside them.
    let others = secrets::load(sources.get(1..).unwrap_or_default())?;
    own.truncate(MAX_KEYS.saturating_sub(others.len()).max(1));
    secrets::write(file, &own).map_err(|error| named(&error))?;
    own.extend(others);
    Ok(own)
}

fn plugin_stats(stats: &crate::plugins::PluginStats) -> PluginStats {
    use std::sync::atomic::Ordering::Relaxed;
    let sum = |of: fn(&crate::hooks::KindStats) -> u64| stats.kinds().map(|(_, kind)| of(kind)).sum();
    let open = stats.open.load(Relaxed);
    PluginStats {
        file: stats.name.to_string(),
        state: if open { PluginState::Running } else { PluginState::Down },
        pid: None,
        restarts: stats.restarts.load(Relaxed),
        calls: sum(crate::hooks::KindStats::runs),
        failures: sum(crate::hooks::KindStats::failures),
        timeouts: sum(crate::hooks::KindStats::timeouts),
    }
}

fn credentials(name: String, added: &Added, kind: Option<OtpKind>) -> Credentials {
    let sensitive = |text: &Secret<String>| Sensitive::new(text.expose().clone());
    let otp = match (kind, &added.secret, &added.otpauth) {
        (Some(kind), Some(secret), Some(uri)) => {
            Some(OtpProvisioning { kind, secret: sensitive(secret), uri: sensitive(uri) })
        }
        _ => None,
    };
    Credentials { name, password: added.password.as_ref().map(sensitive), otp }
}

fn secret(text: &Sensitive) -> Secret<String> {
    Secret::new(text.expose().to_owned())
}

const fn factor(kind: OtpKind) -> Otp {
    match kind {
        OtpKind::Totp => Otp::Totp,
        OtpKind::Hotp => Otp::Hotp,
    }
}

fn account_error(error: &AccountsError) -> ApiError {
    let code = match error {
        AccountsError::Exists(_) => ErrorCode::Exists,
        AccountsError::Unknown(_) => ErrorCode::NotFound,
        AccountsError::Invalid(_) => ErrorCode::BadRequest,
        _ => ErrorCode::Internal,
    };
    ApiError::new(code, error.to_string())
}

fn refused(error: RevokeError) -> ApiError {
    ApiError::refused(error.to_string())
}

fn stopping() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "the gateway is stopping")
}

async fn in_time<T>(answer: oneshot::Receiver<T>) -> Result<T, ApiError> {
    match tokio::time::timeout(SHARDS, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(stopping()),
        Err(_) => Err(ApiError::new(ErrorCode::Timeout, "a session shard does not answer")),
    }
}
