//! The built-in deciders of a login: the file of users, and PAM.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tessera_proto::Secret;
use tessera_proto::message::{AuthFailure, Pending};
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::deciders::{Answers, Asked, can_sso, forget_answers};
use super::{Login, Stop};
use crate::accounts::prompts::{Presented, cr_text};
use crate::accounts::{Accounts, Decision, Request};
use crate::clock;
use crate::pam::{Pam, PamDecision};

/// How long a person may take for the answer to a question inside the session.
const QUESTION: Duration = Duration::from_secs(180);
/// Answers that PAM may ask for beyond the password: a code, and a new try of it.
const PAM_QUESTIONS: usize = 3;
const FILE: &str = "auth-file";
const PAM: &str = "auth-pam";

impl Login<'_> {
    pub(super) async fn ask_accounts(&self, accounts: &Accounts, asked: Asked<'_>) -> Result<(), Stop> {
        let request = Request {
            user: asked.username.to_owned(),
            password: asked.request.password.clone(),
            source: self.path.remote.ip().to_canonical(),
            certificate: asked.certificate.copied(),
            crtext: can_sso(asked.request, "crtext"),
            now: clock::read(),
        };
        let mut decision = accounts.verify(request).await;
        let mut turn: Option<Answers<'_>> = None;
        loop {
            self.check()?;
            match decision {
                Decision::Allow => return Ok(()),
                Decision::Deny => return Err(self.refused(FILE, None)),
                Decision::Locked => {
                    info!(remote = %self.path.remote, "too many wrong passwords: not looked at");
                    return Err(Stop::plain());
                }
                Decision::Challenge { text } => return Err(Stop::Refused(AuthFailure::Challenge(text))),
                Decision::NoAnswer => return Err(self.no_answer(FILE)),
                Decision::AskInSession { prompt, pending } => {
                    let answer = self.ask_person(FILE, &mut turn, &prompt, false).await?;
                    decision = accounts.verify_response(pending, answer, clock::read()).await;
                }
            }
        }
    }

    /// PAM begins anew with each question, with all answers so far: a password may not be kept longer than that.
    pub(super) async fn ask_pam(&self, pam: &Pam, asked: Asked<'_>) -> Result<(), Stop> {
        let source = self.path.remote.ip().to_canonical();
        let mono = clock::read().mono;
        if self.shard.backends.lockout.locked(asked.username, source, mono).is_some() {
            info!(remote = %self.path.remote, "too many wrong passwords: PAM is not asked");
            return Err(Stop::plain());
        }
        let mut answers = match Presented::parse(&asked.request.password) {
            Presented::Plain(password) => vec![password],
            Presented::Static { password, response } => vec![password, response],
            Presented::Dynamic { .. } | Presented::Malformed => return Err(self.refused(PAM, None)),
        };
        let mut turn: Option<Answers<'_>> = None;
        for _ in 0..=PAM_QUESTIONS {
            let decision = pam.verify(asked.username, answers.clone(), source).await;
            self.check()?;
            match decision {
                PamDecision::Allow => {
                    self.shard.backends.lockout.succeeded(asked.username, source);
                    return Ok(());
                }
                PamDecision::Deny => break,
                PamDecision::NoAnswer(why) => {
                    warn!(remote = %self.path.remote, "PAM: {why}");
                    return Err(self.no_answer(PAM));
                }
                PamDecision::NeedMore { prompt, echo } => {
                    if !can_sso(asked.request, "crtext") {
                        // Nothing was wrong so far: this is no guess.
                        info!(remote = %self.path.remote, "PAM asks for more, and the client cannot be asked");
                        return Err(Stop::plain());
                    }
                    answers.push(self.ask_person(PAM, &mut turn, &prompt, echo).await?);
                }
            }
        }
        self.shard.backends.lockout.failed(asked.username, source, mono);
        Err(self.refused(PAM, None))
    }

    /// Asks the person at the client, inside the session.
    async fn ask_person<'a>(
        &'a self,
        who: &str,
        turn: &mut Option<Answers<'a>>,
        prompt: &str,
        echo: bool,
    ) -> Result<Secret<String>, Stop> {
        let mut left = self.client.left.clone();
        let limit = self.config().timers.hand_window;
        if turn.is_none() {
            *turn = tokio::time::timeout(limit, self.client.answers.lock()).await.ok();
        }
        *turn = turn.take().map(forget_answers);
        let Some(answers) = turn else { return Err(self.no_answer(who)) };
        let info = Some(Secret::new(cr_text(prompt, echo)));
        let until = self.tell_pending(&Pending { timeout: QUESTION, info })?;
        let answer = tokio::select! {
            answer = answers.recv() => answer,
            () = tokio::time::sleep(until.saturating_duration_since(clock::now())) => None,
            _ = left.wait_for(|left| *left) => return Err(Stop::Left),
        };
        let Some(answer) = answer else {
            info!(remote = %self.path.remote, "{who}: the question was not answered in time");
            return Err(Stop::plain());
        };
        let decoded = Zeroizing::new(STANDARD.decode(answer.expose()).unwrap_or_default());
        let text = std::str::from_utf8(&decoded).map_err(|_| self.refused(who, None))?;
        Ok(Secret::new(text.to_owned()))
    }
}
