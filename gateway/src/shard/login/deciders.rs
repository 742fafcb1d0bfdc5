//! Whoever checks passwords: all that are configured are asked at once, and all must say yes.
//!
//! A definite no ends the login at once. Without one, each is waited for: what gives no answer, in whatever way, is never
//! a yes, and not the client's fault.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use tessera_proto::Secret;
use tessera_proto::message::{AuthFailure, Pending};
use tessera_proto::session::AuthRequest;
use tokio::sync::{MutexGuard, mpsc};
use tracing::{info, warn};

use super::{Login, Stop};
use crate::clock;
use crate::config::AuthHook;
use crate::hooks::{Answer, AuthAnswer, Deferral, DeferredEvent, Env, PendingAuth};
use crate::plugins::PluginKind;

/// A login as deciders see it.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    /// What the client sent.
    pub(super) request: &'a AuthRequest,
    /// Empty for the token of a client without user name, whatever it sent beside it.
    pub(super) username: &'a str,
    /// SHA-256 of the client's certificate.
    pub(super) certificate: Option<&'a [u8; 32]>,
    /// For hooks.
    pub(super) env: &'a Env,
}

type Decision<'a> = LocalBoxFuture<'a, Result<(), Stop>>;

/// The turn to ask the client, and its answers.
pub(super) type Answers<'a> = MutexGuard<'a, mpsc::Receiver<Secret<String>>>;

impl Login<'_> {
    /// True when somebody checks passwords.
    pub(super) fn has_deciders(&self) -> bool {
        self.config().hooks.auth_user_pass_verify.is_some() || self.shard.backends.check_passwords()
    }

    /// Asks everybody; all must say yes.
    pub(super) async fn ask_deciders(&self, asked: Asked<'_>) -> Result<(), Stop> {
        let deciders: FuturesUnordered<Decision<'_>> = FuturesUnordered::new();
        if let Some(hook) = &self.config().hooks.auth_user_pass_verify {
            deciders.push(Box::pin(self.ask_script(hook, asked)));
        }
        let backends = &self.shard.backends;
        if backends.plugins.wants(PluginKind::AuthUserPassVerify) {
            deciders.push(Box::pin(self.ask_plugins(asked)));
        }
        if let Some(accounts) = &backends.accounts {
            deciders.push(Box::pin(self.ask_accounts(accounts, asked)));
        }
        if let Some(pam) = &backends.pam {
            deciders.push(Box::pin(self.ask_pam(pam, asked)));
        }
        if deciders.is_empty() {
            // Nobody's yes is no yes.
            return Err(self.no_answer("whoever checks passwords"));
        }
        self.all_say_yes(deciders).await
    }

    /// Waits until one says a definite no, or all have said something.
    pub(super) async fn all_say_yes(
        &self,
        mut deciders: FuturesUnordered<impl Future<Output = Result<(), Stop>>>,
    ) -> Result<(), Stop> {
        let mut worst = None;
        while let Some(said) = deciders.next().await {
            self.check()?;
            match said {
                Ok(()) => {}
                Err(Stop::Left) => return Err(Stop::Left),
                Err(Stop::Refused(failure)) if is_definite(&failure) => return Err(Stop::Refused(failure)),
                // What gave no answer counts more than a question: the question would be asked in vain.
                Err(Stop::Refused(failure)) => {
                    if !matches!((&worst, &failure), (Some(_), AuthFailure::Challenge(_))) {
                        worst = Some(failure);
                    }
                }
            }
        }
        worst.map_or(Ok(()), |failure| Err(Stop::Refused(failure)))
    }

    async fn ask_script(&self, hook: &AuthHook, asked: Asked<'_>) -> Result<(), Stop> {
        const NAME: &str = "auth-user-pass-verify";
        let (env, password) = (asked.env.clone(), &asked.request.password);
        match self.shard.hooks.auth_user_pass_verify(hook, env, asked.username, password).await {
            AuthAnswer::Allow => Ok(()),
            AuthAnswer::Deny { reason } => Err(self.refused(NAME, reason)),
            AuthAnswer::NoAnswer => Err(self.no_answer(NAME)),
            AuthAnswer::Deferred(deferral) => {
                let respond = async |answer: &Secret<String>, deferral: &Deferral| {
                    let Some(command) = &self.config().hooks.client_crresponse else {
                        warn!(remote = %self.path.remote, "the client has answered, and there is no client-crresponse");
                        return Answer::Allow;
                    };
                    let mut env = asked.env.clone();
                    env.set("username", asked.username);
                    self.shard.hooks.client_crresponse(command, env, answer, deferral).await
                };
                self.wait_for(NAME, asked.request, deferral, respond).await
            }
        }
    }

    /// Waits for a verdict that comes later, asking the client what it is to be asked. An answer of the client's goes to
    /// `respond`, which may refuse at once.
    pub(super) async fn wait_for(
        &self,
        who: &str,
        request: &AuthRequest,
        mut deferral: Deferral,
        respond: impl AsyncFn(&Secret<String>, &Deferral) -> Answer,
    ) -> Result<(), Stop> {
        let mut left = self.client.left.clone();
        let mut limit = clock::now() + self.config().timers.hand_window;
        let mut answers: Option<Answers<'_>> = None;
        loop {
            tokio::select! {
                event = deferral.next() => match event {
                    DeferredEvent::Allow => return Ok(()),
                    DeferredEvent::Deny { reason } => return Err(self.refused(who, reason)),
                    DeferredEvent::NoAnswer => return Err(self.no_answer(who)),
                    DeferredEvent::Pending(pending) => {
                        // Another decider's question is waited for: the person can only answer one.
                        let Ok(turn) = tokio::time::timeout(remaining(limit), self.client.answers.lock()).await else {
                            return Err(self.no_answer(who));
                        };
                        answers = Some(forget_answers(turn));
                        limit = self.ask_client(who, request, pending)?;
                    }
                },
                answer = next_answer(&mut answers), if answers.is_some() => {
                    match respond(&answer, &deferral).await {
                        // It was taken; the verdict comes through the deferral.
                        Answer::Allow => {}
                        Answer::Deny => {
                            let reason = deferral.reason().await;
                            return Err(self.refused(who, reason));
                        }
                        Answer::NoAnswer => return Err(self.no_answer(who)),
                    }
                }
                () = tokio::time::sleep(remaining(limit)) => {
                    warn!(remote = %self.path.remote, "{who}: no verdict in time");
                    return Err(Stop::temporary("the login was not decided in time"));
                }
                _ = left.wait_for(|left| *left) => return Err(Stop::Left),
            }
        }
    }

    /// Puts a question to the client; until when it may be answered.
    fn ask_client(&self, who: &str, request: &AuthRequest, asked: PendingAuth) -> Result<Instant, Stop> {
        let method = asked.method.as_str();
        if !can_sso(request, method) {
            warn!(remote = %self.path.remote, "{who} asks by {method}, which the client does not do");
            return Err(Stop::plain());
        }
        let pending = Pending { timeout: asked.timeout, info: Some(Secret::new(asked.extra)) };
        self.tell_pending(&pending)
    }

    /// Tells the client to wait; until when it does.
    pub(super) fn tell_pending(&self, pending: &Pending) -> Result<Instant, Stop> {
        let now = clock::read();
        let granted = self.shard.with_session(self.handle, |s| s.login_pending(self.attempt, pending, now));
        let Some(Some(granted)) = granted else { return Err(Stop::Left) };
        info!(remote = %self.path.remote, seconds = granted.as_secs(), "login pending");
        Ok(clock::now() + granted)
    }

    pub(super) fn refused(&self, who: &str, reason: Option<String>) -> Stop {
        let remote = self.path.remote;
        let failure = AuthFailure::from_hook(&reason.unwrap_or_default());
        warn!(%remote, "TLS Auth Error: {who} refused the client");
        Stop::Refused(failure)
    }

    pub(super) fn no_answer(&self, who: &str) -> Stop {
        warn!(remote = %self.path.remote, "{who} gave no answer: the client is asked to come back");
        Stop::temporary("the login service did not answer")
    }
}

