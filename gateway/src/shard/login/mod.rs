//! What takes time: logins and the configuration of a client. Each is a task that owns nothing of the shard and checks
//! after every wait that its client is still there.
//!
//! ```text
//!  AuthRequest ─▶ identity ─▶ credentials ──────────────▶ verdict ─▶ connect ─▶ push
//!                 certificate  token, else all deciders   │          address, client-connect, routes
//!                              (question ⇄ client)        └─▶ renegotiation: new token
//! ```

mod accounts;
mod connect;
mod credentials;
mod deciders;
mod identity;
mod plugins;

use std::cell::Cell;
use std::rc::Rc;

use tessera_proto::Secret;
use tessera_proto::endpoint::Handle;
use tessera_proto::message::AuthFailure;
use tessera_proto::session::{Attempt, AuthRequest, Close, Verdict};
use tessera_proto::wrap::Metadata;
use tokio::sync::{Mutex, mpsc, watch};
use tracing::{info, warn};

use self::credentials::ShownToken;
use super::backends::client_key;
use super::client::Account;
use super::renewal::OwnTokens;
use super::state::Shared;
use crate::clock;
use crate::hooks::{Answer, Peer};
use crate::net::Path;
use crate::plugins::{ClientKey, PluginKind};

/// Answers of a client that wait to be read: it is asked one question at a time, and may err a few times.
const ANSWERS: usize = 4;

/// Why a login ended early.
enum Stop {
    /// The client is told.
    Refused(AuthFailure),
    /// The client has left.
    Left,
}

impl Stop {
    fn denied(text: &str) -> Self {
        Self::Refused(AuthFailure::Denied(Some(text.to_owned())))
    }

    /// Denied without a word of why: the client learns nothing that helps to guess.
    const fn plain() -> Self {
        Self::Refused(AuthFailure::Denied(None))
    }

    fn session(text: &str) -> Self {
        Self::Refused(AuthFailure::Session(text.to_owned()))
    }

    fn temporary(text: &str) -> Self {
        Self::Refused(AuthFailure::Temporary(text.to_owned()))
    }
}

/// The shard's end of a login under way.
#[derive(Debug)]
pub(super) struct LoginLink {
    gone: watch::Sender<bool>,
    answers: mpsc::Sender<Secret<String>>,
}

impl LoginLink {
    /// The client has left: the login stops at its next step.
    pub(super) fn leave(&self) {
        self.gone.send_replace(true);
    }

    /// The client has answered a question. Answers that nobody waits for are dropped.
    pub(super) fn answer(&self, answer: Secret<String>) {
        let _ = self.answers.try_send(answer);
    }
}

/// The login's end of its client.
#[derive(Debug)]
pub(super) struct ClientLink {
    left: watch::Receiver<bool>,
    /// Whoever asks holds the lock until it is answered: one question at a time.
    answers: Mutex<mpsc::Receiver<Secret<String>>>,
}

/// Both ends of a login.
pub(super) fn link() -> (LoginLink, ClientLink) {
    let (gone, left) = watch::channel(false);
    let (answers, waiting) = mpsc::channel(ANSWERS);
    (LoginLink { gone, answers }, ClientLink { left, answers: Mutex::new(waiting) })
}

/// One login under way.
struct Login<'a> {
    shard: &'a Shared,
    handle: Handle,
    attempt: Attempt,
    path: Path,
    client: ClientLink,
    /// The token that the client came with, if it is one of ours.
    shown: Cell<Option<ShownToken>>,
}

