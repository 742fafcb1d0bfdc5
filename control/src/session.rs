//! `tessera session`: who is connected.

use std::net::IpAddr;

use clap::{Args, Subcommand, ValueEnum};
use tessera_api::{
    KillHow, KillTarget, Moment, Request, Response, Session, SessionFilter, SessionKill, SessionList,
    SessionShow, SessionState, TokenKind,
};

use crate::exit::Failure;
use crate::gateway::Gateway;
use crate::output::{self, Output};
use crate::table::{Align, Table, bytes, count, duration, pairs};

/// Commands about sessions.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// List sessions
    List {
        /// Only those with this common name
        #[arg(long, value_name = "NAME")]
        common_name: Option<String>,
        /// Only this user's
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Only those from this host
        #[arg(long, value_name = "ADDRESS")]
        real_address: Option<IpAddr>,
        /// Only the one with this address inside
        #[arg(long, value_name = "ADDRESS")]
        virtual_address: Option<IpAddr>,
    },
    /// Show all about one session
    Show {
        /// Its id
        id: String,
    },
    /// End sessions
    Kill {
        #[command(flatten)]
        target: Target,
        /// What the client is told
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// What the client is to do
        #[arg(long, value_enum, default_value_t = How::Restart)]
        how: How,
    },
}

/// Whose sessions.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Target {
    /// One session by its id
    id: Option<String>,
    /// All with this common name
    #[arg(long, value_name = "NAME")]
    common_name: Option<String>,
    /// All of this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

/// What a client is told to do.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum How {
    /// Come back, with the token
    Restart,
    /// Stay away
    Halt,
    /// Drop the token
    AuthFailed,
}

/// Runs one command.
pub(crate) fn run(command: SessionCommand, gateway: &Gateway, output: Output) -> Result<(), Failure> {
    match command {
        SessionCommand::List { common_name, user, real_address, virtual_address } => {
            let filter = SessionFilter { common_name, username: user, real_address, virtual_address };
            let reply = gateway.ask(&Request::SessionList(SessionList { filter }))?;
            output::show(reply, output, |response, now| match response {
                Response::Sessions(list) => Ok(table(list, now)),
                _ => Err(Failure::unexpected()),
            })
        }
        SessionCommand::Show { id } => {
            let reply = gateway.ask(&Request::SessionShow(SessionShow { id }))?;
            output::show(reply, output, |response, now| match response {
                Response::Sessions(list) if list.len() == 1 => {
                    Ok(list.iter().map(|s| details(s, now)).collect())
                }
                _ => Err(Failure::unexpected()),
            })
        }
        SessionCommand::Kill { target, reason, how } => {
            let target = match target {
                Target { id: Some(id), .. } => KillTarget::Id(id),
                Target { common_name: Some(name), .. } => KillTarget::CommonName(name),
                // The parser takes exactly one.
                Target { user, .. } => KillTarget::Username(user.unwrap_or_default()),
            };
            let how = match how {
                How::Restart => KillHow::Restart,
                How::Halt => KillHow::Halt,
                How::AuthFailed => KillHow::AuthFailed,
            };
            let reply = gateway.ask(&Request::SessionKill(SessionKill { target, reason, how }))?;
            output::show(reply, output, |response, _| match response {
                Response::Changes(changes) => Ok(format!("{} ended\n", count(changes.sessions, "session"))),
                _ => Err(Failure::unexpected()),
            })
        }
    }
}

fn table(list: &[Session], now: Moment) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("ID", Left),
        ("COMMON NAME", Left),
        ("USER", Left),
        ("REAL ADDRESS", Left),
        ("VIRTUAL ADDRESS", Left),
        ("STATE", Left),
        ("SINCE", Right),
        ("RECEIVED", Right),
        ("SENT", Right),
        ("CIPHER", Left),
        ("TOKEN", Left),
        ("CLIENT", Left),
    ]);
    for session in list {
        table.row([
            session.id.clone(),
            session.common_name.clone(),
            session.username.clone(),
            session.real_address.to_string(),
            addresses(session),
            state(session.state).to_owned(),
            duration(now.since(session.connected_since)),
            bytes(session.bytes_received),
            bytes(session.bytes_sent),
            session.cipher.clone().unwrap_or_default(),
            kind(session.token.kind).to_owned(),
            session.client_version.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}

fn details(session: &Session, now: Moment) -> String {
    let ago = |moment: Moment| format!("{moment} ({} ago)", duration(now.since(moment)));
    let ends = |moment: Moment| match moment.since(now) {
        0 => format!("{moment} (over)"),
        left => format!("{moment} (in {})", duration(left)),
    };
    let token = &session.token;
    let text = pairs(&[
        ("id", session.id.clone()),
        ("state", state(session.state).to_owned()),
        ("common name", session.common_name.clone()),
        ("user", session.username.clone()),
        ("peer-id", session.peer_id.map(|id| id.to_string()).unwrap_or_default()),
        ("real address", session.real_address.to_string()),
        ("virtual address", addresses(session)),
        ("networks behind", session.iroutes.join(" ")),
        ("since", ago(session.connected_since)),
        ("received", format!("{} ({} bytes)", bytes(session.bytes_received), session.bytes_received)),
        ("sent", format!("{} ({} bytes)", bytes(session.bytes_sent), session.bytes_sent)),
        ("cipher", session.cipher.clone().unwrap_or_default()),
        ("certificate", session.certificate_fingerprint.map(|f| f.to_string()).unwrap_or_default()),
        ("token", if token.kind == TokenKind::None { "none".into() } else { kind(token.kind).to_owned() }),
        ("token session id", token.session_id.clone().unwrap_or_default()),
        ("token issued", token.issued.map(ago).unwrap_or_default()),
        ("token expires", token.expires.map(ends).unwrap_or_default()),
        ("client", session.client_version.clone().unwrap_or_default()),
        ("platform", session.client_platform.clone().unwrap_or_default()),
    ]);
    let peer_info: Vec<_> =
        session.peer_info.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    text + &pairs(&peer_info)
}

fn addresses(session: &Session) -> String {
    let v4 = session.virtual_address.map(|address| address.to_string());
    let v6 = session.virtual_ipv6_address.map(|address| address.to_string());
    [v4, v6].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

const fn state(state: SessionState) -> &'static str {
    match state {
        SessionState::Authenticating => "authenticating",
        SessionState::Configuring => "configuring",
        SessionState::Connected => "connected",
        SessionState::Leaving => "leaving",
    }
}

/// Empty for none.
pub(crate) const fn kind(kind: TokenKind) -> &'static str {
    match kind {
        TokenKind::None => "",
        TokenKind::Pushed => "pushed",
        TokenKind::Generated => "generated",
    }
}
