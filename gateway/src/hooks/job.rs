//! One job from its files to its answer.

use std::io;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::answers::Control;
use super::connect::MAX_CONNECT_FILE;
use super::deferral::Returned;
use super::process::{self, Outcome};
use super::runner::{Context, Program, Ran};
use super::stats::{HookKind, Stage};
use super::{Answer, AuthAnswer, Deferral, HookFile};

/// Runs a program with its files. The slot is given back when the program has ended: people who think about their second
/// factor keep nobody else from running.
pub(super) async fn run(mut program: Program, context: &Context, slot: OwnedSemaphorePermit) -> Ran {
    let kind = program.kind;
    let files = match Files::make(&mut program, context) {
        Ok(files) => files,
        Err(error) => {
            warn!(hook = kind.directive(), "no file for the hook: {error}");
            let outcome = Outcome::SpawnFailed(error.kind());
            context.stats.ended(kind, outcome, true, Duration::ZERO);
            return match kind {
                HookKind::AuthUserPassVerify => Ran::Auth(AuthAnswer::NoAnswer),
                _ => Ran::Plain(Answer::NoAnswer),
            };
        }
    };
    let running = context.stats.enter(Some(kind), Stage::Running);
    let started = crate::clock::now();
    let mut stop = context.stop.clone();
    let outcome = process::run(kind.directive(), &program.argv, &program.env, context.limit, &mut stop).await;
    let took = crate::clock::now().saturating_duration_since(started);
    drop((slot, running));
    let deferred = kind == HookKind::AuthUserPassVerify && outcome == Outcome::Exit(2);
    context.stats.ended(kind, outcome, outcome != Outcome::Exit(0) && !deferred, took);
    let Files { file, auth, deferred } = files;
    match (auth, deferred, file) {
        (Some(deferral), ..) => Ran::Auth(auth_answer(outcome, deferral, context).await),
        (None, Some(deferred), Some(file)) => {
            let answer = match outcome.answer() {
                Answer::Allow => connect_answer(&deferred, context, &mut stop).await,
                other => other,
            };
            let (mut written, mut farewell) = (Ok(Zeroizing::default()), None);
            if answer == Answer::Allow {
                written = file.read(MAX_CONNECT_FILE);
                farewell = program.farewell;
                if let Some(farewell) = &mut farewell {
                    farewell.owe();
                }
            }
            Ran::Connect { answer, written, farewell }
        }
        _ => Ran::Plain(outcome.answer()),
    }
}

/// The files of one run; gone with this.
struct Files {
    file: Option<HookFile>,
    auth: Option<Deferral>,
    deferred: Option<HookFile>,
}

impl Files {
    /// Makes them, and tells the program where they are.
    fn make(program: &mut Program, context: &Context) -> io::Result<Self> {
        let dir = context.watcher.dir();
        let Program { kind, argv, env, .. } = program;
        let mut file = None;
        if let Some(wanted) = program.file.take() {
            let made = dir.file(wanted.name, &wanted.content)?;
            if wanted.last_argument {
                argv.push(made.path().into());
            }
            if let Some(variable) = wanted.variable {
                env.set(variable, made.path().display().to_string());
            }
            file = Some(made);
        }
        let (mut auth, mut deferred) = (None, None);
        match *kind {
            HookKind::AuthUserPassVerify => {
                let deferral = Deferral::create(kind.directive(), &context.watcher)?;
                deferral.export(env);
                auth = Some(deferral);
            }
            HookKind::ClientConnect => {
                let made = dir.file("deferred", b"")?;
                env.set("client_connect_deferred_file", made.path().display().to_string());
                deferred = Some(made);
            }
            _ => {}
        }
        Ok(Self { file, auth, deferred })
    }
}

async fn auth_answer(outcome: Outcome, deferral: Deferral, context: &Context) -> AuthAnswer {
    let returned = match outcome {
        Outcome::Exit(0) => Returned::Success,
        Outcome::Exit(2) => Returned::Deferred,
        Outcome::Exit(_) => Returned::Error,
        _ => return AuthAnswer::NoAnswer,
    };
    let answer = deferral.conclude(returned).await;
    let stats = context.stats.kind(HookKind::AuthUserPassVerify);
    match answer {
        AuthAnswer::Deferred(deferral) => match context.place(Some(HookKind::AuthUserPassVerify)) {
            Some(place) => AuthAnswer::Deferred(deferral.with_place(place)),
            None => {
                stats.failed();
                AuthAnswer::NoAnswer
            }
        },
        AuthAnswer::Allow => AuthAnswer::Allow,
        other => {
            // Its exit code alone did not count as a failure.
            if returned != Returned::Error {
                stats.failed();
            }
            other
        }
    }
}

/// What the file says after exit code 0: nothing or `1` is yes, and `2` that the answer comes later.
async fn connect_answer(file: &HookFile, context: &Context, stop: &mut watch::Receiver<bool>) -> Answer {
    let kind = HookKind::ClientConnect;
    // Before the first look, so that nothing is missed after it.
    let watched = context.watcher.watch([file]);
    let (answer, place) = match Control::read(file) {
        Control::Empty | Control::Yes => return Answer::Allow,
        Control::Later => (None, context.place(Some(kind))),
        other => (definite(&other), None),
    };
    let Some(place) = place else {
        context.stats.kind(kind).failed();
        return answer.unwrap_or(Answer::NoAnswer);
    };
    let answer = async {
        loop {
            // An empty file is one that is just being written.
            match definite(&Control::read(file)) {
                Some(answer) => return answer,
                None => watched.wake().await,
            };
        }
    };
    tokio::select! {
        answer = tokio::time::timeout(context.limit, answer) => match answer {
            Ok(answer) => {
                if answer != Answer::Allow {
                    place.stay.failed(false);
                }
                answer
            }
            Err(_) => {
                let seconds = context.limit.as_secs_f32();
                warn!(hook = kind.directive(), "no deferred answer within {seconds} s");
                place.stay.failed(true);
                Answer::NoAnswer
            }
        },
        _ = stop.wait_for(|stop| *stop) => {
            info!(hook = kind.directive(), "a deferred answer is not awaited, the gateway stops");
            Answer::NoAnswer
        }
    }
}

/// The verdict in a deferred file, if it is one.
fn definite(control: &Control) -> Option<Answer> {
    let kind = HookKind::ClientConnect.directive();
    match control {
        Control::Yes => Some(Answer::Allow),
        Control::No => Some(Answer::Deny),
        Control::Malformed(why) => {
            warn!(hook = kind, "client_connect_deferred_file is malformed ({why}): the client is refused");
            Some(Answer::Deny)
        }
        Control::Unreadable(error) => {
            warn!(hook = kind, "client_connect_deferred_file cannot be read now: {error}");
            None
        }
        Control::Empty | Control::Later => None,
    }
}
