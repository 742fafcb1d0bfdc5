//! What a client knows: its token or password, and whoever checks it.

use tessera_proto::auth_token::TokenSession;
use tessera_proto::session::AuthRequest;
use tracing::{info, warn};

use super::deciders::Asked;
use super::{Login, Stop};
use crate::clock;
use crate::config::TokenVerify;
use crate::hooks::Env;
use crate::shard::client::Account;
use crate::shard::renewal::OwnTokens;
use crate::shard::state::system_rng;
use crate::tokens::{Holder, Judgement, Presented, Subject, TokenGenerator, TokenVerdict, UnixSeconds};

impl Login<'_> {
    /// Lets a token in that the gateway can judge by itself; everything else is put to whoever checks passwords. Gives
    /// what the next generated token follows from.
    pub(super) async fn verify_credentials(
        &self,
        request: &AuthRequest,
        account: &mut Account,
        env: &mut Env,
    ) -> Result<Option<OwnTokens>, Stop> {
        if !self.has_deciders() {
            return Ok(None);
        }
        let certificate = account.owner.certificate;
        let certificate = certificate.as_ref();
        let anonymous = request.username.is_empty() && request.password.expose().is_empty();
        if anonymous && !self.config().auth.optional_credentials {
            warn!(remote = %self.path.remote, "TLS Auth Error: the client sent no user name and password");
            return Err(Stop::plain());
        }
        let Some(generator) = self.shard.generator.as_ref().filter(|_| !anonymous) else {
            if !self.cached_token(request, account)? {
                let asked = Asked { request, username: &request.username, certificate, env };
                self.ask_deciders(asked).await?;
            }
            return Ok(None);
        };
        let mut judged = self.judge(generator, request, account);
        env.set("session_state", judged.judgement.session_state());
        env.set("session_id", judged.own.tokens.session.to_string());
        if judged.judgement.is_empty_user() && !self.config().auth.optional_credentials {
            warn!(remote = %self.path.remote, "TLS Auth Error: the token is that of a client without user name");
            return Err(Stop::plain());
        }
        if judged.judgement.is_empty_user() {
            // Nobody checks the name that came beside such a token: it must not become that of the session.
            *account = self.identify(request, "")?;
            env.set("common_name", account.common_name.clone());
        }
        if !self.settled_by_token(&judged.judgement, account)? && !self.cached_token(request, account)? {
            let asked = Asked { request, username: &judged.own.username, certificate, env };
            self.ask_deciders(asked).await?;
            if matches!(judged.judgement, Judgement::Expired(_) | Judgement::ExpiredEmptyUser(_)) {
                // Whoever checks logins has taken it for a new one.
                judged.own.tokens.restart(clock::read());
            }
        }
        Ok(Some(judged.own))
    }

    fn judge(&self, generator: &TokenGenerator, request: &AuthRequest, account: &Account) -> Judged {
        let now = clock::read();
        let certificate = account.owner.certificate;
        let holder = Holder { username: &request.username, certificate: certificate.as_ref() };
        let known = self.shard.state.borrow().renewals.of(self.handle).cloned();
        let known = known.filter(|_| request.renegotiation);
        let judgement =
            generator.judge(&request.password, holder, known.as_ref().map(|own| &own.tokens), now);
        let username = if judgement.is_empty_user() { String::new() } else { request.username.clone() };
        let tokens =
            known.map_or_else(|| generator.begin(&judgement, system_rng().as_mut(), now), |own| own.tokens);
        Judged { judgement, own: OwnTokens { tokens, username, certificate } }
    }

    /// Refuses a login by a token that was revoked since: while its login was under way nobody could end it by ending the session,
    /// which had no name and no token yet.
    pub(super) fn recheck_token(&self, account: &Account) -> Result<(), Stop> {
        let Some(shown) = self.shown.get() else { return Ok(()) };
        let subject = Subject {
            session: shown.session.map(|session| session.0),
            username: &account.username,
            certificate: account.owner.certificate,
            issued: shown.issued,
        };
        if !self.shard.vault.is_revoked(&subject) {
            return Ok(());
        }
        let (remote, name) = (self.path.remote, account.common_name.as_str());
        let session = shown.session.map(tracing::field::display);
        warn!(%remote, name, session, "TLS Auth Error: the token was revoked");
        Err(Stop::session("token revoked"))
    }

    /// What the gateway decides about a generated token by itself. False: whoever checks passwords is asked.
    fn settled_by_token(&self, judgement: &Judgement, account: &Account) -> Result<bool, Stop> {
        let (remote, name) = (self.path.remote, account.common_name.as_str());
        let external = self.config().auth.gen_token.as_ref().is_some_and(|token| token.external_auth);
        if let Some(token) = judgement.token() {
            let issued = UnixSeconds(token.issued.0);
            self.shown.set(Some(ShownToken { session: Some(token.session), issued }));
            self.recheck_token(account)?;
        }
        match judgement {
            Judgement::NoToken => Ok(false),
            Judgement::NotYet(token) => {
                warn!(%remote, name, session = %token.session, "the token is from the future: is the clock right?");
                Err(Stop::temporary("the gateway's clock is not right"))
            }
            _ if external => Ok(false),
            Judgement::Good(token) => {
                info!(%remote, name, session = %token.session, "generated token accepted");
                Ok(true)
            }
            Judgement::Expired(token) | Judgement::ExpiredEmptyUser(token) => {
                info!(%remote, name, session = %token.session, "token is no longer valid");
                Err(Stop::session("token expired"))
            }
            Judgement::GoodEmptyUser(_) | Judgement::Invalid => {
                warn!(%remote, name, "TLS Auth Error: the token is not this client's");
                Err(Stop::plain())
            }
        }
    }

    /// True when a pushed token is in the cache and good (`token-verify cache`).
    fn cached_token(&self, request: &AuthRequest, account: &Account) -> Result<bool, Stop> {
        if self.config().tessera.token_verify != TokenVerify::Cache {
            return Ok(false);
        }
        let remote = self.path.remote;
        let certificate = account.owner.certificate.as_ref();
        let presented = Presented { username: &request.username, certificate };
        let now = UnixSeconds(clock::unix_seconds());
        match self.shard.vault.check(&request.password, &presented, now) {
            TokenVerdict::Valid(token) => {
                self.shown.set(Some(ShownToken { session: None, issued: token.issued }));
                info!(%remote, name = account.common_name, "token accepted from the cache");
                Ok(true)
            }
            // Not a token, or one that we do not know (any more): it is judged as a password.
            TokenVerdict::Unknown => Ok(false),
            TokenVerdict::Expired | TokenVerdict::Revoked => {
                info!(%remote, name = account.common_name, "token is no longer valid");
                Err(Stop::session("token expired"))
            }
            TokenVerdict::WrongUser | TokenVerdict::WrongCertificate => {
                warn!(%remote, name = account.common_name, "TLS Auth Error: the token is another client's");
                Err(Stop::plain())
            }
        }
    }
}

/// A token that a client has logged in with.
#[derive(Clone, Copy)]
pub(super) struct ShownToken {
    /// Of a generated one.
    session: Option<TokenSession>,
    issued: UnixSeconds,
}

/// A login's token, and what the next one follows from.
struct Judged {
    judgement: Judgement,
    own: OwnTokens,
}
