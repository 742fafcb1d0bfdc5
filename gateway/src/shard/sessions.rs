//! The sessions of a shard as an operator sees them, and how an operator ends them.

use std::rc::Rc;
use std::time::Duration;

use tessera_api::{Fingerprint, Moment, Session, SessionState, TokenKind, TokenOfSession};
use tessera_proto::auth_token::TokenSession;
use tessera_proto::endpoint::Handle;
use tessera_proto::message::AuthFailure;
use tessera_proto::session::Close;
use tokio::sync::oneshot;

use super::client::Account;
use super::state::{Shard, State};
use crate::data::{PeerStats, ToWorker};
use crate::tokens::TokenId;

/// How long a worker may take to say what a peer has moved; it answers between two packets.
const STATS: Duration = Duration::from_millis(500);

/// Which sessions to end.
#[derive(Debug, Clone)]
pub enum Target {
    /// The one with this name ([`Session::id`]).
    Id(String),
    /// Those with this common name.
    CommonName(String),
    /// Those of this user.
    Username(String),
    /// Those with this certificate.
    Certificate([u8; 32]),
    /// The one whose client was pushed this token.
    Token(TokenId),
    /// The one that holds generated tokens of this session.
    TokenSession(TokenSession),
    /// All.
    Everything,
}

/// How to end them.
#[derive(Debug, Clone)]
pub enum Ending {
    /// The client comes back with its token.
    Restart(String),
    /// The client stays away.
    Halt(String),
    /// The login is refused, with these words if there are any.
    AuthFailed(Option<String>),
    /// Its token is dead; it may log in by password.
    TokenRevoked,
}

impl Ending {
    fn close(&self) -> Close {
        match self {
            Self::Restart(reason) => Close::Restart(reason.clone()),
            Self::Halt(reason) => Close::Halt(reason.clone()),
            Self::AuthFailed(reason) => Close::AuthFailed(AuthFailure::Denied(reason.clone())),
            Self::TokenRevoked => Close::AuthFailed(AuthFailure::Session("token revoked".to_owned())),
        }
    }
}

impl Shard {
    /// Every session whose client has logged in, with what it has moved so far.
    pub(super) async fn sessions(self: &Rc<Self>) -> Vec<Session> {
        let (mut sessions, waiting): (Vec<Session>, Vec<_>) = {
            let state = self.state.borrow();
            let both = state.accounts.iter().filter_map(|(handle, account)| {
                let session = self.describe(&state, *handle, account)?;
                let asked = state.clients.get(handle).map(|client| {
                    let (reply, stats) = oneshot::channel();
                    self.data.tell(client.peer.id, ToWorker::Stats(client.peer.id, reply));
                    stats
                });
                Some((session, asked))
            });
            both.unzip()
        };
        // One limit for all: a worker that is stuck answers none of them.
        let end = tokio::time::sleep(STATS);
        tokio::pin!(end);
        for (session, asked) in sessions.iter_mut().zip(waiting) {
            let Some(asked) = asked else { continue };
            let stats = tokio::select! {
                biased;
                stats = asked => stats.unwrap_or_default(),
                () = &mut end => PeerStats::default(),
            };
            session.bytes_received += stats.received;
            session.bytes_sent += stats.sent;
        }
        sessions
    }

    /// Ends sessions; how many. Those whose login is still being decided have no name yet, and are not found: the login
    /// looks by itself whether its user has been locked meanwhile.
    pub(super) fn end_sessions(self: &Rc<Self>, target: &Target, ending: &Ending) -> u64 {
        let handles: Vec<Handle> = {
            let state = self.state.borrow();
            let hit = |handle: &Handle, account: &Account| match target {
                Target::Id(id) => self.id(*handle) == *id,
                Target::CommonName(name) => account.common_name == *name,
                Target::Username(name) => account.username == *name,
                Target::Certificate(certificate) => account.owner.certificate == Some(*certificate),
                Target::Token(id) => {
                    let held = state.clients.get(handle).and_then(|client| client.token.as_ref());
                    held.is_some_and(|held| held.id == *id)
                }
                Target::TokenSession(session) => {
                    state.renewals.of(*handle).is_some_and(|own| own.tokens.session == *session)
                }
                Target::Everything => true,
            };
            state.accounts.iter().filter(|(handle, account)| hit(handle, account)).map(|(h, _)| *h).collect()
        };
        for handle in &handles {
            self.close(*handle, ending.close());
        }
        handles.len() as u64
    }

    /// A session's name for operators: of this process, and never used again.
    fn id(&self, handle: Handle) -> String {
        format!("{}-{}", self.index, handle.number())
    }

    fn describe(&self, state: &State, handle: Handle, account: &Account) -> Option<Session> {
        let client = state.clients.get(&handle);
        let control = state.control_stats(handle);
        Some(Session {
            id: self.id(handle),
            state: match client {
                None => SessionState::Configuring,
                Some(client) if client.leaving.is_some() => SessionState::Leaving,
                Some(_) => SessionState::Connected,
            },
            common_name: account.common_name.clone(),
            username: account.username.clone(),
            peer_id: client.map(|client| client.peer.id.get()),
            real_address: state.endpoint.remote(handle)?,
            virtual_address: client.and_then(|client| client.v4),
            virtual_ipv6_address: client.and_then(|client| client.v6),
            iroutes: client.iter().flat_map(|client| &client.iroutes).map(ToString::to_string).collect(),
            connected_since: Moment(account.since),
            bytes_received: control.received,
            bytes_sent: control.sent,
            cipher: client.and_then(|client| client.cipher).map(|cipher| cipher.to_string()),
            token: self.token_of(state, handle),
            certificate_fingerprint: account.owner.certificate.map(Fingerprint),
            client_version: account.peer_info.value("IV_VER").map(str::to_owned),
            client_platform: account.peer_info.value("IV_PLAT").map(str::to_owned),
            peer_info: account
                .peer_info
                .iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        })
    }

    fn token_of(&self, state: &State, handle: Handle) -> TokenOfSession {
        if let (Some(own), Some(generator)) = (state.renewals.of(handle), &self.generator) {
            let issued = own.tokens.last_made();
            let lives = generator.renewal().as_secs().saturating_mul(2);
            return TokenOfSession {
                kind: TokenKind::Generated,
                session_id: Some(own.tokens.session.to_string()),
                issued: issued.map(|at| Moment(at.0)),
                expires: issued.map(|at| Moment(at.0.saturating_add(lives))),
            };
        }
        let pushed = state.clients.get(&handle).and_then(|client| client.token.as_ref());
        pushed.map_or_else(TokenOfSession::default, |held| TokenOfSession {
            kind: TokenKind::Pushed,
            session_id: None,
            issued: Some(Moment(held.issued.0)),
            expires: Some(Moment(held.expires.0)),
        })
    }
}
