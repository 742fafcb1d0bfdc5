//! Handlers of the process and of Tessera's own directives.

use std::time::Duration;

use super::{Draft, Effect, MAX_SECONDS, Outcome, bad, number, seconds, text, word};
use crate::config::diagnostic::Diagnostic;
use crate::config::lex::Directive;
use crate::config::model::{ControlSocket, IoChoice, Log, Status, Threads, TokenVerify, WorkerCpus};
use crate::data::Rung;

/// How often a status file is written unless told, as with OpenVPN.
const STATUS_INTERVAL: u64 = 60;
/// Most threads of one kind: the peer-id carries the worker's number in its low bits.
const MAX_THREADS: u16 = 256;
/// No kernel has CPUs beyond this number.
const MAX_CPU: u16 = 8191;

pub(crate) fn user(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.process.user = Some(name(d)?);
    Ok(Effect::Honoured)
}

pub(crate) fn group(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.process.group = Some(name(d)?);
    Ok(Effect::Honoured)
}

fn name(d: &Directive) -> Result<String, Diagnostic> {
    let name = text(d, 0)?;
    if name.is_empty() { Err(bad(d, 0, "the name is empty")) } else { Ok(name.to_owned()) }
}

/// The directory itself was already taken when the files were read.
pub(crate) fn cd(draft: &mut Draft, _: &Directive) -> Outcome {
    draft.config.process.cd = Some(draft.base.clone());
    Ok(Effect::Honoured)
}

pub(crate) fn nice(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.process.nice = Some(number(d, 0, -20..=19)?);
    Ok(Effect::Honoured)
}

pub(crate) fn writepid(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.process.writepid = Some(draft.path(text(d, 0)?));
    Ok(Effect::Honoured)
}

pub(crate) fn log(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.process.log = Log::File(draft.path(text(d, 0)?));
    Ok(Effect::Honoured)
}

pub(crate) fn log_append(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.process.log = Log::Append(draft.path(text(d, 0)?));
    Ok(Effect::Honoured)
}

pub(crate) fn verb(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.process.verb = number(d, 0, 0..=11)?;
    Ok(Effect::Honoured)
}

pub(crate) fn suppress_timestamps(draft: &mut Draft, _: &Directive) -> Outcome {
    draft.config.process.suppress_timestamps = true;
    Ok(Effect::Honoured)
}

pub(crate) fn status(draft: &mut Draft, d: &Directive) -> Outcome {
    let interval = if d.args.len() > 1 { number(d, 1, 1..=MAX_SECONDS)? } else { STATUS_INTERVAL };
    let file = draft.path(text(d, 0)?);
    draft.config.process.status = Some(Status { file, interval: Duration::from_secs(interval), version: 1 });
    Ok(Effect::Ignored("status files are written by a later release".to_owned()))
}

pub(crate) fn status_version(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.status_version = Some(if d.args.is_empty() { 1 } else { number(d, 0, 1..=3)? });
    Ok(Effect::Ignored("status files are written by a later release".to_owned()))
}

fn threads(d: &Directive) -> Result<Threads, Diagnostic> {
    if d.arg(0) == Some("auto") {
        return Ok(Threads::Auto);
    }
    let count = number(d, 0, 1..=MAX_THREADS).map_err(|problem| problem.hint("or write 'auto'"))?;
    Ok(Threads::Count(count))
}

pub(crate) fn workers(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.tessera.workers = threads(d)?;
    Ok(Effect::Honoured)
}

pub(crate) fn worker_cpus(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.tessera.worker_cpus = match text(d, 0)? {
        "auto" => WorkerCpus::Auto,
        "off" => WorkerCpus::Off,
        list => WorkerCpus::List(cpu_list(list).ok_or_else(|| {
            bad(d, 0, format!("'{list}' is no list of CPUs"))
                .hint("write 'auto', 'off', or a list such as 0-3,8")
        })?),
    };
    Ok(Effect::Honoured)
}

/// A list of CPUs as the kernel writes it: numbers and ranges.
fn cpu_list(list: &str) -> Option<Vec<u16>> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last > MAX_CPU {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

pub(crate) fn session_shards(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.tessera.session_shards = threads(d)?;
    Ok(Effect::Honoured)
}

pub(crate) fn datapath(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.tessera.datapath = match text(d, 0)? {
        "auto" => None,
        later @ ("xdp" | "afxdp" | "ovpn") => {
            return Err(bad(d, 0, format!("the rung '{later}' is not in this release"))
                .hint("use 'auto' for the highest that works"));
        }
        _ => Some(word(d, 0, &Rung::ALL.map(|rung| (rung.name(), rung)))?),
    };
    Ok(Effect::Honoured)
}

pub(crate) fn io(draft: &mut Draft, d: &Directive) -> Outcome {
    let choices = [("auto", IoChoice::Auto), ("uring", IoChoice::Uring), ("epoll", IoChoice::Epoll)];
    draft.config.tessera.io = word(d, 0, &choices)?;
    Ok(Effect::Honoured)
}

pub(crate) fn token_verify(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.tessera.token_verify =
        word(d, 0, &[("hook", TokenVerify::Hook), ("cache", TokenVerify::Cache)])?;
    Ok(Effect::Honoured)
}

pub(crate) fn store(draft: &mut Draft, d: &Directive) -> Outcome {
    let place = text(d, 0)?;
    if place.is_empty() {
        return Err(bad(d, 0, "'memory' or a directory is wanted"));
    }
    draft.config.tessera.store = (place != "memory").then(|| draft.path(place));
    Ok(Effect::Honoured)
}

pub(crate) fn control_socket(draft: &mut Draft, d: &Directive) -> Outcome {
    let path = draft.path(text(d, 0)?);
    let group = d.arg(1).map(str::to_owned);
    draft.config.tessera.control_socket = Some(ControlSocket { path, group });
    Ok(Effect::Honoured)
}

pub(crate) fn hook_timeout(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.tessera.hook_timeout = seconds(d, 0, 1..=600)?;
    Ok(Effect::Honoured)
}

pub(crate) fn hook_concurrency(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.tessera.hook_concurrency = number(d, 0, 1..=4096)?;
    Ok(Effect::Honoured)
}

pub(crate) fn max_half_open(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.limits.max_half_open = number(d, 0, 1..=1 << 20)?;
    Ok(Effect::Honoured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(cpu_list("3"), Some(vec![3]));
        assert_eq!(cpu_list("0-2,8,4-4"), Some(vec![0, 1, 2, 8, 4]));
        for bad in ["", ",", "1-", "-1", "2-1", "a", "0-9999", "1 2", "0,,1"] {
            assert_eq!(cpu_list(bad), None, "{bad}");
        }
    }
}