/// Decides a login or re-login, and configures the client after the first.
pub(super) async fn login(
    shard: &Shared,
    handle: Handle,
    request: AuthRequest,
    path: Path,
    client: ClientLink,
) {
    let attempt = request.attempt;
    let login = Login { shard, handle, attempt, path, client, shown: Cell::new(None) };
    let remote = path.remote;
    let (account, tokens) = match login.authenticate(&request).await {
        Ok(known) => known,
        Err(Stop::Left) if request.renegotiation => return,
        Err(Stop::Left) => return shard.backends.plugins.forget(client_key(shard.index, handle)),
        Err(Stop::Refused(failure)) => {
            shard.with_session(handle, |s| s.auth_verdict(attempt, Verdict::Refuse(failure), clock::read()));
            if !request.renegotiation {
                shard.backends.plugins.forget(client_key(shard.index, handle));
            }
            return;
        }
    };
    let name = account.common_name.clone();
    let accepted = shard.with_session(handle, |s| s.auth_verdict(attempt, Verdict::Accept, clock::read()));
    if request.renegotiation {
        info!(%remote, name, "renegotiated: login confirmed");
        shard.adopt_username(handle, &account.username);
        if let Some(tokens) = tokens {
            shard.renew_token(handle, tokens);
        }
        return;
    }
    let Some(Some(proof)) = accepted else {
        return shard.backends.plugins.forget(client_key(shard.index, handle));
    };
    info!(
        %remote,
        name,
        version = request.tls.version,
        suite = request.tls.suite,
        client = request.peer_info.value("IV_VER").unwrap_or("?"),
        "Peer Connection Initiated with {remote}"
    );
    let account = Rc::new(account);
    shard.state.borrow_mut().accounts.insert(handle, Rc::clone(&account));
    let Err(stop) = login.connect(account, tokens, proof).await else { return };
    if let Stop::Refused(failure) = stop {
        shard.close(handle, Close::AuthFailed(failure));
    }
    // An admitted client is forgotten when it is gone.
    if !shard.state.borrow().clients.contains_key(&handle) {
        shard.backends.plugins.forget(client_key(shard.index, handle));
    }
}

impl Login<'_> {
    fn config(&self) -> &crate::config::Config {
        &self.shard.config
    }

    fn client_key(&self) -> ClientKey {
        client_key(self.shard.index, self.handle)
    }

    /// Gives up when the client has left meanwhile.
    fn check(&self) -> Result<(), Stop> {
        if *self.client.left.borrow() { Err(Stop::Left) } else { Ok(()) }
    }

    /// Certificate, then token or password, then what only concerns first logins.
    async fn authenticate(&self, request: &AuthRequest) -> Result<(Account, Option<OwnTokens>), Stop> {
        let remote = self.path.remote;
        let mut account = self.identify(request, &request.username)?;
        let mut env = self.shard.base_env.clone();
        env.set_peer(Peer::Untrusted(remote)).set_peer_info(&account.peer_info);
        for (name, value) in &account.cert_env {
            env.set(name, value.clone());
        }
        env.set("common_name", account.common_name.clone());
        self.verify_chain(&account, &env).await?;
        self.refuse_locked(&account)?;
        let tokens = self.verify_credentials(request, &mut account, &mut env).await?;
        env.set("username", account.username.clone());
        self.require_plugins(PluginKind::TlsFinal, Vec::new(), &env).await?;
        if request.renegotiation {
            let first = self.shard.state.borrow().accounts.get(&self.handle).cloned();
            if first.is_none_or(|first| first.common_name != account.common_name) {
                warn!(%remote, name = account.common_name, "TLS Auth Error: the common name changed");
                return Err(Stop::plain());
            }
        } else if self.config().auth.ccd_exclusive {
            self.own_ccd_file(&account.common_name).await?;
        }
        // All this took time, and the user may have been locked meanwhile.
        self.refuse_locked(&account)?;
        self.recheck_token(&account)?;
        Ok((account, tokens))
    }

    fn refuse_locked(&self, account: &Account) -> Result<(), Stop> {
        if !self.shard.vault.is_locked(&account.username) {
            return Ok(());
        }
        warn!(remote = %self.path.remote, name = account.common_name, "TLS Auth Error: the user is locked");
        Err(Stop::plain())
    }

    fn require(&self, answer: Answer, hook: &str) -> Result<(), Stop> {
        match answer {
            Answer::Allow => Ok(()),
            Answer::Deny => Err(self.refused(hook, None)),
            Answer::NoAnswer => Err(self.no_answer(hook)),
        }
    }
}

/// `tls-crypt-v2-verify`: silence is the only refusal.
pub(super) fn verify_client_key(shard: &Shared, handle: Handle, metadata: Metadata) {
    let shard = Rc::clone(shard);
    tokio::task::spawn_local(async move {
        let accept = match &shard.config.hooks.tls_crypt_v2_verify {
            None => true,
            Some(command) => {
                let mut env = shard.base_env.clone();
                if let Some(path) = shard.path(handle) {
                    env.set_peer(Peer::Untrusted(path.remote));
                }
                let (kind, bytes) = (metadata.type_number().unwrap_or(0), metadata.bytes());
                shard.hooks.tls_crypt_v2_verify(command, env, kind, &bytes).await == Answer::Allow
            }
        };
        shard.with_session(handle, |session| {
            session.client_key_verdict(accept, clock::read());
        });
    });
}
