//! `tessera token`: what clients log in with again.

use clap::{Args, Subcommand};
use tessera_api::{
    Changes, Empty, Fingerprint, Moment, Reply, Request, Response, RevokeTarget, TOKEN_PAGE, Token,
    TokenList, TokenRevoke, TokenState,
};

use crate::exit::Failure;
use crate::gateway::Gateway;
use crate::output::{self, Output};
use crate::session::kind;
use crate::table::{Align, Table, count, duration, printable};

/// Commands about tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// List tokens, without their values
    List {
        /// Only this user's
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = TOKEN_PAGE, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// Go on where another list has ended (`next`)
        #[arg(long, value_name = "CURSOR")]
        after: Option<String>,
    },
    /// Kill tokens, and end the sessions that live by them
    Revoke {
        #[command(flatten)]
        target: Target,
        /// Only tokens made before: RFC 3339, or seconds since 1970
        #[arg(long, value_name = "TIME")]
        before: Option<Moment>,
    },
    /// Make tokens with a new secret from now on; those of older secrets go on working
    RotateSecret,
}

/// Which tokens.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Target {
    /// One token by its public id
    #[arg(long)]
    id: Option<String>,
    /// All of one login, by the session id of its tokens
    #[arg(long, value_name = "SESSION_ID")]
    session: Option<String>,
    /// All of this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// All bound to the certificate with this SHA-256
    #[arg(long, value_name = "FINGERPRINT")]
    certificate: Option<Fingerprint>,
    /// All there are
    #[arg(long)]
    all: bool,
}

/// Runs one command.
pub(crate) fn run(command: TokenCommand, gateway: &Gateway, output: Output) -> Result<(), Failure> {
    match command {
        TokenCommand::List { user, limit, after } => {
            let (reply, rest) = list(gateway, user, limit, after)?;
            output::show(reply, output, |response, now| match response {
                Response::Tokens { tokens, .. } => Ok(table(tokens, now)),
                _ => Err(Failure::unexpected()),
            })?;
            if let Some(next) = rest {
                output::complain(&format!("there are more: --after '{}'", printable(&next)));
            }
            Ok(())
        }
        TokenCommand::Revoke { target, before } => {
            let target = match target {
                Target { id: Some(id), .. } => RevokeTarget::Id(id),
                Target { session: Some(id), .. } => RevokeTarget::SessionId(id),
                Target { user: Some(name), .. } => RevokeTarget::Username(name),
                Target { certificate: Some(fingerprint), .. } => RevokeTarget::Certificate(fingerprint),
                // The parser takes exactly one.
                Target { .. } => RevokeTarget::Everything,
            };
            let before = before.map(|moment| moment.0);
            let reply = gateway.ask(&Request::TokenRevoke(TokenRevoke { target, before }))?;
            output::show(reply, output, |response, _| match response {
                Response::Changes(Changes { tokens, sessions, .. }) => Ok(format!(
                    "{} revoked, {} ended\n",
                    count(*tokens, "token"),
                    count(*sessions, "session")
                )),
                _ => Err(Failure::unexpected()),
            })
        }
        TokenCommand::RotateSecret => {
            let reply = gateway.ask(&Request::TokenRotateSecret(Empty {}))?;
            output::show(reply, output, |response, _| match response {
                Response::Rotation(rotation) => {
                    let place = rotation.file.as_ref().map_or("the gateway's own store", String::as_str);
                    let secrets = count(rotation.secrets.into(), "secret");
                    let place = printable(place);
                    Ok(format!("a new secret makes tokens from now on; {secrets} known, in {place}\n"))
                }
                _ => Err(Failure::unexpected()),
            })
        }
    }
}

/// Asks for one page after the other; with the list comes where the next one would begin.
fn list(
    gateway: &Gateway,
    user: Option<String>,
    limit: u32,
    after: Option<String>,
) -> Result<(Reply, Option<String>), Failure> {
    let mut left = limit;
    let mut params = TokenList { user, limit: left.min(TOKEN_PAGE), after };
    let mut whole = gateway.ask(&Request::TokenList(params.clone()))?;
    loop {
        let Ok(Response::Tokens { tokens, next }) = &whole.result else {
            return Err(Failure::unexpected());
        };
        left = limit.saturating_sub(u32::try_from(tokens.len()).unwrap_or(u32::MAX));
        // A cursor that stands still would never end.
        if next.is_none() || *next == params.after || left == 0 {
            let next = next.clone();
            return Ok((whole, next));
        }
        params = TokenList { limit: left.min(TOKEN_PAGE), after: next.clone(), ..params };
        let page = gateway.ask(&Request::TokenList(params.clone()))?;
        let page = page.result?;
        if !whole.result.as_mut().is_ok_and(|head| head.extend(page)) {
            return Err(Failure::unexpected());
        }
    }
}

fn table(list: &[Token], now: Moment) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("ID", Left),
        ("KIND", Left),
        ("STATE", Left),
        ("USER", Left),
        ("COMMON NAME", Left),
        ("AGE", Right),
        ("EXPIRES IN", Right),
        ("SESSION ID", Left),
        ("CERTIFICATE", Left),
    ]);
    for token in list {
        let state = match token.state {
            TokenState::Valid => "valid",
            TokenState::Expired => "expired",
            TokenState::Revoked => "revoked",
        };
        let left = token.expires.since(now);
        // Four bytes tell certificates apart; JSON has the rest.
        let certificate =
            token.certificate_fingerprint.map(|fingerprint| fingerprint.to_string()[..11].to_owned());
        table.row([
            token.id.clone(),
            kind(token.kind).to_owned(),
            state.to_owned(),
            token.username.clone(),
            token.common_name.clone(),
            duration(now.since(token.issued)),
            if left == 0 { String::new() } else { duration(left) },
            token.session_id.clone().unwrap_or_default(),
            certificate.unwrap_or_default(),
        ]);
    }
    table.render()
}