/// A no that stays one, whatever the others say.
const fn is_definite(failure: &AuthFailure) -> bool {
    matches!(failure, AuthFailure::Denied(_) | AuthFailure::Session(_))
}

/// What the client announces in `IV_SSO`.
pub(super) fn can_sso(request: &AuthRequest, method: &str) -> bool {
    request.peer_info.value("IV_SSO").is_some_and(|list| list.split(',').any(|word| word.trim() == method))
}

/// What was said before a question is no answer to it, but to an earlier one, or to none.
pub(super) fn forget_answers(mut turn: Answers<'_>) -> Answers<'_> {
    while turn.try_recv().is_ok() {}
    turn
}

fn remaining(limit: Instant) -> Duration {
    limit.saturating_duration_since(clock::now())
}

/// The client's next answer; never, when it is not being asked or is gone.
async fn next_answer(answers: &mut Option<Answers<'_>>) -> Secret<String> {
    if let Some(answers) = answers
        && let Some(answer) = answers.recv().await
    {
        return answer;
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::login::link;

    #[tokio::test]
    async fn an_answer_belongs_to_the_question_before_it() {
        let (shard, client) = link();
        shard.answer(Secret::new("early".into()));
        let mut turn = Some(forget_answers(client.answers.lock().await));
        shard.answer(Secret::new("asked".into()));
        assert_eq!(next_answer(&mut turn).await.expose(), "asked");
    }
}
