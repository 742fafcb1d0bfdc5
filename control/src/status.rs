//! `tessera status` and `tessera metrics`: how the gateway is doing.

use tessera_api::{Empty, PluginState, Request, Response, Status};

use crate::exit::Failure;
use crate::gateway::Gateway;
use crate::output::{self, Output};
use crate::table::{Align, Table, bytes, duration, pairs};

/// `tessera status`
pub(crate) fn status(gateway: &Gateway, output: Output) -> Result<(), Failure> {
    let reply = gateway.ask(&Request::Status(Empty {}))?;
    output::show(reply, output, |response, _| match response {
        Response::Status(status) => Ok(text(status)),
        _ => Err(Failure::unexpected()),
    })
}

/// `tessera metrics`
pub(crate) fn metrics(gateway: &Gateway, output: Output) -> Result<(), Failure> {
    let reply = gateway.ask(&Request::Metrics(Empty {}))?;
    output::show(reply, output, |response, _| match response {
        Response::Metrics(text) => Ok(text.clone()),
        _ => Err(Failure::unexpected()),
    })
}

fn text(status: &Status) -> String {
    let tokens = &status.tokens;
    let wrong =
        [tokens.unknown, tokens.wrong_client, tokens.found_expired, tokens.found_revoked].iter().sum::<u64>();
    let mut text = pairs(&[
        ("version", status.version.clone()),
        ("pid", status.pid.to_string()),
        ("up", format!("{} (since {})", duration(status.uptime), status.started)),
        ("clients", status.clients.to_string()),
        ("sessions", status.sessions.to_string()),
        (
            "data path",
            format!("{}, {} workers, {} session shards", status.rung, status.workers, status.shards),
        ),
        ("not higher", status.rung_reason.clone()),
        ("tokens", format!("{} of at most {}", tokens.entries, tokens.capacity)),
        ("token checks", format!("{} valid, {wrong} not", tokens.valid)),
        (
            "tokens gone",
            format!("{} expired, {} revoked, {} evicted", tokens.expired, tokens.revoked, tokens.evicted),
        ),
        ("hooks", format!("{} in queue, {} turned away", status.hooks.in_queue, status.hooks.rejected)),
    ]);
    if let Some(store) = &status.store {
        let state = match (&store.last_error, store.healthy) {
            (Some(error), _) => format!("failing: {error}"),
            (None, true) => "healthy".to_owned(),
            (None, false) => "behind".to_owned(),
        };
        text += &pairs(&[
            ("store", format!("{} ({state})", store.path)),
            ("", format!("{} records in {}, {} pending", store.records, bytes(store.bytes), store.pending)),
            ("", format!("{} written, {} failed, {} dropped", store.written, store.failed, store.dropped)),
        ]);
    }
    text + &hooks(status) + &plugins(status)
}

fn hooks(status: &Status) -> String {
    use Align::{Left, Right};
    let used: Vec<_> = status.hooks.kinds.iter().filter(|kind| kind.runs > 0).collect();
    if used.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        ("HOOK", Left),
        ("RUNS", Right),
        ("FAILURES", Right),
        ("TIMEOUTS", Right),
        ("MEAN MS", Right),
    ]);
    for kind in used {
        table.row([
            kind.kind.clone(),
            kind.runs.to_string(),
            kind.failures.to_string(),
            kind.timeouts.to_string(),
            (kind.total_ms / kind.runs).to_string(),
        ]);
    }
    format!("\n{}", table.render())
}

fn plugins(status: &Status) -> String {
    use Align::{Left, Right};
    if status.plugins.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        ("PLUGIN", Left),
        ("STATE", Left),
        ("PID", Right),
        ("RESTARTS", Right),
        ("CALLS", Right),
        ("FAILURES", Right),
        ("TIMEOUTS", Right),
    ]);
    for plugin in &status.plugins {
        let state = match plugin.state {
            PluginState::Starting => "starting",
            PluginState::Running => "running",
            PluginState::Down => "down",
        };
        table.row([
            plugin.file.clone(),
            state.to_owned(),
            plugin.pid.map(|pid| pid.to_string()).unwrap_or_default(),
            plugin.restarts.to_string(),
            plugin.calls.to_string(),
            plugin.failures.to_string(),
            plugin.timeouts.to_string(),
        ]);
    }
    format!("\n{}", table.render())
}
